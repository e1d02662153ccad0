"""Text -> ids (data/encode.py): the same bins for any unit size, workers and backend; resumed after kills; in bounded memory.

Run: python -m pytest tests/test_encode.py            (gigabytes, kills, dask: add -m "long or not long")
"""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import child_env, one_line_error, only_line, python
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import dataset as dataset_module
from data import encode as encode_module
from data.dataset import load_plain, open_dataset, write_dataset
from data.encode import ENDS_TEXT, GOES_ON, split_pieces, units
from data.errors import UserError
from data.files import lock
from data.inputs import TextFile, open_inputs, read_documents
from data.tokenizer import (ByteTokenizer, CharTokenizer, TableTokenizer, TiktokenTokenizer, TokenList, UnknownText,
                            tokenizer_from_meta)

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("train", "val")
ENCODINGS = ["gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony"]
# what patterns of tiktoken look at: cases, digits, contractions, spaces of all kinds, line ends, marks, scripts
ATOMS = ["a", "Zx", "é", "ſ", "7", "1234", "'s", "'LL", "’", " ", "  ", "\n", "\r\n", "\n\n", "\t", "\xa0", "\u2003",
         ".", "...", "/", "_", "\x00", "e\u0301", "中文", "日", "かな", "😀", "👩\u200d👧", "²", "ª", "Ǆ", "߀", "\u0345", " I",
         " the", " .", ". B", "x\n", "9\n", ")\n"]
TEXTS = st.lists(st.sampled_from(ATOMS), max_size=60).map("".join)


@pytest.fixture(scope="module")
def gpt2():
    return TiktokenTokenizer("gpt2", backend="tiktoken")


def bins(folder):
    return [(folder / f"{split}.bin").read_bytes() for split in SPLITS]


def written(folder, text, tokenizer, **kw):
    folder.mkdir(exist_ok=True)
    write_dataset(folder, text, tokenizer, **kw)
    return bins(folder)


def mixed_text(n, seed=0):
    """Words, numbers, punctuation and lines, one in fifty of them not English. n: words."""
    draw = random.Random(seed)
    words = ["the", "Of", "and", "it's", "1984", "end.", "end.\n", "so\n\n", "naïve", "“yes”", "中文", "😀", "x_y", "  ", "\t"]
    weights = [9, 9, 9, 5, 5, 5, 5, 2, 1, 2, 1, 1, 2, 1, 1]
    return " ".join(draw.choices(words, weights, k=n))


# ---- borders and units


@given(TEXTS, st.integers(1, 8))
@settings(max_examples=150)
def test_a_text_cut_at_borders_gives_the_ids_of_one_call(gpt2, text, size):
    check_cuts(gpt2, text, size)


def check_cuts(tokenizer, text, size):
    pieces = [("train", c, GOES_ON) for c in text] + [("train", "", ENDS_TEXT)]
    parts = [part for unit in units(pieces, tokenizer.border, size) for _, part, _ in unit]
    assert "".join(parts) == text
    assert [i for part in parts for i in tokenizer.encode(part).tolist()] == tokenizer.encode(text).tolist()
    return len(parts)


@pytest.mark.long
@pytest.mark.parametrize("name", ENCODINGS)
def test_each_encoding_gives_the_ids_of_one_call_for_any_cut(name):
    tokenizer = TiktokenTokenizer(name, backend="tiktoken")
    cuts = 0

    @given(TEXTS, st.integers(1, 8))
    @settings(max_examples=3000)
    def check(text, size):
        nonlocal cuts
        cuts += check_cuts(tokenizer, text, size)
    check()
    assert cuts > 20_000  # else borders were hardly found


@given(st.lists(st.text(alphabet="ab c\né", min_size=1, max_size=4), max_size=8), st.text(alphabet="ab c\né"),
       st.integers(1, 5))
@settings(max_examples=150)
def test_a_list_of_tokens_gives_the_ids_of_one_call_for_any_cut(tokens, text, size):
    check_cuts(TokenList(dict.fromkeys([*tokens, "a", "b", " "]), byte_fallback=True), text, size)


@given(st.text(), st.integers(1, 5))
def test_characters_and_bytes_may_be_cut_anywhere(text, size):
    for tokenizer in (CharTokenizer.from_text(text + "x"), ByteTokenizer()):
        assert check_cuts(tokenizer, text, size) >= len(text) // (2 * size)


def test_a_text_without_borders_is_one_unit(gpt2):
    assert check_cuts(gpt2, "\n" * 1000, 10) == 1


