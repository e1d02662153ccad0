"""Files -> text and documents (pipeline/prepare/inputs.py): every format, compressed or not, bad
rows, damaged files, standard input.

Run: python -m pytest tests/test_inputs.py    Some tests are skipped without pyarrow or zstandard.
"""
import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys

import numpy as np
import pytest
from helpers import only_line, python, says
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.prepare import compression, rows, separators
from pipeline.prepare.inputs import Shards, TextFile, open_inputs, read_documents
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import read_meta
from pipeline.tokenizers import ByteTokenizer, make_tokenizer

ROWS = [{"text": text, "n": i} for i, text in enumerate(
    ["plain", "", "two\nlines\r\nand a \"quote\", a comma", "tab\there", "naïve 日本 😀 \u2028\x85",
     "x" * 300_000, "the end"])]
TEXTS = [row["text"] for row in ROWS]


def as_jsonl(rows):
    return "\n\n".join(json.dumps(row, ensure_ascii=i % 2 == 0) for i,
                       row in enumerate(rows)).encode()


def as_csv(rows, delimiter=","):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_parquet(rows):
    pyarrow = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the package pyarrow is not installed")
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


FORMATS = {
    "jsonl": as_jsonl, "json": lambda rows: json.dumps(rows, indent=2).encode(),
    "one_line.json": lambda rows: json.dumps(rows).encode(),
    "lines.json": lambda rows: b"\n".join(json.dumps(row).encode() for row in rows), "csv": as_csv,
    "tsv": lambda rows: as_csv(rows, "\t"), "parquet": as_parquet}


