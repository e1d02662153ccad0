"""
Train a GPT on a prepared dataset folder, data/<name>/.

    python train.py                                          # the default: plays, by characters
    python train.py --dataset=mydata --n_layer=6 --n_embd=384 --block_size=256 --dropout=0.2
    python train.py --dataset=shakespeare --init_from=gpt2   # start from published weights
    torchrun --standalone --nproc_per_node=8 train.py --dataset=openwebtext ...   # eight GPUs
    python train.py --dataset=mydata --minutes=20            # the best settings for that time
    python train.py ... --plan                               # say what that would do, and end

Writes out_dir/ckpt.pt (the latest state, to resume from), best.pt (the lowest val loss, to sample
from), args.json, log.csv and, where matplotlib is installed, loss.png.
Every flag: python train.py --help
"""
import argparse
import contextlib
import math
import shlex
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

from pipeline.threads import set_environment

if __name__ == "__main__":
    set_environment()  # before numpy and torch are imported, which read it then

from pipeline.errors import UserError, one_line_errors
from train_args import parse_args

if __name__ == "__main__":
    with one_line_errors():
        parse_args()  # --help and mistakes need not wait the second that importing torch takes

import torch

from model import GPT, GPTConfig
from optim import Optimizer, block_size_at, configure_optimizer, lr_fraction
from pipeline.read.batches import TrainBatches, split_iteration, to_xy
from pipeline.read.mixture import Mixture, start_tokens
from pipeline.read.sampler import seed_of
from training import changes, checkpoint, plan, plots
from training.budget import Pace, choose
from training.device import compile_errors, memory_errors, settle_precision, settle_threads
from training.evaluation import estimate_loss
from training.progress import SaveClock, Since
from training.published import open_source
from training.ranks import Ranks, Stop
from training.run_folder import (
    RunLog,
    claim_out_dir,
    describe_run,
    hms,
    loss_columns,
    open_trackers,
    report,
    resume_command,
)
from training.samples import SampleArgs, speak


@dataclass
class Run:
    """What the loop works with. Shapes: B rows, T = block_size tokens, K aligned streams."""
    args: argparse.Namespace  # the flags, with every `auto` and None decided
    ranks: Ranks  # the device, and the other processes
    mixture: Mixture  # the data, in its order
    model: GPT  # the weights; the two below share them
    optimizer: Optimizer
    scaler: torch.amp.GradScaler  # keeps small gradients above 0 in float16; else it does nothing
    autocast: contextlib.AbstractContextManager  # the forward pass in args.dtype
    loss_weights: torch.Tensor  # (K,): what the loss of each stream counts for
    highest_rates: list  # of each group of the optimizer; the schedule scales them
    train_model: torch.nn.Module = None  # the model, compiled and averaging over ranks if asked for
    eval_model: torch.nn.Module = None  # the model, compiled if asked for
    out_dir: Path = None
    iter_num: int = 0  # finished iterations
    best_val_loss: float = math.inf
    evaluated: dict = field(default_factory=dict)  # columns of log.csv, from the last evaluation
    unevaluated: dict = field(default_factory=dict)  # the row of log.csv that still lacks them
    since: dict = field(default_factory=dict)  # what belongs to the next line of log.csv
    stale: int = 0  # evaluations since the best one
    is_changed: bool = False  # whether the flags of a resumed run change its mixture
    seconds: float = 0.0  # of training, over all starts of the run
    starts: dict = field(default_factory=dict)  # the token that a sample begins with, by dataset
    pace: Pace = None  # the time that --minutes has planned

    @property
    def tokens_per_iter(self):
        args = self.args
        return args.batch_size * args.gradient_accumulation_steps * args.block_size

    @property
    def is_over(self):
        return bool(self.args.patience) and self.stale >= self.args.patience


# ---- set-up


