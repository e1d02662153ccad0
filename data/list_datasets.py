"""The datasets of this folder: what each is, how large, its licence, and whether it is prepared.

    python data/list_datasets.py            a table, 80 columns wide
    python data/list_datasets.py --json     the same for programs, with addresses

The facts are those of each README.md; the counts of what is prepared, those of its meta.pkl.
"""
import json
import os
import re
import sys
from pathlib import Path

DATA = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(DATA.parent))  # the repo root, for use as a script
from pipeline.errors import Parser, UserError, one_line_errors, printable
from pipeline.files import open_regular
from pipeline.read.folder import open_dataset

FACTS = ("kind", "download", "tokens", "licence", "source")


def describe(folder):
    """A dataset: its name, the FACTS in its README.md, and its splits' tokens if prepared."""
    readme = folder / "README.md"
    try:
        with open_regular(readme) as file:
            text = file.read(1 << 16).decode(errors="replace")
    except (UserError, OSError):
        text = ""
    facts = dict(re.findall(rf"^\| ({'|'.join(FACTS)}) \| (.*) \|$", text, re.MULTILINE))
    try:
        prepared = open_dataset(str(folder)).num_tokens
    except (UserError, OSError):
        prepared = None
    return {"name": folder.name, **{f: facts.get(f, "") for f in FACTS}, "prepared": prepared}


def short(fact):
    """Its first size, count, or words: "about 9.04 billion + 4.5 million" -> "9.0 B", "MIT for the code" -> "MIT"."""
    if size := re.search(r"[\d.]+ [MG]B", fact):
        return size[0]
    if not (count := re.match(r"(?:about )?(\d[\d.,]*)( million| billion)?", fact)):
        return re.split("[,;:]| (?:and|as|beside|for|of) ", fact)[0]
    number = float(count[1].replace(",", "")) * {None: 1, " million": 1e6, " billion": 1e9}[count[2]]
    unit, letter = next(u for u in ((1e9, " B"), (1e6, " M"), (1e3, " K"), (1, "")) if number >= u[0])
    return f"{number / unit:.{int(number < 10 * unit)}f}{letter}"


def print_table(datasets):
    """At most 79 columns: the name is whole (a long one has a line of its own), the rest is cut short."""
    rows = [("", "name", "kind", "download", "tokens", "licence")]
    for d in datasets:
        tokens = f"{d['prepared']['train']:,}" if d["prepared"] else d["tokens"]
        rows.append(("*" if d["prepared"] else "", d["name"],
                     *(short(fact) for fact in (d["kind"], d["download"], tokens, d["licence"]))))
    for mark, name, kind, download, tokens, licence in (map(printable, row) for row in rows):
        if len(name) > 20:
            print(f"{mark:1} {name}")
            mark = name = ""
        print(f"{mark:1} {name:20}  {kind[:19]:19}  {download[:8]:>8}  {tokens[:6]:>6}  {licence[:16]}".rstrip())
    print("\n* prepared. Tokens: train's; of several parts, the first. Each README.md, and\n"
          "--json, have it all: other sizes, val's tokens, conditions, addresses")


def main():
    parser = Parser(description="Lists the datasets of this folder.", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="as JSON, with their addresses")
    args = parser.parse_args()
    folders = sorted(p.parent for p in DATA.glob("*/prepare.py") if p.parent.name != "template")
    datasets = [describe(folder) for folder in folders]
    if args.json:
        print(json.dumps(datasets, indent=1))
    else:
        print_table(datasets)


if __name__ == "__main__":
    with one_line_errors():
        main()
