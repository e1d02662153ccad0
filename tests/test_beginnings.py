"""Runs that begin with the weights of another run, of train.py or of nanoGPT's: more tokens,
another context length, and what is refused. And finished runs that go on with a larger --max_iters.

Run: python -m pytest tests/test_beginnings.py
The reference of nanoGPT's model is written out below, in float64, head by head.
"""
import math
import re
from pathlib import Path

import pytest
import torch
from helpers import (  # noqa: F401
    TEXT,
    char_dataset,
    log_rows,
    one_line_error,
    one_thread,
    resume,
    run,
    says,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import sample
import train
from model import GPT, GPTConfig
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import CharTokenizer
from training.checkpoint import load_checkpoint, load_run
from training.published import fill_new_rows, moved_rows

STILL = ["--max_iters=1", "--learning_rate=1e-30", "--weight_decay=0", "--eval_iters=1",
         "--batch_size=4", "--max_sample_tokens=0", "--device=cpu", "--dtype=float32",
         "--compile=false"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def of_chars(folder, chars, text=TEXT):
    """A dataset whose id i is chars[i]."""
    Path(folder).mkdir(parents=True)
    write_dataset(Path(folder), text, CharTokenizer(chars))
    return f"--dataset=./{folder}"


CHARS = "".join(sorted({*TEXT}))


# ---- more tokens


@pytest.mark.parametrize("arch", ["modern", pytest.param("gpt2", marks=pytest.mark.long)])
def test_tokens_added_at_the_end_get_rows_that_are_the_mean_of_the_others(arch, capsys):
    run(of_chars("old", CHARS), "--out_dir=first", "--max_iters=6", f"--arch={arch}")
    more = of_chars("new", CHARS + "@#%" + "".join(map(chr, range(1000, 1050))))
    capsys.readouterr()
    train.main([more, "--init_from=first", "--out_dir=next", *STILL])
    told = capsys.readouterr().out
    for fact in ("53 new", "./first", "ids 29 to 81", "mean of the other 29"):
        assert fact in told
    old, new = load_run(Path("first"))[0].eval(), load_run(Path("next"))[0].eval()
    assert new.config.vocab_size == len(CHARS) + 53 and new.config.block_size == 16
    for a, b in ((old.transformer.wte, new.transformer.wte), (old.lm_head, new.lm_head)):
        rows = a.weight[: len(CHARS)]
        assert torch.equal(b.weight[: len(CHARS)], rows)
        torch.testing.assert_close(b.weight[len(CHARS) : len(CHARS) + 53],
                                   rows.mean(0).expand(53, -1))
    ids = torch.arange(64).reshape(4, 16) % len(CHARS)
    with torch.no_grad():
        (logits, before), (more_logits, after) = old(ids, ids), new(ids, ids)
    torch.testing.assert_close(logits, more_logits[..., : len(CHARS)])
    assert 0 < after - before <= math.log(1 + 53 / len(CHARS)) + 1e-5  # Jensen's inequality
    train.main([more, "--init_from=first", "--out_dir=learns", *STILL[3:], "--max_iters=4"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 80), st.integers(0, 80)), min_size=1, max_size=4))
