"""Files and JSON from addresses: resumed, retried, verified. The only module that speaks HTTP.

    download(url, path, sha256=...)   one file
    download_all(files, folder)       several RemoteFiles at once
    get_json(url)                     an answer of a web API

As a command: python pipeline/get/download.py URL FILE [SHA256]

A file grows as FILE.part, which is checked and then renamed, so FILE is complete or absent.
Environment: DATASET_MIRROR, HF_ENDPOINT, HF_TOKEN (see addresses.py), HTTPS_PROXY and NO_PROXY,
REQUESTS_CA_BUNDLE.

Nothing that a server sends is trusted. Every body is limited by the known size, by LARGEST_ANSWER
or by the disk; bodies of redirects and error pages are not read; text that is printed has passed
plain() or printable_address().
"""
import contextlib
import errno
import hashlib
import json
import os
import queue
import random
import re
import shutil
import sys
import threading
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[2]))  # the repo root, as a script
from pipeline.errors import UserError, one_line_errors, plain, resumable
from pipeline.files import lock, sync_folder
from pipeline.get.addresses import hub_endpoint, hub_token, is_on_hub, mirrored, printable_address

TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
CHUNK = 1 << 16  # bytes; a broken connection or a kill loses less than that
THREADS = 4  # files downloaded at once
RETRY_STATUS = {408, 429, *range(500, 600)}
LONGEST_WAIT = 300  # seconds; the hub counts requests over five minutes
LARGEST_ANSWER = 10_000_000  # bytes of JSON; a page of the hub has a thousand entries, 0.6 MB
REPOSITORY = re.compile(r"(.*?)/(?:api/(?:models/)?)?((?:datasets/)?[^/]+/[^/]+)"
                        r"(?:/(?:revision|tree|resolve)/|$)")  # a page of the hub, in its address
PROXY_LOGIN = ("the proxy asks for a name and a password. "
               "Set HTTPS_PROXY=http://name:password@host:port")


class DownloadError(UserError):
    """An address did not give its file. A caller that knows a second place may go there."""


class NotFound(DownloadError):
    """The address does not exist."""


@dataclass(frozen=True)
class RemoteFile:
    url: str
    path: Path
    size: int | None = None  # bytes
    digest: str | None = None  # 64 hex digits: sha256; 40: git's blob id, which the hub has instead

    def is_complete(self):
        """Whether path holds this very file. Without a digest that cannot be known: False."""
        if self.digest is None or not self.path.is_file():
            return False
        has_size = self.size in (None, self.path.stat().st_size)
        return has_size and _digest(self.path, self.digest) == self.digest

    def missing_bytes(self):
        """The bytes still to fetch, judged by sizes; 0 if the size is unknown."""
        there = [p.stat().st_size for p in (self.path, _part(self.path)) if p.is_file()]
        return max(0, (self.size or 0) - max(there, default=0))


def download(url, path, sha256=None, tries=5):
    """Fetch url into path, unless path has that sha256 already. Returns path."""
    path = Path(path)
    download_all([RemoteFile(url, path, digest=sha256)], path.parent, tries=tries)
    return path


@resumable()
def download_all(files, folder, tries=5):
    """Fetch RemoteFiles that lie below folder, THREADS at once; complete ones are kept.

    A broken transfer continues where it stopped. A later run continues it too if the file has a
    digest, which proves that the pieces belong together. tries: the network errors or busy answers
    in a row after which DownloadError is raised.
    """
    if len(files) == 1 and files[0].is_complete():
        return  # without a lock, a thread or an import
    import requests  # slow, and most callers have their files already
    folder.mkdir(parents=True, exist_ok=True)
    todo, done = iter(files), queue.SimpleQueue()
    with lock(folder, "download"):
        _refuse_full_disk(folder, files)
        progress = _Progress(files, folder)
        threads = []
        try:
            for _ in files[:THREADS]:
                args = requests.Session(), todo, done, tries, progress
                threads.append(threading.Thread(target=_work, args=args, daemon=True))
                threads[-1].start()
            for _ in files:
                if error := done.get():
                    if getattr(error, "errno", None) == errno.ENOSPC:
                        _refuse_full_disk(folder, files)  # which says how much is needed
                    raise error
        finally:
            progress.stopped = True
            deadline = time.monotonic() + 2
            for thread in threads:  # a thread that waits for a server ends with the process
                thread.join(max(0, deadline - time.monotonic()))
            progress.bar.close()


