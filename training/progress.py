"""What the loop keeps between two lines of the log, and when it saves by the clock.

    Since(run, batches)      the losses since the last line, added up; row() makes a line of them
    SaveClock(minutes)       whether a checkpoint is due
"""
import math
import time

import torch

from optim import block_size_at, lr_fraction
from pipeline.threads import SlowSteps
from training import checkpoint
from training.device import estimate_mfu


class Since:
    """The iterations since the last line of the log: their losses, and the time they took. Losses
    are added up on the device: to read each would make every iteration wait for a GPU."""

    def __init__(self, run, batches):
        self.run, self.batches, device = run, batches, run.ranks.device
        self.slow_steps = SlowSteps(device, run.args.num_threads)
        self.loss = torch.zeros((), device=device)
        # the first iteration, counted from 1, whose loss was not finite
        self.bad_iter = torch.zeros((), device=device)
        self.began = time.perf_counter() - run.seconds  # as if the run had never stopped
        self.restart()
        if run.since:  # the checkpoint was saved between two lines
            self.loss += run.since["loss"]
            self.learned, self.steps = run.since["learned"], run.since["steps"]
            self.first -= run.since["iters"]
            run.since = {}

    def restart(self):
        """Begin anew, after a line: evaluations and checkpoints are no part of tokens_per_s."""
        self.loss.zero_()
        self.first = self.timed_from = self.run.iter_num
        self.learned = self.steps = 0  # tokens; iterations that had any
        self.waited, self.t0 = self.batches.wait_time, time.perf_counter()

    def add(self, loss, learned):
        """The loss of an iteration, a tensor, and the number of its learned tokens."""
        self.loss += loss
        self.learned, self.steps = self.learned + learned, self.steps + (learned > 0)
        # noted on the device, without waiting for it
        self.bad_iter.masked_fill_((self.bad_iter == 0) & ~torch.isfinite(self.loss),
                                   self.run.iter_num + 1)

    def finite_loss(self):
        """The sum of the losses, averaged over ranks. Raises UserError where one of them is not
        finite."""
        bad, ranks, run = int(self.bad_iter.item()), self.run.ranks, self.run
        values = torch.tensor([self.loss.item(), bad > 0], dtype=torch.float64)
        loss, num_bad = ranks.sum(values).tolist()
        if num_bad:
            checkpoint.refuse_not_finite(
                f"the loss is infinite or NaN since iteration {bad:,}" if bad else
                "the loss of another rank is infinite or NaN", run.out_dir,
                bad or f"{max(1, run.iter_num - run.args.log_interval + 1)} --to {run.iter_num}")
        return loss / ranks.count  # every rank has as many rows

    def row(self, log):
        """The row of log.csv for these iterations, which is shown as the progress line."""
        run, args = self.run, self.run.args
        loss = self.finite_loss() / self.steps if self.steps else math.nan
        num_iters, num_timed = run.iter_num - self.first, run.iter_num - self.timed_from
        dt = time.perf_counter() - self.t0  # seconds
        run.seconds = time.perf_counter() - self.began
        row = {"iter": run.iter_num, "tokens": run.iter_num * run.tokens_per_iter,
               "batch_loss": loss,
               "learning_rate": args.learning_rate * lr_fraction(run.iter_num - 1, args),
               "tokens_per_s": num_timed * run.tokens_per_iter / dt,
               "data_wait": (self.batches.wait_time - self.waited) / dt, "seconds": run.seconds}
        row["mfu"] = estimate_mfu(run.model, row["tokens_per_s"], run.ranks)
        if run.mixture.is_masked:
            row["learned_tokens"] = self.learned
        log.progress(row, run.best_val_loss, args.max_iters,
                     seconds_left=(args.max_iters - run.iter_num) * dt / num_timed)
        if note := self.slow_steps.note(dt, num_timed, block_size_at(run.iter_num - 1, args)):
            log.line(note)
        if note := run.pace and run.pace.note(args, run.iter_num, num_timed, dt, run.seconds):
            log.line(note)
        if self.steps < num_iters:
            log.line(f"note: {num_iters - self.steps:,} of the last {num_iters:,} iterations had "
                     f"no token to learn, and took no step")
        return row

    def save(self):
        """A checkpoint in the middle, with what belongs to the next line, so that log.csv of a run
        that goes on from it is the same."""
        run = self.run
        run.since = {"loss": self.finite_loss(), "learned": self.learned, "steps": self.steps,
                     "iters": run.iter_num - self.first}
        run.seconds = time.perf_counter() - self.began
        checkpoint.save(run)
        run.since = {}


class SaveClock:
    """Whether a checkpoint is due: `minutes` after the last one, but so that saving takes at most
    2% of the time. 0 minutes: never."""

    def __init__(self, minutes):
        self.seconds, self.took = minutes * 60, 0.0
        self.saved()

    def saved(self):
        self.last = time.monotonic()

    def due(self):
        wait = max(self.seconds, 49 * self.took)
        return bool(self.seconds) and time.monotonic() - self.last >= wait

    def save(self, since):
        began = time.monotonic()
        since.save()
        self.took = time.monotonic() - began
        self.saved()
