"""Devices and ranks (training/ranks.py): which device a process gets, how a run of several ends.

Run: python -m pytest tests/test_ranks.py
"""
import os
import re

import pytest
import torch
from helpers import char_dataset, python

from pipeline.errors import UserError
from train_args import parse_args
from training.ranks import Ranks, pick_device, settle_precision


@pytest.fixture
def gpus(monkeypatch):
    """gpus(n): torch says that there are n GPUs, and gives their tensors a place on the CPU."""
    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(torch, "empty", lambda *a, device: None)
    return pretend


def test_each_rank_gets_the_gpu_of_its_number_and_one_process_the_one_it_names(gpus):
    gpus(4)
    assert [pick_device("auto", rank, 4) for rank in range(4)] == [
        torch.device("cuda", rank) for rank in range(4)]
    assert pick_device("cuda:2") == torch.device("cuda", 2)
    assert pick_device("auto") == torch.device("cuda", 0)


def test_more_ranks_than_gpus_is_one_line_of_the_rank_that_has_none(gpus):
    gpus(2)
    with pytest.raises(UserError, match="nproc_per_node=2") as caught:
        pick_device("cuda", 2, 3)
    assert caught.value.of_one_rank


@pytest.mark.parametrize("name", ["cuda:1", "mps"])
def test_one_device_for_several_ranks_is_refused(gpus, name):
    gpus(2)
    with pytest.raises(UserError, match=re.escape(f"--device {name}")):
        pick_device(name, 1, 2)


def test_several_ranks_on_a_mac_compute_on_its_cpu(monkeypatch):
    """gloo, which they would talk by, does not know mps."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto", 0, 2) == torch.device("cpu")


def test_gpus_that_stay_idle_are_said(gpus, capsys):
    gpus(8)
    Ranks("auto").use("cuda")  # a resumed run asks twice
    told = capsys.readouterr().out
    assert told.count("8 GPUs") == 1 and "--nproc_per_node=8" in told
    Ranks("cuda:0")  # the user has chosen
    assert capsys.readouterr().out == ""


def test_without_a_compiler_auto_does_not_compile_and_true_is_one_line(monkeypatch):
    monkeypatch.setattr("training.ranks.shutil.which", lambda name: None)
    args = parse_args(["--max_iters=9999", "--dtype=bfloat16"])
    settle_precision(args, torch.device("cuda"))
    assert args.compile == "false"
    args.compile = "true"
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        settle_precision(args, torch.device("cuda"))


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="needs torchrun with gloo")
def test_an_error_of_one_rank_is_printed_at_once_while_the_other_waits(tmp_path):
    """Rank 1 alone meets a damaged id; rank 0 waits for its gradients."""
    folder = char_dataset(tmp_path / "fox")
    code = (
        "import os, sys, train\n"
        "from pipeline.errors import UserError, one_line_errors\n"
        "plain = train.train_step\n"
        "def step(run, batches):\n"
        "    if run.ranks.rank == 1 and run.iter_num == 3:\n"
        "        error = UserError('id 999 of rank 1')\n"
        "        error.of_one_rank = True\n"
        "        raise error\n"
        "    return plain(run, batches)\n"
        "train.train_step = step\n"
        "with one_line_errors():\n"
        "    train.main(sys.argv[1:])\n")
    (tmp_path / "faulty.py").write_text(code)
    flags = [f"--dataset={folder}", "--n_layer=1", "--n_embd=16", "--max_iters=100000",
             "--eval_interval=100000", "--device=cpu", "--out_dir=x"]
    child = python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                   tmp_path / "faulty.py", *flags, cwd=tmp_path,
                   PYTHONPATH=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    told = [line for line in child.stderr.splitlines() if line.startswith("error: ")]
    assert child.returncode != 0 and told == ["error: id 999 of rank 1"], child.stderr
