"""Damaged and hostile meta.pkl, checkpoints, log.csv and args.json: one line, or right.

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
import signal
import struct
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (  # noqa: F401
    TINY,
    assert_same,
    char_dataset,
    one_line_error,
    one_thread,
    run,
    run_log,
)

import sample
import train
from data import check_dataset, list_datasets
from pipeline.errors import UserError, one_line_errors
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.read.meta import load_plain
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    TableTokenizer,
    TiktokenTokenizer,
    TokenList,
    hash_of_table,
    tokenizer_from_meta,
)
from pipeline.tokenizers.trained import PATTERN
from train_args import parse_args
from training import plots, run_folder
from training import run_folder as runs
from training.checkpoint import load_checkpoint

resource = pytest.importorskip("resource", reason="memory cannot be limited here")
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
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
    """What `work` says on stderr as a command would: None where it ends well, else one line."""
    err = io.StringIO()
    with (
        contextlib.redirect_stderr(err),
        contextlib.redirect_stdout(io.StringIO()) as out,
        limits(),
    ):
        try:
            with one_line_errors():
                work()
        except SystemExit as stop:
            assert stop.code == 2
    lines = [line for line in err.getvalue().splitlines() if not line.startswith("note: ")]
    assert all(c.isprintable() or c == "\n" for c in out.getvalue() + err.getvalue())
    assert (
        not lines
        or len(lines) == 1
        and lines[0].startswith("error: ")
        and "memory" not in lines[0].lower()
    ), lines
    return lines[0] if lines else None


def campaign(seed, number, mutate, case):
    """case(mutated) for so many random mutations; Counter of what came of them. A failure names its
    seed."""
    came, failed = collections.Counter(), []
    for i in range(number):
        try:
            came[case(mutate(random.Random(f"{seed} {i}")), i)] += 1
        except Exception as error:
            failed.append(
                (
                    f"mutation {seed} {i}",
                    error,
                    error.__traceback__.tb_next and error.__traceback__.tb_next.tb_lineno,
                )
            )
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


OPCODES = [
    bytes([op]) + argument
    for op in range(256)
    for argument in (
        b"",
        b"\x00",
        b"\xff" * 4,
        b"\x00\x00\x00\x40\x00\x00\x00\x00",
        b"7\n",
        b"\x01a",
    )
]


def of_opcodes(raw, rng):
    """An instruction of a pickle replaced, or one more, or one taken out, or one many times."""
    places = [place for _, _, place in pickletools.genops(raw)] + [len(raw)]
    i = rng.randrange(len(places) - 1)
    new = rng.choice(
        [
            rng.choice(OPCODES),
            rng.choice(OPCODES) * rng.randrange(1, 60),
            b"",
            raw[places[i] : places[i + 1]] * 2,
        ]
    )
    return raw[: places[i]] + new + raw[places[rng.choice([i, i + 1])] :]


ODD = [
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    2**31,
    2**32,
    2**63,
    -(2**70),
    10**300,
    0.0,
    -1.5,
    float("nan"),
    float("inf"),
    "",
    "7",
    "x" * 5000,
    "a\x1b[2Jb\n",
    "\u202e",
    "../../x",
    "$x",
    "cvp",
    b"",
    b"\xff",
    b"x" * 3000,
    [],
    [1],
    ["a"],
    [None],
    [[]],
    {},
    {"a": 1},
    {1: "a"},
    {"train": 1, "val": 2},
    {"train": {"tokens": 9}, "val": {"tokens": 9}},
    {None: None},
    "(a+)+$",
    "uint32",
    "char",
    "bpe",
    "tiktoken",
    "sentencepiece",
    "byte",
    "token_list",
    "custom",
    [{}] * 3,
    "e" * 64,
    {b"\xff": 1},
    {0: 5, 1: b"a"},
]


def of_values(tree, rng, odd=ODD):
    """A copy of a tree of dicts and lists with another value, key or place somewhere."""
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
        parent[key] = (
            value + 1
            if type(value) in (int, float)
            else value[:-1]
            if rng.random() < 0.5
            else value + value[:1]
        )
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
    return TiktokenTokenizer(
        "bpe",
        tiktoken.Encoding(
            "bpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 259}
        ),
        backend="tiktoken",
        kind="bpe",
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: a small prepared folder of it}."""
    home, folders = tmp_path_factory.mktemp("folders"), {}
    documents = [
        f"{TEXT[:50]}{i}\n".translate({ord(c): "x" for c in "0123456789"}) for i in range(20)
    ]
    for name, tokenizer, text in (
        ("char", CharTokenizer.from_text(TEXT), TEXT),
        ("byte", ByteTokenizer(), TEXT),
        ("bpe", small_bpe(), documents),
        ("token_list", TokenList(["the ", *sorted(set(TEXT))]), TEXT),
        ("custom", Own(), documents),
    ):
        folders[name] = home / name
        folders[name].mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            write_dataset(folders[name], text, tokenizer)
    return folders


