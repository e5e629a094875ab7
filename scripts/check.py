#!/usr/bin/env python3
"""The one check command: format, lint, spelling, types and tests, with a summary at the end.

python scripts/check.py                    the default tier; .ci/run has all that a change must pass
python scripts/check.py --tier quick       unit tests only, while working
python scripts/check.py --fix              let ruff repair format and lint, then check
python scripts/check.py --only lint,types  some of the steps
python scripts/check.py -k image           what is not known here goes to pytest, and only the tests run
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("format", "lint", "spelling", "types", "tests")
_QUICK = "not slow and not distributed and not gpu and not network and not model_types and not site"
_ANY_VERSION = "not slow and not distributed and not gpu and not network and not site"
_CALLING_LIBRARIES = [
    "tests/unit",
    "tests/invariants",
    # what reads texts and grades answers by rules calls no other library
    "--ignore=tests/unit/evals/text",
    "--ignore=tests/unit/evals/benchmarks",
    "--ignore=tests/unit/scripts",
]
_TYPES = "tests/model_types"  # one long file
_COMMANDS = "tests/integration"  # whole commands, most of which train
TIERS = {
    "quick": (["tests/unit", "tests/architecture"], _QUICK),
    "default": (["tests", f"--ignore={_COMMANDS}"], _QUICK),
    "integration": ([_COMMANDS], _QUICK),
    "slow": ([], "not gpu and not network"),
    # the tests of one mark
    "model_types": (None, "model_types and not gpu and not slow"),
    "distributed": (None, "distributed and not slow"),
    "site": (None, "site and not slow"),
    "gpu": (None, "gpu"),
    # those that call other libraries, in other versions of them
    "oldest": ([*_CALLING_LIBRARIES, "--cases=2"], _ANY_VERSION),  # what an old release lacks shows in any of a sweep
    "oldest_all": ([_TYPES, *_CALLING_LIBRARIES], _ANY_VERSION),  # the long file first: one worker runs it alone
    "newest": ([_TYPES, *_CALLING_LIBRARIES], _ANY_VERSION),
}
"""Name -> the places of its tests (none: all; None: the files that have its mark), and the expression of marks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one step ended."""

    step: str
    code: int
    seconds: float
    last_line: str


def main() -> int:
    options, for_pytest = parse()
    steps = list(STEPS) if options.tier in ("quick", "default", "slow") and not for_pytest else ["tests"]
    if options.only:
        steps = options.only.split(",")
        if unknown := [step for step in steps if step not in STEPS]:
            print(f"unknown step {', '.join(unknown)}; known: {', '.join(STEPS)}", file=sys.stderr)
            return 2
    commands = command_lines(options, for_pytest)
    if options.fix:
        for step in ("lint", "format"):
            run(f"fix {step}", fixing(commands[step]))
    outcomes = [run(step, commands[step]) for step in STEPS if step in steps]
    print(f"\n{'step':<8} {'result':<8} {'seconds':>8}   last line")
    for outcome in outcomes:
        verdict = "ok" if outcome.code == 0 else "FAILED"
        print(f"{outcome.step:<8} {verdict:<8} {outcome.seconds:>8.1f}   {outcome.last_line}")
    return max((min(abs(outcome.code), 1) for outcome in outcomes), default=0)


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tier", choices=TIERS, default="default", help="which tests (default: %(default)s)")
    parser.add_argument("--fix", action="store_true", help="repair format and lint first")
    parser.add_argument("--only", metavar="STEPS", help=f"comma-separated: {','.join(STEPS)}")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 4), help="test processes")
    return parser.parse_known_args()


def command_lines(options: argparse.Namespace, for_pytest: list[str]) -> dict[str, list[str]]:
    python = [sys.executable, "-m"]
    places, marks = TIERS[options.tier]
    if places is None:
        places = files_with(options.tier)
    tests = [*python, "pytest", "-m", marks]
    if options.tier.startswith("oldest"):
        tests += ["-W", "default"]  # what old releases of other libraries deprecate says nothing about mmpref
    if for_pytest:
        tests += [*(places if _TYPES in places or options.tier == "oldest" else []), *for_pytest]
    else:
        tests += [*places, "--durations=12", *(["--color=yes"] if sys.stdout.isatty() else [])]
        if options.workers > 1 and options.tier not in ("gpu", "distributed"):  # those have the machine to themselves
            # one worker per file: fixtures that train something are made once
            # and in the order of their names: at the end stand short ones, for which no worker waits for long
            each = ["load"] if options.tier == "model_types" else ["loadfile", "--no-loadscope-reorder"]
            tests += ["-n", str(options.workers), "--dist", *each]
    return {
        "format": [*python, "ruff", "format", "--check", "."],
        "lint": [*python, "ruff", "check", "."],
        "spelling": [*python, "codespell_lib", *tracked()],
        "types": [*python, "mypy"],
        "tests": tests,
    }


def files_with(mark: str) -> list[str]:
    """The files that have tests of this mark: collecting all the others takes half a minute."""
    files = (file for file in sorted((ROOT / "tests").rglob("test_*.py")) if f"mark.{mark}" in file.read_text("utf-8"))
    return [str(file.relative_to(ROOT)) for file in files]


def tracked() -> list[str]:
    """The files that git knows; without git, all (pyproject.toml leaves out those that hold no words)."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()] or ["."]


def fixing(command: list[str]) -> list[str]:
    """The command that repairs what this one only finds."""
    if "format" in command:
        return [part for part in command if part != "--check"]
    return [*command, "--fix"]


def run(step: str, command: list[str]) -> Outcome:
    """Run one command with its output shown as it comes."""
    print(f"\n== {step}: {shlex.join(['python', *command[1:8]])}{' ...' if len(command) > 8 else ''}", flush=True)
    started, last = time.monotonic(), ""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if sys.stdout.isatty():
        env.setdefault("FORCE_COLOR", "1")
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip("\n")
                print(line, flush=True)
                last = line.strip(" =") or last
        except KeyboardInterrupt:
            process.wait()
            print("\nstopped", file=sys.stderr)
            raise SystemExit(130) from None
    return Outcome(step=step, code=process.returncode, seconds=time.monotonic() - started, last_line=last)


if __name__ == "__main__":
    sys.exit(main())
