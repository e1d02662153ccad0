"""Devices and ranks (training/device.py, training/ranks.py): which device a process gets, how a run
of several ends.

Run: python -m pytest tests/test_ranks.py
"""
import datetime
import itertools
import json
import os
import re
import shutil
import signal
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import TEXT, TINY, char_dataset, log_rows, python
from test_documents import marked_text
from test_rank_faults import carried_out, job

from optim import Optimizer
from pipeline.errors import UserError
from pipeline.read.sampler import SAMPLING_METHODS
from train_args import parse_args
from training.device import pick_device, settle_precision
from training.ranks import Ranks


@pytest.fixture
def gpus(monkeypatch):
    """gpus(n): torch says that there are n GPUs, and gives their tensors a place on the CPU."""
    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr("training.device.run_a_kernel", lambda device: None)
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
    monkeypatch.setattr("training.device.shutil.which", lambda name: None)
    args = parse_args(["--max_iters=9999", "--dtype=bfloat16"])
    settle_precision(args, torch.device("cuda"))
    assert args.compile == "false"
    args.compile = "true"
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        settle_precision(args, torch.device("cuda"))


def test_auto_compiles_what_is_long_in_iterations_or_in_floating_point_operations(monkeypatch):
    monkeypatch.setattr("training.device.shutil.which", lambda name: name)
    large = ["--n_layer=12", "--n_embd=768", "--block_size=1024", "--batch_size=16"]
    for flags, expected in (
            (["--max_iters=2000"], "true"), (["--max_iters=1999"], "false"),
            (["--max_iters=100", *large, "--gradient_accumulation_steps=32"], "true"),
            (["--max_iters=100", *large], "false")):
        args = parse_args([*flags, "--dtype=bfloat16"])
        settle_precision(args, torch.device("cuda"))
        assert args.compile == (expected if sys.platform == "linux" else "false"), flags


NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nmore lines"


def test_a_gpu_that_this_torch_has_no_kernels_for_is_one_line_with_what_to_install(
        gpus, monkeypatch):
    """The wheels for CUDA 13 find a V100 and cannot compute on it."""
    gpus(1)

    def fails(device):
        raise RuntimeError(NO_KERNEL)
    monkeypatch.setattr("training.device.run_a_kernel", fails)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    with pytest.raises(UserError) as caught:
        pick_device("auto")
    told = str(caught.value)
    assert "no kernel image" in told and "sm_75, sm_80" in told and "\n" not in told
    assert f"pip install --force-reinstall torch=={torch.__version__.split('+')[0]} " in told
    assert "whl/cu126" in told


def test_a_device_that_fails_says_torchs_own_reason(gpus, monkeypatch):
    gpus(1)

    def busy(device):
        raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors")
    monkeypatch.setattr("training.device.run_a_kernel", busy)
    with pytest.raises(UserError, match="busy or unavailable. Choose auto"):
        pick_device("cuda")


def test_a_driver_that_is_too_old_is_said_before_training_on_the_cpu(monkeypatch, capsys):
    def is_available():
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found "
                      "version 12040). Please update your GPU driver by", stacklevel=1)
        return False
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert pick_device("auto") == torch.device("cpu")
    told = capsys.readouterr().out
    assert "too old (found version 12040)" in told and "whl/cu126" in told
    assert told.count("\n") == 1
    pick_device("auto", 1, 2)  # one rank says it for all
    pick_device("cpu")  # and nobody who has chosen the CPU is told
    assert capsys.readouterr().out == ""


def test_a_torch_without_cuda_beside_a_gpu_is_said(monkeypatch, capsys):
    """pip gives Windows a torch without CUDA; a night on the CPU should not be the way to learn
    it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr("training.device.has_nvidia_driver", lambda: True)
    assert pick_device("auto") == torch.device("cpu")
    told = capsys.readouterr().out
    assert "built without CUDA" in told and "--index-url" in told


class Gathering:
    """Rank `rank` of `count`, which gathers what the others would send."""

    def __init__(self, rank, count, sent):
        self.rank, self.count, self.sent = rank, count, sent

    def gather(self, part):
        self.sent[self.rank] = part
        return torch.cat([self.sent.get(rank, torch.zeros_like(part))
                          for rank in range(self.count)])


@pytest.mark.parametrize("count", [2, 3, 8])
def test_ranks_that_share_muon_have_together_what_one_has_alone(count):
    """Five matrices of a shape do not divide; a rank may have none."""
    weights, gradients = torch.randn(2, 5, 8, 16)

    def step(ranks):
        params = [torch.nn.Parameter(w.clone()) for w in weights]
        for p, gradient in zip(params, gradients):
            p.grad = gradient.clone()
        Optimizer([{"rule": "muon", "params": params, "lr": 0.1, "momentum": 0.9,
                    "weight_decay": 0.1, "dtype": "float32", "parts": [[8]] * 5}], ranks).step()
        return torch.stack(params).detach()
    sent = {}
    shared = [step(Gathering(rank, count, sent)) for rank in range(count)]
    assert torch.allclose(shared[-1], step(None), atol=1e-6)  # the last one has all parts
    assert all(part.shape == sent[0].shape and len(part) * count < 5 + count
               for part in sent.values())


@pytest.mark.parametrize("device, has_nccl, backend", [
    ("cpu", True, "gloo"), ("cuda", True, "nccl"), ("cuda", False, "gloo")])
def test_gpus_talk_by_nccl_where_torch_has_it_and_the_cpus_give_up_first(
        gpus, monkeypatch, device, has_nccl, backend):
    """Windows and some builds have none."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    gpus(2)
    store, made = dist.HashStore(), []
    store.set("start 0/rank 1", "has started")
    monkeypatch.setattr(dist, "rendezvous", lambda *a, **kw: iter([(store, 0, 2)]))
    monkeypatch.setattr(dist, "is_nccl_available", lambda: has_nccl)
    monkeypatch.setattr(dist, "init_process_group",
                        lambda name, timeout, **kw: made.append((name, timeout)))
    monkeypatch.setattr(dist, "new_group",
                        lambda backend, timeout: made.append((backend, timeout)))
    ranks = Ranks(device)
    ranks._connect()
    (first, longer), (second, shorter) = made
    assert (first, second) == (backend, "gloo") and (longer > shorter) == (backend == "nccl")


