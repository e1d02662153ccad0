"""Text -> units -> ids (units.py, encode.py, journal.py of pipeline/prepare): the same bins for any
unit size, workers and backend; continued after kills; in bounded memory.

Run: python -m pytest tests/test_encode.py       (gigabytes, kills, dask: add -m "long or not long")
"""
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import child_env, one_line_error, only_line, python
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.prepare.inputs import TextFile
from pipeline.prepare.units import ENDS_TEXT, GOES_ON, Piece, make_units, split_text
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    TiktokenTokenizer,
    TokenList,
    UnknownText,
    tokenizer_from_meta,
)
from pipeline.tokenizers.trained import train_bpe, train_sentencepiece

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("train", "val")
ENCODINGS = ["gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base",
             "o200k_harmony"]
# what patterns of tiktoken look at: cases, digits, contractions, all spaces, line ends, scripts
ATOMS = ["a", "Zx", "é", "ſ", "7", "1234", "'s", "'LL", "’", " ", "  ", "\n", "\r\n", "\n\n", "\t",
         "\xa0", "\u2003", ".", "...", "/", "_", "\x00", "e\u0301", "中文", "日", "かな", "😀",
         "👩\u200d👧", "²", "ª", "Ǆ", "߀", "\u0345", " I", " the", " .", ". B", "x\n", "9\n", ")\n",
         *[" the", " I", ". B", "x\n", "9\n", "\n"] * 4]
TEXTS = st.lists(st.sampled_from(ATOMS), max_size=60).map("".join)


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Nothing here cuts the power, and a disk is slow."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


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
    words = ["the", "Of", "and", "it's", "1984", "end.", "end.\n", "so\n\n", "naïve", "“yes”",
             "中文", "😀", "x_y", "  ", "\t"]
    weights = [9, 9, 9, 5, 5, 5, 5, 2, 1, 2, 1, 1, 2, 1, 1]
    return " ".join(draw.choices(words, weights, k=n))


# ---- borders and units


@given(TEXTS, st.integers(1, 8))
@settings(max_examples=150)
def test_a_text_cut_at_borders_gives_the_ids_of_one_call(gpt2, text, size):
    check_cuts(gpt2, text, size)


def check_cuts(tokenizer, text, size):
    pieces = [Piece("train", c.encode(), GOES_ON) for c in text] + [Piece("train", b"", ENDS_TEXT)]
    units = make_units(pieces, tokenizer.border, size)
    cut = [piece.raw.decode() for unit in units for piece in unit]
    assert "".join(cut) == text
    ids = [i for part in cut for i in tokenizer.encode(part).tolist()]
    assert ids == tokenizer.encode(text).tolist()
    return len(cut)


@pytest.mark.long
@pytest.mark.parametrize("name", ENCODINGS)
def test_each_encoding_gives_the_ids_of_one_call_for_any_cut(name):
    tokenizer = TiktokenTokenizer(name, backend="tiktoken")
    cuts = 0

    @given(TEXTS, st.integers(1, 8))
    @settings(max_examples=4000)
    def check(text, size):
        nonlocal cuts
        cuts += check_cuts(tokenizer, text, size)
    check()
    assert cuts > 8_000  # pieces of 4,000 texts; else borders were hardly found


@given(st.lists(st.text(alphabet="ab c\né", min_size=1, max_size=4), max_size=8),
       st.text(alphabet="ab c\né"),
       st.integers(1, 5))
@settings(max_examples=150)
def test_a_list_of_tokens_gives_the_ids_of_one_call_for_any_cut(tokens, text, size):
    check_cuts(TokenList(dict.fromkeys([*tokens, "a", "b", " "]), byte_fallback=True), text, size)


