"""The dataset folder: written, killed half-way, read back, refused; check_dataset.py --adopt.

Run: python -m pytest tests/test_dataset.py   (the campaign of kill -9: add -m "long or not long")
Token number i of a RangeTokenizer's dataset is i. A kill in the default suite comes before the n-th
system call of a forked child; the campaign kills real runs of prepare.py at random moments.
"""
import contextlib
import copyreg
import functools
import hashlib
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    RangeTokenizer,
    arange_dataset,
    child_env,
    edit_bin,
    mostly_long,
    one_line_error,
    only_line,
    python,
    says,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import check_dataset
from pipeline.errors import UserError
from pipeline.files import lock, read_text
from pipeline.prepare.write import write_dataset
from pipeline.read import folder as folder_module
from pipeline.read.folder import open_dataset
from pipeline.read.meta import load_plain
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    TiktokenTokenizer,
    tables,
    tokenizer_from_meta,
)

SPLITS = ("train", "val")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine"
    path.mkdir()
    return path


def opened(folder):
    return open_dataset(f"{folder}/")


def ids_in(folder, dtype="<u2"):
    """(train, val): the ids of the bins, read as another program reads them."""
    return tuple(np.fromfile(folder / f"{split}.bin", dtype=dtype) for split in SPLITS)


def contents(folder):
    """{file name: bytes} of a folder, less the lock; a link counts as the path it holds."""
    return {p.name: os.readlink(p) if p.is_symlink() else p.read_bytes() for p in folder.iterdir()
            if not p.name.endswith(".lock")}


def write_chars(folder, text, **kw):
    return write_dataset(folder, text, CharTokenizer.from_text(text), **kw)


def refused(folder, text, tokenizer, *facts, **kw):
    """A write_dataset that is refused in one line, which is returned; the folder is unchanged."""
    before = contents(folder)
    with pytest.raises(UserError) as error:
        write_dataset(folder, text, tokenizer, **kw)
    assert contents(folder) == before
    says(str(error.value), *facts)
    return str(error.value)


def foreign(folder, meta, train, val=(0, 1), dtype="<u2"):
    """A folder as another program writes it: ids, and a meta.pkl (None: none) of the given dict."""
    for split, ids in zip(SPLITS, (train, val)):
        np.asarray(ids, dtype=dtype).tofile(folder / f"{split}.bin")
    if meta is not None:
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


# ---- what is written


def test_a_string_is_cut_by_characters_into_flat_little_endian_ids(folder, capsys):
    text = "abcdefghij" * 100 + "é"
    meta = write_chars(folder, text, percentage_train=0.75)
    train, val = ids_in(folder)
    decode = tokenizer_from_meta(meta).decode
    assert (decode(train), decode(val)) == (text[:750], text[750:])
    says(capsys.readouterr().out.removesuffix("\n"), "mine: train 750 tokens, val 251 tokens",
         "vocab_size 11", "prepare.py", "1.00 bytes per token")
    assert sorted(contents(folder)) == ["meta.pkl", "train.bin", "val.bin"]


