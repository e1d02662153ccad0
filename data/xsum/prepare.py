"""
XSum: BBC articles with summaries of one sentence, as GPT-2 tokens.

$ bash data/xsum/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def main():
    prepare(HERE, __doc__, "EdinburghNLP/xsum", revision="refs/convert/parquet",
            train="default/train/*.parquet", val="default/validation/*.parquet",
            text="text: {document}\nsummary: {summary}")


if __name__ == "__main__":
    with one_line_errors():
        main()
