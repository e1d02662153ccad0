"""The bins of a dataset while they are written: unit after unit, hashed beside the work, and remembered over a kill."""
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os

from data.encode import piece_length
from data.files import give_memory_back, start_flushing

SPLITS = ("train", "val")
FLUSH = 1 << 23  # bytes of a bin that are written before the disk is told to begin with them


class Bins:
    """train.bin.tmp and val.bin.tmp, filled unit by unit; units.tmp remembers the units that are in them.

    units.tmp holds a line for the identity, then one for each unit: its key (a hash of all the source up to its end)
    and the counts and hashes of both bins after it. After a kill the lines that the bins agree with count, no others.

    A thread does the hashing beside the rest of the work; WAITING tasks wait for it at most.
    """
    WAITING = 8

    def __init__(self, folder, dtype, identity):
        """dtype: of the ids. identity: a string that stands for all that turns text into ids, or None where that may
        have changed unseen: then no unit is remembered.
        """
        self.temporary = {split: folder / f"{split}.bin.tmp" for split in SPLITS}
        self.journal_path = folder / "units.tmp"
        self.dtype, self.identity = dtype, f"1 {identity}\n"
        self.remembers = identity is not None
        self.complete, self.at, self.journal, self.files = False, 0, None, {}
        if (folder / "meta.pkl.new").exists() and not (folder / "meta.pkl").exists():  # killed between the renames
            for split in SPLITS:
                if not self.temporary[split].exists() and (folder / f"{split}.bin").exists():
                    os.replace(folder / f"{split}.bin", self.temporary[split])
        self.hasher, self.hashing = concurrent.futures.ThreadPoolExecutor(1), collections.deque()
        self.num_written, self.flushed = 0, dict.fromkeys(SPLITS, 0)  # units; bytes that the disk was told of
        self.source, self.structure, self.position = hashlib.sha256(), hashlib.sha256(), 0  # what is read; how it is cut
        self.keys = self._read_journal() if self.remembers else []  # of the units that are done
        self._go_back(len(self.keys))

    def _read_journal(self):
        """The keys of the units whose ids are in the temporary bins, whole and in order."""
        keys, hashes = [], {split: hashlib.sha256() for split in SPLITS}
        try:
            with contextlib.ExitStack() as stack:
                lines = stack.enter_context(open(self.journal_path, encoding="ascii"))
                files = {split: stack.enter_context(open(path, "rb")) for split, path in self.temporary.items()}
                if lines.readline() != self.identity:
                    return []
                for line in lines:
                    key, counts = json.loads(line)
                    for split in SPLITS:
                        _hash_up_to(counts[split]["tokens"] * self.dtype.itemsize, files[split], hashes[split])
                    if any(hashes[split].hexdigest() != counts[split]["sha256"] for split in SPLITS):
                        break
                    keys.append(key)
        except (FileNotFoundError, ValueError):  # a line that is cut short is no JSON
            pass
        return keys

    def _go_back(self, num_units):
        """Keep so many of the remembered units, and write on behind them."""
        self.close_files()
        self.keys = self.keys[:num_units]
        self.num_units = num_units
        self.counts = {split: dict(tokens=0, bytes=0, documents=0, max_id=-1) for split in SPLITS}
        if self.remembers:
            self.journal = open(self.journal_path, "r+b" if self.keys else "w+b")
            for _ in range(num_units + 1):
                line = self.journal.readline()
            self.journal.truncate(self.journal.tell())
            if num_units:
                self.counts = json.loads(line)[1]
            else:
                self.journal.write(self.identity.encode())
        self.hashes = {split: hashlib.sha256() for split in SPLITS}
        for split, path in self.temporary.items():
            self.files[split] = file = open(path, "r+b" if self.keys else "wb")
            if self.keys:
                size = self.counts[split]["tokens"] * self.dtype.itemsize
                _hash_up_to(size, file, self.hashes[split])
                file.seek(size)
                file.truncate()

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
            file, begun = self.files[split], self.flushed[split]
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
            self.journal.write(json.dumps([place.result()[0], self.counts]).encode() + b"\n")
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
        for file in self.files.values():
            os.fsync(file.fileno())
        self.close_files()
        return {split: {**{what: self.counts[split][what] for what in ("tokens", "bytes", "documents")},
                        "sha256": self.hashes[split].hexdigest()} for split in SPLITS}

    def close_files(self):
        for file in [*self.files.values(), *([self.journal] if self.journal else [])]:
            with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses a second time
                file.close()

    def discard(self):
        """Remove what is left, but for finished units that the next run can use."""
        self.hasher.shutdown()
        self.close_files()
        if self.complete or not self.num_units:
            for path in (*self.temporary.values(), self.journal_path):
                path.unlink(missing_ok=True)


def _hash_up_to(size, file, digest, chunk=1 << 24):
    """Read on in file up to its byte `size`, into digest."""
    while (left := size - file.tell()) > 0 and (raw := file.read(min(left, chunk))):
        digest.update(raw)
