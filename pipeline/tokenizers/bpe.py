"""Byte-pair encodings, by tiktoken."""
import hashlib
import itertools
import re
import threading

import numpy as np

from pipeline.errors import UserError
from pipeline.tokenizers.borders import last_border
from pipeline.tokenizers.fast_bpe import PRETOKENIZER, fast_encoder
from pipeline.tokenizers.tables import UnknownText, as_bytes, as_token, table_of, tables, to_utf8

# sha256 (its beginning) of the patterns, regular expressions that cut a text into words, of
# tiktoken's encodings, now and in its older versions; --method bpe has that of gpt2
PATTERNS = ("bf51d578af571878 bb958e5e1894a73a ce1b78ffb1073964 "  # gpt2, r50k, p50k
            "f021c3d976978e62 a4bb8cc38b305a24 d98f9631be1e9607 "  # cl100k
            "2d1b8dc11e89af71").split()  # o200k
BORDERS_KNOWN = {*PRETOKENIZER, "p50k_base", "p50k_edit"}


class TiktokenTokenizer:
    """A byte-pair encoding: one of OpenAI's (gpt2, cl100k_base, ...), or one trained here.

    additional_tokens: {token: id} on top; wherever their names stand in a text they are the tokens.
    backend: tiktoken; or gigatoken, which gives the same ids many times as fast (see fast_bpe.py);
    or auto, which is gigatoken where it is installed.
    """
    workers = "threads"

    def __init__(self, name="gpt2", encoding=None, *, additional_tokens=None, backend="auto",
                 kind="tiktoken"):
        self.name, self.kind = name, kind
        self.additional_tokens = dict(additional_tokens or {})
        if encoding is None:
            # this alone of all tokenizers downloads, its merge file if it is not there
            from pipeline.get.merge_files import get_encoding
            encoding = get_encoding(name)
        refuse_unknown_pattern(encoding._pat_str)  # meta.pkl could not be read again
        if self.additional_tokens:
            encoding = _with_tokens(encoding, self.additional_tokens)
        self._encoding, self._of_thread = encoding, threading.local()
        self.vocab_size = encoding.n_vocab
        self.eot_token = encoding._special_tokens.get("<|endoftext|>")
        self._fast = fast_encoder(backend, name, encoding, self.additional_tokens)
        self.backend = self._fast.name if self._fast else "tiktoken"

    def encode(self, text):
        """(n,) uint32. A special token's name is text, unless it is one of additional_tokens."""
        return self.encode_utf8(to_utf8(text))

    def encode_utf8(self, raw):
        try:
            if self._fast:
                return self._fast.encode(raw, self.border)
            return self._own_encoding().encode_to_numpy(
                raw.decode("utf-8"), allowed_special=set(self.additional_tokens),
                disallowed_special=())
        except ValueError as error:
            if "stack size" not in str(error):
                raise
        # tiktoken's regular expression backtracks through white space, and its stack is limited
        runs = re.finditer(r"\s+", raw.decode("utf-8"))
        run = max(runs, key=lambda run: run.end() - run.start())
        what = f"tiktoken cannot encode the {run.end() - run.start():,} blanks in a row"
        raise UnknownText((what, ". Make them fewer, or use --backend gigatoken"), run.start())

    @property
    def markers(self):
        return dict(self._encoding._special_tokens)

    def with_markers(self, names):
        """This tokenizer with special tokens of these names, which no text becomes: those that it
        lacks get the ids after its last one."""
        additional = {t: i for t, i in self.additional_tokens.items() if t not in names}
        special = {t: i for t, i in self.markers.items() if t not in additional}
        missing = [str(name) for name in names if name not in special]  # meta.pkl holds no Marker
        new = dict(zip(missing, itertools.count(self.vocab_size)))
        return TiktokenTokenizer(
            self.name, _with_special(self._encoding, self._encoding.name, {**special, **new}),
            additional_tokens=additional, backend="auto" if self._fast else "tiktoken",
            kind=self.kind)

    def _own_encoding(self):
        """A copy of the encoding for each thread: two threads that share its regular expression
        take twice the time."""
        if threading.current_thread() is threading.main_thread():
            return self._encoding
        if not hasattr(self._of_thread, "encoding"):
            self._of_thread.encoding = _with_tokens(self._encoding, {})
        return self._of_thread.encoding

    def border(self, text):
        if self.name not in BORDERS_KNOWN:
            return 0
        return last_border(text, self.additional_tokens)

    def decode(self, ids):
        """Ids that spell no UTF-8 become U+FFFD; UserError for ids in a gap of the vocabulary."""
        try:
            return self._encoding.decode(np.asarray(ids).tolist())
        except KeyError as error:
            raise UserError(f"id {error} is not a token of {self.name}") from None

    def __reduce__(self):  # worker processes receive it
        return bpe_from_meta, (self.to_meta(), "auto" if self._fast else "tiktoken")

    def to_meta(self):
        encoding = self._encoding
        itos = {i: as_token(raw) for raw, i in encoding._mergeable_ranks.items()}
        itos |= {i: token for token, i in encoding._special_tokens.items()}
        meta = {"tokenizer": self.kind, "tiktoken_encoding": self.name,
                "pat_str": encoding._pat_str, "special_tokens": dict(encoding._special_tokens),
                **tables(dict(sorted(itos.items())))}
        if self.additional_tokens:
            meta["additional_tokens"] = self.additional_tokens
        meta["stoi"] |= encoding._special_tokens  # two tokens of o200k_harmony share an id
        return meta


