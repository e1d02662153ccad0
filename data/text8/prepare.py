"""
text8: 100,000,000 letters and spaces of English Wikipedia, one token a character.

$ bash data/text8/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from data.enwik8.prepare import hutter
from pipeline.prepare import one_line_errors

ZIP = ("https://mattmahoney.net/dc/text8.zip", 31_344_016,
       "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232")


def main():
    hutter(HERE, __doc__, ZIP, "char")


if __name__ == "__main__":
    with one_line_errors():
        main()
