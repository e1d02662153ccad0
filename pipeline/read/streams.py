"""Causal stream maps: the symbol of each character, as a function of the text up to it."""
import string

import numpy as np

from pipeline.errors import UserError

# 64 symbols for the positions 1 to 64
POSITIONS = f"{string.digits[1:]}{string.ascii_uppercase}{string.ascii_lowercase}\u00a1\u00a2\u00a3"


def _cvp(c):
    if c in string.punctuation:
        return "1", True
    return "2" if c in "aeiouAEIOU" else "3" if c in string.ascii_letters else "_", True


def _in_word_position(c):
    return ("_", True) if c.isspace() else (None, False)


def _since_newline(c):
    return ("\n", True) if c == "\n" else ("_" if c.isspace() else None, False)


# name: its alphabet, and a function of a character -> (its symbol, or None for the symbol of its
# position; whether positions begin anew there)
STREAMS = {
    "cvp": ("123_", _cvp),
    "in_word_position": ("_" + POSITIONS, _in_word_position),
    "since_newline": ("\n_" + POSITIONS, _since_newline),
}


class StreamMap:
    """Maps the ids of characters to the ids of the stream `name`; all it remembers is a position.

    chars: the characters of the text's vocabulary, in the order of their ids. Raises UserError for
    an unknown name.

    >>> stream = StreamMap("in_word_position", "ab ")
    >>> ids, position = stream([0, 1, 2, 0])          # "ab a"; the position stands for all of it
    >>> "".join(stream.alphabet[i] for i in ids)
    '12_1'
    >>> ids, positions = stream.step(np.array([1, 2]), np.array([position, position]))
    >>> "".join(stream.alphabet[i] for i in ids)      # the last of "ab ab" and of "ab a "
    '2_'
    """

    def __init__(self, name, chars):
        if name not in STREAMS:
            raise UserError(f"there is no stream map {name!r}; there are {', '.join(STREAMS)}")
        alphabet, rule = STREAMS[name]
        self.alphabet = sorted(alphabet)
        rules = [rule(c) for c in chars]
        positions = [self.alphabet.index(symbol) for symbol in POSITIONS if symbol in alphabet]
        # (V,): 1 where the position goes on after the character, 0 where it begins anew
        self.keeps = np.array([not restarts for _, restarts in rules], dtype=np.int64)
        # (V, 64): the id of the symbol of each character at each position
        self.table = np.empty((len(rules), len(POSITIONS)), dtype=np.uint8)
        for row, (symbol, _) in zip(self.table, rules):
            row[:] = positions if symbol is None else self.alphabet.index(symbol)

    def step(self, ids, positions):
        """One more character of each of B texts: ids and positions, (B,) -> (ids of the symbols,
        new positions). A text begins at position 0."""
        positions = (positions + 1) * self.keeps[ids]
        return self.table[ids, (positions - 1) % len(POSITIONS)], positions

    def __call__(self, ids, position=0):
        """Consecutive characters: ids (n,) -> (ids of symbols (n,) uint8, last position)."""
        ids = np.asarray(ids)
        if not len(ids):
            return np.zeros(0, np.uint8), position
        index = np.arange(len(ids))
        # where the count that holds at each character began; -1 - position is before the first
        begin = np.maximum.accumulate(np.where(self.keeps[ids], -1 - position, index))
        positions = index - begin
        return self.table[ids, (positions - 1) % len(POSITIONS)], int(positions[-1])
