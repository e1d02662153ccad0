"""
GSM8K: problems of school mathematics with worked answers, as GPT-2 tokens.

$ bash data/gsm8k/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def main():
    prepare(HERE, __doc__, "openai/gsm8k", train="main/train-*", val="main/test-*",
            text="#U:\n{question}\n#B:\n{answer}", learn=["answer"])


if __name__ == "__main__":
    with one_line_errors():
        main()
