"""Pictures of runs: loss over tokens and over time, learning rate, tokens per second.

    plot([out_dir, ...], path)                writes the picture of one run, or of several
    write_curves_page([out_dir, ...], path)   writes a page for a browser with the same curves
"""
import textwrap
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError, optional, printable
from pipeline.pages import check_page, write_page
from train_args import own_settings
from training.run_folder import near_run, read_args, read_rows

# arguments that do not change a curve, but when it is measured, shown or ended: no labels of a run
NO_SETTINGS = """out_dir overwrite plan device num_threads tensorboard wandb eval_interval
    eval_iters eval_train eval_only log_interval save_minutes patience max_sample_tokens
    sample_every_eval max_epochs_per_dataset""".split()
# titles of axes, and of the legend of several runs
LOSS, RATE, SPEED = "loss, nats per token", "learning rate", "tokens per second"
TOKENS, SEVERAL = "tokens trained on", "val (train dashed):"


def read_log(out_dir):
    """{column: [a float, or None where the row has none]} of out_dir/log.csv."""
    try:
        rows = read_rows(out_dir / "log.csv")
    except (FileNotFoundError, NotADirectoryError):
        near = near_run(out_dir, "log.csv")
        there = f"Did you mean {near}?" if near else "There is no run in out/"
        raise UserError(f"{out_dir} is not a run's folder: it has no log.csv. {there}") from None
    if not rows:
        raise UserError(f"{out_dir}/log.csv is still empty: train.py writes its first line after "
                        f"--log_interval iterations")
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in rows[0]}


def labels_of(out_dirs):
    """A label for each run: the arguments in which they differ, or else the name of its folder."""
    paths = [out_dir / "args.json" for out_dir in out_dirs]
    args = [own_settings(read_args(path)["args"]) if path.exists() else {} for path in paths]
    for one in args:
        if one.get("init_from") in ("scratch", "resume"):  # a resumed run may have begun anyhow
            del one["init_from"]
    names = dict.fromkeys(name for one in args for name in one if name not in NO_SETTINGS)
    differing = [name for name in names if len({str(one.get(name)) for one in args}) > 1]
    labels = [", ".join(printable(f"{name}={one[name]}") for name in differing
                        if one.get(name) is not None) for one in args]
    return [label if label and labels.count(label) == 1 else
            f"{out_dir.name}: {label}".rstrip(": ") for label, out_dir in zip(labels, out_dirs)]


def curves_of(log, label):
    """[(column, its losses, style)] to draw of a run; label: its own among several, or None."""
    def has(name):
        return any(log.get(name, ()))

    if label is not None:  # the means over datasets; noisy batches only if nothing else is there
        names = ["val_loss", "train_loss" if has("train_loss") else "batch_loss"]
    else:
        names = [name for name in log if name.partition("/")[0].endswith("_loss")]
    curves = []
    for name in filter(has, names):
        kind, _, dataset = name.partition("/")
        style = {"val_loss": dict(marker=".", label=label or f"val {dataset}".strip()),
                 "train_loss": dict(linestyle="--", label=f"train {dataset}".strip()),
                 "batch_loss": dict(alpha=0.4, linewidth=0.8, label="batches of train")
                 }.get(kind, dict(label=name))
        if label is not None and kind != "val_loss":
            del style["label"]  # one entry a run in the legend
        curves.append((dataset, log[name], style))
    return curves


@dataclass
class Curve:
    """A column of losses of one run, and how it is drawn."""
    color: int  # the same for the curves that belong together
    tokens: tuple  # where the points lie
    time: tuple  # the same, in Curves.unit
    losses: tuple
    style: dict  # as matplotlib takes it


@dataclass
class Curves:
    """What is drawn of one run or several."""
    logs: list  # read_log() of each run
    labels: list  # of each run; of a single one [None]
    unit: str  # of time
    losses: list  # of Curve
    range: tuple  # (lowest, highest loss) that is shown

    @property
    def are_several(self):
        return len(self.logs) > 1


