"""Qwen3- and Llama-shaped models, from folders and from the hub; runs as a beginning; the sizes
that a config.json states, and what is refused.

Run: python -m pytest tests/test_published_models.py
The models have random weights. Where the package transformers makes them, the test is long.
"""
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from helpers import (  # noqa: F401
    assert_same_training,
    char_dataset,
    log_rows,
    one_line_error,
    one_thread,
    resume,
    run,
    says,
)
from published_models import (
    MADE_BY_TRANSFORMERS,
    TEXT,
    make_by_transformers,
    train_tokenizer,
    write_model,
    write_tokenizer,
)
from sources import Sources

import export
import sample
import train
from model import GPT, GPTConfig
from pipeline.errors import UserError
from pipeline.get.models import ModelFiles
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import ByteTokenizer, CharTokenizer, TokenList, make_tokenizer
from train_args import parse_args
from training import samples
from training.checkpoint import FORMAT, load_checkpoint, load_run
from training.layouts import config_of_json, published_views
from training.plan import free_memory
from training.published import load_named, open_source

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")
SIZES = dict(block_size=64, vocab_size=450, n_layer=2, n_head=4, n_kv_head=2, n_embd=48,
             n_hidden=80)
QWEN = GPTConfig(**SIZES, head_dim=16, tied_head=True, rope_theta=1e6)
LLAMA = GPTConfig(**SIZES, qk_norm=False, norm_eps=1e-5)
GPT2 = GPTConfig(**{**SIZES, "n_kv_head": 4}, arch="gpt2", bias=True, tied_head=False)
FLAGS = ["--block_size=16", "--batch_size=4", "--eval_iters=1", "--max_sample_tokens=0",
         "--device=cpu", "--dtype=float32", "--compile=false", "--eval_train=false",
         "--learning_rate=1e-3"]
HUB = "acme/tiny"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def qwen(tmp_path_factory, tokenizer):
    """(the folder of a model in three shards of bfloat16, the GPT that it is equal to)."""
    folder = tmp_path_factory.mktemp("models") / "qwen"
    write_tokenizer(folder, tokenizer)
    return folder, write_model(folder, QWEN, torch.bfloat16, num_shards=3)


@pytest.fixture
def copied(qwen, tmp_path):
    shutil.copytree(qwen[0], tmp_path / "copied")
    return tmp_path / "copied"


@pytest.fixture(scope="module")
def data(tmp_path_factory, qwen):
    """A dataset of that model's tokens."""
    folder = tmp_path_factory.mktemp("data") / "mine"
    folder.mkdir()
    write_dataset(folder, TEXT, ModelFiles(str(qwen[0])).tokenizer())
    return folder


@pytest.fixture
def hub(monkeypatch, qwen):
    """The hub, which has the model as acme/tiny."""
    sources = Sources()
    serve(sources, qwen[0])
    sources.fault_free = True
    for name, value in sources.env().items():
        monkeypatch.setenv(name, value)
    yield sources
    sources.close()