def zstd(raw):
    zstandard = pytest.importorskip("zstandard", reason="the package zstandard is not installed")
    # two frames
    return zstandard.compress(raw[: len(raw) // 2]) + zstandard.compress(raw[len(raw) // 2 :])


PACKINGS = {"": lambda raw: raw, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress,
            ".zst": zstd}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_packed_or_not_gives_its_rows_in_order_again_and_again(tmp_path, monkeypatch,
                                                                           suffix, packing):
    path = tmp_path / f"rows.{suffix}{packing}"
    path.write_bytes(PACKINGS[packing](FORMATS[suffix](ROWS)))
    told = {"quoting": "csv"} if suffix == "tsv" else {}
    for block in (7919, 1 << 20):
        monkeypatch.setattr(compression, "CHUNK", block)
        documents = read_documents(path, **told)
        assert list(documents) == TEXTS == list(documents)
        assert documents.position == documents.size == path.stat().st_size
    assert list(read_documents(path, text_template="{n}: {text}", **told))[3] == "3: tab\there"
    late = read_documents(path,
                          text_template=lambda row: row["text"] if int(row["n"]) > 4 else None,
                          **told)
    assert list(late) == TEXTS[5:]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_text_is_one_text_and_several_are_documents(tmp_path, monkeypatch, packing):
    monkeypatch.setattr(compression, "CHUNK", 100)
    for name in ("b", "a"):
        raw = f"\ufeff{name} é😀\r\n".encode() * 50
        (tmp_path / f"{name}.txt{packing}").write_bytes(PACKINGS[packing](raw))
    text = open_inputs(tmp_path / f"a.txt{packing}")
    assert isinstance(text, TextFile) and text.name == f"a.txt{packing}"
    # only the byte order mark at the start of the file goes
    assert "".join(text) == ("\ufeffa é😀\r\n" * 50)[1:] == "".join(text)
    assert text.length() == 50 * 7 - 1
    both = open_inputs(str(tmp_path / f"*.txt{packing}"))
    assert [document[0] for document in both] == ["a", "b"]
    assert both.name == f"a.txt{packing} and 1 more"


def test_frames_of_zst_that_hold_nothing_are_no_end_of_the_text(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="the package zstandard is not installed")
    skipped, parts = b"\x50\x2a\x4d\x18\x04\0\0\0pzst", [b"\xef\xbb\xbf[", b'"a", "\xc3',
                                                         b'\xa9\xf0\x9f', b'\x98\x80"]']
    # as pzstd writes it; an empty frame
    for name, before in (("a", skipped), ("b", b"\x28\xb5\x2f\xfd\x20\0\x01\0\0")):
        for suffix in ("txt", "json"):
            (tmp_path / f"{name}.{suffix}.zst").write_bytes(b"".join(before
                                                                     + zstandard.compress(part)
                                                                     for part in parts))
        text = TextFile(tmp_path / f"{name}.txt.zst")
        assert "".join(text) == '["a", "é😀"]' and text.characters() == set('["a, é😀]')
        assert text.length() == 11
        assert list(read_documents(tmp_path / f"{name}.json.zst")) == ["a", "é😀"]


TEXT = st.text(st.characters(exclude_categories=["Cs"],
                             exclude_characters=[chr(c) for c in [*range(9), *range(14, 32)]]))


@given(TEXT, st.integers(1, 9), st.booleans())
def test_the_characters_and_the_length_of_a_text_are_found_however_blocks_fall(tmp_path_factory,
                                                                               text, block, marked):
    path = tmp_path_factory.getbasetemp() / "characters.txt"
    path.write_bytes(b"\xef\xbb\xbf" * marked + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "CHUNK", block + 3)
        source = TextFile(path)
        text = "".join(source)
        assert source.characters() == set(text) and source.length() == len(text)
        assert TextFile(path).length() == len(text)


@given(st.binary())
def test_bytes_that_are_no_utf_8_are_never_taken_for_a_text(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "bytes.txt"
    path.write_bytes(raw)
    try:
        characters = TextFile(path).characters()
    except UserError as error:
        assert any(told in str(error)
                   for told in ("is not UTF-8", "is not utf-", "control character", "is not text",
                                "byte order mark",
                                                "damaged or cut short"))
    else:
        try:
            assert characters == set("".join(TextFile(path)))
        except UserError:  # it is found when the text is written, at the latest
            pass


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_a_packed_file_cut_short_is_one_line_and_never_a_shorter_corpus(tmp_path, suffix, packing):
    path = tmp_path / f"rows.{suffix}{packing}"
    raw = PACKINGS[packing](FORMATS[suffix](ROWS))
    for end in (len(raw) - 1, len(raw) - 9, len(raw) // 2, 20):
        path.write_bytes(raw[:end])
        with pytest.raises(UserError, match="is damaged or cut short"):
            list(read_documents(path, **({"quoting": "csv"} if suffix == "tsv" else {})))


@pytest.mark.parametrize("packing", [".gz", ".xz", ".zst"])
def test_the_first_packed_file_of_a_process_may_be_a_damaged_one(tmp_path, monkeypatch, packing):
    PACKINGS[packing](b"")  # or skip
    monkeypatch.delitem(sys.modules, "zstandard", raising=False)
    (tmp_path / f"a.txt{packing}").write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match="a.txt.* damaged"):
        list(read_documents(tmp_path / f"a.txt{packing}"))


def test_a_parquet_file_with_a_damaged_table_of_contents_is_named(tmp_path):
    raw = FORMATS["parquet"](ROWS)
    size = int.from_bytes(raw[-8:-4], "little")
    (tmp_path / "a.parquet").write_bytes(raw[: -8 - size] + b"\xff" * size + raw[-8:])
    with pytest.raises(UserError, match=r"a\.parquet .*Parquet.* damaged \("):
        list(read_documents(tmp_path / "a.parquet"))


@pytest.mark.parametrize("suffix", ["json", "one_line.json", "parquet"])
def test_a_file_cut_short_is_one_line_where_the_format_can_tell(tmp_path, suffix):
    path, raw = tmp_path / f"rows.{suffix}", FORMATS[suffix](ROWS)
    for end in (len(raw) - 1, len(raw) - 2, len(raw) // 2, 30, 1):
        path.write_bytes(raw[:end])
        with pytest.raises(UserError, match=f"rows.{suffix}"):
            list(read_documents(path))


BAD = {  # a file, and for each line that is a bad row a fact of its message
    "jsonl": ('{"text": "a"}\n{"text": \n["no", "object"]\n{"txt": 1, "a\\nb": 2}\n'
              '{"text": null}\n{"text": "\\ud800"}\n{"text": ["list"]}\n17\n{"text": "z"}\n',
              {2: "JSON", 3: "object", 4: "'text'", 5: "null", 6: "surrogate", 7: '["list"]',
               8: "17"}),
    "csv": ("text,n\na,1\nb\nc,2,3\n\"d\"x,4\nz,5\n",
            {3: "it has 1 fields, but the header has 2",
             4: "it has 3 fields, but the header has 2", 5: "CSV"}),
    "tsv": ("text\tn\na\t1\nb\nz\t5\n", {3: "it has 1 fields, but the header has 2"}),
}


@pytest.mark.parametrize("suffix", BAD)
def test_bad_rows_are_an_error_with_file_and_line_unless_so_many_are_allowed(tmp_path, capsys,
                                                                             suffix):
    raw, bad = BAD[suffix]
    path = tmp_path / f"rows.{suffix}"
    path.write_text(raw)
    for allowed, (line, why) in enumerate(bad.items()):
        with pytest.raises(UserError) as error:
            list(read_documents(path, max_bad_rows=allowed))
        assert str(error.value).startswith(f"{path} line {line}: ") and why in str(error.value)
        assert str(error.value).isprintable()
        assert str(error.value).endswith(f"Bad rows so far: {allowed + 1}; --max_bad_rows "
                                         f"allows {allowed}")
    capsys.readouterr()
    documents = read_documents(path, max_bad_rows=len(bad))
    assert list(documents) == ["a", "z"] == list(documents)
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == min(3, len(bad)) + 1
    assert notes[-1] == f"note: {len(bad)} bad rows were left out"


def test_a_pretty_printed_array_in_a_jsonl_file_is_an_error_and_not_an_empty_dataset(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(FORMATS["json"](ROWS))
    with pytest.raises(UserError, match="rows.jsonl holds JSON.* --format json"):
        list(read_documents(path))


@given(st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
                             | st.text(),
                             lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                             max_leaves=5)),
       st.integers(1, 30), st.sampled_from([None, 1]))
@settings(max_examples=100)
def test_a_json_array_is_read_element_by_element_however_blocks_fall(values, block, indent):
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    pieces = [text[i : i + block] for i in range(0, len(text), block)]
    assert [value for _, value in rows.rows_of("json", pieces, "values.json")] == values


def test_templates_reach_into_rows_and_those_that_are_none_are_one_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "why", "a": {"text": ["so", "no"]}, "n": 0.5}\n')
    template = "Q: {q} A: {a[text][0]} {{{n:.2f}}}"
    assert list(read_documents(path, text_template=template)) == ["Q: why A: so {0.50}"]
    for template, told in (("{", "cannot be read"), ("plain", "names no column"),
                           ("{}", "names no column")):
        with pytest.raises(UserError, match=told):
            read_documents(path, text_template=template)
    with pytest.raises(UserError, match=r"no column 'text' \(its columns: q, a, n\)"):
        list(read_documents(path))
    assert list(read_documents(path, column="q")) == ["why"]


@pytest.mark.parametrize("paths, told",
                         [([], "input file"), (["no.jsonl"], "no.jsonl not found"),
                                         (["no*.txt"], r"no\*.txt"),
                          (["."], "is a folder")])
def test_files_that_are_not_there_are_one_line(tmp_path, monkeypatch, paths, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, FileNotFoundError), match=told):
        open_inputs(paths)


def test_a_package_that_is_missing_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    import sys
    for name, raw, package in (("a.txt.zst", b"\x28\xb5\x2f\xfd", "zstandard"),
                               ("a.parquet", b"PAR1", "pyarrow")):
        (tmp_path / name).write_bytes(raw)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError,
                           match=f"needs the package {package}. Run: pip install {package}$"):
            list(read_documents(tmp_path / name))


