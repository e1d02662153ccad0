"""A server on loopback that speaks, and fails, as the sources of the datasets do.

It is the Hugging Face hub (datasets and models: the revision and tree API in pages, gzip, redirects
of files to a second host), plain web addresses below /<host>/, and a package index; with Range,
ETag, If-Range, 401, 403 and 404. As `faults` says, the first answer to a path is busy (429 with
Retry-After), broken off halfway, shorter than its length, or 503.
"""
import gzip
import hashlib
import http.server
import io
import json
import re
import threading
import time
import zipfile
from collections import Counter
from urllib.parse import parse_qs, unquote, urlsplit

FAULTS = ("busy", "broken", "short", "down", None)  # in turn, a path each
HUB_PATH = re.compile("/hub/(?:api/models/|(?:api/)?datasets/)?([^/]+/[^/]+)"
                      "/(revision|tree|resolve)/([^/]+)/?(.*)")
PAGE = 2  # entries of a listing at once; the hub gives a thousand


class Sources:
    """The files that there are, how each path shall fail, and what was asked for."""

    def __init__(self):
        self.repos = {}  # repo -> {revision: {path: bytes}}
        self.web = {}  # "<host>/<path>" -> bytes
        self.packages = {}  # "name-version" -> {path in the wheel: bytes}
        self.small = set()  # paths of the hub that lie in git itself, without a sha256
        # repos: conditions to accept; a token needed to see them at all
        self.locked, self.private = set(), set()
        self.faults = {}  # path of a request -> faults still to come; those not named get one each
        self.fault_free, self.given, self.lock = False, Counter(), threading.Lock()
        self.tampered = set()  # paths of the hub whose bytes are not those of the listing
        self.gone = set()  # paths of requests that are answered with 404, whatever there is
        self.requests = []  # (path with query, Range, Authorization)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads, self.server.sources = True, self
        self.cdn = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.cdn.daemon_threads, self.cdn.sources = True, self
        self.url, self.cdn_url = (f"http://127.0.0.1:{s.server_port}"
                                  for s in (self.server, self.cdn))
        # as behind a mirror; the real one lies at the root of its host
        self.hub_url = f"{self.url}/hub"
        self.slow = None  # seconds to wait after each block of a body
        for server in (self.server, self.cdn):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01},
                             daemon=True).start()

    def close(self):
        for server in (self.server, self.cdn):
            server.shutdown()
            server.server_close()

    def env(self, **more):
        """The environment that sends a get_dataset.sh here for everything."""
        return {"HF_ENDPOINT": self.hub_url, "DATASET_MIRROR": f"{self.url}/mirror",
                "PIP_INDEX_URL": f"{self.url}/simple/", "PIP_CONFIG_FILE": "/dev/null",
                "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1", "HF_TOKEN": "", "HF_HOME": "/nonexistent",
                "PIP_NO_CACHE_DIR": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1", **more}

    def commit(self, repo, revision="main"):
        return hashlib.sha1(f"{repo} {revision}".encode()).hexdigest()

    def wheel(self, name):
        """A wheel as pip takes it, always the same bytes."""
        packed = io.BytesIO()
        distribution, version = name.rsplit("-", 1)
        info = {f"{name}.dist-info/METADATA":
                f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
                f"{name}.dist-info/WHEEL":
                "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{name}.dist-info/RECORD": ""}
        with zipfile.ZipFile(packed, "w") as file:
            for path, content in {**self.packages[name], **info}.items():
                file.writestr(zipfile.ZipInfo(path), content)
        return packed.getvalue()

    def next_fault(self, path):
        if self.fault_free:
            return None
        kind = path.split("/")[1]  # hub, cdn, mirror: each meets every fault
        if path not in self.faults:
            with self.lock:
                self.faults[path] = [FAULTS[self.given[kind] % len(FAULTS)]]
                self.given[kind] += 1
        return self.faults[path].pop(0) if self.faults[path] else None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        here = self.server.sources
        here.requests.append((self.path, self.headers.get("Range"),
                              self.headers.get("Authorization")))
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        self.close_connection = True
        try:
            if self.path in here.gone:
                return self.error(404)
            fault = here.next_fault(self.path)
            if fault in ("busy", "down"):
                if fault == "busy" and path.startswith("/hub/"):
                    return self.error(429, RateLimit='"api";r=0;t=0')  # how the hub says it
                return self.error(429 if fault == "busy" else 503, Retry_After="0")
            if match := HUB_PATH.fullmatch(url.path):
                repo, what, revision, rest = (unquote(part) for part in match.groups())
                return self.hub(here, repo, what, revision, rest, query, fault)
            if path.startswith("/cdn/"):
                repo, revision, name = path.removeprefix("/cdn/").split("!")
                body = here.repos[repo][revision][name]
                return self.body(body[:-1] + bytes([body[-1] ^ 1]) if name in here.tampered
                                 else body, fault)
            if path.startswith("/mirror/") and path.removeprefix("/mirror/") in here.web:
                return self.body(here.web[path.removeprefix("/mirror/")], fault)
            if path.startswith("/simple/"):
                return self.index(here, path.removeprefix("/simple/").strip("/"))
            if path.startswith("/wheels/"):
                return self.body(here.wheel(path[8:].removesuffix("-py3-none-any.whl")), None)
            self.error(404)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed

    def hub(self, here, repo, what, revision, rest, query, fault):
        token = self.headers.get("Authorization") == "Bearer hf_good"
        if repo in here.private and not token or repo not in here.repos:
            return self.error(401, X_Error_Code="RepoNotFound")  # which the hub says of both
        revisions = here.repos[repo]
        name = next((r for r in revisions if revision in (r, here.commit(repo, r))), None)
        if name is None:
            return self.error(404, X_Error_Code="RevisionNotFound")
        if what == "revision":
            return self.json({"id": repo, "sha": here.commit(repo, name), "private": False})
        if what == "tree":
            return self.tree(here, repo, name, rest, query, fault)
        if rest not in revisions[name]:
            return self.error(404, X_Error_Code="EntryNotFound")
        if repo in here.locked and not token:
            return self.error(403 if self.headers.get("Authorization") else 401,
                              X_Error_Code="GatedRepo")
        there = f"{here.cdn_url}/cdn/{repo}!{name.replace('/', '%2F')}!{rest}"
        self.head(302, 0, Location=there.replace(" ", "%20"),
                  X_Repo_Commit=here.commit(repo, name))

    def tree(self, here, repo, name, folder, query, fault):
        """The listing, PAGE entries at once, the address of the next page in a Link header."""
        files = here.repos[repo][name]
        below = sorted(path for path in files if path.startswith(f"{folder}/" if folder else ""))
        if not below:
            return self.error(404, X_Error_Code="EntryNotFound")
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder or "data"}]
        for path in below:
            raw = files[path]
            blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
            entry = {"type": "file", "oid": blob, "size": len(raw), "path": path}
            if path not in here.small:
                entry["lfs"] = {"oid": hashlib.sha256(raw).hexdigest(), "size": len(raw),
                                "pointerSize": 134}
                entry["xetHash"] = "0" * 64  # not of the file's bytes
            entries.append(entry)
        at = int(query.get("cursor", ["0"])[0])
        link = None
        if at + PAGE < len(entries):
            # mirrors leave the hub's own name in it
            path = urlsplit(self.path).path.removeprefix("/hub")
            link = f'<https://huggingface.co{path}?recursive=true&cursor={at + PAGE}>; rel="next"'
        self.json(entries[at : at + PAGE], fault, Link=link)

    def index(self, here, package):
        found = [name for name in here.packages if name.rpartition("-")[0] == package]
        if not found:
            return self.error(404)
        links = "".join(f'<a href="/wheels/{name}-py3-none-any.whl">{name}-py3-none-any.whl</a>'
                        for name in found)
        raw = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        self.head(200, len(raw), Content_Type="text/html")
        self.wfile.write(raw)

    def json(self, value, fault=None, **headers):
        raw = gzip.compress(json.dumps(value).encode())
        self.head(200, len(raw), Content_Type="application/json", Content_Encoding="gzip",
                  **headers)
        self.wfile.write(raw[: len(raw) // 2] if fault in ("broken", "short") else raw)

    def body(self, raw, fault):
        etag = f'"{hashlib.sha256(raw).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked and self.headers.get("If-Range") in (None, etag) else 0
        if start and start >= len(raw):
            return self.head(416, 0, Content_Range=f"bytes */{len(raw)}")
        rest = raw[start:]
        self.head(206 if start else 200, len(rest), ETag=etag, Accept_Ranges="bytes",
                  Content_Range=f"bytes {start}-{len(raw) - 1}/{len(raw)}" if start else None)
        if fault == "broken":
            rest = rest[: len(rest) // 2]
        if fault == "short":
            rest = rest[:-1]
        for at in range(0, len(rest), 1 << 14):
            self.wfile.write(rest[at : at + (1 << 14)])
            if self.server.sources.slow:
                time.sleep(self.server.sources.slow)

    def error(self, status, **headers):
        raw = b"<html>an error page</html>"
        self.head(status, len(raw), **headers)
        self.wfile.write(raw)

    def head(self, status, length, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": length, "Connection": "close", **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *args):
        pass
