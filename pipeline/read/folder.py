"""A prepared dataset folder: opened and checked. See data/README.md for the format.
"""
import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.errors import UserError
from pipeline.files import open_regular, written
from pipeline.read.meta import MAX_BYTES, load_plain
from pipeline.tokenizers import tokenizer_from_meta

DATA = Path(os.path.abspath(__file__)).parents[2] / "data"  # perhaps a link to a big disk
SPLITS = ("train", "val")


SCAN_LIMIT = 1 << 30  # bytes; foreign bins up to this size are read once, whole, to find their largest id


def token_dtype(vocab_size):
    """uint16 when every id fits, else uint32; little-endian on every machine."""
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


@dataclass(frozen=True)
class Dataset:
    """A prepared folder, checked. It holds its files open: a prepare.py that runs meanwhile changes nothing here."""
    name: str
    folder: Path
    meta: dict
    vocab_size: int
    dtype: np.dtype
    files: dict  # split -> the open file
    num_tokens: dict  # split -> count
    written: dict  # split -> (bytes, time of the last change) of its file when it was opened

    def path(self, split):
        return self.folder / f"{split}.bin"

    def tokens(self, split):
        """(num_tokens[split],) read-only memmap of the ids, mapped anew at each call."""
        try:
            return np.memmap(self.files[split], dtype=self.dtype, mode="r", shape=(self.num_tokens[split],))
        except ValueError:  # the file has become too short
            self._check_unchanged(split)
            raise

    def read(self, split, starts, length, tokens=None):
        """(B, length) ids, those from each of starts (B,) int64 on, each at most num_tokens - length.

        tokens: tokens(split), where the caller keeps it for several reads. UserError where the file
        has been cut short or written over since it was opened.
        """
        assert starts.min() >= 0 and starts.max() <= self.num_tokens[split] - length
        self._check_unchanged(split)
        tokens = self.tokens(split) if tokens is None else tokens
        windows = sliding_window_view(tokens, length)[starts]
        self._check_unchanged(split)  # what was cut meanwhile reads as zeros, to the end of its page
        return windows

    def _check_unchanged(self, split):
        """UserError where the file has another length than when it was opened, or was written to
        and has lost its hash."""
        path, now = self.path(split), written(self.files[split])
        size = now[0]
        if now == self.written[split]:
            return
        before, changed = self.written[split][0], f"{path} has changed since it was opened"
        as_it_was = (f"Prepare it as it was: python {self.folder}/prepare.py; then go on from the "
                     f"last checkpoint")
        if size != before:
            raise UserError(f"{changed}: it has {size:,} bytes and had {before:,}. {as_it_was}")
        # other programs state none
        stated = self.meta.get("splits", {}).get(split, {}).get("sha256")
        digest = hashlib.sha256()
        for start in range(0, self.num_tokens[split] if stated else 0, 1 << 24):
            digest.update(self.tokens(split)[start : start + (1 << 24)])
        if stated and digest.hexdigest() != stated:
            raise UserError(f"{changed}: its {size:,} bytes are others (sha256 "
                            f"{digest.hexdigest()[:12]}, and {stated[:12]} in meta.pkl). "
                            f"{as_it_was}")
        self.written[split] = now  # a copy, a network file system or touch may set a new time

    def blocks(self, split, size=1 << 20):
        """The ids of a split in arrays of up to `size`; what has been read is not kept in memory."""
        for start in range(0, self.num_tokens[split], size):
            ids = np.array(self.tokens(split)[start : start + size])
            check_ids(ids, self.vocab_size, self.path(split), lambda i: start + i)
            yield ids

    def fingerprint(self):
        """What a checkpoint keeps to know its data again: a hash (or, for foreign bins, the size) of each split."""
        counts = self.meta.get("splits", {})
        return {s: counts.get(s, {}).get("sha256") or f"{self.num_tokens[s]} tokens" for s in SPLITS}


def dataset_folder(name):
    """data/<name>, shown from the working directory where it lies below; a name with a slash is a path to a folder."""
    name = str(name)
    if os.sep in name or "/" in name:
        return shown(Path(name))
    return shown(DATA / name)


