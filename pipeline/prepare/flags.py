"""The command line of the template's prepare.py, and what its flags stand for.

    args = parse_args(__doc__, HERE)
    text, val_text = read_inputs(args)
    tokenizer = tokenizer_of(args, text, val_text)
    write_dataset(HERE, text, tokenizer, val_text=val_text, **write_options(args))
"""
import argparse

from pipeline.chats import LAYOUTS, layout_named, with_markers_of
from pipeline.errors import Parser, UserError, typed
from pipeline.get.models import ModelFiles
from pipeline.prepare.compression import SUFFIXES as COMPRESSED
from pipeline.prepare.formats import FORMATS
from pipeline.prepare.inputs import Ids, open_inputs
from pipeline.prepare.rows import QUOTINGS
from pipeline.prepare.units import checked_text, train_text
from pipeline.read.folder import dataset_folder, read_meta
from pipeline.threads import cores
from pipeline.tokenizers import METHODS, make_tokenizer, tokenizer_from_meta

OF_TEXT = ("text_template learn chat_layout missing max_bad_rows max_bad_files format encoding "
           "quoting delimiter columns no_header rows_in document_separator").split()
OF_METHOD = {  # --method: the flags that it reads
    "tiktoken": ("tiktoken_encoding", "additional_tokens_file", "backend"),
    "custom": ("tokens_file", "byte_fallback"),
    "bpe": ("backend", "vocab_size"), "sentencepiece": ("vocab_size", "spm_model_file")}
TOKENIZER_OF = ("use the tokenizer of a published model: the owner/name of one of the Hugging Face "
                "hub, such as Qwen/Qwen3-0.6B, a folder, or a tokenizer.json")
# flag: its least value, the bits of its largest
RANGES = dict(num_workers=(1, 31), vocab_size=(1, 31), max_bad_rows=(0, 63), max_bad_files=(0, 63),
              split_seed=(0, 64))


def parse_args(doc, here, argv=None):
    """The flags. doc: the text of --help. here: the dataset's folder, in which input.txt is.

    Raises UserError for a value that cannot be, and for a flag that would do nothing.
    """
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_text(parser.add_argument_group("the text").add_argument)
    _add_tokenizer(parser.add_argument_group("the tokenizer").add_argument)
    add = parser.add_argument_group("the work").add_argument
    add("--num_workers", type=int, help="encoding threads or processes; char, byte need none "
        f"(default: one per core, {cores()})")
    add("--dask", metavar="ADDRESS", help="encode on workers of a dask scheduler: tcp://host:8786")
    args = parser.parse_args(argv)
    args.train_input = args.train_input or [here / "input.txt"]
    _refuse_unread(parser, args)
    for flag, (low, bits) in RANGES.items():
        value = getattr(args, flag)
        if value is not None and not low <= value < 2**bits:
            parser.error(f"--{flag} is {value}; it must be from {low} to {2**bits - 1}")
    return args


def _add_text(add):
    add("-t", "--train_input", nargs="+", action="extend",
        help="files or globs: text, .jsonl, .json, .csv, .tsv, .parquet, .arrow, also compressed "
        f"({', '.join(COMPRESSED)}) or in archives (.zip, .tar); .bin shards of llm.c; - is "
        "standard input (default: input.txt)")
    add("-v", "--val_input", nargs="+", action="extend",
        help="validation text; then all of -t is used to train")
    add("-p", "--percentage_train", type=float, help="fraction of text to train on (default: 0.9)")
    add("--split_seed", type=int, default=0, help="seed that picks val documents (default: 0)")
    add_reading(add)
    add("--no_end_of_text", action="store_true", help="put no <|endoftext|> after documents")
    add("--document_end", type=typed, metavar="TEXT",
        help="text added to a document that does not end in it (default: none before "
        "<|endoftext|>, else \\n)")


def add_reading(add):
    """The flags of OF_TEXT, which say how files are read."""
    add("--format", choices=FORMATS, help="format of the files (default: by name and contents)")
    add("--encoding", help="encoding of the text: cp1252, shift_jis, ... (default: utf-8)")
    add("--quoting", choices=QUOTINGS, help="how .csv and .tsv files use quotes. csv: they "
        "enclose cells (default for .csv); none: they are text (default for .tsv); backslash: a "
        "backslash stands before special characters, as databases write them")
    add("--delimiter", type=typed, help="separator of cells, such as ';' (default: a "
        "comma in .csv, a tab in .tsv)")
    add("--columns", type=lambda names: names.split(","), metavar="NAMES", help="column "
        "names of .csv and .tsv files without a header line: id,language,text")
    add("--no_header", action="store_true", help="the first line of .csv and .tsv files is a row; "
        'the columns are 1, 2, 3, ...: --text_template "{2}"')
    add("--rows_in", metavar="KEY", help="the key under which a .json file has its array of rows, "
        'such as data for {"data": [...]}')
    add("--text_template", type=typed, help='a row as text: "Q: {q}\\nA: {a}" (default: "{text}")')
    add("--learn", type=lambda names: names.split(","), metavar="COLUMNS", help="the columns of "
        "--text_template whose text is learned, such as: answer (default: all text is learned)")
    add("--chat_layout", choices=LAYOUTS, help="rows are conversations (messages, conversations, "
        "or prompt and completion): write them in this layout, and learn what the assistant says")
    add("--missing", type=typed, metavar="TEXT", help="text of the cells that are missing: null, "
        "NaN, columns that a row lacks (default: such a row is bad)")
    add("--max_bad_rows", type=int, default=0, help="bad rows that may be left out (default: 0)")
    add("--max_bad_files", type=int, default=0, help="files that cannot be read, or not to their "
        "end, that may be left out from there on (default: 0)")
    add("--document_separator", type=typed, metavar="TEXT", help="what stands between the "
        "documents in a file of text: lines (each is a document), blank_lines, re:PATTERN, or the "
        "text of a line, such as '<|endoftext|>'. The separators are left out (default: a file is "
        "one document)")


