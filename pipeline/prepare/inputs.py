"""Files -> text, in bounded memory: one text (TextFile) or documents (Documents).

    read_documents(["a.jsonl.gz", "more/*.parquet"], text_template="Q: {question}\\nA: {answer}")
    open_inputs(["input.txt"])     a single text file is one text, cut into train and val by characters
    open_inputs(["-"])             so is standard input; several files, or rows of tables, are documents

All of them can be read again and again, and know how far they have been read, for the progress line.
"""
import codecs
import contextlib
import glob
import itertools
import json
import math
import os
import re
import shutil
import string
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline.encodings import check_encoding, encoding_of_mark, utf8_chunks
from pipeline.errors import UserError
from pipeline.files import give_memory_back, num_characters, open_input
from pipeline.prepare.contents import BLOCK, HEAD, kind_of, packing_of, unpacked
from pipeline.prepare.rows import SHOWN, BadRow, parquet_rows, rows_of


def read_documents(paths, *, text_template=None, column="text", max_bad_rows=0, **told):
    """The documents of the files, an iterable of strings that can be read again and again.

    paths: a path or glob, or a list of them, read in the order given (those of a glob sorted). A file of plain text is
        one document; each row of a .jsonl, .json, .csv, .tsv or .parquet file is one.
    text_template: "Q: {question}" (as str.format: "{a[b]}" reaches into a row), or a function of the row, a dict, that
        returns the text, or None to leave the row out. Without it the text is the string that stands in `column`.
    max_bad_rows: so many rows that cannot be read (no JSON, a field missing, ...) are left out, the first of them
        printed; one more is a UserError with file and line.
    told: what the files are, where that is not what their names and first bytes say: format="jsonl",
        encoding="cp1252", quoting="none", delimiter=";", columns=["id", "text"]. See contents.py, encodings.py, rows.py.
    """
    return Documents(expand(paths), text_template, column, max_bad_rows, **told)


def open_inputs(paths, *, text_template=None, max_bad_rows=0, **told):
    """What the files hold: TextFile for a single plain text, Shards for .bin files, else Documents.

    The arguments are those of read_documents().
    """
    paths = expand(paths)
    if Path(paths[0]).suffix == ".bin" and not told.get("format"):
        return Shards(paths)
    found = Documents(paths, text_template, "text", max_bad_rows, **told)
    return TextFile(found) if found.kinds == ["text"] else found


def expand(paths):
    """The files of paths and globs, as a list of Paths; "-" (standard input) stays "-"."""
    found = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        if str(path) != "-" and not Path(path).exists() and glob.has_magic(str(path)):
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if not os.path.isdir(match))
            if not matches:
                raise FileNotFoundError(f"no file matches {path}")
            found += matches
        else:
            found.append("-" if str(path) == "-" else Path(path))
    if not found:
        raise UserError("no input file is named")
    return found


class _NoLength(UserError, TypeError):
    """A TypeError too, as list() asks for a length and goes on without one."""


class _NoString(UserError, AttributeError, TypeError):
    """An AttributeError too, as hasattr() asks for one, and a TypeError, as Python asks about operators."""


class _Unlike:
    """For what stands for a text and is not a string: what is done to a string is one line that says how to do it."""

    def _edit(self, how):
        raise _NoString(f"this text is read from {self.name} when it is written, and is not a string yet. Edit what is "
                        f"read: text = [{how} for t in text]")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        self._edit(f"t.{name}(...)" if name in dir(str) else "...")

    def __getitem__(self, key):
        self._edit("t[...]")

    def __add__(self, other):
        self._edit("t + ...")

    __radd__ = __mod__ = __mul__ = __rmul__ = __add__

    def __setitem__(self, key, value):
        self._edit("...")

    def __bytes__(self):
        self._edit("t")

    def __str__(self):
        self._edit("t")

    def __len__(self):
        raise _NoLength(f"the length of this text is known when it has been read from {self.name}: sum(len(t) for t in "
                        f"text)")

    def __bool__(self):
        return True


