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
import shlex
import shutil

from optim import lr_fraction
from pipeline.errors import UserError
from pipeline.read.folder import dataset_folder, open_dataset
from pipeline.read.history import fractions_over, is_same, only_member, segment_of
from pipeline.read.mixture import Past, dataset_names, open_mixture
from pipeline.read.sampler import ORDER_VERSION
from pipeline.tokenizers import hash_of_table
from train_args import changes_mixture
from training import checkpoint


def open_same_data(args, saved, with_dropped=False):
    """The Mixture of the arguments. saved: the checkpoint of the run that has them, or None: its
    data must be what the run began with, or UserError. with_dropped: former members are members,
    too, of which there is nothing any more; so the whole order can be asked for."""
    # the first checkpoints do not say which order they are of
    version = ORDER_VERSION if saved is None else saved.get("order_version", 1)
    if version not in range(1, ORDER_VERSION + 1):
        raise UserError(f"the run in {args.out_dir} reads its data in order version "
                        f"{version!r:.20}, and this train.py knows versions up to {ORDER_VERSION}. "
                        f"Resume it with the train.py that began it")
    past = past_of(args, saved) if saved else Past()
    if with_dropped and past.history:
        places = {name: place for segment in past.history
                  for name, place in zip(segment["members"], segment["places"])}
        past.dropped = [place for name, place in places.items()
                        if name not in past.history[-1]["members"]]
    try:
        mixture = open_mixture(args, version, past)
    except FileNotFoundError as error:
        if saved is None:
            raise
        raise FileNotFoundError(_moved(args, error, with_dropped)) from None
    if saved:
        refuse_other_data(mixture, saved, past)
    return mixture


def _moved(args, error, audits):
    """What to do where a dataset of a run, resumed or audited, is not where it was."""
    name = next((name for name in dataset_names(args) if not dataset_folder(name).is_dir()), None)
    if name is None:  # it is there, but for its bins: the error says how they are made
        return str(error)
    flag = {"single": "dataset", "multidataset": "dataset_list",
            "multicontext": "multicontext_datasets"}[args.training_mode]
    names = [shlex.quote("/PATH" if each == name else each) for each in dataset_names(args)]
    by_flag = "" if audits else f"--{flag} {' '.join(names)}; or "
    folder = dataset_folder(name)
    return (f"{folder} not found, and the run in {args.out_dir} reads it. If it lies elsewhere, at "
            f"/PATH, under any name, add {by_flag}link it: ln -s /PATH {shlex.quote(str(folder))}. "
            f"Else prepare it there as it was. It is recognised by its hashes")


def past_of(args, saved):
    """The Past that the checkpoint `saved` holds, and that args may change."""
    before = argparse.Namespace(**{**vars(args), **saved["args"]})
    past = Past(saved.get("history"), data=saved["data"], batch=tuple(saved.get("batch") or (
        before.batch_size, before.gradient_accumulation_steps)))
    if changes_mixture(args, saved["args"]):
        past.change_at = saved["iter_num"]
        if not past.history and before.training_mode == "single":
            past.history = [only_member(*saved["data"], before.dataset)]
        elif not past.history:  # of a checkpoint from before there were histories
            datasets = [open_dataset(name) for name in dataset_names(before)]
            past.history = [segment_of(before, datasets)]
    return past


def is_changed(mixture, saved):
    """Whether the flags of a resumed run have changed its members or their shares."""
    now, before = mixture.history, saved.get("history") or mixture.history[:1]
    return bool(now) and (len(now) != len(before) or not is_same(before[-1], now[-1]))


def refuse_other_data(mixture, saved, past):
    """Raise UserError where a dataset differs from what the run in the checkpoint `saved` read, or
    where a new one has another tokenizer."""
    found, table = mixture.fingerprint(), hash_of_table(next(iter(saved["metas"].values())))
    for dataset in mixture.datasets:
        held, name = saved["data"].get(dataset.name), dataset.name
        if held and dataset.has_fingerprint(held, mixture.documents):
            continue
        has_other_tokens = hash_of_table(dataset.meta) != table
        if not held and past.change_at is not None:
            if has_other_tokens and not mixture.own_vocabularies:
                raise UserError(f"{name} has another tokenizer than this run, so one id would mean "
                                f"different things. Prepare it with --reuse_vocab_of "
                                f"{next(iter(saved['metas']))}")
        elif held:
            raise UserError(f"{dataset.folder} has changed since this run began (train.bin or "
                            f"val.bin differs). Prepare it as it was, or start a new run. New text "
                            f"can join a run as a dataset of its own: --training_mode=multidataset "
                            f"--dataset_list {name} NEW")
        else:
            apart = ("its tokenizer is another" if has_other_tokens else
                     "it is too large to be hashed, and its meta.pkl states no hash by which it "
                     "would be known" if " " in found[name]["train"] else
                     f"its train.bin has {dataset.num_tokens['train']:,} tokens, sha256 "
                     f"{found[name]['train'][:12]}")
            raise UserError(f"{dataset.folder} is not the data of this run "
                            f"({', '.join(saved['data'])}): {apart}. To train this run's weights "
                            f"on it, start a new run: --init_from={saved['args']['out_dir']}")


def batch_line(args, saved):
    """A line where a resumed run divides its iterations otherwise than before, else None."""
    now, before = ((held["batch_size"], held["gradient_accumulation_steps"])
                   for held in (vars(args), {**vars(args), **saved["args"]}))
    if now == before:
        return None
    masks = ", and dropout draws other masks" if args.dropout else ""
    return (f"from here on an iteration has {now[1]} micro-batches of {now[0]} sequences, and had "
            f"{before[1]} of {before[0]}: the same sequences, but their sum is rounded "
            f"otherwise{masks}")


def change_lines(mixture):
    """A line for each member there was or is now: its share before and after the last change, and
    its epochs so far."""
    first, steps = mixture.history[-1]["first"], mixture.steps
    before, after = (dict(zip(mixture.columns, fractions_over(history, steps)([first * steps])[0]))
                     for history in (mixture.history[:-1] or mixture.history, mixture.history))
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
    run.best_val_loss, run.stale, run.evaluated = math.inf, 0, {}
    best = run.out_dir / "best.pt"
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
