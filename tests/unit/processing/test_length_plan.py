"""Lengths are planned from headers alone, they are exact, and nothing is cut, shrunk or left out but by the rule."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmpref.data.images.loader import ImageLoader
from mmpref.processing import EncodeError, FitPlan, PairCollator, PairEncoder, plan_fit
from mmpref.processing.encoded import EncodedPair
from mmpref.processing.family import family_of
from mmpref.processing.pixels import ImageSettings
from mmpref.records import ImageRef, PreferencePair
from tests.plain_forward import SEE_VIDEOS
from tests.releases import needs_spelt_tokens
from tests.tiny_vlms import TINY, VISION, film, film_shape, pair, refs, turn


@functools.cache
def parts(name: str) -> tuple[Any, Any]:
    """Processor and family; Qwen's with a budget of up to 20 tokens an image."""
    processor = TINY[name].processor()
    kind = {"llava_vicuna": "llava", "text": "llama"}.get(name, name)
    if name.startswith("qwen"):
        size = processor.image_processor.size
        processor.image_processor.size = type(size)(
            shortest_edge=size["shortest_edge"], longest_edge=20 * size["shortest_edge"]
        )
    return processor, family_of(kind, has_vision=name != "text")


def encoder_for(name: str, **options: Any) -> PairEncoder:
    return PairEncoder(*parts(name), **options)


def draw(ref: ImageRef) -> Image.Image:
    """Of one colour: what counts here is the size."""
    return Image.new("RGB", size_of(ref), (90, 30, 200))


def attempt(encoder: PairEncoder, row: PreferencePair, load: Any) -> tuple[EncodedPair | None, str]:
    """The encoded pair, or why there is none."""
    try:
        return encoder.encode(row, load), ""
    except EncodeError as err:
        return None, err.reason


def lengths(encoded: EncodedPair) -> list[int]:
    """Tokens of each answer."""
    return [len(side[1]) for side in encoded.sides() if side is not None]


def size_of(ref: ImageRef) -> tuple[int, int]:
    width, _, height = str(ref.path).partition("-")[0].partition("x")
    return int(width), int(height)


SIZES = st.tuples(st.integers(4, 330), st.integers(4, 330))


@pytest.mark.parametrize("name", VISION)
@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(SIZES, max_size=4))
def test_lengths_from_sizes_are_those_of_the_encoded_pair(name: str, sizes: list[tuple[int, int]]) -> None:
    encoder = encoder_for(name)
    names = tuple(f"{w}x{h}-{i}" for i, (w, h) in enumerate(sizes))
    row = pair("p", images=names)
    opened: list[ImageRef] = []

    def load(ref: ImageRef) -> Image.Image:
        opened.append(ref)
        return draw(ref)

    encoded, reason = attempt(encoder, row, load)
    if encoded is None:
        plan = plan_fit([row], encoder, size_of)
        assert [error.reason for _, error in plan.set_aside] == [reason]
        return
    assert len(opened) == len(sizes)
    plan = plan_fit([row], encoder, size_of)
    (fit,) = plan.fits
    assert len(opened) == len(sizes)  # planning opens none
    assert fit.prompt == len(encoded.prompt)
    assert list(fit.answers) == lengths(encoded)
    token = encoder.chat.image_token_id
    if encoder.family.repeats_image_token:
        assert fit.image_tokens == sum(encoded.prompt.image_tokens) == int((encoded.prompt.input_ids == token).sum())


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("shape", [(4000, 21), (21, 4000), (1, 1), (199, 1), (1, 199), (28, 5600), (3000, 3000)])
def test_extreme_shapes_have_a_count_or_a_reason(name: str, shape: tuple[int, int]) -> None:
    encoder = encoder_for(name)
    row = pair("p", images=(f"{shape[0]}x{shape[1]}-1",))
    plan = plan_fit([row], encoder, size_of)
    blank = Image.new("RGB", shape)
    encoded, reason = attempt(encoder, row, lambda _: blank)
    if encoded is None:
        assert [error.reason for _, error in plan.set_aside] == [reason] == ["image_processing"]
    else:
        assert [fit.prompt for fit in plan.fits] == [len(encoded.prompt)]