@given(st.text(), st.integers(1, 5))
def test_characters_and_bytes_may_be_cut_anywhere(text, size):
    for tokenizer in (CharTokenizer.from_text(text + "x"), ByteTokenizer()):
        assert check_cuts(tokenizer, text, size) >= len(text) // (2 * size)
    whole = [Piece("train", text.encode(), ENDS_TEXT)]
    parts = [piece.raw for unit in make_units(whole, len, size) for piece in unit]
    assert "".join(map(bytes.decode, parts)) == text and all(len(part) < size + 4 for part in parts)


def test_a_text_without_borders_is_one_unit(gpt2):
    assert check_cuts(gpt2, "\n" * 1000, 10) == 1


def test_additional_tokens_are_never_cut():
    tokenizer = TiktokenTokenizer("gpt2", additional_tokens={"<a b>": 50257, "x\ny": 50258})
    text = "say <a b> or x\ny then <a b><a b>\n" * 20
    assert check_cuts(tokenizer, text, 1) > 20
    assert tokenizer.encode(text).tolist().count(50257) == 60
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.text(alphabet="ab\n é", max_size=9), max_size=20), st.integers(1, 12),
       st.floats(0.1, 0.9))
def test_the_cut_between_the_splits_is_at_the_same_character_however_the_text_comes(pieces, size,
                                                                                    share):
    class Pieces(TextFile):
        def __init__(self):
            pass

        def utf8(self):
            return map(str.encode, pieces)

        def length(self):
            return sum(map(len, pieces))
    text = "".join(pieces)
    for source in (text, Pieces()):
        found = {"train": b"", "val": b""}
        for unit in make_units(split_text(source, None, share), len, size):
            for piece in unit:
                found[piece.split] += piece.raw
        cut = int(len(text) * share)
        assert (found["train"].decode(), found["val"].decode()) == (text[:cut], text[cut:])


# ---- the same bins, whoever encodes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "input.txt"
    path.write_text(mixed_text(12_000), encoding="utf-8")
    return path


def test_the_bins_are_the_same_for_any_unit_size_workers_and_form_of_the_text(corpus, tmp_path,
                                                                              gpt2):
    text = corpus.read_text(encoding="utf-8")
    for tokenizer in (gpt2, CharTokenizer.from_text(text), ByteTokenizer()):
        cut = int(len(text) * 0.9)
        dtype = "<u2"
        expected = [tokenizer.encode(part).astype(dtype).tobytes()
                    for part in (text[:cut], text[cut:])]
        for kw in (dict(), dict(num_workers=1), dict(unit_size=1000),
                   dict(unit_size=5000, num_workers=8)):
            given = text if "num_workers" in kw else TextFile(corpus)
            assert written(tmp_path / "a", given, tokenizer, **kw) == expected


def test_many_threads_may_encode_at_once_by_gigatoken(corpus, tmp_path):
    tokenizer = TiktokenTokenizer("gpt2")
    one = written(tmp_path / "a", TextFile(corpus), TiktokenTokenizer("gpt2", backend="tiktoken"),
                  num_workers=1)
    assert written(tmp_path / "b", TextFile(corpus), tokenizer, num_workers=8,
                   unit_size=5000) == one


def test_processes_give_the_same_bins_as_this_process(corpus, tmp_path):
    tokenizer = TokenList(["the", "the ", " and", "end."], byte_fallback=True)
    one = written(tmp_path / "a", TextFile(corpus), tokenizer, num_workers=1)
    assert written(tmp_path / "b", TextFile(corpus), tokenizer, num_workers=2,
                   unit_size=50_000) == one
    assert tokenizer_from_meta(open_dataset(f"{tmp_path}/b/").meta).decode(
        np.frombuffer(b"".join(one), "<u2")) == corpus.read_text(encoding="utf-8")


def test_documents_give_the_same_bins_for_any_unit_size(tmp_path, gpt2):
    documents = [mixed_text(n, seed=n) for n in range(0, 200, 4)] + ["", "x", mixed_text(15_000)]
    one = written(tmp_path / "a", documents, gpt2, num_workers=1)
    for size in (100, 1 << 14):
        assert written(tmp_path / "a", iter(documents), gpt2, unit_size=size) == one
    plain = written(tmp_path / "a", documents, gpt2, end_of_text=False, document_end="")
    assert [len(b) for b in plain] < [len(b) for b in one]
    assert not any(gpt2.eot_token in np.frombuffer(b, "<u2") for b in plain)


