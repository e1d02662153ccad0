"""Checks a prepared folder, token by token, and shows what a model will see.

    python data/check_dataset.py shakespeare_char              # or a path: data/mine
    python data/check_dataset.py mine --streams mine_pos mine_case  # aligned token by token
    python data/check_dataset.py mine --adopt gpt2             # first write a missing meta.pkl
    python data/check_dataset.py mine --dtype uint32           # first state the width of an id
    python data/check_dataset.py mine --html mine.html         # also as a page for a browser

Checks sizes, hashes, every id, the mask and the index of documents, the streams, and whether
documents of val are in train too. Prints counts, learned tokens, the most frequent tokens, the
lengths of documents and some windows, with | between their tokens and ‖ where a document begins;
tokens that are not learned are dim, or in parentheses in a file. Exit status 2 where something is
wrong.
"""
import argparse
import collections
import hashlib
import os
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[1]))
import pipeline  # noqa: F401  before numpy, so that a Python without it is told in one line

# isort: split
import numpy as np

from pipeline.encodings import signs_of_another_encoding
from pipeline.errors import Parser, UserError, one_line_errors, printable
from pipeline.files import lock, open_regular, replacing
from pipeline.pages import check_page, write_page
from pipeline.read.documents import file_names, marked_line, require_index, window_marks
from pipeline.read.folder import (
    SPLITS,
    check_ids,
    dataset_folder,
    open_dataset,
    read_meta,
    token_dtype,
)
from pipeline.tokenizers import TiktokenTokenizer, as_bytes, tables, token_text, tokenizer_from_meta
from pipeline.tokenizers.tables import table_hash

CHUNK = 1 << 22  # tokens read at once
MAX_ID = 1 << 22  # the largest id that is counted; each takes 32 bytes
# the tokens of a user's own tokenizer need not spell its text
NOT_LOSSLESS = (None, "custom", "tokenizer_json")
# keys that write_dataset() always writes
OURS = ("tokenizer", "itos", "stoi", "dtype", "max_id", "splits", "eot_token")
DUPLICATES = 100  # documents that a page names
PAGE_TOP, PAGE_WINDOWS, PAGE_WIDTH = 40, 8, 160  # tokens, windows and their tokens on a page
SHIFTS = range(-3, 4)  # tokens by which a stream is shifted against the first to compare them


# ---- meta.pkl for bins that another program wrote


def adopt(folder, encoding, dtype):
    """Write a missing meta.pkl for a tiktoken encoding, or state dtype in an existing one."""
    path = folder / "meta.pkl"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found")
    with lock(folder, "prepare.py"):
        if path.exists():
            if not dtype:
                raise UserError(f"{path} exists already. To set the width of ids in it, add "
                                f"--dtype; to write a new one, move it away first")
            meta = read_meta(folder)
        elif (folder / "meta.pkl.new").exists():
            raise UserError(f"{folder} is half-written: prepare.py was stopped. "
                            f"Run: python {folder}/prepare.py")
        elif not encoding:
            raise UserError(f"{path} not found. Say what the ids are, for example: --adopt gpt2")
        else:
            meta = TiktokenTokenizer(encoding, backend="tiktoken").to_meta()
        dtype = np.dtype(dtype or token_dtype(meta["vocab_size"])).newbyteorder("<")
        counts, max_ids = zip(*(_describe(folder / f"{split}.bin", dtype, meta["vocab_size"])
                                for split in SPLITS))
        meta |= dict(dtype=dtype.name, max_id=max(max_ids), splits=dict(zip(SPLITS, counts)))
        if encoding:
            meta["table_sha256"] = table_hash(meta["itos"])
        with replacing(path) as file:
            pickle.dump(meta, file, protocol=4)
    sizes = ", ".join(f"{split} {meta['splits'][split]['tokens']:,} tokens" for split in SPLITS)
    kind = meta.get("tiktoken_encoding") or meta.get("tokenizer") or "unnamed"
    print(f"{folder.name}: {sizes}, vocab_size {meta['vocab_size']:,}, {dtype.name}, read as "
          f"{kind} tokens; wrote {path}")


