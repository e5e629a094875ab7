"""The folder of one step of sampling: what it made, and ``step.json``, which says how, from what and how complete.

A step reads the folder of the step before it. Image paths stay as they were given; ``image_root`` of ``step.json`` is
the absolute folder that they start from, so that the next step finds the images without being told again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mmpref.errors import ConfigError, DataError
from mmpref.files.reading import home_path, read_json
from mmpref.files.writing import write_json
from mmpref.rundir.folder import versions

STEP = "step.json"
PROMPTS = "prompts.jsonl"
CANDIDATES = "candidates.jsonl"
PAIRS = "pairs.jsonl"
QUARANTINE = "quarantine.jsonl"
"""What a step could not use or got nothing for: one JSON object a line, with ``id``, ``reason`` and ``detail``."""

Name: TypeAlias = Literal["generate", "merge", "score", "pair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What ``step.json`` says.

    Args:
        name: which step it was.
        complete: whether all is there that was asked for.
        image_root: absolute; None where no prompt has images by path.
        made_from: the folders or files that were read.
        settings: what the result depends on.
        counts: how much of what was read, made and left out, by reason.
        facts: what else is known: agreement of scorers, the bias of lengths.
    """

    name: Name
    complete: bool
    image_root: Path | None
    made_from: tuple[str, ...]
    settings: Mapping[str, Any]
    counts: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str]]:
        """What it says, for people: a name and a text each."""
        rows = [("step", self.name if self.complete else f"{self.name}, not complete: run it again")]
        rows += [("made from", ", ".join(self.made_from)), ("images", str(self.image_root or "none by path"))]
        for title, found in (("counts", self.counts), ("settings", self.settings), ("facts", self.facts)):
            rows += [(f"{title}: {name}", str(value)) for name, value in found.items()]
        return rows


def write_step(folder: Path, step: Step) -> None:
    """Write ``step.json``; last, when everything else is there.

    Raises:
        CheckpointError: it cannot be written.
    """
    content = {
        "step": step.name,
        "complete": step.complete,
        "image_root": None if step.image_root is None else str(step.image_root),
        "made_from": list(step.made_from),
        "settings": dict(step.settings),
        "counts": dict(step.counts),
        "facts": dict(step.facts),
        "versions": versions(),
    }
    write_json(folder / STEP, content)


def read_step(folder: Path) -> Step:
    """What a folder's ``step.json`` says.

    Raises:
        DataError: it is not there, or damaged.
    """
    file = folder / STEP
    if not file.is_file():
        raise DataError(f"{folder} is no finished step of mmpref sample: it has no {STEP}; run that step again")
    found = read_json(file, DataError)
    try:
        root = found["image_root"]
        return Step(
            name=found["step"],
            complete=bool(found["complete"]),
            image_root=None if root is None else Path(root),
            made_from=tuple(map(str, found["made_from"])),
            settings=dict(found["settings"]),
            counts=dict(found["counts"]),
            facts=dict(found["facts"]),
        )
    except (LookupError, TypeError, ValueError) as err:
        raise DataError(f"{file} is damaged ({type(err).__name__}: {err}); run that step again") from err


def refuse_foreign(folder: Path, written: Iterable[str], begun: Iterable[str]) -> None:
    """Refuse a folder without ``step.json`` in which a file lies that the step would write over and has not made.

    Args:
        written: names of files that the step writes.
        begun: names of files that lie there from before the first of these on, so that a killed step can go on.

    Raises:
        ConfigError: so it is.
    """
    if (folder / STEP).is_file() or any((folder / name).exists() for name in begun):
        return
    for name in written:
        if (folder / name).exists():
            raise ConfigError(
                f"{folder} has a {name} that this step has not made and would write over; choose another --out"
            )


def rows_of_step(spec: str) -> tuple[str, Path | None]:
    """Where the rows are: of a step's folder its candidates or pairs, with the folder that their images start from;
    anything else as it is, and None.

    Raises:
        DataError: the folder of a step has neither, or a damaged ``step.json``.
    """
    path = home_path(spec)
    if path.is_dir() and (path / STEP).is_file():
        file, step = file_of_step(path, (CANDIDATES, PAIRS))
    elif path.name in (CANDIDATES, PAIRS) and path.is_file():
        file, step = file_of_step(path, ())
    else:
        return spec, None
    return str(file), None if step is None else step.image_root


def file_of_step(source: Path, names: Iterable[str]) -> tuple[Path, Step | None]:
    """The file to read, and what is known of how it was made: of a step's folder the first of ``names`` that it has.

    Raises:
        ConfigError: nothing is there.
        DataError: the folder has none of them, or a damaged ``step.json``.
    """
    if not source.exists():
        raise ConfigError(f"{source} does not exist")
    if not source.is_dir():
        beside = source.parent / STEP
        return source, read_step(source.parent) if beside.is_file() else None
    wanted = tuple(names)
    for name in wanted:
        if (source / name).is_file():
            return source / name, read_step(source)
    raise DataError(f"{source} has no {' and no '.join(wanted)}; run the step before this one to its end")
