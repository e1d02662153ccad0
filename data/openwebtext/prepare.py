"""
OpenWebText: 8 million web pages that Reddit linked to, as GPT-2 tokens.

$ bash data/openwebtext/get_dataset.sh                  # 24 GB, then 17 GB of tokens
$ bash data/openwebtext/get_dataset.sh --max_shards 1   # a part in 80
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def main():
    prepare(HERE, __doc__, "Skylion007/openwebtext", train="*train-*.parquet",
            percentage_train=0.9995)


if __name__ == "__main__":
    with one_line_errors():
        main()
