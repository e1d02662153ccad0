"""
The stream part_of_speech of shakespeare_char: the part of speech of each word. -> train.bin, val.bin, meta.pkl, beside this file.

$ python data/shakespeare_char_part_of_speech/prepare.py
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports from any directory
from data.errors import one_line_errors
from data.part_of_speech import prepare_part_of_speech


def main():
    prepare_part_of_speech(HERE, __doc__, text_of="shakespeare_char")


if __name__ == "__main__":
    with one_line_errors():
        main()
