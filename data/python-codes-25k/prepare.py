"""
Python codes 25k: tasks and the Python code that solves them, as GPT-2 tokens.

$ bash data/python-codes-25k/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def text(row):
    answer = "\n".join(part for part in (row["input"], row["output"]) if part)
    asked = f"#U:\n{row['instruction']}\n#B:" + "\n" * bool(answer)
    return [(asked, False), (answer, True)]  # True: it is learned


def main():
    prepare(HERE, __doc__, "flytech/python-codes-25k", train="python-codes-25k.jsonl", text=text,
            answers=True, percentage_train=0.95)


if __name__ == "__main__":
    with one_line_errors():
        main()
