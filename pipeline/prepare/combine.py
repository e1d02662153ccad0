"""Several prepared datasets -> one dataset that holds them one after another."""
import functools

import numpy as np

from pipeline.errors import UserError
from pipeline.prepare.inputs import Ids
from pipeline.prepare.write import write_dataset
from pipeline.read.documents import file_names, positions_in, require_index
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import hash_of_table, tokenizer_from_meta


def combine(folder, names):
    """Write the datasets `names` into folder, in this order, in bounded memory; returns its meta.

    The key `members` of its meta.pkl holds the name, source and hashes of each. If one has a mask,
    the others count as all learned; if one has an index of documents, each other one counts as one
    document. Raises UserError.
    """
    members = [open_dataset(name) for name in names]
    refuse_mismatch(folder, members)
    for member in members:
        require_index(member)
    tokenizer = tokenizer_from_meta(members[0].meta)
    # a user's own tokenizer may have had an eot_token that its table does not show
    tokenizer.eot_token = members[0].meta.get("eot_token", tokenizer.eot_token)

    described = [dict(name=m.name, source=m.meta.get("source", "unknown"), sha256=m.fingerprint())
                 for m in members]
    arrays = functools.partial(_one_after_another, members, tokenizer)
    more, layouts = {"members": described}, {m.meta.get("chat_layout") for m in members} - {None}
    if len(layouts) == 1:
        more["chat_layout"] = layouts.pop()
    ended = None  # there is no index
    if any(m.has_index for m in members):
        ended = all(m.meta["docs"]["ended"] if m.has_index else tokenizer.eot_token is not None
                    for m in members)
    return write_ids(folder, members, arrays, tokenizer, " + ".join(m.name for m in members),
                     itemsize=members[0].dtype.itemsize, ended=ended, more=more)


def write_ids(folder, datasets, arrays, tokenizer, name, *, itemsize, ended=None, **options):
    """Write ids that are made of those of prepared datasets, as many as these have.

    arrays(split): the ids, each of itemsize bytes, or tuples as inputs.Ids has them. name: what
    they are. ended: see inputs.Ids. options: of write_dataset(), whose meta is returned.
    """
    def ids(split):
        documents = [d.meta.get("splits", {}).get(split, {}).get("documents") for d in datasets]
        size = itemsize * sum(d.num_tokens[split] for d in datasets)
        return Ids(functools.partial(arrays, split), size, name,
                   None if None in documents else sum(documents), ended)

    return write_dataset(folder, ids("train"), tokenizer, val_text=ids("val"), num_workers=1,
                         **options)


def _one_after_another(members, tokenizer, split):
    """(ids, learned, docs) of a split of all members, as inputs.Ids has them; eot_token between two
    where it is missing, which is learned as the token before it."""
    eot_token, has_index = tokenizer.eot_token, any(member.has_index for member in members)
    for member in members:
        start, ids, learned = 0, (), None
        names = file_names(member) if member.has_index else None
        for ids in member.chunks(split):
            stop = start + len(ids)
            learned = _learned(member, split, start, stop) if member.has_mask else None
            yield ids, learned, _docs(member, names, split, start, stop) if has_index else ()
            start = stop
        is_followed = eot_token is not None and member is not members[-1]
        if is_followed and len(ids) and ids[-1] != eot_token:
            dtype = np.promote_types(ids.dtype, np.min_scalar_type(eot_token))
            yield np.array([eot_token], dtype), learned and learned[-1:], ()


def _learned(member, split, start, stop):
    mask = np.array(member.mask(split)[start:stop])
    if mask.max() > 1:
        at = start + int((mask > 1).argmax())
        raise UserError(f"{member.path(f'{split}.mask')}: the byte at position {at:,} is "
                        f"{mask.max()}; it must be 0 or 1. Prepare the dataset again: python "
                        f"{member.folder}/prepare.py")
    return mask.tobytes()


def _docs(member, names, split, start, stop):
    """(place from start on, file, row) of a member's documents that begin from start to stop."""
    if names is None:
        return [(0, member.name, 1)] if not start else []
    records = member.documents(split)
    first, last = positions_in(records["start"], np.array([start, stop]))
    return [(at - start, names[file], row) for at, file, row in records[first:last].tolist()]


def refuse_mismatch(folder, members):
    """Raise UserError unless the members share one tokenizer and all folders are different."""
    first, *others = members
    for member in others:
        if hash_of_table(member.meta) != hash_of_table(first.meta):
            raise UserError(f"{first.name} and {member.name} have different tokenizers "
                            f"({_describe(first)}; {_describe(member)}). Prepare both with one "
                            f"tokenizer, for example {member.name} with --reuse_vocab_of "
                            f"{first.name}")
    _refuse_other_ends(members)
    folders = [member.folder.resolve() for member in members]
    for member, path in zip(members, folders):
        if folders.count(path) > 1:
            raise UserError(f"{member.name} is named twice. To give a dataset more weight, use "
                            "train.py --training_mode=multidataset")
    if folder.resolve() in folders:
        raise UserError(f"{folder.name} cannot be a part of itself. Give another --output_name")


def _refuse_other_ends(members):
    """Raise UserError where members end documents with different tokens, as of one published
    tokenizer a text and chats may, where its end token ends turns."""
    by_end = {}
    for member in members:
        if (end := member.meta.get("eot_token")) is not None:
            by_end.setdefault(end, []).append(member)
    if len(by_end) > 1:
        # that of chats is never the end of a turn, so it is the one to keep
        (keep, *_), (other, *_) = sorted(by_end.values(),
                                         key=lambda some: "chat_layout" not in some[0].meta)[:2]
        raise UserError(f"{keep.name} and {other.name} end documents with different tokens, "
                        f"{keep.meta['eot_token']:,} and {other.meta['eot_token']:,}. Prepare "
                        f"{other.name} with --reuse_vocab_of {keep.name}")


def _describe(dataset):
    return f"{dataset.meta.get('tokenizer', 'char')}, {dataset.vocab_size:,} ids"
