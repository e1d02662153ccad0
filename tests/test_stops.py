"""A signal while a run evaluates, samples or saves: it stops soon, and the resumed run ends as the
run that was never stopped. (Signals while it trains: tests/test_train.py.)

Run: python -m pytest tests/test_stops.py
Models are tiny and run in this process on one thread, so that runs can be compared bit for bit.
"""
import os
import signal
from pathlib import Path

import pytest
from helpers import (
    TINY,
    assert_same,
    char_dataset,
    log_rows,
    one_line_error,
    one_thread,  # noqa: F401
    resume,
    run,
)

import train
from model import GPT
from pipeline.errors import one_line_errors
from training import checkpoint, evaluation
from training.checkpoint import load_checkpoint, save_checkpoint

TIMES = ("tokens_per_s", "data_wait", "seconds", "mfu")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


@pytest.fixture(scope="module")
def fox(tmp_path_factory):
    """A dataset folder that no test changes, as the value of --dataset."""
    return f"{char_dataset(tmp_path_factory.mktemp('data') / 'fox')}"


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def calling(patch, owner, name, number, act):
    """Call act() before call `number` (from 1) of owner.name."""
    calls, plain = [0], getattr(owner, name)

    def counting(*args, **kw):
        calls[0] += 1
        if calls[0] == number:
            act()
        return plain(*args, **kw)

    patch.setattr(owner, name, counting)
    return calls


