"""data/check_dataset.py finds what is wrong with a folder; folders of other programs, and shards,
train and sample.

Run: python -m pytest tests/test_check_dataset.py
"""
import os
import pickle
import re

import numpy as np
import pytest
from helpers import (
    arange_dataset,
    char_dataset,
    edit_bin,
    mostly_long,
    one_line_error,
    one_thread,  # noqa: F401
    python,
    run,
    says,
)
from test_inputs import shard

import sample
from data import check_dataset
from pipeline.prepare.inputs import Shards
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    TableTokenizer,
    TiktokenTokenizer,
    TokenList,
    tokenizer_from_meta,
)

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 300


@pytest.fixture
def folder(tmp_path):
    return char_dataset(tmp_path / "mine")


@pytest.fixture(scope="module")
def gpt2():
    return TiktokenTokenizer("gpt2", backend="tiktoken")


def found(capsys, folder, *facts, argv=()):
    """The line on what is wrong with a folder, which holds the facts."""
    says(one_line_error(capsys, check_dataset.main, [str(arg) for arg in (folder, *argv)]), *facts)


def report(capsys, *argv):
    capsys.readouterr()
    check_dataset.main([str(arg) for arg in argv])
    return capsys.readouterr().out


def edit_meta(folder, **keys):
    meta = pickle.loads((folder / "meta.pkl").read_bytes()) | keys
    meta = {key: value for key, value in meta.items() if value is not None}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def test_a_good_folder_is_shown_counts_tokens_and_windows_with_their_borders(capsys, folder):
    told = report(capsys, folder)
    says(told.splitlines()[0], "mine: train 12,150 tokens, val 1,350 tokens, vocab_size 29, uint16")
    for facts in ("29 of 29 ids", "  17.8%, o 8.9%, e 6.7%, ", "27 100-999;",
                  " 2 1,000-9,999;",
                  "train at 0: t|h|e| |q|u|i|c|k| |b|r|o|w|n"):
        assert facts in told, told
    assert told.count("val at ") == 3 and "no problem was found" in told.splitlines()[-1]


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_flipped_byte_is_found(capsys, folder, split):
    ids = np.fromfile(folder / f"{split}.bin", "<u2")
    edit_bin(folder / f"{split}.bin", 777, (ids[777] + 1) % 29)
    found(capsys, folder, f"{folder}/{split}.bin", "sha256")


def test_a_truncated_bin_is_found(capsys, folder):
    os.truncate(folder / "val.bin", 1000)
    found(capsys, folder, "val.bin has 500 tokens", "1,350")


def test_a_wrong_width_is_found(capsys, folder):
    edit_meta(folder, dtype="uint32")
    found(capsys, folder, "train.bin has 6,075 tokens", "12,150")
    ids = np.fromfile(folder / "train.bin", "<u2")
    for split in ("train", "val"):  # as a program writes it that says nothing but vocab_size
        ids.astype("<u4").tofile(folder / f"{split}.bin")
    edit_meta(folder, dtype=None, splits=None, max_id=None, source_sha256=None)
    found(capsys, folder, "train.bin", "4 bytes", "uint16", "--dtype uint32")
    assert "no problem was found" in report(capsys, folder, "--dtype", "uint32")
    assert open_dataset(f"{folder}/").tokens("train").tolist() == ids.tolist()


def test_a_text_whose_every_second_character_has_id_0_is_no_wrong_width(capsys, folder):
    write_dataset(folder, "1\n0\n" * 500, CharTokenizer.from_text("01\n"))
    assert "no problem was found" in report(capsys, folder)


def test_an_id_too_large_is_found_with_its_position(capsys, folder):
    edit_bin(folder / "train.bin", 4321, 29)
    found(capsys, folder, "train.bin", "position 4,321 is 29,", "vocab_size 29")


def test_a_max_id_that_does_not_occur_is_found(capsys, folder):
    edit_meta(folder, max_id=27)
    found(capsys, folder, "meta.pkl", "max_id 27", " 28")


@pytest.mark.parametrize("chunk", [check_dataset.CHUNK, 7])  # tokens read at once
def test_a_document_of_val_that_is_in_train_too_is_found(
        capsys, tmp_path, monkeypatch, gpt2, chunk):
    monkeypatch.setattr(check_dataset, "CHUNK", chunk)
    documents = [f"a story, number {i}, of some length" for i in range(50)]
    write_dataset(tmp_path, documents, gpt2, val_text=["another", "and one more"])
    told = report(capsys, tmp_path)
    assert re.search(r"train: 50 documents; .*: 9, 9, 9, 9, 9\n", told), told
    val_text = ["another", documents[7], "and one more"]
    write_dataset(tmp_path, documents, gpt2, val_text=val_text)
    found(capsys, tmp_path, "val.bin", "1 of 3 documents", "number 2")


