"""Published weights: fetched, checked, read as their own program reads them, trained on, sampled
from. GPT-2's first, then Qwen3 and Llama.

Run: python -m pytest tests/test_published.py
The weights are random ones of tiny sizes under the published names. The reference is the forward
pass of GPT-2 written out below, in float64, head by head; in long tests, that of transformers.
"""
import json
import math
import re
import shutil
import sys
import types
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from helpers import (  # noqa: F401
    ROOT,
    TEXT,
    assert_same_training,
    char_dataset,
    one_line_error,
    one_thread,
    python,
    resume,
)
from sources import Sources

import sample
import train
from data.check_dataset import adopt
from model import GPT, GPTConfig
from pipeline.errors import UserError
from pipeline.get.models import ModelFiles
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import TiktokenTokenizer, table_hash
from train_args import parse_args
from training import published as pretrained
from training.checkpoint import load_checkpoint
from training.published import load_named, open_source

safetensors = pytest.importorskip("safetensors.torch")
SIZES = dict(arch="gpt2", n_layer=2, n_head=2, n_kv_head=2, n_embd=16, n_hidden=64, bias=True)
CONFIG = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 50257,
          "n_positions": 1024, "n_layer": 2, "n_head": 2, "n_embd": 16, "n_inner": None,
          "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.1}
FILE = Path("out/pretrained/gpt2/model.safetensors")
REPO = "openai-community/gpt2"
FLAGS = ["--init_from=gpt2", "--block_size=16", "--batch_size=4", "--eval_iters=1",
         "--max_sample_tokens=0", "--device=cpu", "--dtype=float32", "--compile=false",
         "--eval_train=false"]


def shapes():
    """name -> shape, as in the hub's files, which store matrices as (in, out)."""
    C = SIZES["n_embd"]
    shapes = {"wte.weight": (50257, C), "wpe.weight": (1024, C), "ln_f.weight": (C,),
              "ln_f.bias": (C,)}
    for i in range(SIZES["n_layer"]):
        for name, shape in (("ln_1", (C,)), ("attn.c_attn", (C, 3 * C)), ("attn.c_proj", (C, C)),
                            ("ln_2", (C,)), ("mlp.c_fc", (C, 4 * C)), ("mlp.c_proj", (4 * C, C))):
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
    return shapes


def make_weights():
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) * 0.5
               for name, shape in shapes().items()}
    return weights | {f"h.{i}.attn.bias": torch.ones(1, 1, 1024, 1024).tril()
                      for i in range(SIZES["n_layer"])}


WEIGHTS = make_weights()
RAW = safetensors.save(WEIGHTS)


def reference(weights, ids, n_layer=2, n_head=2):
    """GPT-2's forward pass: ids (T,) -> logits (T, vocab_size), float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        deviation = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for h in (f"h.{i}" for i in range(n_layer)):
        qkv, heads = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").chunk(3, -1), []
        for q, k, v in zip(*(part.chunk(n_head, -1) for part in qkv)):
            scores = q @ k.T / math.sqrt(q.size(-1))
            later = torch.ones_like(scores).triu(1).bool()
            heads.append(scores.masked_fill(later, -math.inf).softmax(-1) @ v)
        x = x + linear(torch.cat(heads, -1), f"{h}.attn.c_proj")
        z = linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
        z = z / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        x = x + linear(z, f"{h}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(raw, config=CONFIG):
    """The files of GPT-2, as a download leaves them."""
    FILE.parent.mkdir(parents=True)
    FILE.write_bytes(raw)
    (FILE.parent / "config.json").write_text(json.dumps(config))


@pytest.fixture
def there():
    put(RAW)


@pytest.fixture
def hub(monkeypatch):
    """The hub, with the weights among other files; each path answers as it should."""
    sources = Sources()
    sources.repos[REPO] = {"main": {"config.json": json.dumps(CONFIG).encode(),
                                    "model.safetensors": RAW,
                                    "onnx/model.onnx": b"x"}}
    sources.small, sources.fault_free = {"config.json"}, True
    for name, value in sources.env().items():
        monkeypatch.setenv(name, value)
    yield sources
    sources.close()


@pytest.fixture(scope="module")
def plays(tmp_path_factory):
    """A folder of GPT-2's tokens."""
    folder = tmp_path_factory.mktemp("data") / "plays"
    folder.mkdir()
    write_dataset(folder, TEXT, TiktokenTokenizer("gpt2"))
    return folder


