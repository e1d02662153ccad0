"""Loss masks and documents in training: what is read, what it does to losses and gradients, that
order and resume stay exact. tests/test_ranks.py has the ranks.

Run: python -m pytest tests/test_documents.py
"""
import hashlib
import os
import pickle
import re
import signal

import numpy as np
import pytest
import torch
from helpers import (
    TEXT,
    arange_dataset,
    assert_same_training,
    char_dataset,
    log_rows,
    mostly_long,
    one_line_error,
    one_thread,  # noqa: F401
    resume,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import train
from model import GPT, GPTConfig, HeadLoss, head_loss
from pipeline.read.batches import Batch, TrainBatches, eval_batches, to_xy
from pipeline.read.documents import positions_in
from pipeline.read.folder import RECORDS, SPLITS, open_dataset
from pipeline.read.mixture import Mixture
from training import evaluation

T = 8


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def marked(folder, masks=None, starts=None, ended=True, width=16):
    """Add a loss mask and an index of documents to a folder, {split: array} each; the Dataset."""
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    for split in SPLITS:
        if masks is not None:
            (folder / f"{split}.mask.bin").write_bytes(masks[split].astype(np.uint8).tobytes())
            meta["splits"][split]["mask"] = {"sha256": sha256(folder / f"{split}.mask.bin"),
                                             "learned": int(masks[split].sum())}
        if starts is not None:
            records = np.zeros(len(starts[split]), RECORDS[width])
            records["start"], records["row"] = starts[split], np.arange(len(records)) + 1
            (folder / f"{split}.docs.bin").write_bytes(records.tobytes())
            meta["splits"][split]["docs"] = {"sha256": sha256(folder / f"{split}.docs.bin"),
                                             "count": len(records)}
    if starts is not None:
        (folder / "docs.json").write_text('["some text"]')
        meta["docs"] = {"width": width, "files_sha256": sha256(folder / "docs.json"),
                        "ended": ended}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta, protocol=4))
    return open_dataset(f"{folder}/")


def random_marks(num_tokens, seed, document=9):
    """(mask, starts) of a split: some 60% learned, documents of `document` tokens on average."""
    rng = np.random.default_rng(seed)
    starts = np.flatnonzero(rng.random(num_tokens) < 1 / document)
    return rng.random(num_tokens) < 0.6, np.union1d([0], starts)


def a_folder(path, sizes=(1003, 100), seed=0, document=9, what=("masks", "starts"), **options):
    """A marked folder whose token number i is i; the Dataset."""
    arange_dataset(path, *sizes)
    marks = {split: random_marks(size, seed + size, document)
             for split, size in zip(SPLITS, sizes)}
    given = {"masks": {split: mask for split, (mask, _) in marks.items()},
             "starts": {split: starts for split, (_, starts) in marks.items()}}
    return marked(path, **{name: given[name] for name in what}, **options)


def a_mixture(*members, documents=True, method="without_replacement", batch_size=4, **options):
    several = len(members) > 1
    fractions = np.full(len(members), 1 / len(members))
    return Mixture([member if isinstance(member, list) else [member] for member in members],
                   block_size=T, batch_size=batch_size, sampling_method=method, seed=5,
                   documents=documents,
                   fractions_at=(lambda b: np.tile(fractions, (len(b), 1))) if several else None,
                   **options)


def expected_marks(ids, mask, starts, ended=True):
    """(learned, positions) of windows (B, T + 1) whose ids are their places, target by target."""
    learned, positions = np.ones((len(ids), T), bool), np.zeros((len(ids), T), int)
    firsts = set(starts.tolist())
    for row, tokens in enumerate(ids):
        for i in range(T):
            target = int(tokens[i + 1])
            learned[row, i] = mask is None or mask[target]
            # a document begins with the token before its first one, or with that
            begins = target in firsts if ended else int(tokens[i]) in firsts
            positions[row, i] = 0 if begins or not i else positions[row, i - 1] + 1
            if not ended and target in firsts:
                learned[row, i] = False
    return learned, positions


