"""Text <-> ids. Each tokenizer has

    encode(text) -> (n,) integer array      decode(ids) -> str
    vocab_size, the largest id + 1          eot_token, the id that ends a document, or None
    to_meta() -> a dict of plain values, from which tokenizer_from_meta() rebuilds it offline
    border(text) -> the last place where the text may be cut without changing an id; 0 for none
    token_spans(raw, ids): optional, which bytes of a text in UTF-8 each of its ids stands for;
        without it the lengths of the tokens tell
    workers: "threads" where encode() lets other threads run meanwhile, "processes" where it does
        not (also without the attribute), None where encoding is as fast as reading
    encode_utf8(raw): optional, encode() of a text in UTF-8
    markers, with_markers(names): optional, for chats. {name: id} of the special tokens; and a
        tokenizer that has special tokens of these names, which no text becomes

Ids are never dropped and nothing is normalised: decode(encode(text)) == text. Only the tokenizer of
a published model may change blanks and normalise characters, if its tokenizer.json says so. A
tokenizer of your own needs just encode, decode and itos (id -> token; a list or a dict, str or
bytes), and border for texts larger than memory.

To add a kind of tokenizer: write its class in a module here, and a line for it into KINDS (how it
is read from meta.pkl) and into METHODS (how --method of prepare.py makes it).
"""
from pathlib import Path

from pipeline.errors import UserError
from pipeline.tokenizers.bpe import TiktokenTokenizer, bpe_from_meta
from pipeline.tokenizers.characters import ByteTokenizer, CharTokenizer
from pipeline.tokenizers.published import PublishedTokenizer, published_table
from pipeline.tokenizers.sentencepiece_model import SentencePieceTokenizer, pieces_from_meta
from pipeline.tokenizers.tables import (
    Marker,
    UnknownText,
    as_bytes,
    codes_of,
    plain_text,
    read_json,
    table_hash,
    table_of,
    tables,
    to_utf8,
    token_text,
)
from pipeline.tokenizers.token_lists import TableTokenizer, TokenList
from pipeline.tokenizers.trained import train_bpe, train_sentencepiece


def _characters(meta):
    itos = table_of(meta)
    is_char = all(isinstance(token, str) and len(token) == 1 for token in itos.values())
    if is_char and list(itos) == list(range(len(itos))):
        return CharTokenizer(itos.values())
    return _table(meta)


def _token_list(meta):
    itos = table_of(meta)
    has_gaps = len(itos) != max(itos) + 1
    return _table(meta) if has_gaps else TokenList(itos[i] for i in sorted(itos))


def _sentencepiece(meta):
    if "sentencepiece_model" in meta:
        return SentencePieceTokenizer(meta["sentencepiece_model"])
    return TableTokenizer(pieces_from_meta(table_of(meta)), meta.get("eot_token"))


def _table(meta):
    return TableTokenizer(table_of(meta), meta.get("eot_token"))


KINDS = {  # `tokenizer` of meta.pkl: a function of meta.pkl's dict
    None: _characters,  # nanoGPT's character folders name no tokenizer
    "char": _characters,
    "byte": lambda meta: ByteTokenizer(),
    "tiktoken": bpe_from_meta,
    "bpe": bpe_from_meta,
    "sentencepiece": _sentencepiece,
    "token_list": _token_list,
    "tokenizer_json": lambda meta: PublishedTokenizer(
        meta["tokenizer_json"], meta.get("eot_token"), "meta.pkl",
        meta.get("names_are_text", False)),
    "custom": _table,  # one of the user's own, of which there is just the table
    "custom_char_with_byte_fallback": _table,  # these two are another program's
    "json_byte_fallback": _table,
}


def _tiktoken(texts, tiktoken_encoding="gpt2", additional_tokens_file=None, backend="auto", **_):
    additional = read_json(additional_tokens_file) if additional_tokens_file else {}
    if not isinstance(additional, dict):
        raise UserError(f"{additional_tokens_file} must hold a JSON object, token: id")
    return TiktokenTokenizer(tiktoken_encoding, backend=backend, additional_tokens=additional)


def _sentencepiece_of(texts, train_text=None, spm_model_file=None, document_end=None, **flags):
    if spm_model_file:
        return SentencePieceTokenizer(Path(spm_model_file).read_bytes())
    return train_sentencepiece(train_text, **flags)


METHODS = {  # --method of prepare.py: a function of the texts and of the flags that are set
    "char": lambda texts, train_text=None, **end: CharTokenizer.from_text(*texts, **end),
    "byte": lambda texts, **_: ByteTokenizer(),
    "tiktoken": _tiktoken,
    "custom": lambda texts, tokens_file, train_text=None, document_end=None, **flags: (
        TokenList.from_file(tokens_file, **flags)),
    "sentencepiece": _sentencepiece_of,
    "bpe": lambda texts, train_text, document_end=None, **flags: train_bpe(train_text, **flags),
}


def make_tokenizer(method, *texts, train_text=None, document_end="\n", **flags):
    """The tokenizer of a --method. flags: those of this method that are set.

    texts: all of the text, for char. train_text: strings, for the methods that are trained.
    """
    if method not in METHODS:
        raise UserError(f"--method {method!r} is unknown; the methods are {', '.join(METHODS)}")
    return METHODS[method](texts, train_text=train_text, document_end=document_end, **flags)


def tokenizer_from_meta(meta):
    """The tokenizer that a meta.pkl (its dict) describes, whichever program wrote it. Raises
    UserError for an unknown kind, or where the table is missing."""
    kind = meta.get("tokenizer")
    if kind not in KINDS:
        raise UserError(f"meta.pkl names the tokenizer {kind!r}, which is unknown here. Prepare "
                        f"the dataset again with one of {', '.join(filter(None, KINDS))}; with "
                        f"custom, ids are read by the table itos alone")
    if kind == "tokenizer_json" and "tokenizer_json" not in meta:
        raise UserError("meta.pkl lacks the tokenizer.json of its tokenizer. Prepare the dataset "
                        "again")
    return KINDS[kind](meta)


def tokenizer_meta(tokenizer):
    """What meta.pkl holds of a tokenizer: its to_meta(), or the tables made from its itos."""
    if hasattr(tokenizer, "to_meta"):
        return tokenizer.to_meta()
    if not getattr(tokenizer, "itos", None):
        raise UserError(f"{type(tokenizer).__name__} has no itos. Give your tokenizer an attribute "
                        f"itos: a list or dict, id -> token, so that sample.py can turn ids back "
                        f"into text")
    return {"tokenizer": "custom", **tables(tokenizer.itos)}


def hash_of_table(meta):
    """table_hash() of the tokenizer that a meta.pkl (its dict) describes, whichever program wrote
    it. A stated hash was compared with the table when meta.pkl was read."""
    return meta.get("table_sha256") or table_hash(tokenizer_meta(tokenizer_from_meta(meta))["itos"])
