"""Windows of a dataset as tensors.

    gather(tokens, starts, block_size)   one read: (B, T + 1) ids
    to_xy(windows, device)               x, y (B, T) int64 on the device
    TrainBatches(...)                    the run's batches from any iteration on, read ahead by a thread
    eval_batches(...)                    the fixed windows of an evaluation

Iteration i takes the draws i*G .. i*G + G - 1, G = batch_size * gradient_accumulation_steps, whatever the number of
ranks. So a position is an iteration, and resuming is starting there.
"""
import queue
import threading
import time

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from data.dataset import check_ids
from data.errors import UserError
from data.sampler import eval_starts, window_starts

DRAWS_AHEAD = 4096  # draws ordered at once: the arithmetic of sampler.py costs 30 times less a draw in blocks
REMAP_AFTER = 1024  # windows read through one mapping; each may pull 64 KB of file into our resident memory
TOKENS_AT_ONCE = 1 << 18  # tokens the thread reads and hands over in one piece: waking a thread costs more than a batch
PIECES_AHEAD = 2  # pieces in the queue


def gather(tokens, starts, block_size):
    """Read one batch of windows: (B, T + 1), in the dtype of tokens.

    tokens: (N,) uint16 or uint32 memmap. starts: (B,) int64, in tokens, each at most N - T - 1 (inclusive); beyond
    that IndexError.
    """
    return sliding_window_view(tokens, block_size + 1)[starts]


def to_xy(windows, device):
    """x, y (B, T) int64 on device, from (B, T + 1) windows on the CPU. The ids travel narrow and are widened there."""
    wide = windows.to(device, non_blocking=True).to(torch.int64)
    if windows.dtype == torch.int16:
        wide &= 0xFFFF  # the ids are unsigned
    elif windows.dtype == torch.int32:
        wide &= 0xFFFFFFFF
    return wide[:, :-1], wide[:, 1:]


