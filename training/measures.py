"""Scores of tokens -> numbers: loss, perplexity, bits per byte, accuracy, each with its error.

    Measure(...)               what is summed up while a text is scored, in constant memory
    measure.numbers()          a dict of them
    difference(a, b, ...)      of two models on one text, with its standard error
    Documents(...)             the same sums of each document, one after the other

Losses of neighbouring tokens are alike, so that 10,000 of them tell less than 10,000 independent
numbers would. The text is therefore cut into blocks of equal size in bytes, from 64 to 127 of them
as soon as it has 32 KiB, so that a block is much longer than what makes neighbours alike, and its
errors are those of means over independent blocks. If the text consists of many documents, a block
holds whole ones. As the blocks lie in the text, and not in the tokens, two models with different
tokenizers can be compared block by block.
"""
import hashlib
import math
from typing import NamedTuple

import numpy as np

from pipeline.read.texts import bytes_of_tokens

MOST = 128  # blocks; when the text is longer, two become one
SMALLEST = 512  # bytes of a block
NORMAL = 1.959964  # 19 of 20 normal numbers are within so many standard deviations
ENOUGH = 32  # blocks of whole documents that suffice for an error
FIELDS = ("nats", "tokens", "bytes", "chars", "hits", "learned_nats", "learned_tokens",
          "learned_hits")


def quantile(degrees):
    """Student's t that 19 of 20 stay below in size, to 1% from 6 degrees of freedom on (Abramowitz
    and Stegun, 26.7.5)."""
    z = NORMAL
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


class Estimate(NamedTuple):
    """A ratio of two sums, and what each block contributes to its error."""
    value: float
    residuals: np.ndarray  # (MOST,): of sum 0; their squares add up to the variance
    num_blocks: int

    @property
    def error(self):
        """The standard error, of which NORMAL cover the truth in 19 of 20 cases; NaN where there
        are fewer than two blocks. Few blocks tell their own spread badly, so it is larger then."""
        if (n := self.num_blocks) < 2:
            return math.nan
        variance = n / (n - 1) * np.square(self.residuals).sum()
        return math.sqrt(variance) * quantile(n - 1) / NORMAL

    def times(self, factor):
        return Estimate(self.value * factor, self.residuals * factor, self.num_blocks)


def total_of(estimates, independent=False):
    """The sum of Estimates: of one text, block by block, or of independent texts."""
    residuals = [one.residuals for one in estimates]
    residuals = np.concatenate(residuals) if independent else np.sum(residuals, axis=0)
    num_blocks = [one.num_blocks for one in estimates]
    return Estimate(sum(one.value for one in estimates), residuals,
                    sum(num_blocks) if independent else min(num_blocks))