def _add_tokenizer(add):
    add("--method", choices=METHODS, help="what a token is (default: char)")
    add("-e", "--tiktoken_encoding", help="gpt2, cl100k_base, o200k_base, ... (default: gpt2)")
    add("--additional_tokens_file", help='for tiktoken: JSON of more tokens: {"<|user|>": 50257}')
    add("--backend", choices=["auto", "tiktoken", "gigatoken"],
        help="for tiktoken and bpe: what encodes; auto, the default: gigatoken if installed")
    add("--tokens_file", help="for custom: a file of tokens, one a line, or a JSON list")
    add("--byte_fallback", action="store_true", default=None,
        help="for custom: encode as bytes what no token covers")
    add("--vocab_size", type=int,
        help="for bpe and sentencepiece: size of the vocabulary (default: 4096)")
    add("--spm_model_file", help="for sentencepiece: a model to use instead of training one")
    add("--reuse_vocab_of", metavar="DATASET", help="use the tokenizer of a dataset (name or path)")
    add("--tokenizer_of", metavar="MODEL", help=TOKENIZER_OF)


def _refuse_unread(parser, args):
    """Set the defaults that depend on other flags; a flag that would do nothing is an error."""
    for flag, other in (("method", "reuse_vocab_of"), ("method", "tokenizer_of"),
                        ("reuse_vocab_of", "tokenizer_of"), ("vocab_size", "spm_model_file"),
                        ("percentage_train", "val_input")):
        if getattr(args, flag) is not None and getattr(args, other):
            parser.error(f"leave out --{flag}: --{other} already decides that")
    args.method = args.method or "char"
    for flag in sum(OF_METHOD.values(), ()):
        methods = [method for method, flags in OF_METHOD.items() if flag in flags]
        decided = args.reuse_vocab_of or args.tokenizer_of
        if getattr(args, flag) is not None and (args.method not in methods or decided):
            parser.error(f"--{flag} needs --method {' or '.join(methods)}")
    if args.method == "custom" and not args.tokens_file:
        parser.error("--method custom needs --tokens_file")
    args.percentage_train = 0.9 if args.percentage_train is None else args.percentage_train


def read_inputs(args):
    """(text, val_text or None), which can be read several times. See inputs.py."""
    stated = {flag: getattr(args, flag) for flag in OF_TEXT}
    paths = args.train_input, args.val_input
    args.inputs = [names and open_inputs(names, **stated) for names in paths]
    return args.inputs


def tokenizer_of(args, text, val_text):
    """The tokenizer that the flags ask for; char, bpe and sentencepiece are made from the text."""
    tokenizer = _tokenizer_of(args, text, val_text)
    if not args.chat_layout:
        return tokenizer
    return with_markers_of(layout_named(args.chat_layout), tokenizer)


def _tokenizer_of(args, text, val_text):
    text = checked_text(text, val_text)
    if args.reuse_vocab_of:
        return tokenizer_from_meta(read_meta(dataset_folder(args.reuse_vocab_of)))
    if args.tokenizer_of:
        return ModelFiles(args.tokenizer_of).tokenizer()
    texts = [text] if val_text is None else [text, val_text]
    of_text = args.method in ("char", "bpe", "sentencepiece") and not args.spm_model_file
    if of_text and (ids := [given.name for given in texts if isinstance(given, Ids)]):
        raise UserError(f"{ids[0]} holds ids, and --method {args.method} needs a text. Say whose "
                        "ids they are: --method tiktoken, or --reuse_vocab_of")
    if args.method in ("bpe", "sentencepiece") and iter(text) is text:
        raise UserError("a generator can be read only once, and the tokens are made from the text "
                        "first. Give a list: text = [... for t in text]")
    flags = OF_METHOD.get(args.method, ())
    choices = {flag: value for flag in flags if (value := getattr(args, flag)) is not None}
    end = "\n" if args.document_end is None else args.document_end
    train = train_text(text, val_text, args.percentage_train, args.split_seed)
    return make_tokenizer(args.method, *texts, train_text=train, document_end=end, **choices)


def write_options(args):
    """The keyword arguments of write_dataset() that the flags stand for."""
    names = "percentage_train split_seed document_end num_workers dask inputs".split()
    options = {name: getattr(args, name) for name in names if name in args}
    if args.chat_layout:
        options["more"] = {"chat_layout": args.chat_layout}
    return {**options, "end_of_text": not args.no_end_of_text}
