"""Rotary positions whose speed depends on the length of a sequence: a pair's log-probs are its own in every batch."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from mmpref.models import LoadedModel, choose_layout, load
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import LayoutName
from mmpref.processing.rope_lengths import RopeLengths, rope_lengths
from mmpref.records import PreferencePair
from tests.plain_forward import (
    answers_of,
    collator_for,
    gradient,
    relative,
    run_alone,
    stir,
    stock_sequences,
    stock_twin,
    worst,
)
from tests.recomputing import recompute
from tests.tiny_ropes import DYNAMIC, FIRST, LONG_ROPE, write_rope
from tests.tiny_vlms import build, pair

LONG = " a red square on a blue background ." * 4
ROWS = (
    pair("short", images=(), question="a dog ?", chosen="no .", rejected="yes , it is"),
    pair("one long answer", images=(), question="describe it .", chosen=LONG * 2, rejected="a cat"),
    pair("long prompt", images=(), question=LONG * 2, chosen="a dog .", rejected="there is one cat ."),
)


def _by_hand(loaded: LoadedModel, rows: Sequence[PreferencePair]) -> list[Tensor]:
    """Each sequence by a model of its own, because dynamic scaling remembers what it was given."""
    twin = stock_twin(loaded.model)
    sides = [stock_sequences(loaded, row) for row in rows]
    with torch.no_grad():
        return [run_alone(copy.deepcopy(twin), side[at]) for at in range(2) for side in sides]


def _off(loaded: LoadedModel, rows: Sequence[PreferencePair], layout: LayoutName, want: list[Tensor]) -> float:
    batch = collator_for(loaded, layout)(rows)
    with torch.no_grad():
        return worst(answers_of(batch, answer_logps(loaded.model, batch)), want)


@pytest.mark.parametrize("layout", ["plain", "shared_prefix"])
@pytest.mark.parametrize("kind", ["longrope", "dynamic", "phi3", "phimoe"])
def test_the_pairs_beside_a_pair_change_nothing(kind: str, layout: LayoutName, tmp_path: Path) -> None:
    loaded = load(write_rope(kind, tmp_path / "model"))
    assert choose_layout(loaded.model, loaded.family).name == "shared_prefix"
    want = _by_hand(loaded, ROWS)
    assert _off(loaded, ROWS, layout, want) < 1e-5
    for number, row in enumerate(ROWS):
        assert _off(loaded, [row], layout, [want[number], want[number + len(ROWS)]]) < 1e-5
    assert _off(loaded, ROWS, layout, want) < 1e-5  # and what went before changes nothing


@pytest.mark.parametrize("scaling", [DYNAMIC, {**LONG_ROPE, "factor": 4.0}], ids=["dynamic", "longrope"])
def test_positions_in_three_planes(scaling: dict[str, Any], tmp_path: Path) -> None:
    folder = build("qwen2_vl", tmp_path / "model")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    text = config["text_config"]
    text |= {"max_position_embeddings": FIRST, "rope_parameters": {**text["rope_parameters"], **scaling}}
    file.write_text(json.dumps(config))
    loaded = load(folder)
    rows = [pair("seen", question="what is it ?" + LONG, chosen="a cat", rejected=LONG), *ROWS]
    want = _by_hand(loaded, rows)
    layouts: tuple[LayoutName, ...] = ("plain", "shared_prefix")
    for layout in layouts:
        assert _off(loaded, rows, layout, want) < 1e-5


def test_only_pairs_that_are_read_in_two_ways_are_laid_out_apart(tmp_path: Path) -> None:
    loaded = load(write_rope("longrope", tmp_path / "model"))
    counts = [len(collator_for(loaded, "shared_prefix")([row]).segments) for row in ROWS]
    assert counts == [1, 2, 1]


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_gradients_are_the_same_in_both_layouts_and_recomputed(kind: str, tmp_path: Path) -> None:
    loaded = load(write_rope(kind, tmp_path / "model"), trainable=True)
    stir(loaded.model)
    layouts: tuple[LayoutName, ...] = ("plain", "shared_prefix")
    found = []
    for _ in range(2):
        for layout in layouts:
            loaded.model.zero_grad()
            batch = collator_for(loaded, layout)(ROWS)
            batch.by_answer(answer_logps(loaded.model, batch)).sum().backward()
            found.append(gradient(loaded.model))
        recompute(loaded.model)
    assert all(relative(one, found[0]) < 1e-4 for one in found[1:])
    assert not any("forward" in module.__dict__ for module in loaded.model.modules() if hasattr(module, "rope_type"))


def test_lengths_are_alike_on_one_side_of_a_switch() -> None:
    switch = RopeLengths(switches=(64,))
    assert [switch.reading(one) == switch.reading(other) for one, other in ((3, 64), (65, 900), (64, 65))] == [
        True,
        True,
        False,
    ]
    assert [switch.all_alike(length) for length in (64, 65)] == [True, False]


def test_lengths_beyond_where_scaling_begins_are_alike_only_if_equal() -> None:
    grown = RopeLengths(grows=64)
    pairs = ((3, 64), (70, 70), (70, 71), (64, 65))
    assert [grown.reading(one) == grown.reading(other) for one, other in pairs] == [True, True, False, False]
    assert [grown.all_alike(length) for length in (64, 65)] == [True, False]


def test_what_a_config_says() -> None:
    assert rope_lengths(tf.LlamaConfig()) is None
    assert (
        rope_lengths(tf.LlamaConfig(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0})) is None
    )
    assert rope_lengths(tf.LlamaConfig(max_position_embeddings=77, rope_parameters=DYNAMIC)) == RopeLengths(grows=77)
    fixed = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 1000.0}
    assert rope_lengths(tf.HunYuanDenseV1Config(rope_parameters=fixed)) is None
    of_kinds = {"full_attention": {**LONG_ROPE}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    assert rope_lengths(tf.PretrainedConfig(rope_parameters=of_kinds)) == RopeLengths(switches=(FIRST,))