def split_iteration(batch_size, gradient_accumulation_steps, num_ranks):
    """(micro_steps, rows) of each rank, so that micro_steps * rows * num_ranks = G. Raises UserError if G won't divide."""
    sequences = batch_size * gradient_accumulation_steps
    micro_steps = -(-gradient_accumulation_steps // num_ranks)
    if sequences % (micro_steps * num_ranks):
        raise UserError(f"batch_size {batch_size} * gradient_accumulation_steps {gradient_accumulation_steps} = "
                        f"{sequences} sequences cannot be shared out evenly to {num_ranks} ranks. Change one of them")
    return micro_steps, sequences // (micro_steps * num_ranks)


def check_split(dataset, split, block_size):
    """Raises UserError when the split is shorter than one window."""
    if dataset.num_tokens[split] < block_size + 1:
        remedy = "give it more text" if split == "train" else "give val more text (-p or -v of prepare.py)"
        raise UserError(f"{dataset.path(split)} has {dataset.num_tokens[split]:,} tokens; block_size {block_size} "
                        f"needs {block_size + 1}. Lower --block_size, or {remedy}")


class _Reader:
    """Checked windows of one split. The file is mapped anew now and then, so resident memory stays flat."""

    def __init__(self, dataset, split, block_size):
        check_split(dataset, split, block_size)
        self.dataset, self.split, self.block_size = dataset, split, block_size
        self.windows_left = 0
        # ids that fill their dtype need no look
        self.must_check = dataset.vocab_size <= np.iinfo(dataset.dtype).max

    def read(self, starts, length=None):
        """(B, length + 1) int16 or int32 tensor of ids (the bits are unsigned); length: block_size if not given."""
        if self.windows_left <= 0:
            self.tokens, self.windows_left = self.dataset.tokens(self.split), REMAP_AFTER
        self.windows_left -= len(starts)
        length = length or self.block_size
        windows = gather(self.tokens, starts, length)
        if self.must_check:
            check_ids(windows, self.dataset.vocab_size, self.dataset.path(self.split),
                      lambda i: int(starts[i // (length + 1)]) + i % (length + 1))
        # signed twins: torch does little with unsigned integers
        return torch.from_numpy(windows.view(np.int16 if windows.itemsize == 2 else np.int32))


class TrainBatches:
    """An iterator over the windows of this rank's micro-batches, (rows, T + 1), from iteration `iter_num` to `max_iters`.

    Row j of micro-step m of rank r in iteration i is draw i*G + (m * num_ranks + r) * rows + j of the order. A thread
    orders and reads ahead; wait_time counts the seconds that next() stood waiting for it. close() when done.
    """

    def __init__(self, dataset, *, sampling_method, block_size, batch_size, gradient_accumulation_steps=1, seed=0,
                 iter_num=0, max_iters, rank=0, num_ranks=1, pin_memory=False):
        self.micro_steps, self.rows = split_iteration(batch_size, gradient_accumulation_steps, num_ranks)
        self._reader = _Reader(dataset, "train", block_size)
        self._order = (sampling_method, seed)
        self._rank, self._num_ranks, self._pin_memory = rank, num_ranks, pin_memory
        self.wait_time = 0.0  # seconds
        self._queue = queue.Queue(maxsize=PIECES_AHEAD)
        self._piece = iter(())  # what is left of the piece at hand
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, args=(iter_num, max_iters), daemon=True)
        self._thread.start()

    def __iter__(self):
        return self

    def __next__(self):
        if (windows := next(self._piece, None)) is not None:
            return windows
        t0 = time.perf_counter()
        piece = self._queue.get()
        self.wait_time += time.perf_counter() - t0
        if isinstance(piece, BaseException):
            self._queue.put(piece)  # for whoever asks again
            raise piece
        self._piece = iter(piece)
        return next(self._piece)

    def close(self):
        self._closed.set()
        while not self._queue.empty():  # a put that waits for room goes through and sees the flag
            self._queue.get_nowait()
        self._thread.join()

    def draws(self, first_iter, num_iters):
        """(num_iters * micro_steps, rows) int64: the draw numbers of this rank."""
        per_iter = self.micro_steps * self._num_ranks * self.rows
        iters = np.arange(first_iter, first_iter + num_iters, dtype=np.int64)[:, None, None] * per_iter
        micro = (np.arange(self.micro_steps)[:, None] * self._num_ranks + self._rank) * self.rows
        return (iters + micro + np.arange(self.rows)).reshape(-1, self.rows)

    def starts(self, draws):
        """(n, rows) int64: where the windows of those draws begin."""
        method, seed = self._order
        dataset, split, block_size = self._reader.dataset, self._reader.split, self._reader.block_size
        flat = window_starts(method, draws.ravel(), dataset.num_tokens[split], block_size, seed, dataset.name)
        return flat.reshape(draws.shape)

    def _read_ahead(self, iter_num, max_iters):
        try:
            iters_ahead = max(1, DRAWS_AHEAD // (self.micro_steps * self.rows))
            at_once = max(1, TOKENS_AT_ONCE // (self.rows * self._reader.block_size))  # batches
            for first in range(iter_num, max_iters, iters_ahead):
                starts = self.starts(self.draws(first, min(iters_ahead, max_iters - first)))
                for k in range(0, len(starts), at_once):
                    windows = self._reader.read(starts[k : k + at_once].ravel()).unflatten(0, (-1, self.rows))
                    self._queue.put((windows.pin_memory() if self._pin_memory else windows).unbind())
                    if self._closed.is_set():
                        return
            self._queue.put(StopIteration())
        except BaseException as error:  # raised where the batch is asked for
            self._queue.put(error)


def eval_batches(dataset, split, *, block_size, batch_size, eval_iters, rank=0, num_ranks=1):
    """The windows of an evaluation, (<= batch_size, T + 1) each, the last one perhaps shorter than T + 1; this rank's share.

    At most eval_iters * batch_size windows, the same ones each time; when that covers the split, every target of it once.
    """
    reader = _Reader(dataset, split, block_size)
    starts, tail = eval_starts(dataset.num_tokens[split], block_size, eval_iters * batch_size)
    for first in range(rank * batch_size, len(starts), num_ranks * batch_size):
        yield reader.read(starts[first : first + batch_size])
    if tail and rank == 0:
        yield reader.read(np.array([dataset.num_tokens[split] - 1 - tail]), length=tail)
