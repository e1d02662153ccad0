"""What a run read in an iteration, and when it reads a token, a document, a text.

    open_run(out_dir)                     an Audit: the arguments, the data, how far the run is
    audit.rows(draws)                     (Row, dict) of each draw; the dict is what --json prints
    audit.losses(first, last, device)     the model's loss on each row of some iterations
    lines_of_row(audit, row, ...)         a row in words
    lines_of_place(audit, ...)            when the run reads some tokens, in words

pipeline/read/audit.py does the searching. A run may be finished, stopped, or going on.
"""
import argparse
import contextlib
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from optim import block_size_at
from pipeline.errors import UserError
from pipeline.read.audit import characters_before, iterations_of, rows_at, token_bytes
from pipeline.read.batches import TrainBatches, to_xy
from pipeline.read.documents import documents_of, file_names, marked_line, window_marks
from pipeline.read.mixture import Mixture
from pipeline.tokenizers import token_text
from train_args import parse_args
from training.changes import open_same_data
from training.checkpoint import (
    SAMPLED,
    config_of,
    empty_model,
    load_checkpoint,
    take_state,
)
from training.run_folder import read_args, read_rows

AT_ONCE = 1 << 14  # draws that lie as far apart as this are not looked up together
SHOWN = 50  # iterations that a line names; --json names all
SHOWN_NAMES, SHOWN_TOKENS = 6, 40  # documents of a row; tokens of a place
NEEDED = (*SAMPLED, "data")  # keys of a checkpoint


@contextlib.contextmanager
def progress(what):
    """A function that is told the fraction done; what takes over a second shows it on a terminal.
    """
    from tqdm import tqdm
    with tqdm(desc=what, total=1.0, delay=1, disable=None, leave=False,
              bar_format="{desc}: {percentage:.0f}%, {remaining} left") as bar:
        yield lambda done: bar.update(done - bar.n)


def open_run(out_dir):
    """The Audit of the run in out_dir. Raises UserError where its data has changed since, and
    FileNotFoundError where there is no run."""
    checkpoint, stated = None, out_dir / "args.json"
    if (out_dir / "ckpt.pt").exists() or not stated.exists():
        checkpoint = load_checkpoint(out_dir / "ckpt.pt", NEEDED, mapped=True)
    newest = read_args(stated)["args"] if stated.exists() else {}
    saved = dict(checkpoint["args"] if checkpoint else newest)
    # what a resumed run may change is newer in args.json, until the next checkpoint
    saved |= {name: newest[name] for name in ("max_iters", "lr_decay_iters") if name in newest}
    args = args_of(saved, out_dir)
    done = checkpoint["iter_num"] if checkpoint else 0
    with contextlib.suppress(FileNotFoundError, UserError):  # it only tells how far a run is by now
        done = max(done, *(int(row["iter"]) for row in read_rows(out_dir / "log.csv")[-1:]), 0)
    mixture = open_same_data(args, checkpoint, with_dropped=True)
    return Audit(out_dir, args, mixture, min(done, args.max_iters), checkpoint)


def args_of(saved, out_dir):
    """The arguments that a run has saved, a dict, as train.py works with them."""
    # these say nothing about the order, and would be checked again
    other = dict(out_dir=str(out_dir), tensorboard=False, wandb=False, max_epochs_per_dataset=None)
    return parse_args([], saved={**saved, **other})


