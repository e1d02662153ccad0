"""A run -> the files that other programs read (export.py), and what those programs make of them.

Run: python -m pytest tests/test_export.py -m "long or not long"
"""
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import (  # noqa: F401
    ROOT,
    TEXT,
    TINY,
    char_dataset,
    one_line_error,
    one_thread,
    python,
    says,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import export
import train
from model import GPT, GPTConfig
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    TiktokenTokenizer,
    TokenList,
    UnknownText,
    make_tokenizer,
    tokenizer_meta,
)
from training import checkpoint, layouts
from training.export_tokenizer import table_to_publish, tokenizer_json

# letters, digits, blanks of many kinds, emoji, CJK, combining marks, NUL, SentencePiece's space
ALPHABET = ("aAbSsteLl'01234567 .,!?\n\r\t\x0b\0\x7f\x85\xa0\u2028\u3000\u2581éßſ世界한ไทहिन्दी"
            "🚀😶\u200d🌫\ufe0f<|>")
CORPUS = TEXT[:9000] + "I'll see 12 345 of 6789 émigrés at 世界 🚀\n" * 40


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tokenizer_of(kind):
    if kind in ("bpe", "sentencepiece"):
        pytest.importorskip({"bpe": "tokenizers"}.get(kind, kind))
        return make_tokenizer(kind, train_text=[CORPUS], vocab_size=400)
    return {"char": lambda: CharTokenizer.from_text(CORPUS + ALPHABET), "byte": ByteTokenizer,
            "list": lambda: TokenList(["the", "th", ".*", " ", "世", "\\n"], byte_fallback=True),
            "added": lambda: TiktokenTokenizer("gpt2", backend="tiktoken",
                                               additional_tokens={"<a>": 50_300, "é世": 50_301})
            }.get(kind, lambda: TiktokenTokenizer(kind, backend="tiktoken"))()


def random_run(out_dir, tokenizer, arch="modern", spread=0.2, **sizes):
    """The folder of a run that was never trained: random weights, and a checkpoint that has what
    export.py needs. Returns (out_dir, the model)."""
    torch.manual_seed(0)
    sizes = dict(n_layer=2, n_head=4, n_embd=64, block_size=256, **sizes)
    vocab_size = sizes.pop("vocab_size", tokenizer.vocab_size)
    config = GPTConfig(arch=arch, vocab_size=vocab_size, **{"n_kv_head": 4, **sizes})
    model = GPT(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * spread + (p.dim() == 1))
    out_dir.mkdir(parents=True, exist_ok=True)
    torch.save({"format": checkpoint.FORMAT, "model": model.state_dict(),
                "model_args": dataclasses.asdict(config), "args": {"training_mode": "single"},
                "metas": {"mine": tokenizer_meta(tokenizer)}, "starts": {"mine": 1},
                "iter_num": 3, "best_val_loss": 1.25}, out_dir / "ckpt.pt")
    return out_dir, model


def exported(out_dir, *flags):
    export.main([f"--out_dir={out_dir}", "--verify=false", *flags])
    return Path(out_dir) / "export"


@pytest.fixture(scope="module")
def fox_run(tmp_path_factory):
    """A real run of train.py on characters."""
    tmp = tmp_path_factory.mktemp("export")
    train.main([*TINY, f"--dataset={char_dataset(tmp / 'fox')}", "--max_iters=3",
                f"--out_dir={tmp / 'run'}"])
    return tmp / "run"


@pytest.fixture
def run(fox_run, tmp_path):
    return Path(shutil.copytree(fox_run, tmp_path / "run"))


# ---- the files


def test_a_run_becomes_a_folder_of_the_common_files(run, capsys):
    folder = exported(run)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "README.md", "SHA256SUMS"}
    says(capsys.readouterr().out.splitlines()[-1], folder, "Qwen3ForCausalLM", "licence")
    card = (folder / "README.md").read_text()
    best = checkpoint.load_checkpoint(run / "best.pt")
    for fact in ("fox", f"{best['best_val_loss']:.4f}", "fill in", "from_pretrained",
                 "29 tokens (char)"):
        assert fact in card
    config = json.loads((folder / "config.json").read_text())
    assert (config["max_position_embeddings"], config["vocab_size"]) == (16, 29)
    assert not list(run.glob("export.tmp"))


