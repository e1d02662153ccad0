"""The settings of a run that takes so many minutes: python train.py --dataset=mydata --minutes=20

    choose(argv, args, ranks, set_up, train_step)    (the command line of that run, its Pace)

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
from train_args import given_flags, parse_args, typed_flags
from training.plan import EPOCHS, mean_step, next_batch, time_of_evaluation, times_of_steps
from training.run_folder import hms

# (layers, channels) to choose from, each up to 1.6 times as much work as the one before
SIZES = ((2, 64), (2, 96), (3, 96), (2, 128), (3, 128), (4, 128), (4, 160), (4, 192), (6, 192),
         (6, 256), (8, 256), (8, 384), (12, 384), (12, 512), (12, 768), (16, 1024), (24, 1024))
TIMED_FIRST = 2  # its place in SIZES
MOST = 10  # parameters of the blocks for each token of the text
ROOM = 1.2e8  # tokens x layers x channels of a micro-batch, at most: some 12 GB for GPT-2 124M
FEW = 50  # iterations
PLANNED = 0.97  # share of the time that is planned for: a pace may fall a little
EVALUATIONS = 0.04  # share of the time that evaluations take, about
OUTSIDE = 4.0  # seconds that a run takes before it comes here, and after its last iteration


# ---- the fitted rule


def predicted_loss(num_params, num_tokens, unique_tokens):
    """Nats a token, up to a constant, of a model that has read so many tokens. num_params: of
    num_params_of(). unique_tokens: those of the text.

    The form and its exponents are those of Hoffmann et al. (arXiv:2203.15556, equation 10), the two
    factors are fitted here. What text is worth that is read again is that of Muennighoff et al.
    (arXiv:2305.16264, equation 5)."""
    again = max(0.0, num_tokens / unique_tokens - 1)  # epochs after the first
    worth = min(num_tokens, unique_tokens) + unique_tokens * 15.4 * (1 - math.exp(-again / 15.4))
    return 15 / num_params ** 0.34 + 20 / worth ** 0.28


def num_params_of(size, vocab_size):
    """About how many parameters a model has in its blocks and its head."""
    n_layer, n_embd = size
    return 12 * n_layer * n_embd ** 2 + vocab_size * n_embd


def flags_of(size, num_tokens, epochs, vocab_size, room, given):
    """{flag: value} of what is chosen for a model of this size that reads about num_tokens, the
    whole text so many times. room: the tokens of the shortest split. given: {flag: value}, which
    the rest has to fit."""
    n_layer, n_embd = size
    block_size = 256 if n_embd < 384 else 512 if n_embd < 768 else 1024
    while block_size > 64 and 8 * block_size > room:
        block_size //= 2
    block_size = first = given.get("block_size", block_size)
    for _ in range(2):  # windows that grow: early on a model learns little from long ones
        first = first // 2 if first >= 128 and first % 2 == 0 else first
    kv = given.get("n_kv_head", 1)
    heads = [n for n in range(kv, max(kv, n_embd // 32) + 1, kv) if n_embd % (2 * n) == 0]
    # the longer a run, the larger the batch that it can use; few steps are worse than noisy ones
    rows = max(1, round(2048 * (num_tokens / 1e6) ** 0.5 / block_size))
    micro_batches = given.get("gradient_accumulation_steps",
                              math.ceil(rows * block_size * n_layer * n_embd / ROOM))
    flags = {"n_layer": n_layer, "n_embd": n_embd, "n_head": max(heads, default=kv),
             "block_size": block_size, "first_block_size": first,
             "batch_size": -(-rows // micro_batches),
             "gradient_accumulation_steps": micro_batches,
             "sampling_method": "without_replacement"}
    if epochs > EPOCHS:  # or the model learns the text by heart
        flags["dropout"] = 0.1
    if given.get("optimizer") != "adamw":
        narrow = min(1.0, 128 / n_embd)
        # the rows of a large vocabulary are met rarely, so each step of theirs has to be larger
        rate = (0.01 if vocab_size < 1000 else 0.03) * narrow
        muon = (0.03 if num_tokens > 500 * rows * block_size else 0.05) * narrow ** 0.25
        flags |= {"muon_learning_rate": float(f"{muon:.2g}"),
                  "learning_rate": float(f"{rate:.2g}"), "muon_momentum": 0.92}
    return {name: value for name, value in flags.items() if name not in given}


# ---- the choice


def choose(argv, args, ranks, set_up, train_step):
    """(argv of the chosen run, its Pace). args: those that argv gives. set_up, train_step:
    train.py's own. Raises UserError."""
    if ranks.count > 1:
        raise UserError("--minutes and --hours time one process. Start it by python train.py, stop "
                        "it, and give torchrun the command that it has printed")
    began, minutes = time.perf_counter(), args.minutes or 60 * args.hours
    seconds = max(30 * minutes, 60 * minutes * PLANNED - OUTSIDE)
    given = {name: value for name, value in given_flags(argv).items()
             if name not in ("minutes", "hours")}
    choice = Choice(given, ranks, set_up, train_step)
    best = choice.best(seconds) if choice.is_new else None
    flags = choice.flags(best, max_iters=1000, eval_iters=1)
    steps, evaluation, args = choice.time(flags, min(20.0, 0.04 * seconds), evaluates=True)
    left = max(0.0, seconds - (time.perf_counter() - began))
    max_iters = max(1, int(left * (1 - EVALUATIONS) / mean_step(steps, args)))
    evaluations = min(max_iters, max(2, min(20, round(minutes))))
    flags |= {"max_iters": max_iters, "eval_interval": -(-max_iters // evaluations),
              "eval_iters": max(1, int(left * EVALUATIONS / evaluations / evaluation))}
    flags = {**flags, **given}
    run = typed_flags({name: value for name, value in flags.items() if name != "plan"})
    ranks.say(f"These settings take about {minutes:g} minutes here. The same run by its flags:\n"
              f"python train.py {shlex.join(run)}\n")
    if max_iters < FEW:
        ranks.say(f"note: {max_iters:,} iterations teach a model little. Give more minutes, or "
                  f"prepare the data with a smaller vocabulary (prepare.py --method bpe)\n")
    return typed_flags(flags), Pace(steps, max(1.0, 60 * minutes - (time.perf_counter() - began)))


class Choice:
    """What a run of each size would be, by steps that are timed here."""

    def __init__(self, given, ranks, set_up, train_step):
        """given: {flag: value} of the command line. set_up, train_step: those of train.py."""
        self.given, self.ranks, self.set_up, self.train_step = given, ranks, set_up, train_step
        self.is_new = given.get("init_from", "scratch") == "scratch"  # else it has its sizes
        n_head = given.get("n_head", given.get("n_kv_head", 1))
        fitting = {"n_head": n_head, "n_embd": 2 * n_head, **given} if self.is_new else given
        with self.run(fitting) as run:
            datasets = run.mixture.datasets
            self.unique = sum(dataset.num_tokens["train"] for dataset in datasets)
            self.room = min(min(dataset.num_tokens.values()) for dataset in datasets)
            self.vocab_size = run.model.config.vocab_size
        fits = [size for size in SIZES if num_params_of(size, 0) < MOST * self.unique] or SIZES[:1]
        unit = 2 * given.get("n_head", 1)  # the heads share the channels
        self.sizes = [*dict.fromkeys(
            (given.get("n_layer", n_layer), given.get("n_embd", max(unit, n_embd - n_embd % unit)))
            for n_layer, n_embd in fits)]

    @contextlib.contextmanager
    def run(self, flags):
        """The Run of the given flags and these, which come after them."""
        argv = typed_flags({**self.given, **flags})
        with contextlib.ExitStack() as stack:
            yield self.set_up(parse_args(argv), argv, self.ranks, stack)

    def flags(self, best, **other):
        """The chosen flags, without those that are given. best: the (size, tokens to read) of a new
        model."""
        chosen = {}
        if best:
            size, num_tokens = best
            chosen = flags_of(size, num_tokens, num_tokens / self.unique, self.vocab_size,
                              self.room, self.given)
        return chosen | {name: value for name, value in other.items() if name not in self.given}

    def time(self, flags, least, evaluates=False):
        """(seconds an iteration by context length, seconds of an evaluation if it evaluates, args).
        least: the seconds to take."""
        with self.run(flags) as run:
            args = run.args
            batch, micro_steps = next_batch(run)
            steps, _ = times_of_steps(run, self.train_step, batch, micro_steps, least)
            part = batch if args.compile == "true" else batch.rows(0, 4)
            return steps, time_of_evaluation(run, part) if evaluates else 0.0, args

    def best(self, seconds):
        """(size, tokens that it reads): the lowest predicted loss after so many seconds.

        A size that is not timed is taken to do as much work() a second as the nearest timed one,
        until it is the best; then it is timed too, on its first context length."""
        rates, size = {}, self.sizes[min(TIMED_FIRST, len(self.sizes) - 1)]
        while size not in rates:
            flags = self.flags((size, 1e6), max_iters=1, eval_iters=1) | {"compile": "false"}
            steps, _, args = self.time(flags, min(0.5, 0.003 * seconds))
            tokens = args.batch_size * args.gradient_accumulation_steps * args.block_size
            rates[size] = tokens / mean_step(steps, args) * self.work(size)
            size = min(self.sizes, key=lambda size: predicted_loss(
                num_params_of(size, self.vocab_size), self.tokens(size, seconds, rates),
                self.unique))
        return size, self.tokens(size, seconds, rates)

    def tokens(self, size, seconds, rates):
        return seconds * rates[self.nearest(size, rates)] / self.work(size)

    def nearest(self, size, rates):
        return min(rates, key=lambda timed: abs(self.sizes.index(timed) - self.sizes.index(size)))

    def work(self, size):
        """The time of a token, about, in parameters of the blocks. A row of the head costs as much
        as 50 of them for its softmax, and its product, which is large, is 12 times as fast."""
        return num_params_of(size, 0) + self.vocab_size * (50 + size[1] / 12)


class Pace:
    """When a run will end, by its pace so far."""

    def __init__(self, steps, seconds):
        """steps: planned seconds an iteration, by context length. seconds: of the whole run."""
        self.steps, self.told = steps, seconds
        self.planned = self.took = 0.0  # seconds of the iterations so far

    def note(self, args, iter_num, num_iters, seconds, run_seconds):
        """What to print after num_iters iterations that took so many seconds, or "". run_seconds:
        those of the run so far, with its evaluations."""
        self.planned += num_iters * self.steps[block_size_at(iter_num - 1, args)]
        self.took += seconds
        left = args.max_iters - iter_num
        left *= mean_step(self.steps, args, iter_num) if left else 0
        end = run_seconds + left * self.took / self.planned
        if self.planned < 0.05 * (self.planned + left) or end < 1.1 * self.told:
            return ""
        before, self.told = self.told, end
        return (f"note: the pace has fallen: this run will end after {hms(end)}, and not after "
                f"{hms(before)}. Its {args.max_iters:,} iterations stay")
