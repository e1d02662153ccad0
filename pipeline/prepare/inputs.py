"""Files -> text, in bounded memory: one text (TextFile), documents (Documents), or ids (Shards).

    open_inputs(["input.txt"])     a single file of text is one text; "-" is standard input
    open_inputs(["*.jsonl.gz"])    rows of tables, and several files of text, are documents
    read_documents(["more/*.parquet"], text_template="Q: {question}\\nA: {answer}")

Each can be read several times, and knows how much of it is read, for the progress line.
"""
import codecs
import collections
import contextlib
import glob
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline.encodings import check_encoding, encoding_of_mark, utf8_chunks
from pipeline.errors import MissingPackage, UserError
from pipeline.files import give_memory_back, num_characters, open_input
from pipeline.prepare.columns import arrow_rows, parquet_rows
from pipeline.prepare.compression import (
    CHUNK,
    SUFFIXES,
    compression_of,
    damage_in_one_line,
    unpacked,
)
from pipeline.prepare.containers import members_of
from pipeline.prepare.formats import HEAD, format_of
from pipeline.prepare.rows import QUOTINGS, SHOWN, BadRow, rows_of
from pipeline.prepare.separators import END_OF_TEXT, pattern_of, separated
from pipeline.prepare.templates import Template

MARKED = 32  # the first chunks of a file, which are looked through for <|endoftext|>


def read_documents(paths, *, text_template=None, column="text", learn=None, chat_layout=None,
                   learn_all=False, missing=None, max_bad_rows=0, max_bad_files=0, **stated):
    """The documents of files: an iterable of strings that can be read several times.

    paths: a path or glob, or a list of them, read in the order given; the matches of a glob are
        sorted. A file of text is one document, or several if document_separator="blank_lines" or
        another is given (see separators.py); so is each row of a .jsonl, .json, .csv, .tsv,
        .parquet or .arrow file. An archive, .zip or .tar, stands for the files in it.
    text_template: a format string ("Q: {question}"; "{a[b]}" reaches into a row), or a function of
        the row, a dict, that returns the text, or None to leave the row out. Default: the text in
        `column`. A function may also return a list of parts, (text, learned): see parts.py.
    missing: the text of a cell that is missing: null, NaN, a column that a row lacks. None: such a
        row is bad.
    learn: the columns of the format string whose text is learned: learn=["answer"]. Documents are
        then lists of parts; default: all text is learned.
    chat_layout: the name of a layout of chats.py, in the place of a template, for rows that hold
        conversations. learn_all: of these and of lists of parts, learn all.
    max_bad_rows: how many rows that cannot be read are left out, the first of them printed. One
        more is a UserError with file and line.
    max_bad_files: how many files that cannot be read, or not to their end, are left out from there.
    stated: what names and contents do not tell: format="jsonl", encoding="cp1252", quoting="none",
        delimiter=";", columns=["id", "text"], no_header=True, rows_in="data".
    """
    template = Template(text_template, column, learn, chat_layout, learn_all, missing)
    return Documents(expand(paths), template, max_bad_rows, max_bad_files, **stated)


def open_inputs(paths, *, text_template=None, learn=None, chat_layout=None, missing=None,
                max_bad_rows=0, max_bad_files=0, **stated):
    """A TextFile for a single file of text, Shards for .bin files, otherwise Documents.

    The arguments are those of read_documents().
    """
    paths = expand(paths)
    template = Template(text_template, "text", learn, chat_layout, missing=missing)
    if Path(paths[0]).suffix == ".bin" and not stated.get("format"):
        if template.flag:
            raise UserError(f"--{template.flag} is for rows, and {paths[0]} holds ids. Leave the "
                            f"flag out")
        return Shards(paths)
    found = Documents(paths, template, max_bad_rows, max_bad_files, **stated)
    return TextFile(found) if found.formats == ["text"] and not found.separator else found


def expand(paths):
    """The list of files that paths and globs name, as Paths; "-" (standard input) stays "-"."""
    found = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        if str(path) != "-" and not Path(path).exists() and glob.has_magic(str(path)):
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
            matches = [match for match in matches if not match.is_dir()]
            if not matches:
                raise FileNotFoundError(f"no file matches {path}")
            found += matches
        elif Path(path).is_dir():
            raise UserError(f"{path} is a folder, not a file. {_files_in(Path(path))}")
        else:
            found.append("-" if str(path) == "-" else Path(path))
    if not found:
        raise UserError("no input file is named")
    return found


