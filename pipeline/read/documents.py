"""The names of the files that a dataset's index of documents is about."""
import hashlib
import json

from pipeline.errors import UserError
from pipeline.files import open_regular


def file_names(dataset):
    """The names that the numbers of files in dataset.documents() stand for, from docs.json.

    Raises UserError where it is missing, or is another one than meta.pkl states.
    """
    path, again = dataset.folder / "docs.json", f"python {dataset.folder}/prepare.py"
    try:
        with open_regular(path) as file:
            raw = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found, although meta.pkl names an index of documents. "
                                f"Run: {again}") from None
    found, stated = hashlib.sha256(raw).hexdigest(), dataset.meta["docs"]["files_sha256"]
    if found != stated:
        raise UserError(f"{path} differs from what was prepared: its sha256 is {found[:12]}..., "
                        f"and meta.pkl says {stated[:12]}... Prepare the dataset again: {again}")
    return json.loads(raw)
