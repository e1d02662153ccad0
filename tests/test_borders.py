"""Where a text may be cut (pipeline/tokenizers/borders.py): no cut changes an id, in any script.

Run: python -m pytest tests/test_borders.py
     (of all characters of Unicode one in 16, on both sides of each border: add -m "long or not
     long"; all of them: EVERY=1 before it)

A pattern sees a character by its class and its neighbours. So each assigned character stands on
either side of a border, with all kinds of text before and after it. To see a word that extends over
a border, ids are also compared in a vocabulary that merges any two bytes, and those first that are
the end of one character and the beginning of the next.
"""
import collections
import itertools
import os
import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from published_models import train_tokenizer
from test_encode import ENCODINGS, check_cuts

from pipeline.prepare.units import GOES_ON, Piece, make_units
from pipeline.tokenizers import PublishedTokenizer, TiktokenTokenizer, TokenList, borders
from pipeline.tokenizers.trained import train_bpe, train_sentencepiece

ROOT = Path(__file__).resolve().parents[1]
END = "<|endoftext|>"
CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
ASSIGNED = [c for c in CHARACTERS if unicodedata.category(c) not in ("Cn", "Co")]
# what may stand around a border: classes, contractions, runs of white space, marks
BEFORE = ["", "a", "'", " ", "。", "\u0301", "\n", "1"]
RIGHT = [" ", " a", "  \n", "\n", "\n\n", "\r\n", ".", "。", "!/", "'s", "\n中", "\n.", "😀", "¡\n"]
LEFT = ["'", "\n\n", "a", "中", "1", "a\n", "。\n", "'s", "'s\n", "\u0301\n", "'l", "A", "٣"]
AFTER = ["", "a", "l", " ", "\n", "/", "'s", "\u0301", "1"]


def scripts():
    """{the first word of the names of its letters: the characters of a script}."""
    found = collections.defaultdict(list)
    for character in ASSIGNED:
        if unicodedata.category(character)[0] in "LMNP":
            found[unicodedata.name(character, "?").split()[0]].append(character)
    return {name: chars for name, chars in found.items() if any(map(str.isalpha, chars))}


SCRIPTS = scripts()
SPREAD = ("Chinese: 中文没有空格，也有标点。第二行\nไทย ไม่มีวรรค และ สระ ก็ดี。\n"
          "кириллица и слова, 12 слов")


def text_of(script, n, seed):
    """Words of a script, of all its letters, marks, digits and punctuation, with little between."""
    draw = random.Random(f"{script} {seed}")
    between = [*[""] * 4, " ", "\n", "。\n", "，", ".", "。", "'s", "2024", "😀", "\r\n", " — "]
    return "".join("".join(draw.choices(SCRIPTS[script], k=draw.randint(1, 8))) +
                   draw.choice(between) for _ in range(n))


@pytest.fixture(scope="module")
def tokenizers():
    text = SPREAD + "".join(text_of(s, 3, 0) for s in sorted(SCRIPTS))
    return {"gpt2": TiktokenTokenizer("gpt2", backend="tiktoken"),
            "gigatoken": TiktokenTokenizer("gpt2"),
            "bpe": train_bpe([text], 1500, backend="tiktoken"),
            "sentencepiece": train_sentencepiece([text], 2500),
            "custom": TokenList([*sorted(set(text)), "中文", "也有", " a", "ไม่"], True),
            "qwen": PublishedTokenizer(train_tokenizer("qwen").to_str())}


@pytest.mark.parametrize("kind", ["gpt2", "gigatoken", "bpe", "sentencepiece", "custom", "qwen"])
def test_texts_of_all_scripts_are_cut_often_and_no_id_changes(tokenizers, kind):
    tokenizer, cuts = tokenizers[kind], 0
    for script in sorted(SCRIPTS):
        text = text_of(script, 12, 1)
        try:
            tokenizer.encode(text)
        except ValueError:  # a published tokenizer may normalize, and the table is a list
            continue
        cuts += check_cuts(tokenizer, text, 2)
    assert cuts > 2 * len(SCRIPTS) > 300


