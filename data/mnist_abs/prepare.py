"""
An aligned stream of mnist: the picture's cell, one of a hundred, that each character is in.

$ bash data/mnist_abs/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from data.mnist.prepare import stream
from pipeline.prepare import one_line_errors


def main():
    stream(HERE, __doc__, "abs")


if __name__ == "__main__":
    with one_line_errors():
        main()
