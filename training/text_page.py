"""The page that shows texts with the loss of each token: evaluate.py --html.

    TextPage(path)      gathers what runs predict while they are evaluated, and writes the page
"""
import codecs
import math
from dataclasses import dataclass

import numpy as np

from pipeline.pages import check_page, packed, write_page
from pipeline.tokenizers import as_bytes, token_text, tokenizer_from_meta, tokenizer_meta

MOST_TOKENS = 200_000  # of a run on a page; with more, a browser would take long to open it
LIKELIEST = 5  # tokens that are named for each position


@dataclass
class RunOnText:
    """What one model predicted of a text of N tokens, or of its first ones."""
    name: str
    meta: dict  # of its tokenizer, as meta.pkl has it
    ids: np.ndarray  # (N,)
    losses: np.ndarray  # (N,), nats; NaN where a token was not predicted
    ranks: np.ndarray  # (N,): 1 where the model found no token likelier
    likeliest: np.ndarray  # (N, 5) ids
    chances: np.ndarray  # (N, 5), 0 to 1: their probabilities
    num_bytes: np.ndarray  # (N,): the bytes of text that each token stands for
    starts: np.ndarray  # (D,): the token at which each document begins; the first one is 0
    documents: list  # their names
    key: str  # equal for runs on the same text, which can be compared

    def part(self, stop):
        """The same of the tokens before `stop`."""
        arrays = {name: getattr(self, name)[:stop]
                  for name in ("ids", "losses", "ranks", "likeliest", "chances", "num_bytes")}
        starts = self.starts[self.starts < max(1, stop)]
        return RunOnText(self.name, self.meta, **arrays, starts=starts,
                         documents=self.documents[: len(starts)], key=self.key)


class Gathered:
    """The first `most` tokens of a text, as a run predicts them."""

    def __init__(self, names, metas, most):
        """names, metas: of the run on each stream, and of its tokenizer."""
        self.names, self.metas, self.most = names, metas, most
        self.documents = None  # an iterator of their names, set before the first Scores
        self.is_cut, self.size, self.scores, self.starts, self.begun = False, 0, [], [], []

    def add(self, scores):
        """Take the next Scores of training/scoring.py."""
        room = self.most - self.size
        if room <= 0:
            self.is_cut, self.documents = True, None  # nobody needs their names any more
            return
        self.is_cut |= len(scores.tokens.ids) > room
        tokens, *predicted = scores
        tokens, predicted = tokens.part(0, room), [array[:room] for array in predicted]
        for at in np.flatnonzero(tokens.begins).tolist():
            self.starts.append(self.size + at)
            self.begun.append(next(self.documents))
        self.size += len(tokens.ids)
        self.scores.append((tokens.ids, *predicted, tokens.num_bytes))

    def runs(self, key):
        """The RunOnText of each stream; key: equal for equal texts."""
        ids, losses, ranks, likeliest, chances, num_bytes = map(np.concatenate, zip(*self.scores))
        if not self.starts or self.starts[0]:
            self.starts, self.begun = [0, *self.starts], ["", *self.begun]
        for k, (name, meta) in enumerate(zip(self.names, self.metas)):
            of_stream = [array if ids.ndim == 1 else array[:, k]
                         for array in (ids, losses, ranks, likeliest, chances)]
            yield RunOnText(name, meta, *of_stream, num_bytes, np.array(self.starts), self.begun,
                            f"{key} {k}")


class TextPage:
    """The page at `path`. Raises UserError where it cannot be written."""

    def __init__(self, path):
        check_page(path)
        self.path, self.gathered = path, []

    def gather(self, *of_run):
        """A Gathered, for a run on a text."""
        self.gathered.append(Gathered(*of_run))
        return self.gathered[-1]

    def write(self, title, keys, heads, rows, notes):
        """Write the page.

        keys: of each Gathered, equal for equal texts. heads, rows: the results, as table() of
        page.js takes them. notes: lines below them.
        """
        runs = [run for gathered, key in zip(self.gathered, keys) for run in gathered.runs(key)]
        cut = [gathered.most for gathered in self.gathered if gathered.is_cut]
        if cut:
            notes = [*notes, f"The text is longer: the page shows its first {max(cut):,} tokens."]
        write_text_page(self.path, title, runs, heads, rows, notes)


def write_text_page(path, title, runs, heads, rows, notes=()):
    """TextPage.write() of RunOnTexts. Of runs on one text, that of the shortest is shown."""
    for key in {run.key for run in runs}:
        shared = min(int(run.num_bytes.sum()) for run in runs if run.key == key)
        runs = [run if run.key != key else run.part(
            int(np.searchsorted(np.cumsum(run.num_bytes), shared, "right"))) for run in runs]
    write_page(path, title, "text.js", {
        "title": title, "notes": list(notes), "summary": {"heads": heads, "rows": rows},
        # the loss of a guess that finds all tokens equally likely
        "top_loss": max(math.log(max(2, run.meta["vocab_size"])) for run in runs),
        "runs": [_as_data(run) for run in runs]})


def _as_data(run):
    meta = {**run.meta, "itos": _itos(run.meta)}
    texts = {}
    shown = [texts.setdefault(text, len(texts)) for text in shown_texts(meta, run.ids)]
    named, places = np.unique(np.concatenate([run.ids[:, None], run.likeliest], axis=1),
                              return_inverse=True)
    places = places.reshape(len(run.ids), -1)
    return {
        "name": run.name, "key": run.key, "documents": run.documents,
        "labels": [token_text(meta, i) for i in named.tolist()], "texts": list(texts),
        "shown": packed(np.array(shown, np.int64)), "ids": packed(places[:, 0]),
        "likeliest": packed(places[:, 1:]), "widths": packed(run.num_bytes),
        "losses": packed(np.asarray(run.losses, np.float32)), "ranks": packed(run.ranks),
        "chances": packed(np.rint(np.asarray(run.chances) * 65535).astype(np.int64)),
        "starts": packed(run.starts)}


def _itos(meta):
    itos = meta.get("itos") or tokenizer_meta(tokenizer_from_meta(meta))["itos"]
    return itos if isinstance(itos, dict) else dict(enumerate(itos))


def shown_texts(meta, ids):
    """The part of the text that each of ids (N,) adds, N strings; joined, they are the text.

    Where several tokens share a character, as the bytes of one do, the last of them adds it, and
    the ones before add nothing. What is no UTF-8 becomes U+FFFD.
    """
    decoder, itos = codecs.getincrementaldecoder("utf-8")("replace"), meta["itos"]
    texts = [decoder.decode(as_bytes(itos.get(i, "\ufffd"))) for i in np.asarray(ids).tolist()]
    if texts:
        texts[-1] += decoder.decode(b"", final=True)
    return texts