# what a hash or a count states of a folder; the rest (the name of the source, its hash, the share
# asked for) nothing can tell
STATED = ("vocab_size", "stoi", "itos", "dtype", "max_id", "eot_token")


def what_matters(folder):
    dataset = open_dataset(f"{folder}/")
    meta, tokenizer = dataset.meta, tokenizer_from_meta(dataset.meta)
    ids = np.concatenate([dataset.tokens(split) for split in ("train", "val")])
    counts = [
        [meta["splits"][split][what] for what in ("tokens", "sha256")] for split in ("train", "val")
    ]
    return [
        [meta[key] for key in STATED],
        counts,
        hash_of_table(meta),
        tokenizer.decode(ids),
        tokenizer.encode("the dog").tolist(),
        getattr(tokenizer, "eot_token", None),
    ]


def attack_meta(folders, number, seed):
    right = {name: what_matters(folder) for name, folder in folders.items()}
    originals = {name: (folder / "meta.pkl").read_bytes() for name, folder in folders.items()}

    def mutate(rng):
        name = rng.choice(list(folders))
        raw, kind = originals[name], rng.randrange(3)
        if rng.random() < 0.3:
            raw = pickle.dumps(pickle.loads(raw), protocol=rng.randrange(3, 6))
        return name, (
            of_bytes(raw, rng)
            if kind == 0
            else of_opcodes(raw, rng)
            if kind == 1
            else pickle.dumps(of_values(pickle.loads(raw), rng), protocol=rng.randrange(3, 6))
        )

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
    assert attack_meta(folders, 80, "meta")["one line"] > 30


@pytest.mark.long
def test_10000_mutated_metas_are_one_line_or_right(folders):
    attack_meta(folders, 10_000, "meta, long")


# ---- checkpoints


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """{kind of model: the folder of a run of two steps}."""
    home, trained = tmp_path_factory.mktemp("runs"), {}
    flags = ["--n_layer=1", "--n_embd=8", "--n_head=2", "--max_iters=2", "--eval_interval=2"]
    for name, more in (
        ("char", []),
        ("bpe", ["--arch=gpt2", "--optimizer=adamw"]),
        (
            "both",
            [
                "--training_mode=multicontext",
                f"--multicontext_datasets={folders['char']},{folders['byte']}",
            ],
        ),
    ):
        trained[name] = home / name
        data = [] if name == "both" else [f"--dataset={folders[name]}/"]
        with contextlib.redirect_stdout(io.StringIO()):
            run(*flags, f"--out_dir={trained[name]}", *data, *more)
        (trained[name] / "best.pt").unlink()  # sample.py would read it rather than ckpt.pt
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
        plain["model"] = {
            k: model.get(k, torch.zeros(3)) if type(v) is int and v == 0 else v
            for k, v in given.items()
        }
    if isinstance(plain.get("optimizer"), dict):
        plain["optimizer"]["state"] = optimizer
    if rng.random() < 0.2 and isinstance(plain.get("model"), dict) and plain["model"]:
        name = rng.choice(list(plain["model"]))
        plain["model"][name] = rng.choice(
            [
                torch.zeros(2, 3),
                torch.zeros(0),
                torch.zeros(()),
                torch.full((32, 8), float("nan")),
                torch.zeros(1).expand(10**6, 10**6),
                torch.zeros(8, dtype=torch.int64),
                5,
                torch.zeros(1, dtype=torch.float64),
                torch.eye(3).to_sparse(),
                torch.zeros(3, dtype=torch.complex64),
            ]
        )
    file = io.BytesIO()
    torch.save(plain, file)
    return file.getvalue()


