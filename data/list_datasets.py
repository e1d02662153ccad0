"""The datasets of this folder: what each is, its size, its licence, and whether it is prepared.

    python data/list_datasets.py            a table, 80 columns wide
    python data/list_datasets.py --json     the same for programs, with addresses

The facts come from each README.md, the counts of a prepared dataset from its meta.pkl.
"""
import contextlib
import json
import os
import re
import sys
from pathlib import Path

DATA = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(DATA.parent))  # the repo root, where `pipeline` is
from pipeline.errors import Parser, UserError, one_line_errors, printable
from pipeline.files import open_regular
from pipeline.read.folder import open_dataset

FACTS = ("kind", "download", "tokens", "licence", "source")


def describe(folder):
    """The name of a dataset, the FACTS in its README.md, and its token counts if prepared."""
    text, prepared = "", None
    # somebody's own dataset needs no README.md
    with contextlib.suppress(UserError, OSError), open_regular(folder / "README.md") as file:
        text = file.read(1 << 16).decode(errors="replace")
    facts = dict(re.findall(rf"^\| ({'|'.join(FACTS)}) \| (.*) \|$", text, re.MULTILINE))
    with contextlib.suppress(UserError, OSError):
        prepared = open_dataset(str(folder)).num_tokens
    return {"name": folder.name, **{f: facts.get(f, "") for f in FACTS}, "prepared": prepared}


def shortened(fact):
    """The first size, count, or words of a fact.

    "about 9.04 billion + 4.5 million" -> "9.0 B", "MIT for the code" -> "MIT"
    """
    if size := re.search(r"[\d.]+ [MG]B", fact):
        return size[0]
    if not (count := re.match(r"(?:about )?(\d[\d.,]*)( million| billion)?", fact)):
        return re.split("[,;:]| (?:and|as|beside|for|of) ", fact)[0]
    number = float(count[1].replace(",", "")) * {" million": 1e6, " billion": 1e9}.get(count[2], 1)
    unit, letter = next(u for u in ((1e9, " B"), (1e6, " M"), (1e3, " K"), (1, ""))
                        if number >= u[0])
    return f"{number / unit:.{int(number < 10 * unit)}f}{letter}"


def print_table(datasets):
    """At most 79 columns. A name is never cut; a long one gets a line of its own."""
    rows = [("", "name", "kind", "download", "tokens", "licence")]
    for d in datasets:
        tokens = f"{d['prepared']['train']:,}" if d["prepared"] else d["tokens"]
        facts = d["kind"], d["download"], tokens, d["licence"]
        rows.append(("*" if d["prepared"] else "", d["name"], *map(shortened, facts)))
    for mark, name, kind, download, tokens, licence in (map(printable, row) for row in rows):
        if len(name) > 20:
            print(f"{mark:1} {name}")
            mark = name = ""
        print(f"{mark:1} {name:20}  {kind[:19]:19}  {download[:8]:>8}  {tokens[:6]:>6}  "
              f"{licence[:16]}".rstrip())
    print("\n* means prepared. Tokens: of train, or, in a dataset of several parts, of\n"
          "the first. Every dataset's README.md, and --json, have all facts")


def main():
    parser = Parser(description="Lists the datasets of this folder.")
    parser.add_argument("--json", action="store_true", help="print JSON, with addresses")
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
