"""What train.py and sample.py share of a run: its device; its folder, out_dir/: name, checkpoints (ckpt.pt, best.pt),
args.json and log.csv."""
import csv
import io
import json
import math
import os
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.files import open_regular, replacing
from pipeline.read.mixture import dataset_names

REWRITTEN = "is no longer as train.py wrote it, with commas and in UTF-8 without a mark. Save it so"


ALWAYS = ("iter", "tokens", "learning_rate", "tokens_per_s", "seconds")


NUMBER = re.compile(r"-?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})(e(\+[0-9]{1,2}|-[0-9]{1,3}))?")


MAX_BYTES = 1 << 26  # of log.csv and of args.json


def read_rows(path):
    """The rows of a log.csv, each a dict of its header's columns. The last is left out where it is
    half-written. Raises UserError for a file that train.py did not leave so."""
    with open_regular(path) as file:
        raw = file.read(MAX_BYTES + 1)
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError
        text = raw[: raw.rfind(b"\n") + 1].decode("utf-8")
        lines = io.StringIO(text, newline="")
        header, *rows = csv.reader(lines, strict=True) if text else [list(ALWAYS)]
    except (ValueError, csv.Error):
        raise UserError(f"{path} {REWRITTEN}") from None
    rows = rows[:-1] if rows and len(rows[-1]) < len(header) else rows
    if len(set(header)) < len(header) or not set(header) >= set(ALWAYS):
        raise UserError(f"{path} {REWRITTEN}")
    before = -1
    for number, row in enumerate(rows, 2):
        named = dict(zip(header, row))
        whole = len(row) == len(header) and all(named[name] for name in ALWAYS) and all(
            value == "" or NUMBER.fullmatch(value) for value in row)
        if not whole or not named["iter"].isdecimal() or int(named["iter"]) <= before:
            raise UserError(f"{path}: row {number:,} is damaged or was changed. Take that row out")
        before = int(named["iter"])
    return [dict(zip(header, row)) for row in rows]


def read_args(path):
    """The dict of an args.json: `args`, a dict, and `starts`, a list of dicts. Raises UserError."""
    try:
        with open_regular(path) as file:
            held = json.loads(file.read(MAX_BYTES))
        starts = held["starts"]
        if type(held["args"]) is dict and type(starts) is list and {*map(type, starts)} <= {dict}:
            return held
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
    raise UserError(f"{path} is damaged. Move it away and run the same command again")


CSV_COLUMNS = ("iter", "tokens", "train_loss", "val_loss", "train_bits_per_byte", "val_bits_per_byte", "batch_loss",
               "learning_rate", "tokens_per_s", "mfu", "data_wait", "seconds")
COLUMNS_OF_EACH = ("tokens", "epochs", "train_loss", "val_loss", "train_bits_per_byte", "val_bits_per_byte")


def new_out_dir(args, make=True):
    """Make (or only name) the run's folder: --out_dir, or the first of out/<dataset>, out/<dataset>-2, ... that is free."""
    if args.out_dir:
        out_dir = Path(args.out_dir)
        if any((out_dir / name).exists() for name in ("ckpt.pt", "best.pt", "log.csv")) and not args.overwrite:
            go_on = f"Go on with it: {resume_command(out_dir)}; or replace it" if (out_dir / "ckpt.pt").exists() else (
                "It has no ckpt.pt to go on from. Replace it")
            raise UserError(f"{out_dir} holds a run. {go_on}: add --overwrite; or leave --out_dir out")
        if out_dir.exists() and not out_dir.is_dir():
            raise UserError(f"--out_dir {out_dir} is a file; it must be a folder, or free")
        if make:
            out_dir.mkdir(parents=True, exist_ok=True)
        return out_dir
    names = [Path(os.path.abspath(name)).name for name in dataset_names(args)]
    name, n = "+".join(names), 1
    if len(name) > 100:
        name = f"{names[0]}+{len(names) - 1}"
    while True:
        out_dir = Path("out") / (name if n == 1 else f"{name}-{n}")
        try:
            if make:
                out_dir.mkdir(parents=True)
            elif out_dir.exists():
                raise FileExistsError
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
    path, link = out_dir / "ckpt.pt", out_dir / "best.pt.tmp"
    try:
        link.unlink(missing_ok=True)  # a killed run's
        with replacing(path) as file:
            torch.save(state, file)
            file.flush()
            if is_best:  # the same bytes under a second name, so that the two never disagree
                os.fsync(file.fileno())
                try:
                    os.link(file.name, link)
                except OSError:  # a file system without hard links
                    shutil.copyfile(file.name, link)
                os.replace(link, out_dir / "best.pt")
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        reason = getattr(error, "strerror", None) or "the write failed"
        kept = f"The one before it is kept; free some space, then go on: {resume_command(out_dir)}" if path.exists() else (
            "There was none before it. Free some space and start again")
        raise UserError(f"could not write {path}: {reason}. The disk may be full. {kept}") from None


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


