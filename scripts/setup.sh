# Sourced by demo.sh and test.sh: makes .venv at the root of the repository and installs mmpref into it.
#
#   setup_venv EXTRA     EXTRA is report (demo), dev (tests) or test (the oldest versions); leaves the interpreter's
#                        path in $venv_python
#   use_oldest           before it: another environment, .venv-oldest, with the versions of constraints-oldest.txt
#   use_newest           before it: .venv-newest, with the newest releases of everything but torch
#
# A stamp remembers what was installed (constraints, pyproject, Python version, place), so the second start does nothing.
# An installation that was interrupted is thrown away and made again.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
constraints=scripts/constraints.txt
newest=""
use_venv() {
  venv="$root/$1"
  venv_python="$venv/bin/python"
  unfinished="$venv/.mmpref-unfinished"
}
use_venv .venv
unset PYTHONHOME PYTHONPATH
export PYTHONNOUSERSITE=1

use_oldest() {
  use_venv .venv-oldest
  constraints=scripts/constraints-oldest.txt
}

# A stamp of the day: what is newest is looked up once a day.
use_newest() {
  use_venv .venv-newest
  newest=$(date -u +%F)
}

say() { printf '== %s\n' "$*"; }

give_up() {
  printf 'mmpref: %s\n' "$*" >&2
  exit 2
}

# Prints nothing when the interpreter can be used, else the reason in a few words.
why_unusable() {
  local answer
  answer=$("$1" - <<'PYTHON' 2>/dev/null | head -n 1
import sys
if sys.version_info < (3, 11):
    print("is %d.%d" % sys.version_info[:2])
else:
    try:
        import ensurepip, venv
    except ImportError:
        print("has no venv module (on Debian and Ubuntu: apt install python3-venv)")
    else:
        print("usable")
PYTHON
  ) || true
  case $answer in
    usable) ;;
    is\ * | has\ *) echo "$answer" ;;
    *) echo "does not run as a Python" ;;
  esac
}

# Leaves a usable interpreter in $base_python, or ends with one clear line and exit code 2.
find_python() {
  local candidate reason tried=""
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null 2>&1 || give_up "PYTHON=$PYTHON does not exist; set it to a Python 3.11 or newer"
    reason=$(why_unusable "$PYTHON")
    [ -z "$reason" ] || give_up "Python 3.11 or newer with venv is needed; PYTHON=$PYTHON $reason"
    base_python=$PYTHON
    return
  fi
  for candidate in python3 python3.11 python3.12 python3.13 python; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    reason=$(why_unusable "$candidate")
    if [ -z "$reason" ]; then
      base_python=$candidate
      return
    fi
    tried="$tried${tried:+; }$candidate $reason"
  done
  give_up "Python 3.11 or newer with venv is needed (${tried:-no python3 found}); install one or set PYTHON=/path/to/python"
}

stamp_key() {
  "$venv_python" - "$root" "$constraints" "${MMPREF_CPU_INDEX:-}" "$newest" <<'PYTHON'
import hashlib
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
parts = [(root / name).read_bytes() for name in (sys.argv[2], "pyproject.toml")] + [sys.argv[3].encode()]
parts += [argument.encode() for argument in sys.argv[4:] if argument]
parts += [sys.version.encode(), str(root).encode()]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PYTHON
}

# pip's many lines as a few: what is being done, how far, and what went wrong.
show_progress() {
  local line count=0
  while IFS= read -r line; do
    case $line in
      Collecting*)
        count=$((count + 1))
        [ $((count % 20)) -ne 0 ] || echo "   $count packages found"
        ;;
      "Installing collected"*)
        line=${line//[^,]/}
        echo "   unpacking $((${#line} + 1)) packages (some minutes on a slow disk)"
        ;;
      ERROR* | error*) echo "   $line" ;;
    esac
  done
}

# The marker goes last, so that a removal that is interrupted is taken up again too.
remove_venv() {
  : >"$unfinished"
  find "$venv/" -mindepth 1 -maxdepth 1 ! -name "$(basename "$unfinished")" -exec rm -rf {} +
  rm -rf "$venv"
}

install_packages() {
  local extra=$1 log="$venv/install.log" versions="$root/$constraints" index=() upgrade=()
  say "installing mmpref[$extra] with the ${newest:+newest releases, and torch of the }versions of $constraints (about 2 GB on disk the first time)"
  if [ -n "$newest" ]; then
    versions="$venv/constraints.txt"
    grep '^torch==' "$root/$constraints" >"$versions"
    upgrade=(--upgrade --upgrade-strategy eager)
  fi
  if [ "$constraints" = scripts/constraints-oldest.txt ] && [ -n "${MMPREF_CPU_INDEX:-}" ]; then
    versions="$venv/constraints.txt"
    sed 's/^torch==.*/torch==2.11.0/' "$root/$constraints" >"$versions"
    index=(--extra-index-url "$MMPREF_CPU_INDEX")
  fi
  if ! (cd "$root" && "$venv_python" -m pip install --disable-pip-version-check --no-input "${index[@]}" "${upgrade[@]}" \
    --constraint "$versions" --editable ".[$extra]" 2>&1 | tee "$log" | show_progress); then
    tail -n 15 "$log" >&2
    printf 'mmpref: the installation failed; the lines above are the end of %s\n' "$log" >&2
    exit 1
  fi
}

setup_venv() {
  local extra=$1 key
  if [ -e "$unfinished" ]; then
    say "an earlier installation was interrupted; starting again"
    remove_venv
  elif [ -e "$venv" ] && { [ ! -x "$venv_python" ] || [ -n "$(why_unusable "$venv_python")" ]; }; then
    say "the Python of $(basename "$venv") does not work any more; starting again"
    remove_venv
  fi
  if [ ! -e "$venv" ]; then
    find_python
    say "making $(basename "$venv") with $("$base_python" --version 2>&1) in $root"
    mkdir "$venv"
    : >"$unfinished"
    "$base_python" -m venv "$venv" || give_up "$base_python cannot make a virtual environment in $venv"
  fi
  key=$(stamp_key)
  # the packages of dev include those of report
  if [ "$key" = "$(cat "$venv/.mmpref-$extra" 2>/dev/null)" ] || [ "$key" = "$(cat "$venv/.mmpref-dev" 2>/dev/null)" ]; then
    return
  fi
  : >"$unfinished"
  install_packages "$extra"
  printf '%s\n' "$key" >"$venv/.mmpref-$extra"
  rm "$unfinished"
}