def error_of(main, *argv):
    with pytest.raises(UserError) as error:
        main(list(map(str, argv)))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- the weights are read as GPT-2 reads them


def some_ids(length):
    return torch.randint(50257, (1, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def all_logits(model, ids):
    return model.eval()(ids, ids)[0]


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_the_logits_are_those_of_gpt2(prefix):
    put(safetensors.save({prefix + name: tensor for name, tensor in WEIGHTS.items()}))
    ids = some_ids(40)
    expected = reference(WEIGHTS, ids[0])
    assert expected.std() > 1
    assert (all_logits(load_named("gpt2")[0], ids)[0] - expected).abs().max() < 1e-4


def test_a_shorter_context_is_the_first_positions(there):
    model = GPT(GPTConfig(**SIZES, block_size=24))
    open_source("gpt2").load(model)
    ids = some_ids(24)
    assert (all_logits(model, ids)[0] - reference(WEIGHTS, ids[0])).abs().max() < 1e-4


def test_the_head_is_the_embedding_and_its_padding_rows_are_zero(there):
    model = load_named("gpt2")[0]
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight.shape == (50304, 16)
    assert not model.lm_head.weight[50257:].any()
    assert model.num_params() == sum(math.prod(shape) for shape in shapes().values()) - 1024 * 16


@pytest.mark.long
@pytest.mark.parametrize("n_layer, n_head, n_embd", [(2, 2, 16), (3, 5, 60)])
def test_the_logits_are_those_of_the_package_transformers(n_layer, n_head, n_embd):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=n_layer, n_head=n_head,
                                                                  n_embd=n_embd)).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    theirs.save_pretrained(FILE.parent)
    ids = some_ids(300)
    with torch.no_grad():
        expected = theirs(ids).logits
    assert expected.std() > 1
    assert (all_logits(load_named("gpt2")[0], ids) - expected).abs().max() < 1e-4
    assert torch.equal(load_named("gpt2")[0].generate(ids[:, :9], 20, temperature=0),
                       theirs.generate(ids[:, :9], max_new_tokens=20, do_sample=False,
                                       pad_token_id=0, eos_token_id=None))


# ---- they come from the hub, once, whole or not at all


def fetch(name="gpt2"):
    files = ModelFiles(name)
    return [*files.get("config.json"), *files.weights()]


def test_the_file_is_fetched_once_checked_by_its_hash_and_needs_no_network_again(hub):
    assert fetch() == [FILE.parent / "config.json", FILE] and FILE.read_bytes() == RAW
    asked = [path for path, *_ in hub.requests]
    tree = f"/hub/api/models/{REPO}/tree/{hub.commit(REPO)}?recursive=true"
    assert asked[:2] == [f"/hub/api/models/{REPO}/revision/main", tree]
    assert asked[-1].startswith(f"/cdn/{REPO}!")
    assert f"/hub/{REPO}/resolve/{hub.commit(REPO)}/model.safetensors" in asked
    assert not any("onnx" in path for path in asked)
    hub.close()
    assert fetch() == [FILE.parent / "config.json", FILE]


@pytest.mark.parametrize("fault", ["busy", "broken", "short", "down"])
def test_a_faulty_network_is_no_matter(hub, fault, monkeypatch):
    monkeypatch.setattr("pipeline.get.download.time.sleep", lambda seconds: None)
    hub.fault_free = False
    for path in (f"/hub/api/models/{REPO}/tree/{hub.commit(REPO)}?recursive=true",
                 f"/cdn/{REPO}!main!model.safetensors"):
        hub.faults[path] = [fault]
    fetch()
    assert FILE.read_bytes() == RAW


