"""Text <-> ids. Each tokenizer has

    encode(text) -> (n,) integer array      decode(ids) -> str
    vocab_size, the largest id + 1          eot_token, the id that ends a document, or None
    to_meta() -> dict of plain values, from which tokenizer_from_meta() builds it again, with no network

Ids are never dropped and nothing is normalised: decode(encode(text)) == text. A tokenizer of your own needs only
encode, decode and itos (id -> token; a list or a dict, str or bytes).
"""
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from data.download import DownloadError, download, open_package
from data.errors import UserError
from data.files import replacing


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
    digest = hashlib.sha256()
    for i in sorted(itos):
        raw = as_bytes(itos[i])
        digest.update(b"%d %d " % (i, len(raw)) + raw)
    return digest.hexdigest()


class CharTokenizer:
    """One id a character (Unicode code point), in the order of `chars`."""
    eot_token = None

    def __init__(self, chars):
        self.chars = list(chars)
        self.vocab_size = len(self.chars)
        self._codes = np.array([ord(c) for c in self.chars], dtype="<u4")
        size = max(256, int(self._codes.max()) + 2)
        self._id_of_code = np.full(size, self.vocab_size, dtype=np.min_scalar_type(self.vocab_size))  # no such character
        self._id_of_code[self._codes] = np.arange(self.vocab_size)

    @classmethod
    def from_text(cls, *texts):
        """The characters of all the texts, sorted by code point. texts: strings, or lists of strings."""
        seen = np.zeros(sys.maxunicode + 1, dtype=bool)
        for text in texts:
            if iter(text) is text:
                raise UserError("a generator can be read only once, and the characters must be known before the text is "
                                "written. Give a list, or take --method byte or tiktoken")
        texts = [piece for text in texts for piece in ([text] if isinstance(text, str) else text)]
        for text in texts:
            seen[codes_of(text)] = True
        if not seen.any():
            raise UserError("the text is empty, so it has no characters to make a vocabulary of")
        if seen[0xD800:0xE000].any():  # lone surrogates: say where
            for text in texts:
                to_utf8(text)
        return cls(map(chr, np.flatnonzero(seen)))

    def encode(self, text):
        """(len(text),) integers. Raises UserError at the first character outside the vocabulary, with its position."""
        codes = codes_of(text)
        ids = self._id_of_code[codes if codes.itemsize == 1 else np.minimum(codes, len(self._id_of_code) - 1)]
        unknown = ids == self.vocab_size
        if unknown.any():
            at = int(unknown.argmax())
            raise UserError(f"character {text[at]!r} at position {at:,} is not in the "
                            f"{self.vocab_size}-character vocabulary")
        return ids

    def decode(self, ids):
        return self._codes[np.asarray(ids, dtype=np.int64)].tobytes().decode("utf-32-le")

    def to_meta(self):
        return {"tokenizer": "char", **tables(self.chars)}


class ByteTokenizer:
    """One id a byte of the text's UTF-8: 256 ids, any text."""
    vocab_size = 256
    eot_token = None

    def encode(self, text):
        return np.frombuffer(to_utf8(text), dtype=np.uint8)

    def decode(self, ids):
        """Bytes that are no UTF-8 (a model may well write them) become U+FFFD."""
        return np.asarray(ids, dtype=np.uint8).tobytes().decode("utf-8", errors="replace")

    def to_meta(self):
        return {"tokenizer": "byte", **tables([as_token(bytes([i])) for i in range(256)])}


class TiktokenTokenizer:
    """OpenAI's byte-pair encodings, by tiktoken: gpt2, r50k_base, p50k_base, p50k_edit, cl100k_base, o200k_base, ..."""

    def __init__(self, name="gpt2", encoding=None):
        self.name = name
        self._encoding = encoding or get_encoding(name)
        self.vocab_size = self._encoding.n_vocab
        self.eot_token = self._encoding._special_tokens.get("<|endoftext|>")

    def encode(self, text):
        """(n,) uint32, as encode_ordinary: a special token's name in the text is text, not the token."""
        to_utf8(text)
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def decode(self, ids):
        """Ids that spell no UTF-8 become U+FFFD; ids in a gap of the vocabulary are a UserError."""
        try:
            return self._encoding.decode(np.asarray(ids).tolist())
        except KeyError as error:
            raise UserError(f"id {error} is not a token of {self.name}") from None

    def to_meta(self):
        encoding = self._encoding
        itos = {i: as_token(raw) for raw, i in encoding._mergeable_ranks.items()}
        itos |= {i: token for token, i in encoding._special_tokens.items()}
        meta = {"tokenizer": "tiktoken", "tiktoken_encoding": self.name, "pat_str": encoding._pat_str,
                "special_tokens": dict(encoding._special_tokens), **tables(dict(sorted(itos.items())))}
        meta["stoi"] |= encoding._special_tokens  # two of o200k_harmony's share an id
        return meta

    @classmethod
    def from_meta(cls, meta):
        name = meta["tiktoken_encoding"]
        if "pat_str" not in meta:  # written by another program: only the name is there
            return cls(name)
        import tiktoken
        special_tokens = meta["special_tokens"]
        ids = set(special_tokens.values())
        ranks = {as_bytes(token): i for i, token in meta["itos"].items() if i not in ids}
        return cls(name, tiktoken.Encoding(name, pat_str=meta["pat_str"], mergeable_ranks=ranks,
                                           special_tokens=special_tokens))


