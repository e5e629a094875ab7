#!/usr/bin/env python3
"""Every public name of mmpref with its signature, and every command with its options, compared with the list kept.

python scripts/public_api.py             show what differs from tests/unit/public_api.txt; exit code 1 where something does
python scripts/public_api.py --update    write the list anew; do so when the difference is meant

Other programs rely on these names. A change of one is seen in a review as a changed line of that file.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests" / "unit" / "public_api.txt"
PACKAGES = (
    "mmpref",
    "mmpref.losses",
    "mmpref.models",
    "mmpref.training",
    "mmpref.evals",
    "mmpref.data",
    "mmpref.processing",
)


def public_api() -> list[str]:
    """The lines of the list: packages in the order of ``PACKAGES``, names in that of the alphabet, then the commands."""
    lines = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        lines.append(f"# {package}")
        for name in sorted(module.__all__):
            lines += described(name, getattr(module, name))
        lines.append("")
    lines.append("# mmpref on the command line")
    return lines + list(commands())


def described(name: str, value: Any) -> list[str]:
    """One name: a function's signature, a class with its constructor and what mmpref defines of it, else the type."""
    if inspect.isclass(value):
        bases = [base.__name__ for base in value.__bases__ if base is not object]
        lines = [f"class {name}{signature(value)}" + (f" of {', '.join(bases)}" if bases else "")]
        return lines + [f"    {line}" for line in members(value)]
    if callable(value):
        return [f"def {name}{signature(value)}"]
    return [f"{name}: {type(value).__name__}"]


def members(kind: type) -> Iterator[str]:
    """Public methods and properties that the class, or a base of it in mmpref, defines."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] == "mmpref":
            found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    for name, value in sorted(found.items()):
        if isinstance(value, property):
            yield f"{name}: property"
        elif isinstance(value, (classmethod, staticmethod)):
            yield f"{type(value).__name__} {name}{signature(value.__func__)}"
        elif inspect.isfunction(value):
            yield f"def {name}{signature(value)}"


def signature(value: Any) -> str:
    """As it stands in the source, without the addresses and paths that a default may show."""
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):  # of a library in C
        return "(...)"
    return re.sub(r"<(?:[\w.]+ )*(?:object|function|factory)[^<>]*>", "<...>", text)


def commands() -> Iterator[str]:
    """``mmpref data check SOURCE [--card]``: one line for each command, and one below it for each parameter."""
    import typer.main

    from mmpref.cli.main import app

    yield from command_lines("mmpref", typer.main.get_command(app))


def command_lines(path: str, command: Any) -> Iterator[str]:
    """A command's parameters, or all commands of a group."""
    if not hasattr(command, "commands"):
        yield path
    for parameter in command.params:
        if parameter.name == "help":
            continue
        names = "/".join([*parameter.opts, *parameter.secondary_opts])
        notes = [note for note, holds in (("required", parameter.required), ("several", parameter.nargs == -1)) if holds]
        notes += ["several"] if getattr(parameter, "multiple", False) else []
        kind = "flag" if getattr(parameter, "is_flag", False) else parameter.type.name
        if not hasattr(command, "commands"):
            yield f"    {names}: {kind}" + (f" ({', '.join(notes)})" if notes else "")
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from command_lines(f"{path} {name}", inner)


def main() -> int:
    """Compare, or with ``--update`` write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the list anew")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    now = "\n".join(public_api()) + "\n"
    if options.update:
        KEPT.write_text(now, encoding="utf-8")
        print(f"{KEPT.relative_to(ROOT)}: {now.count(chr(10)):,} lines")
        return 0
    kept = KEPT.read_text(encoding="utf-8") if KEPT.exists() else ""
    difference = difflib.unified_diff(kept.splitlines(), now.splitlines(), "kept", "now", lineterm="", n=0)
    found = list(difference)
    if found:
        print("\n".join(found))
        print("\nPublic names changed. If that is meant: python scripts/public_api.py --update", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
