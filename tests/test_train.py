"""Training (train.py, runs.py): exact resume, stops and kills, checkpoints, the run's folder and
log, refusals, ranks.

Run: python -m pytest tests/test_train.py   (with kills and two ranks: -m "long or not long")
     NANOGPT=path/to/nanoGPT python -m pytest tests/test_train.py -k unchanged
Models are tiny and run in this process on one thread, so that runs can be compared bit for bit.
"""

import contextlib
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
    TEXT,
    TINY,
    arange_dataset,
    assert_same_training,
    char_dataset,
    child_env,
    log_rows,
    mostly_long,
    one_line_error,  # noqa: F401
    only_line,
    python,
    resume,
    run,
    run_log,
)

import audit
import sample
import train
from optim import (
    Optimizer,
    block_size_at,
    configure_optimizer,
    lr_fraction,
    orthogonalize,
)
from pipeline.errors import UserError
from pipeline.files import lock
from pipeline.get.merge_files import get_encoding
from pipeline.read.batches import TrainBatches
from pipeline.read.sampler import ORDER_VERSION, SAMPLING_METHODS
from train_args import SCHEDULES, parse_args
from training import changes, checkpoint, run_folder
from training.checkpoint import load_checkpoint, save_checkpoint
from training.device import estimate_mfu
from training.ranks import Ranks, Stop

GPT2 = ["--arch=gpt2", "--optimizer=adamw", "--bias=true"]


@pytest.fixture(scope="module")
def fox(tmp_path_factory):
    """A dataset folder that no test changes, as the value of --dataset."""
    return f"{char_dataset(tmp_path_factory.mktemp('data') / 'fox')}"


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def at_batch(monkeypatch, number, act):
    """Call act() when training asks for its batch of that number (from 1) in this test."""
    asked, plain = [0], TrainBatches.__next__

    def counting(self):
        asked[0] += 1
        if asked[0] == number:
            act()
        return plain(self)

    monkeypatch.setattr(TrainBatches, "__next__", counting)


