"""What a run will do, before it does it: python train.py ... --plan. Writes nothing.

    data_lines(...), model_line(...)   what every run begins with: what it reads of each dataset, the model's size
    print_plan(...)                    FLOPs, time, memory, the first batch as text, and what looks wrong, in words
"""
import textwrap
import time
from collections import Counter

import numpy as np
import torch

from optim import block_size_at
from pipeline.read.batches import TrainBatches, to_xy
from pipeline.read.mixture import sample_ids
from pipeline.read.sampler import eval_starts, windows_per_epoch
from pipeline.tokenizers import token_text
from training.run_folder import flops_per_token, hms, new_out_dir, short

USUAL_RATES = {  # of --learning_rate and --muon_learning_rate, at their highest: from what trains slowly to what blows up
    "adamw alone": (3e-5, 1e-2), "adamw beside muon": (3e-4, 0.1), "muon": (2e-3, 0.2),
}
EPOCHS = 4  # repeated more often, text teaches much less than new text (Muennighoff et al., arXiv:2305.16264)
LOOK_AT = 1 << 24  # tokens of a dataset that the warnings go by, in pieces from all over it
TIMED = 1.5  # seconds of steps, about


def what_is_read(mixture, args, iter_num):
    """{dataset: (tokens, epochs)} that iterations iter_num to max_iters read."""
    before, after = (mixture.consumed(n * args.gradient_accumulation_steps) for n in (iter_num, args.max_iters))
    return {name: tuple(b - a for a, b in zip(before[name], after[name])) for name in mixture.names}


def data_lines(mixture, args, iter_num, read):
    """The datasets, a line each: tokens, windows an epoch, and what_is_read()."""
    total = max(1, sum(tokens for tokens, _ in read.values()))
    yield f"{'dataset':20} {'train tokens':>15} {'windows':>11} {'this run reads':>15}  epochs  share"
    for dataset in mixture.datasets:
        name, num_tokens, (tokens, epochs) = dataset.name, dataset.num_tokens["train"], read[dataset.name]
        windows = windows_per_epoch(args.sampling_method, num_tokens, args.block_size)
        name = f"{name:20}" if len(name) <= 20 else f"{name}\n{'':20}"
        yield f"{name} {num_tokens:15,} {windows:11,} {tokens:15,} {epochs:7.2f} {tokens / total:6.1%}"
    G = args.gradient_accumulation_steps
    if args.training_mode == "multidataset" and args.dataset_sampling_probs_final:
        start, end = mixture.fractions_at(np.array([iter_num * G, args.max_iters * G]))
        moves = ", ".join(f"{name} {a:.0%} to {b:.0%}" for name, a, b in zip(mixture.names, start, end))
        yield from textwrap.wrap(f"shares move from the first iteration to the last: {moves}", 79)


def model_line(args, model):
    return (f"model  {args.arch}, {model.num_params():,} parameters: {args.n_layer} layers, {args.n_head} heads, "
            f"{args.n_embd} wide, vocab {model.config.vocab_size:,}")


