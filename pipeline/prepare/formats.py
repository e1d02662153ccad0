"""The format of a file, text or one of several kinds of rows, told by its name and first bytes.

    format_of(path, head, stated)    one of FORMATS; UserError where name and contents disagree
"""
import csv
import json
import re
import shlex
from pathlib import Path

from pipeline.errors import UserError
from pipeline.prepare.compression import SUFFIXES as COMPRESSED
from pipeline.prepare.compression import compression_of
from pipeline.prepare.containers import kind_of

HEAD = 1 << 16  # bytes that a file's format is told by
FORMATS = {  # format: the suffixes of its files; rows.py reads all but text
    "text": "", "jsonl": ".jsonl .ndjson .jsonlines .jl", "json": ".json", "csv": ".csv",
    "tsv": ".tsv .tab", "parquet": ".parquet .pq", "arrow": ".arrow .feather"}
TABLES = {b"PAR1": "parquet", b"ARROW1": "arrow"}  # by their first bytes
# a kind of file that holds neither text nor rows: a regular expression of its first bytes
MAGIC = r"""
    PDF: %PDF-; MIDI: MThd; PNG: \x89PNG; JPEG: \xff\xd8\xff; GIF: GIF8;
    RIFF (sound or pictures): RIFF; Ogg: OggS; MP3: ID3; FLAC: fLaC; ELF: \x7fELF; GGUF: GGUF;
    SQLite: SQLite format 3\0; NumPy: \x93NUMPY; HDF5: \x89HDF; Avro: Obj\x01;
    old Microsoft Office: \xd0\xcf\x11\xe0; RTF: {\\rtf; pickle: \x80[\x04\x05]\x95; RAR: Rar!\x1a;
    LZ4: \x04\x22\x4d\x18; compress (.Z): \x1f\x9d; 7-Zip: 7z\xbc\xaf; ar (.deb, .a): !<arch>\n;
    Java class: \xca\xfe\xba\xbe"""
MAGIC = {kind: pattern.encode() for kind, pattern in re.findall(r"([^\s;][^:;]*): ([^;]+)", MAGIC)}
# what makes text of some of them, beside "Convert it to text first"; {0}: the file, as in a shell
WAYS = {
    "PDF": "Make text of it, by pdftotext of poppler-utils: pdftotext {0} paper.txt; then "
           "-t paper.txt", "Office or e-book": "Save it as text or CSV first",
    "SQLite": "Make CSV of it: sqlite3 -header -csv {0} 'SELECT * FROM name_of_table' > rows.csv",
    "RAR": "Unpack it: unrar x {0}", "7-Zip": "Unpack it: 7z x {0}", "LZ4": "Unpack it: lz4 -d {0}",
    "compress (.Z)": "Unpack it: gzip -d {0}", "ar (.deb, .a)": "Unpack it: ar x {0}",
    **dict.fromkeys(["NumPy or PyTorch", "NumPy", "HDF5", "pickle", "Avro"],
                    "Read it in prepare.py, or write its rows as .jsonl or .parquet")}


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
    named = next((name for name, known in FORMATS.items() if suffix in known.split()), "text")
    _refuse_binary(path, head)
    if named in ("parquet", "arrow"):
        return named
    text = head.decode(encoding, errors="replace").removeprefix("\ufeff")
    found = next((name for magic, name in TABLES.items() if head.startswith(magic)), None)
    found = found or _rows_in(text, len(head) < HEAD)
    agree = {("json", "jsonl"), ("csv", "tsv"), ("tsv", "csv")}  # rows.py looks closer at these
    if found and found != named and (named, found) not in agree:
        other = "text to take it as one text" if named == "text" else f"{named} if it is that"
        raise UserError(f"{path} holds {'JSON' if found == 'json' else 'rows'}, which its name "
                        f"does not say. Add --format {found}; or --format {other}")
    return named


def _refuse_binary(path, head):
    kind = next((kind for kind, magic in MAGIC.items() if re.match(magic, head)), kind_of(head))
    if kind in ("zip", "tar"):  # inputs.py opens those that lie in a folder, as files of their own
        raise UserError(f"{path} is a {kind} archive that cannot be read from here. Unpack it, and "
                        f"name its files: tar -xf, or unzip")
    if head.startswith(b"version https://git-lfs.github.com/"):
        raise UserError(f"{path} is a pointer of Git LFS. Get the file itself: git lfs pull")
    if compression := compression_of(head, ""):
        kind = f"{compression}, compressed twice"
    if kind:
        way = WAYS.get(kind, "Convert it to text first").format(shlex.quote(str(path)))
        raise UserError(f"{path} is of the kind {kind}. {way}")


# ---- rows under the name of a text


def _rows_in(text, is_all):
    """The format of the rows that the beginning of a file plainly holds, or None."""
    lines = re.split("\r\n|\n|\r", text)[: None if is_all else -1]
    lines = [line for line in lines if line.strip()]
    if lines and _is_json_row(lines[0]):
        if lines[0][0] == "{" or lines[1:] and sum(map(_is_json_row, lines)) > 0.9 * len(lines):
            return "jsonl"
    if _begins_json(text.strip(), is_all):
        return "json"
    known = [d for d in "\t,;|" if len(lines) >= 3 and d in lines[0]]
    found = next((d for d in known if _is_table(lines, d)), None)
    return found and ("tsv" if found == "\t" else "csv")


def _is_json_row(line):
    """Whether a line is an object, a string, or a list of several values."""
    try:
        value = json.loads(line) if line[:1] in '{["' else None
        return len(value) > 1 if isinstance(value, list) else isinstance(value, (dict, str))
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
        are_names = all(map(re.compile(r"(?![\d.+-]*$)\w[\w .()/#%-]{,40}").fullmatch, names))
        if are_names and len(set(names)) == len(names) and rows.count(rows[0]) == 1:
            return True
    return False
