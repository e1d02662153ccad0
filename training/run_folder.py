"""The folder of a run: its name, args.json, log.csv, the lines on the terminal, and the trackers.

    claim_out_dir(args, ranks, stack)    a new folder, or that of the run to resume, locked
    describe_run(run, argv)              args.json: the arguments, and how the run was started
    RunLog(run, trackers)                the progress line, and log.csv (its columns: CSV_COLUMNS)
    open_trackers(run, stack)            TensorBoard and Weights & Biases
    read_rows(path), read_args(path)     log.csv and args.json, checked
"""
import contextlib
import csv
import difflib
import io
import itertools
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
from pipeline.files import lock, open_regular, replacing
from pipeline.read.folder import SPLITS
from pipeline.read.mixture import dataset_names

CSV_COLUMNS = ("iter tokens train_loss val_loss train_bits_per_byte val_bits_per_byte batch_loss "
               "learning_rate tokens_per_s mfu data_wait seconds learned_tokens").split()
# of each dataset, where there are several: tokens/<dataset>, ...
COLUMNS_OF_EACH = ("tokens epochs train_loss val_loss train_bits_per_byte "
                   "val_bits_per_byte").split()
ALWAYS = ("iter", "tokens", "learning_rate", "tokens_per_s", "seconds")  # filled in every row
# a number as Python writes it; spreadsheets write others, and NaN is left empty
NUMBER = re.compile(r"-?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})(e(\+[0-9]{1,2}|-[0-9]{1,3}))?")
MAX_BYTES = 1 << 26  # of log.csv and of args.json
RESAVED = ("was saved by another program. Save it again with commas, in UTF-8 and without a byte "
           "order mark")


# ---- its name


def new_out_dir(args, make=True):
    """Make (or only name) the folder of a new run: --out_dir, or the first of out/<dataset>,
    out/<dataset>-2, ... that is free."""
    if args.out_dir:
        out_dir = Path(args.out_dir)
        if not args.overwrite and holds_run(out_dir):
            go_on = "It has no ckpt.pt to go on from"
            if (out_dir / "ckpt.pt").exists():
                go_on = f"To go on with it, run: {resume_command(out_dir)}"
            raise UserError(f"{out_dir} holds a run. {go_on}. To replace it, add --overwrite. To "
                            f"keep both, leave out --out_dir")
        if out_dir.exists() and not out_dir.is_dir():
            raise UserError(f"--out_dir {out_dir} is a file. Name a folder, or a path that is free")
        if make:
            out_dir.mkdir(parents=True, exist_ok=True)
        return out_dir
    names = [Path(os.path.abspath(name)).name for name in dataset_names(args)]
    name = "+".join(names)
    if len(name) > 100:
        name = f"{names[0]}+{len(names) - 1}"
    for n in itertools.count(1):
        out_dir = Path("out", name if n == 1 else f"{name}-{n}")
        with contextlib.suppress(FileExistsError):
            if make:
                out_dir.mkdir(parents=True)  # which fails where another run was faster
            if make or not out_dir.exists():
                return out_dir


def holds_run(out_dir):
    """Whether a folder has a checkpoint, or a log with a row: one that ended before has neither."""
    if any((out_dir / name).exists() for name in ("ckpt.pt", "best.pt")):
        return True
    log = out_dir / "log.csv"
    return log.exists() and (not log.is_file() or log.read_bytes().count(b"\n") > 1)


