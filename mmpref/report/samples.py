"""What the model answered to the same prompts in the course of its training, runs side by side."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmpref.report.evaluation import Row, number
from mmpref.report.examples import Album, Piece
from mmpref.report.html import render
from mmpref.report.runs import Run

MOST_PROMPTS = 16
MOST_STEPS = 12
"""Of one prompt and run; of more, so many evenly spaced ones are shown."""
_MOST_WORDS = 400
_MOST_IMAGES = 4
_Key = tuple[str, str, tuple[str, ...], Path | None]
"""Id, prompt, image paths, and where these start: runs over other images are not asked the same."""


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """One answer, in pieces marked ``new`` or ``gone`` against the first one of its run."""

    step: int
    pieces: tuple[Piece, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class RunAnswers:
    """The answers of one run to a prompt: the first, and those after it."""

    label: str
    answers: tuple[StepAnswer, ...]

    @property
    def last(self) -> StepAnswer:
        """The newest answer."""
        return self.answers[-1]


@dataclass(frozen=True, slots=True)
class PromptAnswers:
    """One prompt with its images, ``(data URI or None, tiny, why there is none)`` each, and what every run answered."""

    name: str
    prompt: str
    images: tuple[tuple[str | None, bool, str], ...]
    runs: tuple[RunAnswers, ...]


def samples_section(runs: Sequence[Run], album: Album) -> Markup | None:
    """The section of the page; None where no run has samples.

    Args:
        runs: as they are compared.
        album: shows the images.
    """
    by_run = [(run.label, _by_prompt(run.samples, album.root_for(run.images_root))) for run in runs]
    keys = list(dict.fromkeys(key for _, found in by_run for key in found))
    if not keys:
        return None
    shown = [_prompt(key, by_run, album) for key in keys[:MOST_PROMPTS]]
    without = [label for label, found in by_run if not found]
    return render("samples", prompts=shown, more=len(keys) - len(shown), without=without)


def _by_prompt(rows: Sequence[Row], root: Path | None) -> dict[_Key, dict[int, Row]]:
    """Greedy answers by prompt and step; rows that are no answers are left out."""
    found: dict[_Key, dict[int, Row]] = {}
    for row in rows:
        step, images = number(row.get("step")), row.get("images")
        if row.get("kind", "greedy") != "greedy" or step is None or not isinstance(row.get("text"), str):
            continue
        paths = tuple(map(str, images)) if isinstance(images, list) else ()
        key = (str(row.get("id", "")), str(row.get("prompt", "")), paths, root if paths else None)
        found.setdefault(key, {})[int(step)] = row
    return found


def _prompt(key: _Key, by_run: Sequence[tuple[str, Mapping[_Key, Mapping[int, Row]]]], album: Album) -> PromptAnswers:
    name, prompt, paths, root = key
    answers = [RunAnswers(label, _answers(found[key])) for label, found in by_run if key in found]
    images = tuple(album.embed(path, root) for path in paths[:_MOST_IMAGES])
    return PromptAnswers(name, prompt, images, tuple(answers))


def _answers(by_step: Mapping[int, Row]) -> tuple[StepAnswer, ...]:
    steps = _thinned(sorted(by_step))
    first = str(by_step[steps[0]]["text"])
    return tuple(StepAnswer(step, compared(first, str(by_step[step]["text"])), _note(by_step[step])) for step in steps)


def _thinned(steps: Sequence[int]) -> list[int]:
    """At most ``MOST_STEPS``, the first and the last among them."""
    if len(steps) <= MOST_STEPS:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(place * last / (MOST_STEPS - 1))] for place in range(MOST_STEPS)]


def _note(row: Row) -> str:
    tokens: Any = number(row.get("tokens"))
    said = [] if tokens is None else [f"{tokens:g} tokens"]
    return ", ".join([*said, *(["cut"] if row.get("cut") is True else [])])


def compared(first: str, later: str) -> tuple[Piece, ...]:
    """The later answer in pieces: words that the first one has not are ``new``, and those that it lost are ``gone``."""
    old, new = first.split()[:_MOST_WORDS], later.split()[:_MOST_WORDS]
    left_out = len(later.split()) - len(new)
    pieces = []
    for kind, start, end, begin, stop in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(Piece(" ".join(new[begin:stop])))
            continue
        if end > start:
            pieces.append(Piece(" ".join(old[start:end]), "gone"))
        if stop > begin:
            pieces.append(Piece(" ".join(new[begin:stop]), "new"))
    if left_out:
        pieces.append(Piece(f"… ({left_out} words more)"))
    return tuple(pieces)