def shown(path):
    """A path as seen from the working directory, where it lies below; commands we print work from there."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def open_dataset(name):
    """Check data/<name> and return its Dataset. The checks read meta.pkl and the files' sizes, not the tokens.

    Bins that another program wrote (no max_id in their meta.pkl) are scanned for ids beyond the vocabulary when they
    are under 1 GB. Raises UserError or FileNotFoundError, naming the command that helps.
    """
    folder = dataset_folder(name)
    while True:
        stamp = _stamp(folder)
        try:
            meta = read_meta(folder)
            dtype = _stated_dtype(meta, folder)
            files = {split: _open_bin(folder / f"{split}.bin") for split in SPLITS}
            times = {split: written(file) for split, file in files.items()}
            num_tokens = {split: _count_tokens(files[split], dtype, meta, split) for split in SPLITS}
            error = None
        except (UserError, FileNotFoundError) as caught:
            error = caught
        if stamp == _stamp(folder):
            break  # else a prepare.py has come between: look again
    if error:
        raise error
    vocab_size = meta["vocab_size"]
    if meta.get("tokenizer") == "tiktoken" and "pat_str" not in meta:
        # other programs count the ranks, which leaves out <|endoftext|>
        vocab_size = max(vocab_size, tokenizer_from_meta(meta).vocab_size)
    folder_name = Path(os.path.abspath(folder)).name
    dataset = Dataset(folder_name, folder, meta, vocab_size, dtype, files, num_tokens, times)
    if "max_id" in meta:
        if meta["max_id"] >= vocab_size:
            raise UserError(f"{folder}/meta.pkl says max_id {meta['max_id']:,} and vocab_size {vocab_size:,}; an id "
                            f"must be below vocab_size. Prepare the dataset again")
    else:
        _scan(dataset)
    return dataset


def read_meta(folder):
    path = folder / "meta.pkl"
    if folder.is_file():
        raise UserError(f"{folder} is a file; a dataset is a folder. Did you mean {folder.parent}?")
    if not folder.is_dir():
        raise FileNotFoundError(_no_such_dataset(folder))
    try:
        with open_regular(path) as file:  # to ask for more than is there takes that much memory
            return load_plain(file.read(min(MAX_BYTES, os.fstat(file.fileno()).st_size) + 1), path)
    except FileNotFoundError:
        pass
    prepare = f"bash {folder}/get_dataset.sh" if (folder / "get_dataset.sh").exists() else f"python {folder}/prepare.py"
    if (folder / "meta.pkl.new").exists():
        raise FileNotFoundError(f"{folder} is half-written: prepare.py is at work, or was stopped. Run: python "
                                f"{folder}/prepare.py")
    if (folder / "train.bin").exists() and (folder / "val.bin").exists():
        again = f"Run: python {folder}/prepare.py. Or, if" if (folder / "prepare.py").exists() else "If"
        raise FileNotFoundError(f"{path} not found beside train.bin and val.bin. {again} these are GPT-2 tokens (nanoGPT "
                                f"writes no meta.pkl for them), run: python {shown(DATA)}/check_dataset.py {folder} --adopt gpt2")
    raise FileNotFoundError(f"{folder} is not prepared. Run: {prepare}")


def _no_such_dataset(folder):
    names = {p.parent.name for what in ("prepare.py", "meta.pkl") for p in DATA.glob(f"*/{what}")} - {"template"}
    near = difflib.get_close_matches(folder.name, sorted(names), n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Make it: bash {shown(DATA)}/create_new_dataset.sh {folder.name}"
    return f"{folder} not found. {hint} (python {shown(DATA)}/list_datasets.py lists the {len(names)} there are)"


def _stated_dtype(meta, folder):
    if "dtype" in meta:
        return np.dtype(meta["dtype"]).newbyteorder("<")
    if meta["vocab_size"] == 65_536:
        raise UserError(f"{folder}/meta.pkl has vocab_size 65,536 and no dtype, and programs disagree on the width of "
                        f"such ids. State it: python {shown(DATA)}/check_dataset.py {folder} --dtype uint16 (or uint32)")
    return token_dtype(meta["vocab_size"])


def _stamp(folder):
    try:
        stat = (folder / "meta.pkl").stat()
        return stat.st_ino, stat.st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return "missing"


def _open_bin(path):
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found, though meta.pkl is there. Run: python {path.parent}/prepare.py"
                                ) from None


def _count_tokens(file, dtype, meta, split):
    size, again = os.fstat(file.fileno()).st_size, f"python {Path(file.name).parent}/prepare.py"
    if size % dtype.itemsize:
        raise UserError(f"{file.name} has {size:,} bytes, no multiple of {dtype.itemsize} ({dtype.name}). Prepare the "
                        f"dataset again: {again}")
    count = size // dtype.itemsize
    stated = meta["splits"][split]["tokens"] if "splits" in meta else count
    if count != stated:
        raise UserError(f"{file.name} has {count:,} tokens, meta.pkl says {stated:,}. Prepare the dataset again: {again}")
    return count


def check_ids(ids, vocab_size, path, position_of):
    """Raise UserError when an id is beyond vocab_size. ids: any shape; position_of(flat index) -> token position."""
    if ids.size and (high := int(ids.max())) >= vocab_size:
        at = position_of(int((ids >= vocab_size).argmax()))
        raise UserError(f"{path}: the id at position {at:,} is {ids[ids >= vocab_size][0]:,}, beyond vocab_size "
                        f"{vocab_size:,} (largest seen: {high:,}). The file is damaged, or meta.pkl belongs to "
                        f"another: prepare the dataset again")


def _scan(dataset, chunk=1 << 24):
    """Read foreign bins once for ids beyond the vocabulary; larger ones are checked batch by batch in training."""
    for split in SPLITS:
        tokens = dataset.tokens(split) if dataset.num_tokens[split] else np.zeros(0, dataset.dtype)
        if tokens.nbytes < SCAN_LIMIT:
            for start in range(0, len(tokens), chunk):
                check_ids(tokens[start : start + chunk], dataset.vocab_size, dataset.path(split), lambda i: start + i)
