"""The folder format, in both directions: write_dataset() and open_dataset().

    train.bin, val.bin   flat token ids, little-endian, no header; uint16 when vocab_size <= 65,536, else uint32
    meta.pkl             a pickled dict of plain values: vocab_size, stoi, itos, the tokenizer, counts and hashes

A folder is whole or visibly not: meta.pkl goes first and comes back last. README.md beside this file says what each key holds.
"""
import contextlib
import difflib
import hashlib
import io
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.files import lock, sync_folder
from data.tokenizer import get_encoding, table_hash, to_utf8, tokenizer_meta

DATA = Path(os.path.abspath(__file__)).parent
SPLITS = ("train", "val")
SCAN_LIMIT = 1 << 30  # bytes; foreign bins up to this size are read once, whole, to find their largest id


def token_dtype(vocab_size):
    """uint16 when every id fits, else uint32; little-endian on every machine."""
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


# ---- writing


def write_dataset(folder, text, tokenizer, *, val_text=None, percentage_train=0.9, source="input.txt"):
    """Tokenize text into folder's train.bin, val.bin and meta.pkl, print one line of counts, return the meta dict.

    text: a string, cut into train and val after int(len(text) * percentage_train) characters; or an iterable of
        strings, the documents, each sent to train or val by a hash of its content (copies stay together, shares are
        approximate) and followed by the tokenizer's eot_token where it has one.
    val_text: the validation text, of either kind, where it is given; then all of text is train.
    source: what the text is, kept in meta.pkl.

    All or nothing: whatever stops it, the folder holds what it held before, or no meta.pkl. Raises UserError.
    """
    folder = Path(folder)
    if not 0 < percentage_train < 1 and val_text is None:
        raise UserError(f"percentage_train is {percentage_train}; it must lie between 0 and 1, both excluded, unless "
                        f"a validation text is given")
    meta = tokenizer_meta(tokenizer)
    with lock(folder, "prepare.py"):
        bins = {split: _BinWriter(folder / f"{split}.bin", meta["vocab_size"]) for split in SPLITS}
        try:
            source_hash = hashlib.sha256()
            for split, document, is_document in _split(text, val_text, percentage_train):
                raw = to_utf8(document)
                source_hash.update(raw)
                ids = tokenizer.encode(document)
                if meta.get("tokenizer") == "custom" and not bins["train"].tokens:
                    _warn_if_lossy(tokenizer, document)
                bins[split].write(ids, num_bytes=len(raw))
                if is_document and getattr(tokenizer, "eot_token", None) is not None:
                    bins[split].write(np.array([tokenizer.eot_token]))
            _refuse_empty(bins, folder, isinstance(text, str), val_text, percentage_train)
            meta |= {
                "dtype": token_dtype(meta["vocab_size"]).name,
                "max_id": max(b.max_id for b in bins.values()),
                "eot_token": getattr(tokenizer, "eot_token", None),
                "table_sha256": table_hash(meta["itos"]),
                "splits": {split: b.close() for split, b in bins.items()},
                "split_rule": "given" if val_text is not None else
                              "characters" if isinstance(text, str) else "documents by hash",
                "percentage_train": None if val_text is not None else percentage_train,
                "source": source,
                "source_sha256": source_hash.hexdigest(),
            }
            _commit(folder, meta)
        finally:
            for b in bins.values():
                b.discard()
    counts = ", ".join(f"{split} {meta['splits'][split]['tokens']:,} tokens" for split in SPLITS)
    print(f"{folder.name}: {counts}, vocab_size {meta['vocab_size']:,} ({source})")
    return meta


def _split(text, val_text, percentage_train):
    """(split, string, whether it is a document of its own) for each piece of the input, in order."""
    if val_text is None and isinstance(text, str):
        cut = int(len(text) * percentage_train)
        yield "train", text[:cut], False
        yield "val", text[cut:], False
        return
    for split, part in (("train", text), ("val", val_text)):
        if isinstance(part, str):
            yield split, part, False
        for document in part if part is not None and not isinstance(part, str) else ():
            if val_text is None:  # 64 bits of a hash of the content, as a number from 0 to 1
                share = int.from_bytes(hashlib.blake2b(to_utf8(document), digest_size=8).digest()) / 2**64
                split = "train" if share < percentage_train else "val"
            yield split, document, True


