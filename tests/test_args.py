"""The flags of train.py (train_args.py): their list and defaults, that each is read by the training
code, what values they take, and that all bad values are named in one message.

Run: python -m pytest tests/test_args.py
"""
import ast
import dataclasses
import functools
import re
from pathlib import Path

import pytest
from helpers import ROOT, one_line_error, only_line, python

import train
import train_args
from model import GPTConfig
from pipeline.errors import UserError
from train_args import parse_args

FLAGS = {  # every flag and its default; a new one, or another default, is changed here on purpose
    "training_mode": "single", "dataset": "shakespeare_char", "dataset_list": None,
    "dataset_sampling_probs": None, "dataset_sampling_alpha": None,
    "dataset_sampling_probs_final": None, "dataset_sampling_probs_transition_method": None,
    "dataset_sampling_probs_transition_iters": None, "max_epochs_per_dataset": None,
    "multidataset_wte": False, "multicontext_datasets": None, "multicontext_loss_weights": None,
    "sampling_method": "random", "batch_size": 64, "block_size": 64, "first_block_size": None,
    "documents": False,
    "gradient_accumulation_steps": 1,
    "arch": "modern", "n_layer": 4, "n_head": 4, "n_kv_head": 4, "n_embd": 128, "n_hidden": None,
    "dropout": 0.0, "bias": False, "exact_gelu": True, "head_dim": None,
    "tied_head": False, "rope_theta": 10_000.0, "norm_eps": None, "qk_norm": True,
    "max_iters": 400, "optimizer": "muon", "learning_rate": 0.02, "muon_learning_rate": 0.05,
    "muon_momentum": 0.9, "beta2": 0.99, "weight_decay": 0.1, "grad_clip": 1.0, "warmup_iters": 0,
    "lr_schedule": "linear", "decay_share": 0.8, "lr_decay_iters": None, "min_lr_share": 0.0,
    "patience": None, "save_minutes": 5.0, "minutes": None, "hours": None,
    "eval_interval": 200, "eval_iters": 30, "eval_train": True, "eval_only": False, "plan": False,
    "log_interval": 10, "max_sample_tokens": 300, "sample_every_eval": False,
    "tensorboard": False, "wandb": False,
    "out_dir": None, "init_from": "scratch", "overwrite": False, "seed": 1337, "device": "auto",
    "dtype": "auto", "num_threads": None, "compile": "auto",
}
DEPENDENT = ("n_kv_head", "bias", "exact_gelu", "tied_head", "multidataset_wte", "learning_rate",
             "muon_learning_rate", "muon_momentum")  # their defaults depend on other flags


def refused(*argv):
    """What parse_args objects to, one string for each thing."""
    with pytest.raises(UserError) as error:
        parse_args(argv)
    message, hint = str(error.value).rsplit(". ", 1)
    assert "python train.py --help" in hint and "\n" not in message
    return message.split("; ")


def assert_facts(told, *facts):
    """One string for each tuple of words, which it must hold."""
    assert len(told) == len(facts), told
    for one, words in zip(told, facts):
        assert all(word in one for word in words), (one, words)


# ---- the list


def test_the_flags_and_their_defaults_are_the_frozen_ones():
    assert vars(parse_args([])) == FLAGS


