"""Proves a prepared folder, token by token, and shows what a model will see.

    python data/check_dataset.py shakespeare_char                     # or a path: data/mine
    python data/check_dataset.py mine --streams mine_pos mine_case    # ... and that these are aligned with it
    python data/check_dataset.py mine --adopt gpt2                    # first write the meta.pkl of bins that have none
    python data/check_dataset.py mine --dtype uint32                  # state the width of an id where meta.pkl does not

Checks sizes, hashes and every id, documents of val that are in train too, and the streams; prints counts, the most
frequent tokens, the lengths of documents and some windows, | between their tokens. Status 2 where something is wrong.
"""
import argparse
import collections
import hashlib
import os
import pickle
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[1]))
from pipeline.encodings import signs_of_another_encoding
from pipeline.errors import Parser, UserError, one_line_errors, printable
from pipeline.files import lock, open_regular, replacing
from pipeline.read.folder import (
    SPLITS,
    check_ids,
    dataset_folder,
    open_dataset,
    read_meta,
    token_dtype,
)
from pipeline.tokenizers import (
    TiktokenTokenizer,
    as_bytes,
    table_hash,
    tables,
    token_text,
    tokenizer_from_meta,
    tokenizer_meta,
)

CHUNK = 1 << 22  # tokens read at once
MAX_ID = 1 << 22  # the ids that are counted; each takes 32 bytes
# whose tokens are the bytes of their text; and what write_dataset() always says
LOSSLESS = ("char", "byte", "tiktoken", "bpe", "sentencepiece", "token_list")
OURS = ("tokenizer", "itos", "stoi", "dtype", "max_id", "splits", "eot_token")
SHIFTS = range(-3, 4)  # tokens by which a stream is tried against the first


# ---- meta.pkl for bins that another program wrote


def adopt(folder, encoding, dtype):
    """Write folder's meta.pkl: of an encoding of tiktoken (where there is none yet), or with dtype stated."""
    path = folder / "meta.pkl"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found")
    with lock(folder, "prepare.py"):
        if (folder / "meta.pkl.new").exists() and not path.exists():
            raise UserError(f"{folder} is half-written: prepare.py was stopped. Run: python {folder}/prepare.py")
        if path.exists() and not dtype:
            raise UserError(f"{path} is there already. Give --dtype to state the width of its ids, or move it away")
        if not path.exists() and not encoding:
            raise UserError(f"{path} is not there. Say what the ids are, for example: --adopt gpt2")
        meta = read_meta(folder) if path.exists() else (
            TiktokenTokenizer(encoding, backend="tiktoken").to_meta())
        dtype = np.dtype(dtype or token_dtype(meta["vocab_size"])).newbyteorder("<")
        described = {split: _describe(folder / f"{split}.bin", dtype, meta["vocab_size"]) for split in SPLITS}
        meta |= {"dtype": dtype.name, "max_id": max(max_id for _, max_id in described.values()),
                 "splits": {split: counts for split, (counts, _) in described.items()}}
        if encoding:
            meta["table_sha256"] = table_hash(meta["itos"])
        with replacing(path) as file:
            pickle.dump(meta, file, protocol=4)
    counts = ", ".join(f"{split} {meta['splits'][split]['tokens']:,} tokens" for split in SPLITS)
    print(f"{folder.name}: {counts}, vocab_size {meta['vocab_size']:,}, {dtype.name}, taken for "
          f"{meta.get('tiktoken_encoding') or meta.get('tokenizer') or 'the'} tokens; wrote {path}")


def _describe(path, dtype, vocab_size):
    """({"tokens", "sha256"}, largest id) of a bin, every id checked."""
    if not path.exists():
        raise FileNotFoundError(f"{path} not found")
    open_regular(path).close()
    if path.stat().st_size % dtype.itemsize or not path.stat().st_size:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; {dtype.name} ids need a multiple of "
                        f"{dtype.itemsize}, above 0")
    tokens, digest, max_id = np.memmap(path, dtype=dtype, mode="r"), hashlib.sha256(), 0
    for start, piece in _chunks(tokens):
        check_ids(piece, vocab_size, path, lambda i: start + i)
        digest.update(piece.data)
        max_id = max(max_id, int(piece.max()))
    return {"tokens": len(tokens), "sha256": digest.hexdigest()}, max_id


def _chunks(tokens):
    return ((start, tokens[start : start + CHUNK]) for start in range(0, len(tokens), CHUNK))


