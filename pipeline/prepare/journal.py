"""The bins of a dataset while they are written: unit after unit, hashed beside the work, and remembered over a kill."""
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os

from pipeline.files import give_memory_back, start_flushing
from pipeline.prepare.encode import piece_length
from pipeline.read.folder import SPLITS

FLUSH = 1 << 23  # bytes of a bin that are written before the disk is told to begin with them


class Bins:
    """train.bin.tmp and val.bin.tmp, filled unit by unit; units.tmp remembers the units that are in them.

    units.tmp holds a line for the identity, then one for each unit: a checksum of this line and the
    one before it, the unit's key (a hash of all the source up to its end), and the counts and
    hashes of both bins after it. After a kill the lines that the bins agree with count, up to the
    first that is damaged.

    Only files of our own are written into, for a run may have a bin open, and copies of a folder
    may share its files by hard links. So a temporary file is gone on with where that is its only
    name; one that an interrupted swap has renamed to train.bin is read, and copied if it must grow.

    A thread does the hashing beside the rest of the work; WAITING tasks wait for it at most.
    """
    WAITING = 8
    LINE = 2000  # bytes; no line of units.tmp is as long

    def __init__(self, folder, dtype, identity):
        """dtype: of the ids. identity: a string that stands for all that turns text into ids, or None where that may
        have changed unseen: then no unit is remembered.
        """
        self.final = {split: folder / f"{split}.bin" for split in SPLITS}
        self.temporary = {split: folder / f"{split}.bin.tmp" for split in SPLITS}
        self.held = {split: path if _is_ours(path) else self.final[split]
                     for split, path in self.temporary.items()}  # where the ids are so far
        self.journal_path = folder / "units.tmp"
        self.dtype, self.identity = dtype, f"2 {identity}\n".encode()
        self.remembers = identity is not None
        self.complete = self.over = False  # all units are in; nothing of them is needed any more
        self.at, self.journal, self.files = 0, None, {}
        self.hasher, self.hashing = concurrent.futures.ThreadPoolExecutor(1), collections.deque()
        self.num_written, self.flushed = 0, dict.fromkeys(SPLITS, 0)  # units; bytes that the disk was told of
        self.source, self.structure, self.position = hashlib.sha256(), hashlib.sha256(), 0  # what is read; how it is cut
        self.keys = self._read_journal() if self.remembers else []  # of the units that are done
        self._go_back(len(self.keys))

    def _read_journal(self):
        """The keys of the units whose ids are in the bins at hand, whole and in order."""
        keys, hashes = [], {split: hashlib.sha256() for split in SPLITS}
        if not _is_ours(self.journal_path):
            return keys
        with contextlib.ExitStack() as stack:
            try:
                lines, *files = [stack.enter_context(open(path, "rb"))
                                 for path in (self.journal_path, *self.held.values())]
            except OSError:  # one of them is gone, or cannot be read
                return keys
            if (before := lines.readline(self.LINE)) != self.identity:
                return keys
            while (line := lines.readline(self.LINE)) and line == _line(before, line[17:-1]):
                key, counts = json.loads(line[17:])
                for split, file in zip(SPLITS, files):
                    size = counts[split]["tokens"] * self.dtype.itemsize
                    _read_up_to(size, file, hashes[split].update)
                if any(hashes[split].hexdigest() != counts[split]["sha256"] for split in SPLITS):
                    break
                keys.append(key)
                before = line
        return keys

    def _go_back(self, num_units):
        """Keep so many of the remembered units, and write on behind them."""
        self.close_files()
        self.keys = self.keys[:num_units]
        self.num_units, self.last_line = num_units, self.identity
        self.counts = {split: dict(tokens=0, bytes=0, documents=0, max_id=-1) for split in SPLITS}
        if self.remembers:
            path = self.journal_path
            self.journal = open(path, "r+b") if num_units else _new_file(path)
            if num_units:
                for _ in range(num_units + 1):
                    self.last_line = self.journal.readline()
                self.journal.truncate(self.journal.tell())
                self.counts = json.loads(self.last_line[17:])[1]
            else:
                self.journal.write(self.identity)
        self.hashes = {split: hashlib.sha256() for split in SPLITS}
        for split, path in self.held.items():
            if size := self._size(split):
                with open(path, "rb") as file:
                    _read_up_to(size, file, self.hashes[split].update)
            if not size or path != self.final[split]:
                self._open(split)

    def _size(self, split):
        """Bytes of a split's bin."""
        return self.counts[split]["tokens"] * self.dtype.itemsize

    def _open(self, split):
        """The temporary bin of a split, open for writing behind what is held."""
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
        """A Future: the key of the next unit of the source, and where it starts, in characters."""
        return self._later(self._place, unit)

    def _place(self, unit):
        start = self.position
        for split, raw, end in unit:
            self.source.update(raw)
            self.structure.update(b"%s %d %d " % (split.encode(), memoryview(raw).nbytes, end))
            self.position += piece_length(raw)
        key = self.structure.copy()
        key.update(self.source.digest())
        return key.hexdigest()[:32], start

    def _later(self, task, *args):
        """A Future of task(*args), which the thread does after all that it was given before."""
        self.hashing.append(future := self.hasher.submit(task, *args))
        if len(self.hashing) > self.WAITING:
            self.hashing.popleft().result()
        return future

    def holds(self, place):
        """Whether the next unit of the source is in the bins already. After the first one that is not, none is."""
        if self.at < len(self.keys):
            if self.keys[self.at] == place.result()[0]:
                self.at += 1
                return True
            self._go_back(self.at)
        return False

    def append(self, place, text_counts, encoded):
        """The next unit: its place(), {split: (bytes of text, documents)}, and {split: ids}."""
        for split, ids in encoded.items():
            file, begun = self.files.get(split) or self._open(split), self.flushed[split]
            file.write(ids.data.cast("B"))
            file.flush()
            if (end := file.tell()) - begun > FLUSH:
                start_flushing(file, begun, end)
                self.flushed[split] = end
        self._later(self._remember, place, text_counts, encoded)
        self.num_written += 1
        if self.num_written % 64 == 0:
            give_memory_back()

    def _remember(self, place, text_counts, encoded):
        """Count and hash a unit that is written, and note it."""
        for split, ids in encoded.items():
            counts = self.counts[split]
            counts["tokens"] += ids.size
            counts["bytes"] += text_counts[split][0]
            counts["documents"] += text_counts[split][1]
            counts["max_id"] = max(counts["max_id"], int(ids.max()) if ids.size else -1)
            self.hashes[split].update(ids)
        if self.remembers:
            for split in SPLITS:
                self.counts[split]["sha256"] = self.hashes[split].hexdigest()
            told = json.dumps([place.result()[0], self.counts]).encode()
            self.last_line = _line(self.last_line, told)
            self.journal.write(self.last_line)
            self.journal.flush()
            self.num_units += 1

    def finish(self):
        """Wait until all is written; returns the sha256 of the source."""
        while self.hashing:
            self.hashing.popleft().result()
        if self.at < len(self.keys):  # the source has become shorter
            self._go_back(self.at)
        return self.source.hexdigest()

    def close(self):
        """Flush to the disk; what meta.pkl says of the splits."""
        for split, path in self.final.items():
            if self.held[split] != path or path.stat().st_size != self._size(split):
                os.fsync((self.files.get(split) or self._open(split)).fileno())
        self.close_files()
        return {split: {**{what: self.counts[split][what] for what in ("tokens", "bytes", "documents")},
                        "sha256": self.hashes[split].hexdigest()} for split in SPLITS}

    def finished(self):
        """(temporary file, bin) for each bin that is to be renamed."""
        return [(self.temporary[split], path) for split, path in self.final.items()
                if self.held[split] != path]

    def close_files(self):
        for file in [*self.files.values(), *([self.journal] if self.journal else [])]:
            with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses a second time
                file.close()
        self.files = {}

    def discard(self):
        """Close all; remove what is left, but for finished units that the next run can use."""
        self.hasher.shutdown()
        self.close_files()
        if self.over or not self.num_units:
            for path in (*self.temporary.values(), self.journal_path):
                path.unlink(missing_ok=True)


def _is_ours(path):
    """Whether path is a file without a second name."""
    return path.is_file() and not path.is_symlink() and path.stat().st_nlink <= 1


def _new_file(path):
    """An empty file at path, which is no other name of one that is there, nor a link or a pipe."""
    if not path.is_char_device():  # /dev/full stands for a full disk in tests
        path.unlink(missing_ok=True)
    return open(path, "w+b")


def _line(before, raw):
    """A line of units.tmp: its checksum, which takes in the line before it, then raw."""
    return hashlib.sha256(before + raw).hexdigest()[:16].encode() + b" " + raw + b"\n"


def _read_up_to(size, file, use, chunk=1 << 24):
    """Read on in file up to its byte `size`; use() gets all of it."""
    while (left := size - file.tell()) > 0 and (raw := file.read(min(left, chunk))):
        use(raw)
