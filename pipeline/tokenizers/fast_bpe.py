"""gigatoken (in Rust, optional) in place of tiktoken: the same ids at 10 to 20 times the speed.

gigatoken cuts a text into words by code of its own, tiktoken by a regular expression, and the two
know different versions of Unicode. So gigatoken gets only stretches of PROVEN characters, and
tiktoken encodes the rest. The bins are the same with and without gigatoken. tests/test_fast_bpe.py
tries each proven character in every kind of neighbourhood.
"""
import base64
import contextlib
import tempfile
import threading
from pathlib import Path

import numpy as np

from pipeline.errors import UserError

VERSION = "0.10.0"  # the version that was tried
# name of an encoding: gigatoken's rule for words. The p50k encodings are missing because gigatoken
# refuses gaps among the merges
PRETOKENIZER = {"gpt2": "gpt2", "r50k_base": "gpt2", "bpe": "gpt2", "cl100k_base": "cl100k",
                "o200k_base": "o200k", "o200k_harmony": "o200k"}
PROVEN = (
    (0x0000, 0x07FF), (0x0900, 0x097F), (0x0E00, 0x0E7F),  # Latin to Arabic; Devanagari; Thai
    (0x1E00, 0x27BF),  # Latin and Greek with marks, punctuation, symbols
    (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),  # kana, Chinese characters, Hangul
    (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF))  # variants, full width, emoji
ASCII = bytes(range(128))
PIECE = 1 << 16  # characters that one character outside PROVEN sends to tiktoken


class FastBPE:
    """A tiktoken encoding whose text gigatoken encodes where the ids are proven to be the same."""
    name = f"gigatoken {VERSION}"

    def __init__(self, encoding, pretokenizer):
        import gigatoken
        self.encoding = encoding
        self.proven = np.zeros(0x110000, dtype=bool)
        for first, last in PROVEN:
            self.proven[first : last + 1] = True
        merges = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
        lines = (b"%s %d\n" % (base64.b64encode(token), i) for token, i in merges)
        with _as_file(b"".join(lines)) as path:
            self.fast = gigatoken.Tokenizer.from_tiktoken(path, pretokenizer, {})
        # gigatoken refuses a second thread, and while it works no other thread runs
        self.one_at_a_time = threading.Lock()

    def encode(self, raw, border):
        """(n,) uint32. raw: a text in UTF-8. border: the tokenizer's, which says where to cut."""
        if self._is_proven(raw):
            return self._fast(raw)
        text, found, at = raw.decode("utf-8"), [], 0
        while at < len(text):
            size, cut = PIECE, 0
            while at + size < len(text) and not (cut := border(text[at : at + size])):
                size *= 2
            piece = text[at : at + (cut or size)]
            if self._is_proven(raw := piece.encode("utf-8")):
                found.append(self._fast(raw))
            else:
                found.append(self.encoding.encode_to_numpy(piece, disallowed_special=()))
            at += len(piece)
        return np.concatenate(found)

    def _is_proven(self, raw):
        if raw.isascii():
            return True
        others = raw.translate(None, ASCII).decode("utf-8")
        return bool(self.proven[np.frombuffer(others.encode("utf-32-le"), dtype="<u4")].all())

    def _fast(self, raw):
        with self.one_at_a_time:
            return self.fast.encode(raw)


@contextlib.contextmanager
def _as_file(raw):
    """A path from which raw can be read, because gigatoken takes merges from files only. Where the
    system has files without a name, a kill leaves nothing behind."""
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        file.seek(0)
        path = Path(f"/dev/fd/{file.fileno()}")
        if path.exists():
            yield path
            return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "merges.tiktoken"
        path.write_bytes(raw)
        yield path


def fast_encoder(backend, name, encoding, additional_tokens):
    """A FastBPE for the encoding, or None where tiktoken encodes. backend: auto, tiktoken,
    gigatoken.

    Raises UserError where gigatoken is asked for by name and cannot encode it.
    """
    if backend == "tiktoken":
        return None
    import importlib.metadata  # takes 12 ms, which most starts of a prepare.py need not wait
    version = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("gigatoken")
    if additional_tokens:
        why = "gigatoken supports no additional tokens"
    elif name not in PRETOKENIZER:
        why = f"gigatoken does not support the encoding {name}"
    elif version != VERSION:
        why = (f"only gigatoken {VERSION} is proven to give tiktoken's ids, and the version "
               f"installed here is {version or 'none'}. Run: pip install gigatoken=={VERSION}")
    else:
        return FastBPE(encoding, PRETOKENIZER[name])
    if backend == "gigatoken":
        raise UserError(f"{why}. Or use --backend tiktoken")
    return None
