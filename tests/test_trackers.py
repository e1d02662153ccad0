"""--tensorboard and --wandb: the curves, by name and step, over a kill and a resume;
--sample_every_eval.

Run: python -m pytest tests/test_trackers.py -m "long or not long"
What needs tensorboard or wandb is skipped where it is missing.
"""

import json
import struct
import sys
import time
from pathlib import Path

import pytest
from helpers import char_dataset, log_rows, one_line_error, one_thread, resume, run  # noqa: F401

import train
from pipeline.read.batches import TrainBatches
from training.checkpoint import load_checkpoint

TAGS = {
    "tokens",
    "loss/train",
    "loss/val",
    "train_bits_per_byte",
    "val_bits_per_byte",
    "loss/batch",
    "lr",
    "tokens_per_s",
    "data_wait",
    "seconds",
}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def killed_and_resumed(tmp_path, monkeypatch):
    """killed_and_resumed(flag): iterations 1 to 17 with a checkpoint at 10, then 11 to 30;
    log.csv's rows. between(): what is done after each."""

    def killed_and_resumed(flag, between=lambda: None):
        asked, plain = [0], TrainBatches.__next__

        def dying(self):
            asked[0] += 1
            if asked[0] == 18:
                raise RuntimeError("killed")
            return plain(self)

        monkeypatch.setattr(TrainBatches, "__next__", dying)
        with pytest.raises(RuntimeError, match="killed"):
            run(
                f"--dataset={char_dataset(tmp_path / 'fox')}",
                "--max_iters=30",
                "--eval_interval=10",
                "--log_interval=5",
                "--out_dir=x",
                flag,
            )
        assert (
            load_checkpoint(Path("x/ckpt.pt"))["iter_num"] == 10
            and log_rows("x")[-1]["iter"] == "15"
        )
        between()
        resume("x")
        between()
        return log_rows("x")

    return killed_and_resumed


def check_curves(curves, rows):
    """curves: {tag: [(step, value)]}, each step once, against the rows of log.csv."""
    columns = {
        "loss/train": "train_loss",
        "loss/val": "val_loss",
        "loss/batch": "batch_loss",
        "lr": "learning_rate",
    }
    assert set(curves) == TAGS
    for tag, points in curves.items():
        column = columns.get(tag, tag)
        logged = [(int(row["iter"]), float(row[column])) for row in rows if row[column]]
        assert [step for step, _ in logged] == (
            [10, 20, 30]
            if tag.startswith(("loss/train", "loss/val", "train_", "val_"))
            else list(range(5, 31, 5))
        )
        assert points == [(step, pytest.approx(value, rel=1e-4)) for step, value in logged], tag


def test_tensorboard_reads_one_curve_over_a_kill_and_a_resume(killed_and_resumed):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    rows = killed_and_resumed("--tensorboard")
    events = reader.EventAccumulator("x").Reload()
    check_curves(
        {
            tag: [(point.step, point.value) for point in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        },
        rows,
    )
    run(
        "--init_from=scratch",
        f"--dataset={Path('fox').resolve()}",
        "--max_iters=5",
        "--out_dir=x",
        "--overwrite",
        "--tensorboard",
    )
    assert [point.step for point in reader.EventAccumulator("x").Reload().Scalars("loss/val")] == [
        5
    ]


def wandb_records(path):
    """The records of a .wandb file: a log of LevelDB's format, in blocks of 32 KB, behind a header
    of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    raw, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", raw[at : at + 7])
        record, at = record + raw[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


@pytest.mark.long  # four seconds, most of them in starting and ending its service
def test_wandb_gets_the_same_steps_under_one_id_over_a_kill_and_a_resume(
    killed_and_resumed, monkeypatch
):
    wandb = pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def as_the_end_of_a_process():
        wandb.teardown()
        time.sleep(1)  # its folders are named by the second

    rows = killed_and_resumed("--wandb", as_the_end_of_a_process)
    curves, ids = {}, set()
    for path in sorted(
        Path("x/wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns
    ):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):
                    curves.setdefault(name, {})[record.history.step.num] = json.loads(
                        item.value_json
                    )
    assert ids == {Path("x/wandb_id").read_text()}
    check_curves({name: sorted(points.items()) for name, points in curves.items()}, rows)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_said_before_anything_is_made(name, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    line = one_line_error(capsys, train.main, [f"--{name}", f"--dataset={tmp_path / 'nix'}"])
    assert f"--{name}" in line and f"pip install {name}" in line
    assert not list(tmp_path.iterdir())


def test_a_sample_is_printed_at_each_evaluation(tmp_path, capsys):
    run(
        f"--dataset={char_dataset(tmp_path / 'fox')}",
        "--max_iters=6",
        "--eval_interval=2",
        "--max_sample_tokens=30",
        "--sample_every_eval",
    )
    assert len(capsys.readouterr().out.split("(best)\n\n")) == 4