def stream(folder, text, shift=0):
    """Vowels, consonants, and the rest of a text, as a stream aligned with it; or slipped by
    `shift`."""
    kinds = "".join("v" if c in "aeiou" else "c" if c.isalpha() else c for c in text)
    kinds = kinds[-shift:] + kinds[:-shift] if shift else kinds
    folder.mkdir(exist_ok=True)
    write_dataset(folder, kinds, CharTokenizer.from_text(kinds))
    return folder


def test_streams_that_slipped_are_found_and_aligned_ones_are_not_accused(capsys, folder, tmp_path):
    kinds = stream(tmp_path / "kinds", TEXT)
    assert "hashes, streams" in report(capsys, folder, "--streams", kinds)
    for shift in (1, -1, 2):
        slipped = stream(tmp_path / "slipped", TEXT, shift)
        found(capsys, folder, "slipped/train.bin", f"{shift:+d} tokens", f"{folder}/train.bin",
              argv=["--streams", slipped])
    short = stream(tmp_path / "short", TEXT[:-1])
    found(capsys, folder, "short/train.bin has 12,149 tokens", "12,150", argv=["--streams", short])


def test_a_folder_of_data_is_known_by_its_name_and_a_wrong_one_is_one_line(repo, new_dataset):
    folder = new_dataset("known", TEXT)
    assert python(folder / "prepare.py").returncode == 0
    checked = python(repo / "data" / "check_dataset.py", "known", cwd="/")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("known: train 12,150 tokens")
    checked = python(repo / "data" / "check_dataset.py", "knwon", cwd="/")
    assert checked.returncode == 2 and " known?" in checked.stderr


# ---- what other programs prepared


TOKENS = ["the ", "quick ", "brown ", "fox ", "jumps ", "over ", "lazy ", "dog.", "\n"]


@pytest.fixture(scope="module")
def foreign_folders(gpt2):
    """{name: (meta, ids of TEXT, dtype)} as nanoGPT and ReaLLM-Forge write them, each of its
    methods."""
    chars = sorted(set(TEXT))
    char = {"vocab_size": len(chars), "stoi": {c: i for i, c in enumerate(chars)},
            "itos": dict(enumerate(chars))}
    char_ids = [chars.index(c) for c in TEXT]
    gpt2 = gpt2.encode(TEXT)
    cl100k = TiktokenTokenizer("cl100k_base", backend="tiktoken").encode(TEXT)
    # of val's tokens only, as it is there
    val_itos = {int(i): "x" for i in set(gpt2.tolist()[:20])}
    raw = {bytes([i]): i for i in range(256)}
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581quick", "the",
              "\n", "\u2581", *"abcdefghijklmnopqrstuvwxyz."]
    by_piece = TokenList([p.replace("\u2581", " ") for p in pieces]).encode(TEXT)
    fallback = {**{i: b for b, i in raw.items()}, **{256 + i: t for i, t in enumerate(TOKENS)}}
    by_fallback = TableTokenizer(fallback).encode(TEXT)

    def both(itos, **more):
        return {"vocab_size": len(itos), "stoi": {t: i for i, t in itos.items()}, "itos": itos,
                **more}
    return {
        "nanogpt_char": (char, char_ids, "<u2"),
        "forge_char": ({**char, "chars": chars, "token_counts": {0: 5}}, char_ids, "<u2"),
        "forge_custom": (both(dict(enumerate(TOKENS))), TokenList(TOKENS).encode(TEXT), "<u2"),
        "forge_gpt2": ({"vocab_size": 50256, "tokenizer": "tiktoken", "tiktoken_encoding": "gpt2",
                        "special_tokens": {},
                        "has_additional_tokens": False, "itos": val_itos}, gpt2, "<u2"),
        "forge_added": ({"vocab_size": 50257, "tokenizer": "tiktoken", "tiktoken_encoding": "gpt2",
                         "itos": val_itos,
                         "has_additional_tokens": True, "special_tokens": {"<|fox|>": 50257}},
                        [50257, *gpt2], "<u2"),
        "forge_cl100k": ({"vocab_size": 100256, "tokenizer": "tiktoken",
                          "tiktoken_encoding": "cl100k_base",
                          "special_tokens": {}, "has_additional_tokens": False, "itos": {}}, cl100k,
                         "<u4"),
        "forge_sentencepiece": (both(dict(enumerate(pieces)), tokenizer="sentencepiece"), by_piece,
                                "<u2"),
        "forge_byte_fallback": (both(fallback, tokenizer="custom_char_with_byte_fallback",
                                     custom_chars=TOKENS,
                                     custom_char_count=9), by_fallback, "<u2"),
        "forge_json": (both(fallback, tokenizer="json_byte_fallback", custom_tokens=TOKENS,
                            custom_token_count=9),
                       by_fallback, "<u2"),
    }


