"""The order of a run, questioned: what its draws read, and where a document, a text or a token is.

    rows_at(mixture, draws)               Rows: of each draw its member, epoch, window, first token
    iterations_of(draws, per_iter)        which iterations they are in, and how often
    document_ranges(dataset, document)    the tokens of train that are PATH:ROW
    text_ranges(dataset, text)            the tokens of train that spell a text
    characters_before(dataset, tokens)    how many characters of train precede each of the tokens

Mixture.draws_holding() finds the draws that read such tokens. Rows, epochs and windows count from
0, iterations from 1, as in log.csv.
"""
import difflib
from typing import NamedTuple

import numpy as np

from pipeline.errors import UserError
from pipeline.read.documents import file_names
from pipeline.read.folder import SPLITS, check_ids
from pipeline.read.sampler import windows_per_epoch
from pipeline.tokenizers import as_bytes, tokenizer_from_meta, tokenizer_meta

CHUNK = 1 << 18  # tokens or records that are read at once
# the characters of these tokenizers' tokens need not be those of the text
NOT_LOSSLESS = ("custom", "tokenizer_json")


class Row(NamedTuple):
    """A row of the run: one window that it reads."""
    draw: int
    member: int  # of the mixture
    epoch: int  # of the member
    window: int  # how many windows of this epoch were drawn before
    start: int  # its first token, in train


def rows_at(mixture, draws):
    """The Rows of draws, (n,) int64 ascending. Of a mixture all batches from the first to the last
    are mixed, so draws that are asked for together should lie close together."""
    member, own = mixture.own_draws(draws)
    per_epoch = np.array([
        windows_per_epoch(mixture.sampling_method, dataset.num_tokens["train"], mixture.block_size)
        for dataset, *_ in mixture.members])
    epoch, window = np.divmod(own, per_epoch[member])
    columns = draws, member, epoch, window, mixture.starts(member, own)
    return [Row(*row) for row in zip(*(column.tolist() for column in columns))]