class TableTokenizer:
    """What meta.pkl alone can say of a tokenizer of one's own: decode by itos, encode by the longest match in it."""

    def __init__(self, itos, eot_token=None):
        self.eot_token = eot_token
        self.itos = tables(itos)["itos"]
        self.vocab_size = max(self.itos) + 1
        self._id_of = {}
        for i, token in self.itos.items():
            self._id_of.setdefault(as_bytes(token), i)
        self._lengths = sorted({len(raw) for raw in self._id_of} - {0}, reverse=True)

    def encode(self, text):
        """(n,) int64, the longest token that matches at each place. Raises UserError where none does."""
        raw, at, ids = to_utf8(text), 0, []
        while at < len(raw):
            for length in self._lengths:
                if (token_id := self._id_of.get(raw[at : at + length])) is not None:
                    ids.append(token_id)
                    at += length
                    break
            else:
                before = raw[:at].decode("utf-8", errors="ignore")
                raise UserError(f"no token of the vocabulary matches {text[len(before) :][:10]!r} at position "
                                f"{len(before):,}")
        return np.array(ids, dtype=np.int64)

    def decode(self, ids):
        try:
            return b"".join(as_bytes(self.itos[i]) for i in np.asarray(ids).tolist()).decode("utf-8", errors="replace")
        except KeyError as error:
            raise UserError(f"id {error} is not in itos") from None


def make_tokenizer(method, *texts, tiktoken_encoding="gpt2"):
    """The tokenizer of a --method: `char` (over the texts' characters), `byte` or `tiktoken`."""
    if method == "char":
        return CharTokenizer.from_text(*texts)
    return ByteTokenizer() if method == "byte" else TiktokenTokenizer(tiktoken_encoding)


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
    if kind == "tiktoken":
        return TiktokenTokenizer.from_meta(meta)
    if itos is None:
        raise UserError("meta.pkl has no itos, so its ids cannot be turned into text")
    # nanoGPT's character folders name no tokenizer
    one_char = all(isinstance(t, str) and len(t) == 1 for t in itos.values()) and list(itos) == list(range(len(itos)))
    return CharTokenizer(itos.values()) if one_char and kind in (None, "char") else (
        TableTokenizer(itos, meta.get("eot_token")))


# ---- the rank files of tiktoken's encodings: cache, OpenAI's host, a package

RANKS_URL = "https://openaipublic.blob.core.windows.net/encodings/"
WHISPER = ("mlx-whisper==0.4.3", "6b82b6597a994643a3e5496c7bc229a672e5ca308458455bfe276e76ae024489")
LITELLM = ("litellm==1.80.0", "fd0009758f4772257048d74bf79bb64318859adb4ea49a8b66fdbc718cd80b6e")
RANKS = {  # file: its sha256 (as in tiktoken), a package that ships it and that wheel's sha256, its path in there
    "r50k_base": ("306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
                  WHISPER, "mlx_whisper/assets/gpt2.tiktoken"),
    "p50k_base": ("94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
                  LITELLM, "litellm/litellm_core_utils/tokenizers/ec7223a39ce59f226a68acc30dc1af2788490e15"),
    "cl100k_base": ("223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
                    LITELLM, "litellm/litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4"),
    "o200k_base": ("446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
                   LITELLM, "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790"),
}
RANKS_OF = {"gpt2": "r50k_base", "p50k_edit": "p50k_base", "o200k_harmony": "o200k_base"}  # encodings that share a file


def get_encoding(name):
    """tiktoken's encoding, its rank file fetched first where tiktoken's cache lacks it. Raises UserError."""
    import tiktoken
    import tiktoken.registry
    if name not in tiktoken.list_encoding_names():
        raise UserError(f"tiktoken has no encoding {name!r}; it has {', '.join(tiktoken.list_encoding_names())}")
    if (ranks := RANKS_OF.get(name, name)) in RANKS:
        _fill_cache(ranks)
    if name == "gpt2":  # the same ranks and pattern as r50k_base, in one file instead of two
        constructor = tiktoken.registry.ENCODING_CONSTRUCTORS["r50k_base"]
        return tiktoken.Encoding(**{**constructor(), "name": "gpt2"})
    return tiktoken.get_encoding(name)


def _fill_cache(ranks):
    """Put a rank file where tiktoken looks first, <cache>/<sha1 of its address>: from its host, else from a package."""
    cache = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if cache == "":  # the user has turned tiktoken's cache off
        return
    url, (sha256, package, member) = f"{RANKS_URL}{ranks}.tiktoken", RANKS[ranks]
    cache = Path(cache or Path(tempfile.gettempdir()) / "data-gym-cache")
    path = cache / hashlib.sha1(url.encode()).hexdigest()
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        return
    cache.mkdir(parents=True, exist_ok=True)
    try:
        download(url, path, sha256=sha256, tries=2)
    except DownloadError as error:
        with open_package(*package, why=error) as wheel, replacing(path) as file:
            file.write(wheel.read(member))
