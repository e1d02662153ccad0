"""data/combine_datasets.py: the bins of several datasets as one, their tokenizers compared; killed,
refused, run again.

Run: python -m pytest tests/test_combine.py
Members hold the tokens 0, 1, 2, ..., so that what is joined reads as positions.
"""
import functools
import pickle
import shutil
import subprocess
import tracemalloc

import numpy as np
import pytest
from helpers import (
    TEXT,
    arange_dataset,
    char_dataset,
    child_env,
    edit_bin,
    one_line_error,
    only_line,
    python,
)
from test_dataset import FULL, check_whole_or_visibly_not, contents, killed_before_call

import data.combine_datasets
import pipeline.read.folder
from data.check_dataset import main as check_dataset
from data.combine_datasets import main
from pipeline.prepare.combine import combine
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import SPLITS, open_dataset
from pipeline.tokenizers import ByteTokenizer, CharTokenizer, TokenList, tokenizer_from_meta


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Nothing here cuts the power, and a disk is slow."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder that stands for data/."""
    for module in (pipeline.read.folder, data.combine_datasets):
        monkeypatch.setattr(module, "DATA", tmp_path)
    return tmp_path


class Words(TokenList):
    """Some words; the last of them ends documents."""

    def __init__(self):
        super().__init__(["a", "b", "c", "|"])
        self.eot_token = 3


def joined(*names, out="both"):
    main(["--datasets", *names, "--output_name", out])
    return open_dataset(out)


def ids(dataset, split="train"):
    return dataset.tokens(split).tolist()


def words_dataset(folder, text, val_text):
    folder.mkdir()
    write_dataset(folder, text, Words(), val_text=val_text)


@pytest.mark.parametrize("vocab_size, dtype", [(5000, "uint16"), (70_000, "uint32")])
def test_both_splits_follow_one_another_whole_and_in_order(home, vocab_size, dtype):
    for name, num_train, num_val in (("a", 3000, 100), ("b", 5000, 10), ("c", 1, 1)):
        arange_dataset(home / name, num_train, num_val, vocab_size)
    both = joined("b", "a", "c")
    assert ids(both) == [*range(5000), *range(3000), 0]
    assert ids(both, "val") == [*range(10), *range(100), 0]
    assert both.vocab_size == vocab_size and both.dtype == dtype and both.meta["max_id"] == 4999


def test_meta_holds_the_tokenizer_the_sums_and_where_each_member_is_from(home, capsys):
    char_dataset(home / "a")
    write_dataset(char_dataset(home / "b"), TEXT[::-1] * 2, CharTokenizer.from_text(TEXT),
                  source="backwards")
    both, members = joined("a", "b"), [open_dataset(name) for name in ("a", "b")]
    for split in SPLITS:
        assert ids(both, split) == ids(members[0], split) + ids(members[1], split)
        for count in ("tokens", "bytes", "documents"):
            assert both.meta["splits"][split][count] == sum(m.meta["splits"][split][count]
                                                            for m in members)
    told = [{"name": m.name, "source": m.meta["source"], "sha256": m.fingerprint()}
            for m in members]
    assert both.meta["members"] == told and both.meta["source"] == "a + b"
    assert all(both.meta[key] == members[0].meta[key]
               for key in ("stoi", "itos", "tokenizer", "table_sha256", "eot_token"))
    assert capsys.readouterr().out.splitlines()[-1].startswith("both: train 36,450 tokens, val "
                                                               "4,050 tokens, vocab_size 29 ")
    check_dataset(["both"])
    assert "no problem was found (checked: sizes, every id, hashes)" in capsys.readouterr().out


def test_an_end_of_text_goes_between_members_where_there_is_none(home):
    words_dataset(home / "text", "ab", "b")
    words_dataset(home / "documents", ["a", "b"], ["c"])
    both = joined("text", "documents")
    assert ids(both) == [0, 1, 3, 0, 3, 1, 3] and ids(both, "val") == [1, 3, 2, 3]
    assert both.meta["eot_token"] == 3 and both.meta["splits"]["train"]["documents"] == 3
    both = joined("documents", "text")
    assert ids(both) == [0, 3, 1, 3, 0, 1] and ids(both, "val") == [2, 3, 1]


def test_a_foreign_member_and_another_width_make_no_difference(home):
    """One without hashes, counts and dtype, as nanoGPT writes them; one of 65 ids in uint32."""
    for name in "abc":
        char_dataset(home / name)
    meta = pickle.loads((home / "a/meta.pkl").read_bytes())
    (home / "a/meta.pkl").write_bytes(pickle.dumps({key: meta[key]
                                                    for key in ("vocab_size", "stoi", "itos")}))
    for split in SPLITS:
        np.fromfile(home / f"b/{split}.bin", "<u2").astype("<u4").tofile(home / f"b/{split}.bin")
    (home / "b/meta.pkl").write_bytes(pickle.dumps(meta | {"dtype": "uint32"}))
    both, one = joined("a", "b", "c"), open_dataset("c")
    assert ids(both) == 3 * ids(one) and both.dtype == "uint16"
    texts = [tokenizer_from_meta(d.meta).decode(ids(d, "val")) for d in (both, one)]
    assert texts[0] == 3 * texts[1]
    assert both.meta["splits"]["train"]["bytes"] == 3 * one.meta["splits"]["train"]["bytes"]
    assert both.meta["members"][0] == {"name": "a", "source": "unknown",
                                       "sha256": open_dataset("a").fingerprint()}


# ---- refused


