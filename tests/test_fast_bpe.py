"""gigatoken in tiktoken's place (pipeline/tokenizers/fast_bpe.py): the proof that ids are equal.

Run: python -m pytest tests/test_fast_bpe.py
     (each proven character, three encodings: add -m "long or not long")
Skipped where gigatoken is not installed in the version that the module names.

A word-cutting pattern sees a character only by its class (letter, digit, space, ...) and by the
characters next to it. So each character of PROVEN is tried beside every class on either side, as
are all short strings over the classes; and the tokens themselves, to compare the merging of bytes.
"""
import importlib.metadata
import itertools
import random

import numpy as np
import pytest
from helpers import says
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.tokenizers import TiktokenTokenizer, fast_bpe, tokenizer_from_meta
from pipeline.tokenizers.fast_bpe import PROVEN, VERSION, FastBPE

try:
    INSTALLED = importlib.metadata.version("gigatoken")
except importlib.metadata.PackageNotFoundError:
    INSTALLED = None
needs_gigatoken = pytest.mark.skipif(INSTALLED != VERSION,
                                     reason=f"gigatoken {VERSION} is not installed")
CHARACTERS = [chr(c) for first, last in PROVEN for c in range(first, last + 1)]
CLASSES = ["a", "S", "é", "中", "1", " ", "\n", "\r", "\t", "'", ".", "/", "\u0301", "\xa0"]
NEIGHBOURS = ["", "a", "A", "1", " ", "  ", "\n", ".", "'", "a'", "'s", "中", "\u0301"]


