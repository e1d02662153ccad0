"""Files -> text, in bounded memory: one text (TextFile) or documents (Documents), each plain, .gz, .zst or .xz.

    read_documents(["a.jsonl.gz", "more/*.parquet"], text_template="Q: {question}\\nA: {answer}")
    open_inputs(["input.txt"])     a single text file is one text, cut into train and val by characters
    open_inputs(["-"])             so is standard input; several files, or rows of tables, are documents

All of them can be read again and again, and know how far they have been read, for the progress line.
"""
import codecs
import contextlib
import csv
import glob
import gzip
import json
import lzma
import os
import shutil
import string
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

from data.errors import UserError, optional
from data.files import give_memory_back, num_characters, open_input, utf8_blocks

BLOCK = 1 << 19  # bytes read at once
TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")  # what holds rows; all else is plain text
PACKED = (".gz", ".zst", ".xz")
SHOWN = 3  # bad rows that are printed, of those that are allowed


def read_documents(paths, *, text_template=None, column="text", max_bad_rows=0):
    """The documents of the files, an iterable of strings that can be read again and again.

    paths: a path or glob, or a list of them, read in the order given (those of a glob sorted). A file of plain text is
        one document; each row of a .jsonl, .json, .csv, .tsv or .parquet file is one.
    text_template: "Q: {question}" (as str.format: "{a[b]}" reaches into a row), or a function of the row, a dict, that
        returns the text, or None to leave the row out. Without it the text is what stands in `column`.
    max_bad_rows: so many rows that cannot be read (no JSON, a field missing, ...) are left out, the first of them
        printed; one more is a UserError with file and line.
    """
    return Documents(expand(paths), text_template, column, max_bad_rows)


def open_inputs(paths, **rows):
    """What the files hold: TextFile for a single plain text, Shards for .bin files, else Documents.

    rows: as read_documents() takes them.
    """
    paths = expand(paths)
    if Path(paths[0]).suffix == ".bin":
        return Shards(paths)
    return TextFile(paths[0]) if len(paths) == 1 and kind_of(paths[0]) == "text" else Documents(paths, **rows)


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


def kind_of(path):
    """"text", or the suffix of a table: ".jsonl", ...; a suffix of compression does not count."""
    suffixes = [s.lower() for s in Path(path).suffixes]
    suffix = next((s for s in reversed(suffixes) if s not in PACKED), "")
    return suffix if suffix in TABLES else "text"


class _Input:
    """Some files, and how far they are read: `size` and `position`, in bytes on the disk."""

    def __init__(self, paths):
        self.paths, self.position, self._spools, self.size = [], 0, [], 0
        for path in paths:
            comes_once = path == "-" or Path(path).is_fifo()  # and is read more often
            self.paths.append(self._spooled(path) if comes_once else Path(path))
        for path in self.paths:
            with open_input(path) as file:
                self.size += os.fstat(file.fileno()).st_size

    def _spooled(self, path):
        """A temporary file of what a pipe, or standard input (-), gives."""
        if path == "-" and sys.stdin is None:
            raise UserError("- stands for standard input, which is closed")
        self._spools.append(spool := tempfile.NamedTemporaryFile(prefix="stdin-"))
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as stream:
            shutil.copyfileobj(stream, spool)
        spool.flush()
        return Path(spool.name)

    def blocks(self, path):
        """The bytes of a file, unpacked, a block at a time."""
        with open_input(path) as file, _in_words(path):
            before = 0
            for number, block in enumerate(_UNPACK.get(path.suffix.lower(), _plain)(file, path), 1):
                if number % 64 == 0:
                    give_memory_back()
                self.position += file.tell() - before
                before = file.tell()
                yield block

    def pieces(self, path):
        """The text of a file, in pieces."""
        return map(bytes.decode, utf8_blocks(self.blocks(path), path))


