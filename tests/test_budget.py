"""train.py --minutes (budget.py): what it chooses fills the time, keeps each given flag, and is the
run of the command that it prints.

Run: python -m pytest tests/test_budget.py
"""

import math
import pickle
import re
import shlex
import types

import pytest
from helpers import (  # noqa: F401
    TINY,
    assert_same_training,
    char_dataset,
    log_rows,
    one_line_error,
    one_thread,
    says,
)

import train
from pipeline.errors import UserError
from train_args import DEFAULTS, given_flags, parse_args, typed_flags
from training import budget
from training.ranks import Ranks

SMALL = ["--n_layer=1", "--n_head=1", "--n_embd=16", "--block_size=8", "--batch_size=2",
         "--max_sample_tokens=0", "--device=cpu", "--dtype=float32"]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    char_dataset(tmp_path / "text")


@pytest.fixture
def paces(monkeypatch):
    """Steps take so many seconds as this function of the arguments says, and nothing is timed.
    Returns what was asked for."""
    asked = []

    def time(self, flags, least, evaluates=False):
        args = parse_args(typed_flags({**flags, **self.given}))
        asked.append((args.n_layer, args.n_embd))
        tokens = args.batch_size * args.gradient_accumulation_steps
        lengths = [args.block_size]
        while lengths[0] > (args.first_block_size or args.block_size):
            lengths.insert(0, lengths[0] // 2)
        step = asked.speed * args.n_layer * args.n_embd ** 2 * tokens * args.block_size
        return {length: step * (1 + length / 1000) for length in lengths}, 0.01, args
    asked = type("Asked", (list,), {"speed": 1e-10})()
    monkeypatch.setattr(budget.Choice, "time", time)
    return asked


def chosen(capsys, *flags, minutes=2):
    """(arguments of the run that --minutes begins, by the command that it prints; its Pace)."""
    capsys.readouterr()
    with Ranks("cpu") as ranks:
        args = parse_args([*flags, f"--minutes={minutes}"])
        argv, pace = budget.choose(list(flags), args, ranks, train.set_up, train.train_step)
    printed = re.search(r"^python train\.py (.*)$", capsys.readouterr().out, re.MULTILINE)[1]
    assert shlex.split(printed) == argv
    return parse_args(argv), pace


@pytest.mark.parametrize("minutes", [2, 20, 1000])
@pytest.mark.parametrize("speed", [1e-12, 1e-10, 1e-8])
def test_the_iterations_and_evaluations_fill_the_time(capsys, paces, speed, minutes):
    paces.speed = speed
    args, pace = chosen(capsys, "--dataset=./text", minutes=minutes)
    evaluations = -(-args.max_iters // args.eval_interval) * args.eval_iters * 0.01
    iterations = args.max_iters * budget.mean_step(pace.steps, args)
    assert 0.85 * 60 * minutes < iterations + evaluations + budget.OUTSIDE <= 60 * minutes or (
        args.max_iters < 20)


def test_more_time_and_a_faster_machine_never_choose_less_work(capsys, paces, monkeypatch):
    sizes = []
    monkeypatch.setattr(budget, "MOST", math.inf)
    for speed, minutes in ((1e-9, 1), (1e-10, 1), (1e-10, 10), (1e-12, 10), (1e-12, 1000)):
        paces.speed = speed
        args, _ = chosen(capsys, "--dataset=./text", minutes=minutes)
        sizes.append(budget.SIZES.index((args.n_layer, args.n_embd)))
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_a_small_text_gets_no_large_model(capsys, paces):
    paces.speed = 1e-15
    args, _ = chosen(capsys, "--dataset=./text")  # of 12,150 tokens
    assert budget.num_params_of((args.n_layer, args.n_embd), 0) <= 12_150 * budget.MOST


def test_a_text_that_is_read_often_gets_dropout(capsys, paces):
    for paces.speed, dropout in ((1e-6, 0.0), (1e-12, 0.1)):
        args, _ = chosen(capsys, "--dataset=./text")
        assert args.dropout == dropout
    assert chosen(capsys, "--dataset=./text", "--dropout=0.3")[0].dropout == 0.3


def test_a_run_of_few_iterations_is_told(capsys, paces):
    with Ranks("cpu") as ranks:
        for paces.speed, told in ((1e-4, True), (1e-10, False)):
            args = parse_args(["--minutes=2"])
            budget.choose(["--dataset=./text"], args, ranks, train.set_up, train.train_step)
            assert ("note:" in capsys.readouterr().out) is told


def test_only_a_few_sizes_are_timed(capsys, paces):
    chosen(capsys, "--dataset=./text")
    assert len(paces) <= 6


@pytest.mark.parametrize("given", [
    ["--n_layer=5"], ["--n_embd=100"], ["--n_head=5", "--n_embd=80"], ["--block_size=24"],
    ["--first_block_size=32", "--block_size=64"], ["--batch_size=3"], ["--learning_rate=0.5"],
    ["--sampling_method=random"], ["--optimizer=adamw"], ["--arch=gpt2"], ["--eval_iters=7"],
    ["--eval_interval=11"], ["--dropout=0.25"], ["--muon_momentum=0.5", "--beta2=0.9"],
    ["--gradient_accumulation_steps=2"], ["--lr_schedule=cosine", "--warmup_iters=3"],
    ["--head_dim=16"], ["--n_kv_head=1"], ["--n_kv_head=2"], ["--n_kv_head=3", "--n_embd=60"],
    ["--n_head=5"], ["--n_head=7"], ["--n_layer=1", "--n_embd=1024"],
    ["--seed=4", "--eval_train=false"]])
def test_each_given_flag_stays(capsys, paces, given):
    args, _ = chosen(capsys, "--dataset=./text", *given)
    for name, value in given_flags(given).items():
        assert getattr(args, name) == value


def test_the_run_is_that_of_the_printed_command(capsys, tmp_path):
    train.main(["--dataset=./text", "--minutes=0.05", "--out_dir=a", *SMALL])
    printed = re.search(r"^python train\.py (.*)$", capsys.readouterr().out, re.MULTILINE)[1]
    assert "--minutes" not in printed
    train.main([*shlex.split(printed), "--out_dir=b"])
    losses = [[row["batch_loss"] for row in log_rows(tmp_path / name)] for name in "ab"]
    assert losses[0] == losses[1] and losses[0]
    assert_same_training(tmp_path / "a", tmp_path / "b")


def test_a_plan_of_the_chosen_run(capsys, tmp_path):
    train.main(["--dataset=./text", "--minutes=0.05", "--plan", *SMALL])
    printed = capsys.readouterr().out
    assert "The first batch" in printed and "--max_iters=" in printed and "--plan" not in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags, facts", [
    (["--minutes=1", "--hours=1"], ["--minutes", "--hours"]),
    (["--minutes=1", "--max_iters=5"], ["--minutes", "--max_iters"]),
    (["--hours=1", "--max_iters=5"], ["--hours", "--max_iters"]),
    (["--minutes=1", "--lr_decay_iters=5"], ["--lr_decay_iters"]),
    (["--minutes=1", "--eval_only"], ["--eval_only"]),
    (["--minutes=1", "--init_from=resume"], ["--minutes", "resume", "--max_iters"]),
    (["--minutes=0"], ["--minutes 0"]),
    (["--time=5"], ["--minutes"]),
    (["--seconds=30"], ["--minutes"]),
    (["--minutes=nan"], ["--minutes nan"]),
    (["--minutes=1", "--dataset=./nowhere"], ["nowhere"]),
    (["--minutes=1", "--dataset=./text", "--n_embd=100", "--n_head=7"], ["--n_embd 100"]),
    (["--minutes=1", "--dataset=./text", "--block_size=5000"], ["5000"])])