def set_up(args, argv, ranks, stack):
    """The Run that the arguments ask for: a new one, or one brought to where its checkpoint was."""
    saved = out_dir = source = None  # a checkpoint to go on from, its folder; or other weights
    if args.init_from == "resume":
        # locked before it is read, because another process may be saving there
        out_dir = claim_out_dir(args, ranks, stack)
        saved = checkpoint.load_same_checkpoint(out_dir, ranks)
        # flags given now change those of the run
        args = parse_args(argv, saved=saved["args"], iter_num=saved["iter_num"])
        ranks.use(args.device)  # that of the run, unless the flags given now name another
    elif args.init_from != "scratch":
        source = open_source(args.init_from, ranks)
        args = parse_args(argv, sizes=source.sizes())
    settle_precision(args, ranks.device)  # from here on args says what really happens
    settle_threads(args, saved, ranks)
    mixture = open_data(args, saved, ranks)
    # of a published model they may be larger than those of its tokenizer
    vocab_sizes = (source.refuse_other_tokens(mixture) if source else
                   checkpoint.vocab_sizes_of(saved["model_args"]) if saved else mixture.vocab_sizes)
    model = make_model(args, vocab_sizes, ranks, source)
    optimizer = configure_optimizer(model, args, ranks)
    weights = mixture.weights if mixture.num_streams > 1 else [1.0]  # the fractions mix the members
    run = Run(
        args, ranks, mixture, model, optimizer,
        torch.amp.GradScaler(ranks.device.type, enabled=args.dtype == "float16"),
        contextlib.nullcontext() if args.dtype == "float32" else
        torch.autocast(ranks.device.type, dtype=getattr(torch, args.dtype)),
        loss_weights=torch.tensor(weights, dtype=torch.float32, device=ranks.device),
        highest_rates=[group["lr"] for group in optimizer.param_groups],
        train_model=model, eval_model=model, out_dir=out_dir)
    if args.compile == "true" and not args.eval_only:
        torch._dynamo.config.recompile_limit = 64  # windows that grow need a graph for each length
        # a graph for any shape would be slower
        run.train_model = run.eval_model = torch.compile(model, dynamic=False)
    if saved:
        checkpoint.resume(run, saved, out_dir / "ckpt.pt")
        run.is_changed = changes.is_changed(mixture, saved)
        if run.is_changed:
            ranks.say("\n".join(changes.change_lines(mixture)))
        for line in filter(None, (changes.batch_line(args, saved), changes.rate_note(args, saved))):
            ranks.say(line)
    return run


def open_data(args, saved, ranks):
    """The mixture, checked against the arguments and, when resuming, against what the run began
    with."""
    mixture = changes.open_same_data(args, saved)
    split_iteration(args.batch_size, args.gradient_accumulation_steps, ranks.count)  # or raises
    return mixture


def make_model(args, vocab_sizes, ranks, source=None):
    torch.manual_seed(args.seed)  # all ranks draw the same weights
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it
    sizes = {f.name: getattr(args, f.name) for f in fields(GPTConfig) if hasattr(args, f.name)}
    several = tuple(vocab_sizes) if len(vocab_sizes) > 1 else ()  # one table holds them all
    config = GPTConfig(vocab_size=sum(vocab_sizes), vocab_sizes=several, **sizes)
    return source.model(config, args, ranks) if source else GPT(config).to(ranks.device)


# ---- one iteration


