"""Text <-> ids. Each tokenizer has

    encode(text) -> (n,) integer array      decode(ids) -> str
    vocab_size, the largest id + 1          eot_token, the id that ends a document, or None
    to_meta() -> dict of plain values, from which tokenizer_from_meta() builds it again, with no network
    border(text) -> the last place where text may be cut in two without changing an id; 0 where there is none
    workers: what it takes to use every core: "threads", where encode() lets others run meanwhile; None, where it is as
        fast as reading; "processes", which is so without the attribute too
    encode_utf8(raw), the same for a text in UTF-8, where that is faster

Ids are never dropped and nothing is normalised: decode(encode(text)) == text. A tokenizer of your own needs only
encode, decode and itos (id -> token; a list or a dict, str or bytes); border too, for texts larger than memory.
"""
import hashlib
import json
import os
import re
import threading

import numpy as np

from pipeline.errors import UserError, optional, typed
from pipeline.files import read_text
from pipeline.get.merge_files import get_encoding
from pipeline.tokenizers.fast_bpe import fast_bpe

GO_ON = bytes(range(128, 192))  # the bytes of UTF-8 after the first one of a character


def to_utf8(text):
    """text as UTF-8 bytes; a lone surrogate (half of a character, left by a broken decoder) is a UserError."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at position "
                        f"{error.start:,}: it is not valid Unicode. Decode the source as UTF-8") from None


def codes_of(text):
    """The code point of each character: (len(text),) uint8 for ASCII text, else uint32."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def as_token(raw):
    """A token's bytes as it stands in itos: str where it is valid UTF-8 on its own, else bytes."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def read_json(path):
    try:
        value = json.loads(read_text(path))
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError:
        raise UserError(f"{path} holds half a character (a lone surrogate)") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no JSON: {error}") from None


def as_bytes(token):
    return token if isinstance(token, bytes) else token.encode("utf-8")


def tables(itos):
    """The stoi and itos of meta.pkl: two dicts of plain values, from any list or dict of str or bytes tokens."""
    items = itos.items() if isinstance(itos, dict) else enumerate(itos)
    itos = {int(i): bytes(token) if isinstance(token, bytes) else str(token) for i, token in items}
    stoi = {}
    for i, token in itos.items():
        stoi.setdefault(token, i)
    return {"vocab_size": max(itos) + 1, "stoi": stoi, "itos": itos}


def table_hash(itos):
    """sha256 of the id -> token table: equal for two datasets exactly when their ids mean the same."""
    tokens = [(i, as_bytes(itos[i])) for i in sorted(itos)]
    table = b"".join([b"%d %d %b" % (i, len(raw), raw) for i, raw in tokens])
    return hashlib.sha256(table).hexdigest()


def hash_of_table(meta):
    """table_hash() of the tokenizer that a meta.pkl (its dict) describes, whoever wrote it. The one
    that it states was compared with its table when it was read."""
    return meta.get("table_sha256") or table_hash(tokenizer_meta(tokenizer_from_meta(meta))["itos"])


class UnknownText(UserError):
    """Text that the vocabulary lacks, at a position (in characters) of what was encoded. message: "...{position}..."."""

    def __init__(self, message, position):
        super().__init__(message.format(position=f"{position:,}"))
        self.message, self.position = message, position

    def __reduce__(self):  # it comes from worker processes
        return type(self), (self.message, self.position)


class CharTokenizer:
    """One id a character (Unicode code point), in the order of `chars`."""
    eot_token = None
    workers = None
    border = staticmethod(len)  # anywhere

    def __init__(self, chars):
        self.chars = list(chars)
        self.vocab_size = len(self.chars)
        self._codes = np.array([ord(c) for c in self.chars], dtype="<u4")
        size = max(256, int(self._codes.max()) + 2)
        self._id_of_code = np.full(size, self.vocab_size, dtype=np.min_scalar_type(self.vocab_size))  # no such character
        self._id_of_code[self._codes] = np.arange(self.vocab_size)
        self._id_of_byte = None  # an id for each ASCII byte, 255 where it is unknown or begins a longer character
        if self.vocab_size < 255:
            ids = np.where(self._id_of_code[:128] < self.vocab_size, self._id_of_code[:128], 255)
            self._id_of_byte, self._known = ids.tobytes() + b"\xff" * 128, np.flatnonzero(ids < 255).astype(np.uint8).tobytes()

    @classmethod
    def from_text(cls, *texts, document_end="\n"):
        """The characters of all the texts, sorted by code point.

        texts: strings, TextFiles, or documents: iterables that can be read again. document_end: what write_dataset()
        ends documents with.
        """
        for text in texts:
            if iter(text) is text:
                raise UserError("a generator can be read only once, and the characters must be known before the text is "
                                "written. Give a list, or take --method byte or tiktoken")
        seen = set()
        for text in texts:
            if hasattr(text, "characters"):
                seen |= text.characters()
                continue
            seen |= set() if isinstance(text, str) else set(document_end)
            for piece in [text] if isinstance(text, str) else text:
                raw = to_utf8(piece)
                seen.update(raw.translate(None, bytes(c for c in range(256) if c > 127 or chr(c) in seen)).decode())
                if not piece.isascii():  # what is left without the ASCII bytes is the other characters
                    seen.update(raw.translate(None, bytes(range(128))).decode("utf-8"))
        if not seen:
            raise UserError("the text is empty, so it has no characters to make a vocabulary of")
        return cls(sorted(seen))

    def encode(self, text):
        """(len(text),) integers. Raises UnknownText at the first character outside the vocabulary, with its position."""
        return self.encode_utf8(text.encode("utf-8", "surrogatepass"))

    def encode_utf8(self, raw):
        if self._id_of_byte is None:
            ids = self._id_of_codes(raw)
        else:  # by a table of bytes, GB a second; one byte is left of a character that takes several
            found = bytearray(raw).translate(self._id_of_byte, b"" if raw.isascii() else GO_ON)
            ids = np.frombuffer(found, dtype=np.uint8)
            if 255 not in found:
                return ids
            ids[ids == 255] = self._id_of_codes(raw.translate(None, self._known))
        if ids.size and ids.max() == self.vocab_size:
            at = int((ids == self.vocab_size).argmax())
            unknown = repr(raw.decode("utf-8", "surrogatepass")[at]).replace("{", "{{").replace("}", "}}")
            raise UnknownText(f"character {unknown} at position {{position}} is not in the {self.vocab_size}-character "
                              f"vocabulary", at)
        return ids

    def _id_of_codes(self, raw):
        codes = codes_of(raw.decode("utf-8", "surrogatepass"))
        return self._id_of_code.take(codes, mode="clip")  # the last one of the table is no character

    def decode(self, ids):
        return self._codes[np.asarray(ids, dtype=np.int64)].tobytes().decode("utf-32-le")

    def to_meta(self):
        return {"tokenizer": "char", **tables(self.chars)}


class ByteTokenizer:
    """One id a byte of the text's UTF-8: 256 ids, any text."""
    vocab_size = 256
    eot_token = None
    workers = None
    border = staticmethod(len)

    def encode(self, text):
        return self.encode_utf8(to_utf8(text))

    def encode_utf8(self, raw):
        return np.frombuffer(raw, dtype=np.uint8)

    def decode(self, ids):
        """Bytes that are no UTF-8 (a model may well write them) become U+FFFD."""
        return np.asarray(ids, dtype=np.uint8).tobytes().decode("utf-8", errors="replace")

    def to_meta(self):
        return {"tokenizer": "byte", **tables([as_token(bytes([i])) for i in range(256)])}


