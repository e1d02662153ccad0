"""A machine that other programs use too: how many threads compute, and how they wait for each
other.

    set_environment()             first in a script: what numpy's and torch's libraries read
    take_threads(wanted, before)  once torch is loaded: its number of threads
    cores()                       the cores that this process may use, by affinity and quota
    SlowSteps(device, ...)        notices when steps take far longer than before

What the user has set stays: OMP_NUM_THREADS, MKL_NUM_THREADS, OPENBLAS_NUM_THREADS, and the
variables in HOW_TO_WAIT. This module imports neither torch nor numpy.
"""
import math
import os
import re
import sys
from pathlib import Path

# A thread that waits for the others at the end of an operation spins before it sleeps, because
# waking it up takes as long as many an operation. By default it spins for 10 ms. When another
# program occupies a core, the spinning takes that time from the very thread that is waited for, in
# each of the thousand operations of a step. 10,000 turns take 0.5 ms: longer than Python takes from
# one operation to the next, and a few times as long as waking up. On 64-bit ARM a turn is far
# shorter, so the default stays.
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
    if _is_from_torchrun():
        del os.environ["OMP_NUM_THREADS"]  # take_threads() divides the cores among the ranks
    if not os.environ.get("OMP_NUM_THREADS"):  # numpy's number; take_threads() sets torch's
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(cores()))


def _is_from_torchrun():
    """Whether OMP_NUM_THREADS comes from torchrun, which gives each of several ranks one thread
    where the user has set nothing. The environment of torchrun itself tells; where it cannot be
    read (only Linux has it), the number is taken for the user's."""
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
    """Set torch's number of threads, and return it.

    It is `wanted` if given; else what the user has set; else `before`, with which the run began, as
    far as there are cores; else one thread for each core of this rank.
    """
    import torch
    num_threads, num_ranks = torch.get_num_threads(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if wanted:
        num_threads = wanted
    elif before and not set_by_user():
        num_threads = min(before, cores() // num_ranks)
    elif not set_by_user():  # torch's own number counts real cores, without hyperthreads
        num_threads = min(num_threads, cores()) // num_ranks
    num_threads = max(1, num_threads)
    torch.set_num_threads(num_threads)
    return num_threads


def cores():
    """The cores that this process may use; a quota of 1.5 counts as 2, one below 1 as 1."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    return max(1, int(min(allowed, quota()) + 0.5))


def quota(process="/proc/self"):
    """The cores' time that the control groups (of a container or a batch system) leave this
    process; infinity where nothing limits it. A group has no more than those around it: the least
    counts."""
    try:
        groups = (Path(process) / "cgroup").read_text()
        mounts = (Path(process) / "mountinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):  # another system than Linux
        return math.inf
    # controller -> group; "0::/path" is version 2, "4:cpu,cpuacct:/path" version 1
    paths = {}
    for controllers, path in re.findall("^[0-9]+:(.*?):(.*)$", groups, re.MULTILINE):
        paths |= dict.fromkeys(controllers.split(","), path)
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
        limits = [_limit(f) for f in (group, *group.parents) if f.is_relative_to(at)]
        least = min(least, *limits)
    return least


def _unescaped(path):
    """A path of mountinfo, which writes a space as \\040."""
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), path)


def _limit(group):
    """The cores' time of one control group, from the files in its folder."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            time, period = " ".join((group / name).read_text() for name in names).split()
            return int(time) / int(period) if int(time) > 0 else math.inf  # -1: no limit
        except (OSError, ValueError, ZeroDivisionError):  # no such file; "max"
            continue
    return math.inf


class SlowSteps:
    """Notices when steps have come to take more than 3 times as long as before, and tells it once,
    until they are fast again.

    It uses the times between progress lines, without evaluations and checkpoints, so it never waits
    for a GPU.
    """

    def __init__(self, device, num_threads):
        self.device, self.num_threads = device, num_threads
        self.length, self.told = None, False

    def note(self, seconds, num_steps, length):
        """What to print, or "". seconds: those of the last num_steps steps. length: the tokens of
        their windows."""
        if length != self.length:  # other work; its first steps may compile, so they don't count
            self.length, self.recent, self.least, self.slow_for = length, [], math.inf, 0.0
            return ""
        self.recent = [*self.recent[-2:], seconds / num_steps]
        if len(self.recent) < 3:
            return ""
        now = sorted(self.recent)[1]  # the median: a single one may be a laptop that was closed
        self.least = min(self.least, now)
        slow = now > (2 if self.told else 3) * self.least
        self.slow_for = self.slow_for + seconds if slow else 0.0
        told, self.told = self.told, slow and (self.told or self.slow_for > 2)  # seconds
        if told or not self.told:
            return ""
        text = (f"note: a step now takes {now:.2g} s, and took {self.least:.2g} s before. Other "
                f"programs may be using the ")
        if self.device.type != "cpu":
            return f"{text}{self.device.type} device or the processors"
        return (f"{text}processors. This run computes with {self.num_threads} threads "
                f"(--num_threads, OMP_NUM_THREADS); beside other programs fewer can be faster")
