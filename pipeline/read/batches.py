"""Windows of a mixture as tensors: (B, T + 1) ids, or (B, T + 1, K) of K aligned streams.

    Batch                        windows, which targets are learned, positions in documents
    to_xy(batch, device)         x and y, (B, T) or (B, T, K) int64, on the device
    TrainBatches(mixture, ...)   the micro-batches of a run from any iteration on, read ahead
    eval_batches(mixture, ...)   the fixed windows of an evaluation

Iteration i takes the draws i*G .. i*G + G - 1, G = batch_size * gradient_accumulation_steps,
whatever the number of ranks. So an iteration is all that a run must remember to go on from there.
"""
import itertools
import queue
import threading
import time
from typing import NamedTuple

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.read.documents import first_of
from pipeline.read.folder import check_ids
from pipeline.read.sampler import eval_starts

DRAWS_AHEAD = 4096  # draws ordered at once, which makes the sampler's arithmetic 30 times cheaper
REMAP_AFTER = 1024  # windows read through one mapping; each may hold 64 KB of the file in memory
TOKENS_AT_ONCE = 1 << 18  # read and handed over together: waking a thread costs more than a batch
CHUNKS_AHEAD = 2  # such chunks of windows that wait in the queue


class Batch(NamedTuple):
    """Windows, and what is known of their tokens. Shapes: B rows, T = block_size, K streams."""
    ids: torch.Tensor  # (B, T + 1[, K]) int16 or int32, bits unsigned
    learned: torch.Tensor | None = None  # (B, T) bool: whether the target is to be learned
    positions: torch.Tensor | None = None  # (B, T) int32: of each input within its document

    def map(self, function):
        """The Batch of what a function makes of each tensor."""
        return Batch(*(None if tensor is None else function(tensor) for tensor in self))

    def rows(self, first, stop):
        return self.map(lambda tensor: tensor[first:stop])

    def split(self, rows):
        """A list of Batches of so many rows each, of which this one has a multiple."""
        parts = [itertools.repeat(None) if tensor is None else
                 tensor.unflatten(0, (-1, rows)).unbind() for tensor in self]
        return [Batch(*part) for part in zip(*parts)]

    def num_targets(self):
        return self.ids.size(0) * (self.ids.size(1) - 1)

    def num_learned(self):
        return self.num_targets() if self.learned is None else int(self.learned.count_nonzero())


def to_xy(batch, device, length=None):
    """(x, y, marks) on the device, from a Batch on the CPU. x and y: (B, T[, K]) int64, y one token
    later than x. marks: further arguments of the model, learned and positions, where there are any.

    length: the context length; where T is a multiple of it, rows are cut: (B * T / length, length).
    The ids are widened on the device, so fewer bytes travel.
    """
    # CUDA copies beside its work and takes care of the source. On Apple's GPUs a copy that is not
    # waited for may read memory that has been freed (pytorch issue 189690)
    def sent(tensor):
        return tensor.to(device, non_blocking=torch.device(device).type == "cuda")

    wide = sent(batch.ids).to(torch.int64)
    if batch.ids.dtype != torch.int64:  # ids are unsigned, and large ones look negative in int16
        wide &= (1 << 8 * batch.ids.itemsize) - 1
    x, y, marks = wide[:, :-1], wide[:, 1:], {}
    if batch.learned is not None:
        marks["learned"] = sent(batch.learned)
    if batch.positions is not None:
        marks["positions"] = sent(batch.positions).to(torch.int64)
    if length is None or x.size(1) % length:
        return x, y, marks
    x, y, *cut = (part.reshape(-1, length, *part.shape[2:]) for part in (x, y, *marks.values()))
    marks = dict(zip(marks, cut))
    if "positions" in marks:  # a document that began before the cut begins again there
        marks["positions"] = marks["positions"].minimum(torch.arange(length, device=x.device))
    return x, y, marks


