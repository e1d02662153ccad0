"""evaluate.py, and load() of training/use.py: the loss of every token of a text, and its error.

Run: python -m pytest tests/test_evaluate.py    (a thousand resampled trials, memory and speed: add
-m "long or not long")
The slow reference runs the model once for each token. The tokens of a text are random, so that a
window in the wrong place changes the loss.
"""
import csv
import io
import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
    TEXT,
    TINY,
    char_dataset,
    one_line_error,
    one_thread,  # noqa: F401
    python,
    run,
    says,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import evaluate
import train
from model import GPT, GPTConfig
from pipeline.errors import UserError
from pipeline.prepare import write_dataset
from pipeline.prepare.texts import FilesText, open_texts
from pipeline.read.folder import open_dataset
from pipeline.read.texts import DatasetText, Tokens, joined_tokens
from pipeline.tokenizers import ByteTokenizer, CharTokenizer, train_bpe
from training import scoring
from training.measures import Blocks, difference
from training.scoring import score
from training.use import load

STORY = "".join(random.Random(0).choices("the quick brown fox. \n", k=20_000))


def tiny_model(arch="modern", block_size=8, vocab_size=30, **more):
    """A model of random weights, large enough that its predictions differ."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=block_size, vocab_size=vocab_size, arch=arch, n_layer=2,
                          n_head=2, n_kv_head=2, n_embd=16, **more))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tokens_of(ids, begins=()):
    ones = np.ones(len(ids), np.int64)
    return Tokens(np.asarray(ids), ones, ones, ones > 0, np.isin(np.arange(len(ids)), begins))


@torch.no_grad()
def slow_losses(model, ids, stride):
    """The loss of each id, by a forward pass for it alone: the window of target i is the first one
    whose last `stride` targets hold i, or the first of all."""
    block_size, found = model.config.block_size, [math.nan] * min(1, len(ids))
    for i in range(1, len(ids)):
        start = max(0, -(-(i - block_size) // stride)) * stride
        logits = model(torch.tensor(ids[start:i])[None])[0][0, -1]
        found.append(F.cross_entropy(logits[None], torch.tensor(ids[i : i + 1])).item())
    return np.array(found)


@pytest.mark.parametrize("arch", ["modern", "gpt2"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_losses_and_ranks_are_those_of_a_forward_pass_for_each_token(arch, data):
    """Whatever the stride, the length of the text, and the chunks in which it comes."""
    n, stride = data.draw(st.integers(2, 60)), data.draw(st.integers(1, 8))
    size, at_once = data.draw(st.integers(1, 70)), data.draw(st.sampled_from([1, 20, 1 << 16]))
    ids = np.random.default_rng(n).integers(0, 30, n)
    model, expected = tiny_model(arch), slow_losses(tiny_model(arch), ids, stride)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "CHUNK", at_once)
        found = list(score(model, [tokens_of(ids[i : i + size]) for i in range(0, n, size)],
                           stride=stride, batch_size=3, likeliest=5))
    losses, ranks = (np.concatenate([getattr(one, name) for one in found])
                     for name in ("losses", "ranks"))
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    likeliest = np.concatenate([one.likeliest for one in found])
    chance = np.concatenate([one.probabilities for one in found])
    assert ranks[0] == 0 and (ranks[1:] >= 1).all() and likeliest.shape == (n, 5)
    for i in range(1, n):
        where = np.flatnonzero(likeliest[i] == ids[i])
        assert where.tolist() == [ranks[i] - 1] * int(ranks[i] <= 5)
        assert not where.size or abs(-np.log(chance[i, where[0]]) - losses[i]) < 1e-4


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), ended=st.booleans(),
       at_once=st.sampled_from([1, 13, 1 << 16]))
def test_a_document_by_itself_has_the_losses_of_its_own_text(lengths, ended, at_once):
    ids = np.random.default_rng(sum(lengths)).integers(0, 30, sum(lengths))
    ends = np.cumsum(lengths)
    expected = []
    for first, stop in zip(ends - lengths, ends):
        before = int(ended and first > 0)  # the token that ends a document predicts the next one
        expected += slow_losses(tiny_model(), ids[first - before : stop], 4)[before:].tolist()
    tokens = tokens_of(ids, ends - lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "CHUNK", at_once)
        chunks = [tokens.part(i, i + 5) for i in range(0, len(ids), 5)]
        found = list(score(tiny_model(), chunks, apart=True, ended=ended))
    losses = np.concatenate([one.losses for one in found])
    np.testing.assert_allclose(losses, expected, atol=1e-5)


# ---- the numbers



def blocks_of(losses, size=1):
    blocks, ones = Blocks(), np.ones(len(losses))
    places = np.arange(len(losses)) * size
    values = dict(nats=losses, tokens=ones, bytes=ones * size)
    for part in np.array_split(np.arange(len(losses)), 7):
        blocks.add((places[part], places[part] * 0), {k: v[part] for k, v in values.items()})
    return blocks


def recursive(n, rng, correlation, trials=1):
    """(n, trials) numbers of which neighbours are alike: x[i] = correlation * x[i - 1] + noise."""
    found, x = np.empty((n, trials), np.float32), np.zeros(trials)
    for i in range(-100, n):
        x = correlation * x + rng.normal(size=trials)
        found[max(0, i)] = x
    return found


@pytest.mark.long
@pytest.mark.parametrize("correlation", [0, 0.9])
@pytest.mark.parametrize("n", [20_000])  # 100,000 were tried, too
def test_the_standard_error_covers_the_truth_in_95_of_100_trials(n, correlation):
    trials, rng = 1000, np.random.default_rng(1)
    hits = 0
    for losses in recursive(n, rng, correlation, trials).T:
        estimate = blocks_of(losses).ratio("nats", "tokens")
        hits += abs(estimate.value) < 1.96 * estimate.error
    print(f"{n:,} losses, correlation {correlation}: covered in {hits / trials:.1%}")
    assert 0.93 <= hits / trials <= 0.97


def test_the_blocks_of_a_text_add_up_whatever_pieces_it_comes_in():
    losses = np.random.default_rng(0).normal(size=300_000)
    blocks = blocks_of(losses, size=3)
    estimate = blocks.ratio("nats", "tokens")
    assert blocks.size == 8192 and estimate.num_blocks == -(-900_000 // 8192)
    assert abs(estimate.value - losses.mean()) < 1e-12
    assert abs(estimate.error / (1 / math.sqrt(300_000)) - 1) < 0.25


def test_noise_is_called_so_and_a_fiftieth_of_a_nat_in_100_000_characters_is_not():
    rng, larger = np.random.default_rng(0), 0
    for _ in range(12):
        common = recursive(20_000, rng, 0.9)[:, 0].repeat(5)  # what is hard for one is so for both
        a, b, c = (common + rng.normal(size=100_000) + shift for shift in (0, 0, 0.02))
        for other, is_more in ((b, False), (c, True)):
            found, chance = difference(blocks_of(a), blocks_of(other), "nats", "bytes")
            if is_more:
                assert found.value > chance
            else:
                larger += abs(found.value) > chance
    assert larger <= 3  # 0.6 of 12 are expected


# ---- the command


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with tiny runs: char and byte, on one text; documents, of which some text is not
    learned; two vocabularies; and aligned streams."""
    home = tmp_path_factory.mktemp("runs")
    text, documents = home / "text", home / "rows"
    char_dataset(text, STORY)
    for folder, tokenizer in ((home / "bytes", ByteTokenizer()),
                              (home / "other", CharTokenizer.from_text(TEXT))):
        folder.mkdir()
        write_dataset(folder, STORY if folder.name == "bytes" else TEXT, tokenizer)
    documents.mkdir()
    rows = [[(f"{i}: the quick ", False), ("brown fox", True)] for i in range(300)]
    write_dataset(documents, rows, train_bpe(["the quick brown fox"] * 9, vocab_size=260))
    more = ("--max_iters=1", "--eval_iters=1")
    for name, *flags in (("char", f"--dataset={text}"), ("byte", f"--dataset={home / 'bytes'}"),
                         ("masked", f"--dataset={documents}", "--documents"),
                         ("two", "--training_mode=multidataset", "--multidataset_wte",
                          "--dataset_list", str(text), str(home / "other")),
                         ("streams", "--training_mode=multicontext", "--multicontext_datasets",
                          str(text), str(text_copy(home, text)))):
        run(*TINY, *more, *flags, f"--out_dir={home / name}-run")
    return home