class TiktokenTokenizer:
    """Byte-pair encodings, by tiktoken: OpenAI's (gpt2, r50k_base, cl100k_base, o200k_base, ...), or one trained here.

    additional_tokens: {token: id} on top; their names in a text are the tokens, everywhere.
    backend: who encodes; tiktoken, or gigatoken, which gives the same ids and is many times as fast; auto takes
        gigatoken where it is installed. See fast_bpe.py.
    """
    workers = "threads"

    def __init__(self, name="gpt2", encoding=None, *, additional_tokens=None, backend="auto", kind="tiktoken"):
        self.name, self.kind, self.additional_tokens = name, kind, dict(additional_tokens or {})
        self._encoding = encoding or get_encoding(name)
        refuse_unknown_pattern(self._encoding._pat_str)  # it could not be read again
        if self.additional_tokens:
            self._encoding = _with_tokens(self._encoding, self.additional_tokens)
        self._of_thread = threading.local()
        self.vocab_size = self._encoding.n_vocab
        self.eot_token = self._encoding._special_tokens.get("<|endoftext|>")
        self._fast = fast_bpe(backend, self.name, self._encoding, self.additional_tokens)
        self.backend = self._fast.name if self._fast else "tiktoken"

    def encode(self, text):
        """(n,) uint32, as encode_ordinary: the name of a special token in the text is text, but for additional_tokens."""
        return self.encode_utf8(to_utf8(text))

    def encode_utf8(self, raw):
        try:
            if self._fast:
                return self._fast.encode(raw, self.border)
            return self._own_encoding().encode_to_numpy(
                raw.decode("utf-8"), allowed_special=set(self.additional_tokens), disallowed_special=())
        except ValueError as error:
            if "stack size" not in str(error):
                raise
        run = max(re.finditer(r"\s+", raw.decode("utf-8")), key=lambda run: run.end() - run.start())  # its regex goes back in it
        raise UnknownText(f"tiktoken cannot encode the {run.end() - run.start():,} blanks in a row at position {{position}}. "
                          f"Make them fewer, or take --backend gigatoken", run.start())

    def _own_encoding(self):
        """A copy of the encoding for each thread beside the main one: two that share its regex take twice the time."""
        if threading.current_thread() is threading.main_thread():
            return self._encoding
        if not hasattr(self._of_thread, "encoding"):
            self._of_thread.encoding = _with_tokens(self._encoding, {})
        return self._of_thread.encoding

    def border(self, text):
        if self.name not in BORDERS_KNOWN:
            return 0
        longest = max(map(len, self.additional_tokens), default=1)  # one may have begun that is not all there yet
        at = _last_border(text, len(text) - longest + 1)
        while at and any(token in text[max(0, at - len(token) + 1) : at + len(token) - 1] for token in self.additional_tokens):
            at = _last_border(text, at)
        return at

    def decode(self, ids):
        """Ids that spell no UTF-8 become U+FFFD; ids in a gap of the vocabulary are a UserError."""
        try:
            return self._encoding.decode(np.asarray(ids).tolist())
        except KeyError as error:
            raise UserError(f"id {error} is not a token of {self.name}") from None

    def __reduce__(self):  # to another process
        return _bpe_from_meta, (self.to_meta(), "auto" if self._fast else "tiktoken")

    def to_meta(self):
        encoding = self._encoding
        itos = {i: as_token(raw) for raw, i in encoding._mergeable_ranks.items()}
        itos |= {i: token for token, i in encoding._special_tokens.items()}
        meta = {"tokenizer": self.kind, "tiktoken_encoding": self.name, "pat_str": encoding._pat_str,
                "special_tokens": dict(encoding._special_tokens), **tables(dict(sorted(itos.items())))}
        if self.additional_tokens:
            meta["additional_tokens"] = self.additional_tokens
        meta["stoi"] |= encoding._special_tokens  # two of o200k_harmony's share an id
        return meta