def serve(sources, folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    sources.repos[HUB] = {"main": {**files, "onnx/model.onnx": b"x"}}
    sources.small |= {name for name in files if name.endswith(".json")}


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def some_ids(vocab_size, length=40):
    return torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def all_logits(model, ids):
    return model.eval()(ids, ids)[0]


def assert_equal_models(a, b):
    """But for the padding rows of tables, which no published file has."""
    a, b = (published_views(model.config, model.state_dict()) for model in (a, b))
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


# ---- a folder


@pytest.mark.parametrize("config, dtype", [
    (QWEN, torch.bfloat16), (LLAMA, torch.float16), (GPT2, torch.float32), (QWEN, torch.float32)])
def test_weights_come_in_exactly_in_every_dtype_and_the_sizes_are_those_stated(config, dtype):
    written = write_model(Path("m"), config, dtype, num_shards=2)
    source = open_source("./m")
    assert source.config == config
    model = GPT(config)
    source.load(model)
    assert_equal_models(model, written)
    assert not model.transformer.wte.weight[450:].any()  # the padding
    ids = some_ids(450)
    assert torch.equal(all_logits(model, ids), all_logits(written, ids))


@pytest.mark.long
def test_a_run_begins_stops_goes_on_and_samples(qwen, data, capsys):
    flags = [*FLAGS, f"--dataset={data}", f"--init_from={qwen[0]}", "--lr_decay_iters=5",
             "--dropout=0.1"]
    train.main([*flags, "--max_iters=5", "--out_dir=whole"])
    train.main([*flags, "--max_iters=2", "--out_dir=parts"])
    resume("parts", "--max_iters=5")  # which needs the model's folder no more
    assert_same_training("parts", "whole")
    assert float(log_rows("whole")[-1]["val_loss"]) < 20
    held = load_checkpoint(Path("whole/ckpt.pt"))["model_args"]
    assert held == {**asdict(QWEN), "block_size": 16, "dropout": 0.1}
    capsys.readouterr()
    sample.main(["--out_dir=whole", "--device=cpu", "--start=The quick", "--max_new_tokens=5"])
    assert capsys.readouterr().out.startswith("The quick")


def test_a_context_beyond_the_published_one_is_said(qwen, data, capsys):
    """Rotary positions have no end, but a model knows only those that it was trained on."""
    for length, is_said in ((64, False), (65, True)):
        train.main([*FLAGS, f"--dataset={data}", f"--init_from={qwen[0]}", "--max_iters=1",
                    f"--block_size={length}", f"--out_dir={length}"])
        told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
        assert bool(told) == is_said
    says(told[0], "65", "64 positions")


def test_no_step_leaves_the_published_weights_as_they_are(qwen, data):
    train.main([*FLAGS, f"--dataset={data}", f"--init_from={qwen[0]}", "--max_iters=1",
                "--out_dir=x", "--learning_rate=1e-30", "--weight_decay=0"])
    assert_equal_models(load_run(Path("x"))[0], qwen[1])


def test_a_cached_continuation_is_the_one_without_a_cache_also_in_bfloat16(qwen):
    model = load_named(str(qwen[0]))[0].eval()
    ids = some_ids(450, 9)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
            grown, cached = ids, model.generate(ids, 12, temperature=0)
            assert cached.shape == (2, 21)
            for _ in range(12):
                with torch.no_grad():
                    grown = torch.cat((grown, model(grown)[0].argmax(-1)), 1)
            agree = (grown == cached).float().mean()
        assert agree == 1 if dtype is torch.float32 else agree > 0.8


def test_a_sample_holds_no_id_beyond_those_of_the_tokenizer(copied, capsys):
    """The table of a published model has more rows than its tokenizer has ids."""
    vocab_size = ModelFiles(str(copied)).tokenizer().vocab_size
    assert vocab_size < QWEN.vocab_size
    model, metas, starts, mode = load_named(str(copied))
    with torch.no_grad():  # makes the ids without a token the likeliest
        model.transformer.wte.weight[vocab_size:450] *= 1e3
    seen = []
    choose = samples.Vocabulary.sample

    def spy(self, logits, options):
        seen.append(choose(self, logits, options))
        return seen[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples.Vocabulary, "sample", spy)
        samples.speak(model, metas, starts, mode, samples.SampleArgs(max_new_tokens=30), "cpu")
    assert seen and max(int(token) for token in seen) < vocab_size


def test_the_plan_says_the_memory_and_reads_no_weights(hub, data, capsys):
    train.main([*FLAGS, f"--dataset={data}", f"--init_from={HUB}", "--plan"])
    told = " ".join(capsys.readouterr().out.split())
    model = GPT(QWEN)
    num_params = f"{model.num_params():,}"
    assert re.search(rf"{HUB}: {num_params} parameters; .*B of memory .*to download", told)
    assert not list(Path("out/pretrained").rglob("*.safetensors"))
    # the weights, their gradients, and two means of the optimizer, in float32
    stated = float(re.search(r"parameters; ([\d.]+)MB", told)[1]) * 1e6
    assert stated == pytest.approx(16 * sum(p.numel() for p in model.parameters()), rel=0.01)


def test_a_model_that_does_not_fit_is_one_line_before_anything_is_made(
        copied, data, capsys, monkeypatch):
    if free_memory(torch.device("cpu")) is None:
        pytest.skip("this system does not tell how much memory is free")
    edit(copied / "config.json", num_hidden_layers=100, hidden_size=65536,
         intermediate_size=262144)
    line = one_line_error(capsys, train.main, [
        *FLAGS, f"--dataset={data}", f"--init_from={copied}", "--plan"])
    says(line, "parameters", "memory", "free")


# ---- the hub


def test_shards_come_from_the_hub_once_and_verified(hub, data):
    train.main([*FLAGS, f"--dataset={data}", f"--init_from={HUB}", "--max_iters=1",
                "--out_dir=x"])
    here = Path("out/pretrained") / HUB
    there = hub.repos[HUB]["main"]
    kept = {path.name for path in here.iterdir() if not path.name.startswith(".")}
    assert kept == {*there, "listing.json"} - {"onnx/model.onnx", "tokenizer_config.json"}
    assert all((here / name).read_bytes() == there[name] for name in kept - {"listing.json"})
    hub.close()
    train.main([*FLAGS, f"--dataset={data}", f"--init_from={HUB}", "--max_iters=1",
                "--out_dir=y"])


@pytest.mark.parametrize("fault", ["busy", "broken", "short", "down"])
def test_a_faulty_network_is_no_matter(hub, fault, monkeypatch, qwen):
    monkeypatch.setattr("pipeline.get.download.time.sleep", lambda seconds: None)
    hub.fault_free = False
    for name in hub.repos[HUB]["main"]:
        hub.faults[f"/cdn/{HUB}!main!{name}"] = [fault]
    model = GPT(QWEN)
    open_source(HUB).load(model)
    assert_equal_models(model, qwen[1])


def test_a_shard_that_was_cut_short_is_completed_or_named(hub, qwen):
    shard = "model-00002-of-00003.safetensors"
    raw = hub.repos[HUB]["main"][shard]
    part = Path("out/pretrained") / HUB / f"{shard}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(raw[:100])  # as a killed download leaves it
    files = ModelFiles(HUB)
    assert [path.name for path in files.weights()] == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert part.with_suffix("").read_bytes() == raw
    assert (f"/cdn/{HUB}!main!{shard}", "bytes=100-") in [r[:2] for r in hub.requests]
    part.with_suffix("").write_bytes(raw[:-1])  # as a full disk leaves what a person copies
    with pytest.raises(UserError, match=rf"{shard} is damaged.*Delete it and run the same"):
        open_source(HUB).load(GPT(QWEN))


@pytest.mark.parametrize("name, facts", [
    ("acme/tyni", ["acme/tyni", "another name", "HF_TOKEN"]),
    ("out/acme", ["out/acme not found"]), ("./acme", ["./acme not found"]),
    ("/acme/tiny", ["/acme/tiny not found"]), ("../acme", ["../acme not found"]),
    ("acme/tiny/more", ["acme/tiny/more not found", "owner/name"])])
def test_a_name_that_is_nothing_is_one_line_and_paths_are_never_fetched(
        hub, data, name, facts, capsys):
    line = one_line_error(capsys, train.main, [
        *FLAGS, f"--dataset={data}", f"--init_from={name}"])
    says(line, *facts)
    assert bool(hub.requests) == (name == "acme/tyni")


@pytest.mark.parametrize("name, facts", [
    ("tiny", ["--init_from tiny", "gpt2-xl", "owner/name"]),
    ("gtp2", ["--init_from gtp2", "did you mean gpt2?"])])
def test_a_word_that_is_no_name_is_known_before_torch_is_loaded(name, facts):
    with pytest.raises(UserError) as error:
        parse_args([f"--init_from={name}"])
    says(str(error.value), *facts)


def test_a_folder_that_is_misspelt_is_suggested(qwen, data, capsys):
    line = one_line_error(capsys, train.main, [
        *FLAGS, f"--dataset={data}", f"--init_from={qwen[0].parent}/qwem"])
    says(line, f"Did you mean {qwen[0]}?")


def test_without_a_network_one_line_says_what_to_put_where(hub, data, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.get.download.time.sleep", lambda seconds: None)
    hub.close()
    line = one_line_error(capsys, train.main, [
        *FLAGS, f"--dataset={data}", f"--init_from={HUB}"])
    says(line, f"{hub.hub_url}/{HUB}", f"out/pretrained/{HUB}/", "config.json",
         "connection refused")


# ---- what is refused


@pytest.mark.parametrize("changes, facts", [
    ({"architectures": ["MixtralForCausalLM"]}, ["MixtralForCausalLM", "Qwen3ForCausalLM"]),
    ({"architectures": ["Qwen3Model"]}, ["Qwen3Model"]),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, ["rotary", "rope_scaling", "yarn"]),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8}},
     ["rotary", "rope_parameters", "llama3"]),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["rope_parameters"]),
    ({"use_sliding_window": True, "sliding_window": 32}, ["sliding windows", "use_sliding_window"]),
    ({"layer_types": ["full_attention", "sliding_attention"]}, ["sliding windows", "layer_types"]),
    ({"attention_bias": True}, ["biases on query, key and value", "attention_bias"]),
    ({"hidden_act": "gelu"}, ["activation", "hidden_act", "gelu"]),
    ({"num_experts": 8}, ["experts", "num_experts 8"]),
    ({"quantization_config": {"bits": 4}}, ["quantized", "quantization_config"]),
    ({"hidden_size": None}, ["hidden_size", "damaged"]),
    ({"hidden_size": "48"}, ["hidden_size", "'48'"]),
    ({"rms_norm_eps": -1}, ["rms_norm_eps", "-1"]),
    ({"num_key_value_heads": 3}, ["4 heads", "3 of keys"]),
    ({"head_dim": 15}, ["15 channels"]),
])
def test_what_the_block_cannot_express_is_refused_by_its_name(copied, data, changes, facts, capsys):
    edit(copied / "config.json", **changes)
    line = one_line_error(capsys, train.main, [
        *FLAGS, f"--dataset={data}", f"--init_from={copied}"])
    says(line, "config.json", *facts)


