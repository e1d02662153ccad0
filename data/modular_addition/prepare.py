"""
All sums modulo m in random order, one token a character: watch a model find the rule.

$ bash data/modular_addition/get_dataset.sh     # 3+e=1 in base 16, modulo 16: 256 lines
$ bash data/modular_addition/get_dataset.sh --modulus 97 --base 10   # last digit first: 54+17=91
"""
import os
import random
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import CharTokenizer, dataset_parser, one_line_errors, write_dataset

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def digits(number, base, width):
    """number in that base, its last digit first, with zeros up to that width."""
    return "".join(DIGITS[number // base**place % base] for place in range(width))


def main():
    parser = dataset_parser(__doc__, tokenizer=None, download=False)
    parser.add_argument("--modulus", type=int, default=16, help="4 to 2000 (default: 16)")
    parser.add_argument("--base", type=int, default=16, help="2 to 36 (default: 16)")
    parser.add_argument("--seed", type=int, default=16, help="of the random order (default: 16)")
    args = parser.parse_args()
    if not (2 <= args.base <= 36 and 4 <= args.modulus <= 2000):
        parser.error(f"--base is {args.base} and must be 2 to 36, "
                     f"--modulus is {args.modulus} and must be 4 to 2000")
    width = next(w for w in range(1, 12) if args.base**w >= args.modulus)
    numbers = [digits(n, args.base, width) for n in range(args.modulus)]
    lines = [f"{numbers[a]}+{numbers[b]}={numbers[(a + b) % args.modulus]}\n"
             for a in range(args.modulus) for b in range(args.modulus)]
    random.Random(args.seed).shuffle(lines)
    num_train = len(lines) * 9 // 10
    tokenizer = CharTokenizer(sorted("\n+=" + DIGITS[: args.base]))
    source = f"modulo {args.modulus}, base {args.base}, seed {args.seed}"
    write_dataset(HERE, "".join(lines[:num_train]), tokenizer, val_text="".join(lines[num_train:]),
                  source=source)


if __name__ == "__main__":
    with one_line_errors():
        main()