def attack_checkpoints(trained, number, seed):
    originals = {name: (folder / "ckpt.pt").read_bytes() for name, folder in trained.items()}
    right = {
        name: torch.load(io.BytesIO(raw), weights_only=True) for name, raw in originals.items()
    }
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
        with (
            zipfile.ZipFile(io.BytesIO(raw)) as old,
            zipfile.ZipFile(file := io.BytesIO(), "w") as new,
        ):
            for info in old.infolist():
                record = old.read(info)
                new.writestr(
                    info.filename,
                    of_opcodes(record, rng) if info.filename.endswith("data.pkl") else record,
                )
        return name, kind, file.getvalue()

    def case(mutation, i):
        name, kind, raw = mutation
        path = trained[name] / "ckpt.pt"
        path.write_bytes(raw)
        flags = ["--multicontext_start", "the"] if name == "both" else ["--start=the"]
        said = told(
            lambda: sample.main(
                [f"--out_dir={path.parent}", "--max_new_tokens=2", "--device=cpu", *flags]
            )
        )
        if said is None or i % 8 == 0:
            said = (
                told(
                    lambda: train.main(
                        [
                            "--init_from=resume",
                            f"--out_dir={path.parent}",
                            "--eval_only",
                            "--device=cpu",
                            "--eval_iters=1",
                        ]
                    )
                )
                or said
            )
        if kind == 0 and said is None:  # what the file's own CRCs could tell
            assert_same(load_checkpoint(path), right[name])
        return "right" if said is None else "one line"

    try:
        return campaign(seed, number, mutate, case)
    finally:
        for name, folder in trained.items():
            (folder / "ckpt.pt").write_bytes(originals[name])


def test_a_mutated_checkpoint_is_one_line_or_right(trained):
    assert attack_checkpoints(trained, 10, "checkpoint")["one line"] > 5


@pytest.mark.long
@pytest.mark.parametrize("quarter", range(4))
def test_10000_mutated_checkpoints_are_one_line_or_right(trained, quarter):
    attack_checkpoints(trained, 2500, f"checkpoint, long, {quarter}")


# ---- log.csv and args.json


HEADER = [*runs.CSV_COLUMNS[:-1]]  # of a run without loss masks
ROWS = [
    [str(i * 10), str(i * 640), "", "", "", "", f"{4 / i:.6g}", "0.01", "900.5", "", "0.01", str(i)]
    for i in range(1, 30)
]
ROWS[9][2:6] = ROWS[19][2:6] = ["2.5", "2.75", "3.5", "3.75"]
LOG = "".join(",".join(row) + "\r\n" for row in [HEADER, *ROWS]).encode()
ARGS = {
    "args": {"seed": 1, "dataset": "x", "dataset_list": None, "learning_rate": 0.1},
    "starts": [
        {
            "iter": 0,
            "date": "2026-11-25",
            "command": "python train.py",
            "commit": None,
            "versions": {"python": "3"},
        }
    ],
}


