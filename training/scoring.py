"""The loss of every token of a text: each is predicted once, from the tokens before it.

    score(model, chunks, ...)   Scores of Tokens, in order: loss, rank, what else was likely

Memory does not grow with the text.

The model reads windows that advance by `stride` tokens. All targets of the first window count, and
the last `stride` targets of each later one, so that a token is predicted from the block_size -
stride + 1 tokens before it at least, as far as the text has so many. A smaller stride gives more
context, and takes more time: each token goes through the model block_size / stride times.
"""
import contextlib
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from model import rows_at_once
from pipeline.read.texts import Tokens, joined_tokens
from training.device import has_fast_bfloat16

CHUNK = 1 << 16  # tokens that are cut into windows together
TOKENS_AT_ONCE = 1 << 14  # of a batch, if nobody says how large it is to be


class Scores(NamedTuple):
    """Tokens, and how well each was predicted. Of K streams all arrays have an axis K after n."""
    tokens: Tokens
    losses: np.ndarray  # (n,) float32, in nats; NaN for a token that nothing precedes
    ranks: np.ndarray  # (n,) int32: 1 for the token that was held likeliest; 0 where loss is NaN
    likeliest: np.ndarray  # (n, k) int64: the ids held likeliest, in that order
    probabilities: np.ndarray  # (n, k) float32: theirs


def slices_of(config):
    """[(first, size)]: where each vocabulary lies in the table of a model."""
    sizes = config.vocab_sizes or (config.vocab_size,)
    return [(sum(sizes[:i]), size) for i, size in enumerate(sizes)]


def autocast_of(device):
    """A GPU computes in bfloat16 where it is made for that, everything else in float32."""
    if device.type == "cuda" and has_fast_bfloat16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


class Row(NamedTuple):
    """A window, and which of its targets count: the last ones."""
    window: np.ndarray  # (at most block_size + 1[, K]) ids
    stop: int  # where it ends among the tokens that are cut into windows
    count: int  # of its targets that count


