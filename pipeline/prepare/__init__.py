"""Inputs -> units -> ids -> a committed dataset folder. A prepare.py imports from here.

    inputs.py       files -> text, documents, or ids
      compression.py  .gz, .zst, .xz, .bz2: one table          formats.py    text or rows: one table
      containers.py   the files in a .zip or .tar              templates.py  a row -> its text
      rows.py         JSON, CSV, TSV -> rows                   columns.py    Parquet, Arrow -> rows
      separators.py   a text -> its documents                  parts.py      what of one is learned
    units.py        text -> pieces, each with its split -> units of work
    encode.py       units -> ids, and which of them are learned, on every core
    journal.py      ids, masks, an index -> temporary files, remembered over a kill
    commit.py       the finished files replace the older ones
    write.py        write_dataset(): the steps from units.py to commit.py
    flags.py        the flags of the template's prepare.py
    recipes.py, streams.py, combine.py   what other kinds of prepare.py share
"""
from pipeline.errors import one_line_errors
from pipeline.files import read_text
from pipeline.get.archives import unpack
from pipeline.prepare.combine import combine
from pipeline.prepare.flags import parse_args, read_inputs, tokenizer_of, write_options
from pipeline.prepare.inputs import Shards, TextFile, read_documents
from pipeline.prepare.parts import Marker
from pipeline.prepare.recipes import (
    Files,
    chosen_tokenizer,
    dataset_parser,
    hub_dataset,
    package_files,
    prepare,
    web_files,
    write_documents,
    write_rows,
)
from pipeline.prepare.streams import prepare_stream
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import ByteTokenizer, CharTokenizer, TiktokenTokenizer
