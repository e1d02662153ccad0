"""SentencePiece models, by the optional package sentencepiece."""
import os
import re
from functools import cached_property

import numpy as np

from pipeline.errors import UserError, optional
from pipeline.tokenizers.borders import last_apart, neighbours
from pipeline.tokenizers.tables import UnknownText, as_bytes, as_token, tables, to_utf8

SPACE = "\u2581"  # the character that a model writes for a space
BPE = 2  # the model_type of a model that merges pairs; others are Unigram (1), words and characters


class SentencePieceTokenizer:
    """A SentencePiece model, from its bytes: one that the user has, or one trained here.

    Each line is encoded by itself, including its "\\n"; nothing is put before it, and no space is
    removed. Most models normalize text (those trained here do not), and encode() refuses text that
    a model would change.
    """
    workers = "processes"

    def __init__(self, model):
        sentencepiece = optional("sentencepiece", "a SentencePiece model")
        # a model is a protobuf message, in which the last value of a field counts. This one sets
        # normalizer_spec{add_dummy_prefix: false, remove_extra_whitespaces: false}
        settings = b"\x1a\x04\x18\x00\x20\x00"
        self.model = bytes(model).removesuffix(settings) + settings
        try:
            self._sp = sentencepiece.SentencePieceProcessor(model_proto=self.model)
            self.vocab_size = self._sp.get_piece_size()
            self._table = {i: self._token(i) for i in range(self.vocab_size)}
        except (RuntimeError, ValueError):  # ValueError: a piece that is not UTF-8
            raise UserError("the SentencePiece model is damaged, or is not one") from None
        self.eot_token = self._sp.eos_id() if self._sp.eos_id() >= 0 else None
        self._bytes = [self._sp.piece_to_id(f"<0x{i:02X}>") for i in range(256)]
        self._has_bytes = self._sp.unk_id() not in self._bytes
        self._is_bpe = _model_type(self.model) == BPE
        self._raw = [as_bytes(token) for token in self._table.values()]

    def _token(self, i):
        """The text that piece i stands for."""
        if self._sp.is_byte(i):
            return as_token(bytes([int(self._sp.id_to_piece(i)[3:5], 16)]))
        return self._sp.id_to_piece(i).replace(SPACE, " ")

    def encode(self, text):
        """(n,) int64. Raises UnknownText for text that the model would lose or change."""
        raw = to_utf8(text)
        lines = re.findall(r"[^\n]*\n|[^\n]+", text)
        ids = [i for line in lines for i in self._encode_line(line)]
        if (back := b"".join([self._raw[i] for i in ids])) != raw:
            at = len(os.path.commonprefix([back.decode("utf-8", errors="replace"), text]))
            raise UnknownText((f"the SentencePiece model would lose or change "
                               f"{text[at : at + 10]!a}", ""), at)
        return np.array(ids, dtype=np.int64)

    def _encode_line(self, line):
        """Ids. A SPACE in the text itself would become a space, and NUL would be lost, so both go
        byte by byte."""
        ids = []
        for part in re.split(f"([{SPACE}\0])", line):
            if part in (SPACE, "\0") and self._has_bytes:
                ids += [self._bytes[byte] for byte in part.encode("utf-8")]
            elif part:
                ids += self._sp.encode(part)
        return ids

    def border(self, text):
        # merges of a BPE do not reach over a place that is in no token; Unigram adds up the scores
        # of a whole line, and rounds them
        return max(text.rfind("\n") + 1, self._is_bpe and last_apart(text, self._neighbours))

    @cached_property
    def _neighbours(self):
        return neighbours(filter(None, self._table.values()))

    def decode(self, ids):
        """Bytes that are not UTF-8 become U+FFFD."""
        try:
            raw = b"".join([self._raw[i] for i in np.asarray(ids).tolist()])
            return raw.decode("utf-8", errors="replace")
        except IndexError:
            raise UserError(f"an id is not one of the model's {self.vocab_size:,}") from None

    def __reduce__(self):
        return type(self), (self.model,)

    def to_meta(self):
        return {"tokenizer": "sentencepiece", "sentencepiece_model": self.model,
                **tables(self._table)}


def _model_type(model):
    """trainer_spec.model_type of a model's bytes: Unigram where none is stated."""
    trainer_spec = dict(_fields(model)).get(2, b"")
    return dict(_fields(trainer_spec)).get(3, 1)


def _fields(message):
    """(number, value) of the fields of a protobuf message: integers, and bytes for all others."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = message[at], at + 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield number, message[at : at + size]
        at += size


def pieces_from_meta(itos):
    """The tokens of the pieces that another program's meta.pkl lists, without the model itself."""
    return {i: bytes([int(piece[3:5], 16)]) if re.fullmatch("<0x[0-9A-F]{2}>", piece) else
            piece.replace(SPACE, " ") for i, piece in itos.items() if isinstance(piece, str)}
