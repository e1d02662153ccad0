#!/usr/bin/env bash
# Downloads what is missing, then prepares it. Runs from any directory; --help shows the flags.
exec "$(command -v python || command -v python3 || echo python)" "$(dirname "$0")/prepare.py" "$@"
