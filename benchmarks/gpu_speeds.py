"""The parts of gpu.py that take the time of something. Each has the machine to itself.

The first line of a part's docstring is its title in the table.
"""
import contextlib
import gc
import importlib
import io
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gpu_bench import (
    ARCHS,
    TINY,
    Skip,
    difference,
    flags_of,
    gigabytes,
    iterate,
    last_line,
    log_rows,
    percent,
    train_script,
    training,
    wait_or_end,
)
from race import LEGS, NANOGPT_CPU, NANOGPT_GPU
from rival import ROOT, STARTED_WITH, function_of, in_turn, iteration_of, module_of
from torch.nn import functional as F

import model as our_model
import train
from model import GPT, GPTConfig, head_loss
from pipeline.prepare.inputs import TextFile
from pipeline.prepare.write import write_dataset
from pipeline.read.batches import positions_of
from pipeline.read.folder import dataset_folder
from pipeline.tokenizers import make_tokenizer
from training.device import estimate_mfu

VOCAB_SIZE = 50257
ROWS_AT_ONCE = our_model.rows_at_once
TARGET = 1.4697  # the val loss that nanoGPT's README gives for its Shakespeare on a GPU
FINEWEB = 3.28  # the val loss of GPT-2 124M on FineWeb that speed runs aim at


# ---- a training step


def steps(bench):
    """GPT-2 124M, compiled: tokens/s, MFU, memory"""
    rounds, turn = (8, 3) if bench.on_gpu else (1, 1)
    wide = [*ARCHS["modern"], f"--n_head={bench.sizes['n_embd'] // 128}"]
    works, runs, memory, compiling = {}, {}, {}, {}
    # the compiler itself starts here, or the first side would be charged for it
    torch.compile(torch.sin)(torch.ones(9, device=bench.device))
    with contextlib.ExitStack() as stack:
        sides = {name: partial(our_iteration, bench, stack, flags) for name, flags in (
            ("ours, gpt2", ARCHS["gpt2"]), ("ours, modern", ARCHS["modern"]),
            ("ours, modern, heads 128 wide", wide))}
        if bench.nanogpt:
            sides = {"nanoGPT": partial(their_iteration, bench), **sides}
        else:
            bench.row("nanoGPT", "skipped: --nanogpt names no checkout of it")
        for name, open_side in sides.items():
            try:
                before = bench.allocated
                works[name], runs[name] = open_side()
                t0 = time.perf_counter()
                works[name]()
                bench.wait()
                compiling[name] = time.perf_counter() - t0
                held = bench.allocated - before
                memory[name] = bench.peak(works[name])
                memory[name] = memory[name] and memory[name] + held
            except Exception as error:
                works.pop(name, None)
                bench.failed(name, error)

        def taking(work):
            def take():
                for _ in range(turn):
                    work()
                bench.wait()
            return take
        times = in_turn({name: taking(work) for name, work in works.items()}, rounds)
        say_steps(bench, times, runs, memory, compiling, turn)
        for name in ("ours, gpt2", "ours, modern"):
            if name in works:
                say_optimizer(bench, name, runs[name], statistics.median(times[name]) / turn)


def our_iteration(bench, stack, flags):
    """(a function that does one iteration, the Run)"""
    run, batches = stack.enter_context(training(
        bench, *flags_of(bench.sizes), *flags, "--compile=true", f"--dtype={bench.dtype}"))
    return partial(iterate, run, batches), run


def their_iteration(bench):
    """The same of nanoGPT: its model, its optimizer, and the statements of its loop."""
    theirs, script, sizes = module_of(bench.nanogpt / "model.py"), bench.nanogpt / "train.py", (
        bench.sizes)
    model = theirs.GPT(theirs.GPTConfig(
        vocab_size=50304, dropout=0.0, bias=False,
        **{name: sizes[name] for name in ("n_layer", "n_head", "n_embd", "block_size")}))
    model.to(bench.device)
    space = dict(
        os=os, np=np, torch=torch, data_dir=str(bench.folder / "ids"), device=bench.device,
        device_type=bench.device.type, ddp=False, grad_clip=1.0, ctx=bench.autocast(bench.dtype),
        optimizer=model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), bench.device.type),
        scaler=torch.amp.GradScaler(bench.device.type, enabled=bench.dtype == "float16"),
        model=torch.compile(model), **sizes)
    get_batch = function_of(script, "get_batch", space)
    space["X"], space["Y"] = get_batch("train")
    return iteration_of(script, space), None


