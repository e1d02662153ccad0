"""
Train a GPT on a prepared dataset folder, data/<name>/.

    python train.py                                          # the default: plays, character by character, on a laptop
    python train.py --dataset=mydata --n_layer=6 --n_embd=384 --block_size=256 --dropout=0.2
    torchrun --standalone --nproc_per_node=8 train.py --dataset=openwebtext ...    # the GPUs of one machine

Writes out_dir/ckpt.pt (the last state, to resume from), best.pt (lowest val loss, to sample from) and log.csv.
Every flag: python train.py --help
"""
import contextlib
import csv
import math
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

from data.batches import TrainBatches, check_split, eval_batches, split_iteration, to_xy
from data.dataset import SPLITS, open_dataset
from data.errors import UserError, one_line_errors
from data.files import lock, replacing
from data.sampler import seed_of, windows_per_epoch
from data.tokenizer import tokenizer_from_meta
from model import GPT, GPTConfig
from train_args import parse_args, resume_args

CSV_COLUMNS = ("iter", "tokens", "train_loss", "val_loss", "batch_loss", "learning_rate", "tokens_per_s", "data_wait",
               "seconds")


# ---- where it runs


def set_up_ranks():
    """(rank, local_rank, num_ranks) as torchrun sets them; (0, 0, 1) without it."""
    if "RANK" not in os.environ:
        return 0, 0, 1
    return int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])


def pick_device(name, local_rank):
    """A torch.device for --device; each local rank takes its own GPU. Raises UserError for one that isn't there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            device = torch.device("cuda", local_rank if device.index is None else device.index)
            torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def settle_precision(args, device):
    """Replace `auto` in args.dtype and args.compile; they go into the checkpoint, so a resumed run keeps them."""
    if args.dtype == "auto":
        args.dtype = "float32" if device.type != "cuda" else (
            "bfloat16" if torch.cuda.is_bf16_supported() else "float16")
    if args.dtype == "float16" and device.type != "cuda":
        raise UserError("--dtype float16 needs a CUDA GPU; here use float32 or bfloat16")
    if args.compile == "auto":
        args.compile = "true" if device.type == "cuda" and sys.platform == "linux" else "false"


# ---- one run, one folder


def new_out_dir(args):
    """Make the run's folder: --out_dir, or the first of out/<dataset>, out/<dataset>-2, ... that is free."""
    if args.out_dir:
        out_dir = Path(args.out_dir)
        if (out_dir / "log.csv").exists() and not args.overwrite:
            raise UserError(f"{out_dir} holds a run. Go on with it: python train.py --init_from=resume "
                            f"--out_dir={out_dir}; or replace it: add --overwrite; or leave --out_dir out")
        out_dir.mkdir(parents=True, exist_ok=True)
        return out_dir
    name, n = Path(args.dataset).name, 1
    while True:
        out_dir = Path("out") / (name if n == 1 else f"{name}-{n}")
        try:
            out_dir.mkdir(parents=True)
            return out_dir
        except FileExistsError:
            n += 1


def newest_run(parent="out"):
    """The run folder of `parent` whose checkpoint is the youngest. Raises FileNotFoundError."""
    checkpoints = sorted(Path(parent).glob("*/ckpt.pt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise FileNotFoundError(f"no checkpoint in {parent}/. Train first: python train.py, or name the run: --out_dir=...")
    return checkpoints[-1].parent


def save_checkpoint(out_dir, state, is_best):
    """Replace ckpt.pt, and best.pt too when is_best; a kill at any moment leaves the files from before, whole."""
    with replacing(out_dir / "ckpt.pt") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # how torch reports a failed write
            raise UserError(f"could not write {file.name}: {str(error).splitlines()[0]}. Is the disk full? The "
                            f"checkpoint before it is still there") from None
        if is_best:  # the same bytes under a second name, so that the two never disagree
            file.flush()
            os.fsync(file.fileno())
            link = out_dir / "best.pt.tmp"
            link.unlink(missing_ok=True)
            try:
                os.link(file.name, link)
            except OSError:  # a file system without hard links
                shutil.copyfile(file.name, link)
            os.replace(link, out_dir / "best.pt")


def load_checkpoint(path):
    """The dict that save_checkpoint wrote. Nothing but tensors and plain values is read, and no code is run."""
    if not path.exists():
        raise FileNotFoundError(f"{path} not found. Train first: python train.py, or name the run: --out_dir=...")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        raise UserError(f"{path} is no checkpoint of train.py: damaged, or it holds more than tensors and plain values, "
                        f"and nothing of that was run ({str(error).splitlines()[0][:80]})") from None
    if not isinstance(checkpoint, dict) or not {"model", "model_args", "args", "meta", "iter_num"} <= checkpoint.keys():
        raise UserError(f"{path} is no checkpoint of this train.py: it lacks model, model_args, args, meta or iter_num")
    return checkpoint


class RunLog:
    """The progress line on the terminal, and out_dir/log.csv. Does nothing on ranks other than 0."""

    def __init__(self, out_dir, iter_num, enabled):
        self.enabled, self.tty = enabled, sys.stdout.isatty()
        if not enabled:
            return
        path, rows = out_dir / "log.csv", []
        if iter_num and path.exists():  # what a killed run logged after its last checkpoint will be done again
            with open(path, newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["iter"] and int(row["iter"]) <= iter_num]
        self.file = open(path, "w", newline="")
        self.writer = csv.DictWriter(self.file, CSV_COLUMNS, extrasaction="ignore")
        self.writer.writeheader()
        self.writer.writerows(rows)

    def row(self, **values):
        if self.enabled:
            self.writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()})
            self.file.flush()

    def progress(self, text):
        """One line, rewritten in place on a terminal."""
        if self.enabled:
            print(f"\r{text:<79}" if self.tty else text, end="" if self.tty else "\n", flush=True)

    def line(self, text):
        """A line that stays."""
        if self.enabled:
            print(f"\r{text:<79}" if self.tty else text, flush=True)