def _files_in(folder):
    """What to type for the files of a folder: a glob, by the ending that most of the bytes have
    (beside an Arrow file of save_to_disk(), for one, lie two small .json files)."""
    files = [Path(at, name) for at, _, names in itertools.islice(os.walk(folder), 1000)
             for name in names if not name.startswith(".")]
    if not files:
        return "No file is in it"
    sizes = collections.Counter()
    for file in files:
        ending = "".join(file.suffixes[-2 if file.suffix in SUFFIXES else -1:])
        sizes[ending] += os.stat(file, follow_symlinks=False).st_size
    ending = sizes.most_common(1)[0][0]
    is_flat = any(file.parent == folder for file in files if file.name.endswith(ending))
    return f'Name the files in it: "{folder}/{"" if is_flat else "**/"}*{ending}"'


# ---- documents that know where they are from


class FileText(str):
    """A document that is a string. file: the name of its file, as given; row: its place there."""
    __slots__ = "file", "row"


class FileParts(list):
    """A document of parts (see parts.py), and where it is from. What edits or searches a string
    raises an error that shows how it is done to parts."""
    __slots__ = "file", "row"

    def __getattr__(self, name):
        if name.startswith("__") or name not in dir(str):
            raise AttributeError(name)
        raise _NoString(f"a document is a list of parts (text, learned) here, not a string. Edit "
                        f"its texts: text = [[(p if isinstance(p, Marker) else p.{name}(...), "
                        f"learned) for p, learned in t] for t in text], after: "
                        f"from pipeline.prepare import Marker")

    def __contains__(self, item):
        if isinstance(item, str):
            raise UserError(f"a document is a list of parts (text, learned) here, not a string. "
                            f"Search its texts: any({item!r:.40} in p for p, learned in t)")
        return super().__contains__(item)


def from_file(document, file, row):
    """The same document with its file and row. What a user makes of it may have lost them."""
    document = (FileText if isinstance(document, str) else FileParts)(document)
    document.file, document.row = file, row
    return document


# ---- text that looks like a string


class _NoString(UserError, AttributeError):
    """Also an AttributeError, so that hasattr() works."""