def _refuse_empty(bins, folder, is_one_text, val_text, percentage_train):
    empty = [split for split in SPLITS if not bins[split].tokens]
    if len(empty) == 2:
        raise UserError(f"the text for {folder} is empty. Put some text in, then run prepare.py again")
    if empty:
        raise UserError(f"{folder}: no text is left for the {empty[0]} split" + (
            ". Give it some text" if val_text is not None else
            ": the documents are too few to be shared out by a hash. Join them into one string, or give val_text"
            if not is_one_text else
            f" at percentage_train {percentage_train}. Give more text, another share, or a validation text of its own"))


class _BinWriter:
    """<path>.tmp, filled with ids as they come; _commit() renames it. Counts, hashes and checks on the way."""

    def __init__(self, path, vocab_size):
        self.temporary = Path(f"{path}.tmp")
        self.vocab_size, self.dtype = vocab_size, token_dtype(vocab_size)
        self.tokens, self.bytes, self.pieces, self.max_id = 0, 0, 0, -1
        self.sha256 = hashlib.sha256()
        self.file = open(self.temporary, "wb")

    def write(self, ids, num_bytes=None):
        """ids: n integers. num_bytes: the UTF-8 bytes of the text they stand for; None for a separator."""
        try:
            ids = np.asarray(ids)
        except ValueError:
            raise UserError("encode() gave lists of unequal length; it must give a flat list of integers") from None
        if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
            raise UserError(f"encode() gave an array of shape {ids.shape} and type {ids.dtype}; it must give a flat "
                            f"list of integers")
        if ids.size:
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.vocab_size:
                raise UserError(f"encode() gave id {low if low < 0 else high}, outside the vocabulary of "
                                f"{self.vocab_size:,} ids (vocab_size is the largest id in itos + 1)")
            self.max_id = max(self.max_id, high)
            raw = np.ascontiguousarray(ids, dtype=self.dtype).data.cast("B")
            self.file.write(raw)
            self.sha256.update(raw)
        self.tokens += ids.size
        if num_bytes is not None:
            self.bytes += num_bytes
            self.pieces += 1

    def close(self):
        """Flush to the disk; what meta.pkl says of this split."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"tokens": self.tokens, "bytes": self.bytes, "documents": self.pieces,
                "sha256": self.sha256.hexdigest()}

    def discard(self):
        with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses a second time
            self.file.close()
        self.temporary.unlink(missing_ok=True)


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


def _warn_if_lossy(tokenizer, text):
    """A tokenizer of one's own may lose characters without a word; say so, by the first 10,000 of the text."""
    sample = text[:10_000]
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

    def fingerprint(self):
        """What a checkpoint keeps to know its data again: a hash (or, for foreign bins, the size) of each split."""
        counts = self.meta.get("splits", {})
        return {s: counts.get(s, {}).get("sha256") or f"{self.num_tokens[s]} tokens" for s in SPLITS}


class _PlainUnpickler(pickle._Unpickler):
    """Plain values only: a class or a function in the file is refused before anything of it runs.

    Python's own unpickler, not the one in C: that one takes 16 bytes of memory for each number below the largest memo
    index in a file, so that seven bytes can fill a machine. It costs 0.1 s for GPT-2's vocabulary.
    """

    def find_class(self, module, name):
        raise UserError(f"it refers to {printable(f'{module}.{name}')}; only plain values (dict, list, str, bytes, int, float, bool, "
                        f"None) are read, and nothing of it was run")


def load_plain(raw, path):
    """The dict in a pickle of plain values. Raises UserError for anything else, naming path."""
    try:
        meta = _PlainUnpickler(io.BytesIO(raw)).load()
    except UserError as error:
        raise UserError(f"{path} is not a plain meta.pkl: {error}") from None
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {printable(str(error))}). Prepare the dataset again"
                        ) from None
    _check_shape(meta, path)
    return meta


def printable(text):
    """Text of a stranger's, for a message: one line, no control characters, not long."""
    return text.encode("unicode_escape").decode("ascii")[:100]


