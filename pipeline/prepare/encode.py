"""Units of text -> their token ids, in order, on every core.

    encode_all(units, job, ...)    the ids of each unit, whoever encodes it: this process, its
                                   threads, other processes, or the workers of a dask scheduler

job is the tuple (tokenizer, vocab_size, dtype, eot_token), as encode_unit() takes them.
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

import numpy as np

from pipeline.errors import UserError, optional
from pipeline.prepare.units import ENDS_DOCUMENT, joined, raw_length
from pipeline.threads import cores
from pipeline.tokenizers import UnknownText

# ---- one unit


def encode_unit(tokenizer, vocab_size, dtype, eot_token, unit):
    """{split: ids} of a unit, which is a list of (split, raw, end); see units.py.

    This runs in a worker: everything that it needs is in its arguments.
    """
    found = {}
    for number, (split, raw, end) in enumerate(unit):
        try:
            ids = _encode(tokenizer, raw) if isinstance(raw, bytes) else raw
        except UnknownText as error:  # its position is that within this part of the unit
            before = sum(raw_length(raw) for _, raw, _ in unit[:number])
            raise UnknownText(error.message, before + error.position) from None
        found.setdefault(split, []).append(_checked_ids(ids, vocab_size, dtype))
        if end == ENDS_DOCUMENT and eot_token is not None:
            found[split].append(np.array([eot_token], dtype))
    return {split: joined(arrays) for split, arrays in found.items()}


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
    low, high = int(ids.min()) if ids.dtype.kind == "i" else 0, int(ids.max())
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