def train_step(run, micro_batches):
    """The gradient of all micro-batches, then one step of the optimizer.

    micro_batches: a list of Batches, on the CPU. Returns (mean loss, learned tokens): the loss of
    this rank, as a tensor, since to read its value here would make every step wait for the GPU;
    and how many targets of all ranks are learned. Where none is, no step is taken.
    """
    args, ranks = run.args, run.ranks
    # each learned token of the iteration counts alike, in whichever micro-batch and rank it is
    counts = torch.tensor([[batch.num_learned(), batch.num_targets()] for batch in micro_batches])
    counts = counts.sum(0)
    if run.mixture.is_masked and not args.plan:  # which one rank alone does
        counts = ranks.sum(counts)
    num_learned, num_targets = counts.tolist()
    # the schedules are functions of the iteration, so a resumed run needs no state of theirs
    fraction, length = lr_fraction(run.iter_num, args), block_size_at(run.iter_num, args)
    mean_loss = torch.zeros((), device=ranks.device)
    for micro_step, batch in enumerate(micro_batches if num_learned else ()):
        x, y, marks = to_xy(batch, ranks.device, length)  # x, y: (B, T[, K]), y one token later
        if args.dropout:
            # the masks depend on the position alone, so a resumed run draws the same ones
            torch.manual_seed(seed_of(args.seed, "dropout", run.iter_num, micro_step, ranks.rank))
        if ranks.count > 1:  # ranks exchange gradients once an iteration, with the last micro-batch
            run.train_model.require_backward_grad_sync = micro_step == len(micro_batches) - 1
        with run.autocast:
            _, loss = run.train_model(x, y, **marks)  # (K,), in nats a token
            loss = (loss * run.loss_weights).sum() / len(micro_batches)  # a mean over micro-batches
            if num_learned < num_targets:  # the model's mean is over all of them
                loss = loss * (num_targets / num_learned)
        run.scaler.scale(loss).backward()  # adds to the gradients of the micro-batches before
        mean_loss += loss.detach()

    if not num_learned:
        return mean_loss, 0
    for group, highest in zip(run.optimizer.param_groups, run.highest_rates):
        group["lr"] = highest * fraction
    if args.grad_clip:  # one bad batch must not throw the weights far away
        run.scaler.unscale_(run.optimizer)  # the norm is that of the true gradients
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), args.grad_clip)
    run.scaler.step(run.optimizer)  # which float16 skips where a gradient has overflown
    run.scaler.update()
    run.optimizer.zero_grad()
    return mean_loss, num_learned


# ---- the loop


def train(run, argv, stack):
    """Iterate to max_iters. Some iterations are followed by a progress line, an evaluation and a
    checkpoint."""
    args = run.args
    log, batches, stop = begin(run, argv, stack)
    clock = SaveClock(args.save_minutes)
    if run.ranks.is_first:  # whose clock decides for all
        stop.save_due = clock.due
    if run.unevaluated:  # a signal has ended the run's last evaluation, which is now made up for
        evaluate_and_save(run, log, stop, run.unevaluated)
    since = Since(run, batches)

    while run.iter_num < args.max_iters and not stop.number and not run.is_over:
        loss, learned = train_step(run, [next(batches) for _ in range(batches.micro_steps)])
        since.add(loss, learned)
        run.iter_num += 1

        stop.agreed()  # all ranks leave the loop at the same iteration, or none does
        evaluate = run.iter_num % args.eval_interval == 0 or run.iter_num == args.max_iters
        if evaluate or run.iter_num % args.log_interval == 0 or stop.number:
            # this reads from the device and so waits for it; most iterations do not come here
            row = since.row(log)
            if evaluate:
                evaluate_and_save(run, log, stop, row)
                clock.saved()
            else:
                log.row(row)
            since.restart()
        if stop.saves and not evaluate:
            clock.save(since)
    finish(run, log, stop)


def begin(run, argv, stack):
    """(log, batches, stop): the run's folder is made, and what the loop needs is opened."""
    args, ranks = run.args, run.ranks
    run.train_model = ranks.wrap(run.train_model)
    run.out_dir = run.out_dir or claim_out_dir(args, ranks, stack)
    ranks.out_dir, args.out_dir = run.out_dir, str(run.out_dir)
    trackers = ()
    if ranks.is_first:  # one process writes for all
        run.starts = start_tokens(run.mixture)
        describe_run(run, argv)
        trackers = open_trackers(run, stack)
    if run.is_changed:
        changes.begin_change(run)
    log = RunLog(run, trackers)
    ranks.say(f"run    iterations {run.iter_num:,} to {args.max_iters:,}, each of "
              f"{run.tokens_per_iter:,} tokens, {args.sampling_method}\n       on {ranks} in "
              f"{args.dtype}{', compiled' if args.compile == 'true' else ''}, into {run.out_dir}/")
    batches = TrainBatches(
        run.mixture, batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        iter_num=run.iter_num, max_iters=args.max_iters, rank=ranks.rank, num_ranks=ranks.count,
        pin_memory=ranks.device.type == "cuda")
    stack.callback(batches.close)
    stop = Stop(ranks)
    stack.callback(stop.restore)
    return log, batches, stop


