"""Streams made of a text: causal symbols, whole alphabets, as long as the text, golden bytes.

Run: python -m pytest tests/test_streams.py
"""
import functools
import hashlib
import os
import shutil
import string
import subprocess

import numpy as np
import pytest
import torch
from helpers import ROOT, TEXT, char_dataset, child_env, only_line
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.prepare.streams import write_stream
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import Dataset, open_dataset
from pipeline.read.streams import POSITIONS, STREAMS, StreamMap
from pipeline.tokenizers import ByteTokenizer, CharTokenizer

any_text = st.text(st.sampled_from("aEyZ9 .'-\n\t\r\u00e9\u6f22\u2003"), max_size=200)


def stream_of(name, text):
    """The stream's symbols, by all of the text at once."""
    chars = sorted({*text, "a"})
    stream = StreamMap(name, chars)
    return "".join(stream.alphabet[i] for i in stream([chars.index(c) for c in text])[0])


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
    assert stream_of(name, text) == slow(name, text)


@pytest.mark.parametrize("name", STREAMS)
@given(text=st.text("aEyZ9 .'-\n\t\r\u00e9\u6f22\u2003", min_size=70, max_size=200),
       cut=st.integers(0, 70))
def test_a_character_at_a_time_gives_what_all_at_once_gives(name, text, cut):
    """As sampling does: two beginnings of one length at once, then both a character at a step."""
    chars = CharTokenizer.from_text(text)
    stream, ids = StreamMap(name, chars.chars), chars.encode(text)
    texts = np.stack([ids, ids[::-1]])
    begun = [stream(row[:cut]) for row in texts]
    made = [np.stack([symbols for symbols, _ in begun])]
    positions = np.array([position for _, position in begun])
    for at in range(cut, len(text)):
        symbols, positions = stream.step(texts[:, at], positions)
        made.append(symbols[:, None])
    made = np.concatenate(made, axis=1)
    made = ["".join(stream.alphabet[i] for i in row) for row in made]
    assert made == [slow(name, text), slow(name, text[::-1])]


def test_the_steps_work_on_tensors():
    stream = StreamMap("since_newline", "ab \n")
    text = torch.tensor([[0, 1, 2, 0, 3, 1], [3, 3, 2, 2, 1, 0]])
    expected = np.stack([stream(row.numpy())[0] for row in text])
    stream.table, stream.keeps = torch.from_numpy(stream.table), torch.from_numpy(stream.keeps)
    positions, made = torch.zeros(2, dtype=torch.long), []
    for column in text.T:
        symbols, positions = stream.step(column, positions)
        made.append(symbols)
    assert torch.stack(made, dim=1).tolist() == expected.tolist()


def test_an_unknown_map_is_one_line():
    with pytest.raises(UserError, match="rhyme.* cvp, in_word_position, since_newline"):
        StreamMap("rhyme", "ab")


def test_positions_begin_again_after_64():
    assert stream_of("since_newline", "a" * 65 + "\nb") == POSITIONS + "1\n1"


@pytest.mark.parametrize("name, size",
                         [("cvp", 4), ("in_word_position", 65), ("since_newline", 66)])
def test_a_folder_has_the_whole_alphabet_equal_lengths_and_what_it_was_made_of(
        tmp_path, name, size):
    text = open_dataset(f"{char_dataset(tmp_path / 'fox')}/")
    (tmp_path / "s").mkdir()
    meta = write_stream(tmp_path / "s", name, f"{text.folder}/")
    stream = open_dataset(f"{tmp_path}/s/")
    assert stream.vocab_size == size and stream.num_tokens == text.num_tokens
    assert meta["stream"] == {"map": name, "text": "fox", "text_sha256": text.fingerprint()}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_goes_on_from_block_to_block_and_from_train_to_val(tmp_path, monkeypatch, name):
    text = "".join(f"{'long' * (i % 40)} words {i}\n" for i in range(300))
    monkeypatch.setattr(Dataset, "chunks", functools.partialmethod(Dataset.chunks, size=1000))
    folders = [tmp_path / "whole", tmp_path / "documents"]
    char_dataset(folders[0], text)
    folders[1].mkdir()
    write_dataset(folders[1], [text[:6000], text[6000:12_000]], CharTokenizer.from_text(text),
                  val_text=[text[12_001:]],
                  document_end="")
    expected = [(None, None), (slow(name, text[:12_000]), slow(name, text[12_001:]))]
    for folder, (train, val) in zip(folders, expected):
        (folder / "s").mkdir()
        write_stream(folder / "s", name, f"{folder}/")
        stream, of = (open_dataset(f"{path}/") for path in (folder / "s", folder))
        made = ["".join(stream.meta["itos"][i] for i in stream.tokens(split).tolist())
                for split in ("train", "val")]
        assert "".join(made) == slow(name, text) if train is None else made == [train, val]
        assert stream.num_tokens == of.num_tokens
        counts, of_text = stream.meta["splits"], of.meta["splits"]
        assert [counts[split]["bytes"] for split in counts] == [len(part.encode()) for part in made]
        for split in counts:
            assert counts[split]["documents"] == of_text[split]["documents"]