class TextFile(_Input):
    """One text, as an iterable of the pieces that it is joined of; utf8() gives them as bytes."""

    def __init__(self, path):
        super().__init__([path])
        self.name = "standard input" if path == "-" else Path(path).name
        self._length = None

    def utf8(self):
        self.position = 0
        return utf8_blocks(self.blocks(self.paths[0]), self.paths[0])

    def __iter__(self):
        return map(bytes.decode, self.utf8())

    def characters(self):
        """The set of its characters. ASCII ones that are known already are left out before the rest is decoded."""
        self.position, length, seen, known = 0, 0, set(), b""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for at, raw in enumerate(self.blocks(self.paths[0])):
                raw = raw.removeprefix(codecs.BOM_UTF8) if at == 0 else raw
                rest = raw.translate(None, known)
                if others := decoder.decode(rest):
                    seen |= set(others)
                    known = bytes(c for c in range(128) if chr(c) in seen)
                length += len(raw) - len(rest) + len(others)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:  # found by reading it strictly, which says where
            seen = set().union(*self)
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
                            f"with {' or '.join(map(str, map(list, self.HEADERS)))}")
        count, stated = (path.stat().st_size - 1024) / np.dtype(dtype).itemsize, int(header[2])
        if count != stated or not stated:
            raise UserError(f"{path} holds {count:,.10g} ids, its header says {stated:,}. Get it again")
        return np.memmap(path, dtype, "r", offset=1024)

    def _blocks(self):
        return (np.array(ids[start : start + BLOCK]) for ids in self._shards for start in range(0, len(ids), BLOCK))

    def length(self):
        return sum(map(len, self._shards))


class Documents(_Input):
    """The documents of files, one string each. See read_documents()."""

    def __init__(self, paths, text_template=None, column="text", max_bad_rows=0):
        self.name = f"{Path(paths[0]).name} and {len(paths) - 1} more" if len(paths) > 1 else Path(paths[0]).name
        super().__init__(paths)
        self.max_bad_rows, self._told = max_bad_rows, False
        self._text_of = text_template if callable(text_template) else _template(text_template or f"{{{column}}}")

    def __iter__(self):
        self.position, bad_rows = 0, 0
        for path in self.paths:
            if (kind := kind_of(path)) == "text":
                yield "".join(self.pieces(path))
                continue
            for line, row in _ROWS[kind](self, path):
                text, why = (None, row) if isinstance(row, _Bad) else self._document(row)
                if why is not None:
                    bad_rows += 1
                    self._count(bad_rows, f"{path} {line}: {why}")
                elif text is not None:
                    yield text
        if bad_rows and not self._told:
            print(f"note: {bad_rows:,} bad rows were left out", file=sys.stderr)
        self._told = True

    def _document(self, row):
        """(the row's text or None, what is wrong with the row or None)."""
        if isinstance(row, str):  # a list of bare strings
            row = {"text": row}
        if not isinstance(row, dict):
            return None, f"a row must be an object, this is {json.dumps(row)[:40]}"
        try:
            text = self._text_of(row)
        except KeyError as error:
            columns = " ".join(", ".join(map(str, row))[:200].splitlines())  # a name may hold a newline
            return None, f"it has no {error} (there are: {columns})"
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            return None, f"{error} in the text template"
        if text is None and row:
            return None, None
        if not isinstance(text, str):
            return None, f"its text is {text!r:.40}, no string"
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return None, "it holds half a character (a lone surrogate)"
        return text, None

    def _count(self, bad_rows, what):
        if bad_rows > self.max_bad_rows:
            raise UserError(f"{what}. It is bad row number {bad_rows:,}; --max_bad_rows allows {self.max_bad_rows:,}")
        if bad_rows <= SHOWN and not self._told:
            print(f"note: {what}; left out", file=sys.stderr)


class _Bad(str):
    """What is wrong with a row, in its place."""


class _StrictFormatter(string.Formatter):
    """str.format, but a missing value (None) is an error and not the word None."""

    def format_field(self, value, spec):
        if not isinstance(value, (str, int, float)):
            raise ValueError(f"{json.dumps(value, default=str)[:40]} stands for a text")
        return super().format_field(value, spec)


def _template(template):
    """A function of a row: the template filled in. A template that is none is a UserError at once."""
    formatter = _StrictFormatter()
    try:
        fields = [field for _, field, _, _ in formatter.parse(template) if field is not None]
    except ValueError as error:
        raise UserError(f"text_template {template!r} cannot be read: {error}. Write a brace as {{{{ or }}}}") from None
    if not fields or not all(fields):
        raise UserError(f"text_template {template!r} names no column; write one as {{column}}")
    return lambda row: formatter.vformat(template, (), row)


# ---- bytes of a file, unpacked


def _plain(file, path):
    while block := file.read(BLOCK):
        yield block


def _gz(file, path):
    with gzip.GzipFile(fileobj=file) as unpacked:
        yield from _plain(unpacked, path)


def _xz(file, path):
    with lzma.LZMAFile(file) as unpacked:
        yield from _plain(unpacked, path)


def _zst(file, path):
    zstandard = optional("zstandard", path)
    frame = None  # its stream_reader takes a file that is cut short for whole; this does not
    for packed in _plain(file, path):
        while packed:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            if block := frame.decompress(packed):  # empty frames, and those to skip, hold nothing
                yield block
            packed = frame.unused_data
            if frame.eof:
                frame = None
    if frame:
        raise EOFError("it ends in the middle of a frame")


