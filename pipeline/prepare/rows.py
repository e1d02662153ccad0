"""The rows of a table that is text, one at a time, in bounded memory: JSON lines, JSON, CSV, TSV.

    rows_of(format, texts, ...)   (Place, row) pairs; a row is a dict, a JSON value, or a BadRow

CSV follows RFC 4180: a cell in quotes may hold commas, doubled quotes and line ends. TSV follows
IANA's text/tab-separated-values: no quotes, a row a line. Some programs write tabs and quotes
(--quoting csv); databases write a backslash before special characters (--quoting backslash).
Neither is ever guessed.
"""
import csv
import itertools
import json
import re
import sys
from typing import NamedTuple

from pipeline.errors import UserError, printable

QUOTINGS = ("csv", "none", "backslash")
LONG_CELL = 50  # lines; a longer cell may have swallowed rows, so a note mentions it
SHOWN = 3  # notes of each kind


class BadRow(str):
    """What is wrong with a row, in the row's place. num_rows: how many rows were lost with it."""

    def __new__(cls, why, num_rows=1):
        self = super().__new__(cls, why)
        self.num_rows = num_rows
        return self


class Place(NamedTuple):
    """Where a row lies in its file, counted from 1. last: the last of several lines, else 0."""
    what: str
    number: int
    last: int = 0

    def __str__(self):
        return f"{self.what} {self.number:,}" + (f" to {self.last:,}" if self.last else "")


def rows_of(format, texts, path, *, quoting=None, delimiter=None, columns=None, no_header=False,
            short=False, rows_in=None, note=print):
    """Yield (Place, row) for each row.

    texts: the text of the file in consecutive strings. columns: the names of the columns, if the
    first line is a row already; no_header: it is one, and their names are 1, 2, 3, ... short: a row
    may lack its last cells, which are None. rows_in: the keys, with dots between, under which a
    JSON object has its array of rows. note: a function that prints a line. See QUOTINGS for
    quoting.
    """
    texts = iter(texts)
    if format == "json":
        return _json(texts, path, rows_in.split(".") if rows_in else [])
    first = next(texts, "")
    unquoted = re.sub('"[^"]*"', "", first)
    line_end = "\r" if "\r" in unquoted and "\n" not in unquoted else "\n"  # old Macs wrote "\r"
    lines = _lines(itertools.chain([first], texts), line_end)
    if format == "jsonl":
        return _jsonl(lines)
    if format not in ("csv", "tsv") or quoting not in (None, *QUOTINGS):
        raise ValueError(f"the format {format!r} or the quoting {quoting!r} is unknown")
    head = next(lines, "")
    if by_excel := re.fullmatch("sep=(.)\r?", head):
        delimiter, head = delimiter or by_excel[1], ""  # an empty line is skipped
    default = "," if format == "csv" else "\t"
    if not delimiter and not columns and not no_header:
        _refuse_other_delimiter(head, default, path)
    delimiter, lines = delimiter or default, itertools.chain([head], lines)
    header = _Header(path, columns, no_header, short)
    if quoting == "csv" or format == "csv" and quoting != "none":
        return _quoted(lines, line_end, delimiter, header, path, note, quoting == "backslash")
    return _unquoted(lines, delimiter, header, path, quoting)


def _refuse_other_delimiter(head, default, path):
    found = max(",\t;|", key=head.count)
    if head.count(found) > head.count(default):
        how = {"\t": "--format tsv", ",": "--format csv"}.get(found, f"--delimiter '{found}'")
        raise UserError(f"{path}: its first line, {head[:60]!r}, has {head.count(found)} {found!r} "
                        f"and {head.count(default)} {default!r}. Add {how} (or, if {default!r} "
                        f"separates the columns, --delimiter {default!r})")


def _lines(texts, line_end):
    """The lines of a text, without their ends."""
    rest = []
    for text in texts:
        first, *others = text.split(line_end)
        rest.append(first)
        if others:
            yield "".join(rest)
            yield from others[:-1]
            rest = [others[-1]]
    if last := "".join(rest):
        yield last


def _jsonl(lines):
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = BadRow(f"it is not JSON ({error})")
            yield Place("line", number), row


# ---- JSON


