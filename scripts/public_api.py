#!/usr/bin/env python3
"""Every public name of mmpref with its signature, and every command with its options, compared with the list kept.

python scripts/public_api.py             show what differs from tests/unit/public_api.txt (exit code 1)
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
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests" / "unit" / "public_api.txt"
LONGEST = 120
"""Characters of a line."""
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
    """The lines of the list: packages in the order of ``PACKAGES``, their names sorted, then the commands."""
    lines: list[str] = []
    seen: set[int] = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        lines.append(f"# {package}")
        for name in sorted(module.__all__):
            value = getattr(module, name)
            again = callable(value) and id(value) in seen
            lines += [f"{name}: as above"] if again else described(name, value)
            seen.add(id(value))
        lines.append("")
    lines.append("# mmpref on the command line")
    return lines + list(commands())


def described(name: str, value: Any) -> list[str]:
    """One name: a function's signature, a class with its constructor and what mmpref defines of it, else the type."""
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        members = [f"    {line}" for line in members_of(value)]
        return [*called(f"class {name}", value), *([f"    is a {bases}"] if bases else []), *members]
    return called(f"def {name}", value) if callable(value) else [f"{name}: {type(value).__name__}"]


def members_of(kind: type) -> Iterator[str]:
    """Public methods and properties that the class, or a base of it in mmpref, defines."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] == "mmpref":
            found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    for name, value in sorted(found.items()):
        if isinstance(value, property):
            yield f"{name}: property"
        elif isinstance(value, (classmethod, staticmethod)):
            yield from called(f"{type(value).__name__} {name}", value.__func__)
        elif inspect.isfunction(value):
            yield from called(f"def {name}", value)


def called(name: str, value: Any) -> list[str]:
    """``name`` with the signature of ``value``; one line for each parameter where a line is not enough."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):  # of a library in C
        return [f"{name}(...)"]
    whole = plain(f"{name}{found}")
    if len(whole) <= LONGEST:
        return [whole]
    parameters, end = plain(str(found.replace(return_annotation=inspect.Signature.empty)))[1:-1], ""
    if found.return_annotation is not inspect.Signature.empty:
        end = plain(f" -> {found.return_annotation!r}")
    return [f"{name}(", *(f"        {one}," for one in at_commas(parameters)), f"    ){end}"]


def at_commas(text: str) -> Iterator[str]:
    """The parts of a text between its commas, but for those inside brackets."""
    depth, begin = 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            yield text[begin:place].strip()
            begin = place + 1
    yield text[begin:].strip()


def plain(text: str) -> str:
    """A signature as it stands in the source, without the addresses that a default may show."""
    text = re.sub(r"<(?:[\w.]+ )*(?:object|function|factory)[^<>]*>", "<...>", text)
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def commands() -> Iterator[str]:
    """``mmpref data check SOURCE [--card]``: one line for each command, and one below it for each parameter."""
    import typer.main

    from mmpref.cli.main import app

    yield from command_lines("mmpref", typer.main.get_command(app))


def command_lines(path: str, command: Any) -> Iterator[str]:
    """A command with its parameters, or all commands of a group."""
    if hasattr(command, "commands"):
        for name, inner in sorted(command.commands.items()):
            yield from command_lines(f"{path} {name}", inner)
        return
    yield path
    types = typing.get_type_hints(command.callback)
    for parameter in command.params:
        if parameter.name == "help":
            continue
        names = "/".join([*parameter.opts, *parameter.secondary_opts])
        kind = types[parameter.name]
        shown = kind.__name__ if inspect.isclass(kind) else str(kind).replace("pathlib.", "").replace("typing.", "")
        yield f"    {names}: {shown}" + (" (required)" if parameter.required else "")


def main() -> int:
    """Compare, or with ``--update`` write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the list anew")
    options = parser.parse_args()
    if str(ROOT) not in sys.path:
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
