"""
NAME: a text -> train.bin, val.bin, meta.pkl, beside this file.

    python data/NAME/prepare.py                             # input.txt beside this file, one token a character
    python data/NAME/prepare.py -t corpus.txt               # another text file
    python data/NAME/prepare.py -t a.txt -v b.txt           # a validation text of its own
    python data/NAME/prepare.py --method tiktoken -e gpt2   # GPT-2's tokens
"""
import argparse
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports from any directory
from data.dataset import write_dataset
from data.errors import Parser, one_line_errors
from data.files import read_text
from data.tokenizer import make_tokenizer


def parse_args():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-t", "--train_input", default=HERE / "input.txt", help="a UTF-8 text file (default: input.txt)")
    parser.add_argument("-v", "--val_input", help="a text file for validation; then all of --train_input is train")
    parser.add_argument("-p", "--percentage_train", type=float, help="share of the text for train (default: 0.9)")
    parser.add_argument("--method", choices=["char", "byte", "tiktoken"], default="char",
                        help="what a token is (default: char)")
    parser.add_argument("-e", "--tiktoken_encoding", help="gpt2, cl100k_base, o200k_base, ... (default: gpt2)")
    args = parser.parse_args()
    if args.tiktoken_encoding and args.method != "tiktoken":
        parser.error("-e/--tiktoken_encoding goes with --method tiktoken")
    if args.percentage_train is not None and args.val_input:
        parser.error("-p/--percentage_train does nothing beside -v/--val_input: all of --train_input is train then")
    return args


def main():
    args = parse_args()

    # 1) read the text: one string, or a list of strings, a document each. A folder of files, for example:
    #    text = [read_text(path) + "\n" for path in sorted((HERE / "texts").glob("*.txt"))]
    text = read_text(args.train_input)
    val_text = read_text(args.val_input) if args.val_input else None

    # 2) make stoi and itos, the vocabulary
    tokenizer = make_tokenizer(args.method, text, val_text or "", tiktoken_encoding=args.tiktoken_encoding or "gpt2")
    # or your own, any object with encode, decode and itos; here words, and the characters between them:
    # class Words:
    #     def __init__(self, text):
    #         self.itos = sorted(set(self.split(text)))
    #         self.stoi = {word: i for i, word in enumerate(self.itos)}
    #     def split(self, text):
    #         import re
    #         return re.findall(r"\w+|\W", text)
    #     def encode(self, text):
    #         return [self.stoi[word] for word in self.split(text)]
    #     def decode(self, ids):
    #         return "".join(self.itos[i] for i in ids)
    # tokenizer = Words("".join(text) + "".join(val_text or ""))

    # 3) tokenize, 4) split into train and val, 5) save train.bin and val.bin, 6) save meta.pkl: all of it, or nothing
    write_dataset(HERE, text, tokenizer, val_text=val_text, percentage_train=0.9 if args.percentage_train is None else args.percentage_train,
                  source=Path(args.train_input).name)


if __name__ == "__main__":
    with one_line_errors():
        main()