def print_plan(args, mixture, model, optimizer, autocast, device, iter_num, num_ranks, out_dir, read):
    """Print what follows data_lines() and model_line(). out_dir: of the run to resume, or None. The model and the
    optimizer are used up by timing."""
    iters = args.max_iters - iter_num
    tokens_per_iter = args.batch_size * args.gradient_accumulation_steps * args.block_size
    rates = f"muon {args.muon_learning_rate:g}, adamw {args.learning_rate:g}" if args.optimizer == "muon" else (
        f"adamw {args.learning_rate:g}")
    print(f"run    iterations {iter_num:,} to {args.max_iters:,} of {tokens_per_iter:,} tokens, {args.sampling_method}: "
          f"{iters * tokens_per_iter:,} tokens,\n       {short(flops_per_token(model) * iters * tokens_per_iter)} FLOPs "
          f"in {args.dtype} on {f'{num_ranks} x ' if num_ranks > 1 else ''}{device.type}; learning rate: {rates}")

    step, evaluation, state, rows = measure(args, mixture, model, optimizer, autocast, device, iter_num, num_ranks)
    evaluations = -(-args.max_iters // args.eval_interval) - iter_num // args.eval_interval
    print(f"time   {hms(iters * step + evaluations * evaluation)}: {span(step)} an iteration, {span(evaluation)} an "
          f"evaluation ({evaluations:,} of them)" + (", compiling left out" if args.compile == "true" else ""))
    print(f"memory {short(state)}B of weights, gradients and optimizer,\n       with {rows} at once {peak_memory(device)}")
    out_dir = out_dir or new_out_dir(args, make=False)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"writes ckpt.pt and best.pt ({short(state - weights)}B each), args.json, log.csv and loss.png,\n"
          f"       into {out_dir}/")

    print("\nThe first batch, a row of each dataset: tokens, and below each its target")
    for line in first_batch(args, mixture, iter_num):
        print(line)
    for warning in warnings(args, mixture, iter_num, read):
        print(textwrap.fill(f"note: {warning}", 79, subsequent_indent="      ", break_on_hyphens=False))


# ---- time and memory, measured


def measure(args, mixture, model, optimizer, autocast, device, iter_num, num_ranks):
    """From a few steps: seconds an iteration, seconds an evaluation, bytes of weights, gradients and optimizer, and with
    how many rows in one go that was measured, in words.

    A few rows of a micro-batch are timed first, then more, until it is all of them or half a second: the rest is then
    in proportion. Shorter windows, of --first_block_size, are timed each by themselves.
    """
    batches = TrainBatches(mixture, gradient_accumulation_steps=args.gradient_accumulation_steps, iter_num=iter_num,
                           max_iters=iter_num + 1, num_ranks=num_ranks)
    x, y = to_xy(next(batches), device)
    batches.close()
    sampled = np.linspace(iter_num, args.max_iters - 1, min(args.max_iters - iter_num, 1000)).astype(int).tolist()
    lengths = Counter(block_size_at(i, args) for i in sampled)

    def forward(rows, length):
        with autocast:
            return model(*(part[:rows].reshape(-1, length, *part.shape[2:]) for part in (x, y)))[1].sum()

    def seconds(work):
        t0 = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - t0

    def update():
        if args.grad_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()

    model.train()
    rows, micro_step, updates = 1, 0.0, []
    for length, times in lengths.items():
        while (once := seconds(lambda: forward(rows, length).backward())) < 0.5 and rows < len(x):
            rows = min(len(x), 4 * rows)
        runs, began = [once], time.perf_counter()
        while True:
            state = sum(t.numel() * t.element_size() for p in model.parameters() for t in (p, p.grad))
            updates.append(seconds(update))
            optimizer.zero_grad()
            if time.perf_counter() - began > TIMED / len(lengths):
                break
            runs.append(seconds(lambda: forward(rows, length).backward()))
        micro_step += np.median(runs) * len(x) / rows * times / len(sampled)
    state += sum(t.numel() * t.element_size() for kept in optimizer.state.values() for t in kept.values())
    model.eval()
    with torch.no_grad():
        row = np.median([seconds(lambda: forward(rows, max(lengths))) for _ in range(5)]) / rows
    evaluated = sum(len(eval_starts(member[0].num_tokens[split], args.block_size, args.eval_iters * args.batch_size)[0])
                    for member in mixture.members for split in (("train", "val") if args.eval_train else ("val",)))
    return (batches.micro_steps * micro_step + np.median(updates), row * evaluated / num_ranks, state,
            f"{rows} of {len(x)} rows" if rows < len(x) else f"{rows} rows")


def peak_memory(device):
    """Words on the most memory that the process has held so far."""
    if device.type == "cuda":
        return f"{short(torch.cuda.max_memory_allocated(device))}B at most"
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return "more"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{short(peak)}B, Python and all"


def span(seconds):
    return f"{seconds:.2g} s" if seconds < 60 else hms(seconds)


# ---- the first batch