def finish(run, log, stop):
    args, out_dir = run.args, shlex.quote(str(run.out_dir))
    if stop.number and (run.iter_num < args.max_iters or run.unevaluated):
        if run.evaluated.get("iter") != run.iter_num:  # else it was saved after its evaluation
            checkpoint.save(run)
        log.line(f"stopped at iteration {run.iter_num:,}. To go on, run: "
                 f"{resume_command(run.out_dir)}")
        sys.exit(128 + stop.number)
    if run.is_over:
        log.line(f"the run ends at iteration {run.iter_num:,}: {run.stale:,} evaluations have "
                 f"found no lower val loss (--patience)")
    log.line(f"done in {hms(run.seconds)}: best val loss {run.best_val_loss:.4f}. "
             f"For more text, run: python sample.py --out_dir={out_dir}")
    stop.restore()  # from here on a signal may end us: everything is saved
    if run.ranks.is_first:
        plots.plot_or_say_why(run.out_dir)
        if not args.sample_every_eval:
            print_sample(run)


def evaluate_and_save(run, log, stop, row):
    """Evaluate, write the row of log.csv, and save a checkpoint. A signal ends the evaluation; the
    checkpoint of finish() then holds the row, and the resumed run begins here."""
    losses = estimate_loss(run, run.iter_num - 1, stop)
    run.unevaluated = {} if losses else row
    if not losses:
        return
    run.evaluated = {"iter": run.iter_num, **loss_columns(run, losses)}
    is_best = run.evaluated["val_loss"] < run.best_val_loss
    run.best_val_loss = min(run.evaluated["val_loss"], run.best_val_loss)
    run.stale = 0 if is_best else run.stale + 1
    for line in report(run, run.evaluated, " (best)" if is_best else ""):
        log.line(line)
    # the log comes first: a resumed run can drop rows after its checkpoint, but not restore lost
    # ones
    log.row(row | run.evaluated)
    checkpoint.save(run, is_best)
    if run.args.sample_every_eval and run.ranks.is_first:
        if stop.ends(lambda: print_sample(run)):
            print()  # after half a line
    stop.agreed()  # a signal that has come meanwhile need not wait for another iteration


def print_sample(run):
    if not run.args.max_sample_tokens:
        return
    run.model.eval()
    try:
        print()
        speak(run.model, run.mixture.metas, run.starts, run.args.training_mode,
              SampleArgs(max_new_tokens=run.args.max_sample_tokens), run.ranks.device)
    except UserError as error:  # foreign data may lack what decoding needs; training is done
        print(f"note: no sample, because {error}")
    finally:
        run.model.train()


def main(argv=None):
    args = parse_args(argv)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())  # a notebook keeps its own
        ranks = stack.enter_context(Ranks(args.device))
        stack.enter_context(memory_errors(ranks.device))
        stack.enter_context(compile_errors())
        pace = None
        if args.minutes or args.hours:  # as if the settings that take so long had been typed
            argv, pace = choose(argv, args, ranks, set_up, train_step)
            args = parse_args(argv)
        run = set_up(args, argv, ranks, stack)
        run.pace, args = pace, run.args
        trains = args.plan or not args.eval_only
        if trains and run.is_over and not run.unevaluated:
            raise UserError(f"this run has ended at iteration {run.iter_num:,}: {run.stale:,} "
                            f"evaluations found no lower val loss. To go on, raise --patience")
        is_complete = run.iter_num >= args.max_iters and (args.plan or not run.unevaluated)
        if trains and is_complete:
            raise UserError(f"this run is complete: it has done {run.iter_num:,} of "
                            f"{args.max_iters:,} iterations. To train longer, raise --max_iters")
        for line in plan.data_lines(run) if trains else ():
            ranks.say(line)
        ranks.say(plan.model_line(run))
        if args.plan:
            if ranks.is_first:
                plan.print_plan(run, train_step)
        elif args.eval_only:
            # at the context length of the evaluation that the loop did at this iteration
            losses = estimate_loss(run, max(0, run.iter_num - 1))
            ranks.say("\n".join(report(run, loss_columns(run, losses))))
        else:
            train(run, argv, stack)


if __name__ == "__main__":
    with one_line_errors():
        main()
