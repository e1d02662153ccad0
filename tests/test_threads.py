"""pipeline/threads.py: cores by affinity and quota, what is set before torch is loaded, the threads
of a run and of its resume, and the note on slow steps.

Run: python -m pytest tests/test_threads.py
"""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, char_dataset, resume, run

import train
from pipeline import threads
from training import progress
from training.checkpoint import load_checkpoint

VARIABLES = (*threads.HOW_TO_WAIT, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
V2 = "30 1 0:26 {root} {at} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 1 0:27 {root} {at} rw - cgroup cgroup rw,cpuacct,cpu"
PERIOD = "100000"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No variable of the user's; afterwards the number of threads from before."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield monkeypatch
    torch.set_num_threads(before)


# ---- cores


def process(folder, cgroup, *mounts):
    """A stand-in for /proc/self."""
    (folder / "cgroup").write_text(cgroup + "\n")
    lines = ["22 1 8:1 / / rw - ext4 /dev/root rw", *mounts]
    (folder / "mountinfo").write_text("\n".join(lines) + "\n")
    return folder


def group(folder, limit):
    """A control group of version 2, or where limit is a number of version 1."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(limit, int):
        (folder / "cpu.cfs_quota_us").write_text(f"{limit}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{PERIOD}\n")
    else:
        (folder / "cpu.max").write_text(f"{limit}\n")
    return folder


@pytest.mark.parametrize("outer, inner, cores", [
    (f"max {PERIOD}", f"max {PERIOD}", math.inf), (f"max {PERIOD}", f"50000 {PERIOD}", 0.5),
    (f"150000 {PERIOD}", f"max {PERIOD}", 1.5), ("100000 50000", f"400000 {PERIOD}", 2),
    (-1, -1, math.inf), (-1, 50000, 0.5), (250000, -1, 2.5), (150000, 400000, 1.5)])
def test_the_least_quota_of_the_groups_around_a_process_counts(tmp_path, outer, inner, cores):
    at = tmp_path / "fs"
    group(group(at / "outer", outer) / "inner", inner)
    of_v1 = "3:cpuset:/\n1:cpu,cpuacct:/outer/inner\n0::/"
    folder = (process(tmp_path, of_v1, V1.format(root="/", at=at)) if isinstance(outer, int) else
              process(tmp_path, "0::/outer/inner", V2.format(root="/", at=at)))
    assert threads.quota(folder) == cores


@pytest.mark.parametrize("path", ["/docker/abc", "/elsewhere", "/../x"])
def test_in_a_container_the_mount_point_is_its_group(tmp_path, path):
    at = group(tmp_path / "c group", 150000)
    mount = V1.format(root="/docker/abc", at=str(at).replace(" ", r"\040"))
    assert threads.quota(process(tmp_path, f"4:cpu,cpuacct:{path}", mount)) == 1.5


def test_other_controllers_and_odd_files_limit_nothing(tmp_path):
    at = group(tmp_path / "fs", 50000)
    v1, v2 = (mount.format(root="/", at=at) for mount in (V1, V2))
    assert threads.quota(process(tmp_path, "1:cpuset:/\n0::/", v1)) == math.inf
    assert threads.quota(process(tmp_path, "0:\nodd\n0::/", "odd", "1 2 - ", v1)) == math.inf
    assert threads.quota(tmp_path / "no such folder") == math.inf  # macOS, Windows
    (at / "cpu.cfs_quota_us").unlink()
    for limit in ("max", "many cores", f"-1 {PERIOD}", "50000 0", ""):
        assert threads.quota(process(tmp_path, "0::/", v2)) == math.inf, limit
        group(at, limit)


@pytest.mark.parametrize("allowed, quota, cores", [
    (8, math.inf, 8), (8, 0.1, 1), (8, 1.4, 1), (8, 1.5, 2), (2, 6, 2)])
def test_cores_are_those_of_affinity_and_quota(monkeypatch, allowed, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False)
    monkeypatch.setattr(threads, "quota", lambda: quota)
    assert threads.cores() == cores
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    monkeypatch.setattr(os, "cpu_count", lambda: allowed)
    assert threads.cores() == cores


# ---- the environment


SET = "import json, os; from pipeline import threads; threads.set_environment(); "
PRINT = "print(json.dumps(dict(os.environ)))"


def started(code=SET + PRINT, **more):
    """What a new process prints: its environment."""
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES} | more
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[0])


@pytest.mark.long
def test_a_started_process_waits_shortly_and_has_the_threads_of_its_quota():
    env = started("from pipeline import threads; threads.quota = lambda: 0.5; " + SET +
                  "import torch; threads.take_threads(); "
                  "os.environ['torch'] = str(torch.get_num_threads()); " + PRINT)
    assert {name: env[name] for name in threads.WAITING} == threads.WAITING
    assert env["torch"] == env["OPENBLAS_NUM_THREADS"] == "1"


def test_what_the_user_has_set_stays():
    user = {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "active"}
    env = started(**user)
    assert {name: env[name] for name in VARIABLES if name in env} == user


@pytest.mark.parametrize("name", threads.HOW_TO_WAIT)
def test_one_choice_of_how_to_wait_is_the_whole_choice(environment, name):
    environment.delitem(sys.modules, "torch")
    environment.setenv(name, "x")
    threads.set_environment()
    assert [n for n in threads.HOW_TO_WAIT if n in os.environ] == [name] and os.environ[name] == "x"
    os.environ.pop("OPENBLAS_NUM_THREADS")


def test_where_torch_is_loaded_already_the_environment_is_left_alone():
    before = dict(os.environ)
    threads.set_environment()
    assert dict(os.environ) == before


@pytest.mark.parametrize("file", ["train.py", "sample.py"])
def test_scripts_set_the_environment_before_numpy_and_torch(file, tmp_path):
    (tmp_path / "numpy.py").write_text(f"import json, os; {PRINT}; raise SystemExit")
    env = started(f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); "
                  f"runpy.run_path({file!r}, run_name='__main__')")
    assert {name: env[name] for name in threads.WAITING} == threads.WAITING
    assert env["OPENBLAS_NUM_THREADS"] == str(threads.cores())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("user", [{}, {"OMP_NUM_THREADS": "1"}])
def test_the_one_thread_that_torchrun_sets_is_told_from_the_users(user):
    torchrun = ("import os, subprocess, sys; "
                "os.environ |= dict(OMP_NUM_THREADS='1', TORCHELASTIC_RUN_ID='x'); "
                f"subprocess.run([sys.executable, '-c', {SET + PRINT!r}], check=True)")
    assert ("OMP_NUM_THREADS" in started(torchrun, **user)) == bool(user)


@pytest.mark.parametrize("cores, ranks, wanted, before, taken", [
    (8, 1, None, None, 4), (2, 1, None, None, 2), (8, 2, None, None, 2), (2, 4, None, None, 1),
    (8, 1, 7, 3, 7), (8, 1, None, 6, 6), (8, 1, None, 1, 1), (2, 1, None, 6, 2),
    (8, 4, None, 6, 2)])
def test_threads_follow_cores_ranks_wish_and_the_run(environment, cores, ranks, wanted, before,
                                                     taken):
    environment.setattr(threads, "cores", lambda: cores)
    environment.setenv("LOCAL_WORLD_SIZE", str(ranks))
    torch.set_num_threads(4)  # as torch counts real cores, without hyperthreads
    assert threads.take_threads(wanted, before) == taken == torch.get_num_threads()


def test_a_number_that_the_user_has_set_goes_before_that_of_the_run(environment):
    torch.set_num_threads(3)  # what torch makes of it
    environment.setenv("OMP_NUM_THREADS", "3")
    environment.setattr(threads, "cores", lambda: 1)
    assert threads.take_threads(None, 2) == 3 and threads.take_threads(2, 3) == 2


# ---- a run


@pytest.fixture
def one_iteration(tmp_path):
    """The folder of a run of one iteration, by two threads."""
    run(f"--dataset={char_dataset(tmp_path / 'd')}", f"--out_dir={tmp_path / 'o'}", "--max_iters=1",
        "--num_threads=2")
    return tmp_path / "o"


def saved_args(out_dir):
    return load_checkpoint(out_dir / "ckpt.pt")["args"]


def test_a_run_keeps_its_number_of_threads_and_tells_of_another(one_iteration, environment, capsys):
    in_file = json.loads((one_iteration / "args.json").read_text())["args"]
    assert in_file["num_threads"] == saved_args(one_iteration)["num_threads"] == 2
    before = torch.get_num_threads()
    for i, (cores, flags, taken, told) in enumerate([
            (4, [], 2, None), (1, [], 1, "cores"), (4, [], 1, None),
            (1, ["--num_threads=2"], 2, "--num_threads")]):
        environment.setattr(threads, "cores", lambda cores=cores: cores)
        capsys.readouterr()
        resume(one_iteration, f"--max_iters={i + 2}", *flags)
        notes = [n for n in capsys.readouterr().out.splitlines() if n.startswith("note")
                 and "learning rate" not in n]
        assert len(notes) == bool(told) and all(
            told in n and "--num_threads=" in n for n in notes)
        assert saved_args(one_iteration)["num_threads"] == taken
        assert torch.get_num_threads() == before  # of the notebook that calls main()


def test_a_checkpoint_without_the_number_is_gone_on_with_in_silence(one_iteration, capsys):
    checkpoint = load_checkpoint(one_iteration / "ckpt.pt")
    del checkpoint["args"]["num_threads"]
    torch.save(checkpoint, one_iteration / "ckpt.pt")
    capsys.readouterr()
    resume(one_iteration, "--max_iters=2")
    assert "note" not in capsys.readouterr().out


# ---- slow steps


def notes(times, lengths=None, num_steps=10):
    """Behind which progress lines a note stands. times: seconds a step."""
    slow_steps = threads.SlowSteps(torch.device("cpu"), 2)
    return [i for i, (time, length) in enumerate(zip(times, lengths or [16] * len(times)))
            if slow_steps.note(time * num_steps, num_steps, length)]


def test_a_slow_phase_is_told_once_and_the_next_again():
    fast, slow = [0.2] * 5, [1.0] * 9
    assert notes(fast + [0.5] * 20) == []  # 2.5 times as long
    assert notes(fast + slow) == [6]
    assert notes(fast + slow + [0.5] * 3 + [0.7] * 9) == [6]  # it is still slow
    assert notes(fast + slow + [0.3] * 5 + slow) == [6, 20]


def test_one_long_step_a_compiling_one_and_a_short_delay_are_no_slow_phase():
    assert notes([30.0] + [0.2] * 9) == []
    assert notes([0.2] * 5 + [900.0] + [0.2] * 9) == []
    assert notes([0.001] * 5 + [0.01] * 20) == []  # 2 seconds in all


def test_longer_windows_are_other_steps():
    times, lengths = [0.2] * 5 + [9.0] + [1.0] * 9, [8] * 5 + [16] * 10
    assert notes(times, lengths) == []
    assert notes(times + [4.0] * 4, lengths + [16] * 4) == [16]


@pytest.mark.parametrize("device, words", [
    ("cpu", ["2 threads", "--num_threads", "OMP_NUM_THREADS"]), ("cuda", ["cuda"])])
def test_the_note_is_a_line_that_says_where_to_look(device, words):
    slow_steps = threads.SlowSteps(torch.device(device), 2)
    told = "".join(slow_steps.note(s, 1, 16) for s in [9.0, 0.25, 0.25, 0.25, 5.0, 5.0, 5.0])
    assert all(word in told for word in [*words, "5 s", "0.25 s", "programs"]) and "\n" not in told


def test_a_delayed_run_says_so_and_evaluations_do_not_count(tmp_path, environment, capsys):
    now, calls, train_step, estimate_loss = 0.0, 0, train.train_step, train.estimate_loss

    def slow_step(*args):
        nonlocal now, calls
        now += 5.0 if 60 < calls < 80 else 0.1
        calls += 1
        return train_step(*args)

    def slow_estimate(*args):
        nonlocal now
        now += 1000.0
        return estimate_loss(*args)
    environment.setattr(progress.time, "perf_counter", lambda: now)
    environment.setattr(train, "train_step", slow_step)
    environment.setattr(train, "estimate_loss", slow_estimate)
    run(f"--dataset={char_dataset(tmp_path / 'd')}", f"--out_dir={tmp_path / 'o'}",
        "--max_iters=100",
        "--log_interval=2", "--eval_interval=20", "--eval_iters=1")
    lines = capsys.readouterr().out.splitlines()
    told = [i for i, line in enumerate(lines) if line.startswith("note")]
    assert len(told) == 1 and 60 < int(lines[told[0] - 1].split("/")[0]) < 80
