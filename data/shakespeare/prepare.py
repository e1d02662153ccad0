"""
Tiny Shakespeare, as GPT-2 tokens. input.txt -> train.bin, val.bin, meta.pkl, beside this file.

$ bash data/shakespeare/get_dataset.sh
shakespeare: train 301,966 tokens, val 36,059 tokens, vocab_size 50,257 (TinyShakespeare, ...)
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports from any directory
from data.dataset import write_dataset
from data.errors import one_line_errors
from data.tinyshakespeare import tinyshakespeare
from data.tokenizer import TiktokenTokenizer


def main():
    text, source = tinyshakespeare(HERE, __doc__)
    write_dataset(HERE, text, TiktokenTokenizer("gpt2"), percentage_train=0.9, source=source)


if __name__ == "__main__":
    with one_line_errors():
        main()
