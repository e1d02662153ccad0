"""A prepared dataset folder, opened and checked. data/README.md describes the format."""
import contextlib
import difflib
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.errors import UserError
from pipeline.files import open_regular, written
from pipeline.read.meta import MAX_BYTES, load_plain
from pipeline.tokenizers import tokenizer_from_meta

DATA = Path(os.path.abspath(__file__)).parents[2] / "data"  # it may be a link to a big disk
SPLITS = ("train", "val")
SCAN_LIMIT = 1 << 30  # bytes; bins of other programs up to this size are scanned when opened


# a record of an index of documents, by its bytes: where a document starts, in tokens of its split;
# the number of its file in docs.json; and its row there, from 1
RECORDS = {16: np.dtype([("start", "<u8"), ("file", "<u4"), ("row", "<u4")]),
           24: np.dtype([("start", "<u8"), ("file", "<u8"), ("row", "<u8")])}


def token_dtype(vocab_size):
    """uint16 when every id fits, else uint32; little-endian on every machine."""
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


@dataclass(frozen=True)
class Dataset:
    """A prepared folder, checked. It holds its files open, so a prepare.py that replaces them
    meanwhile changes nothing here.

    A part is one of its files, <part>.bin: `train`, and of some folders `train.mask` (which tokens
    are to be learned) and `train.docs` (an index of documents); and so for val.
    """
    name: str
    folder: Path
    meta: dict
    vocab_size: int
    dtype: np.dtype
    files: dict  # part -> the open file
    num_tokens: dict  # split -> count
    written: dict  # part -> (bytes, time of the last change) of its file when it was opened
    hashes: dict = field(default_factory=dict)  # split -> sha256, where meta.pkl states none

    def path(self, part):
        return self.folder / f"{part}.bin"

    @property
    def has_mask(self):
        return "train.mask" in self.files

    @property
    def has_index(self):
        return "train.docs" in self.files

    def tokens(self, split):
        """(num_tokens[split],) read-only memmap of the ids; each call maps the file anew."""
        return self._map(split, self.dtype, self.num_tokens[split])

    def mask(self, split):
        """(num_tokens[split],) uint8 memmap: 1 where a token is to be learned, else 0."""
        return self._map(f"{split}.mask", np.uint8, self.num_tokens[split])

    def documents(self, split):
        """(documents,) memmap of RECORDS in the order of their starts."""
        record = RECORDS[self.meta["docs"]["width"]]
        return self._map(f"{split}.docs", record, self.meta["splits"][split]["docs"]["count"])

    def _map(self, part, dtype, count):
        if not count:  # an empty file cannot be mapped
            return np.zeros(0, dtype)
        try:
            return np.memmap(self.files[part], dtype=dtype, mode="r", shape=(count,))
        except ValueError:  # the file has become too short
            self.check_unchanged(part)
            raise

    def read(self, split, starts, length, tokens=None):
        """(B, length) ids: those from each of starts on, (B,) int64, at most num_tokens - length.

        tokens: the result of tokens(split), if the caller keeps one for several reads. Raises
        UserError when the file has been cut short or overwritten since it was opened.
        """
        return self._windows(split, starts, length,
                             lambda: self.tokens(split) if tokens is None else tokens)

    def read_mask(self, split, starts, length, mask=None):
        """(B, length) uint8: as read() does for ids, 1 where a token is to be learned."""
        return self._windows(f"{split}.mask", starts, length,
                             lambda: self.mask(split) if mask is None else mask)

    def _windows(self, part, starts, length, mapped):
        self.check_unchanged(part)
        # the view costs no copy; indexing it copies just the windows asked for
        view = sliding_window_view(mapped(), length)
        assert starts.min() >= 0 and starts.max() < len(view)
        windows = view[starts]
        self.check_unchanged(part)  # bytes that were cut off meanwhile would have read as zeros
        return windows

    def check_unchanged(self, part):
        """Raise UserError when the file has another length than when it was opened, or was written
        to and now has another hash than meta.pkl states."""
        # two numbers of the file system tell quickly whether a look at the bytes is needed
        now, before = written(self.files[part]), self.written[part]
        if now == before:
            return
        path = self.path(part)
        size, changed = now[0], f"{path} has changed since it was opened"
        restore = (f"Prepare it as it was: python {self.folder}/prepare.py; then resume from the "
                   f"last checkpoint")
        if size != before[0]:
            raise UserError(f"{changed}: it has {size:,} bytes and had {before[0]:,}. {restore}")
        split, _, what = part.partition(".")
        stated = self.meta.get("splits", {}).get(split, {})
        stated = (stated.get(what, {}) if what else stated).get("sha256")
        stated = stated or self.hashes.get(part)  # other programs state none
        if stated and (found := self._sha256(part, size)) != stated:
            where = "in meta.pkl" if part not in self.hashes else "before"
            raise UserError(f"{changed}: its {size:,} bytes differ (sha256 {found[:12]}, and "
                            f"{stated[:12]} {where}). {restore}")
        # a copy, a network file system or `touch` may set a new time on the same bytes
        self.written[part] = now

    def _sha256(self, part, size):
        digest = hashlib.sha256()
        for start in range(0, size, 1 << 24):  # mapped anew, so that it can leave the memory
            digest.update(self._map(part, np.uint8, size)[start : start + (1 << 24)])
        return digest.hexdigest()

    def chunks(self, split, size=1 << 20):
        """Yield the ids of a split in arrays of up to `size`, checked against vocab_size. What has
        been yielded takes no memory any more."""
        for start in range(0, self.num_tokens[split], size):
            # a copy, so that the mapping, and what was read through it, can go
            ids = np.array(self.tokens(split)[start : start + size])
            check_ids(ids, self.vocab_size, self.path(split), start)
            yield ids

    def fingerprint(self, documents=False):
        """{part: sha256; or, of a bin over SCAN_LIMIT without a hash in meta.pkl, its number of
        tokens}: a checkpoint keeps it, so that a resumed run recognises its data. documents: the
        index counts, too."""
        stated, found = self.meta.get("splits", {}), {}
        for part in self.files:
            split, _, what = part.partition(".")
            held = stated.get(split, {})
            if what != "docs" or documents:
                held = held.get(what, {}) if what else held
                found[part] = held.get("sha256") or self._own_hash(split)
        return found

    def _own_hash(self, split):
        """The sha256 of a bin that another program wrote, or its number of tokens."""
        if self.num_tokens[split] * self.dtype.itemsize >= SCAN_LIMIT:
            return self._count(split)
        if split not in self.hashes:
            self.hashes[split] = self._sha256(split, self.written[split][0])
        return self.hashes[split]

    def _count(self, split):
        return f"{self.num_tokens[split]} tokens"

    def has_fingerprint(self, held, documents=False):
        """Whether `held` is its fingerprint. Earlier checkpoints count the tokens of bins that
        other programs wrote, and have no hash of them."""
        stated, own = self.meta.get("splits", {}), self.fingerprint(documents)
        for part in SPLITS:
            if "sha256" not in stated.get(part, {}) and held.get(part) == self._count(part):
                own[part] = held[part]
        return own == held


