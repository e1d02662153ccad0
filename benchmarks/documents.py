"""
What loss masks and documents cost: a training step and a batch with them, against without.

    python benchmarks/documents.py                                    # 64 x 256, documents of 80
    python benchmarks/documents.py --device cuda --dtype bfloat16 --compile --n_embd 768

All sides have the same model, rows and order; they take turns in one process. `again` is a second
run without marks: how far its ratio is from 1 tells how much the machine varies.
"""
import argparse
import os
import statistics
import tempfile
from types import SimpleNamespace

import numpy as np
import torch
from rival import in_turn, synchronize

from model import GPT, GPTConfig
from optim import configure_optimizer
from pipeline.prepare.write import write_dataset
from pipeline.read.batches import TrainBatches, to_xy
from pipeline.read.folder import open_dataset
from pipeline.read.mixture import Mixture
from pipeline.tokenizers import ByteTokenizer

SIDES = {"without": (False, False), "a mask": (True, False), "documents": (False, True),
         "both": (True, True), "again": (False, False)}  # (mask, documents)
NUM_BATCHES = 500


def questions(num_documents, length, masked):
    """Documents of `length` bytes on average, the second half of each to be learned if masked."""
    rng = np.random.default_rng(0)
    for size in rng.integers(length // 2, length * 3 // 2, num_documents).tolist():
        text = rng.integers(97, 123, size, dtype=np.uint8).tobytes().decode()
        yield [(text[: size // 2], not masked), (text[size // 2 :], True)]


def batches_of(folder, args, documents):
    mixture = Mixture([[open_dataset(f"{folder}/")]], block_size=args.block_size,
                      batch_size=args.batch_size, seed=1, documents=documents)
    return TrainBatches(mixture, max_iters=10**9)


def step_of(folder, args, documents):
    """A function that does one training step."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=256, n_layer=args.n_layer, n_head=args.n_embd // 32,
                          n_kv_head=args.n_embd // 32, n_embd=args.n_embd,
                          block_size=args.block_size)).to(device)
    optimizer = configure_optimizer(model, SimpleNamespace(
        optimizer="adamw", learning_rate=1e-3, beta2=0.99, weight_decay=0.1, dtype=args.dtype))
    forward = torch.compile(model, dynamic=False) if args.compile else model
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.dtype == "bfloat16")
    batches = batches_of(folder, args, documents)

    def step():
        batch = next(batches)
        x, y, marks = to_xy(batch, device)
        with autocast:
            _, loss = forward(x, y, **marks)
        (loss * (batch.num_targets() / batch.num_learned())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
    return step


def taking(folder, args, documents):
    """A function that takes NUM_BATCHES batches, by a thread that reads for it alone."""
    def take():
        batches = batches_of(folder, args, documents)
        for _ in range(NUM_BATCHES):
            to_xy(next(batches), "cpu")
        batches.close()
    return take


def report(what, works, rounds, scale, unit):
    times = in_turn(works, rounds)
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["without"]))
        print(f"{what:6} {name:10} {statistics.median(taken) * scale:7.0f} {unit}   {ratio:.2f} "
              f"times", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch_size", 64), ("block_size", 256), ("n_layer", 4), ("n_embd", 128),
                          ("document", 80), ("rounds", 12)):
        p.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--compile", action="store_true")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folders = {}
        for masked in (False, True):
            folders[masked] = f"{folder}/{masked}"
            os.mkdir(folders[masked])
            write_dataset(folders[masked], questions(50_000, args.document, masked),
                          ByteTokenizer())
        report("step", {name: step_of(folders[masked], args, documents)
                        for name, (masked, documents) in SIDES.items()}, args.rounds, 1e3, "ms")
        report("batch", {name: taking(folders[masked], args, documents)
                         for name, (masked, documents) in SIDES.items()}, args.rounds,
               1e6 / NUM_BATCHES, "us")


if __name__ == "__main__":
    main()
