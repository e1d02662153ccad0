"""Text -> units of work: which split each piece of a text belongs to, and where it may be cut.

    split_text(text, val_text, ...)     the pieces of the text in order
    make_units(pieces, border, size)    lists of pieces of about `size` bytes: the units

The size of units changes no id, because text is cut only where the tokenizer's border() allows it.
A few units are in memory at a time. A stretch of text without a border is one unit, however long it
is.
"""
import collections
import hashlib
import itertools
from typing import NamedTuple

import numpy as np

from pipeline.errors import UserError
from pipeline.files import num_characters
from pipeline.prepare.inputs import Ids, TextFile
from pipeline.prepare.parts import Marker
from pipeline.tokenizers import to_utf8

UNIT = 1 << 19  # bytes of text; larger buffers leave the processor's caches and take longer
FEW = 20  # documents; fewer are split by their sizes, of which all choices are tried
# how a piece ends: its text goes on; what follows is encoded apart from it, in the same document;
# its text ends; its document ends, and only a document is followed by <|endoftext|>
GOES_ON, ENDS_PART, ENDS_TEXT, ENDS_DOCUMENT = range(4)
UNLEARNED, LEARNED = b"\0", b"\1"


class Piece(NamedTuple):
    """A piece of a text. Most are whole documents, so little work is done for each."""
    split: str
    raw: bytes | np.ndarray  # UTF-8, or ids
    end: int
    learned: bytes | None = None  # LEARNED or UNLEARNED for each byte or id; None: all are learned
    docs: tuple = ()  # (at, number of the file, row) of each document that begins at raw[at]
    is_marker: bool = False  # raw is the name of a special token, and stands for it


def split_text(text, val_text, percentage_train, seed=0, document_end="", *, chosen=(), source="",
               files=None, eot_token=None):
    """The pieces of the text, in order; write_dataset() explains the arguments.

    chosen: what choose_splits() gives, by which some documents have their split.

    Empty documents are left out. document_end is added to each document that does not end with it.
    source: the file of a document that knows of none. files: receives the number of each file.
    eot_token: ends documents among ids. If one of the texts is documents, both have docs.
    """
    files, document_end = new_numbers() if files is None else files, document_end.encode()
    texts, fraction_of = (checked_text(text, val_text), val_text), hash_fraction(seed)

    def has_own_docs(given):
        return isinstance(given, Ids) and given.has_docs(eot_token)

    has_docs = any(is_documents(given) or has_own_docs(given) for given in texts)
    for split, given in zip(("train", "val"), texts):
        if isinstance(given, (str, TextFile, Ids)):
            is_string, cut = isinstance(given, str), None
            if val_text is None:
                cut = int((len(given) if is_string else given.length()) * percentage_train)
            pieces = _pieces_of(given, split, files, eot_token)
            doc = (0, files[source], 1) if has_docs and not has_own_docs(given) else None
            yield from _split_one_text(split, pieces, cut, doc)
        elif given is not None:
            for number, document in enumerate(given, 1):
                whole, texts = _whole_and_texts(document, number)
                if not whole:
                    continue
                if val_text is None:  # hashed without document_end, which then changes no split
                    fraction = fraction_of(whole)
                    split = "train" if fraction < percentage_train else "val"
                    split = chosen[fraction] if chosen and fraction in chosen else split
                file, row = getattr(document, "file", source), getattr(document, "row", number)
                end = b"" if whole.endswith(document_end) else document_end
                docs = ((0, files[file], row),)
                if texts is None:
                    yield Piece(split, whole + end, ENDS_DOCUMENT, None, docs)
                else:
                    yield from _pieces_of_parts(split, texts, end, docs)


def choose_splits(text, val_text, percentage_train, seed=0):
    """(text, {hash_fraction() of a document: its split}) for those that the hash does not split.

    Fewer than FEW documents are split so that the bytes of train come nearest to their share. Of
    more, the one with the nearest hash is moved where a split would be empty. The text comes back
    because a generator of documents is read, and kept, up to the place where that is known.
    """
    if val_text is not None or not is_documents(text):
        return text, {}
    fraction_of, sizes, lowest, highest, read = hash_fraction(seed), {}, 1, 0, []
    comes_once = iter(text) is text
    for number, document in enumerate(text, 1):
        if comes_once:
            read.append(document)
        whole, _ = _whole_and_texts(document, number)
        if not whole:
            continue
        fraction = fraction_of(whole)
        lowest, highest = min(lowest, fraction), max(highest, fraction)
        if fraction in sizes or len(sizes) < FEW:
            sizes[fraction] = sizes.get(fraction, 0) + len(whole)
        if len(sizes) == FEW and lowest < percentage_train <= highest:
            return itertools.chain(read, text) if comes_once else text, {}
    if len(sizes) < FEW:
        chosen = _nearest_splits(sizes, percentage_train)
    else:
        chosen = {highest: "val"} if highest < percentage_train else {lowest: "train"}
    return read if comes_once else text, chosen


