"""What a file holds: how it is packed, and whether it is text, rows or something else, told by its first bytes.

    unpacked(file, path)         its bytes, a block at a time; gzip, Zstandard, xz and bzip2 are taken off
    kind_of(path, head, format)  "text" or a kind of rows; UserError where name and contents disagree
"""
import bz2
import contextlib
import csv
import gzip
import json
import lzma
import re
import sys
import tarfile
import zlib
from pathlib import Path

from pipeline.errors import UserError, optional

BLOCK = 1 << 19  # bytes read at once
HEAD = 1 << 16  # bytes that a file's kind is told by
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".jl": "jsonl", ".json": "json",
            ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet", ".pq": "parquet"}
FORMATS = ("text", "jsonl", "json", "csv", "tsv", "parquet")
PACKED = {".gz": "gzip", ".gzip": "gzip", ".tgz": "gzip", ".zst": "Zstandard", ".zstd": "Zstandard", ".xz": "xz",
          ".bz2": "bzip2"}
UNPACK_FIRST = {  # archives: how their files get out, by commands that every Python has
    "zip": "python -m zipfile -e {path} {folder}", "tar": "python -m tarfile -e {path} {folder}"}
MAGIC = {  # first bytes: what is neither text nor rows
    b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"%PDF-": "PDF", b"MThd": "MIDI", b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"RIFF": "RIFF (sound or pictures)", b"OggS": "Ogg", b"ID3": "MP3",
    b"fLaC": "FLAC", b"\x7fELF": "ELF", b"SQLite format 3\0": "SQLite", b"\x93NUMPY": "NumPy", b"\x89HDF": "HDF5",
    b"\xd0\xcf\x11\xe0": "old Microsoft Office", b"{\\rtf": "RTF", b"Obj\x01": "Avro", b"ARROW1": "Arrow",
    b"\x80\x04\x95": "pickle", b"\x80\x05\x95": "pickle", b"\x04\x22\x4d\x18": "LZ4", b"\x1f\x9d": "compress (.Z)",
    b"7z\xbc\xaf": "7-Zip", b"Rar!\x1a": "RAR", b"GGUF": "GGUF", b"\x1f\x8b": "gzip, packed twice",
    b"\xfd7zXZ": "xz, packed twice", b"BZh91AY&SY": "bzip2, packed twice", b"!<arch>\n": "ar (.deb, .a)",
    b"\x28\xb5\x2f\xfd": "Zstandard, packed twice", b"\xca\xfe\xba\xbe": "Java class"}


# ---- packed files


def packing_of(head, path):
    """"gzip", ... or None, by the first bytes. UserError where the name says packed and the bytes do not."""
    found = ("gzip" if head.startswith(b"\x1f\x8b") else "xz" if head.startswith(b"\xfd7zXZ\0") else
             "bzip2" if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head) else
             "Zstandard" if re.match(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", head) else None)
    claimed = PACKED.get(Path(path).suffix.lower())
    if claimed and not found:
        raise UserError(f"{path} is damaged or cut short: by its name it is {claimed}, by its first bytes it is not. "
                        f"Get it again, or give it the name that it should have")
    return found


def unpacked(file, path):
    """The bytes of an open file without their packing, in blocks of about BLOCK, in bounded memory."""
    packing = packing_of(file.read(16), path)
    file.seek(0)
    with _in_words(path):
        yield from {None: _plain, "gzip": _gzip, "xz": _xz, "bzip2": _bzip2, "Zstandard": _zstandard}[packing](file, path)


def _plain(file, path):
    while block := file.read(BLOCK):
        yield block


def _gzip(file, path):
    with gzip.GzipFile(fileobj=file) as stream:
        yield from _plain(stream, path)


def _bzip2(file, path):
    return _streams(file, bz2.BZ2Decompressor)


def _xz(file, path):
    return _streams(file, lambda: lzma.LZMADecompressor(memlimit=1 << 28))  # a header may ask for 4 GB


def _streams(file, new_decoder):
    """What the streams of a file hold, one after another; zeros may stand between them, and nothing else."""
    decoder, packed = None, b""
    while packed := packed or file.read(BLOCK):
        if not decoder:
            if not (packed := packed.lstrip(b"\0")):
                continue
            decoder = new_decoder()
        while not decoder.eof and (packed or not decoder.needs_input):
            yield decoder.decompress(packed, BLOCK)
            packed = b""
        if decoder.eof:
            packed, decoder = decoder.unused_data, None
    if decoder:
        raise EOFError("it ends in the middle of a stream")


def _zstandard(file, path):
    zstandard = optional("zstandard", path)
    frame = None  # its stream_reader takes a file that is cut short for whole; this does not
    for block in _plain(file, path):
        for at in range(0, len(block), 1024):  # four bytes may stand for 128 KB
            packed = block[at : at + 1024]
            while packed:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                if found := frame.decompress(packed):  # empty frames, and those to skip, hold nothing
                    yield found
                packed = frame.unused_data
                if frame.eof:
                    frame = None
    if frame:
        raise EOFError("it ends in the middle of a frame")


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
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"{path} is damaged or cut short ({error}). Get it again") from None  # bz2's own


