"""Where a run computes: the device of this process, and the other processes (ranks) that torchrun
started beside it.

    with Ranks(args.device) as ranks:
        ranks.device, ranks.rank, ranks.count      # a torch.device; which one of how many this is
        ranks.say("...")                           # printed once, by rank 0
        ranks.sum(values), ranks.from_first(make)  # what all ranks share
        Stop(ranks).agreed()                       # the signal to stop for, the same on all ranks
"""
import datetime
import math
import os
import signal
import threading
import time
from inspect import signature

import torch

from pipeline.errors import UserError
from training.device import keep_freed_memory, pick_device
from training.run_folder import resume_command

# A rank from which nothing is heard for so long is given up. The longest that a rank makes another
# wait is a sample (--sample_every_eval)
SILENCE = datetime.timedelta(minutes=10)


class Ranks:
    """The processes of a run. Started without torchrun, there is one: rank 0 of 1."""

    def __init__(self, device_name):
        self.rank, local_rank, self.count = (int(os.environ.get(name, default)) for name, default in
                                             (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
        self.is_first, self._local_rank, self.device = self.rank == 0, local_rank, None
        self.out_dir = None  # of the run, once it has one
        self.use(device_name)

    def use(self, device_name):
        """Take the device of this name. Raises UserError for one that cannot be used here."""
        device = pick_device(device_name, self._local_rank, self.count)
        if device == self.device:  # a resumed run asks again, by the name that it began with
            return
        self.device = device
        num_gpus = torch.cuda.device_count() if self.device.type == "cuda" else 1
        if self.count == 1 < num_gpus and ":" not in device_name:
            print(f"note: this run uses one of the {num_gpus} GPUs of this machine. To use all, "
                  f"put torchrun --standalone --nproc_per_node={num_gpus} in the place of python")
        if self.device.type == "cpu":
            keep_freed_memory()

    def __enter__(self):
        try:
            if self.count > 1:
                self._connect()
            return self
        except BaseException as error:
            self.__exit__(type(error), error)
            raise

    def _connect(self):
        dist = torch.distributed
        store, *_ = next(dist.rendezvous("env://", timeout=SILENCE))
        # a start again, by torchrun --max-restarts, finds nothing that the last one has noted
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"start {again}", store)
        # torch itself would wait for the last rank without hearing a signal
        self._store.set(f"rank {self.rank}", "has started")
        given_up = time.monotonic() + SILENCE.total_seconds()
        while missing := [rank for rank in range(self.count)
                          if not self._store.check([f"rank {rank}"])]:
            if time.monotonic() > given_up:
                raise UserError(f"rank {missing[0]} of {self.count} has not started within "
                                f"{SILENCE.seconds} seconds: it was stopped, or its machine has "
                                f"failed. Start again")
            time.sleep(0.05)
        # Windows and some builds of torch have no NCCL
        by_nccl = self.device.type == "cuda" and dist.is_nccl_available()
        # the CPUs, which give up first, say why in one line; NCCL ends the process from within
        dist.init_process_group("nccl" if by_nccl else "gloo", store=self._store, rank=self.rank,
                                world_size=self.count, timeout=SILENCE * (2 if by_nccl else 1))
        # a second group, on the CPUs: what is agreed there does not wait for the GPUs
        self._cpu_group = dist.new_group(backend="gloo", timeout=SILENCE)

    def __exit__(self, kind, error, *_):
        try:
            self._leave(kind, error)
        except KeyboardInterrupt as stop:  # torchrun's SIGTERM has come at this very moment
            self._leave(type(stop), stop)
            raise

    def _leave(self, kind, error):
        if self.count == 1:
            return
        # to destroy the group waits for the other ranks. After an error they may wait for us, and
        # its message would be printed only when that ends; SystemExit is a stop that all agreed on
        if kind in (None, SystemExit):
            torch.distributed.destroy_process_group()
            return
        # torchrun ends all ranks when one has ended, perhaps before that one is heard
        for number in Stop.NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        told = error
        if is_loss_of_contact(error):
            timed_out = "timed out" in str(error).lower() or "timeout" in str(error).lower()
            told = UserError(self._of_a_rank_that_is_gone(timed_out))
            if not timed_out:  # a rank that can say why it ended does so at once
                time.sleep(1)
        # one rank says the reason; those that lose contact with it are silent
        told.is_said_by_another = self._first_to_fail() not in (None, str(self.rank))
        if not told.is_said_by_another:
            time.sleep(0.5)  # what rank 0 is about to say comes before the reason, and not after it
        if told is not error:
            raise told from None

    def _first_to_fail(self, claim=True):
        """The rank that was the first to meet an error, as text; None where nobody can tell. claim:
        whether this rank has met one."""
        try:
            if claim:
                self._store.compare_set("first to fail", "", str(self.rank))
            if self._store.check(["first to fail"]):
                return self._store.get("first to fail").decode()
        except (RuntimeError, AttributeError):  # the store has ended, or was never reached
            return None

    def _of_a_rank_that_is_gone(self, timed_out):
        go_on = "There is no checkpoint to go on from"
        if self.out_dir and (self.out_dir / "ckpt.pt").exists():
            go_on = f"To go on from the last checkpoint, run: {resume_command(self.out_dir)}"
        what = "ended without a word: it was killed, perhaps for want of memory"
        if timed_out:
            what = (f"not answered for {SILENCE.seconds} seconds: it was stopped, or its machine "
                    f"has failed")
        return f"another rank has {what}. torchrun's report may name it. {go_on}"

    def __str__(self):
        return f"{f'{self.count} x ' if self.count > 1 else ''}{self.device.type}"

    def say(self, text):
        if self.is_first and (self.count == 1 or not self._first_to_fail(claim=False)):
            print(text, flush=True)  # unless another rank's error is the last word

    def sum(self, values):
        """values (a CPU tensor) added up over all ranks."""
        if self.count > 1:
            torch.distributed.all_reduce(values, group=self._cpu_group)
        return values

    def gather(self, part):
        """part (n, ...) of each rank -> (count * n, ...), in the order of the ranks."""
        # gloo, which serves CUDA where there is no NCCL, gathers on the CPU alone
        sent = part.cpu() if torch.distributed.get_backend() == "gloo" else part
        parts = [torch.empty_like(sent) for _ in range(self.count)]
        torch.distributed.all_gather(parts, sent)
        return torch.cat(parts).to(part.device)

    def largest(self, number):
        """The largest of a whole number over all ranks."""
        if self.count == 1:
            return number
        values = torch.tensor(number)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, self._cpu_group)
        return int(values)

    def from_first(self, make):
        """What make() returns on rank 0, on every rank, however long it takes: a download, a large
        checkpoint. A user's mistake found there is raised on every rank, so that all go on or none
        does."""
        if self.count == 1:
            return make()
        told = [None, None]  # what make() has returned, or raised

        def work():
            try:
                told[0] = make()
            except BaseException as error:
                told[1] = error
        worker = threading.Thread(target=work)
        if self.is_first:
            worker.start()
        # meanwhile rank 0 shows every second that it is alive, and learns whether the others are
        while self.largest(int(worker.is_alive())):
            if self.is_first:
                worker.join(1)
        if not isinstance(told[1], (UserError, OSError, type(None))):
            raise told[1]  # a mistake of ours, from which the others learn by losing contact
        torch.distributed.broadcast_object_list(told, group=self._cpu_group)
        if told[1]:
            raise told[1]
        return told[0]

    def all_have(self, value):
        """Whether every rank has the same value."""
        values = [value] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(values, value, group=self._cpu_group)
        return values == [value] * self.count

    def wrap(self, model):
        """The model whose backward pass averages gradients over all ranks."""
        if self.count == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel as DDP
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # the only buffers are the rotary tables, which are the same on every rank
        names = signature(DDP).parameters  # torch 2.13 has renamed the argument
        name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        return DDP(model, device_ids=device_ids, **{name: False})


