"""Several prepared datasets -> a new one, data/<output_name>, that holds them one after another.

$ python data/combine_datasets.py --datasets shakespeare_char mine --output_name both
both: train 1,903,854 tokens, val 211,540 tokens, vocab_size 65 (shakespeare_char + mine); ...

Their tokenizers must be the same: the hashes of their id -> token tables are compared. If there is
an end-of-text token, it is put between two datasets where the first does not end with it.
data/<output_name>/prepare.py combines the datasets again, from what they hold then. To mix datasets
by weights, train.py --training_mode=multidataset needs no copy.
"""
import argparse
import os
import re
import sys
from pathlib import Path

DATA = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(DATA.parent))  # the repo root, for use as a script
from pipeline.errors import Parser, UserError, one_line_errors
from pipeline.files import replacing
from pipeline.prepare.combine import combine, refuse_mismatch
from pipeline.read.folder import open_dataset, shown

PREPARE = '''"""
{title}, made by data/combine_datasets.py. -> train.bin, val.bin, meta.pkl, beside this file.
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, which holds `pipeline`
from pipeline.prepare import combine, one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        combine(HERE, {names})
'''


def new_folder(name, names):
    """data/<name> with a prepare.py that combines `names`; new, or made by this command before."""
    folder = DATA / name
    prepare = folder / "prepare.py"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == "template":
        raise UserError(f"{name!r} cannot name a dataset. Choose a word of letters, digits, . _ -")
    there = {path.name for path in folder.iterdir()} - {"prepare.py.tmp"} if folder.exists() else ()
    if there and not (prepare.exists() and "combine(HERE" in prepare.read_text(encoding="utf-8")):
        raise UserError(f"{shown(folder)} exists already, and this command did not make it. Give "
                        "another --output_name, or remove it")
    folder.mkdir(exist_ok=True)
    with replacing(prepare) as file:
        file.write(PREPARE.format(title=" + ".join(names), names=names).encode())
    return folder


def main(argv=None):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", action="extend", required=True,
                        help="two or more prepared datasets, in this order")
    parser.add_argument("--output_name", required=True, help="the new dataset, data/<output_name>")
    args = parser.parse_args(argv)
    if len(args.datasets) < 2:
        parser.error("--datasets needs two or more")
    names = [os.path.abspath(name) if "/" in name else name for name in args.datasets]
    refuse_mismatch(DATA / args.output_name, [open_dataset(name) for name in names])
    combine(new_folder(args.output_name, names), names)


if __name__ == "__main__":
    with one_line_errors():
        main()
