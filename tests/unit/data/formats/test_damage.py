"""Rows of every format with random values in random places: each becomes pairs, or is put aside with a reason."""

from __future__ import annotations

import contextlib
import copy
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.data.formats import FORMATS, to_canonical
from mmpref.data.pair_source import PairSource
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.data.reading.rows import RowSource, SourceRow
from tests.tiers import checkerboard
from tests.unit.data.formats.test_formats import ROWS, Row
from tests.unit.data.formats.test_variants import VARIANTS

SEEDS = {**ROWS, **{name: row for name, (_, row, *_) in VARIANTS.items()}}
ODD: tuple[Any, ...] = (
    None, "", " ", "<image>", "\ud800", "x" * 5000, 0, -1, True, 10**400, float("nan"), float("inf"), b"", b"\xff",
    [], [None], ["", 1], [[]], {}, {"a": 1}, {"type": "image"}, {"bytes": None, "path": None}, {"role": None}, [{}],
    {"from": "gpt", "value": None}, "data:image/png;base64,???", "https://example.org/a.png", {1: 2},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in ((*path, key), *places(item, (*path, key)))]


def damaged(row: Row, seed: int) -> Row:
    """One to three values replaced, taken out, doubled or exchanged, at any depth."""
    chance, found = random.Random(seed), copy.deepcopy(row)
    for _ in range(chance.randint(1, 3)):
        paths = places(found)
        if not paths:
            break
        *way, last = chance.choice(paths)
        holder: Any = found
        for key in way:
            holder = holder[key]
        how = chance.choice(("odd", "odd", "odd", "remove", "wrap", "other"))
        if how == "odd":
            holder[last] = copy.deepcopy(chance.choice(ODD))
        elif how == "remove":
            del holder[last]
        elif how == "wrap":
            holder[last] = chance.choice(([holder[last]], {"x": holder[last]}, [holder[last], holder[last]]))
        else:
            other = copy.deepcopy(chance.choice(list(SEEDS.values())))
            found.update(chance.sample(sorted(other.items()), k=min(2, len(other))))
    return found


@pytest.mark.parametrize("name", checkerboard(SEEDS))
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_damaged_row_is_pairs_or_in_quarantine(name: str, seed: int) -> None:
    rows = [damaged(SEEDS[name], seed), SEEDS[name]]
    given_rows = RowSource(
        spec="rows", name="rows", split=None, files=(), folder=None,
        _open=lambda _: (SourceRow("rows", number, row) for number, row in enumerate(rows, start=1)),
    )  # fmt: skip
    quarantine = Quarantine()
    pairs = [found.pair for found in PairSource(rows=given_rows).pairs(quarantine, demonstrations=False)]
    assert len(pairs) == quarantine.num_used
    assert quarantine.num_used + len(quarantine) == quarantine.num_read >= 2
    assert all(row.reason != "unknown" and row.detail for row in quarantine.rows)


ARRAYS = (np.zeros((2, 2, 3), dtype=np.uint8), np.array(["a.jpg", "b.jpg"]), np.array([]), np.array([{"a": 1}, None]))


@pytest.mark.parametrize("name", SEEDS)
def test_a_row_with_an_array_is_read_or_refused_in_one_line(name: str) -> None:
    """As pandas gives them; our own readers give lists."""
    more = ("image", "images", "history", "is_tie", "meta", "tools", "system", "embedding")
    for column in dict.fromkeys((*SEEDS[name], *more)):
        for array in ARRAYS:
            for value in (array, [array, array], {"a": array}):
                with contextlib.suppress(RowError):  # any other exception is a defect
                    for row in to_canonical({**SEEDS[name], column: value}, place="file:1"):
                        pair_from_row(row, source="rows", line=1)


def test_a_row_that_an_array_breaks_says_which_column_and_what_to_give() -> None:
    row = {"prompt": "What?", "chosen": "A cat.", "rejected": "A dog."}
    for column, array in (("image", ARRAYS[0]), ("images", ARRAYS[1])):
        with pytest.raises(RowError, match=rf"'{column}' .*tolist\(\)") as caught:
            to_canonical({**row, column: array})
        assert caught.value.reason == "array"
    (found,) = to_canonical({**row, "images": ARRAYS[1].tolist()}, place="file:1")
    assert found["images"] == ["a.jpg", "b.jpg"]
    assert to_canonical({**row, "embedding": ARRAYS[0]}, place="file:1"), "what nothing reads may be anything"


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_named_format_reads_a_damaged_row_or_says_why_not(name: str, seed: int) -> None:
    with contextlib.suppress(RowError):  # any other exception is a defect
        found = to_canonical(damaged(ROWS[name], seed), name, place="file:1")
        assert name == "canonical" or all({"id", "prompt", "chosen"} <= row.keys() for row in found)
