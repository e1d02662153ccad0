"""
XSum: texts and their summaries, by GPT-2's tokens.

$ bash data/xsum/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports from any directory
from data.catalogue import prepare
from data.errors import one_line_errors


def main():
    prepare(HERE, __doc__, "EdinburghNLP/xsum", revision="refs/convert/parquet",
            train="default/train/*.parquet", val="default/validation/*.parquet",
            text="text: {document}\nsummary: {summary}")


if __name__ == "__main__":
    with one_line_errors():
        main()
