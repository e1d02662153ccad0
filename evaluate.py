"""
Say how good a model is on a text: the loss of every token, each predicted once.

    python evaluate.py                                         # the newest run, on its val data
    python evaluate.py --out_dir out/a out/b                   # two runs, and their difference
    python evaluate.py --files book.txt 'rows/*.jsonl'         # what prepare.py reads; -: a pipe
    python evaluate.py --dataset=wikitext-2 --split=train
    python evaluate.py --init_from=gpt2 --files book.txt       # published weights
    python evaluate.py --files 'rows/*.jsonl' --csv=rows.csv   # a line for each document
    python evaluate.py --out_dir out/a out/b --html page.html  # a page: each token by its loss

A token is predicted from the tokens before it, as many as the model's context holds. The standard
error tells how far the mean would move with other text of the same kind. docs/evaluate.md defines
each number. Nothing is written without --csv or --html.
"""
import argparse
import contextlib
import csv
import io
import itertools
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

from pipeline.threads import set_environment, take_threads

if __name__ == "__main__":
    set_environment()  # before numpy and torch, which read it as they are imported

from pipeline.errors import Parser, UserError, one_line_errors, printable
from pipeline.files import replacing
from pipeline.prepare.flags import OF_TEXT, add_reading
from pipeline.prepare.texts import FilesText, open_texts
from pipeline.read.folder import SPLITS, open_dataset
from pipeline.read.mixture import knows_documents
from pipeline.read.texts import DatasetText
from pipeline.tokenizers import hash_of_table
from train_args import count, init_from
from training.audit import args_of, progress
from training.changes import open_same_data
from training.device import memory_errors, pick_device
from training.measures import (
    BITS,
    DocumentSums,
    Measure,
    difference,
    estimates_of,
    numbers_of,
    perplexity,
    weighted,
)
from training.run_folder import newest_run
from training.scoring import score
from training.text_page import LIKELIEST, MOST_TOKENS, TextPage
from training.use import LoadedModel

CSV_COLUMNS = ("run text document tokens bytes loss bits_per_byte accuracy learned_tokens "
               "learned_loss").split()


