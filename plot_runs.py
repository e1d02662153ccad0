"""
The folders of runs -> a picture: loss over tokens and over time, learning rate, tokens a second.

    python plot_runs.py out/mydata                   # writes out/mydata/loss.png, as train.py does when it ends
    python plot_runs.py out/mydata out/mydata-2      # side by side, labelled by what differs in their arguments: runs.png
    python plot_runs.py out/* --out=all.png

A run may still be going. Needs matplotlib: pip install matplotlib
"""
import argparse
import csv
import io
import json
import re
import textwrap
from pathlib import Path

from data.errors import Parser, UserError, one_line_errors, optional, printable
from data.files import open_regular

KINDS = ("val_loss", "train_loss", "batch_loss")
NO_SETTINGS = ("out_dir", "init_from", "overwrite", "device", "num_threads", "tensorboard", "wandb")  # these say nothing of a curve

REWRITTEN = "is no longer as train.py wrote it, with commas and in UTF-8 without a mark. Save it so"
# columns that each row fills; a number as Python writes it: no spreadsheet's, no NaN
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


def read_log(out_dir):
    """{column: [a float, or None where the row has none]} of out_dir/log.csv."""
    try:
        rows = read_rows(out_dir / "log.csv")
    except FileNotFoundError:
        raise UserError(f"{out_dir} holds no log.csv, so it is no folder of a run. Name one: "
                        f"{', '.join(map(str, sorted(p.parent for p in Path('out').glob('*/log.csv')))) or 'there is none'}"
                        ) from None
    if not rows:
        raise UserError(f"{out_dir}/log.csv is still empty: its first line comes after --log_interval iterations")
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in rows[0]}


def labels_of(out_dirs):
    """What to call each run: the arguments in which they differ, or its folder's name where they do not."""
    paths = [out_dir / "args.json" for out_dir in out_dirs]
    args = [read_args(path)["args"] if path.exists() else {} for path in paths]
    names = dict.fromkeys(name for one in args for name in one if name not in NO_SETTINGS)
    differing = [name for name in names if len({str(one.get(name)) for one in args}) > 1]
    labels = [", ".join(printable(f"{name}={one[name]}") for name in differing
                        if one.get(name) is not None) for one in args]
    return [label if label and labels.count(label) == 1 else f"{out_dir.name}: {label}".rstrip(": ")
            for label, out_dir in zip(labels, out_dirs)]


def plot(out_dirs, path):
    """Write the picture (PNG, or what the ending of path says) of one run or several. Raises UserError."""
    optional("matplotlib", "a picture of a run")
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    logs, labels, several = [read_log(out_dir) for out_dir in out_dirs], labels_of(out_dirs), len(out_dirs) > 1
    figure = Figure(figsize=(9, 7), layout="constrained")
    over_tokens, over_time, rate, speed = axes = figure.subplots(2, 2).ravel()
    longest = max(log["seconds"][-1] for log in logs)
    unit, seconds = ("hours", 3600) if longest > 7200 else ("minutes", 60) if longest > 120 else ("seconds", 1)
    settled = []  # losses after the first tenth of a run, where they fall from so high that the rest would look flat
    for i, (log, label) in enumerate(zip(logs, labels)):
        time = [s / seconds for s in log["seconds"]]
        curves = {name: losses for name, losses in log.items()
                  if name.partition("/")[0] in KINDS and any(losses)}
        if several:  # the mean over datasets; single batches only where nothing smoother was measured
            means = ("val_loss", "train_loss" if "train_loss" in curves else "batch_loss")
            # a young run has no val_loss yet
            curves = {name: curves[name] for name in means if name in curves}
        datasets = list(dict.fromkeys(name.partition("/")[2] for name in curves))
        for name, losses in curves.items():
            kind, _, dataset = name.partition("/")
            style = {"val_loss": dict(marker=".", label=label if several else f"val {dataset}".strip()),
                     "train_loss": dict(linestyle="--", label=None if several else f"train {dataset}".strip()),
                     "batch_loss": dict(alpha=0.4, linewidth=0.8, label=None if several else "batches of train")}[kind]
            for ax, x in ((over_tokens, log["tokens"]), (over_time, time)):
                points = [(at, loss) for at, loss in zip(x, losses) if loss is not None]
                ax.plot(*zip(*points), color=f"C{(i if several else datasets.index(dataset)) % 10}", **style)
                settled += [loss for at, loss in points if at >= x[-1] / 10]
        rate.plot(log["tokens"], log["learning_rate"], color=f"C{i % 10}")
        speed.plot(log["tokens"], log["tokens_per_s"], color=f"C{i % 10}")

    settled = settled or [0.0]
    margin = 0.05 * (max(settled) - min(settled)) or 0.1
    over_tokens.set(ylabel="loss, nats a token", ylim=(min(settled) - margin, max(settled) + margin))
    over_time.set(xlabel=unit, ylim=over_tokens.get_ylim())
    rate.set_ylabel("learning rate")
    speed.set_ylabel("tokens a second")
    speed.yaxis.set_major_formatter(EngFormatter(sep=""))
    for ax in (over_tokens, rate, speed):
        ax.set_xlabel("tokens trained on")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    for ax in (rate, speed):
        ax.set_ylim(0, 1.05 * ax.dataLim.y1)
    for ax in axes:
        ax.set_xlim(0)
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
    lines, names = over_tokens.get_legend_handles_labels()
    names = [textwrap.fill(name, 100).replace("$", r"\$") for name in names]
    figure.legend(lines, names, loc="outside lower left", frameon=False,
                  ncols=1 if several else 4, alignment="left", title="val (train dashed):" if several else None)
    figure.suptitle("" if several else printable(str(out_dirs[0])).replace("$", r"\$"))
    figure.savefig(path, dpi=80)


def plot_or_say_why(out_dir):
    """out_dir/loss.png at the end of a run, which must not fail for want of a picture."""
    try:
        plot([out_dir], out_dir / "loss.png")
    except Exception as error:
        print(f"note: no loss.png, because {error}")


def main(argv=None):
    parser = Parser(prog="python plot_runs.py", usage="python plot_runs.py out/RUN [out/RUN ...] [--out=FILE]",
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dirs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, help="where to write (default loss.png in a run's folder, runs.png for several)")
    args = parser.parse_args(argv)
    path = args.out or (args.out_dirs[0] / "loss.png" if len(args.out_dirs) == 1 else Path("runs.png"))
    plot(args.out_dirs, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    with one_line_errors():
        main()
