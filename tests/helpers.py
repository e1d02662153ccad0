"""What several test files share: tiny datasets, a tiny model's flags, runs of train.py, one-line
errors."""

import csv
import io
import os
import subprocess
import sys
import tarfile
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import train
from pipeline.errors import one_line_errors
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import CharTokenizer, tables
from training.checkpoint import load_checkpoint
from training.ranks import Ranks
from training.run_folder import RunLog

# as long as a song, easy to learn, 29 characters
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 300

# sizes and rates are given, so that no test depends on a default
TINY = [
    "--n_layer=2",
    "--n_head=2",
    "--n_embd=32",
    "--block_size=16",
    "--batch_size=4",
    "--learning_rate=1e-2",
    "--warmup_iters=2",
    "--eval_iters=2",
    "--max_sample_tokens=0",
    "--device=cpu",
    "--dtype=float32",
    "--compile=false",
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For the test files that import it: one thread, so that runs are equal bit for bit, and small
    ones fast."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class RangeTokenizer:
    """ "10:13" <-> ids 10, 11, 12: datasets whose tokens are their positions. vocab_size as asked
    for."""

    eot_token = None

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def encode(self, text):
        return np.arange(*map(int, text.split(":")), dtype=np.int64)

    def to_meta(self):
        return {"tokenizer": None, **tables({0: "0", self.vocab_size - 1: "last"})}


def arange_dataset(folder, num_train, num_val=100, vocab_size=None):
    """A folder whose token number i is i, in both splits. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset(
        folder,
        f"0:{num_train}",
        RangeTokenizer(vocab_size or max(num_train, num_val)),
        val_text=f"0:{num_val}",
    )
    return folder


def char_dataset(folder, text=TEXT):
    """A folder of characters, 90% of them train. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset(folder, text, CharTokenizer.from_text(text))
    return folder


def edit_bin(path, position, value, dtype="<u2"):
    """Overwrite one id, as a damaged disk or a foreign program would."""
    ids = np.fromfile(path, dtype=dtype)
    ids[position] = value
    ids.tofile(path)


def one_line_error(capsys, main, argv):
    """The error of main(argv) as the command line shows it: exit status 2 and one line on stderr,
    which is returned."""
    capsys.readouterr()
    with (
        warnings.catch_warnings(record=True) as warned,
        pytest.raises(SystemExit) as exit,
        one_line_errors(),
    ):
        main(argv)
    assert exit.value.code == 2
    assert not warned, [str(w.message) for w in warned]  # each would be lines on stderr too
    return only_line(capsys.readouterr().err)


def run_log(out_dir, iter_num=0):
    """The RunLog of a run of one dataset, at an iteration."""
    mixture = types.SimpleNamespace(names=["x"], columns=["x"], is_masked=False)
    return RunLog(types.SimpleNamespace(
        ranks=Ranks("cpu"), mixture=mixture, out_dir=out_dir, iter_num=iter_num,
        unevaluated={}))


def says(message, *facts):
    """A message is one line that holds the facts: the file, the numbers, the command to type."""
    missing = [fact for fact in map(str, facts) if fact not in message]
    assert not missing and "\n" not in message, (missing, message)


def only_line(stderr):
    lines = stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]


def python(*argv, cwd=ROOT, **env):
    """Run this Python on argv with one thread, and wait. Text in, text out."""
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=cwd,
        env=child_env(**env),
        capture_output=True,
        text=True,
        timeout=300,
    )


def child_env(**more):
    """The environment of a child process: one thread, and `python` is this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PATH": path, **more}


def run(*flags):
    """A run of train.py, in this process, of a tiny model. Later flags win."""
    train.main([*TINY, *map(str, flags)])


def resume(out_dir, *flags):
    train.main(["--init_from=resume", f"--out_dir={out_dir}", *map(str, flags)])


def assert_same(a, b, path="checkpoint"):
    """Two states of plain values and tensors are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), (
            f"{path} differs by up to {(a - b).abs().max()}"
        )
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for k in a:
            assert_same(a[k], b[k], f"{path}[{k!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def assert_same_training(out_dir, other):
    """Two runs have come to one state: iteration, weights, optimizer."""
    a, b = (load_checkpoint(Path(folder) / "ckpt.pt") for folder in (out_dir, other))
    for key in ("iter_num", "model", "optimizer", "scaler"):
        assert_same(a[key], b[key], key)


def log_rows(out_dir):
    with open(Path(out_dir) / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def archive(kind, members):
    """An archive's bytes. kind: "zip", or a mode of tarfile. members: {name: text or bytes}."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as packed:
            for name, text in members.items():
                packed.writestr(name, text)
        return file.getvalue()
    with tarfile.open(fileobj=file, mode=kind) as packed:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            raw = text if isinstance(text, bytes) else text.encode()
            member.size = len(raw)
            packed.addfile(member, io.BytesIO(raw))
    return file.getvalue()


def mostly_long(cases, number=1):
    """Cases for parametrize, of which all but the first ones are left to the long tests."""
    return [case if i < number else pytest.param(case, marks=pytest.mark.long)
            for i, case in enumerate(cases)]
