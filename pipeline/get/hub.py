"""The Hugging Face hub: which files a repository has, at which commit, with which hashes.

    hub_files(home, repo, patterns)   the RemoteFiles that match each pattern, for download_all()
    hub_tree(url)                     the entries of a listing

Not huggingface_hub (read at 2.4.0): it compares the size of a download but not its sha256, and
reads an answer of any length into memory.
"""
import fnmatch
import hashlib
import json
import re
from urllib.parse import quote

from pipeline.errors import UserError, plain
from pipeline.files import replacing
from pipeline.get.addresses import hub_endpoint, printable_address
from pipeline.get.archives import SafePaths
from pipeline.get.download import LARGEST_ANSWER, DownloadError, NotFound, RemoteFile, get_json

MOST_FILES = 100_000  # of a listing; the hub advises against more in a repository
OUR_NAMES = ("listing.json", "listing.json.tmp", ".download.lock")  # of files in downloads/


def hub_files(home, repo, patterns, revision="main", offline=False, kind="datasets"):
    """(commit, {pattern: [RemoteFile]}) of a repository's files; their paths lie below home.

    The first call keeps the commit that `revision` names then, and the sizes and hashes of the
    files, in home/listing.json. Later calls read it from there: they ask no network, and take
    files of the same commit. Without it, offline=True takes whatever files are there. kind:
    datasets or models. Raises UserError for a pattern that no file matches.
    """
    path, place = home / "listing.json", repo if kind == "models" else f"{kind}/{repo}"
    address = f"{hub_endpoint()}/{place}"
    # which shows the files
    page = printable_address(f"{address}/tree/{quote(revision, safe='')}")
    known, key = _read_listing(path), " ".join([repo, revision, *patterns])
    if key in known:
        commit, entries = known[key]["commit"], known[key]["files"]
        place, advice = path, "Delete it and run the same command again"
    elif offline:
        there = sorted(p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file())
        entries = [{"path": p, "size": None, "digest": None} for p in there if p[-5:] != ".part"]
        commit, place = "an unknown commit", home
        advice = f"--offline downloads nothing, so get it from {page} and put it there"
    else:
        (commit, entries), place = _ask_hub(f"{kind}/{repo}", revision, patterns, page), page
        prepare = home.parent / "prepare.py"
        advice = f"Is a flag misspelt, or has the file moved? Look there, then edit {prepare}"
    at, files = f"{address}/resolve/{commit}/", {}
    for pattern in patterns:
        files[pattern] = [
            RemoteFile(at + quote(e["path"]), home / e["path"], e["size"], e["digest"])
            for e in entries if fnmatch.fnmatchcase(e["path"], pattern)]
        if not files[pattern]:
            raise UserError(f"{place} has no file {pattern}. {advice}")
    if key not in known and offline:
        print(f"note: {home} has no listing.json to tell whether files are missing or incomplete")
    elif key not in known:
        sha256 = _hash_of_listing(key, commit, entries)
        known[key] = {"commit": commit, "files": entries, "sha256": sha256}
        home.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(known, indent=1).encode())
    return commit, files


def _ask_hub(repo, revision, patterns, page):
    """(commit, entries by path) from the hub. It lists only the folders that the patterns need."""
    api, entries = f"{hub_endpoint()}/api/{repo}", {}
    try:
        commit = get_json(f"{api}/revision/{quote(revision, safe='')}")[0]["sha"]
        if not _is_hex(commit, 40):
            raise TypeError
    except (KeyError, TypeError) as error:
        raise unexpected_answer(api, error) from None
    for folder in sorted({re.split(r"[*?\[]", p)[0].rpartition("/")[0] for p in patterns}):
        for entry in hub_tree(f"{api}/tree/{commit}/{quote(folder, safe='')}".rstrip("/")):
            SafePaths(page).inside(entry["path"])
            if any(fnmatch.fnmatchcase(entry["path"], p) for p in patterns):
                entries[entry["path"]] = entry
    entries = [entries[name] for name in sorted(entries)]
    _refuse_clash(entries, page)
    return commit, entries


def hub_tree(url):
    """{path, size, digest} of each file below a folder of the hub's tree API, page by page.

    A folder that does not exist has none. Raises UserError.
    """
    query, paths, asked = "recursive=true", set(), set()
    while query:
        try:
            found, following = get_json(f"{url}?{query}")
        except NotFound:
            if not asked:
                return
            raise
        asked.add(query)
        before = len(paths)
        for entry in found if isinstance(found, list) else [found]:
            try:
                paths.add(entry["path"])
                if entry["type"] == "file":  # large files have a sha256, the others git's id only
                    yield _checked_entry({**entry, "digest": (entry.get("lfs") or entry)["oid"]})
            except (KeyError, TypeError, AttributeError) as error:
                raise unexpected_answer(url, error) from None
        # of the next page's address only the query counts: mirrors leave the hub's host in it
        query = (following or "").partition("#")[0].partition("?")[2]
        if query in asked or query and len(paths) == before or len(paths) > MOST_FILES:
            raise DownloadError(f"{printable_address(url)} has pages that repeat, or that name "
                                f"more than {MOST_FILES:,} files. Is HF_ENDPOINT right?")


def _checked_entry(entry):
    """{path, size, digest} of a dict. KeyError or TypeError if a value is missing or wrong."""
    path, size, digest = (entry[key] for key in ("path", "size", "digest"))
    if not (isinstance(path, str) and type(size) is int and 0 <= size < 2**63
            and _is_hex(digest, 40, 64)):
        raise TypeError
    return {"path": path, "size": size, "digest": digest}


def _is_hex(value, *lengths):
    return isinstance(value, str) and len(value) in lengths and not value.strip("0123456789abcdef")


def unexpected_answer(url, error):
    """The UserError for an answer that lacks a key (KeyError), or has a value of a wrong type."""
    what = f"{plain(error)} missing" if isinstance(error, KeyError) else "a value of a wrong type"
    return UserError(f"{printable_address(url)} answered with {what}. Is HF_ENDPOINT right?")


# ---- listing.json


def _read_listing(path):
    """The listings kept in a file, {} if there is none. UserError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST_ANSWER:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many")
        known = json.loads(path.read_bytes())
        for key, listing in known.items():
            entries = [_checked_entry(entry) for entry in listing["files"]]
            if listing["files"] != entries or not _is_hex(listing["commit"], 40):
                raise TypeError
            _refuse_clash(entries, path)
            stated = _hash_of_listing(key, listing["commit"], entries)
            if listing.keys() - {"commit", "files"} and listing.get("sha256") != stated:
                raise ValueError("it was changed after it was written")  # old ones have no hash
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = error if isinstance(error, ValueError) else "a value is missing or wrong"
        raise UserError(f"{plain(path)} is damaged ({plain(why)[:300]}). Delete it and run "
                        f"the same command again") from None
    return known


def _hash_of_listing(key, commit, entries):
    return hashlib.sha256(json.dumps([key, commit, entries]).encode()).hexdigest()


def _refuse_clash(entries, listing):
    """UserError unless each file, and its .part, gets a place of its own in downloads/."""
    paths = SafePaths(listing, taken=OUR_NAMES)
    for entry in entries:
        paths.add(entry["path"])
        paths.add(f"{entry['path']}.part")
