"""Several prepared datasets, one after another, as a new one: data/<output_name>/{train,val}.bin and meta.pkl.

$ python data/combine_datasets.py --datasets shakespeare_char mine --output_name both
both: train 1,903,854 tokens, val 211,540 tokens, vocab_size 65 (shakespeare_char + mine); ...

Their tokenizers must be the same: the hashes of their id -> token tables are compared. Where a split of a dataset does
not end with the tokenizer's end-of-text token, one is put between it and the next; tokenizers without such a token (the
characters, the bytes) have nothing put between. data/<output_name>/prepare.py makes it again, from what its members then
are. To mix datasets by weights, train.py --training_mode=multidataset needs no such copy.
"""
import argparse
import os
import re
import sys
from pathlib import Path

import numpy as np

DATA = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(DATA.parent))  # the repo root, for use as a script
from data.dataset import open_dataset, shown, write_dataset
from data.errors import Parser, UserError, one_line_errors
from data.files import replacing
from data.inputs import Ids
from data.tokenizer import hash_of_table, tokenizer_from_meta


def combine(folder, names):
    """Write the datasets `names` into folder, in this order, in bounded memory; returns its meta dict.

    The key `members` of its meta.pkl holds each one's name, source and hashes. Raises UserError.
    """
    members = [open_dataset(name) for name in names]
    refuse_mismatch(folder, members)
    tokenizer = tokenizer_from_meta(members[0].meta)
    tokenizer.eot_token = members[0].meta.get("eot_token", tokenizer.eot_token)  # one's own may have added it

    def part(split):
        return Ids(lambda: _joined(members, split, tokenizer.eot_token), name=" + ".join(m.name for m in members),
                   size=sum(m.num_tokens[split] * m.dtype.itemsize for m in members),
                   documents=_documents(members, split))

    told = [{"name": m.name, "source": m.meta.get("source", "unknown"), "sha256": m.fingerprint()} for m in members]
    return write_dataset(folder, part("train"), tokenizer, val_text=part("val"), num_workers=1, more={"members": told})


def _joined(members, split, eot):
    """The ids of a split of all members, in arrays."""
    for i, member in enumerate(members):
        ids = ()
        for ids in member.blocks(split):
            yield ids
        if eot is not None and i + 1 < len(members) and len(ids) and ids[-1] != eot:
            yield np.array([eot], np.promote_types(ids.dtype, np.min_scalar_type(eot)))


def _documents(members, split):
    """How many documents they are together; None where one of them does not say."""
    counts = [m.meta.get("splits", {}).get(split, {}).get("documents") for m in members]
    return None if None in counts else sum(counts)


def refuse_mismatch(folder, members):
    """Raise UserError unless the members share one tokenizer, and are so many folders beside the new one."""
    first, *others = members
    for member in others:
        if hash_of_table(member.meta) != hash_of_table(first.meta):
            raise UserError(f"{first.name} and {member.name} have different tokenizers ({_tokenizer(first)}; "
                            f"{_tokenizer(member)}), so that an id means two things. Prepare one with the other's: "
                            f"--reuse_vocab_of {first.name}")
    folders = [member.folder.resolve() for member in members]
    if len(set(folders)) < len(folders):
        twice = next(member.name for member in members if folders.count(member.folder.resolve()) > 1)
        raise UserError(f"{twice} is named twice. train.py --training_mode=multidataset gives a dataset more weight")
    if folder.resolve() in folders:
        raise UserError(f"{folder.name} cannot be a part of itself. Give another --output_name")


def _tokenizer(dataset):
    return f"{dataset.meta.get('tokenizer', 'char')}, {dataset.vocab_size:,} ids"


PREPARE = '''"""
{title}, made by data/combine_datasets.py. -> train.bin, val.bin, meta.pkl, beside this file.
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports from any directory
from data.combine_datasets import combine
from data.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        combine(HERE, {names})
'''


def new_folder(name, names):
    """data/<name> with a prepare.py that combines `names`; one that is there is taken if it was made so too."""
    folder = DATA / name
    prepare = folder / "prepare.py"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == "template" or (DATA / f"{name}.py").exists():
        raise UserError(f"{name!r} cannot be the name of a dataset: letters, digits, . _ - in one word, which is no part "
                        f"of this program")
    there = {path.name for path in folder.iterdir()} - {"prepare.py.tmp"} if folder.exists() else ()
    if there and not (prepare.exists() and "combine(HERE" in prepare.read_text(encoding="utf-8")):
        raise UserError(f"{shown(folder)} exists already, and is no combination. Give another --output_name, or remove it")
    folder.mkdir(exist_ok=True)
    with replacing(prepare) as file:
        file.write(PREPARE.format(title=" + ".join(names), names=names).encode())
    return folder


def main(argv=None):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--datasets", nargs="+", required=True, help="two or more prepared datasets, in this order")
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
