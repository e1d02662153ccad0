"""Streams made of a text, one symbol a character: what a model can be trained on beside the text itself.

    cvp               consonant 3, vowel 2, punctuation 1, anything else _
    in_word_position  1, 2, 3, ... along a run of characters that are no blanks; _ for a blank
    since_newline     1, 2, 3, ... along a line; _ for a blank, a newline stays
    write_stream(folder, name, text_of)    data/<text_of>, a prepared folder of characters, -> the folder of a stream
    prepare_stream(folder, doc, name, text_of)    the same for a prepare.py

Each is causal: the symbol of a character depends on it and those before it alone. After 64 positions the count begins
again. The alphabets are whole, whatever the text has of them, so ids mean the same in every folder.
"""
import string
import subprocess
import sys

import numpy as np

from data.catalogue import arguments
from data.dataset import dataset_folder, open_dataset, write_dataset
from data.errors import UserError
from data.tokenizer import CharTokenizer, codes_of, tokenizer_from_meta

POSITIONS = string.digits[1:] + string.ascii_uppercase + string.ascii_lowercase + "\u00a1\u00a2\u00a3"  # 64
PUNCTUATION, VOWELS, LETTERS = (np.array([ord(c) for c in chars], dtype=np.uint32) for chars in (
    string.punctuation, "aeiouAEIOU", string.ascii_letters))


def _blanks(codes):
    """(n,) bool: the characters that str.isspace() takes for blanks."""
    distinct, which = np.unique(codes, return_inverse=True)
    return np.array([chr(c).isspace() for c in distinct.tolist()], dtype=bool)[which]


def _positions(codes, restart):
    """The position symbol of each character, the number of characters since the last one where restart (n,) is true."""
    index = np.arange(len(codes))
    last = np.maximum.accumulate(np.where(restart, index, -1))
    symbols = np.array([ord(c) for c in POSITIONS], dtype=np.uint32)
    return symbols[(index - last - 1) % len(POSITIONS)]


def _to_text(codes):
    return codes.astype("<u4").tobytes().decode("utf-32-le")


def cvp(text):
    codes = codes_of(text)
    out = np.full(len(codes), ord("_"), dtype=np.uint32)
    for symbol, chars in (("1", PUNCTUATION), ("3", LETTERS), ("2", VOWELS)):
        out[np.isin(codes, chars)] = ord(symbol)
    return _to_text(out)


def in_word_position(text):
    codes = codes_of(text)
    blanks = _blanks(codes)
    return _to_text(np.where(blanks, ord("_"), _positions(codes, blanks)))


def since_newline(text):
    codes = codes_of(text)
    newline = codes == ord("\n")
    out = np.where(_blanks(codes), ord("_"), _positions(codes, newline))
    return _to_text(np.where(newline, ord("\n"), out))


STREAMS = {  # name: its map, text -> text of equal length, and its alphabet
    "cvp": (cvp, "123_"),
    "in_word_position": (in_word_position, "_" + POSITIONS),
    "since_newline": (since_newline, "\n_" + POSITIONS),
}


class StreamTokenizer(CharTokenizer):
    """The characters of a stream's alphabet; meta.pkl gets to know what the stream is a function of."""

    def __init__(self, name, made_of):
        super().__init__(sorted(STREAMS[name][1]))
        self.stream = {"map": name, **made_of}

    def to_meta(self):
        return {**super().to_meta(), "stream": self.stream}


def prepare_stream(folder, doc, name, text_of):
    """All of a stream's prepare.py: no flags, and a text that is not prepared yet is got first, by its own prepare.py."""
    arguments(doc, tokenizer=None, download=False).parse_args()
    text_folder = dataset_folder(text_of)
    if not (text_folder / "meta.pkl").exists() and (text_folder / "prepare.py").exists():
        if status := subprocess.run([sys.executable, text_folder / "prepare.py"]).returncode:
            sys.exit(status)  # it has said why
    write_stream(folder, name, text_of)


def write_stream(folder, name, text_of):
    """Write the stream `name` of the prepared data/<text_of> into folder, as long as that text in both splits.

    The key `stream` of its meta.pkl holds the map's name, the text's and the hashes of the text's bins. Raises
    UserError unless the text's tokens are characters.
    """
    dataset = open_dataset(text_of)
    tokenizer = tokenizer_from_meta(dataset.meta)
    if not isinstance(tokenizer, CharTokenizer):
        raise UserError(f"{dataset.folder} has {dataset.meta.get('tokenizer')} tokens; streams are made of characters. "
                        f"Prepare it with --method char")
    train, val = (tokenizer.decode(dataset.tokens(split)) for split in ("train", "val"))
    if dataset.meta.get("split_rule", "characters") == "characters":  # val goes on where train ends
        out = STREAMS[name][0](train + val)
        train, val = out[: len(train)], out[len(train) :]
    else:
        train, val = STREAMS[name][0](train), STREAMS[name][0](val)
    made_of = {"text": dataset.name, "text_sha256": dataset.fingerprint()}
    return write_dataset(folder, train, StreamTokenizer(name, made_of), val_text=val,
                         source=f"{name} of {dataset.name} ({dataset.meta.get('source', 'unknown')})")
