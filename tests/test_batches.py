"""Windows as tensors (pipeline/read/batches.py): their layout over ranks and micro-steps, resuming,
reading ahead, bad ids, memory.

Run: python -m pytest tests/test_batches.py       (with a file of 256 MB: add -m "long or not long")
Token number i of these datasets is i, so the first id of a window is where it starts.
"""
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import RangeTokenizer, arange_dataset, edit_bin, only_line, python, says

from pipeline.errors import UserError, one_line_errors
from pipeline.prepare.write import write_dataset
from pipeline.read.batches import Batch, TrainBatches, eval_batches, split_iteration, to_xy
from pipeline.read.folder import Dataset, open_dataset
from pipeline.read.mixture import Mixture, refuse_short
from pipeline.read.sampler import SAMPLING_METHODS, window_starts

T = 8


@pytest.fixture
def dataset(tmp_path):
    return open_dataset(f"{arange_dataset(tmp_path / 'numbers', 1003)}/")


def a_mixture(dataset, block_size=T, batch_size=4, sampling_method="without_replacement", seed=3):
    return Mixture([[dataset]], block_size=block_size, batch_size=batch_size,
                   sampling_method=sampling_method, seed=seed)


class IdsOf:
    """An iterator over the ids of each Batch, (rows, T + 1)."""

    def __init__(self, reader):
        self.reader = reader

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.reader).ids

    def __getattr__(self, name):
        return getattr(self.reader, name)


def batches(dataset, max_iters=20, **kw):
    order = {key: kw.pop(key) for key in ("block_size", "batch_size", "sampling_method", "seed")
             if key in kw}
    return IdsOf(TrainBatches(a_mixture(dataset, **order), max_iters=max_iters, **kw))


def evaluated(dataset, split, batch_size=4, **kw):
    mixture = a_mixture(dataset, batch_size=batch_size)
    return (batch and batch.ids for batch in eval_batches(mixture, split, **kw))


def read(dataset, **kw):
    """(steps, rows, T + 1): every micro-batch of a run."""
    reader = batches(dataset, **kw)
    out = torch.stack(list(reader)).numpy()
    reader.close()
    return out


def expected_starts(method, num_draws, first=0, num_tokens=1003, seed=3):
    return window_starts(method, np.arange(first, first + num_draws), num_tokens, T, seed,
                         "numbers")


# ---- one read


def test_windows_are_consecutive_tokens_in_their_own_dtype(tmp_path):
    for dtype, vocab_size in (("<u2", 100), ("<u4", 70_000)):
        folder = arange_dataset(tmp_path / dtype[1:], 100, vocab_size=vocab_size)
        dataset = open_dataset(f"{folder}/")
        windows = dataset.read("train", np.array([0, 7, 91]), T + 1)
        assert windows.dtype == np.dtype(dtype) and windows.flags.writeable
        assert windows.tolist() == [list(range(s, s + T + 1)) for s in (0, 7, 91)]
        for start in (92, -1):
            with pytest.raises(AssertionError):
                dataset.read("train", np.array([3, start]), T + 1)


def test_x_and_y_are_int64_and_y_is_one_token_later():
    x, y, _ = to_xy(Batch(torch.arange(27, dtype=torch.int16).view(3, 9)), "cpu")
    assert x.dtype == y.dtype == torch.int64 and x.shape == y.shape == (3, 8)
    assert (y == x + 1).all() and x[:, 0].tolist() == [0, 9, 18]


@pytest.mark.parametrize("vocab_size, ids", [
    (65_535, [32_767, 32_768, 65_534]), (65_536, [32_767, 32_768, 65_535]),
    (65_537, [65_535, 65_536, 40_000]),
    (2**31 + 10, [2**31 - 1, 2**31, 2**31 + 9])])
def test_large_ids_survive_the_way_to_x_and_y(tmp_path, vocab_size, ids):
    class Given(RangeTokenizer):
        def encode(self, text):
            return np.array(ids * 4, dtype=np.int64)
    write_dataset(tmp_path, ["train"], Given(vocab_size), val_text=["val"])
    reader = batches(open_dataset(f"{tmp_path}/"), max_iters=1, sampling_method="sequential",
                     batch_size=1)
    x, y, marks = to_xy(Batch(next(reader)), "cpu")
    assert marks == {}
    reader.close()
    assert x[0].tolist() == (ids * 4)[:T] and y[0].tolist() == (ids * 4)[1 : T + 1]


# ---- the layout of an iteration


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_batches_are_the_order_of_the_sampler_read_from_the_file(dataset, method):
    windows = read(dataset, sampling_method=method)
    assert windows.shape == (20, 4, T + 1)
    assert windows[..., 0].ravel().tolist() == expected_starts(method, 80).tolist()
    assert (windows == windows[..., :1] + np.arange(T + 1)).all()


