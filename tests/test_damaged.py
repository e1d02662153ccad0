"""Damaged and hostile files of ours and of strangers (meta.pkl, checkpoints, log.csv, args.json): one line, or right.

Run: python -m pytest tests/test_damaged.py            (10,000 mutations of each: -m long)
"""
import collections
import contextlib
import io
import json
import os
import pickle
import pickletools
import random
import resource
import signal
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, assert_same, char_dataset, one_line_error, one_thread, run  # noqa: F401

import plot_runs
import runs
import sample
import train
from checkpoints import RESUMED, load_checkpoint, take_state
from data import check_dataset, list_datasets
from data.dataset import open_dataset, write_dataset
from data.errors import UserError, one_line_errors
from data.make_tokenizer import PATTERN
from data.plain import load_plain
from data.tokenizer import (ByteTokenizer, CharTokenizer, TableTokenizer, TiktokenTokenizer, TokenList, hash_of_table,
                            tokenizer_from_meta)
from model import GPT, GPTConfig
from optim import configure_optimizer
from train_args import parse_args

MEMORY, SECONDS = 300 << 20, 10  # of a case
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 30


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- the harness


class Hang(BaseException):  # no Exception, so that nothing swallows it
    pass


@contextlib.contextmanager
def limits():
    """A case has so many seconds, and so much memory beyond what the process has now."""
    def stop(*_):
        raise Hang
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def told(work):
    """What `work` says on stderr as a command would: None where it ends well, else one line; all else fails."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()) as out, limits():
        try:
            with one_line_errors():
                work()
        except SystemExit as stop:
            assert stop.code == 2
    lines = err.getvalue().splitlines()
    assert all(c.isprintable() or c == "\n" for c in out.getvalue() + err.getvalue())
    assert not lines or len(lines) == 1 and lines[0].startswith("error: ") and "memory" not in lines[0].lower(), lines
    return lines[0] if lines else None


def campaign(seed, number, mutate, case):
    """case(mutated) for so many random mutations; Counter of what came of them. A failure names the seed of its mutation."""
    came, failed = collections.Counter(), []
    for i in range(number):
        try:
            came[case(mutate(random.Random(f"{seed} {i}")), i)] += 1
        except Exception as error:
            failed.append((f"mutation {seed} {i}", error, error.__traceback__.tb_next and error.__traceback__.tb_next.tb_lineno))
    print(came)
    assert not failed, (len(failed), failed[:10])
    return came


# ---- mutations


def of_bytes(raw, rng):
    """A bit, some bytes, a cut, an insertion, a stretch that is gone, zero, or there twice."""
    raw, at, many = bytearray(raw), rng.randrange(len(raw)), rng.randrange(1, 9)
    kind = rng.randrange(7)
    if kind == 0:
        raw[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(many):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    elif kind == 2:
        del raw[at:]
    elif kind == 3:
        raw[at:at] = rng.randbytes(many)
    elif kind == 4:
        del raw[at : at + many]
    elif kind == 5:
        raw[at : at + 512] = bytes(len(raw[at : at + 512]))
    else:
        raw[at:at] = raw[max(0, at - 64) : at]
    return bytes(raw)


OPCODES = [bytes([op]) + argument for op in range(256) for argument in (
    b"", b"\x00", b"\xff" * 4, b"\x00\x00\x00\x40\x00\x00\x00\x00", b"7\n", b"\x01a")]


def of_opcodes(raw, rng):
    """An instruction of a pickle replaced, or one more, or one taken out, or one many times."""
    places = [place for _, _, place in pickletools.genops(raw)] + [len(raw)]
    i = rng.randrange(len(places) - 1)
    new = rng.choice([rng.choice(OPCODES), rng.choice(OPCODES) * rng.randrange(1, 60), b"", raw[places[i] : places[i + 1]] * 2])
    return raw[: places[i]] + new + raw[places[rng.choice([i, i + 1])] :]


ODD = [None, True, False, 0, 1, -1, 7, 2**31, 2**32, 2**63, -2**70, 10**300, 0.0, -1.5, float("nan"), float("inf"), "", "7", "x" * 5000,
       "a\x1b[2Jb\n", "\u202e", "../../x", "$x", "cvp", b"", b"\xff", b"x" * 3000, [], [1], ["a"], [None], [[]], {}, {"a": 1}, {1: "a"},
       {"train": 1, "val": 2}, {"train": {"tokens": 9}, "val": {"tokens": 9}}, {None: None}, "(a+)+$", "uint32", "char", "bpe",
       "tiktoken", "sentencepiece", "byte", "token_list", "custom", [{}] * 3, "e" * 64, {b"\xff": 1}, {0: 5, 1: b"a"}]


def of_values(tree, rng, odd=ODD):
    """A copy of a tree of dicts and lists with another value, key or place somewhere; or without one."""
    tree = pickle.loads(pickle.dumps(tree))
    parent, value = None, tree
    while isinstance(value, (dict, list)) and value and (parent is None or rng.random() < 0.7):
        parent = value
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        value = parent[key]
    kind = rng.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(["a", 7, None, "é", b"k", 2**40])] = parent.pop(key)
    elif kind == 2:
        other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], parent[key]
    elif kind == 3 and type(value) in (int, float, str, bytes) and value != "":
        parent[key] = value + 1 if type(value) in (int, float) else value[:-1] if rng.random() < 0.5 else value + value[:1]
    else:
        parent[key] = rng.choice(odd)
    return tree


# ---- meta.pkl


class Own(TableTokenizer):
    """A tokenizer of one's own with a token that ends documents."""

    def __init__(self):
        super().__init__({**dict(enumerate(sorted(set(TEXT)))), 40: "<end>"}, eot_token=40)


