#!/usr/bin/env bash
# The main job on the embedded world, on a fresh machine: sets up .venv the first time, then runs `mmpref demo`.
#
#   bash scripts/demo.sh [--seed N] [--out DIR] ...      all arguments go to `mmpref demo`
#
# Needs Python 3.11 or newer and a package registry; no GPU, no model hub.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

setup_venv report
say "mmpref demo $*"
exec "$venv_python" -P -m mmpref demo "$@"
