"""
MiniPile: a million documents of all kinds from The Pile, as GPT-2 tokens.

$ bash data/minipile/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def main():
    prepare(HERE, __doc__, "JeanKaddour/minipile", train="data/train-*", val="data/validation-*")


if __name__ == "__main__":
    with one_line_errors():
        main()