def test_what_a_config_leaves_out_is_what_transformers_takes_for_it():
    held = {"architectures": ["LlamaForCausalLM"], "vocab_size": 99, "hidden_size": 48,
            "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 64, "rope_scaling": None, "sliding_window": None,
            "attention_dropout": 0.1, "unheard_of": [1]}
    config = config_of_json(held, "x")
    assert (config.n_kv_head, config.head_dim, config.rope_theta, config.norm_eps,
            config.tied_head, config.qk_norm) == (4, 12, 10_000.0, 1e-6, False, False)
    held = {**held, "architectures": None, "model_type": "qwen3", "rope_theta": 1000000}
    config = config_of_json(held, "x")
    assert (config.head_dim, config.rope_theta, config.qk_norm) == (128, 1e6, True)


def damage(folder, what):
    from safetensors.torch import load_file, save_file
    shards = sorted(folder.glob("*.safetensors"))
    if what == "shard":
        shards[1].unlink()
    elif what == "index":
        edit(folder / "model.safetensors.index.json", weight_map={"x": "../../etc/passwd"})
    elif what == "config":
        (folder / "config.json").unlink()
    elif what == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    elif what == "bin":
        for shard in shards:
            shard.rename(shard.with_suffix(".bin"))
        (folder / "model.safetensors.index.json").unlink()
    else:
        held = load_file(shards[0])
        name = next(name for name in held if name.endswith(("q_proj.weight", "norm.weight")))
        held |= {"nan": {name: held[name] * torch.nan}, "shape": {name: held[name][:-1].clone()},
                 "bias": {name.replace("weight", "bias"): torch.ones(4)},
                 "int": {name: held[name].to(torch.int8)}}[what]
        save_file(held, shards[0])