@pytest.mark.parametrize("accumulation", [1, 2, 4, 6])
def test_any_number_of_ranks_reads_one_list_in_one_order(dataset, accumulation):
    """Row = iter*G + (micro*ranks + rank)*B + j, put together here as the formula says."""
    lists = []
    for num_ranks in (1, 2, 4):
        ranks = [read(dataset, gradient_accumulation_steps=accumulation, rank=r,
                      num_ranks=num_ranks)[..., 0]
                 for r in range(num_ranks)]  # each (iterations * micro steps, rows)
        lists.append(np.stack(ranks, axis=1).ravel().tolist())
    assert lists[0] == lists[1] == lists[2] == expected_starts("without_replacement",
                                                               20 * 4 * accumulation).tolist()


@pytest.mark.parametrize("batch_size, accumulation, num_ranks, micro_steps, rows", [
    (64, 1, 1, 1, 64), (12, 40, 8, 5, 12), (4, 1, 2, 1, 2), (4, 2, 4, 1, 2), (4, 6, 4, 2, 3),
    (1, 8, 8, 1, 1)])
def test_an_iteration_is_divided_evenly(batch_size, accumulation, num_ranks, micro_steps, rows):
    assert split_iteration(batch_size, accumulation, num_ranks) == (micro_steps, rows)


def test_ranks_that_cannot_share_an_iteration_evenly_are_refused_with_the_numbers():
    with pytest.raises(UserError) as error:
        split_iteration(3, 1, 2)
    says(str(error.value), "batch_size 3", "gradient_accumulation_steps 1", " 3 sequences",
         "2 ranks")
    with pytest.raises(UserError) as error:
        split_iteration(6, 3, 2)
    says(str(error.value), "18 sequences", "2 ranks", "2 micro-batches")


# ---- position


@pytest.mark.parametrize("method", SAMPLING_METHODS)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_run_resumes_at_any_iteration(dataset, method, accumulation):
    kw = dict(sampling_method=method, gradient_accumulation_steps=accumulation)
    whole = read(dataset, **kw)
    for iter_num in (1, 7, 19):
        assert (read(dataset, iter_num=iter_num, **kw) == whole[iter_num * accumulation :]).all()


def test_a_run_of_thousands_of_iterations_resumes_deep_in_it(dataset):
    whole = read(dataset, max_iters=5000, batch_size=2)
    for iter_num in (2047, 2048, 2049, 4999):
        assert (read(dataset, iter_num=iter_num, max_iters=5000, batch_size=2) ==
                whole[iter_num:]).all()
    assert whole[..., 0].ravel().tolist() == expected_starts("without_replacement", 10_000).tolist()


def test_windows_of_more_tokens_than_are_read_at_once_come_in_order_too(tmp_path):
    dataset = open_dataset(f"{arange_dataset(tmp_path / 'numbers', 60_000, 20_001)}/")
    windows = read(dataset, max_iters=30, block_size=20_000, batch_size=8,
                   sampling_method="sequential")
    assert windows[..., 0].ravel().tolist() == [0, 20_000] * 120
    assert (windows[..., -1] - windows[..., 0] == 20_000).all()


def test_a_run_ends_after_exactly_max_iters(dataset):
    reader = batches(dataset, max_iters=3, gradient_accumulation_steps=2)
    assert len(list(reader)) == 6
    with pytest.raises(StopIteration):
        next(reader)
    reader.close()
    assert list(batches(dataset, max_iters=5, iter_num=5)) == []


# ---- the thread


def test_a_batch_stays_as_it_was_when_later_ones_are_read(dataset):
    reader = batches(dataset, max_iters=3000)
    kept = [next(reader) for _ in range(1500)]
    copies = [w.clone() for w in kept]
    for _ in range(1500):
        next(reader)
    reader.close()
    assert all(torch.equal(w, copy) for w, copy in zip(kept, copies))


def test_wait_time_counts_the_seconds_of_waiting(dataset, monkeypatch):
    read = Dataset.read
    monkeypatch.setattr(Dataset, "read", lambda *a: time.sleep(0.2) or read(*a))
    reader = batches(dataset, max_iters=1)
    next(reader)
    reader.close()
    assert 0.1 < reader.wait_time < 5


def test_an_error_of_the_thread_reaches_the_caller_and_whoever_asks_again(dataset, monkeypatch):
    def fail(*a):
        raise OSError("the disk is gone")
    monkeypatch.setattr(Dataset, "read", fail)
    reader = batches(dataset)
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            next(reader)
    reader.close()