def test_meta_says_all_that_a_reader_needs_and_is_pickle_4_of_plain_values(folder):
    text = "abcdéabcdé"
    meta = write_chars(folder, text, percentage_train=0.8, source="a.txt")
    raw = (folder / "meta.pkl").read_bytes()
    assert raw[:2] == b"\x80\x04" and load_plain(raw, "meta.pkl") == pickle.loads(raw) == meta

    def split(name, part):
        return {"tokens": len(part), "bytes": len(part.encode()), "documents": 1,
                "sha256": hashlib.sha256((folder / f"{name}.bin").read_bytes()).hexdigest()}
    assert meta.pop("table_sha256")
    assert meta == {
        "vocab_size": 5, "tokenizer": "char", "stoi": {"a": 0, "b": 1, "c": 2, "d": 3, "é": 4},
        "itos": {0: "a", 1: "b", 2: "c", 3: "d", 4: "é"}, "dtype": "uint16", "max_id": 4,
        "eot_token": None,
        "splits": {"train": split("train", text[:8]), "val": split("val", text[8:])},
        "split_rule": "characters",
        "percentage_train": 0.8, "source": "a.txt",
        "source_sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_a_second_run_gives_the_same_bytes_and_does_not_append(folder):
    write_chars(folder, "abc" * 100)
    before = contents(folder)
    write_chars(folder, "abc" * 100)
    assert contents(folder) == before


@pytest.mark.parametrize("vocab_size, dtype",
                         [(65_535, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_ids_are_uint16_up_to_65536_of_them_and_uint32_beyond(folder, vocab_size, dtype):
    write_dataset(folder, "0:100", RangeTokenizer(vocab_size),
                  val_text=f"{vocab_size - 100}:{vocab_size}")
    train, val = ids_in(folder, "<u2" if dtype == "uint16" else "<u4")
    assert train.tolist() == list(range(100))
    assert val.tolist() == list(range(vocab_size - 100, vocab_size))
    dataset = opened(folder)
    assert dataset.dtype.name == dataset.meta["dtype"] == dtype
    assert dataset.meta["max_id"] == dataset.tokens("val")[-1] == vocab_size - 1


def test_a_validation_text_of_its_own_leaves_all_of_the_text_to_train(folder):
    meta = write_dataset(folder, "aab", ByteTokenizer(), val_text="ba")
    assert [bytes(ids.astype(np.uint8)) for ids in ids_in(folder)] == [b"aab", b"ba"]
    assert (meta["split_rule"], meta["percentage_train"]) == ("given", None)


@pytest.mark.parametrize("text", ["a\r\nb\rc\n", "nul \x00 nul", "astral \U0001f600",
                                  "\ufeffinside\ufeff", "é" * 30])
def test_the_ids_spell_the_text_to_the_character(folder, text):
    for tokenizer in (CharTokenizer.from_text(text), ByteTokenizer()):
        meta = write_dataset(folder, text * 3, tokenizer, val_text=text)
        assert tokenizer_from_meta(meta).decode(opened(folder).tokens("train")) == text * 3


# ---- what is refused while writing


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_outside_0_to_1_is_refused(folder, fraction):
    refused(folder, "abc" * 10, ByteTokenizer(), "percentage_train", fraction, "above 0", "below 1",
            percentage_train=fraction)


@pytest.mark.parametrize("text, val_text, facts", [
    ("", None, ["empty", "prepare.py"]),
    ([], None, ["empty", "prepare.py"]),
    ("a", None, ["train split", "percentage_train 0.9"]),
    (["a", "a"], None, ["val split", "--split_seed", "-v"]),
    ("abc", "", ["val split"]),
    ("", "abc", ["train split"]),
    (["abc"], [""], ["val split"])])
@pytest.mark.parametrize("prepared_before", [False, True])
def test_an_empty_split_is_refused_and_nothing_is_written_over(
        folder, text, val_text, facts, prepared_before):
    if prepared_before:
        write_chars(folder, "abc" * 10)
    refused(folder, text, ByteTokenizer(), folder, *facts, val_text=val_text)


@pytest.mark.parametrize("ids, facts", [
    ([0, 3], ["id 3", "vocabulary of 3 ids"]), ([-1, 0], ["id -1", "vocabulary of 3 ids"]),
    ([0.0, 1.0], ["(2,)", "float64"]), ([[0, 1]], ["(1, 2)", "int64"]), (["a"], ["(1,)", "<U1"])])
def test_ids_of_a_tokenizer_of_ones_own_are_checked(folder, ids, facts):
    refused(folder, "abc", custom(encode=lambda text: ids), "encode()", *facts)


def test_ids_of_an_encode_utf8_of_ones_own_are_checked_before_they_are_made_narrow(folder):
    class Own(ByteTokenizer):
        def encode_utf8(self, raw):
            return np.full(len(raw), 65_536 + 7, np.uint32)  # 7, as uint16
    refused(folder, "abc", Own(), "encode()", "65543", "256 ids")


def custom(encode, decode=lambda ids: "", itos=("a", "b", "c")):
    class Own:
        pass
    own = Own()
    own.encode, own.decode, own.itos = encode, decode, list(itos)
    return own


def test_a_meta_that_could_not_be_read_again_is_never_written(folder):
    class Own(ByteTokenizer):
        def to_meta(self):
            return {**super().to_meta(), "scale": np.float64(0.5)}
    write_chars(folder, "abc" * 10)
    refused(folder, "abc" * 10, Own(), "meta.pkl", "refers to numpy")


def test_a_tokenizer_that_loses_characters_is_noted_at_the_first_one(folder, capsys):
    lossy = custom(encode=lambda text: ["abc".index(c) for c in text],
                   decode=lambda ids: "".join("ab?"[i] for i in ids))
    for text in ("abcabc" * 10, ["abcabc" * 10, "abc"]):
        write_dataset(folder, text, lossy, val_text="abc", document_end="")
        note, _ = capsys.readouterr().out.splitlines()
        says(note, "note: ", "character 2", "'cabcabcabc'", "'?ab?ab?ab?'")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_of_the_reader_half_way_leaves_the_older_result(folder, error):
    write_chars(folder, "abc" * 10)
    before = contents(folder)

    def documents():
        yield "abc"
        raise error("the database went away")
    with pytest.raises(error, match="the database went away"):
        write_dataset(folder, documents(), ByteTokenizer())
    assert contents(folder) == before


# ---- documents


@pytest.fixture(scope="module")
def gpt2():
    return TiktokenTokenizer("gpt2")


class ClosedBytes(ByteTokenizer):
    """Bytes, and an id 256 that ends a document."""
    vocab_size, eot_token = 257, 256

    def to_meta(self):
        return {"tokenizer": "closed", **tables({**ByteTokenizer().to_meta()["itos"],
                                                 256: "<|endoftext|>"})}


def documents_in(ids, eot_token):
    """The ids of each document, in order; the last one must be closed by eot_token."""
    assert len(ids) == 0 or ids[-1] == eot_token
    ends = np.flatnonzero(ids == eot_token)
    return [part[:-1].tolist() for part in np.split(ids, ends + 1)[:-1]]


@given(st.lists(st.text(max_size=5), min_size=1, max_size=30))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_document_is_closed_by_eot_and_copies_stay_on_one_side(tmp_path, monkeypatch,
                                                                    documents):
    monkeypatch.setattr("os.fsync", lambda fd: None)  # sixty folders need no disk
    documents += [str(i) for i in range(40)]  # so that neither side is empty
    tokenizer = ClosedBytes()
    meta = write_dataset(tmp_path, iter(documents), tokenizer, percentage_train=0.5)
    sides = [documents_in(ids, tokenizer.eot_token) for ids in ids_in(tmp_path)]
    encoded = [tokenizer.encode(d).tolist() for d in documents if d]  # an empty one is left out
    assert sorted(sides[0] + sides[1]) == sorted(encoded)
    assert not {tuple(d) for d in sides[0]} & {tuple(d) for d in sides[1]}
    for side in sides:  # and in the order they came in
        assert side == [d for d in encoded if d in side]
    assert [meta["splits"][s]["documents"] for s in SPLITS] == [len(side) for side in sides]
    assert sum(meta["splits"][s]["bytes"] for s in SPLITS) == sum(len(d.encode())
                                                                  for d in documents)
    assert (meta["split_rule"], meta["eot_token"]) == ("documents by hash", 256)


def test_a_documents_side_depends_on_nothing_but_its_content(tmp_path):
    documents = [f"document {i};" for i in range(200)]
    sides = []
    for name, some in [("all", documents), ("reversed", documents[::-1]), ("half", documents[::2])]:
        (tmp_path / name).mkdir()
        write_dataset(tmp_path / name, some, ByteTokenizer())
        sides.append({d: side for side, ids in enumerate(ids_in(tmp_path / name))
                      for d in bytes(ids.astype(np.uint8)).decode().splitlines()})
    assert set(sides[0]) == set(documents) and sides[1] == sides[0]
    assert sides[2] == {d: sides[0][d] for d in sides[2]}
    assert 5 <= sum(sides[0].values()) <= 40  # a tenth of 200, give or take


def test_documents_of_a_tokenizer_without_eot_end_with_a_newline_or_what_is_asked_for(folder, gpt2):
    documents, val = ["ab", "", "cd\n", "e"], ["ef", "gh"]
    for end, told in ((None, [b"ab\ncd\ne\n", b"ef\ngh\n"]), ("", [b"abcd\ne", b"efgh"]),
                      (";", [b"ab;cd\n;e;", b"ef;gh;"])):
        meta = write_dataset(folder, documents, ByteTokenizer(), val_text=val, document_end=end)
        assert [bytes(ids.astype(np.uint8)) for ids in ids_in(folder)] == told
        assert [meta["splits"][split]["documents"] for split in SPLITS] == [3, 2]
        assert [meta["splits"][split]["bytes"] for split in SPLITS] == [len(part) for part in told]
    write_dataset(folder, documents, gpt2, val_text=val, end_of_text=False)
    assert [gpt2.decode(ids) for ids in ids_in(folder)] == ["ab\ncd\ne\n", "ef\ngh\n"]
    write_dataset(folder, documents, gpt2, val_text=val, document_end="\n")
    assert gpt2.decode(ids_in(folder)[0]) == "ab\n<|endoftext|>cd\n<|endoftext|>e\n<|endoftext|>"


def test_how_documents_end_changes_no_documents_side(tmp_path, gpt2):
    documents, vals = [f"document {i}" for i in range(200)], []
    for number, (tokenizer, kw) in enumerate([(ByteTokenizer(), {}),
                                              (ByteTokenizer(), {"document_end": "."}),
                                              (gpt2, {})]):
        (folder := tmp_path / str(number)).mkdir()
        write_dataset(folder, documents, tokenizer, **kw)
        val = tokenizer.decode(ids_in(folder)[1])
        vals.append(re.findall(r"document \d+", val))
    assert vals[0] == vals[1] == vals[2] and 5 <= len(vals[0]) <= 40


def test_an_end_that_the_tokenizer_cannot_encode_is_one_line(folder):
    only_abc = custom(encode=lambda text: ["abc".index(c) for c in text])
    refused(folder, ["ab", "c"], only_abc, "'\\n'", "--document_end", val_text=["a"])


@pytest.mark.parametrize("text", [["a", None], ["a", 5], [b"a", "b"], ["a", ["b"]], iter(["a", 5])])
def test_a_document_that_is_no_string_is_one_line(folder, text):
    refused(folder, text, ByteTokenizer(), "document number", "string", val_text="b")


@pytest.mark.parametrize("text", [b"ab", 5, None, {"a": "b"}, {"a", "b"}, str, Path("a.txt")])
def test_a_text_that_is_no_text_is_one_line(folder, text):
    refused(folder, text, ByteTokenizer(), type(text).__name__, "list of strings", val_text="b")


def test_val_that_is_far_from_the_fraction_that_was_asked_for_is_noted(folder, capsys):
    write_dataset(folder, [f"{i}" for i in range(2000)], ByteTokenizer())
    assert "note:" not in capsys.readouterr().out
    write_dataset(folder, ["a" * 5000, "b", "c" * 4000, "d" * 3000, *"efghijklmno"],
                  ByteTokenizer())
    val = len(ids_in(folder)[1]) / sum(map(len, ids_in(folder)))
    assert not 0.05 < val < 0.15
    note = capsys.readouterr().out.splitlines()[-1]
    says(note, "note: ", f"{val:.1%}", "10.0%")


def test_documents_with_validation_documents_of_their_own_keep_their_sides(folder, gpt2):
    write_dataset(folder, ["one", "two"], gpt2, val_text=["three"])
    texts = [[gpt2.decode(d) for d in documents_in(ids, gpt2.eot_token)] for ids in ids_in(folder)]
    assert texts == [["one", "two"], ["three"]]


def test_a_string_is_no_document_and_gets_no_eot(folder, gpt2):
    write_dataset(folder, "one two three", gpt2, val_text="four")
    assert all(gpt2.eot_token not in ids for ids in ids_in(folder))


# ---- text in


@pytest.mark.parametrize("raw, text", [
    (b"", ""), (b"x", "x"), (b"\xef\xbb\xbfmarked", "marked"), (b"a\r\nb\rc\n", "a\r\nb\rc\n"),
    ("\ufeffmarked é".encode("utf-16-be"), "marked é"),
    ("\ufeff\U0001f600".encode("utf-32-le"), "\U0001f600"),
    ("\U0001f600é".encode(), "\U0001f600é"),
    (b"\xef\xbb\xbf\xef\xbb\xbfx", "\ufeffx"), (b"a\xef\xbb\xbf", "a\ufeff")])
def test_text_is_read_to_the_character_less_one_byte_order_mark(tmp_path, raw, text):
    (tmp_path / "a.txt").write_bytes(raw)
    assert read_text(tmp_path / "a.txt") == text


@pytest.mark.parametrize("raw, byte, offset", [
    (b"a" * 41_207 + b"\xe9t\xe9", "e9", "41,207"), (b"\xff", "ff", "0"),
    (b"\xef\xbb\xbfab\x80", "80", "5"), (b"cut \xf0\x9f\x98", "f0", "4"),
    (b"surrogate \xed\xa0\x80", "ed", "10"), (b"overlong \xc0\xaf", "c0", "9")])
def test_a_byte_that_is_no_utf_8_is_named_with_file_and_offset(tmp_path, raw, byte, offset):
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    with pytest.raises(UserError) as error:
        read_text(path)
    says(str(error.value), f"{path}: ", f"0x{byte}", f"offset {offset} ", "UTF-8")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "cp1252"])
def test_another_encoding_is_named_with_the_command_that_converts_it(tmp_path, encoding):
    path, text = tmp_path / "a.txt", "a naïve “quote”, hello\n"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError) as error:
        read_text(path)
    command = str(error.value)[str(error.value).index("iconv -f "):]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert read_text(tmp_path / "utf8.txt") == text == read_text(path, encoding=encoding)


def test_a_text_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_text(tmp_path / "a.txt", instead="run this")
    says(str(error.value), f"{tmp_path}/a.txt not found", "run this")


# ---- killed


OLD, NEW = "the older text, " * 200, "a newer and longer text! " * 300
# of module os: before each of these a child is killed once
CALLS = ("open", "fsync", "replace", "unlink", "rename")


def killed_before_call(n, write):
    """Fork a child that runs write() and is killed by signal 9 before its n-th call of CALLS. Was
    it?"""
    child = os.fork()
    if child == 0:
        calls = 0

        def counting(real):
            def call(*args, **kw):
                nonlocal calls
                if (calls := calls + 1) == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kw)
            return call
        with contextlib.suppress(BaseException):
            for name in CALLS:
                setattr(os, name, counting(getattr(os, name)))
            write()
            os._exit(0)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed of itself"
    return os.WIFSIGNALED(status)


