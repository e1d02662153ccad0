"""
enwik8: the first 100,000,000 bytes of English Wikipedia, by bytes. Also what data/text8 does.

$ bash data/enwik8/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import arguments, one_line_errors, tokenizer_for, unpack, web, write_dataset

ZIP = ("https://mattmahoney.net/dc/enwik8.zip", 36_445_475,
       "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc")


def cut(raw, percent):
    """Where that share of the bytes ends, or up to three earlier: no character is cut through."""
    at = len(raw) * percent // 100
    while raw[at] & 0xC0 == 0x80:  # inside a character of UTF-8
        at -= 1
    return at


def hutter(folder, doc, archive, tokenizer):
    """archive: (address, bytes, sha256) of a zip; the first 90% are train, the next 5% val."""
    args = arguments(doc, tokenizer=tokenizer).parse_args()
    [path] = web(folder, args, archive)
    raw = (unpack(path, path.with_suffix("")) / path.stem).read_bytes()
    train, val = raw[:cut(raw, 90)].decode(), raw[cut(raw, 90):cut(raw, 95)].decode()
    write_dataset(folder, train, tokenizer_for(args, train, val), val_text=val, source=archive[0])


def main():
    hutter(HERE, __doc__, ZIP, "byte")


if __name__ == "__main__":
    with one_line_errors():
        main()
