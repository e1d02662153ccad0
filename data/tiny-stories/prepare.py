"""
TinyStories: two million short stories in a small child's words, as GPT-2 tokens.

$ bash data/tiny-stories/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def main():
    prepare(HERE, __doc__, "roneneldan/TinyStories", train="data/train-*", val="data/validation-*")


if __name__ == "__main__":
    with one_line_errors():
        main()