def test_the_seed_of_the_split_moves_documents(tmp_path):
    documents = [f"document {i};" for i in range(200)]
    zero, one = (written(tmp_path / "a", documents, ByteTokenizer(), split_seed=seed)[1]
                 for seed in (0, 1))
    assert zero != one


@pytest.mark.parametrize("chars", ["ab", "aé", "é中", "".join(map(chr, range(0x4E00, 0x5000)))])
def test_a_character_outside_a_reused_vocabulary_is_named_with_its_position_in_the_text(tmp_path,
                                                                                        chars):
    told = f"^character 'z' at position 123,456 is not in the {len(chars)}-character vocabulary"
    for known in (chars[:2], chars[-2:]):
        with pytest.raises(UnknownText, match=told):
            written(tmp_path / "a", known * 61_728 + "z" + known * 90_000, CharTokenizer(chars),
                    unit_size=10_000)


def test_a_lone_surrogate_is_named_with_its_position_in_a_text_of_many_units(tmp_path):
    with pytest.raises(UserError, match=r"U\+DC80.* 123,456"):
        written(tmp_path / "a", "é" * 123_456 + "\udc80" + "b" * 90_000, ByteTokenizer(),
                unit_size=10_000)


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


# ---- text -> bins -> text


TRICKY = ["\r\n\r\n", "nul \x00 nul", "astral \U0001f600\U0010ffff", "\ufeffinside",
          "naïve “quotes”", "日本語", "\n\n",
          "<|endoftext|>", "e\u0301", "  two  ", "\u2581", "ÿþ\xff"]
MAKERS = {
    "char": lambda documents: CharTokenizer.from_text(documents),
    "byte": lambda documents: ByteTokenizer(),
    "tiktoken": lambda documents: TiktokenTokenizer("gpt2", backend="tiktoken"),
    "gigatoken": lambda documents: TiktokenTokenizer("gpt2", backend="gigatoken"),
    "added": lambda documents: TiktokenTokenizer("gpt2",
                                                 additional_tokens={"<x>": 50257, "quotes": 50258}),
    "custom": lambda documents: TokenList(sorted({*"".join(documents), "ab", "two  "})),
    "byte_fallback": lambda documents: TokenList(["nul ", "ab"], byte_fallback=True),
    "bpe": lambda documents: train_bpe(documents, 300),
    "sentencepiece": lambda documents: train_sentencepiece(["a few words to learn\n" * 50], 300),
}


@pytest.mark.parametrize("method",
                         [pytest.param(name,
                                       marks=[pytest.mark.long]
                                       if name in ("tiktoken", "gigatoken", "added")
                                                 else []) for name in MAKERS])
def test_every_tokenizer_gives_the_text_back_from_the_bins_and_meta_alone(tmp_path, method):
    def check(texts):
        try:
            tokenizer = MAKERS[method](texts["train"] + texts["val"])
        except UserError as error:
            if "Run: pip install" not in str(error):
                raise
            pytest.skip(str(error))
        write_dataset(tmp_path, texts["train"], tokenizer, val_text=texts["val"], unit_size=50,
                      document_end="", num_workers=1)
        dataset = open_dataset(f"{tmp_path}/")
        reader, eot = tokenizer_from_meta(dataset.meta), dataset.meta["eot_token"]
        for split, documents in texts.items():
            ids = dataset.tokens(split)
            if eot is None:
                assert reader.decode(ids) == "".join(documents)
            else:
                assert [reader.decode(part[:-1])
                        for part in np.split(ids, np.flatnonzero(ids == eot) + 1)[:-1]] == documents

    @given(st.lists(st.text(min_size=1), max_size=20), st.lists(st.text(min_size=1), max_size=4))
    @settings(max_examples=4)
    def check_generated(documents, val_documents):
        check({"train": [*documents, "a"], "val": [*val_documents, "b"]})
    check_generated()
    check({"train": TRICKY, "val": TRICKY[::-1]})
    check({"train": ["a"], "val": ["a"]})  # a corpus of one character