@pytest.mark.parametrize("taken", [0, 1, 50])
def test_close_ends_the_thread_also_when_its_queue_is_full(dataset, taken):
    before = threading.active_count()
    reader = batches(dataset, max_iters=10**6, batch_size=64)
    for _ in range(taken):
        next(reader)
    time.sleep(0.1)  # time to fill the queue
    closer = threading.Thread(target=reader.close, daemon=True)
    closer.start()
    closer.join(timeout=10)
    assert not closer.is_alive() and threading.active_count() == before


def test_closing_twice_or_after_the_end_does_no_harm(dataset):
    reader = batches(dataset, max_iters=2)
    assert len(list(reader)) == 2
    reader.close()
    reader.close()


# ---- the file


def test_an_id_beyond_the_vocabulary_names_file_and_position(tmp_path):
    folder = arange_dataset(tmp_path / "numbers", 1003)
    edit_bin(folder / "train.bin", 501, 4321)
    reader = batches(open_dataset(f"{folder}/"), sampling_method="sequential", max_iters=200)
    with pytest.raises(UserError) as error:
        list(reader)
    says(str(error.value), f"{folder}/train.bin", "position 501 is 4,321,", "vocab_size 1,003")
    reader.close()


def test_a_bad_id_that_another_rank_than_the_first_meets_is_said(tmp_path, monkeypatch, capsys):
    """The first would only say that the connection to it is lost."""
    folder = arange_dataset(tmp_path / "numbers", 1003)
    edit_bin(folder / "train.bin", 501, 4321)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as exit, one_line_errors():
        read(open_dataset(f"{folder}/"), sampling_method="sequential", rank=1, num_ranks=2,
             max_iters=31)
    assert exit.value.code == 2
    assert "4321" in only_line(capsys.readouterr().err).replace(",", "")


def test_a_bad_id_of_the_val_split_names_file_and_position_even_in_the_tail(tmp_path):
    folder = arange_dataset(tmp_path / "numbers", 1003, 100)
    edit_bin(folder / "val.bin", 98, 1003)  # 99 targets, windows of 8: the tail is 97, 98, 99
    with pytest.raises(UserError) as error:
        list(evaluated(open_dataset(f"{folder}/"), "val", eval_iters=100))
    says(str(error.value), f"{folder}/val.bin", "position 98 is 1,003,")


def test_a_dataset_prepared_anew_meanwhile_changes_nothing(tmp_path):
    folder = arange_dataset(tmp_path / "numbers", 1003)
    dataset = open_dataset(f"{folder}/")
    whole = read(dataset, max_iters=3000)
    reader = batches(dataset, max_iters=3000)
    first = [next(reader).numpy() for _ in range(10)]
    write_dataset(folder, "500:900", RangeTokenizer(1000), val_text="0:50")
    rest = [w.numpy() for w in reader]
    reader.close()
    assert (np.stack(first + rest) == whole).all()
    # the new one is there for a new run
    assert len(open_dataset(f"{folder}/").tokens("train")) == 400


def cut(path):
    os.truncate(path, 700)


def write_over(path):
    """With as many other bytes, in the same file: as cp does."""
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))


def fill_again(path):
    """As `cp other.bin train.bin` does."""
    path.write_bytes(b"abcd" * 2000)


def replace(path):
    """As a prepare.py does, and mv: what is open stays what it was."""
    path.rename(path.with_suffix(".old"))
    path.write_bytes(bytes(20))


def remove(path):
    path.unlink()


def touch(path):
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change, words", [
    (cut, ["700 bytes", "2,006"]), (write_over, ["2,006 bytes", "meta.pkl"]),
    (fill_again, ["2,006"]), (replace, None), (remove, None), (touch, None)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bin_that_changes_while_it_is_read_is_one_line_with_its_numbers(
        tmp_path, monkeypatch, split, change, words):
    """One that is replaced by another file, moved or removed is still open, and changes nothing."""
    folder = arange_dataset(tmp_path / "numbers", 1003, 1003)
    dataset = open_dataset(f"{folder}/")
    monkeypatch.setattr("pipeline.read.batches.TOKENS_AT_ONCE", 64)  # the thread is not at the end
    whole = [w.tolist() for w in evaluated(dataset, split, eval_iters=100)]
    reader = batches(dataset, max_iters=200)
    next(reader)
    change(folder / f"{split}.bin")
    if not words:
        assert [w.tolist() for w in evaluated(dataset, split, eval_iters=100)] == whole
        assert len(list(reader)) == 199
        return
    evaluation = evaluated(dataset, split, eval_iters=100)
    for windows in (reader, evaluation) if split == "train" else (evaluation,):
        with pytest.raises(UserError) as error:
            list(windows)
        says(str(error.value), f"{folder}/{split}.bin", f"{folder}/prepare.py", *words)
    reader.close()


