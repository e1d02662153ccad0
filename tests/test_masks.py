"""Loss masks and the index of documents, as prepare.py writes them (units.py, encode.py,
journal.py, commit.py, combine.py of pipeline/prepare) and check_dataset.py checks them.

Run: python -m pytest tests/test_masks.py      (10,000 documents a tokenizer, kills before each
system call: add -m "long or not long")
A document of parts is checked byte by byte against a slow walk over its tokens.
"""
import functools
import itertools
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from helpers import char_dataset, one_line_error, says
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_dataset import check_whole_or_visibly_not, contents, killed_before_call
from test_inputs import FORMATS, PACKINGS, shard

from data import check_dataset
from pipeline.errors import UserError
from pipeline.prepare import units
from pipeline.prepare.combine import combine
from pipeline.prepare.encode import encode_unit
from pipeline.prepare.inputs import from_file, open_inputs, read_documents
from pipeline.prepare.parts import Marker
from pipeline.prepare.write import _token_lengths, write_dataset
from pipeline.read.documents import file_names
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    PublishedTokenizer,
    TiktokenTokenizer,
    TokenList,
    as_bytes,
    tables,
    tokenizer_meta,
)
from pipeline.tokenizers.trained import PATTERN, train_bpe, train_sentencepiece

SPLITS = ("train", "val")
END, TURN = "<|endoftext|>", "<|im_end|>"


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Nothing here cuts the power, and a disk is slow."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


# ---- the tokenizers


