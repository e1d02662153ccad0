"""
Tokens per second of batches from one file: ours against nanoGPT's get_batch, in one run.

    python benchmarks/batches.py --nanogpt ../nanoGPT [--megabytes 200]

A batch is x and y, int64, on the CPU. Ours takes the whole path of train.py: order, reading thread,
queue, check of the ids, widening. The last lines print how much more a batch costs from a mixture
of three datasets, and from three aligned streams, than from one dataset.
"""
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rival import function_of, paired, parser

from pipeline.prepare.write import write_dataset
from pipeline.read.batches import TrainBatches, to_xy
from pipeline.read.folder import open_dataset
from pipeline.read.mixture import Mixture
from pipeline.read.sampler import SAMPLING_METHODS


class Numbers:
    """Stands in for a tokenizer: "text" that is already ids of a 50,257-token vocabulary."""
    itos = {50256: "end"}

    def encode(self, text):
        return np.random.default_rng(0).integers(0, 50257, int(text or 0), dtype=np.uint16)

    def decode(self, ids):
        return str(len(ids))


def take_theirs(get_batch, num_batches):
    for _ in range(num_batches):
        get_batch("train")


def taking(mixture, num_batches):
    """A function that takes num_batches batches of a run, and one that ends the run."""
    batches = TrainBatches(mixture, max_iters=10**9)
    return lambda: [to_xy(next(batches), "cpu") for _ in range(num_batches)], batches.close


def compare_modes(folder, args):
    """What members and streams add to a batch of 64 x 256 of one dataset."""
    third = args.megabytes * 500_000 // 3
    members = []
    for name in "abc":
        (folder / name).mkdir()
        write_dataset(folder / name, str(third), Numbers(), val_text="2000")
        members.append(open_dataset(f"{folder}/{name}/"))

    def equal(blocks):
        return np.full((len(blocks), 3), 1 / 3)

    for method in SAMPLING_METHODS:
        order = dict(block_size=256, batch_size=64, sampling_method=method)
        one, close_one = taking(Mixture([members[:1]], **order), args.batches)
        for name, mixture in (("3 members", Mixture([[d] for d in members], fractions_at=equal,
                                                    own_vocabularies=False, **order)),
                             ("3 streams", Mixture([members], **order))):
            more, close = taking(mixture, args.batches)
            a, b, _ = paired(one, more, args.rounds)
            print(f" 64 x 256   {method:20} one dataset {a / args.batches * 1e6:5.0f} us a batch   "
                  f"{name} "
                  f"{(b - a) / args.batches * 1e6:+5.0f} us")
            close()
        close_one()


def main():
    p = parser(__doc__)
    p.add_argument("--megabytes", type=int, default=200, help="size of train.bin (default 200)")
    p.add_argument("--batches", type=int, default=200, help="batches a timing (default 200)")
    p.add_argument("--rounds", type=int, default=7, help="timings of each (default 7)")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(folder, str(args.megabytes * 500_000), Numbers(), val_text="2000")
        dataset = open_dataset(folder)
        dataset.tokens("train").max()  # both find the file in the page cache
        for batch_size, block_size in ((64, 256), (12, 1024)):
            get_batch = function_of(args.nanogpt / "train.py", "get_batch", dict(
                os=os, np=np, torch=torch, data_dir=folder, batch_size=batch_size,
                block_size=block_size, device_type="cpu", device="cpu"))
            theirs = partial(take_theirs, get_batch, args.batches)
            for method in SAMPLING_METHODS:
                ours, close = taking(Mixture([[dataset]], block_size=block_size,
                                             batch_size=batch_size, sampling_method=method),
                                     args.batches)
                a, b, ratio = paired(theirs, ours, args.rounds)
                close()
                tokens = args.batches * batch_size * block_size / 1e6
                print(f"{batch_size:>3} x {block_size:<5} {method:20} nanoGPT {tokens / a:7.1f} M "
                      f"tokens/s   ours {tokens / b:7.1f} M tokens/s   {ratio:5.1f} times   "
                      f"{b / args.batches * 1e6:.0f} us a batch")
        compare_modes(Path(folder), args)


if __name__ == "__main__":
    main()
