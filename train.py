"""
Train a GPT on a prepared dataset folder, data/<name>/.

    python train.py                                          # the default: plays, character by character, on a laptop
    python train.py --dataset=mydata --n_layer=6 --n_embd=384 --block_size=256 --dropout=0.2
    torchrun --standalone --nproc_per_node=8 train.py --dataset=openwebtext ...    # the GPUs of one machine

Writes out_dir/ckpt.pt (the last state, to resume from), best.pt (lowest val loss, to sample from) and log.csv.
Every flag: python train.py --help
"""
import contextlib
import ctypes
import math
import os
import shlex
import signal
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import torch

from data.batches import TrainBatches, check_split, eval_batches, split_iteration, to_xy
from data.dataset import SPLITS, open_dataset
from data.errors import UserError, one_line_errors
from data.files import lock
from data.sampler import seed_of, windows_per_epoch
from data.tokenizer import tokenizer_from_meta
from model import GPT, GPTConfig
from optim import block_size_at, configure_optimizer, lr_share
from runs import RunLog, estimate_mfu, hms, load_checkpoint, new_out_dir, newest_run, resume_command, save_checkpoint
from train_args import parse_args


# ---- where it runs: a rank is a process of torchrun, with a GPU of its own where there are GPUs


def pick_device(name, local_rank=0):
    """A torch.device for --device. Raises UserError for one that isn't there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            device = torch.device("cuda", local_rank if device.index is None else device.index)
            torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, AttributeError) as error:
        raise UserError(f"--device {name} cannot be used here ({type(error).__name__}). Take auto, cpu, cuda or mps; CUDA "
                        f"needs a GPU, its driver and a torch built for it") from None
    return device


def has_fast_bfloat16(device):
    """Whether the processor has instructions for products in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def settle_precision(args, device):
    """Replace `auto` in args.dtype and args.compile; they go into the checkpoint, so a resumed run keeps them."""
    if args.dtype == "auto":
        args.dtype = "bfloat16" if has_fast_bfloat16(device) else "float16" if device.type == "cuda" else "float32"
    if args.dtype == "float16" and device.type != "cuda":
        raise UserError("--dtype float16 needs a CUDA GPU; here use float32 or bfloat16")
    if args.compile == "auto":  # compiling takes half a minute, which a short run does not win back
        long_enough = args.max_iters >= 2000
        args.compile = "true" if device.type == "cuda" and sys.platform == "linux" and long_enough else "false"


def keep_freed_memory():
    """Have glibc keep what is freed: given back to the system, it is faulted in anew at each step, at the cost of a tenth
    of a small model's time."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such settings
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD, in bytes
        libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, in bytes; the largest allowed


def sum_over_ranks(values, device, num_ranks):
    """values (a CPU tensor) summed over all ranks."""
    if num_ranks == 1:
        return values
    values = values.to(device)
    torch.distributed.all_reduce(values)
    return values.cpu()


class StopRequest:
    """Ctrl-C and SIGTERM ask the loop to stop after the step at hand; the same once more ends the process at once."""

    def __init__(self, num_ranks):
        self.signal = 0
        # on the CPUs, so that asking does not wait for the GPUs
        self.group = torch.distributed.new_group(backend="gloo") if num_ranks > 1 else None
        self.previous = {number: signal.signal(number, self.ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(self, number, frame):
        self.signal = number
        signal.signal(number, self.previous[number])  # this one only: torchrun sends SIGTERM after a Ctrl-C

    def agreed(self):
        """The signal to stop for, or 0: the same on all ranks, whichever of them got it."""
        if self.group is None:
            return self.signal
        signal_of_any = torch.tensor(self.signal)
        torch.distributed.all_reduce(signal_of_any, torch.distributed.ReduceOp.MAX, self.group)
        return int(signal_of_any)

    def restore(self):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


# ---- the parts of a run


def open_data(args, checkpoint, num_ranks):
    """The dataset, checked against the arguments and, when resuming, against what the run began with."""
    dataset = open_dataset(args.dataset)
    for split in SPLITS:
        check_split(dataset, split, args.block_size)
    split_iteration(args.batch_size, args.gradient_accumulation_steps, num_ranks)
    if checkpoint and checkpoint["data"] != dataset.fingerprint():
        raise UserError(f"{dataset.folder} is not the data that this run began with (another train.bin or val.bin). "
                        f"Prepare it as it was, or start a new run")
    return dataset


def make_model(args, vocab_size, device):
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it
    sizes = {field.name: getattr(args, field.name) for field in fields(GPTConfig) if field.name != "vocab_size"}
    return GPT(GPTConfig(vocab_size=vocab_size, **sizes)).to(device)


def wrap(model, args, device, num_ranks):
    """(model for evaluation, model for training): compiled if asked for, and for training over all ranks.

    Evaluation has no use for the ranks' hooks; nothing need keep step there.
    """
    compiled = torch.compile(model, dynamic=False) if args.compile == "true" else model
    if num_ranks == 1:
        return compiled, compiled
    from torch.nn.parallel import DistributedDataParallel as DDP
    return compiled, DDP(compiled, device_ids=[device.index] if device.type == "cuda" else None)


def claim_out_dir(args, out_dir, rank, num_ranks, stack):
    """The run's folder, locked by rank 0 until the end. out_dir: that of the run to go on with, or None for a new one."""
    is_new, error = out_dir is None, None
    if rank == 0:
        try:
            out_dir = new_out_dir(args) if is_new else out_dir
            stack.enter_context(lock(out_dir, "train.py"))
        except (UserError, OSError) as caught:
            error = caught
    if num_ranks > 1:  # all ranks go on, or none
        told = [out_dir, error]
        torch.distributed.broadcast_object_list(told)
        out_dir, error = told
    if error:
        raise error
    if rank == 0:
        for name in ("ckpt.pt", "best.pt") if is_new else ():  # of the run that --overwrite gives up
            (out_dir / name).unlink(missing_ok=True)
    args.out_dir = str(out_dir)
    return out_dir


