"""Members and shares of a mixture that change when a run is resumed: every member's own order goes
on, and the run stays exact.

Run: python -m pytest tests/test_changes.py
"""
import csv
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    TEXT,
    arange_dataset,
    assert_same_training,
    char_dataset,
    one_line_error,
    one_thread,  # noqa: F401
    resume,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prepare.write import write_dataset
from pipeline.read.batches import TrainBatches
from pipeline.read.folder import open_dataset
from pipeline.read.history import columns_of, fractions_over
from pipeline.read.mixture import Mixture
from pipeline.read.sampler import SAMPLING_METHODS, window_starts
from pipeline.tokenizers import ByteTokenizer, CharTokenizer
from training.audit import open_run
from training.checkpoint import load_checkpoint

T, BATCH = 8, 6
LENGTHS = {"a": 203, "b": 505, "c": 1003, "d": 97}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Four datasets whose token number i is i."""
    root = tmp_path_factory.mktemp("counted")
    return {name: open_dataset(f"{arange_dataset(root / name, size, vocab_size=1003)}/")
            for name, size in LENGTHS.items()}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """{name: path} of texts with one set of characters, and one of bytes."""
    root = tmp_path_factory.mktemp("texts")
    words = TEXT.split()
    texts = {"one": TEXT, "two": TEXT[::-1], "three": " ".join(sorted(words)) + "\n.\n"}
    found = {name: f"{char_dataset(root / name, text)}/" for name, text in texts.items()}
    (root / "bytes").mkdir()
    write_dataset(root / "bytes", TEXT, ByteTokenizer())
    return {**found, "bytes": f"{root / 'bytes'}/"}


# ---- the order


@st.composite
def histories(draw):
    """Up to seven segments, between which at least one member stays."""
    history, first = [], 0
    for _ in range(draw(st.integers(1, 7))):
        members = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
        weights = st.lists(st.integers(1, 9).map(float), min_size=len(members),
                           max_size=len(members))
        final = draw(st.none() | weights)
        history.append({"first": first, "members": members, "weights": draw(weights),
                        "final": final, "length": final and draw(st.integers(1, 20)),
                        "method": final and draw(st.sampled_from(["linear", "cosine",
                                                                  "exponential"]))})
        first += draw(st.integers(1, 12))
    return history


def a_mixture(counted, history, steps, method, current=None):
    members = current or columns_of(history)
    return Mixture([[counted[name]] for name in members], block_size=T, batch_size=BATCH, seed=3,
                   sampling_method=method, own_vocabularies=False, columns=columns_of(history),
                   fractions_at=fractions_over(history, steps), history=history)


def check_order(counted, history, steps, method):
    iters = history[-1]["first"] + 15
    whole = a_mixture(counted, history, steps, method)
    draws = np.arange(iters * steps * BATCH)
    member, starts = whole.places(draws)
    # each member gives the beginning of its own order, whatever happened around it
    for d, name in enumerate(whole.names):
        mine = starts[member == d]
        own = window_starts(method, np.arange(len(mine)), LENGTHS[name], T, 3, name)
        assert (mine == own).all()
    # each batch is within one row of its shares, and holds members alone
    shares = whole.fractions_at(np.arange(iters * steps)) * BATCH
    rows = (member.reshape(-1, BATCH, 1) == np.arange(len(whole.names))).sum(1)
    assert (abs(rows - shares) < 1 + 1e-9).all() and not rows[shares == 0].any()
    # a run that knows only the members it has now reads the same from there on
    now = history[-1]["members"]
    resumed = a_mixture(counted, history, steps, method, current=now)
    rest = draws[history[-1]["first"] * steps * BATCH :]
    part, places = resumed.places(rest)
    assert [resumed.names[d] for d in part] == [whole.names[d] for d in member[len(draws) -
                                                                               len(rest) :]]
    assert (places == starts[len(draws) - len(rest) :]).all()


@settings(max_examples=40, deadline=None)
@given(histories(), st.integers(1, 3), st.sampled_from(SAMPLING_METHODS))
def test_every_member_gives_its_own_order_over_any_changes(counted, history, steps, method):
    check_order(counted, history, steps, method)


@pytest.mark.long
@settings(max_examples=3000, deadline=None)
@given(histories(), st.integers(1, 3), st.sampled_from(SAMPLING_METHODS))
def test_every_member_gives_its_own_order_over_thousands_of_changes(counted, history, steps,
                                                                    method):
    check_order(counted, history, steps, method)


@settings(max_examples=10, deadline=None)
@given(histories(), st.integers(0, 10))
def test_any_number_of_ranks_reads_one_list_from_any_iteration(counted, history, begin):
    iters, steps = history[-1]["first"] + 12, 2
    whole = None
    for num_ranks in (1, 2, 4):
        by_rank = []
        for rank in range(num_ranks):
            mixture = a_mixture(counted, history, steps, "without_replacement")
            reader = TrainBatches(mixture, gradient_accumulation_steps=steps, rank=rank,
                                  iter_num=begin, max_iters=iters, num_ranks=num_ranks)
            ids = torch.stack([batch.ids for batch in reader])
            by_rank.append(ids.view(iters - begin, -1, *ids.shape[1:]))
            reader.close()
        # iteration, micro-step, rank, row
        rows = torch.stack(by_rank, dim=2).flatten(1, 3)
        assert whole is None or torch.equal(rows, whole)
        whole = rows


# ---- runs


def several(texts, *names):
    return ["--training_mode=multidataset", "--dataset_list", *(texts[name] for name in names)]


def test_changes_resumed_anywhere_give_one_training(texts, capsys):
    """One text, then a second at 30%, then shares that move, then a third in the place of the
    first; beside it the same run stopped more often."""
    steps = [  # flags; the iteration until which they hold
        ([f"--dataset={texts['one']}", "--dropout=0.1", "--eval_interval=50", "--eval_iters=1",
          "--log_interval=50", "--lr_decay_iters=20", "--sampling_method=without_replacement"], 4),
        ([*several(texts, "one", "two"), "--dataset_sampling_probs", "0.7", "0.3"], 8),
        (["--dataset_sampling_probs_final", "1", "3",
          "--dataset_sampling_probs_transition_iters=6"], 13),
        ([*several(texts, "two", "three"), "--dataset_sampling_probs", "1", "1"], 17)]
    for out_dir, stops in (("few", {}), ("many", {8: [6], 13: [9, 11], 17: [15]})):
        for number, (flags, until) in enumerate(steps):
            for end in [*stops.get(until, []), until]:
                act = resume if number else lambda out_dir, *flags: run(
                    *flags, f"--out_dir={out_dir}")
                act(out_dir, *flags, f"--max_iters={end}")
                flags = flags if number < 1 else []
    assert_same_training("few", "many")
    checkpoint = load_checkpoint(Path("few/ckpt.pt"))
    assert [segment["first"] for segment in checkpoint["history"]] == [0, 4, 8, 13]
    assert [segment["members"] for segment in checkpoint["history"]] == [
        ["one"], ["one", "two"], ["one", "two"], ["two", "three"]]
    assert checkpoint["history"][2]["weights"] == pytest.approx([1, 3 / 7])  # from where they were
    assert checkpoint["data"].keys() == {"one", "two", "three"}
    told = capsys.readouterr().out
    assert re.search(r"from iteration 4 .*\n  one: 100.0% -> 70.0% .*\n  two: 0.0% -> 30.0%", told)
    assert re.search(r"from iteration 13 .*\n  one: .* -> 0.0% .*no member.*\n.*\n  three: 0.0% -> "
                     r"50.0%.* 0.00 epochs", told)
    # the audit knows the member that was dropped, too
    mixture = open_run(Path("few")).mixture
    member, starts = mixture.places(np.arange(17 * 4))
    assert [mixture.names[d] for d in np.unique(member[: 4 * 4])] == ["one"]
    assert {mixture.names[d] for d in np.unique(member[13 * 4 :])} == {"two", "three"}
    for d, dataset in enumerate(mixture.datasets):
        own = window_starts("without_replacement", np.arange((member == d).sum()),
                            dataset.num_tokens["train"], 16, 1337, dataset.name)
        assert (starts[member == d] == own).all() and len(own)
    with open("few/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # log.csv goes on with a column for each member there was
    assert [row["iter"] for row in rows if row["val_loss"]] == ["4", "8", "13", "17"]
    assert rows[-1]["val_loss/three"] and not rows[-1]["val_loss/one"]
    assert rows[1]["tokens/one"] == str(int(rows[1]["tokens"]) - int(rows[1]["tokens/two"]))


def test_a_member_that_comes_back_goes_on_where_it_stopped(texts):
    common = ["--eval_interval=50", "--eval_iters=1", "--sampling_method=sequential"]
    run(*several(texts, "one", "two"), *common, "--max_iters=3", "--out_dir=x")
    resume("x", *several(texts, "one"), "--max_iters=5")
    resume("x", *several(texts, "one", "two"), "--max_iters=8")
    history = load_checkpoint(Path("x/ckpt.pt"))["history"]
    mixture = Mixture([[open_dataset(texts[name])] for name in ("one", "two")], block_size=16,
                      batch_size=4, seed=1337, sampling_method="sequential",
                      own_vocabularies=False, columns=columns_of(history), history=history,
                      fractions_at=fractions_over(history, 1))
    member, starts = mixture.places(np.arange(32))
    assert set(member[12:20]) == {0}
    assert starts[member == 1].tolist() == [16 * i for i in range((member == 1).sum())]


def test_the_best_begins_anew_at_a_change_and_the_old_one_is_kept(texts, capsys):
    run(f"--dataset={texts['one']}", "--max_iters=4", "--eval_interval=2", "--out_dir=x")
    best = load_checkpoint(Path("x/best.pt"))
    added = several(texts, "one", "two")
    resume("x", *added, "--max_iters=6", "--eval_interval=6")
    kept = load_checkpoint(Path(f"x/best-{best['iter_num']}.pt"))
    assert kept["best_val_loss"] == best["best_val_loss"] and not kept["history"]
    again = load_checkpoint(Path("x/best.pt"))
    assert again["iter_num"] == 6 and len(again["history"]) == 2
    # the same command once more changes nothing
    capsys.readouterr()
    resume("x", *added, "--max_iters=8", "--eval_interval=8")
    assert "change from" not in capsys.readouterr().out
    assert len(load_checkpoint(Path("x/ckpt.pt"))["history"]) == 2


def test_a_run_that_was_stopped_before_its_first_iteration_may_change(texts, capsys):
    run(*several(texts, "one", "two"), "--max_iters=2", "--out_dir=x")
    held = torch.load("x/ckpt.pt", weights_only=True)
    for state in held["optimizer"]["state"].values():
        [tensor.zero_() for tensor in state.values()]
    torch.save({**held, "iter_num": 0, "evaluated": {}}, "x/ckpt.pt")
    resume("x", "--dataset_sampling_probs", "1", "3", "--max_iters=2", "--learning_rate=1e-3")
    assert "change from iteration 0 on" in capsys.readouterr().out
    assert len(load_checkpoint(Path("x/ckpt.pt"))["history"]) == 1


def test_a_plan_says_the_change_and_makes_none(texts, capsys, monkeypatch):
    monkeypatch.setattr("training.plan.TIMED", 0.0)
    run(f"--dataset={texts['one']}", "--max_iters=2", "--out_dir=x")
    before = Path("x/ckpt.pt").read_bytes()
    resume("x", *several(texts, "one", "two"), "--max_iters=6", "--plan")
    assert "change from iteration 2 on" in capsys.readouterr().out
    assert Path("x/ckpt.pt").read_bytes() == before and not list(Path("x").glob("best-*"))


def test_shares_change_where_vocabularies_are_apart_and_members_may_not(texts, capsys):
    run(*several(texts, "one", "bytes"), "--multidataset_wte", "--max_iters=2", "--out_dir=x")
    resume("x", "--dataset_sampling_probs", "1", "3", "--max_iters=4")
    assert load_checkpoint(Path("x/ckpt.pt"))["history"][1]["weights"] == [1 / 3, 1]
    line = one_line_error(capsys, lambda argv: resume("x", *argv), [
        *several(texts, "one"), "--max_iters=6"])
    assert "--dataset_list" in line


# ---- data that lies elsewhere, iterations that are divided otherwise


def moved(folder, new):
    shutil.copytree(folder, new)
    return f"{new}/"


def test_a_dataset_that_was_moved_and_renamed_goes_on_in_its_order(texts, tmp_path):
    flags = ["--sampling_method=without_replacement", "--eval_interval=50", "--eval_iters=1",
             "--lr_decay_iters=6"]
    run(f"--dataset={texts['one']}", *flags, "--max_iters=6", "--out_dir=whole")
    run(f"--dataset={texts['one']}", *flags, "--max_iters=2", "--out_dir=x")
    resume("x", f"--dataset={moved(texts['one'], tmp_path / 'other_name')}", "--max_iters=4")
    resume("x", "--max_iters=6")  # it is known where it lies now
    assert_same_training("whole", "x")
    assert load_checkpoint(Path("x/ckpt.pt"))["data"].keys() == {"one"}


def test_bins_of_another_program_are_known_by_their_hash_and_by_nothing_else(texts, tmp_path,
                                                                             capsys, monkeypatch):
    folder = Path(moved(texts["one"], tmp_path / "foreign"))
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    held = {key: meta[key] for key in ("vocab_size", "stoi", "itos")}  # as nanoGPT writes it
    (folder / "meta.pkl").write_bytes(pickle.dumps(held))
    run(f"--dataset={folder}/", "--max_iters=2", "--lr_decay_iters=4", "--out_dir=x")
    place = moved(folder, tmp_path / "there")
    resume("x", f"--dataset={place}", "--max_iters=3")
    ids = np.fromfile(f"{place}train.bin", "<u2")
    np.roll(ids, 1).tofile(f"{place}train.bin")  # as many tokens, in another order
    line = one_line_error(capsys, lambda argv: resume("x", *argv), ["--max_iters=4"])
    assert "there" in line and "sha256" in line
    # too large to be hashed: nothing proves that it is the same
    monkeypatch.setattr("pipeline.read.folder.SCAN_LIMIT", 1)
    line = one_line_error(capsys, lambda argv: resume("x", *argv), [
        f"--dataset={moved(folder, tmp_path / 'third')}", "--max_iters=4"])
    assert "third" in line and "too large" in line


@pytest.mark.parametrize("mode", ["multidataset", "multicontext"])
def test_a_member_or_stream_that_was_moved_is_known_by_its_hash(texts, tmp_path, capsys, mode):
    listed = "--dataset_list" if mode == "multidataset" else "--multicontext_datasets"
    flags = ["--sampling_method=without_replacement", "--eval_interval=50", "--eval_iters=1",
             "--lr_decay_iters=6", f"--training_mode={mode}"]
    if mode == "multidataset":
        flags += ["--dataset_sampling_probs", "3", "1", "--dataset_sampling_probs_final", "1", "3",
                  "--dataset_sampling_probs_transition_iters=5"]
    run(*flags, listed, texts["one"], texts["two"], "--max_iters=6", "--out_dir=whole")
    run(*flags, listed, texts["one"], texts["two"], "--max_iters=3", "--out_dir=x")
    resume("x", listed, texts["one"], moved(texts["two"], tmp_path / "elsewhere"), "--max_iters=6")
    assert "change from" not in capsys.readouterr().out
    assert_same_training("whole", "x")


def test_other_data_is_refused_with_what_differs(texts, capsys):
    run(f"--dataset={texts['one']}", "--max_iters=2", "--out_dir=x")
    for name, fact in (("two", "sha256"), ("bytes", "tokenizer")):
        line = one_line_error(capsys, lambda argv: resume("x", *argv), [
            f"--dataset={texts[name]}", "--max_iters=4"])
        assert name in line and fact in line and "--init_from=" in line


@pytest.mark.parametrize("batch_size, steps", [(2, 4), (8, 1)])
@pytest.mark.parametrize("mode", ["single", "multidataset"])
def test_half_the_rows_and_twice_the_micro_batches_are_the_same_sequences(texts, capsys, mode,
                                                                          batch_size, steps):
    flags = [*(several(texts, "one", "two") if mode == "multidataset" else
               [f"--dataset={texts['one']}"]), "--eval_interval=3", "--eval_iters=2",
             "--batch_size=4", "--gradient_accumulation_steps=2", "--lr_decay_iters=6"]
    run(*flags, "--max_iters=6", "--out_dir=whole")
    run(*flags, "--max_iters=3", "--out_dir=x")
    capsys.readouterr()
    resume("x", f"--batch_size={batch_size}", f"--gradient_accumulation_steps={steps}",
           "--max_iters=5")
    assert f"{steps} micro-batches of {batch_size}" in capsys.readouterr().out
    resume("x", "--max_iters=6")
    a, b = (load_checkpoint(Path(out_dir) / "ckpt.pt") for out_dir in ("whole", "x"))
    assert b["batch"] == [4, 2] and b["args"]["batch_size"] == batch_size
    assert all((a["model"][name] - b["model"][name]).abs().max() < 1e-5 for name in a["model"])
    assert a["evaluated"].keys() == b["evaluated"].keys()
    assert a["best_val_loss"] == pytest.approx(b["best_val_loss"], abs=1e-5)
    line = one_line_error(capsys, lambda argv: resume("x", *argv), ["--batch_size=3"])
    assert "--batch_size 3" in line


# ---- what is refused


BAD = {
    "all members dropped": (["two", "three"], [], "one", "--dataset_list"),
    "another tokenizer": (["one", "bytes"], [], "bytes", "--reuse_vocab_of one"),
    "weights that do not match": (["one", "two"], ["--dataset_sampling_probs", "1", "2", "3"],
                                  "3 weights", "2 datasets"),
    "a member that is not there": (["one", "nowhere"], [], "nowhere", "not found"),
}


@pytest.mark.parametrize("names, flags, facts", [(n, f, w) for n, f, *w in BAD.values()],
                         ids=[*BAD])
def test_a_change_that_cannot_be_is_one_line_and_changes_nothing(texts, capsys, tmp_path, names,
                                                                 flags, facts):
    run(f"--dataset={texts['one']}", "--max_iters=2", "--out_dir=x")
    before = {path.name: path.read_bytes() for path in Path("x").iterdir()}
    places = {**texts, "nowhere": f"{tmp_path}/nowhere/"}
    line = one_line_error(capsys, lambda argv: resume("x", *argv), [
        *several(places, *names), *flags, "--max_iters=4"])
    assert all(fact in line for fact in facts), line
    assert {path.name: path.read_bytes() for path in Path("x").iterdir()} == before


def test_text_added_to_a_dataset_is_refused_with_the_way_to_add_it(texts, tmp_path, capsys):
    folder = char_dataset(tmp_path / "fox")
    run(f"--dataset={folder}/", "--max_iters=2", "--out_dir=x")
    write_dataset(folder, TEXT + "more\n", CharTokenizer.from_text(TEXT))
    line = one_line_error(capsys, lambda argv: resume("x", *argv), ["--max_iters=4"])
    assert "fox" in line and "--dataset_list" in line


@pytest.mark.parametrize("history", [
    [{}], ["x"], [{"first": 1, "members": ["a"], "weights": [1.0], "final": None, "method": None,
                   "length": None}],
    [{"first": 0, "members": ["a", "b"], "weights": [1.0], "final": None, "method": None,
      "length": None}],
    [{"first": 0, "members": ["a"], "weights": [1.0], "final": [1.0], "method": None,
      "length": 3}]], ids=range(5))
def test_a_damaged_history_is_one_line(texts, capsys, history):
    run(*several(texts, "one", "two"), "--max_iters=2", "--out_dir=x")
    held = torch.load("x/ckpt.pt", weights_only=True)
    torch.save({**held, "history": history}, "x/ckpt.pt")
    line = one_line_error(capsys, lambda argv: resume("x", *argv), ["--max_iters=4"])
    assert "history" in line and "damaged" in line


def test_a_run_of_before_there_were_histories_can_change(texts):
    run(*several(texts, "one", "two"), "--dataset_sampling_probs", "3", "1", "--max_iters=2",
        "--out_dir=x")
    held = torch.load("x/ckpt.pt", weights_only=True)
    held.pop("history")
    torch.save({**held, "format": 3}, "x/ckpt.pt")
    resume("x", "--dataset_sampling_probs", "1", "1", "--max_iters=4")
    assert [segment["weights"] for segment in load_checkpoint(Path("x/ckpt.pt"))["history"]] == [
        [1, 1 / 3], [1, 1]]
