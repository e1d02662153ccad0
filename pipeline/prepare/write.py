"""write_dataset(): a text and a tokenizer -> a dataset folder, which is complete or is refused.

    train.bin, val.bin   flat token ids, little-endian, without a header; uint16 or uint32
    meta.pkl             a pickled dict: vocab_size, stoi, itos, the tokenizer, counts and hashes
    *.mask.bin, *.docs.bin, docs.json   which tokens are learned; where each document is, and where
                         it is from (see docs/format.md)

Each character of the text passes through these steps once:

    split_text()   units.py     the pieces of the text, and the split of each
    make_units()   units.py     the pieces, grouped into units of work
    encode_all()   encode.py    the ids of each unit, and which are learned, on every core
    Journal        journal.py   temporary files, to which is appended; remembered over a kill
    commit()       commit.py    the finished files replace the older ones
"""
import collections
import contextlib
import functools
import hashlib
import os
import pickle
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.chats import layout_named
from pipeline.errors import UserError, printable, resumable
from pipeline.files import lock
from pipeline.prepare import units
from pipeline.prepare.commit import commit
from pipeline.prepare.encode import encode_all
from pipeline.prepare.inputs import Ids, TextFile
from pipeline.prepare.journal import Journal
from pipeline.prepare.separators import END_OF_TEXT
from pipeline.read.folder import SPLITS, token_dtype
from pipeline.read.meta import load_plain
from pipeline.tokenizers import UnknownText, as_bytes, table_hash, tokenizer_meta


@resumable()
def write_dataset(folder, text, tokenizer, *, val_text=None, percentage_train=0.9, source=None,
                  split_seed=0, end_of_text=True, document_end=None, inputs=(), num_workers=None,
                  dask=None, unit_size=units.UNIT, more=None):
    """Write text as ids to folder's train.bin, val.bin and meta.pkl; print the counts; return meta.

    text: a string or TextFile, cut in two after the fraction percentage_train of its characters; or
        an iterable of documents, strings or lists of parts (see parts.py). A hash of split_seed and
        the content sends a document to train or val, so copies stay together and the fraction is
        approximate. The tokenizer's eot_token, if any, follows each document unless end_of_text is
        False. Empty documents are left out; a list of one string is one text. Ids are for texts
        that are encoded already.
    val_text: a validation text of any of these kinds; then all of text is train.
    document_end: text added to documents that do not end with it; default: a newline where no
        eot_token follows documents, else nothing.
    source: what the text is, for meta.pkl; default: the name of `inputs`, the files that text and
        val_text were read from. more: further keys of meta.pkl, a dict of plain values.
    num_workers, dask: see encode_all(). unit_size: bytes of text in a unit; it changes no id.

    A few units are in memory at a time. Whatever stops it, the folder is as before or has no
    meta.pkl, and the same call continues after the last finished unit. Raises UserError.
    """
    folder, start_time, inputs = Path(folder), time.perf_counter(), inputs or [text, val_text]
    source, more = printable(source or _source_of(text, inputs), 10_000), more or {}
    text = units.checked_text(text, val_text)
    units.check_fraction(percentage_train, val_text)
    _refuse_glued(text, inputs)
    meta = _meta_of(tokenizer)
    if document_end is None:
        document_end = "\n" if meta["eot_token"] is None or not end_of_text else ""
    if document_end and any(map(units.is_documents, (text, val_text))):
        _refuse_unknown_end(tokenizer, document_end)
    _refuse_unreadable({**meta, **more})
    dtype, lengths = token_dtype(meta["vocab_size"]), _token_lengths(meta)
    eot_token = meta["eot_token"] if end_of_text else None
    job = tokenizer, meta["vocab_size"], dtype, eot_token, lengths
    encode = functools.partial(encode_all, job=job, num_workers=num_workers, dask=dask)
    identity = _identity(meta, end_of_text)
    with lock(folder, "prepare.py"), Journal(folder, dtype, identity) as journal:
        files, markers = units.new_numbers(), set()
        text, chosen = units.choose_splits(text, val_text, percentage_train, split_seed)
        pieces = units.split_text(
            text, val_text, percentage_train, split_seed, document_end, chosen=chosen,
            source=source, files=files, eot_token=meta["eot_token"])
        with _progress_bar(text, val_text) as show:
            work = _units(pieces, tokenizer, unit_size, markers)
            source_hash = _encode_into(journal, work, encode, meta["eot_token"], lengths, show)
        _refuse_lost_markers(text, more, markers)
        _refuse_empty(journal.counts, folder, text, val_text, percentage_train)
        names = [_name_in(folder, file) for file in files]
        meta |= _facts(journal, names, text, val_text, percentage_train, chosen)
        if "docs" in meta:
            meta["docs"]["ended"] = _are_ended(text, val_text, eot_token, document_end)
        meta |= {"source": source, "source_sha256": source_hash, **_backend_of(tokenizer), **more}
        commit(folder, meta, journal.renames(), journal.stale())
    _print_counts(folder, meta, inputs, time.perf_counter() - start_time)
    _print_learned(folder, meta, sum(counts["spanning"] for counts in journal.counts.values()))
    if end_of_text:
        _note_end_of_text(tokenizer, inputs)
    return meta


