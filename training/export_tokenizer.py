r"""A tokenizer of ours -> tokenizer.json, which the package tokenizers reads.

    token_table(tokenizer)    a TokenTable, or None where only this program can encode
    tokenizer_json(table)     the dict of tokenizer.json

Each tokenizer becomes a BPE there, with the same ids (tests/test_export.py). Tokens are written in
BYTE_LETTERS, a letter for each byte, and a regular expression first cuts the text into words:

    characters, bytes    a word is one token
    token lists          the expression has all tokens, the longest first, so a word is one token
    BPE                  within a word, pairs are merged
    SentencePiece        there are no words and no letters: its model has a token for each byte, and
                         a space stays a space, so that a U+2581 in a text goes byte by byte
"""
import json
import random
import re
from dataclasses import dataclass, field

from pipeline import tokenizers as ours
from pipeline.errors import optional
from pipeline.tokenizers.tables import BYTE_LETTERS, as_bytes


@dataclass
class TokenTable:
    """What the formats need of a tokenizer."""
    vocab: dict  # token, as tokenizer.json writes it: id
    pattern: str | None = None  # cuts a text into words
    is_list: bool = False  # the pattern is one of letters for bytes
    merges: list = ()  # (left, right), the most urgent first
    special: dict = field(default_factory=dict)  # {text: id} of tokens that no text contains
    additional: dict = field(default_factory=dict)  # of tokens wherever their names stand
    name: str | None = None  # tiktoken's, of the encoding
    model: object = None  # of SentencePiece


def in_letters(raw):
    return "".join(BYTE_LETTERS[byte] for byte in raw)


def merges_of(tokens):
    """Every way to make a token from two others, in the order of tokens: of the pairs that stand
    side by side, tiktoken and SentencePiece merge the one that makes the earliest token."""
    known = set(tokens)
    return [(token[:i], token[i:]) for token in tokens for i in range(1, len(token))
            if token[:i] in known and token[i:] in known]


def token_table(tokenizer):
    """A TokenTable; None where only this program can encode as this tokenizer does."""
    if isinstance(tokenizer, ours.SentencePieceTokenizer):
        return _pieces(tokenizer, tokenizer._sp)
    if isinstance(tokenizer, ours.TiktokenTokenizer):
        encoding, additional = tokenizer._encoding, tokenizer.additional_tokens
        ranks = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
        vocab = {in_letters(token): i for token, i in ranks}
        special = {t: i for t, i in encoding._special_tokens.items() if t not in additional}
        if vocab.keys() & additional.keys():  # a name that is other bytes in letters
            return None
        # in the dialect of the package (Ruby's), {1,3}+ repeats without limit, and $ ends a line.
        # tiktoken's + only forbids to give digits back, which nothing that follows asks for
        pattern = encoding._pat_str.replace("{1,3}+", "{1,3}").replace("$", r"\z")
        return TokenTable(vocab, pattern, False, merges_of(list(vocab)), special, additional,
                          tokenizer.name)
    tokens = {ours.CharTokenizer: lambda: tokenizer.chars,
              ours.ByteTokenizer: lambda: [bytes([i]) for i in range(256)],
              ours.TokenList: lambda: tokenizer.itos.values()}.get(type(tokenizer))
    if tokens is None:
        return None
    vocab = {in_letters(as_bytes(token)): i for i, token in enumerate(tokens())}
    if isinstance(tokenizer, ours.CharTokenizer):
        return TokenTable(vocab, r"[\s\S]")
    return TokenTable(vocab, "|".join(map(re.escape, sorted(vocab, key=len, reverse=True))), True)


def _pieces(tokenizer, sp):
    ids = range(tokenizer.vocab_size)
    text = [piece if sp.is_byte(i) else piece.replace("\u2581", " ")
            for i, piece in zip(ids, map(sp.id_to_piece, ids))]
    special = {text[i]: i for i in ids if sp.is_control(i) or sp.is_unknown(i)}
    merged = [i for i in ids if not (sp.is_byte(i) or sp.is_unused(i) or text[i] in special)]
    merges = merges_of([text[i] for i in sorted(merged, key=lambda i: -sp.get_score(i))])
    return TokenTable({piece: i for i, piece in enumerate(text)}, None, False, merges, special,
                      model=sp)


def tokenizer_json(table):
    """The dict of tokenizer.json. A text that the vocabulary lacks raises there, too: unk_token
    names a token that does not exist."""
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
               "use_regex": False}
    words = {"type": "Split", "pattern": {"Regex": table.pattern}, "behavior": "Isolated",
             "invert": False}
    steps = [letters, words] if table.is_list else [words, letters]
    as_it_is = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    names = {**table.special, **table.additional}
    exactly = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": text, "special": text in table.special, **exactly}
             for text, i in sorted(names.items(), key=lambda item: item[1])]
    return {"version": "1.0", "added_tokens": added,
            "pre_tokenizer": None if table.model else {"type": "Sequence", "pretokenizers": steps},
            "decoder": as_it_is if table.model else letters,
            "model": {"type": "BPE", "unk_token": "<|not in the vocabulary|>",
                      # without letters, a whole text could be named like a token that is no text
                      "ignore_merges": not table.model, "byte_fallback": bool(table.model),
                      # added tokens stand here too: those that do not are numbered anew
                      "vocab": {**table.vocab, **names}, "merges": table.merges}}


def is_equal(table, tokenizer):
    """Whether tokenizer.json gives the tokenizer's ids, and refuses what it refuses, on a thousand
    texts made of its tokens and of characters that many models change."""
    package = optional("tokenizers", "the export of a SentencePiece model")
    theirs = package.Tokenizer.from_str(json.dumps(tokenizer_json(table)))
    theirs.encode_special_tokens = True  # in a text, their names are text
    parts = [text for text in table.vocab if text not in table.special]
    parts += ["  ", "\t", "\r\n", "\u2581", "\0", "ﬁ", "①", "é", "e\u0301", "世", "🚀"] * 20

    def ids_by(encode, text):
        try:
            return [*encode(text)]
        except Exception:  # the package raises no narrower type
            return None
    texts = ["".join(random.Random(i).choices(parts, k=1 + i % 8)) for i in range(1000)]
    return all(ids_by(tokenizer.encode, text) == ids_by(lambda t: theirs.encode(t).ids, text)
               for text in texts)