def newest_run():
    """The run folder in out/ with the youngest checkpoint. Raises FileNotFoundError."""
    checkpoints = sorted(Path("out").glob("*/ckpt.pt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise FileNotFoundError("out/ holds no checkpoint. Train first: python train.py; or name "
                                "the run: --out_dir=...")
    return checkpoints[-1].parent


def near_run(path, holds="ckpt.pt"):
    """The folder of the run that is meant by a path which is none: a file in it, the folder that
    it is in, its name, or one spelt like it; None where out/ has no run. holds: the file by which a
    run is known."""
    def is_run(folder):
        return (folder / holds).exists()
    path = Path(os.path.normpath(path))
    runs = sorted(file.parent for file in Path("out").glob(f"*/{holds}"))
    below = sorted(path.glob(f"*/{holds}"), key=lambda file: file.stat().st_mtime)
    newest = [file.parent for file in below[-1:]]
    of_its_name = [Path("out", name) for name in (path.name, path.parent.name)]
    for folder in (*path.parents[:2], *newest, *of_its_name):
        if folder != Path() and is_run(folder):
            return folder
    near = difflib.get_close_matches(path.name, [run.name for run in runs], n=1)
    return Path("out", near[0]) if near else runs[0] if len(runs) == 1 else None


def claim_out_dir(args, ranks, stack):
    """The folder of the new run, or of the one to resume, chosen by rank 0 and locked by it until
    the stack closes. --plan and --eval_only only look, and lock nothing."""
    is_new = args.init_from != "resume"

    def claim():
        if is_new:
            out_dir = new_out_dir(args)
        else:
            out_dir = Path(args.out_dir) if args.out_dir else newest_run()
        only_looks = args.plan or args.eval_only
        # a folder without a checkpoint is not locked: loading it says what is missing
        if is_new or (out_dir / "ckpt.pt").exists() and not only_looks:
            stack.enter_context(lock(out_dir, "train.py"))
        if is_new and args.out_dir:
            new_out_dir(args, make=False)  # look again, now that no other run can begin there
        for name in ("ckpt.pt", "best.pt", "loss.png", "events.out.tfevents.*") if is_new else ():
            for path in out_dir.glob(name):  # of the run that --overwrite gives up
                path.unlink()
        return out_dir
    return ranks.from_first(claim)


def launcher():
    """The command that starts as many ranks as there are now."""
    num_ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return "python" if num_ranks == "1" else f"torchrun --standalone --nproc_per_node={num_ranks}"


def resume_command(out_dir):
    return f"{launcher()} train.py --init_from=resume --out_dir={shlex.quote(str(out_dir))}"


def audit_command(out_dir):
    return f"python audit.py --out_dir={shlex.quote(str(out_dir))}"


# ---- args.json


def describe_run(run, argv):
    """Write out_dir/args.json: the arguments, and for each start of the run its command, the commit
    and the versions."""
    path, starts = run.out_dir / "args.json", []
    if run.iter_num and path.exists():
        starts = read_args(path)["starts"]
    git, commit = "git describe --always --dirty --exclude=* --abbrev=12".split(), None
    with contextlib.suppress(OSError):  # git is not installed
        told = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        commit = told.stdout.strip() or None
    typed = shlex.join(sys.argv[1:] if argv is None else argv)
    versions = dict(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__)
    starts.append(dict(
        iter=run.iter_num, date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        command=f"{launcher()} train.py {typed}".rstrip(), commit=commit, versions=versions))
    with replacing(path) as file:
        held = {"args": vars(run.args), "starts": starts}
        file.write(json.dumps(held, indent=1).encode() + b"\n")


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


# ---- log.csv, the terminal


def loss_columns(run, losses):
    """What an evaluation puts into log.csv: the means over the datasets and, where there are
    several, the values of each, with the tokens and epochs that were read of it."""
    columns, mixture, several = {}, run.mixture, len(run.mixture.names) > 1
    for split, values in losses.items():
        for what, each in ((f"{split}_loss", values),
                           (f"{split}_bits_per_byte", mixture.bits_per_byte(values, split))):
            columns[what] = float(each @ mixture.weights)
            if several:
                columns |= {f"{what}/{name}": float(one) for name, one in zip(mixture.names, each)}
    if several:
        consumed = mixture.consumed(run.iter_num * mixture.steps)
        for name, (tokens, epochs) in consumed.items():
            columns |= {f"tokens/{name}": tokens, f"epochs/{name}": epochs}
    return columns


def report(run, columns, remark=""):
    """The lines of an evaluation: the means and, where there are several datasets, each of them."""
    def losses(of=""):
        return ", ".join(f"{split} loss {columns[f'{split}_loss{of}']:.4f}"
                         for split in SPLITS if f"{split}_loss{of}" in columns)
    yield f"iteration {run.iter_num:,}: {losses()}{remark}"
    for name in run.mixture.names if len(run.mixture.names) > 1 else ():
        bits = columns[f"val_bits_per_byte/{name}"]
        bits = "" if math.isnan(bits) else f"{bits:.3f} bits per byte, "
        yield f"  {name}: {losses(f'/{name}')}, {bits}{columns[f'epochs/{name}']:.2f} epochs"


def read_rows(path):
    """The rows of a log.csv, each a dict by column. A last row that is half-written is left out.
    Raises UserError for a file that differs from what train.py writes."""
    with open_regular(path) as file:
        raw = file.read(MAX_BYTES + 1)
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError
        text = raw[: raw.rfind(b"\n") + 1].decode("utf-8")
        lines = io.StringIO(text, newline="")
        header, *rows = csv.reader(lines, strict=True) if text else [list(ALWAYS)]
    except (ValueError, csv.Error):
        raise UserError(f"{path} {RESAVED}") from None
    if rows and len(rows[-1]) < len(header):
        rows.pop()
    if len(set(header)) < len(header) or not set(header) >= set(ALWAYS):
        raise UserError(f"{path} {RESAVED}")
    before = -1
    for number, row in enumerate(rows, 2):
        named = dict(zip(header, row))
        numbers = all(value == "" or NUMBER.fullmatch(value) for value in row)
        whole = len(row) == len(header) and numbers and all(named[name] for name in ALWAYS)
        if not whole or not named["iter"].isdecimal() or int(named["iter"]) <= before:
            raise UserError(f"{path}: row {number:,} is damaged or was changed. Delete that row")
        before = int(named["iter"])
    return [dict(zip(header, row)) for row in rows]


def _cell(value):
    """A value as log.csv has it: floats in six digits, NaN empty."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def log_columns(names, masked):
    """The columns of log.csv. names: of the members, where there are several."""
    columns = CSV_COLUMNS if masked else CSV_COLUMNS[:-1]  # without learned_tokens
    return columns + [f"{column}/{name}" for name in names for column in COLUMNS_OF_EACH]


class RunLog:
    """The progress line on the terminal, and out_dir/log.csv. Does nothing on ranks other than 0.

    trackers: see open_trackers().
    """

    def __init__(self, run, trackers=()):
        self.enabled, self.tty, self.trackers = run.ranks.is_first, sys.stdout.isatty(), trackers
        self.covered = 0  # columns of the progress line that is on the terminal
        if not self.enabled:
            return
        # of those that were members before, too: their columns stay
        names = dict.fromkeys([*run.mixture.columns, *run.mixture.names])
        names = names if len(names) > 1 else ()
        columns = log_columns(names, run.mixture.is_masked)
        path, rows = run.out_dir / "log.csv", []
        if run.iter_num and path.exists():
            last = run.iter_num - bool(run.unevaluated)  # whose row comes with its evaluation
            try:  # rows after the checkpoint go: a killed run logged them, and does them again
                rows = [row for row in read_rows(path) if int(row["iter"]) <= last]
                # its members with loss masks may be gone, or have come only now
                masked = run.mixture.is_masked or rows and "learned_tokens" in rows[0]
                columns = log_columns(names, masked)
                if rows and not set(rows[0]) <= set(columns):
                    raise UserError(f"{path} {RESAVED}")
            except UserError as error:
                raise UserError(f"{error}, or move it away; then run the same command "
                                f"again") from None
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        with replacing(path) as file:
            file.write(text.getvalue().encode())
        self.file = open(path, "a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, columns)  # a column that is not declared raises

    def row(self, values):
        """Write a row of log.csv, in which NaN is left empty, and show it to the trackers."""
        if not self.enabled:
            return
        self.writer.writerow({name: _cell(value) for name, value in values.items()})
        self.file.flush()
        for track in self.trackers:
            track(scalars_of(values), values["iter"])

    def progress(self, row, best, max_iters, seconds_left):
        """The progress line, rewritten in place on a terminal. It has at most 79 columns, up to
        999,999 iterations and 999 hours; a narrower terminal gets less of it."""
        best = "-" if best == math.inf else f"{best:.4f}"[:6]
        parts = [f"{row['iter']}/{max_iters}  loss {row['batch_loss']:.4f}"[:24], f"best {best}",
                 f"{short(row['tokens_per_s'])} tok/s", f"wait {row['data_wait']:.1%}",
                 f"ETA {hms(seconds_left)}"]
        # a line that fills the terminal would begin the next one
        room = shutil.get_terminal_size().columns - 1 if self.tty else 79
        while len("  ".join(parts)) > room and len(parts) > 2:
            del parts[-2]
        text = "  ".join(parts)[:room]
        self.line(text, end="" if self.tty else "\n")
        self.covered = len(text)

    def line(self, text, end="\n"):
        """A line on the terminal, which takes the place of the progress line."""
        if not self.enabled:
            return
        try:
            # blanks cover what a longer progress line has left
            print(f"\r{text:<{self.covered}}" if self.tty else text, end=end, flush=True)
            self.covered = 0
        except OSError:  # the terminal is closed, or Ctrl-C has also ended the `| tee` behind us
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---- trackers


def scalars_of(row):
    """A row of log.csv under the names that trackers use: loss/train, loss/val/<dataset>, lr,
    ..."""
    named = {}
    for name, value in row.items():
        kind, slash, dataset = name.partition("/")
        if kind.endswith("_loss"):
            name = f"loss/{kind.removesuffix('_loss')}{slash}{dataset}"
        if value is not None and not math.isnan(value) and name != "iter":
            named["lr" if name == "learning_rate" else name] = value
    return named


def open_trackers(run, stack):
    """For --tensorboard and --wandb: functions of (scalars, iteration), closed with the stack.

    A resumed run continues its curves. TensorBoard drops the points of iterations that are done
    again; W&B keeps them, and they are the same. """
    trackers, out_dir = [], run.out_dir
    if run.args.tensorboard:
        from torch.utils.tensorboard import SummaryWriter
        writer = stack.enter_context(SummaryWriter(out_dir, purge_step=run.iter_num + 1))

        def to_tensorboard(scalars, iter_num):
            for name, value in scalars.items():
                writer.add_scalar(name, value, iter_num)
            writer.flush()
        trackers.append(to_tensorboard)
    if run.args.wandb:
        import wandb
        id_file = out_dir / "wandb_id"
        if not run.iter_num or not id_file.exists():
            id_file.write_text(secrets.token_hex(8))
        try:
            tracked = stack.enter_context(wandb.init(
                id=id_file.read_text(), resume="allow", name=out_dir.name, dir=out_dir,
                config=vars(run.args)))
        except wandb.Error as error:
            raise UserError(f"--wandb: {' '.join(str(error).split()).rstrip('.')}. Run: wandb "
                            f"login; or set WANDB_MODE=offline") from None
        trackers.append(lambda scalars, iter_num: tracked.log(scalars, step=iter_num))
    return trackers


# ---- numbers for people


def hms(seconds):
    """Seconds as 1:23:45 or 0:07."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def short(n):
    """A number in three digits: 950, 12.3k, 4.56M."""
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g}Z"