# ---- stopped, and run again


class Counting(ByteTokenizer):
    """Bytes; counts its calls, and stops at one of them."""
    def __init__(self, stop_at=None):
        self.calls, self.stop_at = 0, stop_at

    def encode(self, text):
        self.calls += 1
        if self.calls == self.stop_at:
            raise RuntimeError("stopped")
        return super().encode(text)


TEXT = "".join(random.Random(1).choices("abcdefgh \n", k=100_000))


def stopped(folder, text=TEXT, at=51, **kw):
    """A run that stops before its unit number `at`."""
    with pytest.raises((RuntimeError, OSError)):
        write_dataset(folder, text, Counting(at), unit_size=1000, num_workers=1, **kw)


def test_a_stopped_run_goes_on_and_the_folder_is_as_if_it_never_stopped(tmp_path):
    one = written(tmp_path / "a", TEXT, ByteTokenizer())
    (tmp_path / "b").mkdir()
    stopped(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").iterdir() if not p.name.startswith(".")) == [
        "train.bin.tmp", "units.tmp", "val.bin.tmp"]
    with pytest.raises(FileNotFoundError, match="is not prepared"):
        open_dataset(f"{tmp_path}/b/")
    again = Counting()
    assert written(tmp_path / "b", TEXT, again, unit_size=1000, num_workers=1) == one
    assert 0 < again.calls < 60  # of about 100 units, of which 50 were done
    assert sorted(p.name for p in (tmp_path / "b").iterdir() if not p.name.startswith(".")) == [
        "meta.pkl", "train.bin", "val.bin"]
    assert (tmp_path / "a" / "meta.pkl").read_bytes() == (tmp_path / "b" / "meta.pkl").read_bytes()


@pytest.mark.parametrize("what",
                         ["another text", "another share", "another unit size", "a changed byte",
                          "a cut bin",
                                  "a cut journal", "an older text's end", "no journal",
                          "an empty journal"])
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
    assert written(folder, text, Counting(), **kw) == written(tmp_path / "a", text, ByteTokenizer(),
                                                              **share)


def test_a_stopped_run_that_goes_on_without_ends_of_text_has_none(tmp_path):
    def documents(stop_at=None):
        for i in range(60):
            assert i != stop_at
            yield f"document {i} " * 50

    folder, tokenizer = tmp_path / "a", TokenList(["<eot>"], byte_fallback=True)
    tokenizer.eot_token = 0
    folder.mkdir()
    with pytest.raises(AssertionError):
        write_dataset(folder, documents(30), tokenizer, unit_size=1000, num_workers=1)
    assert (folder / "units.tmp").read_bytes().count(b"\n") > 20
    plain = written(tmp_path / "b", documents(), tokenizer, end_of_text=False)
    assert written(folder, documents(), tokenizer, unit_size=1000, num_workers=1,
                   end_of_text=False) == plain


def test_of_documents_that_have_become_fewer_nothing_is_left(tmp_path):
    documents, few = [*(f"document {i}" * 50 for i in range(30)),
                      *["\x7f" * 500] * 70], [f"document {i}" * 50 for i in range(30)]
    one, folder = written(tmp_path / "a", few, ByteTokenizer(), unit_size=1000), tmp_path / "b"
    folder.mkdir()
    stopped(folder, documents)
    # its units are all among those that were done
    assert written(folder, few, ByteTokenizer(), unit_size=1000) == one
    assert (folder / "meta.pkl").read_bytes() == (tmp_path / "a" / "meta.pkl").read_bytes()
    stopped(folder, documents)
    with pytest.raises(UserError, match="is empty"):
        written(folder, [], ByteTokenizer(), unit_size=1000)
    assert bins(folder) == one and not list(folder.glob("*.tmp"))


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
        patch.setattr(os, "replace", replace)
        write_dataset(folder, TEXT, Counting(), unit_size=1000, num_workers=1)
    again = Counting()
    assert written(folder, TEXT, again, unit_size=1000, num_workers=1) == one and again.calls == 0