def _describe(path, dtype, vocab_size):
    """({"tokens", "sha256"}, largest id) of a bin, every id checked."""
    if not path.exists():
        raise FileNotFoundError(f"{path} not found")
    open_regular(path).close()  # a pipe is refused
    size = path.stat().st_size
    if size % dtype.itemsize or not size:
        raise UserError(f"{path} has {size:,} bytes; {dtype.name} ids need a multiple of "
                        f"{dtype.itemsize} above 0")
    tokens, digest, max_id = np.memmap(path, dtype=dtype, mode="r"), hashlib.sha256(), 0
    for start, chunk in _chunks(tokens):
        check_ids(chunk, vocab_size, path, start)
        digest.update(chunk.data)
        max_id = max(max_id, int(chunk.max()))
    return {"tokens": len(tokens), "sha256": digest.hexdigest()}, max_id


def _chunks(tokens):
    return ((start, tokens[start : start + CHUNK]) for start in range(0, len(tokens), CHUNK))


# ---- the checks: each returns lines that say what is wrong. Some note what they have counted in
# `told`, a dict: what a page shows of it

def check_bin(dataset, split):
    """(problems, how often each id occurs) of a bin, which is read once."""
    stated, path = dataset.meta.get("splits", {}).get(split, {}), dataset.path(split)
    counts = np.zeros(min(dataset.vocab_size, MAX_ID + 1), dtype=np.int64)
    digest, problems = hashlib.sha256(), []
    if not dataset.num_tokens[split]:
        return [f"{path} is empty"], counts
    tokens = dataset.tokens(split)
    for start, chunk in _chunks(tokens):
        digest.update(chunk.data)
        try:
            check_ids(chunk, dataset.vocab_size, path, start)
        except UserError as error:
            problems = problems or [str(error)]
            chunk = chunk[chunk < dataset.vocab_size]
        if len(chunk) and chunk.max() > MAX_ID:
            raise UserError(f"{path} has id {chunk.max():,}, and ids are counted up to {MAX_ID:,}. "
                            f"Prepare the dataset again")
        counts += np.bincount(chunk, minlength=len(counts))
    # what write_dataset() wrote always has a hash, and its dtype is right
    foreign, sha256 = "source_sha256" not in dataset.meta, digest.hexdigest()
    if stated.get("sha256", sha256 if foreign else None) != sha256:
        problems.append(f"{path} differs from what was prepared: its sha256 is "
                        f"{sha256[:12]}..., and meta.pkl says {str(stated.get('sha256'))[:12]}... "
                        f"Prepare it again")
    head = tokens[: 1 << 20]
    is_narrow = dataset.dtype.itemsize == 2 and len(head) > 99
    if foreign and is_narrow and head[::2].any() and not head[1::2].any():
        problems.append(f"{path}: every second id is 0, so these are ids of 4 bytes, read as "
                        f"{dataset.dtype.name}. State the width: --dtype uint32")
    return problems, counts


def check_table(dataset):
    """meta.pkl's tables against one another and against the tokenizer rebuilt from it."""
    meta, path = dataset.meta, dataset.folder / "meta.pkl"
    ours = "source_sha256" in meta
    if ours and (missing := [key for key in OURS if key not in meta]):
        return [f"{path} has no {', '.join(missing)}. Prepare the dataset again"]
    if not meta.get("itos"):
        return []
    tokenizer = tokenizer_from_meta(meta)
    if not ours:  # other programs keep a part of the table
        return []
    stoi = tables(meta["itos"])["stoi"] | (meta.get("special_tokens") or {})
    if stoi != meta.get("stoi"):
        return [f"{path} has a stoi that is not the inverse of its itos. Prepare the dataset again"]
    own_eot = meta["tokenizer"] in ("custom", "token_list")
    if table_hash(tokenizer.to_meta()["itos"]) != table_hash(meta["itos"]) or (
            not own_eot and tokenizer.eot_token != meta["eot_token"]):
        return [f"{path} and its tokenizer ({meta['tokenizer']}) differ in the table of tokens or "
                f"the eot_token. Prepare the dataset again"]
    return []


def check_counts(dataset, counts):
    """meta.pkl's counts of bytes and documents against those of the ids in the bins."""
    meta, problems = dataset.meta, []
    eot = meta.get("eot_token")
    lossless = "source_sha256" in meta and meta.get("tokenizer") not in NOT_LOSSLESS
    for split in SPLITS:
        stated = meta.get("splits", {}).get(split, {})
        says = f"{dataset.folder}/meta.pkl says that {split} has"
        if lossless:
            found = sum(int(counts[split][i]) * len(as_bytes(meta["itos"].get(i, b"")))
                        for i in np.flatnonzero(counts[split]).tolist() if i != eot)
            if stated.get("bytes") != found:
                problems.append(f"{says} {stated.get('bytes')} bytes of text; its tokens stand for "
                                f"{found:,}")
        ends = int(counts[split][eot]) if eot is not None and eot < len(counts[split]) else 0
        documents, open_end = stated.get("documents"), ends and dataset.tokens(split)[-1] != eot
        # the text itself may name the token of a published tokenizer
        if meta.get("tokenizer") == "tokenizer_json":
            continue
        if documents is not None and ends and not ends <= documents <= ends + bool(open_end):
            problems.append(f"{says} {documents:,} documents; a token ends {ends:,} of them")
    return problems


