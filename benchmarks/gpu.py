"""
What only a GPU can tell, in one table: is training right there, and how fast is it.

    bash benchmarks/gpu.sh                                   # under ten minutes; needs torch alone
    bash benchmarks/gpu.sh --nanogpt ../nanoGPT --text input.txt --dataset fineweb10B
    bash benchmarks/gpu.sh --parts steps head                # only these
    bash benchmarks/gpu.sh --device cpu                      # a rehearsal at tiny sizes

It needs this repo and torch 2.11 or newer, no network and no data: it prepares the repo's own text
and random ids. Each part runs in a process of its own, with a limit of time; one that fails is a
row that says so. The checks run side by side, then each measurement by itself. Without a GPU each
part is a row that says what is skipped. Exit status 1 if a row says WRONG or failed.
"""
import argparse
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rival import ROOT, STARTED_WITH

from pipeline.errors import UserError, one_line_errors

with one_line_errors():  # torch may be missing
    import gpu_checks
    import gpu_speeds
    import torch
    from gpu_bench import Bench, Skip, last_line, make_datasets, wait_or_end

    from pipeline.read.folder import dataset_folder
    from pipeline.threads import cores, take_threads

RESERVE = 10  # seconds kept for what comes after a part
FEWEST = 20  # seconds with which a part is still worth starting
RUNNING = set()  # the processes of parts


@dataclass
class Part:
    """A function of a Bench that writes rows, with the seconds that it may take."""
    measure: callable
    seconds: float
    lacks: callable = lambda args: None  # why it cannot be measured with these flags

    @property
    def title(self):
        return getattr(self.measure, "func", self.measure).__doc__.splitlines()[0]


def no_nanogpt(args):
    return None if args.nanogpt else "--nanogpt names no checkout of nanoGPT"


def no_shakespeare(args):
    if args.text or (dataset_folder("shakespeare_char") / "meta.pkl").exists():
        return no_nanogpt(args)
    return "--text names no file with the Shakespeare text, and data/shakespeare_char is unprepared"


def no_second_gpu(args):
    num_gpus = torch.cuda.device_count()
    return f"this machine has {num_gpus} GPU" if args.device == "cuda" and num_gpus < 2 else None


def no_dataset(args):
    return None if args.dataset else "--dataset names no prepared FineWeb"


CHECKS = {
    "syncs": Part(gpu_checks.syncs, 120),
    **{f"equal-{arch}-{vocab_size}": Part(partial(gpu_checks.equality, arch=arch,
                                                  vocab_size=vocab_size), 200)
       for vocab_size, arch in itertools.product((50257, 65), ("modern", "gpt2"))},
    "equal-grouped": Part(partial(gpu_checks.equality, arch="modern", vocab_size=65,
                                  n_kv_head=2), 200),
    "resume": Part(gpu_checks.resumed, 120), "float16": Part(gpu_checks.float16, 100),
    "memory": Part(gpu_checks.no_memory, 90), "ranks": Part(gpu_checks.ranks, 150),
}
SPEEDS = {  # the most wanted first, should the time not suffice for all
    "steps": Part(gpu_speeds.steps, 270), "head": Part(gpu_speeds.head, 90),
    "shakespeare": Part(gpu_speeds.shakespeare, 240, no_shakespeare),
    "kernels": Part(gpu_checks.kernels, 60), "plan": Part(gpu_speeds.plan, 100),
    "windows": Part(gpu_checks.windows, 120), "sampling": Part(gpu_speeds.sampling, 90),
    "documents": Part(gpu_speeds.documents, 120),
    "scaling": Part(gpu_speeds.scaling, 180, no_second_gpu),
    "fineweb": Part(gpu_speeds.fineweb, 180, no_dataset),
}
PARTS = CHECKS | SPEEDS