# ---- the checks: each gives lines that say what is wrong


def check_split(dataset, split):
    """(problems, how often each id occurs) of a bin, read once."""
    stated, path = dataset.meta.get("splits", {}).get(split, {}), dataset.path(split)
    digest, counts, problems = hashlib.sha256(), np.zeros(0, dtype=np.int64), []
    tokens = dataset.tokens(split) if dataset.num_tokens[split] else np.zeros(0, dataset.dtype)
    if not len(tokens):
        return [f"{path} is empty"], counts
    for start, piece in _chunks(tokens):
        digest.update(piece.data)
        try:
            check_ids(piece, dataset.vocab_size, path, lambda i: start + i)
        except UserError as error:
            problems += [str(error)] if not problems else []
            piece = piece[piece < dataset.vocab_size]
        if len(piece) and piece.max() > MAX_ID:
            raise UserError(f"{path} has id {piece.max():,}; up to {MAX_ID:,} ids are counted. Prepare "
                            f"the dataset again")
        counts = _sum([counts, np.bincount(piece)])
    # what write_dataset() wrote has a hash, and the width that it says
    foreign = "source_sha256" not in dataset.meta
    if stated.get("sha256", digest.hexdigest() if foreign else "nothing") != digest.hexdigest():
        problems.append(f"{path} is not what was prepared: its sha256 is {digest.hexdigest()}, meta.pkl says "
                        f"{stated.get('sha256')}. Prepare it again")
    head = tokens[: 1 << 20]
    if foreign and dataset.dtype.itemsize == 2 and len(head) > 99 and head[::2].any() and not head[1::2].any():
        problems.append(f"{path}: every second id is 0, so these are ids of 4 bytes, read as {dataset.dtype.name}. "
                        f"State the width: --dtype uint32")
    return problems, counts


def _sum(counts):
    """Counts of ids, added up; each as long as its largest id asks for."""
    total = np.zeros(max(map(len, counts)), dtype=np.int64)
    for one in counts:
        total[: len(one)] += one
    return total


def check_table(dataset):
    """meta.pkl's tables, one against the other and against the tokenizer rebuilt from it."""
    meta, path = dataset.meta, dataset.folder / "meta.pkl"
    if "source_sha256" in meta and (lacking := [key for key in OURS if key not in meta]):
        return [f"{path} lacks {', '.join(lacking)}. Prepare the dataset again"]
    if not meta.get("itos"):
        return []
    tokenizer = tokenizer_from_meta(meta)
    if "source_sha256" not in meta:  # other programs keep a part of the table
        return []
    stoi = tables(meta["itos"])["stoi"] | (meta.get("special_tokens") or {})
    if stoi != meta.get("stoi"):
        return [f"{path} has a stoi that is not its itos turned round. Prepare the dataset again"]
    own_eot = meta["tokenizer"] in ("custom", "token_list")
    if table_hash(tokenizer_meta(tokenizer)["itos"]) != table_hash(meta["itos"]) or (
            not own_eot and tokenizer.eot_token != meta["eot_token"]):
        return [f"{path} holds another table of tokens, or another eot_token, than its tokenizer "
                f"({meta['tokenizer']}) has. Prepare the dataset again"]
    return []


def check_counts(dataset, counts):
    """meta.pkl's counts of bytes and documents against those of the ids in the bins."""
    meta, problems = dataset.meta, []
    eot = meta.get("eot_token")
    lossless = "source_sha256" in meta and meta.get("tokenizer") in LOSSLESS
    for split in SPLITS:
        stated = meta.get("splits", {}).get(split, {})
        told = f"{dataset.folder}/meta.pkl says that {split} has"
        found = sum(int(counts[split][i]) * len(as_bytes(meta["itos"].get(i, b""))) for i in
                    np.flatnonzero(counts[split]).tolist() if i != eot) if lossless else None
        if lossless and stated.get("bytes") != found:
            problems.append(f"{told} {stated.get('bytes')} bytes of text; its tokens stand for "
                            f"{found:,}")
        ends = int(counts[split][eot]) if eot is not None and eot < len(counts[split]) else 0
        documents, last = stated.get("documents"), ends and dataset.tokens(split)[-1] != eot
        if documents is not None and ends and not ends <= documents <= ends + bool(last):
            problems.append(f"{told} {documents:,} documents; {ends:,} are ended by a token")
    return problems


