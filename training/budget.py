"""The settings of a run that takes so many minutes: python train.py --dataset=mydata --minutes=20

    choose(argv, minutes, ranks, set_up, train_step)    (the command line of that run, its Pace)

Of SIZES, the one with the lowest predicted_loss() is taken, for as many tokens as it can read in
the time. Steps of a few sizes are timed here for that. The numbers of this file are fitted on runs
of one to five minutes on two CPU cores (benchmarks/LOG.md); for GPUs and larger models they are
extrapolated.
"""
import contextlib
import math
import shlex
import time

from optim import block_size_at
from pipeline.errors import UserError
from pipeline.read.batches import TrainBatches
from train_args import given_flags, parse_args, typed_flags
from training.plan import lengths_of, mean_step, time_of_evaluation, times_of_steps
from training.run_folder import hms

# (layers, channels) to choose from, each about 1.5 times as much work as the one before
SIZES = ((2, 64), (2, 96), (3, 96), (3, 128), (4, 128), (4, 160), (4, 192), (6, 192), (6, 256),
         (8, 256), (8, 384), (12, 384), (12, 512), (12, 768), (16, 1024), (24, 1024))
TIMED_FIRST = (3, 96)
PLANNED = 0.98  # share of the time that is planned for: a pace may fall a little
EVALUATIONS = 0.04  # share of the time that evaluations take, about
OUTSIDE = 3.0  # seconds that a run takes before it comes here, and after its last iteration


# ---- the fitted rule


def predicted_loss(size, num_tokens, unique_tokens):
    """Nats a token, up to a constant, of a model that has read so many tokens. unique_tokens: those
    of the text.

    The form is that of Hoffmann et al. (arXiv:2203.15556, equation 2); text that is read again is
    worth what Muennighoff et al. found (arXiv:2305.16264, equation 5)."""
    again = max(0.0, num_tokens / unique_tokens - 1)  # epochs after the first
    worth = min(num_tokens, unique_tokens) + unique_tokens * 15.4 * (1 - math.exp(-again / 15.4))
    return 400 / block_params(*size) ** 0.34 + 410 / worth ** 0.28


def block_params(n_layer, n_embd):
    return 12 * n_layer * n_embd ** 2


