"""
The stream part_of_speech of shakespeare_char: the part of speech of each word. -> train.bin, val.bin, meta.pkl, beside this file.

$ python data/shakespeare_char_part_of_speech/prepare.py
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
