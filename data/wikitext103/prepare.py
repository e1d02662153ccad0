"""
WikiText-103: articles of English Wikipedia, by GPT-2's tokens. Also what data/wikitext2 does.

$ bash data/wikitext103/get_dataset.sh
"""
import os
import re
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import arguments, hub, one_line_errors, read_documents, write_documents


def articles(paths):
    """The articles, each from ` = Title = ` on; joined, they are the authors' .raw files."""
    lines = []  # a row is a line; the hub has emptied lines of one space
    for line in read_documents(paths, text_template=lambda row: row["text"] or " \n"):
        heading = re.fullmatch(r" = (?!=).*(?<!=) = \n", line)
        if heading and "".join(lines).strip() and lines[-1] == " \n":
            yield "".join(lines)
            lines = []
        lines.append(line)
    yield "".join(lines)


def wikitext(folder, doc, config):
    args = arguments(doc, shards=True).parse_args()
    files = hub(folder, args, "Salesforce/wikitext", train=f"{config}/train-*",
                val=f"{config}/validation-*")
    write_documents(folder, args, articles, files)


def main():
    wikitext(HERE, __doc__, "wikitext-103-raw-v1")


if __name__ == "__main__":
    with one_line_errors():
        main()
