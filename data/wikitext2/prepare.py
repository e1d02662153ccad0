"""
WikiText-2: the small sister of WikiText-103, as GPT-2 tokens.

$ bash data/wikitext2/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from data.wikitext103.prepare import wikitext
from pipeline.prepare import one_line_errors


def main():
    wikitext(HERE, __doc__, "wikitext-2-raw-v1")


if __name__ == "__main__":
    with one_line_errors():
        main()
