"""The rows of a table, one at a time, in bounded memory: JSON lines, JSON, CSV, TSV, Parquet.

    rows_of(format, texts, ...)   (Place, row) pairs; a row is a dict, a JSON value, or a BadRow
    parquet_rows(file, ...)       the same of a Parquet file

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

from pipeline.errors import UserError, optional

QUOTINGS = ("csv", "none", "backslash")
LONG_CELL = 50  # lines; a longer cell may have swallowed rows, so a note mentions it
SHOWN = 3  # notes of each kind
# what pyarrow raises for a value that Python cannot hold, beside its own exceptions
UNREADABLE = (ValueError, OverflowError, KeyError, TypeError, ImportError)


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


def rows_of(format, texts, path, *, quoting=None, delimiter=None, columns=None, note=print):
    """Yield (Place, row) for each row.

    texts: the text of the file in consecutive strings. columns: the names of the columns, if the
    first line is a row already. note: a function that prints a line. See QUOTINGS for quoting.
    """
    texts = iter(texts)
    if format == "json":
        return _json(texts, path)
    first = next(texts, "")
    line_end = "\r" if "\r" in first and "\n" not in first else "\n"  # old Macs wrote "\r"
    lines = _lines(itertools.chain([first], texts), line_end)
    if format == "jsonl":
        return _jsonl(lines)
    if format not in ("csv", "tsv") or quoting not in (None, *QUOTINGS):
        raise ValueError(f"the format {format!r} or the quoting {quoting!r} is unknown")
    head = next(lines, "")
    if by_excel := re.fullmatch("sep=(.)\r?", head):
        delimiter, head = delimiter or by_excel[1], ""  # an empty line is skipped
    default = "," if format == "csv" else "\t"
    if not delimiter and not columns:
        _refuse_other_delimiter(head, default, path)
    delimiter, lines = delimiter or default, itertools.chain([head], lines)
    if quoting == "csv" or format == "csv" and quoting != "none":
        return _quoted(lines, line_end, delimiter, columns, path, note, quoting == "backslash")
    return _unquoted(lines, delimiter, columns, path, quoting)


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


def _json(texts, path):
    """The elements of an array, or values one after another. One of them is in memory at a time."""
    reader, number = _JsonReader(texts), 0
    in_array = reader.skip("[")
    while reader.next_character() and not (in_array and reader.next_character() == "]"):
        number += 1
        yield Place("element", number), reader.next_value(f"{path}: element {number:,}")
        if in_array and not reader.skip(",") and reader.next_character() != "]":
            raise UserError(f"{path} is cut short, or not a JSON array: , or ] must follow element "
                            f"{number:,}")
    if in_array and not reader.skip("]"):
        raise UserError(f"{path} is cut short: its array has no end")
    if reader.next_character():
        raise UserError(f"{path} continues after the end of its array")


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


def _header(cells, path):
    """The names of the columns. Raises UserError for a name that occurs twice."""
    names = [name for name in cells if name]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: its header has the column {twice[0]!r} twice. Rename one of them")
    return cells


def _row(cells, header, how):
    """The dict of a row; a BadRow with the advice `how` for a wrong number of cells."""
    if len(cells) == len(header):
        return dict(zip(header, cells))
    return BadRow(f"it has {len(cells)} fields, but the header has {len(header)}{how}")


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
        elif cells and header is None:
            header = _header(cells, path)
        elif cells:  # not an empty line
            how = ". If backslashes stand before special characters, add --quoting backslash"
            row = _row(cells, header, how if "\\" in line else "")
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
            _refuse_special(cells, header is None, f"{path} line {number:,}")
        if quoting == "backslash":
            cells = list(map(_unescape_cell, cells))
        if header is None:
            header = _header(cells, path)
            continue
        how = ". If quotes hold tabs or line ends together, add --quoting csv"
        yield Place("line", number), _row(cells, header, how if '"' in line else "")


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


# ---- Parquet


def parquet_rows(file, path, columns=None, progress=lambda fraction: None):
    """Yield (Place, row) for each row. columns: the only ones read, as others may hold anything.

    A row has None in columns that are not read, so that it has all names. A value that Python
    cannot hold (a date beyond the year 9999, text that is not UTF-8) makes a BadRow of its row if
    its column was asked for, and is left out of the row otherwise.
    """
    pyarrow, parquet = optional("pyarrow", path), optional("pyarrow.parquet", path)
    unreadable = (*UNREADABLE, pyarrow.ArrowException)
    try:
        metadata = parquet.ParquetFile(file).metadata
        schema = metadata.schema.to_arrow_schema()
        read = _columns_to_read(schema, columns, path)
        at_once, large = _sizes(parquet, file, metadata, read)
        table = parquet.ParquetFile(file, read_dictionary=large, buffer_size=1 << 20)
        rest = dict.fromkeys(schema.names) if columns else {}
        number = 0
        for batch in table.iter_batches(batch_size=at_once, columns=read):
            names = batch.schema.names
            pairs = zip(names, batch.columns)
            values = [_values(column, name, name in large, unreadable) for name, column in pairs]
            for row in zip(*values):
                number += 1
                bad = next((value for value in row if isinstance(value, BadRow)), None)
                row = {**rest, **dict(zip(names, row))}
                if bad and not columns:  # a function may not need the columns that are bad
                    row = {k: value for k, value in row.items() if not isinstance(value, BadRow)}
                yield Place("row", number), bad if bad and columns else row
            progress(number / metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk; pyarrow's have none
            raise
        raise UserError(f"{path} is not a Parquet file, or is damaged "
                        f"({str(error).splitlines()[0][:100]})") from None


def _columns_to_read(schema, columns, path):
    """The names of the columns to read, all of them where columns is None. Raises UserError."""
    read = [name for name in schema.names if columns is None or name in columns]
    if twice := [name for name in read if schema.names.count(name) > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} twice. Rename one of them")
    if not read:
        names = " ".join(", ".join(schema.names)[:200].splitlines())  # a name may hold a newline
        told = f"{path} has no column {columns[0]} (there are: {names})"
        for field in schema:
            if str(field.type).endswith("string") and "\n" not in field.name:
                told += f'. Say which holds the text: --text_template "{{{field.name}}}"'
                break
        raise UserError(told)
    return read


def _values(column, name, one_by_one, unreadable):
    """The values of a column of a batch, with a BadRow for each that Python cannot hold."""
    if not one_by_one:
        try:
            return column.to_pylist()
        except unreadable:
            pass

    def value(i):
        try:
            return column[i].as_py()
        except unreadable as error:
            return BadRow(f"its {name} cannot be read ({str(error).splitlines()[0][:80]})")
    return map(value, range(len(column)))


def _sizes(parquet, file, metadata, read, limit=1 << 25):
    """(rows to read at once, columns to read as dictionaries), so that the rows take `limit` bytes.

    A column that stores its values in a dictionary may stand for many times its size: there the
    longest value of the dictionary counts.
    """
    compute = optional("pyarrow.compute", "a Parquet file", install="pyarrow")
    at_once, large = 256, set()
    leaves = map(metadata.schema.column, range(metadata.num_columns))
    flat = {column.path for column in leaves} & {*read}
    table = parquet.ParquetFile(file, read_dictionary=sorted(flat))
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            path, size = column.path_in_schema, column.total_uncompressed_size
            is_read = path in read or path.split(".")[0] in read
            if not is_read or size <= limit / 256 or not group.num_rows:
                continue
            at_once = max(1, min(at_once, limit * group.num_rows // size))
            if path in flat and column.has_dictionary_page and column.physical_type == "BYTE_ARRAY":
                batch = next(table.iter_batches(1, row_groups=[number], columns=[path]))
                values = getattr(batch.columns[0], "dictionary", batch.columns[0])
                longest = compute.max(compute.binary_length(values)).as_py()
                if (longest or 0) > limit / 256:
                    large.add(path)
    return at_once, sorted(large)
