"""Tokenizers of published models: a tokenizer.json, by the optional package tokenizers."""
import json
import re

import numpy as np

from pipeline.errors import UserError, optional, printable
from pipeline.tokenizers.borders import last_border
from pipeline.tokenizers.sentencepiece_model import SPACE
from pipeline.tokenizers.tables import (
    BYTE_LETTERS,
    UnknownText,
    as_bytes,
    as_token,
    tables,
    to_utf8,
)

# names of the token that ends a document, for a tokenizer.json beside which nothing states it
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
# the patterns that cut words in GPT-2, Qwen 2 to 3, and Llama 3: no word extends over a border
PATTERNS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    *(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits
      + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+" for digits in ("", "{1,3}")))
BYTE_OF = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}


class PublishedTokenizer:
    """The tokenizer that the text of a tokenizer.json describes.

    The names of its special tokens in a text are those tokens, as for the model that it belongs to,
    unless names_are_text, as in chats: there a person may write them. No token is added at the
    beginning or end. Ids of a text are those that the package gives.
    Raises UserError, naming place, for a file that the package cannot read.
    """
    workers = "threads"

    def __init__(self, text, eot_token=None, place="tokenizer.json", names_are_text=False):
        package = optional("tokenizers", "the tokenizer of a published model")
        self.text, self._table = text, published_table(text, place)
        try:
            self._tokenizer = package.Tokenizer.from_str(text)
        except Exception as error:  # the package raises no narrower type
            raise UserError(f"{place} holds something that the package tokenizers "
                            f"{package.__version__} cannot read: {printable(str(error), 200)}. A "
                            f"newer one may: pip install --upgrade tokenizers") from None
        # a model cuts and fills its texts to one length; a dataset keeps every token
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = self.names_are_text = names_are_text
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens = {token.content: i for i, token in added.items() if token.special}
        self._added = [token.content for token in added.values()]  # which no border may cut
        if eot_token is None:
            eot_token = next((self.special_tokens[name] for name in ENDS
                              if name in self.special_tokens), None)
        self.vocab_size, self.eot_token = max(self._table) + 1, eot_token
        self._has_borders = _has_borders(json.loads(text))

    def encode(self, text):
        """(n,) uint32. Raises UnknownText where characters would be lost; blanks and normal forms
        of characters may change, as the file says."""
        to_utf8(text)  # raises for half a character
        # encode_batch lets other threads run, and encode does not
        encoding, = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        normalizer, back = self._tokenizer.normalizer, _without_blanks(self.decode(encoding.ids))
        normal = normalizer.normalize_str(text) if normalizer else text
        if back not in (_without_blanks(text), _without_blanks(normal)):
            raise self._loss(text)
        if self.names_are_text and (found := {*encoding.ids} & {*self.special_tokens.values()}):
            name = self.decode([min(found)])
            raise UnknownText((f"the published tokenizer cannot read {name!r} as text", ""),
                              max(0, text.find(name)))
        return np.array(encoding.ids, dtype=np.uint32)

    def _loss(self, text):
        """The UnknownText of the first character that encode() would lose by itself, or of all."""
        lost = (c for c in dict.fromkeys(text) if _without_blanks(c) != _without_blanks(
            self.decode(self._tokenizer.encode(c, add_special_tokens=False).ids)))
        what = next(lost, text)
        return UnknownText((f"the published tokenizer would lose or change {what[:20]!a}", ""),
                           text.index(what))

    def border(self, text):
        return last_border(text, self._added) if self._has_borders else 0

    def token_spans(self, raw, ids):
        """(starts, ends), (len(ids),) int64: the bytes of raw, a text in UTF-8, for which each of
        its ids stands. Two tokens stand for a character that they share."""
        tokens = [as_bytes(self._table[i]) for i in ids.tolist()]
        if b"".join(tokens) == raw:
            lengths = np.array(list(map(len, tokens)), np.int64)
            ends = np.cumsum(lengths)
            return ends - lengths, ends
        # blanks or normal forms have changed: the package knows which characters a token is made of
        text = raw.decode("utf-8")
        encoding, = self._tokenizer.encode_batch([text], add_special_tokens=False)
        starts, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
        ends = np.maximum.accumulate(ends)
        ends[-1:] = len(text)
        starts = np.minimum(starts, np.concatenate([[0], ends[:-1]]))  # blanks left out before one
        at = np.cumsum([0, *(len(character.encode("utf-8")) for character in text)])
        return at[starts], at[ends]

    def decode(self, ids):
        """Bytes that are not UTF-8 become U+FFFD; ids in gaps of the vocabulary give nothing."""
        return self._tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def __reduce__(self):  # worker processes receive it
        return type(self), (self.text, self.eot_token, "tokenizer.json", self.names_are_text)

    @property
    def markers(self):
        return dict(self.special_tokens)

    def with_markers(self, names):
        """This tokenizer for chats: in a text, names of special tokens are text. Raises UserError
        where it lacks one of these special tokens. None of them ends a document."""
        if missing := [name for name in names if name not in self.special_tokens]:
            raise UserError(f"the published tokenizer has no special token {missing[0]}")
        taken = [self.special_tokens[name] for name in names]
        eot_token = None if self.eot_token in taken else self.eot_token  # None: one of ENDS
        return type(self)(self.text, eot_token, names_are_text=True)

    def to_meta(self):
        meta = {"tokenizer": "tokenizer_json", "tokenizer_json": self.text,
                "eot_token": self.eot_token, "special_tokens": self.special_tokens,
                **tables(self._table)}
        if self.names_are_text:
            meta["names_are_text"] = True
        meta["stoi"] |= self.special_tokens  # which may be named like another token
        return meta