# ---- kinds


def kind_of(path, head, format=None, encoding="utf-8"):
    """The kind of a file, one of FORMATS. head: its first HEAD bytes, unpacked.

    format: what the user says it is. Else the name says it, and the contents must agree: raises UserError, with the
    flag that settles it, for rows under the name of a text, and for archives, pictures and the like.
    """
    if format:
        return format
    suffixes = [s.lower() for s in Path(path).suffixes]
    suffix = next((s for s in reversed(suffixes) if s not in PACKED), "")
    named = SUFFIXES.get(suffix, "text")
    binary = next((what for magic, what in MAGIC.items() if head.startswith(magic)), None)
    binary = "tar" if _is_tar(head) else _kind_of_zip(head) if binary == "zip" else binary
    if binary in UNPACK_FIRST:
        folder = str(path).removesuffix("".join(Path(path).suffixes)) + "-files"
        raise UserError(f"{path} is a {binary} archive. Unpack it: {UNPACK_FIRST[binary].format(path=path, folder=folder)}; "
                        f'then name its files: -t "{folder}/*"')
    if head.startswith(b"version https://git-lfs.github.com/"):
        raise UserError(f"{path} is a pointer of Git LFS and not the file that it stands for. Get that: git lfs pull")
    if binary:
        raise UserError(f"{path} is a file of the kind {binary}, and text is needed. Convert it to text first")
    if named == "parquet":
        return named
    found = "parquet" if head.startswith(b"PAR1") else _rows_in(
        head.decode(encoding, errors="replace").removeprefix("\ufeff"), len(head) < HEAD)
    if found and found != named and (named, found) not in (("json", "jsonl"), ("csv", "tsv"), ("tsv", "csv")):
        other = "--format text to take it as one text" if named == "text" else f"--format {named} if it is that"
        raise UserError(f"{path} holds {'rows' if found != 'json' else 'JSON'}, which its name does not say. Add --format "
                        f"{found}; or {other}")
    return named


def _is_tar(head):
    """By the checksum in its first header: tar files older than POSIX have no magic."""
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
        return True
    except tarfile.HeaderError:
        return False


def _kind_of_zip(head):
    """"zip", or what a zip file is whose members are of no use to a reader of text."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]  # of the first member
    if re.match(rb"\[Content_Types\]|_rels/|docProps/|word/|xl/|ppt/|mimetype", name):
        return "Office or e-book"
    if name.endswith((b".npy", b"/data.pkl")):
        return "NumPy or PyTorch"
    return "zip"


def _rows_in(text, is_whole):
    """The kind of rows that the beginning of a file plainly is, or None."""
    lines = re.split("\r\n|\n|\r", text)[: None if is_whole else -1]
    lines = [line for line in lines if line.strip()]
    if lines and _is_json(lines[0]) and (
            lines[0][0] == "{" or len(lines) > 1 and sum(map(_is_json, lines)) > 0.9 * len(lines)):
        return "jsonl"
    if _begins_json(text.strip(), is_whole):
        return "json"
    for delimiter in "\t,;|":
        if len(lines) >= 3 and _is_table(lines, delimiter):
            return "tsv" if delimiter == "\t" else "csv"
    return None


def _is_json(line):
    """Whether it is a row: an object, a string or a list of several values."""
    try:
        return line[:1] in '{["' and isinstance(value := json.loads(line), (dict, str, list)) and (
            not isinstance(value, list) or len(value) > 1)
    except (json.JSONDecodeError, RecursionError):
        return False
    except ValueError:  # a number of more than 4,300 digits
        return True


def _begins_json(text, is_whole):
    """Whether it is an object, or an array of objects or strings, as far as it goes: the first value of it tells."""
    first = re.match(r'\{\s*"(?:[^"\\\n]|\\.)*"\s*:\s*|\[\s*(?=[{"\[])', text)
    if not first:
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text, first.end())
        return text[end:].lstrip()[:1] in ("]" if text[0] == "[" else "}") + ","
    except RecursionError:
        return True
    except ValueError as error:
        at = getattr(error, "pos", 0)
        return not is_whole and (str(error).startswith("Unterminated") or len(text) - at < 64)


def _is_table(lines, delimiter):
    """Whether all rows have as many fields as the first, two or more, and the first looks like names of columns."""
    try:
        quoted = list(csv.reader((line + "\n" for line in lines), delimiter=delimiter))
    except csv.Error:
        quoted = []
    for rows in ([line.split(delimiter) for line in lines], quoted):
        if len(rows) < 3 or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
            continue
        if delimiter == "\t" and all(row[0].strip() for row in rows):  # a header is not needed
            return True
        names = [name.strip('"') for name in rows[0]]
        names = names if names[0] else names[1:]  # pandas gives its index no name
        if len(set(names)) == len(names) and rows.count(rows[0]) == 1 and all(
                re.fullmatch(r"(?![\d.+-]*$)\w[\w .()/#%-]{,40}", name) for name in names):
            return True
    return False
