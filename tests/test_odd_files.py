"""Other people's files: each is read to the character, or refused in one line that names the flag
with which it is read.

A cell is a file of one encoding, line end, format, compression and name. A slice of the cells is in
the default suite; all of them: python -m pytest tests/test_odd_files.py -m long
"""
import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import random
import re
import shlex
import subprocess
import sys

import pytest
from helpers import archive, only_line, python
from prepare_here import prepare_here

from pipeline.errors import UserError
from pipeline.prepare.inputs import open_inputs
from pipeline.read.folder import open_dataset

WESTERN = ["The “naïve” café — déjà vu, it’s 5 € or so.", "\"Where?\" he said; it's here",
           "Plain words and no more",
           "señor, mañana…", "a garçon’s façade"]
RUSSIAN = ["Привет, мир! Это обычный русский текст.", "Она сказала: где ты был вчера вечером?",
           "Просто несколько слов",
           "Я не знаю, что сказать.", "Новая строка текста"]
JAPANESE = ["これは日本語のテキストです。漢字も含む。", "彼女は言った。昨日はどこにいましたか。",
            "ただの言葉です",
            "何と言えばいいのか分かりません。", "新しい行の文章"]
CHINESE = ["这是一个中文文本，用于测试。", "她说：你昨天晚上在哪里？", "只是几个词语而已",
           "我不知道该说什么。", "新的一行文字"]
ENCODINGS = {  # name of the cell: (Python's name, what is written before, texts)
    "utf-8": ("utf-8", b"", [*WESTERN, *RUSSIAN, *JAPANESE, "😀 and \u2028 in a row"]),
    "utf-8 with mark": ("utf-8-sig", b"", WESTERN + CHINESE),
             "utf-16": ("utf-16", b"", WESTERN + JAPANESE),
    "utf-16-be with mark": ("utf-16-be", b"\xfe\xff", WESTERN),
             "utf-32": ("utf-32", b"", WESTERN + ["😀"]),
    "utf-16-le": ("utf-16-le", b"", WESTERN), "utf-16-be": ("utf-16-be", b"", RUSSIAN),
    "utf-16-le Japanese": ("utf-16-le", b"", JAPANESE), "utf-32-le": ("utf-32-le", b"", WESTERN),
    "utf-32-be": ("utf-32-be", b"", CHINESE), "cp1252": ("cp1252", b"", WESTERN),
    "latin-1": ("latin-1", b"",
                ["déjà vu, señor", "ça va, garçon?", "Plain words", "über alles nachgedacht"]),
    "cp1251": ("cp1251", b"", RUSSIAN), "koi8-r": ("koi8-r", b"", RUSSIAN),
             "shift_jis": ("shift_jis", b"", JAPANESE),
    "euc_jp": ("euc_jp", b"", JAPANESE), "gb18030": ("gb18030", b"", CHINESE),
             "iso2022_jp": ("iso2022_jp", b"", JAPANESE)}
LINE_ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}


def as_csv(texts, end, delimiter=","):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
    writer.writerows([["id", "text"], *enumerate(texts)])
    return file.getvalue()


FORMATS = {  # of the texts and a line end: the file's contents
    "text": lambda texts, end: end.join(texts) + end,
    "jsonl": lambda texts,
           end: "".join(json.dumps({"text": t}, ensure_ascii=False) + end for t in texts),
    "json": lambda texts,
           end: json.dumps([{"text": t} for t in texts], indent=1, ensure_ascii=False).replace("\n",
                                                                                               end),
    "csv": as_csv, "tsv": lambda texts,
           end: "".join(f"{i}\t{t}{end}" for i, t in [("id", "text"), *enumerate(texts)])}
SUFFIXES = {"text": [".txt", "", ".md"], "jsonl": [".jsonl", ".ndjson", ".jl", ".txt", ""],
            "json": [".json", ".jsonl", ""],
            "csv": [".csv", ".txt", ".tsv"], "tsv": [".tsv", ".tab", ".csv", ""]}


