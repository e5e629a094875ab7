#!/usr/bin/env bash
# All checks on a fresh machine: sets up .venv the first time, then format, lint, types and tests.
#
#   bash scripts/test.sh                  the default tier
#   bash scripts/test.sh --tier quick     another tier (see scripts/check.py --help)
#   bash scripts/test.sh -k name          only tests; what check.py does not know goes to pytest
#   bash scripts/test.sh --oldest         unit tests and invariants, few cases of each, with the oldest declared versions
#   bash scripts/test.sh --oldest --tier oldest_all     all their cases, and every type of model
#   bash scripts/test.sh --newest         the same with the newest releases of everything but torch (.venv-newest)
#
# Needs Python 3.11 or newer and a package registry; no GPU, no model hub.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

if [ "${1:-}" = --oldest ]; then
  shift
  use_oldest
  setup_venv test
  say "scripts/check.py --tier oldest $*"
  exec "$venv_python" "$root/scripts/check.py" --tier oldest --only tests "$@"
fi

if [ "${1:-}" = --newest ]; then
  shift
  use_newest
  setup_venv test
  say "scripts/check.py --tier newest $*"
  exec "$venv_python" "$root/scripts/check.py" --tier newest --only tests "$@"
fi

setup_venv dev
say "scripts/check.py $*"
exec "$venv_python" "$root/scripts/check.py" "$@"
