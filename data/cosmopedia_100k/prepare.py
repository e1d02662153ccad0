"""
Cosmopedia-100k: synthetic textbooks, each with the prompt that asked for it, by GPT-2's tokens.

$ bash data/cosmopedia_100k/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports from any directory
from data.catalogue import prepare
from data.errors import one_line_errors


def main():
    prepare(HERE, __doc__, "HuggingFaceTB/cosmopedia-100k", train="data/train-*",
            text="#U:\n{prompt}\n#B:\n{text}")


if __name__ == "__main__":
    with one_line_errors():
        main()