# ---- what is read


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=40).map(sorted), st.lists(st.integers(-3, 65),
                                                                        min_size=1))
def test_positions_are_searched_as_numpy_does(ascending, values):
    array = np.array(ascending, dtype=np.uint64)
    assert positions_in(array, np.array(values)).tolist() == np.searchsorted(
        np.array(ascending), values).tolist()


@pytest.mark.parametrize("method", ["random", "sequential", "without_replacement"])
@pytest.mark.parametrize("ended, width", [(True, 16), (True, 24), (False, 16)])
def test_marks_are_those_of_the_tokens_that_a_window_holds(tmp_path, method, ended, width):
    dataset = a_folder(tmp_path / "x", ended=ended, width=width)
    mask, starts = dataset.mask("train"), dataset.documents("train")["start"]
    reader = TrainBatches(a_mixture(dataset, method=method), max_iters=80)
    for batch in reader:
        learned, positions = expected_marks(batch.ids.numpy(), mask, starts, ended)
        assert (batch.learned.numpy() == learned).all()
        assert (batch.positions.numpy() == positions).all()
        assert batch.num_learned() == learned.sum()
    reader.close()


def test_without_an_index_end_tokens_tell_documents_apart(tmp_path):
    folder = arange_dataset(tmp_path / "x", 400, 100)
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    ids = np.random.default_rng(1).integers(0, 5, 400).astype("<u2")
    ids.tofile(folder / "train.bin")
    meta["eot_token"] = 3
    meta["splits"]["train"].pop("sha256")
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta, protocol=4))
    mixture = a_mixture(open_dataset(f"{folder}/"), method="sequential", batch_size=49)
    batch, = TrainBatches(mixture, max_iters=1)
    assert batch.learned is None  # nothing is left out
    for tokens, positions in zip(batch.ids.numpy(), batch.positions.numpy()):
        for i in range(T):
            assert positions[i] == (0 if not i or tokens[i] == 3 else positions[i - 1] + 1)


def test_a_mixture_learns_all_of_a_member_without_a_mask_and_streams_follow_the_first(tmp_path):
    one = a_folder(tmp_path / "one")
    two = a_folder(tmp_path / "two", what=["starts"])
    mixture = a_mixture(one, two, own_vocabularies=False)
    reader = TrainBatches(mixture, max_iters=40)
    draws = np.arange(160).reshape(40, 4)
    for batch, row in zip(reader, draws):
        member, starts = mixture.places(row)
        for d, dataset in enumerate((one, two)):
            mine = np.flatnonzero(member == d)
            mask = one.mask("train") if d == 0 else None
            learned, positions = expected_marks(batch.ids.numpy()[mine], mask,
                                                dataset.documents("train")["start"])
            assert (batch.learned.numpy()[mine] == learned).all()
            assert (batch.positions.numpy()[mine] == positions).all()
    reader.close()
    # the second stream has marks of its own, which don't count
    other = a_folder(tmp_path / "other", seed=77)
    alone, _ = TrainBatches(a_mixture(one), max_iters=2)
    both, _ = TrainBatches(a_mixture([one, other]), max_iters=2)
    assert both.ids.shape == (4, T + 1, 2)
    assert (both.learned == alone.learned).all() and (both.positions == alone.positions).all()


def test_no_learned_token_is_lost_in_an_epoch(tmp_path):
    dataset = a_folder(tmp_path / "x", sizes=(4003, 100))
    mask = dataset.mask("train")
    for method in ("sequential", "without_replacement"):
        mixture = a_mixture(dataset, method=method, batch_size=1)
        num_windows = 4002 // T if method == "sequential" else 4003 // T - 1
        seen = np.zeros(4003, int)
        for batch in TrainBatches(mixture, max_iters=num_windows):
            seen[batch.ids[:, 1:][batch.learned]] += 1
        assert seen.max() == 1 and not seen[mask == 0].any()
        assert mask.sum() - seen.sum() < 2 * T


