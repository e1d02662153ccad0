"""
Train a GPT on a prepared dataset folder, data/<name>/.

    python train.py                                          # the default: plays, character by character, on a laptop
    python train.py --dataset=mydata --n_layer=6 --n_embd=384 --block_size=256 --dropout=0.2
    python train.py --dataset=shakespeare --init_from=gpt2   # go on from published weights
    torchrun --standalone --nproc_per_node=8 train.py --dataset=openwebtext ...    # the GPUs of one machine
    python train.py ... --plan                               # what that would do and take; nothing is written

Writes out_dir/ckpt.pt (the last state, to resume from), best.pt (lowest val loss, to sample from), args.json, log.csv
and, where matplotlib is installed, loss.png.
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

from pipeline.threads import SlowSteps, set_by_user, set_environment, take_threads

if __name__ == "__main__":
    set_environment()  # before numpy and torch, which read it as they are imported

from pipeline.errors import UserError, one_line_errors
from train_args import GPT2, parse_args

if __name__ == "__main__":
    with one_line_errors():
        parse_args()  # --help and mistakes need not wait the second that torch takes to be imported

import torch

from model import GPT, GPTConfig
from optim import block_size_at, configure_optimizer, lr_fraction
from pipeline.files import lock
from pipeline.read.batches import TrainBatches, eval_batches, split_iteration, to_xy
from pipeline.read.folder import SPLITS
from pipeline.read.mixture import open_mixture, start_tokens
from pipeline.read.sampler import ORDER_VERSION, seed_of
from training import plan, plots
from training.checkpoint import RESUMED, config_of, load_checkpoint, take_state
from training.published import load_gpt2, refuse_other_tokens
from training.run_folder import (
    RunLog,
    describe_run,
    estimate_mfu,
    hms,
    new_out_dir,
    newest_run,
    open_trackers,
    pick_device,
    resume_command,
    save_checkpoint,
)
from training.samples import SampleArgs, speak

# ---- where it runs: a rank is a process of torchrun, with a GPU of its own where there are GPUs


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


def settle_threads(args, device, checkpoint, say):
    """Replace None in args.num_threads by what the run so far had, or a new one takes. It goes into
    the checkpoint, since sums in another number of parts are rounded otherwise."""
    before = checkpoint["args"].get("num_threads") if checkpoint else None  # older ones don't say
    chosen = "--num_threads" if args.num_threads else set_by_user()
    num_threads = take_threads(args.num_threads, before)
    if device.type != "cpu":
        return
    args.num_threads = num_threads
    if before not in (None, num_threads):
        say(f"note: the number of threads was {before} until now and is {num_threads} from here on "
            f"({chosen or 'there are no more cores'}), so this run is no longer equal to the bit to "
            f"one that was never stopped. For equality resume with --num_threads={before}")


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
    """Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes ask the loop to stop after the step at
    hand.

    More signals change nothing: Slurm, systemd and timeout send several, and torchrun passes on
    each that it gets. Only a person's second Ctrl-C, which comes later than a program's, ends the
    process at once. Under torchrun, which sends the ranks signals of its own, none does.
    """
    AT_ONCE = 1.0  # seconds in which a second Ctrl-C is not a person's

    def __init__(self, num_ranks):
        self.signal, self.asked = 0, math.inf  # the first signal, and when it came
        # on the CPUs, so that asking does not wait for the GPUs
        self.group = torch.distributed.new_group(backend="gloo") if num_ranks > 1 else None
        numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
        # what nohup, or a script in which we are a background job, has us ignore stays ignored
        self.previous = {number: signal.signal(number, self.ask) for number in numbers
                         if signal.getsignal(number) != signal.SIG_IGN}

    def ask(self, number, frame):
        if number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ and (
                time.monotonic() - self.asked > self.AT_ONCE):
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self.asked = number, time.monotonic()

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
    """The mixture, checked against the arguments and, when resuming, against what the run began with."""
    # checkpoints of the first version say none
    order_version = ORDER_VERSION if checkpoint is None else checkpoint.get("order_version", 1)
    if order_version not in range(1, ORDER_VERSION + 1):
        raise UserError(f"the run in {args.out_dir} began on version {order_version!r:.20} of the "
                        f"order of the data, and this train.py knows the versions up to "
                        f"{ORDER_VERSION}. Go on with the train.py that began it")
    mixture = open_mixture(args, order_version)
    split_iteration(args.batch_size, args.gradient_accumulation_steps, num_ranks)
    for dataset in mixture.datasets if checkpoint else ():
        if checkpoint["data"].get(dataset.name) != dataset.fingerprint():
            raise UserError(f"{dataset.folder} is not the data that this run began with (another train.bin or val.bin). "
                            f"Prepare it as it was, or start a new run")
    return mixture


def make_model(args, vocab_sizes, device):
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it
    sizes = {field.name: getattr(args, field.name) for field in fields(GPTConfig) if hasattr(args, field.name)}
    vocabularies = tuple(vocab_sizes) if len(vocab_sizes) > 1 else ()
    return GPT(GPTConfig(vocab_size=sum(vocab_sizes), vocab_sizes=vocabularies, **sizes)).to(device)


def wrap(model, args, device, num_ranks):
    """(model for evaluation, model for training): compiled if asked for, and for training over all ranks.

    Evaluation has no use for the ranks' hooks; nothing need keep step there.
    """
    compiled = torch.compile(model, dynamic=False) if args.compile == "true" else model
    if num_ranks == 1:
        return compiled, compiled
    from torch.nn.parallel import DistributedDataParallel as DDP
    return compiled, DDP(compiled, device_ids=[device.index] if device.type == "cuda" else None,
                         broadcast_buffers=False)  # the rotation's tables, the same on every rank


def claim_out_dir(args, rank, num_ranks, stack):
    """The folder of the new run, or of the one to go on with, chosen by rank 0 and locked by it
    until the end; for looking alone, by --plan and --eval_only, it is not locked."""
    is_new, out_dir, error = args.init_from != "resume", None, None
    if rank == 0:
        try:
            out_dir = (new_out_dir(args) if is_new else
                       Path(args.out_dir) if args.out_dir else newest_run())
            # where there is no checkpoint, loading it says so
            if is_new or (out_dir / "ckpt.pt").exists() and not (args.plan or args.eval_only):
                stack.enter_context(lock(out_dir, "train.py"))
            if is_new and args.out_dir:  # look again, now that no other run can begin there
                new_out_dir(args, make=False)
        except (UserError, OSError) as caught:
            error = caught
    if num_ranks > 1:  # all ranks go on, or none
        told = [out_dir, error]
        torch.distributed.broadcast_object_list(told)
        out_dir, error = told
    if error:
        raise error
    if rank == 0:
        for name in ("ckpt.pt", "best.pt", "loss.png", "events.out.tfevents.*") if is_new else ():
            for path in out_dir.glob(name):  # of the run that --overwrite gives up
                path.unlink()
    return out_dir


def load_same_checkpoint(out_dir, num_ranks):
    """The checkpoint to go on from, the same on all ranks: a run that is only looked at may save
    between their reads."""
    while True:
        checkpoint = load_checkpoint(out_dir / "ckpt.pt", RESUMED)
        iter_nums = [checkpoint["iter_num"]]
        if num_ranks > 1:
            iter_nums *= num_ranks
            torch.distributed.all_gather_object(iter_nums, checkpoint["iter_num"])
        if iter_nums == iter_nums[:1] * num_ranks:
            return checkpoint


@torch.no_grad()
def estimate_loss(model, compiled_model, mixture, args, length, autocast, device, rank, num_ranks):
    """{"train": ..., "val": ...}: (L,) float64, for each dataset the loss per token, in nats, over its split's fixed
    evaluation windows of block_size, cut to `length`."""
    model.eval()
    losses = {}
    for split in SPLITS if args.eval_train else ("val",):
        totals = torch.zeros(len(mixture.members), mixture.num_streams + 1, dtype=torch.float64)  # losses, tokens
        for member, total in enumerate(totals):
            sums = [torch.zeros(mixture.num_streams, device=device)]
            for windows in eval_batches(mixture, split, member, eval_iters=args.eval_iters, rank=rank, num_ranks=num_ranks):
                x, y = cut(*to_xy(windows, device), length)
                num_tokens = x.size(0) * x.size(1)
                full = num_tokens == args.batch_size * args.block_size  # another shape would compile anew
                with autocast:
                    sums.append((compiled_model if full else model)(x, y)[1].reshape(-1) * num_tokens)
                total[-1] += num_tokens
            total[:-1] = torch.stack(sums).cpu().double().sum(0)
        totals = sum_over_ranks(totals, device, num_ranks)
        losses[split] = (totals[:, :-1] / totals[:, -1:]).flatten().numpy()
    model.train()
    return losses


def loss_columns(mixture, losses, blocks):
    """What an evaluation, and the first `blocks` blocks of data, put into log.csv: the mean over the datasets, and each."""
    columns = {}
    for split, values in losses.items():
        for what, each in ((f"{split}_loss", values), (f"{split}_bits_per_byte", mixture.bits_per_byte(values, split))):
            columns[what] = float(each @ mixture.weights)
            columns |= {f"{what}/{name}": float(one) for name, one in zip(mixture.names, each)}
    for name, (tokens, epochs) in mixture.consumed(blocks).items():
        columns |= {f"tokens/{name}": tokens, f"epochs/{name}": epochs}
    return columns


def in_words(columns, of=""):
    """The losses among the columns of log.csv: the means, or those of one dataset."""
    return ", ".join(f"{split} loss {columns[f'{split}_loss{of}']:.4f}" for split in SPLITS if f"{split}_loss{of}" in columns)


def report(say, mixture, columns, iter_num, is_best=False):
    """The lines of an evaluation: the means, then, where there are several datasets, each."""
    say(f"iteration {iter_num:,}: {in_words(columns)}{' (best)' if is_best else ''}")
    for name in mixture.names if len(mixture.names) > 1 else ():
        bits = columns[f"val_bits_per_byte/{name}"]
        bits = "" if math.isnan(bits) else f"{bits:.3f} bits a byte, "
        say(f"  {name}: {in_words(columns, f'/{name}')}, {bits}{columns[f'epochs/{name}']:.2f} epochs")


def cut(x, y, length):
    """(B, T[, K]) -> (B * T / length, length[, K]), where that comes out even."""
    return (x, y) if x.size(1) % length else (part.reshape(-1, length, *part.shape[2:]) for part in (x, y))


def forward_backward(model, batches, loss_weights, iter_num, args, length, autocast, scaler, device, rank, num_ranks):
    """The gradient of one iteration, over all of its micro-steps, windows cut to `length`. loss_weights: (K,), of the
    streams. Returns the mean loss of this rank, a tensor."""
    total = torch.zeros((), device=device)
    for micro_step in range(batches.micro_steps):
        x, y = cut(*to_xy(next(batches), device), length)
        if args.dropout:  # its masks are a function of the position too, so a resumed run draws the same
            torch.manual_seed(seed_of(args.seed, "dropout", iter_num, micro_step, rank))
        if num_ranks > 1:  # gradients are summed over ranks once, in the last micro-step
            model.require_backward_grad_sync = micro_step == batches.micro_steps - 1
        with autocast:
            loss = (model(x, y)[1] * loss_weights).sum() / batches.micro_steps
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


def print_sample(model, metas, starts, args, device):
    model.eval()
    try:
        print()
        given = SampleArgs(max_new_tokens=args.max_sample_tokens)
        speak(model, metas, starts, args.training_mode, given, device)
    except UserError as error:  # foreign data without the means to read it; the run itself is done
        print(f"note: no sample, because {error}")
    model.train()


# ---- the run


def main(argv=None):
    args = parse_args(argv)
    rank, local_rank, num_ranks = (int(os.environ.get(name, default)) for name, default in
                                   (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    device = pick_device(args.device, local_rank)
    if device.type == "cpu":
        keep_freed_memory()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())  # a notebook's, as it was
        if num_ranks > 1:
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            stack.callback(torch.distributed.destroy_process_group)
        try:
            train(args, argv, device, rank, num_ranks, stack)
        except (MemoryError, RuntimeError) as error:
            # numpy's, CUDA's and, with no type of its own, that of torch's CPU allocator
            if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
                raise
            what = (str(error) or repr(error)).splitlines()[0][:200].rstrip(". ")
            told = UserError(f"out of memory on {device.type}: {what}. Lower --batch_size, and raise "
                             f"--gradient_accumulation_steps as much; or make the model smaller")
            told.of_one_rank = True  # the others may have had enough
            raise told from None


def train(args, argv, device, rank, num_ranks, stack):
    say = print if rank == 0 else lambda *a, **k: None

    # 1) what to go on from, the data, the model and its optimizer
    checkpoint, out_dir = None, None
    if args.init_from == "resume":
        # locked before it is read: another process may be saving there
        out_dir = claim_out_dir(args, rank, num_ranks, stack)
        checkpoint = load_same_checkpoint(out_dir, num_ranks)
        config_of(checkpoint, out_dir / "ckpt.pt")  # what its arguments ask for is there
        args = parse_args(argv, saved=checkpoint["args"])
    settle_precision(args, device)
    settle_threads(args, device, checkpoint, say)
    mixture = open_data(args, checkpoint, num_ranks)
    if args.init_from in GPT2:
        refuse_other_tokens(mixture.datasets[0], args.init_from)
    model = make_model(args, mixture.vocab_sizes, device)
    if args.init_from in GPT2 and rank == 0 and not args.plan:  # wrap() gives the others what rank 0 has
        load_gpt2(model, args.init_from)
    optimizer = configure_optimizer(model, args)
    scaler = torch.amp.GradScaler(device.type, enabled=args.dtype == "float16")
    iter_num, best_val_loss, seconds = 0, math.inf, 0.0  # iter_num counts finished iterations
    columns = {}  # of log.csv, from the last evaluation
    if checkpoint:
        take_state(checkpoint, out_dir / "ckpt.pt", model, optimizer)
        if scaler.is_enabled() and checkpoint["scaler"]:
            scaler.load_state_dict(checkpoint["scaler"])
        iter_num, best_val_loss, seconds, columns = (checkpoint[k] for k in ("iter_num", "best_val_loss", "seconds", "evaluated"))
        del checkpoint

    autocast = contextlib.nullcontext() if args.dtype == "float32" else (
        torch.autocast(device.type, dtype=getattr(torch, args.dtype)))
    read = plan.what_is_read(mixture, args, iter_num)
    for line in () if args.eval_only and not args.plan else plan.data_lines(mixture, args, iter_num, read):
        say(line)
    say(plan.model_line(args, model))
    if iter_num >= args.max_iters and (args.plan or not args.eval_only):
        raise UserError(f"the run is complete: {iter_num:,} of {args.max_iters:,} iterations. For more, raise --max_iters")
    if args.plan:
        if rank == 0:
            plan.print_plan(args, mixture, model, optimizer, autocast, device, iter_num, num_ranks, out_dir, read)
        return
    compiled_model, train_model = wrap(model, args, device, num_ranks)
    if args.eval_only:
        length = block_size_at(max(0, iter_num - 1), args)  # as in the evaluation that the loop did here
        losses = estimate_loss(model, compiled_model, mixture, args, length, autocast, device, rank, num_ranks)
        report(say, mixture, loss_columns(mixture, losses, iter_num * args.gradient_accumulation_steps), iter_num)
        return

    # 2) its folder, its log, its batches
    out_dir = out_dir or claim_out_dir(args, rank, num_ranks, stack)
    args.out_dir = str(out_dir)
    trackers, starts = (), {}
    if rank == 0:
        starts = start_tokens(mixture)
        describe_run(out_dir, args, argv, iter_num)
        trackers = open_trackers(args, out_dir, iter_num, stack)
    log = RunLog(out_dir, iter_num, enabled=rank == 0, names=mixture.names if len(mixture.names) > 1 else (), trackers=trackers)
    tokens_per_iter = args.batch_size * args.gradient_accumulation_steps * args.block_size
    say(f"run    iterations {iter_num:,} to {args.max_iters:,} of {tokens_per_iter:,} tokens, {args.sampling_method}\n"
        f"       on {f'{num_ranks} x ' if num_ranks > 1 else ''}{device.type} in {args.dtype}"
        f"{', compiled' if args.compile == 'true' else ''}, into {out_dir}/", flush=True)

    def save(is_best=False):
        if not all(p.isfinite().all() for p in model.parameters()) or math.isnan(best_val_loss):
            refuse_not_finite(f"the weights are not finite after iteration {iter_num:,}", out_dir)
        if rank == 0:
            save_checkpoint(out_dir, {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
                "iter_num": iter_num, "best_val_loss": best_val_loss, "seconds": time.perf_counter() - t_start,
                "args": vars(args), "metas": mixture.metas, "starts": starts,
                "model_args": asdict(model.config),
                "data": mixture.fingerprint(), "evaluated": columns,
                "order_version": mixture.order_version}, is_best)

    batches = TrainBatches(
        mixture, gradient_accumulation_steps=args.gradient_accumulation_steps, iter_num=iter_num, max_iters=args.max_iters,
        rank=rank, num_ranks=num_ranks, pin_memory=device.type == "cuda")
    stack.callback(batches.close)
    stop = StopRequest(num_ranks)
    stack.callback(stop.restore)

    # 3) the loop
    learning_rates = [group["lr"] for group in optimizer.param_groups]  # the highest ones
    loss_weights = torch.tensor(mixture.weights[: mixture.num_streams] if mixture.num_streams > 1 else [1.0],
                                dtype=torch.float32, device=device)
    loss_sum = torch.zeros((), device=device)  # since the last look
    bad_iter = torch.full((), -1, device=device)  # the first iteration whose loss was not finite
    t_look = time.perf_counter()
    t_start = t_look - seconds  # as if the run had never stopped
    looked_at, wait_before, slow_steps = iter_num, 0.0, SlowSteps(device, args.num_threads)
    stopping = 0  # or the number of the signal to stop for
    while iter_num < args.max_iters and not stopping:
        share, length = lr_fraction(iter_num, args), block_size_at(iter_num, args)
        loss_sum += forward_backward(train_model, batches, loss_weights, iter_num, args, length, autocast, scaler, device, rank,
                                     num_ranks)
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
        if note := slow_steps.note(dt, iter_num - looked_at, length):
            log.line(note)
        if evaluate:
            losses = estimate_loss(model, compiled_model, mixture, args, length, autocast, device, rank, num_ranks)
            columns = {"iter": iter_num, **loss_columns(mixture, losses, iter_num * args.gradient_accumulation_steps)}
            row |= columns
            is_best = columns["val_loss"] < best_val_loss
            best_val_loss = min(columns["val_loss"], best_val_loss)
            report(log.line, mixture, columns, iter_num, is_best)
        log.row(**row)
        if evaluate:  # after the log: a resumed run drops the rows behind its checkpoint, and cannot make up for lost ones
            save(is_best)
            if args.sample_every_eval and rank == 0:
                print_sample(model, mixture.metas, starts, args, device)
        loss_sum.zero_()
        looked_at, wait_before, t_look = iter_num, batches.wait_time, time.perf_counter()

    # 5) the end
    if stopping and iter_num < args.max_iters:
        save()
        with contextlib.suppress(RuntimeError):  # rank 0 could not save, and has said so
            stop.agreed()  # wait for it: when one rank ends, torchrun gives the others 30 seconds
        log.line(f"stopped at iteration {iter_num:,}. Go on: {resume_command(out_dir)}")
        sys.exit(128 + stopping)
    log.line(f"done in {hms(time.perf_counter() - t_start)}: best val loss {best_val_loss:.4f}. "
             f"More text: python sample.py --out_dir={shlex.quote(str(out_dir))}")
    stop.restore()  # what is left can be lost
    if rank == 0:
        plots.plot_or_say_why(out_dir)
        if args.max_sample_tokens and not (evaluate and args.sample_every_eval):
            print_sample(model, mixture.metas, starts, args, device)


if __name__ == "__main__":
    with one_line_errors():
        main()