def test_what_does_not_fit_is_one_line(capsys, flags, facts):
    says(one_line_error(capsys, train.main, flags), *facts)


def test_hours_are_sixty_minutes(capsys, paces):
    told = []
    for time in ("--hours=0.5", "--minutes=30"):
        capsys.readouterr()
        train.main(["--dataset=./text", time, "--plan", *SMALL, "--eval_interval=9"])
        told.append(int(re.search(r"max_iters=(\d+)", capsys.readouterr().out)[1]))
    assert math.isclose(*told, rel_tol=0.01)


def test_several_processes_are_told_what_to_do():
    with pytest.raises(UserError) as told:
        budget.choose([], None, types.SimpleNamespace(count=2), None, None)
    says(str(told.value), "torchrun", "python train.py")


@pytest.mark.parametrize("mode", ["multidataset", "multicontext", "published", "documents"])
def test_all_kinds_of_runs_can_be_chosen(capsys, tmp_path, mode):
    char_dataset(tmp_path / "b")
    meta = pickle.loads((char_dataset(tmp_path / "docs") / "meta.pkl").read_bytes())
    (tmp_path / "docs/meta.pkl").write_bytes(pickle.dumps(meta | {"eot_token": 0}))  # the line feed
    few = ["--minutes=0.03", "--max_sample_tokens=0", "--device=cpu", "--out_dir=run"]
    if mode == "published":
        train.main(["--dataset=./text", "--max_iters=2", "--out_dir=before", *SMALL])
        flags = ["--dataset=./text", "--init_from=before"]
    else:
        flags = SMALL + {
            "multidataset": [f"--training_mode={mode}", "--dataset_list", "./text", "./b"],
            "multicontext": [f"--training_mode={mode}", "--multicontext_datasets", "./text", "./b"],
            "documents": ["--dataset=./docs", "--documents"]}[mode]
    capsys.readouterr()
    train.main([*flags, *few])
    args = parse_args(shlex.split(re.search(
        r"^python train\.py (.*)$", capsys.readouterr().out, re.MULTILINE)[1]), sizes={
            "is_run": True, "block_size": 8, "vocab_sizes": [29], **{
                name: value for name, value in vars(parse_args(SMALL)).items()
                if name in ("n_layer", "n_head", "n_embd", "n_kv_head", "arch", "bias", "n_hidden",
                            "exact_gelu", "head_dim", "tied_head", "rope_theta", "norm_eps",
                            "qk_norm")}} if mode == "published" else None)
    assert args.max_iters >= 1
    assert mode != "published" or (args.n_embd, args.learning_rate) == (16, 3e-5)