# ---- the steps


def _meta_of(tokenizer):
    """What meta.pkl says of the tokenizer."""
    meta = tokenizer_meta(tokenizer)
    dtype, eot_token = token_dtype(meta["vocab_size"]), getattr(tokenizer, "eot_token", None)
    more = dict(dtype=dtype.name, eot_token=eot_token, table_sha256=table_hash(meta["itos"]))
    return {**meta, **more}


def _backend_of(tokenizer):
    return {"backend": tokenizer.backend} if hasattr(tokenizer, "backend") else {}


def _identity(meta, end_of_text):
    """A hash of all that turns text into ids; None for a user's own tokenizer, because its code may
    change while its table stays the same."""
    what = [end_of_text, *sorted((k, v) for k, v in meta.items() if k not in ("stoi", "itos"))]
    is_own = meta["tokenizer"] == "custom"
    return None if is_own else hashlib.sha256(repr(what).encode()).hexdigest()


def _units(pieces, tokenizer, unit_size, markers):
    """The units of a text. A user's own tokenizer is tried on the first one. markers: a set that
    receives the special tokens of the documents."""
    border = getattr(tokenizer, "border", lambda text: 0)  # without border(), text is never cut
    is_own = not hasattr(tokenizer, "to_meta")
    for number, unit in enumerate(units.make_units(pieces, border, unit_size)):
        texts = (piece.raw for piece in unit if not piece.is_marker)
        if is_own and not number and isinstance(raw := next(texts, None), bytes):
            _warn_if_lossy(tokenizer, raw)
        markers.update(piece.raw.decode() for piece in unit if piece.is_marker)
        yield unit


def _encode_into(journal, work, encode, eot_token, lengths, show):
    """Encode the units that the journal does not hold; returns the sha256 of the source."""
    waiting = collections.deque()  # (place, counts) of the units that are being encoded

    def missing_units():
        for unit in work:
            place = journal.place(unit)
            if not journal.holds(place):
                waiting.append((place, _count_text(unit, eot_token, lengths)))
                yield unit

    try:
        for encoded in encode(missing_units()):
            journal.append(*waiting[0], encoded)
            waiting.popleft()
            show()
    except UnknownText as error:  # its position is that within the unit
        _, start = waiting[0][0].result()
        raise UnknownText(error.message, start + error.position) from None
    return journal.finish()


class Counts(NamedTuple):
    """What is known of a unit's text before it is encoded."""
    num_bytes: int
    num_documents: int
    places: np.ndarray  # (documents that begin in it, 2) uint64: the number of the file, the row


def _count_text(unit, eot_token, lengths):
    """{split: Counts} of a unit. lengths: the bytes of each token."""
    counts = {split: [0, 0, []] for split in SPLITS}
    for split, raw, end, _, docs, _ in unit:
        found = counts[split]
        found[2] += docs
        if isinstance(raw, bytes):
            found[0] += len(raw)
            found[1] += end >= units.ENDS_TEXT
        else:  # ids beyond the vocabulary are refused later
            found[0] += int(lengths.take(raw, mode="clip").sum(dtype=np.int64))
            if eot_token is not None:
                num_ends = int((raw == eot_token).sum())
                found[0] -= num_ends * int(lengths[eot_token])
                found[1] += num_ends
    return {split: Counts(num_bytes, num_documents, _places(docs))
            for split, (num_bytes, num_documents, docs) in counts.items()}


