"""What the benchmarks share, and gpu.py on a machine without a GPU: each part is a row that says
what is skipped and why; with --device cpu its lines run at tiny sizes, and figures mean nothing.

Run: python -m pytest tests/test_benchmarks.py    (with -m long for the rehearsal: some minutes)
"""
import os
import shlex
import subprocess
import sys
import time
import types
import warnings

import numpy as np
import pytest
import torch
from helpers import ROOT, char_dataset, child_env, one_line_error, says
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

sys.path.append(str(ROOT / "benchmarks"))
import budget
import gpu
import gpu_bench
import gpu_checks
import gpu_speeds
import race
import rival

import train_args


def measured(*flags, out):
    """(exit status, the rows of the table as lists of cells, the whole report)"""
    done = subprocess.run(["bash", ROOT / "benchmarks/gpu.sh", *map(str, flags), f"--out={out}"],
                          capture_output=True, text=True, timeout=900,
                          env=child_env(CUDA_VISIBLE_DEVICES=""))
    assert out.exists(), done.stdout + done.stderr
    report = out.read_text()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in report.splitlines()
            if line.startswith("| ")][1:]
    assert all(line in done.stdout for line in report.splitlines() if line.startswith("| "))
    return done.returncode, rows, report


# ---- gpu.sh


@pytest.mark.long
def test_without_a_gpu_every_part_is_a_row_that_says_what_is_skipped_and_why(tmp_path):
    status, rows, report = measured(out=tmp_path / "deep" / "gpu.md")
    assert status == 0
    assert [row[0] for row in rows] == list(gpu.PARTS)
    assert all("no CUDA GPU" in row[2] and row[1] == gpu.PARTS[row[0]].title for row in rows)
    assert f"torch {torch.__version__}" in report and "no GPU" in report


def test_a_part_for_which_no_time_is_left_is_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device=cpu", "--minutes=0.1", "--parts", "syncs",
                                      "steps", f"--out={tmp_path}/gpu.md"])
    with pytest.raises(SystemExit) as exit:
        gpu.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if "| not started" in line]
    assert not exit.value.code and len(rows) == 2 and "--minutes" in rows[1]


@pytest.mark.parametrize("flag", ["--nanogpt=nowhere", "--text=nowhere", "--dataset=nowhere/"])
def test_a_path_that_is_not_there_is_one_line(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", flag])
    says(one_line_error(capsys, lambda argv: gpu.main(), []), "nowhere")


@pytest.mark.long
def test_a_part_that_fails_is_a_row_with_the_end_of_its_log_and_ends_no_other(tmp_path):
    dataset = char_dataset(tmp_path / "short", "too short for a window\n" * 4)
    status, rows, report = measured("--device=cpu", "--parts", "fineweb", "float16",
                                    f"--dataset={dataset}/", out=tmp_path / "gpu.md")
    assert status == 1
    verdicts = {row[0]: row[-1] for row in rows}
    assert verdicts == {"float16": "ok", "fineweb": "failed"}
    assert "The end of what fineweb printed" in report and "block_size" in report


@pytest.mark.long
def test_the_parts_that_need_no_compiler_run_through_on_a_cpu(tmp_path):
    names = ["syncs", "resume", "float16", "ranks", "kernels", "sampling", "scaling", "memory",
             "documents"]
    status, rows, report = measured("--device=cpu", "--minutes=14", "--parts", *names,
                                    out=tmp_path / "gpu.md")
    assert status == 0, report
    assert {row[0] for row in rows} == set(names)
    assert not [row for row in rows if row[-1] in ("WRONG", "failed", "skipped")]


# ---- what gpu.py counts


class OnGPU(gpu_bench.Bench):
    """A Bench that takes itself to be on a GPU."""
    on_gpu = True


def test_hidden_waits_are_counted_by_their_line(monkeypatch, tmp_path):
    modes, here = [], []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work():
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect "
                      "all synchronizing operations", stacklevel=1)
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            here.append(sys._getframe().f_lineno - 1)
    counted = gpu_checks.waits_of(OnGPU(torch.device("cpu"), tmp_path), work)
    assert counted == {f"tests/test_benchmarks.py:{here[0]}": 3}
    assert modes == ["warn", "default"]


def event(name, parent=None, kernels=(), device=DeviceType.CPU):
    made = FunctionEvent(0, name, 0, 0, 9, device_type=device)
    if parent is not None:
        made.set_cpu_parent(parent)
    for kernel, us in kernels:
        made.append_kernel(kernel, 0, us)
    return made


