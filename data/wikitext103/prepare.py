"""
WikiText-103: articles of English Wikipedia, as GPT-2 tokens.

$ bash data/wikitext103/get_dataset.sh
"""
import os
import re
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import (
    dataset_parser,
    hub_dataset,
    one_line_errors,
    read_documents,
    write_documents,
)


def articles(paths):
    """The articles, each from ` = Title = ` on. Joined, they equal the authors' .raw files."""
    lines = []  # each row is a line; the hub's copy has "" for lines of one space
    for line in read_documents(paths, text_template=lambda row: row["text"] or " \n"):
        heading = re.fullmatch(r" = (?!=).*(?<!=) = \n", line)
        if heading and "".join(lines).strip() and lines[-1] == " \n":
            yield "".join(lines)
            lines = []
        lines.append(line)
    yield "".join(lines)


def wikitext(folder, doc, config):
    """Write WikiText-103 or WikiText-2."""
    args = dataset_parser(doc, shards=True).parse_args()
    files = hub_dataset(folder, args, "Salesforce/wikitext", train=f"{config}/train-*",
                val=f"{config}/validation-*")
    write_documents(folder, args, articles, files)


def main():
    wikitext(HERE, __doc__, "wikitext-103-raw-v1")


if __name__ == "__main__":
    with one_line_errors():
        main()