def _json(texts, path, keys=()):
    """The elements of an array, or values one after another. One of them is in memory at a time.
    keys: of the objects around the array, the outermost first."""
    reader, number = _JsonReader(texts), 0
    for key in keys:
        _enter(reader, key, path)
    in_array = reader.skip("[")
    if keys and not in_array:
        raise UserError(f"{path}: there is no array of rows under the key {keys[-1]!r}")
    while reader.next_character() and not (in_array and reader.next_character() == "]"):
        number += 1
        yield Place("element", number), reader.next_value(f"{path}: element {number:,}")
        if in_array and not reader.skip(",") and reader.next_character() != "]":
            raise UserError(f"{path} is cut short, or not a JSON array: , or ] must follow element "
                            f"{number:,}")
    if in_array and not reader.skip("]"):
        raise UserError(f"{path} is cut short: its array has no end")
    for _ in keys:
        while reader.skip(","):
            _next_key(reader, path)
            reader.next_value(f"{path}: a value after the rows")
        if not reader.skip("}"):
            raise UserError(f"{path} is cut short after its rows: an object has no end")
    if reader.next_character():
        raise UserError(f"{path} continues after the end of its array")


def _enter(reader, key, path):
    """Go to the value of a key of the next object. Raises UserError where there is none."""
    found = []
    if reader.skip("{"):
        while reader.next_character() == '"':
            found.append(_next_key(reader, path))
            if found[-1] == key:
                return
            reader.next_value(f"{path}: the value of {found[-1]!r}")
            reader.skip(",")
    has = printable(", ".join(found), 200) or "none"
    raise UserError(f"{path} has no key {key!r} (its keys: {has}), which --rows_in names")


def _next_key(reader, path):
    key = reader.next_value(f"{path}: a key")
    if not isinstance(key, str) or not reader.skip(":"):
        raise UserError(f"{path} is not JSON: a string and : must follow {{ or , in an object")
    return key


class _JsonReader:
    """The part of a JSON text that is in memory, and the place in it."""

    def __init__(self, texts):
        self.texts, self.text, self.at, self.decoder = texts, "", 0, json.JSONDecoder()

    def more(self):
        """Read on; False at the end. The text doubles, so that no value is parsed many times."""
        texts, size = [self.text[self.at :]], 0
        for text in self.texts:
            texts.append(text)
            if (size := size + len(text)) >= len(texts[0]):
                break
        if size:  # else the place of next_value() must still count
            self.text, self.at = "".join(texts), 0
        return size > 0

    def next_character(self):
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def skip(self, character):
        """Whether this is the next character, which is then behind us."""
        found = self.next_character() == character
        self.at += found
        return found

    def next_value(self, where):
        self.next_character()  # blanks go before a value
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                # near the end of the text, a number such as 1.5e+3 could continue
                if end + 4 < len(self.text) or not self.more():
                    self.at = end
                    return value
            except (ValueError, RecursionError) as error:
                unfinished = isinstance(error, json.JSONDecodeError) and (
                    error.msg.startswith("Unterminated") or len(self.text) - error.pos < 64)
                if not unfinished or not self.more():
                    raise UserError(f"{where} is not JSON ({error})") from None


# ---- CSV, TSV


class _Header:
    """The names of the columns, from the first line or given."""

    def __init__(self, path, names, is_numbered, may_be_short):
        self.path, self.names, self.is_numbered = path, names, is_numbered
        self.may_be_short = may_be_short

    def takes(self, cells):
        """Whether these cells of the first line are the header. Raises UserError for a name that
        occurs twice."""
        if self.names:
            return False
        if self.is_numbered:
            self.names = [str(number) for number in range(1, len(cells) + 1)]
            return False
        self.names, names = cells, [name for name in cells if name]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{self.path}: its header has the column {twice[0]!r} twice. Rename "
                            f"one of them; or, if it is a row, add --no_header")
        return True

    def row(self, cells, how):
        """The dict of a row; a BadRow with the advice `how` for a wrong number of cells."""
        missing = len(self.names) - len(cells)
        if missing > 0 and self.may_be_short:
            cells = [*cells, *[None] * missing]
        if len(cells) == len(self.names):
            return dict(zip(self.names, cells))
        if missing > 0:
            how += ". If the last cells are missing on purpose, add --missing ''"
        return BadRow(f"it has {len(cells)} fields, but the header has {len(self.names)}{how}")