@torch.no_grad()
def estimate_loss(model, compiled_model, dataset, args, length, autocast, device, rank, num_ranks):
    """{"train": ..., "val": ...}: loss per token, in nats, over each split's fixed evaluation windows of block_size,
    cut to `length`."""
    model.eval()
    losses = {}
    for split in SPLITS if args.eval_train else ("val",):
        sums, num_tokens = [torch.zeros((), device=device)], 0
        for windows in eval_batches(dataset, split, block_size=args.block_size, batch_size=args.batch_size,
                                    eval_iters=args.eval_iters, rank=rank, num_ranks=num_ranks):
            x, y = cut(*to_xy(windows, device), length)
            full = x.numel() == args.batch_size * args.block_size  # another shape would compile anew
            with autocast:
                sums.append((compiled_model if full else model)(x, y)[1] * y.numel())
            num_tokens += y.numel()
        total = torch.tensor([torch.stack(sums).cpu().double().sum(), num_tokens], dtype=torch.float64)
        total = sum_over_ranks(total, device, num_ranks)
        losses[split] = (total[0] / total[1]).item()
    model.train()
    return losses


def in_words(losses):
    return ", ".join(f"{split} loss {loss:.4f}" for split, loss in losses.items())


def cut(x, y, length):
    """(B, T) -> (B * T / length, length), where that comes out even."""
    return (x, y) if x.size(1) % length else (x.reshape(-1, length), y.reshape(-1, length))


def forward_backward(model, batches, iter_num, args, length, autocast, scaler, device, rank, num_ranks):
    """The gradient of one iteration, over all of its micro-steps, windows cut to `length`. Returns the mean loss of this
    rank, a tensor."""
    total = torch.zeros((), device=device)
    for micro_step in range(batches.micro_steps):
        x, y = cut(*to_xy(next(batches), device), length)
        if args.dropout:  # its masks are a function of the position too, so a resumed run draws the same
            torch.manual_seed(seed_of(args.seed, "dropout", iter_num, micro_step, rank))
        if num_ranks > 1:  # gradients are summed over ranks once, in the last micro-step
            model.require_backward_grad_sync = micro_step == batches.micro_steps - 1
        with autocast:
            loss = model(x, y)[1] / batches.micro_steps
        scaler.scale(loss).backward()
        total += loss.detach()
    return total


def update(model, optimizer, scaler, learning_rates, share, grad_clip):
    """One step of the optimizer, each group at `share` of its learning rate; the gradients are used up."""
    for group, highest in zip(optimizer.param_groups, learning_rates):
        group["lr"] = highest * share
    if grad_clip:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def look(loss_sum, bad_iter, num_iters, device, num_ranks, out_dir):
    """The mean loss since the last look, over all ranks. Raises UserError if it is not finite.

    Reading from the device waits for it, so this is done for a progress line, not at each iteration.
    """
    bad = bad_iter.item()
    values = torch.tensor([loss_sum.item(), bad >= 0], dtype=torch.float64)
    loss, num_bad = sum_over_ranks(values, device, num_ranks).tolist()
    if num_bad:
        refuse_not_finite(f"the loss is not finite since iteration {bad:,}" if bad >= 0 else
                          "the loss of another rank is not finite", out_dir)
    return loss / num_iters / num_ranks


