"""
Tokens per second of train.py beside other programs, as ratios: medians of A B A B ...

    python benchmarks/busy.py [--nanogpt ../nanoGPT] [--rounds 10] [--seconds 5]

quiet      as train.py starts by itself, against OpenMP's own way to wait (GOMP_SPINCOUNT=300000).
           The machine must have nothing else to do
busy       the same two beside two processes that compute, against one thread, and against nanoGPT
           by the CPU command of its README
container  with a quota of half a core (a control group: needs root), against numbers of threads
           that are set by hand

All runs of a leg are started once and take turns: while one computes, signals keep the others
stopped. Turns last a few seconds, so that whatever else happens on the machine affects all runs
alike. The model is the default one, on made-up text.
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

from pipeline.prepare.write import write_dataset
from pipeline.threads import cores
from pipeline.tokenizers import CharTokenizer

CHOSEN = re.compile(r"(OMP|GOMP|KMP|MKL|OPENBLAS)_")  # by the user; here only the legs choose
ENDLESS = ["--max_iters=1000000", "--eval_interval=1000000", "--log_interval=1"]
OURS = [*ENDLESS, "--max_sample_tokens=0", "--device=cpu", "--lr_schedule=constant"]
GROUPS = {  # version 1, version 2
    Path("/sys/fs/cgroup/cpu/benchmark"): {"cpu.cfs_period_us": "100000",
                                           "cpu.cfs_quota_us": "50000"},
    Path("/sys/fs/cgroup/benchmark"): {"cpu.max": "50000 100000"}}
# steps at the head of a turn that don't count: the first holds the time that the run was stopped
WARM = 2
STARTS = 3  # of each run


class Run:
    """A process that trains until stop(), and computes only while turn() lets it.

    times: gives the seconds of its steps so far. tokens: of a step. env: what the user chooses.
    group: its control group."""

    def __init__(self, command, cwd, times, tokens, env, group=None):
        self.times, self.tokens, self.command = times, tokens, command
        kept = {name: value for name, value in STARTED_WITH.items() if not CHOSEN.match(name)}
        if group:
            command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', group, *command]
        with open(cwd / "benchmark.out", "w") as out:
            self.process = subprocess.Popen([*map(str, command)], cwd=cwd, stdout=out, stderr=out,
                                            env={**kept, **env, "PYTHONUNBUFFERED": "1"})
        self._wait_for(WARM + 1)
        self.process.send_signal(signal.SIGSTOP)

    def _wait_for(self, steps):
        while len(self.times()) < steps:
            time.sleep(0.1)
            assert self.process.poll() is None, f"{self.command} has ended by itself"

    def turn(self, seconds):
        """Compute for so long, and for one step that counts at least; -> tokens a second."""
        before = len(self.times()) + WARM
        self.process.send_signal(signal.SIGCONT)
        time.sleep(seconds)
        self._wait_for(before + 1)
        self.process.send_signal(signal.SIGSTOP)
        return self.tokens / statistics.mean(self.times()[before:])

    def stop(self):
        self.process.kill()
        self.process.wait()


def ours(folder, group=None, **env):
    """A Run of train.py."""
    run = Path(tempfile.mkdtemp(dir=folder))

    def times():
        with contextlib.suppress(OSError), open(run / "log.csv", newline="") as file:
            return [4096 / float(row["tokens_per_s"]) for row in csv.DictReader(file)
                    if row["tokens_per_s"]]
        return []
    command = [sys.executable, ROOT / "train.py", f"--dataset={folder}/data/", *OURS,
               f"--out_dir={run}"]
    return Run(command, run, times, 4096, env, group)


def nanogpt(checkout, folder):
    """A Run of nanoGPT's train.py, by the times that it prints; its evaluation is in none."""
    copy = folder / "nanogpt"
    if not copy.exists():
        shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "out*"))
        shutil.copytree(folder / "data", copy / "data/race")

    def times():
        told = (copy / "benchmark.out").read_text()
        return [float(ms) / 1000 for ms in re.findall(r"(?m)^iter .* time ([\d.]+)ms", told)]
    return Run([sys.executable, "train.py", *NANOGPT_CPU, "--eval_iters=1", *ENDLESS], copy, times,
               12 * 64, {})


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


def compare(what, legs, rounds, seconds):
    """Let the legs take turns; print their speeds, and the ratios of the first leg to the others.

    legs: name -> function that starts a Run. Each is started several times, because a process keeps
    the luck that it had with its memory: two equal ones differ by some percent to the end."""
    speeds = {name: [] for name in legs}
    for _ in range(STARTS):
        runs = {}
        try:
            for name, start in legs.items():
                runs[name] = start()
            for first in range(-(-rounds // STARTS)):  # another one begins each round
                for k in range(len(runs)):
                    name = list(runs)[(first + k) % len(runs)]
                    speeds[name].append(runs[name].turn(seconds))
        finally:
            for run in runs.values():
                run.stop()
    told = (f"{name} {statistics.median(each):,.0f}" for name, each in speeds.items())
    print(f"{what}: {', '.join(told)} tokens/s")
    first, *others = speeds.values()
    for name, other in zip(list(legs)[1:], others):
        ratios = sorted(a / b for a, b in zip(first, other))
        print(f"  ours / {name}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to "
              f"{ratios[-1]:.2f})", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nanogpt", type=Path, help="a checkout of github.com/karpathy/nanoGPT")
    p.add_argument("--legs", nargs="+", choices=["quiet", "busy", "container"],
                   default=["quiet", "busy", "container"], help="(default: all)")
    p.add_argument("--rounds", type=int, default=10, help="turns of each run (default 10)")
    p.add_argument("--seconds", type=float, default=5, help="of a turn (default 5)")
    args = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "data").mkdir()
        text = "".join(random.Random(0).choices("abcdefghijklm nopqrstuvwxyz .\n", k=1_000_000))
        write_dataset(folder / "data", text, CharTokenizer.from_text(text))

        def leg(**env):
            return lambda: ours(folder, **env)
        legs = {"ours": leg(), "OpenMP's default": leg(GOMP_SPINCOUNT="300000")}
        if "quiet" in args.legs:
            compare("quiet", legs, args.rounds, args.seconds)
        if "busy" in args.legs:
            legs["one thread"] = leg(OMP_NUM_THREADS="1")
            if args.nanogpt:
                legs["nanoGPT"] = lambda: nanogpt(args.nanogpt, folder)
            with two_busy_processes():
                compare("beside two busy processes", legs, args.rounds, args.seconds)
        if "container" in args.legs:
            with half_a_core() as group:
                if not group:
                    print("half a core: not measured, because no control group could be made "
                          "(that needs root)")
                    return
                by_hand = {f"{n} by hand": leg(group=group, OMP_NUM_THREADS=str(n))
                           for n in range(1, cores() + 1)}
                compare("half a core", {"ours": leg(group=group), **by_hand}, args.rounds,
                        args.seconds)


if __name__ == "__main__":
    main()