def published_table(text, place):
    """{id: token} of a tokenizer.json, without the package. Raises UserError."""
    try:
        held = json.loads(text)
        vocab = held["model"]["vocab"]
        if isinstance(vocab, list):  # Unigram: pairs of a token and its score
            vocab = {token: i for i, (token, _) in enumerate(vocab)}
        is_byte_level = any(part["type"] == "ByteLevel" for part in _parts(held["pre_tokenizer"]))
        space = " " if " " in vocab else SPACE  # how names of tokens write a space
        table = {i: _token(name, is_byte_level, held["model"].get("byte_fallback"), space)
                 for name, i in vocab.items()}
        table |= {token["id"]: token["content"] for token in held["added_tokens"]}
        if not table or not all(type(i) is int and 0 <= i < 2**32 for i in table):
            raise ValueError("its ids are not whole numbers from 0 on")
        return dict(sorted(table.items()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else printable(str(error), 200)
        raise UserError(f"{place} is no tokenizer.json as the package tokenizers writes it: "
                        f"{why}") from None


def _token(name, is_byte_level, has_bytes, space):
    """The text that a token stands for, from its name in the file."""
    if is_byte_level:
        known = all(character in BYTE_OF for character in name)
        return as_token(bytes(BYTE_OF[character] for character in name)) if known else name
    if has_bytes and re.fullmatch("<0x[0-9A-F]{2}>", name):
        return as_token(bytes([int(name[3:5], 16)]))
    return name.replace(space, " ")


def _parts(step):
    """The steps of a normalizer or a pre-tokenizer, of which a Sequence holds several."""
    if step is None:
        return []
    several = step.get("pretokenizers", step.get("normalizers"))
    return [step] if several is None else [part for one in several for part in _parts(one)]


def _has_borders(held):
    """Whether the ids on both sides of a place that last_border() finds depend on that side alone:
    byte-level BPE with a known pattern, and no token that may hold or take in blanks."""
    parts = _parts(held["pre_tokenizer"])
    own = [part.get("use_regex", True) for part in parts if part["type"] == "ByteLevel"]
    patterns = [part["pattern"].get("Regex") in PATTERNS and part["behavior"] == "Isolated"
                for part in parts if part["type"] == "Split"]
    return (held["model"]["type"] == "BPE" and bool(own) and (own[0] or bool(patterns))
            and all(patterns)
            and {part["type"] for part in parts} <= {"ByteLevel", "Split", "Digits"}
            and not any(part.get("add_prefix_space") or part.get("invert") for part in parts)
            and {part["type"] for part in _parts(held["normalizer"])} <= {"NFC"}
            and not any(token["lstrip"] or token["rstrip"] or token["single_word"]
                        or re.search(r"\s", token["content"]) for token in held["added_tokens"]))


def _without_blanks(text):
    return "".join(text.replace(SPACE, " ").split())