def of_cells(rng):
    """A table as a spreadsheet, or an editor, may leave it."""
    rows = [list(row) for row in [HEADER, *ROWS]]
    row = rng.choice(rows)
    at, kind = rng.randrange(len(row)), rng.randrange(9)
    if kind == 0:
        row[at] = rng.choice(
            [
                "",
                "²",
                "NaN",
                "inf",
                "1e400",
                "0,5",
                "1.234,5",
                "1 000",
                "12:30",
                "01/02/26",
                "=A1",
                "\0",
                "-",
                "x" * 200_000,
                "1_0",
                "٣",
                '"',
                '"1"',
                "\n",
                "1e5",
                "-7",
                "iter",
                "#REF!",
                "TRUE",
                "\x1b[2J",
                " 7",
                "7 ",
                "9" * 30,
            ]
        )
    elif kind == 1:
        del row[at:]
    elif kind == 2:
        del row[at]
    elif kind == 3:
        row += rng.choice([[""], ["", ""], ["7"]])
    elif kind == 4:
        rows.append(rows.pop(rng.randrange(len(rows))))
    elif kind == 5:
        rows = [[cell for i, cell in enumerate(row) if i != at] for row in rows]
    elif kind == 6:
        rows.insert(rng.randrange(len(rows) + 1), [])
    separator, end = rng.choice(
        [(",", "\r\n")] * 4 + [(",", "\n"), (";", "\n"), ("\t", "\n"), (",", "\r"), (", ", "\n")]
    )
    text = "".join(separator.join(row) + end for row in rows)
    return text.encode(rng.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-16-le"]))


def attack_logs(number, seed):
    folder = Path("run")
    folder.mkdir(exist_ok=True)
    whole = [dict(zip(HEADER, row)) for row in ROWS]

    def case(raw, i):
        (folder / "log.csv").write_bytes(raw)
        said = told(lambda: plots.read_log(folder))
        if said is None and i % 200 == 0:
            assert told(lambda: plots.plot([folder], folder / "loss.png")) is None

        def resumed():
            log = run_log(folder, 250)
            log.row(dict.fromkeys(HEADER, 1.0) | {"iter": 260})
            log.file.close()

        again = told(resumed)
        if again is None:
            rows = run_folder.read_rows(
                folder / "log.csv"
            )  # what a resume has kept can be read for ever
            assert [row["iter"] for row in rows] == sorted(
                {row["iter"] for row in rows}, key=int
            ) and rows[-1]["iter"] == "260"
            if raw.count(b"\n") == LOG.count(b"\n") and raw.replace(b"\r", b"") == LOG.replace(
                b"\r", b""
            ):
                assert rows[:-1] == whole[:25]
        return "right" if said is None and again is None else "one line"

    return campaign(
        seed, number, lambda rng: of_bytes(LOG, rng) if rng.random() < 0.5 else of_cells(rng), case
    )


def _is_json(value):
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError):
        return False


def attack_args(number, seed, monkeypatch):
    folder, raw = Path("run"), json.dumps(ARGS, indent=1).encode()
    folder.mkdir(exist_ok=True)
    (folder / "log.csv").write_bytes(LOG)
    args = parse_args(["--max_iters=2"])
    monkeypatch.setattr(
        "subprocess.run", lambda *a, **k: (_ for _ in ()).throw(OSError())
    )  # no git

    def mutate(rng):
        if rng.random() < 0.4:
            return of_bytes(raw, rng)
        if rng.random() < 0.1:
            return rng.choice(
                [
                    b"[" * 100_000,
                    b"",
                    b"null",
                    b"1" * 10_000,
                    b'{"args": ' * 50_000,
                    b"\xff\xfe{}",
                    b'{"args":{},"starts":[]',
                ]
            )
        odd = list(filter(_is_json, ODD))
        tree = of_values(ARGS, rng, odd)
        return json.dumps({str(k): v for k, v in tree.items()}, skipkeys=True).encode()

    def case(raw, i):
        (folder / "args.json").write_bytes(raw)
        said = told(lambda: plots.labels_of([folder, folder]))
        again = told(
            lambda: run_folder.describe_run(
                types.SimpleNamespace(out_dir=folder, args=args, iter_num=1), []
            )
        )
        if again is None:
            held = json.loads((folder / "args.json").read_bytes())
            assert held["args"]["max_iters"] == 2 and held["starts"][-1]["iter"] == 1
        return "right" if said is None and again is None else "one line"

    return campaign(seed, number, mutate, case)


def test_a_changed_log_is_one_line_or_right_and_what_a_resume_keeps_can_be_read():
    assert attack_logs(80, "log")["one line"] > 20


