"""The format of a file, text or one of several kinds of rows, told by its name and first bytes.

    format_of(path, head, stated)    one of FORMATS; UserError where name and contents disagree
"""
import csv
import json
import re
import tarfile
from pathlib import Path

from pipeline.errors import UserError
from pipeline.prepare.compression import SUFFIXES as COMPRESSED
from pipeline.prepare.compression import compression_of

HEAD = 1 << 16  # bytes that a file's format is told by
FORMATS = {  # format: the suffixes of its files; rows.py reads all but text
    "text": (), "jsonl": (".jsonl", ".ndjson", ".jsonlines", ".jl"), "json": (".json",),
    "csv": (".csv",), "tsv": (".tsv", ".tab"), "parquet": (".parquet", ".pq")}
UNPACK = {  # an archive: the command that gets its files out, which every Python has
    "zip": "python -m zipfile -e {path} {folder}", "tar": "python -m tarfile -e {path} {folder}"}
MAGIC = {  # the first bytes of files that hold neither text nor rows
    b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"%PDF-": "PDF", b"MThd": "MIDI",
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"RIFF": "RIFF (sound or pictures)",
    b"OggS": "Ogg", b"ID3": "MP3", b"fLaC": "FLAC", b"\x7fELF": "ELF", b"GGUF": "GGUF",
    b"SQLite format 3\0": "SQLite", b"\x93NUMPY": "NumPy", b"\x89HDF": "HDF5",
    b"\xd0\xcf\x11\xe0": "old Microsoft Office", b"{\\rtf": "RTF", b"Obj\x01": "Avro",
    b"ARROW1": "Arrow", b"\x80\x04\x95": "pickle", b"\x80\x05\x95": "pickle",
    b"\x04\x22\x4d\x18": "LZ4", b"\x1f\x9d": "compress (.Z)", b"7z\xbc\xaf": "7-Zip",
    b"Rar!\x1a": "RAR", b"!<arch>\n": "ar (.deb, .a)", b"\xca\xfe\xba\xbe": "Java class"}


def format_of(path, head, stated=None, encoding="utf-8"):
    """The format of a file, one of FORMATS. head: its first HEAD bytes, unpacked.

    stated: the format that the user has named, which is taken as it is. Otherwise the name tells
    it, and the contents must agree. Raises UserError, with the flag that settles it, for rows under
    the name of a text; and for archives, pictures and the like.
    """
    if stated:
        if stated not in FORMATS:
            raise UserError(f"format {stated!r} is unknown; the formats are {', '.join(FORMATS)}")
        return stated
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    suffix = next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED), "")
    named = next((name for name, known in FORMATS.items() if suffix in known), "text")
    _refuse_binary(path, head)
    if named == "parquet":
        return named
    text = head.decode(encoding, errors="replace").removeprefix("\ufeff")
    found = "parquet" if head.startswith(b"PAR1") else _rows_in(text, len(head) < HEAD)
    agree = {("json", "jsonl"), ("csv", "tsv"), ("tsv", "csv")}  # rows.py looks closer at these
    if found and found != named and (named, found) not in agree:
        other = "text to take it as one text" if named == "text" else f"{named} if it is that"
        raise UserError(f"{path} holds {'JSON' if found == 'json' else 'rows'}, which its name "
                        f"does not say. Add --format {found}; or --format {other}")
    return named


def _refuse_binary(path, head):
    kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    kind = "tar" if _is_tar(head) else _kind_of_zip(head) if kind == "zip" else kind
    if kind in UNPACK:
        folder = str(path).removesuffix("".join(Path(path).suffixes)) + "-files"
        raise UserError(f"{path} is a {kind} archive. Unpack it: "
                        f"{UNPACK[kind].format(path=path, folder=folder)}; then name its files: "
                        f'-t "{folder}/*"')
    if head.startswith(b"version https://git-lfs.github.com/"):
        raise UserError(f"{path} is a pointer of Git LFS, which stands for the file. Get the file: "
                        "git lfs pull")
    if compression := compression_of(head, ""):
        kind = f"{compression}, compressed twice"
    if kind:
        raise UserError(f"{path} is a file of the kind {kind}, and text is needed. Convert it to "
                        "text first")


def _is_tar(head):
    """Whether the checksum of a tar header is right: old tar files have no magic bytes."""
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
        return True
    except tarfile.HeaderError:
        return False


def _kind_of_zip(head):
    """"zip", or what is packed in a zip file without texts: its first member's name tells."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if re.match(rb"\[Content_Types\]|_rels/|docProps/|word/|xl/|ppt/|mimetype", name):
        return "Office or e-book"
    return "NumPy or PyTorch" if name.endswith((b".npy", b"/data.pkl")) else "zip"


# ---- rows under the name of a text


def _rows_in(text, is_all):
    """The format of the rows that the beginning of a file plainly holds, or None."""
    lines = re.split("\r\n|\n|\r", text)[: None if is_all else -1]
    lines = [line for line in lines if line.strip()]
    if lines and _is_json_row(lines[0]) and (
            lines[0][0] == "{" or
            len(lines) > 1 and sum(map(_is_json_row, lines)) > 0.9 * len(lines)):
        return "jsonl"
    if _begins_json(text.strip(), is_all):
        return "json"
    found = next((d for d in "\t,;|" if len(lines) >= 3 and _is_table(lines, d)), None)
    return found and ("tsv" if found == "\t" else "csv")


def _is_json_row(line):
    """Whether a line is an object, a string, or a list of several values."""
    try:
        return line[:1] in '{["' and isinstance(value := json.loads(line), (dict, str, list)) and (
            not isinstance(value, list) or len(value) > 1)
    except (json.JSONDecodeError, RecursionError):
        return False
    except ValueError:  # a number of more than 4,300 digits
        return True


def _begins_json(text, is_all):
    """Whether text begins with an object, or an array of objects or strings, by its first value."""
    first = re.match(r'\{\s*"(?:[^"\\\n]|\\.)*"\s*:\s*|\[\s*(?=[{"\[])', text)
    if not first:
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text, first.end())
        return text[end:].lstrip()[:1] in ("]" if text[0] == "[" else "}") + ","
    except RecursionError:
        return True
    except ValueError as error:  # the value may go on beyond the head of the file
        at = getattr(error, "pos", 0)
        return not is_all and (str(error).startswith("Unterminated") or len(text) - at < 64)


def _is_table(lines, delimiter):
    """Whether all rows have as many cells as the first, at least two, and the first row looks like
    the names of columns. Rows separated by tabs need no names."""
    try:
        quoted = list(csv.reader((line + "\n" for line in lines), delimiter=delimiter))
    except csv.Error:
        quoted = []
    for rows in ([line.split(delimiter) for line in lines], quoted):
        if len(rows) < 3 or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
            continue
        if delimiter == "\t" and all(row[0].strip() for row in rows):
            return True
        names = [name.strip('"') for name in rows[0]]
        names = names if names[0] else names[1:]  # pandas leaves the name of its index empty
        if len(set(names)) == len(names) and rows.count(rows[0]) == 1 and all(
                re.fullmatch(r"(?![\d.+-]*$)\w[\w .()/#%-]{,40}", name) for name in names):
            return True
    return False