def zstd(raw):
    return pytest.importorskip("zstandard",
                               reason="the package zstandard is not installed").compress(raw)


PACKINGS = {"": lambda raw: raw, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
            ".zst": zstd}
CELLS = [(encoding, end, form, packing, suffix, named) for encoding, end, form, packing in
         itertools.product(ENCODINGS, LINE_ENDS, FORMATS, PACKINGS) for suffix in SUFFIXES[form]
         # whether the name says how it is packed
         for named in ([True, False] if packing else [True])]


def read(path, told):
    found = open_inputs(path, **told)
    return list(found), found


def read_as_advised(path):
    """(texts, number of refusals); the flags that a refusal names are added, as a user would."""
    told = {}
    for refusals in range(5):
        try:
            return read(path, told)[0], refusals
        except UserError as error:
            line = str(error)
            assert "\n" not in line and str(path) in line
            if numbered := re.search(r'--no_header --text_template "(\S+)"', line):
                told |= {"no_header": True, "text_template": numbered[1]}
                continue
            flag = re.search(r"--(format|encoding|quoting|delimiter) ('.'|\S+)", line)
            assert flag and flag[1] not in told, f"{line} ({told})"
            told[flag[1]] = shlex.split(flag[2].rstrip(".;"))[0].replace("\\t", "\t")
    raise AssertionError(f"{path} is refused again and again: {told}")


def check(cell, folder):
    """How often the file of a cell was refused before it was read rightly."""
    encoding, end, form, packing, suffix, named = cell
    codec, mark, texts = ENCODINGS[encoding]
    texts = texts * 4 if form == "text" else texts
    content = FORMATS[form](texts, LINE_ENDS[end])
    path = folder / f"file{suffix}{packing if named else ''}"
    path.write_bytes(PACKINGS[packing](mark + content.encode(codec)))
    found, refusals = read_as_advised(path)
    assert found == ([content] if form == "text" else texts), cell
    path.unlink()
    return refusals


def run_cells(cells, folder):
    refused = [check(cell, folder) for cell in cells]
    print(f"{len(cells):,} files: {refused.count(0):,} read at once, "
          f"{len(refused) - refused.count(0):,} refused and then read with the flags named")


def test_a_slice_of_the_odd_files_is_read_rightly_or_refused_with_the_flag_that_reads_it(tmp_path):
    run_cells(random.Random(0).sample(CELLS, 450), tmp_path)


@pytest.mark.long
def test_all_odd_files_are_read_rightly_or_refused_with_the_flag_that_reads_them(tmp_path):
    run_cells(CELLS, tmp_path)


# ---- one fault each


def documents(path, raw, **told):
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return read(path, told)[0]


def refusal(path, raw, **told):
    with pytest.raises(UserError) as error:
        documents(path, raw, **told)
    line = str(error.value)
    assert "\n" not in line and str(path) in line
    return line


def test_tsv_has_no_quotes_and_csv_has(tmp_path):
    raw = 'id\ttext\n1\t"Hello there\n2\tsecond\n3\tthird\n4\tgood bye"\n5\tfifth\n'
    assert documents(tmp_path / "a.tsv", raw) == ['"Hello there', "second", "third", 'good bye"',
                                                  "fifth"]
    assert documents(tmp_path / "a.tsv", raw.replace("\n", "\r\n")) == documents(tmp_path / "a.tsv",
                                                                                 raw)
    quoted = 'id\ttext\n1\t"say ""hi"", then\ttab"\n2\tb\n'
    assert "--quoting csv" in refusal(tmp_path / "a.tsv", quoted)
    assert documents(tmp_path / "a.tsv", quoted, quoting="csv") == ['say "hi", then\ttab', "b"]
    # as pandas and spreadsheets write it
    for raw in ('"id"\t"text"\n"1"\t"a"\n', 'id\ttext\n1\t"a ""b"" c"\n'):
        assert "--quoting csv" in (line := refusal(tmp_path / "b.tsv", raw))
        assert "--quoting none" in line
    assert documents(tmp_path / "b.tsv", raw, quoting="none") == ['"a ""b"" c"']
    assert documents(tmp_path / "b.tsv", raw, quoting="csv") == ['a "b" c']