@pytest.mark.long
@pytest.mark.parametrize("name", ENCODINGS)
def test_texts_of_all_scripts_in_each_encoding(name):
    tokenizer = TiktokenTokenizer(name, backend="tiktoken")
    for script, seed in itertools.product(sorted(SCRIPTS), range(4)):
        assert check_cuts(tokenizer, text_of(script, 40, seed), 3) > 5


@given(st.lists(st.one_of(st.text(max_size=3), st.sampled_from([*BEFORE, *RIGHT, *LEFT, *AFTER])),
                max_size=30).map("".join), st.integers(1, 8))
@settings(max_examples=150)
def test_any_text_may_be_cut_at_its_borders(tokenizers, text, size):
    for kind in ("gpt2", "bpe", "sentencepiece"):
        check_cuts(tokenizers[kind], text, size)


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "sentencepiece"])
@pytest.mark.parametrize("text", [
    "中文没有空格也没有换行，只有标点。", "日本語の文章です。改行がある。\n",
    "русские слова, и точки. ", "ไทยเขียนติดกัน มีวรรคบ้าง", "မြန်မာစာ။ ", "हिन्दी के शब्द। ",
    "한국어 문장입니다. ", "😀😃 👩\u200d👧 ok😀！"])
def test_no_stretch_of_real_text_is_long_without_a_border(tokenizers, kind, text):
    pieces = [Piece("train", (text * 200).encode(), GOES_ON), Piece("train", b"", 2)]
    sizes = [sum(len(piece.raw) for piece in unit)
             for unit in make_units(pieces, tokenizers[kind].border, 64)]
    assert max(sizes) < 260  # bytes; the longest of these sentences has 80


def test_unigram_models_are_cut_at_line_ends_alone():
    sentencepiece = pytest.importorskip("sentencepiece")
    import io

    from pipeline.tokenizers import SentencePieceTokenizer
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SPREAD.split("\n") * 20), model_writer=model, vocab_size=150,
        model_type="unigram", byte_fallback=False, hard_vocab_limit=False, minloglevel=2)
    tokenizer = SentencePieceTokenizer(model.getvalue())
    assert tokenizer.border("кириллица и слова, 12") == 0
    assert tokenizer.border("и\nслова, 12") == 2


def test_the_names_of_added_tokens_are_never_cut(tokenizers):
    text = "say <|im_start|>it, <|im_end|>" * 30
    for size in range(1, 40, 3):
        check_cuts(tokenizers["qwen"], text, size)


# ---- each character


def of_any_two_bytes(pattern):
    """An encoding that merges any two bytes; those first of which the second begins a character."""
    ranks = {bytes([i]): i for i in range(256)}
    for second in sorted(range(256), key=lambda byte: 0x80 <= byte < 0xC0):
        for first in range(256):
            ranks[bytes([first, second])] = len(ranks)
    return tiktoken.Encoding("two bytes", pat_str=pattern, mergeable_ranks=ranks,
                             special_tokens={END: len(ranks)})


def differing(encoding, pairs):
    """(number of pairs (A, B) with a border between them, those of which the ids differ)."""
    def ids_of(texts):
        ids = encoding.encode_to_numpy("".join(text + END for text in texts),
                                       allowed_special={END}, disallowed_special=())
        ends = np.flatnonzero(ids == encoding._special_tokens[END])
        return [part[:-1].tolist() for part in np.split(ids, ends[:-1] + 1)]

    tried, wrong, pairs = 0, [], iter(pairs)
    while some := list(itertools.islice(pairs, 20_000)):
        some = [(a, b) for a, b in some if borders._border().match(a + b, len(a))]
        tried += len(some)
        if some:
            together = ids_of(a + b for a, b in some)
            left, right = (ids_of(side) for side in zip(*some))
            wrong += [pair for pair, ids, a, b in zip(some, together, left, right) if ids != a + b]
    return tried, wrong