def _work(session, todo, done, tries, progress):
    """A thread: fetch files of `todo`, an iterator that all threads share, and put None or an
    exception into `done` for each."""
    with session:
        for file in todo:
            try:
                _fetch(session, file, tries, progress)
                done.put(None)
            except BaseException as error:  # the main thread raises it
                done.put(error)
                return


class _Progress:
    """The progress bar that all threads share. Once `stopped` is set, each of them gives up."""

    def __init__(self, files, folder):
        from tqdm import tqdm
        name = f"{folder.parent.name}, {len(files)} files" if files[1:] else files[0].path.name
        size = sum(file.size or 0 for file in files) or None
        self.bar = tqdm(desc=plain(name), total=size, unit="B", unit_scale=True, disable=None)
        self.lock, self.stopped = threading.Lock(), False

    def add(self, num_bytes):
        if self.stopped:
            raise InterruptedError("another file failed")
        with self.lock:
            self.bar.update(num_bytes)

    def expect(self, num_bytes):
        with self.lock:
            self.bar.total = (self.bar.total or 0) + num_bytes


def _refuse_full_disk(folder, files):
    needed, free = sum(file.missing_bytes() for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder} has {readable_size(free)} free, but the download needs "
                        f"{readable_size(needed)}. Free some space, make the folder a link to a "
                        f"larger disk, or take fewer files where there is the flag --max_shards")


def _fetch(session, file, tries, progress):
    """Fetch one file: continue its .part, check the digest, rename."""
    if file.is_complete():
        return progress.add(file.size or 0)
    file.path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(file.path)
    if not file.digest:  # nothing would prove that an earlier run's piece fits
        part.unlink(missing_ok=True)
    resumed = part.exists()
    transfer = _Transfer(session, file, part, progress)
    while True:
        _persist(transfer.fetch_rest, transfer.url, tries, progress=transfer.have)
        actual = _digest(part, file.digest) if file.digest else None
        if actual == file.digest:
            break
        progress.add(-transfer.have())
        part.unlink()
        if not resumed:
            kind = "sha256" if len(actual) == 64 else "git blob id"
            raise DownloadError(f"{printable_address(transfer.url)}: the file's {kind} is "
                                f"{actual}, but {file.digest} was expected. The file was deleted")
        resumed = False  # the earlier run's piece may be the wrong one: once more from the start
    os.replace(part, file.path)
    sync_folder(file.path.parent)


