"""
FineWeb-Edu: 100 billion tokens of educational web pages, shuffled, as GPT-2 tokens.

$ bash data/fineweb-edu/get_dataset.sh --max_shards 8   # 440 million tokens of it
$ bash data/fineweb-edu/get_dataset.sh --yes            # all of it, 180 GB
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def main():
    prepare(HERE, __doc__, "karpathy/fineweb-edu-100b-shuffle", train="shard_*.parquet",
            val="shard_01822.parquet")


if __name__ == "__main__":
    with one_line_errors():
        main()
