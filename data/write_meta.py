"""meta.pkl for bins that another program wrote without one, or without saying how wide an id is.

    python data/write_meta.py data/openwebtext                        # GPT-2 tokens, as nanoGPT's BPE folders hold
    python data/write_meta.py data/mine --tiktoken_encoding cl100k_base
    python data/write_meta.py data/mine --dtype uint32                # keep the meta.pkl there, state the width

Reads train.bin and val.bin once, whole, checks every id, and prints one line. The bins are not touched.
"""
import argparse
import hashlib
import os
import pickle
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[1]))
from data.dataset import SPLITS, check_ids, load_plain, token_dtype
from data.errors import Parser, UserError, one_line_errors
from data.files import lock, replacing
from data.tokenizer import TiktokenTokenizer, table_hash, tables


def describe(path, dtype, vocab_size, chunk=1 << 24):
    """({"tokens", "sha256"}, largest id) of a bin, read in pieces of `chunk` tokens."""
    if not path.exists():
        raise FileNotFoundError(f"{path} not found")
    if path.stat().st_size % dtype.itemsize or not path.stat().st_size:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; {dtype.name} ids need a multiple of "
                        f"{dtype.itemsize}, above 0")
    tokens, digest, max_id = np.memmap(path, dtype=dtype, mode="r"), hashlib.sha256(), 0
    for start in range(0, len(tokens), chunk):
        piece = tokens[start : start + chunk]
        check_ids(piece, vocab_size, path, lambda i: start + i)
        digest.update(piece.data)
        max_id = max(max_id, int(piece.max()))
    return {"tokens": len(tokens), "sha256": digest.hexdigest()}, max_id


def main(argv=None):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with train.bin and val.bin")
    parser.add_argument("-e", "--tiktoken_encoding", default="gpt2", help="what the ids are, where there is no meta.pkl")
    parser.add_argument("--dtype", choices=["uint16", "uint32"], help="width of an id; default: by vocab_size")
    args = parser.parse_args(argv)
    folder, path = args.folder, args.folder / "meta.pkl"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found")
    with lock(folder, "prepare.py"):
        if (folder / "meta.pkl.new").exists():
            raise UserError(f"{folder} is half-written: prepare.py was stopped. Run: python {folder}/prepare.py")
        if path.exists() and not args.dtype:
            raise UserError(f"{path} is there already. Give --dtype to state the width of its ids, or move it away")
        meta = load_plain(path.read_bytes(), path) if path.exists() else (
            TiktokenTokenizer(args.tiktoken_encoding).to_meta())
        dtype = np.dtype(args.dtype or token_dtype(meta["vocab_size"])).newbyteorder("<")
        described = {split: describe(folder / f"{split}.bin", dtype, meta["vocab_size"]) for split in SPLITS}
        meta |= {"dtype": dtype.name, "max_id": max(max_id for _, max_id in described.values()),
                 "splits": {split: counts for split, (counts, _) in described.items()}}
        if meta.get("itos"):
            meta["table_sha256"] = table_hash(tables(meta["itos"])["itos"])
        with replacing(path) as file:
            pickle.dump(meta, file, protocol=4)
    counts = ", ".join(f"{split} {meta['splits'][split]['tokens']:,} tokens" for split in SPLITS)
    print(f"{folder.name}: {counts}, vocab_size {meta['vocab_size']:,}, {dtype.name}, taken for "
          f"{meta.get('tiktoken_encoding') or meta.get('tokenizer') or 'the'} tokens; wrote {path}")


if __name__ == "__main__":
    with one_line_errors():
        main()
