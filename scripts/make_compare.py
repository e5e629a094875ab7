#!/usr/bin/env python3
"""The tables of docs/compare.md from results/peers: what each suite has, in which release, and where that was seen.

    python scripts/make_compare.py                    write the page
    python scripts/make_compare.py --check            write nothing; exit code 1 where the page would change
    python scripts/make_compare.py --verify FOLDER    look every place up again in releases unpacked as FOLDER/SUITE

A cell says yes, partly, no or not looked at. What is said of another suite names its evidence: a line of its release
(``path:line | text on it``), or a search that finds nothing (``none``, a regular expression, in the files that ``in``
matches). ``--verify`` reads the same releases and repeats each look-up, so the table can be checked by anyone who
downloads them: ``results/peers/suites.yaml`` says how. With ``--pin`` it also writes the line where a text is found
now, which is how a cell is brought to a newer release. What is said of mmpref names a page or a test of this
repository.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.files.writing import write_text
from mmpref.yaml_text import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "results" / "peers"
BENCH = ROOT / "results" / "bench"
PAGE = ROOT / "docs" / "compare.md"
TABLES = ("training", "evaluation")
STATES = ("yes", "partly", "no", "not looked at")
OURS = "mmpref"
HOW_FAR = {"cpu": "small models on a CPU", "gpu": "run on a GPU"}
_BLOCK = re.compile(r"(<!-- make_compare\.py: (.*?) -->\n)(.*?)(<!-- end of table -->)", flags=re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line of a release, or a search in it.

    Attributes:
        path: file within the release; of a search a glob of files.
        line: 1 for the first; 0 where it is not known yet. None for a search.
        text: what stands on the line; of a search the regular expression that nothing matches.
    """

    path: str
    line: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one suite has of one feature.

    Attributes:
        note: what it is exactly, or why not; may be empty for a plain no.
        tried: of mmpref's own, how far it was run (:data:`HOW_FAR`); empty where that does not matter.
        ours: of mmpref's own, pages and tests of this repository.
    """

    state: str
    note: str = ""
    tried: str = ""
    places: tuple[Place, ...] = ()
    ours: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A feature and what every suite of the table has of it."""

    key: str
    area: str
    title: str
    about: str
    cells: Mapping[str, Cell]


def suites(folder: Path = PEERS) -> dict[str, dict[str, Any]]:
    """Suite -> name, version, day it was looked at, licence, page, how to get it, pins, tables it stands in."""
    found: dict[str, dict[str, Any]] = _read(folder / "suites.yaml")
    return found


def rows(table: str, folder: Path = PEERS) -> list[Row]:
    """Features of a table, in order.

    Raises:
        ValueError: a cell is missing, or says less than it must; the message names file, row and suite.
    """
    file = folder / f"{table}.yaml"
    asked = [key for key, suite in suites(folder).items() if table in suite["role"]]
    found = []
    for area, features in _read(file).items():
        for key, feature in features.items():
            where = f"{file.name}: {key}"
            missing = [suite for suite in asked if suite not in feature]
            if missing:
                raise ValueError(f"{where}: nothing is said of {', '.join(missing)}; add the cell")
            cells = {suite: _cell(feature[suite], suite, f"{where}: {suite}") for suite in asked}
            found.append(Row(key=key, area=area, title=feature["title"], about=feature.get("about", ""), cells=cells))
    return found


def _read(file: Path) -> Any:
    return parse_yaml(file.read_text(encoding="utf-8"), where=file.name)