BYTES = {bytes([i]) for i in range(256)}
# sha256 (its beginning) of the regular expressions that cut a text into words: of tiktoken's
# encodings, now and in its older versions. GPT-2's is that of --method bpe too
PATTERNS = {"bf51d578af571878", "bb958e5e1894a73a", "ce1b78ffb1073964",  # gpt2, r50k, p50k
            "f021c3d976978e62", "a4bb8cc38b305a24", "d98f9631be1e9607",  # cl100k
            "2d1b8dc11e89af71"}  # o200k


def refuse_unknown_pattern(pattern):
    """Raises UserError for a regular expression unknown here: one can take hours, or panic."""
    if hashlib.sha256(pattern.encode()).hexdigest()[:16] not in PATTERNS:
        raise UserError("the byte-pair tokens of this dataset cut words by a pattern (pat_str) that is "
                        "none of tiktoken's. Prepare the dataset again, with --method tiktoken or bpe")


def _bpe_from_meta(meta, backend="tiktoken"):
    """The TiktokenTokenizer of a meta.pkl's dict."""
    name, additional = meta.get("tiktoken_encoding", "gpt2"), meta.get("additional_tokens")
    if "pat_str" not in meta:  # written by another program: the name, and the tokens it put on top
        return TiktokenTokenizer(name, additional_tokens=meta.get("special_tokens"), backend=backend)
    import tiktoken
    named = meta.get("special_tokens") or {}
    ids = set(named.values())
    ranks = {as_bytes(token): i for i, token in meta["itos"].items() if i not in ids}
    twice = len(ranks) + len(ids) != len(ids | set(meta["itos"]))
    if twice or not ranks.keys() >= BYTES or b"" in ranks:
        raise UserError("meta.pkl holds no table of byte-pair tokens: each must be there once, and the "
                        "256 bytes be among them. Prepare the dataset again")
    refuse_unknown_pattern(meta["pat_str"])
    special_tokens = {token: i for token, i in named.items() if token not in (additional or {})}
    encoding = tiktoken.Encoding(name, pat_str=meta["pat_str"], mergeable_ranks=ranks, special_tokens=special_tokens)
    return TiktokenTokenizer(name, encoding, additional_tokens=additional, backend=backend, kind=meta["tokenizer"])


