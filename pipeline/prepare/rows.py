"""Rows of a table, one at a time, in bounded memory: JSON lines, JSON, CSV, TSV, Parquet.

    rows_of(kind, pieces, ...)     (where, row) pairs: a dict (or whatever JSON value stands there), or a BadRow
    parquet_rows(file, ...)        the same of a Parquet file

CSV is RFC 4180: a cell in quotes may hold commas, quotes (doubled) and line ends. TSV is IANA's text/tab-separated-values:
no quotes, a row a line. Some programs write tabs and quotes (--quoting csv), databases and some others a backslash
before what is not to be taken for itself (--quoting backslash); neither is ever guessed.
"""
import csv
import itertools
import json
import re
import sys

from pipeline.errors import UserError, optional

LONG_CELL = 50  # lines; a cell that runs over more may have swallowed rows, and is mentioned
SHOWN = 3  # of each kind of note


class BadRow(str):
    """What is wrong with a row, in its place. num_rows: how many were lost with it."""

    def __new__(cls, why, num_rows=1):
        self = super().__new__(cls, why)
        self.num_rows = num_rows
        return self


def rows_of(kind, pieces, path, *, quoting=None, delimiter=None, columns=None, note=print):
    """(where, row) for each row. pieces: the text of the file, in pieces. note: a function of a line to print.

    columns: their names, where the first line is a row already.
    """
    pieces = iter(pieces)
    if kind == "json":
        return _json(pieces, path)
    first = next(pieces, "")
    line_end = "\r" if "\r" in first and "\n" not in first else "\n"  # as old Macs wrote it
    lines = _lines(itertools.chain([first], pieces), line_end)
    if kind == "jsonl":
        return _jsonl(lines)
    head = next(lines, "")
    if by_excel := re.fullmatch("sep=(.)\r?", head):
        delimiter, head = delimiter or by_excel[1], ""  # an empty line is no row
    default, found = {"csv": ",", "tsv": "\t"}[kind], max(",\t;|", key=head.count)
    if not delimiter and not columns and head.count(found) > head.count(default):
        how = {"\t": "--format tsv", ",": "--format csv"}.get(found, f"--delimiter '{found}'")
        raise UserError(f"{path}: its first line, {head[:60]!r}, has {head.count(found)} {found!r} and {head.count(default)} "
                        f"{default!r}. Add {how}; or --delimiter {default!r} if that separates columns")
    delimiter = delimiter or default
    lines = itertools.chain([head], lines)
    if quoting == "csv" or kind == "csv" and quoting != "none":
        return _quoted(lines, line_end, delimiter, columns, path, note, has_escapes=quoting == "backslash")
    return _unquoted(lines, delimiter, columns, path, quoting)


def _lines(pieces, line_end):
    """Lines, without their ends."""
    rest = []
    for piece in pieces:
        first, *others = piece.split(line_end)
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
                yield f"line {number:,}", json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"line {number:,}", BadRow(f"no JSON ({error})")


# ---- JSON


def _json(pieces, path):
    """The elements of an array, or values one after another; only one of them is in memory."""
    text = _Text(pieces)
    in_array = text.next_character() == "["
    text.at += in_array
    number = 0
    while (character := text.next_character()) and not (in_array and character == "]"):
        number += 1
        yield f"element {number:,}", text.next_value(path, number)
        if in_array and text.next_character() == ",":
            text.at += 1
        elif in_array and text.next_character() != "]":
            raise UserError(f"{path} is cut short or no JSON array: after element {number:,} comes neither , nor ]")
    if in_array:
        if character != "]":
            raise UserError(f"{path} is cut short: its array has no end")
        text.at += 1
        if text.next_character():
            raise UserError(f"{path} goes on after the end of its array")


class _Text:
    """The part of a JSON text that is in memory, and the place in it."""

    def __init__(self, pieces):
        self.pieces, self.text, self.at, self.decoder = pieces, "", 0, json.JSONDecoder()

    def more(self):
        """True while there is more of the file; as much again as is there, so that no value is read often."""
        parts, size = [self.text[self.at :]], 0
        for piece in self.pieces:
            parts.append(piece)
            if (size := size + len(piece)) >= len(parts[0]):
                break
        if size:
            self.text, self.at = "".join(parts), 0
        return size > 0

    def next_character(self):
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def next_value(self, path, number):
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                if end + 4 < len(self.text) or not self.more():  # near the end, a number (1.5e+3) could go on
                    self.at = end
                    return value
            except (ValueError, RecursionError) as error:
                unfinished = isinstance(error, json.JSONDecodeError) and (
                    error.msg.startswith("Unterminated") or len(self.text) - error.pos < 64)
                if not unfinished or not self.more():
                    raise UserError(f"{path}: element {number:,} is no JSON ({error})") from None


