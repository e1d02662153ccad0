"""The files of a dataset while they are written: ids are appended unit by unit, hashed, and
remembered, so that a preparation that was killed continues after its last finished unit."""
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os

import numpy as np

from pipeline.errors import UserError
from pipeline.files import give_memory_back, start_flushing
from pipeline.prepare.units import LEARNED, raw_length
from pipeline.read.folder import RECORDS, SPLITS

FLUSH = 1 << 23  # bytes written to a file before the disk is told to start with them
WAITING = 8  # tasks that may wait for the thread which hashes
LINE = 4000  # bytes; every line of units.tmp is shorter
MASKS, INDEXES = ([f"{split}.{what}" for split in SPLITS] for what in ("mask", "docs"))
PARTS = [*SPLITS, *MASKS, *INDEXES]
WIDE, NARROW = RECORDS[24], RECORDS[16]
ONES = np.frombuffer(LEARNED * (1 << 20), np.uint8)


class Journal:
    """train.bin.tmp and val.bin.tmp; train.mask.bin.tmp and train.docs.tmp, and those of val, where
    there is a mask or an index; and units.tmp, which records the units that are in them.

    units.tmp has a line for the identity, then a line for each unit: a checksum of this line and
    the line before it, the unit's key (a hash of all the source up to the unit's end), and the
    counts and the hashes of all files after the unit. After a kill, units count as finished up to
    the first line that is damaged or does not agree with the files.

    A mask begins with the first unit that has an unlearned token: what was before it is learned. An
    index is kept with wide records; close() writes it as it will be read.

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
        self.final = {part: folder / f"{part}.bin" for part in PARTS}
        self.names = folder / "docs.json"
        self.temporary = {part: folder / f"{part}.bin.tmp" for part in (*SPLITS, *MASKS)}
        self.temporary |= {part: folder / f"{part}.tmp" for part in INDEXES}
        self.held = {part: path if _is_ours(path) else self.final[part]
                     for part, path in self.temporary.items()}  # where the bytes are so far
        self.path = folder / "units.tmp"
        self.dtype, self.identity = dtype, f"3 {identity}\n".encode()
        self.remembers = identity is not None
        self.complete = False  # whether all units are in
        self.num_known, self.file, self.files = 0, None, {}
        self.num_written, self.flushed = 0, dict.fromkeys(PARTS, 0)  # units; bytes
        self.hasher, self.hashing = concurrent.futures.ThreadPoolExecutor(1), collections.deque()
        # of the source that has been read: its bytes, how it is cut into pieces, its characters
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
            for path in (*self.temporary.values(), *self._made_at_the_end().values(), self.path):
                path.unlink(missing_ok=True)

    def _made_at_the_end(self):
        """{final file: its temporary one} of the index."""
        paths = [*(self.final[part] for part in INDEXES), self.names]
        return {path: path.with_name(f"{path.name}.tmp") for path in paths}

    def _read(self):
        """The keys of the finished units, whose bytes are in the files, complete and in order."""
        keys, hashes, files = [], {part: hashlib.sha256() for part in PARTS}, {}
        if not _is_ours(self.path):
            return keys
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            # OSError: a file is missing, or cannot be read
            lines = stack.enter_context(open(self.path, "rb"))
            if (before := lines.readline(LINE)) != self.identity:
                return keys
            while (line := lines.readline(LINE)) and line == _line(before, line[17:-1]):
                key, counts, stated = json.loads(line[17:])
                for part, size in self._sizes(counts).items():
                    if size and part not in files:
                        files[part] = stack.enter_context(open(self.held[part], "rb"))
                    if size:
                        _read_up_to(size, files[part], hashes[part].update)
                if any(hashes[part].hexdigest() != stated[part] for part in PARTS):
                    break
                keys.append(key)
                before = line
        return keys

    def _sizes(self, counts):
        """{part: bytes} of the files at these counts."""
        tokens = [counts[split]["tokens"] for split in SPLITS]
        has_mask = any(counts[split]["learned"] < counts[split]["tokens"] for split in SPLITS)
        return {**{split: n * self.dtype.itemsize for split, n in zip(SPLITS, tokens)},
                **{part: n * has_mask for part, n in zip(MASKS, tokens)},
                **{part: counts[split]["docs"] * WIDE.itemsize
                   for part, split in zip(INDEXES, SPLITS)}}

    def _go_back(self, num_units):
        """Keep the first num_units of the finished units, and continue to write after them."""
        self._close_files()
        self.keys = self.keys[:num_units]
        self.num_units, self.last_line = num_units, self.identity
        self.counts = {split: dict(tokens=0, bytes=0, documents=0, max_id=-1, learned=0,
                                   spanning=0, docs=0, max_row=0) for split in SPLITS}
        if num_units:
            self.file = open(self.path, "r+b")
            for _ in range(num_units + 1):
                self.last_line = self.file.readline()
            self.file.truncate(self.file.tell())
            self.counts = json.loads(self.last_line[17:])[1]
        elif self.remembers:
            self.file = _new_file(self.path)
            self.file.write(self.identity)
        self.hashes = {part: hashlib.sha256() for part in PARTS}
        self.sizes = self._sizes(self.counts)  # of what is written; counts are of what is hashed
        for part, path in self.held.items():
            if size := self.sizes[part]:
                with open(path, "rb") as file:
                    _read_up_to(size, file, self.hashes[part].update)
            if part in SPLITS and not size or size and path != self.final[part]:
                self._open(part)

    def _open(self, part):
        """The temporary file of a part, opened for writing after the bytes so far."""
        path, held, size = self.temporary[part], self.held[part], self.sizes[part]
        if size and held == path:
            file = open(path, "r+b")
        else:
            file = _new_file(path)
            if size:
                with open(held, "rb") as source:
                    _read_up_to(size, source, file.write)
            self.held[part] = path
        if size:
            file.seek(size)
            file.truncate()
        self.files[part] = file
        return file

    def place(self, unit):
        """A Future of the next unit's (key, start in the source in characters)."""
        return self._later(self._place, unit)

    def _place(self, unit):
        start, structure = self.position, []
        for split, raw, end, learned, docs, is_marker in unit:
            self.source.update(raw)
            structure.append(b"%s %d %d %d " % (split.encode(), memoryview(raw).nbytes, end,
                                                is_marker))
            structure += [b"%d %d %d " % doc for doc in docs]
            if learned is not None:
                structure.append(b"%d;%b" % (len(learned), learned))
            self.position += raw_length(raw)
        self.structure.update(b"".join(structure))
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
        """Whether the unit at this place is in the files. After the first that is not, none is."""
        if self.num_known < len(self.keys):
            if self.keys[self.num_known] == place.result()[0]:
                self.num_known += 1
                return True
            self._go_back(self.num_known)
        return False

    def append(self, place, counts, encoded):
        """Write the next unit: its place(), {split: write.Counts}, {split: encode.Encoded}."""
        written, has_mask = [], self._has_mask()
        if not has_mask and any(found.learned is not None for found in encoded.values()):
            has_mask = True
            for part, split in zip(MASKS, SPLITS):
                self._write_ones(part, self._num_tokens(split), written)
        for split, found in encoded.items():
            if found.starts:
                records = np.empty(len(found.starts), WIDE)
                records["start"] = np.array(found.starts) + self._num_tokens(split)
                records["file"], records["row"] = counts[split].places.T
                self._write(f"{split}.docs", records, written)
            self._write(split, found.ids, written)
            if found.learned is not None:
                self._write(f"{split}.mask", found.learned, written)
            elif has_mask:
                self._write_ones(f"{split}.mask", len(found.ids), written)
        self._later(self._remember, place, counts, encoded, written)
        self.num_written += 1
        if self.num_written % 64 == 0:
            give_memory_back()

    def _num_tokens(self, split):
        return self.sizes[split] // self.dtype.itemsize

    def _has_mask(self):
        return any(self.sizes[part] for part in MASKS)

    def _write_ones(self, part, count, written):
        for start in range(0, count, len(ONES)):
            self._write(part, ONES[: count - start], written)

    def _write(self, part, array, written):
        """Append an array to a file; its bytes are added to `written`, (part, bytes) pairs."""
        file, raw = self.files.get(part) or self._open(part), array.view(np.uint8)
        file.write(raw)
        file.flush()
        self.sizes[part] += raw.size
        if self.sizes[part] - self.flushed[part] > FLUSH:
            start_flushing(file, self.flushed[part], self.sizes[part])
            self.flushed[part] = self.sizes[part]
        written.append((part, raw))

    def _remember(self, place, unit_counts, encoded, written):
        """Count, hash and record a unit that has been written."""
        for split, (ids, learned, starts, num_spanning) in encoded.items():
            counts, of_unit = self.counts[split], unit_counts[split]
            counts["tokens"] += ids.size
            counts["bytes"] += of_unit.num_bytes
            counts["documents"] += of_unit.num_documents
            counts["max_id"] = max(counts["max_id"], int(ids.max()) if ids.size else -1)
            counts["learned"] += ids.size if learned is None else int(learned.sum())
            counts["spanning"] += num_spanning
            counts["docs"] += len(starts)
            if len(of_unit.places):
                counts["max_row"] = max(counts["max_row"], int(of_unit.places[:, 1].max()))
        for part, raw in written:
            self.hashes[part].update(raw)
        if self.remembers:
            hashes = {part: self.hashes[part].hexdigest() for part in PARTS}
            record = json.dumps([place.result()[0], self.counts, hashes]).encode()
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

    def close(self, names):
        """Write everything to the disk; returns what meta.pkl says of the splits, and of docs, or
        None. names: the names of the files that the index numbers, in order."""
        for part in (*SPLITS, *MASKS):
            path, size = self.final[part], self.sizes[part]
            is_needed = part in SPLITS or size
            if is_needed and (self.held[part] != path or path.stat().st_size != size):
                os.fsync((self.files.get(part) or self._open(part)).fileno())
        docs = self._write_index(names) if self._has_index() else None
        self._close_files()
        keys = "tokens", "bytes", "documents"
        # the strings of SPLITS themselves, because pickle writes equal strings of units.tmp again
        splits = {split: {key: self.counts[split][key] for key in keys} for split in SPLITS}
        for split in SPLITS:
            splits[split]["sha256"] = self.hashes[split].hexdigest()
            if self._has_mask():
                splits[split]["mask"] = {"sha256": self.hashes[f"{split}.mask"].hexdigest(),
                                         "learned": self.counts[split]["learned"]}
            if docs:
                splits[split]["docs"] = {"sha256": docs["sha256"][split],
                                         "count": self.counts[split]["docs"]}
        return splits, docs and {key: docs[key] for key in ("width", "files_sha256")}

    def _has_index(self):
        return any(self.sizes[part] for part in INDEXES)

    def _write_index(self, names):
        """Write the index as it will be read, with narrow records if all numbers fit into them."""
        largest = max(len(names), *(self.counts[split]["max_row"] for split in SPLITS))
        record, made = WIDE if largest >= 2**32 else NARROW, self._made_at_the_end()
        hashes = {split: _write_hashed(made[self.final[part]], self._records(part, record))
                  for part, split in zip(INDEXES, SPLITS)}
        files_sha256 = _write_hashed(made[self.names], [json.dumps(names).encode()])
        return {"width": record.itemsize, "files_sha256": files_sha256, "sha256": hashes}

    def _records(self, part, record):
        """The bytes of an index, in records of this dtype, in chunks."""
        left = self.sizes[part]
        with open(self.held[part], "rb") if left else contextlib.nullcontext() as file:
            while left and (raw := file.read(min(left, WIDE.itemsize << 16))):
                left -= len(raw)
                yield np.frombuffer(raw, WIDE).astype(record).tobytes()

    def renames(self):
        """The (temporary file, final file) pairs that commit() renames."""
        parts = [*SPLITS, *(part for part in MASKS if self._has_mask())]
        pairs = [(self.temporary[part], self.final[part]) for part in parts
                 if self.held[part] != self.final[part]]
        return pairs + [(temporary, path) for path, temporary in self._made_at_the_end().items()
                        if self._has_index()]

    def stale(self):
        """Files of an older result that commit() removes."""
        kept = {self.final[part] for part in MASKS
                if self._has_mask() and self.held[part] == self.final[part]}
        return [path for path in (*(self.final[part] for part in (*MASKS, *INDEXES)), self.names)
                if path not in kept]

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


def _write_hashed(path, chunks):
    """Write a new file and have it on the disk; returns its sha256."""
    digest = hashlib.sha256()
    with _new_file(path) as file:
        for raw in chunks:
            digest.update(raw)
            file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _line(before, record):
    """A line of units.tmp: a checksum of the line before it and the record, then the record."""
    return hashlib.sha256(before + record).hexdigest()[:16].encode() + b" " + record + b"\n"


def _read_up_to(size, file, use, chunk=1 << 24):
    """Read file from where it is up to byte `size`, and hand every chunk to use()."""
    while (left := size - file.tell()) > 0 and (raw := file.read(min(left, chunk))):
        use(raw)