class _Transfer:
    """One file's bytes on their way into its .part, over as many requests as that takes."""

    def __init__(self, session, file, part, progress):
        self.session, self.file, self.part, self.progress = session, file, part, progress
        self.url, self.etag, self.expected = mirrored(file.url), None, file.size
        progress.add(self.have())

    def have(self):
        return self.part.stat().st_size if self.part.exists() else 0

    def restart(self, why):
        self.progress.add(-self.have())
        self.part.unlink(missing_ok=True)
        raise EOFError(why)

    def fetch_rest(self):
        """Make one request for the bytes that are missing. EOFError if some are missing still."""
        have = self.have()
        headers = {"Accept-Encoding": "identity"}  # bytes are counted and hashed as they arrive
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.etag:  # the server sends the whole file if it has changed in the meantime
                headers["If-Range"] = self.etag
        with _get(self.session, self.url, headers) as response:
            if response.status_code == 416 and have:  # we have all of it, or too much
                if (response.headers.get("Content-Range") == f"bytes */{have}"
                        and self.expected in (None, have)):
                    return
                self.restart("the partial file did not fit and was deleted")
            _refuse_status(response, self.url, (200, 206) if have else (200,))
            if response.status_code == 200 and have:  # the server sends the file from its start
                self.progress.add(-have)
                have = 0
            self._write(response, have, *self._announced(response, have))

    def _announced(self, response, have):
        """(position in the file where this body ends, the file's size), each None if unstated."""
        length = _length(response)
        end, total = None if length is None else have + length, None
        if response.status_code == 206:
            pattern = r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)"
            stated = re.fullmatch(pattern, response.headers.get("Content-Range", ""))
            if not stated or int(stated[1]) != have or end not in (None, int(stated[2]) + 1):
                raise EOFError("the server sent another part of the file than was requested")
            end, total = int(stated[2]) + 1, None if stated[3] == "*" else int(stated[3])
        elif response.status_code == 200:
            total = end
        if self.file.size is not None and total not in (None, self.file.size):
            raise DownloadError(f"has {total:,} bytes, but {self.file.size:,} were expected. The "
                                "file was not downloaded")
        etag = response.headers.get("ETag", "")
        etag = etag if re.fullmatch(r'"[!#-~]{0,200}"', etag) else None  # weak ones do not count
        if have and (self.etag and etag not in (None, self.etag)
                     or total is not None and self.expected not in (None, total)):
            self.etag, self.expected = None, self.file.size
            self.restart("the file changed during the download")
        self.etag = etag
        if total and self.expected != total:
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
                for chunk in _raw_chunks(response):
                    self.progress.add(len(chunk))  # raises if the download was stopped
                    file.write(chunk)
                    if file.tell() > limit:
                        break
            except urllib3.exceptions.ProtocolError:
                if not bounds:  # otherwise the comparison below notices it
                    raise EOFError(f"the connection broke off at {file.tell():,} bytes") from None
            file.flush()
            os.fsync(file.fileno())
        if self.have() > limit and not bounds:  # a second try would fill the disk again
            self.part.unlink()
            raise DownloadError(f"sent {limit:,} bytes, nine tenths of the disk's free space, and "
                                "did not end. They were deleted")
        if self.have() > limit:
            self.restart("the server sent more bytes than it had announced")
        if bounds and self.have() < max(bounds):
            raise EOFError(f"the connection ended at {self.have():,} of {max(bounds):,} bytes")
        if not (bounds or self.file.digest or _is_chunked(response)):
            print(f"note: {printable_address(self.url)} did not state its length, so its "
                  f"{self.have():,} bytes may be a part of the file only", file=sys.stderr)


@resumable()
def get_json(url, tries=5):
    """(the value, the address of the next page or None) of an answer. Raises DownloadError."""
    import requests
    url = mirrored(url)

    def ask():
        headers = {"Accept-Encoding": "gzip"}
        with requests.Session() as session, _get(session, url, headers) as response:
            _refuse_status(response, url)
            body = _unpacked_body(response)
            try:
                return json.loads(body), response.links.get("next", {}).get("url")
            except (ValueError, RecursionError):
                raise DownloadError("did not answer with JSON. Is a login page of this network in "
                                    "the way, or HF_ENDPOINT wrong?") from None
    return _persist(ask, url, tries)


