"""The command line of the template's prepare.py, and what its flags stand for.

    args = parse_args(__doc__, HERE)
    text, val_text = read_inputs(args)
    tokenizer = tokenizer_of(args, text, val_text)
    write_dataset(HERE, text, tokenizer, val_text=val_text, **write_options(args))
"""
import argparse

from pipeline.errors import Parser, UserError, typed
from pipeline.prepare.compression import SUFFIXES as COMPRESSED
from pipeline.prepare.formats import FORMATS
from pipeline.prepare.inputs import Ids, open_inputs
from pipeline.prepare.make_tokenizer import METHODS, make_tokenizer
from pipeline.prepare.rows import QUOTINGS
from pipeline.prepare.units import checked_text, train_text
from pipeline.read.folder import dataset_folder, read_meta
from pipeline.threads import cores
from pipeline.tokenizers import tokenizer_from_meta

ONLY_WITH = {  # flag: the methods that read it
    "tiktoken_encoding": ("tiktoken",), "additional_tokens_file": ("tiktoken",),
    "backend": ("tiktoken", "bpe"), "tokens_file": ("custom",), "byte_fallback": ("custom",),
    "vocab_size": ("bpe", "sentencepiece"), "spm_model_file": ("sentencepiece",)}
RANGES = {  # flag: its least value, one more than its largest
    "num_workers": (1, 2**31), "vocab_size": (1, 2**31), "max_bad_rows": (0, 2**63),
    "split_seed": (0, 2**64)}


def parse_args(doc, here, argv=None):
    """The flags. doc: the text of --help. here: the dataset's folder, in which input.txt is.

    Raises UserError for a value that cannot be, and for a flag that would do nothing.
    """
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_text(parser.add_argument_group("the text").add_argument, here)
    _add_tokenizer(parser.add_argument_group("the tokenizer").add_argument)
    add = parser.add_argument_group("the work").add_argument
    add("--num_workers", type=int, help=f"threads or processes that encode (default: one a core, "
        f"here {cores()}; char and byte need none)")
    add("--dask", metavar="ADDRESS", help="encode on workers of a dask scheduler: tcp://host:8786")
    args = parser.parse_args(argv)
    _refuse_unread(parser, args)
    for flag, (low, high) in RANGES.items():
        value = getattr(args, flag)
        if value is not None and not low <= value < high:
            parser.error(f"--{flag} is {value}; it must be from {low} to {high - 1}")
    return args


def _add_text(add, here):
    add("-t", "--train_input", nargs="+", default=[here / "input.txt"],
        help="files or globs: text, .jsonl, .json, .csv, .tsv, .parquet, also compressed "
        f"({', '.join(COMPRESSED)}); .bin shards of llm.c; - is standard input "
        "(default: input.txt)")
    add("-v", "--val_input", nargs="+",
        help="the same for validation; then all of --train_input is used to train")
    add("-p", "--percentage_train", type=float,
        help="fraction of the text that is used to train, between 0 and 1 (default: 0.9)")
    add("--split_seed", type=int, default=0,
        help="another number sends other documents to validation (default: 0)")
    add("--format", choices=FORMATS,
        help="format of the files (default: by their names and contents)")
    add("--encoding", help="encoding of the text: cp1252, shift_jis, ... (default: utf-8)")
    add("--quoting", choices=QUOTINGS, help="how .csv and .tsv files use quotes. csv: they hold a "
        "cell together (default for .csv); none: they are text (default for .tsv); backslash: a "
        "backslash stands before special characters, as databases write them")
    add("--delimiter", type=typed, help="what separates the cells of .csv and .tsv files: ';' "
        "(default: a comma, a tab)")
    add("--columns", type=lambda names: names.split(","), metavar="NAMES", help="the names of the "
        "columns of .csv and .tsv files whose first line is a row already: id,language,text")
    add("--text_template", type=typed,
        help='how a row becomes text: "Q: {question}\\nA: {answer}" (default: "{text}")')
    add("--max_bad_rows", type=int, default=0,
        help="how many rows that cannot be read may be left out (default: 0)")
    add("--no_end_of_text", action="store_true", help="put no <|endoftext|> after documents")
    add("--document_end", type=typed, metavar="TEXT",
        help="text to add to each document that does not end with it (default: \\n where no "
        "<|endoftext|> follows, else nothing)")


