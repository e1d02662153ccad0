"""Mistakes of newcomers: what they typed, what they are told, and what they type then, which works.

Run: python -m pytest tests/test_mistakes.py

A row of MISTAKES is (what is typed, facts in the message, what is typed next). " | " separates the
facts. Text between « and » in the last is in the message, letter for letter. Each message is one
line on stderr, and the exit status is 2.
"""
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, char_dataset, one_thread, run  # noqa: F401

import pipeline.read.folder
import plot_runs
import sample
import train
import train_args
from data.check_dataset import main as check_dataset
from pipeline.errors import one_line_errors
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import ByteTokenizer
from training import plan

MAIN = {"train.py": train.main, "sample.py": sample.main, "plot_runs.py": plot_runs.main,
        "data/check_dataset.py": check_dataset}
MIX = "train.py --training_mode=multidataset --dataset_list"

MISTAKES = [
    # flags
    ("train.py --max_iter=3", "--max_iter | train.py", "train.py «--max_iters»=3"),
    ("train.py --batch-size=3", "--batch-size | train.py",
     "train.py «--batch_size»=3"),
    ("train.py n_layer=1", "n_layer=1 | train.py", "train.py «--n_layer»=1"),
    ("train.py fox", "fox | train.py", "train.py «--dataset=fox»"),
    ("train.py --max_iters", "--max_iters", "train.py --max_iters 3"),
    ("train.py --max_iters=1e1", "--max_iters 1e1 | whole number | above 0",
     "train.py --max_iters=10"),
    ("train.py --dropout=20", "--dropout 20 | least 0 | below 1",
     "train.py --dropout=0.2"),
    ("train.py --compile=yes", "--compile yes | auto, true, false",
     "train.py --compile=«false»"),
    ("train.py --sampling_method=shuffle", "--sampling_method shuffle",
     "train.py --sampling_method=«without_replacement»"),
    ("train.py --n_embd=50 --n_head=4", "--n_embd 50 | 2 x | --n_head 4",
     "train.py --n_embd=«56» --n_head=4"),
    ("train.py --bias=true", "--bias", "train.py --bias=true «--arch gpt2»"),
    ("train.py --block_size=24 --first_block_size=10",
     "--block_size 24 | --first_block_size | 10",
     "train.py --block_size=24 --first_block_size=«12»"),
    ("train.py @configs/tinny.args", "configs/tinny.args",
     "train.py «@configs/tiny.args»"),
    ("train.py config/train_tiny.py", "config/train_tiny.py", "train.py «@configs/tiny.args»"),
    ("train.py configs/tiny.args", "configs/tiny.args", "train.py «@configs/tiny.args»"),
    ("train.py --overwrite", "--overwrite", "train.py --overwrite «--out_dir»=out/done"),
    ("train.py --gpu", "--gpu", "train.py «--device»=cpu"),
    ("train.py --documents", "--documents | shakespeare_char", "train.py"),
    ("train.py --device=cuda:7", "--device cuda:7", "train.py --device=«cpu»"),
    ("train.py --dtype=float16", "--dtype float16 | CUDA", "train.py --dtype=«float32»"),
    ("sample.py --num_sample=2", "--num_sample | sample.py",
     "sample.py «--num_samples»=2"),
    ("data/check_dataset.py fox --window=1", "--window | check_dataset.py",
     "data/check_dataset.py fox «--windows»=1"),
    # datasets
    ("train.py --dataset=foxx", "data/foxx", "train.py --dataset=«fox»"),
    ("data/check_dataset.py foxx", "data/foxx", "data/check_dataset.py «fox»"),
    ("train.py --dataset=zebra", "data/zebra", "bash «data/create_new_dataset.sh zebra»"),
    ("train.py --dataset=data/fox/train.bin", "data/fox/train.bin | file",
     "train.py --dataset=«data/fox»"),
    ("train.py --dataset=raw", "data/raw", "«python data/raw/prepare.py»"),
    ("python data/bare/prepare.py", "data/bare/input.txt",
     "python data/bare/prepare.py -t data/raw/input.txt"),
    ("python data/raw/prepare.py --metod=char", "--metod | prepare.py",
     "python data/raw/prepare.py «--method»=char"),
    ("python data/bare/prepare.py -t data/texts", "data/texts",
     "python data/bare/prepare.py -t «\"data/texts/*.txt\"»"),
    ("python data/bare/prepare.py -t data/raw/input.text", "data/raw/input.text",
     "python data/bare/prepare.py -t «data/raw/input.txt»"),
    ("python data/bare/prepare.py -t data/spaced/my text.txt", "data/spaced/my not found",
     "python data/bare/prepare.py -t «'data/spaced/my text.txt'»"),
    ("python data/bare/prepare.py --tokenizer byte", "--tokenizer",
     "python data/bare/prepare.py «--method» byte -t data/raw/input.txt"),
    ("bash data/create_new_dataset.sh fox", "data/fox",
     "bash data/create_new_dataset.sh fox3"),
    ("train.py --block_size=5000",
     "data/shakespeare_char/val.bin | 1,350 | 5000 | 5001 | 1,349",
     "train.py --block_size=«1024»"),
    ("train.py --dataset=torn", "data/torn/train.bin | 100 | meta.pkl | 12,150",
     "«python data/torn/prepare.py»"),
    ("train.py --dataset=gpt2_bins", "train.bin | val.bin",
     "«python data/check_dataset.py data/gpt2_bins --adopt gpt2»"),
    # several datasets
    ("train.py --dataset_list fox pup", "--dataset_list",
     "train.py --dataset_list fox pup «--training_mode multidataset»"),
    ("train.py --training_mode=multidataset", "--training_mode multidataset",
     "train.py --training_mode=multidataset «--dataset_list» fox pup"),
    (f"{MIX} fox pup --dataset_sampling_probs 1 2 3",
     "--dataset_sampling_probs | 3 | 2",
     f"{MIX} fox pup --dataset_sampling_probs 1 2"),
    (f"{MIX} fox,pupp", "data/pupp", f"{MIX} fox,«pup»"),
    (f"{MIX} fox bytes", "fox | bytes | tokenizer",
     f"{MIX} fox bytes «--multidataset_wte»"),
    ("train.py --training_mode=multicontext --multicontext_datasets fox pup", "pup | 8,100",
     "train.py --training_mode=multicontext --multicontext_datasets fox fox2"),
    # runs
    ("train.py --out_dir=out/done", "out/done",
     "train.py --out_dir=out/done «--overwrite»"),
    ("train.py --out_dir=out/half", "out/half",
     "«python train.py --init_from=resume --out_dir=out/half»"),
    ("train.py --out_dir=out/file", "--out_dir out/file", "train.py"),
    ("train.py --init_from=resume --out_dir=out/done", "complete | 2 of 2",
     "train.py --init_from=resume --out_dir=out/done «--max_iters»=3"),
    ("train.py --init_from=resume --out_dir=out/dome", "out/dome/ckpt.pt",
     "train.py --init_from=resume --out_dir=«out/done» --plan --max_iters=9"),
    ("train.py --init_from=resume --out_dir=out/half --n_layer=3",
     "--n_layer 3 | 2)",
     "train.py --init_from=resume --out_dir=out/half"),
    ("train.py --init_from=resume --overwrite",
     "--overwrite | --init_from resume",
     "train.py --init_from=resume --plan --max_iters=9"),
    ("sample.py --out_dir=out/dome", "out/dome/ckpt.pt",
     "sample.py --out_dir=«out/done»"),
    ("sample.py --out_dir=out/damaged", "out/damaged/best.pt",
     "sample.py «--out_dir=out/done»"),
    ("sample.py --out_dir=out/done/last.pt", "out/done/last.pt", "sample.py «--out_dir=out/done»"),
    ("sample.py --out_dir=done", "done/ckpt.pt", "sample.py «--out_dir=out/done»"),
    ("sample.py --out_dir=out/done/log.csv", "log.csv", "sample.py «--out_dir=out/done»"),
    ("sample.py --out_dir=out/torn", "out/torn/best.pt | out/torn/ckpt.pt",
     "sample.py --out_dir=out/torn/ckpt.pt"),
    ("train.py --init_from=resume --out_dir=out/half/best.pt", "out/half/best.pt",
     "train.py --init_from=resume «--out_dir=out/half»"),
    ("train.py --init_from=done --dataset=fox", "--init_from done",
     "train.py --init_from=«out/done» --dataset=fox --n_layer=2"),
    ("sample.py out/done", "out/done", "sample.py «--out_dir=out/done»"),
    ("python data/bare/prepare.py data/raw/input.txt", "data/raw/input.txt",
     "python data/bare/prepare.py «-t data/raw/input.txt»"),
    ("plot_runs.py", "out_dirs | out/RUN", "plot_runs.py out/done"),
    ("train.py -- n_layer=1", "n_layer=1", "train.py «--n_layer»=1"),
    ("sample.py --start=Über", "--start | 'Ü'", "sample.py --start=the"),
    ("sample.py --start=FILE:prompt", "prompt",
     "sample.py --start=FILE:data/raw/input.txt"),
    ("sample.py --temperature=hot", "--temperature | 0 or more",
     "sample.py --temperature=0"),
    ("plot_runs.py out/dome", "out/dome | log.csv", "plot_runs.py «out/done»"),
    ("plot_runs.py out/done/log.csv", "log.csv", "plot_runs.py «out/done»"),
]


