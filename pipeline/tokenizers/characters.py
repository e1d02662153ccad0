"""Tokenizers whose tokens are single characters, or single bytes."""
import numpy as np

from pipeline.errors import UserError
from pipeline.tokenizers.tables import (
    UnknownText,
    as_token,
    codes_of,
    plain_text,
    tables,
    to_utf8,
)

ASCII = bytes(range(128))
CONTINUATION = bytes(range(128, 192))  # the bytes of a character in UTF-8 after its first one


class CharTokenizer:
    """One id for each character (Unicode code point), in the order of `chars`."""
    eot_token = None
    workers = None
    border = staticmethod(len)  # text may be cut anywhere

    def __init__(self, chars):
        self.chars = list(chars)
        self.vocab_size = len(self.chars)
        self._codes = np.array([ord(c) for c in self.chars], dtype="<u4")
        # code point -> id; vocab_size stands for a character that the vocabulary lacks
        size = max(256, int(self._codes.max()) + 2)
        self._id_of_code = np.full(size, self.vocab_size, np.min_scalar_type(self.vocab_size))
        self._id_of_code[self._codes] = np.arange(self.vocab_size)
        # byte -> id, if ids fit into a byte; 255 stands for an unknown or a longer character
        self._id_of_byte = None
        if self.vocab_size < 255:
            ids = self._id_of_code[:128]
            ids = np.where(ids < self.vocab_size, ids, 255).astype(np.uint8)
            self._id_of_byte = ids.tobytes() + b"\xff" * 128
            self._known = np.flatnonzero(ids < 255).astype(np.uint8).tobytes()

    @classmethod
    def from_text(cls, *texts, document_end="\n"):
        """A tokenizer of the characters of all texts, sorted by code point.

        texts: strings, TextFiles, or documents, which are iterables that can be read again.
        document_end: the text that write_dataset() puts after each document.
        """
        for text in texts:
            if iter(text) is text:
                raise UserError("a generator can be read only once, and the vocabulary must be "
                                "known before the text is written. Give a list of documents, or "
                                "use --method byte or tiktoken")
        seen = set()
        for text in texts:
            if hasattr(text, "characters"):
                seen |= text.characters()
                continue
            seen |= set() if isinstance(text, str) else set(document_end)
            for piece in [text] if isinstance(text, str) else text:
                # removing bytes costs far less than a set of all characters does
                piece = plain_text(piece)
                raw = to_utf8(piece)
                known = bytes(c for c in range(256) if c > 127 or chr(c) in seen)
                seen.update(raw.translate(None, known).decode("ascii"))
                if not piece.isascii():
                    seen.update(raw.translate(None, ASCII).decode("utf-8"))
        if not seen:
            raise UserError("the text is empty, and a vocabulary of characters needs some. Put "
                            "text into the input, then run prepare.py again")
        return cls(sorted(seen))

    def encode(self, text):
        """(len(text),) integers; UnknownText at the first character outside the vocabulary."""
        return self.encode_utf8(text.encode("utf-8", "surrogatepass"))

    def encode_utf8(self, raw):
        if self._id_of_byte is None:
            ids = self._id_of_codes(raw)
        else:
            # a table of bytes translates gigabytes a second; one byte is kept of a longer character
            left_out = b"" if raw.isascii() else CONTINUATION
            found = bytearray(raw).translate(self._id_of_byte, left_out)
            ids = np.frombuffer(found, dtype=np.uint8)
            if 255 not in found:
                return ids
            ids[ids == 255] = self._id_of_codes(raw.translate(None, self._known))
        if ids.size and ids.max() == self.vocab_size:
            at = int((ids == self.vocab_size).argmax())
            unknown = f"character {raw.decode('utf-8', 'surrogatepass')[at]!r}"
            where = f" is not in the {self.vocab_size}-character vocabulary"
            raise UnknownText((unknown, where), at)
        return ids

    def _id_of_codes(self, raw):
        codes = codes_of(raw.decode("utf-8", "surrogatepass"))
        return self._id_of_code.take(codes, mode="clip")  # the table's last entry is "unknown"

    def decode(self, ids):
        return self._codes[np.asarray(ids, dtype=np.int64)].tobytes().decode("utf-32-le")

    def to_meta(self):
        return {"tokenizer": "char", **tables(self.chars)}


class ByteTokenizer:
    """One id for each byte of the text's UTF-8: 256 ids, any text."""
    vocab_size = 256
    eot_token = None
    workers = None
    border = staticmethod(len)

    def encode(self, text):
        return self.encode_utf8(to_utf8(text))

    def encode_utf8(self, raw):
        return np.frombuffer(raw, dtype=np.uint8)

    def decode(self, ids):
        """Bytes that are not UTF-8, which a model may well generate, become U+FFFD."""
        return np.asarray(ids, dtype=np.uint8).tobytes().decode("utf-8", errors="replace")

    def to_meta(self):
        return {"tokenizer": "byte", **tables([as_token(bytes([i])) for i in range(256)])}
