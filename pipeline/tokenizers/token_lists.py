"""Tokenizers that are a list or table of tokens: text is encoded by the longest match."""
import collections

import numpy as np

from pipeline.errors import UserError, typed
from pipeline.files import read_text
from pipeline.tokenizers.borders import last_apart, neighbours
from pipeline.tokenizers.tables import UnknownText, as_bytes, as_token, read_json, tables, to_utf8


class TableTokenizer:
    """A table of tokens, str or bytes: it decodes by the table and encodes by the longest match.

    It also stands in for a tokenizer of the user's own, of which meta.pkl holds just the table.
    """
    kind = "custom"
    workers = "processes"

    def __init__(self, itos, eot_token=None):
        self.eot_token = eot_token
        self.itos = tables(itos)["itos"]
        self.vocab_size = max(self.itos) + 1
        self._id_of, lengths = {}, collections.defaultdict(set)
        for i, token in self.itos.items():
            raw = as_bytes(token)
            if i != eot_token:
                self._id_of.setdefault(raw, i)
        self._neighbours = neighbours(map(as_token, map(as_bytes, self.itos.values())))
        # first byte -> the lengths of the tokens that begin with it, longest first
        for raw in filter(None, self._id_of):
            lengths[raw[0]].add(len(raw))
        self._lengths = {first: sorted(some, reverse=True) for first, some in lengths.items()}

    def encode(self, text):
        """(n,) int64: at each place the longest token that matches; UnknownText where none does."""
        raw, at, ids = to_utf8(text), 0, []
        while at < len(raw):
            for length in self._lengths.get(raw[at], ()):
                if (token_id := self._id_of.get(raw[at : at + length])) is not None:
                    ids.append(token_id)
                    at += length
                    break
            else:
                before = len(raw[:at].decode("utf-8", errors="ignore"))
                what = f"no token of the vocabulary matches {text[before:][:10]!r}"
                raise UnknownText((what, ""), before)
        return np.array(ids, dtype=np.int64)

    def border(self, text):
        return last_apart(text, self._neighbours)

    def decode(self, ids):
        try:
            raw = b"".join(as_bytes(self.itos[i]) for i in np.asarray(ids).tolist())
            return raw.decode("utf-8", errors="replace")
        except KeyError as error:
            raise UserError(f"id {error} is not in itos") from None

    def to_meta(self):
        return {"tokenizer": self.kind, **tables(self.itos)}


class TokenList(TableTokenizer):
    """Strings, in the order of their ids.

    byte_fallback: add those of the 256 bytes that are not in the list, so that any text can be
    encoded. Without it, text that the tokens do not cover raises UnknownText and is never left out.
    """
    kind = "token_list"

    def __init__(self, tokens, byte_fallback=False):
        tokens = list(tokens)
        if twice := [token for token, n in collections.Counter(tokens).items() if n > 1]:
            raise UserError(f"the list of tokens has {twice[0]!r} twice")
        if not tokens or "" in tokens:
            raise UserError("the list of tokens is empty, or holds an empty token")
        if byte_fallback:
            known = {as_bytes(token) for token in tokens}
            tokens += [as_token(bytes([i])) for i in range(256) if bytes([i]) not in known]
        super().__init__(tokens)

    @classmethod
    def from_file(cls, path, byte_fallback=False):
        r"""A JSON list (.json), or a file with one token a line, in which spaces count and
        \n \t \r \\ stand for those characters."""
        if str(path).endswith(".json"):
            tokens = read_json(path)
            if not isinstance(tokens, list) or {*map(type, tokens)} - {str}:
                raise UserError(f"{path} must hold a JSON list of strings")
        else:
            lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
            tokens = [typed(line) for line in lines if line]
        return cls(tokens, byte_fallback)
