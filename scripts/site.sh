#!/usr/bin/env bash
# The documentation site: sets up .venv the first time, then builds docs/ into site/. A warning is an error.
#
#   bash scripts/site.sh [FOLDER]      the site goes to FOLDER (default: site); open FOLDER/index.html, no server needed
#
# Needs Python 3.11 or newer and a package registry; no GPU, no model hub.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

setup_venv dev
out=${1:-site}
say "sphinx-build docs $out"
"$venv_python" -m sphinx -W --keep-going -q -b html -j auto "$root/docs" "$out"
say "open $out/index.html"
