#!/usr/bin/env bash
# Downloads what is missing, then prepares it. Runs from any directory; --help shows the flags.
exec "$(command -v python || command -v python3)" "$(dirname "${BASH_SOURCE[0]}")/prepare.py" "$@"