@pytest.mark.parametrize("name", SEE_VIDEOS)
@settings(max_examples=10, deadline=None)
@given(films=st.lists(st.tuples(st.integers(20, 200), st.integers(20, 200), st.integers(2, 7)), min_size=1, max_size=3))
def test_lengths_from_the_shapes_of_videos_are_those_of_the_encoded_pair(
    name: str, films: list[tuple[int, int, int]]
) -> None:
    videos = tuple("x".join(map(str, one)) + "-1" for one in films)
    row = pair("p", images=("60x90-1",), videos=videos)
    encoder = encoder_for(name)
    (fit,) = plan_fit([row], encoder, size_of, film_shape).fits
    encoded = encoder.encode(row, draw, film)
    assert fit.prompt == len(encoded.prompt)
    assert fit.image_tokens == sum(encoded.prompt.image_tokens) + sum(encoded.prompt.video_tokens)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_frames_shrink_before_answers_are_cut_and_a_video_is_never_cut(name: str) -> None:
    row = pair("p", images=(), videos=("120x120x4-1",), chosen="a red square on a blue background .")
    processor, family = parts(name)
    processor = copy.copy(processor)
    area = processor.video_settings.size["shortest_edge"]
    processor.video_settings = dataclasses.replace(
        processor.video_settings, size={"shortest_edge": area, "longest_edge": 200 * area}
    )
    (loose,) = plan_fit([row], PairEncoder(processor, family), size_of, film_shape).fits
    seen = set()
    for limit in range(loose.longest, 10, -1):
        encoder = PairEncoder(processor, family, max_length=limit)
        plan = plan_fit([row], encoder, size_of, film_shape, shrink_images=True)
        if plan.set_aside:
            assert plan.set_aside[0][1].reason in ("too_long_prompt", "identical_pair")
            seen.add("aside")
            continue
        (fit,) = plan.fits
        encoder.budgets = plan.budgets
        encoded = encoder.encode(row, draw, film)
        assert (len(encoded.prompt), encoded.num_cut) == (fit.prompt, fit.num_cut)
        seen.add("shrunk" if fit.max_pixels else "whole")
        if fit.num_cut:
            assert fit.max_pixels == encoder.images.lowest_max_pixels()
            seen.add("cut")
        assert fit.longest <= limit
    assert seen == {"whole", "shrunk", "cut", "aside"}


def test_a_pair_with_a_video_needs_what_knows_its_shape() -> None:
    plan = plan_fit([pair("p", images=(), videos=("60x60x4-1",))], encoder_for("qwen2_vl"), size_of)
    assert [error.reason for _, error in plan.set_aside] == ["video"]


# ---- the rule ----------------------------------------------------------------------------------------------------


def planned(name: str, rows: list[PreferencePair], limit: int, **options: Any) -> tuple[FitPlan, PairEncoder]:
    of_plan = {key: options.pop(key) for key in ("shrink_images", "num_workers") if key in options}
    plan = plan_fit(rows, encoder_for(name, max_length=limit, **options), size_of, **of_plan)
    return plan, encoder_for(name, max_length=limit, budgets=plan.budgets, **options)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("images", [(), ("60x60-1",)])
def test_frames_keep_more_pixels_than_images_may_have_where_there_is_room(name: str, images: tuple[str, ...]) -> None:
    """With images bound to few pixels, frames that were a little too long shrank to as few."""
    processor, family = parts(name)
    low = int(processor.image_processor.size["shortest_edge"])
    processor = copy.copy(processor)
    processor.video_settings = dataclasses.replace(
        processor.video_settings, size={"shortest_edge": low, "longest_edge": 10_000 * low}
    )
    row = pair("p", images=images, videos=("600x600x4-1",))
    small = ImageSettings(min_pixels=low, max_pixels=low)
    (loose,) = plan_fit([row], PairEncoder(processor, family, images=small), size_of, film_shape).fits
    encoder = PairEncoder(processor, family, images=small, max_length=loose.longest - 1)
    (fit,) = plan_fit([row], encoder, size_of, film_shape, shrink_images=True).fits
    assert fit.max_pixels is not None
    assert fit.max_pixels > 100_000 > low
    assert fit.image_tokens > 0.8 * loose.image_tokens
    encoder.budgets = {row.prompt_key: fit.max_pixels}
    encoded = encoder.encode(row, draw, film)
    assert (len(encoded.prompt), encoded.num_cut) == (fit.prompt, 0)
    assert sum(encoded.prompt.image_tokens) == len(images) * sum(encoder.images.count("p", [(60, 60)], max_pixels=low))