# ---- CSV, TSV


def _header(fields, path):
    """The names of the columns. Raises UserError where one stands twice."""
    names = [name for name in fields if name]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: its header has the column {twice[0]!r} twice. Rename one of them")
    return fields


def _quoted(lines, line_end, delimiter, header, path, note, has_escapes):
    """Rows by the rules of CSV, strictly: a quote that is out of place is a bad row, with the lines it took along."""
    line = ""

    def ended():
        nonlocal line
        for line in lines:
            yield line + line_end

    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        reader = csv.reader(ended(), delimiter=delimiter, strict=True, doublequote=not has_escapes,
                            escapechar="\\" if has_escapes else None)
    except (TypeError, ValueError):
        raise UserError(f"--delimiter {delimiter!r} must be one character, and no quote or line end, where quotes hold "
                        f"cells together. If they are text here, add --quoting none") from None
    notes = 0
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lost = reader.line_num - first + 1
            why = "a quote opens a cell that does not end" if "end of data" in str(error) else f"no CSV: {error}"
            lost_by_it = f"; {lost:,} lines are lost by it" if lost > 1 else ""
            how = ("If a backslash stands before a quote that is text, add --quoting backslash" if '\\"' in line else
                   "If quotes are text here, add --quoting none")
            yield _span(first, reader.line_num), BadRow(f"{why}{lost_by_it}. {how}", lost)
            continue
        if not fields:
            continue  # an empty line
        if header is None:
            header = _header(fields, path)
            continue
        where = _span(first, reader.line_num)
        if len(fields) != len(header):
            how = ". If a backslash stands before what is text, add --quoting backslash" if "\\" in line else ""
            yield where, BadRow(f"it has {len(fields)} fields, the header {len(header)}{how}")
            continue
        if reader.line_num - first >= LONG_CELL or first < reader.line_num and _holds_rows(fields, delimiter):
            notes += 1
            if notes <= SHOWN:
                note(f"note: {path} {where} are one row by their quotes. If they are many, add --quoting none")
        yield where, dict(zip(header, fields))


def _span(first, last):
    return f"line {first:,}" if first == last else f"lines {first:,} to {last:,}"


def _holds_rows(fields, delimiter):
    """Whether a cell has lines that look like rows themselves."""
    def is_row(line):
        return line.count(delimiter) == len(fields) - 1 and f"{delimiter} " not in line
    inner = [cell.splitlines()[1:-1] for cell in fields if "\n" in cell]
    return len(fields) > 1 and any(lines and all(map(is_row, lines)) for lines in inner)


def _unquoted(lines, delimiter, header, path, quoting):
    """Rows a line each, quotes being text. Cells as others write them are refused, unless the user has said how it is."""
    line_end = None
    for number, line in enumerate(lines, 1):
        if line_end is None and line:
            line_end = "\r" if line.endswith("\r") else ""
        if not (line := line.removesuffix(line_end or "")):
            continue
        fields = line.split(delimiter)
        if not quoting and '"' in line and (header is None and all(map(_is_quoted, fields)) or
                                         any(_is_quoted(field) and '""' in field[1:-1] for field in fields)):
            raise UserError(f"{path} line {number:,} has cells in quotes, as CSV has them. Add --quoting csv to take the "
                            f"quotes off; or --quoting none if they are text")
        if not quoting and "\\N" in fields:
            raise UserError(f"{path} line {number:,} has a cell \\N, as databases write a missing value. Add --quoting "
                            f"backslash to read \\N, \\n, \\t as they mean it; or --quoting none if they are text")
        if quoting == "backslash":
            fields = list(map(_unescaped, fields))
        if header is None:
            header = _header(fields, path)
        elif len(fields) == len(header):
            yield f"line {number:,}", dict(zip(header, fields))
        else:
            yield f"line {number:,}", BadRow(
                f"it has {len(fields)} fields, the header {len(header)}" + (
                    ". If cells in quotes hold tabs or line ends, add --quoting csv" if '"' in line else ""))


