"""One text -> its documents, cut where a separator stands.

    separated(texts, "blank_lines")   chunks of a text -> its documents, as strings
"""
import re

from pipeline.errors import UserError

END_OF_TEXT = "<|endoftext|>"
LONGEST = 4096  # characters of a separator; what is longer may be found to be several
BEFORE = 64  # characters before a place that a pattern may look back at
NAMED = {"lines": r"\n", "blank_lines": r"\n(?:[ \t]*\r?\n)+"}


def pattern_of(separator):
    """The compiled pattern of a separator. Raises UserError for one that cannot be.

    separator: "lines" (each line is a document), "blank_lines", "re:" and a regular expression, or
    any other text: a line that holds it and nothing else.
    """
    pattern = NAMED.get(separator)
    if pattern is None and separator.startswith("re:"):
        pattern = separator[3:]
    elif pattern is None:
        # that a line begins here is checked last: Python searches fast for what begins with letters
        text = re.escape(separator)
        pattern = rf"{text}(?<![^\n]{text})[ \t]*\r?(?:\n|\Z)"
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise UserError(f"--document_separator {separator!r} is no regular expression: "
                        f"{error}") from None
    if not separator.strip() or compiled.match(""):
        raise UserError(f"--document_separator {separator!r} cannot be. Give lines, blank_lines, "
                        f"the text of a line, or re: and a regular expression that does not match "
                        f"an empty text")
    return compiled


def separated(texts, separator):
    """The documents of a text, given in chunks of any size, without the separators and without the
    line break that ends a document. Empty ones are left out. What a regular expression does not
    match is kept to the character.

    In memory is one document at a time, and the chunk that its end is looked for in.
    """
    pattern, keeps_all = pattern_of(separator), separator.startswith("re:")
    for document in _between(texts, pattern):
        if not keeps_all:
            document = document.removesuffix("\n").removesuffix("\r")
        if document:
            yield document


def _between(texts, pattern):
    """What is between the matches of a pattern."""
    held, tail, begin = [], "", 0  # held + tail[begin:]: the document so far
    for text, is_last in _with_last(texts):
        tail += text
        # a match that ends close to the end of a chunk could be longer with the next one
        safe = len(tail) if is_last else len(tail) - LONGEST
        for match in pattern.finditer(tail, begin):
            if match.end() > safe:
                break
            yield "".join([*held, tail[begin : match.start()]])
            held, begin = [], match.end()
        # no separator can begin before `done` any more
        done = max(begin, safe - LONGEST)
        held.append(tail[begin:done])
        first = max(0, done - BEFORE)
        tail, begin = tail[first:], done - first
    yield "".join(held) + tail[begin:]


def _with_last(items):
    """(item, whether it is the last) of each."""
    items = iter(items)
    for held in items:
        for item in items:
            yield held, False
            held = item
        yield held, True
