"""The other image: of the same size, different, the same wherever it is made, and drawn as the methods say."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmpref.errors import ConfigError
from mmpref.processing import EncodeError, OtherImageSettings, PairCollator, PairEncoder, family_of
from mmpref.processing.length_plan import plan_fit
from mmpref.processing.other_images import crop_box, made, normal_of, signal_left
from mmpref.processing.pixels import ImageSettings
from mmpref.records import ImageRef
from tests.tiny_vlms import TINY, VISION, draw, film, pair, refs

KINDS = ("crop", "noise", "mask", "blur", "blank")
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PHOTO = np.random.default_rng(7).integers(0, 256, (96, 128, 3)).astype(np.uint8)


def changed(pixels: Any = PHOTO, seed: int = 0, **keys: Any) -> np.ndarray:
    return made(pixels, OtherImageSettings(**keys), np.random.default_rng(seed), HALF)


def encoder_of(name: str = "llava", **settings: Any) -> PairEncoder:
    model_type = {"llava_vicuna": "llava"}.get(name, name)
    other = OtherImageSettings(**settings)
    return PairEncoder(TINY[name].processor(), family_of(model_type, has_vision=True), other_image=other)


def other_pixels(encoder: PairEncoder, row: Any) -> torch.Tensor:
    return encoder.encode(row, draw).other_prompt.vision["pixel_values"]  # type: ignore[union-attr]


# ---- what is made --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    width=st.integers(10, 70),
    height=st.integers(10, 70),
    seed=st.integers(0, 2**32),
)
def test_a_made_picture_has_the_same_size_and_is_another(kind: Any, width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    before = pixels.copy()
    found = changed(pixels, seed, kind=kind)
    assert found.shape == pixels.shape
    assert found.dtype == np.uint8
    assert not np.array_equal(found, pixels)
    assert np.array_equal(pixels, before)


def test_crops_take_areas_and_ratios_evenly_from_their_ranges() -> None:
    generator = np.random.default_rng(0)
    keys = OtherImageSettings(scale=(0.1, 0.3), ratio=(0.5, 2.0))
    boxes = np.array([crop_box(1000, 800, keys, generator) for _ in range(4000)])
    wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = wide * tall / 800_000
    assert abs(np.quantile(area, [0.25, 0.5, 0.75]) - [0.15, 0.2, 0.25]).max() < 0.006
    assert area.min() > 0.098
    assert area.max() < 0.302
    logs = np.log(wide / tall)
    assert abs(np.quantile(logs, [0.25, 0.5, 0.75]) - np.log([2**-0.5, 1, 2**0.5])).max() < 0.06
    assert (boxes[:, 0] >= 0).all()
    assert (boxes[:, 2] <= 1000).all()
    assert (boxes[:, 3] <= 800).all()
    free = boxes[:, 0] / (1000 - wide)  # the place is even as well
    assert abs(np.quantile(free, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.04


@pytest.mark.parametrize(("size", "want"), [((900, 10), (443, 0, 457, 10)), ((10, 900), (0, 443, 10, 457))])
def test_where_ten_tries_find_no_crop_it_is_the_middle(size: tuple[int, int], want: tuple[int, ...]) -> None:
    keys = OtherImageSettings(scale=(0.9, 0.9), ratio=(0.75, 1.4) if size[0] > size[1] else (1 / 1.4, 1.4))
    assert crop_box(*size, keys, np.random.default_rng(0)) == want


def test_a_crop_is_a_part_of_the_picture_as_large_as_the_whole() -> None:
    halves = np.zeros((40, 60, 3), np.uint8)
    halves[:, 30:] = 200
    seen = {tuple(np.unique(changed(halves, seed, kind="crop"))) for seed in range(60)}
    assert {(0,), (200,)} <= seen  # a small part lies on one side most of the time


def test_noise_leaves_what_the_schedule_says() -> None:
    assert signal_left(500) == pytest.approx(0.745, abs=5e-4)
    assert signal_left(0) == pytest.approx(1 - 1e-5 - (0.005 - 1e-5) / (1 + np.exp(6)), abs=1e-9)
    steps = [signal_left(step) for step in range(1000)]
    assert all(one > two for one, two in itertools.pairwise(steps))
    grey = np.full((200, 200, 3), 120, np.uint8)
    found = changed(grey, kind="noise", step=200).astype(float)  # little enough that nothing is clipped
    left = signal_left(200)
    q = (found / 255 - 0.5) / 0.5
    assert q.mean() == pytest.approx(np.sqrt(left) * (120 / 255 - 0.5) / 0.5, abs=2e-3)
    assert q.std() == pytest.approx(np.sqrt(1 - left), rel=0.02)


def test_noise_is_measured_as_the_processor_normalises() -> None:
    grey = np.full((100, 100, 3), 120, np.uint8)
    keys = OtherImageSettings(kind="noise", step=100)
    spread = [
        made(grey, keys, np.random.default_rng(0), ((0.5,) * 3, (deviation,) * 3)).astype(float).std()
        for deviation in (0.25, 0.5)
    ]
    assert spread[1] == pytest.approx(2 * spread[0], rel=0.03)
    assert normal_of(TINY["llava"].processor())[1] == pytest.approx(TINY["llava"].processor().image_processor.image_std)


@pytest.mark.parametrize("block", [1, 14])
@pytest.mark.parametrize("fill", ["mean", "black"])
def test_a_mask_covers_its_share_in_blocks_of_one_colour(block: int, fill: Any) -> None:
    pixels = np.random.default_rng(1).integers(1, 256, (140, 280, 3)).astype(np.uint8)
    found = changed(pixels, kind="mask", share=0.3, block=block, fill=fill)
    colour = np.zeros(3) if fill == "black" else np.rint(pixels.mean(axis=(0, 1)))
    covered = (found == colour).all(axis=-1)
    assert np.array_equal(found[~covered], pixels[~covered])
    assert covered.mean() == pytest.approx(0.3, abs=1e-3)
    if block == 14:
        blocks = covered.reshape(10, 14, 20, 14).mean(axis=(1, 3))
        assert set(np.unique(blocks > 0.5)) == {False, True}
        assert np.abs(blocks - np.rint(blocks)).max() < 0.02


def test_a_blur_is_a_gaussian_and_keeps_the_mean() -> None:
    dot = np.zeros((81, 81, 3), np.uint8)
    dot[40, 40] = 255
    dot[36:45, 36:45] = 255
    found = changed(dot, kind="blur", sigma=4.0).astype(float)[..., 0]
    assert found.sum() == pytest.approx(81 * 255, rel=0.02)
    assert np.allclose(found, found.T, atol=1)
    assert np.allclose(found, found[::-1, ::-1], atol=1)
    places = np.arange(81) - 40
    variance = (found.sum(axis=0) * places**2).sum() / found.sum()
    assert variance == pytest.approx(4.0**2 + (9**2 - 1) / 12, rel=0.05)
    assert (changed(np.full((20, 20, 3), 77, np.uint8), kind="blur") == 77).all()


def test_blank_is_one_colour() -> None:
    assert (changed(kind="blank", fill="black") == 0).all()
    assert np.array_equal(changed(kind="blank")[5, 5], np.rint(PHOTO.mean(axis=(0, 1))))


# ---- whose image it is -------------------------------------------------------------------------------------------


def test_seed_pair_place_and_epoch_decide_and_nothing_else() -> None:
    row = pair("a", images=("60x40-1", "60x40-1"))
    first = other_pixels(encoder_of(), row)
    np.random.seed(3)  # the global state is what must not matter
    torch.manual_seed(9)
    assert torch.equal(first, other_pixels(encoder_of(), row))
    assert not torch.equal(first[0], first[1])  # the same image in two places
    assert not torch.equal(first, other_pixels(encoder_of(), dataclasses.replace(row, id="b")))
    assert not torch.equal(first, other_pixels(encoder_of(seed=1), row))
    later = encoder_of(per="epoch")
    beginning = other_pixels(later, row)
    later.epoch = 1
    assert not torch.equal(beginning, other_pixels(later, row))
    still = encoder_of()
    still.epoch = 1
    assert torch.equal(first, other_pixels(still, row))


def test_the_picture_is_the_one_it_was() -> None:
    """A change here makes a finished run and its repetition two different trainings."""
    sums = {kind: int(changed(kind=kind).astype(np.int64).sum()) for kind in KINDS}  # type: ignore[arg-type]
    assert sums.pop("crop") == pytest.approx(4_684_976, rel=1e-3)  # its last digit is Pillow's
    assert sums == {"blank": 4_718_592, "blur": 4_715_065, "mask": 4_725_354, "noise": 4_729_959}


@pytest.mark.parametrize("cache_bytes", [0, 10**8])
def test_pairs_of_one_prompt_share_it_and_have_their_own_drawn_pictures(cache_bytes: int) -> None:
    rows = [pair(name, images=("40x40-2",)) for name in "ab"]
    for kind, distinct in (("crop", 3), ("blank", 2)):
        encoder = PairEncoder(
            TINY["llava"].processor(),
            family_of("llava", has_vision=True),
            images=ImageSettings(cache_bytes=cache_bytes),
            other_image=OtherImageSettings(kind=kind),  # type: ignore[arg-type]
        )
        for _ in range(2):  # the second time from the cache
            one, two = PairCollator(encoder, draw).encoded(rows)
            assert one.prompt is two.prompt
            assert (one.other_prompt is two.other_prompt) == (kind == "blank")
            shown = [one.prompt, one.other_prompt, two.other_prompt]
            pixels = {prompt.vision["pixel_values"].numpy().tobytes() for prompt in shown if prompt is not None}
            assert len(pixels) == distinct


def test_each_image_is_opened_once_for_both_looks() -> None:
    opened: list[str] = []

    def load(ref: ImageRef) -> Image.Image:
        opened.append(ref.path or "")
        return draw(ref)

    encoder_of().encode(pair(images=("40x40-1", "30x30-2")), load)
    assert sorted(opened) == ["30x30-2", "40x40-1"]


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("images", [("60x40-1",), ("60x40-1", "31x95-2")])
def test_the_other_prompt_has_the_same_tokens_and_other_pixels(name: str, images: tuple[str, ...]) -> None:
    encoded = encoder_of(name, kind="noise").encode(pair(images=images), draw)
    other = encoded.other_prompt
    assert other is not None
    assert torch.equal(other.input_ids, encoded.prompt.input_ids)
    assert other.image_tokens == encoded.prompt.image_tokens
    if other.position_ids is not None:
        assert torch.equal(other.position_ids, encoded.prompt.position_ids)  # type: ignore[arg-type]
    assert {name: value.shape for name, value in other.vision.items()} == {
        name: value.shape for name, value in encoded.prompt.vision.items()
    }
    assert not torch.equal(other.vision["pixel_values"], encoded.prompt.vision["pixel_values"])
    if name.startswith("qwen"):  # the two frames that a patch holds stay equal: the noise came before them
        frames = other.vision["pixel_values"].unflatten(1, (3, 2, -1))
        assert torch.equal(frames[:, :, 0], frames[:, :, 1])


def test_rows_without_images_have_no_other_picture() -> None:
    assert encoder_of().encode(pair(images=()), draw).other_prompt is None
    film_row = pair("v", images=(), videos=("28x28x4-1",))
    assert encoder_of("qwen2_vl").encode(film_row, draw, film).other_prompt is None


# ---- images that are given ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["column", "random_row"])
def test_a_given_picture_takes_the_place_of_the_first(source: Any) -> None:
    row = pair(images=("40x40-1",), other_images=refs("40x40-2"))
    plain = PairEncoder(TINY["llava"].processor(), family_of("llava", has_vision=True))
    want = plain.encode(pair(images=("40x40-2",)), draw).prompt.vision["pixel_values"]
    assert torch.equal(other_pixels(encoder_of(source=source), row), want)


def test_a_given_picture_of_another_size_is_refused_or_resized() -> None:
    row = pair("odd", images=("40x40-1",), other_images=refs("60x30-2"))
    with pytest.raises(
        EncodeError, match=r"'odd' has 60x30-2 of 60x30 .* of 40x40; write `processing.other_image.resi"
    ):
        encoder_of("qwen2_vl", source="column").encode(row, draw)
    for keys in ({"source": "column", "resize": True}, {"source": "random_row"}):
        encoded = encoder_of("qwen2_vl", **keys).encode(row, draw)
        assert encoded.other_prompt is not None
        assert torch.equal(encoded.other_prompt.input_ids, encoded.prompt.input_ids)


@pytest.mark.parametrize(
    ("row", "keys", "says"),
    [
        ({"images": ("40x40-1",)}, {"source": "column"}, "has 1 images and no other_images"),
        ({"images": ("40x40-1",), "other_images": refs("40x40-1")}, {"source": "column"}, "the very same image"),
        ({"images": ("40x40-1",), "other_images": refs("40x40-257")}, {"source": "column"}, None),
        ({"images": ("9x1-0",)}, {"kind": "blank"}, None),
    ],
)
def test_a_picture_that_cannot_be_the_other_one_is_refused(row: Any, keys: Any, says: str | None) -> None:
    if says is None:
        assert encoder_of(**keys).encode(pair("bad", **row), draw).other_prompt is not None
        return
    with pytest.raises(EncodeError, match=says) as caught:
        encoder_of(**keys).encode(pair("bad", **row), draw)
    assert caught.value.reason == "other_image"
    assert "'bad'" in str(caught.value)


@pytest.mark.parametrize("kind", ["crop", "blur", "mask", "blank"])
def test_a_picture_of_one_colour_is_refused_where_it_would_stay_the_same(kind: Any) -> None:
    def plain(ref: ImageRef) -> Image.Image:
        return Image.new("RGB", (40, 40), (10, 20, 30))

    with pytest.raises(EncodeError, match=r"image 1 \(40x40-1\), of which .* makes the very same image.*kind=noise`"):
        encoder_of(kind=kind).encode(pair(images=("40x40-1",)), plain)
    assert encoder_of(kind="noise").encode(pair(images=("40x40-1",)), plain).other_prompt is not None


def test_it_is_set_aside_at_the_start_and_not_found_when_its_turn_comes() -> None:
    pairs = [pair("plain", images=("40x40-1",)), pair("other", images=("40x40-2",))]

    def is_plain(ref: ImageRef) -> bool:
        return ref.path == "40x40-1"

    for keys, left in (({"kind": "crop"}, ["other"]), ({"kind": "noise"}, ["plain", "other"]),
                       ({"kind": "blank", "fill": "black"}, ["plain", "other"])):  # fmt: skip
        plan = plan_fit(pairs, encoder_of(**keys), lambda ref: draw(ref).size, one_colour=is_plain)
        assert [one.id for one in plan.pairs] == left
        assert [(one.id, err.reason) for one, err in plan.set_aside] == [("plain", "other_image")] * (2 - len(left))
        assert all("kind=noise" in str(err) for _, err in plan.set_aside)


@pytest.mark.parametrize(
    "keys",
    [
        {"source": "file"}, {"kind": "rotate"}, {"fill": "white"}, {"per": "step"}, {"scale": (0.0, 0.2)},
        {"scale": (0.3, 0.2)}, {"ratio": (2.0, 1.0)}, {"step": 1000}, {"share": 0.0}, {"block": 0}, {"sigma": 0.0},
        {"seed": -1},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(keys: Any) -> None:
    with pytest.raises(ConfigError, match=f"other_image.{next(iter(keys))}"):
        OtherImageSettings(**keys)


def test_a_collator_without_other_pictures_cannot_give_any() -> None:
    encoder = PairEncoder(TINY["llava"].processor(), family_of("llava", has_vision=True))
    with pytest.raises(ConfigError, match="another image"):
        PairCollator(encoder, draw, need_other=True)
    with pytest.raises(ConfigError, match="another image"):
        PairCollator(encoder, draw).changed(need_other=True)


def test_answers_are_cut_alike_and_counted_the_same() -> None:
    encoder = encoder_of()
    encoder.max_length = len(encoder.encode(pair(images=("40x40-1",)), draw).prompt) + 2
    encoded = encoder.encode(pair(images=("40x40-1",)), draw)
    batch = PairCollator(encoder, draw, need_other=True)([pair(images=("40x40-1",))])
    assert len(encoded.chosen_ids) == 2
    assert batch.answer_lens.tolist() == [2, 2, 2]


def test_a_prompt_that_becomes_other_tokens_is_refused() -> None:
    encoder = encoder_of()
    encoded = encoder.encode(pair("p", images=("40x40-1",)), draw)
    assert encoded.other_prompt is not None
    longer = dataclasses.replace(encoded.other_prompt, input_ids=encoded.other_prompt.input_ids[1:])
    with pytest.raises(EncodeError, match=r"'p' has .* with the other image"):
        PairCollator(encoder, draw, need_other=True).rows_of([dataclasses.replace(encoded, other_prompt=longer)])