def split_iteration(batch_size, gradient_accumulation_steps, num_ranks):
    """(micro_steps, rows) of each rank, so that micro_steps * rows * num_ranks = G. Raises
    UserError where G cannot be divided so."""
    sequences = batch_size * gradient_accumulation_steps
    micro_steps = -(-gradient_accumulation_steps // num_ranks)  # rounded up
    if sequences % (micro_steps * num_ranks):
        each = f", each in {micro_steps} micro-batches" if micro_steps > 1 else ""
        raise UserError(
            f"batch_size {batch_size} * gradient_accumulation_steps {gradient_accumulation_steps} "
            f"= {sequences} sequences cannot be divided evenly among {num_ranks} ranks{each}. "
            f"Change one of them")
    return micro_steps, sequences // (micro_steps * num_ranks)


class _Reader:
    """Reads checked windows of one split of a mixture. It maps the files anew now and then, because
    what was read through a mapping stays in memory as long as the mapping."""

    def __init__(self, mixture, split):
        self.mixture, self.split, self.windows_left = mixture, split, 0

    def read(self, member, starts, length=None):
        """The Batch of windows of these members and starts, (B,) int64 each; ids in the mixture's
        table. length: block_size if not given."""
        if self.windows_left <= 0:  # forget the mappings; the next reads make new ones
            self.mapped, self.windows_left = {}, REMAP_AFTER
        self.windows_left -= len(starts)
        mixture, length = self.mixture, length or self.mixture.block_size
        if len(mixture.datasets) == 1:
            windows = self._of_dataset(mixture.datasets[0], starts, length)
        elif len(mixture.members) == 1:
            # aligned streams are read at the same places, and become the last dimension
            windows = np.stack([self._of_dataset(dataset, starts, length)
                                for dataset in mixture.datasets], axis=-1)
        else:
            windows = np.empty((len(starts), length + 1), mixture.dtype)
            for streams, mine in self._of_members(member):
                windows[mine] = self._of_dataset(streams[0], starts[mine], length)
        marks = self._marks(windows, member, starts, length)
        # the same bits as signed integers, because torch does little with unsigned ones
        ids = torch.from_numpy(windows.view(np.int16 if windows.itemsize == 2 else np.int32))
        return Batch(ids, *(None if mark is None else torch.from_numpy(mark) for mark in marks))

    def _of_members(self, member):
        """(datasets of a member, its rows) for each member that has rows, which are read at once
        and put in their places."""
        if len(self.mixture.members) == 1:
            yield self.mixture.members[0], slice(None)
            return
        for d, streams in enumerate(self.mixture.members):
            if (mine := np.flatnonzero(member == d)).size:
                yield streams, mine

    def _marks(self, windows, member, starts, length):
        """(learned, positions) of a Batch; of aligned streams the first one's count."""
        mixture, shape = self.mixture, (len(starts), length)
        if not (mixture.is_masked or mixture.documents):
            return None, None
        learned = np.ones(shape, bool) if mixture.is_masked else None
        positions = np.empty(shape, np.int32) if mixture.documents else None
        for (dataset, *_), mine in self._of_members(member):
            if dataset.has_mask:
                mask = self._mapped(dataset, f"{self.split}.mask", dataset.mask)
                read = dataset.read_mask(self.split, starts[mine] + 1, length, mask)
                np.not_equal(read, 0, out=read.view(bool))  # so that every byte is a bool
                learned[mine] = read.view(bool)
            if mixture.documents:
                begins, unpreceded = self._begins(dataset, windows[mine], starts[mine])
                positions[mine] = positions_of(begins)
                if unpreceded is not None:
                    learned[mine] &= ~unpreceded
        return learned, positions

    def _begins(self, dataset, windows, starts):
        """(begins, unpreceded), (B, T) bool: the inputs at which a document begins; the targets
        that nothing of their document precedes, or None.

        A document begins with the token before its first one, its end token or the last of what
        ended it, which predicts it. Where documents have no end, that token is another document's.
        """
        shape = len(windows), windows.shape[1] - 1
        if not dataset.has_index:
            ids = windows[:, :-1] if windows.ndim == 2 else windows[:, :-1, 0]
            offset = self.mixture.offsets[dataset.name]
            return ids == dataset.meta["eot_token"] + offset, None
        records = self._mapped(dataset, f"{self.split}.docs", dataset.documents)
        dataset.check_unchanged(f"{self.split}.docs")
        first = first_of(records, shape, starts + 1)
        if dataset.meta["docs"]["ended"]:
            return first, None
        return first_of(records, shape, starts), first

    def _mapped(self, dataset, part, mapped):
        if (dataset.name, part) not in self.mapped:
            self.mapped[dataset.name, part] = mapped(self.split)
        return self.mapped[dataset.name, part]

    def _of_dataset(self, dataset, starts, length):
        try:
            tokens = self._mapped(dataset, self.split, dataset.tokens)
            windows = dataset.read(self.split, starts, length + 1, tokens)
            # a vocabulary that fills the dtype needs no check: any bits are a valid id
            if dataset.vocab_size <= np.iinfo(dataset.dtype).max:
                check_ids(windows, dataset.vocab_size, dataset.path(self.split), starts)
        except UserError as error:
            error.of_one_rank = True  # other ranks read other windows and meet no error
            raise
        # ids of several vocabularies become ids of the one table that holds them all
        offset = self.mixture.dtype.type(self.mixture.offsets[dataset.name])
        windows = windows.astype(self.mixture.dtype, copy=False)
        return windows + offset if offset else windows


def positions_of(begins):
    """(B, T) bool, the inputs at which a document begins -> (B, T) int32, the position of each in
    its document. A row that begins within a document begins at position 0."""
    begins[:, 0] = True
    first = np.flatnonzero(begins)  # of each document, counted through all rows
    length = np.diff(first, append=begins.size)
    # np.maximum.accumulate would say the same in three times as long
    index = np.arange(begins.size, dtype=np.int32)
    return (index - np.repeat(first.astype(np.int32), length)).reshape(begins.shape)


class TrainBatches:
    """Iterator over this rank's micro-batches, each a Batch of `rows` rows, of iterations iter_num
    to max_iters.

    Row j of micro-step m of rank r in iteration i is draw i*G + (m * num_ranks + r) * rows + j of
    the mixture. A thread orders and reads ahead. wait_time: the seconds that next() has waited for
    that thread. Call close() at the end.
    """

    def __init__(self, mixture, *, batch_size=None, gradient_accumulation_steps=1, iter_num=0,
                 max_iters, rank=0, num_ranks=1, pin_memory=False):
        # a resumed run may divide its iterations otherwise than the order does
        self.micro_steps, self.rows = split_iteration(
            batch_size or mixture.batch_size, gradient_accumulation_steps, num_ranks)
        self._mixture, self._reader = mixture, _Reader(mixture, "train")
        self._rank, self._num_ranks, self._pin_memory = rank, num_ranks, pin_memory
        self.wait_time = 0.0
        # a full queue stops the thread, so it never reads far ahead
        self._queue = queue.Queue(maxsize=CHUNKS_AHEAD)
        self._chunk = iter(())  # the micro-batches of the current chunk that are left
        self._closed = threading.Event()
        # a daemon does not keep the process alive after an error
        self._thread = threading.Thread(target=self._read_ahead, args=(iter_num, max_iters),
                                        daemon=True)
        self._thread.start()

    def __iter__(self):
        return self

    def __next__(self):
        if (batch := next(self._chunk, None)) is not None:
            return batch
        t0 = time.perf_counter()  # the time that training waits for data is logged
        chunk = self._queue.get()
        self.wait_time += time.perf_counter() - t0
        if isinstance(chunk, BaseException):
            self._queue.put(chunk)  # every later call raises it again
            raise chunk
        self._chunk = iter(chunk)
        return next(self._chunk)

    def close(self):
        self._closed.set()
        # emptying the queue lets a put that waits for room return, after which the thread ends
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join()

    def draws(self, first_iter, num_iters):
        """(num_iters * micro_steps, rows) int64: the draw numbers of this rank's rows."""
        iters = np.arange(first_iter, first_iter + num_iters, dtype=np.int64)[:, None, None]
        # the G draws of an iteration go to micro-step 0 of each rank, then to micro-step 1, ...
        micro = np.arange(self.micro_steps)[:, None] * self._num_ranks + self._rank
        per_iter = self.micro_steps * self._num_ranks * self.rows
        draws = iters * per_iter + micro * self.rows + np.arange(self.rows)
        return draws.reshape(-1, self.rows)

    def _read_ahead(self, iter_num, max_iters):
        """The thread: put lists of micro-batches into the queue, and at the end the exception that
        next() is to raise."""
        try:
            iters_ahead = max(1, DRAWS_AHEAD // (self.micro_steps * self.rows))
            # draws of a chunk: whole micro-batches, at least one
            at_once = max(1, TOKENS_AT_ONCE // (self.rows * self._mixture.block_size)) * self.rows
            # a resumed run begins at iter_num, because the order follows from the numbers alone
            for first in range(iter_num, max_iters, iters_ahead):
                draws = self.draws(first, min(iters_ahead, max_iters - first)).ravel()
                member, starts = self._mixture.places(draws)
                for k in range(0, len(draws), at_once):
                    batch = self._reader.read(member[k : k + at_once], starts[k : k + at_once])
                    if self._pin_memory:  # a copy to a GPU then runs beside the GPU's work
                        batch = batch.map(torch.Tensor.pin_memory)
                    self._queue.put(batch.split(self.rows))
                    if self._closed.is_set():
                        return
            self._queue.put(StopIteration())
        except BaseException as error:  # raised by next(), in the caller's thread
            self._queue.put(error)


def eval_batches(mixture, split, member=0, *, eval_iters, batch_size=None, rank=0, num_ranks=1):
    """Yield this rank's part of an evaluation of one member, Batches of at most batch_size rows.

    All ranks together read at most eval_iters * mixture.batch_size windows, the same ones each
    time, whatever batch_size is (default: mixture.batch_size). Where
    that covers the split, each of its targets is read once, the last ones in a shorter window.
    Every rank yields equally often, so that they can agree on a stop between two batches; one that
    has nothing left to read yields None.
    """
    reader, batch_size = _Reader(mixture, split), batch_size or mixture.batch_size
    num_tokens = mixture.members[member][0].num_tokens[split]
    starts, tail = eval_starts(num_tokens, mixture.block_size,
                               eval_iters * mixture.batch_size)
    whole = -(-len(starts) // batch_size)  # batches; after them comes the tail, if there is one
    rounds = -(-(whole + bool(tail)) // num_ranks)
    for batch in range(rank, rounds * num_ranks, num_ranks):  # r, r + num_ranks, ... of rank r
        if batch < whole:
            part = starts[batch * batch_size : (batch + 1) * batch_size]
            yield reader.read(np.full_like(part, member), part)
        elif batch == whole and tail:  # the targets after the last complete window
            yield reader.read(np.array([member]), np.array([num_tokens - 1 - tail]), length=tail)
        else:
            yield None