def neighbourhoods(characters):
    for c in characters:
        yield from ((before + c, right) for right in RIGHT for before in BEFORE)
        yield from ((left, c + after) for left in LEFT for after in AFTER)


def check_neighbourhoods(name, characters):
    encoding = TiktokenTokenizer(name, backend="tiktoken")._encoding
    for tried in (encoding, of_any_two_bytes(encoding._pat_str)):
        number, wrong = differing(tried, neighbourhoods(characters))
        assert number > 50 * len(characters) and wrong == []


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_some_characters_on_both_sides_of_each_kind_of_border(name):
    check_neighbourhoods(name, ASSIGNED[:: len(ASSIGNED) // 40])


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "p50k_base", "cl100k_base", "o200k_base"])
def test_each_character_on_both_sides_of_each_kind_of_border(name):
    """One in EVERY, which is 16: with the variable EVERY=1 in the environment, all of them."""
    letters = "HANGUL SYLLABLE|CJK UNIFIED"  # 110,000 that differ in nothing: a tenth of them
    alike = [c for c in ASSIGNED if re.match(letters, unicodedata.name(c, ""))]
    unassigned = sorted({*CHARACTERS} - {*ASSIGNED})[::97]
    tried = sorted({*ASSIGNED} - {*alike}) + alike[::10] + unassigned
    check_neighbourhoods(name, tried[:: int(os.environ.get("EVERY", 16))])


@pytest.mark.parametrize("looser", [r"|(?<=。)(?=\n)", r"|(?<=')(?=[a-z])", r"|(?<=\S\n)(?=/)",
                                    r"|(?<=\w)(?=')", r"|(?<=\n\n)(?=\w)", r"|(?<=1)(?=1)"])
def test_this_file_would_see_a_border_that_is_none(monkeypatch, looser):
    pattern = re.compile(borders._border().pattern + looser)
    monkeypatch.setattr(borders, "_border", lambda: pattern)
    found = []
    for name in ("gpt2", "cl100k_base", "o200k_base"):
        encoding = TiktokenTokenizer(name, backend="tiktoken")._encoding
        for tried in (encoding, of_any_two_bytes(encoding._pat_str)):
            found += differing(tried, neighbourhoods(["a", "。", "1", "/", "s", "\n"]))[1]
    assert found


# ---- memory


@pytest.mark.long
@pytest.mark.parametrize("method, workers", [("gigatoken", 2), ("sentencepiece", 1)])
def test_other_scripts_take_the_memory_of_english(tmp_path, method, workers):
    draw, peaks = random.Random(4), {}
    letters = {"english": "etaoinshrdlu", "chinese": "的一是不了人我在有他这为之大来以个中上们",
               "thai": "กขคงจฉชซญดตถทนบป", "russian": "оеаинтсрвлкмдпуя", "emoji": "😀😂🔥🎉東京ok"}
    for script, alphabet in letters.items():
        gap = "，" if script == "chinese" else " "
        block = gap.join("".join(draw.choices(alphabet, k=draw.randint(2, 9)))
                         for _ in range(100_000))
        size = 30_000_000 if method != "sentencepiece" else 4_000_000  # bytes
        (tmp_path / "input.txt").write_text(block * (size // len(block.encode()) + 1))
        backend = f'TiktokenTokenizer("gpt2", backend="{method}")'
        code = ("import resource, sys; from pipeline.prepare import *; from pipeline.tokenizers."
                "trained import train_sentencepiece; text = TextFile(sys.argv[1] + '/input.txt'); "
                + ("t = train_sentencepiece([next(text.utf8()).decode()], 500)"
                   if method == "sentencepiece" else f"t = {backend}") +
                f"; write_dataset(sys.argv[1], text, t, num_workers={workers}); "
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
        run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True,
                             capture_output=True, text=True)
        peaks[script] = int(run.stdout.splitlines()[-1])
    assert max(peaks.values()) < 1.3 * peaks["english"], peaks