class _NotAString:
    """Text that is read later. A method of strings raises an error that shows how to edit it; for
    operators, one_line_errors() adds the same to Python's own error."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        how = f"t.{name}(...)" if name in dir(str) else "..."
        raise _NoString(f"this text is read from {self.name} when it is written, and is not a "
                        f"string yet. Edit what is read: text = [{how} for t in text]")

    def __str__(self):
        return self.str  # raises the error, for str(text) and f"{text}"


# ---- files, one text, documents


class _Files(_NotAString):
    """Some files. size, position: their bytes, and how many of them are read. num_bad_files: how
    many are left out because they cannot be read."""

    def __init__(self, paths, encoding=None, max_bad_files=0):
        self.position, self.num_bad_files, self.max_bad_files = 0, 0, max_bad_files
        self.encoding, self.has_end_of_text, self._notes = encoding, False, set()
        self._sizes, self._opened = {}, {}  # _opened: a function for each that is no file itself
        if encoding:
            check_encoding(encoding)
        self.paths, self.num_paths = [], len(paths)
        for path in paths:
            with self._leaving_out_bad_files():
                self.paths += self._added(path)
        if not self.paths:
            raise UserError("no file is left that can be read")
        self.size = sum(self._sizes[path] for path in self.paths)  # one named twice is read twice
        self.name = _name_of(self.paths)

    def _added(self, path):
        """The files that a path stands for: those in an archive, or itself."""
        if path == "-" or Path(path).is_fifo():
            return [self._spooled(path)]
        if members := members_of(path):
            for member, (size, opens) in members.items():
                self._sizes[member], self._opened[member] = size, opens
            return [*members]
        with open_input(path) as file:
            self._sizes[Path(path)] = os.fstat(file.fileno()).st_size
        return [Path(path)]

    def _spooled(self, path):
        """Copy a pipe or standard input (-) to a nameless file, which ends with this process."""
        if path == "-" and sys.stdin is None:
            raise UserError("- stands for standard input, which is closed")
        spool = tempfile.TemporaryFile()
        stdin = path == "-"
        with contextlib.nullcontext(sys.stdin.buffer) if stdin else open(path, "rb") as stream:
            shutil.copyfileobj(stream, spool)
        spool.flush()

        def opened():
            file = os.fdopen(os.dup(spool.fileno()), "rb")
            file.seek(0)
            return file
        path = Path("standard input") if stdin else Path(path)
        self._sizes[path], self._opened[path] = spool.tell(), opened
        return path

    def open(self, path):
        with damage_in_one_line(path):
            return self._opened[path]() if path in self._opened else open_input(path)

    @contextlib.contextmanager
    def _leaving_out_bad_files(self):
        """A file that cannot be read is left out from there on, if max_bad_files allows one more.
        In the block, _num_kept counts the documents that it gave before."""
        self._num_kept = 0
        try:
            yield
        except (MissingPackage, TooManyBadRows):
            raise
        except UserError as error:
            self.num_bad_files += 1
            if self.num_bad_files > self.max_bad_files:
                how = (f". Bad files so far: {self.num_bad_files:,}; --max_bad_files allows "
                       f"{self.max_bad_files:,}") if self.max_bad_files else ""
                if not self.max_bad_files and self.num_paths > 1:
                    how = ". Or leave out such files: --max_bad_files 1"
                raise UserError(f"{error}{how}") from None
            after = f", after its first {self._num_kept:,} documents" if self._num_kept else ""
            self._note(f"note: left out{after}: {error}")

    def _note(self, line):
        if line not in self._notes:  # each is printed once, however often the files are read
            self._notes.add(line)
            print(line, file=sys.stderr)

    def head(self, path):
        """The first HEAD bytes of a file, unpacked."""
        raw = b""
        with self.open(path) as file:
            for chunk in unpacked(file, path):
                if len(raw := raw + chunk) >= HEAD:
                    break
        return raw[:HEAD]

    def chunks(self, path):
        """The bytes of a file, unpacked, a chunk at a time."""
        with self.open(path) as file:
            before = 0
            for number, chunk in enumerate(unpacked(file, path), 1):
                if number % 64 == 0:
                    give_memory_back()
                self.position += file.tell() - before
                before = file.tell()
                yield chunk

    def utf8(self, path):
        """The text of a file as UTF-8, in chunks of whole characters."""
        for number, raw in enumerate(utf8_chunks(self.chunks(path), path, self.encoding)):
            if number < MARKED:
                self.has_end_of_text |= END_OF_TEXT.encode() in raw
            yield raw


def _name_of(paths):
    return Path(paths[0]).name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


class TooManyBadRows(UserError):
    """More than --max_bad_rows allows."""


class TextFile(_NotAString):
    """One text. Iterating gives it as one string; utf8() gives chunks, for texts of any size."""

    def __init__(self, path):
        self._files = path if isinstance(path, _Files) else _Files([path])
        if len(self._files.paths) > 1:
            raise UserError(f"{path} is an archive of {len(self._files.paths):,} files, and one "
                            "text is wanted. Read them as documents: "
                            f"read_documents({str(path)!r})")
        self._path, self._length = self._files.paths[0], None
        self.name, self.size = self._files.name, self._files.size

    @property
    def position(self):
        return self._files.position

    @property
    def has_end_of_text(self):
        return self._files.has_end_of_text

    def utf8(self):
        self._files.position = 0
        return self._files.utf8(self._path)

    def __iter__(self):
        yield "".join(map(bytes.decode, self.utf8()))

    def characters(self):
        """The set of its characters. ASCII ones seen before are not decoded again, for speed."""
        self._files.position, length, seen, known = 0, 0, set(), b""
        decoder = codecs.getincrementaldecoder("utf-8")()
        chunks = self._files.chunks(self._path)
        first = next(chunks, b"")
        if self._files.encoding or encoding_of_mark(first):
            chunks = self.utf8()
        else:
            chunks = itertools.chain([first.removeprefix(codecs.BOM_UTF8)], chunks)
        try:
            for raw in chunks:
                rest = raw.translate(None, known)
                if others := decoder.decode(rest):
                    seen |= set(others)
                    known = bytes(c for c in range(128) if chr(c) in seen)
                length += len(raw) - len(rest) + len(others)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:  # utf8() is slower, and its error says where
            seen = set().union(*map(bytes.decode, self.utf8()))
        self._length = length
        return seen

    def length(self):
        """Its number of characters; the first call reads the file, unless characters() has."""
        if self._length is None:
            self._length = sum(map(num_characters, self.utf8()))
        return self._length


class Documents(_Files):
    """The documents of files, one string each. See read_documents()."""

    def __init__(self, paths, template, max_bad_rows=0, max_bad_files=0, *, format=None,
                 encoding=None, quoting=None, delimiter=None, columns=None, no_header=False,
                 rows_in=None, document_separator=None):
        super().__init__(paths, encoding, max_bad_files)
        self.max_bad_rows, self._template = max_bad_rows, template
        self._table = dict(quoting=quoting, delimiter=delimiter, columns=columns,
                           no_header=no_header)
        self._rows_in, self.separator = rows_in, document_separator
        paths, self.paths, self.formats = self.paths, [], []
        for path in paths:
            with self._leaving_out_bad_files():
                self.formats.append(self._format(path, format))
                self.paths.append(path)
        if not self.paths:
            raise UserError("no file is left that can be read")
        self._num_left_out = self.num_bad_files
        self._refuse_unused()
        self.num_rows = self.num_bad = self.num_empty = 0  # of the last reading
        self.joints = []  # places where a document would run into the next if they were joined

    def _format(self, path, stated):
        head = b"" if stated else self.head(path)
        encoding = self.encoding or encoding_of_mark(head) or "utf-8"
        return format_of(path, head, stated, encoding)

    def _refuse_unused(self):
        """Raise UserError for an option that is wrong or would do nothing with these files."""
        formats, (quoting, delimiter, columns, no_header) = {*self.formats}, self._table.values()
        if quoting not in (None, *QUOTINGS):
            raise UserError(f"--quoting {quoting!r} is unknown; it must be {' or '.join(QUOTINGS)}")
        if delimiter is not None and (not delimiter or set(delimiter) & set('"\r\n')):
            raise UserError(f"--delimiter {delimiter!r} must be characters, no quotes or line ends")
        if any(self._table.values()) and not {"csv", "tsv"} & formats:
            raise UserError("--quoting, --delimiter, --columns and --no_header are for CSV and "
                            f"TSV, and {self.name} is {self.formats[0]}")
        if columns and no_header:
            raise UserError("--columns already says that there is no header. Leave --no_header out")
        if self._rows_in and "json" not in formats:
            raise UserError(f"--rows_in is for JSON, and {self.name} is {self.formats[0]}. Leave "
                            "the flag out, or add --format json")
        if self.encoding and formats <= {"parquet", "arrow"}:
            raise UserError(f"--encoding is for text, {self.name} is {self.formats[0]}. Leave the "
                            f"flag out")
        if self.separator is not None:
            pattern_of(self.separator)
            if rows := formats - {"text"}:
                raise UserError("--document_separator is for text, and each row of "
                                f"{rows.pop()} is a document already. Leave the flag out")
        if self._template.flag and formats == {"text"}:
            raise UserError(f"--{self._template.flag} is for rows, and {self.name} is text. Leave "
                            "the flag out, or name the format of the rows: --format jsonl")

    def __iter__(self):
        before, joints = " ", []
        for text in self._texts():
            if isinstance(text, str):
                if len(joints) < 8 and not before[-1:].isspace() and text and not text[0].isspace():
                    joints.append(before[-20:] + text[:20])
                before = text or before
            yield text
        self.joints = joints

    def _texts(self):
        self.position = self.num_rows = self.num_bad = self.num_empty = 0
        self.num_bad_files = self._num_left_out
        for path, format in zip(self.paths, self.formats):
            with self._leaving_out_bad_files():
                for document in self._texts_of(path, format):
                    self._num_kept += 1
                    yield document
        if self.num_rows and (unseen := self._template.unseen):
            raise UserError(f"no row of {self.name} has the column {min(unseen)!r} that "
                            f"--text_template names")
        if self.num_bad:
            self._note(f"note: {self.num_bad:,} bad rows were left out")

    def _texts_of(self, path, format):
        """The documents of one file."""
        file = str(path)
        if format == "text":
            texts = map(bytes.decode, self.utf8(path))
            texts = separated(texts, self.separator) if self.separator else ["".join(texts)]
            yield from (from_file(text, file, row) for row, text in enumerate(texts, 1))
            return
        for where, row in self._rows(path, format):
            text = row if isinstance(row, BadRow) else self._template.text_of(row, format)
            if isinstance(text, BadRow):
                self._count_bad(text, f"{path} {where}: {text}")
                continue
            self.num_rows += 1
            if text is not None:
                is_empty = not (text if isinstance(text, str) else any(t for t, *_ in text))
                self.num_empty += is_empty
                yield from_file(text, file, where.number)

    def _rows(self, path, format):
        if format not in ("parquet", "arrow"):
            texts = map(bytes.decode, self.utf8(path))
            yield from rows_of(format, texts, path, note=self._note, rows_in=self._rows_in,
                               short=self._template.missing is not None, **self._table)
            return
        with contextlib.ExitStack() as stack:
            file, before = stack.enter_context(self.open(path)), self.position
            # its table of contents is at the end
            if path in self._opened or compression_of(file.read(16), path):
                file = stack.enter_context(tempfile.TemporaryFile())
                for chunk in self.chunks(path):
                    file.write(chunk)
            file.seek(0)

            def progress(fraction):
                self.position = before + int(self._sizes[path] * fraction)
            columns = self._template.columns
            yield from (arrow_rows(file, path, columns) if format == "arrow" else
                        parquet_rows(file, path, columns, progress))

    def _count_bad(self, bad_row, message):
        self.num_bad += bad_row.num_rows
        if self.num_bad > self.max_bad_rows:
            raise TooManyBadRows(f"{message}. Bad rows so far: {self.num_bad:,}; --max_bad_rows "
                                 f"allows {self.max_bad_rows:,}")
        if self.num_bad <= SHOWN:
            self._note(f"note: left out: {message}")


# ---- token ids


class Ids:
    """Text that is encoded already: the ids of a split, as arrays that can be read several times.

    arrays: a function that yields them from the first on, or tuples as pieces() does. size: their
    bytes. documents: how many there are, if that is known otherwise than from the end-of-text
    tokens among the ids. ended: whether each document of the tuples ends with a token of its own;
    None where they name no documents.
    """

    def __init__(self, arrays, size, name, documents=None, ended=None):
        self.size, self.position, self.name, self.documents = size, 0, name, documents
        self._arrays, self.ended = arrays, ended

    def __iter__(self):
        return (ids for ids, _, _ in self.pieces())

    def has_docs(self, eot_token):
        return self.ended is not None

    def pieces(self, eot_token=None):
        """Yield (ids, learned, docs). learned: a byte for each id, or None, as in units.Piece;
        docs: (at, file, row) of each document that begins at ids[at]."""
        self.position = 0
        for given in self._arrays():
            ids, learned, docs = given if isinstance(given, tuple) else (given, None, ())
            self.position += ids.nbytes
            yield ids, learned, docs


class Shards(Ids):
    """Ids that llm.c or modded-nanogpt prepared: files with a header of 256 integers, then ids."""
    HEADERS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}  # (magic, version): dtype of the ids

    def __init__(self, paths):
        self._shards = [(str(path), self._opened(Path(path))) for path in paths]
        size = sum(ids.nbytes for _, ids in self._shards)
        super().__init__(None, size, _name_of(paths), ended=True)

    def _opened(self, path):
        """A memory map of a shard's ids. Raises UserError for a wrong magic, version or length."""
        with open_input(path) as file:
            header = np.fromfile(file, "<i4", 256)
        dtype = self.HEADERS.get(tuple(header[:2].tolist()))
        if len(header) < 256 or dtype is None:
            begins = " or ".join(map(str, map(list, self.HEADERS)))
            raise UserError(f"{path} is not a shard of llm.c or modded-nanogpt, which begin with "
                            f"{begins}, not {header[:2].tolist()}. If it is text: --format text")
        count, stated = (path.stat().st_size - 1024) / np.dtype(dtype).itemsize, int(header[2])
        if count != stated or not stated:
            raise UserError(f"{path} holds {count:,.10g} ids, but states {stated:,}. Get it again")
        return np.memmap(path, dtype, "r", offset=1024)

    def has_docs(self, eot_token):
        return eot_token is not None

    def pieces(self, eot_token=None):
        """As of Ids; a document begins at the first id, and after each eot_token, if that is
        given."""
        self.position, begins = 0, [0]
        for path, shard in self._shards:
            row = 0
            for start in range(0, len(shard), CHUNK):
                ids = np.array(shard[start : start + CHUNK])
                self.position += ids.nbytes
                if eot_token is None:
                    yield ids, None, ()
                    continue
                begins += (np.flatnonzero(ids == eot_token) + 1).tolist()
                later = [0] if begins[-1:] == [len(ids)] else []  # the next ids begin with it
                docs = [(at, path, row := row + 1) for at in begins if at < len(ids)]
                yield ids, None, docs
                begins = later

    def length(self):
        return sum(len(shard) for _, shard in self._shards)