@pytest.mark.parametrize("what, facts", [
    ("shard", ["lacks model-00002-of-00003.safetensors", "model.safetensors.index.json"]),
    ("index", ["model.safetensors.index.json", "weight_map"]),
    ("config", ["config.json", "ckpt.pt"]), ("tokenizer", ["tokenizer.json", "model"]),
    ("bin", ["safetensors"]), ("nan", ["not finite", "00001"]), ("shape", ["config.json", "00001"]),
    ("bias", ["bias", "no place"]), ("int", ["quantized", "int8"])])
def test_a_folder_that_is_not_whole_is_one_line(copied, data, what, facts, capsys):
    damage(copied, what)
    line = one_line_error(capsys, train.main, [
        *FLAGS, f"--dataset={data}", f"--init_from={copied}"])
    says(line, "copied", *facts)


def test_data_of_another_tokenizer_is_refused_with_the_command_that_makes_it_right(
        qwen, tmp_path, capsys):
    folder = char_dataset(tmp_path / "fox")
    line = one_line_error(capsys, train.main, [
        *FLAGS, f"--dataset={folder}", f"--init_from={qwen[0]}"])
    says(line, "char, 29 ids", f"--init_from {qwen[0]}", "450 ids",
         f"prepare.py --tokenizer_of {qwen[0]}")


