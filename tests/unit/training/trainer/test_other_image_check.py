"""The start-up checks of losses that look at another image, and of weighted answers."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_reference, pair_logps, prepare
from mmpref.models.logps import shared_prefix_attention as attention_module
from mmpref.processing import PairCollator, PairEncoder
from mmpref.processing.layout import LayoutName
from mmpref.processing.other_images import OtherImageSettings
from mmpref.processing.pixels import LoadImage
from mmpref.recipe.loading import load_recipe
from mmpref.records import ImageRef, PreferencePair
from mmpref.training.trainer.other_image_check import FIRST, OTHER_IMAGE, other_image_matters
from mmpref.training.trainer.preflight import preflight
from mmpref.training.trainer.start_check import Check
from tests.plain_forward import build_deep
from tests.tiny_vlms import draw, film, pair

CPU = torch.device("cpu")


@functools.cache
def loaded(name: str = "llava") -> LoadedModel:
    return prepare(build_deep(name), Tuning(language="lora"), AdapterSettings(rank=4))


def shown(pair_id: str, other: str | None, image: str = "28x28-1", **rest: Any) -> PreferencePair:
    others = None if other is None else (ImageRef(path=other),)
    return replace(pair(pair_id, images=(image,), **rest), other_images=others)


def collator(name: str = "llava", layout: LayoutName | None = None, load: LoadImage = draw) -> PairCollator:
    settings = OtherImageSettings(source="column")
    encoder = PairEncoder(loaded(name).processor, loaded(name).family, other_image=settings)
    return PairCollator(encoder, load, film, layout=layout, need_other=True)


def run(
    rows: Sequence[PreferencePair], name: str = "llava", layout: LayoutName | None = None, load: LoadImage = draw
) -> list[Check]:
    model = loaded(name).model
    return preflight(model, collator(name, layout, load), rows, choose_reference(model))


MIXED = (
    shown("first", "28x28-2"),
    pair("text", images=(), question="what is red ?"),
    shown("weighted", "28x28-4", chosen_weight=3.0),
)


@pytest.mark.parametrize(("name", "layout"), [
    ("llava", "shared_prefix"), ("llava", "plain"), ("qwen2_5_vl", "shared_prefix"), ("gemma3", "plain"),
])  # fmt: skip
def test_every_check_knows_the_third_side_and_the_new_one_says_what_the_image_is_worth(
    name: str, layout: LayoutName
) -> None:
    found = run(MIXED, name, layout)
    assert all(check.passed and not check.meaning for check in found)
    [check] = [check for check in found if check.name == OTHER_IMAGE]
    said = re.fullmatch(
        r"a token by up to (\S+) nats; before training the image is worth ([+-]\S+) nats a token of the first 2 chosen "
        r"answers with another image", check.detail,
    )  # fmt: skip
    assert said
    assert float(said[1]) >= abs(float(said[2])) > 0


def test_what_the_image_is_worth_is_the_mean_difference_of_the_model_s_own_log_probs() -> None:
    rows = [shown(str(number), f"28x28-{number + 2}", chosen="a red square" + " ." * number) for number in range(6)]
    model = loaded().model.eval()
    with torch.no_grad():
        logps = pair_logps(model, collator()(rows[:FIRST]))
    assert logps.other is not None
    lift = ((logps.chosen - logps.other) / logps.chosen_len).mean()
    with torch.no_grad():
        check = other_image_matters(model, collator(), rows, CPU)
    assert f"worth {float(lift):+.3g} nats a token of the first {FIRST} chosen" in check.detail
    swapped = [
        replace(row, images=row.other_images, other_images=row.images) for row in rows if row.other_images is not None
    ]
    with torch.no_grad():
        check = other_image_matters(model, collator(), swapped, CPU)
    assert f"worth {-float(lift):+.3g} nats" in check.detail


def dotted(ref: ImageRef) -> Image.Image:
    """As :func:`draw`, and ``WxH-N-dot`` is the same image but for one pixel."""
    path = ref.path or ""
    image = draw(ImageRef(path=path.removesuffix("-dot")))
    if path.endswith("-dot"):
        red, *rest = image.getpixel((1, 1))  # type: ignore[misc]
        image.putpixel((1, 1), (red + 1, *rest))
    return image


@pytest.mark.parametrize("layout", ["shared_prefix", "plain"])
def test_an_other_image_that_differs_by_nothing_the_model_sees_stops_the_run_with_advice_that_works(
    layout: LayoutName,
) -> None:
    """What the processor makes of it, a quarter as large, is the same."""
    rows = [shown("good", "28x28-2"), shown("same", "112x112-3-dot", image="112x112-3", chosen="a dog .")]
    with pytest.raises(ConfigError) as caught:
        run(rows, layout=layout, load=dotted)
    text = str(caught.value)
    assert f"start-up check '{OTHER_IMAGE}' failed: under the other image of 'same' no token" in text
    [written] = re.findall(r"`([^`]+)`", text)
    made = load_recipe("llava_1_5_7b_uni_dpo_qlora", ["loss={name: mdpo}", *written.split()])
    assert (made.data.other_image, made.processing.other_image.kind) == ("made", "crop")


def test_without_such_pairs_the_check_is_skipped_and_without_such_a_loss_there_is_none() -> None:
    with torch.no_grad():
        check = other_image_matters(loaded().model, collator(), [pair("text", images=())], CPU)
    assert check.passed is None
    model, both = loaded().model, collator().changed(need_other=False)
    assert OTHER_IMAGE not in [check.name for check in preflight(model, both, MIXED, choose_reference(model))]


def test_a_third_side_that_reads_what_it_must_not_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last segment is the answer under the other image; here its own prompt is hidden from it."""
    right = attention_module._by_segment

    def leaky(mask: Any, query: Any, *rest: Any) -> Any:
        found = right(mask, query, *rest).clone()
        found[..., -3:, :] = found[..., -4:-3, :]
        return found

    monkeypatch.setattr(attention_module, "_by_segment", leaky)
    with pytest.raises(ConfigError, match="shared prefix equals separate rows"):
        run([MIXED[0]])