def check_mask(dataset, told):
    """A mask against its hash and its count of learned tokens; prints that count."""
    problems, told["learned"] = [], {}
    for split in SPLITS if dataset.has_mask else ():
        path, stated = dataset.path(f"{split}.mask"), dataset.meta["splits"][split]["mask"]
        digest, learned, wrong = hashlib.sha256(), 0, None
        for start, chunk in _chunks(dataset.mask(split)):
            digest.update(chunk.data)
            if wrong is None and chunk.max() > 1:
                wrong = start + int((chunk > 1).argmax())
            learned += int(np.count_nonzero(chunk))
        if wrong is not None:
            problems.append(f"{path}: the byte at position {wrong:,} is "
                            f"{dataset.mask(split)[wrong]}; it must be 0 or 1. {_again(dataset)}")
        if learned != stated["learned"]:
            problems.append(f"{path} has {learned:,} learned tokens, and meta.pkl says "
                            f"{stated['learned']:,}. {_again(dataset)}")
        problems += _other_hash(dataset, path, digest, stated)
        share = learned / dataset.num_tokens[split]
        print(f"  {split}: {learned:,} tokens are learned ({share:.1%})")
        told["learned"][split] = learned
    return problems


def check_index(dataset):
    """An index of documents against its hash, the tokens and docs.json; prints how many there are.

    A damaged docs.json raises UserError, a missing file FileNotFoundError.
    """
    require_index(dataset)
    if not dataset.has_index:
        return []
    problems, names = [], file_names(dataset)
    for split in SPLITS:
        path, digest, before = dataset.path(f"{split}.docs"), hashlib.sha256(), -1
        wrong, records, size = None, dataset.documents(split), dataset.num_tokens[split]
        for first, chunk in _chunks(records):
            digest.update(chunk.data)
            starts = chunk["start"].astype(np.int64)
            rising = np.diff(starts, prepend=before) > 0
            good = rising & (starts < size) & (chunk["file"] < len(names)) & (chunk["row"] > 0)
            if wrong is None and not good.all():
                wrong = first + int(good.argmin())
            before = starts[-1]
        if wrong is not None:
            start, file, row = records[wrong].tolist()
            problems.append(
                f"{path}: record {wrong:,} has start {start:,}, file {file:,}, row {row:,}. Starts "
                f"must rise and be below {size:,}, the tokens of {split}; files be below "
                f"{len(names):,}, those in docs.json; rows count from 1. {_again(dataset)}")
        elif len(records) and records["start"][0]:
            problems.append(f"{path}: the first document starts at {records['start'][0]:,}, and "
                            f"must at 0. {_again(dataset)}")
        problems += _other_hash(dataset, path, digest, dataset.meta["splits"][split]["docs"])
        print(f"  {split}: {len(records):,} documents in the index; {len(names):,} files")
    return problems


def _again(dataset):
    return f"Prepare the dataset again: python {dataset.folder}/prepare.py"


def _other_hash(dataset, path, digest, stated):
    found = digest.hexdigest()
    if found == stated["sha256"]:
        return []
    return [f"{path} differs from what was prepared: its sha256 is {found[:12]}..., and meta.pkl "
            f"says {stated['sha256'][:12]}... {_again(dataset)}"]


