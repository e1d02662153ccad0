"""The last step of a preparation: its files replace the older ones, all of them or none."""
import errno
import os
import pickle

from pipeline.files import replacing, sync_folder
from pipeline.read.meta import load_plain


def commit(folder, meta, renames, stale=()):
    """Write meta.pkl and rename the finished files. Without meta.pkl, a reader refuses the folder.

    renames: (temporary file, final file) pairs. stale: files of an older result, which go before.
    While meta.pkl is missing, meta.pkl.new is there and tells a reader why. If the disk fails, the
    OSError says in which state the folder is.
    """
    raw = pickle.dumps(meta, protocol=4)
    load_plain(raw, "the new meta.pkl")  # it must be readable, whatever a tokenizer has put into it
    meta_path, new_meta = folder / "meta.pkl", folder / "meta.pkl.new"
    with replacing(new_meta) as file:  # an interrupted commit's stays until this one is complete
        file.write(raw)
    try:
        meta_path.unlink(missing_ok=True)
        sync_folder(folder)
        for path in stale:
            path.unlink(missing_ok=True)
        for temporary, path in renames:
            os.replace(temporary, path)
        sync_folder(folder)
        os.replace(new_meta, meta_path)
        sync_folder(folder)
    except OSError as error:
        state = ("complete and can be read" if meta_path.exists() else
                 "half-written and cannot be read")
        remedy = "Free some space, then run" if error.errno == errno.ENOSPC else "Run"
        raise OSError(f"{error.filename or folder}: {error.strerror}, while the finished files "
                      f"replaced the older ones. {folder} is {state}. {remedy} the same command "
                      "again: it continues where this one stopped") from None
