"""Parts of speech as a stream (data/part_of_speech.py): aligned with the text, Brill's rules, spaCy where it is there.

Run: python -m pytest tests/test_part_of_speech.py      (the lexicon from the real package index: add -m "long or not long")
"""
import argparse
import importlib.util
import random
import re
import subprocess
import sys
import types

import pytest
from helpers import char_dataset, child_env, one_line_error
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prepare import part_of_speech
from pipeline.prepare.part_of_speech import (
    ALPHABET,
    NEAR,
    PARTS,
    TOKEN,
    Brill,
    part_of,
    symbols_of,
    write_part_of_speech,
)
from pipeline.read.folder import SPLITS, open_dataset


def brill(tmp_path, lexicon="", morphology="", context=""):
    for name, text in (("lexicon", lexicon), ("morphology", morphology), ("context", context)):
        (tmp_path / f"en-{name}.txt").write_text(f";;; a comment\n\n{text}\n")
    return Brill(tmp_path)


def decoded(folder):
    dataset = open_dataset(f"{folder}/")
    return ["".join(dataset.meta["itos"][i] for i in dataset.tokens(split).tolist()) for split in SPLITS], dataset.meta


# ---- each character has a symbol


def test_the_alphabet_has_22_symbols_whole():
    assert ALPHABET == sorted("\n _x" + "abcdefghijklmnopqr") and len(ALPHABET) == 22


@given(st.text("ab'. \n\t\r\u00e9\u2003-_9", max_size=60))
def test_every_character_has_a_symbol_and_blanks_their_own(text):
    words = [(m.start(), m.end(), "i") for m in TOKEN.finditer(text)]
    symbols = symbols_of(text, words)
    assert len(symbols) == len(text) and set(symbols) <= set(ALPHABET)
    for at, (c, symbol) in enumerate(zip(text, symbols)):
        behind_a_word = at > 0 and not text[at - 1].isspace()
        blank = "\n" if c == "\n" else " " if c == " " and behind_a_word else "_"
        assert symbol == (blank if c.isspace() else "i")
    assert symbols_of(text, []) == symbols.replace("i", "x")


def test_pieces_are_cut_behind_lines_and_hold_all_the_text(monkeypatch):
    monkeypatch.setattr(part_of_speech, "PIECE", 100)
    text = "".join(f"line {i} of some\n" + "\n" * (i % 5 == 0) for i in range(60)) + "x" * 250
    for size in (7, 100, 5000):
        pieces = list(part_of_speech._pieces(text[i : i + size] for i in range(0, len(text), size)))
        assert "".join(pieces) == text and max(map(len, pieces)) <= 100
        assert all(piece.endswith("\n") for piece in pieces[:-3])
        assert len(pieces) < 20


@pytest.mark.parametrize("text, words", [
    ("I don't know, he'll vex'd o'er 1,000.", "I do n't know , he 'll vex'd o'er 1,000 ."),
    ("'Tis you'd said: well-known_", "'T is you 'd said : well - known _"), ("the king's 'em", "the king 's 'em")])
def test_words_and_marks(text, words):
    assert TOKEN.findall(text) == words.split()


# ---- Brill's rules


def test_words_of_the_lexicon_and_others_by_their_form(tmp_path):
    tagger = brill(tmp_path, "run VB\nJJs JJ|NN\nhappy JJ\nwell RB", """NN s fhassuf 1 NNS x
        ly hassuf 2 RB x\nun deletepref 2 JJ x\nNN - fchar JJ x\nNN er faddsuf 2 VB x\nNN pre fhaspref 3 VBP x
        NN ing fdeletesuf 3 VBG x\nNN the fgoodright VB x\nMr. goodright NNP x""".replace("        ", ""))
    for word, tag in {"run": "VB", "JJs": "JJ", "cats": "NNS", "Cats": "NNP", "cat": "NN", "oddly": "RB", "unhappy": "JJ",
                      "a-b": "JJ", "pretend": "VBP", "running": "NN", "12": "CD", "welling": "VBG", ";": "."}.items():
        assert tagger.first_tag(word) == tag, word
    assert brill(tmp_path, "vexed VBN").first_tag("vex'd") == "VBN"


def slow_rule(words, tags, old, new, where, near):
    """One rule on every word at once, as the comments of such files say."""
    def at(what, i):
        return what[i] if 0 <= i < len(what) else None
    kind = re.match("(PREV|NEXT)(1OR2OR3|1OR2|2|)(TAG|WD)$", where)
    out = list(tags)
    for i in range(len(words)):
        if kind:
            which = {"": [1], "2": [2], "1OR2": [1, 2], "1OR2OR3": [1, 2, 3]}[kind[2]]
            sign = -1 if kind[1] == "PREV" else 1
            hit = near[0] in [at(tags if kind[3] == "TAG" else words, i + sign * n) for n in which]
        else:
            first, second = {
                "SURROUNDTAG": ((tags, -1), (tags, 1)), "PREVBIGRAM": ((tags, -2), (tags, -1)), "CURWD": ((words, 0), None),
                "NEXTBIGRAM": ((tags, 1), (tags, 2)), "LBIGRAM": ((words, -1), (words, 0)), "RBIGRAM": ((words, 0), (words, 1)),
                "WDAND2AFT": ((words, 0), (words, 2)), "WDAND2TAGAFT": ((words, 0), (tags, 2)),
                "WDAND2TAGBFR": ((tags, -2), (words, 0)), "WDNEXTTAG": ((words, 0), (tags, 1)),
                "WDPREVTAG": ((tags, -1), (words, 0))}[where]
            hit = all(at(what[0], i + what[1]) == wanted for what, wanted in zip((first, second), near))
        out[i] = new if hit and tags[i] == old else tags[i]
    return out