def flags_of(size, room):
    """{flag: value} for a model of this size. room: the tokens of the shortest split."""
    n_layer, n_embd = size
    block_size = 256 if n_embd < 384 else 512 if n_embd < 768 else 1024
    while block_size > 64 and 8 * block_size > room:
        block_size //= 2
    tokens = 2048
    return {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_embd // 32,
            "block_size": block_size, "first_block_size": max(block_size // 4, 64),
            "batch_size": max(1, tokens // block_size),
            "sampling_method": "without_replacement", "muon_learning_rate": 0.03,
            "learning_rate": 0.015, "muon_momentum": 0.92}


# ---- the choice


def choose(argv, minutes, ranks, set_up, train_step):
    """(argv of the chosen run, its Pace). set_up, train_step: train.py's own. Raises UserError."""
    if ranks.count > 1:
        raise UserError("--minutes and --hours time one process. Start it by python train.py, stop "
                        "it, and give torchrun the command that it has printed")
    began, seconds = time.perf_counter(), 60 * minutes * PLANNED - OUTSIDE
    given = {name: value for name, value in given_flags(argv).items()
             if name not in ("minutes", "hours")}
    choice = Choice(given, ranks, set_up, train_step)
    size = choice.best(seconds) if choice.is_new else None
    flags = choice.flags(size, max_iters=1000, eval_iters=1)
    steps, evaluation, args = choice.time(flags, min(10.0, 0.02 * seconds))
    left = max(0.0, seconds - (time.perf_counter() - began))
    max_iters = max(1, int(left * (1 - EVALUATIONS) / mean_step(steps, args)))
    evaluations = min(max_iters, max(2, min(20, round(minutes))))
    flags |= {"max_iters": max_iters, "eval_interval": -(-max_iters // evaluations),
              "eval_iters": max(1, int(left * EVALUATIONS / evaluations / evaluation))}
    argv = typed_flags({**given, **{name: value for name, value in flags.items()
                                    if name not in given}})
    ranks.say(f"These settings take about {minutes:g} minutes here. The same run by its flags:\n"
              f"python train.py {shlex.join(argv)}\n")
    return argv, Pace(steps, parse_args(argv), 60 * minutes)


class Choice:
    """What a run of each size would be, by steps that are timed here."""

    def __init__(self, given, ranks, set_up, train_step):
        """given: {flag: value} of the command line. set_up, train_step: those of train.py."""
        self.given, self.ranks, self.set_up, self.train_step = given, ranks, set_up, train_step
        with self.run({}) as run:
            datasets = run.mixture.datasets
            self.unique = sum(dataset.num_tokens["train"] for dataset in datasets)
            self.room = min(min(dataset.num_tokens.values()) for dataset in datasets)
            self.vocab_size = run.model.config.vocab_size
            self.is_new = run.args.init_from == "scratch"  # else the weights have their sizes

    @contextlib.contextmanager
    def run(self, flags):
        """The Run of these flags and the given ones, which go before them."""
        argv = typed_flags({**flags, **self.given})
        with contextlib.ExitStack() as stack:
            yield self.set_up(parse_args(argv), argv, self.ranks, stack)

    def flags(self, size, **other):
        """The chosen flags for a model of this size, without those that are given."""
        chosen = flags_of(size, self.room) if self.is_new else {}
        return {name: value for name, value in {**chosen, **other}.items()
                if name not in self.given}

    def time(self, flags, least):
        """(seconds an iteration by context length, seconds of an evaluation, args). least: the
        seconds to take."""
        with self.run(flags) as run:
            args = run.args
            batches = TrainBatches(
                run.mixture, batch_size=args.batch_size, iter_num=0, max_iters=1,
                gradient_accumulation_steps=args.gradient_accumulation_steps)
            with contextlib.closing(batches):
                batch = next(batches)
            steps, _ = times_of_steps(run, self.train_step, batch, batches.micro_steps, least)
            return steps, time_of_evaluation(run, batch.rows(0, 16)), args

    def best(self, seconds):
        """Of SIZES, the one with the lowest predicted loss after so many seconds of training.

        A size that is not timed is taken to do as many operations a second as the nearest timed
        one, until it is the best; then it is timed too."""
        rates, size = {}, TIMED_FIRST
        while size not in rates:
            steps, _, args = self.time(self.flags(size, max_iters=1000, eval_iters=1), 1.5)
            tokens = args.batch_size * args.gradient_accumulation_steps * args.block_size
            rates[size] = tokens / mean_step(steps, args) * self.work(size)
            size = min(SIZES, key=lambda size: predicted_loss(
                size, seconds * rates[self.nearest(size, rates)] / self.work(size), self.unique))
        return size

    def nearest(self, size, rates):
        return min(rates, key=lambda timed: abs(SIZES.index(timed) - SIZES.index(size)))

    def work(self, size):
        """Operations for a token, about: those of the blocks and of the head."""
        return 6 * (block_params(*size) + self.vocab_size * size[1])


class Pace:
    """When a run will end, by its pace so far."""

    def __init__(self, steps, args, seconds):
        """steps: planned seconds an iteration, by context length. seconds: of the whole run."""
        self.steps, self.args, self.told = steps, args, seconds
        self.planned = self.took = 0.0  # seconds of the iterations so far

    def note(self, iter_num, num_iters, seconds, run_seconds):
        """What to print after num_iters iterations that took so many seconds, or "". run_seconds:
        those of the run so far, with its evaluations."""
        left = self.args.max_iters - iter_num
        self.planned += num_iters * self.steps[block_size_at(iter_num - 1, self.args)]
        self.took += seconds
        if left:
            left *= mean_step(self.steps, self.args, iter_num)
        end = run_seconds + left * self.took / self.planned
        if self.planned < 0.05 * (self.planned + left) or end < 1.1 * self.told:
            return ""
        before, self.told = self.told, end
        return (f"note: the pace has fallen: this run will end after {hms(end)}, and not after "
                f"{hms(before)}. Its {self.args.max_iters:,} iterations stay")
