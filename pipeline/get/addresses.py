"""Which address a request really goes to, with which token, and how an address may be shown.

    mirrored(url)           the address to ask: url, or the same path below DATASET_MIRROR
    hub_endpoint()          the Hugging Face hub, or the copy of it that HF_ENDPOINT names
    hub_token()             the hub's token: HF_TOKEN, or the one that `hf auth login` stored
    printable_address(url)  an address without passwords, access keys and control characters
"""
import contextlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import UserError, plain


def printable_address(url):
    """An address for a message: no user name, no password, and no query, which may hold access
    keys, except for the page of a listing.
    """
    address, _, query = plain(url).partition("?")
    scheme, slashes, rest = address.rpartition("://")
    host, slash, path = rest.partition("#")[0].partition("/")
    host = host.rpartition("@")[2]
    if "@" in plain(url) and not re.fullmatch(r"([\w.-]*|\[[\w:.]*\])(:[0-9]*)?", host):
        return f"{scheme}{slashes}..."  # the password contains / ? or #
    of_listing = re.compile(r"(recursive|cursor)=[\w%.=-]{1,200}")
    kept = "&".join(filter(of_listing.fullmatch, query.partition("#")[0].split("&")))
    return f"{scheme}{slashes}{host}{slash}{path}{'?' if kept else ''}{kept}"


def printable_text(text):
    """A line printed by another program, with each address in it made printable."""
    words = plain(text).split(" ")
    return " ".join(printable_address(w) if "://" in w else w.rpartition("@")[2] for w in words)


def mirrored(url):
    """The address to ask for url. DATASET_MIRROR takes every host but the hub, which has its own
    variable: https://host/path becomes $DATASET_MIRROR/host/path.
    """
    mirror, address = _address_in("DATASET_MIRROR"), re.fullmatch("https?://([^/].*)", url)
    if not mirror or not address or url.startswith(f"{mirror}/") or is_on_hub(url):
        return url
    return f"{mirror}/{address[1]}"


def hub_endpoint():
    return _address_in("HF_ENDPOINT") or "https://huggingface.co"


def is_on_hub(url):
    return url.startswith(f"{hub_endpoint()}/")


def _address_in(variable):
    """The address in an environment variable, or "". Raises UserError for a malformed one."""
    address = os.environ.get(variable, "").strip().rstrip("/")
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    is_odd = not address.isprintable() or re.search(r"[\s?#\\]|://[^/]*/.*@", address)
    if address and (is_odd or not usable):  # the message does not quote it: it may hold a password
        raise UserError(f"the environment variable {variable} does not hold a server's address. "
                        f"Write it like https://host/path or https://name:password@host:port, "
                        f"with %40 for @ and %2F for / in the password, or run: unset {variable}")
    return address


def hub_token():
    """(token, where it was found), or (None, None). Raises UserError for a malformed token."""
    token, place = _find_token()
    if token and not re.fullmatch("[!-~]{1,1000}", token):  # it would break the request's header
        undo = f"run: unset {place}" if place in os.environ else "delete that file"
        settings = f"{printable_address(hub_endpoint())}/settings/tokens"
        raise UserError(f"the Hugging Face token in {plain(place)} was not sent, as it is not one "
                        f"word of letters, digits, _. Replace it by one of {settings}, or {undo}")
    return token, place


def _find_token():
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(variable, "").strip():
            return token, variable
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    path = Path(os.path.expanduser(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")))
    with contextlib.suppress(OSError):
        if path.is_file():
            with open(path, encoding="utf-8", errors="replace") as file:
                if token := file.read(10_000).strip():
                    return token, str(path)
    return None, None