def test_a_changed_args_json_is_one_line_or_right(monkeypatch):
    assert attack_args(40, "args", monkeypatch)["one line"] > 10


@pytest.mark.long
def test_10000_changed_logs_are_one_line_or_right():
    attack_logs(10_000, "log, long")


@pytest.mark.long
def test_10000_changed_args_json_are_one_line_or_right(monkeypatch):
    attack_args(10_000, "args, long", monkeypatch)


def test_a_row_cut_in_its_first_field_does_not_survive_a_resume():
    Path("run").mkdir()
    for cut in (b"12", b"12,", b"123,64", LOG[-40:-2]):
        Path("run/log.csv").write_bytes(LOG + cut)
        run_log(Path("run"), 250).file.close()
        assert [row["iter"] for row in run_folder.read_rows(Path("run/log.csv"))] == [
            str(10 * i) for i in range(1, 26)
        ]


# ---- a few bytes that would fill the memory, hang or end the process


def bombs():
    """{what it is: a pickle}."""
    pack, dump = struct.pack, pickle.dumps
    shared = b"]\x94" + b"".join(b"]\x94(h%ch%ce" % (i, i) for i in range(40))
    deep = b"}" + b"K\x01}" * 2000 + b"s" * 2000 + b"."
    return {
        "bytearray of 4 GB": b"\x96" + pack("<Q", 4 << 30) + b".",
        "bytes of 4 GB": b"\x8e" + pack("<Q", 4 << 30) + b".",
        "text of 4 GB": b"\x8d" + pack("<Q", 4 << 30) + b".",
        "long bytes of 2 GB": b"B" + pack("<I", 2 << 30) + b"x.",
        "a frame of 4 GB": b"\x80\x04\x95" + pack("<Q", 4 << 30) + b".",
        "a number of 2 GB": b"\x8b" + pack("<I", 2 << 30 - 1) + b".",
        "tuples doubled 40 times": b"}K\x01" + b"2\x86" * 40 + b"Ns.",
        "lists doubled 40 times": shared + b".",
        "5,000,000 tuples in one another": b")" + b"\x85" * 5_000_000 + b".",
        "dicts 2,000 deep": deep,
        "dtype 2,000 deep": dump({"vocab_size": 3})[:-1]
        + b"X\x05\x00\x00\x00dtype"
        + b"]" * 2000
        + b"a" * 1999
        + b"s.",
        "a list of itself": b"}\x94X\x0a\x00\x00\x00vocab_sizeK\x03sK\x01h\x00s.",
        "sets": dump({"vocab_size": 3, "x": {1, 2}}),
        "a frozenset": dump({"vocab_size": 3, "x": frozenset([1])}),
        "a tuple": dump({"vocab_size": 3, "x": (1, 2)}),
        "4,000,000 lists": b"]" * 4_000_000 + b".",
        "4,000,000 memos": b"N" + b"\x94" * 4_000_000 + b".",
        "4,000,000 values": b"(" + b"N" * 4_000_000 + b"l.",
        "a memo at 2**31": b"Nr" + pack("<I", 2**31) + b".",
        "a memo by text": b"Np" + b"9" * 18 + b"\n.",
        "a million digits": b"L" + b"9" * 10**6 + b"L\n.",
        "a thousand digits": dump({"vocab_size": 3, "max_id": 10**1000}),
        "one long text 10,000 times": (
            b"}X\x0a\x00\x00\x00vocab_sizeK\x03sX\x04\x00\x00\x00itos](X"
            + pack("<I", 10**6)
            + b"x" * 10**6
            + b"\x94"
            + b"h\x00" * 10_000
            + b"es."
        ),
        "half a character": dump({"vocab_size": 1, "itos": {0: "\ud800"}}),
        "a dict as a key": b"}}K\x01s.",
        "an end within a value": b"\x8c",
        "no end": b"}",
    }


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_in_place_of_meta_is_one_line(name):
    raw = bombs()[name]
    said = told(lambda: load_plain(raw, "meta.pkl"))
    assert said.startswith("error: meta.pkl ") and len(said) < 400