@pytest.mark.parametrize("name", mostly_long([
    "nanogpt_char", "forge_char", "forge_gpt2", "forge_sentencepiece", "forge_custom",
    "forge_added", "forge_cl100k", "forge_byte_fallback", "forge_json"], 4))
def test_folders_of_nanogpt_and_of_the_older_forge_train_sample_and_decode_as_they_are(
        tmp_path, capsys, foreign_folders, name):
    meta, ids, dtype = foreign_folders[name]
    folder = tmp_path / name
    folder.mkdir()
    for split in ("train", "val"):
        np.asarray(ids, dtype).tofile(folder / f"{split}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    dataset = open_dataset(f"{folder}/")
    assert dataset.tokens("train").tolist() == list(ids) and dataset.vocab_size > max(ids)
    decoded = tokenizer_from_meta(dataset.meta).decode(dataset.tokens("train"))
    assert decoded == ("<|fox|>" if name == "forge_added" else "") + TEXT
    assert "no problem was found" in report(capsys, folder)
    train_and_sample(folder, tmp_path, capsys)


def train_and_sample(folder, tmp_path, capsys):
    """A tiny model takes two steps on the folder and speaks."""
    small = ["--n_layer=1", "--n_embd=8", "--n_head=1", "--block_size=8", "--batch_size=2",
             "--eval_iters=1"]
    run(f"--dataset={folder}/", f"--out_dir={tmp_path}/out", "--max_iters=2", "--eval_interval=2",
        *small)
    capsys.readouterr()
    sample.main([f"--out_dir={tmp_path}/out", "--start=the quick ", "--max_new_tokens=5",
                 "--device=cpu"])
    assert capsys.readouterr().out.startswith("the quick ")


def test_shards_with_a_header_are_imported_and_train_and_sample(
        tmp_path, capsys, new_dataset, gpt2):
    ids = np.concatenate([[gpt2.eot_token], gpt2.encode(TEXT)])
    parts = {"train_0": ids[:2000], "train_1": ids[2000:3000], "val_0": ids[3000:3200]}
    for name, part in parts.items():
        shard(tmp_path / f"{name}.bin", part)
    folder = new_dataset("shards")
    prepared = python(folder / "prepare.py", "-t", tmp_path / "train_*.bin", "-v",
                      tmp_path / "val_0.bin", "--method=tiktoken")
    assert prepared.returncode == 0, prepared.stderr
    says(prepared.stdout.removesuffix("\n"), "shards: train 3,000 tokens, val 200 tokens",
         "vocab_size 50,257", "train_0.bin")
    dataset = open_dataset(f"{folder}/")
    assert dataset.tokens("train").tolist() == ids[:3000].tolist()
    assert dataset.meta["split_rule"] == "given"
    assert dataset.meta["splits"]["train"]["documents"] == 1
    assert "no problem was found" in report(capsys, folder)
    train_and_sample(folder, tmp_path, capsys)


def test_shards_of_another_vocabulary_are_refused(tmp_path):
    shard(tmp_path / "a.bin", [1, 2, 300])
    with pytest.raises(ValueError, match="id 300.* 256 ids"):
        write_dataset(tmp_path, Shards([tmp_path / "a.bin"]), ByteTokenizer())


def test_the_arange_of_positions_is_all_well(capsys, tmp_path):
    arange_dataset(tmp_path / "range", 1000)
    assert "no problem was found" in report(capsys, tmp_path / "range")


@pytest.mark.parametrize("text, what", [
    ("a\0b" * 100, "NUL"), ("it\x92s fine" * 100, "C1"), ("caf\ufffd" * 100, "replacement"),
    ("cafÃ© â€™" * 100, "UTF-8 read"),
    ("a\x1b[31m" * 100, "control characters"), ("one\ufeff" * 100, "byte order marks")])
@pytest.mark.parametrize("kind", [CharTokenizer.from_text, lambda text: ByteTokenizer()])
def test_signs_of_a_wrong_encoding_are_told_and_all_is_not_called_well(
        tmp_path, capsys, text, what, kind):
    write_dataset(tmp_path, text, kind(text))
    told = report(capsys, tmp_path)
    assert re.search(rf"note: the text of train holds \d+ [^\n]*{re.escape(what)}", told)
    assert "no problem was found" not in told


def test_text_of_any_language_has_no_signs_of_a_wrong_encoding(tmp_path, capsys):
    text = ("naïve “quotes” – Ärger, Ñandú, château; привет 你好 こんにちは 😀\r\n\t"
            "Âge Ã £5\n") * 50
    write_dataset(tmp_path, text, ByteTokenizer())
    assert "no problem was found" in report(capsys, tmp_path).splitlines()[-1]