@pytest.mark.parametrize("arch, bias", [("modern", False), ("gpt2", False), ("gpt2", True)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_weights_are_ours_under_their_published_names(tmp_path, arch, bias, dtype):
    safetensors = pytest.importorskip("safetensors.torch")
    out_dir, model = random_run(tmp_path / "run", tokenizer_of("char"), arch, bias=bias,
                                **{"n_kv_head": 2} if arch == "modern" else {})
    read = safetensors.load_file(exported(out_dir, f"--dtype={dtype}") / "model.safetensors")
    views = layouts.published_views(model.config, model.state_dict())
    assert read.keys() == views.keys()
    for name, view in views.items():
        assert torch.equal(read[name], view.to(getattr(torch, dtype))), name


def test_a_view_is_filled_by_an_import(tmp_path):
    for arch in ("modern", "gpt2"):
        _, model = random_run(tmp_path / "a", tokenizer_of("byte"), arch, bias=arch == "gpt2")
        other = GPT(model.config)
        with torch.no_grad():
            ours = layouts.published_views(model.config, model.state_dict())
            for name, view in layouts.published_views(model.config, other.state_dict()).items():
                view.copy_(ours[name])
        x = torch.arange(9)[None]
        assert torch.equal(other.eval()(x, x)[0], model(x, x)[0])


def test_an_export_is_replaced_but_nothing_else_is(run, capsys):
    folder = exported(run)
    first = (folder / "SHA256SUMS").read_text()
    assert exported(run) and (folder / "SHA256SUMS").read_text() == first
    (folder / "README.md").write_text("licence: MIT")
    line = one_line_error(capsys, export.main, [f"--out_dir={run}", "--verify=false"])
    says(line, folder / "README.md", "Move")
    assert (folder / "README.md").read_text() == "licence: MIT"
    shutil.move(folder, run / "mine")
    folder.mkdir()
    (folder / "thesis.txt").write_text("x")
    says(one_line_error(capsys, export.main, [f"--out_dir={run}", "--verify=false"]), "thesis.txt")
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_model_of_several_vocabularies_goes_out_with_one(tmp_path, capsys):
    safetensors = pytest.importorskip("safetensors.torch")
    folders = [char_dataset(tmp_path / "abc", "abcabc " * 200),
               char_dataset(tmp_path / "xyz", "xyzzy\n" * 200)]
    train.main([*TINY, "--training_mode=multidataset", "--multidataset_wte", "--max_iters=2",
                "--dataset_list", *map(str, folders), f"--out_dir={tmp_path / 'run'}"])
    folder = exported(tmp_path / "run", "--dataset=xyz")
    read = safetensors.load_file(folder / "model.safetensors")
    best = checkpoint.load_checkpoint(tmp_path / "run" / "best.pt")
    assert torch.equal(read["model.embed_tokens.weight"],
                       best["model"]["transformer.wte.weight"][4:8])
    assert set(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) == {*"\nxyz"}
    line = one_line_error(capsys, export.main, [f"--out_dir={tmp_path / 'run'}", "--dataset=no"])
    says(line, "abc, xyz")


# ---- later changes of the model and of checkpoints


def test_every_field_of_gptconfig_and_every_key_of_a_checkpoint_is_known():
    fields = {field.name for field in dataclasses.fields(GPTConfig)}
    for _, keys, _ in layouts.CLASSES.values():
        assert fields == {*keys, *layouts.OTHER_FIELDS}
    assert checkpoint.KEYS.keys() == export.USED | export.UNUSED
    assert checkpoint.FORMAT == 3, "does export.py know the new format?"


def test_what_export_py_does_not_know_is_refused(run, capsys, monkeypatch):
    state = torch.load(run / "best.pt")
    torch.save({**state, "router": 1}, run / "best.pt")
    says(one_line_error(capsys, export.main, [f"--out_dir={run}"]), run / "best.pt", "router")
    monkeypatch.setattr(layouts, "OTHER_FIELDS", layouts.OTHER_FIELDS[1:])
    torch.save(state, run / "best.pt")
    says(one_line_error(capsys, export.main, [f"--out_dir={run}"]), "arch", "layouts.py")


# ---- tokenizers


def ids_of_both(kind):
    """text -> (our ids, those of tokenizer.json, both decoded); None for a text that is refused."""
    package = pytest.importorskip("tokenizers")
    ours = tokenizer_of(kind)
    theirs = package.Tokenizer.from_str(json.dumps(tokenizer_json(table_to_publish(ours))))
    theirs.encode_special_tokens = True  # in a text, their names are text

    def both(text):
        try:
            a = ours.encode(text).tolist()
        except UnknownText:
            with pytest.raises(Exception, match="[Uu]nk"):
                theirs.encode(text)
            return None
        b = theirs.encode(text).ids
        return a, b, ours.decode(a), theirs.decode(b, skip_special_tokens=False)
    return both


KINDS = ["char", "byte", "bpe", "sentencepiece", "list", "gpt2", "added"]
LARGE = ["p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony"]
words = st.sampled_from(["the quick", "<|endoftext|", "é世", "1234567", "   ", "\n \n", "I'LL",
                         "<a>", "<0x0A>", "<unk>"])
texts = st.lists(words | st.text(ALPHABET, max_size=8) | st.text(max_size=4), max_size=6).map(
    "".join)


@pytest.mark.parametrize("kind, examples", [
    *((kind, 150) for kind in KINDS),
    *(pytest.param(kind, 10_000, marks=pytest.mark.long) for kind in KINDS + LARGE)])
def test_tokenizer_json_gives_our_ids_and_our_text(kind, examples):
    both = ids_of_both(kind)

    @settings(max_examples=examples)
    @given(texts)
    def check(text):
        if (result := both(text)) is not None:
            a, b, back, theirs = result
            assert a == b and back == theirs == text, (text, a, b)
    check()
    assert both("the quick 12345678 brown fox")[0]