@functools.cache
def read_in(source):
    """The attributes that code reads of `args` and, with a dot before them, those of `config`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = getattr(node.value, "id", getattr(node.value, "attr", None))
            names |= {node.attr} if owner == "args" else set()
            names |= {f".{node.attr}"} if owner == "config" else set()
    return names


def flags_read(sources):
    """The flags that the training code reads; model flags reach it as fields of GPTConfig."""
    names = set().union(*map(read_in, sources))
    fields = {field.name for field in dataclasses.fields(GPTConfig)}
    return {flag for flag in FLAGS if flag in names or flag in fields and f".{flag}" in names}


def test_every_flag_is_read_by_the_training_code_and_this_test_would_notice_if_not():
    """A flag that is accepted and has no effect is a defect. samples.py has other args."""
    paths = [*(ROOT / name for name in ("train.py", "optim.py", "model.py")),
             *ROOT.glob("training/*.py"), *ROOT.glob("pipeline/read/*.py")]
    sources = [path.read_text() for path in paths if path.name != "samples.py"]
    assert flags_read(sources) == set(FLAGS)
    for flag in FLAGS:
        without = [re.sub(rf"\b(args|config)\.{flag}\b", "_", source) for source in sources]
        assert set(FLAGS) - flags_read(without) == {flag}


def test_every_flag_has_its_help_and_the_help_its_defaults_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit:
        parse_args(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert exit.value.code == 0 and max(map(len, lines)) <= 80
    for flag, default in vars(parse_args([])).items():
        shown = [line.split()[1] for line in lines if line.startswith(f"  --{flag} ")]
        assert len(shown) == 1, flag
        if default is not None and flag not in DEPENDENT:
            assert shown[0].strip("[]") == str(default).lower()


def test_help_and_mistakes_do_not_wait_for_torch():
    """Its import takes a second."""
    for argv in (["--help"], ["--n_layer=x"]):
        seen = python("-X", "importtime", "train.py", *argv).stderr
        assert "pipeline.read.sampler" in seen and "torch" not in seen, argv


def test_flags_come_from_a_file_and_those_behind_it_win(tmp_path):
    file = tmp_path / "my.args"
    file.write_text("# mine\n--batch_size=3 --n_layer=2   # small\n--dataset='a b/'\n")
    args = parse_args(["--n_layer=9", f"@{file}", "--batch_size=5"])
    assert (args.batch_size, args.n_layer, Path(args.dataset).name) == (5, 2, "a b")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_a_file_of_flags_may_be_of_any_editor(tmp_path, encoding, end):
    file = tmp_path / "my.args"
    text = end.join(["--batch_size=3  # small", "--dataset='a/é b'", ""])
    file.write_bytes(text.encode(encoding))
    args = parse_args([f"@{file}"])
    assert (args.batch_size, Path(args.dataset).name) == (3, "é b")


# ---- values


@pytest.mark.parametrize("argv, compile", [
    (["--compile=False"], "false"), (["--compile=True"], "true"), (["--compile", "false"], "false"),
    (["--compile=auto"], "auto"), ([], "auto"), (["--compile"], "true"),
    (["--compile", "--n_layer=2"], "true"), (["--compile", "true"], "true")])
def test_compile_takes_what_nanogpt_users_type(argv, compile):
    assert parse_args(argv).compile == compile


@pytest.mark.parametrize("argv, bias", [
    (["--bias"], True), (["--bias=true"], True), (["--bias=True"], True),
    (["--bias", "true"], True),
    (["--bias=false"], False), (["--bias=False"], False), (["--bias", "false"], False), ([], False),
    (["--bias", "--n_layer=2"], True)])
def test_a_switch_is_a_switch_and_takes_true_and_false(argv, bias):
    assert parse_args(["--arch=gpt2", *argv]).bias is bias


@pytest.mark.parametrize("argv", [["--dataset_list", "a", "b"], ["--dataset_list=a,b"],
                                  ["--dataset_list=a", "b"], ["--dataset_list", "a b"]])
def test_a_flag_of_several_values_takes_them_however_they_are_separated(argv):
    assert parse_args(["--training_mode=multidataset", *argv]).dataset_list == ["a", "b"]


def test_values_have_the_types_of_their_flags():
    args = parse_args(["--batch_size=12", "--learning_rate=1", "--dropout=0", "--min_lr_share=1",
                       "--grad_clip=0", "--seed=0", "--lr_decay_iters=7", "--dataset=/a/b",
                       "--warmup_iters=3"])
    assert vars(args) == {**FLAGS, "batch_size": 12, "learning_rate": 1.0, "min_lr_share": 1.0,
                          "grad_clip": 0.0, "seed": 0, "lr_decay_iters": 7, "dataset": "/a/b",
                          "warmup_iters": 3}
    assert type(args.learning_rate) is float and type(args.batch_size) is int


def test_all_bad_values_are_in_one_message():
    told = refused("--batch_size=0", "--learning_rate=nan", "--sampling_method=fast", "--dropout=1",
                   "--bias=maybe", "--max_iters=1e3", "--n_lyer=3", "--warmup_iters=-1")
    assert_facts(told, ("--batch_size 0", "above 0"), ("--learning_rate nan", "above 0"),
                 ("--sampling_method fast", "random, sequential, without_replacement"),
                 ("--dropout 1", "below 1"), ("--bias maybe", "true or false"),
                 ("--max_iters 1e3", "whole number"), ("--warmup_iters -1", "0 or more"),
                 ("--n_lyer", "--n_layer"))


def test_flags_that_contradict_each_other_are_named_together():
    told = refused("--n_embd=100", "--n_head=3", "--n_kv_head=2", "--bias=true",
                   "--muon_momentum=0.5", "--optimizer=adamw")
    assert_facts(told, ("--n_embd 100", "2 x", "--n_head 3", "102"),
                 ("--n_kv_head 2", "--n_head 3"), ("--bias", "--arch gpt2"),
                 ("--muon_momentum", "--optimizer muon"))
    assert_facts(refused("--overwrite", "--init_from=resume"),
                 ("--overwrite", "--init_from resume"))
    assert_facts(refused("--overwrite"), ("--overwrite", "--out_dir"))


@pytest.mark.parametrize("first", [3, 24, 128])
def test_windows_can_only_grow_by_doubling(first):
    told = refused("--block_size=64", f"--first_block_size={first}")
    assert_facts(told, ("--block_size 64", "--first_block_size", f"{first}", "32, 16, 8, 4, 2, 1"))


def test_a_width_of_odd_heads_is_refused_only_where_positions_are_rotary():
    assert_facts(refused("--n_embd=12", "--n_head=4"), ("--n_embd 12", "2 x", "--n_head 4", "16"))
    assert parse_args(["--n_embd=12", "--n_head=4", "--arch=gpt2"]).n_embd == 12
    told = refused("--n_embd=13", "--n_head=4", "--arch=gpt2")
    assert_facts(told, ("--n_embd 13", "--n_head 4", "16"))
    assert "2 x" not in told[0]


def test_a_contradiction_is_in_the_message_beside_a_bad_value():
    assert_facts(refused("--batch_size=0", "--n_embd=100", "--n_head=3"), ("--batch_size 0",),
                 ("--n_embd 100", "--n_head 3"))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0", "-1", "x", ""])
def test_a_value_that_is_not_a_number_above_0_is_refused(value):
    assert_facts(refused(f"--learning_rate={value}"), (f"--learning_rate {value}", "above 0"))


@pytest.mark.parametrize("word, meant", [
    ("--max_iter=5", "--max_iters"), ("--eval-interval=5", "--eval_interval"),
    ("shakespeare_char", "--dataset=shakespeare_char"),
    ("--batch=4", "--batch_size"), ("--zzzzzzzz", None),
    ("batch_size=4", "--batch_size"), ("config/train_gpt2.py", "@configs/gpt2_124m.args"),
    ("configs/shakespeare_cpu.args", "@configs/shakespeare_cpu.args"),
    ("finetune_shakespeare.yaml", "@configs/finetune_shakespeare.args"),
    (r"configs\gpt2_124m.args", "@configs/gpt2_124m.args"),
    ("data/template", "--dataset=data/template"),
    ("--multicontext", "--training_mode=multicontext"), ("--dataset_name=x", "--dataset?"),
    ("--data=x", "--dataset?"), ("--lr=1", "--learning_rate"), ("--epochs=2", "--max_iters"),
    ("--batchsize=2", "--batch_size"), ("--gpu", "--device=cuda"), ("--max-steps=2", "--max_iters"),
    ("--min_lr=1e-4", "--min_lr_share"), ("--resume", "--init_from=resume")])
def test_unknown_flags_are_errors_and_the_nearest_one_is_suggested(word, meant):
    told = refused(word)
    assert_facts(told, (word, "train.py", meant or ""))
    assert ("?" in told[0]) == (meant is not None)


@pytest.mark.parametrize("argv", [["--max_iters"], ["--batch_size", "--n_layer=2"]])
def test_a_flag_without_its_value_is_a_one_line_error(capsys, argv):
    line = one_line_error(capsys, train.main, argv)
    assert argv[0] in line and "python train.py --help" in line


def test_the_command_line_prints_one_line_and_exits_with_2():
    run = python("train.py", "--batch_size=0", "--n_layer=x")
    assert run.returncode == 2 and run.stdout == ""
    line = only_line(run.stderr)
    assert all(word in line for word in ("--batch_size 0", "--n_layer x", "python train.py --help"))


# ---- resuming


SAVED = {**FLAGS, "dataset": "x", "batch_size": 4, "n_embd": 60, "n_head": 6, "n_kv_head": 6,
         "arch": "gpt2", "bias": True, "tied_head": True, "optimizer": "adamw",
         "learning_rate": 1e-2,
         "muon_learning_rate": None, "muon_momentum": None, "out_dir": "out/x"}
OTHER = {"sampling_method": "sequential", "batch_size": 5, "block_size": 9,
         "gradient_accumulation_steps": 3, "documents": True, "seed": 8, "n_layer": 9,
         "n_head": 5, "n_embd": 30,
         "bias": False, "exact_gelu": False, "head_dim": 4, "tied_head": False, "rope_theta": 5.0,
         "norm_eps": 0.5,
         "qk_norm": False, "arch": "modern", "n_kv_head": 1, "optimizer": "muon",
         "first_block_size": 3, "n_hidden": 7, "training_mode": "multidataset",
         "dataset_list": "a b", "dataset_sampling_probs": "1.0 2.0",
         "dataset_sampling_probs_final": "1.0 2.0",
         "dataset_sampling_probs_transition_method": "cosine",
         "dataset_sampling_probs_transition_iters": 7, "dataset_sampling_alpha": 0.5,
         "multidataset_wte": True, "multicontext_datasets": "a b",
         "multicontext_loss_weights": "1.0 2.0"}


def test_resume_keeps_the_saved_arguments_but_for_the_flags_given_now():
    args = parse_args(["--init_from=resume", "--max_iters=9000", "--eval_interval=7",
                       "--out_dir=moved/here"], saved=SAVED)
    assert vars(args) == {**SAVED, "init_from": "resume", "max_iters": 9000, "eval_interval": 7,
                          "out_dir": "moved/here"}


@pytest.mark.parametrize("flag", OTHER)
def test_resume_refuses_another_order_or_another_model(flag):
    with pytest.raises(UserError) as error:
        parse_args(["--init_from=resume", f"--{flag}={OTHER[flag]}"], saved=SAVED)
    for fact in (f"--{flag} {OTHER[flag]} ", f"{SAVED[flag]})", SAVED["out_dir"], "--out_dir"):
        assert fact in str(error.value)


def test_resume_names_all_the_flags_that_it_refuses():
    # another dataset is refused by its hash
    assert {*OTHER, "dataset"} == set(train_args.FROZEN)
    with pytest.raises(UserError, match=r"--batch_size 5 \(.* 4\), --seed 8 \(.* 1337\)"):
        parse_args(["--seed=8", "--batch_size=5"], saved=SAVED)


@pytest.mark.parametrize("flag", ["--n_head=6", "--bias=true", "--bias", "--n_embd=60",
                                  "--batch_size=4"])
def test_resume_takes_a_frozen_flag_that_says_what_is_so_already(flag):
    """Each of these fits the run that is resumed, and need not fit the defaults of a new run."""
    argv = ["--init_from=resume", flag]
    parse_args(argv)
    assert vars(parse_args(argv, saved=SAVED)) == {**SAVED, "init_from": "resume"}


def test_resume_refuses_a_flag_that_has_no_effect_in_the_run():
    with pytest.raises(UserError, match="--muon_momentum .*--optimizer muon"):
        parse_args(["--init_from=resume", "--muon_momentum=0.5"], saved=SAVED)  # a run of adamw


def test_a_run_that_had_replaced_another_can_be_resumed():
    saved = {**SAVED, "overwrite": True}
    assert parse_args(["--init_from=resume"], saved=saved).init_from == "resume"


@pytest.mark.parametrize("typed, dataset", [
    ("mine", "mine"), ("data/mine", "mine"), ("./data/mine/", "mine"), ("../x", "/x")])
def test_a_dataset_is_a_name_or_an_absolute_path_however_it_is_typed(typed, dataset, monkeypatch):
    monkeypatch.chdir(ROOT)
    dataset = dataset.replace("/x", str(ROOT.parent / "x"))
    assert parse_args([f"--dataset={typed}"]).dataset == dataset


@pytest.mark.parametrize("typed", ["", ".", "template"])
def test_a_name_that_cannot_be_a_dataset_is_refused(typed):
    assert_facts(refused(f"--dataset={typed}"), (f"--dataset {typed}:", "data/", "slash"))


def test_a_checkpoint_from_before_a_flag_was_made_takes_the_default():
    older = {k: v for k, v in SAVED.items() if k != "log_interval"}
    args = parse_args(["--init_from=resume"], saved=older)
    assert args.log_interval == FLAGS["log_interval"]
