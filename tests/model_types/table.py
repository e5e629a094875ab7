"""The table of model types in the docs: written from outcomes, and read back to be compared with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.model_types.measure import Outcome

PAGE = Path(__file__).resolve().parents[2] / "docs" / "model_types.md"
_VERSION = re.compile(r"transformers (\d[\w.]*)")
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+?) \|", re.MULTILINE)
_HEAD = """# Which models

Every type of image-text model that transformers {version} maps, as a test finds it: a small model of that type with
random weights and its own processor is loaded, run, trained for a step, saved and merged. `{command}` writes this page.

- **shared prefix**: right, and prompt and images are computed once for both answers of a pair.
- **plain**: right, and each answer has its own copy of the prompt.
- **refused**: `mmpref` says in one line why it does not train such a model.
- **not built here**: the test has no such model; the reason says why. `mmpref` may still train it.

*Right* is: the log-probs of both answers of six rows (one image, two images between text, text only, an image in the
second turn, a system prompt, a begun answer) are within 1e-4 nats a token of the stock model's on its own processor's
whole conversation; counted tokens are the real ones, and a gradient is the same with checkpointing.

{counts}

| type | state | remark |
|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Table:
    """What the page says."""

    version: str
    states: Mapping[str, str]


def read_table() -> Table:
    """The page as it stands; empty where there is none."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    version = _VERSION.search(text)
    return Table(version.group(1) if version else "", dict(_ROW.findall(text)))


def written(outcomes: Mapping[str, Outcome], version: str) -> str:
    """The page for these outcomes."""
    states = [outcome.state for outcome in outcomes.values()]
    counts = "; ".join(f"{state}: {states.count(state)}" for state in dict.fromkeys(sorted(states)))
    head = _HEAD.format(version=version, command="python scripts/make_model_types.py", counts=counts)
    return head + "".join(
        f"| `{name}` | {outcome.state} | {_remark(outcome)} |\n" for name, outcome in outcomes.items()
    )


def _remark(outcome: Outcome) -> str:
    found = [outcome.reason] if outcome.reason else []
    if outcome.state in ("plain", "shared prefix"):
        found += [f"refused: {row}" for row in outcome.refused_rows]
    return "; ".join(found).replace("|", "\\|").replace("\n", " ")