def test_typed_flags_are_read_as_they_were():
    given = given_flags(["--dataset_list", "a b", "c", "--documents", "--wandb=false"])
    assert given_flags(typed_flags(given)) == given
    assert set(given) <= set(DEFAULTS)


# ---- the pace


def pace_of(max_iters=100, seconds=110, **flags):
    args = parse_args([f"--max_iters={max_iters}", *typed_flags(flags)])
    pace = budget.Pace({length: length / 64 for length in (64, 128, 256)}, seconds)
    return args, pace.steps, lambda *numbers: pace.note(args, *numbers)


def test_a_steady_pace_says_nothing():
    _, _, note = pace_of()
    assert not any(note(i, 10, 10.0, i) for i in range(10, 101, 10))  # a second each


def test_windows_that_grow_are_no_slower_pace():
    args, steps, note = pace_of(block_size=256, first_block_size=64, seconds=200)
    took = 0
    for i in range(10, 101, 10):
        step = steps[budget.block_size_at(i - 1, args)]
        took += 10 * step
        assert not note(i, 10, 10 * step, took)


def test_a_pace_that_falls_gives_the_new_end_and_its_iterations():
    (_, _, note), notes, seconds = pace_of(), [], 0
    for i in range(10, 101, 10):
        seconds += 10 if i <= 50 else 30  # three times slower in the second half: 200 s in all
        notes += filter(None, [note(i, 10, 10 if i <= 50 else 30, seconds)])
    says(notes[0], "1:50", "100 iterations")
    ends = [int(m) * 60 + int(s) for m, s in re.findall(r"after (\d+):(\d\d),", " ".join(notes))]
    assert ends == sorted(ends) and 2 <= len(notes) <= 6 and math.isclose(ends[-1], 200, rel_tol=.1)


def test_a_late_start_is_told_at_once():
    assert "after 10:" in pace_of()[-1](10, 10, 60.0, 60.0)


# ---- the rule


@pytest.mark.parametrize("size", budget.SIZES)
def test_more_tokens_are_never_worse_and_repeated_ones_help_less(size):
    params = budget.num_params_of(size, 65)
    losses = [budget.predicted_loss(params, n, 10**6) for n in (10**5, 10**6, 10**7, 10**8, 10**9)]
    fresh = [budget.predicted_loss(params, n, 10**12) for n in (10**5, 10**6, 10**7, 10**8, 10**9)]
    assert losses == sorted(losses, reverse=True)
    assert all(a >= b for a, b in zip(losses, fresh)) and losses[0] == fresh[0]
    assert losses[-1] > losses[-2] - 0.01 > fresh[-1]


def test_batches_grow_with_the_run_and_are_cut_into_micro_batches():
    tokens = []
    for num_tokens in (10**4, 10**6, 10**8, 10**10):
        flags = budget.flags_of((4, 128), num_tokens, 1, 65, 10**9, {})
        micro = flags["batch_size"] * flags["block_size"]
        assert micro * 4 * 128 <= budget.ROOM
        tokens.append(micro * flags["gradient_accumulation_steps"])
    assert budget.flags_of((12, 768), 10**10, 1, 50257, 10**9, {})["batch_size"] <= 13
    assert tokens == sorted(tokens) and tokens[0] == 256 and 10**5 < tokens[-1] < 10**6


def test_sizes_grow_and_their_heads_divide_them():
    work = [budget.num_params_of(size, 0) for size in budget.SIZES]
    assert work == sorted(work)
    for size in budget.SIZES:
        parse_args(typed_flags(budget.flags_of(size, 10**9, 1, 65, 10**9, {})))
