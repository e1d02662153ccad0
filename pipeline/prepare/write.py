"""The folder format, in both directions: write_dataset() and open_dataset().

    train.bin, val.bin   flat token ids, little-endian, no header; uint16 when vocab_size <= 65,536, else uint32
    meta.pkl             a pickled dict of plain values: vocab_size, stoi, itos, the tokenizer, counts and hashes

A folder is whole or visibly not: meta.pkl goes first and comes back last. README.md beside this file says what each key holds.
"""
import collections
import contextlib
import errno
import functools
import hashlib
import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.errors import UserError, printable, resumable
from pipeline.files import lock, replacing, sync_folder
from pipeline.prepare.encode import (
    GOES_ON,
    UNIT,
    check_share,
    check_text,
    cores,
    encode_all,
    one_text,
    split_pieces,
    units,
    workers_of,
)
from pipeline.prepare.inputs import Ids, TextFile
from pipeline.prepare.journal import Bins
from pipeline.read.folder import SPLITS, token_dtype
from pipeline.read.meta import load_plain
from pipeline.tokenizers import (
    TableTokenizer,
    UnknownText,
    as_bytes,
    table_hash,
    tokenizer_meta,
)

# ---- writing


@resumable()
def write_dataset(folder, text, tokenizer, *, val_text=None, percentage_train=0.9, source=None, split_seed=0,
                  end_of_text=True, document_end=None, inputs=(), num_workers=None, dask=None, unit_size=UNIT,
                  more=None):
    """Tokenize text into folder's train.bin, val.bin and meta.pkl, print one line of counts, return the meta dict.

    text: a string or a TextFile (inputs.py), cut into train and val after int(length * percentage_train) characters; or
        an iterable of strings, the documents, each sent to train or val by a hash of split_seed and its content (copies
        stay together, shares are approximate) and followed by the tokenizer's eot_token where it has one, unless
        end_of_text is False; or Ids. Empty documents are left out; a list of one string is one text.
    val_text: the validation text, of any kind, where it is given; then all of text is train.
    document_end: text that is put behind each document which does not end with it; default: a newline where no
        eot_token ends documents, else nothing.
    source: what the text is, kept in meta.pkl; default: the name of `inputs`, which are the files that text and
        val_text were read from, edited or not. more: further keys of meta.pkl, a dict of plain values.
    num_workers, dask: who encodes, see encode_all(). unit_size: bytes of text a unit of work.

    Holds a few units in memory, whatever the size of the text; what units hold changes no byte of the bins. All or
    nothing: whatever stops it, the folder holds what it held before, or no meta.pkl; and the same command again goes on
    after the last finished unit. Raises UserError.
    """
    folder, t0 = Path(folder), time.perf_counter()
    check_text(text, val_text)
    check_share(percentage_train, val_text)
    text, given, inputs = one_text(text, val_text), text, inputs or [text, val_text]
    _refuse_glued(text, inputs)
    source = printable(source or _source(given, inputs), 10_000)
    meta = tokenizer_meta(tokenizer)
    meta["dtype"] = token_dtype(meta["vocab_size"]).name
    meta["eot_token"] = getattr(tokenizer, "eot_token", None)
    meta["table_sha256"] = table_hash(meta["itos"])
    if document_end is None:
        document_end = "\n" if meta["eot_token"] is None or not end_of_text else ""
    if document_end and any(map(_is_documents, (text, val_text))):
        _refuse_unknown_end(tokenizer, document_end)
    # whether it can be read again is asked before hours of work, too
    load_plain(pickle.dumps({**meta, **(more or {})}, protocol=4), "the new meta.pkl")
    with lock(folder, "prepare.py"):
        bins = Bins(folder, token_dtype(meta["vocab_size"]), _identity(meta, end_of_text))
        try:
            pieces = split_pieces(text, val_text, percentage_train, split_seed, document_end)
            workers = (num_workers or cores()) if workers_of(tokenizer) else 1
            progress = _progress(text, val_text, workers=dask or f"{workers} worker{'s' * (workers > 1)}")
            source_hash = _encode(bins, pieces, tokenizer, meta, progress, end_of_text, num_workers, dask, unit_size)
            bins.complete = True
            _refuse_empty(bins, folder, text, val_text, percentage_train)
            meta |= {
                "max_id": max(counts["max_id"] for counts in bins.counts.values()),
                "splits": bins.close(),
                "split_rule": "given" if val_text is not None else
                              "characters" if isinstance(text, (str, TextFile)) else
                              "ids" if isinstance(text, Ids) else "documents by hash",
                "percentage_train": None if val_text is not None else percentage_train,
                "source": source,
                "source_sha256": source_hash,
                **(more or {}),
            }
            for split, part in zip(SPLITS, (text, val_text)):
                if getattr(part, "documents", None) is not None:
                    meta["splits"][split]["documents"] = part.documents
            if hasattr(tokenizer, "backend"):
                meta["backend"] = tokenizer.backend
            _commit(folder, meta, bins.finished())
            bins.over = True
        except UserError:  # after the last unit, it refuses the text as a whole
            bins.over = bins.complete
            raise
        finally:
            bins.discard()
    _print_counts(folder, meta, inputs, time.perf_counter() - t0)
    return meta


