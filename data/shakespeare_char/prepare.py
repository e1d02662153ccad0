"""
Tiny Shakespeare, one token a character. input.txt -> train.bin, val.bin, meta.pkl, beside this file.

$ bash data/shakespeare_char/get_dataset.sh
shakespeare_char: train 1,003,854 tokens, val 111,540 tokens, vocab_size 65 (TinyShakespeare, ...)
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports from any directory
from data.dataset import write_dataset
from data.errors import one_line_errors
from data.tinyshakespeare import tinyshakespeare
from data.tokenizer import CharTokenizer


def main():
    text, source = tinyshakespeare(HERE, __doc__)
    write_dataset(HERE, text, CharTokenizer.from_text(text), percentage_train=0.9, source=source)


if __name__ == "__main__":
    with one_line_errors():
        main()
