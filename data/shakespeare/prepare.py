"""
Tiny Shakespeare as GPT-2 tokens. input.txt -> train.bin, val.bin, meta.pkl.

$ bash data/shakespeare/get_dataset.sh
shakespeare: train 301,966 tokens, val 36,059 tokens, vocab_size 50,257 (TinyShakespeare, ...)
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from data.shakespeare_char.sources import tinyshakespeare
from pipeline.prepare import TiktokenTokenizer, one_line_errors, write_dataset


def main():
    text, source = tinyshakespeare(HERE, __doc__)
    write_dataset(HERE, text, TiktokenTokenizer("gpt2"), percentage_train=0.9, source=source)


if __name__ == "__main__":
    with one_line_errors():
        main()