def _check_shape(meta, path):
    """Raises UserError unless the keys that the reader goes by hold what they should."""
    def is_count(value, below=2**63):
        return type(value) is int and 0 <= value < below
    if not isinstance(meta, dict) or not is_count(meta.get("vocab_size"), 2**32 + 1) or meta["vocab_size"] < 1:
        raise UserError(f"{path} holds no vocab_size from 1 to 2**32. Prepare the dataset again")
    if not is_count(meta.get("max_id", 0)):
        raise UserError(f"{path} has a max_id that is no whole number. Prepare the dataset again")
    splits = meta.get("splits", {split: {"tokens": 0} for split in SPLITS})
    for split in SPLITS:
        counts = splits.get(split) if isinstance(splits, dict) else None
        if not isinstance(counts, dict) or not is_count(counts.get("tokens")):
            raise UserError(f"{path} has splits without a count of tokens for {split}. Prepare the dataset again")


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
            meta = _read_meta(folder)
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
    if meta.get("tokenizer") == "tiktoken" and "max_id" not in meta:
        # other programs count the ranks, which leaves out <|endoftext|>
        vocab_size = max(vocab_size, get_encoding(meta.get("tiktoken_encoding", "gpt2")).n_vocab)
    folder_name = Path(os.path.abspath(folder)).name
    dataset = Dataset(folder_name, folder, meta, vocab_size, dtype, files, num_tokens)
    if "max_id" in meta:
        if meta["max_id"] >= vocab_size:
            raise UserError(f"{folder}/meta.pkl says max_id {meta['max_id']:,} and vocab_size {vocab_size:,}; an id "
                            f"must be below vocab_size. Prepare the dataset again")
    else:
        _scan(dataset)
    return dataset


def _read_meta(folder):
    path = folder / "meta.pkl"
    if not folder.is_dir():
        raise FileNotFoundError(_no_such_dataset(folder))
    try:
        return load_plain(path.read_bytes(), path)
    except FileNotFoundError:
        pass
    prepare = f"bash {folder}/get_dataset.sh" if (folder / "get_dataset.sh").exists() else f"python {folder}/prepare.py"
    if (folder / "meta.pkl.new").exists():
        raise FileNotFoundError(f"{folder} is half-written: prepare.py is at work, or was stopped. Run: python "
                                f"{folder}/prepare.py")
    if (folder / "train.bin").exists() and (folder / "val.bin").exists():
        again = f"Run: python {folder}/prepare.py. Or, if" if (folder / "prepare.py").exists() else "If"
        raise FileNotFoundError(f"{path} not found beside train.bin and val.bin. {again} these are GPT-2 tokens (nanoGPT "
                                f"writes no meta.pkl for them), run: python {shown(DATA)}/write_meta.py {folder}")
    raise FileNotFoundError(f"{folder} is not prepared. Run: {prepare}")


def _no_such_dataset(folder):
    names = sorted(p.parent.name for p in DATA.glob("*/prepare.py") if p.parent.name != "template")
    near = difflib.get_close_matches(folder.name, names, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Make it: bash {shown(DATA)}/create_new_dataset.sh {folder.name}"
    return f"{folder} not found. {hint} (There are: {', '.join(names)})"


def _stated_dtype(meta, folder):
    if "dtype" in meta:
        if meta["dtype"] not in ("uint16", "uint32"):
            raise UserError(f"{folder}/meta.pkl says dtype {meta['dtype']!r}; it must be uint16 or uint32")
        return np.dtype(meta["dtype"]).newbyteorder("<")
    if meta["vocab_size"] == 65_536:
        raise UserError(f"{folder}/meta.pkl has vocab_size 65,536 and no dtype, and programs disagree on the width of "
                        f"such ids. State it: python {shown(DATA)}/write_meta.py {folder} --dtype uint16 (or uint32)")
    return token_dtype(meta["vocab_size"])


def _stamp(folder):
    try:
        stat = (folder / "meta.pkl").stat()
        return stat.st_ino, stat.st_mtime_ns
    except FileNotFoundError:
        return "missing"


def _open_bin(path):
    try:
        return open(path, "rb")
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
