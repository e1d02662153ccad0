"""
Seconds from a text file to train.bin and val.bin, whole processes: ours against nanoGPT's prepare.py, in one run.

    python benchmarks/prepare.py --nanogpt ../nanoGPT [--text data/shakespeare_char/input.txt] [--megabytes 100]

The text is repeated up to the size. The bins of both are compared, byte for byte, before a figure is printed.
"""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rival import ROOT, paired, parser

OURS = """
import sys
from data.dataset import write_dataset
from data.files import read_text
from data.tokenizer import make_tokenizer
text = read_text(sys.argv[1] + "/input.txt")
write_dataset(sys.argv[1], text, make_tokenizer(sys.argv[2], text))
"""


def main():
    p = parser(__doc__)
    p.add_argument("--text", type=Path, default=ROOT / "data/shakespeare_char/input.txt", help="a UTF-8 text")
    p.add_argument("--megabytes", type=int, default=100, help="size of the text to prepare (default 100)")
    p.add_argument("--rounds", type=int, default=3, help="timings of each (default 3)")
    args = p.parse_args()
    text = args.text.read_bytes()
    text = (text * (args.megabytes * 1_000_000 // len(text) + 1))[: args.megabytes * 1_000_000]
    for method, name in (("char", "shakespeare_char"), ("tiktoken", "shakespeare")):
        with tempfile.TemporaryDirectory() as theirs, tempfile.TemporaryDirectory() as ours:
            shutil.copy(args.nanogpt / f"data/{name}/prepare.py", theirs)
            for folder in (theirs, ours):
                (Path(folder) / "input.txt").write_bytes(text)
            quiet = dict(cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            a, b, ratio = paired(lambda: subprocess.run([sys.executable, f"{theirs}/prepare.py"], **quiet),
                                 lambda: subprocess.run([sys.executable, "-c", OURS, ours, method], **quiet), args.rounds)
            for bin_name in ("train.bin", "val.bin"):
                assert (Path(theirs) / bin_name).read_bytes() == (Path(ours) / bin_name).read_bytes(), bin_name
            print(f"{method:9} {args.megabytes} MB: nanoGPT {a:6.1f} s   ours {b:6.1f} s   {ratio:5.1f} times", flush=True)


if __name__ == "__main__":
    main()
