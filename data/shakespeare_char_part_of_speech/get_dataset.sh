#!/usr/bin/env bash
# The stream part_of_speech of shakespeare_char: gets that text where it is not there yet, then prepares. Runs from any
# directory; --help shows the flags.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
text=$(cd "$here/../shakespeare_char" && pwd)
python=$(command -v python || command -v python3)

[ -e "$text/meta.pkl" ] || bash "$text/get_dataset.sh"
"$python" "$here/prepare.py" "$@"