class Tiny(TiktokenTokenizer):
    """A small byte-pair encoding, some of whose tokens are halves of characters."""
    markers = {END: 300, TURN: 301, "<|im_start|>": 302}

    def __init__(self):
        merges = [b"th", b" th", b"the", b" the", b"\xc3\xa9", b"\xf0\x9f", b"er", b"ab"]
        ranks = {bytes([i]): i for i in range(256)} | {m: 256 + i for i, m in enumerate(merges)}
        super().__init__("bpe", tiktoken.Encoding(
            "bpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=self.markers),
            backend="tiktoken", kind="bpe")

    def __reduce__(self):
        return Tiny, ()


class Words:
    """A tokenizer of a user's own: words of letters, and single characters."""

    def __init__(self):
        self.itos = ["the", "other", "then", *map(chr, range(128)), "é", "😀"]

    def encode(self, text):
        ids, at = [], 0
        while at < len(text):
            i, token = next((i, t) for i, t in enumerate(self.itos) if text.startswith(t, at))
            ids.append(i)
            at += len(token)
        return ids

    def decode(self, ids):
        return "".join(self.itos[i] for i in ids)


def published(kind):
    pytest.importorskip("tokenizers")
    from published_models import train_tokenizer
    tokenizer = PublishedTokenizer(train_tokenizer(kind).to_str())
    return tokenizer.with_markers([])  # for documents in which names of special tokens are text


LETTERS = "abthe é😀\n.<|>"
MAKERS = {
    "char": lambda: CharTokenizer.from_text(LETTERS + END + TURN + "the other"),
    "byte": ByteTokenizer, "tiny": Tiny, "own": Words,
    "gpt2": lambda: TiktokenTokenizer("gpt2"),
    "list": lambda: TokenList(["the ", "é😀", "\n.", "th"], byte_fallback=True),
    "bpe": lambda: train_bpe(["the other then é😀 the\n"] * 9, 280),
    "sentencepiece": lambda: train_sentencepiece(["the other then é😀 the\n"] * 50, 285),
    "published": lambda: published("qwen"),
}


@functools.lru_cache
def made(name):
    """(tokenizer, its id -> bytes, the bytes of each token)"""
    try:
        tokenizer = MAKERS[name]()
    except UserError as error:
        pytest.skip(str(error))
    meta = {"eot_token": None, **tokenizer_meta(tokenizer)}
    return tokenizer, {i: as_bytes(t) for i, t in meta["itos"].items()}, _token_lengths(meta)


# ---- documents of parts


TEXTS = st.one_of(
    st.text(alphabet=LETTERS, max_size=9),
    st.sampled_from([END, TURN, "the", " the", "the other", "th", "e", "<|im_"]))
PARTS = st.lists(st.tuples(TEXTS, st.booleans()), max_size=6)
LONG = st.builds(lambda text, n, learned: [(text * n, learned)], TEXTS, st.integers(20, 90),
                 st.booleans())
CHATS = st.lists(st.tuples(st.one_of(TEXTS, st.sampled_from([TURN, "<|im_start|>"]).map(Marker)),
                           st.booleans()), max_size=8)
DOCUMENTS = st.one_of(PARTS, PARTS, TEXTS, st.tuples(PARTS, LONG, PARTS).map(lambda p: sum(p, [])))


def plain(document):
    return document if isinstance(document, str) else "".join(text for text, _ in document)


def encoded(name, documents, unit_size, end=""):
    """(ids, mask, starts, num_spanning) of documents, by units of this size."""
    tokenizer, _, lengths = made(name)
    eot = getattr(tokenizer, "eot_token", None)
    job = tokenizer, len(lengths), np.dtype("<u4"), eot, lengths
    pieces = units.split_text(iter(documents), [], 0.9, document_end=end)
    ids, mask, starts, spanning = [], [], [], 0
    border = getattr(tokenizer, "border", lambda text: 0)
    for unit in units.make_units(pieces, border, unit_size):
        found = encode_unit(*job, unit)["train"]
        starts += [len(ids) + start for start in found.starts]
        ids += found.ids.tolist()
        mask += [1] * len(found.ids) if found.learned is None else found.learned.tolist()
        spanning += found.num_spanning
    return ids, mask, starts, spanning


def check_documents(name, documents, unit_size):
    """Each byte that is learned is in a learned token, and no other, but for tokens that span both,
    which are counted; ids and documents are those of the plain text."""
    tokenizer, table, _ = made(name)
    documents = [document for document in documents if plain(document)]
    eot, end = getattr(tokenizer, "eot_token", None), ""
    if eot is None:
        end = "\n"
    ids, mask, starts, num_spanning = encoded(name, documents, unit_size, end)
    assert len(mask) == len(ids) and len(starts) == len(documents)
    spanning = 0
    for document, begin, stop in zip(documents, starts, [*starts[1:], len(ids)]):
        parts = [(document, True)] if isinstance(document, str) else document
        runs = []  # what the document is made of: (a marker or None, whether each byte is learned)
        for text, learned in parts:
            if isinstance(text, Marker):
                runs.append((text, [learned]))
            elif text and (not runs or runs[-1][0]):
                runs.append((None, [learned] * len(text.encode())))
            elif text:
                runs[-1][1].extend([learned] * len(text.encode()))
        at, last = begin, runs[-1][1][-1]
        if end and not plain(document).endswith(end):
            runs += [] if runs[-1][0] is None else [(None, [])]
            runs[-1][1].append(last)
        for marker, flags in runs:
            if marker:
                assert ids[at] == tokenizer.markers[marker] and mask[at] == flags[0]
                at += 1
            while not marker and flags:
                size = len(table[ids[at]])
                now, flags = flags[:size], flags[size:]
                assert size and mask[at] == any(now)
                spanning += any(now) and not all(now)
                at += 1
        if eot is not None:
            assert ids[at] == eot and mask[at] == last
            at += 1
        assert at == stop
    assert spanning == num_spanning
    # the same ids without a mask, and in one piece
    is_plain = not any(isinstance(text, Marker) for d in documents if not isinstance(d, str)
                       for text, _ in d)
    if is_plain:
        texts = [plain(document) for document in documents]
        assert encoded(name, texts, 1 << 20, end)[0] == ids
        assert encoded(name, texts, unit_size, end)[::2] == (ids, starts)
        assert not set(getattr(tokenizer, "markers", {}).values()) - {eot} & {*ids}


@pytest.mark.parametrize("name", MAKERS)
def test_learned_text_is_covered_by_learned_tokens_and_ids_are_those_without_a_mask(name):
    @given(st.lists(DOCUMENTS, min_size=3, max_size=12), st.integers(1, 60))
    @settings(max_examples=8)
    def check(documents, unit_size):
        check_documents(name, documents, unit_size)
    check()


@pytest.mark.long
@pytest.mark.parametrize("name", MAKERS)
def test_ten_thousand_documents_of_each_tokenizer(name):
    num = 0

    @given(st.lists(DOCUMENTS, min_size=10, max_size=30), st.integers(1, 60))
    @settings(max_examples=900, suppress_health_check=list(HealthCheck))
    def check(documents, unit_size):
        nonlocal num
        num += len(documents)
        check_documents(name, documents, unit_size)
    check()
    assert num >= 10_000


@pytest.mark.parametrize("num_chats", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_marker_is_one_token_and_the_same_characters_in_a_text_are_text(num_chats):
    num = 0

    @given(st.lists(CHATS, min_size=5, max_size=20), st.integers(1, 60))
    @settings(max_examples=num_chats // 5, suppress_health_check=list(HealthCheck))
    def check(documents, unit_size):
        nonlocal num
        num += len(documents)
        check_documents("tiny", documents, unit_size)
    check()
    assert num >= num_chats


def test_tokens_of_a_published_tokenizer_that_changes_blanks_are_found_by_the_package():
    """Llama's begins each text with a blank; and a character in two tokens is learned in both."""
    tokenizer = published("llama")
    text = "The fox \u2581 \U0001f9ff is"
    ids = tokenizer.encode(text)
    spans = [(int(a), int(b)) for a, b in zip(*tokenizer.token_spans(text.encode(), ids))]
    assert spans[0][0] == 0 and spans[-1][1] == len(text.encode())
    covered = [False] * len(text.encode())
    for (a, b), (after, _) in itertools.zip_longest(spans, spans[1:], fillvalue=(1 << 30, 0)):
        covered[a:b] = [True] * (b - a)
        assert a < b and after <= b or after == 1 << 30
    assert all(covered)
    fox = [i for i, (a, b) in enumerate(spans) if a < 7 and b > 4]
    assert "fox" in tokenizer.decode(ids[fox])


# ---- in a folder


def opened(folder):
    return open_dataset(f"{folder}/")


def written(folder, documents, tokenizer=None, **kw):
    folder.mkdir(exist_ok=True)
    write_dataset(folder, documents, tokenizer or Tiny(), **{"num_workers": 1, **kw})
    return opened(folder)


def documents_of(dataset, decode):
    """(text, file name, row) of each document, by the index alone, train before val."""
    names, found = file_names(dataset), []
    for split in SPLITS:
        records, ids = dataset.documents(split), dataset.tokens(split)
        stops = [*records["start"][1:].tolist(), len(ids)]
        for (start, file, row), stop in zip(records.tolist(), stops):
            found.append((decode(ids[start:stop]), names[file], row))
    return found


def some_documents(n=60, learned=lambda i: i % 3 > 0):
    return [[(f"Q: {i} + 1?\nA: ", learned(i)), (f"the {i + 1}", True)] if i % 5 else f"plain {i}"
            for i in range(n)]


def test_a_mask_and_an_index_are_written_beside_the_same_bins(tmp_path, capsys):
    documents = some_documents(200)
    masked = written(tmp_path / "a", documents)
    told = capsys.readouterr().out
    plain_ = written(tmp_path / "b", [plain(document) for document in documents])
    for split in SPLITS:
        assert masked.tokens(split).tobytes() == plain_.tokens(split).tobytes()
        stated = masked.meta["splits"][split]
        assert masked.mask(split).sum() == stated["mask"]["learned"] < masked.num_tokens[split]
        assert stated["docs"]["count"] == stated["documents"] == len(masked.documents(split))
    assert masked.meta["docs"]["ended"] and masked.meta["docs"]["width"] == 16
    learned = sum(int(masked.mask(split).sum()) for split in SPLITS)
    assert f"a: {learned:,} tokens are learned" in told and "stand for unlearned text" in told
    assert not plain_.has_mask and plain_.has_index and "mask" not in plain_.meta["splits"]["train"]
    bins, index = ["meta.pkl", "train.bin", "val.bin"], ["docs.json", "train.docs.bin",
                                                         "val.docs.bin"]
    assert sorted(contents(tmp_path / "b")) == sorted(bins + index)
    assert documents_of(masked, Tiny().decode) == documents_of(plain_, Tiny().decode)
    rows = [row for _, name, row in documents_of(masked, Tiny().decode)]
    assert sorted(rows) == [*range(1, 201)]
    # without parts that are not learned there is no mask
    all_learned = written(tmp_path / "c", some_documents(200, learned=lambda i: True))
    assert not all_learned.has_mask
    assert contents(tmp_path / "b") == contents(tmp_path / "c")
    # one text is no document, and an older index and mask go
    written(tmp_path / "a", "one text " * 50)
    assert sorted(contents(tmp_path / "a")) == bins


def test_a_document_of_parts_is_in_the_split_of_the_same_plain_text(tmp_path):
    chats = [[(Marker(TURN), False), (f"document {i}", True)] for i in range(100)]
    names = [f"{TURN}document {i}" for i in range(100)]
    a, b = (written(tmp_path / name, documents, percentage_train=0.5)
            for name, documents in (("a", chats), ("b", names)))
    for split in SPLITS:
        assert a.documents(split)["row"].tolist() == b.documents(split)["row"].tolist()


def test_both_splits_have_a_mask_and_an_index_if_one_has(tmp_path):
    dataset = written(tmp_path, some_documents(20), val_text="a text of its own")
    assert dataset.mask("val").all() and dataset.documents("val").tolist() == [(0, 0, 1)]
    dataset = written(tmp_path, ["plain"], val_text=some_documents(20))
    assert dataset.mask("train").tolist() == [1] * dataset.num_tokens["train"]


@pytest.mark.parametrize("text, facts", [
    ([("Q", False), ("A", True)], ["document number 1", "('Q', False)", "list of parts"]),
    ([[("Q", False), "A"]], ["a part of document number 1", "'A'", '("4", True)']),
    ([["Q", False]], ["document number 1 is ['Q', False], of the type list", "list of parts"]),
    (iter(["a", [("Q", 2)]]), ["document number 2", "('Q', 2)"]),
    ([[("Q", None)]], ["('Q', None)"]), ([[(b"Q", True)]], ["(b'Q', True)"]),
    ([[(Marker("<|user|>"), True)]], ["'<|user|>'", "lacks", TURN]),
    ([[("a", True), (Marker(END), True)]], [f"'{END}'", "Leave it out"])])
def test_parts_that_cannot_be_are_one_line(tmp_path, text, facts):
    with pytest.raises(UserError) as error:
        written(tmp_path, text, val_text="b")
    says(str(error.value), *facts)
    assert not contents(tmp_path)


def test_a_tokenizer_that_does_not_tell_the_text_of_its_tokens_is_one_line(tmp_path):
    class Lossy(Words):
        def encode(self, text):
            return super().encode(text.replace(" ", ""))
    written(tmp_path, ["no parts", "are fine"], Lossy(), val_text=["b"])
    with pytest.raises(UserError) as error:
        written(tmp_path, [[("a b", False), ("c", True)]], Lossy(), val_text=["b"])
    says(str(error.value), "Lossy", "4 bytes", "5", "mask")


def test_empty_documents_of_parts_are_left_out_and_their_number_counts(tmp_path):
    dataset = written(tmp_path, [[], "a", [("", False)], [("b", False)], ""], val_text=["c"])
    assert documents_of(dataset, Tiny().decode) == [
        (f"a{END}", "a text of prepare.py", 2), (f"b{END}", "a text of prepare.py", 4),
        (f"c{END}", "a text of prepare.py", 1)]
    assert dataset.mask("train").tolist() == [1, 1, 0, 0]


# ---- where a document is from


@pytest.mark.parametrize("suffix, packing", [*itertools.product(FORMATS, [""]), ("jsonl", ".gz"),
                                             ("parquet", ".bz2")])
def test_the_index_gives_back_each_document_its_file_and_its_row(tmp_path, suffix, packing):
    """A literal <|endoftext|> in a text is no border."""
    rows = [{"n": str(i), "text": f"row {i}{'' if i % 3 else END + 'two'}"
             + ("\nlines" if i % 4 == 1 and suffix != "tsv" else "")} for i in range(40)]
    rows[7]["text"] = ""
    paths = []
    for number, some in enumerate((rows[:25], rows[25:])):
        paths.append(tmp_path / f"{number}.{suffix}{packing}")
        paths[-1].write_bytes(PACKINGS[packing](FORMATS[suffix](some)))
    told = {"quoting": "csv"} if suffix == "tsv" else {}
    documents = read_documents(paths, **told)
    dataset = written(tmp_path / "mine", documents, percentage_train=0.6, unit_size=50)
    found = documents_of(dataset, Tiny().decode)
    assert sorted(text for text, _, _ in found) == sorted(row["text"] + END
                                                          for row in rows if row["text"])
    for text, name, row in found:
        assert place_in(Path(name), suffix, packing, row) == text.removesuffix(END)
    assert {name for _, name, _ in found} == set(map(str, paths))
    # filtered or pickled, a document still knows them; edited by prepare.py, it has its number
    assert [t.row for t in pickle.loads(pickle.dumps([t for t in documents if "2" in t]))] == [
        t.row for t in documents if "2" in t]
    edited = written(tmp_path / "edited", [text.upper() for text in documents], val_text=["x"],
                     inputs=[documents])
    assert documents_of(edited, Tiny().decode)[1:3] == [
        (rows[1]["text"].upper() + END, f"0.{suffix}{packing} and 1 more, edited by prepare.py", 2),
        (rows[2]["text"].upper() + END, f"0.{suffix}{packing} and 1 more, edited by prepare.py", 3)]


def place_in(path, suffix, packing, row):
    """The text at a row of a file, found as a person would."""
    import bz2
    import csv
    import gzip
    raw = {"": bytes, ".gz": gzip.decompress, ".bz2": bz2.decompress}[packing](path.read_bytes())
    if suffix == "parquet":
        import io

        from pyarrow import parquet
        return parquet.read_table(io.BytesIO(raw)).to_pylist()[row - 1]["text"]
    lines = raw.decode().split("\n")
    if suffix == "jsonl":
        return json.loads(lines[row - 1])["text"]
    if suffix in ("csv", "tsv"):
        rest = [line + "\n" for line in lines[row - 1 :]]
        return next(csv.reader(rest, delimiter="\t" if suffix == "tsv" else ",",
                               strict=True))[1].replace("\r\n", "\n")
    if suffix == "lines.json":
        return json.loads(lines[row - 1])["text"]
    return json.loads(raw)[row - 1]["text"]


def test_documents_of_a_text_are_numbered_and_a_marker_in_them_is_text(tmp_path):
    (tmp_path / "a.txt").write_text(f"one\n---\ntwo {END} it is\n---\nthree\n")
    (tmp_path / "b.txt").write_text("four\n---\nfive\n")
    mine = tmp_path / "mine"
    documents = open_inputs([tmp_path / "a.txt", tmp_path / "b.txt"], document_separator="---")
    dataset = written(mine, documents, val_text=["six"])
    assert [(text, Path(name).name, row) for text, name, row in documents_of(dataset, Tiny().decode)
            ] == [(f"one{END}", "a.txt", 1), (f"two {END} it is{END}", "a.txt", 2),
                  (f"three{END}", "a.txt", 3), (f"four{END}", "b.txt", 1),
                  (f"five{END}", "b.txt", 2), (f"six{END}", dataset.meta["source"], 1)]


def test_a_file_in_the_folder_is_named_from_there_so_bytes_do_not_depend_on_the_machine(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "downloads").mkdir(parents=True)
        path = tmp_path / name / "downloads" / "x.jsonl"
        path.write_bytes(b'{"text": "a"}\n\n{"text": "b"}\n')
        dataset = written(tmp_path / name, read_documents(path), val_text=["c"])
        assert file_names(dataset)[0] == "downloads/x.jsonl"
        assert dataset.documents("train").tolist() == [(0, 0, 1), (2, 0, 3)]
        path.unlink()
    a, b = (sorted(path.read_bytes() for path in (tmp_path / name).glob("*.*")) for name in "ab")
    assert a == b


@pytest.mark.parametrize("row, width", [(2**32 - 1, 16), (2**32, 24), (2**40, 24)])
def test_a_record_is_wide_where_32_bits_do_not_suffice(tmp_path, capsys, row, width):
    documents = [from_file(f"document {i}", "x.jsonl", row - 9 + i) for i in range(10)]
    dataset = written(tmp_path, documents, val_text=["a"])
    assert dataset.meta["docs"]["width"] == width
    assert (tmp_path / "train.docs.bin").stat().st_size == 10 * width
    assert dataset.documents("train")["row"].tolist() == [*range(row - 9, row + 1)]
    check_dataset.main([str(tmp_path)])


def test_shards_have_an_index_of_their_end_tokens(tmp_path):
    ids = [5, 300, 6, 7, 300, 8, 300], [300, 9, 9, 9, 300]
    for number, some in enumerate(ids):
        shard(tmp_path / f"{number}.bin", some)
    shards = open_inputs(str(tmp_path / "*.bin"))
    dataset = written(tmp_path / "a", shards, val_text=["a document"])
    names = [str(tmp_path / f"{number}.bin") for number in range(2)] + [dataset.meta["source"]]
    assert file_names(dataset) == names
    assert dataset.documents("train").tolist() == [(0, 0, 1), (2, 0, 2), (5, 0, 3), (7, 1, 1),
                                                   (8, 1, 2)]
    # cut in two in the middle of a document, which goes on in val
    dataset = written(tmp_path / "b", shards, percentage_train=0.8, unit_size=3)
    assert dataset.num_tokens["train"] == 9
    assert dataset.documents("train")["start"].tolist() == [0, 2, 5, 7, 8]
    assert dataset.documents("val").tolist() == [(0, 1, 2)]
    assert not written(tmp_path / "c", shards, tokenizer=Wide(), percentage_train=0.8).has_index


class Wide(ByteTokenizer):
    """303 ids and no end token."""
    vocab_size = 303

    def to_meta(self):
        return {"tokenizer": "wide", **tables([f"{i:b}" for i in range(303)])}


# ---- joined


@pytest.mark.parametrize("kinds", [*itertools.product(["mask", "index", "text"], repeat=2)])
def test_combining_joins_masks_and_indexes(tmp_path, monkeypatch, kinds):
    members = []
    for name, kind in zip("ab", kinds):
        given = {"mask": some_documents(20), "index": [f"plain {name} {i}" for i in range(20)],
                 "text": "one text " * 9}[kind]
        members.append(written(tmp_path / name, given, val_text=given[-3:]))
    (tmp_path / "both").mkdir()
    combine(tmp_path / "both", [f"{tmp_path}/a/", f"{tmp_path}/b/"])
    both, eot = opened(tmp_path / "both"), Tiny().eot_token
    assert both.has_mask == ("mask" in kinds) and both.has_index == (kinds != ("text", "text"))
    for split in SPLITS:
        ids, mask, starts = [], [], []
        for member in members:
            if ids and ids[-1] != eot:
                ids, mask = [*ids, eot], [*mask, mask[-1]]
            starts += [len(ids) + start for start in
                       (member.documents(split)["start"].tolist() if member.has_index else [0])]
            ids += member.tokens(split).tolist()
            mask += (member.mask(split).tolist() if member.has_mask
                     else [1] * member.num_tokens[split])
        assert both.tokens(split).tolist() == ids
        assert not both.has_mask or both.mask(split).tolist() == mask
        if both.has_index:
            assert both.documents(split)["start"].tolist() == starts
    if both.has_index:
        expected = []
        for split, member in itertools.product(range(2), members):
            own = (documents_of(member, Tiny().decode) if member.has_index
                   else [(Tiny().decode(member.tokens(s)) + END * (member is members[0]),
                          member.name, 1) for s in SPLITS])
            count = len(member.documents("train")) if member.has_index else 1
            expected += own[count:] if split else own[:count]
        assert documents_of(both, Tiny().decode) == expected
        assert both.meta["docs"]["ended"]


def test_a_member_whose_index_is_missing_is_named(tmp_path):
    for name in "ab":
        written(tmp_path / name, some_documents(20), val_text=some_documents(2))
    (tmp_path / "b/val.docs.bin").unlink()
    (tmp_path / "both").mkdir()
    with pytest.raises(FileNotFoundError, match="b/val.docs.bin not found.*Run: python "):
        combine(tmp_path / "both", [f"{tmp_path}/a/", f"{tmp_path}/b/"])


def test_a_mask_of_other_bytes_is_named_when_it_is_combined(tmp_path):
    for name in "ab":
        written(tmp_path / name, some_documents(20), val_text=["x"])
    edit(tmp_path / "b/train.mask.bin", 7, b"\2")
    (tmp_path / "both").mkdir()
    with pytest.raises(UserError) as error:
        combine(tmp_path / "both", [f"{tmp_path}/a/", f"{tmp_path}/b/"])
    says(str(error.value), "b/train.mask.bin", "position 7 is 2", "prepare.py")


# ---- interrupted


class Stopping(Tiny):
    """Stops at its n-th text."""

    def __init__(self, at=None):
        super().__init__()
        self.calls, self.at = 0, at

    def encode(self, text):
        self.calls += 1
        if self.calls == self.at:
            raise RuntimeError("stopped")
        return super().encode(text)


# the first unlearned token comes in the middle
LATE = [f"plain {i}, the" * (1 + i % 9) for i in range(30)] + some_documents(40)


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.long)])
def test_a_stopped_run_goes_on_and_mask_and_index_are_as_if_it_never_stopped(tmp_path, step):
    whole = tmp_path / "whole"
    written(whole, iter(LATE), unit_size=60)
    stops = 0
    for at in itertools.count(2, step):
        folder, tokenizer = tmp_path / str(at), Stopping(at)
        try:
            written(folder, iter(LATE), tokenizer, unit_size=60)
            break
        except RuntimeError:
            stops += 1
        again = Stopping()
        written(folder, iter(LATE), again, unit_size=60)
        assert contents(folder) == contents(whole)
        assert again.calls <= len(LATE) - at + 20  # what was done is kept
        shutil.rmtree(folder)
    assert stops > 50 // step


