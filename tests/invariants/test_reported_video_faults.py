"""What went wrong with videos in other programs for training and serving, by their public reports, rebuilt here."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from mmpref.data.videos.sampling import FrameRule
from mmpref.models import LoadedModel
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import PairEncoder
from mmpref.records import Message, Part, PreferencePair, VideoFrames, VideoRef
from tests.plain_forward import SEE_VIDEOS, answers_of, build_deep, by_hand, collator_for, worst
from tests.tiny_vlms import draw, film, pair, refs

CLOSE = 1e-4
"""Nats a token."""


@cache
def loaded(name: str) -> LoadedModel:
    return build_deep(name)


def is_stock(model: LoadedModel, rows: list[PreferencePair]) -> bool:
    batch = collator_for(model)(rows)
    with torch.no_grad():
        ours = answers_of(batch, answer_logps(model.model, batch))
        return worst(ours, by_hand(model.model, model, rows)) < CLOSE


def at(times: tuple[float, ...]) -> Any:
    """A loader of drawn frames that are seen at these seconds."""
    frames = tuple(draw(refs(f"60x60-{number}")[0]) for number in range(len(times)))
    return lambda _: VideoFrames(frames, times)


def written(name: str, times: tuple[float, ...]) -> str:
    model = loaded(name)
    encoded = PairEncoder(model.processor, model.family).encode(pair(images=(), videos=("60x60x4-1",)), draw, at(times))
    return str(model.tokenizer.decode(encoded.prompt_ids))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_two_videos_of_different_lengths_in_one_row(name: str) -> None:
    """hiyouga/LlamaFactory 10608: every place was written with the number of frames of the first video."""
    row = pair("films", images=(), videos=("60x60x4-1", "60x60x9-2", "90x60x2-3"))
    encoded = PairEncoder(loaded(name).processor, loaded(name).family).encode(row, draw, film)
    assert len(set(encoded.prompt.video_tokens)) == 3
    assert is_stock(loaded(name), [row])


def test_two_videos_of_different_lengths_in_one_row_of_onevision() -> None:
    """vllm-project/vllm 15017: several videos were one tensor, and could only be equally long.

    The stock model cannot run them at once, so that each is compared with a row of its own, where it is all there is.
    """
    model = loaded("llava_onevision")
    inner: Any = model.model.model
    batch = collator_for(model)([pair("films", images=(), videos=("60x60x4-1", "60x60x7-2", "60x60x4-3"))])
    assert batch.vision["pixel_values_videos"].shape[:2] == (3, 7)
    assert batch.video_frames == (4, 7, 4)
    seen = []
    stock = inner.language_model.forward

    def look(**given: Any) -> Any:
        seen.append(given["inputs_embeds"][(batch.input_ids == model.model.config.video_token_id)])
        return stock(**given)

    inner.language_model.forward = look
    try:
        with torch.no_grad():
            answer_logps(model.model, batch)
    finally:
        del inner.language_model.forward
    tokens = iter(seen[0].split([4 + 1, 7 + 1, 4 + 1]))
    for place, count in enumerate(batch.video_frames):
        shown = batch.vision["pixel_values_videos"][place : place + 1, :count]
        with torch.no_grad():
            alone = inner.get_video_features(shown, vision_feature_layer=-1, vision_feature_select_strategy="full")
        found = next(tokens)
        torch.testing.assert_close(found[:count], alone.pooler_output[0, :count])
        torch.testing.assert_close(found[count], inner.image_newline)


@pytest.mark.parametrize("name", SEE_VIDEOS)
def test_an_odd_number_of_frames_in_a_batch_of_several(name: str) -> None:
    """hiyouga/LlamaFactory 6859: odd videos of a batch were joined before their frames were put together."""
    rows = [pair(str(number), images=(), videos=(f"60x60x{5 + number}-1",)) for number in range(3)]
    assert is_stock(loaded(name), rows)


@pytest.mark.parametrize("name", SEE_VIDEOS)
@pytest.mark.parametrize("order", [("image", "video"), ("video", "image"), ("video", "image", "video", "image")])
def test_images_and_videos_are_seen_where_they_stand(name: str, order: tuple[Any, ...]) -> None:
    """osaurus-ai/vmlx-swift 298, microsoft/Mage 28: features of all images lay before those of all videos, and in a
    prompt with a video first each took the places of the other. With these sizes, Qwen's counts do not show it."""
    places = tuple(Part(kind) for kind in order)
    row = pair(
        "both",
        images=("60x60-1", "60x60-2")[: order.count("image")],
        videos=("60x60x2-3", "60x60x2-4")[: order.count("video")],
        prompt=(Message("user", (*places, Part("text", "what is it ?"))),),
    )
    assert is_stock(loaded(name), [row])