def hms(seconds):
    """Seconds as 1:23:45 or 0:07."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def short(n):
    """A rate in three digits: 950, 12.3k, 4.56M."""
    for unit in ("", "k", "M", "G"):
        if n < 1000 or unit == "G":
            return f"{n:.3g}{unit}" if n < 999.5 else f"{n:.0f}{unit}"
        n /= 1000


# ---- the parts of a step


def configure_optimizer(model, args, device):
    """AdamW; matrices and embeddings decay, vectors (biases, LayerNorm) don't."""
    params = list(model.parameters())
    groups = [{"params": [p for p in params if p.dim() >= 2], "weight_decay": args.weight_decay},
              {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=(args.beta1, args.beta2),
                             fused=device.type in ("cuda", "cpu"))


def get_lr(iter_num, args):
    """Learning rate of an iteration: linear warm-up, then a cosine down to min_lr at lr_decay_iters."""
    if iter_num < args.warmup_iters:
        return args.learning_rate * (iter_num + 1) / (args.warmup_iters + 1)
    if not args.decay_lr:
        return args.learning_rate
    min_lr = args.learning_rate / 10 if args.min_lr is None else args.min_lr
    decay_iters = args.lr_decay_iters or args.max_iters
    progress = min(1.0, (iter_num - args.warmup_iters) / max(1, decay_iters - args.warmup_iters))
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * progress)) * (args.learning_rate - min_lr)


@torch.no_grad()
def estimate_loss(model, compiled_model, dataset, args, autocast, device, rank, num_ranks):
    """{"train": ..., "val": ...}: loss per token, in nats, over each split's fixed evaluation windows."""
    model.eval()
    losses = {}
    for split in SPLITS:
        sums, num_tokens = [torch.zeros((), device=device)], 0
        for windows in eval_batches(dataset, split, block_size=args.block_size, batch_size=args.batch_size,
                                    eval_iters=args.eval_iters, rank=rank, num_ranks=num_ranks):
            x, y = to_xy(windows, device)
            full = x.shape == (args.batch_size, args.block_size)  # another shape would compile anew
            with autocast:
                sums.append((compiled_model if full else model)(x, y)[1] * y.numel())
            num_tokens += y.numel()
        total = torch.tensor([torch.stack(sums).cpu().double().sum(), num_tokens], dtype=torch.float64)
        losses[split] = sum_over_ranks(total, device, num_ranks)
    model.train()
    return {split: (total[0] / total[1]).item() for split, total in losses.items()}


def sum_over_ranks(values, device, num_ranks):
    """values (a CPU tensor) summed over all ranks."""
    if num_ranks == 1:
        return values
    values = values.to(device)
    dist.all_reduce(values)
    return values.cpu()


class StopRequest:
    """Ctrl-C and SIGTERM ask the loop to stop after the step at hand; a second one ends the process at once."""

    def __init__(self):
        self.signal = 0
        self.previous = {s: signal.signal(s, self._asked) for s in (signal.SIGINT, signal.SIGTERM)}

    def _asked(self, number, frame):
        self.signal = number
        self.restore()

    def restore(self):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


# ---- the run


def main(argv=None):
    args = parse_args(argv)
    rank, local_rank, num_ranks = set_up_ranks()
    device = pick_device(args.device, local_rank)
    with contextlib.ExitStack() as stack:
        if num_ranks > 1:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            stack.callback(dist.destroy_process_group)
        train(args, argv, device, rank, num_ranks, stack)


