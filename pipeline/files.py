"""Text in, files out: strict UTF-8, all-or-nothing writes, one process a folder."""
import contextlib
import ctypes
import errno
import os
import shlex
import shutil
import stat
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.encodings import utf8_blocks
from pipeline.errors import UserError


def read_text(path, instead="name the file that holds it", encoding=None):
    """The text of a file, to the character: no newline is translated; a byte order mark is dropped.

    encoding: where it is not UTF-8. Raises UserError with the offset of the first byte that is not text. instead: what
    else to do, for the message, where there is no such file.
    """
    with open_input(path, instead) as file:
        return "".join(map(bytes.decode, utf8_blocks([file.read()], path, encoding, flag=None)))


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


@contextlib.contextmanager
def scratch_folder(path):
    """An empty folder, removed at the end of the block, or by the next one after a kill."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def give_memory_back():
    """Have glibc give free memory to the system, within its heaps too: buffers of unequal sizes, freed by other threads than
    made them, leave holes there, 300 MB after 2 GB of text. It takes a millisecond."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def written(file):
    """(bytes, time of the last change in ns) of an open file."""
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns


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
def lock(folder, holder, wait=False):
    """Keep a second `holder` (the name of a program) out of `folder`; a kill frees it.

    wait: until the other one has ended; else that is a UserError.
    """
    with open(Path(folder) / f".{holder}.lock", "a") as file:
        if not _lock_now(file, folder):
            if not wait:
                raise UserError(f"another {holder} is at work in {folder}. Wait until it has "
                                f"ended, or stop it")
            print(f"note: another {holder} is at work in {folder}; waiting for it", file=sys.stderr)
            while not _lock_now(file, folder):
                time.sleep(0.1)
        yield


def _lock_now(file, folder):
    """Lock an open file until it is closed; False where another has it. Raises UserError."""
    try:
        if os.name == "posix":
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        there, name = shlex.quote(str(folder)), shlex.quote(Path(folder).name)
        raise UserError(f"{folder} cannot be locked against a second program ({error.strerror}): "
                        f"its file system, perhaps a network's, has no locks. Move it to a disk of "
                        f"this machine and leave a link: mv {there} /a/local/disk/ && "
                        f"ln -s /a/local/disk/{name} {there}") from None
    return True
