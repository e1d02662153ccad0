#!/usr/bin/env bash
# Downloads what is missing, then prepares it. Runs from any directory; --help shows the flags.
here=$(CDPATH= cd -- "$(dirname "$0")" && pwd)
exec "$(command -v python || command -v python3 || echo python)" "$here/prepare.py" "$@"
