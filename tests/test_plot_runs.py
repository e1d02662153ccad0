"""The folder of a run explains itself: args.json, and the pictures that plot_runs.py draws.

Run: python -m pytest tests/test_plot_runs.py            (the pictures need matplotlib)
"""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import char_dataset, one_line_error, one_thread, resume, run  # noqa: F401

import plot_runs
from train_args import parse_args
from training.plots import labels_of, plot, plot_or_say_why, read_log

HEADER = ("iter,tokens,train_loss,val_loss,batch_loss,learning_rate,tokens_per_s,seconds,"
          "train_loss/a,val_loss/a")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def axes():
    return pytest.importorskip("matplotlib.axes", reason="the pictures need matplotlib").Axes


def a_run(name, rows, header=HEADER, **args):
    folder = Path(name)
    folder.mkdir()
    (folder / "log.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "args.json").write_text(json.dumps({"args": args, "starts": []}))
    return folder


ROWS = ["1,10,,,5.0,.1,100,1,,", "2,20,3.0,3.5,4.0,.1,100,2,2.5,3.0", "3,30,,,3.0,.05,100,3,,",
        "4,40,2.0,2.5,2.1,0,100,4,1.5,2.0"]


# ---- args.json


def test_a_run_writes_down_its_arguments_and_what_it_was_started_with_each_time(tmp_path):
    data = char_dataset(tmp_path / "fox")
    run(f"--dataset={data}", "--max_iters=2", "--out_dir=a b", "--seed=7")
    resume("a b", "--max_iters=4")
    told = json.loads(Path("a b/args.json").read_text())
    assert (told["args"]["seed"], told["args"]["max_iters"], told["args"]["n_embd"]) == (7, 4, 32)
    first, second = told["starts"]
    assert first["iter"] == 0 and first["command"].startswith("python train.py --n_layer=2 ")
    assert first["command"].endswith("--max_iters=2 '--out_dir=a b' --seed=7")
    assert (second["iter"], second["command"]) == (
        2, "python train.py --init_from=resume '--out_dir=a b' --max_iters=4")
    assert second["versions"] == {"python": sys.version.split()[0], "torch": torch.__version__,
                                  "numpy": np.__version__}
    run(f"--dataset={data}", "--max_iters=2", "--out_dir=a b", "--overwrite")
    assert len(json.loads(Path("a b/args.json").read_text())["starts"]) == 1


# ---- reading runs


def test_runs_are_labelled_by_what_differs_in_their_arguments():
    runs = [a_run("a", ROWS, seed=1, learning_rate=0.1, muon_learning_rate=0.3, out_dir="a"),
            a_run("b", ROWS, seed=1, learning_rate=0.2, muon_learning_rate=None, out_dir="b")]
    assert labels_of(runs) == ["learning_rate=0.1, muon_learning_rate=0.3", "learning_rate=0.2"]
    assert labels_of(runs[:1] * 2) == ["a", "a"]
    same = a_run("c", ROWS, seed=1, learning_rate=0.2)
    assert labels_of([*runs, same])[1:] == ["b: learning_rate=0.2", "c: learning_rate=0.2"]
    Path("b/args.json").unlink()
    assert labels_of(runs) == ["seed=1, learning_rate=0.1, muon_learning_rate=0.3", "b"]


def test_labels_leave_out_what_follows_from_others_and_what_changes_no_curve():
    """Settings as train.py writes them into args.json."""
    same = ["--out_dir=x"]
    other = ["--eval_interval=7", "--log_interval=3", "--device=cpu", "--out_dir=y", "--plan",
             "--max_sample_tokens=5", "--save_minutes=0", "--eval_iters=9", "--patience=4"]
    for i, (one, two, labels) in enumerate((
            (["--optimizer=adamw"], [], ["optimizer=adamw", "optimizer=muon"]),
            (["--arch=gpt2"], [], ["arch=gpt2", "arch=modern"]),
            (["--n_head=8"], [], ["n_head=8", "n_head=4"]),
            (["--learning_rate=0.1"], ["--learning_rate=0.3"],
             ["learning_rate=0.1", "learning_rate=0.3"]),
            (["--init_from=gpt2", "--seed=3"], ["--seed=4"], ["init_from=gpt2, seed=3", "seed=4"]),
            ([], [], [f"a{6}", f"b{6}"]),
    ), 1):
        runs = []
        for name, argv in ((f"a{i}", [*one, *same]), (f"b{i}", [*two, *other])):
            runs.append(a_run(name, ROWS, **vars(parse_args(argv))))
        found = labels_of(runs)
        assert [set(label.split(", ")) for label in found] == [
            set(label.split(", ")) for label in labels], found


def test_a_run_still_going_is_read_up_to_its_last_whole_line():
    folder = a_run("a", [*ROWS, "5,50,,,2"])
    log = read_log(folder)
    assert log["tokens"] == [10, 20, 30, 40] and log["val_loss"] == [None, 3.5, None, 2.5]


@pytest.mark.parametrize("argv, words", [
    (["nix"], ["nix ", "log.csv", "out/x"]), (["empty"], ["empty/log.csv", "--log_interval"]),
    ([], ["out_dirs", "python plot_runs.py --help"])])
def test_a_folder_without_a_log_is_a_one_line_error(capsys, argv, words, axes):
    Path("out").mkdir()
    a_run("out/x", ROWS)
    a_run("empty", [])
    line = one_line_error(capsys, plot_runs.main, argv)
    assert all(word in line for word in words)


@pytest.mark.parametrize("change", [lambda text: text.replace(",", ";").encode(),
                                    lambda text: text.encode("utf-16")])
def test_a_log_that_a_spreadsheet_has_saved_is_a_one_line_error(capsys, change, axes):
    log = a_run("x", ["10,640,,,3.5,0.01,900,1,,"]) / "log.csv"
    log.write_bytes(change(log.read_text()))
    line = one_line_error(capsys, plot_runs.main, ["x"])
    assert all(word in line for word in ("x/log.csv", "commas", "UTF-8"))


# ---- pictures


def test_the_picture_of_one_run_and_of_several(axes, monkeypatch, capsys):
    drawn, plain = [], axes.plot

    def noting(self, *points, **style):
        drawn.append((*points, style.get("label")))
        return plain(self, *points, **style)
    monkeypatch.setattr(axes, "plot", noting)
    one = a_run("one", ROWS, seed=1)
    plot_runs.main(["one"])
    assert "one/loss.png" in capsys.readouterr().out
    assert Path("one/loss.png").read_bytes()[:4] == b"\x89PNG"
    assert drawn[::2][:5] == [((20.0, 40.0), (3.0, 2.0), "train"),
                              ((20.0, 40.0), (3.5, 2.5), "val"),
                              ((10.0, 20.0, 30.0, 40.0), (5.0, 4.0, 3.0, 2.1), "batches of train"),
                              ((20.0, 40.0), (2.5, 1.5), "train a"),
                              ((20.0, 40.0), (3.0, 2.0), "val a")]
    drawn.clear()
    plot([one, a_run("two", [ROWS[0], "2,20,,3.1,4,.1,100,2,,"], seed=2)], "both.png")
    assert [(line[1], line[2]) for line in drawn[::2] if line[2]] == [((3.5, 2.5), "seed=1"),
                                                                      ((3.1,), "seed=2")]
    assert Path("both.png").stat().st_size > 10_000


def test_a_run_of_one_line_can_be_drawn(axes):
    plot([a_run("a", ["1,10,,,5.0,.1,100,1,,"])], "a.png")


def test_without_matplotlib_the_run_ends_well_and_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plot_or_say_why(a_run("a", ROWS))
    out = capsys.readouterr().out
    assert out.startswith("note: ") and "loss.png" in out and "pip install matplotlib\n" in out


def test_a_picture_that_cannot_be_drawn_does_not_fail_the_run(axes, capsys):
    plot_or_say_why(a_run("a", ["1,x"]))
    out = capsys.readouterr().out
    assert out.startswith("note: ") and "loss.png" in out and "a/log.csv" in out
