"""What a resumed run checks of its data, and how it changes its mixture's members or shares.

    history_of(args, saved)           the history of a run's shares, and where the flags change it
    refuse_other_data(mixture, ...)   the bins and the tokenizer must be those of the run
    change_lines(mixture, ...)           what changes, in words
    rate_note(args, saved)            where the flags move the learning rate, in words
    begin_change(run)                 the best val loss begins anew
"""
import argparse
import math
import os
import shutil

from optim import lr_fraction
from pipeline.errors import UserError
from pipeline.read.folder import open_dataset
from pipeline.read.history import fractions_over, segment_of
from pipeline.read.mixture import dataset_names
from pipeline.tokenizers import hash_of_table
from train_args import changes_mixture
from training import checkpoint


def history_of(args, saved):
    """(history, change_at) for open_mixture(): the segments that the checkpoint `saved` holds, and
    the iteration at which args change them; each may be None."""
    if not saved:
        return None, None
    history = saved.get("history")
    if not changes_mixture(args, saved["args"]):
        return history, None
    if not history:
        before = argparse.Namespace(**{**vars(args), **saved["args"]})
        history = [segment_of(before, [open_dataset(name) for name in dataset_names(before)])]
    return history, saved["iter_num"]


def refuse_other_data(mixture, saved, change_at):
    """Raise UserError where a dataset differs from what the run in the checkpoint `saved` read, or
    where a new one has another tokenizer."""
    found, table = mixture.fingerprint(), hash_of_table(next(iter(saved["metas"].values())))
    for dataset in mixture.datasets:
        if dataset.name not in saved["data"] and change_at is not None:
            if hash_of_table(dataset.meta) != table:
                raise UserError(f"{dataset.name} has another tokenizer than this run, so one id "
                                f"would mean different things. Prepare it with --reuse_vocab_of "
                                f"{next(iter(saved['metas']))}")
        elif saved["data"].get(dataset.name) != found[dataset.name]:
            raise UserError(f"{dataset.folder} has changed since this run began (train.bin or "
                            f"val.bin differs). Prepare it as it was, or start a new run. New text "
                            f"can join a run as a dataset of its own: --training_mode=multidataset "
                            f"--dataset_list {dataset.name} NEW")
    mixture.earlier = saved["data"]


def change_lines(mixture, steps):
    """A line for each member there was or is now: its share before and after the last change, and
    its epochs so far. steps: batches an iteration."""
    first = mixture.history[-1]["first"]
    before, after = (dict(zip(mixture.columns, fractions_over(history, steps)([first * steps])[0]))
                     for history in (mixture.history[:-1], mixture.history))
    consumed = mixture.consumed(first * steps)
    yield f"change from iteration {first:,} on:"
    for name in mixture.columns:
        epochs = f"{consumed[name][1]:.2f} epochs so far" if name in consumed else "no member now"
        yield f"  {name}: {before.get(name, 0):.1%} -> {after[name]:.1%} of each batch, {epochs}"


SCHEDULE = """max_iters lr_decay_iters lr_schedule decay_share min_lr_share warmup_iters
    learning_rate""".split()  # what the learning rate of an iteration follows from


def rate_note(args, saved):
    """A sentence where the flags given now change the learning rate at which the run in the
    checkpoint `saved` goes on, or where it is 0; else None."""
    def rate(args, iter_num):
        return args.learning_rate * lr_fraction(iter_num, args)
    before, at = argparse.Namespace(**{**vars(args), **saved["args"]}), saved["iter_num"]
    last, now = rate(before, max(0, at - 1)), rate(args, at)
    if at >= args.max_iters:
        return None
    if not now:
        return (f"note: the learning rate is 0 from iteration {at:,} on, so nothing more is "
                f"learned: it falls to --min_lr_share {args.min_lr_share:g} at --lr_decay_iters "
                f"{args.lr_decay_iters:,}. Raise one of the two")
    if now == rate(before, at) or abs(now - last) <= last / 10:
        return None
    changed = ", ".join(f"--{name} is {getattr(args, name)} instead of {getattr(before, name)}"
                        for name in SCHEDULE if getattr(args, name) != getattr(before, name))
    rises = ("" if now < last else ". The val loss may rise with it for a while; a lower "
             "--learning_rate makes it rise less" + (
                 ", with a lower --muon_learning_rate" if args.optimizer == "muon" else ""))
    return (f"note: the learning rate goes from {last:.3g} at iteration {at:,} to {now:.3g} at the "
            f"next, since {changed}{rises}")


def begin_change(run):
    """Keep best.pt under the name of its iteration, and save that the best begins anew: losses over
    other data cannot be compared."""
    run.best_val_loss, run.evaluated, best = math.inf, {}, run.out_dir / "best.pt"
    if run.ranks.is_first and best.exists():
        kept = run.out_dir / f"best-{checkpoint.load_checkpoint(best, mapped=True)['iter_num']}.pt"
        kept.unlink(missing_ok=True)
        try:
            os.link(best, kept)
        except OSError:  # this file system has no hard links
            shutil.copyfile(best, kept)
    checkpoint.save(run)
    if run.ranks.is_first:
        best.unlink(missing_ok=True)
