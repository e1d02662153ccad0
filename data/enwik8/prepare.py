"""
enwik8: the first 100,000,000 bytes of English Wikipedia, one token a byte.

$ bash data/enwik8/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import (
    chosen_tokenizer,
    dataset_parser,
    one_line_errors,
    unpack,
    web_files,
    write_dataset,
)

ZIP = ("https://mattmahoney.net/dc/enwik8.zip", 36_445_475,
       "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc")


def cut(raw, percent):
    """The offset of that percentage of the bytes, at most three less: no character is cut."""
    at = len(raw) * percent // 100
    while raw[at] & 0xC0 == 0x80:  # a byte within a character of UTF-8
        at -= 1
    return at


def hutter(folder, doc, archive, tokenizer):
    """Write enwik8 or text8. archive: its zip; the first 90% are train, the next 5% val."""
    args = dataset_parser(doc, tokenizer=tokenizer).parse_args()
    [path] = web_files(folder, args, archive)
    raw = (unpack(path, path.with_suffix("")) / path.stem).read_bytes()
    train, val = raw[:cut(raw, 90)].decode(), raw[cut(raw, 90):cut(raw, 95)].decode()
    tokenizer = chosen_tokenizer(args, train, val)
    write_dataset(folder, train, tokenizer, val_text=val, source=archive[0])


def main():
    hutter(HERE, __doc__, ZIP, "byte")


if __name__ == "__main__":
    with one_line_errors():
        main()
