"""The card of the embedded world says what the world of seed 0 holds."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from mmpref.demo.world import WorldFiles, make_world
from mmpref.yaml_text import parse_yaml

CARD = Path(__file__).resolve().parents[3] / "data_cards" / "demo_world.md"


@pytest.fixture(scope="module")
def front_matter() -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = parse_yaml(CARD.read_text(encoding="utf-8").split("---")[1], where="card")
    return content


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    return make_world(tmp_path_factory.mktemp("world") / "full", seed=0)


def rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["pairs", "pairs_heldout", "see", "habit"])
def test_the_sizes_are_those_of_the_card(world: WorldFiles, front_matter: dict[str, dict[str, int]], name: str) -> None:
    assert len(rows(getattr(world, name))) == front_matter["size"][name]


def test_the_defects_are_as_many_as_the_card_says(world: WorldFiles, front_matter: dict[str, dict[str, str]]) -> None:
    pairs = rows(world.pairs)
    found = Counter(row["meta"]["label"] for row in pairs)  # type: ignore[index]
    found["inverted_scores"] = sum(row["score_chosen"] < row["score_rejected"] for row in pairs)  # type: ignore[operator]
    for name, words in front_matter["defects"].items():
        count = re.match(r"(\d+) of (\d+) pairs", words)
        assert count is not None
        assert (found[name], len(pairs)) == (int(count[1]), int(count[2]))