@pytest.fixture(scope="module")
def first_afternoon(tmp_path_factory):
    """A clone with prepared, unprepared, damaged datasets and finished, stopped, damaged runs."""
    root = tmp_path_factory.mktemp("world")
    for name in ("fox", "fox2", "shakespeare_char", "torn"):
        char_dataset(root / "data" / name)
    char_dataset(root / "data/pup", "the quick brown fox jumps over the lazy dog.\n" * 200)
    (root / "data/bytes").mkdir()
    write_dataset(root / "data/bytes", "some text " * 900, ByteTokenizer())
    for path in (*ROOT.glob("data/*.py"), ROOT / "data/create_new_dataset.sh",
                 ROOT / "data/template"):
        (root / "data" / path.name).symlink_to(path)
    for package in ("pipeline", "training"):
        (root / package).symlink_to(ROOT / package)
    for name in ("raw", "bare", "torn", "fox", "pup"):
        (root / "data" / name).mkdir(exist_ok=True)
        shutil.copy(ROOT / "data/template/prepare.py", root / "data" / name)
        if name != "bare":
            (root / "data" / name / "input.txt").write_text("the quick brown fox\n" * 100)
    os.truncate(root / "data/torn/train.bin", 200)
    (root / "data/gpt2_bins").mkdir()
    for split in ("train", "val"):
        np.arange(100, dtype="<u2").tofile(root / f"data/gpt2_bins/{split}.bin")
    (root / "data/spaced").mkdir()
    (root / "data/spaced/my text.txt").write_text("the quick brown fox\n" * 100)
    (root / "data/texts").mkdir()
    for i in range(40):
        (root / f"data/texts/{i}.txt").write_text(f"the quick brown fox number {i}\n" * 9)
    (root / "configs").mkdir()
    (root / "configs/tiny.args").write_text("--n_embd=16")
    run(f"--dataset={root}/data/fox/", "--max_iters=2", f"--out_dir={root}/out/done")
    for name in ("half", "damaged", "torn"):
        shutil.copytree(root / "out/done", root / "out" / name)
    checkpoint = torch.load(root / "out/half/ckpt.pt")
    checkpoint["args"]["max_iters"] = 3
    torch.save(checkpoint, root / "out/half/ckpt.pt")
    for name in ("damaged/ckpt.pt", "damaged/best.pt", "torn/best.pt"):
        os.truncate(root / "out" / name, 1000)
    for name in ("damaged", "torn"):
        os.utime(root / "out" / name / "ckpt.pt", (0, 0))  # so that it isn't the newest
    (root / "out/file").touch()
    return root


