"""Causal stream maps: the symbol of a character as a function of the text so far.
"""
import string

import numpy as np

from pipeline.errors import UserError

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
