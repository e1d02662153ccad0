"""The command line that the template's prepare.py has, and what its flags say: the inputs and the tokenizer.

    args = parse_args(__doc__, HERE)
    text, val_text = inputs(args)
    tokenizer = tokenizer_of(args, text, val_text)
    write_dataset(HERE, text, tokenizer, val_text=val_text, **writing(args))
"""
import argparse

from pipeline.errors import Parser, UserError, typed
from pipeline.prepare.contents import FORMATS
from pipeline.prepare.encode import check_text, cores, one_text, train_pieces
from pipeline.prepare.inputs import Ids, open_inputs
from pipeline.prepare.make_tokenizer import METHODS, make_tokenizer
from pipeline.read.folder import dataset_folder, read_meta
from pipeline.tokenizers import tokenizer_from_meta

ONLY_WITH = {  # flag: the methods that read it
    "tiktoken_encoding": ("tiktoken",), "additional_tokens_file": ("tiktoken",), "backend": ("tiktoken", "bpe"),
    "tokens_file": ("custom",), "byte_fallback": ("custom",), "vocab_size": ("bpe", "sentencepiece"),
    "spm_model_file": ("sentencepiece",)}


def parse_args(doc, here, argv=None):
    """The flags. doc: for --help; here: the dataset's folder, where input.txt is. Raises UserError for flags that clash."""
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("the text")
    group.add_argument("-t", "--train_input", nargs="+", default=[here / "input.txt"], help="files or globs: text, .jsonl, "
                       ".json, .csv, .tsv, .parquet, each plain or .gz, .zst, .xz, .bz2; - for standard input; .bin "
                       "shards of llm.c (default: input.txt)")
    group.add_argument("-v", "--val_input", nargs="+", help="the same for validation; then all of --train_input is train")
    group.add_argument("-p", "--percentage_train", type=float, help="share of the text for train (default: 0.9)")
    group.add_argument("--split_seed", type=int, default=0, help="which documents go to val (default: 0)")
    group.add_argument("--format", choices=FORMATS, help="what the files hold (default: by their names and contents)")
    group.add_argument("--encoding", help="how the text is encoded: cp1252, utf-16-le, shift_jis, ... (default: utf-8)")
    group.add_argument("--quoting", choices=["csv", "none", "backslash"], help=".csv and .tsv: quotes hold a cell "
                       "together (csv, the default for .csv), or are text (none, the default for .tsv); backslash: a "
                       "backslash stands before what is text, as databases write it")
    group.add_argument("--delimiter", type=typed, help="what stands between the cells of .csv and .tsv: ';' (default: a "
                       "comma, a tab)")
    group.add_argument("--columns", type=lambda names: names.split(","), help=".csv and .tsv without a first line that "
                       "names the columns: their names, as id,language,text", metavar="NAMES")
    group.add_argument("--text_template", type=typed, help='a row -> its text: "Q: {question}\\nA: {answer}" (default: "{text}")')
    group.add_argument("--max_bad_rows", type=int, default=0, help="rows that may be left out (default: 0)")
    group.add_argument("--no_end_of_text", action="store_true", help="do not end documents with <|endoftext|>")
    group.add_argument("--document_end", type=typed, metavar="TEXT", help="text that ends each document which lacks it "
                       "(default: \\n where <|endoftext|> does not end it, else nothing)")
    group = parser.add_argument_group("the tokenizer")
    group.add_argument("--method", choices=METHODS, help="what a token is (default: char)")
    group.add_argument("-e", "--tiktoken_encoding", help="gpt2, cl100k_base, o200k_base, ... (default: gpt2)")
    group.add_argument("--additional_tokens_file", help="tiktoken: JSON, more tokens and their ids: {\"<|user|>\": 50257}")
    group.add_argument("--backend", choices=["auto", "tiktoken", "gigatoken"], help="tiktoken, bpe: who encodes; the ids "
                       "are the same (default: auto, gigatoken where it is installed)")
    group.add_argument("--tokens_file", help="custom: the tokens, one a line, or a JSON list")
    group.add_argument("--byte_fallback", action="store_true", default=None, help="custom: bytes for what no token covers")
    group.add_argument("--vocab_size", type=int, help="bpe, sentencepiece: ids to train (default: 4096)")
    group.add_argument("--spm_model_file", help="sentencepiece: a model to take instead of training one")
    group.add_argument("--reuse_vocab_of", metavar="DATASET", help="the tokenizer of a prepared dataset, data/x")
    group = parser.add_argument_group("the work")
    group.add_argument("--num_workers", type=int, help=f"(default: one a core, here {cores()}; char and byte need none)")
    group.add_argument("--dask", metavar="ADDRESS", help="encode on the workers of a dask scheduler: tcp://host:8786")
    args = parser.parse_args(argv)
    _refuse_unread(parser, args)
    if args.num_workers is not None and args.num_workers < 1:
        parser.error(f"--num_workers is {args.num_workers}; it must be 1 or more")
    if args.vocab_size is not None and not 0 < args.vocab_size < 2**31:
        parser.error(f"--vocab_size is {args.vocab_size}; it must be from 1 to 2**31 - 1")
    if args.max_bad_rows < 0:
        parser.error(f"--max_bad_rows is {args.max_bad_rows}; it must be 0 or more")
    if not 0 <= args.split_seed < 2**64:
        parser.error(f"--split_seed is {args.split_seed}; it must be from 0 to 2**64 - 1")
    return args


