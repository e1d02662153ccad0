"""--training_mode multidataset and multicontext: order, ranks, resume, vocabularies, losses, bad
input, samples.

Run: python -m pytest tests/test_modes.py
"""
import argparse
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
    TINY,
    arange_dataset,
    assert_same_training,
    char_dataset,
    log_rows,
    mostly_long,
    one_line_error,
    one_thread,  # noqa: F401
    python,
    resume,
    run,
    says,
)
from torch.nn import functional as F

import model as model_module
import sample
import train
from model import GPT, GPTConfig
from pipeline.errors import UserError
from pipeline.prepare.streams import write_stream
from pipeline.prepare.write import write_dataset
from pipeline.read.batches import Batch, TrainBatches, eval_batches, to_xy
from pipeline.read.folder import open_dataset
from pipeline.read.mixture import Mixture, open_mixture
from pipeline.read.sampler import SAMPLING_METHODS, window_starts, windows_per_epoch
from pipeline.read.streams import STREAMS, StreamMap
from pipeline.tokenizers import ByteTokenizer, CharTokenizer
from train_args import parse_args
from training.checkpoint import load_checkpoint

T = 8
LENGTHS = {"a": 1003, "b": 500, "c": 301}
TEXT = ("First Citizen:\nBefore we proceed any further, hear me speak.\n\n"
        "All:\nSpeak, speak!\n") * 120


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Datasets that no test changes: numbers a, b, c; a text and its streams; the text in bytes; a
    text of 4 letters."""
    root = tmp_path_factory.mktemp("data")
    for name, length in LENGTHS.items():
        arange_dataset(root / name, length, vocab_size=1003)
    char_dataset(root / "text", TEXT)
    for name in STREAMS:
        (root / name).mkdir()
        write_stream(root / name, name, f"{root}/text/")
    for name, text, tokenizer in (("bytes", TEXT[: len(TEXT) // 2], ByteTokenizer()),
                                  ("abcd", "abcd" * 500, None)):
        (root / name).mkdir()
        write_dataset(root / name, text, tokenizer or CharTokenizer("abcd"))
    return root


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stream_of(name, text):
    """The symbols of the stream `name` of a text."""
    chars = sorted(set(text))
    stream = StreamMap(name, chars)
    return "".join(stream.alphabet[i] for i in stream([chars.index(c) for c in text])[0])


def opened(data, *names):
    return [open_dataset(f"{data}/{name}/") for name in names]


def moving(batches):
    """Fractions of three members, others in each batch."""
    return np.stack([1 + np.sin(batches / 50) / 2, np.ones(len(batches)),
                     1 - np.sin(batches / 50) / 2], axis=1) / 3


def a_mixture(data, method="random", fractions_at=moving, batch_size=16):
    """A mixture whose ids say which member and which position: those of b begin at 1,003, those of
    c at 2,006."""
    return Mixture([[d] for d in opened(data, *LENGTHS)], block_size=T, batch_size=batch_size,
                   sampling_method=method, seed=5,
                  fractions_at=fractions_at)


def streams(data, method="random", batch_size=16):
    return Mixture([opened(data, "text", *STREAMS)], block_size=T, batch_size=batch_size,
                   sampling_method=method, seed=5)


def read(mixture, **kw):
    batches = TrainBatches(mixture, **{"max_iters": 20, **kw})
    out = torch.stack([batch.ids for batch in batches]).numpy()
    batches.close()
    return out


def flags(data, mode):
    """The flags of a run of each mode, with weights that move."""
    if mode == "multidataset":
        return [f"--training_mode={mode}", "--dataset_list", f"{data}/text/", f"{data}/abcd/",
                "--multidataset_wte",
                "--dataset_sampling_probs", "3", "1", "--dataset_sampling_probs_final", "1", "3",
                "--seed=3"]
    return [f"--training_mode={mode}", "--multicontext_datasets", f"{data}/text/", f"{data}/cvp/",
            "--seed=3"]


# ---- the order


@pytest.mark.parametrize("method", SAMPLING_METHODS)
@pytest.mark.parametrize("kind", [a_mixture, streams])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_sequences_of_all_ranks_put_together_are_one_list_in_one_order(data, kind, method,
                                                                           accumulation):
    def whole(num_ranks):
        shares = [read(kind(data, method), rank=r, num_ranks=num_ranks,
                       gradient_accumulation_steps=accumulation)
                  for r in range(num_ranks)]
        # (step, rank, row) -> row
        return np.stack(shares, axis=1).reshape(-1, *shares[0].shape[2:])
    one = whole(1)
    assert len(one) == 20 * 16 * accumulation
    assert (whole(2) == one).all() and (whole(4) == one).all()


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_a_mixture_goes_on_from_any_iteration_as_it_would_have(data, method):
    whole = read(a_mixture(data, method), max_iters=400)
    for first in (1, 7, 399):
        assert (read(a_mixture(data, method), iter_num=first, max_iters=400) == whole[first:]).all()


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_each_member_is_visited_as_in_a_run_on_it_alone(data, method):
    mixture = a_mixture(data, method)
    member, start = mixture.places(np.arange(4000))
    windows = read(mixture, max_iters=250).reshape(-1, T + 1)
    for d, (name, length) in enumerate(LENGTHS.items()):
        mine = start[member == d]
        assert mine.tolist() == window_starts(method, np.arange(len(mine)), length, T, 5,
                                              name).tolist()
        assert (windows[member == d] == mine[:, None] + np.arange(T + 1) + 1003 * d).all()
        assert len(mine) == mixture.counts(250)[d]


def test_without_replacement_visits_each_window_of_each_member_once_an_epoch(data):
    member, start = a_mixture(data, "without_replacement").places(np.arange(6400))
    for d, length in enumerate(LENGTHS.values()):
        windows = windows_per_epoch("without_replacement", length, T)
        mine = start[member == d]
        assert len(mine) > 10 * windows
        for epoch in range(len(mine) // windows):
            visited = np.sort(mine[epoch * windows : (epoch + 1) * windows])
            assert (np.diff(visited) == T).all()


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_streams_are_read_where_a_run_on_the_first_alone_reads(data, method):
    together = read(streams(data, method))
    alone = read(Mixture([opened(data, "text")], block_size=T, batch_size=16,
                         sampling_method=method, seed=5))
    assert (together[..., 0] == alone).all()
    starts = streams(data, method).places(np.arange(20 * 16))[1]
    for k, (name, (alphabet, _)) in enumerate(STREAMS.items(), start=1):
        offset, alphabet, whole = streams(data).offsets[name], sorted(alphabet), stream_of(name,
                                                                                           TEXT)
        for start, own in zip(starts, together[..., k].reshape(-1, T + 1)):
            assert "".join(alphabet[i - offset] for i in own) == whole[start : start + T + 1]


def test_ids_of_many_vocabularies_travel_as_wide_as_their_table(tmp_path):
    for name, size in (("narrow", 60_000), ("wide", 70_000), ("last", 60_000)):
        arange_dataset(tmp_path / name, 200, vocab_size=size)
    mixture = Mixture([[d] for d in opened(tmp_path, "narrow", "wide", "last")], block_size=T,
                      batch_size=6,
                    sampling_method="sequential",
                      fractions_at=lambda batches: np.full((len(batches), 3), 1 / 3))
    ids = torch.from_numpy(read(mixture, max_iters=2).reshape(-1, T + 1))
    x, y, _ = to_xy(Batch(ids), "cpu")
    member, start = mixture.places(np.arange(12))
    offsets = np.array([0, 60_000, 130_000])
    assert x[:, 0].tolist() == (start + offsets[member]).tolist() and (y == x + 1).all()


def test_an_evaluation_reads_one_member_and_the_streams_together(data):
    for d, length in enumerate((100, 100, 100)):
        windows = [batch.ids for batch in eval_batches(a_mixture(data), "val", d, eval_iters=100)]
        targets = [t - 1003 * d for w in windows for t in w[:, 1:].ravel().tolist()]
        assert targets == list(range(1, length))
    windows = next(eval_batches(streams(data), "val", eval_iters=1)).ids
    assert windows.shape == (16, T + 1, 4)


# ---- runs


@pytest.mark.parametrize("method", mostly_long(SAMPLING_METHODS))
@pytest.mark.parametrize("mode", ["multidataset", "multicontext"])
def test_thirty_steps_are_ten_and_twenty_resumed_however_often_one_evaluates(data, mode, method):
    common = [*flags(data, mode), f"--sampling_method={method}", "--lr_decay_iters=30",
              "--dropout=0.1"]
    if mode == "multidataset":
        common.append("--dataset_sampling_probs_transition_iters=25")
    run(*common, "--max_iters=30", "--eval_interval=7", "--eval_iters=1", "--out_dir=whole")
    run(*common, "--max_iters=10", "--eval_interval=3", "--eval_iters=3", "--out_dir=parts")
    resume("parts", "--max_iters=30", "--eval_interval=30")
    assert_same_training("whole", "parts")


def test_weights_that_move_do_so_over_the_length_that_the_run_began_with(data):
    args = parse_args([*flags(data, "multidataset"), "--max_iters=40"])
    assert args.dataset_sampling_probs_transition_iters == 40
    longer = parse_args(["--init_from=resume", "--max_iters=80"], saved=vars(args))
    for a in (args, longer):
        fractions = open_mixture(a).fractions_at(np.array([0, 20, 40, 60]))
        assert fractions[:, 0].tolist() == pytest.approx([0.75, 0.5, 0.25, 0.25])


def test_the_best_checkpoint_and_the_mean_go_by_the_final_weights_and_each_dataset_has_its_columns(
    data, capsys):
    run(*flags(data, "multidataset"), "--max_iters=6", "--eval_interval=3", "--out_dir=x",
        "--eval_iters=100",
        "--gradient_accumulation_steps=3")
    out = capsys.readouterr().out
    last = {name: float(value or "nan") for name, value in log_rows("x")[-1].items()}
    assert last["val_loss"] == pytest.approx(0.25 * last["val_loss/text"] +
                                             0.75 * last["val_loss/abcd"], rel=1e-4)
    for split in ("train", "val"):
        for name in ("text", "abcd"):
            assert last[f"{split}_bits_per_byte/{name}"] == pytest.approx(
                last[f"{split}_loss/{name}"] / math.log(2), rel=1e-4)
    assert last["tokens/text"] + last["tokens/abcd"] == last["tokens"] == 6 * 4 * 16 * 3
    assert last["epochs/abcd"] == pytest.approx(last["tokens/abcd"] / (1799 // 16 * 16), rel=1e-4)
    checkpoint = load_checkpoint(Path("x/ckpt.pt"))
    mixture, gpt = open_mixture(argparse.Namespace(**checkpoint["args"])), GPT(
        GPTConfig(**checkpoint["model_args"]))
    gpt.load_state_dict(checkpoint["model"])
    for d, name in enumerate(("text", "abcd")):  # the loss of each on its own windows
        with torch.no_grad():
            losses, sizes = zip(*((gpt(*to_xy(batch, "cpu")[:2])[1].item(), batch.num_targets())
                                  for batch in eval_batches(mixture, "val", d, eval_iters=100)))
        assert last[f"val_loss/{name}"] == pytest.approx(np.average(losses, weights=sizes),
                                                         rel=1e-4)
    assert checkpoint["best_val_loss"] == pytest.approx(last["val_loss"], rel=1e-4)
    assert checkpoint["evaluated"]["val_loss/text"] == pytest.approx(last["val_loss/text"],
                                                                     rel=1e-4)
    assert re.search(
        r"  text: train loss \d\.\d{4}, val loss \d\.\d{4}, \d\.\d{3} bits per byte, 0\.\d\d ep",
        out)
    assert re.search(r"^text +8,\d+ +\d+ +\d{3} +0\.\d\d +\d\d\.\d%$", out, re.M)


def test_the_loss_of_streams_is_the_mean_by_their_weights(data):
    run(*flags(data, "multicontext"), "--multicontext_loss_weights", "3", "1", "--max_iters=2",
        "--eval_interval=2",
        "--log_interval=1", "--out_dir=x", "--eval_iters=2")
    last = {name: float(value or "nan") for name, value in log_rows("x")[-1].items()}
    assert last["val_loss"] == pytest.approx(0.75 * last["val_loss/text"] +
                                             0.25 * last["val_loss/cvp"], rel=1e-4)
    first = float(log_rows("x")[0]["batch_loss"])  # the head starts at zero
    vocab_size = open_dataset(f"{data}/text/").vocab_size
    assert first == pytest.approx(0.75 * math.log(vocab_size) + 0.25 * math.log(4), rel=1e-4)
    assert last["tokens/text"] == last["tokens/cvp"] == last["tokens"]


def test_fractions_by_size_are_tokens_to_the_power_of_alpha(data):
    base = ["--training_mode=multidataset", "--dataset_list", f"{data}/a/", f"{data}/b/",
            f"--block_size={T}"]
    for alpha in (0.0, 0.5, 1.0):
        mixture = open_mixture(parse_args([*base, f"--dataset_sampling_alpha={alpha}"]))
        total = 1003**alpha + 500**alpha
        assert mixture.fractions_at(np.arange(2))[1].tolist() == pytest.approx(
            [1003**alpha / total, 500**alpha / total])
    quoted = parse_args([*base[:1], f"--dataset_list={data}/a/ {data}/b/",
                         "--dataset_sampling_probs=3 1"])
    assert quoted.dataset_list == [f"{data}/a", f"{data}/b"]
    assert quoted.dataset_sampling_probs == [3.0, 1.0]


def test_a_run_that_goes_too_often_through_a_member_is_refused_with_the_length_that_fits(data):
    flags = ["--training_mode=multidataset", "--dataset_list", f"{data}/a/", f"{data}/c/",
             f"--block_size={T}", "--batch_size=10", "--max_epochs_per_dataset=2"]
    with pytest.raises(UserError) as error:
        open_mixture(parse_args([*flags, "--max_iters=100"]))
    says(str(error.value), "a, c ", "2 times", "(c is the first)", "--max_epochs_per_dataset")
    fits = int(re.search(r"--max_iters to (\d+)", str(error.value))[1])
    mixture = open_mixture(parse_args([*flags, f"--max_iters={fits}"]))
    assert mixture.consumed(fits)["c"][1] <= 2 < mixture.consumed(fits + 1)["c"][1]


# ---- vocabularies in the model


def reference_losses(logits, targets, sizes):
    """The mean loss of targets, each among its own vocabulary alone."""
    ends = np.cumsum(sizes).tolist()
    losses = []
    for row, target in zip(logits.flatten(0, 1), targets.flatten().tolist()):
        d = next(d for d, end in enumerate(ends) if target < end)
        first = ends[d] - sizes[d]
        losses.append(F.cross_entropy(row[first : ends[d]][None], torch.tensor([target - first])))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_target_is_predicted_among_its_own_vocabulary_alone(monkeypatch, in_chunks):
    sizes = (5, 70, 9)
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(block_size=T, vocab_size=sum(sizes), vocab_sizes=sizes, n_layer=1, n_head=2,
                        n_kv_head=2, n_embd=16))
    torch.nn.init.normal_(gpt.lm_head.weight)
    idx = torch.cat([torch.randint(first, first + size, (2, T)) for first,
                     size in zip((0, 5, 75), sizes)])
    logits = gpt.lm_head(gpt.transformer.ln_f(_trunk(gpt, idx)))[..., : sum(sizes)]
    wanted = reference_losses(logits, idx, sizes)
    wanted.backward()
    gradients = [p.grad for p in gpt.parameters()]
    gpt.zero_grad()
    if in_chunks:
        monkeypatch.setattr(model_module, "CHUNK_LOGITS", 500)
    loss = gpt(idx, idx)[1]
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for p, gradient in zip(gpt.parameters(), gradients):
        assert torch.allclose(p.grad, gradient, atol=1e-5)


def _trunk(gpt, idx):
    x = gpt.transformer.wte(idx)
    for block in gpt.transformer.h:
        x = block(x, (gpt.cos[: idx.size(1)], gpt.sin[: idx.size(1)]))
    return x


def test_streams_are_added_up_and_each_has_a_loss_among_its_own():
    sizes = (5, 70)
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(block_size=T, vocab_size=75, vocab_sizes=sizes, n_layer=1, n_head=2,
                        n_kv_head=2, n_embd=16))
    torch.nn.init.normal_(gpt.lm_head.weight)
    a, b = torch.randint(0, 5, (2, T)), torch.randint(5, 75, (2, T))
    losses = gpt(torch.stack((a, b), -1), torch.stack((a, b), -1))[1]
    embedded = gpt.transformer.wte.weight[a] + gpt.transformer.wte.weight[b]
    for block in gpt.transformer.h:
        embedded = block(embedded, (gpt.cos[:T], gpt.sin[:T]))
    logits = gpt.lm_head(gpt.transformer.ln_f(embedded))[..., :75]
    assert losses.tolist() == pytest.approx([reference_losses(logits, a, sizes).item(),
                                             reference_losses(logits, b, sizes).item()], rel=1e-5)


# ---- samples


@pytest.fixture(scope="module")
def runs_of(data, tmp_path_factory):
    """{mode: out_dir} of short runs."""
    root = tmp_path_factory.mktemp("runs")
    all_streams = ["--multicontext_datasets", *(f"{data}/{name}/" for name in ("text", *STREAMS))]
    for mode, more in (("multidataset", []), ("multicontext", all_streams)):
        run(*flags(data, mode), *more, "--max_iters=60", f"--out_dir={root}/{mode}")
    return root


def spoken(capsys, *argv):
    capsys.readouterr()
    sample.main(["--device=cpu", *map(str, argv)])
    return capsys.readouterr()


def streams_in(out):
    """{name: symbols}, from the lines of a sample, its newlines as they are drawn."""
    found = {}
    for line in filter(None, out.splitlines()):
        name, symbols = line.lstrip().split("  ", 1)
        found[name] = found.get(name, "") + symbols
    return {name: symbols.replace("\u21b5", "\n") for name, symbols in found.items()}


@pytest.mark.parametrize("start", [[], ["All:\nSp"],
                                   ["All:\nSp", "2331_33", "1234_12", "1234\n12"]])
def test_streams_that_are_functions_of_the_text_agree_with_it_on_every_character(runs_of, capsys,
                                                                                 start):
    start = ["--multicontext_start", *start] if start else []
    found = streams_in(spoken(capsys, f"--out_dir={runs_of}/multicontext", "--max_new_tokens=150",
                              *start).out)
    assert len(found["text"]) == 150 + (7 if start else 0)
    if start:
        assert found["text"].startswith("All:\nSp")
    for name in STREAMS:
        assert found[name] == (stream_of(name, found["text"]) if start
                               else stream_of(name, "\n" + found["text"])[1:]), name


def test_streams_all_drawn_say_how_often_they_agree(runs_of, capsys):
    starts = ["All:\nSp", "2331_33", "1234_12", "1234\n12"]
    said = spoken(capsys, f"--out_dir={runs_of}/multicontext", "--max_new_tokens=40",
                  "--num_samples=3", "--draw_all_streams",
                  "--multicontext_start", *starts)
    assert said.out.count("---------------") == 2
    for name in STREAMS:
        assert re.search(rf"note: {name}.* text .*[\d.]+% of 141 characters", said.err), said.err


def test_either_vocabulary_can_be_sampled(runs_of, capsys):
    out_dir = f"--out_dir={runs_of}/multidataset"
    said = spoken(capsys, out_dir, "--dataset=abcd", "--start=ab", "--max_new_tokens=50")
    assert len(said.out.strip()) == 52 and set(said.out.strip()) <= set("abcd")
    said = spoken(capsys, out_dir, "--start=All", "--max_new_tokens=20")
    assert said.out.startswith("All")
    says(said.err.removesuffix("\n"), "note: ", "--dataset", "text, abcd")


def test_a_run_ends_with_a_sample_in_either_mode(data, capsys):
    for mode in ("multidataset", "multicontext"):
        run(*flags(data, mode), "--max_iters=2", f"--out_dir={mode}", "--max_sample_tokens=20")
        assert capsys.readouterr().out.count("\n cvp  ") == (mode == "multicontext")


# ---- ranks


@pytest.mark.long
@pytest.mark.parametrize("mode", ["multidataset", "multicontext"])
def test_two_ranks_train_either_mode_as_one_does(data, mode):
    """gloo on the CPU; the sums are in another order, so losses agree within rounding, and not bit
    for bit."""
    common = [*TINY, *flags(data, mode), "--max_iters=10", "--eval_interval=5", "--log_interval=1",
              "--eval_iters=1000"]
    child = python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                   ROOT / "train.py", *common,
                   "--out_dir=two", cwd=os.getcwd())
    assert child.returncode == 0, child.stderr
    train.main([*common, "--out_dir=one"])
    rows = [log_rows(name) for name in ("one", "two")]
    for column in [name for name in rows[0][0] if "loss" in name
                   or name.startswith(("tokens/", "epochs/"))]:
        one, two = ([float(row[column] or 0) for row in part] for part in rows)
        assert one == pytest.approx(two, abs=2e-4), column


# ---- bad input: one line, exit status 2


def test_streams_of_another_text_than_the_one_that_is_there_are_refused(data, tmp_path):
    char_dataset(tmp_path / "text", TEXT.swapcase())  # as long
    with pytest.raises(UserError) as error:
        open_mixture(parse_args(["--training_mode=multicontext", "--multicontext_datasets",
                                 f"{tmp_path}/text/", f"{data}/cvp/"]))
    says(str(error.value), f"{data}/cvp", " text ", f"python {data}/cvp/prepare.py")


@pytest.mark.parametrize("train, val", [(1003, 99), (1002, 100)])
def test_any_stream_that_differs_in_either_split_is_refused(data, tmp_path, train, val):
    arange_dataset(tmp_path / "same", 1003, vocab_size=1003)
    arange_dataset(tmp_path / "other", train, val, vocab_size=1003)
    with pytest.raises(UserError) as error:
        open_mixture(parse_args(["--training_mode=multicontext", f"--block_size={T}",
                                 "--multicontext_datasets", f"{data}/a/", f"{tmp_path}/same/",
                                 f"{tmp_path}/other/"]))
    short = "val.bin has 99" if val == 99 else "train.bin has 1,002"
    says(str(error.value), f"other/{short} tokens")


def test_the_last_of_three_members_must_have_the_tokenizer_of_the_first(data):
    with pytest.raises(UserError) as error:
        open_mixture(parse_args(["--training_mode=multidataset", f"--block_size={T}",
                                 f"--dataset_list={data}/a/", f"{data}/b/", f"{data}/bytes/"]))
    says(str(error.value), "a and bytes", "tokenizers")


def test_bits_a_byte_go_by_the_bytes_of_the_split(tmp_path):
    (tmp_path / "e").mkdir()
    write_dataset(tmp_path / "e", "e" * 100, CharTokenizer("e\u00e9"), val_text="\u00e9" * 100)
    mixture = Mixture([opened(tmp_path, "e")], block_size=T, batch_size=1)
    assert mixture.bits_per_byte([1.0], "train") == pytest.approx(1 / math.log(2))
    assert mixture.bits_per_byte([1.0], "val") == pytest.approx(0.5 / math.log(2))


def test_enormous_weights_are_weights(data):
    base = ["--training_mode=multidataset", "--dataset_list", f"{data}/a/", f"{data}/b/",
            f"--block_size={T}"]
    for more in (["--dataset_sampling_probs", "1e308", "1e308"], ["--dataset_sampling_alpha=100"]):
        mixture = open_mixture(parse_args([*base, *more]))
        assert mixture.fractions_at(np.arange(1)).sum() == pytest.approx(1)
        assert mixture.weights.sum() == pytest.approx(1)


A_B, MIXTURE = "--dataset_list {}/a/ {}/b/", "--training_mode=multidataset"
STREAMS_OF = "--training_mode=multicontext --multicontext_datasets"
BAD = [  # flags ({} is the folder of the datasets), facts of the message
    (f"{MIXTURE} --dataset_list {{}}/text/ {{}}/texd/", ["texd not found"]),
    (f"{MIXTURE} --dataset_list {{}}/text/ {{}}/text/", ["--dataset_list", "/text twice"]),
    (f"{MIXTURE} {A_B} --dataset_sampling_probs 1 2 3",
     ["--dataset_sampling_probs", "3 weights", "2 datasets"]),
    (f"{MIXTURE} {A_B} --dataset_sampling_probs 1 0", ["--dataset_sampling_probs 0", "above 0"]),
    (f"{MIXTURE} {A_B} --dataset_sampling_probs -1 1", ["--dataset_sampling_probs -1", "above 0"]),
    (f"{MIXTURE} {A_B} --dataset_sampling_probs nan 1",
     ["--dataset_sampling_probs nan", "above 0"]),
    (f"{MIXTURE} {A_B} --dataset_sampling_probs_final 1",
     ["--dataset_sampling_probs_final", "1 weight", "2 datasets"]),
    (f"{MIXTURE} {A_B} --dataset_sampling_probs 1 2 --dataset_sampling_alpha=1",
     ["--dataset_sampling_probs", "--dataset_sampling_alpha"]),
    (f"{MIXTURE} {A_B} --dataset_sampling_probs_transition_method=cosine",
     ["--dataset_sampling_probs_transition_method", "--dataset_sampling_probs_final"]),
    (f"{MIXTURE} --dataset_list {{}}/a/ {{}}/c/ --block_size=400",
     ["a/val.bin has 100 tokens", "block_size 400", "401"]),
    (f"{MIXTURE} --dataset_list {{}}/text/ {{}}/bytes/",
     ["text and bytes", "256 tokens", "--multidataset_wte"]),
    (MIXTURE, ["--training_mode multidataset", "--dataset_list with names"]),
    (f"{MIXTURE} --dataset={{}}/a/", ["--dataset ", "--training_mode single", "multidataset"]),
    (A_B, ["--dataset_list", "--training_mode multidataset", "single"]),
    ("--multicontext_datasets {}/a/ {}/b/",
     ["--multicontext_datasets", "--training_mode multicontext", "single"]),
    (f"--training_mode=multicontext {A_B}", ["--dataset_list", "--training_mode multidataset"]),
    ("--training_mode=multicontext",
     ["--training_mode multicontext", "--multicontext_datasets with names"]),
    (f"{STREAMS_OF} {{}}/a/ {{}}/b/", ["b/train.bin has 500", "/a/train.bin has 1,003"]),
    (f"{STREAMS_OF} {{}}/text/ {{}}/cvp/ --multicontext_loss_weights 1",
     ["--multicontext_loss_weights", "1 weight", "2 datasets"]),
    ("--training_mode=multi", ["--training_mode multi", "single, multidataset, multicontext"]),
]


@pytest.mark.parametrize("argv, facts", BAD, ids=[" ".join(facts) for _, facts in BAD])
def test_bad_flags_of_a_mode_are_one_line_and_exit_status_2(data, capsys, argv, facts):
    line = one_line_error(capsys, train.main,
                          [*TINY[:3], "--batch_size=4", "--max_iters=2",
                           *argv.format(data, data).split()])
    says(line, *facts)


BAD_STARTS = [
    (["--multicontext_start", "a", "b"],
     ["2 prompts", "1 (text)", "cvp, in_word_position, since_newline"]),
    (["--multicontext_start", "Al", "33", "12", "12"], ["cvp ", "'33'", "text", "'23'"]),
    (["--multicontext_start", "A\u20acl"], ["--multicontext_start of text: ", "\u20ac"]),
    (["--draw_all_streams", "--multicontext_start", "Al", "233", "12", "12"],
     ["cvp has 3 tokens", "text "]),
    (["--start=Al"], ["--start ", "4: text, cvp"]),
]


@pytest.mark.parametrize("argv, facts", BAD_STARTS, ids=[" ".join(f) for _, f in BAD_STARTS])
def test_bad_starts_of_streams_are_one_line_and_exit_status_2(runs_of, capsys, argv, facts):
    line = one_line_error(capsys, sample.main,
                          ["--device=cpu", f"--out_dir={runs_of}/multicontext", *argv])
    says(line, *facts)


def test_a_start_for_streams_or_a_dataset_is_refused_where_the_run_has_none(runs_of, capsys):
    out_dir = f"--out_dir={runs_of}/multidataset"
    line = one_line_error(capsys, sample.main, [out_dir, "--multicontext_start", "a"])
    says(line, "--multicontext_start", "--training_mode multicontext")
    line = one_line_error(capsys, sample.main, [out_dir, "--dataset=abce"])
    says(line, "--dataset ", "text, abcd")


def test_resuming_with_other_bins_of_one_member_names_it(data, tmp_path, capsys):
    char_dataset(tmp_path / "mine", "abcd" * 500)
    run("--training_mode=multidataset", "--dataset_list", f"{data}/abcd/", "mine/", "--max_iters=2",
        "--out_dir=x")
    char_dataset(tmp_path / "mine", "abdc" * 500)
    says(one_line_error(capsys, train.main, ["--init_from=resume", "--out_dir=x", "--max_iters=4"]),
         "error: mine ")