def _with_tokens(encoding, tokens):
    """An encoding with more special tokens, {token: id}."""
    import tiktoken
    taken = set(encoding._mergeable_ranks.values()) | set(encoding._special_tokens.values())
    for token, i in tokens.items():
        if type(i) is not int or not 0 <= i < 2**32 or i in taken or not token:
            raise UserError(f"additional token {token!r} has id {i!r}; it must be a whole number that is free, from "
                            f"{encoding.n_vocab:,} on, below 2**32")
        taken.add(i)
    in_order = sorted(tokens)
    for token, longer in zip(in_order, in_order[1:]):  # those that begin with a token follow it
        if longer.startswith(token):
            raise UserError(f"additional token {token!r} is the beginning of {longer!r}: which one stands in a text "
                            f"could not be told")
    return tiktoken.Encoding(f"{encoding.name}+{len(tokens)}", pat_str=encoding._pat_str,
                             mergeable_ranks=encoding._mergeable_ranks,
                             special_tokens={**encoding._special_tokens, **tokens})


# between a letter or digit and a newline, or before one space and an ASCII letter: no pattern of tiktoken's spans these
BORDERS_KNOWN = {"gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony", "bpe"}
BORDER = re.compile(r"(?<=[^\W_])(?=\n)|(?<=\S)(?= [A-Za-z])")


def _last_border(text, end):
    """The last border of text before `end`, above 0; 0 where there is none."""
    size = 256
    while end > 0:
        start = max(0, end - size)
        found = 0
        for match in BORDER.finditer(text, start, end):  # it sees one character to the left of start
            if 0 < match.start() < end:
                found = match.start()
        if found or not start:
            return found
        end, size = start + 1, size * 8
    return 0