def _unescaped(cell):
    """A cell as MySQL and PostgreSQL write it."""
    named = {"n": "\n", "t": "\t", "r": "\r"}
    return None if cell == "\\N" else re.sub(r"\\(.)", lambda match: named.get(match[1], match[1]), cell)


def _is_quoted(cell):
    return re.fullmatch(r'"(?:[^"]|"")*"', cell) is not None


# ---- Parquet


def parquet_rows(file, path, columns=None, progress=lambda share: None):
    """(where, row) for each row; of the named columns alone, where they are given, as others may hold anything.

    A row has None in a column that was not read, so that its names are all there. A value that Python cannot hold
    (a date beyond the year 9999, text that is not UTF-8) makes a bad row of its row where its column was named, and
    is left out of it else.
    """
    pyarrow, parquet = optional("pyarrow", path), optional("pyarrow.parquet", path)
    no_value = (ValueError, OverflowError, KeyError, TypeError, ImportError, pyarrow.ArrowException)
    try:
        metadata = parquet.ParquetFile(file).metadata
        schema = metadata.schema.to_arrow_schema()
        names = schema.names
        named = [name for name in names if columns is None or name in columns]
        if twice := [name for name in named if names.count(name) > 1]:
            raise UserError(f"{path} has the column {twice[0]!r} twice. Rename one of them")
        at_once, large = _sizes(parquet, file, metadata, named)
        table = parquet.ParquetFile(file, read_dictionary=large, buffer_size=1 << 20)
        rest = dict.fromkeys(names) if columns else {}
        if not named:
            found = " ".join(", ".join(names)[:200].splitlines())  # a name may hold a newline
            texts = [field.name for field in schema if str(field.type).endswith("string") and "\n" not in field.name]
            how = f'. Say which holds the text: --text_template "{{{texts[0]}}}"' if texts else ""
            raise UserError(f"{path} has no column {columns[0]} (there are: {found}){how}")
        number = 0
        for batch in table.iter_batches(batch_size=at_once, columns=named):
            values = [_values(column, name, name in large, no_value) for name, column in
                      zip(batch.schema.names, batch.columns)]
            for row in zip(*values):
                number += 1
                bad = next((value for value in row if isinstance(value, BadRow)), None)
                row = dict(zip(batch.schema.names, row))
                if bad and not columns:  # a function asks for what it needs
                    row = {name: value for name, value in row.items() if not isinstance(value, BadRow)}
                yield f"row {number:,}", bad if bad and columns else {**rest, **row}
            progress(number / metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:  # what thrift cannot read is an OSError
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path} is no Parquet file, or damaged ({str(error).splitlines()[0][:100]})") from None


def _values(column, name, one_by_one, no_value):
    """The values of a column of a batch, with a BadRow for each that Python cannot hold."""
    if not one_by_one:
        try:
            return column.to_pylist()
        except no_value:
            pass

    def value(i):
        try:
            return column[i].as_py()
        except no_value as error:
            return BadRow(f"its {name} cannot be read ({str(error).splitlines()[0][:80]})")
    return map(value, range(len(column)))


def _sizes(parquet, file, metadata, named, limit=1 << 25):
    """(rows to read at once, columns to read as dictionaries), so that these rows take about `limit` bytes.

    A column chunk that keeps its values in a dictionary may stand for many times its size: then the longest of the
    dictionary counts.
    """
    compute = optional("pyarrow.compute", "a Parquet file", install="pyarrow")
    at_once, large = 256, set()
    flat = [column.path for column in map(metadata.schema.column, range(metadata.num_columns)) if column.path in named]
    table = parquet.ParquetFile(file, read_dictionary=flat)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            path, size = column.path_in_schema, column.total_uncompressed_size
            if path not in named and path.split(".")[0] not in named or size <= limit / 256 or not group.num_rows:
                continue
            at_once = max(1, min(at_once, limit * group.num_rows // size))
            if path in flat and column.has_dictionary_page and column.physical_type == "BYTE_ARRAY":
                [values] = next(table.iter_batches(1, row_groups=[number], columns=[path])).columns
                longest = compute.max(compute.binary_length(getattr(values, "dictionary", values))).as_py()
                if (longest or 0) > limit / 256:
                    large.add(path)
    return at_once, sorted(large)
