"""Zip archives, and paths that somebody else has named: nothing is written outside its folder.

    unpack(archive, folder)  a zip, completely or not at all
    SafePaths(container)     checks the paths of an archive or a listing before they are used

Not ZipFile.extractall: it limits neither the unpacked size nor the number of files, and lets one
file replace another.
"""
import errno
import io
import os
import shutil
import stat
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from pipeline.errors import UserError, plain
from pipeline.files import scratch_folder

MOST_MEMBERS = 20_000  # of an archive
LARGEST_INDEX = 1 << 22  # bytes; Python reads the list of members into memory at once
ALWAYS_ALLOWED = 100_000_000  # bytes that any archive may unpack to
MOST_PACKED = 100  # unpacked bytes for each byte of the archive, beyond these; text needs 3 to 10
LONGEST_NAME, LONGEST_PATH = 240, 1000  # bytes; systems allow 255, and .part is added to a name


class SafePaths:
    """The paths that an archive or a listing names, each of which must be safe on every system.

    A path is relative, stays in the folder, and is a different file than all others, even on a
    disk that does not distinguish A from a. The disk itself is never asked, so that no link in it
    can mislead.
    """

    def __init__(self, container, taken=()):
        self.container, self.folders = container, set()
        self.files = {_path_key(name) for name in taken}

    def inside(self, name):
        """name as a path. UserError if it leads out of the folder."""
        path = PureWindowsPath(name)  # it understands both slashes, and drives
        if path.anchor or ".." in path.parts:
            self.refuse(name, "leaves the folder")
        return path

    def add(self, name, folder=False):
        """Accept a path. UserError if it cannot be written to, or another file has it."""
        path = self.inside(name)
        if path.as_posix() != name or not path.parts or not all(p.strip(". ") for p in path.parts):
            self.refuse(name, "is not a plain relative path")
        if not name.isprintable():
            self.refuse(name, "has control characters or is not Unicode")
        longest = max(len(part.encode()) for part in path.parts)
        if longest > LONGEST_NAME or len(name.encode()) > LONGEST_PATH:
            self.refuse(name, "is too long")
        key = _path_key(name)
        parents = {key[:at] for at in range(len(key)) if key[at] == "/"}
        if parents & self.files or key in self.files or not folder and key in self.folders:
            self.refuse(name, "is also the path of another file")
        self.folders |= parents
        (self.folders if folder else self.files).add(key)

    def refuse(self, name, why):
        shown = name if len(name) <= 100 else f"{name[:100]}..."
        raise UserError(f"{plain(self.container)} has {shown!r}, which {why}. Nothing was written")


def _path_key(name):
    return unicodedata.normalize("NFC", name).casefold()


def unpack(archive, folder):
    """Unpack a zip so that folder holds its files and nothing else. Returns folder.

    UserError, and no change, if the archive is damaged or encrypted, has links, devices or paths
    that leave the folder, or unpacks to far more than its size.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with scratch_folder(Path(f"{folder}.tmp")) as temporary:
            _extract(archive, temporary)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
    except UserError:
        raise
    except Exception as error:  # a damaged archive raises almost anything
        # EINVAL comes from a damaged offset; other numbers are errors of the disk
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        why = plain(str(error).partition("\n")[0])
        raise UserError(f"{archive} is damaged, or not a zip archive ({why}). Delete it and run "
                        f"the same command again") from None
    return folder


def _extract(archive, folder):
    size, paths = archive.stat().st_size, SafePaths(archive)
    room = min(ALWAYS_ALLOWED + MOST_PACKED * size, shutil.disk_usage(folder).free)
    with _LimitedReads(archive) as file, zipfile.ZipFile(file) as packed:
        members = packed.infolist()
        if len(members) > MOST_MEMBERS:
            raise UserError(f"{archive} has more than {MOST_MEMBERS:,} files. Nothing was written")
        if sum(info.file_size for info in members) > room:
            raise UserError(f"{archive} ({size:,} bytes) would unpack to more than {room:,} bytes, "
                            f"the most that the disk has free or that text of this size can "
                            f"contain. Nothing was written")
        for info in members:
            if (stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR)
                    or info.flag_bits & 1):
                paths.refuse(info.filename, "is a link, a device or encrypted")
            name = PurePosixPath(info.orig_filename).as_posix()  # ./a//b/ -> a/b; `..` stays
            paths.add(name, info.is_dir())
            path = folder / name
            (path if info.is_dir() else path.parent).mkdir(parents=True, exist_ok=True)
            if info.is_dir():
                continue
            with packed.open(info) as source, open(path, "xb") as target:
                shutil.copyfileobj(source, target)
                if (unpacked := target.tell()) != info.file_size:
                    raise EOFError(f"{name} has {unpacked:,} bytes, not {info.file_size:,}")
    if not paths.files:
        raise EOFError("it contains no files")


class _LimitedReads(io.FileIO):
    """An open file that refuses to load an index of more than LARGEST_INDEX bytes."""

    def read(self, size=-1):
        if size > LARGEST_INDEX:
            raise EOFError(f"its index has {size:,} bytes")
        return super().read(size)