def dataset_folder(name):
    """data/<name>, relative to the working directory where possible. A name with a slash is a path
    to a folder anywhere."""
    name = str(name)
    # Windows has \ for a slash, and takes / too
    return shown(Path(name) if os.sep in name or "/" in name else DATA / name)


def shown(path):
    """The path relative to the working directory if it lies below it, so that a printed command
    works when typed there."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def open_dataset(name):
    """Check data/<name>, or a path to a folder, and return its Dataset.

    This reads meta.pkl and the sizes of the files, and no tokens, except for bins that another
    program wrote (their meta.pkl has no max_id): those under 1 GB are scanned for ids beyond the
    vocabulary. Raises UserError or FileNotFoundError that names the command that helps.
    """
    folder = dataset_folder(name)
    # meta.pkl and the bins are opened one after the other, and must belong together
    while True:
        stamp = _stamp(folder)
        try:
            meta = read_meta(folder)
            dtype = _stated_dtype(meta, folder)
            files = {part: _open_bin(folder / f"{part}.bin") for part in _parts(folder, meta)}
            times = {part: written(file) for part, file in files.items()}
            num_tokens = {split: _count_tokens(files[split], dtype, meta, split)
                          for split in SPLITS}
            _check_sizes(files, meta, num_tokens)
        except (UserError, FileNotFoundError):
            if stamp == _stamp(folder):
                raise
        else:
            if stamp == _stamp(folder):
                break
        # a prepare.py has replaced meta.pkl or the bins in between, so look again
    vocab_size = meta["vocab_size"]
    if meta.get("tokenizer") == "tiktoken" and "pat_str" not in meta:
        # other programs count the merges, which leaves out <|endoftext|>
        vocab_size = max(vocab_size, tokenizer_from_meta(meta).vocab_size)
    folder_name = Path(os.path.abspath(folder)).name  # of `.` too
    dataset = Dataset(folder_name, folder, meta, vocab_size, dtype, files, num_tokens, times)
    if meta.get("max_id", -1) >= vocab_size:
        raise UserError(f"{folder}/meta.pkl says max_id {meta['max_id']:,} and vocab_size "
                        f"{vocab_size:,}, but every id must be below vocab_size. Prepare the "
                        f"dataset again")
    # another program has not looked at the ids: in smaller bins all are checked now, in larger
    # ones batch by batch in training
    for split in SPLITS if "max_id" not in meta else ():
        if num_tokens[split] * dtype.itemsize < SCAN_LIMIT:
            for _ in dataset.chunks(split):  # which checks them
                pass
    return dataset


def read_meta(folder):
    """The checked dict of the folder's meta.pkl; otherwise an error that names the next command."""
    path = folder / "meta.pkl"
    if folder.is_file():
        hint = f"Did you mean {folder.parent}?"
        if not any((folder.parent / name).exists() for name in ("prepare.py", "meta.pkl")):
            hint = _dataset_of(folder)
        raise UserError(f"{folder} is a file, and a dataset is a folder. {hint}")
    if not folder.is_dir():
        raise FileNotFoundError(_no_such_dataset(folder))
    # reading up to MAX_BYTES would reserve that much memory, so ask for the file's size
    with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        return load_plain(file.read(min(MAX_BYTES, size) + 1), path)
    # no meta.pkl: what else lies in the folder tells which command helps
    prepare = f"python {folder}/prepare.py"
    if (folder / "meta.pkl.new").exists():
        raise FileNotFoundError(f"{folder} is half-written: its prepare.py is still running, or "
                                f"was stopped. Run: {prepare}")
    if (folder / "train.bin").exists() and (folder / "val.bin").exists():
        again = f"Run: {prepare}. Or, if" if (folder / "prepare.py").exists() else "If"
        raise FileNotFoundError(
            f"{path} not found beside train.bin and val.bin. {again} these are GPT-2 tokens "
            f"(nanoGPT writes no meta.pkl for them), run: python {shown(DATA)}/check_dataset.py "
            f"{folder} --adopt gpt2")
    if (folder / "get_dataset.sh").exists():
        prepare = f"bash {folder}/get_dataset.sh"
    raise FileNotFoundError(f"{folder} is not prepared. Run: {prepare}")