def test_images_shrink_first_then_answers_are_cut_then_the_pair_is_set_aside() -> None:
    row = pair("p", images=("200x200-1", "100x100-2"), chosen="a red square on a blue background .")
    ((fit,), loose) = (lambda p: (p[0].fits, p[1]))(planned("qwen2_vl", [row], 10_000))
    whole, answer = fit.prompt, max(fit.answers)
    assert loose.encode(row, draw).num_cut == 0
    seen = []
    for limit in range(whole + answer + 2, 2, -1):
        plan, encoder = planned("qwen2_vl", [row], limit, shrink_images=True)
        if plan.set_aside:
            seen.append("aside")
            assert plan.set_aside[0][1].reason in ("too_long_prompt", "identical_pair")
            continue
        (fit,) = plan.fits
        encoded = encoder.encode(row, draw)
        assert len(encoded.prompt) == fit.prompt
        assert encoded.num_cut == fit.num_cut
        assert len(encoded.prompt) + max(lengths(encoded)) <= limit
        image_tokens = int((encoded.prompt.input_ids == encoder.chat.image_token_id).sum())
        assert image_tokens == fit.image_tokens >= 2  # never cut: each image keeps its own grid
        if fit.num_cut:
            seen.append("cut")
            assert fit.max_pixels == encoder.images.lowest_max_pixels()  # nothing is cut while an image could shrink
        else:
            seen.append("shrunk" if fit.max_pixels is not None else "whole")
            assert len(encoded.prompt) + answer <= limit
    order = list(dict.fromkeys(seen))
    assert order == ["whole", "shrunk", "cut", "aside"]
    assert seen == sorted(seen, key=order.index)  # and never back


def test_without_leave_to_shrink_answers_are_cut_at_full_resolution() -> None:
    row = pair("p", images=("200x200-1",))
    (fit,) = planned("qwen2_vl", [row], 10_000)[0].fits
    plan, encoder = planned("qwen2_vl", [row], fit.prompt + 5)
    (cut,) = plan.fits
    assert (cut.max_pixels, cut.prompt, cut.num_cut > 0) == (None, fit.prompt, True)
    assert encoder.encode(row, draw).num_cut == cut.num_cut


def test_both_sides_are_cut_at_the_same_token_also_where_their_images_differ() -> None:
    row = pair(
        "p", images=("56x56-1",), rejected_images=refs("112x112-2"),
        chosen="a red square on a blue background , please .", rejected="two yellow boxes and a dog and one cat .",
    )  # fmt: skip
    (loose,) = planned("qwen2_vl", [row], 10_000)[0].fits
    plan, encoder = planned("qwen2_vl", [row], loose.prompt + 4)
    (fit,) = plan.fits
    encoded = encoder.encode(row, draw)
    assert encoded.rejected_prompt is not None
    assert len(encoded.rejected_prompt) == fit.prompt > len(encoded.prompt)
    assert lengths(encoded) == [4, 4]
    assert fit.space == 4


def test_a_pair_that_is_one_answer_where_it_is_cut_is_set_aside() -> None:
    row = pair("p", images=(), chosen="the image shows a cat .", rejected="the image shows a dog .")
    (loose,) = planned("text", [row], 10_000)[0].fits
    plan, encoder = planned("text", [row], loose.prompt + 3)
    assert [(p.id, e.reason) for p, e in plan.set_aside] == [("p", "identical_pair")]
    with pytest.raises(EncodeError, match="same tokens up to token 3"):
        encoder.encode(row, draw)


QUESTIONS = st.lists(st.sampled_from(["is", "there", "a", "dog", "."]), min_size=1, max_size=40).map(" ".join)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(QUESTIONS, QUESTIONS, QUESTIONS, st.lists(SIZES, max_size=2)), min_size=1, max_size=5),
    limit=st.integers(8, 120),
    shrink=st.booleans(),
    name=st.sampled_from(["llava", "qwen2_5_vl"]),
)
def test_kept_and_set_aside_are_what_was_planned_and_what_was_kept_can_be_run(
    rows: list[Any], limit: int, shrink: bool, name: str
) -> None:
    pairs = [
        pair(str(i), images=tuple(f"{w}x{h}-1" for w, h in sizes), question=q, chosen=c, rejected=r)
        for i, (q, c, r, sizes) in enumerate(rows)
    ]
    plan, encoder = planned(name, pairs, limit, shrink_images=shrink)
    kept = [p.id for p in plan.pairs]
    assert sorted([*kept, *(p.id for p, _ in plan.set_aside)]) == sorted(p.id for p in pairs)
    report = plan.report()
    assert report["pairs"] == len(kept)
    assert Counter(e.reason for _, e in plan.set_aside) == report["set_aside"]["reasons"]
    for row in plan.pairs:
        batch = PairCollator(encoder, draw)([row])
        assert int(batch.answer_lens.min()) > 0
    found = [encoder.encode(row, draw) for row in plan.pairs]
    longest = max((len(pair.prompt) + max(lengths(pair)) for pair in found), default=0)
    assert plan.longest == longest <= limit