@pytest.fixture
def type_in(first_afternoon, tmp_path, monkeypatch, capfd):
    """type_in(line): (exit status, stderr) of a command line typed in a copy of that clone."""
    shutil.copytree(first_afternoon, tmp_path / "clone", symlinks=True)
    monkeypatch.chdir(tmp_path / "clone")
    for module in (pipeline.read.folder, train_args):
        monkeypatch.setattr(module, "DATA", tmp_path / "clone/data")
    monkeypatch.setattr(plan, "TIMED", 0)

    def type_in(line):
        script, *argv = shlex.split(line.removeprefix("python "))
        monkeypatch.setattr(sys, "argv", [script, *argv])
        capfd.readouterr()
        if script not in MAIN:
            words = [script, *argv] if script == "bash" else [sys.executable, script, *argv]
            done = subprocess.run(words, capture_output=True, text=True)
            return done.returncode, done.stderr
        resumes = "--init_from=resume" in argv  # its sizes are those of the run
        argv = [*TINY, "--max_iters=2", "--n_layer=1",
                *argv] if script == "train.py" and not resumes else argv
        argv = ["--device=cpu", "--max_new_tokens=9", *argv] if script == "sample.py" else argv
        try:
            with one_line_errors():
                MAIN[script](argv)
            status = 0
        except SystemExit as exit:
            status = exit.code
        return status, capfd.readouterr().err
    return type_in


@pytest.mark.parametrize("typed, words, then", MISTAKES, ids=[typed for typed, _, _ in MISTAKES])
def test_a_mistake_is_told_in_a_line_and_what_it_says_to_type_works(typed, words, then, type_in):
    if typed.startswith("plot_runs.py"):
        pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    status, told = type_in(typed)
    lines = told.splitlines()
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: "), told
    assert all(fact in lines[0] for fact in words.split(" | ")), told
    for part in re.findall("«(.*?)»", then):
        assert part in lines[0]
    status, told = type_in(re.sub("[«»]", "", then))
    assert status == 0, told


def test_files_named_twice_by_one_flag_are_all_read(tmp_path):
    from pipeline.prepare.flags import parse_args
    args = parse_args("", tmp_path, ["-t", "a.txt", "-t", "b.txt", "c.txt", "-v", "d", "-v", "e"])
    assert (args.train_input, args.val_input) == (["a.txt", "b.txt", "c.txt"], ["d", "e"])
    assert parse_args("", tmp_path, []).train_input == [tmp_path / "input.txt"]
