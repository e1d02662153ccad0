"""Streams made of a text, one symbol a character: what a model can be trained on beside the text itself.

    cvp               consonant 3, vowel 2, punctuation 1, anything else _
    in_word_position  1, 2, 3, ... along a run of characters that are no blanks; _ for a blank
    since_newline     1, 2, 3, ... along a line; _ for a blank, a newline stays
    StreamMap(name, chars)                 a text's ids -> the stream's, at once or a character at a time
    write_stream(folder, name, text_of)    data/<text_of>, a prepared folder of characters, -> the folder of a stream
    prepare_stream(folder, doc, name, text_of)    the same for a prepare.py

These three are causal: the symbol of a character depends on it and those before it alone. After 64 positions the count
begins again. The alphabets are whole, whatever the text has of them, so ids mean the same in every folder. The parts of
speech (part_of_speech.py) are no function of the text so far; they are written by write_symbols() too.
"""
import subprocess
import sys

from pipeline.errors import UserError
from pipeline.prepare.inputs import Ids
from pipeline.prepare.recipes import arguments
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import dataset_folder, open_dataset
from pipeline.read.streams import StreamMap
from pipeline.tokenizers import CharTokenizer, tokenizer_from_meta


def prepare_stream(folder, doc, name, text_of):
    """All of a stream's prepare.py: no flags, and a text that is not prepared yet is got first, by its own prepare.py."""
    arguments(doc, tokenizer=None, download=False).parse_args()
    get_text(text_of)
    write_stream(folder, name, text_of)


def get_text(name):
    """Have data/<name> prepared, by its own prepare.py, where it is not."""
    folder = dataset_folder(name)
    if not (folder / "meta.pkl").exists() and (folder / "prepare.py").exists():
        if status := subprocess.run([sys.executable, folder / "prepare.py"]).returncode:
            sys.exit(status)  # it has said why


def write_stream(folder, name, text_of):
    """Write the stream `name` of the prepared data/<text_of> into folder, as long as that text in both splits.

    The key `stream` of its meta.pkl holds the map's name, the text's and the hashes of the text's bins. Raises
    UserError unless the text's tokens are characters.
    """
    text, tokenizer = open_text(text_of)
    stream = StreamMap(name, tokenizer.chars)
    goes_on = text.meta.get("split_rule", "characters") == "characters"  # val where train ends
    begin = {"train": 0, "val": 0}

    def arrays(split):  # train is read before val
        position = begin[split]
        for ids in text.chunks(split):
            symbols, position = stream(ids, position)
            yield symbols
        if split == "train" and goes_on:
            begin["val"] = position

    return write_symbols(folder, text, stream.alphabet, arrays, {"map": name}, what=name)


def open_text(name):
    """(Dataset, CharTokenizer) of data/<name>. Raises UserError where its tokens are no characters."""
    dataset = open_dataset(name)
    tokenizer = tokenizer_from_meta(dataset.meta)
    if not isinstance(tokenizer, CharTokenizer):
        raise UserError(f"{dataset.folder} has {dataset.meta.get('tokenizer')} tokens; streams are made of characters. "
                        f"Prepare it with --method char")
    return dataset, tokenizer


def write_symbols(folder, text, alphabet, arrays, stream, what):
    """Write a stream of the Dataset `text` into folder; returns its meta dict.

    alphabet: a sequence of symbols. arrays(split): arrays of their ids, one for each character. stream: what meta.pkl
    says of it beside the text. what: the same for the reader.
    """
    splits = text.meta.get("splits", {})
    train, val = (Ids(lambda split=split: arrays(split), size=text.num_tokens[split], name=what,
                      documents=splits.get(split, {}).get("documents")) for split in ("train", "val"))
    made_of = {"text": text.name, "text_sha256": text.fingerprint()}
    return write_dataset(folder, train, CharTokenizer(alphabet), val_text=val, num_workers=1,
                         source=f"{what} of {text.name} ({text.meta.get('source', 'unknown')})",
                         more={"stream": {**stream, **made_of}})
