"""The table of model types in the docs: written from outcomes, and read back to be compared with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

from tests.model_types.causal import TEXT_TYPES
from tests.model_types.measure import Outcome, State

PAGE = Path(__file__).resolve().parents[2] / "docs" / "model_types.md"
_STATES: tuple[str, ...] = get_args(State)
_VERSION = re.compile(r"transformers (\d[\w.]*)")
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+?) \| (.*) \|$", re.MULTILINE)
_HEAD = """# Which models

Every type of image-text model and of text model that transformers {version} maps, as a test finds it: a small model of
that type with random weights and its own processor is loaded, run, trained for a step, saved and merged.
`{command}` writes this page.

- **shared prefix**: right, and prompt and images are computed once for both answers of a pair.
- **plain**: right, and each answer has its own copy of the prompt.
- **refused**: `mmpref` says in one line why it does not train such a model.
- **not built here**: the test has no such model; the reason says why. `mmpref` may still train it.

*Right* is: the log-probs of both answers of every row below are within 1e-4 nats a token of the stock model's on its
own processor's whole conversation, and no token moves the log-probs of those before it; lengths counted from the sizes
of images are the real ones; gradients are finite, reach every part that trains, and are the same with checkpointing.
"""
_IMAGES = """
## Models that see images

Rows: one image, two images between text, text only, an image in the second turn, a system prompt, a begun answer.

{counts}.
"""
_TEXT = """
## Text models

Rows: one question, two turns, a system prompt, answers that are nearly alike, answers of one word.

{counts}.
"""
_COLUMNS = """
| type | state | remark |
|---|---|---|
"""


class Row(NamedTuple):
    """What the page says of one type."""

    state: str
    remark: str


@dataclass(frozen=True, slots=True)
class Table:
    """What the page says."""

    version: str
    rows: Mapping[str, Row]

    @property
    def states(self) -> dict[str, str]:
        """Type -> state."""
        return {name: row.state for name, row in self.rows.items()}


def read_table() -> Table:
    """The page as it stands; empty where there is none."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    version = _VERSION.search(text)
    rows = {name: Row(state, remark) for name, state, remark in _ROW.findall(text)}
    return Table(version.group(1) if version else "", rows)


def written(rows: Mapping[str, Row], version: str) -> str:
    """The page with these rows: types that see images first."""
    text = _HEAD.format(version=version, command="python scripts/make_model_types.py")
    for head, is_text in ((_IMAGES, False), (_TEXT, True)):
        here = {name: row for name, row in rows.items() if (name in TEXT_TYPES) == is_text}
        states = [row.state for row in here.values()]
        counts = "; ".join(f"{state}: {states.count(state)}" for state in _STATES if state in states)
        lines = (f"| `{name}` | {row.state} | {row.remark} |\n" for name, row in here.items())
        text += head.format(counts=counts) + _COLUMNS + "".join(lines)
    return text


def row_of(outcome: Outcome) -> Row:
    """An outcome as the page has it."""
    found = [outcome.reason] if outcome.reason else []
    if outcome.state in ("plain", "shared prefix"):
        found += [f"refused: {row}" for row in outcome.refused_rows]
    return Row(outcome.state, "; ".join(found).replace("|", "\\|").replace("\n", " "))