def refuse_unknown_pattern(pattern):
    """Raise UserError for a pattern that is not tiktoken's: it might take hours, or panic."""
    if hashlib.sha256(pattern.encode()).hexdigest()[:16] not in PATTERNS:
        raise UserError("the byte-pair tokenizer of this dataset cuts words by a pattern (pat_str) "
                        "that is not one of tiktoken's. Prepare the dataset again, with --method "
                        "tiktoken or bpe")


def bpe_from_meta(meta, backend="tiktoken"):
    """The TiktokenTokenizer of a meta.pkl's dict. Raises UserError."""
    kind, name = meta.get("tokenizer"), meta.get("tiktoken_encoding", "gpt2")
    if kind == "tiktoken" and "pat_str" not in meta:  # another program's: it stores just the name
        return TiktokenTokenizer(name, additional_tokens=meta.get("special_tokens"),
                                 backend=backend)
    import tiktoken
    itos, special = table_of(meta), meta.get("special_tokens") or {}
    additional = meta.get("additional_tokens") or {}
    ids = set(special.values())
    merges = {as_bytes(token): i for i, token in itos.items() if i not in ids}
    twice = len(merges) + len(ids) != len(ids | set(itos))
    if twice or b"" in merges or not merges.keys() >= {bytes([i]) for i in range(256)}:
        raise UserError("meta.pkl holds no usable table of byte-pair tokens: each token must occur "
                        "once, and the 256 bytes must be among them. Prepare the dataset again")
    refuse_unknown_pattern(meta.get("pat_str", ""))
    encoding = tiktoken.Encoding(
        name, pat_str=meta["pat_str"], mergeable_ranks=merges,
        special_tokens={token: i for token, i in special.items() if token not in additional})
    return TiktokenTokenizer(name, encoding, additional_tokens=additional, backend=backend,
                             kind=kind)


def _with_tokens(encoding, tokens):
    """A copy of the encoding with more special tokens, {token: id}. Raises UserError."""
    taken = {*encoding._mergeable_ranks.values(), *encoding._special_tokens.values()}
    for token, i in tokens.items():
        if type(i) is not int or not 0 <= i < 2**32 or i in taken or not token:
            raise UserError(f"additional token {token!r} has id {i!r}. It must be a whole number "
                            f"below 2**32 that no other token has, for example "
                            f"{encoding.n_vocab:,} or more")
        taken.add(i)
    # in order, a token is followed by those that begin with it
    for token, longer in itertools.pairwise(sorted(tokens)):
        if longer.startswith(token):
            raise UserError(f"additional token {token!r} is the beginning of {longer!r}, so a text "
                            f"would not tell which of them it holds")
    return _with_special(encoding, f"{encoding.name}+{len(tokens)}",
                         {**encoding._special_tokens, **tokens})


def _with_special(encoding, name, special_tokens):
    """A copy of the encoding with these special tokens in the place of its own, {token: id}."""
    import tiktoken
    return tiktoken.Encoding(name, pat_str=encoding._pat_str, special_tokens=special_tokens,
                             mergeable_ranks=encoding._mergeable_ranks)