def test_a_kernel_counts_once_and_for_the_operations_above_it():
    attention = event("aten::scaled_dot_product_attention")
    inner = event("aten::_flash_attention_forward", attention, [("flash_fwd", 30)])
    other = event("aten::mm", kernels=[("gemm", 60), ("gemm", 10)])
    on_gpu = event("flash_fwd", device=DeviceType.CUDA)  # the same kernel on the GPU's timeline
    spent, of_attention = gpu_checks.spent_by([attention, inner, other, on_gpu], True,
                                              "scaled_dot_product")
    assert spent == {"flash_fwd": 30, "gemm": 70} and of_attention == {"flash_fwd": 30}
    assert gpu_checks.named(of_attention, 100) == "30.0% of the step: flash_fwd 30.0%"


def test_memory_is_what_the_work_adds_at_its_peak(monkeypatch, tmp_path):
    held = {"now": 500, "most": 9000}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held["now"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats",
                        lambda device: held.update(most=held["now"]))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: held["most"])
    bench = OnGPU(torch.device("cuda", 0), tmp_path)
    assert bench.peak(lambda: held.update(most=1700)) == 1200
    assert bench.allocated == 500


def test_rows_survive_a_process_that_is_ended_with_all_it_has_started(tmp_path):
    code = ("import subprocess, sys, time; child = subprocess.Popen(['sleep', '60']); "
            "print(child.pid, flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    child = int(process.stdout.readline())
    assert gpu_bench.wait_or_end(process, 0.1) is None
    for _ in range(50):  # an orphan is gone once init has reaped it
        try:
            os.kill(child, 0)
            if " Z " in open(f"/proc/{child}/stat").read():
                break
        except OSError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child still runs")


def test_a_race_ends_at_the_loss_or_when_its_time_is_over(tmp_path):
    code = ("import time; print('step 0: train loss 4.2, val loss 4.1'); "
            "print('iteration 1,000: val loss 1.4 (best)'); time.sleep(60)")
    took, told = gpu_speeds.seconds_to(1.5, ["-c", code], tmp_path, 50)
    assert 0 < took < 50 and "1,000" in told
    t0 = time.monotonic()
    took, told = gpu_speeds.seconds_to(1.0, ["-c", code], tmp_path, 0.2)
    assert took is None and "not reached" in told and time.monotonic() - t0 < 50


# ---- what the benchmarks share


def test_one_iteration_of_a_loop_that_cannot_be_imported(tmp_path):
    (tmp_path / "train.py").write_text(
        "raise SystemExit('never imported')\n"
        "while True:\n"
        "    for group in optimizer.param_groups:\n        group['lr'] = 1\n"
        "    if iter_num == 0:\n        break\n"
        "    for micro_step in range(2):\n        seen.append(X); X = X + 1\n"
        "    optimizer.zero_grad(set_to_none=True)\n"
        "    t1 = nowhere()\n")
    done = []
    space = {"X": 5, "seen": [], "optimizer": types.SimpleNamespace(
        zero_grad=lambda set_to_none: done.append(set_to_none))}
    iteration = rival.iteration_of(tmp_path / "train.py", space)
    iteration()
    iteration()
    assert space["seen"] == [5, 6, 7, 8] and done == [True, True]


def test_the_settings_that_minutes_is_compared_with_are_flags_of_train_py(monkeypatch):
    monkeypatch.chdir(ROOT)
    for flags in budget.SETTINGS.values():
        assert train_args.parse_args(shlex.split(flags)).max_iters


def test_sides_take_turns_and_the_first_round_does_not_count():
    order = []
    times = rival.in_turn({name: lambda name=name: order.append(name) for name in "abc"}, 2)
    assert order == [*"abc"] * 3
    assert {name: len(each) for name, each in times.items()} == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("num_tokens", [7, 8, 9, 130])
def test_nanogpts_pass_over_val_counts_every_target_once(num_tokens, tmp_path, monkeypatch, capsys):
    """Its loss is the mean over all targets, those of a short window at the end as well."""
    class Model(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.config = config

        def forward(self, x, y):
            assert torch.equal(x + 1, y)  # the tokens count up
            return None, y.double().mean()
    held = types.SimpleNamespace
    fake = held(GPT=Model, GPTConfig=lambda **sizes: held(**sizes))
    (tmp_path / "out").mkdir()
    (tmp_path / "data/race").mkdir(parents=True)
    torch.save({"model_args": {"block_size": 2}, "model": {}}, tmp_path / "out/ckpt.pt")
    np.arange(num_tokens, dtype=np.uint16).tofile(tmp_path / "data/race/val.bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "model", fake)
    monkeypatch.setattr(sys, "argv", ["-c", "cpu"])
    exec(compile(race.FULL_PASS, "FULL_PASS", "exec"), {})
    loss, seconds = map(float, capsys.readouterr().out.split())
    assert loss == pytest.approx(num_tokens / 2) and seconds > 0  # the mean of 1 ... num_tokens - 1