def small_bpe():
    import tiktoken
    ranks = {bytes([i]): i for i in range(256)} | {b"th": 256, b"the": 257, b" q": 258}
    return TiktokenTokenizer("bpe", tiktoken.Encoding("bpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={
        "<|endoftext|>": 259}), backend="tiktoken", kind="bpe")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: a small prepared folder of it}."""
    home, folders = tmp_path_factory.mktemp("folders"), {}
    documents = [f"{TEXT[:50]}{i}\n".translate({ord(c): "x" for c in "0123456789"}) for i in range(20)]
    for name, tokenizer, text in (("char", CharTokenizer.from_text(TEXT), TEXT), ("byte", ByteTokenizer(), TEXT),
                                  ("bpe", small_bpe(), documents), ("token_list", TokenList(["the ", *sorted(set(TEXT))]), TEXT),
                                  ("custom", Own(), documents)):
        folders[name] = home / name
        folders[name].mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            write_dataset(folders[name], text, tokenizer)
    return folders


# what a hash or a count states of a folder; the rest (the name of the source, its hash, the share asked for) nothing can tell
STATED = ("vocab_size", "stoi", "itos", "dtype", "max_id", "eot_token")


def what_matters(folder):
    dataset = open_dataset(f"{folder}/")
    meta, tokenizer = dataset.meta, tokenizer_from_meta(dataset.meta)
    ids = np.concatenate([dataset.tokens(split) for split in ("train", "val")])
    counts = [[meta["splits"][split][what] for what in ("tokens", "sha256")] for split in ("train", "val")]
    return [[meta[key] for key in STATED], counts, hash_of_table(meta), tokenizer.decode(ids),
            tokenizer.encode("the dog").tolist(), getattr(tokenizer, "eot_token", None)]


def attack_meta(folders, number, seed):
    right = {name: what_matters(folder) for name, folder in folders.items()}
    originals = {name: (folder / "meta.pkl").read_bytes() for name, folder in folders.items()}

    def mutate(rng):
        name = rng.choice(list(folders))
        raw, kind = originals[name], rng.randrange(3)
        if rng.random() < 0.3:
            raw = pickle.dumps(pickle.loads(raw), protocol=rng.randrange(3, 6))
        return name, (of_bytes(raw, rng) if kind == 0 else of_opcodes(raw, rng) if kind == 1 else
                      pickle.dumps(of_values(pickle.loads(raw), rng), protocol=rng.randrange(3, 6)))

    def case(mutation, i):
        name, raw = mutation
        folder = folders[name]
        (folder / "meta.pkl").write_bytes(raw)
        with limits():
            list_datasets.describe(folder)
        said = told(lambda: check_dataset.main([f"{folder}/"]))
        if said is None:
            assert what_matters(folder) == right[name]
        return "right" if said is None else "one line"
    try:
        return campaign(seed, number, mutate, case)
    finally:
        for name, folder in folders.items():
            (folder / "meta.pkl").write_bytes(originals[name])


def test_a_mutated_meta_is_one_line_or_right(folders):
    assert attack_meta(folders, 150, "meta")["one line"] > 50


@pytest.mark.long
def test_10000_mutated_metas_are_one_line_or_right(folders):
    attack_meta(folders, 10_000, "meta, long")


# ---- checkpoints


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """{kind of model: the folder of a run of two steps}."""
    home, trained = tmp_path_factory.mktemp("runs"), {}
    flags = ["--n_layer=1", "--n_embd=8", "--n_head=2", "--max_iters=2", "--eval_interval=2"]
    for name, more in (("char", []), ("bpe", ["--arch=gpt2", "--optimizer=adamw"]),
                       ("both", ["--training_mode=multicontext", f"--multicontext_datasets={folders['char']},{folders['byte']}"])):
        trained[name] = home / name
        data = [] if name == "both" else [f"--dataset={folders[name]}/"]
        with contextlib.redirect_stdout(io.StringIO()):
            run(*flags, f"--out_dir={trained[name]}", *data, *more)
    return trained


def of_records(raw, rng, odd):
    """A checkpoint as a stranger could write it: other values, with CRCs that fit."""
    checkpoint = torch.load(io.BytesIO(raw), weights_only=True)
    model, optimizer = checkpoint.pop("model"), checkpoint.get("optimizer", {}).pop("state")
    plain = {**checkpoint, "model": dict.fromkeys(model, 0)}
    for _ in range(2 if rng.random() < 0.2 else 1):
        plain = of_values(plain, rng, odd)
    given = plain.get("model", {})
    if isinstance(given, dict):
        plain["model"] = {k: model.get(k, torch.zeros(3)) if v == 0 and type(v) is int else v for k, v in given.items()}
    if isinstance(plain.get("optimizer"), dict):
        plain["optimizer"]["state"] = optimizer
    if rng.random() < 0.2 and isinstance(plain.get("model"), dict) and plain["model"]:
        name = rng.choice(list(plain["model"]))
        plain["model"][name] = rng.choice([torch.zeros(2, 3), torch.zeros(0), torch.zeros(()), torch.full((32, 8), float("nan")),
                                           torch.zeros(1).expand(10**6, 10**6), torch.zeros(8, dtype=torch.int64), 5,
                                           torch.zeros(1, dtype=torch.float64), torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.complex64)])
    file = io.BytesIO()
    torch.save(plain, file)
    return file.getvalue()


def attack_checkpoints(trained, number, seed):
    originals = {name: (folder / "ckpt.pt").read_bytes() for name, folder in trained.items()}
    right = {name: torch.load(io.BytesIO(raw), weights_only=True) for name, raw in originals.items()}
    odd = [*ODD, (), (1, 2), ((),), torch.zeros(2)]
    for folder in trained.values():
        (folder / "best.pt").unlink(missing_ok=True)

    def mutate(rng):
        name, kind = rng.choice(list(trained)), rng.randrange(3)
        raw = originals[name]
        if kind == 0:
            return name, kind, of_bytes(raw, rng)
        if kind == 1:
            return name, kind, of_records(raw, rng, odd)
        with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(file := io.BytesIO(), "w") as new:
            for info in old.infolist():
                record = old.read(info)
                new.writestr(info.filename, of_opcodes(record, rng) if info.filename.endswith("data.pkl") else record)
        return name, kind, file.getvalue()

    def case(mutation, i):
        name, kind, raw = mutation
        path = trained[name] / "ckpt.pt"
        path.write_bytes(raw)
        flags = ["--multicontext_start", "the"] if name == "both" else ["--start=the"]
        said = told(lambda: sample.main([f"--out_dir={path.parent}", "--max_new_tokens=2", "--device=cpu", *flags]))
        if said is None or i % 8 == 0:
            said = told(lambda: train.main(["--init_from=resume", f"--out_dir={path.parent}", "--eval_only", "--device=cpu",
                                            "--eval_iters=1"])) or said
        if kind == 0 and said is None:  # what the file's own CRCs could tell
            assert_same(load_checkpoint(path), right[name])
        return "right" if said is None else "one line"
    try:
        return campaign(seed, number, mutate, case)
    finally:
        for name, folder in trained.items():
            (folder / "ckpt.pt").write_bytes(originals[name])


def test_a_mutated_checkpoint_is_one_line_or_right(trained):
    assert attack_checkpoints(trained, 60, "checkpoint")["one line"] > 30


@pytest.mark.long
@pytest.mark.parametrize("quarter", range(4))
def test_10000_mutated_checkpoints_are_one_line_or_right(trained, quarter):
    attack_checkpoints(trained, 2500, f"checkpoint, long, {quarter}")
