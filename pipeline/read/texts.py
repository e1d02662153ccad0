"""A text in tokens, to be read from its first one to its last, with what each of them stands for.

    Tokens                        consecutive tokens of a text
    DatasetText(streams, split)   a split of a dataset, or of aligned streams, in Tokens

pipeline/prepare/texts.py has the same of files. Memory does not grow with the text.
"""
from typing import NamedTuple

import numpy as np

from pipeline.read.documents import file_names, positions_in
from pipeline.tokenizers import as_bytes, tokenizer_from_meta, tokenizer_meta

CHUNK = 1 << 16  # tokens, or records of an index, that are read at once


class Tokens(NamedTuple):
    """n consecutive tokens of a text, or of K aligned streams."""
    ids: np.ndarray  # (n,) or (n, K) int64, as the dataset has them
    num_bytes: np.ndarray  # (n,) int64: the bytes of text, in UTF-8, that each stands for
    num_chars: np.ndarray  # (n,) int64: the characters of text that begin in each
    learned: np.ndarray  # (n,) bool: whether it is to be learned
    begins: np.ndarray  # (n,) bool: whether a document begins with it

    def part(self, first, stop):
        return Tokens(*(array[first:stop] for array in self))


def joined_tokens(chunks):
    """Several Tokens as one."""
    return chunks[0] if len(chunks) == 1 else Tokens(*map(np.concatenate, zip(*chunks)))


def bytes_of_tokens(meta):
    """[the bytes of text that each id stands for] by a meta.pkl's dict; none for an id without a
    token, and for a special token, which no text becomes."""
    itos = meta.get("itos") or tokenizer_meta(tokenizer_from_meta(meta))["itos"]
    items = [*(itos.items() if isinstance(itos, dict) else enumerate(itos))]
    table = [b""] * max(meta["vocab_size"], 1 + max(i for i, _ in items))
    for i, token in items:
        table[i] = as_bytes(token if isinstance(token, (str, bytes)) else str(token))
    names_in_text = meta.get("additional_tokens") or {}
    for name, i in (meta.get("special_tokens") or {}).items():
        if name not in names_in_text:
            table[i] = b""
    if meta.get("eot_token") is not None:
        table[meta["eot_token"]] = b""
    return table


def lengths_of_tokens(meta):
    """(bytes, characters), (ids,) int64 each: of the text that each id stands for."""
    table = bytes_of_tokens(meta)
    # bytes 10xxxxxx go on with a character that has begun before
    chars = [sum(byte & 0xC0 != 0x80 for byte in token) for token in table]
    return np.array([*map(len, table)], np.int64), np.array(chars, np.int64)


class DatasetText:
    """A split of a dataset, from its first token to its last.

    name: what it is. meta: of the dataset (of aligned streams: of the first). is_masked: whether
    some tokens are not to be learned. ended: whether the token before a document is of its own
    kind, the end of another, so that it predicts the document's first one. size: in tokens.
    """

    def __init__(self, streams, split):
        self.streams, self.split, self._first = streams, split, streams[0]
        self.name, self.size = f"{split} of {self._first.name}", self._first.num_tokens[split]
        self.meta, self.is_masked = self._first.meta, self._first.has_mask
        self.ended = not self._first.has_index or self.meta["docs"]["ended"]

    def tokens(self, told=lambda done: None):
        """Yield all Tokens. told: is told the fraction that has been read."""
        num_bytes, num_chars = lengths_of_tokens(self.meta)
        at, eot, before = 0, self.meta.get("eot_token"), True
        for ids in zip(*(stream.chunks(self.split, CHUNK) for stream in self.streams)):
            first, stop = ids[0], at + len(ids[0])
            learned, begins = np.ones(len(first), bool), np.zeros(len(first), bool)
            if self.is_masked:
                learned = np.array(self._first.mask(self.split)[at:stop]) > 0
            if self._first.has_index:
                begins[self._starts(at, stop) - at] = True
            else:  # a document begins with the text, and after each token that ends one
                begins[0] = before
                before = eot is not None and first[-1] == eot
                if eot is not None:
                    begins[1:] = first[:-1] == eot
            both = first if len(ids) == 1 else np.stack(ids, -1)
            yield Tokens(both.astype(np.int64), num_bytes[first], num_chars[first], learned, begins)
            at = stop
            told(at / self.size)

    def _starts(self, first, stop):
        """The tokens from first to stop - 1 with which documents begin."""
        starts = self._first.documents(self.split)["start"]
        low, high = positions_in(starts, np.array([first, stop]))
        return starts[low:high].astype(np.int64)

    def document_names(self):
        """Yield the name of each document, in order: PATH:ROW, or its number from 1."""
        if not self._first.has_index:
            number = 0
            while True:
                number += 1
                yield str(number)
        names = file_names(self._first)
        for first in range(0, self.meta["splits"][self.split]["docs"]["count"], CHUNK):
            for record in self._first.documents(self.split)[first : first + CHUNK].tolist():
                yield f"{names[record[1]]}:{record[2]}"
