"""The folder of ``mmpref sample round``: its runs, which a report compares, and what each round was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.files.reading import read_json
from mmpref.rundir.content import ROUNDS


@dataclass(frozen=True, slots=True)
class RoundsFolder:
    """Rounds that are complete. ``runs`` maps the folder of each run to its label, the start model first."""

    path: Path
    runs: Mapping[Path, str]
    facts: Sequence[Mapping[str, Any]]


def rounds_in(folder: Path) -> RoundsFolder | None:
    """The rounds in a folder; None where there are none.

    Raises:
        ConfigError: their file is damaged, or no round is complete.
    """
    file = folder / ROUNDS
    if not file.is_file():
        return None
    found = read_json(file, ConfigError)
    try:
        runs = {folder / str(run["path"]): str(run["label"]) for run in found["runs"]}
        facts = [dict(entry) for entry in found["rounds"]]
    except (LookupError, TypeError, ValueError) as err:
        raise ConfigError(f"{file} is damaged ({type(err).__name__}: {err}); run mmpref sample round again") from err
    if not runs:
        raise ConfigError(f"no round in {folder} is complete yet; run mmpref sample round again")
    return RoundsFolder(folder, runs, facts)


def with_rounds(paths: Sequence[Path], labels: Mapping[str, str]) -> tuple[list[Path], dict[str, str]]:
    """Paths with each folder of rounds replaced by its runs, and the labels with theirs, as they are not given.

    Raises:
        ConfigError: as :func:`rounds_in`.
    """
    found = [(path, rounds_in(path)) for path in paths]
    several = sum(rounds is not None for _, rounds in found) > 1
    plain: list[Path] = []
    named = dict(labels)
    for path, rounds in found:
        if rounds is None:
            plain.append(path)
            continue
        for run, label in rounds.runs.items():
            plain.append(run)
            named.setdefault(str(run), f"{path.name}: {label}" if several else label)
    return plain, named