def refuse_not_finite(what, out_dir):
    kept = "The last checkpoint there is from before it and is kept" if (out_dir / "ckpt.pt").exists() else (
        "There is no checkpoint yet")
    raise UserError(f"{what} in {out_dir}. {kept}. Try lower learning rates")


def first_token(tokenizer):
    """What a sample starts from when no prompt is given: the end of a document, a newline, or else id 0."""
    if tokenizer.eot_token is not None:
        return tokenizer.eot_token
    try:
        return int(tokenizer.encode("\n")[0])
    except UserError:
        return 0


def print_sample(model, meta, max_new_tokens, device):
    model.eval()
    try:
        tokenizer = tokenizer_from_meta(meta)
        start = torch.tensor([[first_token(tokenizer)]], device=device)
        generator = torch.Generator(device).manual_seed(0)
        ids = [int(new) for new in model.stream(start, max_new_tokens, temperature=0.8, generator=generator)]
        if tokenizer.eot_token in ids:
            ids = ids[: ids.index(tokenizer.eot_token)]
        print(f"\n{tokenizer.decode(ids)}")
    except UserError as error:  # foreign data without the means to read it; the run itself is done
        print(f"note: no sample, because {error}")


# ---- the run


def main(argv=None):
    args = parse_args(argv)
    rank, local_rank, num_ranks = (int(os.environ.get(name, default)) for name, default in
                                   (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    device = pick_device(args.device, local_rank)
    if device.type == "cpu":
        keep_freed_memory()
    with contextlib.ExitStack() as stack:
        if num_ranks > 1:
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            stack.callback(torch.distributed.destroy_process_group)
        train(args, argv, device, rank, num_ranks, stack)


def train(args, argv, device, rank, num_ranks, stack):
    say = print if rank == 0 else lambda *a, **k: None

    # 1) what to go on from, the data, the model and its optimizer
    checkpoint, out_dir = None, None
    if args.init_from == "resume":
        out_dir = Path(args.out_dir) if args.out_dir else newest_run()
        checkpoint = load_checkpoint(out_dir / "ckpt.pt")
        args = parse_args(argv, saved=checkpoint["args"])
    settle_precision(args, device)
    dataset = open_data(args, checkpoint, num_ranks)
    model = make_model(args, dataset.vocab_size, device)
    optimizer = configure_optimizer(model, args)
    scaler = torch.amp.GradScaler(device.type, enabled=args.dtype == "float16")
    iter_num, best_val_loss, seconds = 0, math.inf, 0.0  # iter_num counts finished iterations
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        if scaler.is_enabled() and checkpoint["scaler"]:
            scaler.load_state_dict(checkpoint["scaler"])
        iter_num, best_val_loss, seconds = (checkpoint[k] for k in ("iter_num", "best_val_loss", "seconds"))
        del checkpoint

    compiled_model, train_model = wrap(model, args, device, num_ranks)
    autocast = contextlib.nullcontext() if args.dtype == "float32" else (
        torch.autocast(device.type, dtype=getattr(torch, args.dtype)))
    say(f"data   {dataset.name}: train {dataset.num_tokens['train']:,} tokens, val {dataset.num_tokens['val']:,}, "
        f"vocab_size {dataset.vocab_size:,}")
    say(f"model  {args.arch}, {model.num_params():,} parameters: {args.n_layer} layers, {args.n_head} heads, "
        f"{args.n_embd} wide")
    if args.eval_only:
        losses = estimate_loss(model, compiled_model, dataset, args, block_size_at(iter_num, args), autocast, device, rank,
                               num_ranks)
        say(f"iteration {iter_num:,}: {in_words(losses)}")
        return
    if iter_num >= args.max_iters:
        raise UserError(f"the run is complete: {iter_num:,} of {args.max_iters:,} iterations. For more, raise --max_iters")

    # 2) its folder, its log, its batches
    out_dir = claim_out_dir(args, out_dir, rank, num_ranks, stack)
    log = RunLog(out_dir, iter_num, enabled=rank == 0)
    tokens_per_iter = args.batch_size * args.gradient_accumulation_steps * args.block_size
    epoch_tokens = args.block_size * windows_per_epoch(args.sampling_method, dataset.num_tokens["train"], args.block_size)
    say(f"run    iterations {iter_num:,} to {args.max_iters:,} of {tokens_per_iter:,} tokens, "
        f"{(args.max_iters - iter_num) * tokens_per_iter / epoch_tokens:.2f} epochs, {args.sampling_method}\n"
        f"       on {f'{num_ranks} x ' if num_ranks > 1 else ''}{device.type} in {args.dtype}"
        f"{', compiled' if args.compile == 'true' else ''}, into {out_dir}/", flush=True)

    def save(is_best=False):
        if not all(p.isfinite().all() for p in model.parameters()) or math.isnan(best_val_loss):
            refuse_not_finite(f"the weights are not finite after iteration {iter_num:,}", out_dir)
        if rank == 0:
            save_checkpoint(out_dir, {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
                "iter_num": iter_num, "best_val_loss": best_val_loss, "seconds": time.perf_counter() - t_start,
                "args": vars(args), "meta": dataset.meta, "model_args": asdict(model.config),
                "data": dataset.fingerprint()}, is_best)

    batches = TrainBatches(
        dataset, sampling_method=args.sampling_method, block_size=args.block_size, batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps, seed=args.seed, iter_num=iter_num,
        max_iters=args.max_iters, rank=rank, num_ranks=num_ranks, pin_memory=device.type == "cuda")
    stack.callback(batches.close)
    stop = StopRequest(num_ranks)
    stack.callback(stop.restore)

    # 3) the loop
    learning_rates = [group["lr"] for group in optimizer.param_groups]  # the highest ones
    loss_sum = torch.zeros((), device=device)  # since the last look
    bad_iter = torch.full((), -1, device=device)  # the first iteration whose loss was not finite
    t_look = time.perf_counter()
    t_start = t_look - seconds  # as if the run had never stopped
    looked_at, wait_before = iter_num, 0.0
    stopping = 0  # or the number of the signal to stop for
    while iter_num < args.max_iters and not stopping:
        share, length = lr_share(iter_num, args), block_size_at(iter_num, args)
        loss_sum += forward_backward(train_model, batches, iter_num, args, length, autocast, scaler, device, rank, num_ranks)
        update(model, optimizer, scaler, learning_rates, share, args.grad_clip)
        bad_iter = torch.where((bad_iter < 0) & ~torch.isfinite(loss_sum), iter_num, bad_iter)
        iter_num += 1

        stopping = stop.agreed()
        evaluate = iter_num % args.eval_interval == 0 or iter_num == args.max_iters
        if not (evaluate or iter_num % args.log_interval == 0 or stopping):
            continue

        # 4) a progress line; with evaluation, a checkpoint
        batch_loss = look(loss_sum, bad_iter, iter_num - looked_at, device, num_ranks, out_dir)
        dt = time.perf_counter() - t_look  # seconds
        row = dict(iter=iter_num, tokens=iter_num * tokens_per_iter, batch_loss=batch_loss,
                   learning_rate=args.learning_rate * share, tokens_per_s=(iter_num - looked_at) * tokens_per_iter / dt,
                   data_wait=(batches.wait_time - wait_before) / dt, seconds=time.perf_counter() - t_start)
        row["mfu"] = estimate_mfu(model, row["tokens_per_s"], device, num_ranks)
        log.progress(iter_num, args.max_iters, batch_loss, best_val_loss, row["tokens_per_s"], row["data_wait"],
                     (args.max_iters - iter_num) * dt / (iter_num - looked_at))
        if evaluate:
            losses = estimate_loss(model, compiled_model, dataset, args, length, autocast, device, rank, num_ranks)
            row |= {f"{split}_loss": loss for split, loss in losses.items()}
            is_best = losses["val"] < best_val_loss
            best_val_loss = min(losses["val"], best_val_loss)
            log.line(f"iteration {iter_num:,}: {in_words(losses)}{' (best)' if is_best else ''}")
        log.row(**row)
        if evaluate:  # after the log: a resumed run drops the rows behind its checkpoint, and cannot make up for lost ones
            save(is_best)
        loss_sum.zero_()
        looked_at, wait_before, t_look = iter_num, batches.wait_time, time.perf_counter()

    # 5) the end
    if stopping and iter_num < args.max_iters:
        save()
        log.line(f"stopped at iteration {iter_num:,}. Go on: {resume_command(out_dir)}")
        sys.exit(128 + stopping)
    log.line(f"done in {hms(time.perf_counter() - t_start)}: best val loss {best_val_loss:.4f}. "
             f"More text: python sample.py --out_dir={shlex.quote(str(out_dir))}")
    if rank == 0 and args.max_sample_tokens:
        print_sample(model, dataset.meta, args.max_sample_tokens, device)


if __name__ == "__main__":
    with one_line_errors():
        main()