def text_copy(home, text):
    """A second stream: the same text backwards in the alphabet."""
    folder = home / "twin"
    folder.mkdir()
    chars = sorted({*STORY})
    twin = STORY.translate(dict(zip(map(ord, chars), reversed(chars))))
    write_dataset(folder, twin, CharTokenizer.from_text(STORY))
    return folder


def told(capsys, *argv):
    """The objects that evaluate.py --json prints."""
    capsys.readouterr()
    evaluate.main([*map(str, argv), "--json", "--device=cpu"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", ["char", "two", "streams"])
def test_a_full_pass_without_overlap_is_the_val_loss_of_train_py(runs, capsys, name):
    out_dir = runs / f"{name}-run"
    capsys.readouterr()
    train.main(["--init_from=resume", f"--out_dir={out_dir}", "--eval_only", "--eval_iters=9999",
                "--device=cpu"])
    line = next(line for line in capsys.readouterr().out.splitlines() if "val loss" in line)
    stated = float(line.split("val loss ")[1].split()[0])
    found, = told(capsys, "--out_dir", out_dir, "--stride=16")
    assert abs(found["loss"] - stated) <= 5.1e-5
    assert len(found.get("parts", [])) == (0 if name == "char" else 2)
    assert found["standard_error"] < 0.1 < found["perplexity"]


def test_learned_tokens_are_told_apart_and_documents_are_named(runs, capsys, tmp_path):
    found, = told(capsys, "--out_dir", runs / "masked-run", "--csv", tmp_path / "x.csv")
    dataset = open_dataset(str(runs / "rows"))
    assert found["learned_tokens"] == dataset.meta["splits"]["val"]["mask"]["learned"]
    assert found["learned_loss"] != found["loss"]
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [*DatasetText([dataset], "val").document_names()]
    assert [row["document"] for row in rows] == names
    assert sum(int(row["tokens"]) for row in rows) == found["tokens"]
    weights = [int(row["tokens"]) for row in rows]
    mean = np.average([float(row["loss"]) for row in rows], weights=weights)
    assert abs(mean - found["loss"]) < 1e-5
    assert not (tmp_path / "x.csv.tmp").exists()


def test_files_standard_input_and_datasets_of_one_text_have_one_loss(runs, capsys, tmp_path,
                                                                      monkeypatch):
    text = STORY[int(len(STORY) * 0.9) :]
    (tmp_path / "a.txt").write_text(text)
    of_data, = told(capsys, "--out_dir", runs / "char-run")
    of_file, = told(capsys, "--out_dir", runs / "char-run", "--files", tmp_path / "a.txt")
    assert of_file["loss"] == of_data["loss"] and of_file["bytes"] == len(text) - 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    of_pipe, = told(capsys, "--out_dir", runs / "char-run", "--files", "-")
    assert of_pipe["loss"] == of_data["loss"]


def test_tokenizers_are_compared_by_the_bytes_of_their_common_text(runs, capsys, tmp_path):
    """Characters against bytes, of rows whose ends are tokens of their own."""
    with open(tmp_path / "rows.jsonl", "w") as file:
        for row in STORY.split("."):
            print(json.dumps({"text": row}), file=file)
    first, second = told(capsys, "--out_dir", runs / "char-run", runs / "byte-run", "--files",
                         tmp_path / "rows.jsonl")
    assert first["bytes"] == second["bytes"] and "differences" not in first
    found, = second["differences"]
    gap = second["bits_per_byte"] - first["bits_per_byte"]
    assert abs(found["bits_per_byte"]["difference"] - gap) < 1e-9
    assert "loss" not in found  # tokens of different tokenizers are not compared
    same = told(capsys, "--out_dir", runs / "char-run", runs / "char-run")[1]["differences"]
    assert same[0]["loss"]["difference"] == 0 and not same[0]["loss"]["is_larger_than_chance"]


def test_runs_on_different_texts_are_not_compared(runs, capsys):
    capsys.readouterr()
    evaluate.main(["--out_dir", str(runs / "char-run"), str(runs / "masked-run"), "--device=cpu"])
    said = capsys.readouterr()
    assert "texts differ" in said.err and "against" not in said.out


def test_unknown_characters_are_named_or_left_out_and_counted(runs, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("the quick Привет fox" * 2)
    argv = ["--out_dir", str(runs / "char-run"), "--files", str(tmp_path / "a.txt")]
    error = one_line_error(capsys, evaluate.main, [*argv, "--device=cpu"])
    says(error, "a.txt", "position 10", "'П'", "'т'", "--skip_unknown")
    found, = told(capsys, *argv, "--skip_unknown")
    assert found["skipped"] == dict.fromkeys("Привет", 2)
    (tmp_path / "b.txt").write_text("the quick  fox" * 2)
    argv[-1] = str(tmp_path / "b.txt")
    assert told(capsys, *argv)[0]["loss"] == found["loss"]


@pytest.mark.parametrize("argv, facts", [
    (["--out_dir", "out/nope"], ["out/nope", "train.py"]),
    (["--out_dir", "{runs}/char-run", "--files", "{here}/empty.txt"], ["empty.txt", "empty"]),
    (["--out_dir", "{runs}/char-run", "--files", "{here}/one.txt"], ["one.txt", "1 token", "2"]),
    (["--out_dir", "{runs}/char-run", "--files", "{here}/none.txt"], ["none.txt", "not found"]),
    (["--out_dir", "{runs}/char-run", "--files", "{here}/*.zip"], ["*.zip"]),
    (["--out_dir", "{runs}/char-run", "--dataset", "{runs}/bytes"],
     ["byte, 256 ids", "char", "--files"]),
    (["--out_dir", "{runs}/streams-run", "--files", "{here}/one.txt"], ["text, twin", "streams"]),
    (["--out_dir", "{runs}/streams-run", "--dataset", "{runs}/text"], ["--dataset"]),
    (["--out_dir", "{runs}/char-run", "--documents"], ["--documents", "one text"]),
    (["--out_dir", "{runs}/char-run", "--csv", "{here}/no/x.csv"], ["no/x.csv"]),
    (["--skip_unknown"], ["--skip_unknown", "--files"]),
    (["--format=text"], ["--format", "--files"]),
    (["--stride=0"], ["--stride"]),
], ids=lambda value: " ".join(value) if value[0].startswith("--") else "")
def test_a_mistake_is_one_line(runs, capsys, tmp_path, monkeypatch, argv, facts):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "one.txt").write_text("t")
    monkeypatch.chdir(tmp_path)
    argv = [word.format(runs=runs, here=tmp_path) for word in argv]
    says(one_line_error(capsys, evaluate.main, [*argv, "--device=cpu"]), *facts)


# ---- files


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("aé\n 語😀", min_size=1, max_size=40), min_size=1, max_size=5))
def test_files_become_what_prepare_py_writes_and_their_bytes_those_of_the_text(texts):
    tokenizer = train_bpe(["aé\n 語😀" * 20], vocab_size=270)
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "rows.jsonl")
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        for kind in (tokenizer, CharTokenizer.from_text("aé\n 語😀")):
            text = FilesText(open_texts([path]), kind, kind.to_meta())
            names = text.document_names()
            found, expected = joined_tokens([*text.tokens()]), []
            for row in texts:
                has_eot = kind.eot_token is not None
                end = "" if has_eot or row.endswith("\n") else "\n"
                expected += [*kind.encode(row + end).tolist(), *[kind.eot_token] * has_eot]
            assert found.ids.tolist() == expected
            sizes = found.num_bytes.sum(), found.num_chars.sum()
            assert sizes == (len("".join(texts).encode()), len("".join(texts)))
            assert found.begins.sum() == len(texts)
            assert next(names).endswith("rows.jsonl:1")