def test_a_rank_that_does_not_start_is_named(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    store = dist.HashStore()
    store.set("start 0/rank 1", "has started")
    monkeypatch.setattr(dist, "rendezvous", lambda *a, **kw: iter([(store, 0, 3)]))
    monkeypatch.setattr("training.ranks.SILENCE", datetime.timedelta(seconds=0))
    monkeypatch.setattr(signal, "signal", lambda *args: None)  # the handlers of this process stay
    with pytest.raises(UserError, match="rank 2 of 3") as caught:
        Ranks("cpu").__enter__()
    assert not caught.value.is_said_by_another


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


# ---- several ranks are one run


COUNTS = (1, 2, 4)
MODES = {"single": ["--dataset={a}"],
         "multidataset": ["--training_mode=multidataset", "--dataset_list", "{a}", "{b}"],
         "multicontext": ["--training_mode=multicontext", "--multicontext_datasets", "{a}", "{b}"]}
SHARED = [*TINY, "--n_layer=1", "--batch_size=8", "--gradient_accumulation_steps=3",
          "--max_iters=6", "--lr_decay_iters=12", "--eval_interval=3", "--eval_iters=1000",
          "--log_interval=1", "--max_sample_tokens=5", "--out_dir=x"]


def trained_on(one):
    """Every window of a run, in order: of each iteration the micro-steps, of each the ranks."""
    by_rank = [[json.loads(line) for line in Path(one["folder"], f"windows{r}.jsonl").open()]
               for r in range(one["ranks"])]
    return [window for iteration in zip(*by_rank) for micro_step in zip(*iteration)
            for rows in micro_step for window in rows]


def losses(folder):
    return [[float(row[key]) for key in row if "loss" in key and row[key]]
            for row in log_rows(Path(folder) / "x")]


@pytest.fixture(scope="module")
def runs_of_ranks(tmp_path_factory):
    """{(mode, sampling method, number of ranks, with marks): the run}; 3 micro-batches, which no
    number of ranks divides but 1. The two texts are equally long and have the same characters; with
    marks, loss masks and documents."""
    root, jobs = tmp_path_factory.mktemp("ranks"), {}
    names = {"a": char_dataset(root / "a"), "b": char_dataset(root / "b", TEXT[::-1])}
    with_marks = {"a": marked_text(root / "marked_a"),
                  "b": marked_text(root / "marked_b", TEXT[::-1])}
    for key in itertools.product(MODES, SAMPLING_METHODS, COUNTS, (False, True)):
        mode, method, count, marks = key
        if marks or method == "random":
            flags = [flag.format(**with_marks if marks else names) for flag in MODES[mode]]
            jobs[key] = job(root / "-".join(map(str, key)), names["a"], ranks=count, record=True,
                            flags=[*SHARED, f"--sampling_method={method}", *flags,
                                   *["--documents"] * marks])
    done = {one["folder"]: one for one in carried_out([*jobs.values()])}
    return {key: done[one["folder"]] for key, one in jobs.items()}


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method, marks", [("random", False), *(
    (method, True) for method in SAMPLING_METHODS)])
def test_several_ranks_train_on_the_windows_of_one_in_its_order_to_the_same_losses(
        runs_of_ranks, mode, method, marks):
    """Sums are taken in another order, so losses (log.csv has six digits) agree within 5e-5."""
    one, *others = (runs_of_ranks[mode, method, count, marks] for count in COUNTS)
    for other in others:
        assert other["status"] == 0 and trained_on(other) == trained_on(one), other["said"]
        for row, same in zip(losses(one["folder"]), losses(other["folder"]), strict=True):
            assert row == pytest.approx(same, abs=5e-5)
        learned = [[row.get("learned_tokens") for row in log_rows(Path(run["folder"]) / "x")]
                   for run in (one, other)]
        assert learned[0] == learned[1] and (learned[0][0] is None) != marks
        done = next(i for i, line in enumerate(other["said"]) if line.startswith("done in"))
        assert len(other["said"]) > done + 1  # a sample, by rank 0


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_a_run_of_two_ranks_goes_on_with_four_and_with_one(runs_of_ranks, tmp_path):
    two = runs_of_ranks["single", "without_replacement", 2, True]
    jobs = []
    for count in COUNTS:
        jobs.append(job(tmp_path / f"{count}", "", ranks=count, record=True,
                        flags=["--init_from=resume", "--out_dir=x", "--max_iters=12"]))
        shutil.copytree(Path(two["folder"]) / "x", tmp_path / f"{count}" / "x")
    done = {run["ranks"]: run for run in carried_out(jobs)}
    for count in (1, 4):
        assert trained_on(done[count]) == trained_on(done[2])
        for row, same in zip(losses(done[2]["folder"]), losses(done[count]["folder"]), strict=True):
            assert row == pytest.approx(same, abs=5e-5)