def test_additional_tokens_are_never_cut():
    tokenizer = TiktokenTokenizer("gpt2", additional_tokens={"<a b>": 50257, "x\ny": 50258})
    text = "say <a b> or x\ny then <a b><a b>\n" * 20
    assert check_cuts(tokenizer, text, 1) > 20
    assert tokenizer.encode(text).tolist().count(50257) == 60 and tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.text(alphabet="ab\n é", max_size=9), max_size=20), st.integers(1, 12), st.floats(0.1, 0.9))
def test_the_cut_between_the_splits_is_at_the_same_character_however_the_text_comes(pieces, size, share):
    class Pieces(TextFile):
        def __init__(self):
            self._length = None

        def __iter__(self):
            return iter(pieces)

        def length(self):
            return sum(map(len, pieces))
    text = "".join(pieces)
    for source in (text, Pieces()):
        found = {"train": "", "val": ""}
        for unit in units(split_pieces(source, None, share), len, size):
            for split, part, _ in unit:
                found[split] += part
        cut = int(len(text) * share)
        assert (found["train"], found["val"]) == (text[:cut], text[cut:])


# ---- the same bins, whoever encodes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "input.txt"
    path.write_text(mixed_text(40_000), encoding="utf-8")
    return path


def test_the_bins_are_the_same_for_any_unit_size_workers_and_form_of_the_text(corpus, tmp_path, gpt2):
    text = corpus.read_text(encoding="utf-8")
    for tokenizer in (gpt2, CharTokenizer.from_text(text), ByteTokenizer()):
        cut = int(len(text) * 0.9)
        dtype = "<u2"
        expected = [tokenizer.encode(part).astype(dtype).tobytes() for part in (text[:cut], text[cut:])]
        for kw in (dict(), dict(unit_size=1000), dict(unit_size=4096, num_workers=1),
                   dict(unit_size=10_000, num_workers=8)):
            assert written(tmp_path / "a", text, tokenizer, **kw) == expected
            assert written(tmp_path / "a", TextFile(corpus), tokenizer, **kw) == expected


def test_processes_give_the_same_bins_as_this_process(corpus, tmp_path):
    tokenizer = TokenList(["the", "the ", " and", "end."], byte_fallback=True)
    one = written(tmp_path / "a", TextFile(corpus), tokenizer, num_workers=1)
    assert written(tmp_path / "b", TextFile(corpus), tokenizer, num_workers=2, unit_size=50_000) == one
    assert tokenizer_from_meta(open_dataset(f"{tmp_path}/b/").meta).decode(
        np.frombuffer(b"".join(one), "<u2")) == corpus.read_text(encoding="utf-8")


def test_documents_give_the_same_bins_for_any_unit_size(tmp_path, gpt2):
    documents = [mixed_text(n, seed=n) for n in range(200)] + ["", "x", mixed_text(300_000)]
    one = written(tmp_path / "a", documents, gpt2, num_workers=1)
    for size in (100, 1 << 16):
        assert written(tmp_path / "a", iter(documents), gpt2, unit_size=size) == one
    plain = written(tmp_path / "a", documents, gpt2, end_of_text=False)
    assert [len(b) for b in plain] < [len(b) for b in one]
    assert not any(gpt2.eot_token in np.frombuffer(b, "<u2") for b in plain)


def test_the_seed_of_the_split_moves_documents(tmp_path):
    documents = [f"document {i};" for i in range(200)]
    zero, one = (written(tmp_path / "a", documents, ByteTokenizer(), split_seed=seed)[1] for seed in (0, 1))
    assert zero != one


def test_a_character_outside_a_reused_vocabulary_is_named_with_its_position_in_the_text(tmp_path):
    for num_workers in (1, 2):
        with pytest.raises(UnknownText, match="^character 'z' at position 123,456 is not in the 2-character vocabulary"):
            written(tmp_path / "a", "ab" * 61_728 + "z" + "ab" * 90_000, CharTokenizer("ab"), unit_size=10_000,
                    num_workers=num_workers)


def test_a_tokenizer_that_cannot_travel_works_in_this_process(tmp_path):
    class Local:
        itos = ["a", "b", "\n"]
        border = staticmethod(len)

        def encode(self, text):
            return [self.itos.index(c) for c in text]

        def decode(self, ids):
            return "".join(self.itos[i] for i in ids)
    meta = write_dataset(tmp_path, "ab\n" * 1000, Local(), unit_size=100, num_workers=2)
    assert meta["splits"]["train"]["tokens"] == 2700


# ---- stopped, and run again


class Counting(ByteTokenizer):
    """Bytes; counts its calls, and stops at one of them."""
    def __init__(self, stop_at=None, error=RuntimeError("stopped")):
        self.calls, self.stop_at, self.error = 0, stop_at, error

    def encode(self, text):
        self.calls += 1
        if self.calls == self.stop_at:
            raise self.error
        return super().encode(text)


TEXT = "".join(random.Random(1).choices("abcdefgh \n", k=100_000))