# ---- from Python


def test_logits_losses_and_embeddings_agree_beyond_the_context_too(runs):
    model = load(f"{runs}/char-run", "cpu")
    text = STORY[:50]  # three times as long as the context
    losses, logits = model.losses(text), model.logits(text)
    ids = torch.from_numpy(model.ids(text))
    expected = F.cross_entropy(logits[:-1], ids[1:], reduction="none").numpy()
    np.testing.assert_allclose(losses[1:], expected, atol=1e-5)
    assert math.isnan(losses[0]) and model.embeddings(text).shape == (50, 32)
    assert "".join(model.tokens(text)) == text
    assert model.generate("the ", 9, seed=1) == model.generate("the ", 9, seed=1)
    assert len(model.generate("the ", 9, seed=1, temperature=0)) == 9
    assert model.losses("").shape == (0,) and model.logits("").shape[0] == 0


def test_load_names_what_is_missing(runs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match="out/nope"):
        load("out/nope", "cpu")
    with pytest.raises(UserError, match="aligned streams"):
        load(f"{runs}/streams-run", "cpu").losses("the")


# ---- time and memory


@pytest.mark.long
def test_windows_are_ten_times_as_fast_as_a_forward_pass_for_each_token():
    model, ratios = tiny_model(block_size=64, vocab_size=65), []
    ids = np.random.default_rng(0).integers(0, 65, 20_000)
    for _ in range(5):  # A B A B
        t0 = time.perf_counter()
        list(score(model, [tokens_of(ids)]))
        t1 = time.perf_counter()
        slow_losses(model, ids[:1000], 32)
        ratios.append((time.perf_counter() - t1) / 1000 / ((t1 - t0) / len(ids)))
    print(f"{sorted(ratios)[2]:.0f} times as fast")
    assert sorted(ratios)[2] >= 10


PEAK = """
import resource, sys
sys.path.insert(0, {root!r})
import evaluate
evaluate.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_text(runs, tmp_path):
    peaks = []
    for millions in (1, 4):
        (tmp_path / "a.txt").write_text(STORY * 50 * millions)
        child = python("-c", PEAK.format(root=str(ROOT)), "--out_dir", runs / "char-run",
                       "--stride=16", "--device=cpu", "--files", tmp_path / "a.txt")
        assert child.returncode == 0, child.stderr
        peaks.append(int(child.stdout.splitlines()[-1]))
    print(f"peak memory {peaks} MB")
    assert peaks[1] < peaks[0] + 60