def test_the_closing_line_says_how_many_rows_were_read(new_dataset, tmp_path):
    (tmp_path / "a.tsv").write_text("id\ttext\n" + "".join(f"{i}\trow {i}\n" for i in range(200))
                                    + "7\t\n8\n")
    run = prepare_here(new_dataset("tables"), "-t", tmp_path / "a.tsv", "--max_bad_rows=1")
    assert run.returncode == 0
    assert "(a.tsv, 201 rows, 1 bad left out, 1 empty left out);" in run.stdout


def test_rows_that_a_stray_quote_takes_along_are_counted_and_named(tmp_path, capsys):
    raw = 'text\na\n"b\nc\nd\ne\n'
    line = refusal(tmp_path / "a.csv", raw, max_bad_rows=1)
    assert "lines 3 to 6" in line and "4 lines" in line and "Bad rows so far: 4" in line
    assert "--quoting none" in line
    assert documents(tmp_path / "a.csv", raw, quoting="none") == ["a", '"b', "c", "d", "e"]
    assert documents(tmp_path / "a.csv", raw, max_bad_rows=4) == ["a"]
    assert "Bad rows so far: 3" in refusal(tmp_path / "b.csv", 'text\n"a\nb\nc" d\ne\n',
                                         max_bad_rows=2)
    capsys.readouterr()
    for name, raw, lines in (("long.csv", 'text\n"' + "x\n" * 60 + '"\nz\n', "lines 2 to 62"),
                             ("rows.csv", 'id,text\n1,"a\n2,b\n3,c"\n4,d\n', "lines 2 to 4")):
        documents(tmp_path / name, raw)
        assert f"{tmp_path / name} {lines} " in capsys.readouterr().err
    documents(tmp_path / "few.csv", 'id,text\n1,"a\nb, and\nc"\n4,d\n')
    assert not capsys.readouterr().err


@pytest.mark.parametrize("raw, flag", [
    ('{"text": "a"}\n{"text": "b"}\n', "jsonl"), ('[{"text": "a"},\n {"text": "b"}]', "json"),
    ('["a", "b"]\n', "json"),
    ('{\n "text": "a"\n}\n', "json"), ("id\ttext\n1\ta\n2\tb\n", "tsv"),
    ("id,text\n1,a\n2,b\n3,c\n4,d\n", "csv"),
    ('{"text": "' + "long " * 30_000 + '"}\n{"text": "b"}\n', "json")])
@pytest.mark.parametrize("name", ["input.txt", "corpus", "data.part-0001"])
def test_rows_under_the_name_of_a_text_are_refused_with_the_flag(tmp_path, raw, flag, name):
    line = refusal(tmp_path / name, raw)
    assert f"--format {flag}" in line and "--format text" in line
    assert "".join(documents(tmp_path / name, raw, format="text")) == raw
    assert documents(tmp_path / name, raw, format=flag)[-1] in "bad"


@pytest.mark.parametrize("raw", [
    "To be, or not to be\nThat is the question\n" * 3, "a, b\nc, d\ne, f\ng, h\ni, j\n",
    "{x} is a set\n[1] a note\n",
    "[[Category:Text]]\n", "emma\nolivia\nava\n", "1 + 2 = 3\n" * 9,
    "def f(a, b):\n    return a, b\n", '{"so": he said\n',
    "\tindented\n\ttwice\n", "<p>a,b</p>\n" * 9, "1,2\n3,4\n5,6\n7,8\n9,10\n"])
def test_text_stays_text(tmp_path, raw):
    assert documents(tmp_path / "input.txt", raw) == [raw]