def kill(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def stopped(number, *flags, signal_number=signal.SIGTERM):
    """The exit status of a run that gets a signal in batch `number` of all its evaluations, and
    how many batches it evaluated."""
    with pytest.MonkeyPatch.context() as patch:
        calls = calling(patch, evaluation, "to_xy", number, lambda: kill(signal_number))
        with pytest.raises(SystemExit) as exit:
            train.main([*map(str, flags)])
    return exit.value.code, calls[0]


def assert_same_run(whole, other):
    """Two runs are equal: weights, optimizer, best.pt, and each row of log.csv but for times."""
    for name in ("ckpt.pt", "best.pt"):
        a, b = (load_checkpoint(Path(folder) / name) for folder in (whole, other))
        for key in ("iter_num", "best_val_loss", "evaluated", "unevaluated", "model", "scaler"):
            assert_same(a[key], b[key], key)
        # its learning rates are set anew in each iteration
        assert_same(a["optimizer"]["state"], b["optimizer"]["state"], "optimizer")
    rows = [[{k: v for k, v in row.items() if k not in TIMES} for row in log_rows(folder)]
            for folder in (whole, other)]
    assert rows[0] == rows[1]


FLAGS = ["--max_iters=12", "--eval_interval=4", "--eval_iters=3", "--dropout=0.2",
         "--log_interval=2"]
PER_EVALUATION = 6  # batches: three of each split


@pytest.mark.parametrize("number, iter_num, status", [
    (1, 4, 143), (5, 4, 143), (7, 8, 130), (10, 8, 129), (17, 12, 143)])
def test_a_signal_in_an_evaluation_ends_it_and_the_resumed_run_makes_up_for_it(
        fox, capsys, number, iter_num, status):
    """The third evaluation is the last one: nothing is left to train."""
    flags = [*TINY, f"--dataset={fox}", *FLAGS]
    train.main([*flags, "--out_dir=whole"])
    assert stopped(number, *flags, "--out_dir=x", signal_number=status - 128) == (status, number)
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == (f"stopped at iteration {iter_num}. To go on, run: python train.py "
                    f"--init_from=resume --out_dir=x")
    saved = load_checkpoint(Path("x/ckpt.pt"))
    assert saved["iter_num"] == iter_num and saved["unevaluated"]["iter"] == iter_num
    assert int(log_rows("x")[-1]["iter"]) < iter_num
    resume("x")
    told = capsys.readouterr().out
    assert told.count(f"iteration {iter_num}: ") == 1 and "done in " in told
    assert not load_checkpoint(Path("x/ckpt.pt"))["unevaluated"]
    assert_same_run("whole", "x")


def test_a_run_stopped_in_each_evaluation_and_in_those_it_makes_up_for_ends_the_same(fox):
    flags = [*TINY, f"--dataset={fox}", *FLAGS]
    train.main([*flags, "--out_dir=whole"])
    go_on = ["--init_from=resume", "--out_dir=x"]
    assert stopped(2, *flags, "--out_dir=x")[0] == 143
    assert stopped(3, *go_on)[0] == 143  # in the evaluation that is made up for
    assert stopped(PER_EVALUATION + 1, *go_on)[0] == 143  # in the next one
    assert stopped(PER_EVALUATION + 1, *go_on)[0] == 143  # in the last one
    assert stopped(PER_EVALUATION - 1, *go_on)[0] == 143  # and in the last batch but one
    resume("x")
    assert_same_run("whole", "x")


def test_a_kill_after_the_row_of_an_evaluation_made_up_for_doubles_no_row(fox, monkeypatch):
    flags = [*TINY, f"--dataset={fox}", *FLAGS]
    train.main([*flags, "--out_dir=whole"])
    stopped(2, *flags, "--out_dir=x")

    class Killed(BaseException):
        pass

    def die(*args):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save_checkpoint", die)
        resume("x")
    assert log_rows("x")[-1]["iter"] == "4"
    resume("x")
    assert_same_run("whole", "x")


def test_a_signal_in_the_iteration_before_an_evaluation_does_not_wait_for_it(fox, monkeypatch):
    flags = [*TINY, f"--dataset={fox}", *FLAGS]
    train.main([*flags, "--out_dir=whole"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        calling(patch, train, "train_step", 4, kill)
        batches = calling(patch, evaluation, "to_xy", 0, None)
        train.main([*flags, "--out_dir=x"])
    assert not batches[0]
    resume("x")
    assert_same_run("whole", "x")


def test_an_evaluation_that_waits_can_be_looked_at(fox, capsys):
    stopped(PER_EVALUATION * 2 + 2, *TINY, f"--dataset={fox}", *FLAGS, "--out_dir=x")
    resume("x", "--eval_only")
    assert "iteration 12: train loss" in capsys.readouterr().out
    line = one_line_error(capsys, train.main, ["--init_from=resume", "--out_dir=x", "--plan"])
    assert "12 of 12" in line


@pytest.mark.parametrize("number", [2, 5])
def test_a_signal_in_an_evaluation_of_several_datasets_is_made_up_for_too(fox, tmp_path, number):
    other = char_dataset(tmp_path / "dog", "the lazy dog jumps over the quick brown fox.\n" * 300)
    flags = [*TINY, *FLAGS, "--training_mode=multidataset", "--dataset_list", fox, str(other)]
    train.main([*flags, "--out_dir=whole"])
    assert stopped(number, *flags, "--out_dir=x")[0] == 143
    resume("x")
    assert_same_run("whole", "x")


# ---- eval_only, samples, saves


@pytest.mark.parametrize("number, status, told", [
    (signal.SIGTERM, 143, "stopped by SIGTERM\n"), (signal.SIGINT, 130, "\ninterrupted\n")])
def test_a_signal_ends_eval_only_at_once(fox, capsys, number, status, told):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit, (
            one_line_errors()):
        calls = calling(patch, evaluation, "to_xy", 2, lambda: kill(number))
        run(f"--dataset={fox}", "--eval_only")
    assert exit.value.code == status and capsys.readouterr().err == told and calls[0] == 2


def test_a_signal_ends_the_sample_of_an_evaluation_and_loses_nothing(fox, monkeypatch, capsys):
    flags = [*TINY, f"--dataset={fox}", *FLAGS, "--sample_every_eval", "--max_sample_tokens=9000"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit:
        calls = calling(patch, GPT, "forward", 4 + 6 + 20, kill)
        train.main([*flags, "--out_dir=x"])
    assert exit.value.code == 143 and calls[0] < 40
    assert capsys.readouterr().out.splitlines()[-1].startswith("stopped at iteration 4. ")
    resume("x", "--max_sample_tokens=1")
    train.main([*flags, "--max_sample_tokens=1", "--out_dir=whole"])
    assert_same_run("whole", "x")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_during_a_save_stops_the_run_there_and_saves_no_second_time(
        fox, monkeypatch, capsys, when):
    flags, saves = [*TINY, f"--dataset={fox}", *FLAGS], [0]

    def save(*args):
        saves[0] += 1
        if when == "before":
            kill()
        save_checkpoint(*args)
        if when == "after":
            kill()

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr(checkpoint, "save_checkpoint", save)
        train.main([*flags, "--out_dir=x"])
    assert exit.value.code == 143 and saves[0] == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("stopped at iteration 4. ")
    resume("x")
    train.main([*flags, "--out_dir=whole"])
    assert_same_run("whole", "x")


def test_a_signal_as_the_final_evaluation_is_saved_lets_the_run_end(fox, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        calling(patch, checkpoint, "save_checkpoint", 3, kill)
        run(f"--dataset={fox}", *FLAGS, "--out_dir=x")
    assert "done in " in capsys.readouterr().out