def test_an_evaluation_reads_the_marks_of_its_shorter_last_window_too(tmp_path):
    dataset = a_folder(tmp_path / "x")
    learned = sum(batch.num_learned()
                  for batch in eval_batches(a_mixture(dataset), "val", eval_iters=100))
    assert learned == dataset.mask("val")[1:].sum()  # nothing precedes the first token


# ---- losses and gradients


def a_model(arch, vocab_size=97, n_kv_head=2, block_size=64, **options):
    torch.manual_seed(1)
    model = GPT(GPTConfig(arch=arch, vocab_size=vocab_size, n_layer=2, n_head=4,
                          n_kv_head=n_kv_head if arch == "modern" else 4, n_embd=32,
                          block_size=block_size, **options))
    for p in model.parameters():  # a head of zeros would hide mistakes
        torch.nn.init.normal_(p, std=0.2) if p.dim() > 1 else None
    return model


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def close(a, b, most=1e-6):
    return all((x is None) == (y is None) and (x is None or (x - y).abs().max() <= most)
               for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("arch", ["modern", "gpt2"])
def test_packed_documents_are_as_each_alone(arch, seed):
    model, rng = a_model(arch), np.random.default_rng(seed)
    lengths = rng.integers(1, 30, 12)
    documents = [torch.from_numpy(rng.integers(0, 97, n + 1)) for n in lengths]  # end token first
    x, y, positions = (torch.cat([part(d) for d in documents]) for part in (
        lambda d: d[:-1], lambda d: d[1:], lambda d: torch.arange(len(d) - 1)))
    rows = len(x) // 64 * 64
    x, y, positions = (part[:rows].view(-1, 64) for part in (x, y, positions))
    # a row that begins within a document begins anew
    begins = positions == 0
    begins[:, 0] = True
    columns = torch.arange(64).expand_as(begins)
    positions = columns - torch.where(begins, columns, 0).cummax(1).values
    _, packed = model(x, y, positions=positions)
    alone = 0.0
    for row in range(len(x)):
        edges = [*begins[row].nonzero().flatten().tolist(), 64]
        for low, high in zip(edges, edges[1:]):
            _, loss = model(x[row : row + 1, low:high], y[row : row + 1, low:high])
            alone = alone + loss * (high - low) / rows
    assert abs(packed.item() - alone.item()) < 1e-6
    assert close(gradients(model, packed), gradients(model, alone))


@pytest.mark.parametrize("chunk", [1 << 25, 500], ids=["few logits", "many logits"])
@pytest.mark.parametrize("arch", ["modern", "gpt2"])
def test_a_masked_gradient_is_that_of_the_learned_targets_alone(arch, chunk, monkeypatch):
    monkeypatch.setattr("model.CHUNK_LOGITS", chunk)
    model = a_model(arch)
    x, y = torch.randint(97, (2, 5, 64))
    learned = torch.rand(5, 64) < 0.3
    _, loss = model(x, y, learned=learned)
    model_logits = model(x, y)[0] if chunk > 500 else None
    monkeypatch.setattr("model.CHUNK_LOGITS", 1 << 25)
    logits = model(x, y)[0]
    # by hand: the sum over learned targets of log of the softmax at the target
    by_hand = -(logits.log_softmax(-1).gather(-1, y[..., None])[..., 0][learned]).sum() / 320
    assert model_logits is None or torch.equal(model_logits, logits)
    assert abs(loss.item() - by_hand.item()) < 1e-6
    assert close(gradients(model, loss), gradients(model, by_hand))
    everything = model(x, y, learned=torch.ones_like(learned))[1]
    assert torch.isclose(everything, model(x, y)[1], atol=1e-6)


def test_several_vocabularies_and_streams_take_masks(monkeypatch):
    learned = torch.rand(7) < 0.5
    x, weight = torch.randn(7, 8), torch.randn(128, 8)
    targets, vocabulary = torch.tensor([0, 5, 60, 99, 3, 70, 2]), torch.tensor([0] * 50 + [1] * 50)
    _, few = head_loss(x, weight, 100, targets, vocabulary, learned)
    assert torch.isclose(few, HeadLoss.apply(x, weight, 100, targets, vocabulary, learned))
    torch.manual_seed(2)
    model = GPT(GPTConfig(vocab_size=30, vocab_sizes=(10, 20), n_layer=1, n_head=2, n_kv_head=2,
                          n_embd=16, block_size=8))
    torch.nn.init.normal_(model.lm_head.weight)
    x = torch.stack((torch.randint(10, (3, 9)), torch.randint(10, 30, (3, 9))), -1)
    learned = torch.rand(3, 8) < 0.5
    _, losses = model(x[:, :-1], x[:, 1:], learned=learned)
    for k in range(2):
        each = torch.stack([model(x[:, :-1], x[:, 1:], learned=one.view(3, 8))[1][k]
                            for one in torch.eye(24, dtype=torch.bool)])
        assert torch.isclose(losses[k], each[learned.flatten()].sum(), atol=1e-6)


def test_shorter_windows_cut_marks_as_they_cut_tokens():
    ids = torch.arange(18, dtype=torch.int16).view(2, 9)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 0, 1, 2, 3, 0, 1]],
                             dtype=torch.int32)
    learned = torch.tensor([[1, 0, 1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0, 1]]).bool()
    x, y, marks = to_xy(Batch(ids, learned, positions), "cpu", length=4)
    assert x.tolist()[1] == [4, 5, 6, 7] and y.shape == (4, 4)
    assert marks["positions"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 0, 1], [0, 1, 0, 1]]
    assert marks["learned"].int().tolist() == learned.view(4, 4).tolist()