def score(model, chunks, slices=None, *, stride=None, batch_size=None, apart=False, ended=True,
          likeliest=0):
    """Yield the Scores of all tokens of chunks, an iterable of Tokens of any length, in order.

    slices: of slices_of(), those that the ids belong to, one a stream (default: the first).
    stride: from 1 to block_size (default: half of it). batch_size: windows in a batch. apart: no
    window holds tokens of two documents, but for the token before a document, which predicts its
    first one where documents have an end (ended). likeliest: how many of the likeliest tokens to
    tell.
    """
    block_size, scorer = model.config.block_size, _Scorer(model, slices, likeliest)
    stride = stride or max(1, block_size // 2)
    assert 1 <= stride <= block_size
    room = block_size * (batch_size or max(1, TOKENS_AT_ONCE // block_size))
    context, waiting = None, None  # tokens that have been given, and those that wait for others
    for tokens, is_last in _large_chunks(chunks):
        if waiting is not None:
            tokens = joined_tokens([waiting, tokens])
        context = tokens.ids[:0] if context is None else context
        begins = np.flatnonzero(tokens.begins) if apart else np.zeros(0, np.int64)
        rows, context, used = _cut(tokens.ids, begins, context, is_last, ended, block_size, stride)
        waiting = tokens.part(used, None)
        if used:
            yield scorer.scores(tokens.part(0, used), rows, room)


def _large_chunks(chunks):
    """Yield (Tokens, whether they are the last), at least CHUNK tokens each time but the last."""
    held, size = [], 0
    for tokens in chunks:
        if size >= CHUNK:
            yield joined_tokens(held), False
            held, size = [], 0
        held.append(tokens)
        size += len(tokens.ids)
    if size:
        yield joined_tokens(held), True


def _cut(ids, begins, context, is_last, ended, block_size, stride):
    """(rows, context, used): Rows for ids[:used], and the tokens before the others.

    begins: where documents begin that are to be alone in their windows. context: the tokens of the
    text before ids that the next window holds.
    """
    rows, used, documents = [], 0, {*begins.tolist()}
    for end in (*begins[begins > 0].tolist(), len(ids)):
        if used in documents:
            context = context[-1:] if ended else context[:0]
        while used < end:
            new, left = block_size + 1 - len(context), end - used
            if left < new and end == len(ids) and not is_last:
                return rows, context, used  # the window waits for the tokens that follow
            stop = min(used + new, end)
            window = np.concatenate((context, ids[used:stop]))
            # nothing precedes the first token of a text, so nothing predicts it
            rows.append(Row(window, stop, stop - used - (not len(context))))
            context, used = window[-(block_size + 1 - stride) :], stop
    return rows, context, used


class _Scorer:
    """A model, and how much of what it predicts is told."""

    def __init__(self, model, slices, likeliest):
        self.model, self.slices = model.eval(), slices or slices_of(model.config)[:1]
        self.device = model.lm_head.weight.device
        self.likeliest = min(likeliest, *(size for _, size in self.slices))
        self.firsts = torch.tensor([first for first, _ in self.slices], device=self.device)

    @torch.inference_mode()
    def scores(self, tokens, rows, room):
        """The Scores of tokens, for which these are the Rows. room: inputs of a batch."""
        n, K, k = len(tokens.ids), len(self.slices), self.likeliest
        found = [np.full((n, K), np.nan, np.float32), np.zeros((n, K), np.int32),
                 np.zeros((n, K, k), np.int64), np.zeros((n, K, k), np.float32)]
        # rows of one length go together, so that little is computed for nothing
        rows = sorted((row for row in rows if row.count), key=lambda row: len(row.window))
        while rows:
            size = max(1, room // (len(rows[-1].window) - 1))
            rows, batch = rows[:-size], rows[-size:]
            at = np.concatenate([np.arange(row.stop - row.count, row.stop) for row in batch])
            for array, values in zip(found, self._predict(batch)):
                array[at] = values.cpu().numpy()
        if tokens.ids.ndim == 1:
            found = [array[:, 0] for array in found]
        return Scores(tokens, *found)

    def _predict(self, rows):
        """(losses (n, K), ranks (n, K), likeliest ids and their probabilities (n, K, k)) of the
        targets of Rows that count, in order."""
        K, length = len(self.slices), max(len(row.window) for row in rows)
        windows = np.zeros((len(rows), length, K), np.int64)  # 0 after the end, which is not seen
        for window, row in zip(windows, rows):
            window[: len(row.window)] = row.window.reshape(-1, K)
        windows = torch.from_numpy(windows).to(self.device)
        idx = windows[:, :-1] + self.firsts
        counts = np.array([row.count for row in rows])
        # of each target: its row, and its place there
        row = np.repeat(np.arange(len(rows)), counts)
        place = np.concatenate([np.arange(len(row.window) - row.count, len(row.window))
                                for row in rows])
        row, place = (torch.from_numpy(part).to(self.device) for part in (row, place))
        with autocast_of(self.device):
            x = self.model.blocks(idx if idx.size(2) > 1 else idx[..., 0])
            x = self.model.transformer.ln_f(x[row, place - 1])
            found = [self._of_stream(x, windows[row, place, k], *part)
                     for k, part in enumerate(self.slices)]
        return [torch.stack(parts, 1) for parts in zip(*found)]

    def _of_stream(self, x, targets, first, size):
        """The same of one stream: (n,) twice, then (n, k) twice. x: (n, C)."""
        weight, found = self.model.lm_head.weight, []
        if len(self.model.config.vocab_sizes) > 1:  # only the ids of its own are compared
            weight = weight[first : first + size]
        rows = rows_at_once(x.device, len(weight))
        for part, target in zip(x.split(rows), targets.split(rows)):
            logits = F.linear(part, weight)[:, :size].float()  # without the padding
            right = logits.gather(1, target[:, None])
            total = logits.logsumexp(1, keepdim=True)
            top = logits.topk(self.likeliest)
            found.append((total[:, 0] - right[:, 0], 1 + (logits > right).sum(1),
                          top.indices, (top.values - total).exp()))
        return [torch.cat(parts) for parts in zip(*found)]
