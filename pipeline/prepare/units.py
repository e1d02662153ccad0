"""Text -> units of work: which split each part of a text belongs to, and where it may be cut.

    split_text(text, val_text, ...)    the parts of the text in order, each (split, raw, end)
    make_units(parts, border, size)    lists of parts of about `size` bytes: the units

raw is UTF-8 or an array of ids, end is GOES_ON, ENDS_TEXT or ENDS_DOCUMENT. The size of units
changes no id, because text is cut only where the tokenizer's border() allows it. A few units are in
memory at a time. A stretch of text without a border is one unit, however long it is.
"""
import hashlib

import numpy as np

from pipeline.errors import UserError
from pipeline.files import num_characters
from pipeline.prepare.inputs import Ids, TextFile
from pipeline.tokenizers import to_utf8

UNIT = 1 << 19  # bytes of text; larger buffers leave the processor's caches and take longer
GOES_ON, ENDS_TEXT, ENDS_DOCUMENT = range(3)  # only a document is followed by <|endoftext|>


def split_text(text, val_text, percentage_train, seed=0, document_end=""):
    """The parts of the text, (split, raw, end), in order; write_dataset() explains the arguments.

    Empty documents are left out. document_end is added to each document that does not end with it.
    """
    document_end = document_end.encode()
    for split, given in (("train", checked_text(text, val_text)), ("val", val_text)):
        if isinstance(given, (str, TextFile, Ids)):
            is_string, cut = isinstance(given, str), None
            if val_text is None:
                cut = int((len(given) if is_string else given.length()) * percentage_train)
            chunks = [to_utf8(given)] if is_string else given
            if isinstance(given, TextFile):
                chunks = given.utf8()
            yield from _split_one_text(split, chunks, cut)
        elif given is not None:
            for number, document in enumerate(given, 1):
                _check_document(document, number)
                if not document:
                    continue
                raw = to_utf8(document)
                if val_text is None:  # hashed without document_end, which then changes no split
                    split = "train" if _hash_fraction(raw, seed) < percentage_train else "val"
                end = b"" if raw.endswith(document_end) else document_end
                yield split, raw + end, ENDS_DOCUMENT


def train_text(text, val_text, percentage_train, seed=0, document_end=""):
    """The strings that split_text() gives to train. Raises UserError at once for a bad fraction."""
    check_fraction(percentage_train, val_text)
    parts = split_text(text, val_text, percentage_train, seed, document_end)
    return (raw.decode() for split, raw, _ in parts if split == "train")


def checked_text(text, val_text):
    """text; or the string in a list of one, which is one text to cut in two if val_text is None.

    Raises UserError unless both can be a text, as far as this shows without reading them.
    """
    for given in [text] if val_text is None else [text, val_text]:
        if isinstance(given, (bytes, dict, set, frozenset, type)) or not hasattr(given, "__iter__"):
            raise _wrong_type("the text", given, "a string or a list of strings")
        for number, document in enumerate(given if isinstance(given, (list, tuple)) else (), 1):
            _check_document(document, number)
    is_list_of_one = isinstance(text, (list, tuple)) and len(text) == 1
    return text[0] if val_text is None and is_list_of_one else text


def _check_document(document, number):
    if not isinstance(document, str):
        raise _wrong_type(f"document number {number:,}", document, "a string")


def _wrong_type(what, given, wanted):
    return UserError(f"{what} is {given!r:.40}, of the type {type(given).__name__}; it must be "
                     f"{wanted}")


def check_fraction(percentage_train, val_text):
    if not 0 < percentage_train < 1 and val_text is None:
        raise UserError(f"percentage_train (-p) is {percentage_train}; it must be above 0 and "
                        "below 1 (0.9: 90% for train), unless a validation text is given")


def _split_one_text(split, chunks, cut):
    """The parts of one text. After `cut` characters or ids (None: never) it continues in val."""
    raw = b""
    for raw in chunks:
        if cut is not None and split == "train":
            if (size := raw_length(raw)) >= cut:
                end = len(raw.decode()[:cut].encode()) if isinstance(raw, bytes) else cut
                yield "train", raw[:end], ENDS_TEXT
                split, raw = "val", raw[end:]
            cut -= size
        yield split, raw, GOES_ON
    yield split, raw[:0], ENDS_TEXT


def raw_length(raw):
    """The number of characters in UTF-8, or of ids in an array."""
    return num_characters(raw) if isinstance(raw, bytes) else len(raw)


def _hash_fraction(raw, seed):
    """A hash of a document as a number from 0 to 1, so that equal documents are in one split."""
    digest = hashlib.blake2b(raw, digest_size=8, salt=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest()) / 2**64


def make_units(parts, border, size=UNIT):
    """Group parts into units: lists of parts with from half to twice `size` bytes or ids.

    border(text): the last place where a text may be cut in two, 0 where there is none. It is called
    when a text has grown to half of `size`; after a 0, again when the text is twice as long.
    """
    unit, unit_size, half = [], 0, (size + 1) // 2
    held, held_size, wanted = [], 0, half  # of a text that goes on
    for split, raw, end in _at_most(size, parts):
        held.append(raw)
        held_size += len(raw)
        if end == GOES_ON and held_size < wanted:
            continue
        raw = joined(held)
        rest = raw[:0]
        if end == GOES_ON:
            if not (cut := _last_cut(raw, border)):
                held, wanted = [raw], 2 * held_size
                continue
            raw, rest = raw[:cut], raw[cut:]
        unit.append((split, raw, end))
        unit_size += len(raw)
        held, held_size, wanted = [rest] if len(rest) else [], len(rest), half + len(rest)
        if unit_size >= half:
            yield unit
            unit, unit_size = [], 0
    if unit:
        yield unit


def _last_cut(raw, border):
    """The last place where raw may be cut, in bytes or ids; border() counts in characters."""
    if border is len or not isinstance(raw, bytes):  # it may be cut anywhere
        return len(raw)
    text = raw.decode()
    cut = border(text)
    return cut and len(raw) - len(text[cut:].encode())


def _at_most(size, parts):
    """The same parts, with those longer than `size` cut into several between two characters."""
    for split, raw, end in parts:
        start = 0
        while len(raw) - start > size:
            stop = start + size
            while isinstance(raw, bytes) and stop < len(raw) and raw[stop] & 0xC0 == 0x80:
                stop += 1
            yield split, raw[start:stop], GOES_ON
            start = stop
        yield split, raw[start:], end


def joined(raws):
    """Several texts in UTF-8, or arrays of ids, as one."""
    if len(raws) == 1:
        return raws[0]
    return b"".join(raws) if isinstance(raws[0], bytes) else np.concatenate(raws)
