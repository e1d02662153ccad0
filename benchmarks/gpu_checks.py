"""The parts of gpu.py that are right or wrong. They may run at the same time on one card.

The first line of a part's docstring is its title in the table.
"""
import collections
import contextlib
import copy
import hashlib
import math
import os
import re
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from gpu_bench import (
    ARCHS,
    Skip,
    difference,
    flags_of,
    iterate,
    last_line,
    log_rows,
    percent,
    train_script,
    training,
)
from rival import ROOT

import train
from model import GPT, GPTConfig, head_loss
from optim import block_size_at
from training.evaluation import estimate_loss

SMALL = dict(n_layer=2, n_head=4, n_embd=256, block_size=128)  # heads 64 wide, as GPT-2 has them
NUM_RANKS = 2  # on one card
# number format, precision of float32 products, compiled, and the largest difference allowed: of the
# loss by its value, of a parameter's gradient by its norm. float16 rounds to 11 bits, TF32 to 11,
# bfloat16 to 8; errors of single products add up over the layers
PRECISIONS = [("float32", "highest", False, 1e-5, 1e-4), ("float32", "high", False, 1e-3, 1e-2),
              ("bfloat16", "high", False, 1e-2, 5e-2), ("float16", "high", False, 1e-3, 2e-2)]
PRECISIONS += [(dtype, products, True, of_loss, of_grads)
               for dtype, products, _, of_loss, of_grads in PRECISIONS if
               (dtype, products) != ("float32", "high")]


# ---- hidden syncs


def syncs(bench):
    """hidden syncs in a training step"""
    known = waits_of(bench, lambda: torch.ones((), device=bench.device).item()).total()
    bench.row("whether torch notices a known one, .item()", f"{known} counted", "1 or more",
              known > 0 if bench.on_gpu else "")  # a CPU has none to count
    sizes = {**SMALL, "batch_size": 64 if bench.on_gpu else 2, "gradient_accumulation_steps": 2}
    for arch, flags in ARCHS.items():
        for dtype in bench.dtypes:
            with training(bench, *flags, *flags_of(sizes), f"--dtype={dtype}") as (run, batches):
                for _ in range(3):  # whatever happens once has happened
                    iterate(run, batches)
                micro_batches = [next(batches) for _ in range(batches.micro_steps)]
                bench.wait()
                places = waits_of(bench, lambda: train.train_step(run, micro_batches))  # noqa: B023
            own = sum(n for place, n in places.items() if "grad_scaler" in place)
            hidden = {place: n for place, n in places.items() if "grad_scaler" not in place}
            where = ", ".join(f"{n} at {place}" for place, n in hidden.items())
            of_scaler = f" (and {own} of the scaler's own)" if dtype == "float16" else ""
            bench.row(f"{arch}, {dtype}, eager, 2 micro-batches",
                      f"{where or 'none'}{of_scaler}", "none", not hidden if bench.on_gpu else "")