# ---- runs


def marked_text(folder, text=TEXT, seed=1, mask=True):
    """A folder of characters with an index of documents and, maybe, a mask, as a path."""
    char_dataset(folder, text)
    marks = {split: random_marks(open_dataset(f"{folder}/").num_tokens[split], seed)
             for split in SPLITS}
    masks, starts = ({split: both[i] for split, both in marks.items()} for i in range(2))
    marked(folder, masks if mask else None, starts)
    return f"{folder}/"


@pytest.fixture(scope="module")
def modes(tmp_path_factory):
    """{mode: flags}; the second of two datasets has no mask."""
    root = tmp_path_factory.mktemp("modes")
    one, two = marked_text(root / "one"), marked_text(root / "two", TEXT[::-1], mask=False)
    return {"single": [f"--dataset={one}"],
            "multidataset": ["--training_mode=multidataset", "--dataset_list", one, two],
            "multicontext": ["--training_mode=multicontext", "--multicontext_datasets", one, two]}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("method", mostly_long(["random", "sequential", "without_replacement"]))
@pytest.mark.parametrize("mode", ["single", "multidataset", "multicontext"])
def test_twelve_steps_are_five_and_seven_resumed_however_often_one_evaluates(modes, mode, method):
    common = [*modes[mode], f"--sampling_method={method}", "--lr_decay_iters=12", "--dropout=0.1",
              "--documents", "--first_block_size=8", "--eval_iters=1"]
    run(*common, "--max_iters=12", "--eval_interval=12", "--out_dir=whole")
    run(*common, "--max_iters=5", "--eval_interval=2", "--out_dir=parts")
    resume("parts", "--max_iters=12", "--eval_interval=3")
    assert_same_training("whole", "parts")
    rows = log_rows("parts")
    assert [row["learned_tokens"] for row in rows if row["iter"] == "12"] != [""]
    assert all(row["val_bits_per_byte"] == "" for row in rows)  # of which text, nobody has counted


def test_micro_batches_of_many_and_few_learned_tokens_are_one_big_batch(modes, monkeypatch):
    """Each learned token counts alike, in whichever micro-batch it is."""
    found = []
    plain = torch.nn.utils.clip_grad_norm_

    def clip(parameters, norm):
        parameters = list(parameters)
        found.append([p.grad.clone() for p in parameters])
        return plain(parameters, norm)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    for batch_size, steps in ((12, 1), (3, 4), (1, 12)):
        run(*modes["single"], f"--batch_size={batch_size}", "--documents",
            f"--gradient_accumulation_steps={steps}", "--max_iters=1",
            f"--out_dir=x{batch_size}")
    one, *others = found
    assert max(grad.abs().max() for grad in one) > 1e-3
    assert all(close(one, other) for other in others)