def is_loss_of_contact(error):
    """Whether an exception says that another rank has gone, or does not answer."""
    network = isinstance(error, getattr(torch.distributed, "DistError", ()))
    return network or isinstance(error, RuntimeError) and "gloo" in str(error)


class _Ended(BaseException):
    """What Stop.ends() raises in act() at a signal."""


class Stop:
    """Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes ask the loop to stop after the
    iteration at hand.

    Further signals change nothing: Slurm, systemd and timeout send several, and torchrun passes on
    each that it gets. Only a person's second Ctrl-C, which comes later than a program's, ends the
    process at once; under torchrun, which sends signals of its own, none does.
    """
    AT_ONCE = 1.0  # seconds within which a second Ctrl-C comes from a program
    NUMBERS = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}

    def __init__(self, ranks):
        self.ranks, self.number = ranks, 0  # number: of the signal that all have agreed to stop for
        self.saves, self.save_due = False, lambda: False  # whether all save now; this rank's wish
        self.signal, self.asked = 0, math.inf  # the first signal of this rank, and when it came
        self._may_end = False
        # nohup, or a script that runs us in the background, has us ignore some; that stays so
        self.previous = {number: signal.signal(number, self.ask) for number in self.NUMBERS
                         if signal.getsignal(number) != signal.SIG_IGN}

    def ask(self, number, frame):
        if number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ and (
                time.monotonic() - self.asked > self.AT_ONCE):
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self.asked = number, time.monotonic()
            if self._may_end:
                raise _Ended

    def agreed(self):
        """The number of the signal to stop for, or 0: the same on all ranks, whichever got it. At
        the same time they agree on whether to save; a stop, which saves anyway, goes first."""
        agreed = self.ranks.largest(2 * int(self.signal) + bool(self.save_due()))
        self.number, self.saves = agreed // 2, agreed == 1
        return self.number

    def ends(self, act):
        """Call act(), and leave it where a signal comes; whether one came. act() must need no other
        rank and leave no state behind."""
        try:
            self._may_end = True
            if not self.signal:
                act()
            self._may_end = False
            return False
        except _Ended:  # raised once at most, by the first signal
            self._may_end = False
            return True

    def restore(self):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