# ---- pairs of one prompt -----------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), QUESTIONS, QUESTIONS, st.sampled_from([None, "40x40-9", "300x300-8"])),
        min_size=2,
        max_size=7,
    ),
    sizes=st.lists(SIZES, min_size=1, max_size=2),
    limit=st.integers(20, 110),
)
def test_pairs_of_one_prompt_show_the_same_images_and_none_larger_than_fits(
    rows: list[Any], sizes: list[tuple[int, int]], limit: int
) -> None:
    names = tuple(f"{w}x{h}-1" for w, h in sizes)
    pairs = [
        pair(
            str(i), images=names, question="what is it ? " * (1 + prompt), chosen=chosen, rejected=rejected,
            rejected_images=None if other is None else refs(*[other] * len(names)),
        )
        for i, (prompt, chosen, rejected, other) in enumerate(rows)
    ]  # fmt: skip
    plan, encoder = planned("qwen2_vl", pairs, limit, shrink_images=True)
    alone = {row.id: planned("qwen2_vl", [row], limit, shrink_images=True)[0] for row in pairs}
    assert {row.id for row in plan.pairs} == {name for name, one in alone.items() if one.pairs}
    groups: dict[Any, list[tuple[PreferencePair, Any]]] = {}
    for row, fit in zip(plan.pairs, plan.fits, strict=True):
        groups.setdefault(row.prompt_key, []).append((row, fit))
    for members in groups.values():
        wanted = [alone[row.id].fits[0].max_pixels for row, _ in members]
        least = min((budget for budget in wanted if budget is not None), default=None)
        assert {fit.max_pixels for _, fit in members} == {least}
        encoded = [encoder.encode(row, draw) for row, _ in members]
        for (row, fit), found in zip(members, encoded, strict=True):
            assert found.prompt.input_ids.tolist() == encoded[0].prompt.input_ids.tolist()
            assert all(tensor.equal(encoded[0].vision[name]) for name, tensor in found.vision.items())
            assert lengths(found) == list(fit.run)
            assert fit.longest <= limit
            assert fit.num_cut <= alone[row.id].fits[0].num_cut  # smaller images leave more room


def test_a_side_that_names_the_images_of_the_other_has_the_same_prompt() -> None:
    same = pair("p", images=("100x100-1",), rejected_images=refs("100x100-1"))
    own = pair("q", images=("100x100-1",), rejected_images=refs("100x100-2"))
    plan, _ = planned("qwen2_vl", [same, own], 10_000)
    assert [len(fit.prompts) for fit in plan.fits] == [1, 2]
    assert plan.fits[1].tokens - plan.fits[0].tokens == plan.fits[0].prompt


def test_equal_answers_of_a_prompt_are_cut_alike_whatever_they_are_paired_with() -> None:
    long, short = "a red square on a blue background . " * 3, "there is a dog ."
    rows = [
        pair("a", images=("200x200-1",), chosen=long, rejected=short),
        pair("b", images=("200x200-1",), chosen=short, rejected="two yellow boxes ."),
        pair("c", images=("200x200-1",), chosen="no .", rejected=long),
        pair("d", images=("200x200-2",), chosen=short, rejected="two yellow boxes ."),
    ]
    (loose,) = planned("qwen2_vl", rows[1:2], 10_000)[0].fits
    plan, _ = planned("qwen2_vl", rows, loose.longest, shrink_images=True)
    of = {fit.pair_id: fit for fit in plan.fits}
    assert of["d"].max_pixels is None
    assert of["a"].max_pixels == of["b"].max_pixels == of["c"].max_pixels is not None
    assert of["a"].run[0] == of["c"].run[1] < of["a"].answers[0]
    assert of["a"].run[1] == of["b"].run[0]


def test_another_pair_of_the_same_id_keeps_its_pixels() -> None:
    """Rows without an id are named by file and line, and two folders may have files of one name."""
    row = pair("pairs:3", images=("200x200-1",), chosen="a dog . " * 30)
    (loose,) = planned("qwen2_vl", [row], 10_000)[0].fits
    plan, encoder = planned("qwen2_vl", [row], loose.longest - 1, shrink_images=True)
    assert plan.fits[0].max_pixels is not None
    short = pair("pairs:3", images=("200x200-1",), question="where ?")
    seen, shrunk = (sum(encoder.encode(one, draw).prompt.image_tokens) for one in (short, row))
    assert seen == loose.image_tokens > shrunk