def test_an_iteration_without_a_learned_token_takes_no_step_and_is_said(tmp_path, capsys):
    folder = char_dataset(tmp_path / "fox")
    num = open_dataset(f"{folder}/").num_tokens
    masks = {split: np.zeros(num[split]) for split in SPLITS}
    masks["train"][64 * 3 + 1 : 64 * 4 + 1] = 1  # the fourth batch of 4 rows of 16 tokens
    masks["val"][5:50] = 1
    marked(folder, masks)
    run(f"--dataset={folder}/", "--sampling_method=sequential", "--max_iters=3", "--out_dir=x",
        "--eval_interval=3", "--log_interval=1")
    before = torch.load("x/ckpt.pt", weights_only=True)["model"]
    assert capsys.readouterr().out.count("no token to learn") == 3
    torch.manual_seed(1337)
    resume("x", "--max_iters=4", "--log_interval=1")
    after = torch.load("x/ckpt.pt", weights_only=True)["model"]
    assert "no token to learn" not in capsys.readouterr().out
    assert any(not torch.equal(before[name], after[name]) for name in before)
    rows = log_rows("x")
    assert [row["learned_tokens"] for row in rows] == ["0", "0", "0", "64"]
    assert [row["batch_loss"] == "" for row in rows] == [True, True, True, False]


def test_the_val_loss_is_the_mean_over_learned_targets(modes, tmp_path):
    run(*modes["single"], "--max_iters=1", "--eval_iters=1000", "--out_dir=x", "--documents")
    checkpoint = torch.load("x/ckpt.pt", weights_only=True)
    model = GPT(GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    dataset, total, count = open_dataset(modes["single"][0].partition("=")[2]), 0.0, 0
    mixture = Mixture([[dataset]], block_size=16, batch_size=1, documents=True)
    for batch in eval_batches(mixture, "val", eval_iters=10**6):
        x, y, marks = to_xy(batch, "cpu")
        with torch.no_grad():
            logits, _ = model(x, y, positions=marks["positions"])
        losses = F.cross_entropy(logits[0], y[0], reduction="none")[marks["learned"][0]]
        total, count = total + losses.double().sum().item(), count + len(losses)
    assert float(log_rows("x")[-1]["val_loss"]) == pytest.approx(total / count, abs=2e-5)
    assert count == dataset.mask("val")[1:].sum()


def test_a_signal_in_an_evaluation_is_made_up_for_where_masks_are(modes, monkeypatch):
    flags = [*modes["single"], "--max_iters=4", "--eval_interval=2", "--eval_iters=3",
             "--documents"]
    run(*flags, "--out_dir=whole")
    plain, asked = evaluation.to_xy, []

    def stopping(*args):
        asked.append(1)
        if len(asked) == 2:  # in the first evaluation
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args)
    monkeypatch.setattr(evaluation, "to_xy", stopping)
    with pytest.raises(SystemExit):
        run(*flags, "--out_dir=parts")
    resume("parts")
    assert_same_training("whole", "parts")
    rows = [[{**row, "tokens_per_s": "", "data_wait": "", "seconds": "", "mfu": ""}
             for row in log_rows(folder)] for folder in ("whole", "parts")]
    assert rows[0] == rows[1] and rows[0][0]["learned_tokens"]


# ---- what is refused


def edit_meta(folder, change):
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    change(meta)
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta, protocol=4))


