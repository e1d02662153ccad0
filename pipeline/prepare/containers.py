"""Archives: the files in a .zip or .tar, compressed or not, as inputs of their own.

    members_of(path)    {name: (size, a function that opens it)} of an archive; None for other files

A member is named like a file in a folder: books.zip/one.txt. Archives are read where they are, so
nothing is unpacked to the disk; a compressed .tar is read from its beginning once for each use.
"""
import functools
import lzma
import re
import tarfile
import zipfile
import zlib
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import open_input
from pipeline.prepare.compression import compression_of, unpacked

# what macOS packs beside the files: their icons and attributes
OF_A_MAC = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$)")
# names in zip files that hold documents of a program, and no files of their own
OF_A_PROGRAM = {
    "Office or e-book": r"\[Content_Types\]|_rels/|docProps/|word/|xl/|ppt/|mimetype",
    "NumPy or PyTorch": r".*(\.npy|/data\.pkl)$"}
DAMAGE = zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError


def kind_of(head):
    """"zip", "tar", or what a zip file of a program is; None for all else. head: the first bytes of
    a file, unpacked."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode(errors="replace")
        kinds = (kind for kind, names in OF_A_PROGRAM.items() if re.match(names, name))
        return next(kinds, "zip")
    try:  # old tar files have no magic bytes, but a checksum
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
        return "tar"
    except tarfile.HeaderError:
        return None


def members_of(path):
    """{Path: (size in bytes, function that opens it)} of an archive's files, in its order.

    None where the file is no archive, or is one that none of Python's modules reads. Of two files
    of one name the later one counts, as for programs that unpack. Raises UserError for an archive
    that is damaged, encrypted or empty.
    """
    with open_input(path) as file:
        head = file.read(1 << 12)
        is_zip, packing = head.startswith(b"PK"), compression_of(head[:16], path)
        if packing == "Zstandard":  # tarfile cannot read it yet
            return None
        if packing:
            file.seek(0)
            head = next(unpacked(file, path), b"")
    if kind_of(head) != ("zip" if is_zip else "tar"):
        return None
    try:
        found = {Path(path, name): (size, opens) for name, size, opens in
                 (_of_zip if is_zip else _of_tar)(path) if not OF_A_MAC.search(name)}
    except DAMAGE as error:
        raise UserError(f"{path} is damaged or cut short ({error}). Get it again") from None
    if not found:
        raise UserError(f"{path} is an archive without files")
    return found


def _of_zip(path):
    archive = zipfile.ZipFile(path)
    for info in archive.infolist():
        if info.flag_bits & 1:
            raise UserError(f"{path} is encrypted. Unpack it with its password, and name its files")
        if not info.is_dir():
            yield info.filename, info.file_size, functools.partial(archive.open, info)


def _of_tar(path):
    archive = tarfile.open(path)
    for info in archive:
        if info.isreg():
            yield info.name, info.size, functools.partial(archive.extractfile, info)
