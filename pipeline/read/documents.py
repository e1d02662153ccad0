"""Where documents begin, by a dataset's index of them, and what is learned of a window.

    first_of(records, shape, tokens)    which tokens of windows are the first of a document
    window_marks(dataset, ...)          the same of one window, and which of its tokens are learned
    documents_of(dataset, starts, ...)  the documents that windows hold a part of
    file_names(dataset)                 the files that the records of the index name by number
    require_index(dataset)              an error where meta.pkl names an index that is not there
"""
import hashlib
import json

import numpy as np

from pipeline.errors import UserError
from pipeline.files import open_regular

AT_ONCE = 4  # windows whose documents are looked up through one mapping


def require_index(dataset):
    """Raise FileNotFoundError where meta.pkl names an index that was not copied with the bins."""
    if "docs" in dataset.meta and not dataset.has_index:
        paths = [dataset.path(f"{split}.docs") for split in ("train", "val")]
        missing = next(path for path in paths if not path.exists())
        raise FileNotFoundError(f"{missing} not found, although meta.pkl names an index of "
                                f"documents. Run: python {dataset.folder}/prepare.py")


def file_names(dataset):
    """The names that the numbers of files in dataset.documents() stand for, from docs.json.

    Raises UserError where it is missing, or is another one than meta.pkl states.
    """
    path, again = dataset.folder / "docs.json", f"python {dataset.folder}/prepare.py"
    try:
        with open_regular(path) as file:
            raw = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found, although meta.pkl names an index of documents. "
                                f"Run: {again}") from None
    found, stated = hashlib.sha256(raw).hexdigest(), dataset.meta["docs"]["files_sha256"]
    if found != stated:
        raise UserError(f"{path} differs from what was prepared: its sha256 is {found[:12]}..., "
                        f"and meta.pkl says {stated[:12]}... Prepare the dataset again: {again}")
    return json.loads(raw)


def first_of(records, shape, tokens):
    """(B, T) bool: whether a document starts at each of the tokens from `tokens`, (B,), on.

    records: an index of documents, in the file: it is searched there, and never read as a whole.
    """
    (rows, length), starts = shape, records["start"]
    low, high = (positions_in(starts, tokens + more) for more in (0, length))
    counts = high - low
    row = np.repeat(np.arange(rows), counts)
    # 0, 1, ... within each row, counted from its first document
    number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + low[row]
    first = np.zeros(shape, bool)
    first[row, starts[number].astype(np.int64) - tokens[row]] = True
    return first


def documents_of(dataset, starts, length):
    """Yield the records, (n,) of RECORDS, of the documents that each window of train holds a part
    of: the tokens starts (B,) .. starts + length - 1."""
    for begin in range(0, len(starts), AT_ONCE):
        # mapped anew, since what a search has read stays in memory as long as the mapping
        part, records = starts[begin : begin + AT_ONCE], dataset.documents("train")
        # the last document that begins at the first token or before it is the first one
        low, high = (positions_in(records["start"], part + more) for more in (1, length))
        for first, stop in zip(low.tolist(), high.tolist()):
            yield np.array(records[max(0, first - 1) : stop])


def positions_in(ascending, values):
    """np.searchsorted(ascending, values) without a copy of the array: (n,) int64, for each value
    how many numbers are below it."""
    low, high = np.zeros(len(values), np.int64), np.full(len(values), len(ascending))
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) // 2
        below = ascending[middle].astype(np.int64) < values[open_]
        low[open_[below]] = middle[below] + 1
        high[open_[~below]] = middle[~below]
    return low


def window_marks(dataset, split, start, length):
    """(ids, learned, first) of the tokens start .. start + length - 1 of a split, (length,) each:
    whether a token is to be learned, and whether a document begins with it."""
    starts = np.array([start])
    ids, learned = dataset.read(split, starts, length)[0], np.ones(length, bool)
    if dataset.has_mask:
        learned = dataset.read_mask(split, starts, length)[0] > 0
    if dataset.has_index:
        return ids, learned, first_of(dataset.documents(split), (1, length), starts)[0]
    first = np.zeros(length, bool)
    if (eot := dataset.meta.get("eot_token")) is not None:
        first[1:] = ids[:-1] == eot
    return ids, learned, first


def marked_line(texts, learned, first, dim):
    """Texts of tokens in one line: "|" between two, "‖" where a document begins; those that are not
    learned are dim on a terminal (dim), else in parentheses."""
    line = []
    for i, (text, is_learned) in enumerate(zip(texts, learned)):
        if not is_learned:
            text = f"\x1b[2m{text}\x1b[22m" if dim else f"({text})"
        line += ["‖" if first[i] else "|" if i else "", text]
    return "".join(line)