@dataclass
class Audit:
    """A run, opened to be questioned."""
    out_dir: Path
    args: argparse.Namespace
    mixture: Mixture
    done: int  # iterations by now
    checkpoint: dict | None  # ckpt.pt, its tensors in the file
    known: dict = field(default_factory=dict)  # what of() has found out

    @property
    def per_iter(self):
        """Rows of an iteration, over all ranks."""
        return self.args.batch_size * self.args.gradient_accumulation_steps

    def of(self, function, dataset):
        """function(dataset), called once for each dataset."""
        key = function, dataset.name
        if key not in self.known:
            self.known[key] = function(dataset)
        return self.known[key]

    def draws_holding(self, member, first, stop):
        """(n,) int64: the draws of the whole run whose windows hold one of these tokens."""
        num_batches = self.args.max_iters * self.mixture.steps
        with progress("looking through the run") as told:
            return self.mixture.draws_holding(member, first, stop, num_batches, told)

    def rows(self, draws):
        """Yield (Row, dict) for each of draws (n,) int64, ascending."""
        borders = np.flatnonzero(np.diff(draws // AT_ONCE, prepend=-1))
        for part in np.split(draws, borders)[1:]:
            rows = rows_at(self.mixture, part)
            told = [{"iter": row.draw // self.per_iter + 1, "row": row.draw % self.per_iter,
                     "epoch": row.epoch, "window": row.window} for row in rows]
            for d, streams in enumerate(self.mixture.members):
                mine = [i for i, row in enumerate(rows) if row.member == d]
                starts = np.array([rows[i].start for i in mine], dtype=np.int64)
                for i, where in zip(mine, self._where(streams[0], starts) if mine else ()):
                    told[i] |= where
            for row, one in zip(rows, told):
                one["text"] = self._text(self.mixture.members[row.member], row.start)
                yield row, one

    def _where(self, dataset, starts):
        """Dicts of what lies in windows: the dataset and tokens; documents, or else characters."""
        stops = starts + self.mixture.block_size + 1
        where = [{"dataset": dataset.name, "start": start, "stop": stop, "documents": []}
                 for start, stop in zip(starts.tolist(), stops.tolist())]
        if dataset.has_index:
            held = documents_of(dataset, starts, self.mixture.block_size + 1)
            for one, records in zip(where, held):
                one["documents"] = self.named(dataset, records)
        elif (spans := self.characters(dataset, starts, stops)) is not None:
            for one, span in zip(where, spans.tolist()):
                one["characters"] = span
        return where

    def _text(self, streams, start):
        """The text of a window; of aligned streams a list of them."""
        texts = []
        for dataset in streams:
            table, length = self.of(token_bytes, dataset), self.mixture.block_size + 1
            ids = dataset.read("train", np.array([start]), length)[0].tolist()
            texts.append(b"".join(map(table.__getitem__, ids)).decode("utf-8", "replace"))
        return texts if len(texts) > 1 else texts[0]

    def named(self, dataset, records):
        """Records of an index of documents as dicts."""
        names = self.of(file_names, dataset)
        return [{"file": names[file], "row": row, "start": start}
                for start, file, row in records.tolist()]

    def characters(self, dataset, starts, stops):
        """(n, 2) int64: the characters of train that tokens from starts to stops, (n,) each, are;
        None where the tokens do not tell."""
        with progress("counting characters") as told:
            ends = characters_before(dataset, np.concatenate([starts, stops]), told)
        return None if ends is None else ends.reshape(2, -1).T

    def losses(self, first, last, device):
        """(path, iteration, losses (n,) float64): the loss of each row of iterations first .. last,
        in the order of the rows, by the model of the checkpoint nearest to them. NaN for a row of
        which nothing is learned."""
        path, checkpoint = self._nearest(first, last)
        model = empty_model(config_of(checkpoint, path))
        take_state(checkpoint, path, model)
        model.eval().to(device)
        args, mixture, losses = self.args, self.mixture, []
        weights = mixture.weights if mixture.num_streams > 1 else [1.0]  # as in training
        weights = torch.tensor(weights, dtype=torch.float32, device=device)
        batches = TrainBatches(
            mixture, batch_size=args.batch_size, iter_num=first - 1, max_iters=last,
            gradient_accumulation_steps=args.gradient_accumulation_steps)
        try:
            with torch.no_grad(), progress("computing losses") as told:
                for number in range((last - first + 1) * batches.micro_steps):
                    length = block_size_at(first - 1 + number // batches.micro_steps, args)
                    batch = next(batches)
                    for i in range(batches.rows):
                        one = batch.rows(i, i + 1)
                        x, y, marks = to_xy(one, device, length)
                        loss = (model(x, y, **marks)[1] * weights).sum().item()
                        learned = one.num_learned()  # the model's mean is over all targets
                        losses.append(loss * one.num_targets() / learned if learned else np.nan)
                    told(len(losses) / ((last - first + 1) * self.per_iter))
        finally:
            batches.close()
        return path, checkpoint["iter_num"], np.array(losses)

    def _nearest(self, first, last):
        """(path, checkpoint) of ckpt.pt or best.pt, whichever is nearer to these iterations."""
        path, best = self.out_dir / "ckpt.pt", self.out_dir / "best.pt"
        if not self.checkpoint:
            raise UserError(f"{path} not found, and --losses needs the model of a checkpoint")
        found = [(path, self.checkpoint)]
        if best.exists() and not best.samefile(path):
            found.append((best, load_checkpoint(best, NEEDED, mapped=True)))
        return min(found, key=lambda one: max(first - one[1]["iter_num"],
                                              one[1]["iter_num"] - last, 0))


# ---- in words


def lines_of_row(audit, row, told, width):
    """The lines of a row: where it lies, and its text with the borders of tokens."""
    length = told["stop"] - told["start"]
    loss = ""
    if "loss" in told:
        loss = "no token to learn, " if told["loss"] is None else f"loss {told['loss']:.4f}, "
    yield (f"iteration {told['iter']:,}, row {told['row']:,}: {loss}{told['dataset']}, epoch "
           f"{told['epoch']:,}, window {told['window']:,}, tokens {told['start']:,} to "
           f"{told['stop'] - 1:,}")
    names = [f"{document['file']}:{document['row']}" for document in told["documents"]]
    if names:
        more = f" and {len(names) - SHOWN_NAMES:,} more" * (len(names) > SHOWN_NAMES)
        yield f"  document{'s' * (len(names) > 1)} {', '.join(names[:SHOWN_NAMES])}{more}"
    elif "characters" in told:
        first, stop = told["characters"]
        yield f"  characters {first:,} to {stop - 1:,} of the train text"
    shown = min(length, width or length)
    yield from lines_of_tokens(audit.mixture.members[row.member], told["start"], shown)
    if shown < length:
        yield f"  ... {length - shown:,} more tokens (--width=0 shows all)"


def lines_of_tokens(streams, start, length):
    """Tokens of train with "|" between them; of aligned streams those of one place stand below one
    another."""
    dim = sys.stdout.isatty()
    _, learned, first = window_marks(streams[0], "train", start, length)
    texts = [[token_text(dataset.meta, i) for i in dataset.read(
        "train", np.array([start]), length)[0].tolist()] for dataset in streams]
    if len(streams) == 1:
        yield f"  {marked_line(texts[0], learned, first, dim)}"
        return
    names = [dataset.name for dataset in streams]
    widths, columns = [max(map(len, tokens)) for tokens in zip(*texts)], max(map(len, names)) + 4
    room, begin = max(20, shutil.get_terminal_size().columns - columns), 0
    while begin < length:
        sizes = np.cumsum(np.array(widths[begin:]) + 1 + 2 * ~(learned[begin:] | dim))
        part = slice(begin, begin + max(1, int((sizes < room).sum())))
        for name, tokens in zip(names, texts):
            cells = [token.ljust(size) for token, size in zip(tokens[part], widths[part])]
            line = marked_line(cells, learned[part], first[part], dim).rstrip()
            yield f"  {name.rjust(columns - 4)}  {line}"
        begin = part.stop


def lines_of_place(audit, member, first, stop, draws):
    """When the run reads tokens first .. stop - 1 of a member's train split. draws: those of the
    whole run that do."""
    streams, args = audit.mixture.members[member], audit.args
    dataset, where = streams[0], ""
    if dataset.has_index:
        ends = documents_of(dataset, np.array([first, stop - 1]), 1)
        names = [f"{one['file']}:{one['row']}" for records in ends
                 for one in audit.named(dataset, records)]
        where = ", in " + " to ".join(dict.fromkeys(names))  # one name where the ends agree
    elif (span := audit.characters(dataset, np.array([first]), np.array([stop]))) is not None:
        where = f", characters {span[0, 0]:,} to {span[0, 1] - 1:,} of the train text"
    yield f"tokens {first:,} to {stop - 1:,} of {dataset.name}{where}"
    yield from lines_of_tokens(streams, first, min(stop - first, SHOWN_TOKENS))
    border = np.searchsorted(draws, audit.done * audit.per_iter)
    if audit.done:
        yield f"  in iterations 1 to {audit.done:,}: {_how_often(draws[:border], audit)}"
    if audit.done < args.max_iters:
        yield (f"  later, to iteration {args.max_iters:,}: {_how_often(draws[border:], audit)}")


def _how_often(draws, audit):
    if not draws.size:
        return "not read"
    iterations, times = iterations_of(draws, audit.per_iter)
    named = [f"{n:,}" + (f" ({k:,} rows)" if k > 1 else "") for n, k in
             zip(iterations[:SHOWN].tolist(), times[:SHOWN].tolist())]
    more = f" and {len(iterations) - SHOWN:,} more (--json lists all)" * (len(iterations) > SHOWN)
    return (f"read by {draws.size:,} row{'s' * (draws.size > 1)}, in iteration"
            f"{'s' * (len(named) > 1)} {', '.join(named)}{more}")