def stopped(folder, text=TEXT, at=51, **kw):
    """A run that stops before its unit number `at`."""
    with pytest.raises((RuntimeError, OSError)):
        write_dataset(folder, text, Counting(at), unit_size=1000, num_workers=1, **kw)


def test_a_stopped_run_goes_on_after_its_last_unit_and_the_folder_is_as_if_it_never_stopped(tmp_path):
    one = written(tmp_path / "a", TEXT, ByteTokenizer())
    (tmp_path / "b").mkdir()
    stopped(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").iterdir() if not p.name.startswith(".")) == [
        "train.bin.tmp", "units.tmp", "val.bin.tmp"]
    with pytest.raises(FileNotFoundError, match="is not prepared"):
        open_dataset(f"{tmp_path}/b/")
    again = Counting()
    assert written(tmp_path / "b", TEXT, again, unit_size=1000, num_workers=1) == one
    assert again.calls == 51  # 90 units of train, the rest of it and so on: 101 in all, of which 50 were done
    assert sorted(p.name for p in (tmp_path / "b").iterdir() if not p.name.startswith(".")) == [
        "meta.pkl", "train.bin", "val.bin"]
    assert (tmp_path / "a" / "meta.pkl").read_bytes() == (tmp_path / "b" / "meta.pkl").read_bytes()


@pytest.mark.parametrize("what", ["another text", "another share", "another unit size", "a changed byte", "a cut bin",
                                  "a cut journal", "an older text's end", "no journal", "an empty journal"])
def test_what_is_remembered_counts_only_where_source_and_bins_agree(tmp_path, what):
    folder, text, kw = tmp_path / "b", TEXT, dict(unit_size=1000, num_workers=1)
    folder.mkdir()
    stopped(folder)
    if what == "another text":
        text = TEXT[:30_500] + "X" + TEXT[30_501:]
    elif what == "another share":
        kw["percentage_train"] = 0.3
    elif what == "another unit size":
        kw["unit_size"] = 700
    elif what == "a changed byte":
        with open(folder / "train.bin.tmp", "r+b") as file:
            file.seek(20_000)
            file.write(b"??")
    elif what == "a cut bin":
        os.truncate(folder / "train.bin.tmp", 33_333)
    elif what == "a cut journal":
        raw = (folder / "units.tmp").read_bytes()
        (folder / "units.tmp").write_bytes(raw[: len(raw) // 2])
    elif what == "an older text's end":
        text = TEXT[:40_000]
    elif what == "no journal":
        (folder / "units.tmp").unlink()
    else:
        (folder / "units.tmp").write_bytes(b"")
    share = {k: v for k, v in kw.items() if k == "percentage_train"}
    assert written(folder, text, Counting(), **kw) == written(tmp_path / "a", text, ByteTokenizer(), **share)


def test_a_run_killed_between_the_renames_loses_nothing(tmp_path):
    one = written(tmp_path / "a", TEXT, ByteTokenizer())
    folder = tmp_path / "b"
    written(folder, TEXT[::-1], ByteTokenizer())
    real, calls = os.replace, []

    def replace(a, b):
        calls.append(b)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(a, b)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset_module._Bins, "discard", lambda bins: bins.close_files())  # as after kill -9
        patch.setattr(os, "replace", replace)
        write_dataset(folder, TEXT, Counting(), unit_size=1000, num_workers=1)
    again = Counting()
    assert written(folder, TEXT, again, unit_size=1000, num_workers=1) == one and again.calls == 0


def test_a_worker_that_is_killed_is_one_line_and_what_was_done_is_kept(corpus, tmp_path, capsys):
    folder = tmp_path / "a"
    folder.mkdir()
    tokenizer = Fatal(["the", "and"], byte_fallback=True)
    told = one_line_error(capsys, lambda text: write_dataset(folder, text, tokenizer, unit_size=20_000, num_workers=2),
                          TextFile(corpus))
    assert told.startswith("error: a worker was killed, perhaps for lack of memory")
    os.environ.pop("FATAL", None)
    assert not (folder / "meta.pkl").exists()
    again = TokenList(["the", "and"], byte_fallback=True)
    assert written(folder, TextFile(corpus), again, num_workers=1) == written(tmp_path / "b", TextFile(corpus), again,
                                                                            num_workers=1)


class Fatal(TokenList):
    """A token list that kills the process it is in, when a text begins in the middle of the corpus."""

    def encode(self, text):
        import multiprocessing
        if multiprocessing.parent_process() and "\n" in text[-3000:]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(text)


def test_one_worker_of_a_text_of_one_unit_starts_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(encode_module, "_executor", None)
    written(tmp_path / "a", "abc" * 100, TokenList(["a", "b", "c"]), num_workers=8)