def test_a_worker_that_is_killed_is_one_line_and_what_was_done_is_kept(corpus, tmp_path, capsys):
    folder = tmp_path / "a"
    folder.mkdir()
    tokenizer = Fatal(["the", "and"], byte_fallback=True)
    told = one_line_error(capsys,
                          lambda text: write_dataset(folder, text, tokenizer, unit_size=20_000,
                                                     num_workers=2),
                          TextFile(corpus))
    assert "worker was killed" in told and "--num_workers" in told
    os.environ.pop("FATAL", None)
    assert not (folder / "meta.pkl").exists()
    again = TokenList(["the", "and"], byte_fallback=True)
    assert written(folder, TextFile(corpus), again, num_workers=1) == written(tmp_path / "b",
                                                                              TextFile(corpus),
                                                                              again,
                                                                            num_workers=1)


class Fatal(TokenList):
    """A token list that kills a worker process in which it encodes."""

    def encode(self, text):
        import multiprocessing
        if multiprocessing.parent_process() and "\n" in text[-3000:]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(text)


def test_a_text_of_one_unit_is_encoded_in_this_process(tmp_path):
    class Here(TokenList):
        def encode(self, text):
            assert os.getpid() == here
            return super().encode(text)
    here = os.getpid()
    written(tmp_path / "a", "abc" * 100, Here(["a", "b", "c"]), num_workers=8)


# ---- long campaigns: large units, dask, kills, memory


@pytest.fixture(scope="module")
def large_corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "input.txt"
    path.write_text(mixed_text(40_000), encoding="utf-8")
    return path


@pytest.mark.long
def test_a_large_text_gives_the_same_bins_for_any_units_and_workers(tmp_path, large_corpus):
    distributed = pytest.importorskip("distributed",
                                      reason="the package dask[distributed] is not installed")
    path, piece = tmp_path / "input.txt", large_corpus.read_bytes()
    with open(path, "wb") as file:
        for _ in range(150_000_000 // len(piece)):
            file.write(piece)
    text, hashes = TextFile(path), {}

    def check(tokenizer, **kw):
        splits = write_dataset(tmp_path, text, tokenizer, **kw)["splits"]
        found = tuple(splits[split]["sha256"] for split in SPLITS)
        assert hashes.setdefault(type(tokenizer), found) == found, kw
    bpe = TiktokenTokenizer("gpt2", backend="gigatoken")
    for tokenizer in (CharTokenizer.from_text(text), bpe):
        for unit_size in (1 << 16, 1 << 19, 1 << 26):
            for num_workers in (1, 2, 8):
                check(tokenizer, unit_size=unit_size, num_workers=num_workers)
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1,
                                      dashboard_address=None) as cluster:
            check(tokenizer, unit_size=1 << 22, dask=cluster.scheduler_address)
    check(TiktokenTokenizer("gpt2", backend="tiktoken"), unit_size=1 << 24, num_workers=2)


@pytest.mark.long
def test_two_dask_workers_give_the_same_bins(large_corpus, tmp_path, gpt2):
    distributed = pytest.importorskip("distributed",
                                      reason="the package dask[distributed] is not installed")
    bpe = TiktokenTokenizer("gpt2", backend="auto")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1,
                                  dashboard_address=None) as cluster:
        for tokenizer in (bpe, gpt2, TokenList(["the ", "and"], byte_fallback=True)):
            here = written(tmp_path / "a", TextFile(large_corpus), tokenizer, num_workers=1)
            there = written(tmp_path / "b", TextFile(large_corpus), tokenizer, unit_size=20_000,
                            dask=cluster.scheduler_address)
            assert there == here


