"""What the parts of gpu.py share: the sizes, two small datasets, runs of train.py, the rows.

A part is a function of a Bench. It writes rows with bench.row() as soon as it has them, so that a
part that fails or runs out of time loses only what it has not measured yet.
"""
import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from batches import Numbers
from rival import ROOT, STARTED_WITH, synchronize

import train
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import CharTokenizer
from train_args import parse_args
from training.device import has_fast_bfloat16
from training.ranks import Ranks

# GPT-2 124M as nanoGPT has it, in iterations of 65,536 tokens (on cards under 40 GB, 16,384)
GPT2_124M = dict(n_layer=12, n_head=12, n_embd=768, block_size=1024, batch_size=16,
                 gradient_accumulation_steps=4)
# the rehearsal on a CPU: its figures mean nothing, but each line of code has run
TINY = dict(n_layer=1, n_head=2, n_embd=128, block_size=32, batch_size=2,
            gradient_accumulation_steps=2)
ARCHS = {"gpt2": ["--arch=gpt2", "--optimizer=adamw", "--learning_rate=6e-4"],
         "modern": ["--arch=modern", "--optimizer=muon"]}
QUIET = ["--eval_interval=1000000", "--eval_iters=1", "--eval_train=false", "--max_sample_tokens=0",
         "--lr_schedule=constant", "--compile=false"]


class Skip(Exception):
    """A part, or the rest of one, that cannot be measured here; the text says why."""


@dataclass
class Bench:
    """Where a part measures. folder: for what it makes. nanogpt, text, dataset: flags of gpu.py,
    each None where it was not given."""
    device: torch.device
    folder: Path
    name: str = ""
    nanogpt: Path | None = None
    text: Path | None = None
    dataset: str | None = None
    deadline: float = math.inf  # of the part, by time.monotonic()

    @property
    def seconds_left(self):
        return self.deadline - time.monotonic()

    @property
    def on_gpu(self):
        return self.device.type == "cuda"

    @property
    def sizes(self):
        """Flags of train.py: {name: value}."""
        if not self.on_gpu:
            return TINY
        memory = torch.cuda.get_device_properties(self.device).total_memory
        return GPT2_124M if memory > 40e9 else {**GPT2_124M, "batch_size": 4}

    @property
    def dtype(self):
        """What --dtype=auto takes on this GPU."""
        return "bfloat16" if not self.on_gpu or has_fast_bfloat16(self.device) else "float16"

    @property
    def dtypes(self):
        """All that train.py accepts on the device."""
        return ("float32", "bfloat16", "float16") if self.on_gpu else ("float32", "bfloat16")

    def autocast(self, dtype):
        return torch.autocast(self.device.type, dtype=getattr(torch, dtype),
                              enabled=dtype != "float32")

    def row(self, what, measured, expected="", verdict=""):
        """Add a row to the table. verdict: a bool (ok or WRONG), or a word."""
        if isinstance(verdict, bool):
            verdict = "ok" if verdict else "WRONG"
        with open(self.folder.parent / f"{self.name}.rows", "a", encoding="utf-8") as file:
            json.dump([self.name, what, measured, expected, verdict], file)
            file.write("\n")

    def failed(self, what, error):
        """A row for one measurement that raised; its traceback goes into the log of the part."""
        traceback.print_exception(error)
        self.row(what, f"{type(error).__name__}: {last_line(str(error))}", "", "failed")

    def wait(self):
        synchronize(self.device)

    @property
    def allocated(self):
        """Bytes of tensors on the GPU; 0 on a CPU, where peak() gives no figure either."""
        return torch.cuda.memory_allocated(self.device) if self.on_gpu else 0

    def speed(self, work, rounds):
        """Seconds of one call of work, from so many calls in a row."""
        work()
        self.wait()
        t0 = time.perf_counter()
        for _ in range(rounds):
            work()
        self.wait()
        return (time.perf_counter() - t0) / rounds

    def peak(self, work):
        """The bytes that work() has in use at most beyond what was in use before; None on a CPU."""
        if not self.on_gpu:
            work()
            return None
        self.wait()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before


def flags_of(sizes):
    return [f"--{name}={value}" for name, value in sizes.items()]


def gigabytes(num_bytes):
    return "no figure on a CPU" if num_bytes is None else f"{num_bytes / 1e9:.2f} GB"


def percent(fraction):
    return "no figure here" if fraction is None else f"{fraction:.1%}"


def make_datasets(folder):
    """chars: this repo's own text by characters. ids: random ids of a vocabulary of 50,257."""
    paths = [path for ending in ("*.md", "*.py", "*/*.md", "*/*.py") for path in ROOT.glob(ending)]
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(paths))
    for name, source, tokenizer, val in (("chars", text, CharTokenizer.from_text(text), None),
                                         ("ids", "2000000", Numbers(), "100000")):
        (folder / name).mkdir()
        with contextlib.redirect_stdout(sys.stderr):
            write_dataset(folder / name, source, tokenizer, val_text=val, num_workers=1)


@contextlib.contextmanager
def training(bench, *flags, dataset="ids"):
    """(run, batches): a run of train.py, set up by its own code, whose iterations the caller asks
    for by iterate()."""
    argv = [*QUIET, f"--dataset={bench.folder / dataset}/", f"--device={bench.device.type}",
            f"--out_dir={tempfile.mkdtemp(dir=bench.folder)}", *flags]
    args = parse_args(argv)
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(Ranks(args.device))
        run = train.set_up(args, argv, ranks, stack)
        _, batches, _ = train.begin(run, argv, stack)
        run.model.train()
        yield run, batches


def iterate(run, batches):
    """One iteration of train.py's loop -> its mean loss, a tensor on the device."""
    loss, _ = train.train_step(run, [next(batches) for _ in range(batches.micro_steps)])
    run.iter_num += 1
    return loss


def train_script(bench, *flags, dataset="ids", num_ranks=1, timeout=120, script=ROOT / "train.py"):
    """(exit status, seconds, stdout, stderr) of python train.py, or of torchrun. Its exit status is
    None if it was stopped after `timeout` seconds."""
    start = [] if num_ranks == 1 else ["-m", "torch.distributed.run", "--standalone",
                                       f"--nproc_per_node={num_ranks}"]
    argv = [sys.executable, *start, script, *QUIET, f"--dataset={bench.folder / dataset}/",
            f"--device={bench.device.type}", *flags]
    t0 = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([*map(str, argv)], stdout=out, stderr=err, env=STARTED_WITH,
                                   cwd=bench.folder, start_new_session=True)
        # ended by us, before the part is: what it has started would outlive the part
        timeout = timeout if bench.on_gpu else 4 * timeout
        status = wait_or_end(process, max(1, min(timeout, bench.seconds_left - 10)))
        seconds = time.perf_counter() - t0
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read())
    return status, seconds, *told


def wait_or_end(process, timeout):
    """The exit status of a process, or None where it, and all that it has started in its session,
    had to be ended after so many seconds."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_line(text):
    return (text.strip().splitlines() or ["nothing was printed"])[-1][:400]


def log_rows(out_dir):
    """The rows of a run's log.csv, each a dict of strings."""
    with open(Path(out_dir) / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def difference(a, b):
    """The norm of a - b over that of b, for two tensors on any device."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return ((a - b).norm() / b.norm().clamp_min(1e-300)).item()
