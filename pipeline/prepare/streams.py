"""Aligned streams made of a text, one symbol a character, to train on beside the text itself.

    prepare_stream(folder, doc, name, text_of)   everything that a stream's prepare.py does
    write_stream(folder, name, text_of)          data/<text_of>, prepared by characters -> folder

The maps are defined in pipeline/read/streams.py, where sample.py finds them too: cvp,
in_word_position, since_newline. They are causal: a symbol depends on its character and those
before it. An alphabet is always complete, whatever the text contains of it, so that ids mean the
same in every folder.
"""
import subprocess
import sys

from pipeline.errors import UserError
from pipeline.prepare.combine import write_ids
from pipeline.prepare.recipes import dataset_parser
from pipeline.read.folder import dataset_folder, open_dataset
from pipeline.read.streams import StreamMap
from pipeline.tokenizers import CharTokenizer, tokenizer_from_meta


def prepare_stream(folder, doc, name, text_of):
    """Everything that a stream's prepare.py does; it prepares the text first if need be."""
    dataset_parser(doc, tokenizer=None, download=False).parse_args()
    ensure_prepared(text_of)
    write_stream(folder, name, text_of)


def ensure_prepared(name):
    """Run the prepare.py of data/<name> if there is no meta.pkl."""
    folder = dataset_folder(name)
    if not (folder / "meta.pkl").exists() and (folder / "prepare.py").exists():
        if status := subprocess.run([sys.executable, folder / "prepare.py"]).returncode:
            sys.exit(status)  # prepare.py has printed the reason


def write_stream(folder, name, text_of):
    """Write the stream `name` of the prepared data/<text_of> into folder; both splits keep length.

    The key `stream` of meta.pkl holds the map's and the text's name and the hashes of the text's
    bins. Raises UserError unless the text's tokens are characters.
    """
    text, tokenizer = open_characters(text_of)
    stream = StreamMap(name, tokenizer.chars)
    # val continues where train ends, unless the text was split by documents
    continues = text.meta.get("split_rule", "characters") == "characters"
    begin = {"train": 0, "val": 0}

    def arrays(split):  # train is read before val
        position = begin[split]
        for ids in text.chunks(split):
            symbols, position = stream(ids, position)
            yield symbols
        if split == "train" and continues:
            begin["val"] = position

    return write_symbols(folder, text, stream.alphabet, arrays, {"map": name}, what=name)


def open_characters(name):
    """(Dataset, CharTokenizer) of data/<name>. UserError if its tokens are not characters."""
    dataset = open_dataset(name)
    tokenizer = tokenizer_from_meta(dataset.meta)
    if not isinstance(tokenizer, CharTokenizer):
        raise UserError(f"{dataset.folder} has {dataset.meta.get('tokenizer')} tokens, and a "
                        f"stream needs characters. Prepare it with --method char")
    return dataset, tokenizer


def write_symbols(folder, text, alphabet, arrays, stream, what):
    """Write a stream of the Dataset `text` into folder; returns its meta dict.

    alphabet: the symbols. arrays(split): arrays of their ids, one id for each character of text.
    stream: how it was made, for the key of that name in meta.pkl. what: the same in words.
    """
    stream = {**stream, "text": text.name, "text_sha256": text.fingerprint()}
    source = f"{what} of {text.name} ({text.meta.get('source', 'unknown')})"
    return write_ids(folder, [text], arrays, CharTokenizer(alphabet), what, itemsize=1,
                     source=source, more={"stream": stream})
