"""Text -> ids, in bounded memory and on every core: splits, units of work, the workers that encode them.

    split_pieces(text, val_text, ...)       (split, piece of text, how it ends), in order
    units(pieces, border, size)             lists of them of about `size` bytes: the units of work
    encode_all(units, job, ...)             the ids of each unit, in order, whoever encoded it

A unit's ids do not depend on where units begin and end: text is cut only where the tokenizer's border() says so. What
is held in memory is a few units; a stretch of text without a border is never cut, however long it is.
"""
import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading

import numpy as np

from pipeline.errors import UserError, optional
from pipeline.files import num_characters
from pipeline.prepare.inputs import Ids, TextFile
from pipeline.threads import cores
from pipeline.tokenizers import UnknownText, to_utf8

UNIT = 1 << 19  # bytes; with more, buffers leave the caches and are memory fresh from the system
GOES_ON, ENDS_TEXT, ENDS_DOCUMENT = range(3)  # how a piece ends; only a document is followed by <|endoftext|>


def split_pieces(text, val_text, percentage_train, seed=0, document_end=""):
    """(split, piece, how it ends) for each piece of the input, in order: UTF-8 of a text, or ids.

    See write_dataset() for the arguments. Empty documents are left out; the others end with document_end.
    """
    end = document_end.encode()
    for split, part in (("train", one_text(text, val_text)), ("val", val_text)):
        if part is None:
            continue
        if isinstance(part, (str, TextFile, Ids)):
            cut = None
            if val_text is None:
                cut = int((len(part) if isinstance(part, str) else part.length()) * percentage_train)
            pieces = [to_utf8(part)] if isinstance(part, str) else part.utf8() if isinstance(part, TextFile) else part
            yield from _one_text(split, pieces, cut)
            continue
        for number, document in enumerate(part, 1):
            if not isinstance(document, str):
                raise UserError(f"document number {number:,} is {document!r:.40}; each must be a string")
            if not document:
                continue
            raw = to_utf8(document)
            if val_text is None:  # by the document alone: how it ends changes no split
                split = "train" if _share(raw, seed) < percentage_train else "val"
            if not raw.endswith(end):
                raw += end
            yield split, raw, ENDS_DOCUMENT


def one_text(text, val_text):
    """text, or the string in a list of one: with nothing else for val, it is a text to be cut in two."""
    is_list_of_one = val_text is None and isinstance(text, (list, tuple)) and len(text) == 1
    return text[0] if is_list_of_one and isinstance(text[0], str) else text


def check_text(text, val_text):
    """Raises UserError for what is no text, as far as it can be seen without reading it; val_text may be None."""
    for name, part in (("text", text), ("val_text", val_text)):
        if isinstance(part, (str, TextFile, Ids)) or part is None and name == "val_text":
            continue
        if isinstance(part, (bytes, dict, set, frozenset)) or not hasattr(part, "__iter__") or isinstance(part, type):
            raise UserError(f"{name} is {part!r:.40}, of the type {type(part).__name__}; it must be a string or a list of "
                            f"strings")
        if isinstance(part, (list, tuple)):
            for number, document in enumerate(part, 1):
                if not isinstance(document, str):
                    raise UserError(f"{name} has {document!r:.40} as its document number {number:,}, of the type "
                                    f"{type(document).__name__}; each must be a string")


def check_share(percentage_train, val_text):
    if not 0 < percentage_train < 1 and val_text is None:
        raise UserError(f"percentage_train is {percentage_train}; it must lie between 0 and 1, both excluded, unless "
                        f"a validation text is given")


def train_pieces(text, val_text, percentage_train, seed=0, document_end=""):
    """The pieces of text that split_pieces() gives to train. Raises UserError at once for a share that is none."""
    check_share(percentage_train, val_text)
    return (raw.decode() for split, raw, _ in
            split_pieces(text, val_text, percentage_train, seed, document_end) if split == "train")


def _share(raw, seed):
    """64 bits of a hash of the content, as a number from 0 to 1: copies of a document are on one side."""
    digest = hashlib.blake2b(raw, digest_size=8, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest()) / 2**64


