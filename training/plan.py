"""What a run will do, before it does it: python train.py ... --plan. Writes nothing.

    data_lines(run), model_line(run)   what every run begins with: its data, the model's size
    print_plan(run, train_step)        FLOPs, time, memory, the first batch, what looks wrong
"""
import contextlib
import re
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from model import GPT
from optim import block_size_at, configure_optimizer, lr_fraction
from pipeline.errors import UserError
from pipeline.read.batches import TrainBatches, to_xy
from pipeline.read.documents import marked_line, positions_in, window_marks
from pipeline.read.mixture import sample_ids, sample_places
from pipeline.read.sampler import eval_starts, windows_per_epoch
from pipeline.tokenizers import token_text
from training.run_folder import hms, new_out_dir, short

USUAL_RATES = {  # highest learning rates, from those that train slowly to those that blow up
    "AdamW alone": (3e-5, 1e-2), "AdamW with Muon": (3e-4, 0.1), "Muon": (2e-3, 0.2),
}
# text that is read more often than this teaches much less (Muennighoff et al., arXiv:2305.16264)
EPOCHS = 4
LOOK_AT = 1 << 24  # tokens of a dataset that the warnings go by, in pieces from all over it
TIMED = 1.5  # seconds that the timed steps take, about


def what_is_read(run):
    """{dataset: (tokens, epochs)} that the remaining iterations read."""
    before, after = (run.mixture.consumed(n * run.mixture.steps)
                     for n in (run.iter_num, run.args.max_iters))
    return {name: tuple(b - a for a, b in zip(before[name], after[name])) for name in before}


def data_lines(run):
    """The datasets, a line each: tokens, windows an epoch, and what_is_read()."""
    args, mixture, read = run.args, run.mixture, what_is_read(run)
    total = max(1, sum(tokens for tokens, _ in read.values()))
    yield (f"{'dataset':20} {'train tokens':>15} {'windows':>11} {'this run reads':>15}  epochs  "
           f"share")
    for dataset in mixture.datasets:
        name, num_tokens = dataset.name, dataset.num_tokens["train"]
        tokens, epochs = read[name]
        windows = windows_per_epoch(args.sampling_method, num_tokens, args.block_size)
        name = f"{name:20}" if len(name) <= 20 else f"{name}\n{'':20}"
        yield (f"{name} {num_tokens:15,} {windows:11,} {tokens:15,} {epochs:7.2f} "
               f"{tokens / total:6.1%}")
    for dataset in {member[0].name: member[0] for member in mixture.members}.values():
        yield from marks_lines(dataset, args)
    G = mixture.steps
    if args.training_mode == "multidataset" and args.dataset_sampling_probs_final:
        start, end = mixture.fractions_at(np.array([run.iter_num * G, args.max_iters * G]))
        moves = ", ".join(f"{name} {a:.0%} to {b:.0%}"
                          for name, a, b in zip(mixture.columns, start, end) if a or b)
        yield from textwrap.wrap(f"shares move from the first iteration to the last: {moves}", 79)


def marks_lines(dataset, args):
    """What is known of a dataset's tokens: how many are learned, in how many documents."""
    of_train = dataset.meta.get("splits", {}).get("train", {})
    if dataset.has_mask:
        learned, num_tokens = of_train["mask"]["learned"], dataset.num_tokens["train"]
        yield (f"{dataset.name}: {learned:,} of its {num_tokens:,} train tokens are learned "
               f"({learned / num_tokens:.1%})")
    if args.documents and dataset.has_index:
        count = of_train["docs"]["count"]
        first = "" if dataset.meta["docs"]["ended"] else (
            "; the first token of each is not learned, because nothing of it comes before")
        yield f"{dataset.name}: {count:,} documents in train{first}"
    elif args.documents and of_train.get("documents") in (0, 1):
        yield f"{dataset.name}: train is one document, so that --documents changes nothing in it"


def model_line(run):
    args, model = run.args, run.model
    return (f"model  {args.arch}, {model.num_params():,} parameters: {args.n_layer} layers, "
            f"{args.n_head} heads, {args.n_embd} wide, vocab {model.config.vocab_size:,}")


def memory_of(model, optimizer):
    """(bytes of a model's weights, bytes that its optimizer keeps)."""
    kept = sum(t.nbytes for state in optimizer.state.values() for t in state.values())
    return sum(t.nbytes for t in model.parameters()), kept