class _Files(_Unlike):
    """Some files, and how far they are read: `size` and `position`, in bytes on the disk."""

    def __init__(self, paths, encoding=None):
        self.paths, self.position, self._spools, self.size = [], 0, {}, 0
        self.encoding = encoding
        if encoding:
            check_encoding(encoding)
        for path in paths:
            comes_once = path == "-" or Path(path).is_fifo()  # and is read more often
            self.paths.append(self._spooled(path) if comes_once else Path(path))
        for path in self.paths:
            with self.open(path) as file:
                self.size += os.fstat(file.fileno()).st_size
        self.name = Path(self.paths[0]).name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")

    def _spooled(self, path):
        """What a pipe, or standard input (-), gives, in a temporary file without a name: it goes with this process."""
        if path == "-" and sys.stdin is None:
            raise UserError("- stands for standard input, which is closed")
        spool = tempfile.TemporaryFile()
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as stream:
            shutil.copyfileobj(stream, spool)
        spool.flush()
        path = Path("standard input") if path == "-" else Path(path)
        self._spools[path] = spool
        return path

    def open(self, path):
        if path not in self._spools:
            return open_input(path)
        file = os.fdopen(os.dup(self._spools[path].fileno()), "rb")
        file.seek(0)
        return file

    def head(self, path):
        """The first HEAD bytes, unpacked."""
        with self.open(path) as file:
            parts, size = [], 0
            for block in unpacked(file, path):
                parts.append(block)
                if (size := size + len(block)) >= HEAD:
                    break
            return b"".join(parts)[:HEAD]

    def blocks(self, path):
        """The bytes of a file, unpacked, a block at a time."""
        with self.open(path) as file:
            before = 0
            for number, block in enumerate(unpacked(file, path), 1):
                if number % 64 == 0:
                    give_memory_back()
                self.position += file.tell() - before
                before = file.tell()
                yield block

    def utf8(self, path):
        """The text of a file, as UTF-8 in blocks of whole characters."""
        return utf8_chunks(self.blocks(path), path, self.encoding)


class TextFile(_Unlike):
    """One text. Iterating gives it whole, as the one string that it is; utf8() in blocks, for texts of any size."""

    def __init__(self, path):
        self._files = path if isinstance(path, _Files) else _Files([path])
        self._path, self._length = self._files.paths[0], None
        self.name, self.size = self._files.name, self._files.size

    @property
    def position(self):
        return self._files.position

    def utf8(self):
        self._files.position = 0
        return self._files.utf8(self._path)

    def __iter__(self):
        yield "".join(map(bytes.decode, self.utf8()))

    def characters(self):
        """The set of its characters. ASCII ones that are known already are left out before the rest is decoded."""
        self._files.position, length, seen, known = 0, 0, set(), b""
        decoder = codecs.getincrementaldecoder("utf-8")()
        blocks = self._files.blocks(self._path)
        first = next(blocks, b"")
        if self._files.encoding or encoding_of_mark(first):
            blocks = self.utf8()
        else:
            blocks = itertools.chain([first.removeprefix(codecs.BOM_UTF8)], blocks)
        try:
            for raw in blocks:
                rest = raw.translate(None, known)
                if others := decoder.decode(rest):
                    seen |= set(others)
                    known = bytes(c for c in range(128) if chr(c) in seen)
                length += len(raw) - len(rest) + len(others)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:  # found by reading it strictly, which says where
            seen = set().union(*map(bytes.decode, self.utf8()))
        self._length = length
        return seen

    def length(self):
        """Characters; the file is read for it, unless it has been read before."""
        if self._length is None:
            self._length = sum(map(num_characters, self.utf8()))
        return self._length


class Ids:
    """What is encoded already: the token ids of a split, as arrays that can be read again.

    arrays: a function that gives them, from the first on. size: bytes of all. documents: how many documents they are,
    where that is known otherwise than from the end-of-text tokens among them.
    """

    def __init__(self, arrays, size, name, documents=None):
        self.size, self.position, self.name, self.documents, self._arrays = size, 0, name, documents, arrays

    def __iter__(self):
        self.position = 0
        for ids in self._arrays():
            self.position += ids.nbytes
            yield ids