def _unpacked_body(response):
    """The bytes of an answer: at most LARGEST_ANSWER, both as sent and as unpacked."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise DownloadError(f"answered in the unrequested encoding {plain(encoding)[:40]!r}")
    unpacker = zlib.decompressobj(wbits=47) if encoding not in ("", "identity") else None
    body, num_sent, deadline = bytearray(), 0, time.monotonic() + LONGEST_WAIT
    for chunk in _raw_chunks(response):
        num_sent += len(chunk)
        try:
            room = LARGEST_ANSWER + 1 - len(body)
            body += unpacker.decompress(chunk, room) if unpacker else chunk
        except zlib.error:
            raise EOFError("the compressed answer is damaged") from None
        if max(num_sent, len(body)) > LARGEST_ANSWER:
            raise DownloadError(f"answered with more than {LARGEST_ANSWER:,} bytes. Is HF_ENDPOINT "
                                "right?")
        if time.monotonic() > deadline:
            raise EOFError("the answer was not complete in time")
    length = _length(response)
    if unpacker and not unpacker.eof or length not in (None, num_sent):
        raise EOFError(f"the answer broke off after {num_sent:,} bytes")
    return bytes(body)


# ---- one request


def _get(session, url, headers):
    """The answer to a GET after redirects; neither its body nor a redirect's has been read."""
    import requests
    import urllib3
    token = hub_token()[0] if is_on_hub(url) else None

    def sign(request):  # requests drops this header where a redirect leads to another host
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    def leave_body(response, **kw):  # requests would unpack all of it into memory
        if response.is_redirect:
            response.raw.close()
    try:
        options = dict(auth=sign if token else None, hooks={"response": leave_body})
        return session.get(url, headers=headers, stream=True, timeout=TIMEOUT, **options)
    except (urllib3.exceptions.LocationValueError, UnicodeError):
        raise requests.exceptions.InvalidURL from None
    except (OSError, urllib3.exceptions.HTTPError):  # requests' own errors are OSErrors
        raise
    except Exception:  # a malformed address or proxy makes the libraries raise almost anything
        raise requests.exceptions.InvalidURL from None


def _raw_chunks(response):
    """The body in pieces, as sent, even if the server compressed it. EOFError if it is damaged."""
    import urllib3
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError):
        raise
    except Exception:  # urllib3's own, for example for a chunk of negative length
        raise EOFError("the answer is damaged") from None


def _is_chunked(response):
    coding = response.headers.get("Transfer-Encoding", "identity").strip().lower()
    if coding not in ("identity", "chunked"):
        raise EOFError("the server compressed the file, which was not requested")
    return coding == "chunked"


def _length(response):
    """The announced length of the body in bytes, or None. EOFError for an impossible one."""
    stated = response.headers.get("Content-Length")
    if stated is None or _is_chunked(response):
        return None
    lengths = {length.strip() for length in stated.split(",")}  # "3, 3" is allowed
    if len(lengths) != 1 or not re.fullmatch("[0-9]{1,18}", length := lengths.pop()):
        raise EOFError("the server announced a length that is not a number")
    return int(length)


# ---- faults


class _Busy(Exception):
    """The server asks to come back later; `wait`: in so many seconds, or None."""

    def __init__(self, response):
        import urllib3
        super().__init__(f"answered {response.status_code}")
        # the hub says it in the header RateLimit
        window = re.search(";t=([0-9]+)", response.headers.get("RateLimit", ""))
        after, self.wait = response.headers.get("Retry-After") or (window or [0, ""])[1], None
        with contextlib.suppress(Exception):  # a malformed date raises almost anything
            self.wait = urllib3.Retry().parse_retry_after(after.strip()[:40])