@needs_spelt_tokens
def test_special_tokens_in_answers_are_counted_once_though_a_pair_is_measured_twice() -> None:
    rows = [
        pair("a", images=("200x200-1",), chosen="a dog . " * 30, rejected="a cat ."),
        pair("b", images=("200x200-1",), chosen="a dog <|image_pad|> .", rejected="a cat ."),
    ]
    (loose,) = planned("qwen2_vl", rows[1:], 10_000)[0].fits
    encoder = encoder_for("qwen2_vl", max_length=loose.longest)
    plan = plan_fit(rows, encoder, size_of, shrink_images=True)
    assert [fit.max_pixels for fit in plan.fits] == [*plan.budgets.values()] * 2
    assert (encoder.chat.spelt.answers, encoder.chat.spelt.first) == (1, "b")


# ---- images that cannot be read, and workers ---------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 60), "red").save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:12])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    return tmp_path


def test_images_that_are_missing_or_broken_set_their_pair_aside_with_the_reason(root: Path) -> None:
    rows = [pair(name, images=(f"{name}.png",)) for name in ("good", "broken", "text", "empty", "gone")]
    rows.append(pair("outside", images=("../x.png",)))
    plan = plan_fit(rows, encoder_for("llava"), ImageLoader(root).size)
    assert [p.id for p in plan.pairs] == ["good"]
    reasons = {p.id: e for p, e in plan.set_aside}
    assert set(reasons) == {"broken", "text", "empty", "gone", "outside"}
    for row_id, error in reasons.items():
        assert error.reason, row_id
        assert row_id in str(error)
    assert reasons["gone"].reason != reasons["text"].reason


def test_a_place_without_an_image_and_an_image_without_a_place_are_set_aside() -> None:
    missing = dataclasses.replace(pair("missing", images=("28x28-1", "28x28-2")), images=refs("28x28-1"))
    spare = dataclasses.replace(pair("spare"), images=refs("28x28-1", "28x28-2"))
    late = pair("late", images=("28x28-1",), rejected_images=refs("28x28-1", "28x28-2"))
    for name in VISION:
        plan = plan_fit([missing, spare, late, pair("good")], encoder_for(name), size_of)
        assert [p.id for p in plan.pairs] == ["good"], name
        assert {e.reason for _, e in plan.set_aside} == {"placeholder_count"}


def test_images_given_to_a_text_model_are_set_aside() -> None:
    plan = plan_fit([pair("seen"), pair("read", images=())], encoder_for("text"), size_of)
    assert [p.id for p in plan.pairs] == ["read"]
    assert [e.reason for _, e in plan.set_aside] == ["images_in_text_model"]


def test_helping_processes_find_the_same_plan(root: Path) -> None:
    names = ("good", "broken", "good", "gone")
    rows = [
        pair(f"{i}", images=(f"{names[i % 4]}.png",), chosen="a red square . " * (1 + i % 9), rejected="no " * (i + 1))
        for i in range(140)
    ]
    plans = [
        plan_fit(
            rows, encoder_for("qwen2_vl", max_length=60), ImageLoader(root).size, shrink_images=True, num_workers=n
        )
        for n in (0, 2)
    ]
    assert plans[0].fits == plans[1].fits
    assert plans[0].pairs == plans[1].pairs
    assert [(p.id, str(e), e.reason) for p, e in plans[0].set_aside] == [
        (p.id, str(e), e.reason) for p, e in plans[1].set_aside
    ]
    assert plans[0].report() == plans[1].report()
    assert plans[0].report()["answers_cut"]["pairs"] > 0


def test_the_report_says_what_changed_in_words() -> None:
    rows = [pair(str(i), images=("200x200-1",), prompt=(turn("user", None, "red " * i),)) for i in range(0, 60, 6)]
    plan, _ = planned("qwen2_vl", rows, 45, shrink_images=True)
    report = plan.report()
    assert report["images_shrunk"]["pairs"] > 0
    assert report["set_aside"]["reasons"].get("too_long_prompt", 0) > 0
    assert "get smaller images" in plan.describe()
    assert "set aside: " in plan.describe()
    assert all("too_long_prompt" in text for text in report["set_aside"]["examples"].values())
    assert planned("qwen2_vl", rows[:1], 10_000)[0].describe() == ""