@pytest.mark.parametrize("change", ["a row", "a flag", "a marker", "no mask", "a damaged mask",
                                    "a damaged index", "no index"])
def test_what_is_remembered_counts_only_where_parts_and_places_agree(tmp_path, change):
    def documents():
        for i, document in enumerate(LATE):
            if change == "a marker" and i == 36:
                document = [(Marker(TURN), True), *document[1:]]
            elif change == "no mask":
                document = plain(document)
            elif change == "a flag" and i == 45:
                document = [(plain(document), False)]
            shift = change == "a row" and i > 20
            yield from_file(document, "x.jsonl", i + 1 + shift)
    changed, change = change, ""
    with pytest.raises(RuntimeError):
        written(tmp_path / "a", documents(), Stopping(65), unit_size=60)
    change, kept = changed, tmp_path / "a"
    if change == "a damaged mask":
        edit(kept / "train.mask.bin.tmp", 50, b"\0")
    elif change == "a damaged index":
        edit(kept / "train.docs.tmp", 50, b"\7")
    elif change == "no index":
        (kept / "train.docs.tmp").unlink()
    written(kept, documents(), unit_size=60)
    written(tmp_path / "b", documents(), unit_size=60)
    assert contents(kept) == contents(tmp_path / "b")


def edit(path, at, raw):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(raw)