def _one_text(split, pieces, cut):
    """One continuous text; after `cut` characters (None: never) it goes on in val."""
    piece = b""
    for piece in pieces:
        if cut is not None and split == "train":
            if (size := piece_length(piece)) >= cut:
                end = len(piece.decode()[:cut].encode()) if isinstance(piece, bytes) else cut
                yield "train", piece[:end], ENDS_TEXT
                split, piece = "val", piece[end:]
            cut -= size
        yield split, piece, GOES_ON
    yield split, piece[:0], ENDS_TEXT


def piece_length(piece):
    """Characters of a piece of text, ids of one of ids."""
    return num_characters(piece) if isinstance(piece, bytes) else len(piece)


def units(pieces, border, size=UNIT):
    """Group pieces into lists of (split, piece, how it ends), each from half of `size` to twice `size` bytes (or ids).

    border(text): the last place where a text may be cut in two, as a tokenizer's; it is asked when a text has grown to
    half of `size`, and where it knows none (0) again when that has doubled.
    """
    unit, unit_size, half = [], 0, (size + 1) // 2
    held, held_size, wanted = [], 0, half  # pieces of a text that goes on
    for split, piece, end in _at_most(size, pieces):
        held.append(piece)
        held_size += len(piece)
        if end == GOES_ON and held_size < wanted:
            continue
        joined = _joined(held)
        rest = joined[:0]
        if end == GOES_ON:
            if not (cut := _last_cut(joined, border)):
                held, wanted = [joined], 2 * held_size
                continue
            joined, rest = joined[:cut], joined[cut:]
        unit.append((split, joined, end))
        unit_size += len(joined)
        held, held_size, wanted = [rest] if len(rest) else [], len(rest), half + len(rest)
        if unit_size >= half:
            yield unit
            unit, unit_size = [], 0
    if unit:
        yield unit


def _last_cut(piece, border):
    """The last place where a piece may be cut; border() counts in characters, this in bytes."""
    if border is len or not isinstance(piece, bytes):  # anywhere
        return len(piece)
    text = piece.decode()
    cut = border(text)
    return cut and len(piece) - len(text[cut:].encode())


def _at_most(size, pieces):
    """The same pieces, those longer than `size` in several, cut between characters."""
    for split, piece, end in pieces:
        start = 0
        while len(piece) - start > size:
            stop = start + size
            while isinstance(piece, bytes) and stop < len(piece) and piece[stop] & 0xC0 == 0x80:
                stop += 1
            yield split, piece[start:stop], GOES_ON
            start = stop
        yield split, piece[start:], end


def _joined(pieces):
    return pieces[0] if len(pieces) == 1 else b"".join(pieces) if isinstance(pieces[0], bytes) else np.concatenate(pieces)


def encode_unit(tokenizer, vocab_size, dtype, eot_token, unit):
    """{split: ids} of a unit: a list of (split, UTF-8 of a text or ids, how it ends).

    Runs in a worker; everything it needs is in its arguments.
    """
    ids = {}
    for number, (split, raw, end) in enumerate(unit):
        found = ids.setdefault(split, [])
        try:
            found.append(checked(_encoded(tokenizer, raw) if isinstance(raw, bytes) else raw, vocab_size, dtype))
        except UnknownText as error:
            at = sum(piece_length(raw) for _, raw, _ in unit[:number])
            raise UnknownText(error.message, at + error.position) from None
        if end == ENDS_DOCUMENT and eot_token is not None:
            found.append(np.array([eot_token], dtype))
    return {split: found[0] if len(found) == 1 else np.concatenate(found) for split, found in ids.items()}


def _encoded(tokenizer, raw):
    if "encode_utf8" in vars(type(tokenizer)):  # of its own: a subclass may have another encode()
        return tokenizer.encode_utf8(raw)
    return tokenizer.encode(raw.decode("utf-8"))