def _cell(given: Mapping[str, Any], suite: str, where: str) -> Cell:
    unknown = given.keys() - {"is", "note", "tried", "seen", "none", "in", "see"}
    state = given.get("is")
    if unknown or state not in STATES:
        raise ValueError(f"{where}: 'is' must be one of {', '.join(STATES)}; unknown keys: {sorted(unknown)}")
    places = [_place(text, where) for text in given.get("seen", [])]
    if "none" in given:
        places.append(Place(path=given.get("in", "**/*.py"), line=None, text=given["none"]))
    ours = tuple(given.get("see", []))
    if suite == OURS and state != "no" and not ours:
        raise ValueError(f"{where}: name a page or a test of this repository in 'see'")
    if suite != OURS and state != "not looked at" and not places:
        raise ValueError(f"{where}: say where it was seen ('seen'), or which search finds nothing ('none')")
    if state == "partly" and not given.get("note"):
        raise ValueError(f"{where}: 'partly' needs a note that says which part")
    return Cell(state=state, note=given.get("note", ""), tried=given.get("tried", ""), places=tuple(places), ours=ours)


def _place(text: str, where: str) -> Place:
    found = re.fullmatch(r"(\S+?)(?::(\d+))? \| (.+)", text)
    if found is None:
        raise ValueError(f"{where}: a place is 'path:line | text on that line', not '{text}'")
    return Place(path=found[1], line=int(found[2] or 0), text=found[3])


# ---- the page ----------------------------------------------------------------------------------------------------


def filled(page: str, folder: Path = PEERS) -> str:
    """The page with every table made anew."""
    made = {"releases": releases, "benchmarks": lambda _: benchmarks(), **{name: _table_maker(name) for name in TABLES}}
    return _BLOCK.sub(lambda found: f"{found[1]}{chr(10).join(made[found[2]](folder))}\n{found[4]}", page)


def _table_maker(name: str) -> Any:
    return lambda folder: table(name, folder)


def releases(folder: Path = PEERS) -> list[str]:
    """What was read."""
    lines = _head(["suite", "release or commit", "looked at", "licence", "asks for"])
    for suite in suites(folder).values():
        name = f"[{suite['name']}]({suite['page']})"
        lines.append(_line([name, suite["version"], suite["looked"], suite["licence"], suite.get("pins", "–")]))
    return lines


def benchmarks(folder: Path = BENCH) -> list[str]:
    """Every benchmark: what was told of it where, and where ``scripts/bench.py`` ran it again since."""
    found = _read(folder / "benchmarks.yaml")
    lines = [f"Told figures: {found['machine']}, unless the page says otherwise.", ""]
    lines += _head(["what is compared", "told", "commit, day", "one command", "run again"])
    for name, bench in found["benchmarks"].items():
        told = f"{bench['told']} ([{Path(bench['page']).stem}]({Path(bench['page']).name}))"
        again = "–"
        if (file := folder / f"{name}.json").is_file():
            run = json.loads(file.read_text(encoding="utf-8"))
            again = f"`{file.relative_to(ROOT)}`: {run['commit']}, {run['day']}"
        when = f"{bench['commit']}, {bench['day']}" if "commit" in bench else "see the page"
        lines.append(_line([bench["what"], told, when, f"`bench.py --only {name}`", again]))
    return lines


def table(name: str, folder: Path = PEERS) -> list[str]:
    """For each area a grid of states, then for each feature what was seen where."""
    known = suites(folder)
    features = rows(name, folder)
    lines: list[str] = []
    for area in dict.fromkeys(row.area for row in features):
        of_area = [row for row in features if row.area == area]
        asked = list(of_area[0].cells)
        lines += [f"### {area}", "", *_head(["feature", *(known[suite]["name"] for suite in asked)])]
        lines += [_line([row.title, *(_short(row.cells[suite]) for suite in asked)]) for row in of_area]
        lines += ["", "<details>", f"<summary>{area}: what exactly, and where it was seen</summary>", ""]
        for row in of_area:
            lines += [f"**{row.title}.** {row.about}".rstrip(), ""]
            lines += [f"- {known[suite]['name']}: {_long(row.cells[suite])}" for suite in asked]
            lines.append("")
        lines += ["</details>", ""]
    return lines[:-1]


def _short(cell: Cell) -> str:
    state = f"**{cell.state}**" if cell.state in ("yes", "partly") else cell.state
    return f"{state} (CPU)" if cell.tried == "cpu" else state