def read_curves(out_dirs):
    """The Curves of runs. Raises UserError where one has no log."""
    logs, several = [read_log(out_dir) for out_dir in out_dirs], len(out_dirs) > 1
    labels = labels_of(out_dirs) if several else [None]
    longest = max(log["seconds"][-1] for log in logs)
    unit, seconds = ("minutes", 60) if longest > 120 else ("seconds", 1)
    if longest > 7200:
        unit, seconds = "hours", 3600
    found = []
    settled = []  # losses after the first tenth of a run: the fall before would flatten the rest
    for i, (log, label) in enumerate(zip(logs, labels)):
        log["time"] = [s / seconds for s in log["seconds"]]
        curves = curves_of(log, label)
        datasets = list(dict.fromkeys(dataset for dataset, *_ in curves))
        for dataset, losses, style in curves:
            points = [point for point in zip(log["tokens"], log["time"], losses)
                      if point[2] is not None]
            found.append(Curve(i if several else datasets.index(dataset),
                               *zip(*points), style))
            settled += [loss for tokens, time, loss in points if tokens >= log["tokens"][-1] / 10]
    settled = settled or [0.0]
    margin = 0.05 * (max(settled) - min(settled)) or 0.1
    return Curves(logs, labels, unit, found, (min(settled) - margin, max(settled) + margin))


def plot(out_dirs, path):
    """Write the picture of one run or several, in the format of path's suffix. Raises UserError."""
    optional("matplotlib", "a picture of a run")
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    curves = read_curves(out_dirs)
    figure = Figure(figsize=(9, 7), layout="constrained")
    over_tokens, over_time, rate, speed = axes = figure.subplots(2, 2).ravel()
    for curve in curves.losses:
        color = f"C{curve.color % 10}"
        over_tokens.plot(curve.tokens, curve.losses, color=color, **curve.style)
        over_time.plot(curve.time, curve.losses, color=color, **curve.style)
    for i, log in enumerate(curves.logs):
        rate.plot(log["tokens"], log["learning_rate"], color=f"C{i % 10}")
        speed.plot(log["tokens"], log["tokens_per_s"], color=f"C{i % 10}")

    over_tokens.set(ylabel=LOSS, ylim=curves.range)
    over_time.set(xlabel=curves.unit, ylim=curves.range)
    rate.set_ylabel(RATE)
    speed.set_ylabel(SPEED)
    speed.yaxis.set_major_formatter(EngFormatter(sep=""))
    for ax in (over_tokens, rate, speed):
        ax.set_xlabel(TOKENS)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    for ax in (rate, speed):
        ax.set_ylim(0, 1.05 * ax.dataLim.y1)
    for ax in axes:
        ax.set_xlim(0)
        ax.grid(color="0.9")
        ax.spines[["top", "right"]].set_visible(False)
    lines, names = over_tokens.get_legend_handles_labels()
    # "$" alone would begin a formula
    names = [textwrap.fill(name, 100).replace("$", r"\$") for name in names]
    figure.legend(lines, names, loc="outside lower left", frameon=False,
                  ncols=1 if curves.are_several else 4, alignment="left",
                  title=SEVERAL if curves.are_several else None)
    figure.suptitle("" if curves.are_several else
                    printable(str(out_dirs[0])).replace("$", r"\$"))
    if not Path(path).suffix:
        raise UserError(f"{path} has no ending that names a format of pictures, such as .png")
    try:
        figure.savefig(path, dpi=80)
    except ValueError as error:  # an ending that names no format of pictures
        raise UserError(f"{path}: {error}. Choose an ending such as .png") from None


def write_curves_page(out_dirs, path):
    """Write the page of one run or several, whose curves can be read off. Raises UserError."""
    check_page(path)
    optional("plotly", "a page of curves")
    from plotly.offline import get_plotlyjs

    curves = read_curves(out_dirs)
    names = [printable(str(out_dir)) for out_dir in out_dirs]
    write_page(path, ", ".join(names), "curves.js", {
        "title": f"{len(names)} runs: {SEVERAL.rstrip(':')}" if curves.are_several else names[0],
        "axes": {"loss": LOSS, "rate": RATE, "speed": SPEED, "tokens": TOKENS, "time": curves.unit},
        "range": curves.range,
        "losses": [dict(color=curve.color, tokens=curve.tokens, time=curve.time, y=curve.losses,
                        name=curve.style.get("label"), dashed="linestyle" in curve.style,
                        marked="marker" in curve.style, faint="alpha" in curve.style)
                   for curve in curves.losses],
        "runs": [dict(name=label or name, tokens=log["tokens"], rate=log["learning_rate"],
                      speed=log["tokens_per_s"])
                 for name, label, log in zip(names, curves.labels, curves.logs)],
    }, library=get_plotlyjs())


def plot_or_say_why(out_dir):
    """Draw out_dir/loss.png at the end of a run, which must not fail because of a picture."""
    try:
        plot([out_dir], out_dir / "loss.png")
    except Exception as error:
        print(f"note: no loss.png, because {error}")
