"""Everything between a text and a batch. One file a step:

    tokenizer.py   text <-> ids
    dataset.py     the folder format (train.bin, val.bin, meta.pkl), written and read
    sampler.py     which windows, in which order: pure functions of (seed, position)
    batches.py     windows of a dataset as tensors, read ahead by a thread
    download.py    a file from an address, or out of a package, checked by hash
    inputs.py      files -> documents: text, .jsonl, .json, .csv, .tsv, .parquet, each plain or packed
    files.py       UTF-8 text in, all-or-nothing files out, locks
    errors.py      a user's mistake, in one line
    write_meta.py  meta.pkl for bins that another program wrote
    template/      what create_new_dataset.sh copies
    <name>/        a dataset: get_dataset.sh, prepare.py, README.md

README.md describes the folder format and how to add a dataset.
"""