def check_whole_or_visibly_not(folder, whole_states):
    """After a kill: one of whole_states ({file: bytes}), its hashes right; or an error that says to
    prepare again."""
    try:
        dataset = opened(folder)
    except FileNotFoundError as error:
        commands = f"python {folder}/prepare.py", f"bash {folder}/get_dataset.sh"
        assert str(error).startswith(f"{folder} is ") and str(error).endswith(commands)
        assert "\n" not in str(error)
        return None
    names = ["meta.pkl", *(f"{part}.bin" for part in dataset.files)]
    names += ["docs.json"] * dataset.has_index
    files = {name: (folder / name).read_bytes() for name in names}
    for split in SPLITS:
        stated = dataset.meta["splits"][split]
        for part in ("", ".mask", ".docs"):
            if f"{split}{part}" in dataset.files:
                digest = hashlib.sha256(files[f"{split}{part}.bin"]).hexdigest()
                assert digest == (stated[part[1:]] if part else stated)["sha256"]
        assert dataset.tokens(split).tobytes() == files[f"{split}.bin"]
    assert files in whole_states
    return files


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("older", mostly_long([OLD, ""]),
                         ids=["over_an_older_result", "first_time"])
def test_a_kill_before_any_system_call_leaves_the_older_result_or_none(tmp_path, capfd, older):
    states = {}
    for text in (OLD, NEW):
        (tmp_path / "whole").mkdir(exist_ok=True)
        write_chars(tmp_path / "whole", text)
        states[text] = contents(tmp_path / "whole")
    found = []
    for n in range(1, 100):
        folder = tmp_path / str(n)
        folder.mkdir()
        if older:
            write_chars(folder, older)
        if not killed_before_call(n, functools.partial(write_chars, folder, NEW)):
            break
        found.append(check_whole_or_visibly_not(folder, [states[t] for t in (older, NEW) if t]))
        write_chars(folder, NEW)  # the lock is free, and leftovers of the killed run don't matter
        assert contents(folder) == states[NEW]
    assert n >= 9 and contents(folder) == states[NEW]
    # it died in the swap, too
    assert found[0] == (states[OLD] if older else None) and (not older or None in found)