def _add_tokenizer(add):
    add("--method", choices=METHODS, help="what a token is (default: char)")
    add("-e", "--tiktoken_encoding", help="gpt2, cl100k_base, o200k_base, ... (default: gpt2)")
    add("--additional_tokens_file",
        help='for tiktoken: a JSON file of more tokens and their ids: {"<|user|>": 50257}')
    add("--backend", choices=["auto", "tiktoken", "gigatoken"],
        help="for tiktoken and bpe: the package that encodes, which changes no id (default: auto, "
        "which is gigatoken if it is installed)")
    add("--tokens_file", help="for custom: a file of tokens, one a line, or a JSON list")
    add("--byte_fallback", action="store_true", default=None,
        help="for custom: encode text that no token covers as bytes")
    add("--vocab_size", type=int, help="for bpe and sentencepiece: ids to train (default: 4096)")
    add("--spm_model_file", help="for sentencepiece: a model to use instead of training one")
    add("--reuse_vocab_of", metavar="DATASET",
        help="use the tokenizer of a prepared dataset: its name, or the path of its folder")


def _refuse_unread(parser, args):
    """Set the defaults that depend on other flags; a flag that would do nothing is an error."""
    if args.reuse_vocab_of and args.method:
        parser.error("--method does nothing beside --reuse_vocab_of")
    args.method = args.method or "char"
    for flag, methods in ONLY_WITH.items():
        if getattr(args, flag) is not None and (args.method not in methods or args.reuse_vocab_of):
            short = "-e/" if flag == "tiktoken_encoding" else ""
            parser.error(f"{short}--{flag} is read only with --method {' or '.join(methods)}")
    if args.method == "custom" and not args.tokens_file:
        parser.error("--method custom needs --tokens_file")
    if args.spm_model_file and args.vocab_size:
        parser.error("--vocab_size does nothing beside --spm_model_file")
    if args.percentage_train is not None and args.val_input:
        parser.error("-p/--percentage_train does nothing beside -v/--val_input, with which all of "
                     "--train_input is used to train")
    args.percentage_train = 0.9 if args.percentage_train is None else args.percentage_train


def read_inputs(args):
    """(text, val_text or None), which can be read several times. See inputs.py."""
    stated = {flag: getattr(args, flag) for flag in (
        "text_template", "max_bad_rows", "format", "encoding", "quoting", "delimiter", "columns")}
    paths = args.train_input, args.val_input
    args.inputs = [open_inputs(names, **stated) for names in paths if names]
    return args.inputs[0], args.inputs[1] if args.val_input else None


def tokenizer_of(args, text, val_text):
    """The tokenizer that the flags ask for; char, bpe and sentencepiece are made from the text."""
    text = checked_text(text, val_text)
    if args.reuse_vocab_of:
        return tokenizer_from_meta(read_meta(dataset_folder(args.reuse_vocab_of)))
    texts = [text] if val_text is None else [text, val_text]
    of_text = args.method in ("char", "bpe", "sentencepiece") and not args.spm_model_file
    if of_text and (ids := [given.name for given in texts if isinstance(given, Ids)]):
        raise UserError(f"{ids[0]} holds ids, and --method {args.method} makes its vocabulary from "
                        "a text. Say whose ids they are: --method tiktoken, or --reuse_vocab_of")
    if args.method in ("bpe", "sentencepiece") and iter(text) is text:
        raise UserError("a generator can be read only once, and the tokens must be known before "
                        "the text is written. Give a list: text = [... for t in text]")
    choices = {flag: getattr(args, flag) for flag in ONLY_WITH if getattr(args, flag) is not None}
    end = "\n" if args.document_end is None else args.document_end
    train = train_text(text, val_text, args.percentage_train, args.split_seed)
    return make_tokenizer(args.method, *texts, train_text=train, document_end=end, **choices)


def write_options(args):
    """The keyword arguments of write_dataset() that the flags stand for."""
    return dict(percentage_train=args.percentage_train, split_seed=args.split_seed,
                end_of_text=not args.no_end_of_text, document_end=args.document_end,
                inputs=getattr(args, "inputs", ()), num_workers=args.num_workers, dask=args.dask)
