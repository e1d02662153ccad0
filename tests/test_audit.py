"""audit.py: what an iteration read, and which iterations read a token, a document, a text.

Run: python -m pytest tests/test_audit.py    (ten thousand configurations, 10**10 tokens and a
planted document: add -m "long or not long")
Both directions are compared with brute force over what TrainBatches gives; tokens are their own
places, so that a window tells where it lies.
"""
import argparse
import csv
import hashlib
import json
import math
import pickle
import random
import re
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
    TEXT,
    TINY,
    arange_dataset,
    char_dataset,
    child_env,
    one_line_error,
    one_thread,  # noqa: F401
    python,
    resume,
    run,
    says,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import audit
import train
from pipeline.errors import UserError
from pipeline.prepare import read_documents, write_dataset
from pipeline.read import audit as lookups
from pipeline.read.batches import TrainBatches
from pipeline.read.folder import RECORDS, open_dataset
from pipeline.read.mixture import Mixture
from pipeline.read.sampler import (
    ORDER_VERSION,
    SAMPLING_METHODS,
    draws_holding,
    moved_fractions,
    permute,
    window_starts,
)
from pipeline.tokenizers import ByteTokenizer, CharTokenizer
from training.audit import Audit
from training.checkpoint import load_checkpoint


def rows_of_command(capsys, *flags):
    """The objects that audit.py --json prints."""
    capsys.readouterr()
    audit.main([*map(str, flags), "--json"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def told(capsys, *flags):
    capsys.readouterr()
    audit.main([*map(str, flags)])
    return capsys.readouterr().out


# ---- the order and its inverse


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=40)
def test_the_inverse_of_a_permutation_undoes_it(n, key):
    index, keys = np.arange(n), np.full(n, key, dtype=np.uint64)
    there = permute(index, n, keys)
    assert (permute(there, n, keys, inverse=True) == index).all()
    assert (permute(permute(index, n, keys, inverse=True), n, keys) == index).all()


SIZES = (18, 19, 24, 33, 40, 61, 97, 160, 400)


class Folders(dict):
    """{size: three Datasets of this size, whose token number i is i}."""

    def __repr__(self):  # hypothesis prints it
        return "folders"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    where = tmp_path_factory.mktemp("data")
    return Folders({size: [open_dataset(f"{arange_dataset(where / f'd{size}{x}', size, 40)}/")
                           for x in "abc"] for size in SIZES})


@st.composite
def configurations(draw):
    """The arguments of a run, as a dict; the datasets are named by their sizes."""
    mode = draw(st.sampled_from(("single", "multidataset", "multicontext")))
    accumulation, ranks = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    # ranks * micro-steps must divide the sequences of an iteration
    shares = -(-accumulation // ranks) * ranks
    batch_size = draw(st.integers(1, 6)) * (shares // math.gcd(shares, accumulation))
    num_members = draw(st.integers(2, 3)) if mode == "multidataset" else 1
    weights = st.lists(st.integers(1, 20), min_size=num_members, max_size=num_members)
    return dict(
        mode=mode, batch_size=batch_size, accumulation=accumulation, ranks=ranks,
        sizes=[draw(st.sampled_from(SIZES)) for _ in range(num_members)],
        block_size=draw(st.integers(1, 17)), method=draw(st.sampled_from(SAMPLING_METHODS)),
        seed=draw(st.integers(0, 2**63 - 1)), version=draw(st.integers(1, ORDER_VERSION)),
        first=draw(weights), final=draw(weights), length=draw(st.floats(1, 40)),
        max_iters=draw(st.integers(1, 12)), iter=draw(st.floats(0, 1)), at=draw(st.floats(0, 1)),
        tokens=draw(st.integers(1, 30)), member=draw(st.integers(0, num_members - 1)))


def audited(folders, c):
    """The Audit of a configuration."""
    options = {}
    if c["mode"] == "multidataset":
        members = [[folders[size][x]] for x, size in enumerate(c["sizes"])]
        options["fractions_at"] = lambda batches: moved_fractions(
            c["first"], c["final"], "linear", batches / c["length"])
    else:
        members = [folders[c["sizes"][0]][: 3 if c["mode"] == "multicontext" else 1]]
    mixture = Mixture(members, block_size=c["block_size"], batch_size=c["batch_size"],
                      sampling_method=c["method"], seed=c["seed"], order_version=c["version"],
                      steps=c["accumulation"], **options)
    args = argparse.Namespace(
        batch_size=c["batch_size"], gradient_accumulation_steps=c["accumulation"],
        max_iters=c["max_iters"], block_size=c["block_size"])
    return Audit(Path("x"), args, mixture, 0, None)


def what_is_read(mixture, c):
    """(member, start) (n,) each of the rows of the whole run, from the batches of all its ranks."""
    parts = []
    for rank in range(c["ranks"]):
        batches = TrainBatches(mixture, gradient_accumulation_steps=c["accumulation"],
                               max_iters=c["max_iters"], rank=rank, num_ranks=c["ranks"])
        parts.append(np.stack([batch.ids.numpy().astype(np.int64) for batch in batches]))
        batches.close()
    # a micro-step of each rank, then the next: (draws of the run, T + 1[, K])
    whole = np.stack(parts, axis=1)
    whole = whole.reshape(-1, *whole.shape[3:])
    if whole.ndim == 3:  # aligned streams lie at the same places
        offsets = np.array([mixture.offsets[name] for name in mixture.names])
        assert (whole - offsets == (whole - offsets)[..., :1]).all()
        whole = whole[..., 0]
    assert (np.diff(whole, axis=1) == 1).all()
    borders = [mixture.offsets[streams[0].name] for streams in mixture.members]
    member = np.searchsorted(borders, whole[:, 0], side="right") - 1
    return member, whole[:, 0] - np.array(borders)[member]


def check_both_directions(folders, c):
    known = audited(folders, c)
    member, starts = what_is_read(known.mixture, c)
    # an iteration's rows
    first = int(c["iter"] * (c["max_iters"] - 1)) * known.per_iter
    draws = np.arange(first, min(first + 2 * known.per_iter, len(starts)))
    for draw, (row, held) in zip(draws.tolist(), known.rows(draws), strict=True):
        d, name = member[draw], known.mixture.members[member[draw]][0].name
        assert row.draw == draw and (row.member, row.start) == (d, starts[draw])
        assert (held["iter"] - 1) * known.per_iter + held["row"] == draw
        assert (held["dataset"], held["start"]) == (name, starts[draw])
        own, size = (member[:draw] == d).sum(), known.mixture.epochs(np.ones(len(c["sizes"])))[d]
        per_epoch = round(1 / size)
        assert (held["epoch"], held["window"]) == divmod(own, per_epoch)
    # the readers of some tokens
    d, num_tokens = c["member"], c["sizes"][c["member"]]
    token = int(c["at"] * (num_tokens - 1))
    stop = min(token + c["tokens"], num_tokens)
    holds = (member == d) & (starts < stop) & (starts + c["block_size"] >= token)
    assert known.draws_holding(d, token, stop).tolist() == np.flatnonzero(holds).tolist()


@given(configurations())
@settings(max_examples=150)
def test_both_directions_are_what_the_ranks_of_any_run_read(folders, c):
    check_both_directions(folders, c)


@pytest.mark.long
@given(configurations())
@settings(max_examples=10_000)
def test_both_directions_are_what_the_ranks_read_in_ten_thousand_runs(folders, c):
    check_both_directions(folders, c)


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_many_epochs_and_wide_ranges_take_several_blocks(method):
    """Splits of 1 to 6,000 windows an epoch; some ranges hold half of them."""
    for num_tokens, first, stop in ((50_000, 20_000, 20_001), (50_000, 10_000, 40_000), (12, 5, 6),
                                    (9, 0, 1), (50_000, 0, 1), (50_000, 49_999, 50_000)):
        order = num_tokens, 8, 3, "x"
        starts = window_starts(method, np.arange(20_000), *order)
        expected = np.flatnonzero((starts < stop) & (starts + 8 >= first))
        ends, found = zip(*draws_holding(method, first, stop, 20_000, *order, at_once=1000))
        assert np.concatenate(found).tolist() == expected.tolist()
        assert ends[-1] == 20_000 and list(ends) == sorted(ends)


# ---- of runs that train.py made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the datasets a and b (characters), and docs (documents of two files)."""
    where = tmp_path_factory.mktemp("data")
    char_dataset(where / "a")
    for name in ("b", "docs"):
        (where / name).mkdir()
    write_dataset(where / "b", TEXT[:5000], CharTokenizer.from_text(TEXT))
    rng = random.Random(1)
    for name in ("one", "two"):
        lines = [json.dumps({"text": f"{name} {i}: " + "".join(rng.choices("abc ", k=i % 50))})
                 for i in range(150)]
        (where / f"{name}.jsonl").write_text("\n".join(lines))
    write_dataset(where / "docs", read_documents([where / "one.jsonl", where / "two.jsonl"]),
                  ByteTokenizer())
    return where


@pytest.fixture(scope="module")
def of_docs(data, tmp_path_factory):
    """The folder of a run of 20 iterations on the documents."""
    out_dir = tmp_path_factory.mktemp("run") / "x"
    run(f"--dataset={data}/docs", "--max_iters=20", f"--out_dir={out_dir}", "--eval_iters=1",
        "--sampling_method=without_replacement")
    return out_dir


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODES = {
    "single": ["--dataset={data}/docs", "--sampling_method=without_replacement"],
    "multidataset": ["--training_mode=multidataset", "--dataset_list", "{data}/a", "{data}/b",
                     "--dataset_sampling_probs", "3", "1", "--dataset_sampling_probs_final", "1",
                     "2", "--gradient_accumulation_steps=3"],
    "multicontext": ["--training_mode=multicontext", "--multicontext_datasets", "{data}/a",
                     "{data}/a2", "--sampling_method=sequential"],
}


@pytest.mark.parametrize("mode", MODES)
def test_the_rows_are_the_tensors_that_the_loop_trained_on(mode, data, cwd, capsys, monkeypatch):
    if not (data / "a2").exists():
        char_dataset(data / "a2", TEXT.upper())
    flags, seen = [flag.format(data=data) for flag in MODES[mode]], []
    to_xy = train.to_xy

    def watched(batch, device, length=None):
        seen.extend(batch.ids.clone().flatten(1).tolist())
        return to_xy(batch, device, length)

    with monkeypatch.context() as patch:
        patch.setattr(train, "to_xy", watched)
        run(*flags, "--max_iters=5", "--out_dir=x", "--first_block_size=8")
        trained = list(seen)
        resume("x", "--max_iters=7")  # and of iterations after another checkpoint
        trained += seen[len(trained):]
    per_iter = len(trained) // 7
    rows = rows_of_command(capsys, "--out_dir=x", "--iter=1", "--to=7")
    assert [(row["iter"], row["row"]) for row in rows] == [
        (i + 1, j) for i in range(7) for j in range(per_iter)]
    for row, ids in zip(rows, trained, strict=True):
        dataset = open_dataset(f"{data}/{row['dataset']}/")
        assert row["stop"] - row["start"] == 17
        here = dataset.tokens("train")[row["start"] : row["stop"]].tolist()
        assert here == ids[:: 2 if mode == "multicontext" else 1]
        if mode == "multicontext":
            assert row["text"][0].upper() == row["text"][1] and row["characters"][0] == row["start"]
    # and back, for the tokens of the last row
    last = rows[-1]
    back = rows_of_command(capsys, "--out_dir=x", f"--tokens={last['start']}:{last['stop']}",
                           f"--dataset={last['dataset']}")
    expected = [(row["iter"], row["row"]) for row in rows if row["dataset"] == last["dataset"]
                and row["start"] < last["stop"] and row["stop"] > last["start"]]
    assert [(row["iter"], row["row"]) for row in back] == expected
    assert back[-1].items() >= last.items()


def test_documents_are_named_by_file_and_row_in_both_directions(of_docs, capsys):
    of_docs = f"--out_dir={of_docs}"
    rows, readers = rows_of_command(capsys, of_docs, "--iter=1", "--to=20"), {}
    for row in rows:
        assert row["documents"][0]["start"] <= row["start"]
        for document in row["documents"]:
            path, number = document["file"], document["row"]
            assert path.endswith(".jsonl") and Path(path).exists()
            readers.setdefault((path, number), []).append((row["iter"], row["row"]))
        # the text of each document is that of its row
        path, number = row["documents"][-1]["file"], row["documents"][-1]["row"]
        text = json.loads(Path(path).read_text().splitlines()[number - 1])["text"]
        tail = row["text"][max(0, row["documents"][-1]["start"] - row["start"]):]
        assert tail.rstrip("\n") in text + "\n"
    assert len(readers) > 20
    for (path, number), expected in [*readers.items()][:5]:
        for name in (path, Path(path).name):  # a part of the path is enough
            back = rows_of_command(capsys, of_docs, f"--document={name}:{number}")
            assert [(row["iter"], row["row"]) for row in back] == expected
    # in words
    (path, number), expected = readers.popitem()
    said = told(capsys, of_docs, f"--document={path}:{number}")
    rows_read = re.search(r"in iterations 1 to 20: read by (\d+) row", said)
    assert int(rows_read[1]) == len(expected) and f"{path}:{number}" in said
    assert re.search(rf"in iterations? .*\b{expected[0][0]}\b", said)


def test_a_text_is_found_wherever_tokens_and_chunks_end(data, of_docs, capsys, monkeypatch):
    docs = open_dataset(f"{data}/docs/")
    raw = docs.tokens("train").astype(np.uint8).tobytes()
    expected = [m.start() for m in re.finditer(b"(?=two 1)", raw)]
    for chunk in (13, 1000, 1 << 18):
        monkeypatch.setattr(lookups, "CHUNK", chunk)
        count, places = lookups.text_ranges(docs, "two 1", 3)
        assert (count, places) == (len(expected), [(at, at + 5) for at in expected[:3]])
        counts = lookups.characters_before(docs, np.array([5, len(raw), 0, 5]))
        assert counts.tolist() == [5, len(raw), 0, 5]
    capsys.readouterr()
    audit.main([f"--out_dir={of_docs}", "--text=two 1"])
    said = capsys.readouterr()
    assert f"{len(expected):,} places" in said.err and said.out.count("tokens ") == 20


def test_characters_of_several_bytes_and_tokens_are_counted(tmp_path, monkeypatch):
    text = "aé😀 \n" * 50
    (tmp_path / "x").mkdir()
    write_dataset(tmp_path / "x", text, ByteTokenizer())
    dataset = open_dataset(f"{tmp_path}/x/")
    monkeypatch.setattr(lookups, "CHUNK", 16)
    size = dataset.num_tokens["train"]
    held = bytes(dataset.tokens("train").astype(np.uint8))
    counts = lookups.characters_before(dataset, np.arange(size + 1))
    for at in range(size + 1):  # a character counts from its first byte on
        begun = sum(byte & 0xC0 != 0x80 for byte in held[:at])
        assert counts[at] == begun


def test_losses_are_those_of_the_model_highest_first_by_the_nearest_checkpoint(data, cwd, capsys):
    run(f"--dataset={data}/a", "--max_iters=30", "--eval_interval=30", "--out_dir=x",
        "--first_block_size=4", "--eval_iters=1")
    rows = rows_of_command(capsys, "--out_dir=x", "--iter=2", "--to=3", "--losses")
    losses = [row["loss"] for row in rows]
    assert len(rows) == 8 and losses == sorted(losses, reverse=True)
    # brute force: each window in pieces of 4, as the run had them in its first half
    from training.checkpoint import load_run
    model, ids = load_run(Path("x"))[0].eval(), open_dataset(f"{data}/a/").tokens("train")
    for row in rows:
        window = torch.tensor(ids[row["start"] : row["stop"]].astype(np.int64))
        with torch.no_grad():
            _, loss = model(window[:-1].view(-1, 4), window[1:].view(-1, 4))
        assert row["loss"] == pytest.approx(loss.item(), abs=1e-5)
    # the nearer one of two checkpoints
    held = torch.load("x/ckpt.pt", weights_only=True)
    Path("x/best.pt").unlink()  # they are one file
    torch.save(held | {"iter_num": 4}, "x/best.pt")
    assert "x/best.pt of iteration 4;" in told(capsys, "--out_dir=x", "--iter=3", "--losses")
    assert "x/ckpt.pt of iteration 30;" in told(capsys, "--out_dir=x", "--iter=29", "--losses")


def test_a_run_without_a_checkpoint_is_read_by_its_args_json(data, cwd, capsys):
    run(f"--dataset={data}/a", "--max_iters=3", "--out_dir=x")
    rows = rows_of_command(capsys, "--out_dir=x", "--iter=2")
    for name in ("ckpt.pt", "best.pt"):
        Path("x", name).unlink()
    assert rows_of_command(capsys, "--out_dir=x", "--iter=2") == rows
    assert "of 3 (3 are done)" in told(capsys, "--out_dir=x", "--iter=2")  # by log.csv
    capsys.readouterr()
    with pytest.raises(UserError) as error:
        audit.main(["--out_dir=x", "--iter=2", "--losses"])
    says(str(error.value), "x/ckpt.pt", "--losses")
    assert "note: x has no checkpoint" in capsys.readouterr().err


def test_a_longer_run_that_was_resumed_and_has_not_saved_yet_is_known_by_args_json(
        data, cwd, capsys):
    run(f"--dataset={data}/a", "--max_iters=3", "--out_dir=x")
    held = json.loads(Path("x/args.json").read_text())
    held["args"]["max_iters"] = 9
    Path("x/args.json").write_text(json.dumps(held))
    assert "of 9 (3 are done; what is not" in told(capsys, "--out_dir=x", "--iter=9")
    said = told(capsys, "--out_dir=x", "--tokens=100:5000")
    assert "in iterations 1 to 3: read by" in said and "later, to iteration 9: read by" in said


def test_the_first_version_of_the_order_is_audited_as_such(tmp_path, cwd, capsys):
    data = char_dataset(tmp_path / "short", TEXT[:205])
    run(f"--dataset={data}", "--sampling_method=without_replacement", "--max_iters=40",
        "--out_dir=x", "--eval_iters=1")
    new = rows_of_command(capsys, "--out_dir=x", "--iter=1", "--to=40")
    held = load_checkpoint(Path("x/ckpt.pt"))
    del held["order_version"]
    torch.save(held, "x/ckpt.pt")
    old = rows_of_command(capsys, "--out_dir=x", "--iter=1", "--to=40")
    assert max(row["start"] for row in old) < max(row["start"] for row in new)


def test_a_loss_that_is_not_finite_names_the_command_that_shows_what_was_read(data, cwd, capsys):
    line = one_line_error(capsys, train.main, [
        *TINY, f"--dataset={data}/a", "--warmup_iters=0", "--max_iters=50", "--log_interval=5",
        "--out_dir=x", "--learning_rate=1e38"])
    found = re.search(r"since iteration (\d+) in x.* run: python audit.py (.*)", line)
    assert f"--iter {found[1]}" in found[2]
    assert f"iteration {found[1]}, row 3: a, epoch 0, window" in told(capsys, *found[2].split())


# ---- mistakes


@pytest.mark.parametrize("flags, facts", [
    (["--iter=21"], ["--iter 21", "20 iterations"]),
    (["--iter=1", "--to=1000"], ["--to 1,000", "20 iterations"]),
    (["--iter=2", "--to=1"], ["--to 1", "--iter 2"]),
    (["--iter=0"], ["--iter", "above 0"]),
    ([], ["--iter", "--document", "--text", "--tokens"]),
    (["--iter=1", "--text=x"], ["--iter and --text"]),
    (["--text=x", "--to=2"], ["--to", "--iter"]),
    (["--text=x", "--losses"], ["--losses", "--iter"]),
    (["--iter=1", "--dataset=docs"], ["--dataset", "--iter"]),
    (["--tokens=5:5"], ["--tokens", "A:B"]),
    (["--tokens=-5:5"], ["--tokens"]),
    (["--tokens=0:99999999"], ["0:99999999", "train.bin", "tokens"]),
    (["--text=not in there"], ["'not in there'", "docs"]),
    (["--document=one.jsonl"], ["PATH:ROW"]),
    (["--document=one.json:3"], ["one.json", "docs.json", "one.jsonl"]),
    (["--document=one.jsonl:151"], ["one.jsonl:151", "nearest", "one.jsonl:1"]),
    (["--tokens=0:5", "--dataset=other"], ["--dataset other", "docs"]),
    (["--itre=3"], ["--itre", "--iter"]),
])
def test_a_mistake_is_one_line(of_docs, flags, facts, capsys):
    says(one_line_error(capsys, audit.main, [f"--out_dir={of_docs}", *flags]), *facts)


def test_a_document_of_val_is_said_to_be_there(of_docs, data, capsys):
    docs = open_dataset(f"{data}/docs/")
    row = int(docs.documents("val")["row"][0])
    name = lookups.file_names(docs)[docs.documents("val")["file"][0]]
    line = one_line_error(capsys, audit.main,
                          [f"--out_dir={of_docs}", f"--document={name}:{row}"])
    says(line, f"{name}:{row}", "in val")


def test_a_dataset_without_an_index_has_no_documents(data, cwd, capsys):
    run(f"--dataset={data}/a", "--max_iters=1", "--out_dir=x")
    line = one_line_error(capsys, audit.main, ["--out_dir=x", "--document=one.jsonl:1"])
    says(line, "a has no index", "--text", "--tokens")


def test_data_that_changed_or_went_is_refused(tmp_path, cwd, capsys):
    folder = char_dataset(tmp_path / "x")
    run(f"--dataset={folder}", "--max_iters=1", "--out_dir=o")
    char_dataset(folder, TEXT[::-1])
    for flags in (["--iter=1"], ["--text=fox"]):
        says(one_line_error(capsys, audit.main, ["--out_dir=o", *flags]), "x has changed")
    (folder / "meta.pkl").unlink()
    says(one_line_error(capsys, audit.main, ["--out_dir=o", "--iter=1"]), "meta.pkl", "not found")
    says(one_line_error(capsys, audit.main, ["--out_dir=none", "--iter=1"]), "none/ckpt.pt")
    says(one_line_error(capsys, audit.main, ["--iter=1"]), "out/ holds no checkpoint")


def test_several_datasets_need_the_one_that_tokens_are_of(data, cwd, capsys):
    run("--training_mode=multidataset", "--dataset_list", data / "a", data / "b", "--max_iters=1",
        "--out_dir=x")
    says(one_line_error(capsys, audit.main, ["--out_dir=x", "--tokens=1:2"]), "--dataset", "a, b")
    assert Counter(row["dataset"] for row in rows_of_command(
        capsys, "--out_dir=x", "--text=fox jumps")).keys() <= {"a", "b"}


# ---- campaigns


MEASURED = """
import re, sys, time
sys.path.insert(0, {root!r})
import tqdm
import audit
def memory(what):  # in MB; the peak is that of this process alone, as ru_maxrss is not
    return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before, t0, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
audit.main(sys.argv[1:])
print(time.process_time() - cpu, time.perf_counter() - t0, memory("VmHWM") - before)
"""


@pytest.mark.long
@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_ten_billion_tokens_take_a_second_and_100_mb(method, tmp_path):
    """10**10 tokens (a sparse file), 10**7 documents, 10**7 draws. The time is that of the
    processor, because other tests run beside this one, and of the second of two runs: the first one
    reads the pages that are asked for."""
    T, G, folder = 1023, 100, tmp_path / "big"
    num_tokens, num_documents, num_iters = 10**10, 10**7, 10**5
    folder.mkdir()
    write_dataset(folder, "ab\n" * 8000, ByteTokenizer())
    with open(folder / "train.bin", "r+b") as file:
        file.truncate(2 * num_tokens)
    records = np.zeros(num_documents, RECORDS[16])
    records["start"] = np.arange(num_documents) * 1000
    records["file"], records["row"] = np.divmod(np.arange(num_documents), 10**6)
    records["row"] += 1
    records.tofile(folder / "train.docs.bin")
    records[:0].tofile(folder / "val.docs.bin")
    names = json.dumps([f"part-{i}.jsonl" for i in range(10)]).encode()
    (folder / "docs.json").write_bytes(names)
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    sha256 = hashlib.sha256(names).hexdigest()
    meta["docs"] = dict(width=16, ended=True, files_sha256=sha256)
    meta["splits"]["train"] |= dict(tokens=num_tokens, docs=dict(sha256=sha256,
                                                                 count=num_documents))
    meta["splits"]["val"]["docs"] = dict(sha256=sha256, count=0)
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta, protocol=4))
    out_dir = tmp_path / "x"
    run(f"--dataset={folder}", "--max_iters=1", f"--out_dir={out_dir}", f"--block_size={T}",
        f"--batch_size={G}", f"--sampling_method={method}", "--eval_iters=1", "--n_layer=1",
        "--n_embd=4", "--eval_train=false")
    for name in ("ckpt.pt", "args.json"):  # as if it were to go on for so long
        path = out_dir / name
        if name == "ckpt.pt":
            held = torch.load(path, weights_only=True)
            held["args"]["max_iters"], held["iter_num"] = num_iters, num_iters // 2
            torch.save(held, path)
        else:
            told = path.read_text().replace('"max_iters": 1,', f'"max_iters": {num_iters},')
            path.write_text(told)
    for flags in (["--iter=99999"], ["--document=part-3.jsonl:500000"], ["--tokens=7000000000"],
                  ["--iter=50000", "--json"]):
        for _ in range(2):
            child = python("-c", MEASURED.format(root=str(ROOT)), f"--out_dir={out_dir}", *flags)
            assert child.returncode == 0, child.stderr
        *said, measured = child.stdout.splitlines()
        cpu, seconds, megabytes = map(float, measured.split())
        print(f"{method} {flags}: {cpu:.2f} s, with waiting {seconds:.2f} s, {megabytes:.0f} MB")
        assert said and cpu < 1 and megabytes < 100, (flags, measured)


@pytest.mark.long
def test_a_planted_document_is_the_first_row_that_losses_shows(tmp_path):
    """20,000 random characters among prose: the highest loss of the log leads to them."""
    prose = (ROOT / "README.md").read_text() + (ROOT / "data" / "README.md").read_text()
    rng = random.Random(0)
    words = prose.split()
    stories = [" ".join(rng.choices(words, k=80)) for _ in range(1500)]
    letters = sorted(set("".join(stories)) | set(string.printable))
    stories[700] = "".join(rng.choices(letters, k=20_000)).replace("\n", " ")
    (tmp_path / "prose").mkdir()
    (tmp_path / "stories.jsonl").write_text("\n".join(json.dumps({"text": s}) for s in stories))
    write_dataset(tmp_path / "prose", read_documents([tmp_path / "stories.jsonl"]),
                  ByteTokenizer())
    child = subprocess.run(
        [sys.executable, ROOT / "train.py", *TINY, f"--dataset={tmp_path}/prose",
         "--max_iters=300", "--block_size=64", "--batch_size=8", "--eval_interval=100",
         "--log_interval=1", "--sampling_method=without_replacement", "--out_dir=out/x"],
        cwd=tmp_path, env=child_env(), capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    with open(tmp_path / "out/x/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    spike = max(rows[100:], key=lambda row: float(row["batch_loss"]))["iter"]
    child = python(ROOT / "audit.py", "--iter", spike, "--losses", cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    first = child.stdout.split("\niteration ")[1]
    assert "stories.jsonl:701" in first, child.stdout
