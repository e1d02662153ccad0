"""
CNN/Daily Mail: news articles with their highlights, as GPT-2 tokens.

$ bash data/cnn_dailymail/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def main():
    prepare(HERE, __doc__, "abisee/cnn_dailymail", train="3.0.0/train-*", val="3.0.0/validation-*",
            text="text: {article}\nsummary: {highlights}")


if __name__ == "__main__":
    with one_line_errors():
        main()
