"""Words that the shell completes after ``mmpref --install-completion``: recipes, their keys, data cards, benchmarks.

Each function is called while somebody waits at a prompt: none loads torch, and only the keys import more than what
``--help`` does. What is no name from these lists is a file, which the shell completes itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

BENCHMARKS = (
    "pope", "chair", "amber", "hallusionbench", "mme", "mmhal", "object_halbench", "repope", "dash_b", "naturalbench",
    "crpe", "mmvp", "finer", "preference", "win_rate",
)  # fmt: skip
"""Names of ``mmpref.evals.benchmarks``, whose import takes a second."""

Word = tuple[str, str]
"""What is completed, and a line about it, which zsh and fish show."""


def recipe_names(incomplete: str) -> list[Word]:
    """Shipped recipes that begin so."""
    from mmpref.recipe.shipped import shipped_recipes

    return [(name, "") for name in shipped_recipes() if name.startswith(incomplete)]


def recipe_keys(incomplete: str) -> list[Word]:
    """Keys of a recipe that begin so, with their ``=``; after it, the values of a key that takes one of a few."""
    from mmpref.recipe.keys import described
    from mmpref.recipe.sections import Recipe

    key, equals, _ = incomplete.partition("=")
    keys = [known for known in described(Recipe) if not re.search(r"\[\]|NAME", known.name)]
    if equals:
        takes = next((known.takes for known in keys if known.name == key), "")
        values = ["true", "false"] if takes == "true or false" else takes.split(" | ") if " | " in takes else []
        values = [value for value in values if " " not in value and value not in ("text", "number", "mapping", "path")]
        return _beginning([(f"{key}={value}", "") for value in values], incomplete)
    return _beginning([(f"{known.name}=", known.meaning) for known in keys], incomplete)


def recipe_sections(incomplete: str) -> list[Word]:
    """Shipped recipes, and for ``--keys`` sections of a recipe, that begin so."""
    from mmpref.recipe.sections import Recipe

    return [*recipe_names(incomplete), *_beginning([(name, "") for name in Recipe.model_fields], incomplete)]


def card_names(incomplete: str) -> list[Word]:
    """Data cards that begin so."""
    beside = Path(__file__).resolve().parents[2]
    places = (beside, beside / "share" / "mmpref", Path(sys.prefix) / "share" / "mmpref")
    folder = next((place / "data_cards" for place in places if (place / "data_cards").is_dir()), None)
    names = sorted(file.stem for file in folder.glob("*.md")) if folder is not None else []
    return _beginning([(name, "") for name in names if name != "README"], incomplete)


def benchmark_names(incomplete: str) -> list[Word]:
    """Benchmarks that begin so."""
    return _beginning([(name, "") for name in BENCHMARKS], incomplete)


def _beginning(words: Iterable[Word], incomplete: str) -> list[Word]:
    return [(word, meaning) for word, meaning in words if word.startswith(incomplete)]
