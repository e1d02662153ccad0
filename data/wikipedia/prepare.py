"""
Wikipedia in a language of your choice, of November 2023, as GPT-2 tokens.

$ bash data/wikipedia/get_dataset.sh                                              # Simple English
$ bash data/wikipedia/get_dataset.sh --language fr --tokenizer o200k_base         # French
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import dataset_parser, hub_dataset, one_line_errors, write_rows


def main():
    parser = dataset_parser(__doc__, rows=True)
    parser.add_argument("--language", default="simple",
                        help="as in its web address: en, fr, ... (default: simple)")
    args = parser.parse_args()
    pattern = f"20231101.{args.language}/train-*"
    files = hub_dataset(HERE, args, "wikimedia/wikipedia", train=pattern)
    write_rows(HERE, args, files, "{title}\n{text}")


if __name__ == "__main__":
    with one_line_errors():
        main()