def say_steps(bench, times, runs, memory, compiling, turn):
    """A row for each side, with its ratio to nanoGPT in the same rounds."""
    sizes = bench.sizes
    tokens = turn * (sizes["batch_size"] * sizes["gradient_accumulation_steps"]
                     * sizes["block_size"])
    for name, seconds in times.items():
        run = runs[name] or runs.get("ours, gpt2")  # nanoGPT's model has the FLOPs of ours
        speed = tokens / statistics.median(seconds)
        mfu = run and estimate_mfu(run.model, speed, run.ranks)
        against = ""
        if name != "nanoGPT" and "nanoGPT" in times:
            ratios = sorted(a / b for a, b in zip(times["nanoGPT"], seconds))
            against = (f"{statistics.median(ratios):.2f} times nanoGPT's tokens/s "
                       f"({ratios[0]:.2f} to {ratios[-1]:.2f}); the aim is 1.2")
        bench.row(f"{name}, {bench.dtype}, {sizes['batch_size']} x {sizes['block_size']:,} x "
                  f"{sizes['gradient_accumulation_steps']} tokens an iteration",
                  f"{speed:,.0f} tokens/s, MFU {percent(mfu)}, peak {gigabytes(memory[name])}, "
                  f"first iteration {compiling[name]:.0f} s", against)


def say_optimizer(bench, name, run, iteration):
    """What a step of the optimizer takes of an iteration's seconds; of Muon by itself, too."""
    for p in run.model.parameters():
        p.grad = torch.randn_like(p) * 1e-3
    groups = run.optimizer.param_groups
    kinds = [sorted({group["rule"] for group in groups})]
    kinds += [["muon"]] if "muon" in kinds[0] else []
    for rules in kinds:
        run.optimizer.param_groups = [group for group in groups if group["rule"] in rules]
        seconds = bench.speed(run.optimizer.step, 10 if bench.on_gpu else 1)
        bench.row(f"{name}: a step of {' and '.join(rules)}", f"{seconds * 1e3:.1f} ms, "
                  f"{percent(seconds / iteration)} of such an iteration")
    run.optimizer.param_groups = groups
    run.optimizer.zero_grad()


# ---- the head