def first_batch(args, mixture, iter_num):
    """Lines: of each dataset the first row that it has in iteration iter_num, its tokens and below them the targets."""
    G = args.batch_size * args.gradient_accumulation_steps
    member, starts = mixture.places(np.arange(iter_num * G, (iter_num + 1) * G))
    for d, streams in enumerate(mixture.members):
        rows = np.flatnonzero(member == d)
        for dataset in streams:
            if not rows.size:
                yield f"  {dataset.name}: no row in this batch"
                continue
            start = int(starts[rows[0]])
            ids = dataset.read("train", starts[rows[:1]], min(args.block_size, 80) + 1)[0].tolist()
            yield f"  {dataset.name}: {len(rows):,} of {G:,} rows; the first, from token {start:,}:"
            tokens = [token_text(dataset.meta, i) for i in ids]
            widths = [max(map(len, pair)) for pair in zip(tokens, tokens[1:])]
            shown = sum(np.cumsum(np.add(widths, 1)) < 72)
            for part in (tokens, tokens[1:]):
                yield "    " + "|".join(token.ljust(width) for token, width in zip(part[:shown], widths)).rstrip()


# ---- what looks wrong


def warnings(args, mixture, iter_num, read):
    """Sentences on what is unusual."""
    for dataset in mixture.datasets:
        name, (_, epochs) = dataset.name, read[dataset.name]
        if epochs > EPOCHS:
            fewer = int(iter_num + (args.max_iters - iter_num) * EPOCHS / epochs)
            lower = f"lower --max_iters to {fewer}, " if fewer > iter_num else ""
            yield (f"{name} is gone through {epochs:.1f} times. Beyond about {EPOCHS} times, text seen again teaches little: "
                   f"{lower}add text, or --dropout")
        windows = windows_per_epoch("sequential", dataset.num_tokens["val"], args.block_size)
        if windows < args.eval_iters * args.batch_size / 2:
            batches = -(-windows // args.batch_size)
            do = f"Lower --eval_iters to {batches}, or give" if batches < args.eval_iters else "Give"
            yield (f"val of {name} has {windows:,} window{'s' * (windows != 1)}; an evaluation asks for "
                   f"{args.eval_iters * args.batch_size:,}, so it reads all of val each time. {do} val more text")
        counts, lengths = look_at(dataset)
        looked = "" if counts.sum() == dataset.num_tokens["train"] else f" of {counts.sum():,} looked at"
        unseen = int((counts == 0).sum())
        if unseen > dataset.vocab_size / 10 and "stream" not in dataset.meta:  # their alphabets are whole by design
            yield (f"{unseen:,} of the {dataset.vocab_size:,} rows of {name}'s vocabulary occur in none of the "
                   f"tokens{looked} of {dataset.path('train')}: they are not learned, and cost memory and time. A smaller "
                   f"vocabulary would do")
        if len(lengths) and args.block_size > (median := np.median(lengths)):
            yield (f"--block_size {args.block_size} is longer than most documents of {name} (half have {median:,.0f} tokens "
                   f"or fewer): a window holds parts of several, and a shorter one would lose little")
    beside = "adamw beside muon" if args.optimizer == "muon" else "adamw alone"
    for flag, kind in (("learning_rate", beside), ("muon_learning_rate", "muon")):
        rate, (low, high) = getattr(args, flag), USUAL_RATES[kind]
        if rate and not low <= rate <= high:
            yield f"--{flag} {rate:g} is out of the usual range of {kind}, {low:g} to {high:g}"


def look_at(dataset):
    """(how often each id occurs, lengths of whole documents in tokens) in the train split, or in pieces from all over it."""
    eot = dataset.meta.get("eot_token")
    counts, lengths = np.zeros(dataset.vocab_size, dtype=np.int64), []
    for piece in sample_ids(dataset, LOOK_AT):
        counts += np.bincount(piece[piece < dataset.vocab_size], minlength=dataset.vocab_size)
        if eot is not None:
            lengths += (np.diff(np.flatnonzero(piece == eot)) - 1).tolist()
    return counts, lengths
