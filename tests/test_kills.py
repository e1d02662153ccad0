"""Interruptions while a dataset is written (pipeline/prepare/journal.py, commit.py, encode.py).

Run: python -m pytest tests/test_kills.py            (hundreds of them: add -m "long or not long")
An interruption comes at the n-th call that touches a file, in a forked child: a signal before or
after it, or an error in its place. That takes no tracer, and reaches each call of the swap.
"""
import builtins
import contextlib
import errno
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import child_env, only_line

from pipeline import files as files_module
from pipeline.errors import UserError, one_line_errors
from pipeline.files import lock, replacing, scratch_folder
from pipeline.prepare import journal as journal_module
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.tokenizers import ByteTokenizer
from training.checkpoint import save_checkpoint

SPLITS = ("train", "val")
TEXTS = {name: "".join(random.Random(name).choices("abcdefgh \n", k=k)) for name, k in
         (("older", 9000), ("newer", 12_000), ("other", 7000))}
# documents, some of which have a mask that begins in the second unit
DOCUMENTS = {name: [[(text[i : i + 40], i < 4000 or i % 3 > 0), (text[i + 40 : i + 99], True)]
                    for i in range(0, len(text), 99)] for name, text in TEXTS.items()}
DOCUMENTS["other"] = TEXTS["other"]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Counting(ByteTokenizer):
    """Bytes; counts the units that it encodes, and stops at one of them."""

    def __init__(self, stop_at=None):
        self.calls, self.stop_at = 0, stop_at

    def encode(self, text):
        self.calls += 1
        if self.calls == self.stop_at:
            raise RuntimeError("stopped")
        return super().encode(text)


def write(folder, text, tokenizer=None):
    write_dataset(folder, text, tokenizer or Counting(), unit_size=3000, num_workers=1)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith(".lock")}


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Nothing here cuts the power, and a disk is slow."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{name of a text: the files of its dataset}"""
    return whole_of(TEXTS, tmp_path_factory)


@pytest.fixture(scope="module")
def whole_documents(tmp_path_factory):
    return whole_of(DOCUMENTS, tmp_path_factory)


def whole_of(texts, tmp_path_factory):
    found = {}
    for name, text in texts.items():
        folder = tmp_path_factory.mktemp(name) / "mine"
        folder.mkdir()
        write(folder, text)
        found[name] = contents(folder)
    return found


class Fault:
    """Makes the n-th call that touches a file, from 1 on, fail, or be met by a signal."""

    def __init__(self, n, how, after=False):
        self.n, self.how, self.after, self.calls, self.lock = n, how, after, [], threading.Lock()

    def counted(self, name, real):
        def call(*args, **kw):
            with self.lock:
                self.calls.append((name, *args[:1]))
                hit = len(self.calls) == self.n
            if hit and self.how in ("EIO", "ENOSPC"):
                raise OSError(number := getattr(errno, self.how), os.strerror(number))
            if hit and not self.after:
                self.kill()
            result = real(*args, **kw)
            if hit and self.after:
                self.kill()
            return result
        return call

    def kill(self):
        os.kill(os.getpid(), getattr(signal, self.how))
        time.sleep(0.01)  # the main thread raises, whichever was hit

    def put_in(self):
        """For good: this is a child's."""
        for name in ("open", "fsync", "replace", "unlink", "rename", "stat"):
            setattr(os, name, self.counted(name, getattr(os, name)))
        opened = self.counted("open", builtins.open)
        for module in (journal_module, files_module):
            module.open = lambda *args, **kw: _File(opened(*args, **kw), self)


class _File:
    """A file whose calls are counted."""

    def __init__(self, file, fault):
        self.file = file
        for name in ("read", "readline", "write", "flush", "truncate", "seek", "close"):
            setattr(self, name, fault.counted(name, getattr(file, name)))

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def in_child(tmp_path, fault, work):
    """(exit status, stderr) of work() in a child with the fault; a signal's status is negative."""
    with open(tmp_path / "stderr", "w+b") as stderr:
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                os.dup2(stderr.fileno(), 2)
                sys.stderr = open(2, "w", closefd=False)
                sys.stdout = open(os.devnull, "w")
                fault.put_in()
                try:
                    with one_line_errors():
                        work()
                    status = 0
                except SystemExit as exit:
                    status = exit.code
                sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stderr.seek(0)
        return status, stderr.read().decode()


