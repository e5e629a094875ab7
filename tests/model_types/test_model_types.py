"""Every type of model that the installed transformers maps, in one of four states, found by running it.

The states stand in ``docs/model_types.md``, which ``scripts/make_model_types.py`` writes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from tests.model_types.measure import measure
from tests.model_types.registry import IMAGE_TYPES, NOT_BUILT, WRITERS
from tests.model_types.table import read_table

pytestmark = pytest.mark.model_types

TABLE = read_table()
IS_OF_THE_TABLE = TABLE.version == transformers.__version__


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_type_is_right_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    outcome = measure(WRITERS[name], tmp_path / "model")
    if IS_OF_THE_TABLE:
        assert outcome.state == TABLE.states.get(name), f"{outcome}; python scripts/make_model_types.py writes it anew"


@pytest.mark.skipif(not IS_OF_THE_TABLE, reason="another release of transformers maps other types")
def test_every_type_of_image_text_model_has_a_writer_or_a_reason() -> None:
    assert IMAGE_TYPES - set(WRITERS) == set(NOT_BUILT) & IMAGE_TYPES
    assert all(NOT_BUILT.values())
    assert set(TABLE.states) == set(WRITERS) | set(NOT_BUILT)