def test_each_vocabulary_keeps_its_rows_and_gets_its_own_mean(sizes):
    old, new = [a for a, _ in sizes], [a + b for a, b in sizes]
    model = GPT(GPTConfig(vocab_size=sum(new), vocab_sizes=tuple(new) if len(new) > 1 else (),
                          n_layer=0, n_head=1, n_kv_head=1, n_embd=2, block_size=1))
    table = torch.randn(-(-sum(old) // 64) * 64, 2)
    for own in (model.transformer.wte, model.lm_head):
        own.weight.data = moved_rows(table, old, new)
    fill_new_rows(model, [range(a) for a in old], [range(a, b) for a, b in zip(old, new)])
    a = b = 0
    for was, now in zip(old, new):
        for own in (model.transformer.wte, model.lm_head):
            assert torch.equal(own.weight[b : b + was], table[a : a + was])
            torch.testing.assert_close(own.weight[b + was : b + now],
                                       table[a : a + was].mean(0).expand(now - was, -1))
        a, b = a + was, b + now
    assert not model.lm_head.weight[b:].any() and model.lm_head.weight.size(0) % 64 == 0


def test_streams_may_get_more_tokens_too(capsys):
    for name, chars in (("a", CHARS), ("b", CHARS), ("more", CHARS + "@")):
        of_chars(name, chars)
    mode = ["--training_mode=multicontext", "--multicontext_datasets"]
    run(*mode, "./a", "./b", "--out_dir=first", "--max_iters=2")
    train.main([*STILL, *mode, "./more", "./b", "--init_from=first", "--out_dir=next"])
    old, new = (load_run(Path(name))[0].transformer.wte.weight for name in ("first", "next"))
    V = len(CHARS)
    assert torch.equal(old[:V], new[:V]) and torch.equal(old[V : 2 * V], new[V + 1 : 2 * V + 1])
    torch.testing.assert_close(new[V], old[:V].mean(0))


@pytest.mark.parametrize("chars, facts", [
    (CHARS[:5] + "@" + CHARS[5:], ["is 5,", "'@'", repr(CHARS[5])]),
    ("@" + CHARS[:-1] + CHARS[-1], ["is 0,", "'@'"]),
    (CHARS[:-1], [f"is {len(CHARS) - 1},", "no token", repr(CHARS[-1])])])
def test_another_table_is_refused_with_the_first_id_that_differs(chars, facts, capsys):
    run(of_chars("old", CHARS), "--out_dir=first", "--max_iters=1")
    other = of_chars("other", chars, TEXT.replace(CHARS[-1], ""))
    line = one_line_error(capsys, train.main, [*STILL, other, "--init_from=first"])
    says(line, "other", "--init_from ./first", f"{len(chars)} ids", "first id that differs", *facts,
         "--reuse_vocab_of")


# ---- another context


def test_rotary_positions_go_on_beyond_those_of_the_run_with_the_same_weights(capsys):
    data = of_chars("old", CHARS)
    run(data, "--out_dir=first", "--max_iters=6")
    train.main([*STILL, data, "--init_from=first", "--block_size=40", "--out_dir=next"])
    assert "--block_size 40" in capsys.readouterr().out
    old, new = load_run(Path("first"))[0].eval(), load_run(Path("next"))[0].eval()
    ids = torch.arange(40)[None] % len(CHARS)
    with torch.no_grad():
        torch.testing.assert_close(new(ids, ids)[0][:, :16], old(ids[:, :16], ids[:, :16])[0])
    again = ["--init_from=resume", "--out_dir=first", "--max_iters=9", "--block_size=40"]
    line = one_line_error(capsys, train.main, again)
    says(line, "--block_size 40", "16)", "--init_from=first --block_size=40")


def test_learned_positions_end_where_they_end(capsys):
    data = of_chars("old", CHARS)
    run(data, "--out_dir=first", "--max_iters=1", "--arch=gpt2")
    line = one_line_error(capsys, train.main, [*STILL, data, "--init_from=first",
                                               "--block_size=17"])
    says(line, "--block_size 17", "16 positions", "learned")
    line = one_line_error(capsys, train.main, ["--init_from=resume", "--out_dir=first",
                                               "--max_iters=2", "--block_size=17"])
    assert "--init_from" not in line  # for it would be refused, too
    train.main([*STILL, data, "--init_from=first", "--block_size=9", "--out_dir=next"])
    assert len(load_run(Path("next"))[0].transformer.wpe.weight) == 9


# ---- nanoGPT's checkpoints


def nanogpt(path="nano/ckpt.pt", *, vocab_size, bias=True, prefix="", **changes):
    """A checkpoint as nanoGPT's train.py writes it, with random weights, which are returned."""
    generator, C = torch.Generator().manual_seed(0), 16
    shapes = {"wte": (vocab_size, C), "wpe": (24, C), "ln_f": (C,)}
    for i in range(2):
        shapes |= {f"h.{i}.ln_1": (C,), f"h.{i}.attn.c_attn": (3 * C, C),
                   f"h.{i}.attn.c_proj": (C, C), f"h.{i}.ln_2": (C,),
                   f"h.{i}.mlp.c_fc": (4 * C, C), f"h.{i}.mlp.c_proj": (C, 4 * C)}
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.5
        if bias and name not in ("wte", "wpe"):
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.5
    state = {f"{prefix}transformer.{name}": tensor for name, tensor in weights.items()}
    state[f"{prefix}lm_head.weight"] = weights["wte.weight"]
    state[f"{prefix}transformer.h.0.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in weights.values()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95))
    sizes = dict(n_layer=2, n_head=2, n_embd=C, block_size=24, bias=bias, vocab_size=vocab_size,
                 dropout=0.1)
    Path(path).parent.mkdir(exist_ok=True)
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "model_args": sizes,
                "iter_num": 3, "best_val_loss": torch.tensor(2.5),
                "config": {"dataset": "tales", "learning_rate": 1e-3, "compile": True}} | changes,
               path)
    return weights


def reference(weights, ids):
    """nanoGPT's forward pass: ids (T,) -> logits (T, rows), float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w.get(f"{name}.bias", 0)

    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for h in ("h.0", "h.1"):
        qkv, heads = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").chunk(3, -1), []
        for q, k, v in zip(*(part.chunk(2, -1) for part in qkv)):
            scores = q @ k.T / math.sqrt(q.size(-1))
            later = torch.ones_like(scores).triu(1).bool()
            heads.append(scores.masked_fill(later, -math.inf).softmax(-1) @ v)
        x = x + linear(torch.cat(heads, -1), f"{h}.attn.c_proj")
        z = linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
        z = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))  # GELU by its definition
        x = x + linear(z, f"{h}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


@pytest.mark.parametrize("bias, rows, prefix, name", [
    (True, len(CHARS), "", "nano"), (False, 64, "_orig_mod.", "nano/ckpt.pt")])
def test_a_checkpoint_of_nanogpt_is_read_as_its_own_model_does(bias, rows, prefix, name, capsys):
    weights = nanogpt(vocab_size=rows, bias=bias, prefix=prefix)
    data = of_chars("old", CHARS)
    train.main([*STILL, data, f"--init_from={name}", "--out_dir=next"])
    assert "tales" in capsys.readouterr().out
    model, ids = load_run(Path("next"))[0].eval(), torch.arange(24) % len(CHARS)
    assert (model.config.vocab_size, model.config.bias, model.config.exact_gelu) == (
        len(CHARS), bias, True)
    expected = reference(weights, ids)[:, : len(CHARS)]
    with torch.no_grad():
        found = model(ids[None], ids[None])[0][0]
    assert expected.std() > 1 and (found - expected).abs().max() < 1e-4
    train.main([*STILL[1:], data, f"--init_from={name}", "--block_size=8", "--max_iters=2",
                "--out_dir=shorter"])
    resume("shorter", "--max_iters=3")
    assert len(load_run(Path("shorter"))[0].transformer.wpe.weight) == 8


def damage(what):
    held = torch.load("nano/ckpt.pt")
    state, sizes = held["model"], held["model_args"]
    name = "transformer.h.1.mlp.c_fc.weight"
    if what == "nan":
        state[name][3, 3] = math.nan
    elif what == "short":
        state[name] = state[name][:-1].clone()
    elif what == "lacks":
        del state[name]
    elif what == "more":
        state["transformer.h.0.rope"] = torch.ones(2)
    elif what == "text":
        state[name] = "x"
    elif what == "field":
        sizes["n_experts"] = 4
    elif what == "size":
        sizes["n_layer"] = "2"
    elif what == "huge":
        sizes["n_layer"] = 10**9
    elif what == "heads":
        sizes["n_head"] = 3
    torch.save(held, "nano/ckpt.pt")
    if what == "cut":
        path = Path("nano/ckpt.pt")
        path.write_bytes(path.read_bytes()[:-999])


@pytest.mark.parametrize("what, facts", [
    ("nan", ["c_fc", "not finite"]), ("short", ["(63, 16)", "(64, 16)"]), ("lacks", ["missing"]),
    ("more", ["rope"]), ("text", ["tensors"]), ("field", ["n_experts"]), ("size", ["n_layer"]),
    ("huge", ["sizes"]), ("heads", ["sizes"]), ("cut", ["damaged"])])
def test_a_damaged_checkpoint_of_nanogpt_is_one_line(what, facts, capsys):
    nanogpt(vocab_size=len(CHARS))
    damage(what)
    line = one_line_error(capsys, train.main, [*STILL, of_chars("old", CHARS), "--init_from=nano"])
    says(line, "nano/ckpt.pt", *facts)
    assert not Path("out").exists()


@pytest.mark.parametrize("rows", [len(CHARS) - 1, len(CHARS) + 1, 192])
def test_ids_that_do_not_fit_a_checkpoint_of_nanogpt_are_one_line(rows, capsys):
    nanogpt(vocab_size=rows)
    line = one_line_error(capsys, train.main, [*STILL, of_chars("old", CHARS), "--init_from=nano"])
    says(line, "old", f"{len(CHARS)} ids", f"{rows} ids", "nano")


def test_what_a_checkpoint_of_nanogpt_cannot_do_is_one_line(capsys):
    nanogpt(vocab_size=len(CHARS))
    for main, argv in ((sample.main, ["--init_from=nano"]), (sample.main, ["--out_dir=nano"]),
                       (train.main, ["--init_from=resume", "--out_dir=nano"])):
        line = one_line_error(capsys, main, [*argv, "--device=cpu"])
        says(line, "nano/ckpt.pt", "no tokenizer", "--init_from=nano/ckpt.pt")
    data = of_chars("old", CHARS)
    line = one_line_error(capsys, train.main, [
        *STILL, "--init_from=nano", "--training_mode=multicontext", "--multicontext_datasets",
        "./old", "./old2"])
    says(line, "nano", "one vocabulary")
    says(one_line_error(capsys, train.main, [*STILL, data, "--init_from=./none"]), "./none")
    run(data, "--out_dir=first", "--max_iters=1")
    held = torch.load("first/ckpt.pt")
    held["model"]["transformer.ln_f.weight"][0] = math.nan
    torch.save(held, "first/best.pt")
    says(one_line_error(capsys, train.main, [*STILL, data, "--init_from=first"]),
         "first/best.pt", "ln_f", "not finite")


# ---- a finished run goes on


def rates_told(capsys):
    told = re.findall(r"note: the learning rate (.*)", capsys.readouterr().out)
    return told[0] if told else None


def test_a_larger_max_iters_says_from_which_rate_to_which(capsys, monkeypatch):
    monkeypatch.setattr("training.plan.TIMED", 0)
    data = of_chars("old", CHARS)
    run(data, "--out_dir=x", "--max_iters=20", "--log_interval=1", "--warmup_iters=0")
    capsys.readouterr()
    resume("x", "--max_iters=40", "--plan")
    of_plan = rates_told(capsys)
    resume("x", "--max_iters=40")
    rates = [float(row["learning_rate"]) for row in log_rows("x")]
    assert rates_told(capsys) == of_plan
    says(of_plan, f"from {rates[19]:.3g} at iteration 20 to {rates[20]:.3g}",
         "--max_iters is 40 instead of 20", "--learning_rate", "--muon_learning_rate")
    assert rates[20] > 5 * rates[19]


def test_a_rate_of_zero_is_said_and_an_unchanged_schedule_is_not(capsys):
    data = of_chars("old", CHARS)
    run(data, "--out_dir=x", "--max_iters=4", "--lr_decay_iters=8")
    capsys.readouterr()
    resume("x", "--max_iters=8")
    assert rates_told(capsys) is None
    resume("x", "--max_iters=9")
    says(rates_told(capsys), "is 0 from iteration 8", "--min_lr_share", "--lr_decay_iters 8")
    assert load_checkpoint(Path("x/ckpt.pt"))["iter_num"] == 9