def _is_documents(text):
    return text is not None and not isinstance(text, (str, TextFile, Ids))


def _source(text, inputs):
    """What a text is, by the files that it was read from."""
    name = getattr(inputs[0], "name", None)
    return name and (name if text is inputs[0] else f"{name}, edited by prepare.py") or "a text of prepare.py"


def _refuse_glued(text, inputs):
    """UserError for documents that prepare.py has joined with nothing between one's last word and the next one's first."""
    for joint in [j for part in inputs for j in getattr(part, "joints", ())] if isinstance(text, str) else ():
        if joint in text or joint.lower() in text:
            raise UserError(f"the text joins documents with nothing between them: {joint!r}. Put a line end there, "
                            f'"\\n".join(text); or keep them apart: text = [... for t in text]')


def _refuse_unknown_end(tokenizer, document_end):
    try:
        tokenizer.encode(document_end)
    except Exception as error:  # a tokenizer of one's own may raise anything
        raise UserError(f"each document is to end with {document_end!r}, and the tokenizer cannot encode that "
                        f"({type(error).__name__}: {error}). Add it to the tokens, or choose another end: --document_end, "
                        f"document_end= of write_dataset(); '' for none") from None


def _identity(meta, end_of_text):
    """A hash of all that turns text into ids. None for a tokenizer of one's own, which may have changed in ways that its
    table doesn't show.
    """
    what = [end_of_text, *sorted((k, v) for k, v in meta.items() if k not in ("stoi", "itos"))]
    return None if meta["tokenizer"] == "custom" else hashlib.sha256(repr(what).encode()).hexdigest()


def _print_counts(folder, meta, inputs, seconds):
    splits = meta["splits"]
    tokens, num_bytes = (sum(splits[split][what] for split in SPLITS) for what in ("tokens", "bytes"))
    counts = ", ".join(f"{split} {splits[split]['tokens']:,} tokens" for split in SPLITS)
    density = f"{num_bytes / tokens:.2f} bytes a token, " if num_bytes else ""
    print(f"{folder.name}: {counts}, vocab_size {meta['vocab_size']:,} "
          f"({printable(meta['source'], 1000)}{_rows(inputs)}); {density}{seconds:.1f} s")
    wanted, val = 1 - (meta["percentage_train"] or 1), splits["val"]["tokens"] / tokens
    if meta["split_rule"] == "documents by hash" and abs(val - wanted) > min(wanted, 1 - wanted) / 2:
        print(f"note: val has {val:.1%} of the tokens, where {wanted:.1%} was asked for: documents are shared out whole, "
              f"and {splits['train']['documents'] + splits['val']['documents']:,} of unequal length cannot come closer. "
              f"Another --split_seed, more documents or a validation text (-v) would")


def _rows(inputs):
    """", 5 rows, 1 bad one left out", of all inputs together; "" where there are no rows."""
    rows, bad, empty = (sum(getattr(part, f"num_{what}", 0) for part in inputs) for what in ("rows", "bad", "empty"))
    left_out = "".join(f", {count:,} {what} left out" for count, what in ((bad, "bad"), (empty, "empty")) if count)
    return f", {rows:,} rows{left_out}" if rows or bad else ""