MASKED, INDEXED, TEXT = some_documents(40), [f"other {i}" for i in range(50)], "a text, " * 50
KINDS = {"a mask": MASKED, "an index": INDEXED, "one text": TEXT}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("older, newer, step", [
    ("a mask", "one text", 13), ("one text", "a mask", 13), ("a mask", "an index", 13),
    *(pytest.param(*kinds, 1, marks=pytest.mark.long) for kinds in itertools.product(KINDS,
                                                                                    repeat=2))])
def test_a_kill_before_any_system_call_leaves_the_older_result_or_none(tmp_path, capfd, older,
                                                                       newer, step):
    states, found = {}, []
    for kind in (older, newer):
        written(tmp_path / "whole", KINDS[kind])
        states[kind] = contents(tmp_path / "whole")
    for n in itertools.count(1, step):
        folder = tmp_path / str(n)
        written(folder, KINDS[older])
        if not killed_before_call(n, functools.partial(written, folder, KINDS[newer])):
            break
        found.append(check_whole_or_visibly_not(folder, list(states.values())))
        again = Stopping()
        written(folder, KINDS[newer], again)
        assert contents(folder) == states[newer]
        shutil.rmtree(folder)
    assert contents(folder) == states[newer] and found[0] == states[older]
    assert step > 1 or None in found