def test_standard_input_is_one_text_cut_at_the_same_character(new_dataset, tmp_path):
    import subprocess
    import sys
    folder, text = new_dataset("piped", "unused"), "naïve 😀 text\r\n" * 100
    run = subprocess.run([sys.executable, folder / "prepare.py", "-t", "-"], input=text.encode(),
                         capture_output=True)
    assert run.returncode == 0, run.stderr
    piped = [(folder / f"{split}.bin").read_bytes() for split in ("train", "val")]
    (folder / "input.txt").write_bytes(text.encode())
    assert python(folder / "prepare.py").returncode == 0
    assert [(folder / f"{split}.bin").read_bytes() for split in ("train", "val")] == piped
    assert b"(standard input); " in run.stdout
    for pipe in ("<(cat {0}/input.txt)", "/dev/stdin < <(cat {0}/input.txt)"):
        for split in ("train", "val"):
            (folder / f"{split}.bin").unlink()
        run = subprocess.run(["bash", "-c",
                              f"{sys.executable} {folder}/prepare.py -t {pipe.format(folder)}"],
                             capture_output=True)
        assert run.returncode == 0, run.stderr
        assert [(folder / f"{split}.bin").read_bytes() for split in ("train", "val")] == piped


def test_standard_input_that_is_closed_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as python has it after <&-
    with pytest.raises(UserError, match="standard input.* closed"):
        open_inputs("-")


