"""
Cosmopedia-100k: synthetic textbooks, each after its prompt, as GPT-2 tokens.

$ bash data/cosmopedia_100k/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def main():
    prepare(HERE, __doc__, "HuggingFaceTB/cosmopedia-100k", train="data/train-*",
            text="#U:\n{prompt}\n#B:\n{text}")


if __name__ == "__main__":
    with one_line_errors():
        main()
