"""Checkpoints by the clock (--save_minutes), and runs that end by themselves (--patience).

Run: python -m pytest tests/test_progress.py
"""
import shutil
import types
from pathlib import Path

import pytest
from helpers import (
    assert_same_training,
    char_dataset,
    log_rows,
    one_line_error,
    one_thread,  # noqa: F401
    resume,
    run,
)
from test_documents import marked_text

from training import checkpoint
from training.checkpoint import load_checkpoint
from training.progress import SaveClock
from training.ranks import Stop

OF_TIME = ("tokens_per_s", "mfu", "data_wait", "seconds")  # columns that differ from run to run


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def fox(tmp_path_factory):
    return char_dataset(tmp_path_factory.mktemp("data") / "fox")


def logged(out_dir):
    return [{name: value for name, value in row.items() if name not in OF_TIME}
            for row in log_rows(out_dir)]


# ---- a checkpoint by the clock


def test_a_run_goes_on_from_a_checkpoint_of_the_clock_with_the_same_log(tmp_path, monkeypatch):
    """The checkpoint of each iteration between two lines, put in the place of a killed run's."""
    flags = [f"--dataset={marked_text(tmp_path / 'fox')}", "--documents", "--max_iters=8",
             "--log_interval=4", "--eval_interval=8", "--eval_iters=1", "--dropout=0.1"]
    run(*flags, "--save_minutes=0", "--out_dir=whole")
    plain = checkpoint.save

    def save(run, is_best=False):
        plain(run, is_best)
        shutil.copytree("x", f"at{run.iter_num}", dirs_exist_ok=True)
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(SaveClock, "due", lambda self: True)
    run(*flags, "--out_dir=x")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert logged("x") == logged("whole")
    assert {path.name for path in tmp_path.glob("at*")} == {f"at{i}" for i in range(1, 9)}
    for number in (1, 4, 6):  # 4 is just after a line
        resume(f"at{number}")
        assert_same_training("whole", f"at{number}")
        assert logged(f"at{number}") == logged("whole")


def test_the_clock_saves_after_its_minutes_and_for_a_fiftieth_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("training.progress.time", types.SimpleNamespace(
        monotonic=lambda: now[0]))
    clock, never = SaveClock(2), SaveClock(0)

    def save():
        now[0] += 30.0  # a slow disk
    assert not clock.due()
    now[0] = 120.0
    assert clock.due() and not never.due()
    clock.save(types.SimpleNamespace(save=save))
    now[0] += 120.0
    assert not clock.due()  # 30 s of saving are 2% of 1,500
    now[0] += 1350.0
    assert clock.due()
    clock.saved()  # by an evaluation
    assert not clock.due()


def test_a_signal_goes_before_a_checkpoint_of_the_clock():
    values = []

    class Ranks:
        def largest(self, number):
            return max(number, *values)
    stop = Stop(Ranks())
    try:
        for others, due, signal, number, saves in (
                ([0], False, 0, 0, False), ([0], True, 0, 0, True), ([1], False, 0, 0, True),
                ([2 * 15], True, 0, 15, False), ([1], False, 2, 2, False)):
            values[:] = others
            stop.signal, stop.save_due = signal, lambda: due  # noqa: B023, called at once
            assert stop.agreed() == number and stop.saves == saves
    finally:
        stop.restore()


def test_a_damaged_sum_of_losses_is_one_line(fox, capsys):
    import torch
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=x")
    held = torch.load("x/ckpt.pt", weights_only=True)
    for wrong in ({"loss": 1.0}, {"loss": float("nan"), "learned": 1, "steps": 1, "iters": 1}, [1]):
        torch.save({**held, "since": wrong}, "x/ckpt.pt")
        line = one_line_error(capsys, lambda argv: resume("x", *argv), ["--max_iters=4"])
        assert "damaged" in line and "since" in line


# ---- patience


STILL = ["--learning_rate=1e-30", "--muon_learning_rate=1e-30", "--eval_interval=2",
         "--eval_iters=1", "--weight_decay=0"]  # nothing is learned, so the first is the best


def test_a_run_ends_after_as_many_evaluations_as_its_patience(fox, capsys):
    flags = [f"--dataset={fox}", *STILL, "--max_iters=40", "--patience=3"]
    run(*flags, "--out_dir=x")
    assert "ends at iteration 8" in capsys.readouterr().out
    assert [row["iter"] for row in log_rows("x") if row["val_loss"]] == ["2", "4", "6", "8"]
    line = one_line_error(capsys, lambda argv: resume("x", *argv), [])
    assert "--patience" in line and "iteration 8" in line
    resume("x", "--patience=5")
    assert log_rows("x")[-1]["iter"] == "12"
    # stopped on the way, the count goes on
    run(*flags, "--out_dir=y", "--max_iters=4")
    resume("y", "--max_iters=40")
    assert load_checkpoint(Path("y/ckpt.pt"))["iter_num"] == 8
    assert logged("y")[-1]["iter"] == "8"


def test_a_lower_val_loss_begins_the_count_anew(fox):
    run(f"--dataset={fox}", "--max_iters=12", "--eval_interval=2", "--eval_iters=4",
        "--patience=2", "--out_dir=x")
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] == 12


def test_the_plan_warns_where_the_rate_falls(fox, capsys, monkeypatch):
    monkeypatch.setattr("training.plan.TIMED", 0.0)
    run(f"--dataset={fox}", "--max_iters=40", "--patience=3", "--plan")
    assert "--patience 3" in capsys.readouterr().out