@pytest.mark.parametrize("where", NEAR)
def test_a_rule_on_neighbours_does_what_its_name_says(tmp_path, where):
    tag_of = {"n": "NN", "v": "VB", "j": "JJ", "n2": "NN"}
    args = {"t": ["VB", "NN"], "w": ["n", "v"]}
    near = ["n" if place == "w+0" else args[place[0]][i] for i, place in enumerate(NEAR[where].split())]
    tagger = brill(tmp_path, "\n".join(f"{w} {t}" for w, t in tag_of.items()), context=f"NN JJ {where} {' '.join(near)}")
    changed = 0
    for text in (["n"], ["v", "n"], ["n", "v"], random.Random(1).choices(list(tag_of), k=400)):
        tags = [tag_of[word] for word in text]
        expected = slow_rule(text, tags, "NN", "JJ", where, near)
        changed += expected != tags
        assert tagger.tags(text) == expected
    assert changed


def test_the_first_word_of_a_sentence_is_looked_up_in_small_letters(tmp_path):
    tagger = brill(tmp_path, "before IN\nBefore NNP")
    assert tagger.tags(["Before", ",", "Before", ":", "Before"]) == ["IN", ".", "NNP", ".", "IN"]
    assert tagger.tags([]) == []


def test_every_tag_has_a_part_of_speech():
    assert [part_of(word, tag) for word, tag in [
        ("is", "VBZ"), ("hath", "NN"), ("'s", "VBZ"), ("'s", "POS"), ("n't", "RB"), ("if", "IN"), ("in", "IN"), ("$", "$"),
        ("--", ":"), ("--", "NN"), ("run", "VB"), ("thing", "?")]] == [
        "AUX", "AUX", "AUX", "PART", "PART", "SCONJ", "ADP", "SYM", "PUNCT", "PUNCT", "VERB", "X"]
    assert set(part_of_speech.PENN.values()) <= set(PARTS)


# ---- which tagger


@pytest.fixture
def text(tmp_path):
    return char_dataset(tmp_path / "text", "Go on.\n\n  You go\ton, on!\n" * 200)


def args(tagger="auto"):
    return argparse.Namespace(tagger=tagger, offline=False)


def test_spacy_tells_where_it_and_its_model_are_installed(text, tmp_path, monkeypatch):
    class Token:
        def __init__(self, match):
            self.idx, self.word, self.is_space = match.start(), match[0], match[0].isspace()
            self.pos_ = {"Go": "VERB", "go": "VERB", "You": "PRON", ".": "PUNCT", "!": "PUNCT"}.get(self.word, "NEW")

        def __len__(self):
            return len(self.word)

    def load(name, exclude):
        nlp = lambda piece: [Token(m) for m in re.finditer(r"\w+|[^\w\s]|\s+", piece)]  # noqa: E731
        nlp.meta = {"version": "9.1"}
        return nlp

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=load, __version__="9.0"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in ("spacy", "en_core_web_sm") or None)
    (tmp_path / "s").mkdir()
    write_part_of_speech(tmp_path / "s", args(), f"{text}/")
    (train, val), meta = decoded(tmp_path / "s")
    assert train + val == "qq xxn\n\n__lll qq_xxx xxn\n" * 200  # "on," as well: no tag that is known
    assert meta["stream"]["tagger"] == {"name": "spacy", "version": "9.0", "model": "en_core_web_sm", "model_version": "9.1"}
    assert "map" not in meta["stream"] and meta["stream"]["annotation"] == "part_of_speech"
    assert meta["stream"]["text_sha256"] == open_dataset(f"{text}/").fingerprint()


def test_spacy_that_is_asked_for_and_missing_is_one_line(text, tmp_path, capsys, monkeypatch):
    def write(tagger):
        write_part_of_speech(tmp_path, args(tagger), f"{text}/")

    monkeypatch.setitem(sys.modules, "spacy", None)
    assert one_line_error(capsys, write, "spacy") == ("error: --tagger spacy needs the package spacy. Run: pip install spacy")

    def no_model(name, exclude):
        raise OSError(f"[E050] Can't find model '{name}'.")
    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=no_model))
    assert one_line_error(capsys, write, "spacy") == (
        "error: --tagger spacy needs its model en_core_web_sm. Run: python -m spacy download en_core_web_sm")


# ---- the real package index


@pytest.mark.long
def test_the_lexicon_of_the_package_index_tags_english(repo, tmp_path):
    said = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
    parts = "mmmmm mmmmmmmn\nbbbbbb ll qqqqqqq ggg iiiiiiin qqqq ll qqqqqn\n\ngggn\niiiiin qqqqqn\n"
    char_dataset(repo / "data/shakespeare_char", said * 100)
    folder = repo / "data/shakespeare_char_part_of_speech"
    run = subprocess.run(["bash", folder / "get_dataset.sh", "--tagger", "textblob"], env=child_env(), capture_output=True,
                         text=True)
    assert run.returncode == 0, run.stderr
    (train, val), meta = decoded(folder)
    assert train.startswith(parts) and len(train + val) == 100 * len(said)
    assert sum(a == b for a, b in zip(train + val, parts * 100)) / len(train + val) > 0.98
    assert meta["stream"]["tagger"] == {"name": "textblob", "version": "0.20.1", "sha256": part_of_speech.TEXTBLOB[1]}
    again = subprocess.run(["bash", folder / "get_dataset.sh", "--offline", "--tagger", "textblob"], capture_output=True,
                           env=child_env(PIP_INDEX_URL="http://127.0.0.1:9/"))
    assert again.returncode == 0 and decoded(folder)[0] == [train, val]
