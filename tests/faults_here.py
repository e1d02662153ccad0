"""Runs of several ranks, started by torchrun's own agent, in which something goes wrong; for
tests/test_rank_faults.py, which describes the jobs.

    python tests/faults_here.py < jobs.json > results.json

Importing torch takes two seconds of a core and a job has up to five processes, so this process
imports it once and forks. A rank is one of those forks: what all ranks of a job print goes to
said.txt in the job's folder, in its order, and what the agent prints to agent.txt.
"""
import datetime
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import train
from pipeline.errors import one_line_errors
from training import checkpoint, evaluation, plots, ranks

AT_ONCE = 8  # jobs side by side
PLACES = {  # where a fault may strike: before a call of this
    "open_data": (train, "open_data"), "begin": (train, "begin"), "step": (train, "train_step"),
    "backward": (torch.Tensor, "backward"), "talk": (ranks.Ranks, "largest"),
    "evaluation": (evaluation, "to_xy"), "sample": (train, "speak"),
    "save": (checkpoint, "save_checkpoint"),
}


def note_time(name):
    with open(name, "a") as file:
        print(time.time(), file=file)


def strike(job):
    """The fault itself, in the rank that it is for."""
    kind = job["kind"]
    note_time("struck.txt")
    if kind == "exception":
        raise RuntimeError("a fault")
    elif kind == "slow":
        time.sleep(job["seconds"])
    elif kind == "full disk":
        if job["late"]:  # some systems say so only when the bytes are flushed
            def fsync(fd):
                raise OSError(errno.ENOSPC, "No space left on device")
            os.fsync = fsync
        else:
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))
    elif kind != "none":  # the name of a signal
        os.kill(os.getppid() if job["to_agent"] else os.getpid(), getattr(signal, kind))


def plant(job):
    if job["place"] == "time":
        timer = threading.Timer(job["number"], strike, [job])
        timer.daemon = True
        timer.start()
    elif job["place"] in PLACES:
        owner, name = PLACES[job["place"]]
        plain, calls = getattr(owner, name), [0]

        def counting(*args, **kw):
            calls[0] += 1
            if calls[0] == job["number"]:
                strike(job)
            return plain(*args, **kw)
        setattr(owner, name, counting)


def record_windows():
    """Add to windows<rank>.jsonl a line for each iteration: its micro-batches, as lists of ids."""
    plain = train.train_step

    def recording(run, micro_batches):
        with open(f"windows{run.ranks.rank}.jsonl", "a") as file:
            print(json.dumps([batch.ids.tolist() for batch in micro_batches]), file=file)
        return plain(run, micro_batches)
    train.train_step = recording


def be_a_rank(job):
    """What `python train.py` does in a process of torchrun."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # the agent's handlers do not outlive an exec
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(job["folder"])
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    torch.set_num_threads(1)
    ranks.SILENCE = datetime.timedelta(seconds=job["silence"])
    plots.plot_or_say_why = lambda out_dir: None  # matplotlib takes longer than the run
    status = 0
    try:
        with one_line_errors():
            if int(os.environ["RANK"]) == job["rank"]:
                plant(job)
            if job["record"]:
                record_windows()
            train.main(job["flags"])
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    note_time("ended.txt")
    if status:  # the agent waits for a rank that ends well to return
        threading._shutdown()  # waits for threads that are no daemons, as the end of a script does
        os._exit(status)


def be_the_agent(job):
    """What torchrun --standalone does, in the end the same as a command."""
    os.setsid()
    socket.getfqdn = lambda name="": "localhost"  # else 10 s pass where there is no network
    fd = os.open(Path(job["folder"]) / "agent.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=job["ranks"], start_method="fork",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id=Path(job["folder"]).name,
        local_addr="127.0.0.1", monitor_interval=0.1, max_restarts=0)
    try:
        elastic_launch(config, be_a_rank)(job)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main():
    jobs, running, results = json.load(sys.stdin), {}, []
    while jobs or running:
        while jobs and len(running) < AT_ONCE:
            job = jobs.pop(0)
            if not (pid := os.fork()):
                be_the_agent(job)
            running[pid] = job, time.monotonic()
        pid, status = os.wait()
        job, begun = running.pop(pid)
        results.append({**job, "status": os.waitstatus_to_exitcode(status),
                        "took": time.monotonic() - begun})
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