def look_at_text(dataset, at_most=1 << 24, pieces=16):
    """Lines on signs of a wrong encoding in the text of each split, or in pieces spread over it."""
    if not dataset.meta.get("itos") or dataset.meta.get("tokenizer", "char") in NOT_LOSSLESS:
        return []
    tokenizer, lines = tokenizer_from_meta(dataset.meta), []
    for split in SPLITS:
        tokens, found, characters = dataset.tokens(split), collections.Counter(), 0
        size = min(len(tokens), at_most // pieces)
        number = pieces if len(tokens) > at_most else -(-len(tokens) // size)
        for start in np.unique(np.linspace(0, len(tokens) - size, number).astype(int)).tolist():
            # a piece may begin or end within a character
            text = tokenizer.decode(tokens[start : start + size]).strip("\ufffd")
            characters += len(text)
            found.update(signs_of_another_encoding(text))
        if found:
            signs = ", ".join(f"{count:,} {what} ({count / characters:.2%})"
                              for what, count in found.most_common())
            lines.append(f"the text of {split} holds {signs}, which are signs of a wrong encoding, "
                         f"or of something that is not text")
    return lines


def documents(dataset, split):
    """(starts, lengths, 64-bit hashes) of a split's documents, which eot_token ends or begins:
    the token at which each starts, its tokens without eot_token. Empty ones are left out."""
    eot = dataset.meta["eot_token"]
    starts, lengths, hashes, rest, at = [], [], [], np.zeros(0, dataset.dtype), 0
    # one more end closes a last document that has none
    for _, chunk in (*_chunks(dataset.tokens(split)), (None, [eot])):
        ids = np.concatenate([rest, chunk]).astype(dataset.dtype)
        *complete, rest = np.split(ids, np.flatnonzero(ids == eot) + 1)
        for document in complete:
            if len(document) > 1:
                starts.append(at)
                lengths.append(len(document) - 1)
                hashes.append(hashlib.blake2b(document[:-1].tobytes(), digest_size=8).digest())
            at += len(document)
    return (np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64),
            np.frombuffer(b"".join(hashes), "<u8"))


def check_documents(dataset, told):
    """Print the lengths of documents, and how many repeat an earlier one; find those of val that
    are in train too, token for token."""
    if dataset.meta.get("eot_token") is None:
        return []
    starts, hashes, told["lengths"], told["repeated"] = {}, {}, {}, []
    for split in SPLITS:
        starts[split], lengths, hashes[split] = documents(dataset, split)
        if not len(lengths):
            continue
        quantiles = np.percentile(lengths, [0, 10, 50, 90, 100], method="nearest")
        print(f"  {split}: {len(lengths):,} documents; tokens in the shortest, at 10%, 50%, "
              f"90%, in the longest: {', '.join(f'{q:,}' for q in quantiles)}")
        told["lengths"][split] = lengths
        _, first, times = np.unique(hashes[split], return_index=True, return_counts=True)
        if repeats := len(lengths) - len(first):
            print(f"  {split}: {repeats:,} of its documents repeat an earlier one")
        order = np.argsort(-times, kind="stable")[:DUPLICATES]
        told["repeated"] += [(split, *map(int, (first[i], times[i], starts[split][first[i]])))
                             for i in order.tolist() if times[i] > 1]
    shared = np.isin(hashes["val"], hashes["train"])
    told["shared"] = [(i, int((hashes["train"] == hashes["val"][i]).argmax()),
                       int(starts["val"][i])) for i in np.flatnonzero(shared)[:DUPLICATES].tolist()]
    if not shared.any():
        return []
    return [f"{dataset.path('val')}: {shared.sum():,} of {len(shared):,} documents are in train "
            f"too; the first is document number {int(shared.argmax()) + 1:,}"]


def check_stream(first, stream, sample=1 << 20):
    """Whether two datasets can be read side by side: they must be equally long, and share the most
    information (mutual information) when they are not shifted."""
    problems = [f"{stream.path(split)} has {stream.num_tokens[split]:,} tokens, but "
                f"{first.path(split)}, which must be aligned with it, has "
                f"{first.num_tokens[split]:,}"
                for split in SPLITS if stream.num_tokens[split] != first.num_tokens[split]]
    edge = max(SHIFTS)
    if problems or first.num_tokens["train"] <= 100 * edge:
        return problems
    a, b = (np.array(dataset.tokens("train")[:sample]).astype(np.int64)
            for dataset in (first, stream))
    shared = {k: _mutual_information(a[edge:-edge], b[edge + k : len(b) - edge + k])
              for k in SHIFTS}
    best = max(shared, key=shared.get)
    print(f"  {stream.name}: shares {shared[0]:.3f} bits per token with {first.name}")
    if shared[best] <= shared[0] + 0.02:
        return []
    return [f"{stream.path('train')} seems to be shifted by {best:+d} tokens against "
            f"{first.path('train')}: shifted back, they share {shared[best]:.3f} bits per token, "
            f"and as they are {shared[0]:.3f}"]


def _mutual_information(a, b):
    """Bits that a[i] tells about b[i], estimated from their counts."""
    def entropy(x):
        fraction = np.unique(x, return_counts=True)[1] / len(x)
        return -(fraction * np.log2(fraction)).sum()
    return entropy(a) + entropy(b) - entropy(a * (int(b.max()) + 1) + b)


# ---- what is shown


def most_frequent(total, number):
    """The ids that occur most often, by their counts: at most `number`, the first one most."""
    return [i for i in np.argsort(-total, kind="stable")[:number].tolist() if total[i]]


def by_occurrences(total):
    """[(how often, the number of ids that occur so often)]"""
    levels = ("once", "2-9 times", "10-99", "100-999", "1,000-9,999", "10,000 or more")
    numbers = np.histogram(total, [1, 2, 10, 100, 1000, 10_000, 2**63 - 1])[0]
    return list(zip(levels, numbers.tolist()))


def windows_of(dataset, number, width, seed):
    """Yield (split, start, texts, learned, first) of windows of both splits, `number` of each: its
    start and others at random places, at most `width` tokens long."""
    draw = np.random.default_rng(seed)
    for split in SPLITS:
        num_tokens = dataset.num_tokens[split]
        starts = draw.integers(0, max(1, num_tokens - width), number - 1)
        for start in np.unique([0, *starts]).tolist():
            yield split, start, *_window(dataset, split, start, width)


def _window(dataset, split, start, width):
    """(texts, learned, first) of at most `width` tokens from start on."""
    size = min(width, dataset.num_tokens[split] - start)
    ids, learned, first = window_marks(dataset, split, start, size)
    return [token_text(dataset.meta, i) for i in ids.tolist()], learned, first


def show(dataset, counts, args):
    """Print the most frequent tokens, how often ids occur, and windows of both splits."""
    total = sum(counts.values())
    top = ", ".join(f"{token_text(dataset.meta, i)} {total[i] / total.sum():.1%}"
                    for i in most_frequent(total, 12))
    print(f"  {np.count_nonzero(total):,} of {dataset.vocab_size:,} ids occur; the most frequent: "
          f"{top}")
    print("  ids by occurrences: " + "; ".join(
        f"{number:,} {level}" for level, number in by_occurrences(total)))
    for split, start, texts, learned, first in windows_of(
            dataset, args.windows, args.width, args.seed):
        line = marked_line(texts, learned, first, sys.stdout.isatty())
        print(f"  {split} at {start:,}: {line}")


def check(dataset, args, told):
    """Run all checks of a dataset and print what is found; return lines that say what is wrong.

    told: a dict, which gets what a page shows: counts {split: of each id}, learned {split: number
    of tokens}, lengths {split: of its documents}, repeated [(split, number, times, start)] and
    shared [(number in val, number in train, start in val)] of documents, numbers from 0. A check
    that was not made leaves its keys out.
    """
    provenance = printable(dataset.meta.get("source") or "another program", 1000)
    sizes = ", ".join(f"{split} {dataset.num_tokens[split]:,} tokens" for split in SPLITS)
    print(f"{dataset.name}: {sizes}, vocab_size {dataset.vocab_size:,}, {dataset.dtype.name}, from "
          f"{provenance}")
    problems, counts = check_table(dataset), {}
    for split in SPLITS:
        found, counts[split] = check_bin(dataset, split)
        problems += found
    used = np.flatnonzero(sum(counts.values()))
    if "max_id" in dataset.meta and used.size and used[-1] != dataset.meta["max_id"]:
        problems.append(f"{dataset.folder}/meta.pkl says max_id {dataset.meta['max_id']:,}; the "
                        f"largest id in the bins is {used[-1]:,}")
    problems += check_mask(dataset, told) + check_index(dataset)
    if not problems:
        told["counts"] = counts
        problems += check_counts(dataset, counts) + check_documents(dataset, told)
        show(dataset, counts, args)
    for name in args.streams:
        problems += check_stream(dataset, open_dataset(_folder(name)))
    return problems


# ---- the page


def write_dataset_page(dataset, told, problems, args):
    """Write the page that --html asks for; told is what check() has found."""
    meta, stated = dataset.meta, dataset.meta.get("splits", {})
    lengths = told.get("lengths", {})
    data = {
        "title": f"{dataset.name}: a prepared dataset", "problems": problems,
        "facts": [["folder", str(dataset.folder)],
                  ["from", str(meta.get("source") or "another program")],
                  ["tokenizer", meta.get("tiktoken_encoding") or meta.get("tokenizer")
                   or "unnamed"],
                  ["vocab_size", f"{dataset.vocab_size:,}"], ["an id is", dataset.dtype.name]],
        "splits": [[split, dataset.num_tokens[split], stated.get(split, {}).get("bytes"),
                    len(lengths[split]) if split in lengths else None,
                    told.get("learned", {}).get(split)] for split in SPLITS]}
    if "counts" in told:  # otherwise the files are damaged, and there is nothing to show
        counts = told["counts"]
        total = sum(counts.values())
        data["top"] = [[token_text(meta, i), *(int(counts[split][i]) for split in SPLITS)]
                       for i in most_frequent(total, PAGE_TOP)]
        data["occurrences"] = [*by_occurrences(total),
                               ("never", dataset.vocab_size - int(np.count_nonzero(total)))]
        data["lengths"] = _histogram(lengths)
        data["repeated"] = [[split, number + 1, times, _beginning(dataset, split, start)]
                            for split, number, times, start in told.get("repeated", ())]
        data["shared"] = [[number + 1, other + 1, _beginning(dataset, "val", start)]
                          for number, other, start in told.get("shared", ())]
        data["windows"] = [[split, start, texts, learned.tolist(), first.tolist()]
                           for split, start, texts, learned, first in windows_of(
                               dataset, max(args.windows, PAGE_WINDOWS),
                               max(args.width, PAGE_WIDTH), args.seed)]
    write_page(args.html, data["title"], "dataset.js", data)
    print(f"  wrote {args.html}")


def _histogram(lengths):
    """[(from, up to, train, val)]: how many documents of each split have these lengths."""
    if not lengths:
        return []
    largest = max(int(array.max()) for array in lengths.values())
    edges = [digit * 10**power for power in range(19) for digit in (1, 2, 5)]
    edges = edges[: next(i for i, edge in enumerate(edges) if edge > largest) + 1]
    numbers = [np.histogram(lengths.get(split, ()), edges)[0].tolist() for split in SPLITS]
    return [(low, high - 1, *pair) for low, high, *pair in zip(edges, edges[1:], *numbers)]


def _beginning(dataset, split, start):
    """The texts of the first tokens of a document."""
    texts, _, first = _window(dataset, split, start, 24)
    return texts[: int(first[1:].argmax()) + 1] if first[1:].any() else texts


def _folder(name):
    """A name in data/ or a path, in the form that open_dataset() accepts."""
    return f"{name}/" if Path(name).is_dir() and not dataset_folder(name).is_dir() else name


def _at_least(low):
    def parse(text):
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number, {low} or more")
        return int(text)
    return parse


def main(argv=None):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag("name", help="a dataset in data/, or the path of a folder")
    flag("--streams", nargs="+", action="extend", default=[],
         help="datasets that must be aligned, token by token")
    flag("--adopt", metavar="ENCODING",
         help="write a meta.pkl for .bin files in tiktoken's ENCODING")
    flag("--dtype", choices=["uint16", "uint32"], help="write the width of an id into meta.pkl")
    flag("--windows", type=_at_least(1), default=3, help="windows shown of each split (default: 3)")
    flag("--width", type=_at_least(1), default=24, help="tokens in a window (default: 24)")
    flag("--seed", type=_at_least(0), default=0,
         help="seed that chooses the windows shown (default: 0)")
    flag("--html", type=Path, metavar="PAGE", help="also write a page for a browser, with more: "
         "histograms, duplicates, larger windows (example: --html mine.html)")
    args = parser.parse_args(argv)
    if args.html:
        check_page(args.html)
    name = _folder(args.name)
    if args.adopt or args.dtype:
        adopt(Path(os.path.normpath(dataset_folder(name))), args.adopt, args.dtype)
    dataset = open_dataset(name)
    told = {}
    problems = check(dataset, args, told)
    if args.html:
        write_dataset_page(dataset, told, problems, args)
    if problems:
        raise UserError("; ".join(problems))
    notes = look_at_text(dataset)
    for line in notes:
        print(f"  note: {line}. Look at the text, and prepare it with the right --encoding")
    print("  the files are undamaged" if notes else "  no problem was found", end="")
    print(f" (checked: sizes, every id{', hashes' if 'splits' in dataset.meta else ''}"
          f"{', mask' if dataset.has_mask else ''}{', index' if dataset.has_index else ''}"
          f"{', streams' if args.streams else ''})")


if __name__ == "__main__":
    with one_line_errors():
        main()
