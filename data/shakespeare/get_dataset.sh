#!/usr/bin/env bash
# Tiny Shakespeare, 1.1 MB of plays, as GPT-2 tokens: downloads input.txt, then prepares it. Runs from any directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=$(command -v python || command -v python3)

"$python" ../shakespeare_char/tinyshakespeare.py input.txt
"$python" prepare.py
