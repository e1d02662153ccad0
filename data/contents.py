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
import zlib
from pathlib import Path

from data.errors import UserError, optional

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
    b"\xfd7zXZ": "xz, packed twice", b"\x28\xb5\x2f\xfd": "Zstandard, packed twice", b"\xca\xfe\xba\xbe": "Java class"}


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
    with bz2.BZ2File(file) as stream:
        yield from _plain(stream, path)


def _xz(file, path):
    decoder, packed = None, b""
    while packed := packed or file.read(BLOCK):
        if not decoder:
            if not (packed := packed.lstrip(b"\0")):  # padding between streams
                continue
            decoder = lzma.LZMADecompressor(memlimit=1 << 28)  # a header may ask for 4 GB
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
    if head[257:262] == b"ustar":
        binary = "tar"
    if binary in UNPACK_FIRST:
        folder = str(path).removesuffix("".join(Path(path).suffixes)) + "-files"
        raise UserError(f"{path} is a {binary} archive. Unpack it: {UNPACK_FIRST[binary].format(path=path, folder=folder)}; "
                        f'then name its files: -t "{folder}/*"')
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


def _rows_in(text, is_whole):
    """The kind of rows that the beginning of a file plainly is, or None."""
    lines = [line for line in re.split("\r\n|\n|\r", text)][: None if is_whole else -1]
    lines = [line for line in lines if line.strip()]
    if re.match(r'\s*(\[\s*([{"]|$)|\{\s*("|$))', text):
        if lines and _is_json(lines[0]):
            return "jsonl" if sum(map(_is_json, lines)) > 0.9 * len(lines) else None
        return "json" if _begins_json(text.lstrip(), is_whole) else None
    if len(lines) >= 3:
        for kind, delimiter in (("tsv", "\t"), ("csv", ",")):
            if _is_table(lines, delimiter):
                return kind
    return None


def _is_json(line):
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _begins_json(text, is_whole):
    """Whether it is JSON as far as it goes."""
    try:
        json.JSONDecoder().raw_decode(text)
        return True
    except RecursionError:
        return True
    except json.JSONDecodeError as error:
        return not is_whole and (error.msg.startswith("Unterminated") or len(text) - error.pos < 64)


def _is_table(lines, delimiter):
    """Whether all lines have as many fields as the first, two or more, and the first looks like names of columns."""
    header = lines[0].split(delimiter)
    if len(header) < 2 or len({name.strip('"') for name in header}) < len(header):
        return False
    if lines.count(lines[0]) > 1 or not all(re.fullmatch(r'"?\w[\w .()/#%-]{,40}"?', name) for name in header):
        return False
    if delimiter == "\t":
        return all(line.count("\t") == len(header) - 1 for line in lines)
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error:
        return False
    return len(rows) >= 5 and all(len(row) == len(header) for row in rows) and not any(
        re.fullmatch(r"[\d.+-]*", name) for name in header)
