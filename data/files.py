"""Text in, files out: strict UTF-8, all-or-nothing writes, one process a folder."""
import codecs
import contextlib
import ctypes
import itertools
import os
from pathlib import Path

from data.errors import UserError


def read_text(path, instead="name the file that holds it"):
    """The text of a UTF-8 file, to the character: no newline is translated; a byte order mark is dropped.

    Raises UserError with the offset of the first byte that is not UTF-8. instead: what else to do, for the message,
    where there is no such file.
    """
    with open_input(path, instead) as file:
        return "".join(decode_blocks([file.read()], path))


def open_input(path, instead="name the file that holds it"):
    """The file, open for its bytes; UserError or FileNotFoundError for what is no file."""
    try:
        return open(path, "rb")
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a text file") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found. Put the text there, or {instead}") from None


def decode_blocks(blocks, path):
    """Blocks of a file's bytes -> pieces of its text: strict UTF-8, wherever the blocks end; `path` is for messages."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    for raw in itertools.chain(blocks, [b""]):
        if not offset and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path} is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 {path} > utf8.txt")
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:  # error.object: what was left of the block before, then raw
            at = offset + len(raw) - len(error.object) + error.start
            raise UserError(f"{path}: byte 0x{error.object[error.start]:02x} at offset {at:,} is not UTF-8. Convert "
                            f"the file, for example: iconv -f LATIN1 -t UTF-8 {path} > utf8.txt") from None
        yield text.removeprefix("\ufeff") if not offset else text
        offset += len(raw)


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
