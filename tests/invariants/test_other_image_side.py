"""The chosen answer under another image, in both layouts: its numbers are those of a row with that image alone, and
neither changes anything of the pair itself."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch

from mmpref.losses import build_objective
from mmpref.losses.contract import PairLogps
from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_reference, pair_logps, prepare
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import LayoutName, OtherImageSettings, PairCollator
from mmpref.records import PreferencePair
from tests.plain_forward import (
    SEE_VIDEOS,
    SHARING,
    answers_of,
    build_deep,
    by_hand,
    collator_for,
    gradient,
    relative,
    rows_for,
    stir,
    stock_twin,
    video_rows,
    worst,
)
from tests.tiny_others import mllama
from tests.tiny_vlms import VISION, pair, refs

QUICK = ("llava", "qwen3_vl")
FAMILIES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SHARING if name in VISION]
LAYOUTS: tuple[LayoutName, ...] = ("shared_prefix", "plain")
MDPO = {"name": "mdpo", "beta": 0.3}


@functools.cache
def deep(name: str) -> LoadedModel:
    """For reading only."""
    return build_deep(name)


def with_other(row: PreferencePair) -> PreferencePair:
    """The row with another image of the same size in the place of each."""
    names = [(image.path or "").partition("-") for image in row.images]
    others = refs(*(f"{size}-{int(number) + 10}" for size, _, number in names))
    return dataclasses.replace(row, other_images=others if row.images else None)


def collator(loaded: LoadedModel, layout: LayoutName, **settings: Any) -> PairCollator:
    other = OtherImageSettings(**{"source": "column", **settings})
    return collator_for(loaded, layout, other_image=other, need_other=True)


def sides(loaded: LoadedModel, rows: list[PreferencePair], collate: PairCollator) -> tuple[list[Any], list[Any]]:
    """Token log-probs of (the pairs' own answers, the chosen ones under the other image)."""
    batch = collate(rows)
    with torch.no_grad():
        found = answers_of(batch, answer_logps(loaded.model, batch))
    own, other = found[: 2 * len(rows)], found[2 * len(rows) :]
    assert [len(one) for one in other] == [len(one) if row.images else 0 for one, row in zip(own, rows, strict=False)]
    return own, other


def shown_again(row: PreferencePair) -> PreferencePair:
    return dataclasses.replace(row, images=row.other_images or (), other_images=None)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_that_of_the_stock_model_with_the_other_picture(name: str) -> None:
    loaded, rows = deep(name), [with_other(row) for row in rows_for(name)]
    twin = stock_twin(loaded.model)
    with torch.no_grad():
        want_own = by_hand(twin, loaded, rows)
        want = by_hand(twin, loaded, [shown_again(row) for row in rows])[: len(rows)]
    for layout in LAYOUTS:
        own, other = sides(loaded, rows, collator(loaded, layout))
        assert worst(own, want_own) < 1e-5
        for row, found, wanted, first in zip(rows, other, want, own, strict=False):
            if row.images:
                assert worst([found], [wanted]) < 1e-5
                assert float((found - first).abs().max()) > 1e-3  # the model looks


@pytest.mark.slow
def test_images_seen_by_cross_attention_change_too() -> None:
    loaded = mllama()
    rows = [with_other(row) for row in rows_for("mllama")]
    with torch.no_grad():
        want = by_hand(stock_twin(loaded.model), loaded, [shown_again(row) for row in rows])
    for layout in LAYOUTS:
        own, other = sides(loaded, rows, collator(loaded, layout))
        for row, found, wanted, first in zip(rows, other, want, own, strict=False):
            if row.images:
                assert worst([found], [wanted]) < 1e-5
                assert float((found - first).abs().max()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", SEE_VIDEOS)
def test_a_row_with_images_and_videos_keeps_its_videos(name: str) -> None:
    loaded, rows = deep(name), [with_other(row) for row in video_rows()]
    assert [bool(row.other_images) for row in rows].count(True) == 1
    with torch.no_grad():
        want = by_hand(stock_twin(loaded.model), loaded, [shown_again(row) for row in rows])
    for layout in LAYOUTS:
        _, other = sides(loaded, rows, collator(loaded, layout))
        assert worst([one for one in other if len(one)], [want[-len(rows) - 1]]) < 1e-5


@pytest.mark.parametrize("kind", ["crop", "noise", "mask", "blur", "blank"])
def test_made_pictures_are_the_same_in_both_layouts_and_in_any_batch(kind: str) -> None:
    loaded = deep("llava")
    rows = [pair("a", images=("60x60-1",)), pair("b", images=()), pair("c", images=("28x60-2", "60x60-3"))]
    rows += [pair("d", images=("60x60-1",), chosen="a cat", rejected="a red square .")]  # the prompt of a
    together = [sides(loaded, rows, collator(loaded, layout, source="made", kind=kind)) for layout in LAYOUTS]
    for number, row in enumerate(rows):
        _, alone = sides(loaded, [row], collator(loaded, "plain", source="made", kind=kind))
        if row.images:
            assert max(worst(alone, [other[number]]) for _, other in together) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_an_image_term_are_the_same_in_both_layouts_and_pair_by_pair(name: str) -> None:
    rows = [with_other(row) for row in rows_for(name) if row.rejected_images is None][:4]
    prepared = prepare(build_deep(name), Tuning(projector="full", language="lora"), AdapterSettings(rank=4, alpha=8))
    reference = choose_reference(prepared.model)
    stir(prepared.model)
    objective, found = build_objective(MDPO), []
    for layout, parts in (("shared_prefix", [rows]), ("plain", [rows]), ("shared_prefix", [[row] for row in rows])):
        prepared.model.zero_grad()
        for part in parts:
            batch = collator(prepared, layout)(part)  # type: ignore[arg-type]
            objective(pair_logps(prepared.model, batch, reference=reference)).per_pair.sum().backward()
        found.append(gradient(prepared.model))
    assert float(found[0].abs().max()) > 0
    assert relative(found[1], found[0]) < 1e-4
    assert relative(found[2], found[0]) < 1e-4


def test_policy_and_reference_see_the_same_picture_before_the_first_step() -> None:
    prepared = prepare(build_deep("llava"), Tuning(language="lora"), AdapterSettings(rank=4))
    reference = choose_reference(prepared.model)
    batch = collator(prepared, "shared_prefix", source="made")([pair("a"), pair("t", images=()), pair("b")])
    found: PairLogps = pair_logps(prepared.model, batch, reference=reference)
    assert found.other is not None
    assert found.ref_other is not None
    assert found.has_other is not None
    assert found.has_other.tolist() == [True, False, True]
    torch.testing.assert_close(found.other.detach(), found.ref_other, atol=1e-5, rtol=1e-5)
    assert float((found.other - found.chosen).detach()[found.has_other].abs().min()) > 1e-3


def test_all_tokens_of_the_third_side_are_counted_to_its_pair() -> None:
    """What routers are balanced over, and what a batch is divided by."""
    loaded = deep("llava")
    rows = [with_other(pair("a")), with_other(pair("b", images=("60x60-3",)))]
    for layout in LAYOUTS:
        batch = collator(loaded, layout)(rows)
        assert batch.pair_tokens is not None
        places, pairs = batch.pair_tokens
        assert len(places.unique()) == len(places)
        encoded = collator(loaded, layout).encoded(rows)
        for number, one in enumerate(encoded):
            want = 2 * len(one.prompt) + 2 * len(one.chosen_ids) + len(one.rejected_ids)  # type: ignore[arg-type]
            assert int((pairs == number).sum()) == want
    limit = 2 * len(encoded[0].prompt) + 2 * len(encoded[0].chosen_ids) + len(encoded[0].rejected_ids)  # type: ignore[arg-type]
    packed = collator(loaded, "shared_prefix")
    for most, parts in ((limit - 1, 2), (10_000, 1)):
        packed.row_tokens = most
        assert len(packed.rows(rows)) == parts
