r"""A tokenizer of ours -> tokenizer.json, which the package tokenizers reads.

    table_to_publish(tokenizer)    a Published, or None where only this program knows how to encode
    tokenizer_json(published)      the dict of tokenizer.json

Each tokenizer becomes a BPE there, which gives our ids exactly (tests/test_export.py):

    characters      one token each, and no merges
    bytes, BPE      bytes are written as printable characters, which is what "ByteLevel" does
    SentencePiece   each pair of pieces that makes a piece is a merge, in the order of their scores;
                    a space stays a space, so that U+2581 in a text goes byte by byte, as with us
    token lists     a regular expression of all tokens, the longest first, cuts the text
"""
import json
import random
import re
from dataclasses import dataclass, field

from pipeline.errors import optional
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    TokenList,
    as_bytes,
)
from pipeline.tokenizers.tables import BYTE_LETTERS


@dataclass
class Published:
    """What the formats need of a tokenizer. Tokens are written as tokenizer.json has them."""
    kind: str  # chars, bytes or pieces
    vocab: dict  # token: id
    eot_token: int | None = None
    merges: list = field(default_factory=list)  # (left, right), the most urgent first
    pattern: str | None = None  # cuts a text into words
    special: dict = field(default_factory=dict)  # {text: id} of tokens that no text contains
    additional: dict = field(default_factory=dict)  # {text: id} of tokens wherever a text has them
    encoding: str | None = None  # tiktoken's name of it
    model: bytes | None = None  # of SentencePiece
    scores: list | None = None


def level(raw):
    """Bytes, as ByteLevel writes them: one printable character for each."""
    return "".join(BYTE_LETTERS[byte] for byte in raw)


def merges_of(tokens):
    """Every way to make a token from two others, in the order of tokens: whichever pair stands side
    by side in a text, tiktoken and SentencePiece merge the one that makes the earliest token."""
    known = set(tokens)
    return [(token[:i], token[i:]) for token in tokens for i in range(1, len(token))
            if token[:i] in known and token[i:] in known]


def table_to_publish(tokenizer):
    """The tokenizer as a Published; None where only this program knows how to encode with it."""
    if type(tokenizer) is CharTokenizer:
        return Published("chars", {c: i for i, c in enumerate(tokenizer.chars)})
    if type(tokenizer) is ByteTokenizer:
        return Published("bytes", {level([i]): i for i in range(256)})
    if type(tokenizer) is TokenList:
        vocab = {level(as_bytes(token)): i for i, token in tokenizer.itos.items()}
        longest_first = sorted(vocab, key=len, reverse=True)
        return Published("bytes", vocab, pattern="|".join(map(re.escape, longest_first)))
    if type(tokenizer) is TiktokenTokenizer:
        encoding, additional = tokenizer._encoding, tokenizer.additional_tokens
        ranks = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
        vocab = {level(token): i for token, i in ranks}
        special = {t: i for t, i in encoding._special_tokens.items() if t not in additional}
        if vocab.keys() & additional.keys():  # a name that is other bytes in the letters of level()
            return None
        return Published("bytes", vocab, tokenizer.eot_token, merges_of(list(vocab)),
                         portable(encoding._pat_str), special, additional, tokenizer.name)
    if type(tokenizer) is SentencePieceTokenizer:
        return _pieces(tokenizer)
    return None


def portable(pattern):
    """tiktoken's pattern, in the dialect of the package tokenizers (Oniguruma's, of Ruby).

    There {1,3}+ means any number of times, where tiktoken means one to three and no less; nothing
    that follows could want one back. And $ is the end of a line, \\z that of the text.
    """
    return pattern.replace("{1,3}+", "{1,3}").replace("$", r"\z")


def _pieces(tokenizer):
    sp, ids = tokenizer._sp, range(tokenizer.vocab_size)
    text = [piece if sp.is_byte(i) else piece.replace("\u2581", " ")
            for i, piece in zip(ids, map(sp.id_to_piece, ids))]
    special = {text[i]: i for i in ids if sp.is_control(i) or sp.is_unknown(i)}
    normal = [i for i in ids if not (sp.is_byte(i) or sp.is_unused(i) or text[i] in special)]
    scores = [sp.get_score(i) for i in ids]
    merges = merges_of([text[i] for i in sorted(normal, key=lambda i: -scores[i])])
    return Published("pieces", {piece: i for i, piece in enumerate(text)}, tokenizer.eot_token,
                     merges, None, special, model=tokenizer.model, scores=scores)


def tokenizer_json(published):
    """The dict of tokenizer.json. A text that the vocabulary lacks raises an exception there, too:
    unk_token names a token that does not exist."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
             "use_regex": False}
    fuse = {"type": "Fuse"}
    cut = {"type": "Split", "pattern": {"Regex": published.pattern}, "behavior": "Isolated",
           "invert": False}
    steps, decoder = [], fuse
    if published.kind == "bytes":
        is_list = published.pattern and not published.merges  # a list's pattern is one of bytes
        steps = [level, cut] if is_list else [cut, level] if published.pattern else [level]
        decoder = level
    elif published.kind == "pieces":
        decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, fuse]}
    added = {i: {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": text in published.special}
             for text, i in {**published.special, **published.additional}.items()}
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added[i] for i in sorted(added)], "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if steps else None,
            "post_processor": None, "decoder": decoder,
            "model": {"type": "BPE", "dropout": None, "unk_token": "<|not in the vocabulary|>",
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": published.kind == "pieces",
                      "ignore_merges": published.kind == "bytes",
                      # added tokens stand here too: those that do not are numbered anew
                      "vocab": {**published.vocab, **published.special, **published.additional},
                      "merges": [[*pair] for pair in published.merges]}}


def is_equal(published, tokenizer):
    """Whether tokenizer.json gives the tokenizer's ids, and refuses what it refuses, on a thousand
    texts made of its tokens and of characters that many models change."""
    package = optional("tokenizers", "the export of a SentencePiece model")
    theirs = package.Tokenizer.from_str(json.dumps(tokenizer_json(published)))
    theirs.encode_special_tokens = True  # in a text, their names are text
    draw = random.Random(0)
    texts = [text for text in published.vocab if text not in published.special]
    texts += ["  ", "\t", "\r\n", "\u2581", "\0", "ﬁ", "①", "é", "e\u0301", "世", "🚀"] * 20

    def ids_by(encode, text):
        try:
            return [*encode(text)]
        except Exception:  # tokenizers raises no narrower class
            return None
    return all(ids_by(tokenizer.encode, text) == ids_by(lambda text: theirs.encode(text).ids, text)
               for text in ("".join(draw.choices(texts, k=draw.randrange(1, 9)))
                            for _ in range(1000)))
