"""
SmolLM's corpus: synthetic textbooks (Cosmopedia v2) or FineWeb-Edu, as GPT-2 tokens.

$ bash data/smollm-corpus/get_dataset.sh --max_shards 2
$ bash data/smollm-corpus/get_dataset.sh --subset fineweb-edu-dedup --max_shards 2
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import dataset_parser, hub_dataset, one_line_errors, write_rows


def main():
    parser = dataset_parser(__doc__, rows=True)
    parser.add_argument("--subset", choices=["cosmopedia-v2", "fineweb-edu-dedup"],
                        default="cosmopedia-v2", help="default: cosmopedia-v2")
    args = parser.parse_args()
    files = hub_dataset(HERE, args, "HuggingFaceTB/smollm-corpus", train=f"{args.subset}/train-*")
    write_rows(HERE, args, files, percentage_train=0.999)


if __name__ == "__main__":
    with one_line_errors():
        main()