def test_half_a_gigabyte_of_pickle_is_not_read(tmp_path):
    folder = char_dataset(tmp_path / "x")
    with open(folder / "meta.pkl", "wb") as file:
        file.truncate(1 << 29)
    assert "more than 67,108,864 bytes" in told(lambda: open_dataset(f"{folder}/"))


@pytest.mark.parametrize("what", ["pipe", "folder", "device", "socket", "no permission"])
@pytest.mark.parametrize("name", ["meta.pkl", "train.bin", "README.md"])
def test_what_is_no_file_is_one_line_and_never_waited_for(tmp_path, name, what):
    folder = char_dataset(tmp_path / "x")
    no_file(folder / name, what)
    with limits():
        assert list_datasets.describe(folder)["prepared"] == (
            {"train": 12_150, "val": 1_350} if name == "README.md" else None
        )
    if name != "README.md":
        said = told(lambda: check_dataset.main([f"{folder}/"]))
        assert f"x/{name}" in said and (
            "no ordinary file" in said or what == "no permission" and "Permission denied" in said
        )


def no_file(path, what):
    """Put something else in place of a file."""
    raw = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as it, contextlib.chdir(path.parent):
            it.bind(path.name)
    else:
        path.write_bytes(raw)
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")


@pytest.mark.parametrize("what", ["pipe", "folder", "device", "no permission"])
@pytest.mark.parametrize("name", ["ckpt.pt", "log.csv", "args.json"])
def test_what_is_no_file_of_a_run_is_one_line(trained, tmp_path, name, what):
    import shutil

    shutil.copytree(trained["char"], "x")
    Path("x/best.pt").unlink(missing_ok=True)
    no_file(Path("x") / name, what)
    said = told(
        lambda: train.main(["--init_from=resume", "--out_dir=x", "--max_iters=3", "--device=cpu"])
    )
    assert f"x/{name}" in said and "damaged" not in said
    if name != "ckpt.pt":
        assert f"x/{name}" in told(lambda: plots.plot([Path("x"), Path("x")], "a.png"))


