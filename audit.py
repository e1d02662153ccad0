"""
Say what a run read in an iteration, and when it reads a document, a text or a token.

    python audit.py --iter 120                             # the rows of an iteration, newest run
    python audit.py --iter 101 --to 110 --losses           # what made the loss jump? highest first
    python audit.py --out_dir=out/x --document=data.jsonl:12    # the iterations that read it
    python audit.py --text="To be, or not to be"
    python audit.py --tokens=1000:1100

Iterations are counted as in log.csv, from 1; rows of an iteration, epochs, windows of an epoch and
tokens of the train split from 0. A window holds block_size + 1 tokens. Nothing is written.
"""
import argparse
import json
import math
import re
import sys
from pathlib import Path

from pipeline.threads import set_environment, take_threads

if __name__ == "__main__":
    set_environment()  # before numpy and torch, which read it as they are imported

import numpy as np

from pipeline.errors import Parser, UserError, one_line_errors, typed
from pipeline.read.audit import document_ranges, text_ranges
from train_args import count, whole
from training.audit import lines_of_place, lines_of_row, open_run, progress
from training.device import memory_errors, pick_device
from training.run_folder import newest_run

MOST_PLACES = 20  # at which --text is looked up


def token_range(text):
    """A:B, or A for A:A+1, as (A, B)."""
    found = re.fullmatch(r"(\d{1,18})(?::(\d{1,18}))?", text)
    first = int(found[1]) if found else 0
    stop = int(found[2]) if found and found[2] else first + 1
    if not found or stop <= first:
        raise argparse.ArgumentTypeError("must be A:B, the tokens A to B - 1 of train")
    return first, stop


def parse_args(argv=None):
    parser = Parser(prog="python audit.py", usage="python audit.py [--flag=value ...]",
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag("--out_dir", help="folder of the run (default: the newest run in out/)")
    flag("--iter", type=count, metavar="N", help="show what iteration N read, or will read")
    flag("--to", type=count, metavar="N", help="with --iter: show all iterations up to N")
    flag("--losses", action="store_true",
         help="with --iter: the model's loss on each row, highest first, by the checkpoint that is "
              "nearest (ckpt.pt or best.pt)")
    flag("--document", metavar="PATH:ROW",
         help="show which iterations read a document: its file, and the number of its row there")
    flag("--text", type=typed, help=r"show which iterations read this text (\n: a newline)")
    flag("--tokens", type=token_range, metavar="A:B",
         help="show which iterations read any of the tokens A to B - 1 of train")
    flag("--dataset", metavar="NAME", help="where the run has several: the one that is meant")
    flag("--width", type=whole, default=100, metavar="N",
         help="tokens of each row that are shown; 0: all (default: 100)")
    flag("--json", action="store_true", help="print a JSON object a line for each row")
    flag("--device", default="auto", help="with --losses: auto, cpu, cuda, mps (default: auto)")
    args = parser.parse_args(argv)
    asked = [name for name in ("iter", "document", "text", "tokens") if getattr(args, name)]
    if len(asked) != 1:
        parser.error(f"{' and '.join(f'--{name}' for name in asked)} cannot go together" if asked
                     else "say what to show: --iter, --document, --text or --tokens")
    if asked[0] != "iter" and (args.to or args.losses):
        parser.error(f"--{'to' if args.to else 'losses'} needs --iter")
    if args.iter and args.dataset:
        parser.error("--dataset has no effect with --iter: leave it out")
    return args


def show_iterations(audit, args):
    """What iterations read: the rows in their order, or by their loss."""
    first, last, total = args.iter, args.to or args.iter, audit.args.max_iters
    if last < first:
        raise UserError(f"--to {last:,} is before --iter {first:,}")
    if last > total:
        raise UserError(f"--{'to' if args.to else 'iter'} {last:,} is beyond the run in "
                        f"{audit.out_dir}, which has {total:,} iterations")
    rows = audit.rows(np.arange((first - 1) * audit.per_iter, last * audit.per_iter))
    which = f"iteration {first:,}" if first == last else f"iterations {first:,} to {last:,}"
    yet = "" if last <= audit.done else "; what is not done yet will be read so"
    head = [f"{audit.out_dir}: {which} of {total:,} ({audit.done:,} are done{yet}), "
            f"{audit.per_iter:,} rows in each, {audit.args.sampling_method}"]
    if args.losses:
        device = pick_device(args.device)
        take_threads()
        with memory_errors(device):
            path, at, losses = audit.losses(first, last, device)
        head.append(f"losses: in nats a token, by {path} of iteration {at:,}; highest first")
        rows = [(row, told | {"loss": None if math.isnan(loss) else loss})
                for (row, told), loss in zip(rows, losses.tolist())]
        rows = [rows[i] for i in np.argsort(-losses, kind="stable")]  # NaN goes last
    if args.json:
        head = []
    for line in head:
        print(line)
    for row, told in rows:
        print(json.dumps(told) if args.json else
              "\n".join(lines_of_row(audit, row, told, args.width)))


def places_of(audit, args):
    """[(member, first, stop)] of the tokens of train that are asked for."""
    named = [(d, dataset) for d, streams in enumerate(audit.mixture.members) for dataset in streams
             if args.dataset in (None, dataset.name)]
    if not named:
        raise UserError(f"--dataset {args.dataset}: the run in {audit.out_dir} reads "
                        f"{', '.join(audit.mixture.names)}")
    if args.text:
        return places_of_text(named, args.text)
    if args.document:
        return places_of_document(named, args.document)
    if len({d for d, _ in named}) > 1:
        raise UserError(f"--tokens needs the --dataset that is meant: "
                        f"{', '.join(audit.mixture.names)}")
    (d, dataset), (first, stop) = named[0], args.tokens
    if stop > (num_tokens := dataset.num_tokens["train"]):
        raise UserError(f"--tokens {first}:{stop} goes beyond {dataset.path('train')}, which has "
                        f"{num_tokens:,} tokens")
    return [(d, first, stop)]


def places_of_text(named, text):
    places = []
    for d, dataset in named:
        with progress(f"searching {dataset.name}") as told:
            count, found = text_ranges(dataset, text, MOST_PLACES, told)
        places += [(d, *place) for place in found]
        if count > len(found):
            print(f"note: {dataset.name} has this text at {count:,} places, of which the first "
                  f"{len(found)} are looked up", file=sys.stderr)
    if not places:
        raise UserError(f"--text {text!r} does not occur in train of "
                        f"{', '.join(dataset.name for _, dataset in named)}")
    return places


def places_of_document(named, document):
    places, errors = [], []
    for d, dataset in named:
        try:
            places += [(d, *place) for place in document_ranges(dataset, document)]
        except UserError as error:
            errors.append(error)
    if not places:  # the nearest name is that of a dataset with an index
        raise max(errors, key=lambda error: "nearest" in str(error))
    return places


def show_places(audit, args):
    """When the run reads some tokens."""
    for member, first, stop in places_of(audit, args):
        draws = audit.draws_holding(member, first, stop)
        if not args.json:
            print(*lines_of_place(audit, member, first, stop, draws), sep="\n")
            continue
        for _, told in audit.rows(draws):
            print(json.dumps({**told, "tokens": [first, stop]}))


def main(argv=None):
    args = parse_args(argv)
    audit = open_run(Path(args.out_dir) if args.out_dir else newest_run())
    if not audit.checkpoint:
        print(f"note: {audit.out_dir} has no checkpoint, so nothing tells whether its data is what "
              f"it read", file=sys.stderr)
    (show_iterations if args.iter else show_places)(audit, args)


if __name__ == "__main__":
    with one_line_errors():
        main()