def waits_of(bench, work):
    """{"file:line": how often it waits for the GPU} while work() runs."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if bench.on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            if bench.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    return collections.Counter(f"{short_path(w.filename)}:{w.lineno}" for w in warned
                               if "called a synchronizing" in str(w.message))


def short_path(path):
    """From the root of this repo, or of the package that it lies in."""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(ROOT))
    return path.split("site-packages/")[-1]


# ---- the same numbers as on the CPU


def equality(bench, arch, vocab_size, n_kv_head=4):
    """losses and gradients, CPU against CUDA"""
    torch.manual_seed(0)
    config = GPTConfig(arch=arch, vocab_size=vocab_size, n_kv_head=n_kv_head, **SMALL)
    reference = GPT(config)
    with torch.no_grad():  # the modern block starts as the identity: its gradients would be 0
        for p in reference.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    # 16,384 tokens of 50,257 ids are several chunks of the head on any card
    rows = 1 if not bench.on_gpu else 8 if vocab_size < 1000 else 128
    x, y = torch.randint(vocab_size, (2, rows, config.block_size))
    torch.set_float32_matmul_precision("highest")
    expected = loss_and_grads(reference, x, y, torch.autocast("cpu", enabled=False))
    heads = f", {n_kv_head} of 4 heads have keys" if n_kv_head < 4 else ""
    for dtype, products, compiled, of_loss, of_grads in PRECISIONS:
        if not bench.on_gpu and (compiled and dtype != "float32" or dtype == "float16"):
            continue  # a rehearsal of the lines, not of the kernels
        what = (f"{arch}, {vocab_size:,} ids{heads}, {dtype}"
                f"{' as TF32' if (dtype, products) == ('float32', 'high') else ''}, "
                f"{'compiled' if compiled else 'eager'}")
        torch.set_float32_matmul_precision(products)
        model = copy.deepcopy(reference).to(bench.device)
        if compiled:
            torch._dynamo.reset()  # each model counts as a recompilation of the same code
        forward = torch.compile(model, dynamic=False) if compiled else model
        try:
            loss, grads = loss_and_grads(model, x.to(bench.device), y.to(bench.device),
                                         bench.autocast(dtype), forward)
        except Exception as error:
            bench.failed(what, error)
            continue
        loss_off = abs(loss / expected[0] - 1)
        by_name = {name: difference(grads[name], grad) for name, grad in expected[1].items()}
        worst = max(by_name, key=lambda name: math.inf if math.isnan(by_name[name])
                    else by_name[name])
        bench.row(what, f"loss {loss_off:.1e}, gradients {by_name[worst]:.1e} ({worst})",
                  f"at most {of_loss:.0e}, {of_grads:.0e}",
                  bool(loss_off <= of_loss and by_name[worst] <= of_grads))


def loss_and_grads(model, x, y, autocast, forward=None):
    """(loss, {parameter: gradient}). The loss is scaled as float16 needs it, and the gradients
    back."""
    scale = 2.0**10
    with autocast:
        loss = (model if forward is None else forward)(x, y)[1]
    (loss * scale).backward()
    return loss.item(), {name: p.grad / scale for name, p in model.named_parameters()}


# ---- growing windows


def windows(bench):
    """growing windows, compiled (--first_block_size)"""
    from torch._dynamo.utils import counters
    sizes = dict(n_layer=2, n_head=6, n_embd=768, block_size=1024, first_block_size=32,
                 batch_size=16)
    if not bench.on_gpu:
        sizes = dict(n_layer=1, n_head=2, n_embd=64, block_size=32, first_block_size=16,
                     batch_size=2)
    # a length beyond the limit of graphs would run eagerly: here it is an error instead
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    counters.clear()
    with training(bench, *flags_of(sizes), "--compile=true", f"--dtype={bench.dtype}",
                  "--max_iters=10000", dataset="chars") as (run, batches):
        lengths = {block_size_at(i, run.args): i for i in range(9999, -1, -1)}  # -> its first
        for length in sorted(lengths):
            run.iter_num, before = lengths[length], counters["stats"]["unique_graphs"]
            t0 = time.perf_counter()
            iterate(run, batches)
            bench.wait()
            compiling = time.perf_counter() - t0
            seconds = bench.speed(partial(iterate, run, batches), 10)
            estimate_loss(run, run.iter_num)  # compiled, too
            again = counters["stats"]["unique_graphs"]
            iterate(run, batches)
            anew = counters["stats"]["unique_graphs"] - again
            bench.row(f"windows of {length:,}", f"{run.tokens_per_iter / seconds:,.0f} tokens/s, "
                      f"{again - before} graphs after {compiling:.1f} s",
                      "no graph is made twice", anew == 0)
        breaks = sum(counters["graph_break"].values())
        bench.row("in all", f"{counters['stats']['unique_graphs']} graphs, {breaks} graph breaks, "
                  f"limit {torch._dynamo.config.recompile_limit}", "no break, none runs eagerly",
                  breaks == 0)


# ---- resume


def resumed(bench):
    """a run that is resumed, against one that never stopped"""
    # a product of cuBLAS is only repeatable with a workspace of its own, which is chosen before
    # its first use
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    flags = [*flags_of({**SMALL, "batch_size": 8}), "--dropout=0.1", f"--dtype={bench.dtype}",
             f"--device={bench.device.type}", f"--dataset={bench.folder / 'chars'}/",
             "--eval_iters=2", "--eval_interval=100", "--max_sample_tokens=0",
             "--lr_decay_iters=20", "--compile=false"]
    for deterministic in (True, False):
        torch.use_deterministic_algorithms(deterministic)
        kind = "deterministic kernels" if deterministic else "the usual kernels"
        try:
            whole, again = (followed(*flags, "--max_iters=20",
                                     f"--out_dir={bench.folder}/{name}{deterministic}")
                            for name in ("whole", "again"))
            out_dir = f"--out_dir={bench.folder}/halves{deterministic}"
            halves = followed(*flags, "--max_iters=10", out_dir)
            halves += followed("--init_from=resume", "--max_iters=20", out_dir)
        except RuntimeError as error:  # torch names an operation that has no such kernel
            bench.failed(kind, error)
            continue
        finally:
            torch.use_deterministic_algorithms(False)
        (order, losses), (_, repeated), (own_order, own) = (
            zip(*steps) for steps in (whole, again, halves))
        off = max(abs(a / b - 1) for a, b in zip(own, losses))
        noise = max(abs(a / b - 1) for a, b in zip(repeated, losses))
        bench.row(f"order of the data, {kind}", f"{len(own)} iterations",
                  "the same batches", own_order == order and len(own) == 20)
        bench.row(f"losses, {kind}", f"largest difference {off:.1e}",
                  "0" if deterministic else f"two runs that never stop differ by {noise:.1e}",
                  off == 0 if deterministic else "")


def followed(*flags):
    """[(hash of the batches, loss), ...] of the iterations of a run of train.py."""
    steps, train_step = [], train.train_step

    def step(run, micro_batches):
        loss, learned = train_step(run, micro_batches)
        read = hashlib.sha256(b"".join(batch.ids.numpy().tobytes() for batch in micro_batches))
        steps.append((read.hexdigest(), loss.item()))
        return loss, learned
    train.train_step = step
    try:
        train.main([*flags])
    finally:
        train.train_step = train_step
    return steps


# ---- float16, and a lack of memory


def float16(bench):
    """float16 with its scaler"""
    dtype = "float16" if bench.on_gpu else "float32"  # train.py refuses float16 on a CPU
    iters = 100 if bench.on_gpu else 20
    for arch, flags in ARCHS.items():
        losses, skipped = [], 0
        with training(bench, *flags, *flags_of({**SMALL, "batch_size": 16}), "--warmup_iters=5",
                      f"--dtype={dtype}", dataset="chars") as (run, batches):
            for _ in range(iters):
                scale = run.scaler.get_scale()
                losses.append(iterate(run, batches).item())
                skipped += run.scaler.get_scale() < scale  # it is lowered where a step is skipped
        first, last = (sum(part) / 5 for part in (losses[:5], losses[-5:]))
        bench.row(f"{arch}, {iters} iterations in {dtype}",
                  f"loss {first:.3f} to {last:.3f}, {skipped} steps skipped, scale {scale:g}",
                  "the loss falls; at most 10 skipped",
                  bool(last < 0.9 * first and skipped <= 10))


def no_memory(bench):
    """a batch that no memory holds"""
    flags = flags_of(dict(n_layer=1, n_head=24, n_embd=3072, block_size=1024, batch_size=100_000))
    status, seconds, _, told = train_script(bench, *flags, "--max_iters=1",
                                            f"--out_dir={bench.folder}/no_memory", dataset="chars")
    lines = told.strip().splitlines()
    bench.row("train.py with 100 million tokens a batch",
              f"exit status {status}, {len(lines)} line(s) after {seconds:.0f} s: "
              f"{last_line(told)}", "status 2 and one line that says what to lower",
              status == 2 and len(lines) == 1 and "out of memory" in told)


# ---- several ranks


def ranks(bench):
    """two processes of torchrun"""
    flags = [*flags_of({**SMALL, "batch_size": 4, "gradient_accumulation_steps": NUM_RANKS}),
             "--max_iters=10", "--log_interval=1", "--dtype=float32"]
    if bench.on_gpu and torch.cuda.device_count() < NUM_RANKS:
        # NCCL gives each rank a card of its own, so train.py should refuse
        status, seconds, _, told = train_script(
            bench, *flags, f"--out_dir={bench.folder}/refused", dataset="chars",
            num_ranks=NUM_RANKS, timeout=60)
        said = re.findall(r"^error: .*", told, re.M)
        bench.row(f"{NUM_RANKS} ranks on one card", f"exit status {status} after {seconds:.0f} s: "
                  f"{said[0] if said else last_line(told)}",
                  "refused in one line, within a minute", bool(status and len(said) == 1))
    kinds = ["cpu"]
    if bench.on_gpu and torch.cuda.device_count() >= NUM_RANKS:
        kinds.append(bench.device.type)
    for kind in kinds:
        losses = []
        for count in (1, NUM_RANKS):
            out_dir = f"{bench.folder}/ranks-{kind}-{count}"
            status, seconds, _, told = train_script(
                bench, *flags, f"--device={kind}", f"--out_dir={out_dir}", dataset="chars",
                num_ranks=count)
            if status != 0:
                raise RuntimeError(f"{count} on {kind}: exit status {status} after {seconds:.0f} s:"
                                   f" {last_line(told)}")
            losses.append([float(row["batch_loss"]) for row in log_rows(out_dir)])
        off = max(abs(a / b - 1) for a, b in zip(*losses))
        bench.row(f"losses of {NUM_RANKS} ranks on {kind}, against one process",
                  f"largest difference {off:.1e} in {len(losses[0])} iterations", "at most 1e-3",
                  off <= 1e-3 and len(losses[0]) == len(losses[1]) == 10)


# ---- which kernels


def kernels(bench):
    """kernels of attention and of the head, with their share of a step's time"""
    sizes, shapes = bench.sizes, [(dtype, None) for dtype in bench.dtypes]
    if sizes["n_head"] % 3 == 0:
        shapes.append((bench.dtype, sizes["n_head"] // 3))  # grouped heads
    for dtype, n_kv_head in shapes:
        flags = [*flags_of({**sizes, "gradient_accumulation_steps": 1}), f"--dtype={dtype}"]
        flags += [f"--n_kv_head={n_kv_head}"] if n_kv_head else []
        with training(bench, *ARCHS["modern"], *flags) as (run, batches):
            for _ in range(2):
                iterate(run, batches)
            spent, of_attention = profiled(bench, partial(iterate, run, batches),
                                           "scaled_dot_product")
            total = sum(spent.values())
            heads = f", {n_kv_head} heads of keys" if n_kv_head else ""
            bench.row(f"attention, {dtype}{heads}", named(of_attention, total))
            if n_kv_head:
                continue
            bench.row(f"head, {dtype}", named(kernels_of_head(bench, run, dtype), total))
            if dtype == bench.dtype:
                bench.row(f"the largest of a whole step, {dtype}", named(spent, total))


def kernels_of_head(bench, run, dtype):
    """{kernel: us} of the head alone, at the sizes of a micro-batch."""
    args, weight = run.args, run.model.lm_head.weight
    x = torch.randn(args.batch_size * args.block_size, args.n_embd, device=bench.device,
                    requires_grad=True)
    y = torch.randint(run.model.config.vocab_size, (len(x),), device=bench.device)

    def work():
        with bench.autocast(dtype):
            loss = head_loss(x, weight, run.model.config.vocab_size, y)[1]
        loss.backward()
    work()
    return profiled(bench, work)[0]


def profiled(bench, work, word=""):
    """({kernel: us} of work(), the same of the operations with a word in their name).

    On a CPU, which has no kernels, operations stand for them."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        bench.wait()
    return spent_by(profile.events(), bench.on_gpu, word)


def spent_by(events, on_gpu, word):
    """What profiled() returns, of the events of a profile."""
    spent, by_word = collections.Counter(), collections.Counter()
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # the kernels once more, on the GPU's own timeline
        own = [(kernel.name, kernel.duration) for kernel in event.kernels] if on_gpu else [
            (event.name, event.self_cpu_time_total)]
        above = event
        while above is not None and word not in above.name:
            above = above.cpu_parent
        for name, us in own:
            spent[name] += us
            if above is not None:
                by_word[name] += us
    return spent, by_word


def named(spent, total):
    """The kernels that take the most of `total` us, in words."""
    if not total or not spent:
        raise Skip("the profiler has seen no kernel; it may need another CUPTI or permission")
    parts = [f"{name[:70]} {percent(us / total)}" for name, us in spent.most_common(4)]
    return f"{percent(sum(spent.values()) / total)} of the step: {'; '.join(parts)}"