def memory_line(config, args, source, device):
    """What a model to begin with will take, found out by its sizes alone. Raises UserError where
    the device has not that much."""
    with torch.device("meta"):
        model = GPT(config)
    weights, kept = memory_of(model, configure_optimizer(model, args))
    needed, free, download = 2 * weights + kept, free_memory(device), source.download_size()
    line = (f"from   {source.name}: {model.num_params():,} parameters; {short(needed)}B of memory "
            f"for weights,\n       gradients and optimizer, and more for activations")
    if download:
        line += f"; {short(download)}B to download"
    if free is not None and needed > free:
        raise UserError(f"{' '.join(line.split())}. {device} has {short(free)}B free: take a "
                        f"smaller model, or a machine with more memory")
    return line


def free_memory(device):
    """The bytes that a device has free, or None where that is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        told = Path("/proc/meminfo").read_text()
        return int(re.search(r"MemAvailable:\s+(\d+) kB", told)[1]) * 1024
    return None


def print_plan(run, train_step):
    """Print what follows data_lines() and model_line(). train_step: the loop's own. The timing
    trains the model on nonsense, so the run cannot go on after it."""
    args, device, iters = run.args, run.ranks.device, run.args.max_iters - run.iter_num
    tokens = iters * run.tokens_per_iter
    rates = f"adamw {args.learning_rate:g}"
    if args.optimizer == "muon":
        rates = f"muon {args.muon_learning_rate:g}, {rates}"
    print(f"run    iterations {run.iter_num:,} to {args.max_iters:,}, each of "
          f"{run.tokens_per_iter:,} tokens, {args.sampling_method}: {tokens:,} tokens,\n"
          f"       {short(run.model.flops_per_token() * tokens)} FLOPs in {args.dtype} on "
          f"{run.ranks}; learning rate: {rates}")

    # these read the run as it is, so they come before the timing
    out_dir = run.out_dir or new_out_dir(args, make=False)
    shown, noted = list(first_batch(run)), list(warnings(run))
    evaluations = -(-args.max_iters // args.eval_interval) - run.iter_num // args.eval_interval
    batch, micro_steps = next_batch(run)
    is_compiled = args.compile == "true"
    if is_compiled:
        print("       (compiles first, as the run will: half a minute for each context length)",
              flush=True)
    steps, rows = times_of_steps(run, train_step, batch, micro_steps)
    step = mean_step(steps, args, run.iter_num)
    evaluation = time_of_evaluation(run, batch if is_compiled else batch.rows(0, 16))
    weights, kept = memory_of(run.model, run.optimizer)
    print(f"time   {hms(iters * step + evaluations * evaluation)}: {span(step)} per iteration, "
          f"{span(evaluation)} per evaluation ({evaluations:,} of them)"
          f"{', without the time to compile' if is_compiled else ''}")
    print(f"memory {short(2 * weights + kept)}B for weights, gradients and optimizer,\n"
          f"       {peak_memory(device)} with {rows} at once")
    print(f"writes ckpt.pt and best.pt ({short(weights + kept)}B each), args.json, log.csv and "
          f"loss.png,\n       into {out_dir}/")
    print("\nThe first batch, a row of each dataset: tokens, and below each its target")
    print(*shown, sep="\n")
    wrapper = textwrap.TextWrapper(79, subsequent_indent="      ", break_on_hyphens=False)
    for warning in noted:
        print(wrapper.fill(f"note: {warning}"))


# ---- time and memory, measured


def next_batch(run):
    """(the next micro-batch of rank 0, how many it has in an iteration)."""
    args = run.args
    batches = TrainBatches(
        run.mixture, batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        iter_num=run.iter_num, max_iters=run.iter_num + 1, num_ranks=run.ranks.count)
    with contextlib.closing(batches):
        return next(batches), batches.micro_steps


def times_of_steps(run, train_step, batch, micro_steps, least=None):
    """({context length: seconds an iteration}, the rows that were timed in words), from a few real
    iterations at each of the lengths that --first_block_size brings. least: the seconds that this
    takes, if not TIMED.

    A few rows are timed first, then more, until it is a whole micro-batch or takes long enough;
    the rest is in proportion. """
    args, first = run.args, run.iter_num
    least = TIMED if least is None else least
    # compiled, each number of rows would take half a minute more
    num_rows = len(batch.ids)
    rows = num_rows if args.compile == "true" else 1
    run.model.train()
    lengths = {length: at for length, (at, _) in lengths_of(args, first).items()}

    def timed(length, micro_steps):
        part, run.iter_num = batch.rows(0, rows), lengths[length]
        return elapsed(lambda: train_step(run, [part] * micro_steps), run.ranks.device)
    for length in lengths:
        timed(length, 1)  # it compiles, takes memory, and finds cold caches
        while timed(length, 1) < (min(0.5, least) or 0.5) and rows < num_rows:
            rows = min(num_rows, 4 * rows)
    # two micro-steps less one are a micro-step; what is left of one is the optimizer's step
    more, ones, twos = micro_steps * num_rows / rows - 1, Counter(), Counter()
    began, rounds = time.perf_counter(), 0
    while not rounds or time.perf_counter() - began < least:
        rounds += 1
        for length in lengths:  # in turn, because a machine's pace changes with other work
            one = timed(length, 1)
            if one < 0.2:  # a short step is slower after one of another length
                one = sum(timed(length, 1) for _ in range(4)) / 4
            ones[length] += one
            twos[length] += timed(length, 2) if more else 0.0
    run.iter_num = first
    seconds = {length: (one + more * max(0.0, twos[length] - one)) / rounds
               for length, one in ones.items()}
    return seconds, f"{rows} of {num_rows} rows" if rows < num_rows else f"{rows} rows"


def lengths_of(args, first):
    """{context length: (an iteration with it, its share of the iterations from `first` on)}."""
    sampled = np.linspace(first, args.max_iters - 1, min(args.max_iters - first, 1000)).astype(int)
    lengths = [block_size_at(i, args) for i in sampled.tolist()]
    counts, at = Counter(lengths), dict(zip(lengths, sampled.tolist()))
    return {length: (i, counts[length] / len(lengths)) for length, i in at.items()}


def mean_step(seconds, args, first=0):
    """Seconds an iteration, over those from `first` on. seconds: by context length."""
    return sum(seconds[length] * share for length, (_, share) in lengths_of(args, first).items())


def time_of_evaluation(run, batch):
    """Seconds, from the time that these rows take without gradients."""
    args, asked = run.args, run.args.eval_iters * run.mixture.batch_size
    num_windows = sum(len(eval_starts(member[0].num_tokens[split], args.block_size, asked)[0])
                      for member in run.mixture.members
                      for split in (("train", "val") if args.eval_train else ("val",)))
    x, y, marks = to_xy(batch, run.ranks.device)
    run.model.eval()
    with torch.no_grad(), run.autocast:
        seconds = np.median([elapsed(lambda: run.eval_model(x, y, **marks), run.ranks.device)
                             for _ in range(5)])
    return seconds / len(x) * num_windows / run.ranks.count


def elapsed(work, device):
    """Seconds that work() takes, to its end on the device."""
    t0 = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - t0


def peak_memory(device):
    """The most memory that the process has held so far, in words."""
    if device.type == "cuda":
        return f"{short(torch.cuda.max_memory_allocated(device))}B at the most"
    try:
        import resource
    except ImportError:  # Windows
        return "and more"
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{short(peak)}B for the whole process"


def span(seconds):
    return f"{seconds:.2g} s" if seconds < 60 else hms(seconds)


# ---- the first batch


def first_batch(run):
    """Lines: of each dataset its first row in the next iteration, tokens above their targets."""
    args, mixture = run.args, run.mixture
    G = args.batch_size * args.gradient_accumulation_steps
    member, starts = mixture.places(np.arange(run.iter_num * G, (run.iter_num + 1) * G))
    for d, streams in enumerate(mixture.members):
        rows = np.flatnonzero(member == d)
        for dataset in streams:
            if not rows.size:
                yield f"  {dataset.name}: no row in this batch"
                continue
            start, length = int(starts[rows[0]]), min(args.block_size, 80) + 1
            ids, learned, first = window_marks(dataset, "train", start, length)
            if dataset is not streams[0]:  # the marks of the first stream count
                _, learned, first = window_marks(streams[0], "train", start, length)
            yield f"  {dataset.name}: {len(rows):,} of {G:,} rows. The row from token {start:,}:"
            dim = sys.stdout.isatty()
            tokens = [token_text(dataset.meta, i) for i in ids.tolist()]
            widths = [max(map(len, pair)) + (not dim and not is_learned)  * 2
                      for *pair, is_learned in zip(tokens, tokens[1:], learned[1:])]
            fit = sum(np.cumsum(np.add(widths, 1)) < 72)
            for part, marks, begin in ((tokens, np.ones(length, bool), first),
                                       (tokens[1:], learned[1:], first[1:])):
                cells = [token.ljust(width - 2 * (not dim and not is_learned))
                         for token, width, is_learned in zip(part[:fit], widths, marks)]
                yield "    " + marked_line(cells, marks, begin, dim).rstrip()


# ---- what looks wrong


def warnings(run):
    """Sentences on what is unusual about the run."""
    for dataset in run.mixture.datasets:
        yield from _warnings_of(dataset, run)
    args = run.args
    beside = "AdamW with Muon" if args.optimizer == "muon" else "AdamW alone"
    for flag, kind in (("learning_rate", beside), ("muon_learning_rate", "Muon")):
        rate, (low, high) = getattr(args, flag), USUAL_RATES[kind]
        if rate and not low <= rate <= high:
            yield f"--{flag} {rate:g} is outside the usual range of {kind}, {low:g} to {high:g}"
    if args.warmup_iters >= args.max_iters:
        yield (f"--warmup_iters {args.warmup_iters:,} is not below --max_iters {args.max_iters:,}, "
               f"so the learning rate only rises: it ends at "
               f"{lr_fraction(args.max_iters - 1, args):.0%} of its highest")
    elif not lr_fraction(args.max_iters - 1, args):
        yield (f"the learning rate is 0 from iteration {args.lr_decay_iters:,} "
               f"(--lr_decay_iters) to {args.max_iters:,} (--max_iters), in which nothing is "
               f"learned")
    halfway = run.iter_num + (args.max_iters - run.iter_num) // 2
    if args.patience and lr_fraction(args.max_iters - 1, args) < lr_fraction(halfway, args):
        yield (f"--patience {args.patience} may end the run early. The learning rate falls up to "
               f"the end, and the lowest val loss usually comes there")


def _warnings_of(dataset, run):
    args, name, (_, epochs) = run.args, dataset.name, what_is_read(run)[dataset.name]
    if epochs > EPOCHS:
        fewer = int(run.iter_num + (args.max_iters - run.iter_num) * EPOCHS / epochs)
        lower = f"lower --max_iters to {fewer}, " if fewer > run.iter_num else ""
        yield (f"this run reads {name} {epochs:.1f} times. After about {EPOCHS} readings, "
               f"repeated text helps little: {lower}add text, or raise --dropout")
    windows = windows_per_epoch("sequential", dataset.num_tokens["val"], args.block_size)
    asked = args.eval_iters * run.mixture.batch_size
    if windows < asked / 2:
        batches = -(-windows // args.batch_size)
        do = (f"Lower --eval_iters to {batches}, or give" if batches < args.eval_iters else "Give")
        yield (f"val of {name} has {windows:,} window{'s' * (windows != 1)} and an evaluation asks "
               f"for {asked:,}, so each evaluation reads all of val. {do} val more text")
    if dataset.has_mask:
        yield from _cut_answers(dataset, args.block_size)
    counts, lengths = look_at(dataset)
    whole = counts.sum() == dataset.num_tokens["train"]
    looked = "" if whole else f" ({counts.sum():,} tokens were looked at)"
    unseen = int((counts == 0).sum())
    # the alphabet of an aligned stream is complete by design
    if unseen > dataset.vocab_size / 10 and "stream" not in dataset.meta:
        yield (f"{unseen:,} of the {dataset.vocab_size:,} ids of {name}'s vocabulary never occur "
               f"in {dataset.path('train')}{looked}. Their embeddings are never trained, but "
               f"cost memory and time. Use a smaller vocabulary")
    if len(lengths) and args.block_size > (median := np.median(lengths)):
        yield (f"--block_size {args.block_size} is longer than most documents of {name} (half have "
               f"{median:,.0f} tokens or fewer), so a window holds parts of several; a shorter one "
               f"would lose little")


def _cut_answers(dataset, block_size):
    """A warning where most answers end further from their document's beginning than a window."""
    needed = np.concatenate([lengths_of_answers(dataset, start, size)
                             for start, size in sample_places(dataset, LOOK_AT)])
    if len(needed) and (cut := (needed > block_size).mean()) > 0.5:
        yield (f"{cut:.0%} of the answers of {dataset.name} (runs of learned tokens) end more than "
               f"--block_size {block_size} tokens after their document begins, so most are learned "
               f"without all that they answer. Half need {int(np.median(needed)):,} tokens or more")


def lengths_of_answers(dataset, start, size):
    """Of each run of learned tokens in a piece of train: the tokens from the beginning of its
    document, or without an index of the run, to its end."""
    mask = dataset.read_mask("train", np.array([start]), size)[0]
    edges = np.flatnonzero(np.diff(mask, prepend=0, append=0))
    begin, end = edges[::2] + start, edges[1::2] + start
    if dataset.has_index:
        records = dataset.documents("train")
        begin = records["start"][positions_in(records["start"], begin + 1) - 1].astype(np.int64)
    return end - begin


def look_at(dataset):
    """(how often each id occurs, lengths of complete documents in tokens) in the train split, or in
    pieces from all over it."""
    eot = dataset.meta.get("eot_token")
    counts, lengths = np.zeros(dataset.vocab_size, dtype=np.int64), []
    for piece in sample_ids(dataset, LOOK_AT):
        counts += np.bincount(piece[piece < dataset.vocab_size], minlength=dataset.vocab_size)
        if eot is not None:
            lengths += (np.diff(np.flatnonzero(piece == eot)) - 1).tolist()
    return counts, lengths
