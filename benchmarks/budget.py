"""
The val loss that --minutes reaches, against six settings whose iterations fill the same time.

    python benchmarks/budget.py --dataset sotu --minutes 2 5 [--at_once 2]

A setting's step is timed first, alone and with all threads, and gives it as many iterations as fit
into the time. Then --minutes trains, alone, and its seconds are those of the whole process. Then
the settings train, each for its iterations. These are fixed, so their losses do not depend on how
busy the machine is: with --at_once 2 two of them train beside each other, with a thread each. Each
loss is train.py's own over the same number of val tokens, in windows of the setting's own context
length.
"""
import argparse
import concurrent.futures
import contextlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rival import ROOT, STARTED_WITH

import train
from train_args import parse_args
from training.plan import mean_step, next_batch, times_of_steps
from training.ranks import Ranks
from training.run_folder import read_args

# written down before any of them was measured
SETTINGS = {
    "the default": "",
    "configs/shakespeare_cpu.args": "@configs/shakespeare_cpu.args",
    "wide and shallow": (
        "--n_layer=2 --n_embd=128 --block_size=128 --batch_size=16 "
        "--sampling_method=without_replacement"),
    "small": (
        "--n_layer=3 --n_embd=96 --n_head=3 --block_size=256 --first_block_size=64 --batch_size=8 "
        "--sampling_method=without_replacement --muon_learning_rate=0.03 --learning_rate=0.015"),
    "large": (
        "--n_layer=6 --n_embd=192 --n_head=6 --block_size=256 --first_block_size=64 --batch_size=8 "
        "--sampling_method=without_replacement --muon_learning_rate=0.02 --learning_rate=0.01"),
    "nanoGPT's architecture and optimizer": (
        "--arch=gpt2 --optimizer=adamw --learning_rate=1e-3 --n_layer=4 --n_embd=128 "
        "--block_size=64 --batch_size=12 --warmup_iters=100 --lr_schedule=cosine"),
}
TRAINED = 0.96  # share of the time for iterations; the rest starts the process and evaluates
EVALUATED = 300_000  # tokens of val


def step_of(flags):
    """Seconds an iteration of train.py with these flags."""
    args = parse_args([*flags, "--max_iters=1000"])
    with contextlib.ExitStack() as stack:
        run = train.set_up(args, [], stack.enter_context(Ranks("auto")), stack)
        steps, _ = times_of_steps(run, train.train_step, *next_batch(run), 5.0)
        return mean_step(steps, args)


def train_py(*flags):
    """(what train.py prints, its seconds)."""
    t0 = time.perf_counter()
    done = subprocess.run([sys.executable, "train.py", *flags], cwd=ROOT, env=STARTED_WITH,
                          capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout, time.perf_counter() - t0


def val_loss(folder, flags, threads=()):
    """(val loss at the end, seconds of training, iterations) of train.py with these flags."""
    _, seconds = train_py(*flags, *threads, f"--out_dir={folder}")
    args = read_args(folder / "args.json")["args"]
    num_batches = -(-EVALUATED // (args["batch_size"] * args["block_size"]))
    told, _ = train_py("--init_from=resume", f"--out_dir={folder}", "--eval_only",
                       "--eval_train=false", f"--eval_iters={num_batches}", *threads)
    return float(re.findall(r"val loss ([\d.]+)", told)[-1]), seconds, args["max_iters"]


def tell(minutes, name, loss, seconds, max_iters):
    print(f"{minutes:g} min  val {loss:.4f}  {max_iters:6,} iterations  {seconds:6.1f} s  {name}",
          flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dataset", default="sotu")
    p.add_argument("--minutes", type=float, nargs="+", default=[2.0, 5.0])
    p.add_argument("--at_once", type=int, default=1,
                   help="settings that train beside each other, with a thread each (default 1)")
    args = p.parse_args()
    data = f"--dataset={args.dataset}"
    threads = ["--num_threads=1"] if args.at_once > 1 else []
    steps = {name: step_of([*shlex.split(flags), data]) for name, flags in SETTINGS.items()}
    for name, step in steps.items():
        print(f"{step * 1000:8.1f} ms a step: {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        def settings_run(job):
            number, minutes, name = job
            max_iters = int(TRAINED * 60 * minutes / steps[name])
            tell(minutes, name, *val_loss(
                Path(folder, str(number)),
                [*shlex.split(SETTINGS[name]), data, f"--max_iters={max_iters}",
                 "--eval_interval=1000000", "--eval_iters=1", "--max_sample_tokens=0"], threads))

        for number, minutes in enumerate(args.minutes):
            out_dir = Path(folder, f"m{number}")
            tell(minutes, "--minutes", *val_loss(out_dir, [data, f"--minutes={minutes:g}"]))
            print(read_args(out_dir / "args.json")["starts"][0]["command"], flush=True)
        jobs = [(number, minutes, name) for number, (minutes, name) in enumerate(
            (minutes, name) for minutes in args.minutes for name in SETTINGS)]
        with concurrent.futures.ThreadPoolExecutor(args.at_once) as pool:
            list(pool.map(settings_run, jobs))


if __name__ == "__main__":
    main()