def stop_at(monkeypatch, iter_num, *flags, number=signal.SIGTERM):
    """Run until a signal in iteration iter_num (from 1) stops it; returns the exit status."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit:
        at_batch(patch, iter_num, lambda: os.kill(os.getpid(), number))
        train.main([*map(str, flags)])
    return exit.value.code


# ---- resuming is exact


@pytest.mark.parametrize("method", mostly_long(SAMPLING_METHODS))
@pytest.mark.parametrize(
    "kind", [[], GPT2, ["--gradient_accumulation_steps=3"]], ids=["modern", "gpt2", "accumulating"]
)
def test_20_steps_and_20_more_are_40_bit_for_bit(fox, method, kind):
    flags = [
        f"--dataset={fox}",
        f"--sampling_method={method}",
        "--dropout=0.2",
        "--lr_decay_iters=40",
        *kind,
    ]
    run(*flags, "--max_iters=40", "--out_dir=whole")
    run(*flags, "--max_iters=20", "--out_dir=halves")
    resume("halves", "--max_iters=40")
    assert load_checkpoint(Path("halves/ckpt.pt"))["iter_num"] == 40
    assert_same_training("whole", "halves")


@pytest.mark.parametrize("method", mostly_long(SAMPLING_METHODS))
def test_a_run_stopped_by_signals_at_any_iteration_ends_as_if_it_had_not_been(
    fox, method, monkeypatch
):
    flags = [f"--dataset={fox}", f"--sampling_method={method}", "--dropout=0.2", "--max_iters=40"]
    run(*flags, "--out_dir=whole")
    assert stop_at(monkeypatch, 7, *TINY, *flags, "--out_dir=stopped") == 143
    assert load_checkpoint(Path("stopped/ckpt.pt"))["iter_num"] == 7
    go_on = ["--init_from=resume", "--out_dir=stopped"]
    assert stop_at(monkeypatch, 1, *go_on, number=signal.SIGINT) == 130
    assert load_checkpoint(Path("stopped/ckpt.pt"))["iter_num"] == 8
    assert stop_at(monkeypatch, 22, *go_on) == 143
    resume("stopped")
    assert_same_training("whole", "stopped")


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(
    "number, status",
    [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long), (signal.SIGINT, 130)],
)
def test_a_real_signal_saves_and_prints_the_command_that_resumes(fox, tmp_path, number, status):
    """In a process of its own; the printed command is then run in a shell, as printed."""
    flags = [
        *TINY,
        f"--dataset={fox}",
        "--batch_size=100",
        "--max_iters=40",
        "--dropout=0.2",
        "--log_interval=1",
    ]
    child = subprocess.Popen(
        [sys.executable, "train.py", *flags, f"--out_dir={tmp_path}/stopped"],
        cwd=ROOT,
        env=child_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (line := child.stdout.readline()).startswith("2/40"):
        assert line, child.stderr.read()
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (status, "")
    stopped = re.search(r"^stopped at iteration (\d+)\..* (python train\.py .*)$", out, re.M)
    assert 2 <= int(stopped[1]) < 40 and load_checkpoint(tmp_path / "stopped/ckpt.pt")[
        "iter_num"
    ] == int(stopped[1])
    if number == signal.SIGTERM:
        done = subprocess.run(
            stopped[2], shell=True, cwd=ROOT, env=child_env(), capture_output=True, text=True
        )
        assert done.returncode == 0 and f"run    iterations {stopped[1]} to 40" in done.stdout, (
            done.stderr
        )
        run(*flags, "--out_dir=whole")
        assert_same_training("whole", "stopped")


def test_the_printed_command_resumes_also_where_the_folder_has_a_blank_in_its_name(
    fox, monkeypatch, capsys
):
    stop_at(
        monkeypatch, 3, *TINY, f"--dataset={fox}", "--max_iters=5", "--out_dir=my runs/first one"
    )
    printed = re.search(r" python train\.py (--init_from.*)", capsys.readouterr().out)[1]
    train.main(shlex.split(printed))
    assert load_checkpoint(Path("my runs/first one/ckpt.pt"))["iter_num"] == 5


STOPS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


def ask_again(*numbers, pause=0.01):
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(pause)


def test_a_second_ctrl_c_ends_the_process_at_once(fox, monkeypatch):
    monkeypatch.setattr(Stop, "AT_ONCE", 0.05)
    at_batch(monkeypatch, 3, lambda: ask_again(signal.SIGINT, signal.SIGINT, pause=0.1))
    handlers = [signal.getsignal(s) for s in STOPS]
    with pytest.raises(KeyboardInterrupt):
        run(f"--dataset={fox}", "--max_iters=9")
    assert [signal.getsignal(s) for s in STOPS] == handlers


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(
    "first, more",
    [
        ("SIGTERM", ["SIGTERM"]),
        ("SIGTERM", ["SIGHUP", "SIGTERM", "SIGINT"]),
        ("SIGINT", ["SIGINT", "SIGTERM"]),
        ("SIGHUP", ["SIGTERM", "SIGHUP"]),
    ],
)
def test_signals_that_come_again_before_and_while_the_state_is_saved_do_not_lose_it(
    fox, monkeypatch, first, more
):
    first, *more = (getattr(signal, name) for name in (first, *more))

    def save_and_hear(*args):
        ask_again(*more)
        save_checkpoint(*args)
        ask_again(*more)

    monkeypatch.setattr(checkpoint, "save_checkpoint", save_and_hear)
    at_batch(monkeypatch, 3, lambda: ask_again(first, *more))
    with pytest.raises(SystemExit) as exit:
        run(f"--dataset={fox}", "--max_iters=9", "--out_dir=x")
    assert exit.value.code == 128 + first and load_checkpoint(Path("x/ckpt.pt"))["iter_num"] == 3


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", STOPS)
def test_a_signal_that_is_ignored_as_nohup_does_stays_so(fox, monkeypatch, number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        at_batch(monkeypatch, 3, lambda: ask_again(number))
        run(f"--dataset={fox}", "--max_iters=5", "--out_dir=x")
    finally:
        signal.signal(number, before)
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] == 5


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_does_not_depend_on_who_reads_its_lines(fox, monkeypatch, stopped):
    """`| tee` is ended by the Ctrl-C that stops the run, `| head` when it has enough; a terminal
    may close."""
    ours, theirs = os.pipe()
    with open(theirs, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        at_batch(patch, 4, lambda: os.close(ours) or ask_again(*[signal.SIGINT] * stopped))
        with pytest.raises(SystemExit) if stopped else contextlib.nullcontext():
            run(f"--dataset={fox}", "--max_iters=9", "--log_interval=1", "--out_dir=x")
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] == (4 if stopped else 9)


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def endless_run(fox, *launcher, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how):
    """A run of train.py in a process of its own, that trains until it is stopped, into x."""
    flags = [
        *TINY,
        f"--dataset={fox}",
        "--max_iters=1000000",
        "--eval_interval=1000000",
        "--out_dir=x",
    ]
    return subprocess.Popen(
        [*launcher, ROOT / "train.py", *flags],
        env=child_env(),
        text=True,
        stdout=stdout,
        stderr=stderr,
        **how,
    )


def wait_for_line(stream, start):
    while not (line := stream.readline()).startswith(start):
        assert line, "the run ended"


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("timeout"), reason="needs GNU timeout")
@pytest.mark.parametrize("number", ["TERM", "INT", "HUP"])
def test_timeout_which_signals_the_process_and_then_its_group_loses_no_state(fox, number):
    child = endless_run(fox, "timeout", f"--signal={number}", "15", sys.executable)
    out, err = child.communicate(timeout=60)
    assert "stopped at iteration " in out and err == "", err
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] > 1


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="needs a terminal")
def test_a_terminal_that_closes_loses_no_state(fox):
    ours, theirs = os.openpty()

    def take_terminal():  # a session of its own, with this terminal
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    child = endless_run(
        fox, sys.executable, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal
    )
    os.close(theirs)
    with open(ours, errors="replace"):
        while "tok/s" not in os.read(ours, 1000).decode():
            pass
    assert child.wait(timeout=30) == 129
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] > 1


def test_evaluation_and_logging_change_no_weight(fox):
    flags = [f"--dataset={fox}", "--dropout=0.2", "--max_iters=20"]
    run(*flags, "--eval_interval=1000", "--out_dir=seldom")
    run(
        *flags,
        "--eval_interval=3",
        "--eval_iters=7",
        "--log_interval=1",
        "--max_sample_tokens=5",
        "--sample_every_eval",
        "--out_dir=often",
    )
    assert_same_training("seldom", "often")


def test_the_seed_decides_the_run(fox):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(
            f"--dataset={fox}",
            "--dropout=0.1",
            "--max_iters=5",
            f"--seed={seed}",
            f"--out_dir={name}",
        )
    assert_same_training("a", "b")
    a, c = (load_checkpoint(Path(name) / "ckpt.pt")["model"] for name in "ac")
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_accumulated_micro_batches_train_like_one_batch(fox):
    flags = [f"--dataset={fox}", "--max_iters=5", "--arch=gpt2", "--optimizer=adamw"]
    run(*flags, "--batch_size=8", "--out_dir=one")
    run(
        *flags,
        "--batch_size=2",
        "--gradient_accumulation_steps=4",
        "--eval_iters=8",
        "--out_dir=four",
    )
    one, four = log_rows("one")[-1], log_rows("four")[-1]
    assert float(one["batch_loss"]) == pytest.approx(float(four["batch_loss"]), abs=1e-3)
    assert float(one["val_loss"]) == pytest.approx(float(four["val_loss"]), abs=1e-3)


@pytest.mark.parametrize("compile", ["false", pytest.param("true", marks=pytest.mark.long)])
def test_30_steps_are_10_and_20_with_muon_bfloat16_and_growing_windows(fox, compile):
    flags = [
        f"--dataset={fox}",
        "--dtype=bfloat16",
        "--dropout=0.2",
        "--lr_decay_iters=30",
        "--first_block_size=4",
        "--sampling_method=without_replacement",
        f"--compile={compile}",
    ]
    run(*flags, "--max_iters=30", "--eval_interval=10", "--out_dir=whole")
    run(*flags, "--max_iters=10", "--out_dir=parts")
    resume("parts", "--max_iters=18")
    resume("parts", "--max_iters=30")
    assert_same_training("whole", "parts")


def test_growing_windows_are_the_windows_of_block_size_cut_up(fox, monkeypatch):
    """The same tokens, in the same order and with the same targets, in sequences of 4, then 8, then
    16."""
    seen = {}

    def record(name):
        forward = train.GPT.forward

        def recording(self, idx, targets=None, cache=None):
            if self.training:
                seen.setdefault(name, []).append((idx, targets))
            return forward(self, idx, targets, cache)

        monkeypatch.setattr(train.GPT, "forward", recording)
        return name

    for flags in ([], ["--first_block_size=4"]):
        with monkeypatch.context() as monkeypatch:
            run(f"--dataset={fox}", "--max_iters=8", f"--out_dir={record(len(flags))}", *flags)
    assert [tuple(x.shape) for x, _ in seen[1]] == [(16, 4)] * 4 + [(8, 8)] * 2 + [(4, 16)] * 2
    for whole, pieces in zip(seen[0], seen[1], strict=True):
        for a, b in zip(whole, pieces):
            assert torch.equal(a, b.reshape(a.shape))


def test_val_alone_is_evaluated_where_train_is_not_asked_for(fox, capsys):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=both")
    run(f"--dataset={fox}", "--max_iters=2", "--eval_train=false", "--out_dir=val")
    both, val = log_rows("both")[-1], log_rows("val")[-1]
    assert (
        val["val_loss"] == both["val_loss"]
        and (both["train_loss"] != "")
        and val["train_loss"] == ""
    )
    assert re.search(r"iteration 2: val loss [\d.]+ \(best\)", capsys.readouterr().out)
    assert_same_training("both", "val")


def test_a_run_whose_folder_was_moved_resumes_there(fox):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=here")
    os.rename("here", "there")
    resume("there", "--max_iters=4")
    assert (
        load_checkpoint(Path("there/ckpt.pt"))["args"]["out_dir"] == "there"
        and not Path("here").exists()
    )


def test_a_run_that_replaced_another_resumes(fox):
    for flags in ([], ["--overwrite"]):
        run(f"--dataset={fox}", "--max_iters=2", "--out_dir=out/x", *flags)
    resume("out/x", "--max_iters=4")
    assert load_checkpoint(Path("out/x/ckpt.pt"))["iter_num"] == 4


@pytest.mark.long
def test_a_run_begun_on_the_first_version_of_the_order_goes_on_with_it(tmp_path, capsys):
    """Checkpoints without order_version are of the version that cut the phase of
    without_replacement at block_size."""
    # 184 tokens of train in windows of 16: phases 0 to 15, or 0 to 23
    flags = [
        f"--dataset={char_dataset(tmp_path / 'short', TEXT[:205])}",
        "--sampling_method=without_replacement",
        "--lr_decay_iters=40",
    ]
    open_mixture = changes.open_mixture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "open_mixture", lambda args, version, past: open_mixture(
            args, 1, past))
        run(*flags, "--max_iters=40", "--out_dir=whole")
        run(*flags, "--max_iters=20", "--out_dir=old")
    old = load_checkpoint(Path("old/ckpt.pt"))
    del old["order_version"]
    torch.save(old, "old/ckpt.pt")
    shutil.copytree("old", "newer")
    resume("old", "--max_iters=30")
    assert load_checkpoint(Path("old/ckpt.pt"))["order_version"] == 1
    resume("old", "--max_iters=40")
    assert_same_training("whole", "old")
    run(*flags, "--max_iters=40", "--out_dir=new")
    assert load_checkpoint(Path("new/ckpt.pt"))["order_version"] == ORDER_VERSION
    assert log_rows("new")[-1]["batch_loss"] != log_rows("old")[-1]["batch_loss"]
    torch.save({**old, "order_version": 3}, "newer/ckpt.pt")
    go_on = ["--init_from=resume", "--out_dir=newer", "--max_iters=40"]
    line = one_line_error(capsys, train.main, go_on)
    assert "newer" in line and "version 3" in line


# ---- what a resume refuses


def test_a_resume_with_other_data_is_refused(tmp_path, capsys):
    folder = char_dataset(tmp_path / "fox")
    run(f"--dataset={folder}", "--max_iters=2", "--out_dir=x")
    before = Path("x/ckpt.pt").read_bytes()
    char_dataset(folder, TEXT.replace("brown", "green"))
    line = one_line_error(
        capsys, train.main, ["--init_from=resume", "--out_dir=x", "--max_iters=4"]
    )
    assert "fox " in line and "train.bin" in line and "changed" in line
    assert Path("x/ckpt.pt").read_bytes() == before
    char_dataset(folder)  # as it was
    resume("x", "--max_iters=4")


@pytest.mark.parametrize(
    "flag, was",
    [
        ("--block_size=8", 16),
        ("--sampling_method=sequential", "random"),
        ("--batch_size=5", 4),
        ("--n_layer=3", 2),
        ("--seed=3", 1337),
    ],
)
def test_a_resume_with_another_order_or_model_is_refused(fox, capsys, flag, was):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=x")
    line = one_line_error(
        capsys, train.main, ["--init_from=resume", "--out_dir=x", "--max_iters=4", flag]
    )
    assert "the run in x" in line and f"{flag.replace('=', ' ')} " in line and f" {was})" in line
    assert "--out_dir" in line


def test_a_complete_run_says_how_to_go_on(fox, capsys):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=x")
    log = Path("x/log.csv").read_bytes()
    line = one_line_error(capsys, train.main, ["--init_from=resume", "--out_dir=x"])
    assert "complete" in line and "2 of 2 iterations" in line and "--max_iters" in line
    assert Path("x/log.csv").read_bytes() == log


def test_a_resume_of_nothing_says_what_to_do(capsys):
    for flags, missing in ([], "out/"), (["--out_dir=none"], "none/ckpt.pt"):
        line = one_line_error(capsys, train.main, ["--init_from=resume", *flags])
        assert missing in line and "python train.py" in line and "--out_dir" in line


# ---- the run's folder


def test_each_run_gets_a_folder_of_its_own(fox):
    for _ in range(3):
        run(f"--dataset={fox}", "--max_iters=1")
    assert sorted(os.listdir("out")) == ["fox", "fox-2", "fox-3"]
    for name in os.listdir("out"):
        assert load_checkpoint(Path("out") / name / "ckpt.pt")["args"]["out_dir"] == f"out/{name}"
    resume_newest = ["--init_from=resume", "--max_iters=2"]
    train.main(resume_newest)
    assert [
        load_checkpoint(Path(f"out/{name}/ckpt.pt"))["iter_num"]
        for name in ("fox", "fox-2", "fox-3")
    ] == [1, 1, 2]


@pytest.mark.parametrize("dataset", ["./", "../fox/"])
def test_a_dataset_named_by_any_path_gives_its_name_to_the_run(tmp_path, monkeypatch, dataset):
    monkeypatch.chdir(char_dataset(tmp_path / "fox"))
    run(f"--dataset={dataset}", "--max_iters=1")
    assert os.listdir("out") == ["fox"]


def test_a_used_out_dir_is_refused_and_left_as_it_is(fox, capsys):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=used")
    before = {path.name: path.read_bytes() for path in Path("used").iterdir()}
    line = one_line_error(
        capsys, train.main, [*TINY, f"--dataset={fox}", "--max_iters=1", "--out_dir=used"]
    )
    assert "used " in line and "python train.py --init_from=resume --out_dir=used" in line
    assert "--overwrite" in line
    assert {path.name: path.read_bytes() for path in Path("used").iterdir()} == before


@pytest.mark.parametrize(
    "name, fact",
    [("ckpt.pt", "python train.py --init_from=resume --out_dir=copied"), ("best.pt", "no ckpt.pt")],
)
def test_an_out_dir_that_holds_only_a_checkpoint_is_refused_too(fox, name, fact, capsys):
    """A checkpoint copied there to resume from, say; it must not be deleted without --overwrite."""
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=used")
    Path("copied").mkdir()
    shutil.copy("used/ckpt.pt", f"copied/{name}")
    line = one_line_error(
        capsys, train.main, [*TINY, f"--dataset={fox}", "--max_iters=1", "--out_dir=copied"]
    )
    assert "copied " in line and fact in line and "--overwrite" in line
    assert Path(f"copied/{name}").read_bytes() == Path("used/ckpt.pt").read_bytes()


def test_overwrite_replaces_a_run_whole(fox, monkeypatch):
    run(f"--dataset={fox}", "--max_iters=6", "--eval_interval=2", "--out_dir=x")
    stop_at(
        monkeypatch, 1, *TINY, f"--dataset={fox}", "--max_iters=6", "--out_dir=x", "--overwrite"
    )
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] == 1
    assert not Path("x/best.pt").exists()  # that of the run before would be a lie
    assert [row["iter"] for row in log_rows("x")] == ["1"]


@pytest.mark.parametrize("flags", [["--init_from=resume", "--max_iters=9"], ["--overwrite"]])
def test_two_runs_in_one_folder_are_refused(fox, capsys, flags):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=x")
    before = {path.name: path.read_bytes() for path in Path("x").iterdir()}
    with lock(Path("x"), "train.py"):
        line = one_line_error(
            capsys,
            train.main,
            [*(TINY if "--overwrite" in flags else []), f"--dataset={fox}", "--out_dir=x", *flags],
        )
    assert "another train.py" in line and " x" in line
    assert {path.name: path.read_bytes() for path in Path("x").iterdir()} == before


def test_a_resume_reads_the_checkpoint_once_it_has_the_lock_and_not_before(
    fox, monkeypatch, capsys
):
    """Read before, it would be one that the run which has the lock still replaces: rows of log.csv
    would be lost."""
    run(
        f"--dataset={fox}", "--max_iters=2", "--lr_decay_iters=9", "--log_interval=1", "--out_dir=x"
    )
    Path("out").mkdir()
    Path("out/newest").symlink_to(Path("x").absolute())
    with lock(Path("x"), "train.py"), monkeypatch.context() as patch:
        patch.setattr(
            checkpoint, "load_checkpoint", lambda *args: pytest.fail("read without the lock")
        )
        for out_dir in ([], ["--out_dir=x"]):
            go_on = ["--init_from=resume", *out_dir, "--max_iters=5"]
            line = one_line_error(capsys, train.main, go_on)
            assert "another train.py" in line
    shutil.copytree("x", "later")
    resume("later", "--max_iters=4")

    @contextlib.contextmanager
    def lock_after_its_end(folder, holder):
        shutil.copytree("later", folder, dirs_exist_ok=True)  # what the other run has written
        with lock(folder, holder):
            yield

    monkeypatch.setattr(run_folder, "lock", lock_after_its_end)
    resume("x", "--max_iters=6")
    assert [row["iter"] for row in log_rows("x")] == list("123456")
    starts = json.loads(Path("x/args.json").read_text())["starts"]
    assert [start["iter"] for start in starts] == [0, 2, 4]


def test_a_running_run_can_be_looked_at_by_plan_eval_only_and_sample(fox):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=x")
    before = {path.name: path.read_bytes() for path in Path("x").iterdir()}
    with lock(Path("x"), "train.py"):
        resume("x", "--eval_only")
        resume("x", "--plan", "--max_iters=3")
        sample.main(["--out_dir=x", "--max_new_tokens=2", "--device=cpu"])
    assert {path.name: path.read_bytes() for path in Path("x").iterdir()} == before


def test_a_run_that_has_begun_and_ended_in_the_folder_meanwhile_is_not_written_over(
    fox, monkeypatch, capsys
):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=other")

    @contextlib.contextmanager
    def lock_after_its_end(folder, holder):
        shutil.copytree("other", folder, dirs_exist_ok=True)
        yield

    monkeypatch.setattr(run_folder, "lock", lock_after_its_end)
    flags = [*TINY, f"--dataset={fox}", "--max_iters=1", "--out_dir=x"]
    assert "x holds a run" in one_line_error(capsys, train.main, flags)
    assert Path("x/ckpt.pt").read_bytes() == Path("other/ckpt.pt").read_bytes()


def test_ranks_that_look_at_a_running_run_go_by_one_checkpoint(monkeypatch):
    read = iter([{"iter_num": 5}, {"iter_num": 7}])
    monkeypatch.setattr(checkpoint, "load_checkpoint", lambda *args: next(read))

    monkeypatch.setattr(checkpoint, "config_of", lambda *args: None)
    ranks = Ranks("cpu")
    ranks.all_have = lambda iter_num: iter_num == 7  # which the other rank has read
    assert checkpoint.load_same_checkpoint(Path("x"), ranks) == {"iter_num": 7}


def test_eval_only_writes_nothing(fox, capsys):
    run(f"--dataset={fox}", "--eval_only")
    assert re.search(
        r"^iteration 0: train loss 3\.\d+, val loss 3\.\d+$", capsys.readouterr().out, re.M
    )
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "flags", [[], ["--first_block_size=4", "--lr_decay_iters=8"]]
)  # windows grow at iteration 4
def test_eval_only_of_a_run_gives_the_losses_it_logged_and_changes_nothing(fox, capsys, flags):
    run(f"--dataset={fox}", "--max_iters=4", "--out_dir=x", *flags)
    before = {path.name: path.read_bytes() for path in Path("x").iterdir()}
    logged = re.search(r"iteration 4: (train loss \S+, val loss \S+)", capsys.readouterr().out)[1]
    resume("x", "--eval_only")
    assert f"iteration 4: {logged}" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in Path("x").iterdir()} == before


# ---- checkpoints


def test_best_and_last_checkpoint_are_what_their_names_say(fox, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    monkeypatch.setattr(
        train,
        "estimate_loss",
        lambda *a, **k: dict.fromkeys(("train", "val"), np.array([next(losses)])),
    )

    def state():
        held = [load_checkpoint(Path(f"x/{name}.pt")) for name in ("best", "ckpt")]
        return [(c["iter_num"], c["best_val_loss"]) for c in held]

    flags = ["--eval_interval=10", "--lr_decay_iters=50"]
    run(f"--dataset={fox}", "--max_iters=30", "--out_dir=x", *flags)
    assert state() == [(20, 1.0), (30, 1.0)]
    resume("x", "--max_iters=40")
    assert state() == [
        (20, 1.0),
        (40, 1.0),
    ]  # 1.5 is not the best, though it is the resumed run's first
    resume("x", "--max_iters=50")
    assert state() == [(50, 0.5), (50, 0.5)]


def test_a_checkpoint_holds_plain_values_and_no_temporary_file_stays(fox):
    run(f"--dataset={fox}", "--max_iters=4", "--eval_interval=2", "--out_dir=x")
    assert sorted(os.listdir("x")) == [
        ".train.py.lock",
        "args.json",
        "best.pt",
        "ckpt.pt",
        "log.csv",
    ]
    for name in ("best.pt", "ckpt.pt"):
        assert {
            "model",
            "optimizer",
            "scaler",
            "iter_num",
            "best_val_loss",
            "args",
            "metas",
            "data",
        } <= set(torch.load(f"x/{name}", weights_only=True))


@pytest.mark.parametrize(
    "make", ["pickle", "old pickle", "torch", "truncated", "empty", "text", "other"]
)
def test_a_hostile_or_damaged_checkpoint_runs_nothing_and_is_one_line(fox, make, capsys):
    class Hostile:
        def __reduce__(self):
            return os.system, ("touch ran",)

    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=x")
    path, good = Path("x/ckpt.pt"), Path("x/ckpt.pt").read_bytes()
    if make == "torch":
        torch.save({**load_checkpoint(path), "iter_num": Hostile()}, path)
    elif make == "other":
        torch.save({"model": {}, "iter_num": 2}, path)
    else:
        path.write_bytes(
            {
                "pickle": pickle.dumps(Hostile(), protocol=4),
                "old pickle": pickle.dumps(Hostile(), protocol=0),
                "truncated": good[: len(good) // 2],
                "empty": b"",
                "text": b"hello\n",
            }[make]
        )
    line = one_line_error(
        capsys, train.main, ["--init_from=resume", "--out_dir=x", "--max_iters=4"]
    )
    assert "x/ckpt.pt" in line and ("model_args" if make == "other" else "damaged") in line
    assert not Path("ran").exists()


def test_a_checkpoint_damaged_anywhere_is_one_line_or_loads(fox):
    """One byte changed or the end cut off: UserError or a whole dict, never another exception."""
    run(f"--dataset={fox}", "--max_iters=1", "--out_dir=x", "--n_layer=1")
    path, good, rng = Path("x/ckpt.pt"), Path("x/ckpt.pt").read_bytes(), random.Random(0)
    for i in range(150):
        at = rng.choice(
            (rng.randrange(len(good)), rng.randrange(3000), len(good) - 1 - rng.randrange(3000))
        )
        path.write_bytes(
            good[:at] if i % 3 == 0 else good[:at] + bytes([good[at] ^ 1 << i % 8]) + good[at + 1 :]
        )
        try:
            assert load_checkpoint(path)["args"]
        except UserError as error:
            assert "x/ckpt.pt" in str(error)


# ---- killed, or the disk full


def small_state(n):
    return {
        "model": {"w": torch.full((3000,), float(n))},
        "model_args": {},
        "args": {},
        "metas": {},
        "iter_num": n,
    }


def states(folder):
    """(iter_num of ckpt.pt, of best.pt), None where absent; each must be whole."""
    found = []
    for path in (Path(folder) / "ckpt.pt", Path(folder) / "best.pt"):
        checkpoint = load_checkpoint(path) if path.exists() else None
        found.append(checkpoint and checkpoint["iter_num"])
        assert checkpoint is None or (checkpoint["model"]["w"] == checkpoint["iter_num"]).all()
    return tuple(found)


def save_and_die(folder, number, is_best, name, after):
    """In a child process: save, and die at call `number` of os.<name>, before or after it. Whether
    it came to that."""
    pid = os.fork()
    if not pid:
        plain, calls = getattr(os, name), [0]

        def deadly(*args, **kw):
            calls[0] += 1
            if calls[0] == number and not after:
                os._exit(9)
            value = plain(*args, **kw)
            if calls[0] == number:
                os._exit(9)
            return value

        setattr(os, name, deadly)
        try:
            save_checkpoint(Path(folder), small_state(2), is_best)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


@pytest.mark.parametrize("name", ["ckpt.pt", "best.pt"])
def test_windows_waits_for_a_program_that_reads_the_checkpoint(tmp_path, monkeypatch, name):
    """There a file that is open cannot be replaced; a patched os.replace() stands for it."""
    save_checkpoint(tmp_path, small_state(1), True)
    refused, plain = [0], os.replace

    def replace(old, new):
        if Path(new).name == name and refused[0] < 3:
            refused[0] += 1
            raise PermissionError(13, "Access is denied", str(new))
        plain(old, new)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError):  # elsewhere a refusal is final
        save_checkpoint(tmp_path, small_state(2), True)
    for module in ("pipeline.files", "training.checkpoint"):
        monkeypatch.setattr(f"{module}.os", types.SimpleNamespace(**{**vars(os), "name": "nt"}))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    refused[0] = 0
    sys.modules["pipeline.files"].os.replace = replace
    save_checkpoint(tmp_path, small_state(3), True)
    assert refused[0] == 3 and states(tmp_path) == (3, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("is_best", [False, True])
@pytest.mark.parametrize("had_one", mostly_long([True, False]))
def test_a_kill_at_any_step_of_saving_leaves_whole_checkpoints(tmp_path, is_best, had_one):
    died = 0
    for name in ("replace", "link", "fsync"):
        for number in range(1, 4):
            for after in (False, True):
                folder = tmp_path / f"{name}-{number}-{after}"
                folder.mkdir()
                if had_one:
                    save_checkpoint(folder, small_state(1), True)
                old = 1 if had_one else None
                died += save_and_die(folder, number, is_best, name, after)
                ckpt, best = states(folder)
                assert ckpt in (old, 2) and best in ((old, 2) if is_best else (old,))
                save_checkpoint(
                    folder, small_state(3), True
                )  # what was left behind is in nobody's way
                assert states(folder) == (3, 3) and sorted(os.listdir(folder)) == [
                    "best.pt",
                    "ckpt.pt",
                ]
    assert died >= 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_second_kill_while_saving_leaves_the_best_checkpoint_whole(tmp_path):
    """After a kill between the two renames best.pt and the file that was to become ckpt.pt are one
    on the disk."""
    save_checkpoint(tmp_path, small_state(1), True)
    assert save_and_die(tmp_path, 1, True, "replace", after=True)
    assert states(tmp_path) == (1, 2)
    if not (pid := os.fork()):

        def save_half(state, file):
            file.write(bytes(1000))
            file.flush()
            os._exit(9)

        torch.save = save_half
        save_checkpoint(tmp_path, small_state(3), False)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert states(tmp_path) == (1, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b",", b";"),
        lambda raw: b"\xef\xbb\xbf" + raw,
        lambda raw: raw.decode().encode("utf-16"),
    ],
)
def test_a_log_that_a_spreadsheet_has_saved_is_one_line_and_kept(fox, capsys, change):
    run(f"--dataset={fox}", "--max_iters=1", "--out_dir=x")
    Path("x/log.csv").write_bytes(raw := change(Path("x/log.csv").read_bytes()))
    line = one_line_error(
        capsys, train.main, ["--init_from=resume", "--out_dir=x", "--max_iters=2"]
    )
    assert "x/log.csv" in line and "commas" in line and "UTF-8" in line
    Path("x/log.csv").rename("x/moved.csv")
    assert Path("x/moved.csv").read_bytes() == raw
    resume("x", "--max_iters=2")


@pytest.mark.parametrize("step", ["before the checkpoint", "after the checkpoint"])
def test_log_rows_are_there_once_each_after_a_kill_and_a_resume(fox, monkeypatch, step):
    flags = [f"--dataset={fox}", "--max_iters=20", "--eval_interval=5", "--log_interval=2"]
    run(*flags, "--out_dir=whole")

    class Killed(BaseException):
        pass

    def save_and_die(out_dir, state, is_best):
        if state["iter_num"] == 10 and step == "before the checkpoint":
            raise Killed
        save_checkpoint(out_dir, state, is_best)
        if state["iter_num"] == 10:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save_checkpoint", save_and_die)
        run(*flags, "--out_dir=killed")
    with (
        monkeypatch.context() as patch,
        pytest.raises(Killed),
    ):  # and while the resumed run is past its last checkpoint

        def die():
            raise Killed

        at_batch(patch, 4, die)
        resume("killed")
    resume("killed")
    assert [row["iter"] for row in log_rows("whole")] == "2 4 5 6 8 10 12 14 15 16 18 20".split()
    killed, whole = (
        [
            (row["iter"], row["train_loss"], row["val_loss"], row["learning_rate"])
            for row in log_rows(name)
        ]
        for name in ("killed", "whole")
    )
    assert killed == whole


def test_a_kill_while_the_log_is_trimmed_loses_no_row(fox, monkeypatch):
    run(
        f"--dataset={fox}", "--max_iters=4", "--log_interval=1", "--lr_decay_iters=9", "--out_dir=x"
    )
    before = log_rows("x")

    class Killed(BaseException):
        pass

    def die(*a):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("csv.DictWriter.writerows", die)
        resume("x", "--max_iters=6")
    resume("x", "--max_iters=6")
    assert log_rows("x")[:4] == before and [row["iter"] for row in log_rows("x")] == list("123456")


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_a_run_killed_40_times_ends_as_if_it_had_not_been(fox, tmp_path):
    """kill -9 at random moments, of a run that saves all the time; its checkpoints are whole after
    each."""
    rng, kills, out_dir = random.Random(7), 0, tmp_path / "killed"
    flags = [
        *TINY,
        f"--dataset={fox}",
        "--dropout=0.2",
        "--max_iters=6000",
        "--eval_interval=2",
        "--eval_iters=1",
        "--log_interval=1",
    ]
    go_on = ["--init_from=resume", f"--out_dir={out_dir}"]
    while kills < 40:
        first = not (out_dir / "ckpt.pt").exists()
        child = subprocess.Popen(
            [
                sys.executable,
                "train.py",
                *([*flags, f"--out_dir={out_dir}", "--overwrite"] if first else go_on),
            ],
            cwd=ROOT,
            env=child_env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while not (line := child.stdout.readline()).startswith("run "):
            assert line, "the run ended: too fast for 40 kills, or in error"
        time.sleep(rng.uniform(0.02, 0.4))
        child.kill()
        assert child.wait() == -signal.SIGKILL, child.stdout.read()
        child.stdout.close()
        kills += 1
        for path in (out_dir / "ckpt.pt", out_dir / "best.pt"):
            assert not path.exists() or load_checkpoint(path)["model"]
    reached = load_checkpoint(out_dir / "ckpt.pt")["iter_num"]
    assert reached > 40
    resume(out_dir, f"--max_iters={reached + 10}", "--lr_decay_iters=6000")
    run(
        *flags,
        f"--max_iters={reached + 10}",
        "--lr_decay_iters=6000",
        "--out_dir=whole",
        "--eval_interval=100000",
    )
    assert_same_training("whole", out_dir)
    assert [row["iter"] for row in log_rows(out_dir)] == [str(i) for i in range(1, reached + 11)]


class FullDisk:
    """A file on a disk with room for so many bytes; late: the system says so only when they are
    flushed."""

    def __init__(self, file, room, late):
        self.file, self.room, self.late = file, room, late

    def write(self, raw):
        self.room -= len(raw)
        if not self.late:
            self.flush()
        return self.file.write(raw)

    def flush(self):
        if self.room < 0:
            raise OSError(28, "No space left on device")
        self.file.flush()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.file.close()
        self.flush()


@pytest.mark.parametrize("room, late", [(0, False), (100, False), (20_000, False), (20_000, True)])
def test_a_full_disk_while_saving_leaves_the_old_checkpoint_and_is_one_line(
    fox, monkeypatch, capsys, room, late
):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=x")
    before = {name: Path(f"x/{name}").read_bytes() for name in ("ckpt.pt", "best.pt")}

    def full(path, mode):
        return FullDisk(open(path, mode), room, late) if "ckpt" in str(path) else open(path, mode)

    monkeypatch.setattr("pipeline.files.open", full, raising=False)
    line = one_line_error(
        capsys, train.main, ["--init_from=resume", "--out_dir=x", "--max_iters=4"]
    )
    assert "x/ckpt.pt" in line and "disk" in line and "full" in line
    assert {name: Path(f"x/{name}").read_bytes() for name in ("ckpt.pt", "best.pt")} == before
    assert not list(Path("x").glob("*.tmp"))


def test_a_file_size_limit_of_the_system_leaves_the_old_checkpoint_and_is_one_line(fox, capsys):
    resource = pytest.importorskip("resource")
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=x")
    before = Path("x/ckpt.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        line = one_line_error(
            capsys, train.main, ["--init_from=resume", "--out_dir=x", "--max_iters=4"]
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "x/ckpt.pt" in line
    assert Path("x/ckpt.pt").read_bytes() == before and not list(Path("x").glob("*.tmp"))


# ---- a loss that is not finite


@pytest.mark.parametrize(
    "kind", [["--learning_rate=1e38"], [*GPT2, "--learning_rate=1e30"]], ids=["modern", "gpt2"]
)
def test_a_loss_that_is_not_finite_stops_the_run_with_the_iteration(fox, capsys, kind):
    line = one_line_error(
        capsys,
        train.main,
        [
            *TINY,
            f"--dataset={fox}",
            "--warmup_iters=0",
            "--max_iters=50",
            "--log_interval=5",
            "--out_dir=x",
            *kind,
        ],
    )
    found = re.search(r"infinite or NaN since iteration (\d+) in x\..* learning rates", line)
    assert 1 <= int(found[1]) <= 10
    assert not Path("x/ckpt.pt").exists()


@pytest.mark.parametrize("eval_interval", [100, 1])
def test_the_last_good_checkpoint_outlives_a_loss_that_is_not_finite(fox, eval_interval, capsys):
    """With an evaluation right after the step that spoilt the weights, too: then the last loss was
    still a number."""
    run(f"--dataset={fox}", "--max_iters=4", "--warmup_iters=0", "--out_dir=x")
    line = one_line_error(
        capsys,
        train.main,
        [
            "--init_from=resume",
            "--out_dir=x",
            "--max_iters=40",
            "--learning_rate=1e38",
            "--lr_schedule=constant",
            f"--eval_interval={eval_interval}",
        ],
    )
    assert "infinite or NaN" in line or "not finite" in line
    assert re.search(r"iteration \d+", line) and "kept" in line
    for name in ("ckpt.pt", "best.pt"):
        assert all(
            w.isfinite().all() for w in load_checkpoint(Path(f"x/{name}"))["model"].values()
        ), name
    if eval_interval == 100:
        resume("x", "--max_iters=6", "--learning_rate=1e-3")


# ---- what a run prints and logs


def test_progress_lines_are_plain_and_at_most_80_columns_when_not_on_a_terminal(fox, capsys):
    run(
        f"--dataset={fox}", "--max_iters=12", "--eval_interval=5", "--log_interval=4", "--out_dir=x"
    )
    out, err = capsys.readouterr()
    assert err == "" and "\r" not in out and "\x1b" not in out
    lines = [line for line in out.splitlines() if re.match(r"\d+/12 ", line)]
    assert [int(line.split("/")[0]) for line in lines] == [4, 5, 8, 10, 12]
    for line in lines:
        assert re.fullmatch(
            r"\d+/12  loss \d\.\d{4}  best (-|\d\.\d+)  \S+ tok/s  wait \d+\.\d%  ETA \d+:\d\d",
            line,
        )
    evaluations = [line for line in out.splitlines() if line.startswith("iteration ")]
    assert [line.split(": train loss ")[0] for line in evaluations] == [
        "iteration 5",
        "iteration 10",
        "iteration 12",
    ]
    assert all(len(line) <= 80 for line in lines + evaluations)


def test_on_a_terminal_the_progress_line_is_rewritten_in_place(fox, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run(f"--dataset={fox}", "--max_iters=6", "--log_interval=2", "--out_dir=x")
    out = capsys.readouterr().out
    pieces = [piece for piece in out.split("\r") if re.match(r"\d+/6 ", piece)]
    assert len(pieces) == 3 and all(len(piece) <= 79 and "\n" not in piece for piece in pieces)


@pytest.mark.parametrize("columns", [9, 30, 45, 60, 80, 200])
def test_the_progress_line_fits_the_terminal_and_leaves_nothing_behind(
        tmp_path, capsys, monkeypatch, columns):
    """What a terminal shows after each write, by carriage returns and overwriting."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    log = run_log(tmp_path)
    row = dict(iter=123_456, batch_loss=4.5678, tokens_per_s=3e6, data_wait=0.123)
    shown = ""

    def written():
        nonlocal shown
        text = capsys.readouterr().out
        for part in text.split("\n")[0].split("\r"):
            shown = part + shown[len(part):]
        assert len(shown) < max(columns, 13)  # a line of a message may be longer than the terminal
        return shown
    log.progress(row, 3.25, 999_999, 36_000)
    long = written()
    assert long.startswith("123456/999999"[:columns - 1])
    assert ("ETA 10:00:00" in long, "best 3.25" in long, "wait" in long) == (
        columns >= 45, columns >= 60, columns >= 80)
    log.progress(row | dict(iter=7), 3.25, 9, 5)
    short = written()
    assert short.startswith("7/9  loss"[:columns - 1])
    assert "ETA" not in short or short.rstrip().endswith("ETA 0:05")
    log.line("done")
    assert written().rstrip() == "done"