def test_a_bin_that_is_cut_after_it_was_looked_at_is_one_line_too(dataset, monkeypatch):
    """The moment between the look at the file's length and the read."""
    import pipeline.read.folder as folder_module
    written = folder_module.written

    def look_and_cut(file):
        state = written(file)
        os.truncate(dataset.path("train"), 8)
        return state
    monkeypatch.setattr(folder_module, "written", look_and_cut)
    with pytest.raises(UserError) as error:
        read(dataset)
    says(str(error.value), dataset.path("train"), " 8 bytes", " 2,006")


@pytest.mark.parametrize("split, remedy", [("train", "text"), ("val", "-v of prepare.py")])
def test_a_split_shorter_than_a_window_names_both_numbers(tmp_path, split, remedy):
    folder = arange_dataset(tmp_path / "numbers", *((8, 9) if split == "train" else (9, 8)))
    dataset = open_dataset(f"{folder}/")
    with pytest.raises(UserError) as error:
        refuse_short([dataset], T)
    says(str(error.value), f"{folder}/{split}.bin has 8 tokens", "block_size 8 needs 9",
         "--block_size 7", remedy)


RSS_CHILD = """
import re, sys
from pathlib import Path
from pipeline.read.batches import TrainBatches, eval_batches
from pipeline.read.folder import open_dataset
from pipeline.read.mixture import Mixture

def resident():  # bytes of mapped files in memory
    return int(re.search(r"RssFile:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

dataset = open_dataset(sys.argv[1])
mixture = Mixture([[dataset]], block_size=255, batch_size=64, sampling_method=sys.argv[2])
before, most = resident(), 0
reader = TrainBatches(mixture, max_iters=dataset.num_tokens["train"] // (64 * 255))
for batch in reader:
    most = max(most, resident() - before)
for windows in eval_batches(mixture, "train", eval_iters=10**6):
    most = max(most, resident() - before)
print(most)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_resident_memory_does_not_grow_with_the_file(tmp_path, method):
    """An epoch and a full evaluation of 256 MB hold a part of it in memory, at most 128 MB."""
    folder = tmp_path / "big"
    folder.mkdir()
    write_dataset(folder, ("0:65536" for _ in range(2048)), RangeTokenizer(65_536),
                  val_text="0:1000", document_end="")
    # what was just written may lie in memory in pieces of 2 MB, which count as ours once touched;
    # from the disk they come small
    with open(folder / "train.bin") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    child = python("-c", RSS_CHILD, f"{folder}/", method)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < 128e6


# ---- evaluation


def test_evaluation_reads_the_same_windows_each_time_and_disturbs_no_training(dataset):
    whole = read(dataset)
    reader = batches(dataset)
    rows = []
    for windows in reader:
        rows.append(windows.numpy())
        evaluation = [w.tolist() for w in evaluated(dataset, "train", eval_iters=3)]
    reader.close()
    assert (np.stack(rows) == whole).all()
    assert evaluation == [w.tolist() for w in evaluated(dataset, "train", eval_iters=3)]
    # 12 of 125
    assert [row[0] for w in evaluation for row in w] == [k * 125 // 12 * T for k in range(12)]


def test_a_full_evaluation_sees_each_target_once_with_the_tail_in_a_shorter_window(dataset):
    windows = list(evaluated(dataset, "val", batch_size=5, eval_iters=100))
    targets = [t for w in windows for t in w[:, 1:].ravel().tolist()]
    assert targets == list(range(1, 100))
    assert windows[-1].tolist() == [[96, 97, 98, 99]]  # 12 windows of 8 targets, and 3


@pytest.mark.parametrize("eval_iters", [2, 1000])
def test_ranks_share_an_evaluation_without_overlap(dataset, eval_iters):
    def batches(**kw):
        return list(evaluated(dataset, "val", batch_size=2, eval_iters=eval_iters, **kw))
    shares = [batches(rank=r, num_ranks=3) for r in range(3)]
    assert len({len(share) for share in shares}) == 1  # so that they can agree between batches
    assert sorted(row for share in shares for w in share if w is not None for row in w.tolist()
                  ) == sorted(row for w in batches() for row in w.tolist())


def test_a_val_split_of_one_window_is_evaluated_whatever_eval_iters_says(tmp_path):
    dataset = open_dataset(f"{arange_dataset(tmp_path / 'numbers', 50, 9)}/")
    windows = list(evaluated(dataset, "val", batch_size=64, eval_iters=10))
    assert [w.tolist() for w in windows] == [[list(range(9))]]
