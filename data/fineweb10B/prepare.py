"""
FineWeb, 10 billion tokens of it, as GPT-2's tokens that others have made.

$ bash data/fineweb10B/get_dataset.sh --max_shards 9   # 900 million tokens
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports from any directory
from data.catalogue import arguments, hub
from data.dataset import write_dataset
from data.errors import one_line_errors
from data.inputs import Shards
from data.tokenizer import TiktokenTokenizer


def main():
    args = arguments(__doc__, tokenizer=None, shards=True).parse_args()
    files = hub(HERE, args, "kjj0/fineweb10B-gpt2", train="fineweb_train_*.bin",
                val="fineweb_val_*.bin")
    write_dataset(HERE, Shards(files.train), TiktokenTokenizer("gpt2"), val_text=Shards(files.val),
                  source=files.source)


if __name__ == "__main__":
    with one_line_errors():
        main()