class Shards(Ids):
    """Token ids that llm.c or modded-nanogpt prepared: files of a 256-int header, then ids."""
    HEADERS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}  # (magic, version): ids

    def __init__(self, paths):
        self._shards = [self._opened(Path(path)) for path in paths]
        name = f"{Path(paths[0]).name} and {len(paths) - 1} more" if len(paths) > 1 else Path(paths[0]).name
        super().__init__(self._blocks, sum(ids.nbytes for ids in self._shards), name)

    def _opened(self, path):
        """(memory map of the ids) of a shard. Raises UserError where magic, version or length are wrong."""
        with open_input(path) as file:
            header = np.fromfile(file, "<i4", 256)
        if len(header) < 256 or (dtype := self.HEADERS.get(tuple(header[:2].tolist()))) is None:
            raise UserError(f"{path} is no shard of llm.c or modded-nanogpt: it begins with {header[:2].tolist()}, not "
                            f"with {' or '.join(map(str, map(list, self.HEADERS)))}. If it is text, add --format text")
        count, stated = (path.stat().st_size - 1024) / np.dtype(dtype).itemsize, int(header[2])
        if count != stated or not stated:
            raise UserError(f"{path} holds {count:,.10g} ids, its header says {stated:,}. Get it again")
        return np.memmap(path, dtype, "r", offset=1024)

    def _blocks(self):
        return (np.array(ids[start : start + BLOCK]) for ids in self._shards for start in range(0, len(ids), BLOCK))

    def length(self):
        return sum(map(len, self._shards))


class Documents(_Files):
    """The documents of files, one string each. See read_documents()."""

    def __init__(self, paths, text_template=None, column="text", max_bad_rows=0, *, format=None, encoding=None,
                 quoting=None, delimiter=None, columns=None):
        super().__init__(paths, encoding)
        self.max_bad_rows, self._told = max_bad_rows, False
        if delimiter is not None and (not delimiter or set(delimiter) & set('"\r\n')):
            raise UserError(f"--delimiter is {delimiter!r}; it must be one or more characters, without quotes and line ends")
        self._how = dict(quoting=quoting, delimiter=delimiter, columns=columns)
        self._text_of, self._columns = _text_of(text_template, column)
        self.kinds = [self._kind(path, format) for path in self.paths]
        if any(self._how.values()) and not {"csv", "tsv"} & set(self.kinds):
            raise UserError(f"--quoting, --delimiter and --columns are for CSV and TSV, and {self.name} is {self.kinds[0]}")
        if encoding and set(self.kinds) == {"parquet"}:
            raise UserError(f"--encoding is for text, and {self.name} is Parquet, which states its own. Leave it out")
        if text_template and set(self.kinds) == {"text"}:
            raise UserError(f"--text_template is for rows, and {self.name} is text. Leave it out, or say what rows: --format "
                            f"jsonl")
        self.num_rows = self.num_bad = self.num_empty = 0  # of the last reading
        self.joints = []  # some places where one document would run into the next if they were joined

    def _kind(self, path, format):
        head = b"" if format else self.head(path)
        return kind_of(path, head, format, self.encoding or encoding_of_mark(head) or "utf-8")

    def __iter__(self):
        before, joints = " ", []
        for text in self._texts():
            if len(joints) < 8 and not before[-1:].isspace() and text and not text[0].isspace():
                joints.append(before[-20:] + text[:20])
            before = text or before
            yield text
        self.joints = joints

    def _texts(self):
        self.position = self.num_rows = self.num_bad = self.num_empty = 0
        for path, kind in zip(self.paths, self.kinds):
            if kind == "text":
                yield "".join(map(bytes.decode, self.utf8(path)))
                continue
            for where, row in self._rows(path, kind):
                text, why = (None, row) if isinstance(row, BadRow) else self._document(row, kind)
                if why is not None:
                    self._count(why, f"{path} {where}: {why}")
                    continue
                self.num_rows += 1
                if text is not None:
                    self.num_empty += not text
                    yield text
        if self.num_bad and not self._told:
            print(f"note: {self.num_bad:,} bad rows were left out", file=sys.stderr)
        self._told = True

    def _rows(self, path, kind):
        if kind != "parquet":
            pieces = map(bytes.decode, self.utf8(path))
            yield from rows_of(kind, pieces, path, note=self._note, **self._how)
            return
        with contextlib.ExitStack() as stack:
            file, before = stack.enter_context(self.open(path)), self.position
            if packing_of(file.read(16), path):  # its table of contents is at the end
                file = stack.enter_context(tempfile.TemporaryFile())
                for block in self.blocks(path):
                    file.write(block)
            size = os.fstat(file.fileno()).st_size if path in self._spools else path.stat().st_size

            def progress(share):
                self.position = before + int(size * share)
            yield from parquet_rows(file, path, self._columns, progress)

    def _document(self, row, kind):
        """(the row's text or None, what is wrong with the row or None)."""
        if isinstance(row, str):  # a list of bare strings
            row = {"text": row}
        if not isinstance(row, dict):
            return None, f"a row must be an object, this is {json.dumps(row)[:40]}"
        try:
            text = self._text_of(row)
        except KeyError as error:
            columns = " ".join(", ".join(map(str, row))[:200].splitlines())  # a name may hold a newline
            return None, f"it has no {error} (there are: {columns}){_where_text_is(row, kind, error.args[0])}"
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            return None, f"{error} in the text template"
        if text is None and self._columns is None:
            return None, None  # the function leaves it out
        if not isinstance(text, str):
            return None, f"its text is {json.dumps(text, default=str)[:40]}, no string"
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return None, "it holds half a character (a lone surrogate)"
        return text, None

    def _count(self, why, what):
        self.num_bad += getattr(why, "num_rows", 1)
        if self.num_bad > self.max_bad_rows:
            raise UserError(f"{what}. It is bad row number {self.num_bad:,}; --max_bad_rows allows {self.max_bad_rows:,}")
        if self.num_bad <= SHOWN:
            self._note(f"note: {what}; left out")

    def _note(self, line):
        if not self._told:
            print(line, file=sys.stderr)


