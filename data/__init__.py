"""Everything between a text and a batch. One file a step:

    inputs.py      files -> text or documents; contents.py tells what a file holds, encodings.py decodes text, rows.py
                   reads .jsonl, .json, .csv, .tsv and .parquet
    tokenizer.py   text <-> ids; make_tokenizer.py makes the one of a --method, or trains it
    fast_bpe.py, ranks.py  BPE by gigatoken where that is proven to be the same; the files that tiktoken's encodings need
    encode.py      text -> ids in bounded memory, on every core
    dataset.py     the folder format (train.bin, val.bin, meta.pkl), written and read; bins.py, what remembers units over a kill
    plain.py       meta.pkl from anywhere: a pickle of plain values, looked through first; what each key must hold
    check_dataset.py  proves a folder and shows what is in it; writes the meta.pkl of bins that have none
    prepare_args.py   the flags of prepare.py
    sampler.py     which windows, in which order: pure functions of (seed, position)
    sources.py     what a run reads: one dataset, a mixture, aligned streams; whose window each draw is
    batches.py     windows of a source as tensors, read ahead by a thread
    download.py    files from addresses, or out of a package, checked by hash; the only home of HTTP
    catalogue.py   what the datasets' prepare.py share: flags, sources, rows -> dataset
    list_datasets.py  the datasets, as a table
    streams.py     streams of symbols made of a text, one a character; part_of_speech.py makes one more, by a tagger
    combine_datasets.py  several prepared datasets as one
    tinyshakespeare.py, pictures.py   the text of two datasets; MNIST's pictures as text
    files.py       UTF-8 text in, all-or-nothing files out, locks
    threads.py     a machine in use: how many threads compute, and how they wait
    errors.py      a user's mistake, in one line
    template/      what create_new_dataset.sh copies
    <name>/        a dataset: get_dataset.sh, prepare.py, README.md

README.md describes the folder format and how to add a dataset.
"""
