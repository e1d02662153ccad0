"""The tokenizer.json of a published model, or of one's own: the same ids and text as the package
tokenizers gives, in prepare.py, in meta.pkl and in a prompt.

Run: python -m pytest tests/test_published_tokenizer.py
"""
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, TINY, one_line_error, python, says
from hypothesis import given, settings
from hypothesis import strategies as st
from published_models import QWEN, TEXT, train_tokenizer, write_tokenizer
from sources import Sources

import train
from data.check_dataset import main as check_dataset
from pipeline.errors import UserError
from pipeline.get.models import ModelFiles
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import (
    PublishedTokenizer,
    TiktokenTokenizer,
    UnknownText,
    hash_of_table,
    published_table,
    table_hash,
    tokenizer_from_meta,
)
from pipeline.tokenizers.published import PATTERNS
from training.samples import Vocabulary

package = pytest.importorskip("tokenizers")
KINDS = ["qwen", "smollm", "llama"]


@pytest.fixture(scope="module", params=KINDS)
def both(request):
    """(the package's Tokenizer, ours of the same file)."""
    theirs = train_tokenizer(request.param)
    return theirs, PublishedTokenizer(theirs.to_str())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a model's tokenizer, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_tokenizer(tmp_path / "model", train_tokenizer())
    return tmp_path / "model"


TEXTS = st.text(alphabet=st.one_of(
    st.sampled_from(" \n\t\r\0ab1.,'_\u2581\u0301\u200d"), st.sampled_from("éñ世界😀🏽"),
    st.characters(exclude_categories=["Cs"])), max_size=60)
NAMES = st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "<think>", "<|im_"])


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.one_of(TEXTS, NAMES), max_size=4))
def test_ids_and_text_are_those_of_the_package(both, parts):
    theirs, ours = both
    text = "".join(parts)
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text).tolist() == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    assert ours.vocab_size == max(theirs.get_vocab(with_added_tokens=True).values()) + 1


@settings(max_examples=80, deadline=None)
@given(text=st.lists(st.one_of(TEXTS, NAMES, st.sampled_from(["The fox", " a\n\n", "12 \n b"])),
                     max_size=12).map("".join))
def test_a_border_changes_no_id(both, text):
    _, ours = both
    at = ours.border(text)
    if 0 < at < len(text):
        parts = np.concatenate([ours.encode(text[:at]), ours.encode(text[at:])])
        assert parts.tolist() == ours.encode(text).tolist()


def test_texts_have_borders_exactly_where_the_file_is_of_a_kind_that_allows_them():
    found = {kind: PublishedTokenizer(train_tokenizer(kind).to_str()).border(TEXT)
             for kind in KINDS}
    assert found["qwen"] and found["smollm"] and not found["llama"]
    for edit in (lambda held: held["added_tokens"][0].update(lstrip=True),
                 lambda held: held["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(
                     Regex=r"\s"),
                 lambda held: held.update(normalizer={"type": "Lowercase"})):
        held = json.loads(train_tokenizer().to_str())
        edit(held)
        assert not PublishedTokenizer(json.dumps(held)).border(TEXT)


def test_the_table_needs_no_package_and_is_what_meta_holds(both, monkeypatch):
    theirs, ours = both
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert published_table(theirs.to_str(), "x") == ours.to_meta()["itos"]
    with pytest.raises(UserError, match="pip install tokenizers"):
        PublishedTokenizer(theirs.to_str())


def test_a_file_of_gpt2s_tokens_has_the_table_of_tiktoken():
    """So a dataset prepared by either can begin with the same model."""
    from pipeline.tokenizers.tables import BYTE_LETTERS
    meta = TiktokenTokenizer("gpt2").to_meta()
    vocab = {"".join(BYTE_LETTERS[b] for b in (t if isinstance(t, bytes) else t.encode())): i
             for i, t in meta["itos"].items() if i != 50256}
    held = {"model": {"type": "BPE", "vocab": vocab, "merges": []},
            "pre_tokenizer": {"type": "ByteLevel"}, "normalizer": None,
            "added_tokens": [{"id": 50256, "content": "<|endoftext|>"}]}
    assert table_hash(published_table(json.dumps(held), "x")) == hash_of_table(meta)


def test_known_patterns_differ_as_those_of_the_published_files_do():
    """GPT-2's (built into ByteLevel), that of Qwen 2 to 3, and Llama 3's."""
    assert PATTERNS[2] == PATTERNS[1].replace(r"|\p{N}|", r"|\p{N}{1,3}|") != PATTERNS[1]
    assert QWEN == PATTERNS[1]


# ---- what would be lost


