#!/usr/bin/env bash
# Tiny Shakespeare, 1.1 MB of plays, as GPT-2 tokens: downloads input.txt, then prepares it. Runs from any directory.
set -euo pipefail
[ $# -eq 0 ] || { echo "error: there are no flags here. Without a network: put the text in input.txt, run prepare.py" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=$(cd "$here/.." && pwd)
python=$(command -v python || command -v python3)

"$python" "$data/shakespeare_char/tinyshakespeare.py" "$here/input.txt"
"$python" "$here/prepare.py"