class Blocks:
    """Sums over the blocks of a text. sums: {field: (2, MOST)}, by the place of a token, and by
    that of its document's beginning."""

    def __init__(self):
        self.size, self.sums = SMALLEST, {field: np.zeros((2, MOST)) for field in FIELDS}

    def add(self, places, values):
        """places: of each token and of its document, (n,) twice, in bytes from the beginning of the
        text. values: {field: (n,)}."""
        if len(places[0]):
            self.grow(max(self.size, -(-int(places[0][-1] + 1) // MOST)))
        for kind, at in enumerate(places):
            for field, each in values.items():
                self.sums[field][kind] += np.bincount(at // self.size, each, MOST)

    def grow(self, size):
        """Make blocks of `size` bytes, or more."""
        while self.size < size:
            self.size *= 2
            for field, sums in self.sums.items():
                self.sums[field] = np.pad(sums.reshape(2, MOST // 2, 2).sum(2),
                                          ((0, 0), (0, MOST // 2)))

    @property
    def has_documents(self):
        return np.count_nonzero(self.sums["tokens"][1]) >= ENOUGH

    def ratio(self, top, bottom, by_document=None):
        """The Estimate of the sum of `top` over the sum of `bottom`. by_document: whether a block
        holds whole documents (default: if there are enough of them)."""
        kind = int(self.has_documents if by_document is None else by_document)
        tops, bottoms = self.sums[top][kind], self.sums[bottom][kind]
        if not bottoms.sum():
            return Estimate(math.nan, np.full(MOST, math.nan), 0)
        value, num_blocks = tops.sum() / bottoms.sum(), np.count_nonzero(self.sums["tokens"][kind])
        # a ratio of two sums in first order, which is called the delta method
        return Estimate(value, (tops - value * bottoms) / bottoms.sum(), num_blocks)

    def total(self, field):
        return self.sums[field][0].sum()


def values_of(scores):
    """[{field: (n,)} of each stream] of Scores; a token that was not predicted counts nowhere."""
    tokens, found = scores.tokens, []
    for losses, ranks in zip(_columns(scores.losses), _columns(scores.ranks)):
        known = ranks > 0
        learned, nats, hits = known & tokens.learned, np.where(known, losses, 0), ranks == 1
        found.append(dict(zip(FIELDS, (
            nats, known, tokens.num_bytes * known, tokens.num_chars * known, hits, nats * learned,
            learned, hits & learned))))
    return found


def _columns(array):
    return [array] if array.ndim == 1 else [*array.T]


class Measure:
    """What is summed up of one text while it is scored.

    streams: the Blocks of each aligned stream. meta: of the text's tokens, if it is to be known
    whether another text is the same: fingerprint() then tells.
    """

    def __init__(self, num_streams=1, meta=None):
        self.streams = [Blocks() for _ in range(num_streams)]
        self.num_tokens = 0
        self._place = self._document = 0  # bytes so far; where the current document began
        self._table, self._digest = meta and bytes_of_tokens(meta), hashlib.sha256()

    def add(self, scores):
        tokens = scores.tokens
        self.num_tokens += len(tokens.ids)
        places = self._place + np.cumsum(tokens.num_bytes) - tokens.num_bytes
        documents = np.maximum.accumulate(np.where(tokens.begins, places, self._document))
        self._place += int(tokens.num_bytes.sum())
        self._document = int(documents[-1])
        for blocks, values in zip(self.streams, values_of(scores)):
            blocks.add((places, documents), values)
        if self._table:
            ids = tokens.ids if tokens.ids.ndim == 1 else tokens.ids[:, 0]
            self._digest.update(b"".join(map(self._table.__getitem__, ids.tolist())))

    def fingerprint(self):
        return self._digest.hexdigest()


RATIOS = {"loss": ("nats", "tokens"), "bits_per_byte": ("nats", "bytes"),
          "bits_per_char": ("nats", "chars"), "accuracy": ("hits", "tokens"),
          "learned_loss": ("learned_nats", "learned_tokens"),
          "learned_accuracy": ("learned_hits", "learned_tokens")}
BITS = 1 / math.log(2)  # of a nat


def estimates_of(blocks):
    """{name of RATIOS: Estimate} of a stream."""
    return {name: blocks.ratio(*pair).times(BITS if name.startswith("bits") else 1)
            for name, pair in RATIOS.items()}


def numbers_of(estimates, streams, is_masked):
    """What is told of some text, as a dict. estimates: of estimates_of(), or their means over
    several. streams: the Blocks whose tokens were predicted."""
    def count(field):
        return round(sum(blocks.total(field) for blocks in streams))
    told = {"loss": estimates["loss"].value, "standard_error": estimates["loss"].error,
            "perplexity": perplexity(estimates["loss"].value)}
    for name in ("bits_per_byte", "bits_per_char", "accuracy"):
        told |= {name: estimates[name].value, f"{name}_standard_error": estimates[name].error}
    told |= {name: count(name) for name in ("tokens", "bytes", "chars")}
    if is_masked:
        told |= {"learned_loss": estimates["learned_loss"].value,
                 "learned_standard_error": estimates["learned_loss"].error,
                 "learned_accuracy": estimates["learned_accuracy"].value,
                 "learned_tokens": count("learned_tokens")}
    return told


def perplexity(loss):
    return math.exp(loss) if loss < 700 else math.inf


def weighted(estimates, weights, independent):
    """The weighted means of several estimates_of(): of independent texts, or of streams of one."""
    return {name: total_of([each[name].times(w) for each, w in zip(estimates, weights)],
                           independent) for name in RATIOS}


def difference(a, b, top, bottom):
    """(Estimate, chance): how much the ratio of `top` to `bottom` is higher for Blocks b than for
    a, of two models on one text; and how far from 0 chance alone takes it in 19 of 20 cases."""
    for one, other in ((a, b), (b, a)):
        one.grow(other.size)
    both = [blocks.ratio(top, bottom, a.has_documents) for blocks in (b, a)]
    found = total_of([both[0], both[1].times(-1)])
    return found, NORMAL * found.error


class DocumentSums:
    """The sums of each document of a text. add() and end() yield (its name, [{field: sum} of each
    stream]) of those that have ended. names: an iterator, read when a document begins."""

    def __init__(self, names):
        self.names, self.name, self.sums = names, "", None

    def add(self, scores):
        begins = scores.tokens.begins
        number = np.cumsum(begins)  # 0 for those of a document that began before
        count, columns = int(number[-1]) + 1, values_of(scores)
        sums = [{field: np.bincount(number, each, count) for field, each in values.items()}
                for values in columns]
        for i in range(count):
            here = [{field: float(each[i]) for field, each in values.items()} for values in sums]
            if i:
                yield from self.end()
                self.name, self.sums = next(self.names), here
            elif number[0] == 0:
                self.sums = [{field: before[field] + own[field] for field in FIELDS}
                             for before, own in zip(self.sums, here)] if self.sums else here

    def end(self):
        if self.sums:
            yield self.name, self.sums
