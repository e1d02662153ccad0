"""The bins of a dataset while they are written: ids are appended unit by unit, hashed, and
remembered, so that a preparation that was killed continues after its last finished unit."""
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os

from pipeline.errors import UserError
from pipeline.files import give_memory_back, start_flushing
from pipeline.prepare.units import raw_length
from pipeline.read.folder import SPLITS

FLUSH = 1 << 23  # bytes written to a bin before the disk is told to start with them
WAITING = 8  # tasks that may wait for the thread which hashes
LINE = 2000  # bytes; every line of units.tmp is shorter


class Journal:
    """train.bin.tmp and val.bin.tmp, and units.tmp, which records the units that are in them.

    units.tmp has a line for the identity, then a line for each unit: a checksum of this line and
    the line before it, the unit's key (a hash of all the source up to the unit's end), and the
    counts and hashes of both bins after the unit. After a kill, units count as finished up to the
    first line that is damaged or does not agree with the bins.

    Files of others are never written into: a training run may have a bin open, and a copy of the
    folder may share files by hard links. A temporary file is continued only if it has no second
    name. One that an interrupted commit has renamed to train.bin is read, and copied if it must
    grow.

    One thread hashes beside the work. Use as a context manager, which at its end removes the
    temporary files or, after an error, leaves finished units for the next run.
    """

    def __init__(self, folder, dtype, identity):
        """dtype: of the ids. identity: a string that stands for all that turns text into ids; None
        where that may change unnoticed, in which case no unit is remembered.
        """
        self.final = {split: folder / f"{split}.bin" for split in SPLITS}
        self.temporary = {split: folder / f"{split}.bin.tmp" for split in SPLITS}
        self.held = {split: path if _is_ours(path) else self.final[split]
                     for split, path in self.temporary.items()}  # where the ids are so far
        self.path = folder / "units.tmp"
        self.dtype, self.identity = dtype, f"2 {identity}\n".encode()
        self.remembers = identity is not None
        self.complete = False  # whether all units are in
        self.num_known, self.file, self.files = 0, None, {}
        self.num_written, self.flushed = 0, dict.fromkeys(SPLITS, 0)  # units; bytes
        self.hasher, self.hashing = concurrent.futures.ThreadPoolExecutor(1), collections.deque()
        # of the source that has been read: its bytes, how it is cut into parts, its characters
        self.source, self.structure, self.position = hashlib.sha256(), hashlib.sha256(), 0
        self.keys = self._read() if self.remembers else []  # of the finished units
        self._go_back(len(self.keys))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.hasher.shutdown()
        self._close_files()
        # once all units are in, a UserError refuses the text as a whole: no later run needs them
        over = kind is None or self.complete and issubclass(kind, UserError)
        if over or not self.num_units:
            for path in (*self.temporary.values(), self.path):
                path.unlink(missing_ok=True)

    def _read(self):
        """The keys of the finished units, whose ids are in the bins, complete and in order."""
        keys, hashes = [], {split: hashlib.sha256() for split in SPLITS}
        if not _is_ours(self.path):
            return keys
        with contextlib.ExitStack() as stack:
            try:
                paths = self.path, *self.held.values()
                lines, *bins = [stack.enter_context(open(path, "rb")) for path in paths]
            except OSError:  # a file is missing, or cannot be read
                return keys
            if (before := lines.readline(LINE)) != self.identity:
                return keys
            while (line := lines.readline(LINE)) and line == _line(before, line[17:-1]):
                key, counts = json.loads(line[17:])
                for split, file in zip(SPLITS, bins):
                    size = counts[split]["tokens"] * self.dtype.itemsize
                    _read_up_to(size, file, hashes[split].update)
                if any(hashes[split].hexdigest() != counts[split]["sha256"] for split in SPLITS):
                    break
                keys.append(key)
                before = line
        return keys

    def _go_back(self, num_units):
        """Keep the first num_units of the finished units, and continue to write after them."""
        self._close_files()
        self.keys = self.keys[:num_units]
        self.num_units, self.last_line = num_units, self.identity
        self.counts = {split: dict(tokens=0, bytes=0, documents=0, max_id=-1) for split in SPLITS}
        if num_units:
            self.file = open(self.path, "r+b")
            for _ in range(num_units + 1):
                self.last_line = self.file.readline()
            self.file.truncate(self.file.tell())
            self.counts = json.loads(self.last_line[17:])[1]
        elif self.remembers:
            self.file = _new_file(self.path)
            self.file.write(self.identity)
        self.hashes = {split: hashlib.sha256() for split in SPLITS}
        for split, path in self.held.items():
            if size := self._size(split):
                with open(path, "rb") as file:
                    _read_up_to(size, file, self.hashes[split].update)
            if not size or path != self.final[split]:
                self._open_bin(split)

    def _size(self, split):
        """The bytes of a split's ids so far."""
        return self.counts[split]["tokens"] * self.dtype.itemsize

    def _open_bin(self, split):
        """The temporary bin of a split, opened for writing after the ids so far."""
        path, held, size = self.temporary[split], self.held[split], self._size(split)
        if size and held == path:
            file = open(path, "r+b")
        else:
            file = _new_file(path)
            if size:
                with open(held, "rb") as source:
                    _read_up_to(size, source, file.write)
            self.held[split] = path
        if size:
            file.seek(size)
            file.truncate()
        self.files[split] = file
        return file

    def place(self, unit):
        """A Future of the next unit's (key, start in the source in characters)."""
        return self._later(self._place, unit)

    def _place(self, unit):
        start = self.position
        for split, raw, end in unit:
            self.source.update(raw)
            self.structure.update(b"%s %d %d " % (split.encode(), memoryview(raw).nbytes, end))
            self.position += raw_length(raw)
        key = self.structure.copy()
        key.update(self.source.digest())
        return key.hexdigest()[:32], start

    def _later(self, task, *args):
        """A Future of task(*args), which the thread runs after all the tasks before it."""
        self.hashing.append(future := self.hasher.submit(task, *args))
        if len(self.hashing) > WAITING:
            self.hashing.popleft().result()
        return future

    def holds(self, place):
        """Whether the unit at this place is in the bins. After the first that is not, none is."""
        if self.num_known < len(self.keys):
            if self.keys[self.num_known] == place.result()[0]:
                self.num_known += 1
                return True
            self._go_back(self.num_known)
        return False

    def append(self, place, text_counts, encoded):
        """Write the next unit: its place(), {split: (bytes of text, documents)}, {split: ids}."""
        for split, ids in encoded.items():
            file, start = self.files.get(split) or self._open_bin(split), self.flushed[split]
            file.write(ids.data.cast("B"))
            file.flush()
            if (end := file.tell()) - start > FLUSH:
                start_flushing(file, start, end)
                self.flushed[split] = end
        self._later(self._remember, place, text_counts, encoded)
        self.num_written += 1
        if self.num_written % 64 == 0:
            give_memory_back()

    def _remember(self, place, text_counts, encoded):
        """Count, hash and record a unit that has been written."""
        for split, ids in encoded.items():
            counts, (num_bytes, num_documents) = self.counts[split], text_counts[split]
            counts["tokens"] += ids.size
            counts["bytes"] += num_bytes
            counts["documents"] += num_documents
            counts["max_id"] = max(counts["max_id"], int(ids.max()) if ids.size else -1)
            self.hashes[split].update(ids)
        if self.remembers:
            for split in SPLITS:
                self.counts[split]["sha256"] = self.hashes[split].hexdigest()
            record = json.dumps([place.result()[0], self.counts]).encode()
            self.last_line = _line(self.last_line, record)
            self.file.write(self.last_line)
            self.file.flush()
            self.num_units += 1

    def finish(self):
        """Wait until every unit is hashed and recorded; returns the sha256 of the source."""
        while self.hashing:
            self.hashing.popleft().result()
        if self.num_known < len(self.keys):  # the source has become shorter
            self._go_back(self.num_known)
        self.complete = True
        return self.source.hexdigest()

    def close(self):
        """Write everything to the disk; returns what meta.pkl says of the splits."""
        for split, path in self.final.items():
            if self.held[split] != path or path.stat().st_size != self._size(split):
                os.fsync((self.files.get(split) or self._open_bin(split)).fileno())
        self._close_files()
        keys = "tokens", "bytes", "documents"
        # the strings of SPLITS themselves, because pickle writes equal strings of units.tmp again
        splits = {split: {key: self.counts[split][key] for key in keys} for split in SPLITS}
        for split in SPLITS:
            splits[split]["sha256"] = self.hashes[split].hexdigest()
        return splits

    def renames(self):
        """The (temporary file, bin) pairs that commit() renames."""
        pairs = zip(self.temporary.values(), self.final.values(), self.held.values())
        return [(temporary, path) for temporary, path, held in pairs if held != path]

    def _close_files(self):
        for file in [*self.files.values(), *([self.file] if self.file else [])]:
            with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses again
                file.close()
        self.files = {}


def _is_ours(path):
    """Whether path is an ordinary file that has no other name."""
    return path.is_file() and not path.is_symlink() and path.stat().st_nlink <= 1


def _new_file(path):
    """A new, empty file at path: whatever was there, a link or a pipe too, loses this name."""
    if not path.is_char_device():  # tests use /dev/full as a full disk
        path.unlink(missing_ok=True)
    return open(path, "w+b")


def _line(before, record):
    """A line of units.tmp: a checksum of the line before it and the record, then the record."""
    return hashlib.sha256(before + record).hexdigest()[:16].encode() + b" " + record + b"\n"


def _read_up_to(size, file, use, chunk=1 << 24):
    """Read file from where it is up to byte `size`, and hand every chunk to use()."""
    while (left := size - file.tell()) > 0 and (raw := file.read(min(left, chunk))):
        use(raw)
