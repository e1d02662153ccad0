"""
FineWeb: 10 billion GPT-2 tokens of web pages, downloaded as tokens.

$ bash data/fineweb10B/get_dataset.sh --max_shards 9   # 900 million tokens
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import (
    Shards,
    TiktokenTokenizer,
    dataset_parser,
    hub_dataset,
    one_line_errors,
    write_dataset,
)


def main():
    args = dataset_parser(__doc__, tokenizer=None, shards=True).parse_args()
    files = hub_dataset(HERE, args, "kjj0/fineweb10B-gpt2", train="fineweb_train_*.bin",
                val="fineweb_val_*.bin")
    write_dataset(HERE, Shards(files.train), TiktokenTokenizer("gpt2"), val_text=Shards(files.val),
                  source=files.source)


if __name__ == "__main__":
    with one_line_errors():
        main()
