"""
An aligned stream of shakespeare_char: the position of each character in its line.

$ bash data/shakespeare_char_since_newline/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare_stream


def main():
    prepare_stream(HERE, __doc__, "since_newline", text_of="shakespeare_char")


if __name__ == "__main__":
    with one_line_errors():
        main()