def test_a_killed_download_goes_on_where_it_stopped(hub):
    FILE.parent.mkdir(parents=True)
    Path(f"{FILE}.part").write_bytes(RAW[:1_000_000])
    fetch()
    assert FILE.read_bytes() == RAW
    assert [asked_range for path, asked_range, _ in hub.requests
            if path.endswith("!model.safetensors")] == ["bytes=1000000-"]


def test_a_file_with_another_hash_than_the_listing_says_is_thrown_away(hub):
    hub.tampered.add("model.safetensors")
    FILE.parent.mkdir(parents=True)
    with pytest.raises(UserError, match=r"model\.safetensors.*sha256"):
        fetch()
    assert sorted(path.name for path in FILE.parent.iterdir()) == [
        ".download.lock", "config.json", "listing.json"]


def test_a_token_is_sent_to_the_hub_alone(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    hub.private.add(REPO)
    fetch()
    sent = {(path.split("/")[1], token) for path, _, token in hub.requests}
    assert sent == {("hub", "Bearer hf_good"), ("cdn", None)}


def test_without_a_network_one_line_says_where_the_file_is_and_where_it_must_lie(
        hub, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.get.download.time.sleep", lambda seconds: None)
    hub.close()
    line = one_line_error(capsys, sample.main, ["--init_from=gpt2", "--device=cpu"])
    for fact in (f"{hub.hub_url}/api/models/{REPO}", "config.json", f"{hub.hub_url}/{REPO}",
                 "out/pretrained/gpt2/"):
        assert fact in line


def test_a_listing_without_the_file_is_one_line(hub):
    del hub.repos[REPO]["main"]["model.safetensors"]
    with pytest.raises(UserError, match=r"no weights as safetensors.*model\.safetensors"):
        fetch()


@pytest.mark.parametrize("raw, message", [
    (b"", "damaged"), (RAW[:-1], "damaged"), (b"version https://git-lfs", "damaged"),
    (safetensors.save({k: v for k, v in WEIGHTS.items() if k != "h.1.ln_2.bias"}),
     r"lack transformer\.h\.1\.ln_2\.bias"),
    (safetensors.save({**WEIGHTS, "h.0.mlp.c_fc.weight": torch.ones(16, 48)}),
     r"h\.0\.mlp\.c_fc\.weight .*\(16, 48\) .*\(16, 64\)"),
    (safetensors.save({**WEIGHTS, "wpe.weight": torch.ones(512, 16)}),
     r"wpe\.weight .*\(512, 16\) .*\(1024, 16\)")])
def test_a_file_that_is_not_the_one_is_one_line(raw, message):
    put(raw)
    with pytest.raises(UserError, match=f"^{FILE.parent}.*{message}.*Delete") as error:
        load_named("gpt2")[0]
    assert "\n" not in str(error.value)


def test_without_the_package_safetensors_one_line_says_how_to_get_it_and_nothing_is_fetched(
        hub, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    line = one_line_error(capsys, sample.main, ["--init_from=gpt2", "--device=cpu"])
    assert "--init_from gpt2" in line and "pip install safetensors" in line
    assert not hub.requests


# ---- train.py and sample.py


def test_a_run_begins_with_the_published_weights(there, plays):
    train.main([*FLAGS, f"--dataset={plays}", "--max_iters=2", "--out_dir=x",
                "--learning_rate=1e-12"])
    checkpoint = load_checkpoint(Path("x/ckpt.pt"))
    assert {**SIZES, "block_size": 16}.items() <= checkpoint["model_args"].items()
    model = GPT(GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    ids = some_ids(16)
    assert (all_logits(model, ids)[0] - reference(WEIGHTS, ids[0])).abs().max() < 1e-4


def test_a_stopped_run_goes_on_bit_for_bit_without_the_published_file(there, plays):
    more = [f"--dataset={plays}", "--lr_decay_iters=2", "--dropout=0.1", "--learning_rate=1e-3",
            "--optimizer=muon"]
    train.main([*FLAGS, *more, "--max_iters=2", "--out_dir=whole"])
    train.main([*FLAGS, *more, "--max_iters=1", "--out_dir=parts"])
    shutil.rmtree("out")
    resume("parts", "--max_iters=2")
    assert_same_training("parts", "whole")


def test_a_run_lowers_the_loss_with_the_default_rates(there, plays, capsys):
    train.main([*FLAGS, f"--dataset={plays}", "--max_iters=12", "--eval_interval=4",
                "--out_dir=x"])
    losses = [float(loss) for loss in re.findall(r"val loss (\S+) \(best\)",
                                                 capsys.readouterr().out)]
    assert len(losses) == 3 and losses == sorted(losses, reverse=True)


def test_samples_come_from_the_published_weights_and_from_a_run_that_began_with_them(
        there, plays, capsys):
    train.main([*FLAGS, f"--dataset={plays}", "--max_iters=2", "--out_dir=x",
                "--learning_rate=1e-12"])
    spoken = []
    for flags in (["--init_from=gpt2"], ["--out_dir=x"]):
        capsys.readouterr()
        sample.main([*flags, "--device=cpu", "--start=the quick", "--max_new_tokens=8",
                     "--temperature=0"])
        spoken.append(capsys.readouterr().out)
    encoding = TiktokenTokenizer("gpt2")
    ids = encoding.encode("the quick").tolist()
    for _ in range(8):
        ids.append(int(reference(WEIGHTS, torch.tensor(ids))[-1].argmax()))
    assert spoken[0] == spoken[1] == encoding.decode(ids) + "\n"


def refuse_other_tokens(dataset):
    mixture = types.SimpleNamespace(datasets=[dataset], metas={dataset.name: dataset.meta})
    assert open_source("gpt2").refuse_other_tokens(mixture) == [50257]


def test_a_dataset_of_other_tokens_is_refused_and_no_folder_made(there, tmp_path, capsys):
    folder = char_dataset(tmp_path / "fox")
    line = one_line_error(capsys, train.main, [*FLAGS, f"--dataset={folder}"])
    for fact in ("fox", "char", "29 ids", "--init_from gpt2", "50,257",
                 "python fox/prepare.py --method tiktoken", "--dataset=shakespeare"):
        assert fact in line
    assert [path.name for path in Path("out").iterdir()] == ["pretrained"]


def test_the_tokens_of_gpt2_are_known_by_their_hash_and_in_a_folder_that_states_none(
        there, tmp_path, plays):
    tokenizer = TiktokenTokenizer("gpt2")
    assert table_hash(tokenizer.to_meta()["itos"]) == pretrained.GPT2_TOKENS
    dataset = open_dataset(plays)
    assert dataset.meta["table_sha256"] == pretrained.GPT2_TOKENS
    del dataset.meta["table_sha256"]
    refuse_other_tokens(dataset)
    shutil.copytree(plays, tmp_path / "bpe")
    (tmp_path / "bpe/meta.pkl").unlink()
    adopt(tmp_path / "bpe", "gpt2", None)
    refuse_other_tokens(open_dataset(tmp_path / "bpe"))


def test_a_mixture_of_gpt2s_tokens_begins_with_the_published_weights_too(
        there, plays, tmp_path, capsys):
    shutil.copytree(plays, tmp_path / "again")
    train.main([*FLAGS, "--training_mode=multidataset", "--dataset_list", str(plays), "./again",
                "--max_iters=1", "--out_dir=x",
                "--learning_rate=1e-12"])
    assert torch.allclose(load_checkpoint(Path("x/ckpt.pt"))["model"]["transformer.wpe.weight"],
                          WEIGHTS["wpe.weight"][:16])


def test_gpt2_with_more_tokens_gets_rows_for_them(there, tmp_path):
    (folder := tmp_path / "more").mkdir()
    write_dataset(folder, TEXT, TiktokenTokenizer("gpt2", additional_tokens={"<|user|>": 50257}))
    dataset, source = open_dataset(folder), open_source("gpt2")
    mixture = types.SimpleNamespace(datasets=[dataset], metas={dataset.name: dataset.meta})
    assert source.refuse_other_tokens(mixture) == [50258] and "50,257 (1 new)" in source.notes[0]
    model, wte = GPT(GPTConfig(**SIZES, vocab_size=50258, block_size=24)), WEIGHTS["wte.weight"]
    source.load(model)
    assert torch.equal(model.lm_head.weight[:50257], wte)
    assert torch.allclose(model.lm_head.weight[50257], wte.mean(0), atol=1e-6)
    dataset.meta["itos"][7] = "@@"
    dataset.meta["table_sha256"] = table_hash(dataset.meta["itos"])
    with pytest.raises(UserError, match=r"gpt2, 50,258 ids.* first 50,257 tokens"):
        open_source("gpt2").refuse_other_tokens(mixture)


OF_GPT2 = asdict(GPTConfig(**SIZES))


def test_sizes_and_rates_are_those_of_the_published_model():
    args = parse_args(["--init_from=gpt2-xl", "--n_layer=2", "--bias", "--dropout=0.1"],
                      sizes=OF_GPT2)
    assert {**SIZES, "dropout": 0.1, "tied_head": True, "head_dim": 8,
            "norm_eps": 1e-5}.items() <= vars(args).items()
    assert (args.optimizer, args.learning_rate, args.muon_learning_rate) == ("adamw", 3e-5, None)
    args = parse_args(["--init_from=gpt2", "--optimizer=muon"], sizes=OF_GPT2)
    assert (args.optimizer, args.learning_rate, args.muon_learning_rate) == ("muon", 3e-5, 1e-3)


@pytest.mark.parametrize("flags, message", [
    (["--n_layer=4", "--n_embd=64"], "--n_layer 4 | has 2; --n_embd 64 | has 16"),
    (["--arch=modern"], "--arch modern | --init_from gpt2"),
    (["--bias=false"], "--bias False | --init_from gpt2"),
    (["--block_size=2048"], "--block_size 2048 | --init_from gpt2 | 1,024"),
    (["--training_mode=multicontext", "--multicontext_datasets", "a", "b"],
     "--init_from gpt2 | vocabulary | --training_mode single"),
    (["--muon_momentum=0.9"], "--muon_momentum | --optimizer muon"),
    (["--init_from=gpt3"], "gpt3 | scratch, resume, gpt2, gpt2-medium, gpt2-large, gpt2-xl")])
def test_flags_that_disagree_are_one_line(flags, message):
    with pytest.raises(UserError) as error:
        parse_args(["--init_from=gpt2", *flags], sizes=OF_GPT2)
    told = str(error.value)
    assert "\n" not in told
    assert all(fact in told for fact in message.split(" | "))


def test_samples_of_a_run_and_of_published_weights_cannot_be_asked_for_together():
    told = error_of(sample.parse_args, "--init_from=gpt2", "--out_dir=x")
    for fact in ("--out_dir", "--init_from gpt2", "python sample.py --help"):
        assert fact in told


@pytest.mark.long
def test_two_ranks_begin_with_the_published_weights_and_train_as_one_does(there, plays):
    flags = [*FLAGS, f"--dataset={plays}", "--max_iters=4", "--log_interval=1",
             "--gradient_accumulation_steps=2"]
    child = python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                   ROOT / "train.py", *flags, "--out_dir=two", cwd=Path.cwd())
    assert child.returncode == 0, child.stderr
    train.main([*flags, "--out_dir=one"])
    one, two = (load_checkpoint(Path(name) / "ckpt.pt") for name in ("one", "two"))
    assert two["best_val_loss"] == pytest.approx(one["best_val_loss"], abs=1e-3)
    for name, weight in one["model"].items():
        assert torch.allclose(weight, two["model"][name], atol=2e-4), name