def parse_args(argv=None):
    parser = Parser(prog="python evaluate.py", usage="python evaluate.py [--flag=value ...]",
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument_group("the models").add_argument
    flag("--out_dir", nargs="+", action="extend", default=[], metavar="RUN",
         help="folders of runs, or checkpoints; all are compared with the first (default: the "
              "newest run in out/)")
    flag("--init_from", nargs="+", action="extend", type=init_from, default=[], metavar="NAME",
         help="published weights: gpt2, the owner/name of a model of the Hugging Face hub, or a "
              "folder")
    flag("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    flag = parser.add_argument_group("the text").add_argument
    flag("--dataset", metavar="NAME",
         help="a folder of data/, or a path (default: the run's own data). With --files and a run "
              "with --multidataset_wte: the dataset whose vocabulary the files are read in")
    flag("--split", choices=SPLITS, default="val", help="split of a dataset (default: val)")
    flag("--files", nargs="+", action="extend", metavar="PATH",
         help="files or globs in the place of a dataset: text, .jsonl, .json, .csv, .tsv, "
              ".parquet, also compressed; - is standard input")
    flag("--skip_unknown", action="store_true",
         help="with --files: leave out characters that a model's vocabulary lacks, and count them")
    flag = parser.add_argument_group("how the text is evaluated").add_argument
    flag("--stride", type=count, metavar="N",
         help="tokens by which windows advance, at most the context length; fewer give each token "
              "more context and take longer (default: half of the context length)")
    flag("--documents", action="store_true",
         help="evaluate each document by itself, as runs with --documents always are")
    flag("--batch_size", type=count, metavar="N",
         help="windows in a batch (default: as many as 16,384 tokens make)")
    flag("--csv", type=Path, metavar="FILE", help="write a line for each document")
    flag("--json", action="store_true", help="print a JSON object a line for each run")
    flag("--html", type=Path, metavar="PAGE",
         help=f"write a page for a browser, with the first {MOST_TOKENS:,} tokens shaded by their "
              f"losses")
    add_reading(parser.add_argument_group("how files are read, as by prepare.py").add_argument)
    args = parser.parse_args(argv)
    for name in ("skip_unknown", *OF_TEXT) if not args.files else ():
        if getattr(args, name):
            parser.error(f"--{name} needs --files")
    if {"scratch", "resume"} & {*args.init_from}:
        parser.error("--init_from names published weights here; a run is named by --out_dir")
    return args


class Part(NamedTuple):
    """A text that a run is evaluated on: it has several if its data are several datasets."""
    text: object  # a DatasetText or a FilesText
    slices: list  # of the model's table, one for each aligned stream
    weights: list  # what the loss of each stream counts for
    names: list  # of the streams


# ---- which text


def parts_of(run, args, opened, tokenizers):
    """The Parts on which a LoadedModel is evaluated. opened: of --files. tokenizers: of all runs.
    """
    if opened:
        vocabulary = run.vocabulary()
        text = FilesText(opened, vocabulary.tokenizer, vocabulary.meta, tokenizers)
        return [Part(text, run.slice_of(vocabulary), [1.0], [text.name])]
    if args.dataset:
        return [part_of_dataset(run, args)]
    if not run.checkpoint:
        raise UserError(f"--init_from {run.name} has no data of its own. Say what to evaluate it "
                        f"on: --files PATH, or --dataset NAME")
    mixture = open_same_data(args_of(run.args, run.path.parent), run.checkpoint)
    parts, weights = [], iter(mixture.weights.tolist() if len(mixture.datasets) > 1 else [1.0])
    names = [vocabulary.name for vocabulary in run.vocabularies]
    for streams in mixture.members:
        slices = [run.slices[names.index(dataset.name) if mixture.own_vocabularies else 0]
                  for dataset in streams]
        parts.append(Part(DatasetText(streams, args.split), slices,
                          [next(weights) for _ in streams], [dataset.name for dataset in streams]))
    return parts


def part_of_dataset(run, args):
    """The Part of --dataset, in the vocabulary of a run. Raises UserError if it has none for it."""
    if run.has_streams:
        raise UserError(f"{run.name} is a run of aligned streams, which is evaluated on its own "
                        f"datasets. Leave --dataset out")
    dataset = open_dataset(args.dataset)
    own = hash_of_table(dataset.meta)
    fits = [v for v in run.vocabularies if hash_of_table(v.meta) == own]
    fits.sort(key=lambda vocabulary: vocabulary.name != dataset.name)
    if not fits:
        def kind(meta):
            name = meta.get("tiktoken_encoding") or meta.get("tokenizer") or "custom"
            return f"{name}, {meta['vocab_size']:,} ids"
        files = dataset.folder / "input.txt"
        files = files if files.exists() else "PATH"
        has = " and ".join(kind(vocabulary.meta) for vocabulary in run.vocabularies)
        raise UserError(f"{dataset.folder} has another tokenizer ({kind(dataset.meta)}) than "
                        f"{run.name} ({has}), so its ids mean other text to that model. Evaluate "
                        f"on the text itself: --files {files}")
    return Part(DatasetText([dataset], args.split), run.slice_of(fits[0]), [1.0], [dataset.name])


# ---- one run


def evaluate_part(run, part, args, apart, sinks):
    """The Measure of a run on a Part. apart: whether documents are evaluated by themselves. sinks:
    where documents (a function write_row) and tokens (a Gathered) go, or None each."""
    text, block_size = part.text, run.model.config.block_size
    if args.documents and isinstance(text, DatasetText):
        knows_documents(text.streams[0])
    measure = Measure(len(part.slices), None if isinstance(text, FilesText) else text.meta)
    write_row, gathered = sinks
    documents = None
    if write_row or gathered:  # else no name of a document is kept
        names, page_names = itertools.tee(text.document_names())
        documents = DocumentSums(names) if write_row else None
        if gathered:
            gathered.documents = page_names
        del names, page_names
    with progress(f"{run.name} on {text.name}") as told:
        for scores in score(
                run.model, text.tokens(told), part.slices, stride=args.stride and
                min(args.stride, block_size), batch_size=args.batch_size, apart=apart,
                ended=text.ended, likeliest=LIKELIEST if gathered else 0):
            measure.add(scores)
            if gathered:
                gathered.add(scores)
            for name, sums in documents.add(scores) if documents else ():
                write_row(run, part, name, sums)
    for name, sums in documents.end() if documents else ():
        write_row(run, part, name, sums)
    if not measure.streams[0].total("tokens"):
        skipped = " without the characters that were left out" if args.skip_unknown else ""
        has = f"has {measure.num_tokens} token" if measure.num_tokens else "is empty"
        raise UserError(f"{text.name} {has}{skipped}. The first token of a text is not predicted, "
                        f"so it needs 2 or more")
    return measure


def summary_of(run, parts, measures):
    """What is told of a run, a dict; `parts` has the same for each dataset and stream, where there
    are several."""
    each, whole, weights = [], [], []
    for part, measure in zip(parts, measures):
        own = [estimates_of(blocks) for blocks in measure.streams]
        each += [(name, estimates, blocks, part.text.is_masked)
                 for name, estimates, blocks in zip(part.names, own, measure.streams)]
        weights.append(sum(part.weights))
        whole.append(weighted(own, [w / weights[-1] for w in part.weights], independent=False))
    streams = [blocks for measure in measures for blocks in measure.streams]
    is_masked = any(part.text.is_masked for part in parts)
    told = {"run": run.name, "text": ", ".join(part.text.name for part in parts)}
    if run.checkpoint:
        told |= {"checkpoint": str(run.path), "iter": run.checkpoint["iter_num"]}
    told |= numbers_of(weighted(whole, weights, independent=True), streams, is_masked)
    if len(each) > 1:
        told["parts"] = [{"name": name, **numbers_of(estimates, [blocks], masked)}
                         for name, estimates, blocks, masked in each]
    if skipped := getattr(parts[0].text, "skipped", None):
        told["skipped"] = dict(skipped.most_common())
    return told


def differences_of(first, other):
    """Yield a dict for each text that two runs have in common: by how much the loss of the other
    is higher than that of the first. Both: (run, parts, measures)."""
    for i, (part_a, a) in enumerate(zip(first[1], first[2])):
        for part_b, b in zip(other[1][i : i + 1], other[2][i : i + 1]):
            if a.fingerprint() != b.fingerprint() or len(a.streams) != len(b.streams):
                continue
            masked = part_a.text.is_masked and part_b.text.is_masked
            same = [hash_of_table(part.text.meta) for part in (part_a, part_b)]
            for name, one, two in zip(part_a.names, a.streams, b.streams):
                told = {"name": name}
                units = [("bits_per_byte", "nats", "bytes")]
                if same[0] == same[1]:
                    units.append(("loss", "nats", "tokens"))
                    units += [("learned_loss", "learned_nats", "learned_tokens")] * masked
                for unit, top, bottom in units:
                    found, chance = difference(one, two, top, bottom)
                    factor = BITS if unit == "bits_per_byte" else 1
                    told[unit] = {"difference": found.value * factor,
                                  "standard_error": found.error * factor,
                                  "chance": chance * factor,
                                  "is_larger_than_chance": bool(abs(found.value) > chance)}
                yield told


# ---- in words


def spread(value, error, digits=4):
    return f"{value:.{digits}f} ± {error:.{digits}f}" if error == error else f"{value:.{digits}f}"


def lines_of(told):
    """The lines of a summary_of()."""
    run = told["run"] + (f" (iteration {told['iter']:,})" if "iter" in told else "")
    yield (f"{run} on {told['text']}: {told['tokens']:,} tokens, {told['bytes']:,} bytes, "
           f"{told['chars']:,} characters")
    yield (f"  loss {spread(told['loss'], told['standard_error'])} nats per token, perplexity "
           f"{told['perplexity']:.4g}, accuracy {told['accuracy']:.2%}")
    yield (f"  {spread(told['bits_per_byte'], told['bits_per_byte_standard_error'])} bits per "
           f"byte, {spread(told['bits_per_char'], told['bits_per_char_standard_error'])} bits per "
           f"character")
    if "learned_loss" in told:
        yield (f"  of the {told['learned_tokens']:,} learned tokens: loss "
               f"{spread(told['learned_loss'], told['learned_standard_error'])}, perplexity "
               f"{perplexity(told['learned_loss']):.4g}, accuracy {told['learned_accuracy']:.2%}")
    for part in told.get("parts", ()):
        learned = ""
        if "learned_loss" in part:
            learned = f", learned {spread(part['learned_loss'], part['learned_standard_error'])}"
        bits = part["bits_per_byte"], part["bits_per_byte_standard_error"]
        yield (f"  {part['name']}: loss {spread(part['loss'], part['standard_error'])}{learned}, "
               f"{spread(*bits)} bits per byte, accuracy {part['accuracy']:.2%}, "
               f"{part['tokens']:,} tokens")
    if "skipped" in told:
        named = " ".join(f"{character!r} {number:,}" for character, number in
                         [*told["skipped"].items()][:20])
        more = f" and {len(told['skipped']) - 20:,} more" * (len(told["skipped"]) > 20)
        yield (f"  {sum(told['skipped'].values()):,} characters were left out, because a vocabulary"
               f" lacks them: {printable(named, 1000)}{more}")


def lines_of_difference(first, other, told):
    """The line of one of differences_of()."""
    unit = "loss" if "loss" in told else "bits_per_byte"
    unit = "learned_loss" if "learned_loss" in told else unit
    found, what = told[unit], {
        "loss": "nats per token", "learned_loss": "nats per learned token",
        "bits_per_byte": "bits per byte"}[unit]
    if math.isnan(found["chance"]):
        said = "the text is too short to tell whether that is more than chance would give"
    else:
        is_larger = "" if found["is_larger_than_chance"] else "not "
        said = (f"the difference is {is_larger}larger than chance would give "
                f"({found['chance']:.4f} in 19 of 20 cases)")
    yield (f"{other} against {first} on {told['name']}: {found['difference']:+.4f} ± "
           f"{found['standard_error']:.4f} {what}; {said}")


# ---- the command


@contextlib.contextmanager
def open_csv(path):
    """A function write_row(run, part, document, sums), which writes a row for each stream."""
    if not path:
        yield None
        return
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.DictWriter(text, CSV_COLUMNS)
        writer.writeheader()

        def write_row(run, part, document, streams):
            def ratio(top, bottom, factor=1):
                return f"{sums[top] / sums[bottom] * factor:.6g}" if sums[bottom] else ""
            for name, sums in zip(part.names, streams):
                writer.writerow({
                    "run": run.name, "text": name, "document": document,
                    "tokens": round(sums["tokens"]), "bytes": round(sums["bytes"]),
                    "loss": ratio("nats", "tokens"),
                    "bits_per_byte": ratio("nats", "bytes", BITS),
                    "accuracy": ratio("hits", "tokens"),
                    "learned_tokens": round(sums["learned_tokens"]),
                    "learned_loss": ratio("learned_nats", "learned_tokens")})
        yield write_row
        text.detach()


def finite(told):
    """The same dict, in which None stands for what is not a number, which JSON does not have."""
    if isinstance(told, dict):
        return {key: finite(value) for key, value in told.items()}
    if isinstance(told, list):
        return [finite(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


def told_of(found):
    """[(summary_of() a run, its differences_of() the first one)] of [(run, parts, measures)]."""
    first, all_told = found[0], []
    for number, (run, parts, measures) in enumerate(found):
        told, compared = summary_of(run, parts, measures), []
        if number:
            compared = list(differences_of(first, found[number]))
            if not compared:
                print(f"note: {run.name} is not compared with {first[0].name}, because their texts "
                      f"differ. Evaluate both on the same: --files or --dataset", file=sys.stderr)
            told["against"] = first[0].name
            told["differences"] = compared
        all_told.append((told, compared))
    return all_told


def print_found(all_told, args):
    """Print what told_of() has found."""
    for told, compared in all_told:
        if args.json:
            print(json.dumps(finite(told)))
            continue
        for line in lines_of(told):
            print(line)
        for one in compared:
            print(*lines_of_difference(told["against"], told["run"], one), sep="\n")


def gather_part(page, run, parts, part):
    """A Gathered of the page for a run on one of its parts."""
    metas = [stream.meta for stream in getattr(part.text, "streams", (part.text,))]
    is_only = len(parts) == 1 and len(part.names) == 1
    names = [run.name if is_only else f"{run.name}: {name}" for name in part.names]
    return page.gather(names, metas, MOST_TOKENS // sum(len(one.names) for one in parts))


def write_found(page, found, all_told):
    """Write the page that shows what was found."""
    rows, notes = [], []
    for told, compared in all_told:
        for part in (told, *told.get("parts", ())):
            rows.append([part.get("run") or part["name"],
                         spread(part["loss"], part["standard_error"]),
                         spread(part["bits_per_byte"], part["bits_per_byte_standard_error"]),
                         f"{part['accuracy']:.2%}", f"{part['tokens']:,}"])
        notes += [line for one in compared
                  for line in lines_of_difference(told["against"], told["run"], one)]
    texts = dict.fromkeys(told["text"] for told, _ in all_told)
    keys = [measure.fingerprint() for _, _, measures in found for measure in measures]
    page.write(f"{', '.join(told['run'] for told, _ in all_told)} on {', '.join(texts)}", keys,
               ["run", ["loss, nats per token"], ["bits per byte"], ["accuracy"], ["tokens"]],
               rows, notes)
    print(f"wrote {page.path}", file=sys.stderr)


def main(argv=None):
    args = parse_args(argv)
    page = TextPage(args.html) if args.html else None
    device = pick_device(args.device)
    take_threads()
    names = [(str(name), True) for name in args.out_dir] + [
        (name, False) for name in args.init_from]
    if not names:
        names = [(str(newest_run()), True)]
    opened = open_texts(args.files, **{flag: getattr(args, flag) for flag in OF_TEXT}) if (
        args.files) else None
    of_vocabulary = args.dataset if args.files else None
    found = []
    with open_csv(args.csv) as write_row, memory_errors(device, "Lower --batch_size"):
        runs = [LoadedModel(*name, device, of_vocabulary) for name in names]
        apart = args.documents or any(run.args.get("documents") for run in runs)
        tokenizers = [run.tokenizer for run in runs] if args.skip_unknown else ()
        for run in runs:
            parts = parts_of(run, args, opened, tokenizers)
            found.append((run, parts, [
                evaluate_part(run, part, args, apart,
                              (write_row, page and gather_part(page, run, parts, part)))
                for part in parts]))
    all_told = told_of(found)
    print_found(all_told, args)
    if page:
        write_found(page, found, all_told)


if __name__ == "__main__":
    with one_line_errors():
        main()
