#!/usr/bin/env bash
# NAME: gets the text, then prepares it. Runs from any directory.
set -eu
here=$(CDPATH= cd -- "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=$(command -v python || command -v python3 || echo python)

# Fill in the address, and the sha256 if you know it (then a broken download goes on where it stopped):
# "$python" "$root/pipeline/get/download.py" https://example.com/corpus.txt "$here/input.txt"
# "$python" "$root/pipeline/get/download.py" https://example.com/corpus.txt.gz "$here/corpus.gz" SHA256
# gunzip -c "$here/corpus.gz" > "$here/input.txt"

exec "$python" "$here/prepare.py"