@pytest.mark.parametrize("argv, facts", [
    (["a", "coded"], ["a and coded", "char, 29 ids", "byte, 256 ids", "--reuse_vocab_of a"]),
    (["a", "other"], ["a and other", "char, 29 ids; char, 29 ids"]),
    (["a", "twin", "a"], ["a is named twice", "train.py --training_mode=multidataset"]),
    (["a", "{home}/a"], ["a is named twice"]), (["a", "nix"], ["nix not found"]),
    (["a"], ["--datasets"]),
    (["a", "twin", "--output_name", "other"], ["other exists already", "--output_name"]),
    (["a", "twin", "--output_name", "a"], ["a cannot be a part of itself", "--output_name"]),
    (["a", "twin", "--output_name", "../x"], ["'../x'"]),
    (["a", "twin", "--output_name", ".x"], ["'.x'"]),
    (["a", "twin", "--output_name", "template"], ["'template'"])])
def test_what_cannot_be_combined_is_one_line_and_nothing_is_made(home, capsys, argv, facts):
    for name in ("a", "twin"):
        char_dataset(home / name)
    char_dataset(home / "other", TEXT.upper())
    (home / "coded").mkdir()
    write_dataset(home / "coded", TEXT, ByteTokenizer())
    before = {path: path.is_file() and path.read_bytes() for path in home.rglob("*")}
    argv = [*argv, *([] if "--output_name" in argv else ["--output_name", "both"])]
    argv = ["--datasets", *(word.format(home=home) for word in argv)]
    line = one_line_error(capsys, main, argv)
    assert all(fact in line for fact in facts), line
    assert {path: path.is_file() and path.read_bytes() for path in home.rglob("*")} == before


def test_a_damaged_member_is_named_with_the_position(home, capsys):
    for name in "ab":
        char_dataset(home / name)
    edit_bin(home / "b/train.bin", 5000, 29)
    told = one_line_error(capsys, main, ["--datasets", "a", "b", "--output_name", "both"])
    assert f"{home}/b/train.bin" in told and "5,000 is 29, beyond vocab_size 29" in told
    assert not (home / "both/meta.pkl").exists()


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_and_leaves_the_older_result(home, capsys):
    for name in ("a", "b"):
        char_dataset(home / name)
    joined("a", "b")
    before = contents(home / "both")
    (home / "both/val.bin.tmp").symlink_to(FULL)
    told = one_line_error(capsys, main, ["--datasets", "b", "a", "--output_name", "both"])
    assert "disk is full" in told
    assert {**contents(home / "both"), "prepare.py": before["prepare.py"]} == before


# ---- again, killed, large


def test_the_same_command_gives_the_same_bytes_and_other_members_another_dataset(home):
    for name, text in (("a", TEXT), ("b", TEXT[::-1]), ("c", TEXT)):
        char_dataset(home / name, text)
    joined("a", "b")
    before = contents(home / "both")
    joined("a", "b")
    assert contents(home / "both") == before
    of_all = [token for name in "abc" for token in ids(open_dataset(name))]
    assert ids(joined("a", "b", "c")) == of_all


def test_a_kill_before_any_system_call_leaves_the_older_result_or_none(home, capfd):
    for name in "ab":
        char_dataset(home / name)
    names, states = ["a", "b"], []
    for order in (names, names[::-1]):
        (home / "whole").mkdir(exist_ok=True)
        combine(home / "whole", order)
        states.append(contents(home / "whole"))
    for n in range(1, 100, 3):  # test_dataset.py tries each
        folder = home / str(n)
        folder.mkdir()
        combine(folder, names)
        if not killed_before_call(n, functools.partial(combine, folder, names[::-1])):
            break
        check_whole_or_visibly_not(folder, states)
        combine(folder, names[::-1])
        assert contents(folder) == states[1]
    assert n >= 9 and contents(folder) == states[1]


@pytest.mark.long
def test_what_is_held_in_memory_does_not_grow_with_the_bins(home):
    for name in "ab":
        arange_dataset(home / name, 100, vocab_size=70_000)
        folder = home / name
        np.zeros(20_000_000, "<u4").tofile(folder / "train.bin")
        meta = pickle.loads((folder / "meta.pkl").read_bytes())
        meta["splits"]["train"] |= {"tokens": 20_000_000}
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    tracemalloc.start()
    try:
        both = joined("a", "b")
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < 64 << 20, f"{peak:,} bytes"  # of 160 MB
    finally:
        tracemalloc.stop()
    assert both.num_tokens["train"] == 40_000_000


def test_the_command_and_the_new_folder_s_own_prepare_work_from_any_directory(repo, tmp_path):
    try:
        for name in ("one", "two"):
            char_dataset(repo / "data" / name)
        char_dataset(tmp_path / "three")
        run = python(repo / "data/combine_datasets.py", "--datasets", "one", "two", "./three",
                     "--output_name", "all_3",
                     cwd=tmp_path)
        assert run.returncode == 0 and run.stderr == "", run.stderr
        folder = repo / "data/all_3"
        made = contents(folder)
        assert np.fromfile(folder / "val.bin", "<u2").size == 3 * 1350
        for file in ("train.bin", "val.bin", "meta.pkl"):
            (folder / file).unlink()
        told = python(repo / "data/check_dataset.py", "all_3", cwd=repo).stderr
        assert only_line(told).endswith("is not prepared. Run: python data/all_3/prepare.py")
        assert python(folder / "prepare.py", cwd=tmp_path / "three").returncode == 0
        assert contents(folder) == made
        listed = subprocess.run(["python", repo / "data/list_datasets.py"], capture_output=True,
                                text=True, env=child_env())
        assert "all_3" in listed.stdout
    finally:
        for name in ("one", "two", "all_3"):
            shutil.rmtree(repo / "data" / name, ignore_errors=True)