def calls_of(tmp_path, work):
    """The calls of an undisturbed work()."""
    fault = Fault(0, "")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "fsync", "replace", "unlink", "rename", "stat"):
            patch.setattr(os, name, getattr(os, name))
        for module in (journal_module, files_module):
            patch.setattr(module, "open", open, raising=False)
        fault.put_in()
        work()
    return fault.calls


class OpenRun:
    """A dataset as train.py holds it, and what its tokens are."""

    def __init__(self, folder):
        self.dataset = open_dataset(f"{folder}/")
        self.maps = [self.dataset.tokens(split) for split in SPLITS]
        self.before = [tokens.tobytes() for tokens in self.maps]

    def is_unchanged(self):
        return (self.before == [tokens.tobytes() for tokens in self.maps]
                == [self.dataset.tokens(split).tobytes() for split in SPLITS])


def state_of(folder, whole):
    """Which text's dataset the folder holds; None where it is visibly not whole. Else it fails."""
    try:
        dataset = open_dataset(f"{folder}/")
    except FileNotFoundError as error:
        assert str(error).startswith(f"{folder} is ") and "prepare.py" in str(error), error
        return None
    files = contents(folder)
    found = [name for name, state in whole.items() if state.items() <= files.items()]
    assert found and dataset.tokens("train").tobytes() == files["train.bin"]
    return found[0]


def new_folder(parent, kind, texts=TEXTS):
    """A folder with the older text's dataset: plain, a link to one, or its bins being links."""
    (parent / "disk").mkdir(parents=True)
    folder = parent / "mine"
    folder.symlink_to(parent / "disk") if kind == "linked folder" else folder.mkdir()
    write(folder, texts["older"])
    if kind == "linked bins":
        for split in SPLITS:
            (folder / f"{split}.bin").rename(parent / "disk" / f"{split}.bin")
            (folder / f"{split}.bin").symlink_to(parent / "disk" / f"{split}.bin")
    return folder