@pytest.mark.long
@pytest.mark.parametrize("older", [False, True], ids=["first_time", "over_an_older_result"])
def test_kill_9_at_random_moments_of_prepare_leaves_a_whole_result_or_none(new_dataset, tmp_path,
                                                                           older):
    folder, states, took = new_dataset(f"kills-{older}".lower()), [], []
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for seed, path in enumerate(texts):
        path.write_text("".join(random.Random(seed).choices("abcdefghij \n", k=3_000_000 + seed)))
        t0 = time.perf_counter()
        assert python(folder / "prepare.py", "-t", path).returncode == 0
        took.append(time.perf_counter() - t0)
        states.append(contents(folder))
    draw, outcomes, late = random.Random(1), [], 1.0
    for i in range(40):
        if not older:
            for name in contents(folder):
                if name not in ("prepare.py", "get_dataset.sh", "README.md"):
                    (folder / name).unlink()
        child = subprocess.Popen([sys.executable, folder / "prepare.py", "-t", texts[i % 2]],
                                 env=child_env(),
                                 stdout=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.3, 1.05) * late * max(took))
        is_done = child.poll() is not None
        child.kill()
        child.wait()
        late *= 0.95 if is_done else 1.05  # the machine may be slower now than when it was timed
        whole = [{k: s[k] for k in ("train.bin", "val.bin", "meta.pkl")} for s in states]
        found = check_whole_or_visibly_not(folder, whole)
        outcomes.append("none" if found is None else "ab"[whole.index(found)])
    assert len(set(outcomes)) >= 2, outcomes  # else every kill came too early or too late
    again = python(folder / "prepare.py", "-t", texts[0])
    assert again.returncode == 0 and contents(folder) == states[0]


