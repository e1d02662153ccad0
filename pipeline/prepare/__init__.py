"""Inputs -> units -> ids -> a committed dataset folder. A prepare.py imports from here."""
from pipeline.errors import one_line_errors
from pipeline.files import read_text
from pipeline.get.archives import unpack
from pipeline.prepare.combine import combine
from pipeline.prepare.flags import inputs, parse_args, tokenizer_of, writing
from pipeline.prepare.inputs import Shards, TextFile, read_documents
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
