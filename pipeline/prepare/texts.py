"""Files -> a text in the tokens of a model, as prepare.py would write it, but nothing is written.

    open_texts(paths, ...)               the files, opened; they can be read several times
    FilesText(opened, tokenizer, ...)    their text in Tokens (pipeline/read/texts.py)

What a tokenizer lacks is an error that names the characters; or it is left out and counted.
"""
import collections
import itertools

import numpy as np

from pipeline.errors import UserError
from pipeline.prepare import units
from pipeline.prepare.encode import encode_unit
from pipeline.prepare.inputs import TextFile, expand, open_inputs
from pipeline.read.folder import token_dtype
from pipeline.read.texts import Tokens, joined_tokens, lengths_of_tokens
from pipeline.tokenizers import UnknownText

NAMED = 20  # unknown characters that a message names


def open_texts(paths, **stated):
    """What open_inputs() gives for each file that paths and globs name. stated: its arguments."""
    return [open_inputs([path], **stated) for path in expand(paths)]


class FilesText:
    """The text of files, one after the other, in the ids of a tokenizer.

    opened: of open_texts(). meta: the tokenizer's meta.pkl, a dict. skip: tokenizers; a character
    that one of them lacks is left out. name, is_masked (once it was read), ended: as of
    DatasetText. skipped: {character: how often it was left out} of the latest reading.

    A file of text is a document where there are several, and so is each row of a table. The token
    that ends documents follows each, or else a newline does; that is no part of the text, so it
    stands for no bytes.
    """
    ended = True

    def __init__(self, opened, tokenizer, meta, skip=()):
        self.opened, self.tokenizer, self.meta, self.skip = opened, tokenizer, meta, skip
        more = f" and {len(opened) - 1} more" if opened[1:] else ""
        self.name, self.is_masked = opened[0].name + more, False
        self.eot_token = meta.get("eot_token", getattr(tokenizer, "eot_token", None))
        self._lengths, self._chars = lengths_of_tokens(meta)
        size = meta["vocab_size"]
        self._job = tokenizer, size, token_dtype(size), self.eot_token, self._lengths
        self.skipped, self._names = collections.Counter(), None  # see document_names()
        self._doc = None  # (0, name, row) of a document of which no token has come yet

    def tokens(self, told=lambda done: None):
        """Yield all Tokens. told: is told the fraction that has been read. Raises UserError for
        characters that the tokenizer lacks."""
        self.skipped.clear()
        if self._names is not None:
            self._names.clear()
        size, done = sum(given.size for given in self.opened), 0
        border = getattr(self.tokenizer, "border", lambda text: 0)
        for given in self.opened if len(self.opened) == 1 else filter(_has_bytes, self.opened):
            name, at = str(given.name), 0  # at: characters of the document so far
            for unit in units.make_units(self._pieces(given), border):
                found = []
                for piece in unit:
                    if piece.docs:
                        name, at = piece.docs[-1][1], 0
                    found += self._encoded(piece, name, at)
                    at += units.raw_length(piece.raw)
                if found:
                    yield joined_tokens(found)
                told((done + given.position) / max(1, size))
            done += given.size

    def document_names(self):
        """An iterator of the name of each document, in order, of those that tokens() has begun.
        Without a call of this, no name is kept."""
        self._names = names = collections.deque()
        return (names.popleft() for _ in itertools.repeat(None))

    def _pieces(self, given):
        """The pieces of one of the files, in whose docs the document's name is the file's number.
        A file of text is a document where there are several."""
        files, names = units.new_numbers(), []
        for piece in units.split_text([], given, 0.5, source=str(given.name), files=files,
                                      eot_token=self.eot_token):
            names += itertools.islice(files, len(names), None)  # in the order of their numbers
            is_text = isinstance(given, TextFile)
            docs = tuple((at, names[file] if is_text else f"{names[file]}:{row}", row)
                         for at, file, row in piece.docs)
            if is_text and piece.end == units.ENDS_TEXT and self.opened[1:]:
                piece = piece._replace(end=units.ENDS_DOCUMENT)
            yield piece._replace(docs=docs)

    def _encoded(self, piece, name, at):
        """[Tokens] of a piece, if it has any. at: how many characters of the document `name` come
        before it."""
        is_text = isinstance(piece.raw, bytes) and not piece.is_marker
        if is_text and self.skip:
            piece = self._known(piece)
        if self._doc and not (piece.docs and piece.docs[0][0] == 0):
            piece = piece._replace(docs=(self._doc, *piece.docs))
        size, self._doc = len(piece.raw), None
        ends = piece.end == units.ENDS_DOCUMENT
        if ends and is_text and self.eot_token is None and not piece.raw.endswith(b"\n"):
            learned = piece.learned and piece.learned + piece.learned[-1:]
            piece = piece._replace(raw=piece.raw + b"\n", learned=learned)
        try:
            encoded = encode_unit(*self._job, [piece])["val"]
        except UnknownText as error:
            raise self._unknown(piece, error, name, at) from None
        ids = encoded.ids.astype(np.int64)
        if not len(ids):
            self._doc = (0, *piece.docs[-1][1:]) if piece.docs else None
            return []
        begins, learned = np.zeros(len(ids), bool), np.ones(len(ids), bool)
        begins[encoded.starts] = True
        if self._names is not None:
            self._names += [doc for _, doc, _ in piece.docs]
        if encoded.learned is not None:
            learned, self.is_masked = encoded.learned > 0, True
        if is_text:
            has_eot = ends and self.eot_token is not None
            return [Tokens(ids, *self._text_of(piece.raw, size, ids, has_eot), learned, begins)]
        return [Tokens(ids, self._lengths[ids], self._chars[ids], learned, begins)]

    def _text_of(self, raw, size, ids, has_eot):
        """(num_bytes, num_chars) of ids, which spell raw, of which `size` bytes are text, and
        perhaps the token that ends documents (has_eot)."""
        own = ids[: len(ids) - has_eot]
        if hasattr(self.tokenizer, "token_spans"):
            ends = np.maximum.accumulate(self.tokenizer.token_spans(raw, own)[1])
        else:
            ends = np.cumsum(self._lengths[own])
            if len(own) and ends[-1] < len(raw):  # of one's own tokenizer, that loses text
                ends = ends * len(raw) // max(1, ends[-1])
        ends = np.minimum(np.concatenate([[0], ends, [size] * has_eot]), size).astype(np.int64)
        # bytes 10xxxxxx go on with a character that has begun before
        before = np.concatenate([[0], np.cumsum(np.frombuffer(raw, np.uint8) & 0xC0 != 0x80)])
        return np.diff(ends), np.diff(before[ends])

    # ---- characters that a tokenizer lacks

    def _known(self, piece):
        """The piece without the characters that one of the tokenizers lacks."""
        text = piece.raw.decode()
        lost = set().union(*(unknown_characters(tokenizer, text) for tokenizer in self.skip))
        if not lost:
            return piece
        self.skipped.update(c for c in text if c in lost)
        keep = np.repeat([c not in lost for c in text], [len(c.encode()) for c in text])

        def kept(raw):
            return raw and np.frombuffer(raw, np.uint8)[keep].tobytes()
        docs = tuple((int(keep[:at].sum()), file, row) for at, file, row in piece.docs)
        return piece._replace(raw=kept(piece.raw), learned=kept(piece.learned), docs=docs)

    def _unknown(self, piece, error, name, at):
        lost = sorted(unknown_characters(self.tokenizer, piece.raw.decode()))
        named = " ".join(map(repr, lost[:NAMED])) + " ..." * (len(lost) > NAMED)
        what, where = error.message
        return UserError(f"{name}: {what} at position {at + error.position:,}{where} (unknown in "
                         f"this text: {named}). --skip_unknown leaves such characters out")


def _has_bytes(given):
    return given.size > 0


def unknown_characters(tokenizer, text):
    """The characters of a text that a tokenizer lacks: none if it can encode the text."""
    try:
        tokenizer.encode(text)
        return set()
    except UnknownText:
        pass
    lost = set()
    for character in dict.fromkeys(text):
        try:
            tokenizer.encode(character)
        except UnknownText:
            lost.add(character)
    return lost
