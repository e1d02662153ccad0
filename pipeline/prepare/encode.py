"""Units of text -> their token ids, in order, on every core.

    encode_all(units, job, ...)    the ids of each unit, whoever encodes it: this process, its
                                   threads, other processes, or the workers of a dask scheduler

job is the tuple (tokenizer, vocab_size, dtype, eot_token, lengths) that encode_unit() takes.
"""
import collections
import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from typing import NamedTuple

import numpy as np

from pipeline.errors import UserError, optional, printable
from pipeline.prepare.units import ENDS_DOCUMENT, LEARNED, UNLEARNED, joined, raw_length
from pipeline.read.folder import SPLITS
from pipeline.threads import cores
from pipeline.tokenizers import UnknownText

# ---- one unit


class Encoded(NamedTuple):
    """The ids of a split, and what is known of them."""
    ids: np.ndarray  # (n,)
    learned: np.ndarray | None  # (n,) uint8: 1 where an id is to be learned; None: everywhere
    starts: list  # the place in ids of each document that begins among them
    num_spanning: int  # tokens that stand for learned and for unlearned text, and are learned


def encode_unit(tokenizer, vocab_size, dtype, eot_token, lengths, unit):
    """{split: Encoded} of a unit, which is a list of units.Piece.

    lengths: (vocab_size,) the bytes that each token stands for. This runs in a worker: everything
    that it needs is in its arguments.
    """
    found, sizes, eot, known = {}, dict.fromkeys(SPLITS, 0), None, {}
    if eot_token is not None:
        eot = np.array([eot_token], dtype)
    for number, (split, raw, end, learned, docs, is_marker) in enumerate(unit):
        arrays, masks, starts, spanning = found.setdefault(split, ([], [], [], []))
        for at, _, _ in docs:
            starts.append(sizes[split] + at)
        # what stands around the turns of a chat is the same few short texts and markers
        what = (raw, is_marker) if isinstance(raw, bytes) and len(raw) < 32 else None
        try:
            ids = known.get(what, raw)
            if ids is raw and isinstance(raw, bytes):
                ids = _marker(tokenizer, raw) if is_marker else _encode(tokenizer, raw)
        except UnknownText as error:  # its position is that within this piece of the unit
            before = sum(raw_length(piece.raw) for piece in unit[:number])
            raise UnknownText(error.message, before + error.position) from None
        if what not in known:
            ids = _checked_ids(ids, vocab_size, dtype)
            if what:
                known[what] = ids
        mask = None
        if learned is not None and UNLEARNED in learned:
            mask = _mask(tokenizer, unit[number], ids, lengths, spanning)
        arrays.append(ids)
        masks.append(mask)
        sizes[split] += len(ids)
        if end == ENDS_DOCUMENT and eot is not None:
            arrays.append(eot)
            masks.append(None if mask is None else np.frombuffer(learned[-1:], np.uint8))
            sizes[split] += 1
    return {split: Encoded(joined(arrays), _joined_masks(arrays, masks), starts, sum(spanning))
            for split, (arrays, masks, starts, spanning) in found.items()}


def _joined_masks(arrays, masks):
    if all(mask is None for mask in masks):
        return None
    return joined([np.ones(len(ids), np.uint8) if mask is None else mask
                   for ids, mask in zip(arrays, masks)])


def _marker(tokenizer, raw):
    """The id of a special token, of which raw is the name."""
    name, markers = raw.decode(), getattr(tokenizer, "markers", {})
    if name not in markers:
        has = ", ".join(markers) or "none"
        raise UserError(f"a document has the special token {name!r}, which the tokenizer lacks "
                        f"(it has {printable(has, 300)}). Choose a tokenizer that has it")
    if not getattr(tokenizer, "names_are_text", True):
        raise UserError(f"a document has the special token {name!r}, but the tokenizer would also "
                        f"read it in a text. Use tokenizer.with_markers([{name!r}])")
    if markers[name] == getattr(tokenizer, "eot_token", None):
        raise UserError(f"a document has the special token {name!r} among its parts, which ends "
                        "documents: it is put after each of them. Leave it out")
    return [markers[name]]


def _mask(tokenizer, piece, ids, lengths, spanning):
    """(len(ids),) uint8: 1 for each token of a piece that stands for learned text, if only for a
    byte of it. The number of tokens that stand for unlearned text, too, is added to spanning."""
    learned = np.frombuffer(piece.learned, np.uint8)
    if piece.is_marker:
        return learned[:1]
    if not isinstance(piece.raw, bytes):
        return learned
    if LEARNED not in piece.learned:  # as in most turns of a chat
        return np.zeros(len(ids), np.uint8)
    starts, ends = _token_spans(tokenizer, piece.raw, ids, lengths)
    before = np.concatenate([[0], np.cumsum(learned, dtype=np.int64)])  # learned bytes before each
    num_learned = before[ends] - before[starts]
    spanning.append(int(((0 < num_learned) & (num_learned < ends - starts)).sum()))
    return (num_learned > 0).astype(np.uint8)