def _refuse_unread(parser, args):
    """A flag that would do nothing is an error."""
    if args.reuse_vocab_of and args.method:
        parser.error("--method does nothing beside --reuse_vocab_of")
    args.method = args.method or "char"
    for flag, methods in ONLY_WITH.items():
        if getattr(args, flag) is not None and (args.method not in methods or args.reuse_vocab_of):
            short = "-e/" if flag == "tiktoken_encoding" else ""
            parser.error(f"{short}--{flag} goes with --method {' or '.join(methods)}")
    if args.method == "custom" and not args.tokens_file:
        parser.error("--method custom needs --tokens_file")
    if args.spm_model_file and args.vocab_size:
        parser.error("--vocab_size does nothing beside --spm_model_file")
    if args.percentage_train is not None and args.val_input:
        parser.error("-p/--percentage_train does nothing beside -v/--val_input: all of --train_input is train then")
    args.percentage_train = 0.9 if args.percentage_train is None else args.percentage_train


def inputs(args):
    """(text, val_text or None), to be read as often as needed. See inputs.py."""
    how = {flag: getattr(args, flag) for flag in ("text_template", "max_bad_rows", "format", "encoding", "quoting",
                                                  "delimiter", "columns")}
    args.inputs = [open_inputs(paths, **how) for paths in (args.train_input, args.val_input) if paths]
    return args.inputs[0], args.inputs[1] if args.val_input else None


def tokenizer_of(args, text, val_text):
    """The tokenizer that the flags ask for."""
    check_text(text, val_text)
    if args.reuse_vocab_of:
        return tokenizer_from_meta(read_meta(dataset_folder(args.reuse_vocab_of)))
    of_text = args.method in ("char", "bpe", "sentencepiece") and not args.spm_model_file
    if of_text and (ids := [part.name for part in (text, val_text) if isinstance(part, Ids)]):
        raise UserError(f"{ids[0]} holds ids, and --method {args.method} takes its vocabulary from a text. Say whose "
                        f"ids they are: --method tiktoken, or --reuse_vocab_of")
    if args.method in ("bpe", "sentencepiece") and iter(text) is text:
        raise UserError("a generator can be read only once, and the tokens must be known before the text is written. Give "
                        "a list: text = [... for t in text]")
    choices = {flag: getattr(args, flag) for flag in ONLY_WITH if getattr(args, flag) is not None}
    end = "\n" if args.document_end is None else args.document_end
    train_text = train_pieces(text, val_text, args.percentage_train, args.split_seed)
    texts = [one_text(text, val_text), *([val_text] if val_text is not None else [])]
    return make_tokenizer(args.method, *texts, train_text=train_text, document_end=end, **choices)


def writing(args):
    """The arguments of write_dataset()."""
    return dict(percentage_train=args.percentage_train, split_seed=args.split_seed,
                end_of_text=not args.no_end_of_text, document_end=args.document_end,
                inputs=getattr(args, "inputs", ()), num_workers=args.num_workers, dask=args.dask)