@pytest.mark.parametrize(
    ("times", "want"),
    [
        ((0.0, 2.0, 4.0, 6.0), ("1.0", "5.0")),
        ((0.0, 0.04, 0.08, 0.12), ("0.0", "0.1")),
        ((10.0, 12.5, 40.0, 41.0), ("11.2", "40.5")),
    ],
)
def test_times_are_those_of_the_frames_whatever_rate_was_asked_for(times: Any, want: tuple[str, ...]) -> None:
    """modelscope/ms-swift 6523, hiyouga/LlamaFactory 10335 and 9620: the times that Qwen3-VL reads were made from a
    setting, or from numbers of frames that had been sampled already."""
    text = written("qwen3_vl", times)
    assert [piece.partition(" seconds>")[0] for piece in text.split("<") if " seconds>" in piece] == list(want)


@pytest.mark.parametrize(("fps", "seconds"), [(1.0, 2.0), (2.0, 1.0), (4.0, 0.5), (30.0, 2 / 30)])
def test_seconds_between_patches_are_those_of_two_frames(fps: float, seconds: float) -> None:
    """hiyouga/LlamaFactory 7578: frames a second were divided by the frames of a patch, which is the wrong way up."""
    model = loaded("qwen2_5_vl")
    encoder = PairEncoder(model.processor, model.family)
    times = tuple(number / fps for number in range(6))
    encoded = encoder.encode(pair(images=(), videos=("60x60x6-1",)), draw, at(times))
    assert encoded.vision["second_per_grid_ts"].tolist() == pytest.approx([seconds])
    planes = encoded.prompt.position_ids
    assert planes is not None
    of_video = planes[0][encoded.prompt_ids == encoder.chat.video_token_id]
    a_second = model.model.config.vision_config.tokens_per_second
    start = int(of_video[0])
    assert sorted(set(of_video.tolist())) == sorted({start + int(a_second * seconds * patch) for patch in range(3)})


def test_a_long_video_of_which_few_frames_are_shown_is_not_told_as_a_short_one() -> None:
    """hiyouga/LlamaFactory 6868, EvolvingLMMs-Lab/lmms-eval 1260: the rate that was asked for, and not the one that the
    most frames left, set the time of Qwen2.5-VL's patches."""
    sample = FrameRule(fps=2.0, max_frames=8).sample(num_frames=1800, fps=30.0)
    model = loaded("qwen2_5_vl")
    encoded = PairEncoder(model.processor, model.family).encode(
        pair(images=(), videos=("60x60x8-1",)), draw, at(sample.times)
    )
    assert encoded.vision["second_per_grid_ts"].tolist() == pytest.approx([2 * 1799 / 30 / 7], rel=1e-4)


def test_several_rows_keep_the_seconds_of_their_own_videos() -> None:
    """2U1/Qwen-VL-Series-Finetune 36 and QwenLM/Qwen3-VL 1225: the seconds of several videos came as lists of lists, or
    as one number for each number of a grid."""
    model = loaded("qwen2_5_vl")

    def load(ref: VideoRef) -> VideoFrames:
        rate = {"60x60x4-1": 1.0, "60x60x4-2": 2.0, "60x60x6-3": 4.0}[str(ref.path)]
        shown = film(ref)
        return VideoFrames(shown.frames, tuple(number / rate for number in range(len(shown.frames))))

    rows = [
        pair("two", images=(), videos=("60x60x4-2", "60x60x6-3")),
        pair("none", images=()),
        pair("one", images=(), videos=("60x60x4-1",)),
    ]
    collator = collator_for(model)
    collator.load_video = load
    for layout, want in (("shared_prefix", [1.0, 0.5, 2.0]), ("plain", [1.0, 0.5, 2.0] * 2)):
        batch = collator.changed(layout=layout)(rows)  # type: ignore[arg-type]
        assert batch.vision["second_per_grid_ts"].tolist() == pytest.approx(want)
        assert batch.vision["video_grid_thw"].shape == (len(want), 3)
