"""Fixtures of several test files, and hypothesis' settings: no deadline, the same examples in every
run."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipeline.threads import set_environment

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models of tests are too small for more
set_environment()  # before torch is imported
from training import plots

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background job ignores it, and so would its children
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it


def no_outputs(folder, names):
    """For shutil.copytree: what a clone does not have. That is what prepare.py and runs have made,
    and the datasets of whoever runs the tests, whose README.md has no row on their kind."""
    own = [
        name
        for name in names
        if Path(folder).name == "data"
        and (Path(folder) / name / "prepare.py").exists()
        and name != "template"
        and "| kind |" not in "".join(p.read_text() for p in Path(folder, name).glob("README.md"))
    ]
    return own + [
        name
        for name in names
        if not ((Path(folder) / name).is_dir() and name not in ("__pycache__", "downloads"))
        and not name.endswith((".py", ".sh", "README.md"))
    ]


def copy_program(root):
    """A copy of the program at root, as a clone has it; returns root."""
    shutil.copytree(ROOT / "data", root / "data", ignore=no_outputs)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, root)
    for package in ("pipeline", "training"):
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return root


@pytest.fixture(scope="session")
def repo(tmp_path_factory):
    """A copy of the program with its dataset folders unprepared; names of new datasets are free in
    it."""
    return copy_program(tmp_path_factory.mktemp("clone") / "repo")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A picture at the end takes longer than the run that most tests make; tests/test_plot_runs.py
    draws some."""
    monkeypatch.setattr(plots, "plot_or_say_why", lambda out_dir: None)


@pytest.fixture
def new_dataset(repo, request):
    """new_dataset(name, text) -> the folder of a dataset just made by create_new_dataset.sh,
    removed after the test."""
    made = []

    def make(name="fresh", text=None):
        subprocess.run(
            ["bash", repo / "data" / "create_new_dataset.sh", name],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        made.append(repo / "data" / name)
        if text is not None:
            (made[-1] / "input.txt").write_text(text, encoding="utf-8", newline="")
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(os.path.realpath(folder))
        if folder.is_symlink():
            folder.unlink()


@pytest.fixture
def forbid_network(monkeypatch):
    """Any connection attempt of this process fails the test."""

    def refuse(*args, **kw):
        raise AssertionError("this must work with no network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
