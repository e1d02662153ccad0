"""What all tokenizers share: tables of tokens and their hash, texts as bytes, and the error for
text that a vocabulary lacks."""
import hashlib
import json

import numpy as np

from pipeline.errors import UserError
from pipeline.files import read_text

# the letters that stand for the bytes 0 to 255 in published BPE vocabularies, which hold no blanks
# and no control characters: printable bytes stand for themselves, the others for U+0100 and after
_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_LETTERS = [chr(byte if byte in _PRINTABLE else 256 + _OTHERS.index(byte))
                for byte in range(256)]


class Marker(str):
    """The name of a special token of the tokenizer. As the text of a part it becomes that token's
    id; the same characters in a plain string stay text."""

    def __add__(self, other):
        raise UserError(f"the special token {self!r} and a text are joined by +, which would make "
                        f"text of both. Let them be two parts of the document: "
                        f"(Marker({self!r}), False), ({other!r:.40}, False)")

    __radd__ = __add__


def plain_text(document):
    """The text of a document, a string or a list of parts (text, learned), without its markers."""
    if isinstance(document, str):
        return document
    return "".join(text for text, _ in document if not isinstance(text, Marker))


class UnknownText(UserError):
    """Text that the vocabulary lacks, at a position (in characters) of what was encoded.

    message: two parts, between which the position stands.
    """

    def __init__(self, message, position):
        super().__init__(f"{message[0]} at position {position:,}{message[1]}")
        self.message, self.position = message, position

    def __reduce__(self):  # worker processes send it
        return type(self), (self.message, self.position)


def to_utf8(text):
    """The text as UTF-8 bytes. Raises UserError for a lone surrogate, which is half of a character
    that a wrong decoder has left."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at "
                        f"position {error.start:,}, which is not valid Unicode. Decode the source "
                        f"as UTF-8") from None


def codes_of(text):
    """The code point of each character: (len(text),) uint8 for ASCII text, else uint32."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def as_token(raw):
    """A token's bytes as itos holds them: str where they are valid UTF-8, else bytes."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def as_bytes(token):
    return token if isinstance(token, bytes) else token.encode("utf-8")


def tables(itos):
    """meta.pkl's vocab_size, stoi and itos, from a list or dict of str or bytes tokens."""
    items = itos.items() if isinstance(itos, dict) else enumerate(itos)
    itos = {int(i): bytes(token) if isinstance(token, bytes) else str(token) for i, token in items}
    stoi = {}
    for i, token in itos.items():
        stoi.setdefault(token, i)  # of equal tokens the first one counts
    return {"vocab_size": max(itos) + 1, "stoi": stoi, "itos": itos}


def table_of(meta):
    """{id: token} of a meta.pkl's dict. Raises UserError where it has no itos."""
    if not meta.get("itos"):
        raise UserError("meta.pkl has no itos, so its ids cannot be turned into text")
    return tables(meta["itos"])["itos"]


def table_hash(itos):
    """sha256 of an id -> token table: equal exactly where the ids mean the same."""
    tokens = [(i, as_bytes(itos[i])) for i in sorted(itos)]
    table = b"".join([b"%d %d %b" % (i, len(raw), raw) for i, raw in tokens])
    return hashlib.sha256(table).hexdigest()


def token_text(meta, i):
    """Token i of a meta.pkl's dict for a person to read, in one line; "?" where itos lacks it."""
    token = meta["itos"].get(i, "?") if isinstance(meta.get("itos"), dict) else str(i)
    return repr(token) if isinstance(token, bytes) else repr(str(token)[:200])[1:-1]


def read_json(path):
    """The value in a JSON file. Raises UserError where it is not JSON, or not valid Unicode."""
    try:
        value = json.loads(read_text(path))
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError:
        raise UserError(f"{path} holds half a character (a lone surrogate)") from None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