def check_interruption(tmp_path, whole, n, how, after, follow, kind, in_the_swap, texts=TEXTS):
    """Interrupt a preparation beside an open run; then other commands; then the same one."""
    folder = new_folder(tmp_path, kind, texts)
    run = OpenRun(folder)
    status, told = in_child(tmp_path, Fault(n, how, after), lambda: write(folder, texts["newer"]))
    assert status in ({"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 143}.get(how, 2), 0), told
    assert len(told.strip().splitlines()) == (status in (2, 130, 143)), told
    assert run.is_unchanged()
    state = state_of(folder, whole)
    assert state in ("older", "newer", None)
    if status == 2 and how == "ENOSPC":
        assert ("half-written" in told) == (state is None), told
    if state and status:  # a second run, of what is there now
        runs = [run, OpenRun(folder)]
    else:
        runs = [run]
    if follow == "copied":  # a copy by hard links, and work in the copy
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in folder.iterdir():
            if not path.is_symlink():
                os.link(path, copy / path.name)
        before = contents(folder)
        write(copy, texts["newer"])
        write(copy, texts["other"])
        assert contents(folder) == before and contents(copy) == whole["other"]
    if follow == "refused":
        with pytest.raises(UserError, match="is empty"):
            write(folder, "")
        assert state_of(folder, whole) == state
    if follow == "other":
        write(folder, texts["other"])
        assert contents(folder) == whole["other"]
    if follow == "interrupted":
        text, n = random.Random(n).choice(["newer", "other"]), random.Random(n).randrange(1, n + 20)
        _, told = in_child(tmp_path, Fault(n, "SIGKILL", after), lambda: write(folder, texts[text]))
        assert state_of(folder, whole) in ("older", "newer", "other", None)
    assert all(run.is_unchanged() for run in runs)
    tokenizer = Counting()
    write(folder, texts["newer"], tokenizer)
    assert contents(folder) == whole["newer"] and all(run.is_unchanged() for run in runs)
    if in_the_swap and follow in ("", "copied") and state != "newer":
        # all that was encoded is kept; the end of documents is tried
        assert tokenizer.calls == (texts is DOCUMENTS)
    return status != 0, state


HOW = [("SIGKILL", False), ("SIGKILL", True), ("SIGINT", False), ("SIGINT", True),
       ("SIGTERM", False), ("EIO", False), ("ENOSPC", False)]


def swap_of(tmp_path, texts=TEXTS):
    """(the number of the first call of the swap, that of the last)."""
    folder = new_folder(tmp_path, "plain", texts)
    calls = calls_of(tmp_path, lambda: write(folder, texts["newer"]))
    first = next(i for i, call in enumerate(calls, 1) if "meta.pkl.new" in str(call))
    return first, len(calls)


def test_an_interrupted_swap_touches_nothing_open_and_the_same_command_finishes_it(tmp_path, whole,
                                                                                   capfd):
    first, last = swap_of(tmp_path / "0")
    assert last - first > 12
    found = []
    for n, (how, after) in zip(range(first, last + 1, 2), itertools.cycle(HOW)):
        (tmp_path / f"{n}").mkdir()
        case = tmp_path / f"{n}", whole, n, how, after, "", "plain"
        found.append(check_interruption(*case, in_the_swap=True))
    assert {state for hit, state in found if hit} == {"older", "newer", None}


@pytest.mark.long
def test_an_interrupted_swap_of_a_mask_and_an_index_is_finished_by_the_same_command(
        tmp_path, whole_documents, capfd):
    first, last = swap_of(tmp_path / "0", DOCUMENTS)
    found = []
    for n, (how, after) in zip(range(first, last + 1, 5), itertools.cycle(HOW)):
        (tmp_path / f"{n}").mkdir()
        case = tmp_path / f"{n}", whole_documents, n, how, after, "", "plain"
        found.append(check_interruption(*case, in_the_swap=True, texts=DOCUMENTS))
    assert {state for hit, state in found if hit} >= {"older", None}


def test_a_bin_of_an_interrupted_swap_is_copied_where_it_must_grow(tmp_path, capfd):
    folder, fresh, longer = tmp_path / "mine", tmp_path / "fresh", TEXTS["newer"] + TEXTS["older"]
    folder.mkdir()
    fresh.mkdir()
    write(fresh, longer)
    calls = calls_of(fresh, lambda: write(fresh, longer))
    last_rename = max(n for n, call in enumerate(calls, 1) if call[0] == "replace")
    _, told = in_child(tmp_path, Fault(last_rename, "SIGKILL"), lambda: write(folder, longer))
    assert state_of(folder, {}) is None and not list(folder.glob("*.bin.tmp"))
    with open(folder / "train.bin", "rb") as held:
        before, again = held.read(), Counting()
        write(folder, longer + TEXTS["other"], again)
        held.seek(0)
        assert held.read() == before and 0 < again.calls < 8
    write(fresh, longer + TEXTS["other"])
    assert contents(folder) == contents(fresh)


@pytest.mark.long
@pytest.mark.parametrize("texts", [TEXTS, DOCUMENTS], ids=["texts", "documents"])
def test_500_interruptions_beside_an_open_run_never_change_its_tokens(tmp_path, tmp_path_factory,
                                                                      capfd, texts):
    whole = whole_of(texts, tmp_path_factory)
    first, last = swap_of(tmp_path / "0", texts)
    draw, kinds = random.Random(13), ["plain", "linked folder", "linked bins"]
    cases = [(n, how, after) for n in range(first, last + 1) for how, after in HOW]
    num_others = max(100, 520 - len(cases))
    cases += [(draw.randrange(1, first), *draw.choice(HOW)) for _ in range(num_others)]
    assert len(cases) >= 500
    num_hit, states = 0, []
    for i, (n, how, after) in enumerate(cases):
        (tmp_path / "a").mkdir()
        follow = draw.choice(["", "copied", "refused", "other", "interrupted"])
        case = tmp_path / "a", whole, n, how, after, follow, draw.choice(kinds)
        hit, state = check_interruption(*case, in_the_swap=n >= first, texts=texts)
        num_hit, states = num_hit + hit, [*states, state]
        (tmp_path / "a").rename(tmp_path / f"done{i}")
        subprocess.run(["rm", "-r", tmp_path / f"done{i}"], check=True)
    print(f"{len(cases)} interruptions, {num_hit} of them fatal; left {states.count('older')} "
          f"older, {states.count('newer')} newer, {states.count(None)} half-written")
    assert num_hit > 450 and min(map(states.count, ("older", "newer", None))) > 20


# ---- units.tmp, damaged


def damaged(raw, draw):
    """A journal with something of it changed."""
    lines, how = raw.splitlines(keepends=True), draw.randrange(9)
    at, other = draw.randrange(len(raw)), draw.randrange(len(lines))
    if how == 0:
        return raw[:at]
    if how == 1:
        return raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]
    if how == 2:
        return raw[:at] + draw.randbytes(draw.randrange(1, 9)) + raw[at + draw.randrange(9) :]
    if how == 3:
        return b"".join(draw.sample(lines, len(lines)))
    if how == 4:
        return b"".join(lines[:other] + lines[other : other + 1] * 2 + lines[other + 1 :])
    if how == 5:
        return b"".join(lines[:other] + lines[other + 1 :])
    if how == 6:  # another number, of the same length or not
        digits = [i for i, byte in enumerate(raw) if 48 <= byte < 58]
        at = draw.choice(digits)
        return raw[:at] + str(draw.choice([0, 7, 10**4, 10**30, -1, 1e9])).encode() + raw[at + 1 :]
    if how == 7:  # other values in a line
        what = draw.choice([b"null", b"[]", b"{}", b"1", b"[[1, 2], 3]", b'"x"', b"[" * 999])
        return b"".join(lines[:other]) + what + b"\n" + b"".join(lines[other + 1 :])
    raw = raw.replace(b'"tokens"', b'"tokenz"', draw.randrange(1, 5))
    return raw + draw.randbytes(draw.choice([0, 9, 10**6]))


@pytest.mark.parametrize("num_damages", [100, pytest.param(10_000, marks=pytest.mark.long)])
def test_whatever_is_damaged_in_units_tmp_bins_and_counts_are_right(tmp_path, whole, capfd,
                                                                    num_damages):
    resource = pytest.importorskip("resource")
    with pytest.raises(RuntimeError, match="stopped"):
        write(tmp_path, TEXTS["newer"], Counting(stop_at=5))
    left = contents(tmp_path)
    assert left.keys() == {"train.bin.tmp", "val.bin.tmp", "units.tmp"}
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    draw, folder, num_gone_on = random.Random(4), tmp_path / "mine", 0
    folder.mkdir()
    for _ in range(num_damages):
        for name, raw in left.items():
            (folder / name).write_bytes(damaged(raw, draw) if name == "units.tmp" else raw)
        tokenizer = Counting()
        write(folder, TEXTS["newer"], tokenizer)
        assert contents(folder) == whole["newer"]
        num_gone_on += tokenizer.calls < 5
        for path in folder.glob("*.*"):
            path.unlink()
    assert num_damages * 0.3 < num_gone_on  # what is whole of a journal still counts
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 300_000  # kilobytes


STRANGE = ["pipe", "dangling link", "link to a bin", "hard link to a bin"]


@pytest.mark.parametrize("name", ["train.bin.tmp", "val.bin.tmp", "units.tmp", "meta.pkl.new"])
@pytest.mark.parametrize("kind", STRANGE)
def test_nothing_is_written_through_a_strange_temporary_file(tmp_path, whole, capfd, name, kind):
    check_strange(tmp_path, whole, name, kind, TEXTS)


@pytest.mark.parametrize("name", ["train.mask.bin.tmp", "val.docs.tmp", "train.docs.bin.tmp",
                                  "docs.json.tmp"])
@pytest.mark.parametrize("kind", STRANGE)
def test_nor_is_a_part_of_documents(tmp_path, whole_documents, capfd, name, kind):
    check_strange(tmp_path, whole_documents, name, kind, DOCUMENTS)


def check_strange(tmp_path, whole, name, kind, texts):
    folder = new_folder(tmp_path, "plain", texts)
    run, elsewhere = OpenRun(folder), tmp_path / "elsewhere"
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "hard link to a bin":
        os.link(folder / "train.bin", folder / name)
    else:
        (folder / name).symlink_to(elsewhere if kind == "dangling link" else folder / "train.bin")
    write(folder, texts["newer"])
    assert contents(folder) == whole["newer"] and run.is_unchanged() and not elsewhere.exists()
    assert not any((folder / f"{split}.bin").is_symlink() for split in SPLITS)


# ---- the errors in words


@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_is_one_line_and_the_same_command_goes_on(tmp_path, capfd, name, status):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]

    class Stopping(Counting):
        def encode(self, text):
            if self.calls == 3:
                os.kill(os.getpid(), getattr(signal, name))
            return super().encode(text)
    with pytest.raises(SystemExit) as exit, one_line_errors():
        write(tmp_path, TEXTS["newer"], Stopping())
    told = capfd.readouterr().err.strip()
    assert exit.value.code == status and "same command" in told
    assert len(told.splitlines()) == 1 and (name in told or name == "SIGINT")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == handlers
    again = Counting()
    write(tmp_path, TEXTS["newer"], again)
    assert again.calls == 2


