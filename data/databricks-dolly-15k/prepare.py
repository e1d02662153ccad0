"""
Dolly 15k: instructions and answers written by people, as GPT-2 tokens.

$ bash data/databricks-dolly-15k/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def text(row):
    asked = "\n".join(part for part in (row["context"], row["instruction"]) if part)
    return [(f"#U:\n{asked}\n#B:\n", False), (row["response"], True)]  # True: it is learned


def main():
    prepare(HERE, __doc__, "databricks/databricks-dolly-15k", train="databricks-dolly-15k.jsonl",
            text=text, answers=True, percentage_train=0.95)


if __name__ == "__main__":
    with one_line_errors():
        main()
