"""Write the tables of keys in docs/tasks/move_here.md from the tables that ``mmpref config --from`` works with.

python scripts/make_move_here.py            # writes the page anew
python scripts/make_move_here.py --check    # says whether it is as the tables are
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # mmpref as it stands here, installed or not

from mmpref.migration.contract import UNSET, Key
from mmpref.migration.convert import TOOLS
from mmpref.migration.training_arguments import TRAINING_ARGUMENTS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tasks" / "move_here.md"


def tables() -> dict[str, str]:
    """Name of a table -> its lines."""
    common = {
        name: row for name, row in TRAINING_ARGUMENTS.items() if all(tool.table[name] == row for tool in TOOLS.values())
    }
    found = {"training_arguments": common}
    for name, tool in TOOLS.items():
        found[name] = {key: row for key, row in tool.table.items() if key not in common}
    return {name: "\n".join(_lines(rows)) for name, rows in found.items()}


def _lines(rows: Mapping[str, Key]) -> Iterator[str]:
    yield "| theirs | here | their default | what differs |"
    yield "| --- | --- | --- | --- |"
    for name, row in rows.items():
        if row.to and not row.to.startswith("train.extra"):
            default = "" if row.default in (UNSET, None) else f"`{_text(row.default)}`"
            yield f"| `{name}` | `{row.to}` | {default} | {row.note} |"
    extra = [f"`{name}`" for name, row in rows.items() if row.to.startswith("train.extra")]
    if extra:
        yield ""
        yield f"Under the same name in `train.extra`: {', '.join(extra)}."
    lost = [f"`{name}`" for name, row in rows.items() if row.why and row.matters]
    if lost:
        yield ""
        yield f"Without a counterpart, and a value other than the usual may change what is learned: {', '.join(lost)}."


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def written(text: str) -> str:
    """The page with its tables made anew.

    Raises:
        SystemExit: a table has no place in it.
    """
    for name, lines in tables().items():
        begin, end = f"<!-- keys:{name} -->\n", "\n<!-- /keys -->"
        before, found, rest = text.partition(begin)
        _, ends, after = rest.partition(end)
        if not found or not ends:
            raise SystemExit(f"{PAGE} has no place for the table {name}: {begin.strip()} ... {end.strip()}")
        text = f"{before}{begin}\n{lines}\n{end}{after}"
    return text


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    made = written(text)
    if given.check:
        return int(made != text)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
