"""Inputs that people have (inputs.py, containers.py, columns.py, rows.py, templates.py): archives,
Arrow files, tables without a header, odd names of columns, missing cells, rows within an object,
damaged files among many.

Run: python -m pytest tests/test_containers.py
"""
import gzip
import json
import random

import pytest
from helpers import archive, says
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.prepare.inputs import TextFile, open_inputs, read_documents
from pipeline.prepare.templates import Template
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import ByteTokenizer

KINDS = [("a.zip", "zip"), ("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"),
         ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz"), ("corpus", "w:gz"), ("a.txt", "zip")]


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Nothing here cuts the power, and a disk is slow."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


def put(path, raw):
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return path


def refusal(paths, **told):
    with pytest.raises(UserError) as error:
        list(read_documents(paths, **told))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- archives


@pytest.mark.parametrize("name, kind", KINDS)
def test_an_archive_stands_for_its_files_in_their_order(tmp_path, name, kind):
    rows = [{"text": f"row {i}"} for i in range(3)]
    members = {"z/two.txt": "second\n", "a.jsonl": "\n".join(map(json.dumps, rows)),
               "one.txt.gz": gzip.compress(b"packed twice"), "__MACOSX/._two.txt": b"\0\5\x16\7",
               "empty.txt": "", "z/.DS_Store": b"\0\0\0\1Bud1"}
    found = open_inputs(put(tmp_path / name, archive(kind, members)))
    expected = ["second\n", "row 0", "row 1", "row 2", "packed twice", ""]
    assert list(found) == list(found) == expected
    assert found.position == found.size
    documents = list(found)
    assert documents[1].file == str(tmp_path / name / "a.jsonl") and documents[3].row == 3


@pytest.mark.parametrize("name, kind", KINDS)
def test_one_text_in_an_archive_is_one_text(tmp_path, name, kind):
    found = open_inputs(put(tmp_path / name, archive(kind, {"deep/corpus.txt": "naïve text"})))
    assert isinstance(found, TextFile) and "".join(found) == "naïve text"
    assert found.length() == 10
    several = put(tmp_path / "several", archive(kind, {"a.txt": "a", "b.txt": "b"}))
    with pytest.raises(UserError) as error:
        TextFile(several)
    says(str(error.value), several, "2 files", "read_documents")


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz"])
def test_bins_and_their_index_are_those_of_the_unpacked_files(tmp_path, kind):
    draw = random.Random(1)
    members = {f"{i}.txt": "".join(draw.choices("abc \n", k=50_000)) for i in range(25)}
    for name, text in members.items():
        put(tmp_path / name, text)
    packed = read_documents(put(tmp_path / "all.archive", archive(kind, members)))
    plain = read_documents([tmp_path / name for name in members])
    metas = []
    for folder, text in (("a", packed), ("b", plain)):
        (tmp_path / folder).mkdir()
        metas.append(write_dataset(tmp_path / folder, text, ByteTokenizer(), unit_size=10_000))
    assert metas[0]["splits"] == metas[1]["splits"]
    assert json.loads((tmp_path / "a/docs.json").read_text())[0].endswith("all.archive/0.txt")


def test_parquet_and_arrow_in_an_archive_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    table = pyarrow.table({"text": [f"t{i}" for i in range(1000)]})
    parquet.write_table(table, tmp_path / "a.parquet")
    raw = (tmp_path / "a.parquet").read_bytes()
    packed = put(tmp_path / "x.zip", archive("zip", {"a.parquet": raw}))
    assert list(read_documents(packed)) == [f"t{i}" for i in range(1000)]


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz"])
def test_a_damaged_encrypted_nested_or_empty_archive_is_one_line(tmp_path, kind):
    noise = random.Random(3).randbytes(200_000)
    raw = archive(kind, {"a.txt": noise.hex(), "b.txt": "text"})
    for cut in (len(raw) // 2, len(raw) - (20_000 if kind == "w" else 700)):
        says(refusal(put(tmp_path / "cut", raw[:cut])), tmp_path / "cut", "damaged or cut short")
    if kind == "zip":
        flipped = bytearray(raw)
        flipped[5000] ^= 255
        says(refusal(put(tmp_path / "f.zip", bytes(flipped))), "a.txt", "damaged")
    says(refusal(put(tmp_path / "n", archive(kind, {"in.zip": archive("zip", {"a": "b"})}))),
         "in.zip", "Unpack it")
    says(refusal(put(tmp_path / "e", archive(kind, {"__MACOSX/x": "y"}))), "without files")
    says(refusal(put(tmp_path / "p", archive(kind, {"a.png": b"\x89PNG\r\n\x1a\n\0"}))), "PNG")


def test_an_encrypted_zip_is_one_line(tmp_path):
    raw = bytearray(archive("zip", {"a.txt": "text"}))
    raw[6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1
    says(refusal(put(tmp_path / "a.zip", bytes(raw))), "a.zip", "encrypted")


def test_of_two_members_of_one_name_the_later_counts(tmp_path):
    first, second = (archive("w", {"a.txt": text}) for text in ("older", "newer"))
    assert list(open_inputs(put(tmp_path / "a.tar", first[:1024] + second))) == ["newer"]


def test_a_file_or_archive_that_is_named_twice_is_read_twice(tmp_path):
    text = put(tmp_path / "a.txt", "text")
    packed = put(tmp_path / "b.zip", archive("zip", {"c.txt": "packed"}))
    found = open_inputs([text, packed, text, packed])
    assert list(found) == ["text", "packed"] * 2 and found.position == found.size


# ---- Arrow


def test_files_of_save_to_disk_and_feather_are_read_in_parts(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    schema = pyarrow.schema([("text", pyarrow.string()), ("n", pyarrow.int64())])
    batches = [pyarrow.record_batch([[f"{k} {i}" for i in range(1000)], list(range(1000))], schema)
               for k in range(3)]
    texts = [f"{k} {i}" for k in range(3) for i in range(1000)]
    for name, new in (("data-00000-of-00001.arrow", pyarrow.ipc.new_stream),
                      ("a.feather", pyarrow.ipc.new_file)):
        with new(str(tmp_path / name), schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        assert list(open_inputs(tmp_path / name)) == texts
        assert list(open_inputs(tmp_path / name, text_template="{n}"))[:2] == ["0", "1"]
        assert 'no column txt' in refusal(tmp_path / name, column="txt")
        raw = (tmp_path / name).read_bytes()
        line = refusal(put(tmp_path / f"cut-{name}", raw[: len(raw) // 2]))
        says(line, f"cut-{name}", "Arrow")
    renamed = put(tmp_path / "a.txt", (tmp_path / "a.feather").read_bytes())
    assert "--format arrow" in refusal(renamed)


# ---- tables without a header, missing cells, other delimiters


@pytest.mark.parametrize("form, cut, quoting", [
    ("csv", ",", None), ("tsv", "\t", None), ("csv", ";", None), ("csv", "|", "none")])
def test_without_a_header_columns_have_numbers(tmp_path, form, cut, quoting):
    lines = "".join(cut.join(row) + "\n" for row in (["1", "en", "first"], ["2", "de", "second"]))
    stated = dict(no_header=True, quoting=quoting, delimiter=cut if cut in ";|" else None)
    path = put(tmp_path / f"a.{form}", lines)
    assert list(open_inputs(path, text_template="{3}", **stated)) == ["first", "second"]
    assert list(open_inputs(path, text_template="{2}: {3}", **stated))[1] == "de: second"
    says(refusal(path, **stated), "a.", "its columns: 1, 2, 3", '--text_template "{3}"')
    line = refusal(path, **{**stated, "columns": ["a"]})
    assert "--no_header" in line


def test_a_short_row_is_bad_unless_missing_cells_have_a_text(tmp_path):
    raw = "id,q,a\n1,what,that\n2,who\n3\n4,a,b,c\n"
    path, template = put(tmp_path / "a.csv", raw), "{q}={a}"
    line = refusal(path, text_template=template)
    says(line, "line 3", "2 fields", "the header has 3", "--missing")
    texts = read_documents(path, text_template=template, missing="?", max_bad_rows=1)
    assert list(texts) == ["what=that", "who=?", "?=?"] and texts.num_bad == 1


def test_null_nan_and_absent_columns_have_the_text_of_missing_cells(tmp_path):
    rows = '{"q": "a", "x": null}\n{"q": "b"}\n{"q": "c", "x": NaN}\n{"q": null, "x": "d"}\n'
    path = put(tmp_path / "a.jsonl", rows)
    assert list(read_documents(path, text_template="{q}{x}", missing="")) == ["a", "b", "c", "d"]
    assert "null stands for a text" in refusal(path, text_template="{q}{x}")
    line = refusal(path, text_template="{q}{xx}", missing="")
    says(line, "a.jsonl", "no row", "'xx'")
    assert "--text_template" in refusal(path, missing="")


def test_null_of_parquet_is_missing_too(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    table = pyarrow.table({"q": ["a", None], "x.y": [None, "b"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = read_documents(tmp_path / "a.parquet", text_template="{q}{x.y}", missing="-")
    assert list(found) == ["a-", "-b"]


@pytest.mark.parametrize("raw, texts", [
    ('text,n\r"a\nb",1\rc,2\r', ["a\nb", "c"]), ('text\r"a\rb"\r', ["a\rb"]),
    ('text,n\n"a\rb",1\nc,2\n', ["a\rb", "c"]), ('text,n\r\n"a\nb",1\r\nc,2', ["a\nb", "c"])])
def test_line_ends_within_quotes_are_text_whatever_ends_the_lines(tmp_path, raw, texts):
    assert list(open_inputs(put(tmp_path / "a.csv", raw))) == texts


# ---- names of columns


@pytest.mark.parametrize("name", ["reviews.text", "text:en", "a[b]", "x!r", "two words", "Ünï", "1",
                                  "a.b[c]:d", "text", "$x", "a:>5"])
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_columns_of_any_name_are_reached(tmp_path, name, form):
    rows, path = [{"id": "7", name: "the text"}], tmp_path / f"a.{form}"
    if form == "jsonl":
        put(path, json.dumps(rows[0]))
    elif form == "csv":
        put(path, f'id,{name}\n7,the text\n')
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet
        parquet.write_table(pyarrow.table({key: [value] for key, value in rows[0].items()}), path)
    assert list(read_documents(path, text_template=f"{{{{{{{name}}}}}}}|{{id}}")) == [
        "{the text}|7"]


NAME = st.text("ab.c[]:! é", min_size=1, max_size=6)


@given(st.dictionaries(NAME, st.text(max_size=5), min_size=1, max_size=3),
       st.lists(st.text("ab{} ", max_size=3), min_size=4, max_size=4))
def test_a_template_is_its_text_with_each_column_put_in(row, between):
    texts = [text.replace("{", "{{").replace("}", "}}") for text in between]
    template = texts[0] + "".join(f"{{{name}}}{text}" for name, text in zip(row, texts[1:]))
    expected = between[0] + "".join(value + text for value, text in zip(row.values(), between[1:]))
    assert Template(template, "text").text_of(row, "jsonl") == expected


@given(st.sampled_from(["{a[b]}", "{a[c][0]}", "{n:>5}", "{n:.2f}", "{t!r}", "{t:<4}|", "{{{t}}}"]))
def test_what_reaches_into_a_row_is_that_of_str_format(template):
    row = {"a": {"b": "x", "c": ["y"]}, "n": 1.5, "t": "s"}
    assert Template(template, "text").text_of(row, "jsonl") == template.format(**row)


@pytest.mark.parametrize("template, at", [("{", 0), ("a}b", 1), ("{a}{b", 3), ("x{a{b}", 1)])
def test_a_brace_without_a_partner_is_named(template, at):
    with pytest.raises(UserError) as error:
        Template(template, "text")
    says(str(error.value), f"position {at}", "{{")


def test_lists_objects_and_chats_get_the_advice_that_fits(tmp_path):
    chat = '{"messages": [{"role": "user", "content": "hi"}], "id": 1}\n'
    path = put(tmp_path / "a.jsonl", chat)
    for told in ({}, {"text_template": "{messages}"}, {"text_template": "{text}"}):
        line = refusal(path, **told)
        assert "--chat_layout" in line and len(line) < 400
    path = put(tmp_path / "b.jsonl", '{"a": ["x"], "b": {"c": "d"}}\n')
    assert "{a[0]} reaches" in refusal(path, text_template="{a}")
    assert "{b[key]} reaches" in refusal(path, text_template="{b}")


# ---- JSON around rows


@pytest.mark.parametrize("raw, key", [
    ('{"data": [{"text": "a"}, {"text": "b"}]}', "data"),
    ('{"version": {"data": 1}, "x": [1, {"data": 2}],\n "data": [ {"text":"a"} , {"text":"b"} ] }',
     "data"),
    ('{"a": {"n": null, "rows": [{"text": "a"}, {"text": "b"}], "z": [0]}, "end": "x"}', "a.rows")])
def test_rows_within_an_object_are_read_by_their_key(tmp_path, raw, key):
    path = put(tmp_path / "a.json", raw)
    assert list(open_inputs(path, rows_in=key)) == ["a", "b"]
    for cut in (1, 2, 5):
        assert "a.json" in refusal(put(tmp_path / "a.json", raw[:-cut]), rows_in=key)


def test_the_key_of_the_rows_is_named_and_one_that_is_not_there_too(tmp_path):
    path = put(tmp_path / "a.json", '{"version": "1", "data": [{"text": "a"}]}')
    assert "--rows_in data" in refusal(path)
    says(refusal(path, rows_in="dta"), "'dta'", "version, data")
    says(refusal(path, rows_in="version"), "no array")
    says(refusal(put(tmp_path / "a.jsonl", '{"text": "a"}'), rows_in="data"), "--rows_in", "JSON")


def test_rows_of_a_large_object_take_little_memory(tmp_path):
    rows = ", ".join(f'{{"text": "{i} {"x" * 1000}"}}' for i in range(20_000))
    path = put(tmp_path / "a.json", f'{{"data": [{rows}], "n": 1}}')
    import tracemalloc
    tracemalloc.start()
    number = sum(1 for _ in read_documents(path, rows_in="data"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 20_000 and peak < 8e6  # bytes, of a file of 20 MB


# ---- bad files among many


def test_bad_files_are_left_out_and_counted_up_to_a_number(tmp_path, capsys):
    whole = gzip.compress("\n".join(f'{{"text": "{i} {random.random()}"}}'
                                    for i in range(100_000)).encode())
    put(tmp_path / "a.jsonl", '{"text": "one"}\n')
    put(tmp_path / "b.jsonl.gz", whole[: len(whole) // 2])
    put(tmp_path / "c.txt", "Grüße".encode("cp1252"))
    put(tmp_path / "d.png", b"\x89PNG\r\n\x1a\n")
    put(tmp_path / "e.json", '[{"text": "two"}, {"te')
    put(tmp_path / "f.zip", b"PK\x03\x04 nothing")
    put(tmp_path / "z.txt", "three")
    names = str(tmp_path / "*")
    found = read_documents(names, max_bad_files=5)
    texts = list(found)
    assert list(found) == texts and found.num_bad_files == 5
    kept = [text for text in texts if text[0].isdigit()]
    assert 1000 < len(kept) < 100_000 and [t for t in texts if not t[0].isdigit()] == [
        "one", "two", "three"]
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 5 and all(note.startswith("note: left out") for note in notes)
    assert f"its first {len(kept):,} documents" in "".join(notes)
    line = refusal(names, max_bad_files=4)
    says(line, "5", "--max_bad_files allows 4")
    assert "--max_bad_files 1" in refusal(names)
    assert "--max_bad_files" not in refusal(tmp_path / "d.png")
    assert "no file is left" in refusal(tmp_path / "d.png", max_bad_files=3)


def test_bad_rows_a_missing_package_and_a_missing_file_are_no_bad_files(tmp_path, monkeypatch):
    put(tmp_path / "a.jsonl", '{"text": 1}\n')
    put(tmp_path / "b.jsonl", '{"text": "x"}\n')
    names = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert "--max_bad_rows allows 0" in refusal(names, max_bad_files=9)
    with pytest.raises(FileNotFoundError):
        read_documents([*names, tmp_path / "c.jsonl"], max_bad_files=9)
    put(tmp_path / "p.parquet", b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "pip install pyarrow" in refusal([*names[1:], tmp_path / "p.parquet"], max_bad_files=9)


def test_what_was_left_out_is_in_the_line_of_counts(tmp_path, capsys):
    for i in range(30):
        put(tmp_path / f"{i:02}.txt", f"text {i}")
    put(tmp_path / "x.txt", b"\xff\xfe\xfd")
    text = read_documents(str(tmp_path / "*.txt"), max_bad_files=1)
    (tmp_path / "out").mkdir()
    write_dataset(tmp_path / "out", text, ByteTokenizer())
    assert "1 bad files left out" in capsys.readouterr().out


def test_a_folder_of_save_to_disk_is_answered_with_its_arrow_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "saved").mkdir()
    schema = pyarrow.schema([("text", pyarrow.string())])
    with pyarrow.ipc.new_stream(str(tmp_path / "saved/data-00000-of-00001.arrow"), schema) as out:
        out.write_batch(pyarrow.record_batch([["a", "b"]], schema))
    for name in ("dataset_info.json", "state.json"):
        put(tmp_path / "saved" / name, '{"x": 1}')
    line = refusal(tmp_path / "saved")
    says(line, tmp_path / "saved", f'"{tmp_path}/saved/*.arrow"')
    assert list(read_documents(f"{tmp_path}/saved/*.arrow")) == ["a", "b"]