def _long(cell: Cell) -> str:
    said = cell.state + (f" ({HOW_FAR[cell.tried]})" if cell.tried else "")
    said += f", {cell.note}" if cell.note else ""
    shown = [_shown(place) for place in cell.places] + [_link(path) for path in cell.ours]
    return f"{said}. {'; '.join(shown)}".rstrip()


def _shown(place: Place) -> str:
    if place.line is None:
        return f"Nothing matches `{place.text}` in `{place.path}`"
    return f"`{place.path}:{place.line}`"


def _link(path: str) -> str:
    return f"[{Path(path).stem}]({Path(path).name})" if path.startswith("docs/") else f"`{path}`"


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|---" * len(titles) + "|"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


# ---- looked up again ---------------------------------------------------------------------------------------------


def looked_up(unpacked: Path, folder: Path = PEERS) -> Iterator[str]:
    """What is not as the tables say, of the suites whose release is there.

    Args:
        unpacked: holds a folder for each suite, with its release in it.
    """
    for name in TABLES:
        for row in rows(name, folder):
            for suite, cell in row.cells.items():
                if (unpacked / suite).is_dir():
                    for place in cell.places:
                        problem = _problem(unpacked / suite, place)
                        if problem:
                            yield f"{name}.yaml: {row.key}: {suite}: {problem}"


def _problem(release: Path, place: Place) -> str | None:
    if place.line is None:
        files = [path for path in sorted(release.glob(place.path)) if path.is_file()]
        if not files:
            return f"no file is {place.path}"
        for path in files:
            for number, line in enumerate(_lines(path), start=1):
                if re.search(place.text, line, flags=re.IGNORECASE):
                    return f"'{place.text}' is at {path.relative_to(release)}:{number}"
        return None
    path = release / place.path
    if not path.is_file():
        return f"no file {place.path}"
    lines = _lines(path)
    if place.line and place.line <= len(lines) and place.text in lines[place.line - 1]:
        return None
    now = [number for number, line in enumerate(lines, start=1) if place.text in line]
    return f"'{place.text}' is not at {place.path}:{place.line}, but at {now[:3] or 'no line'}"


def pin(unpacked: Path, folder: Path = PEERS) -> None:
    """Write the line of every place where its text is found first, of the suites whose release is there."""
    for name in TABLES:
        file = folder / f"{name}.yaml"
        written = file.read_text(encoding="utf-8")
        for row in rows(name, folder):
            for suite, cell in row.cells.items():
                for place in cell.places:
                    path = unpacked / suite / place.path
                    if place.line is None or not path.is_file() or _problem(unpacked / suite, place) is None:
                        continue
                    lines = _lines(path)
                    first = next((number for number, line in enumerate(lines, start=1) if place.text in line), None)
                    if first is not None:
                        old = place.path + (f":{place.line}" if place.line else "") + f" | {place.text}"
                        written = written.replace(old, f"{place.path}:{first} | {place.text}")
        write_text(file, written)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def main() -> int:
    """Write the page, compare it with the data, or compare the data with the releases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page would change")
    parser.add_argument("--verify", type=Path, metavar="FOLDER", help="unpacked releases, a folder for each suite")
    parser.add_argument("--pin", action="store_true", help="with --verify: write the lines as they are now")
    options = parser.parse_args()
    if options.verify is not None:
        if options.pin:
            pin(options.verify)
        problems = list(looked_up(options.verify))
        there = [suite for suite in suites() if (options.verify / suite).is_dir()]
        print("\n".join([*problems, f"{len(problems)} places differ; read: {', '.join(there) or 'no release'}"]))
        return 1 if problems or not there else 0
    page = PAGE.read_text(encoding="utf-8")
    made = filled(page)
    if options.check:
        if made != page:
            print("docs/compare.md is not what results/peers gives: python scripts/make_compare.py")
        return int(made != page)
    write_text(PAGE, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
