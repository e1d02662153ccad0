"""How many threads compute, and how they wait for each other. Imports neither torch nor numpy.

    set_environment()               first thing in a script: what numpy's and torch's libraries read as they are loaded
    take_threads(wanted, before)    once torch is loaded: its number of threads
    cores()                         those that this process may use, by affinity and a container's quota, not the machine's

Whatever the user has set stays: OMP_NUM_THREADS, MKL_NUM_THREADS, OMP_WAIT_POLICY, GOMP_*, KMP_*, OPENBLAS_NUM_THREADS.
"""
import math
import os
import re
import sys
from pathlib import Path

# A thread that waits for the others at the end of an operation first spins, since to sleep and be woken takes longer than
# most operations do. By default that goes on for 10 ms and more, and where another program has the other thread's core, it is
# time taken from the very thread that is waited for: each operation of a step then costs a time slice of the scheduler.
# 10,000 turns are 0.2 to 0.5 ms: longer than Python needs from one operation to the next, and short beside a time slice.
WAITING = {"GOMP_SPINCOUNT": "10000",  # of GNU's OpenMP, that of torch on Linux: turns, 300,000 by default
           "KMP_BLOCKTIME": "1"}  # of LLVM's and Intel's, those of torch on macOS and Windows: ms, 200 by default
ALSO_WAITING = ("OMP_WAIT_POLICY", "KMP_LIBRARY")  # one who sets these has chosen, and the two above would overrule it
NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def set_environment():
    """Set in os.environ what the libraries read as they are loaded. Where torch is loaded already, nothing is set."""
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in (*WAITING, *ALSO_WAITING)):
        os.environ.update(WAITING)
    if _is_torchruns_own():
        del os.environ["OMP_NUM_THREADS"]  # take_threads() shares the cores out instead
    if not os.environ.get("OMP_NUM_THREADS"):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(cores()))  # numpy's; torch's are for take_threads()


def _is_torchruns_own():
    """Whether OMP_NUM_THREADS is torchrun's: it gives several ranks one thread each where the user has set nothing. What
    torchrun was itself started with tells; where that cannot be read (no /proc), the user is taken to have set it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("OMP_NUM_THREADS") != "1":
        return False
    try:
        started_with = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return not any(entry.startswith(b"OMP_NUM_THREADS=") for entry in started_with)


def set_by_user():
    """The variable by which the user has chosen the number of threads, or None."""
    return next((name for name in NUMBERS if os.environ.get(name)), None)


def take_threads(wanted=None, before=None):
    """Have torch compute with `wanted` threads; else as many as the user has set; else `before`, as many as a run began
    with, if there are cores for them; else one a core that is this rank's. Returns the number."""
    import torch
    num_threads, ranks = torch.get_num_threads(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if wanted:
        num_threads = wanted
    elif not set_by_user():  # torch's own number is the machine's real cores, without hyperthreads
        num_threads = min(before, cores() // ranks) if before else min(num_threads, cores()) // ranks
    num_threads = max(1, num_threads)
    torch.set_num_threads(num_threads)
    return num_threads


def cores():
    """The cores that this process may use; a quota of 1.5 counts as 2, one below 1 as 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, quota()) + 0.5))


def quota(process="/proc/self"):
    """How many cores' time the control groups (of a container, a batch system) leave this process; infinity where they
    limit nothing. A group has no more than those around it, so the least of all counts."""
    try:  # "0::/path" is version 2, "4:cpu,cpuacct:/path" version 1
        groups = [line.split(":", 2) for line in (Path(process) / "cgroup").read_text().splitlines()]
        mounts = (Path(process) / "mountinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):  # another system than Linux
        return math.inf
    least = math.inf
    for mount in mounts:
        try:
            (_, _, _, root, at, *_), (kind, _, options, *_) = (half.split() for half in mount.split(" - ", 1))
        except ValueError:
            continue
        if kind not in ("cgroup", "cgroup2") or kind == "cgroup" and "cpu" not in options.split(","):
            continue
        root, at = (Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), path)) for path in (root, at))
        for _, controllers, path in (group for group in groups if len(group) == 3):
            if "cpu" in controllers.split(",") if kind == "cgroup" else not controllers:
                inside = at / Path(path).relative_to(root) if Path(path).is_relative_to(root) else at
                least = min([least, *(_limit(folder) for folder in (inside, *inside.parents) if folder.is_relative_to(at))])
    return least


def _limit(group):
    """The cores' time of one control group, whose files lie in the folder."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            time, period = (int(word) for name in names for word in (group / name).read_text().split())
            return time / period if time > 0 and period > 0 else math.inf
        except (OSError, ValueError):  # no such file; "max"
            continue
    return math.inf