def _persist(attempt, url, tries, progress=lambda: 0):
    """The value of attempt(), called until it succeeds, after longer and longer waits.

    progress: returns a number. Failures count anew whenever it has grown. Raises DownloadError
    after `tries` failures, and at once for a fault that no second try can cure.
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
            why = ("is not a valid address, or redirects to an invalid one. An address begins with "
                   "https://")
            if requests.utils.getproxies().keys() - {"no"}:
                why += ". Or the proxy in HTTPS_PROXY is invalid"
            if "SOCKS" in str(error):
                why = "needs the package pysocks for the SOCKS proxy. Run: pip install pysocks"
            raise DownloadError(f"{url} {why}") from None
        except requests.TooManyRedirects:
            raise DownloadError(f"{url} redirects without end") from None
        except DownloadError as error:
            raise type(error)(f"{url} {error}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, EOFError) as error:
            reason = cause_in_words(error)
            if isinstance(error, requests.exceptions.SSLError):
                raise DownloadError(f"{url}: {reason}") from None
        failures = 1 if progress() > most else failures + 1
        most = max(most, progress())  # after a restart, bytes count once they are new
        if failures >= tries:
            raise DownloadError(f"{url}: {reason}") from None
        if wait is None:
            wait = min(30, 2**failures / 2) * random.uniform(0.5, 1)
        wait = min(LONGEST_WAIT, wait)
        if time.monotonic() - begun + wait >= 10:  # a silent wait would look like a hang
            print(f"note: {url}: {reason}; trying again in {wait:.0f} s", file=sys.stderr)
        time.sleep(wait)


def _refuse_status(response, url, wanted=(200,)):
    """Raise for any other status: _Busy if it may pass, else a DownloadError with advice."""
    status = response.status_code
    if status in wanted:
        return
    if status in RETRY_STATUS:
        raise _Busy(response)
    told = f"answered {status} {plain(response.reason)[:100]}".rstrip()
    found = is_on_hub(url) and REPOSITORY.match(url)
    page = found and printable_address(f"{found[1]}/{found[2]}")
    kind = "dataset" if found and found[2].startswith("datasets/") else "model"
    if status in (401, 403) and page:
        token, place = hub_token()
        to = f" to the token from {plain(place)}" if token else ""
        raise DownloadError(f"{told}{to}. Accept the conditions on {page} with your account, make "
                            f"a token at {printable_address(hub_endpoint())}/settings/tokens and "
                            f"set HF_TOKEN to it. Or the {kind} has moved, or has another name")
    if status in (401, 403):
        raise DownloadError(f"{told}. It is not open to everybody, or not to this network")
    if status == 407:
        raise DownloadError(f"{told}: {PROXY_LOGIN}")
    if status in (404, 410):
        site = re.match(r"(\w+://)?[^/?]*", printable_address(url))[0]
        raise NotFound(f"{told}. Has it moved? Look at {page or site}")
    raise DownloadError(told if status >= 400 else f"{told} instead of a file")


def cause_in_words(error):
    """The innermost cause of a network error, as raised by requests or as printed by pip."""
    import requests
    import urllib3
    text = str(error).rpartition("(Caused by ")[2]  # the address stands before it

    def is_one(name, *kinds):
        return isinstance(error, kinds) or f"{name}(" in text
    if is_one("ProxyError", requests.exceptions.ProxyError):
        if "failed: 407 " in text:  # a plain 407 could be a port
            return PROXY_LOGIN
        return "the proxy could not be reached, or refused (HTTPS_PROXY, HTTP_PROXY and NO_PROXY)"
    if is_one("SSLError", requests.exceptions.SSLError):
        if "CERTIFICATE" not in text.upper():
            detail = re.search(r"\[(?:SSL|X509)[\w: ]*\]", text)
            return f"no secure connection could be made ({detail[0] if detail else 'SSL'})"
        return ("its certificate was not accepted. Is this machine's clock right? Behind a company "
                "proxy set REQUESTS_CA_BUNDLE to the file with its certificate")
    if is_one("TimeoutError", requests.Timeout, urllib3.exceptions.TimeoutError):
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
    """The digest of a file, of the same kind as `like`: sha256, or git's blob id."""
    if len(like) == 64:
        return file_sha256(path)
    with open(path, "rb") as file:
        start = b"blob %d\0" % path.stat().st_size
        return hashlib.file_digest(file, lambda: hashlib.sha1(start)).hexdigest()


def readable_size(num_bytes):
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) not in (3, 4):
            raise UserError("usage: python pipeline/get/download.py URL FILE [SHA256]")
        download(*sys.argv[1:])