def _where_text_is(row, kind, column):
    """What to add where a row has no such column: the column of that name but for blanks and capitals, else the one
    with the longest text, and what else may be."""
    texts = {name: value for name, value in row.items() if isinstance(value, str) and name and isinstance(name, str)}
    if not texts:
        return ""
    near = next((name for name in texts if name.strip().lower() == column.strip().lower()), None)
    longest = near or max(texts, key=lambda name: len(texts[name]))
    how = f'. Say which holds the text: --text_template "{{{longest}}}"' if re.fullmatch(r"[\w -]+", longest) else ""
    if kind in ("csv", "tsv") and not near:
        names = ",".join("text" if name == longest else f"c{i}" for i, name in enumerate(row, 1))
        how += f". If its first line is a row, name the columns: --columns {names}"
    return how


class _StrictFormatter(string.Formatter):
    """str.format for strings and numbers: a missing value (None, NaN) is an error, and not the word for it."""

    def get_field(self, name, args, row):  # a column may be called a.b
        return (row[name], name) if name in row else super().get_field(name, args, row)

    def format_field(self, value, spec):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(value, str) and not is_number:
            raise ValueError(f"{json.dumps(value, default=str)[:40]} stands for a text")
        return super().format_field(value, spec)


def _text_of(template, column):
    """(a function of a row that gives its text, the columns that it needs or None for all).

    A template that is none is a UserError at once.
    """
    if callable(template):
        return template, None
    if not template:
        return lambda row: row[column], [column]
    formatter = _StrictFormatter()
    try:
        fields = [field for _, field, _, _ in formatter.parse(template) if field is not None]
    except ValueError as error:
        raise UserError(f"text_template {template!r} cannot be read: {error}. Write a brace as {{{{ or }}}}") from None
    if not fields or not all(fields):
        raise UserError(f"text_template {template!r} names no column; write one as {{column}}")
    return lambda row: formatter.vformat(template, (), row), [
        name for field in fields for name in (re.match(r"[^.\[]*", field)[0], field)]