@pytest.mark.long
def test_a_text_that_is_not_prepared_is_got_first_and_its_error_is_the_only_one(repo, tmp_path):
    shutil.copytree(repo, tmp_path / "repo")
    text, stream = (tmp_path / "repo/data" / name
                    for name in ("shakespeare_char", "shakespeare_char_cvp"))

    def run():
        return subprocess.run(["bash", stream / "get_dataset.sh"], env=child_env(),
                              capture_output=True, text=True)
    (text / "input.txt").write_bytes(b"caf\xe9")
    failed = run()
    assert failed.returncode == 2 and not (stream / "meta.pkl").exists()
    assert "shakespeare_char/input.txt" in only_line(failed.stderr)
    (text / "input.txt").write_text(TEXT)
    assert run().returncode == 0
    assert open_dataset(f"{stream}/").num_tokens == open_dataset(f"{text}/").num_tokens


def test_a_stream_of_other_tokens_than_characters_is_refused(tmp_path):
    (tmp_path / "bytes").mkdir()
    write_dataset(tmp_path / "bytes", "some text " * 20, ByteTokenizer())
    with pytest.raises(UserError, match="bytes has byte tokens.*--method char"):
        write_stream(tmp_path, "cvp", f"{tmp_path}/bytes/")


# ---- create_new_dataset.sh --streams_of


@pytest.fixture
def own(repo):
    """(run of create_new_dataset.sh, data/): what is made in data/ is removed after the test."""
    data = repo / "data"
    before = set(data.iterdir())
    yield lambda *argv: subprocess.run(["bash", data / "create_new_dataset.sh", *argv],
                                       env=child_env(), cwd=repo,
                                       capture_output=True, text=True), data
    for path in set(data.iterdir()) - before:
        shutil.rmtree(path)


@pytest.mark.long
def test_one_command_makes_the_streams_of_any_text_and_says_how_to_train_on_them(own):
    create, data = own
    char_dataset(data / "my_text")
    run = create("shakespeare_char2", "--streams_of", "my_text")
    assert run.returncode == 0 and run.stderr == "", run.stderr
    names = [f"shakespeare_char2_{name}" for name in STREAMS]
    assert run.stdout.endswith("python train.py --training_mode=multicontext "
                               "--multicontext_datasets my_text "
                               f"{' '.join(names)}\n")
    for name, stream in zip(names, STREAMS):
        folder = data / name
        meta = open_dataset(f"{folder}/").meta
        assert meta["stream"]["map"] == stream and meta["stream"]["text"] == "my_text"
        made = [(folder / f"{split}.bin").read_bytes() for split in ("train", "val")]
        assert (folder / "README.md").read_text().startswith(f"# {name}\n")
        assert not any("shakespeare_char" in line.replace(name, "") for path in folder.iterdir()
                       if path.suffix in (".py", ".sh", ".md")
                       for line in path.read_text().splitlines())
    (folder / "meta.pkl").unlink()  # the last of them once more, by its own script
    subprocess.run(["bash", folder / "get_dataset.sh"], check=True, env=child_env(),
                   stdout=subprocess.DEVNULL)
    assert [(folder / f"{split}.bin").read_bytes() for split in ("train", "val")] == made
    char_dataset(data / "my_text", TEXT[::-1])  # the text has changed: the same command again
    again = create("shakespeare_char2", "--streams_of", "my_text")
    assert again.returncode == 0 and len(again.stdout.splitlines()) == 5
    of = open_dataset(f"{data}/my_text/").fingerprint()
    assert all(open_dataset(f"{data}/{name}/").meta["stream"]["text_sha256"] == of
               for name in names)
    assert not list(data.glob(".new.*"))


@pytest.mark.parametrize("argv, told", [
    (["s", "--streams_of", "coded"], "coded has byte tokens"),
    (["s", "--streams_of", "no_such"], "bash data/create_new_dataset.sh no_such"),
    (["s", "--streams_of", "a/b"], "'a/b' cannot be a name"),
    (["/tmp/s", "--streams_of", "coded"], "/tmp/s is a path"),
    (["s", "--streams_of"], "--streams_of needs"),
    (["s", "--streams_of", ""], "--streams_of needs"),
    (["s", "--part_of_speech"], "--part_of_speech needs --streams_of"),
    (["mnist", "--streams_of", "taken"], "mnist_cvp exists already"),
    (["--streams_of", "coded"], "bash data/create_new_dataset.sh NAME")])
def test_streams_that_cannot_be_made_are_one_line_and_leave_nothing(own, argv, told):
    create, data = own
    (data / "coded").mkdir()
    write_dataset(data / "coded", TEXT, ByteTokenizer())
    (data / "mnist_cvp").mkdir()
    before = sorted(os.listdir(data))
    run = create(*argv)
    assert run.returncode == 2 and run.stdout == "" and told in only_line(run.stderr)
    assert sorted(os.listdir(data)) == before


def test_folders_that_somebody_edited_are_not_written_over(own):
    create, data = own
    char_dataset(data / "my_text")
    assert create("s", "--streams_of", "my_text").returncode == 0
    (data / "s_in_word_position/prepare.py").write_text("# mine\n")
    run = create("s", "--streams_of", "my_text")
    assert run.returncode == 2 and "s_in_word_position exists already" in only_line(run.stderr)
    assert (data / "s_in_word_position/prepare.py").read_text() == "# mine\n"


# ---- the known bytes


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