def _places(docs):
    return np.array(docs, np.uint64).reshape(-1, 3)[:, 1:]


def _token_lengths(meta):
    """(vocab_size,) uint32: the bytes of UTF-8 that each token stands for."""
    lengths = np.zeros(meta["vocab_size"], dtype=np.uint32)
    for i, token in meta["itos"].items():
        lengths[i] = len(as_bytes(token))
    return lengths


def _name_in(folder, file):
    """A file's name for docs.json: relative to the folder where it lies in it, so that the same
    text gives the same bytes on every machine."""
    try:
        return Path(file).relative_to(folder).as_posix()
    except ValueError:
        return file


def _facts(journal, names, text, val_text, percentage_train, chosen):
    """What meta.pkl says of the bins. names: of the files that documents are from. chosen: see
    units.choose_splits()."""
    (splits, docs), rule = journal.close(names), "ids" if isinstance(text, Ids) else "characters"
    if val_text is not None:
        rule, percentage_train = "given", None
    elif units.is_documents(text):
        rule = "documents by size" if chosen else "documents by hash"
    for split, given in zip(SPLITS, (text, val_text)):
        if getattr(given, "documents", None) is not None:
            splits[split]["documents"] = given.documents
    max_id = max(counts["max_id"] for counts in journal.counts.values())
    return dict(max_id=max_id, splits=splits, split_rule=rule, percentage_train=percentage_train,
                **({"docs": docs} if docs else {}))


def _are_ended(text, val_text, eot_token, document_end):
    """Whether each document ends with tokens of its own."""
    by_itself = eot_token is not None or bool(document_end)
    return all(given.ended if isinstance(given, Ids) else by_itself
               for given in (text, val_text) if units.is_documents(given) or isinstance(given, Ids))


# ---- what is refused


def _refuse_unreadable(meta):
    """Hours of work should not end with a meta.pkl that cannot be read."""
    load_plain(pickle.dumps(meta, protocol=4), "the new meta.pkl")


def _refuse_glued(text, inputs):
    """Refuse a string for which prepare.py joined documents with nothing between them."""
    joints = [joint for given in inputs for joint in getattr(given, "joints", ())]
    for joint in joints if isinstance(text, str) else ():
        if joint in text or joint.lower() in text:
            raise UserError(f"the text joins documents with nothing between them: {joint!r}. Join "
                            'them by "\\n".join(text); or keep them apart: [... for t in text]')


def _refuse_lost_markers(text, more, found):
    """Refuse documents of a chat layout that lack its special tokens, because prepare.py has edited
    their names, too, and a string that is made of a Marker is none."""
    wanted = layout_named(more["chat_layout"]).markers if "chat_layout" in more else []
    if units.is_documents(text) and (lost := {*wanted} - found):
        raise UserError(f"no document has {min(lost)}, which the chat layout {more['chat_layout']} "
                        f"needs. A prepare.py that edits texts must leave each Marker as it is: "
                        f"[(p if isinstance(p, Marker) else p.lower(), learned) for p, learned in "
                        f"t], after: from pipeline.prepare import Marker")


def _refuse_unknown_end(tokenizer, document_end):
    try:
        tokenizer.encode(document_end)
    except Exception as error:  # a user's own tokenizer may raise anything
        raise UserError(f"each document is to end with {document_end!r}, which the tokenizer "
                        f"cannot encode ({type(error).__name__}: {error}). Add it to the tokens, "
                        "or choose another --document_end or document_end=, '' for none") from None


def _refuse_empty(counts, folder, text, val_text, percentage_train):
    empty = [split for split in SPLITS if not counts[split]["tokens"]]
    if len(empty) == 2:
        raise UserError(f"the text for {folder} is empty. Put text in and run prepare.py again")
    if empty and val_text is not None:
        raise UserError(f"{folder}: no text is left for the {empty[0]} split. Give it some text")
    if empty:
        raise UserError(f"{folder}: no text is left for the {empty[0]} split at percentage_train "
                        f"{percentage_train} (equal documents share a split). Give more text, "
                        "another -p or --split_seed, or a validation text: -v FILE")


