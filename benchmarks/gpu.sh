#!/usr/bin/env bash
# What only a GPU can tell, in one table and under ten minutes: gpu.py says what, and takes the flags.
exec "$(command -v python || command -v python3)" "$(dirname "${BASH_SOURCE[0]}")/gpu.py" "$@"
