"""Several prepared datasets -> one dataset that holds them one after another."""
import numpy as np

from pipeline.errors import UserError
from pipeline.prepare.inputs import Ids
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import hash_of_table, tokenizer_from_meta


def combine(folder, names):
    """Write the datasets `names` into folder, in this order, in bounded memory; returns its meta.

    The key `members` of its meta.pkl holds the name, source and hashes of each. Raises UserError.
    """
    members = [open_dataset(name) for name in names]
    refuse_mismatch(folder, members)
    tokenizer = tokenizer_from_meta(members[0].meta)
    # a user's own tokenizer may have had an eot_token that its table does not show
    tokenizer.eot_token = members[0].meta.get("eot_token", tokenizer.eot_token)

    def split_of_all(split):
        documents = [m.meta.get("splits", {}).get(split, {}).get("documents") for m in members]
        return Ids(lambda: _one_after_another(members, split, tokenizer.eot_token),
                   name=" + ".join(m.name for m in members),
                   size=sum(m.num_tokens[split] * m.dtype.itemsize for m in members),
                   documents=None if None in documents else sum(documents))

    described = [{"name": m.name, "source": m.meta.get("source", "unknown"),
                  "sha256": m.fingerprint()} for m in members]
    return write_dataset(folder, split_of_all("train"), tokenizer, val_text=split_of_all("val"),
                         num_workers=1, more={"members": described})


def _one_after_another(members, split, eot_token):
    """The ids of a split of all members, in arrays; eot_token between two where it is missing."""
    for i, member in enumerate(members):
        ids = ()
        for ids in member.chunks(split):
            yield ids
        is_last = i + 1 == len(members)
        if eot_token is not None and not is_last and len(ids) and ids[-1] != eot_token:
            yield np.array([eot_token], np.promote_types(ids.dtype, np.min_scalar_type(eot_token)))


def refuse_mismatch(folder, members):
    """Raise UserError unless the members share one tokenizer and all folders are different."""
    first, *others = members
    for member in others:
        if hash_of_table(member.meta) != hash_of_table(first.meta):
            raise UserError(f"{first.name} and {member.name} have different tokenizers "
                            f"({_describe(first)}; {_describe(member)}), so an id would mean two "
                            f"things. Prepare one with the other's: --reuse_vocab_of {first.name}")
    folders = [member.folder.resolve() for member in members]
    for member, path in zip(members, folders):
        if folders.count(path) > 1:
            raise UserError(f"{member.name} is named twice. To give a dataset more weight, use "
                            "train.py --training_mode=multidataset")
    if folder.resolve() in folders:
        raise UserError(f"{folder.name} cannot be a part of itself. Give another --output_name")


def _describe(dataset):
    return f"{dataset.meta.get('tokenizer', 'char')}, {dataset.vocab_size:,} ids"