# ---- shards of ids with a header


def shard(path, ids, magic=20240520, version=1, count=None, dtype="<u2"):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + np.asarray(ids, dtype).tobytes())


def test_shards_are_their_ids_without_the_header(tmp_path):
    shard(tmp_path / "train_0.bin", range(50_000))
    shard(tmp_path / "train_1.bin", [1, 2, 3])
    shards = open_inputs(str(tmp_path / "train_*.bin"))
    assert isinstance(shards, Shards) and shards.length() == 50_003
    assert np.concatenate(list(shards)).tolist() == [*range(50_000), 1, 2, 3]
    shard(tmp_path / "llama.bin", [100_000, 7], magic=20240801, version=7, dtype="<u4")
    assert np.concatenate(list(Shards([tmp_path / "llama.bin"]))).tolist() == [100_000, 7]


@pytest.mark.parametrize("kw, facts", [
    (dict(magic=1), r"a\.bin .*llm.c or modded-nanogpt.*\[1, 1\].*--format text"),
    (dict(version=3), r"a\.bin .*\[20240520, 3\]"), (dict(count=99), r"a\.bin .*10 ids.* 99\b"),
    (dict(count=9), r"a\.bin .*10 ids.* 9\b"), (dict(count=-1), r"a\.bin .*10 ids.* -1\b")])
def test_a_shard_with_a_wrong_header_is_one_line(tmp_path, kw, facts):
    shard(tmp_path / "a.bin", range(10), **kw)
    with pytest.raises(UserError, match=facts):
        Shards([tmp_path / "a.bin"])


@pytest.mark.parametrize("flags, method", [(["-t", "a.bin"], "char"), (["-v", "a.bin"], "char"),
                                           (["-t", "a.bin", "--method=bpe"], "bpe")])
def test_a_shard_of_a_tokenizer_that_is_made_of_text_is_one_line(new_dataset, tmp_path, flags,
                                                                 method):
    shard(tmp_path / "a.bin", range(10))
    run = python(new_dataset("ids", "abc") / "prepare.py", *flags, cwd=tmp_path)
    assert run.returncode == 2 and run.stdout == ""
    line = only_line(run.stderr)
    for fact in ("a.bin", f"--method {method}", "--method tiktoken", "--reuse_vocab_of"):
        assert fact in line



def test_a_shard_cut_short_is_one_line(tmp_path):
    shard(tmp_path / "a.bin", range(10))
    raw = (tmp_path / "a.bin").read_bytes()
    for end in (len(raw) - 1, len(raw) - 2, 1024, 500, 0):
        (tmp_path / "a.bin").write_bytes(raw[:end])
        with pytest.raises(UserError, match="a.bin"):
            Shards([tmp_path / "a.bin"])


# ---- nothing falls through


def test_an_unknown_format_quoting_method_or_kind_of_worker_is_an_error(tmp_path):
    class Odd(ByteTokenizer):
        workers = "fibres"
    (tmp_path / "a.csv").write_text("id,text\n1,a\n")
    for what, call in (
            ("'yaml'", lambda: read_documents(tmp_path / "a.csv", format="yaml")),
            ("'perhaps'", lambda: read_documents(tmp_path / "a.csv", quoting="perhaps")),
            ("'yaml'", lambda: rows.rows_of("yaml", ["a"], "a.csv")),
            ("'perhaps'", lambda: rows.rows_of("csv", ["a"], "a.csv", quoting="perhaps")),
            ("'word'", lambda: make_tokenizer("word", "a text")),
            ("'fibres'", lambda: write_dataset(tmp_path, "a text", Odd()))):
        with pytest.raises(ValueError, match=what):
            call()


