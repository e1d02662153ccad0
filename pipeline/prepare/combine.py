"""Several prepared datasets as one.
"""
import numpy as np

from pipeline.errors import UserError
from pipeline.prepare.inputs import Ids
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import hash_of_table, tokenizer_from_meta


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
        for ids in member.chunks(split):
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
