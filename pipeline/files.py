"""Text in, files out: strict decoding, all-or-nothing writes, one process in a folder."""
import contextlib
import ctypes
import difflib
import errno
import os
import shlex
import shutil
import stat
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.encodings import utf8_chunks
from pipeline.errors import UserError


def read_text(path, instead="name the file that holds it", encoding=None):
    """The text of a file, every character of it: no newline is translated; a byte order mark is
    dropped.

    encoding: that of the file (default: UTF-8). instead: what the message about a missing file
    tells the user to do. Raises UserError with the offset of the first byte that is not text.
    """
    with open_input(path, instead) as file:
        return "".join(map(bytes.decode, utf8_chunks([file.read()], path, encoding, flag=None)))


def open_input(path, instead="name the file that holds it"):
    """The file, open for its bytes. UserError for a folder, FileNotFoundError where nothing is."""
    try:
        return open(path, "rb")
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a text file") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found. Put the text there, or "
                                f"{instead}{_near_file_of(Path(path))}") from None


def _near_file_of(path):
    """Which file beside a missing one may be meant: the whole of a name with blanks, of which a
    shell has passed the first word, or a name spelt like it."""
    there = [entry.name for entry in os.scandir(path.parent)] if path.parent.is_dir() else []
    near = [name for name in there if name.startswith(f"{path.name} ")] or (
        difflib.get_close_matches(path.name, there, n=1, cutoff=0.75))
    return f" (did you mean {shlex.quote(str(path.with_name(near[0])))}?)" if near else ""


def open_regular(path):
    """An ordinary file, open for its bytes. Raises UserError for a folder, a pipe or a device,
    which it does not open, since that might wait forever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"{path} is a folder, a pipe or a device, and no ordinary file. Move it "
                        f"away")
    return Path(path).open("rb")


def num_characters(raw):
    """The number of characters of a text in UTF-8: of its bytes, those that begin a character."""
    if raw.isascii():
        return len(raw)
    # the other bytes of a character are 0x80 to 0xBF: below -64 as signed numbers
    return len(raw) - int(np.count_nonzero(np.frombuffer(raw, np.int8) < -64))


@contextlib.contextmanager
def replacing(path):
    """A binary file that takes the place of `path` when the block ends without an error.

    It is written as `path`.tmp in the same folder, flushed to the disk, then renamed. After an
    error or a kill the old file is still there and complete.
    """
    temporary = Path(f"{path}.tmp")
    temporary.unlink(missing_ok=True)  # left by a killed run, it may be a link to a file in use
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
        sync_folder(temporary.parent)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary, path):
    """os.replace(), which Windows refuses while another program (sample.py, a virus scanner) has
    `path` open; so it tries again for half a minute. Elsewhere a refusal is final."""
    for _ in range(300 if os.name == "nt" else 0):
        with contextlib.suppress(PermissionError):
            return os.replace(temporary, path)
        time.sleep(0.1)
    os.replace(temporary, path)


@contextlib.contextmanager
def scratch_folder(path):
    """An empty folder, removed at the end of the block or, after a kill, by the next such block."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def give_memory_back():
    """Have glibc return free memory to the system, in a millisecond. Buffers of unequal sizes that
    another thread frees leave holes in its heaps, 300 MB after 2 GB of text."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def written(file):
    """(bytes, time of the last change in ns) of an open file."""
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


def start_flushing(file, start, end):
    """Have Linux begin to write these bytes to the disk in the background, so that the fsync at the
    end is short."""
    with contextlib.suppress(OSError, AttributeError):
        first, length = ctypes.c_int64(start), ctypes.c_int64(end - start)
        # 2 is SYNC_FILE_RANGE_WRITE, which waits for nothing
        ctypes.CDLL("libc.so.6").sync_file_range(file.fileno(), first, length, 2)


def sync_folder(folder):
    """Make renames in `folder` survive a power cut. Windows cannot open a folder, nor need this."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def lock(folder, holder, wait=False):
    """Keep a second `holder` (the name of a program) out of `folder`. A kill frees the lock.

    wait: wait for the other one to end; otherwise it raises UserError.
    """
    try:
        file = open(Path(folder) / f".{holder}.lock", "a")
    except PermissionError as error:  # nobody knows of that file
        raise PermissionError(error.errno, error.strerror, str(folder)) from None
    with file:
        if not _lock_now(file, folder):
            busy = f"another {holder} is at work in {folder}"
            if not wait:
                raise UserError(f"{busy}. Wait until it has ended, or stop it")
            print(f"note: {busy}; waiting for it", file=sys.stderr)
            while not _lock_now(file, folder):
                time.sleep(0.1)
        yield


def _lock_now(file, folder):
    """Lock an open file until it is closed. False where another process has locked it; UserError
    where the file system has no locks."""
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
                        f"its file system, perhaps on a network, has no locks. Move it to a disk "
                        f"of this machine and leave a link: mv {there} /a/local/disk/ && "
                        f"ln -s /a/local/disk/{name} {there}") from None
    return True
