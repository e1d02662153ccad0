"""
An aligned stream of shakespeare_char: the part of speech of each word.

$ bash data/shakespeare_char_part_of_speech/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors
from pipeline.prepare.part_of_speech import prepare_part_of_speech


def main():
    prepare_part_of_speech(HERE, __doc__, text_of="shakespeare_char")


if __name__ == "__main__":
    with one_line_errors():
        main()
