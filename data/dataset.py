"""The folder format, in both directions: write_dataset() and open_dataset().

    train.bin, val.bin   flat token ids, little-endian, no header; uint16 when vocab_size <= 65,536, else uint32
    meta.pkl             a pickled dict of plain values: vocab_size, stoi, itos, the tokenizer, counts and hashes

A folder is whole or visibly not: meta.pkl goes first and comes back last. README.md beside this file says what each key holds.
"""
import collections
import contextlib
import difflib
import functools
import hashlib
import os
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.bins import SPLITS, Bins
from data.encode import GOES_ON, UNIT, check_share, cores, encode_all, split_pieces, units, workers_of
from data.errors import UserError, printable, resumable
from data.files import lock, open_regular, sync_folder
from data.inputs import Ids, TextFile
from data.plain import MAX_BYTES, load_plain
from data.tokenizer import (TableTokenizer, UnknownText, as_bytes, table_hash, tokenizer_from_meta, tokenizer_meta)

DATA = Path(os.path.abspath(__file__)).parent
SCAN_LIMIT = 1 << 30  # bytes; foreign bins up to this size are read once, whole, to find their largest id


def token_dtype(vocab_size):
    """uint16 when every id fits, else uint32; little-endian on every machine."""
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


# ---- writing


@resumable()
def write_dataset(folder, text, tokenizer, *, val_text=None, percentage_train=0.9, source=None, split_seed=0,
                  end_of_text=True, num_workers=None, dask=None, unit_size=UNIT, more=None):
    """Tokenize text into folder's train.bin, val.bin and meta.pkl, print one line of counts, return the meta dict.

    text: a string or a TextFile (inputs.py), cut into train and val after int(length * percentage_train) characters; or
        an iterable of strings, the documents, each sent to train or val by a hash of split_seed and its content (copies
        stay together, shares are approximate) and followed by the tokenizer's eot_token where it has one, unless
        end_of_text is False; or Ids.
    val_text: the validation text, of any kind, where it is given; then all of text is train.
    source: what the text is, kept in meta.pkl. more: further keys of meta.pkl, a dict of plain values.
    num_workers, dask: who encodes, see encode_all(). unit_size: bytes of text a unit of work.

    Holds a few units in memory, whatever the size of the text; what units hold changes no byte of the bins. All or
    nothing: whatever stops it, the folder holds what it held before, or no meta.pkl; and the same command again goes on
    after the last finished unit. Raises UserError.
    """
    folder, t0 = Path(folder), time.perf_counter()
    check_share(percentage_train, val_text)
    source = printable(source or getattr(text, "name", "input.txt"), 10_000)
    meta = tokenizer_meta(tokenizer)
    meta["dtype"] = token_dtype(meta["vocab_size"]).name
    meta["eot_token"] = getattr(tokenizer, "eot_token", None)
    meta["table_sha256"] = table_hash(meta["itos"])
    # whether it can be read again is asked before hours of work, too
    load_plain(pickle.dumps({**meta, **(more or {})}, protocol=4), "the new meta.pkl")
    with lock(folder, "prepare.py"):
        bins = Bins(folder, token_dtype(meta["vocab_size"]), _identity(meta, end_of_text))
        try:
            pieces = split_pieces(text, val_text, percentage_train, split_seed)
            workers = (num_workers or cores()) if workers_of(tokenizer) else 1
            progress = _progress(text, val_text, workers=dask or f"{workers} worker{'s' * (workers > 1)}")
            source_hash = _encode(bins, pieces, tokenizer, meta, progress, end_of_text, num_workers, dask, unit_size)
            bins.complete = True
            _refuse_empty(bins, folder, text, val_text, percentage_train)
            meta |= {
                "max_id": max(counts["max_id"] for counts in bins.counts.values()),
                "splits": bins.close(),
                "split_rule": "given" if val_text is not None else
                              "characters" if isinstance(text, (str, TextFile)) else
                              "ids" if isinstance(text, Ids) else "documents by hash",
                "percentage_train": None if val_text is not None else percentage_train,
                "source": source,
                "source_sha256": source_hash,
                **(more or {}),
            }
            for split, part in zip(SPLITS, (text, val_text)):
                if getattr(part, "documents", None) is not None:
                    meta["splits"][split]["documents"] = part.documents
            if hasattr(tokenizer, "backend"):
                meta["backend"] = tokenizer.backend
            _commit(folder, meta)
        finally:
            bins.discard()
    _print_counts(folder, meta, time.perf_counter() - t0)
    return meta


def _identity(meta, end_of_text):
    """A hash of all that turns text into ids. None for a tokenizer of one's own, which may have changed in ways that its
    table doesn't show.
    """
    what = [end_of_text, *sorted((k, v) for k, v in meta.items() if k not in ("stoi", "itos"))]
    return None if meta["tokenizer"] == "custom" else hashlib.sha256(repr(what).encode()).hexdigest()


def _print_counts(folder, meta, seconds):
    splits = meta["splits"]
    tokens, num_bytes = (sum(splits[split][what] for split in SPLITS) for what in ("tokens", "bytes"))
    counts = ", ".join(f"{split} {splits[split]['tokens']:,} tokens" for split in SPLITS)
    density = f"{num_bytes / tokens:.2f} bytes a token, " if num_bytes else ""
    print(f"{folder.name}: {counts}, vocab_size {meta['vocab_size']:,} "
          f"({printable(meta['source'], 1000)}); {density}{seconds:.1f} s")


