"""Places where a text may be cut in two without changing an id, in every script.

A byte-pair encoding first cuts a text into words by a pattern, and merges bytes within each. So a
cut is safe where a word ends whatever comes before and after, and where the words on the left are
the same without what is on the right. Of tiktoken's patterns, and of those that published models
share, this is true

    before a space that follows anything but white space: a word takes a space in only as its first
        character
    between a letter or digit and a line end, punctuation or a symbol: they share a word only in
        contractions such as 's
    after a single line end, unless a slash follows, which one pattern takes into the same word

A newer Unicode makes letters of characters that were unassigned, so a character counts as
punctuation only where Python knows that it is. tests/test_borders.py tries each character of
Unicode on both sides of each kind of border.
"""
import functools
import re
import unicodedata


@functools.cache
def _border():
    """The compiled pattern, which matches the empty text at a border. It takes 0.03 s to make."""
    found = []  # [first, last] of each range of punctuation and symbols
    for code in range(0x20000):  # there is none beyond
        if unicodedata.category(chr(code))[0] in "PS" and code != ord("'"):
            if found and found[-1][1] == code - 1:
                found[-1][1] = code
            else:
                found.append([code, code])
    signs = "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in found)
    return re.compile(rf"(?<=\S)(?= )|(?<=[^\W_])(?=\r?\n|[{signs}])|(?<=\S\n)(?=[^\s/])")


def last_border(text, tokens=()):
    """The last border in a text; 0 where there is none. tokens: strings that are never cut."""
    # the text may end within a token, so stay the longest one away from its end
    at = _last_before(text, len(text) - max(map(len, tokens), default=1) + 1)
    while at and any(token in text[max(0, at - len(token) + 1) : at + len(token) - 1]
                     for token in tokens):
        at = _last_before(text, at)
    return at


def _last_before(text, end):
    """The last border in text[1:end]. It is usually near the end, so ever larger pieces are
    searched from there."""
    size = 256
    while end > 0:
        start = max(0, end - size)
        # a match at `start` looks two characters to the left of it
        found = [match.start() for match in _border().finditer(text, start, end)]
        if (found := [at for at in found if 0 < at < end]) or not start:
            return found[-1] if found else 0
        end, size = start + 1, size * 8
    return 0


# ---- tokenizers without words


def neighbours(tokens):
    """The pairs of characters that follow one another in some token; of a token that is not UTF-8,
    the pairs of its bytes."""
    found = set()
    for token in tokens:
        found.update(token[at : at + 2] for at in range(len(token) - 1))
    return found


def last_apart(text, pairs):
    """The last place between two characters that are in no token side by side, by neighbours();
    0 where there is none. No token that is merged or matched extends over it."""
    for at in range(len(text) - 1, 0, -1):
        left, right = text[at - 1 : at], text[at : at + 1]
        if left + right not in pairs and left.encode()[-1:] + right.encode()[:1] not in pairs:
            return at
    return 0