def describe_run(out_dir, args, argv, iter_num):
    """Write out_dir/args.json: the arguments, and of each start of the run its command, commit and versions."""
    path, starts = out_dir / "args.json", []
    if iter_num and path.exists():
        starts = read_args(path)["starts"]
    git = ["git", "-C", Path(__file__).parents[1], "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git here
        commit = None
    starts.append({"iter": iter_num, "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                   "command": f"{launcher()} train.py {shlex.join(sys.argv[1:] if argv is None else argv)}".rstrip(),
                   "commit": commit, "versions": {"python": platform.python_version(), "torch": torch.__version__,
                                                  "numpy": np.__version__}})
    with replacing(path) as file:
        file.write(json.dumps({"args": vars(args), "starts": starts}, indent=1).encode("utf-8") + b"\n")


class RunLog:
    """The progress line on the terminal, and out_dir/log.csv. Does nothing on ranks other than 0.

    names: the datasets that have columns of their own, such as val_loss/<name>, where there are several. trackers: see
    open_trackers().
    """

    def __init__(self, out_dir, iter_num, enabled, names=(), trackers=()):
        self.enabled, self.tty, self.trackers = enabled, sys.stdout.isatty(), trackers
        if not enabled:
            return
        columns = [*CSV_COLUMNS, *(f"{column}/{name}" for name in names for column in COLUMNS_OF_EACH)]
        path, rows = out_dir / "log.csv", []
        if iter_num and path.exists():  # what a killed run logged after its last checkpoint will be done again
            try:
                rows = [row for row in read_rows(path) if int(row["iter"]) <= iter_num]
                if rows and not set(rows[0]) <= set(columns):
                    raise UserError(f"{path} {REWRITTEN}")
            except UserError as error:  # as a spreadsheet saves it
                raise UserError(f"{error}, or move it away; then run the same command again") from None
        with replacing(path) as file:
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
            file.write(text.getvalue().encode("utf-8"))
        self.file = open(path, "a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, columns, extrasaction="ignore")  # "/<name>" of a single dataset

    def row(self, **values):
        """A line of log.csv, where NaN is left empty, and what the trackers show."""
        if self.enabled:
            self.writer.writerow({k: ("" if math.isnan(v) else f"{v:.6g}") if isinstance(v, float) else v
                                  for k, v in values.items()})
            self.file.flush()
            for track in self.trackers:
                track(scalars_of({k: values.get(k) for k in self.writer.fieldnames}), values["iter"])

    def progress(self, iter_num, max_iters, loss, best, tokens_per_s, data_wait, seconds_left):
        """The progress line, rewritten in place on a terminal: 79 columns at most, up to 999,999 iterations and 999
        hours."""
        best = "-" if best == math.inf else f"{best:.4f}"[:6]
        self.line(f"{iter_num}/{max_iters}  loss {loss:.4f}"[:24] + f"  best {best}  {short(tokens_per_s)} tok/s  "
                  f"wait {data_wait:.1%}  ETA {hms(seconds_left)}", end="" if self.tty else "\n")

    def line(self, text, end="\n"):
        """A line of the terminal, in place of the progress line."""
        if not self.enabled:
            return
        try:
            print(f"\r{text:<79}" if self.tty else text, end=end, flush=True)
        except OSError:  # a closed terminal, or a `| tee` that the same Ctrl-C has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def scalars_of(row):
    """A row of log.csv under the usual names: loss/train, loss/val, loss/val/<dataset>, loss/batch, lr, tokens_per_s, ..."""
    named = {}
    for name, value in row.items():
        kind, slash, dataset = name.partition("/")
        name = f"loss/{kind[:-5]}{slash}{dataset}" if kind.endswith("_loss") else {"learning_rate": "lr"}.get(name, name)
        if value is not None and not math.isnan(value) and name != "iter":
            named[name] = value
    return named


def open_trackers(args, out_dir, iter_num, stack):
    """For --tensorboard and --wandb: functions of (scalars, iteration), closed with the stack. A resumed run goes on with
    its curves; what was shown of iterations that it does again is taken back (TensorBoard), or stays, being the same (W&B)."""
    trackers = []
    if args.tensorboard:
        from torch.utils.tensorboard import SummaryWriter
        writer = stack.enter_context(SummaryWriter(out_dir, purge_step=iter_num + 1))

        def to_tensorboard(scalars, iter_num):
            for name, value in scalars.items():
                writer.add_scalar(name, value, iter_num)
            writer.flush()
        trackers.append(to_tensorboard)
    if args.wandb:
        import wandb
        id_file = out_dir / "wandb_id"
        if not iter_num or not id_file.exists():
            id_file.write_text(secrets.token_hex(8))
        try:
            run = stack.enter_context(wandb.init(id=id_file.read_text(), resume="allow", name=out_dir.name, dir=out_dir,
                                                 config=vars(args)))
        except wandb.Error as error:
            raise UserError(f"--wandb: {' '.join(str(error).split()).rstrip('.')}. Run: wandb login; or set WANDB_MODE=offline") from None
        trackers.append(lambda scalars, iter_num: run.log(scalars, step=iter_num))
    return trackers


def launcher():
    """What starts as many ranks as there are now."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return "python" if ranks == "1" else f"torchrun --standalone --nproc_per_node={ranks}"


def resume_command(out_dir):
    """What the user types to go on."""
    return f"{launcher()} train.py --init_from=resume --out_dir={shlex.quote(str(out_dir))}"


PEAK_FLOPS = {  # words of the GPU's name: products a second in bfloat16, dense, by its maker's data sheet
    "GB200": 2500e12, "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12,
    "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}


def flops_per_token(model):
    """Of a training step: 6 a parameter, and attention's 12 * n_layer * n_embd * block_size (PaLM, arXiv:2204.02311,
    appendix B)."""
    config, embedding = model.config, model.transformer.wte.weight
    in_products = model.num_params() - (0 if model.lm_head.weight is embedding else config.vocab_size * config.n_embd)
    return 6 * in_products + 12 * config.n_layer * config.n_embd * config.block_size


def estimate_mfu(model, tokens_per_s, device, num_ranks=1):
    """Model FLOPs a second as a share, 0..1, of the GPUs' peak in bfloat16; None for a device whose peak isn't known."""
    words = torch.cuda.get_device_name(device).replace("-", " ").split() if device.type == "cuda" else []
    peak = None if "Laptop" in words else next(
        (flops for name, flops in PEAK_FLOPS.items() if all(word in words for word in name.split())), None)
    return flops_per_token(model) * tokens_per_s / (peak * num_ranks) if peak else None


def hms(seconds):
    """Seconds as 1:23:45 or 0:07."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def short(n):
    """A number in three digits: 950, 12.3k, 4.56M."""
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        if n < 999.5:
            break
        n /= 1000
    else:
        unit = "Z"
    return f"{n:.3g}{unit}"