def _warn_if_lossy(tokenizer, raw):
    """Print a note if a user's own tokenizer changes any of the first 10,000 characters."""
    sample = raw[:40_000].decode(errors="ignore")[:10_000]
    back = tokenizer.decode(tokenizer.encode(sample))
    if back != sample:
        at = len(os.path.commonprefix([sample, back]))
        was, became = sample[at : at + 10], back[at : at + 10]
        print(f"note: decode(encode(text)) turns {was!r} at character {at:,} into {became!r}")


# ---- what is printed


@contextlib.contextmanager
def _progress_bar(*texts):
    """A function that shows on a terminal how much is read: bytes, MB/s, the time left."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm
    inputs = [text for text in texts if hasattr(text, "position")]
    size = sum(text.size for text in inputs) or None
    with tqdm(total=size, unit="B", unit_scale=True, desc="preparing", leave=False) as bar:
        yield lambda: bar.update(sum(text.position for text in inputs) - bar.n)


def _source_of(text, inputs):
    """What a text is, told by the files that it was read from."""
    if name := getattr(inputs[0], "name", None):
        return name if text is inputs[0] else f"{name}, edited by prepare.py"
    return "a text of prepare.py"


def _print_counts(folder, meta, inputs, seconds):
    splits = meta["splits"]
    tokens, num_bytes = (sum(splits[split][key] for split in SPLITS) for key in ("tokens", "bytes"))
    counts = ", ".join(f"{split} {splits[split]['tokens']:,} tokens" for split in SPLITS)
    density = f"{num_bytes / tokens:.2f} bytes per token, " if num_bytes else ""
    print(f"{folder.name}: {counts}, vocab_size {meta['vocab_size']:,} "
          f"({printable(meta['source'], 1000)}{_count_rows(inputs)}); {density}{seconds:.1f} s")
    if meta["split_rule"].startswith("documents"):
        _print_split(meta, splits["val"]["tokens"] / tokens)


def _print_split(meta, val):
    """Say how documents were split, where that needs saying. val: its fraction of the tokens."""
    wanted, by_size = 1 - meta["percentage_train"], meta["split_rule"] == "documents by size"
    in_val, documents = meta["splits"]["val"]["documents"], sum(
        meta["splits"][split]["documents"] for split in SPLITS)
    if by_size:
        print(f"note: {documents:,} documents are too few for a split by their hashes. Val has "
              f"those whose sizes come nearest to the {wanted:.1%} asked for: {in_val:,} of them, "
              f"{val:.1%} of the tokens")
    elif abs(val - wanted) > min(wanted, 1 - wanted) / 2:
        print(f"note: val has {val:.1%} of the tokens, and {wanted:.1%} were asked for. No "
              f"document is cut, and the {documents:,} there are come no closer. Try another "
              "--split_seed, more documents, or a validation text (-v)")


def _print_learned(folder, meta, num_spanning):
    splits = [meta["splits"][split] for split in SPLITS]
    if "mask" in splits[0]:
        learned = sum(split["mask"]["learned"] for split in splits)
        share = learned / sum(split["tokens"] for split in splits)
        spanning = f"; {num_spanning:,} of them stand for unlearned text, too" * bool(num_spanning)
        print(f"{folder.name}: {learned:,} tokens are learned, {share:.1%}{spanning}")


def _note_end_of_text(tokenizer, inputs):
    """Say that a text holds what looks like the end of a document and is ordinary text."""
    if not getattr(tokenizer, "names_are_text", True):  # that of a published model reads it
        return
    for given in inputs:
        is_text = isinstance(given, TextFile) or {*getattr(given, "formats", ())} == {"text"}
        if is_text and given.has_end_of_text and getattr(given, "separator", None) is None:
            print(f"note: {given.name} holds {END_OF_TEXT}, which is ordinary text here and ends "
                  f"no document. If it stands on lines between documents, add "
                  f"--document_separator '{END_OF_TEXT}'")


def _count_rows(inputs):
    """", 5 rows, 1 bad left out", summed over all inputs; "" where the inputs have no rows."""
    def count(what, after=""):
        number = sum(getattr(given, f"num_{what}", 0) for given in inputs)
        return f", {number:,} {what.replace('_', ' ')}{after}" if number else ""

    files = count("bad_files", " left out")
    bad, empty = count("bad", " left out"), count("empty", " left out")
    rows = f"{count('rows') or ', 0 rows'}{bad}{empty}" if count("rows") or bad else ""
    return files + rows