def _dataset_of(text):
    data = shown(DATA)
    return (f"To make a dataset of a text: bash {data}/create_new_dataset.sh mydata; then python "
            f"{data}/mydata/prepare.py -t {text}")


def _no_such_dataset(folder):
    found = {p.parent.name for file in ("prepare.py", "meta.pkl") for p in DATA.glob(f"*/{file}")}
    names, data = sorted(found - {"template"}), shown(DATA)
    near = difflib.get_close_matches(folder.name, names, n=1, cutoff=0.7)  # a misspelt name
    hint = f"To create it, run: bash {data}/create_new_dataset.sh {folder.name}"
    if Path(folder.name).is_file():
        hint = _dataset_of(folder.name)
    elif near:
        hint = f"Did you mean {near[0]}?"
    return f"{folder} not found. {hint} (the {len(names)} datasets: python {data}/list_datasets.py)"


def _stated_dtype(meta, folder):
    if "dtype" in meta:
        return np.dtype(meta["dtype"]).newbyteorder("<")
    # 65,535 is the largest id of two bytes; some programs take four where vocab_size is above it
    if meta["vocab_size"] == 65_536:
        raise UserError(f"{folder}/meta.pkl has vocab_size 65,536 and no dtype, and programs "
                        f"disagree on the width of such ids. State it: python "
                        f"{shown(DATA)}/check_dataset.py {folder} --dtype uint16 (or uint32)")
    return token_dtype(meta["vocab_size"])


