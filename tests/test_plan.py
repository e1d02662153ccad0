"""train.py --plan (plan.py): its counts are what a run then reads, it writes nothing, and says what
looks wrong.

Run: python -m pytest tests/test_plan.py
"""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (  # noqa: F401
    TINY,
    arange_dataset,
    char_dataset,
    one_line_error,
    one_thread,
    resume,
    run,
)

import train
from pipeline.prepare.streams import write_stream
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.read.streams import STREAMS
from pipeline.tokenizers import TokenList
from training import plan


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "TIMED", 0)  # one iteration is enough


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Numbers a, b, c; a text and a stream of it. No test changes them."""
    root = tmp_path_factory.mktemp("data")
    for name, length in (("a", 3003), ("b", 500), ("c", 301)):
        arange_dataset(root / name, length, num_val=400, vocab_size=3003)
    char_dataset(root / "text")
    (root / "shape").mkdir()
    write_stream(root / "shape", next(iter(STREAMS)), f"{root}/text/")
    return root


def planned(capsys, *flags, start=run):
    """What --plan prints."""
    capsys.readouterr()
    start(*flags, "--plan")
    return capsys.readouterr().out


def reads(text):
    """{dataset: the tokens that the run reads} of the printed table."""
    return {
        name: int(n.replace(",", ""))
        for name, n in re.findall(r"^(\w+) +[\d,]+ +[\d,]+ +([\d,]+) +[\d.]+ +[\d.]+%$", text, re.M)
    }


def fed(monkeypatch, names, sizes, act):
    """{dataset: the tokens that the model is trained on} while act() runs: the vocabularies lie one
    behind the other."""
    offsets, tokens, forward = np.cumsum([0, *sizes]), dict.fromkeys(names, 0), train.GPT.forward

    def counting(self, idx, targets=None, cache=None):
        if self.training:
            for d, name in enumerate(names):
                tokens[name] += int(((idx >= int(offsets[d])) & (idx < int(offsets[d + 1]))).sum())
        return forward(self, idx, targets, cache)

    with monkeypatch.context() as patch:
        patch.setattr(train.GPT, "forward", counting)
        act()
    return tokens


def edit_meta(folder, **changes):
    path = folder / "meta.pkl"
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), **changes}, protocol=4))


MOVING = [
    "--dataset_sampling_probs=5 2 1",
    "--dataset_sampling_probs_final=1 2 5",
    "--multidataset_wte",
]


@pytest.mark.parametrize(
    "names, flags",
    [
        ("a", ["--training_mode=single", "--dataset={}"]),
        ("a b c", ["--training_mode=multidataset", "--dataset_list={}", *MOVING]),
        ("text shape", ["--training_mode=multicontext", "--multicontext_datasets={}"]),
    ],
    ids=["single", "multidataset", "multicontext"],
)
def test_the_counts_are_what_the_run_then_reads_to_the_token(
    data, names, flags, monkeypatch, capsys
):
    names = names.split()
    flags = [flag.format(" ".join(f"{data}/{name}/" for name in names)) for flag in flags]
    flags += [
        "--sampling_method=without_replacement",
        "--batch_size=5",
        "--gradient_accumulation_steps=3",
        "--max_iters=17",
        "--out_dir=x",
    ]
    told = planned(capsys, *flags)
    sizes = [open_dataset(f"{data}/{name}/").vocab_size for name in names]
    assert reads(told) == fed(monkeypatch, names, sizes, lambda: run(*flags))
    assert sum(reads(told).values()) == 17 * 5 * 3 * 16 * (2 if "shape" in names else 1)
    told = planned(capsys, "x", "--max_iters=25", start=resume)  # what is left
    assert reads(told) == fed(monkeypatch, names, sizes, lambda: resume("x", "--max_iters=25"))
    assert "run    iterations 17 to 25" in told and "into x/" in told


def test_a_plan_writes_nothing(data, capsys):
    def files():
        return {
            path: path.stat().st_mtime_ns
            for folder in (data, ".")
            for path in Path(folder).rglob("*")
            if path.name != ".lock"
        }

    before = files()
    told = planned(capsys, f"--dataset={data}/text/", "--max_iters=5")
    assert files() == before and "into out/text/\n" in told
    Path("out/text").mkdir(parents=True)
    assert "into out/text-2/\n" in planned(capsys, f"--dataset={data}/text/", "--max_iters=5")
    run(f"--dataset={data}/text/", "--max_iters=2", "--out_dir=x")
    flags = [*TINY, f"--dataset={data}/text/", "--out_dir=x", "--plan"]
    assert "x holds a run" in one_line_error(capsys, train.main, flags)
    line = one_line_error(capsys, train.main, ["--init_from=resume", "--out_dir=x", "--plan"])
    assert "complete" in line and "2 of 2 iterations" in line


def test_the_first_batch_is_shown_as_text_above_its_targets(data, capsys, monkeypatch):
    seen = []
    forward = train.GPT.forward
    monkeypatch.setattr(train.GPT, "forward", lambda self, *a: seen.append(a) or forward(self, *a))
    told = planned(
        capsys,
        "--training_mode=multidataset",
        f"--dataset_list={data}/a/ {data}/b/",
        "--max_iters=3",
        "--batch_size=3",
        "--dataset_sampling_probs=1 1e-9",
    )
    assert "b: no row in this batch" in told
    start, shown, targets = re.search(
        r"a: 3 of 3 rows\. The row from token ([\d,]+):\n +(.*)\n +(.*)\n", told
    ).groups()
    start = int(start.replace(",", ""))
    assert seen[0][0][0].tolist() == list(range(start, start + 16))  # what the model is given
    itos = open_dataset(f"{data}/a/").meta["itos"]
    assert [cell.strip() for cell in shown.split("|")] == [
        itos.get(i, "?") for i in range(start, start + 16)
    ]
    assert [cell.strip() for cell in targets.split("|")] == [
        itos.get(i, "?") for i in range(start + 1, start + 17)
    ]


def test_it_fits_80_columns_with_names_and_tokens_of_any_length(tmp_path, capsys):
    text = "ab\n\x1b\u2028é"
    long, short = (
        char_dataset(tmp_path / ("long" * 8), text * 2000),
        char_dataset(tmp_path / "b", text * 900),
    )
    told = planned(
        capsys,
        "--training_mode=multidataset",
        f"--dataset_list={long}/ {short}/",
        "--max_iters=99999",
        "--dataset_sampling_probs=1 1",
        "--dataset_sampling_probs_final=9 1",
        "--muon_learning_rate=9",
    )
    assert all(len(line) <= 80 for line in told.splitlines() if str(tmp_path) not in line), told
    assert (
        "shares move from the first iteration to the last" in told
        and "50% to 90%" in told.replace("\n", " ")
    )


def notes(told):
    return (
        " ".join(told.split("note: ", 1)[-1].replace("\n", " ").split()) if "note: " in told else ""
    )


def test_nothing_is_said_where_nothing_looks_wrong(data, capsys):
    assert notes(planned(capsys, f"--dataset={data}/text/", "--max_iters=5")) == ""


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--max_iters=1000"], ["text", "5.3 times", "--max_iters to 75"]),
        (["--eval_iters=100"], ["val of text", "84 windows", "400", "--eval_iters to 21"]),
        (["--learning_rate=3"], ["--learning_rate 3", "AdamW with Muon", "0.0003 to 0.1"]),
        (["--muon_learning_rate=1e-4"], ["--muon_learning_rate 0.0001", "of Muon", "0.002 to 0.2"]),
        (
            ["--optimizer=adamw", "--learning_rate=0.02"],
            ["--learning_rate 0.02", "AdamW alone", "3e-05 to 0.01"],
        ),
    ],
)
def test_what_looks_wrong_is_said_in_one_note(data, capsys, flags, words):
    told = notes(planned(capsys, f"--dataset={data}/text/", "--max_iters=5", *flags))
    assert all(word in told for word in words) and "note:" not in told, told


def test_no_note_says_to_lower_a_flag_to_nothing_or_to_what_it_is(data, capsys):
    told = notes(
        planned(
            capsys,
            f"--dataset={data}/text/",
            "--max_iters=1",
            "--warmup_iters=0",
            "--eval_iters=1",
            "--batch_size=400", "--gradient_accumulation_steps=10",
        )
    )
    assert re.search(r"text 5\.\d times.*note: val of text has 84 windows .* 400,", told), told
    assert "--max_iters" not in told and "--eval_iters" not in told and told.count("note:") == 1


def test_unused_vocabulary_and_short_documents_are_said(tmp_path, capsys):
    folder = arange_dataset(tmp_path / "d", 700)
    np.tile(np.arange(7, dtype="<u2"), 100).tofile(folder / "train.bin")
    edit_meta(folder, eot_token=6)
    told = notes(planned(capsys, f"--dataset={folder}", "--max_iters=5"))
    assert "693 of the 700 ids of d" in told and "d/train.bin" in told
    assert "--block_size 16 is longer than most documents of d (half have 6 tokens" in told


def test_a_dataset_of_100_gb_is_planned_by_looking_at_a_little_of_it(tmp_path, capsys):
    folder = arange_dataset(tmp_path / "big", 1000)
    num_tokens = 50_000_000_000
    os.truncate(folder / "train.bin", 0)
    os.truncate(folder / "train.bin", 2 * num_tokens)  # sparse: zeros that take no room
    edit_meta(folder, splits={"train": {"tokens": num_tokens}, "val": {"tokens": 100}})
    told = planned(
        capsys,
        f"--dataset={folder}",
        "--max_iters=1000000",
        "--sampling_method=without_replacement",
    )
    assert re.search(
        r"^big +50,000,000,000 +3,124,999,999 +64,000,000 +0\.00 +100\.0%$", told, re.M
    )
    assert "16,777,216 tokens were looked at" in notes(told)


def test_a_run_that_compiles_is_timed_compiled_on_whole_micro_batches(data, capsys, monkeypatch):
    """An eager step may take twice as long, and each number of rows would be compiled anew."""
    seen = []

    def compiled(model, dynamic):
        def call(x, y):
            seen.append((tuple(x.shape), model.training))
            return model(x, y)
        return call
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr("training.device.shutil.which", lambda name: name)
    told = planned(capsys, f"--dataset={data}/a", "--batch_size=3", "--compile=true",
                   "--first_block_size=4", "--block_size=8")
    assert set(seen) == {((6, 4), True), ((3, 8), True), ((3, 8), False)}
    assert "without the time to compile" in told and "compiles first" in told


def test_documents_of_which_there_is_one_are_said(tmp_path, capsys):
    tokenizer = TokenList(["a", "b", "|"])
    tokenizer.eot_token = 2
    for name, text in (("one", "ab" * 100), ("many", ["ab" * i for i in range(1, 30)])):
        val = "ab" * 50 if name == "one" else ["ab" * 50]
        (tmp_path / name).mkdir()
        write_dataset(tmp_path / name, text, tokenizer, val_text=val)
        told = planned(capsys, f"--dataset={tmp_path / name}", "--documents", "--max_iters=2")
        assert ("one: train is one document" in told) == (name == "one")
        assert ("many: 29 documents in train" in told) == (name == "many")


def test_the_plan_notes_a_warm_up_longer_than_the_run_and_iterations_that_learn_nothing(
        data, capsys):
    told = notes(planned(capsys, f"--dataset={data}/text/", "--max_iters=5", "--warmup_iters=9"))
    assert all(fact in told for fact in ("--warmup_iters 9", "--max_iters 5", "50%"))
    told = notes(planned(capsys, f"--dataset={data}/text/", "--max_iters=9", "--lr_decay_iters=4"))
    assert "rate is 0" in told and "--lr_decay_iters" in told and "4" in told
    for fine in ("--warmup_iters=4", "--lr_decay_iters=5", "--lr_schedule=constant"):
        told = notes(planned(capsys, f"--dataset={data}/text/", "--max_iters=5", fine))
        assert "learning rate" not in told