def head(bench):
    """the head's products and their loss by themselves, forward and backward"""
    sizes, rounds = bench.sizes, 5 if bench.on_gpu else 1
    num_tokens = sizes["batch_size"] * sizes["block_size"]
    dtype = getattr(torch, bench.dtype)
    x = torch.randn(num_tokens, sizes["n_embd"], device=bench.device, dtype=dtype,
                    requires_grad=True)
    rows = -(-VOCAB_SIZE // 64) * 64  # padded, as in both models
    weight = (torch.randn(rows, sizes["n_embd"], device=bench.device) * 0.02).requires_grad_()
    y = torch.randint(VOCAB_SIZE, (num_tokens,), device=bench.device)

    def ours():
        return head_loss(x, weight, VOCAB_SIZE, y)[1]

    def plain():
        return F.cross_entropy(F.linear(x, weight), y)
    losses = {"F.cross_entropy": plain, "ours (head_loss)": ours,
              "F.cross_entropy, compiled": torch.compile(plain, dynamic=False),
              "ours, compiled": torch.compile(ours, dynamic=False), **rivals(bench, x, weight, y)}

    def taking(loss):
        def take():
            x.grad = weight.grad = None
            with bench.autocast(bench.dtype):
                value = loss()
            (value * 2.0**10).backward()  # float16 would round small gradients to 0
            bench.wait()
        return take
    works, memory, grads = {}, {}, {}
    for name, loss in losses.items():
        work = taking(loss)
        try:
            work()  # which may compile
            memory[name] = bench.peak(work)
        except Exception as error:
            bench.failed(name, error)
            continue
        works[name], grads[name] = work, weight.grad.cpu()
    times = in_turn(works, rounds)
    for name, seconds in times.items():
        off = difference(grads[name], grads["F.cross_entropy"])
        bench.row(f"{name}, {num_tokens:,} x {sizes['n_embd']} x {VOCAB_SIZE:,}, {bench.dtype}",
                  f"{statistics.median(seconds) * 1e3:.2f} ms, {gigabytes(memory[name])} more",
                  f"gradient of the table {off:.0e} from F.cross_entropy's; at most 5e-2",
                  off <= 5e-2)
    say_chunks(bench, works.get("ours (head_loss)"), rounds)


def rivals(bench, x, weight, y):
    """{name: function that gives the loss} of what is installed; a row on what is not."""
    found, dtype = {}, x.dtype
    if hasattr(F, "linear_cross_entropy"):
        found["F.linear_cross_entropy"] = lambda: F.linear_cross_entropy(x, weight.to(dtype), y)
        chunked = torch.nn.LinearCrossEntropyOptions()
        found["F.linear_cross_entropy in chunks"] = lambda: F.linear_cross_entropy(
            x, weight.to(dtype), y, options=chunked)
    else:
        bench.row("F.linear_cross_entropy", "skipped: torch has it since 2.13")
    for package, module, make in (
            ("liger-kernel", "liger_kernel.transformers", lambda held: partial(
                _liger, held.LigerFusedLinearCrossEntropyLoss(), x, weight, y)),
            ("cut-cross-entropy", "cut_cross_entropy", lambda held: lambda: (
                held.linear_cross_entropy(x, weight.to(dtype), y)))):
        try:
            found[package] = make(importlib.import_module(module))
        except ImportError as error:
            bench.row(package, f"skipped: {last_line(str(error))} (pip install {package})")
    return found


def _liger(loss, x, weight, y):
    return loss(weight.to(x.dtype), x, y)


def say_chunks(bench, work, rounds):
    """Our head with other numbers of rows at once."""
    if work is None:
        return
    now = our_model.rows_at_once(bench.device, -(-VOCAB_SIZE // 64) * 64)
    try:
        for rows in (640, 1280, 2560, 5120, 10240) if bench.on_gpu else (16, 32):
            our_model.rows_at_once = lambda device, num_columns: rows  # noqa: B023, called at once
            work()
            memory, seconds = bench.peak(work), bench.speed(work, rounds)
            bench.row(f"ours in chunks of {rows:,} rows",
                      f"{seconds * 1e3:.2f} ms, {gigabytes(memory)} more", f"now: {now:,}")
    finally:
        our_model.rows_at_once = ROWS_AT_ONCE


# ---- documents


def documents(bench):
    """--documents: a step against one without; attention within documents, by kernels"""
    sizes, rounds = bench.sizes, 8 if bench.on_gpu else 1
    B, T, n_head = sizes["batch_size"], sizes["block_size"], sizes["n_head"]
    begins = torch.rand(B, T) < 3 / T  # some four documents a row
    begins[:, 0] = True
    positions = torch.from_numpy(positions_of(begins.numpy())).long().to(bench.device)
    model = GPT(GPTConfig(vocab_size=VOCAB_SIZE, n_kv_head=n_head, **{
        name: sizes[name] for name in ("n_layer", "n_head", "n_embd", "block_size")}))
    forward = model = model.to(bench.device)
    if bench.on_gpu:
        forward = torch.compile(model, dynamic=False)
    x, y = torch.randint(VOCAB_SIZE, (2, B, T), device=bench.device)

    def step(**marks):
        model.zero_grad()
        with bench.autocast(bench.dtype):
            loss = forward(x, y, **marks)[1]
        loss.backward()
        bench.wait()
    times = in_turn({"without": step, "with": partial(step, positions=positions)}, rounds)
    ratio = statistics.median(b / a for a, b in zip(*times.values()))
    bench.row("forward and backward with --documents", f"{ratio:.2f} times as long",
              "at most 1.10", ratio <= 1.10 if bench.on_gpu else "")

    q, k, v = (torch.randn(B, n_head, T, sizes["n_embd"] // n_head, device=bench.device,
                           dtype=getattr(torch, bench.dtype), requires_grad=True) for _ in range(3))
    works = attentions(q, k, v, positions, bench)
    results = {}
    for name, work in works.items():
        try:
            work().sum().backward()
            results[name] = work().detach().float()
        except Exception as error:
            bench.failed(name, error)

    def taking(work):
        def take():
            work().sum().backward()
            bench.wait()
        return take
    times = in_turn({name: taking(works[name]) for name in results}, rounds)
    for name, seconds in times.items():
        off = (results[name] - results["a mask (what --documents does)"]).abs().max().item()
        is_whole = name.startswith("causal")
        bench.row(name, f"{statistics.median(seconds) * 1e3:.2f} ms",
                  "" if is_whole else f"off by {off:.0e}; at most 2e-2",
                  "" if is_whole else off <= 2e-2)


def attentions(q, k, v, positions, bench):
    """{name: function that gives attention within documents}, (B, nh, T, hs) each."""
    B, n_head, T, hs = q.shape
    mask = our_model.visible(positions)
    works = {
        "causal, documents not told apart": lambda: F.scaled_dot_product_attention(
            q, k, v, is_causal=True),
        "a mask (what --documents does)": lambda: F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask)}
    if not bench.on_gpu:
        return works
    from torch.nn.attention import flex_attention, varlen
    flex = torch.compile(flex_attention.flex_attention, dynamic=False)
    begin = torch.arange(T, device=q.device) - positions

    def sees(b, h, query, key):
        return (query >= key) & (begin[b, query] == begin[b, key])

    def by_flex():
        blocks = flex_attention.create_block_mask(sees, B, None, T, T, device=q.device)
        return flex(q, k, v, block_mask=blocks)
    first = (positions.flatten() == 0).nonzero().flatten()
    ends = torch.full((max(4 * T, len(first) + 1),), B * T, dtype=torch.int32, device=q.device)
    ends[: len(first)] = first.int()

    def by_varlen():
        flat = (part.transpose(1, 2).reshape(B * T, n_head, hs) for part in (q, k, v))
        found = varlen.varlen_attn(*flat, ends, ends, T, T, window_size=(-1, 0))
        return found.view(B, T, n_head, hs).transpose(1, 2)
    return works | {"FlexAttention, with its block mask": by_flex, "varlen_attn": by_varlen}


# ---- the plan, sampling


def plan(bench):
    """--plan against the run"""
    flags = [*ARCHS["gpt2"], *flags_of(bench.sizes), f"--dtype={bench.dtype}", "--compile=true",
             f"--device={bench.device.type}", f"--dataset={bench.folder / 'ids'}/",
             "--lr_schedule=constant", "--eval_interval=1000", "--eval_iters=1",
             "--max_sample_tokens=0", f"--out_dir={bench.folder}/planned", "--max_iters=30"]
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        train.main([*flags, "--plan"])
    print(told.getvalue())  # into the log of this part
    estimate = float(re.search(r"([\d.e-]+) s per iteration", told.getvalue())[1])
    memory = re.search(r"(\S+)B (at the most|for the whole process)", told.getvalue())[1]
    gc.collect()
    held = bench.allocated
    used = bench.peak(lambda: train.main(flags))
    sizes = bench.sizes
    tokens = sizes["batch_size"] * sizes["gradient_accumulation_steps"] * sizes["block_size"]
    real = tokens / float(log_rows(bench.folder / "planned")[-1]["tokens_per_s"])
    off = estimate / real - 1
    bench.row("seconds of an iteration", f"planned {estimate:.2g}, real {real:.3g}: {off:+.0%}",
              "within 15%", abs(off) <= 0.15 if bench.on_gpu else "")
    bench.row("peak memory", f"planned {memory}B, real {gigabytes(used and used + held)}")


def sampling(bench):
    """sampling 5 texts from GPT-2 124M"""
    num_tokens, rounds = (200, 2) if bench.on_gpu else (4, 1)
    sizes = {name: bench.sizes[name] for name in ("n_layer", "n_head", "n_embd", "block_size")}
    start = torch.zeros((5, 1), dtype=torch.int64, device=bench.device)
    works = {}
    if bench.nanogpt:
        theirs = module_of(bench.nanogpt / "model.py")
        their_model = theirs.GPT(theirs.GPTConfig(vocab_size=50304, dropout=0.0, bias=False,
                                                  **sizes)).to(bench.device).eval()

        def one_by_one():  # as its sample.py does, in the precision that it chooses
            with torch.no_grad(), bench.autocast(bench.dtype):
                for row in start:
                    their_model.generate(row[None], num_tokens, temperature=0.8, top_k=200)
        works["nanoGPT"] = one_by_one
    for arch in ARCHS:
        model = GPT(GPTConfig(arch=arch, vocab_size=VOCAB_SIZE, n_kv_head=sizes["n_head"], **sizes))
        with torch.no_grad():  # the head starts at zero; draws should be of something
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.02)
        model = model.to(bench.device).eval()
        works[f"{arch}, float32, as sample.py does"] = partial(generate, bench, model, start,
                                                               num_tokens)
        for cudnn in (True, False):  # it builds a graph for each number of keys
            works[f"{arch}, {bench.dtype}, cuDNN attention {'on' if cudnn else 'off'}"] = partial(
                generate, bench, model, start, num_tokens, bench.dtype, cudnn)

    def taking(work):
        def take():
            work()
            bench.wait()
        return take
    times = in_turn({name: taking(work) for name, work in works.items()}, rounds)
    for name, seconds in times.items():
        taken = statistics.median(seconds)
        ratio = f"{statistics.median(times['nanoGPT']) / taken:.1f} times nanoGPT's" if (
            "nanoGPT" in times and name != "nanoGPT") else ""
        bench.row(name, f"{5 * num_tokens / taken:,.0f} tokens/s", ratio)


def generate(bench, model, start, num_tokens, dtype="float32", cudnn=True):
    """Sample in that precision, with cuDNN's attention allowed or not."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    try:
        with bench.autocast(dtype):
            model.generate(start, num_tokens, temperature=0.8, top_k=200)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


# ---- several GPUs


def scaling(bench):
    """one GPU against several, by torchrun"""
    most = torch.cuda.device_count() if bench.on_gpu else 2
    counts = [n for n in (1, 2, 4, 8) if n <= most]
    sizes = {**bench.sizes, "gradient_accumulation_steps":
             bench.sizes["gradient_accumulation_steps"] * counts[-1]}
    first = None
    for count in counts:
        out_dir = bench.folder / f"scaling-{count}"
        status, _, _, told = train_script(
            bench, *ARCHS["modern"], *flags_of(sizes), f"--dtype={bench.dtype}", "--max_iters=8",
            "--log_interval=2", f"--out_dir={out_dir}", dataset="ids", num_ranks=count)
        if status != 0:
            bench.row(f"{count} ranks", f"exit status {status}: {last_line(told)}", "", "failed")
            continue
        rows = log_rows(out_dir)
        losses = [float(row["batch_loss"]) for row in rows]
        speed = statistics.median(float(row["tokens_per_s"]) for row in rows[1:])
        first = first or (count, losses, speed)
        off = max(abs(a / b - 1) for a, b in zip(losses, first[1]))
        bench.row(f"{count} x {bench.device.type}, {bench.dtype}, eager, the same iterations",
                  f"{speed:,.0f} tokens/s, {speed / first[2]:.2f} times that of {first[0]}; losses "
                  f"differ by {off:.1e}", "losses at most 1e-2 apart", off <= 1e-2)


# ---- to a val loss


def shakespeare(bench):
    """the race on Shakespeare by characters, to val loss 1.4697"""
    prepared = dataset_folder("shakespeare_char")
    if bench.text:
        prepared = bench.folder / "shakespeare"
        prepared.mkdir()
        text = TextFile(bench.text)
        write_dataset(prepared, text, make_tokenizer("char", text))
    copy = bench.folder / "nanogpt"
    shutil.copytree(bench.nanogpt, copy, ignore=shutil.ignore_patterns(".git", "out*"))
    shutil.copytree(prepared, copy / "data/race")
    theirs, ours, target = NANOGPT_GPU, [f"@{ROOT}/configs/shakespeare_gpu.args"], TARGET
    if not bench.on_gpu:
        rehearsal = ["--max_iters=20", "--eval_interval=10", "--eval_iters=2"]
        theirs, ours, target = NANOGPT_CPU + rehearsal, LEGS["short"] + rehearsal, 4.0
    ours = [*ours, f"--dataset={prepared}/", f"--device={bench.device.type}",
            "--max_sample_tokens=0", f"--out_dir={bench.folder}/race"]
    # ours first: should the time run out, a bound on nanoGPT's is left
    took, told = seconds_to(target, [ROOT / "train.py", *ours], bench.folder, 60)
    bench.row(f"ours to val loss {target}", told, "", bool(took) or "")
    limit = min(180, bench.seconds_left - 15)
    their_time, told = seconds_to(target, ["train.py", *theirs], copy, limit)
    ratio = "" if not took else (f"ours took {took / their_time:.3f} of it; the aim is 0.1"
                                 if their_time else f"ours took under {took / limit:.3f} of it")
    bench.row(f"nanoGPT to val loss {target}", told, ratio)


def seconds_to(target, argv, cwd, limit):
    """(seconds from its start until a training script prints a val loss that low, or None; what
    happened in words)."""
    t0, lowest, line = time.perf_counter(), None, ""
    process = subprocess.Popen([sys.executable, *map(str, argv)], cwd=cwd, text=True,
                               env={**STARTED_WITH, "PYTHONUNBUFFERED": "1"},
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    # with all that it has started, which may hold the other end of its stdout
    ending = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
    ending.start()
    try:
        for line in process.stdout:
            if said := re.match(r"(?:step|iteration) ([\d,]+): .*val loss ([\d.]+)", line):
                loss = float(said[2])
                lowest = min(lowest or (loss, ""), (loss, said[1]))
                if loss <= target:
                    took = time.perf_counter() - t0
                    return took, f"{took:.1f} s, at iteration {said[1]} (val loss {loss})"
    finally:
        ending.cancel()
        wait_or_end(process, 0)
    got = f"lowest {lowest[0]} at iteration {lowest[1]}" if lowest else f"said: {last_line(line)}"
    return None, f"not reached in {time.perf_counter() - t0:.0f} s; {got}"


def fineweb(bench):
    """minutes to val loss 3.28 on FineWeb, projected"""
    out_dir = bench.folder / "fineweb"
    flags = [f"@{ROOT}/configs/modern_124m.args"] if bench.on_gpu else [
        *flags_of(TINY), "--max_iters=60"]
    argv = [sys.executable, ROOT / "train.py", *flags, f"--dataset={bench.dataset}",
            f"--device={bench.device.type}", "--eval_interval=5", "--eval_iters=5",
            "--eval_train=false", "--max_sample_tokens=0", f"--out_dir={out_dir}"]
    process = subprocess.Popen([*map(str, argv)], cwd=ROOT, env=STARTED_WITH,
                               start_new_session=True)
    status = wait_or_end(process, max(1, min(150, bench.seconds_left - 15)))
    if status:
        raise RuntimeError(f"train.py ended with exit status {status}")
    rows = [{name: float(row[name]) for name in ("tokens", "val_loss", "tokens_per_s")}
            for row in log_rows(out_dir) if row["val_loss"]]
    rows = rows[len(rows) // 2 :]  # the first steps fall faster than what follows
    if len(rows) < 3:
        raise Skip(f"{len(rows)} evaluations in the second half of the time are too few for a "
                   f"slope")
    slope, height = np.polyfit(np.log([r["tokens"] for r in rows]),
                               [r["val_loss"] for r in rows], 1)
    speed = statistics.median(r["tokens_per_s"] for r in rows)
    last = rows[-1]
    told = (f"val loss {last['val_loss']:.3f} after {last['tokens'] / 1e6:,.1f} M tokens at "
            f"{speed:,.0f} tokens/s, {slope * np.log(2):+.3f} for each doubling")
    if slope >= 0:
        raise Skip(f"{told}: the loss does not fall")
    needed = np.exp((FINEWEB - height) / slope)
    bench.row(f"val loss {FINEWEB} on {Path(bench.dataset).name}", f"{told}: {needed / 1e6:,.0f} M "
              f"tokens, {needed / speed / 60:,.0f} minutes",
              "a straight line over the logarithm of tokens; the rate's fall at the end is not "
              "in it")
