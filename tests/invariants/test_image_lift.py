"""Both answers of held-out pairs under another image (``train.eval_image_lift``): in both layouts the numbers are
those of the stock model with that image, and nothing of the pair itself changes."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import pytest
import torch

from mmpref.losses.contract import PairLogps
from mmpref.models import LoadedModel
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.processing import LayoutName, OtherImageSettings
from mmpref.processing.batch import PairBatch
from mmpref.records import PreferencePair
from mmpref.training.trainer.image_lift import image_lift, logps_under_other
from tests.plain_forward import SHARING, build_deep, by_hand, collator_for, rows_for, stock_twin
from tests.tiny_vlms import VISION, pair, refs

QUICK = ("llava", "qwen3_vl")
FAMILIES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SHARING if name in VISION]
LAYOUTS: tuple[LayoutName, ...] = ("shared_prefix", "plain")
COLUMN = OtherImageSettings(source="column")


@functools.cache
def deep(name: str) -> LoadedModel:
    """For reading only."""
    return build_deep(name)


def with_other(row: PreferencePair) -> PreferencePair:
    names = [(image.path or "").partition("-") for image in row.images]
    others = refs(*(f"{size}-{int(number) + 10}" for size, _, number in names))
    return dataclasses.replace(row, other_images=others if row.images else None)


def shown_again(row: PreferencePair) -> PreferencePair:
    return dataclasses.replace(row, images=row.other_images or (), other_images=None)


def measured(loaded: LoadedModel, batch: PairBatch) -> tuple[PairLogps, dict[str, Any]]:
    with torch.no_grad():
        own, other = pair_logps(loaded.model, batch), logps_under_other(loaded.model, batch, always=False)
        assert other is not None
        return own, {name: value.tolist() for name, value in image_lift(own, other, batch).items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_stock_models_under_the_right_picture_minus_that_under_the_other_one(name: str) -> None:
    loaded, rows = deep(name), [with_other(row) for row in rows_for(name)]
    twin = stock_twin(loaded.model)
    with torch.no_grad():
        own, other = by_hand(twin, loaded, rows), by_hand(twin, loaded, [shown_again(row) for row in rows])
    want = [float(one.mean() - two.mean()) for one, two in zip(own, other, strict=True)]
    count = len(rows)
    assert not rows[0].images
    for layout in LAYOUTS:
        plain = collator_for(loaded, layout)
        logps, found = measured(loaded, plain.lifting(COLUMN)(rows))
        same = pair_logps(loaded.model, plain(rows))
        assert torch.equal(logps.chosen, same.chosen), "the pair's own numbers stay as they are"
        for place, row in enumerate(rows):
            of_pair = [found["lift/chosen"][place], found["lift/rejected"][place]]
            if not row.images:
                assert all(map(math.isnan, (*of_pair, found["lift/helps"][place])))
                continue
            assert of_pair == pytest.approx([want[place], want[count + place]], abs=1e-5)
            assert abs(of_pair[0]) > 1e-4, "the model looks"
            assert found["lift/helps"][place] == float(want[place] > 0)


def test_a_rejected_answer_with_images_of_its_own_is_not_compared() -> None:
    row = with_other(pair("own", images=("60x60-2",), chosen="a dog .", rejected="a cat ."))
    row = dataclasses.replace(row, rejected_images=refs("60x60-3"))
    _, found = measured(deep("llava"), collator_for(deep("llava"), "shared_prefix").lifting(COLUMN)([row]))
    assert math.isnan(found["lift/rejected"][0])
    assert not math.isnan(found["lift/chosen"][0])


def test_a_picture_of_which_no_other_can_be_made_is_left_out_and_a_batch_without_any_has_none() -> None:
    rows = [with_other(pair("one", images=("60x60-2",), chosen="a dog .", rejected="a cat ."))]
    same = dataclasses.replace(rows[0], id="same", other_images=rows[0].images)
    collate = collator_for(deep("llava"), "plain").lifting(COLUMN)
    batch = collate([*rows, same])
    assert batch.lift_sides is not None
    assert batch.lift_sides.tolist() == [[True, False], [True, False]]
    assert collate([same]).lifted is None
    assert logps_under_other(deep("llava").model, collate([same]), always=False) is None
    assert collate.lifting(None)(rows).lifted is None


def test_of_single_answers_the_undesirable_ones_are_the_rejected_ones() -> None:
    three = {"chosen_len": torch.tensor([2.0, 2.0, 4.0]), "rejected": None, "rejected_len": None}
    own = PairLogps(
        chosen=torch.tensor([-2.0, -8.0, -4.0]),
        ref_chosen=None,
        desirable=torch.tensor([1, 0, 1]),
        **three,  # type: ignore[arg-type]
    )
    other = PairLogps(chosen=torch.tensor([-4.0, -4.0, -2.0]), **three)  # type: ignore[arg-type]
    rows = [
        dataclasses.replace(with_other(pair(f"{n}", images=("60x60-2",), chosen="a")), rejected=None) for n in "abc"
    ]
    collate = collator_for(deep("llava"), "plain", need_rejected=False).lifting(COLUMN)
    found = image_lift(own, other, collate(rows))
    assert {name: str(value.tolist()) for name, value in found.items()} == {
        "lift/chosen": "[1.0, nan, -0.5]", "lift/rejected": "[nan, -2.0, nan]", "lift/helps": "[1.0, nan, 0.0]",
    }  # fmt: skip