def _encode(bins, pieces, tokenizer, meta, progress, end_of_text, num_workers, dask, unit_size):
    """Encode what bins does not hold yet, unit by unit; returns the sha256 of the source."""
    waiting = collections.deque()  # (place, counts) of the units that are being encoded
    lengths = functools.cache(lambda: _token_lengths(meta))  # made where there are ids to count the bytes of
    border = getattr(tokenizer, "border", lambda text: 0)  # one's own: text is never cut
    own = meta["tokenizer"] == "custom" and not isinstance(tokenizer, TableTokenizer)

    def to_do():
        for number, unit in enumerate(units(pieces, border, unit_size)):
            if own and not number:
                _warn_if_lossy(tokenizer, unit[0][1])
            counts = {split: [0, 0] for split in SPLITS}  # bytes of text, documents
            for split, raw, end in unit:
                if isinstance(raw, bytes):
                    counts[split][0] += len(raw)
                    counts[split][1] += end != GOES_ON
                else:
                    counts[split][0] += int(lengths().take(raw, mode="clip").sum())  # those beyond are refused later
                    if meta["eot_token"] is not None:
                        counts[split][1] += int((raw == meta["eot_token"]).sum())
            place = bins.place(unit)
            if not bins.holds(place):
                waiting.append((place, counts))
                yield unit

    job = (tokenizer, meta["vocab_size"], token_dtype(meta["vocab_size"]), meta["eot_token"] if end_of_text else None)
    with progress as show:
        try:
            for encoded in encode_all(to_do(), job, num_workers, dask):
                bins.append(*waiting[0], encoded)
                waiting.popleft()
                show()
        except UnknownText as error:
            _, start = waiting[0][0].result()
            raise UnknownText(error.message, start + error.position) from None
    return bins.finish()


def _token_lengths(meta):
    """(vocab_size,) uint32: the bytes of UTF-8 that each token stands for, none for the one that ends documents."""
    lengths = np.zeros(meta["vocab_size"], dtype=np.uint32)
    for i, token in meta["itos"].items():
        lengths[i] = len(as_bytes(token)) if i != meta["eot_token"] else 0
    return lengths


@contextlib.contextmanager
def _progress(*texts, workers):
    """A function that shows how far the texts are read: bytes, MB/s, and the time left where that is known."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm
    inputs = [text for text in texts if hasattr(text, "position")]
    with tqdm(total=sum(text.size for text in inputs) or None, unit="B", unit_scale=True, desc=f"preparing, {workers}",
              leave=False) as bar:
        yield lambda: bar.update(sum(text.position for text in inputs) - bar.n)


def _refuse_empty(bins, folder, text, val_text, percentage_train):
    empty = [split for split in SPLITS if not bins.counts[split]["tokens"]]
    if len(empty) == 2:
        raise UserError(f"the text for {folder} is empty. Put some text in, then run prepare.py again")
    if empty:
        raise UserError(f"{folder}: no text is left for the {empty[0]} split" + (
            ". Give it some text" if val_text is not None else
            ": the documents are too few to be shared out by a hash. Give more of them, another --split_seed, or a "
            "validation text: -v FILE"
            if _is_documents(text) else
            f" at percentage_train {percentage_train}. Give more text, another share, or a validation text of its own"))


def _commit(folder, meta, finished):
    """Swap the finished files in. meta.pkl.new, there all the while, says why meta.pkl is not.

    finished: (temporary file, bin) pairs. An OSError of the swap says how the folder is left.
    """
    raw = pickle.dumps(meta, protocol=4)
    load_plain(raw, "the new meta.pkl")  # whatever a tokenizer put in, it must be readable again
    meta_path, new_meta = folder / "meta.pkl", folder / "meta.pkl.new"
    with replacing(new_meta) as file:  # an interrupted swap's stays until this one is whole
        file.write(raw)
    try:
        meta_path.unlink(missing_ok=True)
        sync_folder(folder)
        for temporary, path in finished:
            os.replace(temporary, path)
        sync_folder(folder)
        os.replace(new_meta, meta_path)
        sync_folder(folder)
    except OSError as error:
        whole = meta_path.exists()
        state = "is whole and can be read" if whole else "is half-written and cannot be read"
        cure = "Free some space, then run" if error.errno == errno.ENOSPC else "Run"
        raise OSError(f"{error.filename or folder}: {error.strerror}, while the finished files "
                      f"took the place of the older ones. {folder} {state}. {cure} the same "
                      f"command again: it goes on where this one stopped") from None


def _warn_if_lossy(tokenizer, raw):
    """A tokenizer of one's own may lose characters without a word; say so, by the first 10,000 of the text."""
    sample = raw[:40_000].decode(errors="ignore")[:10_000]
    back = tokenizer.decode(tokenizer.encode(sample))
    if back != sample:
        at = len(os.path.commonprefix([sample, back]))
        print(f"note: decode(encode(text)) differs from the text at character {at:,}: {sample[at : at + 10]!r} became "
              f"{back[at : at + 10]!r}")


# ---- reading
























