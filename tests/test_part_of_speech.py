"""Parts of speech as a stream (pipeline/prepare/part_of_speech.py): aligned with the text.

Run: python -m pytest tests/test_part_of_speech.py
The tests of textblob's tags are skipped where that package is missing; spaCy's model is a stand-in.
"""
import importlib.metadata
import importlib.util
import re
import shutil
import sys
import types

import pytest
from helpers import char_dataset, one_line_error, only_line, python
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prepare import part_of_speech
from pipeline.prepare.part_of_speech import (
    ALPHABET,
    PARTS,
    PENN,
    TOKEN,
    part_of,
    symbols_of,
    write_part_of_speech,
)
from pipeline.read.folder import SPLITS, open_dataset


def decoded(folder):
    dataset = open_dataset(f"{folder}/")
    return ["".join(dataset.meta["itos"][i] for i in dataset.tokens(split).tolist())
            for split in SPLITS], dataset.meta


# ---- each character has a symbol


def test_the_alphabet_always_has_all_22_symbols():
    assert ALPHABET == sorted("\n _x" + "abcdefghijklmnopqr") and len(ALPHABET) == 22


@given(st.text("ab'. \n\t\r\u00e9\u2003-_9", max_size=60))
def test_every_character_has_a_symbol_and_blanks_their_own(text):
    words = [(m.start(), m.end(), "i") for m in TOKEN.finditer(text)]
    symbols = symbols_of(text, words)
    assert len(symbols) == len(text) and set(symbols) <= set(ALPHABET)
    for at, (c, symbol) in enumerate(zip(text, symbols)):
        after_word = at > 0 and not text[at - 1].isspace()
        blank = "\n" if c == "\n" else " " if c == " " and after_word else "_"
        assert symbol == (blank if c.isspace() else "i")
    assert symbols_of(text, []) == symbols.replace("i", "x")


def test_pieces_are_cut_after_lines_and_contain_all_the_text(monkeypatch):
    monkeypatch.setattr(part_of_speech, "PIECE", 100)
    text = "".join(f"line {i} of some\n" + "\n" * (i % 5 == 0) for i in range(60)) + "x" * 250
    for size in (7, 100, 5000):
        blocks = (text[i : i + size] for i in range(0, len(text), size))
        pieces = list(part_of_speech._pieces(blocks))
        assert "".join(pieces) == text and max(map(len, pieces)) <= 100
        assert all(piece.endswith("\n") for piece in pieces[:-3])
        assert len(pieces) < 20


@pytest.mark.parametrize("text, words", [
    ("I don't know, he'll vex'd o'er 1,000.", "I do n't know , he 'll vex'd o'er 1,000 ."),
    ("'Tis you'd said: well-known_", "'T is you 'd said : well - known _"),
    ("the king's 'em", "the king 's 'em")])
def test_words_and_marks(text, words):
    assert TOKEN.findall(text) == words.split()


def test_every_tag_has_a_part_of_speech():
    assert [part_of(word, tag) for word, tag in [
        ("is", "VBZ"), ("hath", "NN"), ("'s", "VBZ"), ("'s", "POS"), ("n't", "RB"), ("if", "IN"),
        ("in", "IN"), ("$", "$"), ("--", ":"), ("--", "NN"), ("run", "VB"), ("thing", "?")]] == [
        "AUX", "AUX", "AUX", "PART", "PART", "SCONJ", "ADP", "SYM", "PUNCT", "PUNCT", "VERB", "X"]
    assert set(PENN.values()) <= set(PARTS)


# ---- textblob


@given(st.text("aThe'. \n\t\u00e9\u2003-_9/&:?", max_size=80))
def test_textblob_gives_each_word_one_tag_whatever_the_text(text):
    pytest.importorskip("textblob")
    tag, _ = part_of_speech.TAGGERS["textblob"]()
    found = tag(text)
    assert [(begin, end) for begin, end, _ in found] == [m.span() for m in TOKEN.finditer(text)]
    assert {letter for *_, letter in found} <= set(PARTS.values())


