"""Streams made of a text, one symbol a character: what a model can be trained on beside the text itself.

    cvp               consonant 3, vowel 2, punctuation 1, anything else _
    in_word_position  1, 2, 3, ... along a run of characters that are no blanks; _ for a blank
    since_newline     1, 2, 3, ... along a line; _ for a blank, a newline stays
    StreamMap(name, chars)                 a text's ids -> the stream's, at once or a character at a time
    write_stream(folder, name, text_of)    data/<text_of>, a prepared folder of characters, -> the folder of a stream
    prepare_stream(folder, doc, name, text_of)    the same for a prepare.py

These three are causal: the symbol of a character depends on it and those before it alone. After 64 positions the count
begins again. The alphabets are whole, whatever the text has of them, so ids mean the same in every folder. The parts of
speech (part_of_speech.py) are no function of the text so far; they are written by write_symbols() too.
"""
import string
import subprocess
import sys

import numpy as np

from data.catalogue import arguments
from data.dataset import dataset_folder, open_dataset, write_dataset
from data.errors import UserError
from data.inputs import Ids
from data.tokenizer import CharTokenizer, tokenizer_from_meta

POSITIONS = string.digits[1:] + string.ascii_uppercase + string.ascii_lowercase + "\u00a1\u00a2\u00a3"  # 64


def _cvp(c):
    return "1" if c in string.punctuation else "2" if c in "aeiouAEIOU" else "3" if c in string.ascii_letters else "_", True


def _in_word_position(c):
    return ("_", True) if c.isspace() else (None, False)


def _since_newline(c):
    return ("\n", True) if c == "\n" else ("_" if c.isspace() else None, False)


STREAMS = {  # name: its alphabet; a character -> (its symbol, None for its position; whether positions begin anew)
    "cvp": ("123_", _cvp),
    "in_word_position": ("_" + POSITIONS, _in_word_position),
    "since_newline": ("\n_" + POSITIONS, _since_newline),
}


class StreamMap:
    """The ids of a text of characters -> those of the stream `name`. A position is all that it remembers.

    chars: the characters of the text's vocabulary, in the order of their ids. Raises UserError for a name unknown here.

    >>> stream = StreamMap("in_word_position", "ab ")
    >>> ids, position = stream([0, 1, 2, 0])                    # "ab a"; `position` stands for all of it
    >>> "".join(stream.alphabet[i] for i in ids)
    '12_1'
    >>> ids, positions = stream.step(np.array([1, 2]), np.array([position, position]))  # "ab ab" and "ab a "
    >>> "".join(stream.alphabet[i] for i in ids)
    '2_'
    """

    def __init__(self, name, chars):
        if name not in STREAMS:
            raise UserError(f"there is no stream map {name!r} here; there are {', '.join(STREAMS)}")
        alphabet, rule = STREAMS[name]
        self.alphabet = sorted(alphabet)
        rules = [rule(c) for c in chars]
        positions = [self.alphabet.index(symbol) for symbol in POSITIONS if symbol in alphabet]
        self.keeps = np.array([not restarts for _, restarts in rules], dtype=np.int64)  # (V,) 0: positions begin anew
        self.table = np.array([positions if symbol is None else [self.alphabet.index(symbol)] * len(POSITIONS)
                               for symbol, _ in rules], dtype=np.uint8)  # (V, 64): the symbol at each position

    def step(self, ids, positions):
        """One character of each of B texts: ids and positions (B,) -> the symbols' ids, the new positions.

        Begin with positions of 0. Texts of any shape will do, and torch tensors, were table and keeps made such.
        """
        positions = (positions + 1) * self.keeps[ids]
        return self.table[ids, (positions - 1) % len(POSITIONS)], positions

    def __call__(self, ids, position=0):
        """Characters that follow one another: ids (n,) -> the symbols' ids (n,) uint8, the position after the last."""
        ids = np.asarray(ids)
        if not len(ids):
            return np.zeros(0, np.uint8), position
        index = np.arange(len(ids))
        begin = np.maximum.accumulate(np.where(self.keeps[ids], -1 - position, index))
        positions = index - begin
        return self.table[ids, (positions - 1) % len(POSITIONS)], int(positions[-1])


def prepare_stream(folder, doc, name, text_of):
    """All of a stream's prepare.py: no flags, and a text that is not prepared yet is got first, by its own prepare.py."""
    arguments(doc, tokenizer=None, download=False).parse_args()
    get_text(text_of)
    write_stream(folder, name, text_of)


def get_text(name):
    """Have data/<name> prepared, by its own prepare.py, where it is not."""
    folder = dataset_folder(name)
    if not (folder / "meta.pkl").exists() and (folder / "prepare.py").exists():
        if status := subprocess.run([sys.executable, folder / "prepare.py"]).returncode:
            sys.exit(status)  # it has said why


def write_stream(folder, name, text_of):
    """Write the stream `name` of the prepared data/<text_of> into folder, as long as that text in both splits.

    The key `stream` of its meta.pkl holds the map's name, the text's and the hashes of the text's bins. Raises
    UserError unless the text's tokens are characters.
    """
    text, tokenizer = open_text(text_of)
    stream = StreamMap(name, tokenizer.chars)
    goes_on = text.meta.get("split_rule", "characters") == "characters"  # val where train ends
    begin = {"train": 0, "val": 0}

    def arrays(split):  # train is read before val
        position = begin[split]
        for ids in text.blocks(split):
            symbols, position = stream(ids, position)
            yield symbols
        if split == "train" and goes_on:
            begin["val"] = position

    return write_symbols(folder, text, stream.alphabet, arrays, {"map": name}, what=name)


def open_text(name):
    """(Dataset, CharTokenizer) of data/<name>. Raises UserError where its tokens are no characters."""
    dataset = open_dataset(name)
    tokenizer = tokenizer_from_meta(dataset.meta)
    if not isinstance(tokenizer, CharTokenizer):
        raise UserError(f"{dataset.folder} has {dataset.meta.get('tokenizer')} tokens; streams are made of characters. "
                        f"Prepare it with --method char")
    return dataset, tokenizer


def write_symbols(folder, text, alphabet, arrays, stream, what):
    """Write a stream of the Dataset `text` into folder; returns its meta dict.

    alphabet: a sequence of symbols. arrays(split): arrays of their ids, one for each character. stream: what meta.pkl
    says of it beside the text. what: the same for the reader.
    """
    splits = text.meta.get("splits", {})
    train, val = (Ids(lambda split=split: arrays(split), size=text.num_tokens[split], name=what,
                      documents=splits.get(split, {}).get("documents")) for split in ("train", "val"))
    made_of = {"text": text.name, "text_sha256": text.fingerprint()}
    return write_dataset(folder, train, CharTokenizer(alphabet), val_text=val, num_workers=1,
                         source=f"{what} of {text.name} ({text.meta.get('source', 'unknown')})",
                         more={"stream": {**stream, **made_of}})