def _encode(bins, pieces, tokenizer, meta, progress, end_of_text, num_workers, dask, unit_size):
    """Encode what bins does not hold yet, unit by unit; returns the sha256 of the source."""
    waiting = collections.deque()  # (place, counts) of the units that are being encoded
    lengths = functools.cache(lambda: _token_lengths(meta))  # made where there are ids to count the bytes of
    border = getattr(tokenizer, "border", lambda text: 0)  # one's own: text is never cut
    own = meta["tokenizer"] == "custom" and not isinstance(tokenizer, TableTokenizer)

    def to_do():
        for number, unit in enumerate(units(pieces, border, unit_size)):
            if own and not number:
                _warn_if_lossy(tokenizer, unit[0][1])
            counts = {split: [0, 0] for split in SPLITS}  # bytes of text, documents
            for split, raw, end in unit:
                if isinstance(raw, bytes):
                    counts[split][0] += len(raw)
                    counts[split][1] += end != GOES_ON
                else:
                    counts[split][0] += int(lengths().take(raw, mode="clip").sum())  # those beyond are refused later
                    if meta["eot_token"] is not None:
                        counts[split][1] += int((raw == meta["eot_token"]).sum())
            place = bins.place(unit)
            if not bins.holds(place):
                waiting.append((place, counts))
                yield unit

    job = (tokenizer, meta["vocab_size"], token_dtype(meta["vocab_size"]), meta["eot_token"] if end_of_text else None)
    with progress as show:
        try:
            for encoded in encode_all(to_do(), job, num_workers, dask):
                bins.append(*waiting[0], encoded)
                waiting.popleft()
                show()
        except UnknownText as error:
            _, start = waiting[0][0].result()
            raise UnknownText(error.message, start + error.position) from None
    return bins.finish()


def _token_lengths(meta):
    """(vocab_size,) uint32: the bytes of UTF-8 that each token stands for, none for the one that ends documents."""
    lengths = np.zeros(meta["vocab_size"], dtype=np.uint32)
    for i, token in meta["itos"].items():
        lengths[i] = len(as_bytes(token)) if i != meta["eot_token"] else 0
    return lengths


@contextlib.contextmanager
def _progress(*texts, workers):
    """A function that shows how far the texts are read: bytes, MB/s, and the time left where that is known."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm
    inputs = [text for text in texts if hasattr(text, "position")]
    with tqdm(total=sum(text.size for text in inputs) or None, unit="B", unit_scale=True, desc=f"preparing, {workers}",
              leave=False) as bar:
        yield lambda: bar.update(sum(text.position for text in inputs) - bar.n)


def _refuse_empty(bins, folder, text, val_text, percentage_train):
    empty = [split for split in SPLITS if not bins.counts[split]["tokens"]]
    if len(empty) == 2:
        raise UserError(f"the text for {folder} is empty. Put some text in, then run prepare.py again")
    if empty:
        raise UserError(f"{folder}: no text is left for the {empty[0]} split" + (
            ". Give it some text" if val_text is not None else
            ": the documents are too few to be shared out by a hash. Join them into one string, or give val_text"
            if not isinstance(text, (str, TextFile, Ids)) else
            f" at percentage_train {percentage_train}. Give more text, another share, or a validation text of its own"))


def _commit(folder, meta):
    """Swap the finished .tmp files in. meta.pkl.new is there from before to after, and tells a reader why meta.pkl is not."""
    raw = pickle.dumps(meta, protocol=4)
    load_plain(raw, "the new meta.pkl")  # whatever a tokenizer put in, it must be readable again
    meta_path, temporary = folder / "meta.pkl", folder / "meta.pkl.new"
    try:
        with open(temporary, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # a full disk: nothing was touched yet
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    meta_path.unlink(missing_ok=True)
    sync_folder(folder)
    for split in SPLITS:
        os.replace(folder / f"{split}.bin.tmp", folder / f"{split}.bin")
    sync_folder(folder)
    os.replace(temporary, meta_path)
    sync_folder(folder)


def _warn_if_lossy(tokenizer, raw):
    """A tokenizer of one's own may lose characters without a word; say so, by the first 10,000 of the text."""
    sample = raw[:40_000].decode(errors="ignore")[:10_000]
    back = tokenizer.decode(tokenizer.encode(sample))
    if back != sample:
        at = len(os.path.commonprefix([sample, back]))
        print(f"note: decode(encode(text)) differs from the text at character {at:,}: {sample[at : at + 10]!r} became "
              f"{back[at : at + 10]!r}")


# ---- reading


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

    def path(self, split):
        return self.folder / f"{split}.bin"

    def tokens(self, split):
        """(num_tokens[split],) read-only memmap of the ids, mapped anew at each call."""
        return np.memmap(self.files[split], dtype=self.dtype, mode="r", shape=(self.num_tokens[split],))

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
    dataset = Dataset(folder_name, folder, meta, vocab_size, dtype, files, num_tokens)
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
        with open_regular(path) as file:
            return load_plain(file.read(MAX_BYTES + 1), path)
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