def _nearest_splits(sizes, percentage_train):
    """{key: split} by {key: bytes}, where train comes nearest to its share, and none is empty."""
    if len(sizes) < 2:
        return {}
    keys, sums = sorted(sizes), np.zeros(1, np.int64)  # bit k of a place in sums: key k is in train
    for key in keys:
        sums = np.concatenate([sums, sums + sizes[key]])
    best = 1 + int(np.abs(sums[1:-1] - percentage_train * sums[-1]).argmin())
    return {key: "train" if best >> k & 1 else "val" for k, key in enumerate(keys)}


def new_numbers():
    """A dict that numbers its keys 0, 1, ... as they are asked for."""
    numbers = collections.defaultdict(lambda: len(numbers))
    return numbers


def is_documents(text):
    return text is not None and not isinstance(text, (str, TextFile, Ids))


def train_text(text, val_text, percentage_train, seed=0, document_end=""):
    """The strings that split_text() gives to train, without markers. Raises UserError at once for a
    bad fraction."""
    check_fraction(percentage_train, val_text)
    text, chosen = choose_splits(checked_text(text, val_text), val_text, percentage_train, seed)
    pieces = split_text(text, val_text, percentage_train, seed, document_end, chosen=chosen)
    return (piece.raw.decode() for piece in pieces
            if piece.split == "train" and not piece.is_marker)


def checked_text(text, val_text):
    """text; or the string in a list of one, which is one text to cut in two if val_text is None.

    Raises UserError unless both can be a text, as far as this shows without reading them.
    """
    for given in [text] if val_text is None else [text, val_text]:
        if isinstance(given, (bytes, dict, set, frozenset, type)) or not hasattr(given, "__iter__"):
            raise _wrong_type("the text", given, "a string or a list of strings")
        for number, document in enumerate(given if isinstance(given, (list, tuple)) else (), 1):
            if not isinstance(document, str):
                _check_parts(document, number)
    is_list_of_one = isinstance(text, (list, tuple)) and [*map(type, text)] == [str]
    return text[0] if val_text is None and is_list_of_one else text


def _check_parts(document, number):
    """Raise UserError unless a document that is no string is a list of parts."""
    def is_part(part):
        return (isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[0], str)
                and isinstance(part[1], (int, np.bool_)) and part[1] in (0, 1))

    wrong = [part for part in document if not is_part(part)] if isinstance(document, list) else []
    if not isinstance(document, list) or wrong and isinstance(document[0], str):
        raise _wrong_type(f"document number {number:,}", document,
                          "a string or a list of parts (text, learned)")
    if wrong:
        raise _wrong_type(f"a part of document number {number:,}", wrong[0],
                          'a pair of a string and True or False: ("4", True)')


def _wrong_type(what, given, wanted):
    return UserError(f"{what} is {given!r:.40}, of the type {type(given).__name__}; it must be "
                     f"{wanted}")


def check_fraction(percentage_train, val_text):
    if not 0 < percentage_train < 1 and val_text is None:
        raise UserError(f"percentage_train (-p) is {percentage_train}; it must be above 0 and "
                        "below 1 (0.9: 90% for train), unless a validation text is given")


def _pieces_of(given, split, files, eot_token):
    """The pieces of one text, all of which GOES_ON."""
    if isinstance(given, Ids):
        for ids, learned, docs in given.pieces(eot_token):
            docs = tuple((at, files[file], row) for at, file, row in docs)
            yield Piece(split, ids, GOES_ON, learned, docs)
    else:
        for raw in [to_utf8(given)] if isinstance(given, str) else given.utf8():
            yield Piece(split, raw, GOES_ON)


def _split_one_text(split, pieces, cut, doc):
    """The pieces of one text. After `cut` characters or ids (None: never) it continues in val.
    doc: (0, file, row) of the document that it is, where it must be one; or None."""
    raw, begins = b"", doc  # begins: the document of the next piece, if this itself has none
    for piece in pieces:
        raw, parts = piece.raw, [piece]
        if cut is not None and split == "train":
            if (size := raw_length(raw)) >= cut:
                at = len(raw.decode()[:cut].encode()) if isinstance(raw, bytes) else cut
                parts = [_slice(piece, 0, at, ENDS_TEXT), _slice(piece, at, len(raw), GOES_ON)]
            cut -= size
        for part in parts:
            if begins and len(part.raw):
                is_known = part.docs and not part.docs[0][0]
                part = part if is_known else part._replace(docs=(begins, *part.docs))
                begins = None
            yield part._replace(split=split)
            doc = (0, *part.docs[-1][1:]) if part.docs else doc
            if part.end == ENDS_TEXT:  # val begins in the middle of a document
                split, begins = "val", doc
    yield Piece(split, raw[:0], ENDS_TEXT)


