"""Text in, files out: strict UTF-8, all-or-nothing writes, one process a folder."""
import codecs
import contextlib
import ctypes
import itertools
import os
import stat
from pathlib import Path

import numpy as np

from data.errors import UserError


def read_text(path, instead="name the file that holds it"):
    """The text of a UTF-8 file, to the character: no newline is translated; a byte order mark is dropped.

    Raises UserError with the offset of the first byte that is not UTF-8. instead: what else to do, for the message,
    where there is no such file.
    """
    with open_input(path, instead) as file:
        return "".join(map(bytes.decode, utf8_blocks([file.read()], path)))


def open_input(path, instead="name the file that holds it"):
    """The file, open for its bytes; UserError or FileNotFoundError for what is no file."""
    try:
        return open(path, "rb")
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a text file") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found. Put the text there, or {instead}") from None


def open_regular(path):
    """An ordinary file, open for its bytes. Raises UserError for a folder, a pipe or a device, and
    does not wait for one."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"{path} is no ordinary file (but a folder, a pipe or a device). Move it "
                        f"away")
    return Path(path).open("rb")


def utf8_blocks(blocks, path):
    """Blocks of a file's bytes -> the same bytes in blocks of whole characters, proven to be UTF-8, without a byte order
    mark. `path` is for messages.
    """
    rest, offset = b"", 0
    for block in itertools.chain(blocks, [b""]):
        raw = rest + block
        if not offset and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path} is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 {path} > utf8.txt")
        try:
            _, end = codecs.utf_8_decode(raw, "strict", not block)  # a character that goes on in the next block waits
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: byte 0x{raw[error.start]:02x} at offset {offset + error.start:,} is not UTF-8. Convert "
                            f"the file, for example: iconv -f LATIN1 -t UTF-8 {path} > utf8.txt") from None
        yield raw[:end] if offset else raw[:end].removeprefix(codecs.BOM_UTF8)
        rest, offset = raw[end:], offset + end


def num_characters(raw):
    """The characters of a text in UTF-8: all bytes but those that go on with one, 0x80 to 0xBF."""
    return len(raw) if raw.isascii() else len(raw) - int(np.count_nonzero(np.frombuffer(raw, np.int8) < -64))


@contextlib.contextmanager
def replacing(path):
    """A binary file that takes the place of `path` when the block ends well, and never half of it.

    Written to `path`.tmp in the same folder, flushed to the disk, then renamed. After an error or a kill the old
    file is still there, whole.
    """
    temporary = Path(f"{path}.tmp")
    temporary.unlink(missing_ok=True)  # a killed run's may be linked to a file that is in use
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(temporary.parent)
    finally:
        temporary.unlink(missing_ok=True)


def give_memory_back():
    """Have glibc give free memory to the system, within its heaps too: buffers of unequal sizes, freed by other threads than
    made them, leave holes there, 300 MB after 2 GB of text. It takes a millisecond."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def start_flushing(file, start, end):
    """Have Linux begin to write these bytes of a file to the disk, beside the work, so that the fsync at the end is short."""
    with contextlib.suppress(OSError, AttributeError):
        write = 2  # SYNC_FILE_RANGE_WRITE: it waits for nothing
        ctypes.CDLL("libc.so.6").sync_file_range(file.fileno(), ctypes.c_int64(start), ctypes.c_int64(end - start), write)


def sync_folder(folder):
    """Make renames in `folder` survive a power cut. Windows cannot open a folder and needs no such call."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def lock(folder, holder):
    """Keep a second `holder` (the name of a program) out of `folder`; the system frees it if we are killed."""
    with open(Path(folder) / f".{holder}.lock", "a") as file:
        try:
            if os.name == "posix":
                import fcntl
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                import msvcrt
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError):
            raise UserError(f"another {holder} is at work in {folder}. Wait until it has ended, or stop it") from None
        yield
