"""The datasets of this folder: what each is, how large, its licence, and whether it is prepared.

    python data/list_datasets.py            a table
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
from data.dataset import open_dataset
from data.errors import Parser, UserError, one_line_errors

FACTS = ("kind", "download", "tokens", "licence", "source")


def describe(folder):
    """A dataset: its name, the FACTS in its README.md, and its splits' tokens if prepared."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    facts = dict(re.findall(rf"^\| ({'|'.join(FACTS)}) \| (.*) \|$", text, re.MULTILINE))
    try:
        prepared = open_dataset(str(folder)).num_tokens
    except (UserError, OSError):
        prepared = None
    return {"name": folder.name, **{f: facts.get(f, "") for f in FACTS}, "prepared": prepared}


def print_table(datasets):
    rows = [["name", "kind", "download", "tokens (train + val)", "licence", "prepared"]]
    for d in datasets:
        counts = [f"{count:,}" for count in d["prepared"].values()] if d["prepared"] else ["no"]
        rows.append([d["name"], d["kind"], d["download"], d["tokens"], d["licence"],
                     " + ".join(counts)])
    rows = [[cell if len(cell) <= 40 else f"{cell[:37]}..." for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main():
    parser = Parser(description="Lists the datasets of this folder.")
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