@pytest.mark.parametrize("raw, what", [
    (b"%PDF-1.7\n%\xe2\xe3\n", "PDF"), (b"MThd\0\0\0\x06\0\x01", "MIDI"),
    (b"\x89PNG\r\n\x1a\n\0\0", "PNG"),
    (b"SQLite format 3\0", "SQLite"), (b"\x93NUMPY\x01\0", "NumPy"), (b"\x80\x04\x95\0", "pickle"),
    (b"\xff\xd8\xff\xe0\0", "JPEG"),
    (gzip.compress(gzip.compress(b"text", mtime=0), mtime=0), "gzip"), (b"\x04\x22\x4d\x18", "LZ4"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"), (b"{\\rtf1\\ansi}", "RTF"), (b"PAR1", "--format parquet")])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a"])
def test_what_is_neither_text_nor_rows_is_named_and_never_told_to_run_iconv(tmp_path, raw, what,
                                                                            name):
    line = refusal(tmp_path / name, raw)
    assert what in line and "iconv" not in line and "--encoding" not in line


def test_numbers_and_noise_are_not_text(tmp_path):
    noise = random.Random(5)
    for raw in (b"\0" * 100, bytes(range(256)), noise.randbytes(5000), b"text\0text", b"a\x07b",
                b"\x1b[31mred\x1b[0m",
                "".join(map(chr, range(1, 127))).encode(), b"plain text\n" * 60_000 + b"\0"):
        line = refusal(tmp_path / "a.txt", raw)
        assert "offset" in line, line
        if b"\x80" not in raw and not re.search(rb"[\x80-\xff]", raw):
            assert "--encoding utf-8" in line
            assert documents(tmp_path / "a.txt", raw, encoding="utf-8") == [raw.decode()]


def test_windows_1252_is_named_so_and_not_latin_1(tmp_path):
    raw = "It’s “quoted” – fine…\n".encode("cp1252")
    assert "--encoding cp1252" in (line := refusal(tmp_path / "a.txt", raw))
    assert "LATIN1" not in line
    assert documents(tmp_path / "a.txt", raw, encoding="cp1252") == ["It’s “quoted” – fine…\n"]


def test_an_encoding_that_is_none_or_does_not_fit_is_one_line(tmp_path):
    for name in ("klingon", "base64", "rot13", "", "utf-16\n"):
        with pytest.raises(UserError, match="--encoding"):
            documents(tmp_path / "a.txt", "text", encoding=name or "hex")
    line = refusal(tmp_path / "a.txt", b"abc\x81def", encoding="cp1252")
    assert "cp1252" in line and "offset 3" in line
    line = refusal(tmp_path / "a.txt", "a\n".encode("utf-16-le") * 400_000 + b"\0",
                   encoding="utf-16-le")
    assert "offset 1,600,000" in line


@pytest.mark.parametrize("value",
                         ["NaN", "null", "true", "5", "0.5", "Infinity", '["a"]', '{"a": "b"}'])
def test_what_is_no_string_is_a_bad_row_and_numbers_are_text_by_a_template_alone(tmp_path, value):
    raw = f'{{"text": "a"}}\n{{"text": {value}}}\n'
    assert "line 2" in refusal(tmp_path / "a.jsonl", raw)
    assert documents(tmp_path / "a.jsonl", raw, max_bad_rows=1) == ["a"]
    if value in ("5", "0.5"):
        assert documents(tmp_path / "a.jsonl", raw, text_template="{text}") == ["a", value]
    else:
        assert "line 2" in refusal(tmp_path / "a.jsonl", raw, text_template="{text}")


def test_columns_with_odd_names_are_columns(tmp_path):
    from pipeline.prepare.inputs import read_documents
    (tmp_path / "a.jsonl").write_text('{"text:en": "a", "a.b": "c", "x[0]": "d"}\n')
    assert [list(read_documents(tmp_path / "a.jsonl", column=name))
            for name in ("text:en", "a.b", "x[0]")] == [
        ["a"], ["c"], ["d"]]


@pytest.mark.parametrize("raw, flag",
                         [("id;text\n1;a\n2;b\n", "--delimiter ';'"),
                          ("id|text\n1|a\n", "--delimiter '|'"),
                                       ("id\ttext\n1\ta\n", "--format tsv")])
def test_csv_with_other_delimiters_is_refused_with_the_flag(tmp_path, raw, flag):
    assert flag in refusal(tmp_path / "a.csv", raw)
    assert read_as_advised(tmp_path / "a.csv")[0][0] == "a"


def test_a_header_with_a_column_twice_is_refused(tmp_path):
    assert "'text' twice" in refusal(tmp_path / "a.csv", "text,n,text\na,1,b\n")


EXPORTS = {  # as programs write them: [the contents, the texts]
    "excel.csv": ['\ufeff"id";"text"\r\n"1";"a; b"\r\n"2";"c"\r\n', ["a; b", "c"]],
    "excel_sep.csv": ["sep=;\r\nid;text\r\n1;a, b\r\n2;c\r\n", ["a, b", "c"]],
    "excel_unicode.csv": ['"id"\t"text"\r\n1\t"a, b"\r\n2\tc\r\n'.encode("utf-16"), ["a, b", "c"]],
    "quoted_pipes.csv": ['"id"|"text"\n"1"|"a\n\nb"\n', ["a\n\nb"]],
           "no_name": ['id;text\n1;"a\nb"\n2;c\n', ["a\nb", "c"]],
    "pandas.txt": [",text\n0,a\n1,b\n", ["a", "b"]],
           "lines.txt": ['id,text\n1,"a\nb"\n2,"c\n\nd"\n', ["a\nb", "c\n\nd"]],
    "tatoeba.tsv": ["1\teng\tHello.\n2\teng\tGood bye, all.\n", ["Hello.", "Good bye, all."]],
    "tatoeba": ["1\teng\tHello.\n2\teng\tBye, all.\n3\teng\tSo\n", ["Hello.", "Bye, all.", "So"]],
    "tatoeba.csv": ["1\teng\tHello, all.\n2\teng\tGood bye\n", ["Hello, all.", "Good bye"]],
    "escaped.csv": ['"id","text"\n"1","say \\"hi\\", ok"\n"2","b"\n', ['say "hi", ok', "b"]],
    "escaped_none.csv": ["id,text\n1,a\\, b\n2,c\n", ["a, b", "c"]],
    "mysql.tsv": ["id\ttext\n1\ta\\tb\n2\tc\\nd \\\\\n\\N\te\n", ["a\tb", "c\nd \\", "e"]],
    "strings.txt": ['"a"\n"b\\n"\n"c"\n', ["a", "b\n", "c"]],
           "cut.txt": ['[\n {"text": "a"},\n {"te', None],
    "utf7.txt": ["Ça va, naïve café — voilà\n".encode("utf-7"), "Ça va, naïve café — voilà\n"],
    "hz.txt": ["这是一个文本\n".encode("hz"), "这是一个文本\n"],
           "thai.txt": ["สวัสดีชาวโลก".encode("utf-16-le"), "สวัสดีชาวโลก"],
    "cyrillic.txt": ["Привет, мир!".encode("utf-16-be"), "Привет, мир!"],
           "dos.txt": ["a text\r\n\x1a", "a text\r\n\x1a"],
    "turkish.txt": ["Şu köşe yaz köşesi, ığdır\n".encode("cp1254"), "Şu köşe yaz köşesi, ığdır\n"]}


@pytest.mark.parametrize("name", EXPORTS)
def test_what_programs_export_is_read_with_the_flags_that_the_refusals_name(tmp_path, name):
    raw, texts = EXPORTS[name]
    (tmp_path / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    if texts is None:
        with pytest.raises(UserError, match="--format json"):
            read(tmp_path / name, {})
    else:
        assert read_as_advised(tmp_path / name)[0] == ([texts] if isinstance(texts, str) else texts)


def test_a_column_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    assert '--text_template "{content}"' in refusal(tmp_path / "a.jsonl",
                                                    '{"id": "1", "content": "long text"}\n')
    assert '--text_template "{ Text}"' in (line := refusal(tmp_path / "a.csv",
                                                           "title, Text\nlonger than it,a\n"))
    assert "--no_header" not in line
    with pytest.raises(UserError, match="--columns .*CSV"):
        documents(tmp_path / "a.jsonl", '{"text": "a"}\n', columns=["text"])


@pytest.mark.parametrize("delimiter", ["", "\n", '"', "||"])
def test_a_delimiter_that_is_none_is_one_line(tmp_path, delimiter):
    (tmp_path / "a.csv").write_text("id||text\n1||a\n")
    with pytest.raises(UserError, match="--delimiter"):
        read(tmp_path / "a.csv", {"delimiter": delimiter})
    assert documents(tmp_path / "a.csv", "id||text\n1||a\n", delimiter="||",
                     quoting="none") == ["a"]


def test_a_file_of_two_encodings_is_named_so(tmp_path):
    line = "naïve café, déjà vu\n"
    for raw in (line.encode() * 9 + line.encode("cp1252") * 9,
                line.encode("cp1252") + line.encode() * 9,
                b"a\xed\xa0\xbd\xed\xb8\x80b\n"):
        assert "mixes encodings" in refusal(tmp_path / "a.txt", raw)


@pytest.mark.parametrize("name, raw, told", [
    ("a.docx", lambda: archive("zip", {"[Content_Types].xml": "<x/>"}), "Office"),
    ("a.npz", lambda: archive("zip", {"a.npy": "x"}), "NumPy"),
    ("old.tar", lambda: archive("w", {"a": "b"}).replace(b"ustar", b"\0" * 5), "control character"),
    ("a.csv", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n",
     "git lfs pull"),
    ("a.bz2", lambda: bz2.compress(b"text") + b"more", "damaged"),
    ("b.bz2", lambda: bz2.compress(bz2.compress(b"a")), "twice")])
def test_files_that_only_look_like_others_are_told(tmp_path, name, raw, told):
    assert told in refusal(tmp_path / name, raw())


def test_a_number_of_many_digits_is_a_bad_row(tmp_path):
    assert "line 1" in refusal(tmp_path / "a.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}\n")


# ---- Parquet


def parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the package pyarrow is not installed")
    parquet.write_table(pyarrow.table(columns), path)
    return pyarrow


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")
    odd = {"ns": pyarrow.array([1, 2], pyarrow.timestamp("ns")),
           "d": pyarrow.array([1, 2], pyarrow.duration("ns")),
           "t": pyarrow.array([1, 2], pyarrow.time64("ns")),
           "far": pyarrow.array([10**15] * 2, pyarrow.timestamp("s")),
           "raw": pyarrow.array([b"\xff", b"a"]).cast(pyarrow.binary()).view(pyarrow.string())}
    path = tmp_path / "a.parquet"
    parquet(path, text=["a", "b"], **odd)
    assert read(path, {})[0] == ["a", "b"]
    assert read(path, {"text_template": lambda row: row["text"] * 2})[0] == ["aa", "bb"]
    for name in odd:
        with pytest.raises(UserError,
                           match=f"a.parquet row 1: .*({name}|stands for a text|not a text)"):
            read(path, {"text_template": f"{{text}} {{{name}}}"})
    assert read(path, {"text_template": "{raw}", "max_bad_rows": 1})[0] == ["a"]
    with pytest.raises(UserError, match=r"has no column nope \(there are: text, ns"):
        read(path, {"text_template": "{nope}"})


def test_columns_of_any_kind_and_name_are_read_or_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow = parquet(path, text=["a"], nested=[{"in": "b"}], many=[["c"]],
                      **{"a.b": ["d"], "new\nline": ["e"]})
    for template, text in (("{nested[in]}", "b"), ("{many[0]}", "c"), ("{a.b}", "d")):
        assert read(path, {"text_template": template})[0] == [text]
    for template, told in (("{nested}", "not a text"), ("{nope}", "--text_template")):
        with pytest.raises(UserError, match=told) as error:
            read(path, {"text_template": template})
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--encoding"):
        read(path, {"encoding": "cp1252"})
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(UserError, match="'text' twice"):
        read(path, {})


def test_a_flag_of_rows_on_a_text_is_one_line_and_a_text_may_be_called_bin(tmp_path):
    (tmp_path / "a.bin").write_text("a text\n" * 200)
    assert read(tmp_path / "a.bin", {"format": "text"})[0] == ["a text\n" * 200]
    for told, flag in (({}, "--format text"),
                       ({"format": "text", "text_template": "{a}"}, "--text_template")):
        with pytest.raises(UserError, match=flag):
            read(tmp_path / "a.bin", told)


MEMORY = """
import resource, sys
sys.path[:0] = ["."]
from pipeline.prepare.inputs import open_inputs
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = 0
found = open_inputs(sys.argv[1])
for part in found.utf8() if hasattr(found, "utf8") and found.name.endswith("zst") else found:
    size += len(part)
print(size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.long
def test_large_values_and_packed_zeros_take_little_memory(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="the package zstandard is not installed")
    parquet(tmp_path / "a.parquet", text=["x" * 10_000_000] * 15)
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"a" * 150_000_000))
    for name, size, most in (("a.parquet", 150_000_000, 100), ("a.txt.zst", 150_000_000, 100)):
        run = python("-c", MEMORY, tmp_path / name)
        assert run.returncode == 0, run.stderr
        found, megabytes = map(int, run.stdout.split())
        assert found == size and megabytes < most, f"{name}: {megabytes} MB"


# ---- prepare.py, edited


PROGRAM = "    text, val_text = read_inputs(args)\n"


def edited(folder, edit):
    program = (folder / "prepare.py").read_text()
    assert PROGRAM in program
    (folder / "prepare.py").write_text(program.replace(PROGRAM, f"{PROGRAM}    {edit}\n"))


def text_of(folder):
    dataset = open_dataset(f"{folder}/")
    from pipeline.tokenizers import tokenizer_from_meta
    return [tokenizer_from_meta(dataset.meta).decode(dataset.tokens(split))
            for split in ("train", "val")], dataset.meta


@pytest.mark.parametrize("edit, change", [
    ("text = [t.lower() for t in text]", str.lower), ('text = "".join(text).strip()', str.strip),
    ("text = [t.strip() for t in text]", str.strip),
    ('text = "".join(text).replace("A", "")', lambda t: t.replace("A", ""))])
def test_edits_of_one_text_leave_one_text(new_dataset, edit, change):
    folder, text = new_dataset("edited"), "  One Line of A Text.\n" * 60_000  # of several blocks
    (folder / "input.txt").write_text(text)
    edited(folder, edit)
    assert prepare_here(folder).returncode == 0
    (train, val), meta = text_of(folder)
    assert train + val == change(text) and len(train) == int(len(change(text)) * 0.9)
    assert meta["source"] == "input.txt, edited by prepare.py"


@pytest.mark.parametrize("edit, told", [
    ("text = text.lower()", "t.lower(...)"), ("text = text.strip()", "t.strip(...)"),
    ("text = text[:1000]", "for t in text"),
    ("text = str(text).lower()", "for t in text"), ('text = text + "x"', "for t in text"),
    ("text = text * 2", "for t in text"), ("text[0] = 'a'", "for t in text"),
    ("text.append('a')", "for t in text"),
    ("import re; text = re.sub('a', 'b', text)", "for t in text"),
    ("text = [t.encode() for t in text]", "of the type bytes"),
    ("text = [t.split() for t in text]", "of the type list"),
    ("text = None", "of the type NoneType"), ("n = len(text)", "for t in text")])
@pytest.mark.parametrize("many", [False, True])
def test_what_is_done_to_a_string_is_one_line_with_the_edit_that_works(new_dataset, edit, told,
                                                                       many):
    folder = new_dataset("edited", "A text. " * 50)
    (folder / "more.txt").write_text("More of it. " * 50)
    edited(folder, edit)
    run = prepare_here(folder, "-t", folder / "input.txt",
                 *([folder / "more.txt"] if many else []))
    assert run.returncode == 2 and told in only_line(run.stderr)


@pytest.mark.parametrize("edit, kept", [
    ("text = [t.lower() for t in text]", lambda t: t.lower()),
    ("text = [t for t in text if '7' in t]", lambda t: t * ("7" in t)),
    ("text = [part for t in text for part in t.split(',')]", None),
    ("text = sorted(text)", lambda t: t)])
def test_edits_of_documents_are_made_to_each(new_dataset, edit, kept):
    folder = new_dataset("edited")
    texts = [f"Document {i}, whole" for i in range(100)]
    for i, text in enumerate(texts):
        (folder / f"{i:03}.part").write_text(text)
    edited(folder, edit)
    run = prepare_here(folder, "-t", folder / "*.part")
    assert run.returncode == 0, run.stderr
    wanted = [t for t in map(kept, texts) if t] if kept else [part for t in texts
                                                              for part in t.split(",")]
    (train, val), meta = text_of(folder)
    assert sorted((train + val).splitlines()) == sorted(wanted)
    assert "000.part and 99 more, edited" in meta["source"]


def test_documents_joined_with_nothing_between_them_are_one_line(new_dataset):
    folder = new_dataset("edited")
    for i in range(9):
        (folder / f"{i}.part").write_text(f"winter{i}ca")
    edited(folder, 'text = "".join(text)')
    run = prepare_here(folder, "-t", folder / "*.part")
    assert run.returncode == 2 and "'winter0cawinter1ca'" in only_line(run.stderr)
    program = (folder / "prepare.py").read_text()
    (folder / "prepare.py").write_text(program.replace('text = "".join', 'text = "\\n".join'))
    assert prepare_here(folder, "-t", folder / "*.part").returncode == 0
    assert "".join(text_of(folder)[0]) == "\n".join(f"winter{i}ca" for i in range(9))


def test_rows_are_not_glued_by_the_default_method(new_dataset):
    folder = new_dataset("tables")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": f"winter{i}"}) + "\n"
                                            for i in range(99)) + '{"text": ""}\n')
    for flags, end in (([], "\n"), (["--document_end", " | "], " | "),
                       (["--document_end", ""], "")):
        run = prepare_here(folder, "-t", folder / "a.jsonl", *flags)
        assert run.returncode == 0, run.stderr
        (train, val), meta = text_of(folder)
        assert re.findall(r"winter\d+" + re.escape(end), train + val) and len(train + val) == sum(
            len(f"winter{i}{end}") for i in range(99))
        assert meta["splits"]["train"]["documents"] + meta["splits"]["val"]["documents"] == 99


def test_a_killed_reader_of_a_pipe_leaves_nothing_behind(tmp_path, new_dataset):
    folder = new_dataset("piped")
    code = (f"import os, signal, sys; sys.path.insert(0, {str(folder.parents[1])!r}); from "
            f"pipeline.prepare.inputs import open_inputs; "
            f"text = open_inputs('-'); os.kill(os.getpid(), signal.SIGKILL)")
    (tmp_path / "tmp").mkdir()
    run = subprocess.run([sys.executable, "-c", code], input=b"text " * 1000,
                         env={"TMPDIR": str(tmp_path / "tmp")})
    assert run.returncode == -9 and not list((tmp_path / "tmp").iterdir())