def test_a_signal_that_the_parent_has_had_ignored_is_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with one_line_errors():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("error, told", [
    (MemoryError(), "out of memory"), (RuntimeError("can't start new thread"), "new thread"),
    (ImportError("x.so: failed to map segment from shared object"), "x.so"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk is full")])
def test_too_little_of_the_machine_is_one_line(capfd, error, told):
    with pytest.raises(SystemExit) as exit, one_line_errors():
        raise error
    line = only_line(capfd.readouterr().err)
    assert exit.value.code == 2 and told in line
    assert "ulimit -a" in line or error.args[0] == errno.EDQUOT


@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_locks_is_named_with_a_command(tmp_path, monkeypatch, capfd, number):
    fcntl = pytest.importorskip("fcntl")

    def flock(file, how):
        raise OSError(getattr(errno, number), "No locks available")
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(SystemExit), one_line_errors():
        write(tmp_path, TEXTS["newer"])
    line = only_line(capfd.readouterr().err)
    assert line.count(f"{tmp_path}") > 1 and f"mv {tmp_path} /a/local/disk/ && ln" in line


def test_a_lock_that_waits_is_had_when_the_other_one_ends(tmp_path, capfd):
    had = []

    def wait():
        with lock(tmp_path, "prepare.py", wait=True):
            had.append("waited")
    with lock(tmp_path, "prepare.py"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
        had.append("first")
    thread.join(10)
    assert had == ["first", "waited"] and "another prepare.py" in capfd.readouterr().err


def test_two_that_want_a_rank_file_for_the_first_time_fetch_it_once(tmp_path, monkeypatch):
    from pipeline.get import download, merge_files
    fetched = []

    def fetch(url, path, sha256, tries):
        fetched.append(url)
        time.sleep(0.3)
        with replacing(path) as file:
            file.write(b"the ranks")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(download, "download", fetch)
    monkeypatch.setattr(merge_files, "_has_hash", lambda path, sha256: path.exists())
    errors = []

    def fill():
        try:
            merge_files._fill_cache("r50k_base")
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=fill) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not errors and len(fetched) == 1


# ---- what a kill leaves


def test_what_a_kill_leaves_is_gone_after_the_same_command(tmp_path):
    (tmp_path / "a.tmp").write_bytes(b"half of it")
    with replacing(tmp_path / "a") as file:
        file.write(b"whole")
    (tmp_path / "pip.tmp").mkdir()
    (tmp_path / "pip.tmp" / "half.whl").touch()
    with scratch_folder(tmp_path / "pip.tmp") as folder:
        assert not list(folder.iterdir())
    (tmp_path / "best.pt.tmp").write_bytes(b"as large as a checkpoint")
    save_checkpoint(tmp_path, {"iter_num": 1}, is_best=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "ckpt.pt"]


def test_a_new_dataset_whose_making_was_killed_is_made_by_the_same_command(repo, new_dataset):
    (repo / "data" / ".new.begun").mkdir()
    (repo / "data" / ".new.begun" / "half").touch()
    made = sorted(path.name for path in new_dataset("begun").iterdir())
    assert made == ["README.md", "get_dataset.sh", "prepare.py"]
    assert not list((repo / "data").glob(".new.*"))


@pytest.mark.skipif(not Path("/proc").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("name, script", [
    ("SIGKILL", "prepare.py"), pytest.param("SIGTERM", "prepare.py", marks=pytest.mark.long),
    pytest.param("SIGKILL", "get_dataset.sh", marks=pytest.mark.long),
    pytest.param("SIGTERM", "get_dataset.sh", marks=pytest.mark.long)])
def test_workers_end_with_their_parent(new_dataset, tmp_path, name, script):
    folder = new_dataset("orphans", "the cat and the dog, " * 400_000)
    (tmp_path / "tokens.json").write_text('["the ", "and "]')
    flags = ["--method=custom", "--tokens_file", tmp_path / "tokens.json", "--byte_fallback",
             "--num_workers=2"]
    if script == "get_dataset.sh":  # as its author would write it
        text = (folder / script).read_text().rstrip()
        (folder / script).write_text(f"{text} {' '.join(map(str, flags))}\n")
        command = ["bash", folder / script]
    else:
        command = [sys.executable, folder / script, *flags]
    process = subprocess.Popen(command, env=child_env(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(of_session(process.pid)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)  # until there are it, two workers, and what multiprocessing adds
    assert len(of_session(process.pid)) == 4
    process.send_signal(getattr(signal, name))
    status = process.wait(20)
    deadline = time.monotonic() + 10
    while left := of_session(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    if name == "SIGTERM":
        assert status == 143 and "SIGTERM" in process.stderr.read()
    process.stderr.close()


def of_session(number):
    """The processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z":
                found.append(int(path.parent.name))
    return found