@pytest.mark.long
def test_kill_9_at_random_moments_of_the_swap_leaves_a_whole_result_or_none(tmp_path):
    """A child that writes one text, then the other, over and over: most kills fall between its
    renames."""
    folder = tmp_path / "mine"
    folder.mkdir()
    states = []
    for text in (OLD, NEW):
        write_chars(folder, text)
        states.append(contents(folder))
    code = ("import sys\nfrom pipeline.prepare.write import write_dataset\nfrom "
            "pipeline.tokenizers import CharTokenizer\n"
            "while True:\n    for text in sys.argv[2:]:\n"
            "        write_dataset(sys.argv[1], text, CharTokenizer.from_text(text))\n")
    draw, outcomes = random.Random(2), []
    for _ in range(60):
        child = subprocess.Popen([sys.executable, "-c", code, folder, OLD, NEW],
                                 stdout=subprocess.PIPE,
                                 env=child_env(), cwd=Path(__file__).parents[1])
        child.stdout.readline()  # it has written once
        time.sleep(draw.uniform(0, 0.05))
        child.kill()
        child.communicate()
        found = check_whole_or_visibly_not(folder, states)
        outcomes.append("none" if found is None else str(states.index(found)))
    assert len(set(outcomes)) >= 2, outcomes  # else every kill came at the same place
    write_chars(folder, NEW)
    assert contents(folder) == states[1]


# ---- a full disk