def look_at_text(dataset, at_most=1 << 24, pieces=16):
    """Lines on signs of a wrong encoding in the text of each split, or in pieces from all over it."""
    if not dataset.meta.get("itos") or dataset.meta.get("tokenizer", "char") not in LOSSLESS:
        return []
    tokenizer, lines = tokenizer_from_meta(dataset.meta), []
    for split in SPLITS:
        tokens, found, characters = dataset.tokens(split), collections.Counter(), 0
        size = min(len(tokens), at_most // pieces)
        number = pieces if len(tokens) > at_most else -(-len(tokens) // size)
        for start in dict.fromkeys(np.linspace(0, len(tokens) - size, number).astype(int).tolist()):
            text = tokenizer.decode(tokens[start : start + size]).strip("\ufffd")  # a character may be cut at the ends
            characters += len(text)
            found.update(signs_of_another_encoding(text))
        signs = ", ".join(f"{count:,} {what} ({count / characters:.2%})" for what, count in found.most_common())
        lines += [f"the text of {split} holds {signs}, as text has that was decoded wrongly or is none"] if signs else []
    return lines


def check_max_id(dataset, counts):
    """meta.pkl's max_id against the ids that occur."""
    used = np.flatnonzero(_sum(list(counts.values())))
    if "max_id" in dataset.meta and used.size and used[-1] != dataset.meta["max_id"]:
        return [f"{dataset.folder}/meta.pkl says max_id {dataset.meta['max_id']:,}; the largest id in the bins is "
                f"{used[-1]:,}"]
    return []


def documents(dataset, split):
    """(lengths in tokens, 64-bit hashes) of the documents of a split, each ended (or begun) by eot_token."""
    tokens, eot = dataset.tokens(split), dataset.meta["eot_token"]
    lengths, hashes, rest = [], [], np.zeros(0, dataset.dtype)
    for _, piece in _chunks(tokens):
        *whole, rest = _cut(np.concatenate([rest, piece]), eot)
        lengths += map(len, whole)
        hashes += [hashlib.blake2b(document.tobytes(), digest_size=8).digest() for document in whole]
    if len(rest):
        lengths.append(len(rest))
        hashes.append(hashlib.blake2b(rest.tobytes(), digest_size=8).digest())
    lengths = np.array(lengths, dtype=np.int64)
    return lengths[lengths > 0], np.frombuffer(b"".join(hashes), "<u8")[lengths > 0]


def _cut(ids, eot):
    """ids between one eot and the next; the last has no eot behind it yet."""
    ends = np.flatnonzero(ids == eot)
    return [ids[start:end] for start, end in zip([0, *(ends + 1).tolist()], [*ends.tolist(), len(ids)])]


def check_documents(dataset):
    """Lengths of documents, printed, and those of val that are in train too, letter for letter."""
    if dataset.meta.get("eot_token") is None:
        return []
    hashes = {}
    for split in SPLITS:
        lengths, hashes[split] = documents(dataset, split)
        if len(lengths):
            quantiles = np.percentile(lengths, [0, 10, 50, 90, 100], method="nearest")
            print(f"  {split}: {len(lengths):,} documents; tokens in the shortest, at 10%, 50%, 90%, in the longest: "
                  f"{', '.join(f'{q:,}' for q in quantiles)}")
    shared = np.isin(hashes["val"], hashes["train"])
    if shared.any():
        at = int(shared.argmax())
        return [f"{dataset.path('val')}: {shared.sum():,} of {len(shared):,} documents are in train too; the first is "
                f"document number {at + 1:,}"]
    return []


def check_stream(first, stream, sample=1 << 20):
    """Whether two datasets can be read side by side: equal lengths, and most alike (mutual information) unshifted."""
    problems = []
    for split in SPLITS:
        a_len, b_len = first.num_tokens[split], stream.num_tokens[split]
        if a_len != b_len:
            problems.append(f"{stream.path(split)} has {b_len:,} tokens, {first.path(split)} has {a_len:,}; aligned "
                            f"streams are equally long")
    if problems:
        return problems
    a, b = (np.array(dataset.tokens("train")[:sample]).astype(np.int64) for dataset in (first, stream))
    edge = max(SHIFTS)
    if len(a) <= 100 * edge:
        return []
    alike = {k: _mutual_information(a[edge:-edge], b[edge + k : len(b) - edge + k]) for k in SHIFTS}
    best = max(alike, key=alike.get)
    print(f"  {stream.name}: shares {alike[0]:.3f} bits a token with {first.name}")
    if best and alike[best] > alike[0] + 0.02:
        problems.append(f"{stream.path('train')} seems to have slipped by {best:+d} tokens against {first.path('train')}: "
                        f"shifted so, they share {alike[best]:.3f} bits a token, as they stand {alike[0]:.3f}")
    return problems


def _mutual_information(a, b):
    """Bits that a[i] tells of b[i], estimated from their counts."""
    def entropy(x):
        share = np.unique(x, return_counts=True)[1] / len(x)
        return -(share * np.log2(share)).sum()
    return entropy(a) + entropy(b) - entropy(a * (int(b.max()) + 1) + b)


# ---- what is shown




def show(dataset, counts, num_windows, width, seed):
    total = _sum(list(counts.values()))
    top = np.argsort(-total, kind="stable")[:12]
    shares = ", ".join(f"{token_text(dataset.meta, int(i))!s} {total[i] / total.sum():.1%}" for i in top if total[i])
    print(f"  {np.count_nonzero(total):,} of {dataset.vocab_size:,} ids occur; the most frequent: {shares}")
    levels = [(1, 1), (2, 9), (10, 99), (100, 999), (1000, 9999), (10_000, None)]
    print("  ids by how often they occur: " + ", ".join(
        f"{low:,}{'' if low == high else '+' if high is None else f'-{high:,}'}: "
        f"{int(((total >= low) & (total <= (high or total.max()))).sum()):,}" for low, high in levels))
    draw = np.random.default_rng(seed)
    for split in SPLITS:
        tokens = dataset.tokens(split)
        starts = [0, *sorted(draw.integers(0, max(1, len(tokens) - width), num_windows - 1).tolist())]
        for start in dict.fromkeys(starts):
            window = "|".join(token_text(dataset.meta, i) for i in tokens[start : start + width].tolist())
            print(f"  {split} at {start:,}: {window}")


def check(dataset, streams=(), num_windows=3, width=24, seed=0):
    """All checks of a dataset, what is found printed; returns the lines that say what is wrong."""
    source = printable(dataset.meta.get("source") or "another program", 1000)
    print(f"{dataset.name}: " + ", ".join(f"{split} {dataset.num_tokens[split]:,} tokens" for split in SPLITS)
          + f", vocab_size {dataset.vocab_size:,}, {dataset.dtype.name}, from {source}")
    problems, counts = check_table(dataset), {}
    for split in SPLITS:
        found, counts[split] = check_split(dataset, split)
        problems += found
    problems += check_max_id(dataset, counts)
    if not problems:
        problems += check_counts(dataset, counts)
        problems += check_documents(dataset)
        show(dataset, counts, num_windows, width, seed)
    for name in streams:
        problems += check_stream(dataset, open_dataset(_folder(name)))
    return problems


def _folder(name):
    """A name of data/, or a path; as open_dataset() takes it."""
    return f"{name}/" if Path(name).is_dir() and not dataset_folder(name).is_dir() else name


def main(argv=None):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a dataset of data/, or a path to a folder")
    parser.add_argument("--streams", nargs="+", default=[], help="datasets that must be aligned with it, token by token")
    parser.add_argument("--adopt", metavar="ENCODING", help="write its meta.pkl: gpt2, cl100k_base, ...")
    parser.add_argument("--dtype", choices=["uint16", "uint32"], help="write the width of an id into its meta.pkl")
    parser.add_argument("--windows", type=int, default=3, help="windows shown of each split (default: 3)")
    parser.add_argument("--width", type=int, default=24, help="tokens a window (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="which windows (default: 0)")
    args = parser.parse_args(argv)
    name = _folder(args.name)
    if args.adopt or args.dtype:
        adopt(Path(os.path.normpath(dataset_folder(name))), args.adopt, args.dtype)
    dataset = open_dataset(name)
    problems = check(dataset, args.streams, args.windows, args.width, args.seed)
    if problems:
        raise UserError(f"{'; '.join(problems)}")
    looked_at = "sizes, every id" + (", hashes" if "splits" in dataset.meta else "") + (
        ", streams" if args.streams else "")
    notes = look_at_text(dataset)
    for line in notes:
        print(f"  note: {line}. Look at it, and prepare it again with the right --encoding")
    print(f"  as they were written: {looked_at}" if notes else f"  all is well: {looked_at}")


if __name__ == "__main__":
    with one_line_errors():
        main()