def checked(ids, vocab_size, dtype):
    """ids as an array of dtype. Raises UserError for what is no flat list of integers below vocab_size."""
    try:
        ids = np.asarray(ids)
    except ValueError:
        raise UserError("encode() gave lists of unequal length; it must give a flat list of integers") from None
    if not ids.size:
        return np.zeros(0, dtype)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise UserError(f"encode() gave an array of shape {ids.shape} and type {ids.dtype}; it must give a flat list of "
                        f"integers")
    low, high = int(ids.min()) if ids.dtype.kind == "i" else 0, int(ids.max())
    if low < 0 or high >= vocab_size:
        raise UserError(f"encode() gave id {low if low < 0 else high}, outside the vocabulary of {vocab_size:,} ids "
                        f"(vocab_size is the largest id in itos + 1)")
    return np.ascontiguousarray(ids, dtype=dtype)


# ---- workers


def encode_all(units, job, num_workers=None, dask=None):
    """What encode_unit() gives for each unit, in order; up to two units a worker are under way at a time.

    job: (tokenizer, vocab_size, dtype, eot_token), as encode_unit() takes them. num_workers: how many of this machine;
        default, one a core: threads or processes, as the tokenizer has it. dask: the address of a dask scheduler,
        tcp://host:port, whose workers do it instead. A text of one unit is encoded without any of them, and so is any
        by a tokenizer that needs none.
    """
    units = iter(units)
    first = list(itertools.islice(units, 2))
    units = itertools.chain(first, units)
    num_workers = num_workers or cores()
    kind = workers_of(job[0])
    work, packed = functools.partial(encode_unit, *job), None
    if dask or kind == "processes":
        with contextlib.suppress(AttributeError, TypeError, pickle.PicklingError):  # a class of main()'s own, say
            packed = pickle.dumps(job)
        work = functools.partial(_in_process, packed) if packed else work
    if not dask and (len(first) < 2 or num_workers == 1 or not kind or kind == "processes" and not packed):
        yield from map(functools.partial(encode_unit, *job), units)
        return
    if dask and not packed:
        raise UserError("--dask: the tokenizer cannot be sent to other processes. Define its class outside of functions")
    try:
        with _executor(num_workers, kind, dask) as (executor, num_workers):
            waiting = collections.deque()
            for unit in units:
                with _no_signals_of_the_terminal():  # it may start a worker
                    waiting.append(executor.submit(work, unit))
                if len(waiting) >= 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except concurrent.futures.BrokenExecutor:
        raise UserError("a worker was killed, perhaps for lack of memory (fewer --num_workers take less). Run the same "
                        "command again: what is done is kept") from None


def workers_of(tokenizer):
    """"threads", "processes", or None, for a tokenizer that is as fast as the reading and writing around it."""
    return getattr(tokenizer, "workers", "processes")


@contextlib.contextmanager
def _executor(num_workers, kind, dask):
    """(a concurrent.futures.Executor, its number of workers); what waits in it is dropped where the block fails."""
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
        spawn = multiprocessing.get_context("spawn")  # the same on every system, and safe beside threads
        with _no_signals_of_the_terminal():
            executor = concurrent.futures.ProcessPoolExecutor(num_workers, spawn,
                                                              initializer=_end_with_parent)
    try:
        yield executor, num_workers
    except BaseException:
        for worker in {*multiprocessing.active_children()} - others:
            worker.terminate()  # a unit without borders would take minutes
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # no room for its thread: that error is on its way
            executor.shutdown(cancel_futures=True) if not client else client.close()


@contextlib.contextmanager
def _no_signals_of_the_terminal():
    """A process begun in the block gets none. Ctrl-C and SIGHUP go to all processes of a terminal;
    ours alone is to answer."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent():
    """The first act of a worker: one that waits for work would outlive a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows knows no masks

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


@functools.lru_cache(maxsize=1)
def _unpacked(packed):
    return pickle.loads(packed)


def _in_process(packed, unit):
    """encode_unit() in another process, which builds the tokenizer once."""
    return encode_unit(*_unpacked(packed), unit)
