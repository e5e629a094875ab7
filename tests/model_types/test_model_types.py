"""Every type of model that the installed transformers maps, in one of four states, found by running it.

The states stand in ``docs/model_types.md``, which ``scripts/make_model_types.py`` writes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from tests.model_types.causal import TEXT_TYPES
from tests.model_types.measure import measure
from tests.model_types.registry import CAUSAL_TYPES, IMAGE_TYPES, NOT_BUILT, WRITERS
from tests.model_types.table import read_table
from tests.tiers import corners

pytestmark = pytest.mark.model_types

TABLE = read_table()
IS_OF_THE_TABLE = TABLE.version == transformers.__version__
QUICK = set(WRITERS) - TEXT_TYPES | set(sorted(TEXT_TYPES & set(WRITERS))[::4]) | {"llama", "qwen2", "qwen3"}
"""Every type that sees images. Of those for text alone, which share a code path, a few."""


@pytest.mark.parametrize("name", corners(sorted(WRITERS), *QUICK))
def test_a_type_is_right_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    outcome = measure(WRITERS[name], tmp_path / "model")
    said = TABLE.states.get(name)
    if IS_OF_THE_TABLE and said != "not built here":  # which some are where torchvision or timm is installed
        assert outcome.state == said, f"{outcome}; python scripts/make_model_types.py writes it anew"


@pytest.mark.skipif(not IS_OF_THE_TABLE, reason="another release of transformers maps other types")
def test_every_type_that_transformers_maps_has_a_writer_or_a_reason() -> None:
    every = IMAGE_TYPES | CAUSAL_TYPES
    assert every - set(WRITERS) == set(NOT_BUILT) & every
    assert all(NOT_BUILT.values())
    assert set(TABLE.states) == set(WRITERS) | set(NOT_BUILT)


@pytest.mark.skipif(not IS_OF_THE_TABLE, reason="another release of transformers maps other types")
def test_most_types_run() -> None:
    right = {name for name, state in TABLE.states.items() if state in ("shared prefix", "plain")}
    assert len(right & TEXT_TYPES) >= 100
    assert len(right - TEXT_TYPES) >= 60