def _token_spans(tokenizer, raw, ids, lengths):
    """(starts, ends), (len(ids),) int64: the bytes of raw that each token stands for."""
    if hasattr(tokenizer, "token_spans"):
        return tokenizer.token_spans(raw, ids)
    ends = np.cumsum(lengths[ids], dtype=np.int64)
    if (size := int(ends[-1]) if len(ends) else 0) != len(raw):
        raise UserError(f"{type(tokenizer).__name__} does not tell which text a token stands for: "
                        f"by itos, the tokens of {raw[:20].decode(errors='ignore')!r}... are "
                        f"{size:,} bytes long, and their text is {len(raw):,}. So no mask can be "
                        f"made; use another tokenizer, or documents that are strings")
    return ends - lengths[ids], ends


def _encode(tokenizer, raw):
    # only a class that defines encode_utf8() itself: a subclass may have another encode()
    if "encode_utf8" in vars(type(tokenizer)):
        return tokenizer.encode_utf8(raw)
    return tokenizer.encode(raw.decode("utf-8"))


def _checked_ids(ids, vocab_size, dtype):
    """ids as an array of dtype. Raises UserError unless they are a flat list below vocab_size."""
    try:
        ids = np.asarray(ids)
    except ValueError:
        raise UserError("encode() gave unequal lists, and no flat list of integers") from None
    if not ids.size:
        return np.zeros(0, dtype)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise UserError(f"encode() gave {ids.dtype} of shape {ids.shape}, no flat list of integers")
    # a reduction costs half of what ids.max() does, and most documents are short
    low = int(np.minimum.reduce(ids)) if ids.dtype.kind == "i" else 0
    high = int(np.maximum.reduce(ids))
    if low < 0 or high >= vocab_size:
        raise UserError(f"encode() gave id {low if low < 0 else high}, outside the vocabulary of "
                        f"{vocab_size:,} ids (vocab_size is the largest id in itos + 1)")
    return np.ascontiguousarray(ids, dtype=dtype)


# ---- many units, on many workers


def encode_all(units, job, num_workers=None, dask=None):
    """Yield what encode_unit() gives for each unit, in order.

    num_workers: threads or processes of this machine, whichever the tokenizer asks for; default:
        one a core. A text of one unit, and a tokenizer that is as fast as the disk, need none.
    dask: the address of a dask scheduler, tcp://host:port, whose workers encode instead.

    At most two units for each worker are under way at a time.
    """
    units = iter(units)
    first_two = list(itertools.islice(units, 2))
    units = itertools.chain(first_two, units)
    num_workers, kind = num_workers or cores(), getattr(job[0], "workers", "processes")
    if kind not in ("threads", "processes", None):  # None: as fast as reading and writing
        raise UserError(f"the tokenizer's workers = {kind!r} is not 'threads', 'processes' or None")
    packed = _pickled(job) if dask or kind == "processes" else None
    if dask and not packed:
        raise UserError("--dask cannot send the tokenizer: define its class outside of functions")
    needs_none = len(first_two) < 2 or num_workers == 1 or not kind
    work = functools.partial(encode_unit, *job)
    if not dask and (needs_none or kind == "processes" and not packed):
        yield from map(work, units)
        return
    work = functools.partial(_encode_packed, packed) if packed else work
    try:
        with _executor(num_workers, kind, dask) as (executor, num_workers):
            waiting = collections.deque()
            for unit in units:
                with _no_signals_of_the_terminal():  # submit() may start a worker
                    waiting.append(executor.submit(work, unit))
                if len(waiting) >= 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except concurrent.futures.BrokenExecutor:
        raise UserError("a worker was killed, perhaps for lack of memory (fewer --num_workers take "
                        "less). Run the same command again: finished work is kept") from None


def _pickled(job):
    """job as bytes; None where it cannot be pickled, such as a class defined inside main()."""
    with contextlib.suppress(AttributeError, TypeError, pickle.PicklingError):
        return pickle.dumps(job)


@functools.lru_cache(maxsize=1)
def _unpickled(packed):
    return pickle.loads(packed)


def _encode_packed(packed, unit):
    """encode_unit() in another process, which builds the tokenizer once."""
    return encode_unit(*_unpickled(packed), unit)


@contextlib.contextmanager
def _executor(num_workers, kind, dask):
    """(a concurrent.futures.Executor, its number of workers). An error in the block stops them."""
    client, others = None, {*multiprocessing.active_children()}
    if dask:
        distributed = optional("distributed", "--dask", install="dask[distributed]")
        client = distributed.Client(dask)
        executor, num_workers = client.get_executor(), sum(client.nthreads().values())
        if not num_workers:
            client.close()
            raise UserError(f"--dask: {dask} has no workers. Start some: dask worker {dask}")
    elif kind == "threads":
        executor = concurrent.futures.ThreadPoolExecutor(num_workers)
    else:
        spawn = multiprocessing.get_context("spawn")  # safe beside threads, and on every system
        with _no_signals_of_the_terminal():
            executor = concurrent.futures.ProcessPoolExecutor(num_workers, spawn, _end_with_parent)
    try:
        yield executor, num_workers
    except BaseException:
        for worker in {*multiprocessing.active_children()} - others:
            worker.terminate()  # a unit without borders could take minutes to end
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # no memory for its thread, which is raised already
            executor.shutdown(cancel_futures=True) if not client else client.close()


@contextlib.contextmanager
def _no_signals_of_the_terminal():
    """Processes that start in this block ignore Ctrl-C and SIGHUP, which a terminal sends to all of
    its processes: only the parent answers them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent():
    """The first act of a worker, or an idle worker would outlive a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for Windows, which has no signal masks

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