def _stamp(folder):
    """What changes whenever a prepare.py replaces meta.pkl."""
    try:  # a renamed file has another inode, an edited one another time
        stat = (folder / "meta.pkl").stat()
        return stat.st_ino, stat.st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return "missing"


def _open_bin(path):
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found, although meta.pkl is there. Run: python "
                                f"{path.parent}/prepare.py") from None


def _parts(folder, meta):
    """The parts of a folder that meta.pkl states: only these are ever read. Where the index of
    documents was not copied with the bins, the folder is read without it."""
    stated, parts = meta.get("splits", {}).get("train", {}), [*SPLITS]
    if "mask" in stated:
        parts += [f"{split}.mask" for split in SPLITS]
    index = [f"{split}.docs" for split in SPLITS]
    if "docs" in stated and all((folder / f"{part}.bin").exists() for part in index):
        parts += index
    return parts


def _check_sizes(files, meta, num_tokens):
    """Raise UserError where a mask or an index has another length than meta.pkl says."""
    for part, file in files.items():
        split, _, what = part.partition(".")
        if not what:
            continue
        expected = num_tokens[split]
        if what == "docs":
            expected = meta["splits"][split]["docs"]["count"] * meta["docs"]["width"]
        if (size := os.fstat(file.fileno()).st_size) != expected:
            raise UserError(f"{file.name} has {size:,} bytes, and by meta.pkl it must have "
                            f"{expected:,}. Prepare the dataset again: python "
                            f"{Path(file.name).parent}/prepare.py")


def _count_tokens(file, dtype, meta, split):
    """The number of ids in an open bin. Raises UserError where meta.pkl states another."""
    size = os.fstat(file.fileno()).st_size
    again = f"Prepare the dataset again: python {Path(file.name).parent}/prepare.py"
    if size % dtype.itemsize:
        raise UserError(f"{file.name} has {size:,} bytes, which is not a multiple of "
                        f"{dtype.itemsize} ({dtype.name}). {again}")
    count = size // dtype.itemsize
    # another program states no count, so any will do
    stated = meta["splits"][split]["tokens"] if "splits" in meta else count
    if count != stated:
        raise UserError(f"{file.name} has {count:,} tokens, and meta.pkl says {stated:,}. {again}")
    return count


def check_ids(ids, vocab_size, path, starts):
    """Raise UserError when an id is beyond vocab_size. ids: (n,), or (B, n) windows. starts: where
    they begin in the file, one number or (B,)."""
    # the maximum is the fast test; where it fails, the first bad id is looked for
    if ids.size and (largest := int(ids.max())) >= vocab_size:
        i = int((ids >= vocab_size).argmax())
        row, column = divmod(i, ids.shape[-1])
        position = int(np.atleast_1d(starts)[row]) + column
        raise UserError(f"{path}: the id at position {position:,} is {ids.flat[i]:,}, beyond "
                        f"vocab_size {vocab_size:,} (largest seen: {largest:,}). The file is "
                        f"damaged, or meta.pkl belongs to another file. Prepare the dataset again")
