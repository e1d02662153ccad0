"""Compressed files: the table of formats, told by a file's first bytes, and their bytes unpacked.

    unpacked(file, path)          the bytes of an open file, a chunk at a time, in bounded memory
    compression_of(head, path)    the name of a file's compression, or None

A new format takes one entry in COMPRESSIONS.
"""
import bz2
import contextlib
import functools
import gzip
import lzma
import re
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

from pipeline.errors import UserError, optional

CHUNK = 1 << 19  # bytes read at once


def compression_of(head, path):
    """The name of a compression, or None, told by the first bytes of the file.

    Raises UserError where the file's name says that it is compressed and its bytes do not.
    """
    found = [name for name, (_, magic, _) in COMPRESSIONS.items() if re.match(magic, head)]
    claimed = SUFFIXES.get(Path(path).suffix.lower())
    if claimed and not found:
        raise UserError(f"{path} is damaged or cut short: by its name it is {claimed}, by its "
                        "first bytes it is not. Get it again, or rename it")
    return found[0] if found else None


def unpacked(file, path):
    """Yield the bytes of an open file without its compression, in chunks of about CHUNK."""
    name = compression_of(file.read(16), path)
    file.seek(0)
    with damage_in_one_line(path):
        yield from COMPRESSIONS[name][2](file, path) if name else _plain(file)


def _plain(file):
    while chunk := file.read(CHUNK):
        yield chunk


def _gzip(file, path):
    return _plain(gzip.GzipFile(fileobj=file))


def _streams(new_decoder, file, path):
    """The contents of streams that follow one another; only zeros may stand between them."""
    decoder, packed = None, b""
    while packed := packed or file.read(CHUNK):
        if not decoder:
            if not (packed := packed.lstrip(b"\0")):
                continue
            decoder = new_decoder()
        while not decoder.eof and (packed or not decoder.needs_input):
            yield decoder.decompress(packed, CHUNK)
            packed = b""
        if decoder.eof:
            packed, decoder = decoder.unused_data, None
    if decoder:
        raise EOFError("it ends in the middle of a stream")


def _zstandard(file, path):
    zstandard, frame = optional("zstandard", path), None
    for chunk in _plain(file):  # not stream_reader(): it accepts a file that is cut short
        for at in range(0, len(chunk), 1024):  # four bytes may stand for 128 KB
            packed = chunk[at : at + 1024]
            while packed:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                if found := frame.decompress(packed):  # some frames hold nothing
                    yield found
                packed = frame.unused_data
                if frame.eof:
                    frame = None
    if frame:
        raise EOFError("it ends in the middle of a frame")


_bzip2 = functools.partial(_streams, bz2.BZ2Decompressor)
# a header may ask for 4 GB
_xz = functools.partial(_streams, functools.partial(lzma.LZMADecompressor, memlimit=1 << 28))
# name: (suffixes, regular expression of the first bytes, (file, path) -> chunks of its contents)
COMPRESSIONS = {
    "gzip": ((".gz", ".gzip", ".tgz"), rb"\x1f\x8b", _gzip),
    "Zstandard": ((".zst", ".zstd"), rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", _zstandard),
    "xz": ((".xz",), rb"\xfd7zXZ\0", _xz),
    "bzip2": ((".bz2",), rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", _bzip2)}
SUFFIXES = {suffix: name for name, (suffixes, _, _) in COMPRESSIONS.items() for suffix in suffixes}


@contextlib.contextmanager
def damage_in_one_line(path):
    """A damaged file of any compression becomes a UserError."""
    def zstd_error():  # called after a failure, because the first .zst imports zstandard
        return getattr(sys.modules.get("zstandard"), "ZstdError", EOFError)

    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
            zstd_error()) as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk has one
            raise
        raise UserError(f"{path} is damaged or cut short ({error}). Get it again") from None