class TableTokenizer:
    """A table of tokens, str or bytes: decode by it, encode by the longest match in it.

    Also what meta.pkl alone can say of a tokenizer of one's own.
    """
    kind = "custom"
    workers = "processes"

    def __init__(self, itos, eot_token=None):
        self.eot_token = eot_token
        self.itos = tables(itos)["itos"]
        self.vocab_size = max(self.itos) + 1
        self._id_of, self._inside = {}, np.zeros((256, 256), dtype=bool)  # two bytes that follow one another in a token
        for i, token in self.itos.items():
            raw = as_bytes(token)
            if i != eot_token:
                self._id_of.setdefault(raw, i)
            codes = np.frombuffer(raw, dtype=np.uint8)
            self._inside[codes[:-1], codes[1:]] = True
        self._lengths = {}  # first byte -> lengths of the tokens that begin with it, longest first
        for raw in self._id_of:
            if raw:
                self._lengths.setdefault(raw[0], set()).add(len(raw))
        self._lengths = {first: sorted(lengths, reverse=True) for first, lengths in self._lengths.items()}

    def encode(self, text):
        """(n,) int64, the longest token that matches at each place. Raises UnknownText where none does."""
        raw, at, ids = to_utf8(text), 0, []
        while at < len(raw):
            for length in self._lengths.get(raw[at], ()):
                if (token_id := self._id_of.get(raw[at : at + length])) is not None:
                    ids.append(token_id)
                    at += length
                    break
            else:
                before = len(raw[:at].decode("utf-8", errors="ignore"))
                raise UnknownText(f"no token of the vocabulary matches {text[before:][:10]!r} at position {{position}}"
                                  .replace("{", "{{").replace("}", "}}").replace("{{position}}", "{position}"), before)
        return np.array(ids, dtype=np.int64)

    def border(self, text):
        """The last place where two characters meet that follow one another in no token."""
        raw = np.frombuffer(to_utf8(text), dtype=np.uint8)
        is_border = ~self._inside[raw[:-1], raw[1:]] & (raw[1:] & 0xC0 != 0x80)
        if not is_border.any():
            return 0
        return len(raw[: len(raw) - 1 - int(is_border[::-1].argmax())].tobytes().decode("utf-8"))

    def decode(self, ids):
        try:
            return b"".join(as_bytes(self.itos[i]) for i in np.asarray(ids).tolist()).decode("utf-8", errors="replace")
        except KeyError as error:
            raise UserError(f"id {error} is not in itos") from None

    def to_meta(self):
        return {"tokenizer": self.kind, **tables(self.itos)}


class TokenList(TableTokenizer):
    """A list of tokens, in the order of their ids; byte_fallback: with the 256 bytes behind it, so that any text will do.

    tokens: strings. A text that they do not cover is an error at its first place, never left out.
    """
    kind = "token_list"

    def __init__(self, tokens, byte_fallback=False):
        tokens = list(tokens)
        in_order = sorted(tokens, key=as_bytes)
        if again := [one for one, other in zip(in_order, in_order[1:]) if one == other]:
            raise UserError(f"the list of tokens has {again[0]!r} twice")
        if not tokens or "" in tokens:
            raise UserError("the list of tokens is empty, or holds an empty token")
        known = {as_bytes(token) for token in tokens}
        tokens += [as_token(bytes([i])) for i in range(256) if bytes([i]) not in known] if byte_fallback else []
        super().__init__(tokens)

    @classmethod
    def from_file(cls, path, byte_fallback=False):
        """A JSON list (.json), or a token a line: spaces count, \\n \\t \\r \\\\ stand for those characters."""
        text = read_text(path)
        if str(path).endswith(".json"):
            tokens = read_json(path)
            if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
                raise UserError(f"{path} must hold a JSON list of strings")
        else:
            tokens = [typed(line.removesuffix("\r")) for line in text.split("\n")]
            tokens = [token for token in tokens if token]
        return cls(tokens, byte_fallback)