def test_without_a_tokenizer_a_note_says_that_it_cannot_be_compared(copied, data, capsys):
    (copied / "tokenizer.json").unlink()
    train.main([*FLAGS, f"--dataset={data}", f"--init_from={copied}", "--max_iters=1",
                "--out_dir=x"])
    assert "no tokenizer.json" in capsys.readouterr().out
    line = one_line_error(capsys, sample.main, [f"--init_from={copied}", "--device=cpu"])
    says(line, "no tokenizer.json", "save_pretrained")


# ---- a run of train.py as a beginning


def test_a_run_is_a_beginning_with_the_weights_of_its_best_checkpoint(tmp_path, capsys):
    fox = char_dataset(tmp_path / "fox")
    run(f"--dataset={fox}", "--out_dir=first", "--max_iters=3")
    train.main([*FLAGS, f"--dataset={fox}", "--init_from=first", "--max_iters=1", "--out_dir=next",
                "--learning_rate=1e-30", "--weight_decay=0"])
    assert_equal_models(load_run(Path("next"))[0], load_run(Path("first"))[0])
    capsys.readouterr()
    for flags in (["--init_from=first"], ["--out_dir=first"]):
        sample.main([*flags, "--device=cpu", "--max_new_tokens=9"])
    both = capsys.readouterr().out
    assert both[: len(both) // 2] == both[len(both) // 2 :]
    other = char_dataset(tmp_path / "other", "some other letters, 1234567890\n" * 300)
    line = one_line_error(capsys, train.main, [*FLAGS, f"--dataset={other}", "--init_from=first"])
    says(line, "char", "--init_from ./first", "--reuse_vocab_of")


def test_a_gpt2_shaped_run_gives_the_first_of_its_positions(tmp_path, capsys):
    fox = char_dataset(tmp_path / "fox")
    run(f"--dataset={fox}", "--out_dir=first", "--max_iters=1", "--arch=gpt2")
    train.main([*FLAGS, f"--dataset={fox}", "--init_from=first", "--max_iters=1", "--out_dir=next",
                "--block_size=8", "--learning_rate=1e-30", "--weight_decay=0"])
    ours, theirs = (load_run(Path(name))[0].transformer.wpe.weight for name in ("next", "first"))
    assert torch.equal(ours, theirs[:8])
    line = one_line_error(capsys, train.main, [
        *FLAGS, f"--dataset={fox}", "--init_from=first", "--block_size=32"])
    says(line, "--block_size 32", "16 positions")


def test_several_vocabularies_begin_with_as_many_of_the_same(tmp_path, capsys):
    folders = [str(char_dataset(tmp_path / name, text)) for name, text in
               (("a", "abc " * 2000), ("b", "xyz! " * 2000))]
    mode = ["--training_mode=multidataset", "--multidataset_wte", "--dataset_list"]
    run(*mode, *folders, "--out_dir=first", "--max_iters=3")
    begin = [*FLAGS, "--init_from=first", "--max_iters=1", "--learning_rate=1e-30",
             "--weight_decay=0"]
    train.main([*begin, *mode, *folders, "--out_dir=next"])
    assert_equal_models(load_run(Path("next"))[0], load_run(Path("first"))[0])
    says(one_line_error(capsys, train.main, [*begin, *mode, *folders[::-1]]), "--init_from ./first")
    says(one_line_error(capsys, train.main, [*begin, f"--dataset={folders[0]}"]), "2 vocabularies")


# ---- checkpoints of before


@pytest.mark.parametrize("arch", ["modern", "gpt2"])
def test_a_checkpoint_of_format_2_means_what_its_model_was(tmp_path, arch):
    fox = char_dataset(tmp_path / "fox")
    for name in ("whole", "old"):
        run(f"--dataset={fox}", f"--out_dir={name}", f"--max_iters={4 if name == 'whole' else 2}",
            f"--arch={arch}", "--lr_decay_iters=4")
    path, new = Path("old/ckpt.pt"), ("head_dim", "tied_head", "rope_theta", "norm_eps", "qk_norm")
    held = load_checkpoint(path)
    assert held["format"] == FORMAT == 4
    held["format"] = 2
    for name in new:
        del held["model_args"][name], held["args"][name]
    del held["model_args"]["vocab_sizes"]  # which the first ones did not have
    torch.save(held, path)
    again = load_checkpoint(path)
    assert {name: again["model_args"][name] for name in new} == {
        "head_dim": 16, "tied_head": arch == "gpt2", "rope_theta": 1e4,
        "norm_eps": 1e-5 if arch == "gpt2" else 1e-6, "qk_norm": True}
    resume("old", "--max_iters=4")
    assert_same_training("old", "whole")


# ---- models of the package transformers


@pytest.mark.long
@pytest.mark.parametrize("name", MADE_BY_TRANSFORMERS)
def test_a_model_of_transformers_comes_in_over_the_hub_trains_and_goes_on(
        name, hub, tokenizer, tmp_path, capsys):
    pytest.importorskip("transformers")
    theirs = make_by_transformers(tmp_path / "made", name)
    write_tokenizer(tmp_path / "made", tokenizer)
    serve(hub, tmp_path / "made")
    model, ids = load_named(HUB)[0], some_ids(512, 64)
    with torch.no_grad():
        expected = theirs(ids).logits
    assert expected.std() > 0.5
    assert (all_logits(model, ids) - expected).abs().max() < 1e-4
    again = theirs.generate(ids[:, :9], max_new_tokens=50, do_sample=False, pad_token_id=0,
                            eos_token_id=None)
    assert torch.equal(model.generate(ids[:, :9], 50, temperature=0), again)
    folder = tmp_path / "mine"
    folder.mkdir()
    write_dataset(folder, TEXT, ModelFiles(HUB).tokenizer())
    flags = [*FLAGS, f"--dataset={folder}", f"--init_from={HUB}", "--lr_decay_iters=7"]
    train.main([*flags, "--max_iters=5", "--out_dir=parts"])
    resume("parts", "--max_iters=7")
    train.main([*flags, "--max_iters=7", "--out_dir=whole"])
    assert_same_training("parts", "whole")


# ---- in and out again


def tensors_of(folder):
    """{name: (dtype, bytes)} of all safetensors files of a folder."""
    from safetensors.torch import load_file
    return {name: (tensor.dtype, tensor.contiguous().view(torch.uint8).numpy().tobytes())
            for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def in_and_out(folder, data, dtype):
    """Begin a run with a model, take a step of no length, and export it."""
    train.main([*FLAGS, f"--dataset={data}", f"--init_from={folder}", "--max_iters=1",
                "--out_dir=x", "--learning_rate=1e-45", "--weight_decay=0"])
    export.main(["--out_dir=x", f"--dtype={dtype}", "--verify=false"])
    return Path("x/export")


@pytest.mark.parametrize("config, dtype", [
    (QWEN, "float32"), (QWEN, "bfloat16"), (LLAMA, "float16")])
def test_unchanged_weights_and_the_tokenizer_come_out_equal_to_the_byte(
        config, dtype, tokenizer, data):
    write_tokenizer(Path("m"), tokenizer)
    write_model(Path("m"), config, getattr(torch, dtype), num_shards=2)
    out = in_and_out("./m", data, dtype)
    assert tensors_of(out) == tensors_of(Path("m"))
    assert (out / "tokenizer.json").read_bytes() == Path("m/tokenizer.json").read_bytes()
    stated = config_of_json(json.loads((out / "config.json").read_text()), "x")
    assert {**asdict(stated), "block_size": 64} == asdict(config)


@pytest.mark.parametrize("make", [
    lambda text: CharTokenizer.from_text(text), lambda text: ByteTokenizer(),
    lambda text: make_tokenizer("bpe", train_text=[text], vocab_size=300),
    lambda text: make_tokenizer("sentencepiece", train_text=[text], vocab_size=320),
    lambda text: TokenList([*sorted({*text}), "the "])],
    ids=["char", "byte", "bpe", "sentencepiece", "tokens"])
def test_an_exported_run_comes_in_again_with_the_data_it_was_trained_on(make, tmp_path, capsys):
    text, folder = "the quick brown fox \u2581 jumps.\n" * 300, tmp_path / "mine"
    folder.mkdir()
    write_dataset(folder, text, make(text))
    run(f"--dataset={folder}", "--out_dir=first", "--max_iters=2", "--qk_norm=false")
    export.main(["--out_dir=first", "--verify=false"])
    train.main([*FLAGS, f"--dataset={folder}", "--init_from=first/export", "--max_iters=1",
                "--out_dir=next", "--learning_rate=1e-45", "--weight_decay=0"])
    assert_equal_models(load_run(Path("next"))[0], load_run(Path("first"))[0])
    assert "note:" not in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("name", MADE_BY_TRANSFORMERS)
def test_what_transformers_wrote_comes_out_equal_to_the_byte(name, tokenizer, tmp_path):
    pytest.importorskip("transformers")
    make_by_transformers(tmp_path / "made", name)
    write_tokenizer(tmp_path / "made", tokenizer)
    folder = tmp_path / "mine"
    folder.mkdir()
    write_dataset(folder, TEXT, ModelFiles(str(tmp_path / "made")).tokenizer())
    dtype = MADE_BY_TRANSFORMERS[name][2]
    out = in_and_out(tmp_path / "made", folder, dtype)
    made, written = tensors_of(tmp_path / "made"), tensors_of(out)
    assert made.keys() == written.keys()
    for tensor, raw in made.items():
        if not tensor.endswith("wpe.weight"):  # a shorter context has the first positions
            assert written[tensor] == raw, tensor
    export.main(["--out_dir=x", f"--dtype={dtype}", "--verify=true"])
