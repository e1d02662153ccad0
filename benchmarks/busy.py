"""
train.py on a machine that other programs use too: tokens a second as ratios, medians of runs in A B A B order.

    python benchmarks/busy.py [--nanogpt ../nanoGPT] [--pairs 10] [--seconds 20]

quiet      as it starts itself, against the waiting that is OpenMP's default (GOMP_SPINCOUNT=300000)
busy       the same beside two processes that compute, against that, one thread, and nanoGPT by the CPU command of its README
container  the same with half a core by quota (a control group: needs root), against each number of threads set by hand

A run is a process of its own that is ended after so many seconds; its first steps don't count. The model is the default
one, on made-up text. Only a machine with nothing else to do gives the figures of `quiet`.
"""
import argparse
import contextlib
import csv
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from race import NANOGPT_CPU
from rival import ROOT

from data.dataset import write_dataset
from data.threads import cores
from data.tokenizer import CharTokenizer

CHOICES = re.compile(r"(OMP|GOMP|KMP|MKL|OPENBLAS)_")  # what a user may have set; here only the legs do
V1, V2 = Path("/sys/fs/cgroup/cpu/benchmark-busy"), Path("/sys/fs/cgroup/benchmark-busy")
FLAGS = ("--max_iters=1000000 --eval_interval=1000000 --log_interval=1 --max_sample_tokens=0 --device=cpu --overwrite "
         "--lr_schedule=constant").split()


def run_for(command, cwd, seconds, steps_at, env, group=None):
    """steps_at() after the command has run so long that it gives at least 3 steps, and at least so many seconds."""
    env = {**{name: value for name, value in os.environ.items() if not CHOICES.match(name)}, **env}
    with open(Path(cwd) / "stdout" if cwd != ROOT else os.devnull, "w") as out:
        process = subprocess.Popen(command, cwd=cwd, env={**env, "PYTHONUNBUFFERED": "1"}, stdout=out,
                                   preexec_fn=(lambda: join(group)) if group else None)
        try:
            t0 = time.perf_counter()
            while time.perf_counter() - t0 < seconds or len(steps_at()) < 5:
                time.sleep(0.5)
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(map(str, command))} has ended by itself")
            return steps_at()
        finally:
            process.kill()
            process.wait()


def ours(folder, seconds, group=None, **env):
    """Tokens a second of train.py."""
    out_dir = folder / "run"
    shutil.rmtree(out_dir, ignore_errors=True)

    def rows():
        with contextlib.suppress(OSError), open(out_dir / "log.csv", newline="") as file:
            return [row for row in csv.DictReader(file) if row["seconds"]][2:]
        return []
    command = [sys.executable, "train.py", f"--dataset={folder}/data/busy", f"--out_dir={out_dir}", *FLAGS]
    rows = run_for(command, ROOT, seconds, rows, env, group)
    first, last = ({name: float(row[name]) for name in ("tokens", "seconds")} for row in (rows[0], rows[-1]))
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])


def nanogpt(checkout, folder, seconds):
    """Tokens a second of nanoGPT's train.py, by the times that it prints; those of its evaluations don't count."""
    copy = folder / "nanogpt"
    if not copy.exists():
        shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "out*"))
        shutil.copytree(folder / "data/busy", copy / "data/race")
    flags = [*NANOGPT_CPU, "--eval_interval=1000000", "--eval_iters=1", "--log_interval=1", "--max_iters=1000000"]
    times = lambda: re.findall(r"^iter \d+: .* time ([\d.]+)ms", (copy / "stdout").read_text(), re.MULTILINE)[3:]
    times = run_for([sys.executable, "train.py", *flags], copy, seconds, times, {})
    return 64 * 12 / statistics.mean(map(float, times)) * 1000


@contextlib.contextmanager
def two_busy_processes():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextlib.contextmanager
def half_a_core():
    """A control group with that quota, or None where none can be made."""
    made = None
    for folder, limits in ((V1, {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}),
                           (V2, {"cpu.max": "50000 100000"})):
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            made = folder
            for name, limit in limits.items():
                (folder / name).write_text(limit)
            break
    else:
        made = made and made.rmdir()
    try:
        yield made
    finally:
        if made:
            made.rmdir()


def join(group):
    (group / "cgroup.procs").write_text("0")  # the process that writes it


def compare(what, legs, pairs, least):
    """Time the legs in turn; print the first's tokens a second, and as a ratio to each other's, pair by pair."""
    speeds = {name: [] for name in legs}
    for _ in range(pairs):
        for name, leg in legs.items():
            speeds[name].append(leg())
    first = next(iter(legs))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{what}: {', '.join(f'{name} {median:,.0f}' for name, median in medians.items())} tokens/s")
    for name in list(legs)[1:]:
        ratios = sorted(a / b for a, b in zip(speeds[first], speeds[name]))
        print(f"  {first} / {name}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
              f"{f', at least {least[name]} wanted' if name in least else ''}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nanogpt", type=Path, help="a checkout of github.com/karpathy/nanoGPT")
    p.add_argument("--pairs", type=int, default=10, help="runs of each (default 10)")
    p.add_argument("--seconds", type=float, default=20, help="of a run, its start included (default 20)")
    p.add_argument("--legs", nargs="+", choices=["quiet", "busy", "container"], default=["quiet", "busy", "container"])
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "data/busy").mkdir(parents=True)
        text = "".join(random.Random(0).choices("abcdefghijklm nopqrstuvwxyz .\n", k=1_000_000))
        write_dataset(folder / "data/busy", text, CharTokenizer.from_text(text))
        leg = lambda **env: lambda: ours(folder, args.seconds, **env)
        legs = {"ours": leg(), "OpenMP's default": leg(GOMP_SPINCOUNT="300000")}
        if "quiet" in args.legs:
            compare("quiet", legs, args.pairs, {"OpenMP's default": 1})
        legs["one thread"] = leg(OMP_NUM_THREADS="1")
        if args.nanogpt:
            legs["nanoGPT"] = lambda: nanogpt(args.nanogpt, folder, args.seconds)
        if "busy" in args.legs:
            with two_busy_processes():
                compare("beside two busy processes", legs, args.pairs, {"one thread": 0.8, "nanoGPT": 4})
        if "container" in args.legs:
            with half_a_core() as group:
                if group is None:
                    print("half a core: not measured, since no control group can be made here (that needs root)")
                    return
                by_hand = {f"{n} threads": leg(OMP_NUM_THREADS=str(n), group=group) for n in range(1, cores() + 1)}
                compare("half a core", {"ours": leg(group=group), **by_hand}, args.pairs, dict.fromkeys(by_hand, 0.8))


if __name__ == "__main__":
    main()