def test_no_permission_and_a_bad_disk_are_not_called_damage(trained, monkeypatch, tmp_path):
    path, plain = trained["char"] / "ckpt.pt", Path.open
    for error, words in (
        (PermissionError(13, "Permission denied", str(path)), "Permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "more memory"),
    ):

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(
                "torch.load"
                if not isinstance(error, PermissionError)
                else "training.checkpoint.open_regular",
                lambda *a, **k: fail(),
            )
            with pytest.raises((UserError, OSError)) as caught:
                load_checkpoint(path)
        assert words in str(caught.value) and "damage" not in str(caught.value)
    assert plain is Path.open


# ---- a wrong table, wrong counts


@pytest.mark.parametrize("kind", ["char", "bpe", "token_list", "custom"])
def test_two_tokens_swapped_are_found_wherever_the_table_is_read(folders, kind, tmp_path):
    import shutil

    shutil.copytree(folders[kind], "x")
    meta = pickle.loads(Path("x/meta.pkl").read_bytes())
    itos = meta["itos"]
    itos[3], itos[4] = itos[4], itos[3]
    for also in (False, True):  # stoi swapped as well
        if also:
            meta["stoi"] |= {itos[3]: 3, itos[4]: 4}
        Path("x/meta.pkl").write_bytes(pickle.dumps(meta))
        for work in (
            lambda: check_dataset.main(["./x"]),
            lambda: open_dataset("./x"),
            lambda: train.main([*TINY, "--dataset=./x"]),
        ):
            assert "table_sha256" in told(work)


@pytest.mark.parametrize(
    "kind, split, key, words",
    [
        (
            "char",
            "train",
            "bytes",
            "says that train has 7 bytes of text; its tokens stand for 1,215",
        ),
        ("bpe", "val", "bytes", "says that val has 7 bytes"),
        ("bpe", "train", "documents", "says that train has 7 documents"),
    ],
)
def test_counts_that_the_bins_do_not_bear_out_are_found(folders, kind, split, key, words):
    import shutil

    shutil.copytree(folders[kind], "x")
    meta = pickle.loads(Path("x/meta.pkl").read_bytes())
    meta["splits"][split][key] = 7
    Path("x/meta.pkl").write_bytes(pickle.dumps(meta))
    assert words in told(lambda: check_dataset.main(["./x"]))


def test_what_a_stranger_calls_things_reaches_the_terminal_without_control_codes(folders):
    import shutil

    shutil.copytree(folders["char"], "x")
    meta = pickle.loads(Path("x/meta.pkl").read_bytes())
    Path("x/meta.pkl").write_bytes(pickle.dumps({**meta, "source": "a\x1b[2J\nerror: b\u202e"}))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        check_dataset.main(["./x"])
    assert "from a\\x1b[2J\\nerror: b\\u202e\n" in out.getvalue()
    Path("x/meta.pkl").write_bytes(pickle.dumps({**meta, "tokenizer": "a\x1b[2J"}))
    assert "tokenizer" in told(lambda: open_dataset("./x"))


# ---- checkpoints of strangers


@pytest.mark.parametrize(
    "values, words",
    [
        (b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.", "refers to builtins.bytearray"),
        (b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", "refers to posix.system"),
        (b"\x80\x02}" + b")" + b"\x85" * 5_000_000 + b"Ns.", "more than"),
        (b"}K\x01" + b"2\x86" * 40 + b"Ns.", "DUP at byte 3"),
        (b"\x80\x02}(X\xff\xff\xff\x7fx.", "ends within a value"),
        (b"\x80\x02\x8b\xff\xff\xff\x7fx.", "LONG4 at byte 2"),
    ],
    ids=["bytearray", "system", "tuples", "doubled", "long text", "long number"],
)
def test_what_a_checkpoint_asks_for_beyond_tensors_and_plain_values_is_refused_before_it_is_done(
    trained, values, words
):
    path = trained["char"] / "ckpt.pt"
    good = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            new.writestr(
                info.filename, values if info.filename.endswith("data.pkl") else old.read(info)
            )
    try:
        said = told(lambda: sample.main([f"--out_dir={path.parent}", "--device=cpu"]))
    finally:
        path.write_bytes(good)
    assert words in said and f"{path} could not be read as a checkpoint" in said


def test_sizes_that_the_weights_do_not_have_are_refused_before_memory_is_taken(trained):
    path = trained["char"] / "ckpt.pt"
    good = path.read_bytes()
    checkpoint = torch.load(path, weights_only=True)
    try:
        for name in ("n_layer", "n_embd", "n_hidden"):
            torch.save({**checkpoint, "args": {**checkpoint["args"], name: 2**40}}, path)
            said = told(lambda: train.main(["--init_from=resume", f"--out_dir={path.parent}"]))
            assert f"{path} is damaged: {name} is {2**40} in its arguments" in said
    finally:
        path.write_bytes(good)


def test_a_checkpoint_of_packed_records_is_refused_unread(trained):
    path = trained["char"] / "ckpt.pt"
    good = path.read_bytes()
    with (
        zipfile.ZipFile(io.BytesIO(good)) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        with new.open("archive/data/99", "w") as bomb:
            for _ in range(100):
                bomb.write(bytes(1 << 20))
    try:
        assert "its records are compressed" in told(
            lambda: sample.main([f"--out_dir={path.parent}", "--device=cpu"])
        )
    finally:
        path.write_bytes(good)


# ---- every bit of a checkpoint


def test_every_flipped_bit_in_the_weights_of_a_checkpoint_is_found(trained):
    path = trained["char"] / "ckpt.pt"
    good = path.read_bytes()
    with zipfile.ZipFile(path) as records:
        places = [
            (info.header_offset + 200, info.file_size)
            for info in records.infolist()
            if "/data/" in info.filename
        ]
    rng = random.Random(0)
    try:
        for _ in range(100):
            at, size = rng.choice([place for place in places if place[1] > 300])
            at += rng.randrange(size - 300)
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :])
            with pytest.raises(UserError, match="is not what was written|it is damaged"):
                load_checkpoint(path)
    finally:
        path.write_bytes(good)
