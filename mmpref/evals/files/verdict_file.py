"""The file of a judge's verdicts: written atomically, and what it had before is never lost."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.files.verdicts import Verdict
from mmpref.files.rows import load_rows
from mmpref.files.writing import json_text, replacing, writing_to


def write_verdicts(out: Path, verdicts: Sequence[Verdict], reasons: Mapping[str, str]) -> Path | None:
    """Write verdicts, with the judge's reasons by id.

    Returns:
        Where the file that was there is now, when something of it is not in the new one.
    """
    rows = {
        verdict.id: verdict.row() | ({"reason": reasons[verdict.id]} if reasons.get(verdict.id) else {})
        for verdict in verdicts
    }
    aside = _move_aside(out) if out.is_file() and _others_in(out, rows) else None
    with replacing(out) as file:
        for row in rows.values():
            file.write((json_text(row) + "\n").encode("utf-8"))
    return aside


def move_aside_foreign(out: Path, judged: Mapping[str, str]) -> Path | None:
    """Rename a file whose verdicts are not all about these answers; another stays until there are new verdicts.

    Args:
        judged: the hash of every question and answer, by id.

    Returns:
        Its new name; None where it stays, or there is none.
    """
    if not out.is_file():
        return None
    try:
        rows = load_rows(out, "verdicts")
        if all(row.get("judged") == judged.get(str(row.get("id")), 0) for row in rows):
            return None
    except DataError:
        pass  # no verdicts at all
    return _move_aside(out)


def _others_in(out: Path, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a file of verdicts has something that these rows have not."""
    try:
        before = load_rows(out, "verdicts")
    except DataError:
        return True
    return any(
        rows.get(str(row.get("id")), {}).get(name) != value
        for row in before
        if row.get("error") is None
        for name, value in row.items()
        if name not in ("id", "same_error")
    )


def _move_aside(out: Path) -> Path:
    """Rename a file to a name that nothing has."""
    names = itertools.chain(["before"], (f"before{number}" for number in itertools.count(2)))
    aside = next(path for name in names if not os.path.lexists(path := out.with_name(f"{out.name}.{name}")))
    with writing_to(out):
        out.replace(aside)
    return aside