_UNPACK = {".gz": _gz, ".xz": _xz, ".zst": _zst}


@contextlib.contextmanager
def _in_words(path):
    """A damaged file of any kind, as one line."""
    def damaged():  # asked when it has failed: the first .zst imports zstandard
        zstandard = sys.modules.get("zstandard")
        return EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, *([zstandard.ZstdError] if zstandard else [])

    try:
        yield
    except damaged() as error:
        raise UserError(f"{path} is damaged or cut short ({error}). Get it again") from None


# ---- rows of a table: (where, dict or _Bad)


def _lines(pieces):
    """Lines, by "\\n" alone, without it; JSON may hold other line ends within a string."""
    rest = []
    for piece in pieces:
        first, *others = piece.split("\n")
        rest.append(first)
        if others:
            yield "".join(rest)
            yield from others[:-1]
            rest = [others[-1]]
    if last := "".join(rest):
        yield last


def _jsonl(source, path):
    for number, line in enumerate(_lines(source.pieces(path)), 1):
        if line.strip():
            try:
                yield f"line {number:,}", json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"line {number:,}", _Bad(f"no JSON ({error})")


def _json(source, path):
    """The elements of an array, or values one after another; only one of them is in memory."""
    decoder, pieces, text, at, number = json.JSONDecoder(), source.pieces(path), "", 0, 0
    in_array = None

    def more():  # True while there is more of the file; as much again as is there, so that no value is read often
        nonlocal text, at
        parts, size = [text[at:]], 0
        for piece in pieces:
            parts.append(piece)
            if (size := size + len(piece)) >= len(parts[0]):
                break
        if size:
            text, at = "".join(parts), 0
        return size > 0

    def next_character():
        nonlocal at
        while True:
            while at < len(text) and text[at] in " \t\r\n":
                at += 1
            if at < len(text) or not more():
                return text[at : at + 1]

    in_array = next_character() == "["
    at += in_array
    while (character := next_character()) and not (in_array and character == "]"):
        number += 1
        while True:
            try:
                value, end = decoder.raw_decode(text, at)
                if end + 4 < len(text) or not more():  # near the end of what is read, a number (1.5e+3) could go on
                    break
            except (ValueError, RecursionError) as error:
                unfinished = isinstance(error, json.JSONDecodeError) and (
                    error.msg.startswith("Unterminated") or len(text) - error.pos < 64)
                if not unfinished or not more():
                    raise UserError(f"{path}: element {number:,} is no JSON ({error})") from None
        at = end
        yield f"element {number:,}", value
        if in_array and next_character() == ",":
            at += 1
        elif in_array and next_character() != "]":
            raise UserError(f"{path} is cut short or no JSON array: after element {number:,} comes neither , nor ]")
    if in_array:
        if character != "]":
            raise UserError(f"{path} is cut short: its array has no end")
        at += 1
        if next_character():
            raise UserError(f"{path} goes on after the end of its array")


def _csv(source, path, delimiter=","):
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader((line + "\n" for line in _lines(source.pieces(path))), delimiter=delimiter, strict=True)
    header = None
    while True:
        line = f"line {reader.line_num + 1:,}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _Bad(f"no {'CSV' if delimiter == ',' else 'TSV'} ({error})")
            continue
        if header is None:
            header = fields
        elif len(fields) == len(header):
            yield line, dict(zip(header, fields))
        elif fields:  # else an empty line
            yield line, _Bad(f"it has {len(fields)} fields, the header {len(header)}")


def _tsv(source, path):
    return _csv(source, path, "\t")


def _parquet(source, path):
    pyarrow = optional("pyarrow", path)
    parquet = optional("pyarrow.parquet", path)
    with contextlib.ExitStack() as stack:
        name, before = path, source.position
        if path.suffix.lower() in PACKED:  # its table of contents is at the end
            name = stack.enter_context(tempfile.TemporaryFile())
            for block in source.blocks(path):
                name.write(block)
            source.position = before
        try:
            file = stack.enter_context(parquet.ParquetFile(name))
            number, total = 0, file.metadata.num_rows
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number:,}", row
                source.position = before + path.stat().st_size * number // total
        except (pyarrow.ArrowException, OSError) as error:  # what thrift cannot read is an OSError
            raise UserError(f"{path} is no Parquet file, or damaged ({str(error).splitlines()[0][:100]})") from None


_ROWS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