def iterations_of(draws, per_iter):
    """(iterations, times), (n,) each: those that draws (m,) are in, from 1, and how many are in
    each. per_iter: draws of an iteration."""
    return np.unique(draws // per_iter + 1, return_counts=True)


# ---- a document


def document_ranges(dataset, document):
    """[(first, stop)] of the tokens of train that are the document PATH:ROW. Raises UserError that
    names the nearest one where there is none."""
    path, _, row = document.rpartition(":")
    if not path or not row.isdecimal():
        raise UserError(f"--document {document} must be PATH:ROW, such as stories.jsonl:12")
    if not dataset.has_index:
        raise UserError(f"{dataset.name} has no index of documents: it is one text, or was "
                        f"prepared by another program. Use --text or --tokens")
    row, numbers, name = int(row), *_files_named(dataset, path)
    found = {split: _search_index(dataset, split, numbers, row) for split in SPLITS}
    places, near = found["train"]
    if places:
        return places
    if found["val"][0]:
        raise UserError(f"{name}:{row} of {dataset.name} is in val, which no run trains on")
    said = f"it has no document of {name}"
    if near is not None:
        said = f"the nearest that train has is {name}:{near}"
    raise UserError(f"{dataset.path('train.docs')} has no document {name}:{row}; {said}")


def _files_named(dataset, path):
    """(numbers, name) of the files of docs.json that a path means: it, or the end of one name."""
    names = file_names(dataset)
    meant = {name for name in names if name == path} or {
        name for name in names if f"/{name}".endswith(f"/{path}") or path.endswith(f"/{name}")}
    if len(meant) == 1:
        name = meant.pop()
        return np.flatnonzero([other == name for other in names]), name
    if meant:
        raise UserError(f"{path} could be {' or '.join(sorted(meant)[:5])} of {dataset.name}: "
                        f"write more of its path")
    near = difflib.get_close_matches(path, names, n=1, cutoff=0)
    hint = f" The nearest name is {near[0]}" if near else ""
    raise UserError(f"{dataset.folder}/docs.json has no file {path}.{hint}")


def _search_index(dataset, split, numbers, row):
    """([(first, stop)] of the documents with this row of these files, the row nearest to it)."""
    num_documents, places, near = dataset.meta["splits"][split]["docs"]["count"], [], None
    for begin in range(0, num_documents, CHUNK):
        # mapped anew for each chunk, so that what was read takes no memory. One record more than is
        # looked at tells where the last document ends
        records = dataset.documents(split)[begin : begin + CHUNK + 1]
        number, rows = records["file"][:CHUNK], records["row"][:CHUNK]
        mine = number == numbers[0] if len(numbers) == 1 else np.isin(number, numbers)
        for i in np.flatnonzero(mine & (rows == row)).tolist():
            last = i + 1 == len(records)
            stop = dataset.num_tokens[split] if last else int(records["start"][i + 1])
            places.append((int(records["start"][i]), stop))
        rows = rows[mine].astype(np.int64)
        if not places and rows.size:
            closest = int(rows[np.abs(rows - row).argmin()])
            near = closest if near is None else min(near, closest, key=lambda r: abs(r - row))
    return places, near


# ---- a text


def token_bytes(dataset):
    """[the bytes of text that each id stands for]; those of ids without a token are empty."""
    itos = dataset.meta.get("itos") or tokenizer_meta(tokenizer_from_meta(dataset.meta))["itos"]
    table = [b""] * dataset.vocab_size
    for i, token in itos.items() if isinstance(itos, dict) else enumerate(itos):
        table[i] = as_bytes(token if isinstance(token, (str, bytes)) else str(token))
    return table


def text_ranges(dataset, text, most, progress=lambda done: None):
    """(how often the text occurs in train, [(first, stop)] of the tokens of its first `most`
    places). progress is told the fraction that is done. Memory does not grow with the text."""
    table, wanted = token_bytes(dataset), text.encode("utf-8", "surrogatepass")
    lengths, num_tokens = np.array([len(token) for token in table]), dataset.num_tokens["train"]
    count, places = 0, []
    for begin in range(0, num_tokens, CHUNK):
        # each token has a byte or more, so the text ends within so many tokens more
        ids = np.array(dataset.tokens("train")[begin : begin + CHUNK + len(wanted)])
        check_ids(ids, dataset.vocab_size, dataset.path("train"), begin)
        raw = b"".join(map(table.__getitem__, ids.tolist()))
        here = int(lengths[ids[:CHUNK]].sum())  # a place that begins later is the next chunk's
        ends, at = None, raw.find(wanted)
        while 0 <= at < here:
            count += 1
            if len(places) < most:
                ends = np.cumsum(lengths[ids]) if ends is None else ends
                first, last = np.searchsorted(ends, (at, at + len(wanted) - 1), side="right")
                places.append((begin + int(first), begin + int(last) + 1))
            at = raw.find(wanted, at + 1)
        progress(min(begin + CHUNK, num_tokens) / num_tokens)
    return count, places


def characters_before(dataset, tokens, progress=lambda done: None):
    """(n,) int64: the characters of the text of train before each of tokens (n,); None where the
    tokens do not tell. Tokens of several characters are counted from the beginning of train on."""
    if dataset.meta.get("tokenizer") in NOT_LOSSLESS or not dataset.meta.get("itos"):
        return None
    # bytes 10xxxxxx go on with a character that has begun before
    lengths = np.array([sum(byte & 0xC0 != 0x80 for byte in token)
                        for token in token_bytes(dataset)])
    if (eot := dataset.meta.get("eot_token")) is not None:
        lengths[eot] = 0  # it is no text
    if (lengths == 1).all():
        return np.asarray(tokens)
    wanted, which = np.unique(tokens, return_inverse=True)
    counts, before, end = np.empty_like(wanted), 0, int(wanted[-1]) + 1
    for begin in range(0, end, CHUNK):
        ids = np.array(dataset.tokens("train")[begin : begin + CHUNK])
        check_ids(ids, dataset.vocab_size, dataset.path("train"), begin)
        ends = before + np.pad(np.cumsum(lengths[ids]), (1, 0))
        here = slice(*np.searchsorted(wanted, (begin, begin + CHUNK)))
        counts[here], before = ends[wanted[here] - begin], ends[-1]
        progress(min(begin + CHUNK, end) / end)
    return counts[which]
