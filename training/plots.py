"""Pictures of runs: loss over tokens and over time, learning rate, tokens a second."""
import textwrap
from pathlib import Path

from pipeline.errors import UserError, optional, printable
from training.run_folder import read_args, read_rows

KINDS = ("val_loss", "train_loss", "batch_loss")


NO_SETTINGS = ("out_dir", "init_from", "overwrite", "device", "num_threads", "tensorboard", "wandb")  # these say nothing of a curve


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
