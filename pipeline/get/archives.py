"""Archives and paths that others have made: nothing of them is written outside its folder.

    Names(source)            the paths in an archive or a listing, each looked at before it is used
    unpack(archive, folder)  a .zip or .tar(.gz, .xz, .bz2): files and folders, all or nothing
"""
import bz2
import errno
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from pipeline.errors import UserError, plain

MOST_MEMBERS = 20_000  # of an archive
ALWAYS_ALLOWED = 100_000_000  # bytes that any archive may unpack to
MOST_PACKED = 100  # and beyond them, bytes for each byte of it: text packs 3 to 10 times
TAR_HEADER, ZIP_INDEX = 1 << 12, 1 << 22  # bytes; Python reads each at once and keeps all it says
LONGEST_NAME, LONGEST_PATH = 240, 1000  # bytes: systems take 255, and a .part is added


class Names:
    """The relative paths of files that shall lie in a folder of ours, as somebody else names them.

    Each must be plain and stay in the folder on every system, and be a file of its own even where
    A and a are one letter. So no link is ever followed, and nothing is asked of the disk.
    """

    def __init__(self, source, taken=()):
        self.source, self.files, self.folders = source, {_key(name) for name in taken}, set()

    def inside(self, name):
        """name as a path; UserError where it leaves the folder."""
        path = PureWindowsPath(name)  # which takes both slashes, and knows drives
        if path.anchor or ".." in path.parts:
            self.refuse(name, "leaves the folder")
        return path

    def add(self, name, folder=False):
        """Take up a path; UserError where it is not one to write to, or another file has it."""
        path = self.inside(name)
        if path.as_posix() != name or not path.parts or not all(p.strip(". ") for p in path.parts):
            self.refuse(name, "is not a plain relative path")
        if not name.isprintable():
            self.refuse(name, "has control characters or is not Unicode")
        if (len(name.encode()) > LONGEST_PATH
                or max(len(part.encode()) for part in path.parts) > LONGEST_NAME):
            self.refuse(name, "is too long")
        key = _key(name)
        parents = {key[:at] for at in range(len(key)) if key[at] == "/"}
        if parents & self.files or key in self.files or not folder and key in self.folders:
            self.refuse(name, "is taken by another file")
        self.folders |= parents
        (self.folders if folder else self.files).add(key)

    def refuse(self, name, why):
        shown = name if len(name) <= 100 else f"{name[:100]}..."
        raise UserError(f"{plain(self.source)}: the path {shown!r} in it {why}. Nothing was "
                        f"written")


def _key(name):
    return unicodedata.normalize("NFC", name).casefold()


def unpack(archive, folder):
    """Unpack a .zip or .tar(.gz, .xz, .bz2) into folder, all or nothing, in place of what is there.

    Returns folder. UserError for a damaged archive, for one with links, devices or paths that leave
    the folder, and for one that unpacks to far more than its size.
    """
    archive, folder, temporary = Path(archive), Path(folder), Path(f"{folder}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _extract(archive, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _extract(archive, folder):
    names, left = Names(archive), (room := _room_for(archive, folder))
    try:
        for number, (name, is_folder, size, content) in enumerate(_members(archive), 1):
            if number > MOST_MEMBERS:
                raise UserError(f"{archive} holds more than {MOST_MEMBERS:,} files. Nothing was "
                                f"written")
            left -= size
            if left < 0:
                raise UserError(f"{archive} of {archive.stat().st_size:,} bytes would unpack to "
                                f"more than {room:,} bytes: more than the disk has free, or than "
                                f"such an archive can hold of text. Nothing was written")
            names.add(name, is_folder)
            path = folder / name
            if is_folder:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with content() as source, open(path, "xb") as file:
                shutil.copyfileobj(source, file, TAR_HEADER)
                if file.tell() != size:
                    raise EOFError(f"{name} has {file.tell():,} bytes, not {size:,}")
        if not names.files:
            raise EOFError("it holds no files")
    except UserError:
        raise
    except Exception as error:  # a damaged archive can raise almost anything
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a
            raise  # damaged offset; the others are of the disk
        why = plain(str(error).partition("\n")[0])
        raise UserError(f"{archive} is no zip or tar, or is damaged ({why}). Delete it and run the "
                        f"same command again") from None


def _room_for(archive, folder):
    """The bytes that it may unpack to."""
    folder.mkdir(parents=True, exist_ok=True)
    allowed = ALWAYS_ALLOWED + MOST_PACKED * archive.stat().st_size
    return min(allowed, shutil.disk_usage(folder).free)


def _members(archive):
    """(path, whether it is a folder, bytes, a function that opens it) of each member, in turn."""
    with open(archive, "rb") as raw:
        yield from (_zip_members if zipfile.is_zipfile(raw) else _tar_members)(archive, raw)


def _zip_members(archive, raw):
    with zipfile.ZipFile(_Guarded(raw, ZIP_INDEX)) as packed:
        for info in packed.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or info.flag_bits & 1:
                Names(archive).refuse(info.filename, "is a link, a device or encrypted")
            yield (_plain_path(info.orig_filename), info.is_dir(), info.file_size,
                   lambda: packed.open(info))


def _tar_members(archive, raw):
    raw.seek(0)
    magic = raw.read(6)
    raw.seek(0)
    file = (gzip.open(raw) if magic.startswith(b"\x1f\x8b") else
            lzma.open(raw) if magic == b"\xfd7zXZ\0" else
            bz2.open(raw) if magic.startswith(b"BZh") else raw)
    with tarfile.open(fileobj=_Guarded(file, TAR_HEADER), mode="r:") as packed:
        while info := packed.next():
            if not (info.isreg() or info.isdir()):
                Names(archive).refuse(info.name, "is a link or a device")
            if info.isreg() or info.name.strip("./"):  # and not the folder itself
                yield (_plain_path(info.name), info.isdir(), info.size * info.isreg(),
                       lambda: packed.extractfile(info))
            packed.members.clear()  # tarfile keeps them all
        _refuse_without_end(packed)


def _refuse_without_end(packed):
    """A tar ends with a block of zeros; tarfile takes any damaged header for the end."""
    packed.fileobj.seek(packed.offset)
    if packed.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError(f"neither a file nor the end at byte {packed.offset:,}")
    for _ in range(ALWAYS_ALLOWED // TAR_HEADER):  # to the checksum of what packs it
        if not packed.fileobj.read(TAR_HEADER):
            break


def _plain_path(name):
    """a/b for ./a//b/; no `..` is resolved."""
    return PurePosixPath(name).as_posix()


class _Guarded:
    """An open file of which nobody can ask for more than `most` bytes at once."""

    def __init__(self, file, most):
        self._file, self._most = file, most

    def read(self, size=-1):
        if size > self._most:
            raise EOFError(f"its index is {size:,} bytes long")
        return self._file.read(self._most if size < 0 else size)

    def __getattr__(self, name):
        return getattr(self._file, name)