# ---- documents inside one text

SEPARATORS = ["lines", "blank_lines", "<|>", "re:a+", "re:(?<=a)\\n", "re:^a$"]


@given(st.text("a<|>\n\r \té", max_size=60), st.lists(st.integers(0, 60), max_size=6),
       st.sampled_from(SEPARATORS))
@settings(max_examples=300, deadline=None)
def test_a_text_is_cut_at_the_same_separators_however_it_is_read(text, cuts, separator):
    """In chunks of any size it has the documents that one search through the whole text finds."""
    separator = separator.replace("\\n", "\n")
    pattern, cuts = separators.pattern_of(separator), sorted(min(cut, len(text)) for cut in cuts)
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    expected = re.split(pattern, text)
    if not separator.startswith("re:"):
        expected = [part.removesuffix("\n").removesuffix("\r") for part in expected]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separators, "LONGEST", max(map(len, pattern.findall(text)), default=1))
        patch.setattr(separators, "BEFORE", 4)
        found = list(separators.separated(chunks, separator))
    assert found == [part for part in expected if part]


@pytest.mark.parametrize("separator, documents", [
    ("lines", ["one", "two", "<|end|>", " <|end|> three", " \t", "<|end|>", "four"]),
    ("blank_lines", ["one\ntwo", "<|end|>\n <|end|> three", "<|end|>\r\nfour"]),
    ("<|end|>", ["one\ntwo\n", " <|end|> three\n \t", "four"]),
    ("re:(one|four|three)\\s*", ["two\n\n<|end|>\n <|end|> ", "<|end|>\r\n"])])
def test_each_kind_of_separator(tmp_path, separator, documents):
    (tmp_path / "a.txt").write_bytes(
        b"one\ntwo\n\n<|end|>\n <|end|> three\n \t\r\n<|end|>\r\nfour\n")
    found = open_inputs(tmp_path / "a.txt", document_separator=separator)
    assert list(found) == list(found) == documents


def test_documents_of_a_text_are_split_by_hash_and_an_unsettled_marker_is_said(new_dataset):
    folder = new_dataset()
    stories = [f"story {i}\nends <|endoftext|> never\n" for i in range(200)]
    (folder / "input.txt").write_text("<|endoftext|>\n".join(stories))
    flags = ["--method=byte"]
    told = python(folder / "prepare.py", *flags).stdout
    says(told.splitlines()[-1], "input.txt", "--document_separator '<|endoftext|>'")
    told = python(folder / "prepare.py", *flags, "--document_separator", "<|endoftext|>").stdout
    assert "note: input.txt" not in told
    meta = read_meta(folder)
    counts = {split: meta["splits"][split]["documents"] for split in ("train", "val")}
    assert sum(counts.values()) == 200 and counts["val"] > 5
    text = np.fromfile(folder / "train.bin", "<u2").astype("u1").tobytes().decode()
    written = re.findall("story.*\n.*never\n", text)
    assert "".join(written) == text and len(written) == counts["train"] and {*written} <= {*stories}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_marker_in_a_row_is_text_and_a_separator_of_rows_is_refused(tmp_path, suffix):
    rows = [{"text": "a <|endoftext|> b"}, {"text": "<|endoftext|>"}]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(FORMATS[suffix](rows))
    assert list(open_inputs(path)) == [row["text"] for row in rows]
    with pytest.raises(UserError, match="--document_separator is for text"):
        open_inputs(path, document_separator="lines")


@pytest.mark.parametrize("separator", ["", " ", "re:", "re:x*", "re:(", "re:^"])
def test_a_separator_that_cannot_be_is_one_line(tmp_path, separator):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match="--document_separator"):
        open_inputs(tmp_path / "a.txt", document_separator=separator)