def _quoted(lines, line_end, delimiter, header, path, note, has_escapes):
    """Rows by the rules of CSV: a misplaced quote makes a bad row of all lines that it takes in."""
    line, notes = "", 0

    def with_ends():
        nonlocal line
        for line in lines:
            yield line + line_end

    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    escapes = dict(doublequote=False, escapechar="\\") if has_escapes else {}
    try:
        reader = csv.reader(with_ends(), delimiter=delimiter, strict=True, **escapes)
    except (TypeError, ValueError):
        raise UserError(f"--delimiter {delimiter!r} must be one character, and no quote, where "
                        "quotes hold cells together. Quotes as text: --quoting none") from None
    while True:
        before = reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cells = error
        if cells is None:
            return
        num_lines = reader.line_num - before
        where = Place("line", reader.line_num)
        if num_lines > 1:
            where = Place("lines", before + 1, reader.line_num)
        if isinstance(cells, csv.Error):
            yield where, _bad_quote(cells, num_lines, line)
        elif cells and not header.takes(cells):  # an empty line is no row
            how = ". If backslashes stand before special characters, add --quoting backslash"
            row = header.row(cells, how if "\\" in line else "")
            is_long = num_lines > LONG_CELL or num_lines > 1 and _holds_rows(cells, delimiter)
            if is_long and not isinstance(row, BadRow) and (notes := notes + 1) <= SHOWN:
                note(f"note: {path} {where} are one row by their quotes. If often: --quoting none")
            yield where, row


def _bad_quote(error, num_lines, line):
    at_end = "end of data" in str(error)
    why = "a quote opens a cell that does not end" if at_end else f"it is not CSV: {error}"
    lost = f"; it takes {num_lines:,} lines with it" if num_lines > 1 else ""
    how = "If quotes are text here, add --quoting none"
    if '\\"' in line:
        how = "If a backslash stands before a quote that is text, add --quoting backslash"
    return BadRow(f"{why}{lost}. {how}", num_lines)


def _holds_rows(cells, delimiter):
    """Whether a cell has lines that look like rows themselves."""
    def is_row(line):
        return line.count(delimiter) == len(cells) - 1 and f"{delimiter} " not in line
    inner = [cell.splitlines()[1:-1] for cell in cells if "\n" in cell]
    return len(cells) > 1 and any(lines and all(map(is_row, lines)) for lines in inner)


def _unquoted(lines, delimiter, header, path, quoting):
    """Rows a line each, where quotes are text. Without `quoting`, cells that look quoted or escaped
    are refused."""
    line_end = None
    for number, line in enumerate(lines, 1):
        if line_end is None and line:
            line_end = "\r" if line.endswith("\r") else ""
        if not (line := line.removesuffix(line_end or "")):
            continue
        cells = line.split(delimiter)
        if not quoting and ('"' in line or "\\N" in cells):
            _refuse_special(cells, not header.names, f"{path} line {number:,}")
        if quoting == "backslash":
            cells = list(map(_unescape_cell, cells))
        if header.takes(cells):
            continue
        how = ". If quotes hold tabs or line ends together, add --quoting csv"
        yield Place("line", number), header.row(cells, how if '"' in line else "")


def _refuse_special(cells, is_header, where):
    quoted = [cell for cell in cells if re.fullmatch(r'"(?:[^"]|"")*"', cell)]
    if is_header and len(quoted) == len(cells) or any('""' in cell[1:-1] for cell in quoted):
        raise UserError(f"{where} has cells in quotes, as in CSV. Add --quoting csv to remove the "
                        "quotes; or --quoting none if they are text")
    if "\\N" in cells:
        raise UserError(f"{where} has a cell \\N. Add --quoting backslash to read \\N, \\n, \\t as "
                        "databases mean them; or --quoting none if they are text")


def _unescape_cell(cell):
    """The text of a cell that MySQL or PostgreSQL has written."""
    named = {"n": "\n", "t": "\t", "r": "\r"}
    if cell == "\\N":
        return None
    return re.sub(r"\\(.)", lambda match: named.get(match[1], match[1]), cell)