FULL = Path("/dev/full")  # a device on which every write meets a full disk


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("file", ["train.bin.tmp", "val.bin.tmp"])
@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("older", ["", OLD], ids=["first_time", "over_an_older_result"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(folder, capsys, file, size, older):
    if older:
        write_chars(folder, older)
    before = contents(folder)
    (folder / file).symlink_to(FULL)
    told = one_line_error(capsys, lambda text: write_chars(folder, text, percentage_train=0.5),
                          "ab" * size)
    says(told, "No space left", "disk is full", "same command again")
    assert contents(folder) == before  # and no temporary file is left to fill the disk further


@pytest.mark.long
def test_prepare_on_a_small_full_disk_leaves_the_older_result(new_dataset, tmp_path):
    folder, disk = new_dataset("full"), tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this test mounts a small disk, which takes Linux and root")
    try:
        for name in contents(folder):
            (disk / name).write_bytes((folder / name).read_bytes())
        shutil.rmtree(folder)
        folder.symlink_to(disk)
        (tmp_path / "small.txt").write_text("abc" * 30_000)
        (tmp_path / "large.txt").write_text("abc" * 300_000)
        assert python(folder / "prepare.py", "-t", tmp_path / "small.txt").returncode == 0
        before = contents(disk)
        run = python(folder / "prepare.py", "-t", tmp_path / "large.txt")
        assert run.returncode == 2 and "disk is full" in only_line(run.stderr)
        assert contents(disk) == before and opened(folder).num_tokens["train"] == 81_000
        folder.unlink()
        folder.mkdir()  # for the fixture to remove
    finally:
        subprocess.run(["umount", disk], check=True)


# ---- two at once


def test_a_second_preparation_of_a_folder_is_refused_and_the_first_one_ends_well(new_dataset):
    folder = new_dataset("busy", "from the second " * 50)
    second = []

    def documents():
        yield from ("one", "two")
        second.append(python(folder / "prepare.py"))
        yield from map(str, range(50))
    write_dataset(folder, documents(), ByteTokenizer())
    assert second[0].returncode == 2 and second[0].stdout == ""
    says(only_line(second[0].stderr), "another prepare.py", folder)
    splits = opened(folder).meta["splits"]
    assert splits["train"]["documents"] + splits["val"]["documents"] == 52
    assert python(folder / "prepare.py").returncode == 0  # the lock is free again


def test_the_lock_of_one_folder_does_not_touch_another_and_ends_with_an_error(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(RuntimeError), lock(tmp_path / "a", "prepare.py"):
        with lock(tmp_path / "b", "prepare.py"):
            pass
        raise RuntimeError
    with lock(tmp_path / "a", "prepare.py"):
        with pytest.raises(UserError) as error, lock(tmp_path / "a", "prepare.py"):
            pass
    says(str(error.value), "another prepare.py", f"{tmp_path}/a")


def test_an_open_dataset_keeps_its_tokens_while_the_folder_is_prepared_anew(folder):
    arange_dataset(folder, 1000)
    dataset = opened(folder)
    arange_dataset(folder, 50)
    assert dataset.tokens("train").tolist() == list(range(1000))
    assert opened(folder).num_tokens["train"] == 50


def test_a_preparation_between_the_reading_of_meta_and_of_the_bins_is_noticed(folder, monkeypatch):
    arange_dataset(folder, 1000)
    real, prepared_anew = folder_module.open_regular, []

    def open_and_prepare(path):
        if path.name == "train.bin" and not prepared_anew:
            prepared_anew.append(arange_dataset(folder, 50))
        return real(path)
    monkeypatch.setattr(folder_module, "open_regular", open_and_prepare)
    dataset = opened(folder)
    assert prepared_anew
    assert dataset.num_tokens["train"] == dataset.meta["splits"]["train"]["tokens"] == 50


# ---- opening: what is not there, not prepared, not whole


def not_opened(capsys, folder, *facts):
    """The one line on stderr, which holds the facts; the folder holds what it held before."""
    before = contents(folder) if folder.is_dir() else None
    line = one_line_error(capsys, open_dataset, f"{folder}/")
    assert before is None or contents(folder) == before
    says(line, *facts)
    return line.removeprefix("error: ")


@pytest.mark.parametrize("name, hint", [
    ("shakespear_chr", " shakespeare_char?"), ("qqqq", "bash data/create_new_dataset.sh qqqq ")])
def test_a_dataset_that_is_not_there_is_told_its_neighbour_or_how_to_make_it(
        capsys, monkeypatch, name, hint):
    monkeypatch.chdir(Path(__file__).parents[1])
    says(one_line_error(capsys, open_dataset, name), f"data/{name} not found", hint,
         "python data/list_datasets.py")


def test_a_folder_that_is_not_prepared_names_its_command(capsys, folder):
    not_opened(capsys, folder, f"{folder} is not prepared", f"python {folder}/prepare.py")
    (folder / "get_dataset.sh").write_text("")
    not_opened(capsys, folder, f"{folder} is not prepared", f"bash {folder}/get_dataset.sh")


def test_a_folder_in_the_middle_of_a_swap_is_half_written(capsys, folder):
    arange_dataset(folder, 100)
    (folder / "meta.pkl").rename(folder / "meta.pkl.new")
    not_opened(capsys, folder, f"{folder} is half-written", f"python {folder}/prepare.py")


@pytest.mark.parametrize("split", SPLITS)
def test_a_missing_bin_is_named(capsys, folder, split):
    arange_dataset(folder, 100)
    (folder / f"{split}.bin").unlink()
    not_opened(capsys, folder, f"{folder}/{split}.bin not found", f"python {folder}/prepare.py")


@pytest.mark.parametrize("split", SPLITS)
def test_an_odd_sized_bin_is_refused_with_its_size(capsys, folder, split):
    arange_dataset(folder, 1000, num_val=1000)
    os.truncate(folder / f"{split}.bin", 1999)
    not_opened(capsys, folder, f"{folder}/{split}.bin has 1,999 bytes", "2 (uint16)",
               f"python {folder}/prepare.py")


@pytest.mark.parametrize("size", [1998, 2002, 0])
def test_a_bin_of_another_length_is_refused_with_both_counts(capsys, folder, size):
    arange_dataset(folder, 1000)
    os.truncate(folder / "train.bin", size)
    not_opened(capsys, folder, f"{folder}/train.bin has {size // 2:,} tokens", "meta.pkl", " 1,000",
               f"python {folder}/prepare.py")


def test_opening_does_not_read_the_tokens(folder):
    arange_dataset(folder, 1000)
    edit_bin(folder / "train.bin", 500, 60_000)  # found when its batch is read
    assert opened(folder).tokens("train")[500] == 60_000


# ---- opening what others prepared


def test_nanogpts_character_folder_opens_as_it_is(folder):
    meta = {"vocab_size": 3, "itos": {0: "a", 1: "b", 2: "c"}, "stoi": {"a": 0, "b": 1, "c": 2}}
    dataset = opened(foreign(folder, meta, [0, 1, 2, 2]))
    assert (dataset.vocab_size, dataset.dtype.name) == (3, "uint16")
    assert dataset.num_tokens == {"train": 4, "val": 2}
    # meta.pkl states no hashes, so they are taken; earlier checkpoints counted the tokens
    assert dataset.fingerprint() == {
        split: hashlib.sha256(dataset.path(split).read_bytes()).hexdigest() for split in SPLITS}
    assert dataset.has_fingerprint({"train": "4 tokens", "val": "2 tokens"})
    assert not dataset.has_fingerprint({"train": "5 tokens", "val": "2 tokens"})
    assert tokenizer_from_meta(dataset.meta).decode(dataset.tokens("train")) == "abcc"


@pytest.mark.parametrize("vocab_size, dtype", [(65_535, "<u2"), (65_537, "<u4")])
def test_without_dtype_the_width_follows_from_vocab_size(folder, vocab_size, dtype):
    ids = [0, vocab_size - 1]
    dataset = opened(foreign(folder, {"vocab_size": vocab_size}, ids, dtype=dtype))
    assert dataset.dtype == np.dtype(dtype) and dataset.tokens("train").tolist() == ids


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_at_65536_ids_the_width_must_be_stated_and_the_named_command_states_it(
        capsys, folder, dtype):
    foreign(folder, {"vocab_size": 65_536}, [0, 65_535], dtype=dtype)
    command = f"python data/check_dataset.py {folder} --dtype uint16 (or uint32)"
    not_opened(capsys, folder, f"{folder}/meta.pkl", "65,536", command)
    check_dataset.main([str(folder), "--dtype", dtype])
    dataset = opened(folder)
    assert dataset.dtype.name == dtype and dataset.tokens("train").tolist() == [0, 65_535]


def test_a_dtype_that_is_none_is_refused(capsys, folder):
    foreign(folder, {"vocab_size": 3, "dtype": "int8"}, [0, 1])
    not_opened(capsys, folder, f"{folder}/meta.pkl", "dtype", "'int8'", "uint16", "uint32")


@pytest.mark.parametrize("split, position", [("train", 0), ("train", 41_207), ("val", 3)])
def test_an_id_beyond_a_foreign_vocabulary_is_named_with_file_and_position(
        capsys, folder, split, position):
    foreign(folder, {"vocab_size": 100}, np.arange(50_000) % 100, np.arange(10))
    edit_bin(folder / f"{split}.bin", position, 100)
    if split == "train":
        edit_bin(folder / "train.bin", 49_999, 4321)
    largest = "4,321" if split == "train" else "100"
    not_opened(capsys, folder, f"{folder}/{split}.bin", f"position {position:,} is 100,",
               "vocab_size 100", f": {largest})")


def test_a_max_id_beyond_the_vocabulary_is_refused(capsys, folder):
    foreign(folder, {"vocab_size": 100, "max_id": 100}, [0, 1])
    not_opened(capsys, folder, f"{folder}/meta.pkl", "max_id 100", "vocab_size 100")


def test_a_tiktoken_meta_that_counts_the_ranks_is_raised_to_the_largest_id_plus_one(folder):
    meta = {"vocab_size": 50256, "tokenizer": "tiktoken", "tiktoken_encoding": "gpt2"}
    dataset = opened(foreign(folder, meta, [0, 50256]))
    assert dataset.vocab_size == 50257 and dataset.tokens("train").tolist() == [0, 50256]


# ---- check_dataset.py --adopt: bins that have no meta.pkl


@pytest.mark.parametrize("where", ["the repo", "elsewhere"])
def test_bins_without_meta_name_one_command_and_that_command_works(repo, tmp_path, where):
    folder = repo / "data" / "bpe"
    folder.mkdir(exist_ok=True)
    (folder / "meta.pkl").unlink(missing_ok=True)
    foreign(folder, None, np.arange(50_257), np.arange(100))
    cwd = repo if where == "the repo" else tmp_path
    code = (f"import sys; sys.path.insert(0, {str(repo)!r}); from pipeline.read.folder import "
            f"open_dataset; open_dataset('bpe')")
    told = python("-c", code, cwd=cwd).stderr.splitlines()[-1]
    command = told.split("run: ")[1]
    assert command.startswith("python ") and "data/check_dataset.py " in command
    run = python(*shlex.split(command)[1:], cwd=cwd)
    assert run.returncode == 0, run.stderr
    says(run.stdout.splitlines()[0], "bpe: train 50,257 tokens, val 100 tokens", "50,257, uint16",
         "gpt2", "meta.pkl")
    dataset = opened(folder)
    assert (dataset.vocab_size, dataset.meta["max_id"]) == (50257, 50256)
    sha256 = hashlib.sha256((folder / "val.bin").read_bytes()).hexdigest()
    assert dataset.meta["splits"]["val"]["sha256"] == sha256
    assert tokenizer_from_meta(dataset.meta).decode([15496, 995]) == "Hello world"


def not_described(capsys, folder, *facts):
    """A refused --adopt: one line that holds the facts; the folder holds what it held before."""
    before = contents(folder) if folder.is_dir() else None
    says(one_line_error(capsys, check_dataset.main, [str(folder), "--adopt=gpt2"]), *facts)
    assert before is None or contents(folder) == before


def test_adopt_keeps_a_meta_that_is_there(capsys, folder):
    arange_dataset(folder, 10)
    not_described(capsys, folder, f"{folder}/meta.pkl", "--dtype")


def test_adopt_refuses_bins_that_cannot_be_what_it_would_write(capsys, folder, tmp_path):
    not_described(capsys, tmp_path / "no", f"{tmp_path}/no not found")
    not_described(capsys, folder, f"{folder}/train.bin not found")
    foreign(folder, None, np.arange(60_000), np.arange(10))
    not_described(capsys, folder, f"{folder}/train.bin", "position 50,257 is 50,257,",
                  "vocab_size 50,257", ": 59,999)")
    for size in (9, 0):
        os.truncate(folder / "train.bin", size)
        not_described(capsys, folder, f"{folder}/train.bin has {size} bytes", "uint16", "of 2 ")
    (folder / "meta.pkl.new").touch()
    not_described(capsys, folder, f"{folder} is half-written", f"python {folder}/prepare.py")


# ---- a hostile or damaged meta.pkl


class Runs:
    """Pickled, it runs a function of its choice where it is read."""

    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


def hostile_pickles(evidence):
    """{what it tries: its bytes}; each that is run by a careless reader makes the file
    `evidence`."""
    touch, command = f"open({str(evidence)!r}, 'w').close()", f"touch {evidence}"
    short = [b"\x8c" + bytes([len(s)]) + s for s in (b"builtins", b"eval",
                                                     b"os\nerror: all is well", b"os")]
    text = b"X" + len(touch.encode()).to_bytes(4, "little") + touch.encode()
    good = pickle.dumps({"vocab_size": 3}, protocol=4)
    return {
        **{f"os.system in protocol {p}": pickle.dumps({"vocab_size": 3,
                                                       "x": Runs(os.system, command)}, protocol=p)
           for p in range(6)},
        "eval": pickle.dumps(Runs(eval, touch)),
        "eval by STACK_GLOBAL": b"\x80\x04" + short[0] + short[1] + b"\x93" + text + b"\x85R.",
        "STACK_GLOBAL of two lines": b"\x80\x04" + short[2] + short[3] + b"\x93.",
        "INST": b"(S'%s'\nios\nsystem\n." % command.encode(),
        "OBJ": b"(cos\nsystem\nS'%s'\no." % command.encode(),
        "NEWOBJ": b"\x80\x02cbuiltins\nbytearray\n)\x81.",
        "a subclass of dict": pickle.dumps(OrderedDict(vocab_size=3)),
        "EXT1": b"\x80\x02\x82\xf0" + text + b"\x85R.",
        "EXT2, not registered": b"\x80\x02\x83\xf1\x00.",
        "EXT4, not registered": b"\x80\x02\x84\xf1\x00\x00\x00.",
        "PERSID": b"Psome id\n.",
        "BINPERSID": b"Nq\x00Q.",
        "out of band": b"\x80\x05\x97.",
        "BUILD": b"}(X\x01\x00\x00\x00xK\x01u}b.",
        "an attribute of a global": b"\x80\x04\x8c\x02os\x8c\x0bpath.exists\x93.",
        "numpy": pickle.dumps({"vocab_size": np.int64(3)}),
        "a list": pickle.dumps([1, 2]), "None": pickle.dumps(None),
        "no vocab_size": pickle.dumps({"stoi": {}}),
        "vocab_size True": pickle.dumps({"vocab_size": True}),
        "vocab_size 0": pickle.dumps({"vocab_size": 0}),
        "vocab_size '3'": pickle.dumps({"vocab_size": "3"}),
        "nothing": b"", "zeros": bytes(100), "a web page": b"<html>404 Not Found</html>",
        "a text": b"hello\n" * 9,
        "a size of 2**62": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little"),
        "protocol 200": b"\x80\xc8.",
        "cut short": good[:-1], "not utf-8": b"\x8c\x02\xff\xfe.", "a pop of nothing": b"0.",
    }


@pytest.fixture
def registered_extension():
    """Extension 0xf0 is builtins.eval, as a program that unpickles could have it registered."""
    copyreg.add_extension("builtins", "eval", 0xf0)
    yield
    copyreg.remove_extension("builtins", "eval", 0xf0)


@pytest.mark.usefixtures("registered_extension")
@pytest.mark.parametrize("attempt", hostile_pickles("evidence"))
def test_a_hostile_or_damaged_meta_is_one_line_and_runs_nothing(capsys, folder, tmp_path, attempt):
    arange_dataset(folder, 100)
    (folder / "meta.pkl").write_bytes(hostile_pickles(tmp_path / "evidence")[attempt])
    told = not_opened(capsys, folder, f"{folder}/meta.pkl ")
    assert not (tmp_path / "evidence").exists()
    if "os.system" in attempt:
        says(told, f"refers to {os.system.__module__}.system;", "nothing of it was run")
    elif "eval" in attempt:
        name = "extension 240" if attempt == "eval" else "builtins.eval"
        says(told, f"refers to {name};", "nothing of it was run")
    elif attempt in ("INST", "OBJ", "NEWOBJ", "EXT1", "numpy", "an attribute of a global",
                     "a subclass of dict"):
        says(told, "refers to ")
    else:
        assert "Prepare the dataset again" in told or "refers to " in told


def test_the_hostile_metas_of_this_file_do_run_where_they_are_read_carelessly(tmp_path):
    for attempt in ("os.system in protocol 4", "eval by STACK_GLOBAL", "INST", "OBJ"):
        pickle.loads(hostile_pickles(tmp_path / "evidence")[attempt])
        (tmp_path / "evidence").unlink()


@pytest.mark.parametrize("how", ["--dtype", "prepare"])
def test_the_command_lines_refuse_a_hostile_meta_too(new_dataset, tmp_path, how):
    folder = new_dataset("hostile", "abc" * 100)
    arange_dataset(folder, 100)
    (folder / "meta.pkl").write_bytes(hostile_pickles(tmp_path / "evidence")[
        "os.system in protocol 4"])
    if how == "prepare":  # it has no need to read the old one
        assert python(folder / "prepare.py").returncode == 0
        assert opened(folder).num_tokens["train"] == 270
    else:
        run = python(folder.parent / "check_dataset.py", folder, "--dtype=uint16")
        assert run.returncode == 2 and run.stdout == ""
        assert only_line(run.stderr).startswith(
            f"error: {folder}/meta.pkl is not a plain meta.pkl: it refers to ")
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize("wrong", [
    {"splits": 5}, {"splits": {}}, {"splits": {"train": 1, "val": 2}},
    {"splits": {"train": {"tokens": "90"}}}, {"max_id": "7"}, {"max_id": None},
    {"dtype": ["uint16"]}, {"dtype": None}, {"vocab_size": 2**70}],
    ids=lambda wrong: json.dumps(wrong)[1:-1])
def test_plain_values_of_the_wrong_shape_are_one_line_as_well(capsys, folder, wrong):
    arange_dataset(folder, 100)
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta | wrong))
    not_opened(capsys, folder, f"{folder}/meta.pkl", next(iter(wrong)))


@contextlib.contextmanager
def limited_memory(extra=1 << 31):
    """A damaged pickle may ask for any amount of memory: give it 2 GB."""
    try:
        import resource
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check_refused_or_plain(raw):
    """load_plain gives a dict with a vocab_size, or an error of one line."""
    try:
        with limited_memory():
            meta = load_plain(raw, "meta.pkl")
    except UserError as error:
        assert str(error).startswith("meta.pkl ") and "\n" not in str(error)
    else:
        assert isinstance(meta, dict) and meta["vocab_size"] >= 1


def sample_meta():
    meta = {"tokenizer": "char", "dtype": "uint16", "splits": {"train": {"tokens": 9}},
            "share": 0.9, "none": None}
    return meta | CharTokenizer.from_text("abc").to_meta()


def test_a_meta_cut_short_anywhere_is_an_error():
    raw = pickle.dumps(sample_meta(), protocol=4)
    for end in range(len(raw)):
        with pytest.raises(UserError, match="^meta.pkl (cannot be read|holds no vocab_size)"):
            load_plain(raw[:end], "meta.pkl")


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_are_one_line(raw):
    check_refused_or_plain(raw)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
       st.integers(0, 5))
@settings(max_examples=500)
def test_a_meta_with_some_bytes_changed_is_one_line_or_plain(changes, protocol):
    raw = bytearray(pickle.dumps(sample_meta(), protocol=protocol))
    for at, byte in changes:
        raw[at % len(raw)] = byte
    check_refused_or_plain(bytes(raw))


def test_a_hostile_meta_of_a_few_bytes_cannot_fill_the_memory():
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="LONG_BINPUT at byte 1"):
            load_plain(b"Nr" + (2**26).to_bytes(4, "little") + b".", "meta.pkl")  # LONG_BINPUT
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
