"""
FineWeb, 10 billion tokens of it, as GPT-2's tokens that others have made.

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
    arguments,
    hub,
    one_line_errors,
    write_dataset,
)


def main():
    args = arguments(__doc__, tokenizer=None, shards=True).parse_args()
    files = hub(HERE, args, "kjj0/fineweb10B-gpt2", train="fineweb_train_*.bin",
                val="fineweb_val_*.bin")
    write_dataset(HERE, Shards(files.train), TiktokenTokenizer("gpt2"), val_text=Shards(files.val),
                  source=files.source)


if __name__ == "__main__":
    with one_line_errors():
        main()