# ---- check_dataset.py


def test_check_dataset_prints_learned_tokens_and_documents(tmp_path, capsys):
    dataset = written(tmp_path / "mine", some_documents(100))
    capsys.readouterr()
    check_dataset.main([str(tmp_path / "mine")])
    told = capsys.readouterr().out
    for split in SPLITS:
        learned, count = int(dataset.mask(split).sum()), len(dataset.documents(split))
        assert f"{split}: {learned:,} tokens are learned" in told
        assert f"{split}: {count:,} documents in the index; 1 files" in told
    assert "(checked: sizes, every id, hashes, mask, index)" in told


@pytest.mark.parametrize("file, at, raw, facts", [
    ("train.mask.bin", 3, b"\2", ["position 3 is 2", "0 or 1"]),
    ("val.mask.bin", 0, b"\1" * 99, ["learned tokens", "meta.pkl says"]),
    ("train.docs.bin", 16, bytes(8), ["record 1", "start 0,"]),
    ("train.docs.bin", 0, b"\1", ["first document starts at 1"]),
    ("train.docs.bin", 24, b"\7", ["record 1", "file 7"]),
    ("val.docs.bin", 12, bytes(4), ["record 0", "row 0"]),
    ("val.docs.bin", 12, b"\x99", ["sha256"]),
    ("train.docs.bin", 16, b"\xff" * 8, ["record 1"]),
    ("docs.json", 2, b"x", ["docs.json differs", "sha256"])])
def test_check_dataset_names_what_is_damaged_and_the_command(tmp_path, capsys, file, at, raw,
                                                             facts):
    folder = tmp_path / "mine"
    written(folder, some_documents(100))
    edit(folder / file, at, raw)
    told = one_line_error(capsys, check_dataset.main, [str(folder)])
    says(told, f"{folder}/{file}", f"python {folder}/prepare.py", *facts)


@pytest.mark.parametrize("file", ["train.mask.bin", "val.docs.bin", "docs.json"])
def test_a_missing_or_longer_part_is_one_line(tmp_path, capsys, file):
    folder = tmp_path / "mine"
    written(folder, some_documents(100))
    if file != "docs.json":
        os.truncate(folder / file, 7)
        says(one_line_error(capsys, check_dataset.main, [str(folder)]), file, "7 bytes",
             f"python {folder}/prepare.py")
    (folder / file).unlink()
    says(one_line_error(capsys, check_dataset.main, [str(folder)]), f"{folder}/{file} not found",
         f"python {folder}/prepare.py")


def test_a_folder_of_characters_is_as_before(tmp_path):
    assert sorted(contents(char_dataset(tmp_path / "a"))) == ["meta.pkl", "train.bin", "val.bin"]