@pytest.mark.parametrize("iters", [1, 999_999])
@pytest.mark.parametrize("loss", [0.00001, 10.82541, 1234.5])
def test_the_progress_line_fits_80_columns_with_large_numbers_too(tmp_path, capsys, iters, loss):
    log = run_log(tmp_path)
    for rate in (0.51, 999.4, 99_950, 999_499, 12.34e6, 7.89e9):
        for wait in (0.0, 0.123, 1.0):
            for best in (float("inf"), loss):
                row = {"iter": iters, "batch_loss": loss, "tokens_per_s": rate, "data_wait": wait}
                log.progress(row, best, iters, 999 * 3600 + 3599)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 36 and max(map(len, lines)) <= 80
    log.file.close()


def test_log_csv_has_a_row_a_look_and_losses_where_evaluated(fox):
    run(
        f"--dataset={fox}",
        "--max_iters=10",
        "--eval_interval=5",
        "--log_interval=2",
        "--out_dir=x",
        "--warmup_iters=0",
        "--lr_schedule=constant",
        "--learning_rate=0.005",
    )
    rows = log_rows("x")
    assert list(rows[0]) == [
        "iter",
        "tokens",
        "train_loss",
        "val_loss",
        "train_bits_per_byte",
        "val_bits_per_byte",
        "batch_loss",
        "learning_rate",
        "tokens_per_s",
        "mfu",
        "data_wait",
        "seconds",
    ]
    assert [
        (row["iter"], row["tokens"], bool(row["val_loss"]), bool(row["train_loss"])) for row in rows
    ] == [
        (i, str(int(i) * 64), evaluated, evaluated)
        for i, evaluated in (
            ("2", False),
            ("4", False),
            ("5", True),
            ("6", False),
            ("8", False),
            ("10", True),
        )
    ]
    assert {row["learning_rate"] for row in rows} == {"0.005"}
    assert float(rows[-1]["seconds"]) >= float(rows[0]["seconds"]) > 0
    assert float(rows[-1]["val_loss"]) == pytest.approx(
        load_checkpoint(Path("x/ckpt.pt"))["best_val_loss"], rel=1e-4
    )


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B300 SXM6 AC", 2250e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("Tesla T4", 65e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 5090", 209e12),
        ("NVIDIA GeForce RTX 4090 D", 147e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX A4000", None),
    ],
)
def test_mfu_is_given_for_gpus_whose_peak_is_known_and_for_no_other(monkeypatch, name, peak):
    """6 FLOPs a parameter and token in products, and attention's 12 * n_layer * n_embd *
    block_size."""
    model = train.GPT(
        train.GPTConfig(
            arch="gpt2", n_layer=2, n_head=2, n_kv_head=2, n_embd=64, block_size=32, vocab_size=128
        )
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    flops = (
        6 * sum(p.numel() for n, p in model.named_parameters() if "wpe" not in n) + 12 * 2 * 64 * 32
    )
    ranks = types.SimpleNamespace(device=torch.device("cuda"), count=2)
    mfu = estimate_mfu(model, 1e6, ranks)
    assert mfu is None if peak is None else mfu == pytest.approx(flops * 1e6 / (2 * peak))
    assert estimate_mfu(model, 1e6, Ranks("cpu")) is None


def test_the_clock_of_a_resumed_run_goes_on(fox):
    run(
        f"--dataset={fox}", "--max_iters=4", "--log_interval=1", "--out_dir=x", "--lr_decay_iters=8"
    )
    resume("x", "--max_iters=8")
    seconds = [float(row["seconds"]) for row in log_rows("x")]
    assert seconds == sorted(seconds)


def test_a_run_ends_with_a_sample_of_the_asked_length(fox, capsys):
    run(f"--dataset={fox}", "--max_iters=3", "--max_sample_tokens=25", "--out_dir=x")
    out = capsys.readouterr().out
    done = re.search(
        r"^done in 0:0\d: best val loss \d\.\d{4}\..* python sample\.py --out_dir=x\n\n", out, re.M
    )
    assert len(out[done.end() :]) == 25 + 1  # the tokens, the newline of print


def test_a_run_on_ids_that_nothing_can_turn_into_text_ends_well(tmp_path):
    """The folder of another program may hold no itos; then there is no sample, and that is no
    failure of training."""
    folder = tmp_path / "ids"
    folder.mkdir()
    for split in ("train", "val"):
        np.arange(600, dtype=np.uint16).tofile(folder / f"{split}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 600}))
    run(f"--dataset={folder}", "--max_iters=2", "--max_sample_tokens=5", "--out_dir=x")
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] == 2


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_splits_of_exactly_one_window_train(tmp_path, method):
    run(
        f"--dataset={arange_dataset(tmp_path / 'one', 17, 17)}",
        f"--sampling_method={method}",
        "--max_iters=3",
        "--batch_size=3",
        "--out_dir=x",
    )
    assert len(log_rows("x")) == 1


# ---- refusals before the first step


def test_a_split_shorter_than_a_window_names_both_numbers(tmp_path, capsys):
    folder = arange_dataset(tmp_path / "short", 500, 16)
    line = one_line_error(capsys, train.main, [*TINY, f"--dataset={folder}"])
    assert all(
        fact in line for fact in ("short/val.bin", "16 tokens", "17", "--block_size 15", "-p")
    )
    line = one_line_error(capsys, train.main, [*TINY, f"--dataset={folder}", "--block_size=500"])
    assert all(
        fact in line for fact in ("short/val.bin", "16 tokens", "501", "--block_size 15")
    )
    assert not Path("out").exists()


@pytest.mark.parametrize("sizes", [[(54, 6)], [(7, 2)], [(2, 2)], [(3, 40)], [(1, 9)], [(90, 12),
                                   (60, 3)], [(5, 70), (64, 8), (9, 9)], [(1, 1), (300, 30)]])
def test_the_block_size_that_a_message_advises_trains_and_evaluates(tmp_path, capsys, sizes):
    """The smallest of all splits decides. Where none fits, no block_size is advised."""
    for i, (train_tokens, val_tokens) in enumerate(sizes):
        arange_dataset(tmp_path / str(i), train_tokens, val_tokens, vocab_size=400)
    names = [f"{tmp_path}/{i}" for i in range(len(sizes))]
    flags = [f"--dataset={names[0]}"] if len(sizes) == 1 else [
        "--training_mode=multidataset", "--dataset_list", *names]
    flags += ["--n_layer=1", "--max_iters=2", "--eval_interval=1"]
    line = one_line_error(capsys, train.main, [*TINY, *flags, "--block_size=64"])
    advised = re.search(r"--block_size (\d+)", line)
    assert (advised is None) == (min(map(min, sizes)) < 2)
    if advised:
        run(*flags, advised[0].replace(" ", "="), "--out_dir=x")
        assert len(log_rows("x")) == 2 and all(row["val_loss"] for row in log_rows("x"))
        larger = f"--block_size={int(advised[1]) + 1}"
        assert advised[0] in one_line_error(capsys, train.main, [*TINY, *flags, larger])


def test_a_folder_in_which_a_run_ended_before_its_first_line_is_free(fox, capsys):
    """So that what a message says to change, such as --compile=false, can be typed there."""
    Path("x").mkdir()
    for text in ("", "iter,tokens\n"):
        Path("x/log.csv").write_text(text)
        run(f"--dataset={fox}", "--max_iters=1", "--log_interval=1", "--out_dir=x")
        Path("x/ckpt.pt").unlink()
        Path("x/best.pt").unlink()
        line = one_line_error(capsys, train.main, [*TINY, f"--dataset={fox}", "--out_dir=x"])
        assert "x holds a run" in line


def test_a_run_whose_data_has_moved_is_told_how_to_name_its_place(tmp_path, fox, capsys):
    data = char_dataset(tmp_path / "here")
    run(f"--dataset={data}", "--max_iters=2", "--out_dir=x")
    data.rename(tmp_path / "there")
    more = ["--init_from=resume", "--out_dir=x", "--max_iters=3"]
    line = one_line_error(capsys, train.main, more)
    assert all(fact in line for fact in ("here not found", " x ", "--dataset /PATH",
                                         "ln -s /PATH here")), line
    assert "create_new_dataset" not in line
    line = one_line_error(capsys, audit.main, ["--out_dir=x", "--iter=1"])
    assert "ln -s /PATH here" in line and "--dataset" not in line
    train.main([*more, "--dataset", str(tmp_path / "there")])
    data.symlink_to(tmp_path / "there")
    audit.main(["--out_dir=x", "--iter=1"])
    # of a mixture, the member that is missing is marked
    run("--training_mode=multidataset", "--dataset_list", data, fox, "--max_iters=2", "--out_dir=y")
    data.unlink()
    line = one_line_error(capsys, train.main, ["--init_from=resume", "--out_dir=y"])
    assert f"--dataset_list /PATH {fox}" in line


# ---- --compile


@pytest.mark.parametrize("platform, name, install", [
    ("linux", "g++", "apt install g++"), ("darwin", "clang++", "xcode-select --install"),
    ("win32", "cl", "Build Tools")])
def test_without_a_compiler_compile_is_refused_by_name(fox, capsys, monkeypatch, platform, name,
                                                       install):
    monkeypatch.setattr("training.device.sys", types.SimpleNamespace(platform=platform))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    line = one_line_error(capsys, train.main, [*TINY, f"--dataset={fox}", "--compile"])
    assert all(fact in line for fact in (f"'{name}'", install, "CXX", "--compile=false"))
    monkeypatch.setenv("CXX", "/nowhere/g++-99")
    line = one_line_error(capsys, train.main, [*TINY, f"--dataset={fox}", "--compile=true"])
    assert "'/nowhere/g++-99'" in line


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.parametrize("script, told", [
    ("exit 1", "No working C++ compiler"),
    ('case "$*" in *--version*) exec g++ --version;; esac; '
     'echo "x.cpp:2:10: fatal error: Python.h: No such file" >&2; exit 1', "Python.h")])
def test_a_compiler_that_does_not_work_is_one_line(tmp_path, fox, script, told):
    broken = tmp_path / "broken"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    child = python("train.py", *TINY, f"--dataset={fox}", "--max_iters=2", "--compile",
                   f"--out_dir={tmp_path}/x", CXX=str(broken),
                   TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    last = child.stderr.splitlines()[-1]
    assert child.returncode == 2 and last.startswith("error: torch.compile failed: ")
    assert all(fact in last for fact in (told, "--compile=false", "g++"))
    assert "Traceback" not in child.stderr


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--device=tpu", "--device tpu"),
        ("--dtype=float16", "--dtype float16 needs a CUDA GPU"),
        ("--dataset=no/such", "no/such not found"),
        pytest.param(
            "--device=cuda",
            "--device cuda",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_folder_is_made(fox, capsys, flag, message):
    assert message in one_line_error(capsys, train.main, [*TINY, f"--dataset={fox}", flag])
    assert not Path("out").exists()


def test_an_id_beyond_the_vocabulary_met_in_training_names_file_and_position(tmp_path, capsys):
    folder = char_dataset(tmp_path / "fox")
    ids = np.fromfile(folder / "train.bin", dtype="<u2")
    ids[40] = 999
    ids.tofile(folder / "train.bin")
    line = one_line_error(
        capsys, train.main, [*TINY, f"--dataset={folder}", "--sampling_method=sequential"]
    )
    assert all(fact in line for fact in ("fox/train.bin", "position 40", "999", "vocab_size 29"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bin_that_is_cut_while_a_run_trains_is_one_line_and_the_run_goes_on_once_it_is_back(
    tmp_path, monkeypatch, capsys, split
):
    folder = char_dataset(tmp_path / "fox")
    whole = (folder / f"{split}.bin").read_bytes()
    monkeypatch.setattr(
        "pipeline.read.batches.TOKENS_AT_ONCE", 64
    )  # read no further ahead than a batch
    flags = [*TINY, f"--dataset={folder}", "--max_iters=20", "--eval_interval=4", "--out_dir=x"]
    with monkeypatch.context() as patch:
        at_batch(patch, 7, lambda: os.truncate(folder / f"{split}.bin", 1000))
        line = one_line_error(capsys, train.main, flags)
    facts = (f"fox/{split}.bin", "1,000 bytes", f"{len(whole):,}", "fox/prepare.py")
    assert all(fact in line for fact in facts)
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] == 4
    (folder / f"{split}.bin").write_bytes(whole)
    resume("x")
    run(*flags, "--out_dir=whole")
    assert_same_training("x", "whole")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nMore"),
        np.empty,
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
            "allocate memory: you tried to allocate 9"
        ),
    ],
)
def test_a_run_too_large_for_the_memory_is_one_line_that_says_what_to_lower(
    fox, monkeypatch, capsys, error
):
    def too_large(*a):
        if error is np.empty:
            np.empty(1 << 60, np.uint8)
        raise error

    monkeypatch.setattr(train, "train_step", too_large)
    line = one_line_error(capsys, train.main, [*TINY, f"--dataset={fox}", "--max_iters=1"])
    assert re.search(
        r"out of memory on cpu: .*allocate .*--batch_size.*--gradient_accumulation_steps", line
    )


def test_the_command_line_shows_one_line_and_exits_with_2(tmp_path):
    child = python(ROOT / "train.py", "--dataset=none", cwd=tmp_path)
    assert child.returncode == 2 and "none not found. " in only_line(child.stderr)


# ---- learning


@pytest.mark.parametrize("kind", [["--muon_learning_rate=0.02"], GPT2], ids=["modern", "gpt2"])
def test_a_gpt_learns_an_easy_text_in_200_steps(fox, kind):
    run(
        f"--dataset={fox}",
        "--max_iters=200",
        "--eval_iters=10",
        "--warmup_iters=10",
        "--batch_size=16",
        "--out_dir=x",
        "--learning_rate=0.01",
        *kind,
    )
    assert (
        float(log_rows("x")[-1]["val_loss"]) < 0.5
    )  # ln(29) is 3.4; where a sentence begins in a window is not known


def test_a_gpt_cannot_learn_random_tokens(tmp_path):
    """No future token leaks: on noise the loss stays at the entropy, ln(8)."""
    letters = np.random.default_rng(0).choice(list("abcdefgh"), 40_000)
    folder = char_dataset(tmp_path / "noise", "".join(letters))
    run(
        f"--dataset={folder}",
        "--max_iters=100",
        "--eval_iters=50",
        "--batch_size=16",
        "--out_dir=x",
    )
    assert 2.05 < float(log_rows("x")[-1]["val_loss"]) < 2.2  # ln(8) = 2.079


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_learning_rate_warms_up_from_above_zero_stays_and_falls(schedule):
    args = parse_args(
        [
            f"--lr_schedule={schedule}",
            "--warmup_iters=10",
            "--decay_share=0.5",
            "--max_iters=100",
            "--min_lr_share=0.1",
        ]
    )
    shares = [lr_fraction(i, args) for i in range(101)]
    assert (
        shares[0] > 0 and np.allclose(np.diff(shares[:11]), 1 / 11) and shares[10:51] == [1.0] * 41
    )
    if schedule == "constant":
        assert shares[50:] == [1.0] * 51
    else:
        assert (np.diff(shares[50:]) < 0).all() and shares[100] == pytest.approx(0.1)
        assert shares[75] == pytest.approx(0.55)  # half way, on both curves
        quarter = 0.775 if schedule == "linear" else 0.1 + 0.9 * (2 + 2**0.5) / 4
        assert shares[62] < quarter + 0.02 and (shares[62] + shares[63]) / 2 == pytest.approx(
            quarter, abs=1e-3
        )
    args.lr_decay_iters = 50
    assert lr_fraction(80, args) == (1.0 if schedule == "constant" else pytest.approx(0.1))


def test_windows_grow_by_doubling_over_the_second_half():
    args = parse_args(["--block_size=256", "--first_block_size=64", "--max_iters=8"])
    assert [block_size_at(i, args) for i in range(10)] == [64] * 4 + [128] * 2 + [256] * 4
    args = parse_args(
        ["--block_size=16", "--first_block_size=1", "--max_iters=80", "--lr_decay_iters=8"]
    )
    assert [block_size_at(i, args) for i in range(9)] == [1] * 4 + [2, 4, 8, 16, 16]
    assert {block_size_at(i, parse_args([])) for i in range(400)} == {64}


def test_adamw_is_the_adamw_of_torch(fox):
    """The same gradients, the same weights after ten steps; matrices decay and vectors do not."""
    args = parse_args([*TINY, *GPT2, "--weight_decay=0.3"])
    model, twin = (train.make_model(args, [29], Ranks("cpu")) for _ in range(2))
    optimizer = configure_optimizer(model, args)
    weights = list(twin.parameters())
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in weights if p.dim() == 2], "weight_decay": 0.3},
            {"params": [p for p in weights if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=args.learning_rate,
        betas=(0.9, args.beta2),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        for p, q in zip(model.parameters(), weights):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        optimizer.step()
        reference.step()
    for (name, a), b in zip(model.named_parameters(), weights):
        assert torch.allclose(a, b, atol=1e-5), name


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 64), (2, 64, 16), (1, 5, 5)])
def test_muon_makes_updates_orthogonal(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out = orthogonalize(g)
    assert out.shape == g.shape
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    values = torch.einsum("nij,nik,nkj->nj", u, out, vh.mT)  # along the singular vectors of g
    assert values.min() > 0.6 and values.max() < 1.4
    assert torch.allclose(
        orthogonalize(g * 1e4), out, atol=1e-2
    )  # whatever the size of the gradient


def test_what_the_schedules_and_the_optimizer_do_not_know_is_refused():
    args = parse_args([])
    args.lr_schedule = "sinus"
    with pytest.raises(ValueError, match="sinus"):
        lr_fraction(399, args)
    args.optimizer = "sgd"
    with pytest.raises(ValueError, match="sgd"):
        configure_optimizer(train.make_model(args, [29], Ranks("cpu")), args)
    with pytest.raises(ValueError, match="sophia"):
        Optimizer([{"params": [torch.nn.Parameter(torch.ones(2))], "rule": "sophia"}])


def test_a_log_column_that_is_not_declared_is_refused(fox, tmp_path):
    log = run_log(tmp_path)
    with pytest.raises(ValueError, match="humidity"):
        log.row({"iter": 1, "humidity": 0.5})
    log.file.close()


def test_the_state_of_the_optimizer_has_the_shape_of_torchs(fox):
    args = parse_args([*TINY, *GPT2])
    optimizer = configure_optimizer(train.make_model(args, [29], Ranks("cpu")), args)
    state = optimizer.state_dict()
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    assert sorted(numbers) == list(range(len(state["state"]))) == list(state["state"])
    assert {*state["state"][0]} == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("kind", [[], GPT2], ids=["muon", "adamw"])
def test_a_checkpoint_of_format_1_resumes_to_the_bit(fox, kind):
    """The first checkpoints have no format number, and their optimizer's state is a list."""
    flags = [f"--dataset={fox}", "--lr_decay_iters=8", *kind]
    run(*flags, "--max_iters=8", "--out_dir=whole")
    run(*flags, "--max_iters=4", "--out_dir=old")
    old = load_checkpoint(Path("old/ckpt.pt"))
    assert old.pop("format") == checkpoint.FORMAT
    names = {"momentum_buffer": "momentum", "exp_avg": "mean", "exp_avg_sq": "mean_of_squares"}
    old["optimizer"] = {
        "num_steps": 4,
        "state": [
            {names[name]: tensor for name, tensor in state.items() if name != "step"}
            for state in old["optimizer"]["state"].values()
        ],
    }
    torch.save(old, "old/ckpt.pt")
    resume("old", "--max_iters=8")
    assert_same_training("whole", "old")


def test_each_key_of_a_checkpoint_that_is_missing_or_misshapen_is_one_line(fox, capsys):
    run(f"--dataset={fox}", "--max_iters=1", "--out_dir=x", "--n_layer=1")
    path, go_on = Path("x/ckpt.pt"), ["--init_from=resume", "--out_dir=x", "--max_iters=2"]
    good = load_checkpoint(path)
    assert set(good) == set(checkpoint.KEYS)
    for key in checkpoint.KEYS:
        torch.save({k: v for k, v in good.items() if k != key}, path)
        if key in checkpoint.RESUMED:
            line = one_line_error(capsys, train.main, go_on)
            assert "x/ckpt.pt" in line and key in line
        for odd in (None, "odd", [1], -1, {"odd": None}, torch.ones(2)):
            if key == "best_val_loss" and type(odd) is int:  # a number like any other
                continue
            torch.save({**good, key: odd}, path)
            assert "x/ckpt.pt" in one_line_error(capsys, train.main, go_on), (key, odd)


def test_a_checkpoint_of_a_later_format_is_one_line(fox, capsys):
    run(f"--dataset={fox}", "--max_iters=1", "--out_dir=x")
    path = Path("x/ckpt.pt")
    torch.save({**load_checkpoint(path), "format": checkpoint.FORMAT + 1}, path)
    line = one_line_error(capsys, train.main, ["--init_from=resume", "--out_dir=x"])
    assert "x/ckpt.pt" in line and f"format {checkpoint.FORMAT + 1}" in line


# ---- folders of nanoGPT


def nanogpt_characters(folder):
    """What nanoGPT's data/shakespeare_char/prepare.py writes, for TEXT."""
    folder.mkdir()
    chars = sorted(set(TEXT))
    stoi, itos = {c: i for i, c in enumerate(chars)}, dict(enumerate(chars))
    ids = np.array([stoi[c] for c in TEXT], dtype=np.uint16)
    ids[: int(len(ids) * 0.9)].tofile(folder / "train.bin")
    ids[int(len(ids) * 0.9) :].tofile(folder / "val.bin")
    with open(folder / "meta.pkl", "wb") as file:
        pickle.dump({"vocab_size": len(chars), "itos": itos, "stoi": stoi}, file)


def test_a_character_folder_of_nanogpt_trains_and_resumes_as_ours_does(fox, tmp_path):
    nanogpt_characters(tmp_path / "fox")
    assert (tmp_path / "fox/train.bin").read_bytes() == Path(fox, "train.bin").read_bytes()
    run("--dataset=./fox", "--max_iters=4", "--max_sample_tokens=5", "--out_dir=theirs")
    run(f"--dataset={fox}", "--max_iters=4", "--out_dir=ours")
    assert_same_training("theirs", "ours")
    resume("theirs", "--max_iters=6")


def test_a_bpe_folder_of_nanogpt_trains_after_the_command_that_the_error_names(tmp_path, capsys):
    try:
        encoding = get_encoding("gpt2")
    except (UserError, OSError) as error:
        pytest.skip(f"no GPT-2 ranks here: {error}")
    folder = tmp_path / "bpe"
    folder.mkdir()
    ids = np.array(encoding.encode_ordinary(TEXT), dtype=np.uint16)
    ids[:2700].tofile(folder / "train.bin")
    ids[2700:].tofile(folder / "val.bin")
    flags = [
        f"--dataset={folder}",
        "--max_iters=2",
        "--n_embd=8",
        "--eval_iters=1",
        "--max_sample_tokens=4",
    ]
    line = one_line_error(capsys, train.main, [*TINY, *flags])
    assert "bpe/meta.pkl not found" in line
    command = line.split("run: ")[1]
    assert command.startswith("python ") and command.endswith(
        "data/check_dataset.py bpe --adopt gpt2"
    )
    done = subprocess.run(command, shell=True, env=child_env(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run(*flags)
    assert load_checkpoint(Path("out/bpe/ckpt.pt"))["model_args"]["vocab_size"] == 50_257


@pytest.mark.skipif("NANOGPT" not in os.environ, reason="set NANOGPT to a checkout of nanoGPT")
def test_nanogpt_unchanged_trains_on_a_folder_that_ours_prepared(tmp_path):
    checkout = tmp_path / "nanoGPT"
    shutil.copytree(
        os.environ["NANOGPT"], checkout, ignore=shutil.ignore_patterns(".git", "out*", "assets")
    )
    char_dataset(checkout / "data/fox")
    child = python(
        "train.py",
        "--device=cpu",
        "--compile=False",
        "--dataset=fox",
        "--eval_iters=2",
        "--log_interval=1",
        "--block_size=16",
        "--batch_size=4",
        "--n_layer=2",
        "--n_head=2",
        "--n_embd=32",
        "--max_iters=10",
        "--lr_decay_iters=10",
        "--gradient_accumulation_steps=1",
        "--eval_interval=10",
        cwd=checkout,
    )
    assert child.returncode == 0, child.stderr
    assert "found vocab_size = 29" in child.stdout and re.search(
        r"iter 10: loss \d\.\d+", child.stdout
    )


# ---- ranks


def torchrun(*flags):
    return python(
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        ROOT / "train.py",
        *flags,
        cwd=Path.cwd(),
    )


@pytest.mark.long
def test_two_ranks_train_as_one_does_and_their_checkpoint_resumes_on_one(fox):
    """gloo on the CPU; the sums are in another order, so losses agree within rounding, and not bit
    for bit."""
    flags = [
        *TINY,
        f"--dataset={fox}",
        "--max_iters=10",
        "--lr_decay_iters=20",
        "--eval_interval=5",
        "--log_interval=1",
        "--eval_iters=1000",
        "--gradient_accumulation_steps=2",
        "--sampling_method=without_replacement",
    ]
    child = torchrun(*flags, "--out_dir=two")
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("done in ") == 1
    assert {*os.listdir("two")} - {"loss.png"} == {
        ".train.py.lock",
        "args.json",
        "best.pt",
        "ckpt.pt",
        "log.csv",
    }
    train.main([*flags, "--out_dir=one"])
    for column in ("batch_loss", "val_loss", "train_loss"):
        one, two = ([float(row[column] or 0) for row in log_rows(name)] for name in ("one", "two"))
        assert one == pytest.approx(two, abs=2e-4), column
    resume("two", "--max_iters=20")
    resume("one", "--max_iters=20")
    assert float(log_rows("one")[-1]["val_loss"]) == pytest.approx(
        float(log_rows("two")[-1]["val_loss"]), abs=2e-3
    )


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_both_and_saves_the_state(fox, rank):
    """torchrun passes a signal on to one rank after the other, and kills after 30 s; whichever
    hears first, the run stops as a whole and at once, not at the next progress line."""
    child = endless_run(fox, *TORCHRUN)
    wait_for_line(child.stdout, "       on ")
    time.sleep(3)  # iterations
    workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    (worker,) = (
        pid for pid in workers if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text()
    )
    os.kill(int(worker), signal.SIGTERM)
    try:
        out, err = child.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        child.terminate()
        child.communicate()
        pytest.fail("the ranks wait for each other for ever")
    assert "stopped at iteration " in out, err
    iter_num = load_checkpoint(Path("x/ckpt.pt"))["iter_num"]
    assert iter_num > 1
    resume("x", f"--max_iters={iter_num + 2}")


def processes(pid):
    """A process and its children, by number."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("number", STOPS)
def test_signals_to_all_processes_of_torchrun_again_and_again_save_the_state(fox, number):
    """As Slurm and systemd do; torchrun passes on each of its own."""
    child = endless_run(fox, *TORCHRUN, stderr=subprocess.DEVNULL)
    wait_for_line(child.stdout, "10/")
    everybody = processes(child.pid)
    for pause in (0.3, 0.7, 0):
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(pause)
    out, _ = child.communicate(timeout=60)
    assert "stopped at iteration " in out
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] >= 10


@pytest.mark.long
def test_a_refusal_under_torchrun_is_said_once_and_by_no_traceback_of_ours(fox):
    run(f"--dataset={fox}", "--max_iters=2", "--out_dir=x")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        ROOT / "train.py",
        *TINY,
    ]
    for flags, message in (
        (["--out_dir=x"], "error: x holds a run. "),
        (["--batch_size=3"], "error: batch_size 3 * "),
    ):
        child = subprocess.run(
            [*command, f"--dataset={fox}", *flags], env=child_env(), capture_output=True, text=True
        )
        assert child.returncode and child.stderr.count(message) == 1, child.stderr
        assert child.stderr.count("Traceback (most") == 1, child.stderr  # torchrun's own