SAID = ("First Citizen:\nBefore we proceed any further, hear me speak.\n\n"
        "All:\nSpeak, speak and/or run.\n")
PARTS_OF_IT = ("mmmmm mmmmmmmn\nbbbbbb ll qqqqqqq ggg aaaaaaan qqqq ll qqqqqn\n\n"
               "ggg:\nqqqqqn qqqqq fffnff qqqn\n").replace(":", "n")


def test_textblob_tags_english(repo, tmp_path):
    version = pytest.importorskip("textblob") and importlib.metadata.version("textblob")
    text = char_dataset(tmp_path / "text", SAID * 100)
    (tmp_path / "s").mkdir()
    write_part_of_speech(tmp_path / "s", f"{text}/", "textblob")
    (train, val), meta = decoded(tmp_path / "s")
    assert train.startswith(PARTS_OF_IT) and len(train + val) == 100 * len(SAID)
    assert sum(map(str.__eq__, train + val, PARTS_OF_IT * 100)) / len(train + val) > 0.98
    assert meta["stream"]["tagger"] == {"name": "textblob", "version": version}


# ---- which tagger


@pytest.fixture
def text(tmp_path):
    return char_dataset(tmp_path / "text", "Go on.\n\n  You go\ton, on!\n" * 200)


def test_spacy_tags_if_it_and_its_model_are_installed(text, tmp_path, monkeypatch):
    parts = {"Go": "VERB", "go": "VERB", "You": "PRON", ".": "PUNCT", "!": "PUNCT"}

    class Token:
        def __init__(self, match):
            self.idx, self.word, self.is_space = match.start(), match[0], match[0].isspace()
            self.pos_ = parts.get(self.word, "NEW")

        def __len__(self):
            return len(self.word)

    def load(name, exclude):
        nlp = lambda piece: [Token(m) for m in re.finditer(r"\w+|[^\w\s]|\s+", piece)]  # noqa: E731
        nlp.meta = {"version": "9.1"}
        return nlp

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=load, __version__="9.0"))
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name: name in ("spacy", "en_core_web_sm") or None)
    (tmp_path / "s").mkdir()
    write_part_of_speech(tmp_path / "s", f"{text}/")
    (train, val), meta = decoded(tmp_path / "s")
    assert train + val == "qq xxn\n\n__lll qq_xxx xxn\n" * 200  # "on," has an unknown tag
    assert meta["stream"]["tagger"] == {"name": "spacy", "version": "9.0",
                                        "model": "en_core_web_sm", "model_version": "9.1"}
    assert "map" not in meta["stream"] and meta["stream"]["annotation"] == "part_of_speech"
    assert meta["stream"]["text_sha256"] == open_dataset(f"{text}/").fingerprint()


def test_a_tagger_that_is_missing_is_one_line(text, tmp_path, capsys, monkeypatch):
    def write(tagger):
        write_part_of_speech(tmp_path, f"{text}/", tagger)

    for package in ("spacy", "textblob"):
        monkeypatch.setitem(sys.modules, package, None)
        told = one_line_error(capsys, write, package)
        assert f"--tagger {package}" in told and f"pip install {package}" in told

    def no_model(name, exclude):
        raise OSError(f"[E050] Can't find model '{name}'.")
    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=no_model))
    told = one_line_error(capsys, write, "spacy")
    assert told.endswith("Run: python -m spacy download en_core_web_sm")


def test_a_missing_textblob_is_one_line_of_the_command_and_leaves_no_dataset(repo, tmp_path):
    text = char_dataset(tmp_path / "text", SAID * 20)
    (tmp_path / "textblob.py").write_text("raise ImportError")
    folder = tmp_path / "speech"
    shutil.copytree(repo / "data/shakespeare_char_part_of_speech", folder)
    script = (folder / "prepare.py").read_text().replace('"shakespeare_char"', f'"{text}/"')
    (folder / "prepare.py").write_text(script)
    run = python(folder / "prepare.py", "--tagger=textblob", PYTHONPATH=str(tmp_path))
    assert run.returncode == 2 and "pip install textblob" in only_line(run.stderr)
    assert not (folder / "meta.pkl").exists()
