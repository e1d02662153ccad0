"""
SmolTalk: a million conversations with an assistant, as GPT-2 tokens.

$ bash data/smoltalk/get_dataset.sh
$ bash data/smoltalk/get_dataset.sh --subset smol-summarize
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import dataset_parser, hub_dataset, one_line_errors, write_rows


def main():
    parser = dataset_parser(__doc__, rows=True, chats=True)
    parser.add_argument("--subset", default="all", help="all, smol-summarize, ... (default: all)")
    args = parser.parse_args()
    files = hub_dataset(HERE, args, "HuggingFaceTB/smoltalk",
                        train=f"data/{args.subset}/train-*", val=f"data/{args.subset}/test-*")
    write_rows(HERE, args, files)


if __name__ == "__main__":
    with one_line_errors():
        main()
