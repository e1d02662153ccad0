"""
OPUS-100: sentences in English and one of 99 languages, in pairs, as GPT-2 tokens.

$ bash data/opus-100/get_dataset.sh                                       # English, then French
$ bash data/opus-100/get_dataset.sh --pair es-en --tokenizer o200k_base   # Spanish, then English
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import dataset_parser, hub_dataset, one_line_errors, write_rows


def main():
    parser = dataset_parser(__doc__, rows=True)
    parser.add_argument("--pair", default="en-fr",
                        help="two languages, first-second, one of them en (default: en-fr)")
    args = parser.parse_args()
    languages = args.pair.split("-")
    if languages.count("en") != 1 or len(languages) != 2:
        parser.error(f"--pair is {args.pair!r}, but must be like en-fr, with en on one side")
    pair = "-".join(sorted(languages))  # the hub has one folder for both directions
    files = hub_dataset(HERE, args, "Helsinki-NLP/opus-100", train=f"{pair}/train-*",
                val=f"{pair}/validation-*")

    def text(row):
        return "\n".join(row["translation"][language].replace("\n", " ") for language in languages)
    write_rows(HERE, args, files, text)


if __name__ == "__main__":
    with one_line_errors():
        main()