def main():
    args = parse_args()
    if args.part:
        return measure(args)
    rows, began = [], time.monotonic()
    ending = began + args.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        reason = None
        if args.device == "cuda" and not torch.cuda.is_available():
            reason = "torch finds no CUDA GPU here (--device cpu rehearses at tiny sizes)"
        else:
            make_datasets(folder)

        def row_of(name):
            """Measure a part; -> its rows, which are shown at once."""
            part = PARTS[name]
            told = reason or part.lacks(args)
            new = [[name, part.title, f"skipped: {told}", "", "skipped"]] if told else run_part(
                name, args, folder, ending)
            print(*map(line_of, new), sep="\n", flush=True)
            return new
        # one card has room for a few small models, but a core for each is needed to compile them
        side_by_side = max(1, min(4, cores() // 4))
        print(HEADER, flush=True)
        with ThreadPoolExecutor(side_by_side) as pool:
            try:
                for new in pool.map(row_of, [name for name in CHECKS if name in args.parts]):
                    rows += new
            except BaseException:  # Ctrl-C, which parts in sessions of their own do not get
                for process in list(RUNNING):
                    wait_or_end(process, 0)
                raise
        for name in SPEEDS:
            if name in args.parts:
                rows += row_of(name)
        report = table(rows, folder, time.monotonic() - began, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(report, encoding="utf-8")
    print(f"\nwritten to {args.out}: {said(rows)}")
    sys.exit(any(row[4] in ("WRONG", "failed") for row in rows))


def parse_args():
    p = argparse.ArgumentParser(prog="bash benchmarks/gpu.sh", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nanogpt", type=absolute, help="a checkout of github.com/karpathy/nanoGPT")
    p.add_argument("--text", type=absolute,
                   help="the Shakespeare text, input.txt (default: data/shakespeare_char)")
    p.add_argument("--dataset", help="prepared FineWeb: a folder of data/, or a path with a slash")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                   help=f"of: {', '.join(PARTS)} (default: all)")
    p.add_argument("--minutes", type=float, default=9.5, help="at most, in all (default 9.5)")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    p.add_argument("--out", type=absolute, default=ROOT / "out/gpu.md",
                   help="where the table is written, too (default out/gpu.md)")
    # how this script starts a part in a process of its own
    for hidden, kind in (("--part", str), ("--work", Path), ("--ending", float)):
        p.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    args = p.parse_args()
    for path in (args.nanogpt and args.nanogpt / "train.py", args.text):
        if path and not path.is_file():
            raise UserError(f"{path} not found. Name a checkout of nanoGPT by --nanogpt and a file "
                            f"of text by --text")
    if args.dataset and not (dataset_folder(args.dataset) / "meta.pkl").is_file():
        raise UserError(f"{dataset_folder(args.dataset)} is not prepared. Run its prepare.py, or "
                        f"leave --dataset out")
    if args.dataset and "/" in args.dataset:
        args.dataset = f"{os.path.abspath(args.dataset)}/"
    return args


def absolute(path):
    """Parts run in another working directory."""
    return Path(os.path.abspath(path))


# ---- a part, in a process of its own


def run_part(name, args, folder, ending):
    """The rows of a part, which ends in time, whatever happens in it."""
    part = PARTS[name]
    longest = part.seconds if args.device == "cuda" else 4 * part.seconds  # two cores compile
    seconds = min(longest, ending - time.monotonic() - RESERVE)
    if seconds < FEWEST:
        return [[name, part.title, "not started: the time is over (--minutes, --parts)", "",
                 "skipped"]]
    argv = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], f"--part={name}",
            f"--work={folder}", f"--ending={time.monotonic() + seconds}"]
    with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
        # compiled code is shared by the parts, and never that of an earlier run, so that the first
        # compilation is timed as a user meets it
        process = subprocess.Popen(
            argv, stdout=log, stderr=log, start_new_session=True,
            env={**STARTED_WITH, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled"})
        RUNNING.add(process)
        status = wait_or_end(process, seconds)
        RUNNING.discard(process)
    rows = []
    with contextlib.suppress(FileNotFoundError):
        rows = [json.loads(line) for line in
                (folder / f"{name}.rows").read_text(encoding="utf-8").splitlines()]
    if status is None:
        rows.append([name, part.title, f"stopped after {seconds:.0f} s", "", "failed"])
    elif status:
        said_last = last_line((folder / f"{name}.log").read_text(errors="replace"))
        rows.append([name, part.title, f"exit status {status}: {said_last}", "", "failed"])
    return rows or [[name, part.title, "no row was written", "", "failed"]]


def measure(args):
    """What the process of a part does."""
    take_threads()
    bench = Bench(torch.device("cuda", 0) if args.device == "cuda" else torch.device("cpu"),
                  args.work / args.part, args.part, args.nanogpt, args.text, args.dataset,
                  args.ending)
    bench.folder.mkdir()
    for name in ("chars", "ids"):  # the datasets are shared
        (bench.folder / name).symlink_to(args.work / name)
    try:
        PARTS[args.part].measure(bench)
    except Skip as reason:
        bench.row(PARTS[args.part].title, f"skipped: {reason}", "", "skipped")


# ---- the table

HEADER = "| part | what | measured | expected, or compared with | |\n|---|---|---|---|---|"


def line_of(row):
    return f"| {' | '.join(' '.join(str(cell).split()).replace('|', '/') for cell in row)} |"


def said(rows):
    verdicts = [row[4] for row in rows]
    return ", ".join(f"{verdicts.count(word)} {word}"
                     for word in ("ok", "WRONG", "failed", "skipped") if word in verdicts)


def machine(device):
    """The card and the versions, in words."""
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python " + (
        sys.version.split()[0])
    if device != "cuda":
        return f"a rehearsal on a CPU at tiny sizes, whose figures mean nothing; {versions}"
    if not torch.cuda.is_available():
        return f"no GPU; {versions}"
    card = torch.cuda.get_device_properties(0)
    return (f"{torch.cuda.device_count()} x {card.name}, {card.total_memory / 1e9:.0f} GB, compute "
            f"capability {card.major}.{card.minor}; {versions}")


def table(rows, folder, seconds, args):
    """The report, Markdown: the machine, the table, and the ends of the logs of what failed."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True,
                            capture_output=True).stdout.strip() if shutil.which("git") else ""
    day = time.strftime("%Y-%m-%d")
    lines = [f"# {machine(args.device)}", "",
             f"`bash benchmarks/gpu.sh`, {day}, commit {commit or 'unknown'}: {said(rows)}, in "
             f"{seconds / 60:.1f} minutes", "", HEADER, *map(line_of, rows)]
    for name in dict.fromkeys(row[0] for row in rows if row[4] == "failed"):
        with contextlib.suppress(FileNotFoundError):
            log = (folder / f"{name}.log").read_text(errors="replace").splitlines()
            lines += ["", f"The end of what {name} printed:", "", "```", *log[-20:], "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with one_line_errors():
        main()
