"""Pages for a browser: each is one file, which needs no server and nothing from the network.

    check_page(path)                       an error now, where a page could not be written later
    write_page(path, title, script, data)  the page; data: what its script shows, plain values
    packed(array)                          an array of numbers, as data

The other files here are the page itself, to be read and edited: page.html is its frame, page.css
its style, page.js what all pages use. text.js shows texts with their losses (evaluate.py --html),
dataset.js a prepared folder (check_dataset.py --html), curves.js runs (plot_runs.py --html).
"""
import base64
import hashlib
import html
import json
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.files import replacing

HERE = Path(__file__).parent
ENDINGS = (".html", ".htm")


def check_page(path):
    """Raise UserError where a page cannot be written to `path`, before the long work begins."""
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"--html {path}: the name of a page ends in .html. Run: --html "
                        f"{path.with_suffix('.html') if path.name else 'page.html'}")
    if path.is_dir():
        raise UserError(f"--html {path} is a folder. Name a file: --html {path / 'page.html'}")
    if not path.parent.is_dir():
        raise UserError(f"--html {path}: there is no folder {path.parent}. "
                        f"Run: mkdir -p {path.parent}")
    temporary = Path(f"{path}.tmp")  # which write_page() will write first
    try:
        temporary.open("wb").close()
        temporary.unlink()
    except OSError as error:
        raise UserError(f"--html {path} cannot be written: {error.strerror}. Name another "
                        f"place") from None


def write_page(path, title, script, data, library=""):
    """Write a page that shows data, plain values, by a script of this folder (its file's name).

    library: more JavaScript, which runs first. Nothing in title or data is read as HTML: title is
    escaped, and scripts put data into the page as text. Besides, the browser is told to run no
    other script than these, and to load nothing.
    """
    scripts = [_read("page.js"), _read(script)]
    if library:
        scripts.insert(0, library.replace("\r\n", "\n"))
    hashes = " ".join(f"'sha256-{_base64(hashlib.sha256(s.encode()).digest())}'" for s in scripts)
    parts = {"title": html.escape(title), "hashes": hashes, "style": _read("page.css"),
             "data": as_json(data), "scripts": "".join(f"<script>{s}</script>\n" for s in scripts)}
    before, *places = _read("page.html").split("{{")
    pieces = [before]
    for place in places:
        name, _, after = place.partition("}}")
        pieces += [parts[name], after]
    with replacing(Path(path)) as file:
        file.writelines(piece.encode("utf-8") for piece in pieces)


def as_json(data):
    """JSON that can stand within <script>: its only characters are those of ASCII, without <, >
    and &, so that no text in it can end the script or begin a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def packed(array):
    """An array for unpack() of page.js: flat, whole numbers in as few bytes as hold the largest."""
    array = np.asarray(array).reshape(-1)
    if array.dtype.kind in "ui":
        largest = int(array.max(initial=0))
        assert not array.size or array.min() >= 0
        array = array.astype("u1" if largest < 1 << 8 else "<u2" if largest < 1 << 16 else "<u4")
    else:
        array = array.astype("<f4")
    kind = {"u": "Uint", "f": "Float"}[array.dtype.kind] + f"{8 * array.itemsize}Array"
    return {"kind": kind, "base64": _base64(array.tobytes())}


def _read(name):
    return (HERE / name).read_text(encoding="utf-8")


def _base64(raw):
    return base64.b64encode(raw).decode("ascii")