@pytest.fixture(scope="module")
def both():
    """name -> (the tokenizer by gigatoken, the same by tiktoken alone)."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = (TiktokenTokenizer(name, backend="gigatoken"),
                          TiktokenTokenizer(name, backend="tiktoken"))
        return made[name]
    return get


def differing(both, texts):
    """The texts whose ids differ, each text a document of one batch."""
    fast, slow = both
    encoding = slow._encoding
    return [text for text in texts
            if fast._fast.fast.encode(text).tolist() != encoding.encode_ordinary(text)]


@needs_gigatoken
def test_ascii_in_every_neighbourhood_and_all_strings_of_three_classes(both):
    ascii_in_neighbourhoods = (a + c + b for c in CHARACTERS[:128] for a in NEIGHBOURS
                               for b in NEIGHBOURS)
    assert differing(both("gpt2"), ascii_in_neighbourhoods) == []
    assert differing(both("gpt2"), map("".join, itertools.product(CLASSES, repeat=3))) == []


@needs_gigatoken
@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_each_proven_character_in_every_neighbourhood(both, name):
    for a, b in itertools.product(NEIGHBOURS, repeat=2):
        assert differing(both(name), (a + c + b for c in CHARACTERS)) == [], (a, b)


@needs_gigatoken
@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_all_strings_of_up_to_five_classes_and_all_contractions(both, name):
    strings = itertools.chain.from_iterable(itertools.product(CLASSES, repeat=n)
                                            for n in range(1, 5))
    assert differing(both(name), map("".join, strings)) == []
    five = itertools.product(["a", "S", "1", " ", "\n", "\r", "'", ".", "é"], repeat=5)
    assert differing(both(name), map("".join, five)) == []
    letters = "sStTdDmMlLrRvVeEſK"
    contractions = (a + q + x + y + b for a in ("", "a", " ", "1") for q in "'’" for x in letters
                    for y in ["", *letters]
                    for b in ("", "a", " ", "'s"))
    assert differing(both(name), contractions) == []


@needs_gigatoken
@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_each_token_by_itself_and_beside_another_is_merged_alike(both, name):
    proven = set(CHARACTERS)
    tokens = []
    for raw in both(name)[1]._encoding._mergeable_ranks:
        try:
            tokens.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            continue
    tokens = [token for token in tokens if proven.issuperset(token)]
    assert len(tokens) > 45_000
    shuffled = random.Random(name).sample(tokens, len(tokens))
    assert differing(both(name), tokens) == []
    assert differing(both(name), map("".join, zip(tokens, shuffled))) == []


@needs_gigatoken
@given(st.lists(st.sampled_from([*CLASSES, "word ", "'s", "’", "\u0378", "😀", "\U000e0001", "ⅷ",
                                 "\u088f", "ꟑ", "\x00"]),
                max_size=30).map("".join))
@settings(max_examples=200)
def test_any_text_gets_tiktokens_ids_whatever_it_is_made_of(both, text):
    fast, slow = both("gpt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_bpe, "PIECE", 8)
        assert fast.encode(text).tolist() == slow.encode(
            text).tolist() == slow._encoding.encode_ordinary(text)
    assert fast.encode(text).dtype == np.uint32


@needs_gigatoken
def test_outside_of_the_proven_characters_they_do_differ_and_this_file_would_see_it(both):
    others = (chr(c) for c in range(0x110000)
              if not (0xD800 <= c < 0xE000 or both("gpt2")[0]._fast.proven[c]))
    assert len(differing(both("gpt2"), (a + c + "'s" for c in itertools.islice(others, 5000)
                                        for a in ("", "a")))) > 0


@needs_gigatoken
def test_a_strange_character_goes_to_tiktoken_and_only_its_stretch_does(both, monkeypatch):
    fast, slow = both("gpt2")
    text = "plain words and more é " * 20_000
    seen = []

    class Spy:
        def encode_to_numpy(self, piece, **kw):
            seen.append(len(piece))
            return slow._encoding.encode_to_numpy(piece, **kw)
    monkeypatch.setattr(fast._fast, "encoding", Spy())
    strange = text + "\u088f's" + text
    assert fast.encode(strange).tolist() == slow.encode(strange).tolist()
    assert len(seen) == 1 and seen[0] <= fast_bpe.PIECE


@needs_gigatoken
def test_the_name_of_a_special_token_is_text_for_gigatoken_too(both):
    fast, slow = both("gpt2")
    assert fast.encode("a<|endoftext|>b").tolist() == slow.encode("a<|endoftext|>b").tolist()


@needs_gigatoken
def test_auto_takes_gigatoken_and_says_so_and_the_tables_are_the_same(both):
    fast, slow = both("gpt2")
    assert (TiktokenTokenizer("gpt2").backend, fast.backend, slow.backend) == (
        f"gigatoken {VERSION}", f"gigatoken {VERSION}", "tiktoken")
    assert fast.to_meta() == slow.to_meta()
    assert TiktokenTokenizer("p50k_base").backend == "tiktoken"  # it has gaps
    assert tokenizer_from_meta(slow.to_meta()).backend == "tiktoken"  # a prompt is short


def test_without_gigatoken_auto_is_tiktoken_and_asking_for_it_says_what_to_install(monkeypatch):
    def none(package):
        raise importlib.metadata.PackageNotFoundError
    monkeypatch.setattr(importlib.metadata, "version", none)
    assert TiktokenTokenizer("gpt2").backend == "tiktoken"
    with pytest.raises(UserError) as error:
        TiktokenTokenizer("gpt2", backend="gigatoken")
    says(str(error.value), f"pip install gigatoken=={VERSION}", "--backend tiktoken")


@pytest.mark.parametrize("kw, fact", [
    (dict(name="p50k_base"), "p50k_base"),
    (dict(additional_tokens={"<x>": 50257}), "additional tokens")])
def test_what_gigatoken_cannot_do_is_said(kw, fact):
    with pytest.raises(UserError) as error:
        TiktokenTokenizer(backend="gigatoken", **kw)
    says(str(error.value), "gigatoken", fact, "--backend tiktoken")


def test_another_version_is_not_trusted(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "9.9.9")
    assert TiktokenTokenizer("gpt2").backend == "tiktoken"
    with pytest.raises(UserError) as error:
        TiktokenTokenizer("gpt2", backend="gigatoken")
    says(str(error.value), VERSION, "9.9.9")
    assert FastBPE.name == f"gigatoken {VERSION}"
