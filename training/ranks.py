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
import time
from inspect import signature

import torch

from pipeline.errors import UserError
from training.device import keep_freed_memory, pick_device


class Ranks:
    """The processes of a run. Started without torchrun, there is one: rank 0 of 1."""

    def __init__(self, device_name):
        self.rank, local_rank, self.count = (int(os.environ.get(name, default)) for name, default in
                                             (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
        self.is_first, self._local_rank, self.device = self.rank == 0, local_rank, None
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
        if self.count > 1:
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            # a second group on the CPUs: what is agreed there does not wait for the GPUs, and may
            # take as long as rank 0 takes to download a model
            self._cpu_group = torch.distributed.new_group(
                backend="gloo", timeout=datetime.timedelta(hours=2))
        return self

    def __exit__(self, error, *_):
        # to destroy the group waits for the other ranks. After an error they may wait for us, and
        # its message would be printed only when that ends; SystemExit is a stop that all agreed on
        if self.count > 1 and error in (None, SystemExit):
            torch.distributed.destroy_process_group()

    def __str__(self):
        return f"{f'{self.count} x ' if self.count > 1 else ''}{self.device.type}"

    def say(self, text):
        if self.is_first:
            print(text, flush=True)

    def sum(self, values):
        """values (a CPU tensor) added up over all ranks."""
        if self.count == 1:
            return values
        values = values.to(self.device)
        torch.distributed.all_reduce(values)
        return values.cpu()

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
        """What make() returns on rank 0, on every rank. A user's mistake found there is raised on
        every rank, so that all go on or none does."""
        told = [None, None]
        if self.is_first:
            try:
                told[0] = make()
            except (UserError, OSError) as error:
                told[1] = error
        if self.count > 1:
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


class Stop:
    """Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes ask the loop to stop after the
    iteration at hand.

    Further signals change nothing: Slurm, systemd and timeout send several, and torchrun passes on
    each that it gets. Only a person's second Ctrl-C, which comes later than a program's, ends the
    process at once; under torchrun, which sends signals of its own, none does.
    """
    AT_ONCE = 1.0  # seconds within which a second Ctrl-C comes from a program

    def __init__(self, ranks):
        self.ranks = ranks
        self.signal, self.asked = 0, math.inf  # the first signal, and when it came
        numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
        # nohup, or a script that runs us in the background, has us ignore some; that stays so
        self.previous = {number: signal.signal(number, self.ask) for number in numbers
                         if signal.getsignal(number) != signal.SIG_IGN}

    def ask(self, number, frame):
        if number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ and (
                time.monotonic() - self.asked > self.AT_ONCE):
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self.asked = number, time.monotonic()

    def agreed(self):
        """The number of the signal to stop for, or 0: the same on all ranks, whichever got it."""
        return self.ranks.largest(int(self.signal))

    def restore(self):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
