"""A machine that other programs use, too: how many threads compute, how they wait for each other.
Imports neither torch nor numpy.

    set_environment()             first in a script: what the libraries of numpy and torch read
    take_threads(wanted, before)  once torch is loaded: its number of threads
    cores()                       those that this process may use: by affinity and quota
    SlowSteps(device, ...)        tells when steps take far longer than they did

Whatever the user has set stays: OMP_NUM_THREADS, MKL_NUM_THREADS, OPENBLAS_NUM_THREADS, and how
to wait (HOW_TO_WAIT).
"""
import math
import os
import re
import sys
from pathlib import Path

# A thread that waits for the others at the end of an operation spins before it sleeps, since to be
# woken takes as long as many an operation. By default it spins for 10 ms. Where another program has
# a core, that time is taken from the very thread that is waited for, in each of the step's thousand
# operations. 10,000 turns are 0.5 ms: longer than Python takes from one operation to the next, and
# a few times as long as to be woken. On 64-bit ARM a turn is far shorter, and the default stays.
WAITING = {"KMP_BLOCKTIME": "1"}  # in ms (default 200), of torch's OpenMP on macOS and Windows
if hasattr(os, "uname") and os.uname().machine in ("x86_64", "i686"):
    WAITING["GOMP_SPINCOUNT"] = "10000"  # in turns (default 300,000), of torch's OpenMP on Linux
HOW_TO_WAIT = ("KMP_BLOCKTIME", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_LIBRARY")


def set_environment():
    """Set in os.environ what the libraries read as they are loaded, unless torch is loaded."""
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in HOW_TO_WAIT):
        os.environ.update(WAITING)
    if _is_torchruns_own():
        del os.environ["OMP_NUM_THREADS"]  # take_threads() shares the cores out instead
    if not os.environ.get("OMP_NUM_THREADS"):  # numpy's; torch's number is for take_threads()
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(cores()))


def _is_torchruns_own():
    """Whether OMP_NUM_THREADS is torchrun's, which gives each of several ranks one thread where the
    user has set nothing. What torchrun was itself started with tells; where that cannot be read
    (only Linux has it), the number is taken for the user's."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("OMP_NUM_THREADS") != "1":
        return False
    try:
        started_with = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return not any(entry.startswith(b"OMP_NUM_THREADS=") for entry in started_with)


def set_by_user():
    """The variable by which the user has chosen the number of threads, or None."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return next((name for name in names if os.environ.get(name)), None)


def take_threads(wanted=None, before=None):
    """Have torch compute with `wanted` threads; else with as many as the user has set; else with
    `before`, those that the run began with, if there are cores for them; else with one a core of
    this rank's share. Returns the number."""
    import torch
    num_threads, ranks = torch.get_num_threads(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if wanted:
        num_threads = wanted
    elif before and not set_by_user():
        num_threads = min(before, cores() // ranks)
    elif not set_by_user():  # torch's own number is that of real cores, without hyperthreads
        num_threads = min(num_threads, cores()) // ranks
    num_threads = max(1, num_threads)
    torch.set_num_threads(num_threads)
    return num_threads


def cores():
    """The cores that this process may use; a quota of 1.5 counts as 2, one below 1 as 1."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, int(min(allowed, quota()) + 0.5))


def quota(process="/proc/self"):
    """How many cores' time the control groups (of a container, a batch system) leave this process;
    infinity where nothing limits it. No group has more than those around it: the least counts."""
    try:  # "0::/path" is version 2, "4:cpu,cpuacct:/path" version 1
        groups = (Path(process) / "cgroup").read_text().splitlines()
        mounts = (Path(process) / "mountinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):  # another system than Linux
        return math.inf
    paths = {}
    for line in groups:
        _, _, controllers_and_path = line.partition(":")
        controllers, _, path = controllers_and_path.partition(":")
        paths |= {controller: path for controller in controllers.split(",")}
    least = math.inf
    for mount in mounts:
        place, _, kind = (half.split() for half in mount.partition(" - "))
        if kind[:1] == ["cgroup2"] and "" in paths:
            path = Path(paths[""])
        elif kind[:1] == ["cgroup"] and "cpu" in paths and "cpu" in kind[-1].split(","):
            path = Path(paths["cpu"])
        else:
            continue
        root, at = (Path(_unescaped(path)) for path in place[3:5])
        group = at / path.relative_to(root) if path.is_relative_to(root) else at
        for folder in (group, *group.parents):
            if folder.is_relative_to(at):
                least = min(least, _limit(folder))
    return least


def _unescaped(path):
    """A path of mountinfo, where a space is \\040."""
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), path)


def _limit(group):
    """How many cores' time one control group has, whose files lie in the folder."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            time, period = " ".join((group / name).read_text() for name in names).split()
            return int(time) / int(period) if int(time) > 0 else math.inf  # -1: no limit
        except (OSError, ValueError, ZeroDivisionError):  # no such file; "max"
            continue
    return math.inf


class SlowSteps:
    """Tells when steps have come to take more than 3 times as long as they did: once, until they no
    longer do.

    It is given the times between progress lines, less evaluations and checkpoints: no GPU is waited
    for on its behalf.
    """

    def __init__(self, device, num_threads):
        self.device, self.num_threads = device, num_threads
        self.length, self.told = None, False

    def note(self, seconds, num_steps, length):
        """What to print, or "". seconds: those of the last num_steps steps. length: tokens of their
        windows."""
        if length != self.length:  # other work; its first steps may compile, so they don't count
            self.length, self.recent, self.least, self.slow_for = length, [], math.inf, 0.0
            return ""
        self.recent = [*self.recent[-2:], seconds / num_steps]
        if len(self.recent) < 3:
            return ""
        now = sorted(self.recent)[1]  # one alone may be the closed lid of a laptop
        self.least = min(self.least, now)
        slow = now > (2 if self.told else 3) * self.least
        self.slow_for = self.slow_for + seconds if slow else 0.0
        told, self.told = self.told, slow and (self.told or self.slow_for > 2)  # seconds
        if told or not self.told:
            return ""
        text = (f"note: a step now takes {now:.2g} s and took {self.least:.2g} s before. Other "
                f"programs may be using the ")
        if self.device.type != "cpu":
            return f"{text}{self.device.type} device or the processors"
        return (f"{text}processors. This run computes with {self.num_threads} threads "
                f"(--num_threads, OMP_NUM_THREADS); beside other programs fewer can be faster")