def train(args, argv, device, rank, num_ranks, stack):
    master = rank == 0
    say = print if master else lambda *a, **k: None

    # 1) the checkpoint to go on from, if any; it brings its arguments
    checkpoint = None
    if args.init_from == "resume":
        out_dir = Path(args.out_dir) if args.out_dir else newest_run()
        checkpoint = load_checkpoint(out_dir / "ckpt.pt")
        args = resume_args(checkpoint["args"], argv)
    settle_precision(args, device)

    # 2) the data
    dataset = open_dataset(args.dataset)
    for split in SPLITS:
        check_split(dataset, split, args.block_size)
    split_iteration(args.batch_size, args.gradient_accumulation_steps, num_ranks)
    if checkpoint and checkpoint["data"] != dataset.fingerprint():
        raise UserError(f"{dataset.folder} is not the data that this run began with (another train.bin or val.bin). "
                        f"Prepare it as it was, or start a new run")
    tokens_per_iter = args.batch_size * args.gradient_accumulation_steps * args.block_size
    epoch_tokens = args.block_size * windows_per_epoch(args.sampling_method, dataset.num_tokens["train"], args.block_size)

    # 3) the model and its optimizer
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it
    model_args = {k: getattr(args, k) for k in ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")}
    model = GPT(GPTConfig(vocab_size=dataset.vocab_size, **model_args)).to(device)
    optimizer = configure_optimizer(model, args, device)
    scaler = torch.amp.GradScaler(device.type, enabled=args.dtype == "float16")
    iter_num, best_val_loss = 0, math.inf
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scaler.load_state_dict(checkpoint["scaler"])
        iter_num, best_val_loss = checkpoint["iter_num"], checkpoint["best_val_loss"]
        del checkpoint
    compiled_model = torch.compile(model) if args.compile == "true" else model
    # what backward goes through; evaluation takes compiled_model, whose ranks need not keep step
    train_model = DDP(compiled_model, device_ids=[device.index] if device.type == "cuda" else None) \
        if num_ranks > 1 else compiled_model
    autocast = torch.autocast(device.type, dtype=getattr(torch, args.dtype), enabled=args.dtype != "float32")
    estimate = lambda: estimate_loss(model, compiled_model, dataset, args, autocast, device, rank, num_ranks)

    say(f"data   {dataset.name}: train {dataset.num_tokens['train']:,} tokens, val {dataset.num_tokens['val']:,}, "
        f"vocab_size {dataset.vocab_size:,}")
    say(f"model  {model.num_params():,} parameters: {args.n_layer} layers, {args.n_head} heads, {args.n_embd} wide, "
        f"{args.block_size} tokens of context")
    if args.eval_only:
        losses = estimate()
        say(f"iteration {iter_num}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}")
        return
    if iter_num >= args.max_iters:
        raise UserError(f"the run is complete: {iter_num:,} of {args.max_iters:,} iterations. For more, raise --max_iters")

    # 4) its folder, ours alone from here on
    if not iter_num:
        out_dir = new_out_dir(args) if master else None
        if num_ranks > 1:
            names = [out_dir]
            dist.broadcast_object_list(names)
            out_dir = names[0]
    if master:
        stack.enter_context(lock(out_dir, "train.py"))
        if not iter_num:
            for name in ("ckpt.pt", "best.pt"):  # of the run that --overwrite gives up
                (out_dir / name).unlink(missing_ok=True)
    args.out_dir = str(out_dir)
    say(f"run    iterations {iter_num:,} to {args.max_iters:,} of {tokens_per_iter:,} tokens: "
        f"{(args.max_iters - iter_num) * tokens_per_iter / epoch_tokens:.2f} epochs, {args.sampling_method}; "
        f"{num_ranks} x {device.type}, {args.dtype}{', compiled' if args.compile == 'true' else ''}; into {out_dir}/",
        flush=True)
    log = RunLog(out_dir, iter_num, enabled=master)

    def save(is_best=False):
        if master:
            save_checkpoint(out_dir, {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
                "iter_num": iter_num, "best_val_loss": best_val_loss, "args": vars(args), "meta": dataset.meta,
                "model_args": asdict(model.config), "data": dataset.fingerprint(),
            }, is_best)

    batches = TrainBatches(
        dataset, sampling_method=args.sampling_method, block_size=args.block_size, batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps, seed=args.seed, iter_num=iter_num,
        max_iters=args.max_iters, rank=rank, num_ranks=num_ranks, pin_memory=device.type == "cuda")
    stack.callback(batches.close)
    stop = StopRequest()
    stack.callback(stop.restore)

    # 5) the loop. iter_num counts finished iterations
    loss_sum = torch.zeros((), device=device)  # since the last log; stays on the device, where reading it would wait
    bad_iter = torch.full((), -1, device=device)  # the first iteration whose loss was not finite
    t_start = t_log = time.perf_counter()
    logged_at, wait_before = iter_num, 0.0
    while iter_num < args.max_iters and not stop.signal:
        lr = get_lr(iter_num, args)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for micro_step in range(batches.micro_steps):
            x, y = to_xy(next(batches), device)
            if args.dropout:  # its masks are a function of the position too, so a resumed run draws the same
                torch.manual_seed(seed_of(args.seed, "dropout", iter_num, micro_step, rank))
            if num_ranks > 1:  # gradients are summed over ranks once, in the last micro-step
                train_model.require_backward_grad_sync = micro_step == batches.micro_steps - 1
            with autocast:
                loss = train_model(x, y)[1] / batches.micro_steps
            scaler.scale(loss).backward()
            loss_sum += loss.detach()
        if args.grad_clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        bad_iter = torch.where((bad_iter < 0) & ~torch.isfinite(loss_sum), iter_num, bad_iter)
        iter_num += 1

        # 6) the progress line; reading the loss waits for the device, so not at each iteration
        evaluate = iter_num % args.eval_interval == 0 or iter_num == args.max_iters
        if iter_num % args.log_interval == 0 or evaluate or stop.signal:
            stop.signal, batch_loss = look(loss_sum, bad_iter, iter_num - logged_at, stop.signal, device, num_ranks, out_dir)
            now = time.perf_counter()
            rate = (iter_num - logged_at) * tokens_per_iter / (now - t_log)
            waited = (batches.wait_time - wait_before) / (now - t_log)
            eta = (args.max_iters - iter_num) * (now - t_log) / (iter_num - logged_at)
            # 79 columns at most, up to 999,999 iterations and 999 hours
            log.progress(f"{iter_num}/{args.max_iters}  loss {batch_loss:.4f}"[:27] + f"  best {best_val_loss:.4f}"[:13] +
                         f"  {short(rate)} tok/s  wait {waited:.1%}  ETA {hms(eta)}")
            row = dict(iter=iter_num, tokens=iter_num * tokens_per_iter, batch_loss=batch_loss, learning_rate=lr,
                       tokens_per_s=rate, data_wait=waited, seconds=now - t_start)
            if not evaluate:
                log.row(**row)
            loss_sum.zero_()
            logged_at, wait_before, t_log = iter_num, batches.wait_time, time.perf_counter()

        # 7) evaluation and checkpoint
        if evaluate:
            losses = estimate()
            is_best = losses["val"] < best_val_loss
            best_val_loss = min(losses["val"], best_val_loss)
            log.line(f"iteration {iter_num:,}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}"
                     f"{' (best)' if is_best else ''}")
            log.row(**row, train_loss=losses["train"], val_loss=losses["val"])
            save(is_best)
            t_log = time.perf_counter()

    # 8) the end
    if stop.signal:
        save()
        log.line(f"stopped at iteration {iter_num:,}. Go on: python train.py --init_from=resume --out_dir={out_dir}")
        sys.exit(128 + stop.signal)
    log.line(f"done in {hms(time.perf_counter() - t_start)}: best val loss {best_val_loss:.4f}. "
             f"More text: python sample.py --out_dir={out_dir}")
    if master and args.max_sample_tokens:
        print_sample(model, dataset.meta, args.max_sample_tokens, device)


def look(loss_sum, bad_iter, num_iters, stop_signal, device, num_ranks, out_dir):
    """(stop signal of any rank, mean loss since the last look), the same on all ranks. Raises UserError if not finite."""
    bad = bad_iter.item()
    values = torch.tensor([loss_sum.item(), bad >= 0, stop_signal > 0], dtype=torch.float64)
    loss, num_bad, num_stopped = sum_over_ranks(values, device, num_ranks).tolist()
    if num_bad:
        raise UserError(f"the loss is not finite since iteration {bad if bad >= 0 else '(see the other ranks)'}. "
                        f"The last checkpoint in {out_dir} is from before it and is kept. Try a lower --learning_rate")
    return (stop_signal or signal.SIGTERM) if num_stopped else 0, loss / num_iters / num_ranks


def print_sample(model, meta, max_new_tokens, device):
    tokenizer = tokenizer_from_meta(meta)
    model.eval()
    idx = torch.tensor([[first_token(tokenizer)]], device=device)
    idx = model.generate(idx, max_new_tokens, temperature=0.8, generator=torch.Generator(device).manual_seed(1337))
    print(f"\n{tokenizer.decode(idx[0].tolist())}")


def first_token(tokenizer):
    """What a sample starts from when no prompt is given: the end of a document, a newline, or else id 0."""
    if tokenizer.eot_token is not None:
        return tokenizer.eot_token
    try:
        return int(tokenizer.encode("\n")[0])
    except UserError:
        return 0


if __name__ == "__main__":
    with one_line_errors():
        main()
