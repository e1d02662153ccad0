"""
MMLU: multiple-choice questions in 57 subjects, as GPT-2 tokens.

$ bash data/mmlu/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import one_line_errors, prepare


def text(row):
    row = row.get("train") or row  # in some versions, a row lies within another
    lines = [f"Question: {row['question']}",
             *(f"Choice {i}: {choice}" for i, choice in enumerate(row["choices"], 1)),
             "Correct Answer:"]
    answer = f" Choice {row['answer'] + 1}: {row['choices'][row['answer']]}"
    return [("\n".join(lines), False), (answer, True)]  # True: it is learned


def main():
    prepare(HERE, __doc__, "cais/mmlu", train="all/auxiliary_train-*", val="all/validation-*",
            text=text, answers=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