class SentencePieceTokenizer:
    """A SentencePiece model (its bytes): one given, or one trained here. Needs the package sentencepiece.

    Each line is encoded by itself, its "\n" included, with nothing put before it and no space taken away. A model that
    normalizes text (most do, but not those trained here) is refused for text that it would change.
    """
    workers = "processes"

    def __init__(self, model):
        sentencepiece = optional("sentencepiece", "a SentencePiece model")
        # a protobuf message; a field that comes again counts: normalizer_spec{add_dummy_prefix, remove_extra_whitespaces}
        plain = b"\x1a\x04\x18\x00\x20\x00"
        self.model = bytes(model).removesuffix(plain) + plain
        try:
            self._sp = sentencepiece.SentencePieceProcessor(model_proto=self.model)
            self.vocab_size = self._sp.get_piece_size()
            self._table = {i: self._token(i) for i in range(self.vocab_size)}
        except (RuntimeError, ValueError):  # a piece that is no UTF-8
            raise UserError("the SentencePiece model is damaged, or is none") from None
        self.eot_token = self._sp.eos_id() if self._sp.eos_id() >= 0 else None
        self._unknown = self._sp.unk_id()
        self._bytes = [self._sp.piece_to_id(f"<0x{i:02X}>") for i in range(256)]
        self._has_bytes = self._unknown not in self._bytes
        self._raw = [as_bytes(token) for token in self._table.values()]

    def _token(self, i):
        """What piece i stands for in a text."""
        if self._sp.is_byte(i):
            return as_token(bytes([int(self._sp.id_to_piece(i)[3:5], 16)]))
        return self._sp.id_to_piece(i).replace("\u2581", " ")

    def encode(self, text):
        """(n,) int64. Raises UnknownText for what the model would lose or change."""
        raw = to_utf8(text)
        lines = re.findall(r"[^\n]*\n|[^\n]+", text)
        found = [i for ids in map(self._encode_line, lines) for i in ids]
        if (back := b"".join([self._raw[i] for i in found])) != raw:
            at = len(os.path.commonprefix([back.decode("utf-8", errors="replace"), text]))
            raise UnknownText(f"the SentencePiece model would lose or change {text[at : at + 10]!a} at position "
                              .replace("{", "{{").replace("}", "}}") + "{position}", at)
        return np.array(found, dtype=np.int64)

    def _encode_line(self, line):
        """The model writes a space as U+2581: one that stands in the text goes byte by byte, as does NUL."""
        ids = []
        for part in re.split("([\u2581\0])", line):
            if part in ("\u2581", "\0") and self._has_bytes:
                ids += [self._bytes[byte] for byte in part.encode("utf-8")]
            elif part:
                ids += self._sp.encode(part)
        return ids

    def border(self, text):
        return text.rfind("\n") + 1

    def decode(self, ids):
        """Bytes that are no UTF-8 become U+FFFD."""
        try:
            return b"".join([self._raw[i] for i in np.asarray(ids).tolist()]).decode("utf-8", errors="replace")
        except IndexError:
            raise UserError(f"an id is not one of the model's {self.vocab_size:,}") from None

    def __reduce__(self):
        return type(self), (self.model,)

    def to_meta(self):
        return {"tokenizer": "sentencepiece", "sentencepiece_model": self.model, **tables(self._table)}


def tokenizer_meta(tokenizer):
    """to_meta() of ours; for a tokenizer of one's own (encode, decode, itos) the tables alone."""
    if hasattr(tokenizer, "to_meta"):
        return tokenizer.to_meta()
    if not getattr(tokenizer, "itos", None):
        raise UserError(f"{type(tokenizer).__name__} has no itos. Give your tokenizer an attribute itos: a list or "
                        f"dict, id -> token, so that sample.py can turn ids back into text")
    return {"tokenizer": "custom", **tables(tokenizer.itos)}


def tokenizer_from_meta(meta):
    """The tokenizer that a meta.pkl (its dict) describes, whoever wrote it."""
    kind, itos = meta.get("tokenizer"), tables(meta["itos"])["itos"] if meta.get("itos") else None
    if kind == "byte":
        return ByteTokenizer()
    if kind == "tiktoken" and "pat_str" not in meta:
        return _bpe_from_meta(meta)
    if kind == "sentencepiece" and "sentencepiece_model" in meta:
        return SentencePieceTokenizer(meta["sentencepiece_model"])
    if itos is None:
        raise UserError("meta.pkl has no itos, so its ids cannot be turned into text")
    if kind in ("tiktoken", "bpe"):
        return _bpe_from_meta({**meta, "itos": itos})
    if kind == "sentencepiece":  # written by another program, without its model: by the longest match in its pieces
        itos = {i: bytes([int(piece[3:5], 16)]) if re.fullmatch("<0x[0-9A-F]{2}>", piece) else
                piece.replace("\u2581", " ") for i, piece in itos.items() if isinstance(piece, str)}
    if kind == "token_list" and len(itos) == max(itos) + 1:
        return TokenList(itos[i] for i in sorted(itos))
    # nanoGPT's character folders name no tokenizer
    one_char = all(isinstance(t, str) and len(t) == 1 for t in itos.values()) and list(itos) == list(range(len(itos)))
    return CharTokenizer(itos.values()) if one_char and kind in (None, "char") else (
        TableTokenizer(itos, meta.get("eot_token")))


def token_text(meta, i):
    token = meta["itos"].get(i, "?") if isinstance(meta.get("itos"), dict) else str(i)
    token = token if isinstance(token, bytes) else str(token)[:200]
    return repr(token)[1:-1] if isinstance(token, str) else repr(token)