def _whole_and_texts(document, number):
    """(the document in UTF-8; of one of parts its texts, [raw, learned, is_marker] each, where
    those between markers are one). number: the document's, for messages."""
    if isinstance(document, str):
        return to_utf8(document), None
    _check_parts(document, number)
    texts, parts = [], [(text, learned) for text, learned in document if text]
    for is_marker, some in itertools.groupby(parts, lambda part: isinstance(part[0], Marker)):
        some = [(to_utf8(text), learned) for text, learned in some]
        found = [(raw, (LEARNED if learned else UNLEARNED) * len(raw)) for raw, learned in some]
        texts += [[*part, is_marker] for part in
                  (found if is_marker else [map(b"".join, zip(*found))])]
    return b"".join([raw for raw, _, _ in texts]), texts


def _pieces_of_parts(split, texts, end, docs):
    """The pieces of a document with these texts. end: text to add, which is learned as what is
    before it."""
    raw, learned, is_marker = texts[-1]
    if end and is_marker:
        texts.append([end, learned[-1:] * len(end), False])
    elif end:
        texts[-1] = [raw + end, learned + learned[-1:] * len(end), False]
    for number, (raw, learned, is_marker) in enumerate(texts, 1):
        ends = ENDS_DOCUMENT if number == len(texts) else ENDS_PART
        learned = learned if UNLEARNED in learned else None
        yield Piece(split, raw, ends, learned, docs, is_marker)
        docs = ()


def raw_length(raw):
    """The number of characters in UTF-8, or of ids in an array."""
    return num_characters(raw) if isinstance(raw, bytes) else len(raw)


def hash_fraction(seed):
    """A function: the UTF-8 of a document -> a hash of it as a number from 0 to 1, so that equal
    documents are in one split."""
    empty = hashlib.blake2b(digest_size=8, salt=seed.to_bytes(8, "little"))

    def fraction_of(raw):
        digest = empty.copy()  # which is faster than to make one
        digest.update(raw)
        return int.from_bytes(digest.digest()) / 2**64
    return fraction_of


def make_units(pieces, border, size=UNIT):
    """Group pieces into units: lists of pieces with from half to twice `size` bytes or ids.

    border(text): the last place where a text may be cut in two, 0 where there is none. It is called
    when a text has grown to half of `size`; after a 0, again when the text is twice as long.
    """
    unit, unit_size, half = [], 0, (size + 1) // 2
    held, held_size, wanted = [], 0, half  # of a text that goes on
    for piece in _at_most(size, pieces):
        held.append(piece)
        held_size += len(piece.raw)
        if piece.end == GOES_ON and held_size < wanted:
            continue
        piece, rest = _joined_pieces(held), None
        if piece.end == GOES_ON:
            if not (cut := _last_cut(piece.raw, border)):
                held, wanted = [piece], 2 * held_size
                continue
            piece, rest = _slice(piece, 0, cut, GOES_ON), _slice(piece, cut, held_size, GOES_ON)
        unit.append(piece)
        unit_size += len(piece.raw)
        held = [rest] if rest and len(rest.raw) else []
        held_size = len(rest.raw) if held else 0
        wanted = half + held_size
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


def _at_most(size, pieces):
    """The same pieces, with those longer than `size` cut into several between two characters."""
    for piece in pieces:
        raw, start = piece.raw, 0
        while len(raw) - start > size and not piece.is_marker:
            stop = start + size
            while isinstance(raw, bytes) and stop < len(raw) and raw[stop] & 0xC0 == 0x80:
                stop += 1
            yield _slice(piece, start, stop, GOES_ON)
            start = stop
        yield _slice(piece, start, len(raw), piece.end) if start else piece


def _slice(piece, start, stop, end):
    """The part raw[start:stop] of a piece."""
    learned = piece.learned and piece.learned[start:stop]
    docs = tuple((at - start, file, row) for at, file, row in piece.docs if start <= at < stop)
    return Piece(piece.split, piece.raw[start:stop], end, learned, docs)


def _joined_pieces(pieces):
    """Consecutive pieces of one text as one."""
    first, *others = pieces
    if not others:
        return first
    docs, size = [], 0
    for piece in pieces:
        docs += [(size + at, file, row) for at, file, row in piece.docs]
        size += len(piece.raw)
    learned = None
    if any(piece.learned for piece in pieces):
        learned = b"".join([piece.learned or LEARNED * len(piece.raw) for piece in pieces])
    return Piece(first.split, joined([piece.raw for piece in pieces]), pieces[-1].end, learned,
                 tuple(docs))


def joined(raws):
    """Several texts in UTF-8, or arrays of ids, as one."""
    if len(raws) == 1:
        return raws[0]
    return b"".join(raws) if isinstance(raws[0], bytes) else np.concatenate(raws)