@pytest.mark.long
def test_a_dask_scheduler_that_is_not_there_is_one_line(new_dataset, tmp_path):
    pytest.importorskip("distributed", reason="the package dask[distributed] is not installed")
    run = python(new_dataset("lonely", "abc" * 100) / "prepare.py", "--dask", "tcp://127.0.0.1:9",
                 DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="2s")
    assert run.returncode == 2 and only_line(run.stderr).startswith("error: ")
    assert "127.0.0.1:9" in run.stderr


CHILD = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipeline.prepare.write import write_dataset
from pipeline.prepare.units import UNIT
from pipeline.errors import one_line_errors
from pipeline.prepare.inputs import TextFile
from pipeline.tokenizers import CharTokenizer, TiktokenTokenizer, TokenList
method, path, folder, num_workers = sys.argv[2:6]
unit_size = int(sys.argv[6]) if len(sys.argv) > 6 else UNIT
with one_line_errors():
    text = TextFile(path)
    tokenizer = {"char": lambda: CharTokenizer.from_text(text),
                 "gpt2": lambda: TiktokenTokenizer("gpt2", backend="tiktoken"),
                 "gigatoken": lambda: TiktokenTokenizer("gpt2", backend="gigatoken"),
                 "custom": lambda: TokenList(["the ", "and "], byte_fallback=True)}[method]()
    encode = getattr(tokenizer, "encode_utf8", None)
    with open(folder + "/calls", "a") as calls:  # a line for each unit that is done by this process
        if tokenizer.workers != "processes":
            def counted(raw):
                ids = encode(raw)
                calls.write("x\\n")
                calls.flush()
                return ids
            tokenizer.encode_utf8 = counted
        if __name__ == "__main__":
            write_dataset(Path(folder), text, tokenizer, num_workers=int(num_workers),
                          unit_size=unit_size)
"""


def child(tmp_path, *argv, **kw):
    """A process that prepares a folder; argv as CHILD takes it, less the repo."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    return subprocess.Popen([sys.executable, script, ROOT, *map(str, argv)], env=child_env(),
                            stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **kw)


