#!/usr/bin/env bash
# NAME: gets the text, then prepares it. Runs from any directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=$(command -v python || command -v python3)

# Fill in the address, and the sha256 if you know it (then a broken download goes on where it stopped):
# "$python" ../download.py https://example.com/corpus.txt input.txt
# "$python" ../download.py https://example.com/corpus.txt.gz corpus.gz SHA256 && gunzip -c corpus.gz > input.txt

"$python" prepare.py
