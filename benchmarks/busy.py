"""
train.py on a machine that other programs use too: tokens a second as ratios, medians of A B A B ...

    python benchmarks/busy.py [--nanogpt ../nanoGPT] [--pairs 10] [--seconds 20]

quiet      as it starts itself, against OpenMP's own waiting (GOMP_SPINCOUNT=300000)
busy       the same two beside two processes that compute, against one thread, and against nanoGPT by
           the CPU command of its README
container  with half a core by quota (a control group: needs root), against thread counts set by hand

A run is a process that is ended after so many seconds; its first steps don't count. The model is the
default one, on made-up text. `quiet` needs a machine with nothing else to do.
"""
import argparse
import contextlib
import csv
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from race import NANOGPT_CPU
from rival import ROOT, STARTED_WITH

from data.dataset import write_dataset
from data.threads import cores
from data.tokenizer import CharTokenizer

CHOSEN = re.compile(r"(OMP|GOMP|KMP|MKL|OPENBLAS)_")  # by the user; here only the legs choose
ENDLESS = ["--max_iters=1000000", "--eval_interval=1000000", "--log_interval=1"]
OURS = [*ENDLESS, "--max_sample_tokens=0", "--device=cpu", "--lr_schedule=constant"]
GROUPS = {  # version 1, version 2
    Path("/sys/fs/cgroup/cpu/benchmark"): {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"},
    Path("/sys/fs/cgroup/benchmark"): {"cpu.max": "50000 100000"}}
NUM_STEPS = 5  # at least, of a run


def run_for(seconds, command, cwd, times, env, group):
    """times() of a command that is ended after so many seconds, or when it has made NUM_STEPS steps.

    times: gives the times of its steps so far. env: what the user chooses. group: its control group."""
    kept = {name: value for name, value in STARTED_WITH.items() if not CHOSEN.match(name)}
    if group:
        command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', group, *command]
    with open(cwd / "benchmark.out", "w") as out:
        process = subprocess.Popen([*map(str, command)], cwd=cwd, stdout=out, stderr=out,
                                   env={**kept, **env, "PYTHONUNBUFFERED": "1"})
        try:
            t0 = time.perf_counter()
            while time.perf_counter() - t0 < seconds or len(times()) < NUM_STEPS:
                time.sleep(0.5)
                assert process.poll() is None, f"{command} has ended by itself"
            return times()
        finally:
            process.kill()
            process.wait()


def ours(folder, seconds, group=None, **env):
    """Tokens a second of train.py."""
    shutil.rmtree(folder / "run", ignore_errors=True)

    def times():
        with contextlib.suppress(OSError), open(folder / "run/log.csv", newline="") as file:
            return [4096 / float(row["tokens_per_s"]) for row in csv.DictReader(file)][2:]
        return []
    command = [sys.executable, ROOT / "train.py", f"--dataset={folder}/data/", *OURS,
               f"--out_dir={folder}/run"]
    return 4096 / statistics.mean(run_for(seconds, command, folder, times, env, group))


def nanogpt(checkout, folder, seconds):
    """Tokens a second of nanoGPT's train.py, by the times that it prints; its evaluation is in none."""
    copy = folder / "nanogpt"
    if not copy.exists():
        shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "out*"))
        shutil.copytree(folder / "data", copy / "data/race")

    def times():
        told = (copy / "benchmark.out").read_text()
        return [float(ms) / 1000 for ms in re.findall(r"(?m)^iter .* time ([\d.]+)ms", told)][2:]
    command = [sys.executable, "train.py", *NANOGPT_CPU, "--eval_iters=1", *ENDLESS]
    return 12 * 64 / statistics.mean(run_for(seconds, command, copy, times, {}, None))


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
    """The folder of a control group with that quota, or None where none can be made."""
    for group, limits in GROUPS.items():
        try:
            group.mkdir(exist_ok=True)
            for name, limit in limits.items():
                (group / name).write_text(limit)
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


def compare(what, legs, pairs):
    """Time the legs in turn; print the speeds, and the ratio of the first to each other, by pairs."""
    speeds = {name: [] for name in legs}
    for _ in range(pairs):
        for name, leg in legs.items():
            speeds[name].append(leg())
    told = (f"{name} {statistics.median(each):,.0f}" for name, each in speeds.items())
    print(f"{what}: {', '.join(told)} tokens/s")
    first, *others = speeds.values()
    for name, other in zip(list(legs)[1:], others):
        ratios = sorted(a / b for a, b in zip(first, other))
        print(f"  ours / {name}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
              flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nanogpt", type=Path, help="a checkout of github.com/karpathy/nanoGPT")
    p.add_argument("--legs", nargs="+", choices=["quiet", "busy", "container"],
                   default=["quiet", "busy", "container"], help="(default: all)")
    p.add_argument("--pairs", type=int, default=10, help="runs of each (default 10)")
    p.add_argument("--seconds", type=float, default=20, help="of a run with its start (default 20)")
    args = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "data").mkdir()
        text = "".join(random.Random(0).choices("abcdefghijklm nopqrstuvwxyz .\n", k=1_000_000))
        write_dataset(folder / "data", text, CharTokenizer.from_text(text))

        def leg(**env):
            return lambda: ours(folder, args.seconds, **env)
        legs = {"ours": leg(), "OpenMP's default": leg(GOMP_SPINCOUNT="300000")}
        if "quiet" in args.legs:
            compare("quiet", legs, args.pairs)
        if "busy" in args.legs:
            legs["one thread"] = leg(OMP_NUM_THREADS="1")
            if args.nanogpt:
                legs["nanoGPT"] = lambda: nanogpt(args.nanogpt, folder, args.seconds)
            with two_busy_processes():
                compare("beside two busy processes", legs, args.pairs)
        if "container" in args.legs:
            with half_a_core() as group:
                if not group:
                    print("half a core: not measured, for no control group can be made; that needs root")
                    return
                by_hand = {f"{n} by hand": leg(group=group, OMP_NUM_THREADS=str(n))
                           for n in range(1, cores() + 1)}
                compare("half a core", {"ours": leg(group=group), **by_hand}, args.pairs)


if __name__ == "__main__":
    main()