@pytest.mark.long
@pytest.mark.parametrize("method", ["char", "gpt2"])
def test_kill_9_at_fifty_moments_changes_no_bin(large_corpus, tmp_path, method):
    text = tmp_path / "input.txt"
    text.write_text(large_corpus.read_text(encoding="utf-8") * (300 if method == "char" else 8),
                    encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    unit_size = 200_000 if method == "char" else 20_000
    whole.mkdir()
    t0 = time.perf_counter()
    assert child(tmp_path, method, text, whole, 2, unit_size).wait() == 0
    took = time.perf_counter() - t0
    num_units = len((whole / "calls").read_text().split())
    draw, resumed, kills = random.Random(3), 0, 0
    while kills < 50:
        for path in killed.glob("*") if killed.exists() else ():
            path.unlink()
        killed.mkdir(exist_ok=True)
        done = 0
        while True:  # kill, run again, kill again, until a run comes through
            process = child(tmp_path, method, text, killed, 2, unit_size)
            try:
                process.wait(draw.uniform(0.2, 1.1) * took)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
            journal = killed / "units.tmp"
            remembered = max(0,
                             len(journal.read_bytes().split(b"\n")) - 2) if journal.exists() else 0
            if (killed / "meta.pkl").exists():
                # it was killed after the last rename; the next run begins anew
                assert bins(killed) == bins(whole)
                done = 0
            else:
                with pytest.raises(FileNotFoundError, match="is not prepared|is half-written"):
                    open_dataset(f"{killed}/")
                assert remembered >= done  # nothing that was done is lost
                resumed += remembered > done
                done = max(done, remembered)
            (killed / "calls").write_text("")
        assert process.returncode == 0, process.stderr.read()
        assert bins(killed) == bins(whole)
        assert (killed / "meta.pkl").read_bytes() == (whole / "meta.pkl").read_bytes()
        # and none was done again
        assert len((killed / "calls").read_text().split()) <= num_units - done
    assert resumed >= 3, "the kills came too early or too late"


@pytest.mark.long
def test_a_full_disk_keeps_what_is_done_and_the_next_run_goes_on(large_corpus, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs",
                                                  disk],
                                                 capture_output=True).returncode:
        pytest.skip("this test mounts a small disk, which takes Linux and root")
    try:
        text = tmp_path / "input.txt"
        text.write_text(large_corpus.read_text(encoding="utf-8") * 16, encoding="utf-8")
        process = child(tmp_path, "char", text, disk, 2, 20_000)
        told = process.communicate()[1]
        assert process.returncode == 2 and "disk is full" in only_line(told)
        done = len((disk / "units.tmp").read_bytes().split(b"\n")) - 2
        assert done > 20
        (disk / "calls").write_text("")
        assert subprocess.run(["mount", "-o", "remount,size=30m", disk]).returncode == 0
        assert child(tmp_path, "char", text, disk, 2, 20_000).wait() == 0
        (tmp_path / "whole").mkdir()
        assert child(tmp_path, "char", text, tmp_path / "whole", 1, 20_000).wait() == 0
        assert bins(disk) == bins(tmp_path / "whole")
        num_units, num_again = (len((folder / "calls").read_text().split())
                                for folder in (tmp_path / "whole", disk))
        assert num_again <= num_units - done
    finally:
        subprocess.run(["umount", disk], check=True)


def peak_memory(process):
    """Megabytes at most in use by a process and its children together, sampled until it ends."""
    import glob
    most = 0
    while process.poll() is None:
        total = 0
        try:
            pids = [process.pid]
            for task in glob.glob(f"/proc/{process.pid}/task/*/children"):
                pids += map(int, Path(task).read_text().split())
            for pid in pids:
                total += sum(int(line.split()[1])
                             for line in Path(f"/proc/{pid}/status").read_text().split("\n")
                             if line.startswith("RssAnon"))
        except (OSError, ValueError):
            pass
        most = max(most, total)
        time.sleep(0.05)
    return most / 1024


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(),
                    reason="this system does not tell memory in /proc")
@pytest.mark.parametrize("method, num_workers",
                         [("char", 1), ("char", 2), ("char", 8), ("gpt2", 2), ("gpt2", 8),
                          ("gigatoken", 2), ("gigatoken", 8), ("custom", 2)])
def test_memory_does_not_grow_with_the_text(large_corpus, tmp_path, method, num_workers):
    if method == "gigatoken":
        pytest.importorskip("gigatoken", reason="the package gigatoken is not installed")
    # megabytes; the slow ones in reasonable time
    size = dict(char=2000, gigatoken=1000, gpt2=200, custom=60)[method]
    piece, peaks = large_corpus.read_bytes(), []
    for megabytes in (size // 10, size):
        text, folder = tmp_path / "input.txt", tmp_path / f"{megabytes}"
        with open(text, "wb") as file:
            for _ in range(megabytes * 1_000_000 // len(piece)):
                file.write(piece)
        folder.mkdir()
        process = child(tmp_path, method, text, folder, num_workers)
        peaks.append(peak_memory(process))
        assert process.returncode == 0, process.stderr.read()
        shutil.rmtree(folder)  # gigabytes
    text.unlink()
    print(f"{method}, {num_workers} workers: {peaks[0]:.0f} MB for {size // 10} MB, {peaks[1]:.0f} "
          f"MB for {size} MB")
    assert peaks[1] < 400 + 250 * num_workers and peaks[1] < 1.3 * peaks[0] + 60 + 15 * num_workers
