"""Rows with several images in one batch, as public reports have met them: each row is what it is alone.

Rebuilt here, each with a small model of that type and its own processor:

- images of different sizes in one batch of LLaVA-NeXT (huggingface/transformers issue 29832);
- Idefics 2, whose results changed with the padding that other images of the batch need (pull request 33499), and whose
  first row has no image (pull request 48753);
- InternVL's tiles, whose number differs from image to image and which no grid tells apart (huggingface/trl issue 4061);
- two images of different sizes in one row of Pixtral (Blaizzy/mlx-vlm issue 87);
- two rows with two images each, where a row could be given its neighbour's (huggingface/transformers issue 28184).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmpref.models import LoadedModel, load
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import LayoutName
from mmpref.records import PreferencePair
from tests.model_types.folders import NotBuiltError
from tests.model_types.registry import WRITERS
from tests.plain_forward import answers_of, by_hand, collator_for, stock_twin, worst
from tests.tiny_vlms import pair, turn

TYPES = ("llava_next", "idefics2", "internvl", "pixtral (llava)", "mistral3", "aya_vision", "ovis2")
RIGHT = 1e-4


def _two(name: str, first: str, second: str) -> PreferencePair:
    prompt = (turn("user", "is this ", None, " or ", None, " ?"),)
    return pair(name, images=(first, second), prompt=prompt, chosen="a red square .", rejected="it is not .")


TEXT = pair("text", images=(), question="is there a dog ?", chosen="there is no dog .", rejected="yes")
WIDE = pair("wide", images=("90x30-1",), chosen="a cat", rejected="a dog .")
HIGH = pair("high", images=("20x80-2",), chosen="a circle and two boxes .", rejected="no")
SQUARE = pair("square", images=("56x56-3",), chosen="yes", rejected="there is one cat .")
TWO = _two("two", "90x30-4", "20x80-5")
SWAPPED = _two("swapped", "20x80-5", "90x30-4")
OTHERS = _two("others", "56x56-6", "40x60-7")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    """A loaded model of a type, made once."""
    kept: dict[str, LoadedModel] = {}

    def get(name: str) -> LoadedModel:
        if name not in kept:
            folder: Path = tmp_path_factory.mktemp("models") / "model"
            try:
                WRITERS[name](folder)
            except NotBuiltError as err:
                pytest.skip(str(err))
            kept[name] = load(folder)
        return kept[name]

    return get


def _layouts(loaded: LoadedModel) -> tuple[LayoutName, ...]:
    return ("plain", "shared_prefix") if loaded.family.shared_prefix else ("plain",)


def _found(loaded: LoadedModel, rows: list[PreferencePair], layout: LayoutName) -> list[Tensor]:
    batch = collator_for(loaded, layout)(rows)
    with torch.no_grad():
        return answers_of(batch, answer_logps(loaded.model, batch))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([WIDE, HIGH, SQUARE], id="sizes and tiles differ"),
        pytest.param([TEXT, WIDE, HIGH], id="the first row has no image"),
        pytest.param([TWO, WIDE, OTHERS, TEXT], id="numbers of images differ"),
        pytest.param([TWO, SWAPPED], id="the same two images in both orders"),
    ],
)
def test_a_batch_gives_every_row_what_it_is_alone(
    made: Callable[[str], LoadedModel], name: str, rows: list[PreferencePair]
) -> None:
    loaded = made(name)
    with torch.no_grad():
        want = by_hand(stock_twin(loaded.model), loaded, rows)
    for layout in _layouts(loaded):
        assert worst(_found(loaded, rows, layout), want) < RIGHT
        backwards = _found(loaded, rows[::-1], layout)
        count = len(rows)
        turned = backwards[:count][::-1] + backwards[count:][::-1]
        assert worst(turned, want) < RIGHT


@pytest.mark.parametrize("name", TYPES)
def test_each_image_stands_at_its_own_place(made: Callable[[str], LoadedModel], name: str) -> None:
    loaded = made(name)
    for layout in _layouts(loaded):
        found = _found(loaded, [TWO, SWAPPED], layout)
        assert worst(found[:1], found[1:2]) > 1e-3, "the order of two images makes no difference"
