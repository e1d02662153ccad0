"""
Tiny Shakespeare, one token a character. input.txt -> train.bin, val.bin, meta.pkl.

$ bash data/shakespeare_char/get_dataset.sh
shakespeare_char: train 1,003,854 tokens, val 111,540 tokens, vocab_size 65 (TinyShakespeare, ...)
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from data.shakespeare_char.sources import tinyshakespeare
from pipeline.prepare import CharTokenizer, one_line_errors, write_dataset


def main():
    text, source = tinyshakespeare(HERE, __doc__)
    write_dataset(HERE, text, CharTokenizer.from_text(text), percentage_train=0.9, source=source)


if __name__ == "__main__":
    with one_line_errors():
        main()