BAD = {
    "a mask cut short": (lambda f: (f / "val.mask.bin").write_bytes(b"\1" * 9),
                         "val.mask.bin", "9 bytes"),
    "an index cut short": (lambda f: (f / "train.docs.bin").write_bytes(b"\0" * 5),
                           "train.docs.bin", "5 bytes"),
    "a mask that is gone": (lambda f: (f / "train.mask.bin").unlink(), "train.mask.bin",
                            "prepare.py"),
    "a mask of one split": (lambda f: edit_meta(f, lambda m: m["splits"]["val"].pop("mask")),
                            "meta.pkl", "splits"),
    "no width": (lambda f: edit_meta(f, lambda m: m.pop("docs")), "meta.pkl", "docs"),
    "no counts": (lambda f: edit_meta(f, lambda m: [m["splits"][split].pop("docs")
                                                     for split in SPLITS]), "meta.pkl", "splits"),
    "an odd width": (lambda f: edit_meta(f, lambda m: m["docs"].update(width=17)), "meta.pkl",
                     "docs"),
    "a count that is text": (
        lambda f: edit_meta(f, lambda m: m["splits"]["val"]["mask"].update(learned="7")),
        "meta.pkl", "splits"),
    "nothing to learn": (
        lambda f: edit_meta(f, lambda m: m["splits"]["val"]["mask"].update(learned=0)),
        "val.mask.bin", "--learn"),
}


@pytest.mark.parametrize("damage, facts", [(d, f) for d, *f in BAD.values()], ids=[*BAD])
def test_damaged_marks_are_one_line(tmp_path, capsys, damage, facts):
    folder = marked_text(tmp_path / "fox")
    damage(tmp_path / "fox")
    line = one_line_error(capsys, train.main, [f"--dataset={folder}", "--plan"])
    assert all(fact in line for fact in facts), line


def test_an_evaluation_without_a_learned_token_is_one_line(tmp_path, capsys):
    folder = char_dataset(tmp_path / "fox")
    masks = {split: np.zeros(count) for split, count in
             open_dataset(f"{folder}/").num_tokens.items()}
    masks["train"][:] = 1
    masks["val"][-3:] = 1  # in the last window alone
    marked(folder, masks)
    line = one_line_error(capsys, lambda argv: run(*argv), [f"--dataset={folder}/", "--out_dir=x",
                                                            "--max_iters=1"])
    assert "val.bin" in line and "--eval_iters" in line


def test_documents_of_one_text_are_refused_with_the_way_to_make_some(tmp_path, capsys):
    folder = char_dataset(tmp_path / "fox")
    line = one_line_error(capsys, train.main, [f"--dataset={folder}/", "--documents"])
    assert "fox" in line and "--document_separator" in line


def test_a_folder_copied_without_its_index_trains_but_not_by_documents(tmp_path, capsys):
    folder = marked_text(tmp_path / "fox")
    (tmp_path / "fox/val.docs.bin").unlink()
    run(f"--dataset={folder}", "--max_iters=1", "--out_dir=x")
    line = one_line_error(capsys, train.main, [f"--dataset={folder}", "--documents"])
    assert "val.docs.bin" in line and "prepare.py" in line


def test_a_mask_that_changes_while_it_is_read_or_before_a_resume_is_one_line(tmp_path, capsys):
    folder = marked_text(tmp_path / "fox")
    run(f"--dataset={folder}", "--max_iters=2", "--out_dir=x")
    mask = tmp_path / "fox/train.mask.bin"
    raw = bytearray(mask.read_bytes())
    reader = TrainBatches(a_mixture(open_dataset(folder), documents=False), max_iters=10**6)
    raw[-1] ^= 1
    with open(mask, "r+b") as file:  # the reader's thread must not see it empty
        file.write(raw)
    line = one_line_error(capsys, lambda _: [None for _ in reader], None)
    assert "train.mask.bin" in line and re.search("[0-9a-f]{12}", line)
    reader.close()
    edit_meta(tmp_path / "fox", lambda meta: meta["splits"]["train"]["mask"].update(
        sha256=sha256(mask)))
    line = one_line_error(capsys, train.main, ["--init_from=resume", "--out_dir=x",
                                               "--max_iters=4"])
    assert "fox" in line and "changed" in line
