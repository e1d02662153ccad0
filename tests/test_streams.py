"""Streams made of a text (data/streams.py): their symbols, causal, whole alphabets, as long as the text, golden bytes.

Run: python -m pytest tests/test_streams.py
"""
import hashlib
import re
import shutil
import string
import subprocess

import pytest
from helpers import ROOT, TEXT, char_dataset, child_env, only_line
from hypothesis import given
from hypothesis import strategies as st

from data.dataset import open_dataset, write_dataset
from data.errors import UserError
from data.streams import POSITIONS, STREAMS, write_stream
from data.tokenizer import ByteTokenizer

MAPS = {name: make for name, (make, _) in STREAMS.items()}
any_text = st.text(st.sampled_from("aEyZ9 .'-\n\t\r\u00e9\u6f22\u2003"), max_size=200)


def slow(name, text):
    """A stream one character at a time, as its definition says."""
    out, count = "", 0
    for c in text:
        if name == "cvp":
            out += ("1" if c in string.punctuation else "2" if c in "aeiouAEIOU" else
                    "3" if c in string.ascii_letters else "_")
            continue
        restart = c.isspace() if name == "in_word_position" else c == "\n"
        count = 0 if restart else count + 1
        out += ("\n" if c == "\n" and name == "since_newline" else "_" if c.isspace() else
                POSITIONS[(count - 1) % 64])
    return out


@pytest.mark.parametrize("name", STREAMS)
@given(text=any_text)
def test_a_stream_is_its_definition_and_as_long_as_the_text(name, text):
    assert MAPS[name](text) == slow(name, text)


@pytest.mark.parametrize("name", STREAMS)
@given(text=any_text, cut=st.integers(0, 200))
def test_a_stream_is_causal(name, text, cut):
    assert MAPS[name](text[:cut]) == MAPS[name](text)[:cut]


def test_positions_begin_again_after_64():
    assert MAPS["since_newline"]("a" * 65 + "\nb") == POSITIONS + "1\n1"


@pytest.mark.parametrize("name, size", [("cvp", 4), ("in_word_position", 65), ("since_newline", 66)])
def test_a_folder_has_the_whole_alphabet_equal_lengths_and_what_it_was_made_of(tmp_path, name, size):
    text = open_dataset(f"{char_dataset(tmp_path / 'fox')}/")
    (tmp_path / "s").mkdir()
    meta = write_stream(tmp_path / "s", name, f"{text.folder}/")
    stream = open_dataset(f"{tmp_path}/s/")
    assert stream.vocab_size == size and stream.num_tokens == text.num_tokens
    assert meta["stream"] == {"map": name, "text": "fox", "text_sha256": text.fingerprint()}


def test_a_text_that_is_not_prepared_is_got_first_and_its_error_is_the_only_one(repo, tmp_path):
    shutil.copytree(repo, tmp_path / "repo")
    text, stream = (tmp_path / "repo/data" / name for name in ("shakespeare_char", "shakespeare_char_cvp"))

    def run():
        return subprocess.run(["bash", stream / "get_dataset.sh"], env=child_env(), capture_output=True, text=True)
    (text / "input.txt").write_bytes(b"caf\xe9")
    failed = run()
    assert failed.returncode == 2 and "is not UTF-8" in only_line(failed.stderr) and not (stream / "meta.pkl").exists()
    (text / "input.txt").write_text(TEXT)
    assert run().returncode == 0
    assert open_dataset(f"{stream}/").num_tokens == open_dataset(f"{text}/").num_tokens


def test_a_stream_of_other_tokens_than_characters_is_refused(tmp_path):
    (tmp_path / "bytes").mkdir()
    write_dataset(tmp_path / "bytes", "some text " * 20, ByteTokenizer())
    with pytest.raises(UserError, match=re.escape("bytes has byte tokens; streams are made of characters")):
        write_stream(tmp_path, "cvp", f"{tmp_path}/bytes/")


def test_cvp_of_tiny_shakespeare_has_the_known_bytes(tmp_path):
    try:
        source = open_dataset("shakespeare_char").meta.get("source", "")
    except (UserError, FileNotFoundError):
        source = ""
    if not source.startswith("TinyShakespeare"):
        pytest.skip("data/shakespeare_char is not prepared from the original text")
    write_stream(tmp_path, "cvp", f"{ROOT}/data/shakespeare_char/")
    assert hashlib.sha256((tmp_path / "train.bin").read_bytes()).hexdigest() == (
        "bd435cdfaad517a5c57ca19c081e36acae5c65618237849a7a8540bac4ee7388")
    assert hashlib.sha256((tmp_path / "val.bin").read_bytes()).hexdigest() == (
        "54df4337828965c93e11312b2db52ee4aba44d5d12a989cc692b14ed200d01db")