def test_characters_that_the_vocabulary_lacks_are_refused_and_never_dropped():
    words = package.Tokenizer(package.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    ours = PublishedTokenizer(words.to_str())
    assert ours.encode("abba").tolist() == [2, 1, 0]
    with pytest.raises(UnknownText, match="'x' at position 2"):
        ours.encode("abxa")
    for half in ("\ud800", "a\udfff"):
        with pytest.raises(UserError, match="surrogate"):
            ours.encode(half)


def test_a_file_that_cuts_or_fills_texts_keeps_every_token():
    theirs = train_tokenizer()
    plain = PublishedTokenizer(theirs.to_str()).encode(TEXT).tolist()
    theirs.enable_truncation(8)
    theirs.enable_padding(length=9)
    assert PublishedTokenizer(theirs.to_str()).encode(TEXT).tolist() == plain


@pytest.mark.parametrize("edit, facts", [
    (lambda held: held["pre_tokenizer"].update(type="Telepathy"), ["tokenizers", "cannot read"]),
    (lambda held: held.pop("model"), ["model"]),
    (lambda held: held["model"].update(vocab={"a": -1}), ["ids"]),
    (lambda held: held["model"].update(vocab=7), ["tokenizer.json"]),
])
def test_a_file_that_cannot_be_read_is_one_line(folder, edit, facts, capsys):
    held = json.loads((folder / "tokenizer.json").read_text())
    edit(held)
    (folder / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(UserError) as error:
        ModelFiles("./model").tokenizer()
    says(str(error.value), "model/tokenizer.json", *facts)


# ---- prepare.py


NUMBERED = "".join(f"{line} {i}\n" for i, line in enumerate(TEXT.splitlines()))


def prepare(folder, *flags):
    """The template's prepare.py in a folder, on a text without repetitions."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data/template/prepare.py", folder)
    (folder / "input.txt").write_text(NUMBERED, encoding="utf-8")
    return python(folder / "prepare.py", *flags, cwd=folder.parent, PYTHONPATH=str(ROOT))


def test_a_dataset_keeps_the_whole_file_its_special_tokens_and_its_end(folder, tmp_path, capsys):
    child = prepare(tmp_path / "mine", "--tokenizer_of", "./model")
    assert child.returncode == 0, child.stderr
    dataset = open_dataset(tmp_path / "mine")
    raw, end = (folder / "tokenizer.json").read_text(), "<|im_end|>"
    assert dataset.meta["tokenizer_json"] == raw
    assert dataset.meta["special_tokens"][end] == dataset.meta["eot_token"]
    shutil.rmtree(folder)  # meta.pkl alone is needed from here on
    tokenizer = tokenizer_from_meta(dataset.meta)
    ids = np.concatenate([dataset.tokens(split) for split in ("train", "val")])
    assert tokenizer.decode(ids) == NUMBERED
    assert (ids == dataset.meta["eot_token"]).sum() == NUMBERED.count(end)
    check_dataset([str(tmp_path / "mine")])
    assert "error" not in capsys.readouterr().err


def test_documents_end_with_the_token_that_the_model_states(folder, tmp_path):
    tokenizer = ModelFiles("./model").tokenizer()
    (tmp_path / "docs").mkdir()
    meta = write_dataset(tmp_path / "docs", ["one text"] * 3 + ["another"], tokenizer,
                         val_text=["x"])
    ids = open_dataset(tmp_path / "docs").tokens("train")
    assert (ids == tokenizer.special_tokens["<|im_end|>"]).sum() == 4
    assert meta["splits"]["train"]["documents"] == 4


@pytest.mark.parametrize("beside, end", [
    ({"tokenizer_config.json": {"eos_token": {"content": "<|im_start|>"}}}, "<|im_start|>"),
    ({"config.json": {"eos_token_id": ["<|im_end|>", "<|endoftext|>"]}}, "<|im_end|>"),
    ({"config.json": {"eos_token_id": 9999}}, "<|endoftext|>"), ({}, "<|endoftext|>"),
    ({"config.json": {"eos_token_id": "<|endoftext|>"},
      "tokenizer_config.json": {"eos_token": "<|im_end|>"}}, "<|im_end|>")])
def test_the_end_of_a_document_is_what_the_files_beside_state(folder, beside, end):
    id_of = ModelFiles("./model").tokenizer().special_tokens
    (folder / "tokenizer_config.json").unlink()
    for name, held in beside.items():
        text = json.dumps(held)
        for token, i in id_of.items() if name == "config.json" else ():
            text = text.replace(f'"{token}"', str(i))
        (folder / name).write_text(text)
    assert ModelFiles("./model").tokenizer().eot_token == id_of[end]


def test_a_tokenizer_json_of_ones_own_is_named_by_its_path(folder, tmp_path):
    own = tmp_path / "own.json"
    shutil.move(folder / "tokenizer.json", own)
    assert ModelFiles("own.json").tokenizer().text == own.read_text()


@pytest.mark.parametrize("flags, facts", [
    (["--tokenizer_of", "./nothing"], ["./nothing not found"]),
    (["--tokenizer_of", "./model", "--method", "bpe"], ["--method", "--tokenizer_of"]),
    (["--tokenizer_of", "./model", "--reuse_vocab_of", "x"], ["--reuse_vocab_of"]),
    (["--tokenizer_of", "./model", "--vocab_size", "300"], ["--vocab_size"]),
    (["--tokenizer_of", "./mine"], ["mine has no tokenizer.json"]),
])
def test_mistakes_of_prepare_py_are_one_line(folder, tmp_path, flags, facts):
    child = prepare(tmp_path / "mine", *flags)
    assert child.returncode == 2
    says(child.stderr.strip(), *facts)


def test_a_recipe_of_the_catalogue_takes_the_tokenizer_too(folder, monkeypatch):
    from pipeline.prepare.recipes import chosen_tokenizer, dataset_parser
    parser = dataset_parser("x", rows=True)
    args = parser.parse_args(["--tokenizer_of", "./model"])
    assert "<|im_end|>" in chosen_tokenizer(args).special_tokens
    with pytest.raises(UserError, match="--tokenizer: .*--tokenizer_of"):
        parser.parse_args(["--tokenizer_of", "./model", "--tokenizer", "byte"])


def test_the_tokenizer_of_a_model_of_the_hub_is_fetched_without_its_weights(folder, monkeypatch):
    hub = Sources()
    hub.repos["acme/tiny"] = {"main": {
        **{path.name: path.read_bytes() for path in folder.iterdir()},
        "config.json": b'{"eos_token_id": 400}', "model.safetensors": b"x" * 99}}
    hub.fault_free = True
    for name, value in hub.env().items():
        monkeypatch.setenv(name, value)
    tokenizer = ModelFiles("acme/tiny").tokenizer()
    assert tokenizer.eot_token == tokenizer.special_tokens["<|im_end|>"]
    hub.close()
    assert ModelFiles("acme/tiny").tokenizer().text == tokenizer.text
    assert not (Path("out/pretrained/acme/tiny") / "model.safetensors").exists()


# ---- prompts


def test_a_prompt_is_encoded_as_the_training_text_was(folder):
    tokenizer = ModelFiles("./model").tokenizer()
    vocabulary = Vocabulary("x", tokenizer.to_meta(), 0, tokenizer.vocab_size, None)
    prompt = "<|im_start|>user\nThe quick<|im_end|>\n<|endoftext|>é"
    assert vocabulary.encode_prompt(prompt) == tokenizer.encode(prompt).tolist()
    assert vocabulary.start == tokenizer.eot_token


def test_a_run_without_the_package_trains_and_says_why_it_prints_no_sample(
        folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine").mkdir()
    write_dataset(tmp_path / "mine", TEXT, ModelFiles("./model").tokenizer())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    train.main([*TINY, f"--dataset={tmp_path / 'mine'}", "--max_iters=1", "--out_dir=x",
                "--max_sample_tokens=5"])
    assert "pip install tokenizers" in capsys.readouterr().out


def test_a_meta_without_its_tokenizer_json_is_one_line(folder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    meta = write_dataset(tmp_path / "mine", TEXT, ModelFiles("./model").tokenizer())
    for value, facts in ((None, ["tokenizer_json"]), ("{}", ["meta.pkl", "tokenizer.json"])):
        (tmp_path / "mine/meta.pkl").write_bytes(pickle.dumps({**meta, "tokenizer_json": value}))
        line = one_line_error(capsys, lambda argv: tokenizer_from_meta(
            open_dataset(tmp_path / "mine").meta), [])
        says(line, *facts)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_autotokenizer(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    write_tokenizer(tmp_path / "model", train_tokenizer(kind),
                    eos="</s>" if kind == "llama" else "<|im_end|>")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ours = ModelFiles(str(tmp_path / "model")).tokenizer()
    assert ours.eot_token == theirs.eos_token_id

    @settings(max_examples=3_400, deadline=None)  # 10,000 over the three kinds
    @given(parts=st.lists(st.one_of(TEXTS, NAMES), max_size=4))
    def check(parts):
        text = "".join(parts)
        assert ours.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"]
    check()
