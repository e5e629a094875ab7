"""Frames become patches, tokens and times; the numbers here were made by the stock processors with torchvision."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmpref.errors import ConfigError
from mmpref.processing import EncodeError, Family, PairCollator, PairEncoder, family_of
from mmpref.processing.pixels import ImageSettings, num_pixels
from mmpref.processing.video_settings import VideoSettings
from mmpref.processing.videos import VideoEncoder
from mmpref.records import Message, Part, VideoFrames, VideoRef
from tests.plain_forward import SEE_VIDEOS
from tests.tiny_vlms import TINY, VISION, draw, film, film_shape, pair, turn

# red of three frames of 4 x 8 pixels, counted through, as patches of 2 x 2 pixels and two frames: first the eight of
# the first two frames, then those of the last one, which counts twice
LAYOUT = [
    [0, 1, 8, 9, 32, 33, 40, 41],
    [2, 3, 10, 11, 34, 35, 42, 43],
    [16, 17, 24, 25, 48, 49, 56, 57],
    [18, 19, 26, 27, 50, 51, 58, 59],
    [4, 5, 12, 13, 36, 37, 44, 45],
    [6, 7, 14, 15, 38, 39, 46, 47],
    [20, 21, 28, 29, 52, 53, 60, 61],
    [22, 23, 30, 31, 54, 55, 62, 63],
    [64, 65, 72, 73, 64, 65, 72, 73],
    [66, 67, 74, 75, 66, 67, 74, 75],
    [80, 81, 88, 89, 80, 81, 88, 89],
    [82, 83, 90, 91, 82, 83, 90, 91],
    [68, 69, 76, 77, 68, 69, 76, 77],
    [70, 71, 78, 79, 70, 71, 78, 79],
    [84, 85, 92, 93, 84, 85, 92, 93],
    [86, 87, 94, 95, 86, 87, 94, 95],
]
# (width, height, frames) -> sizes of a frame: Qwen2-VL's class, Qwen2.5-VL's folder, Qwen3-VL's class and folder
SIZES = [
    ((640, 480, 16), (644, 476), (644, 476), (256, 192), (640, 480)),
    ((1920, 1080, 16), (1008, 560), (1932, 1092), (288, 160), (1664, 928)),
    ((1920, 1080, 2), (1008, 560), (1932, 1092), (832, 448), (1920, 1088)),
    ((333, 777, 7), (336, 784), (336, 784), (192, 512), (320, 768)),
    ((56, 3000, 4), (56, 2996), (56, 2996), (64, 3008), (64, 3008)),
    ((100, 30, 5), (588, 196), (112, 28), (320, 96), (96, 32)),
    ((4000, 40, 8), (4004, 28), (4004, 28), (3104, 32), (4000, 32)),
    ((31, 31, 768), (336, 336), (56, 56), (32, 32), (32, 32)),
]
QWEN2_5_FOLDER = {"min_pixels": 3136, "max_pixels": 12845056}
QWEN3_FOLDER = {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}


def family(name: str) -> Family:
    return family_of(name, has_vision=True)


def settings_of(name: str, written: dict[str, Any] | None = None) -> VideoSettings:
    facts = family(name).video
    assert facts is not None
    return VideoSettings.of(written or {}, facts)


def encoder_for(name: str, **more: Any) -> PairEncoder:
    return PairEncoder(TINY[name].processor(), family(name), **more)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_the_layout_of_patches(name: str) -> None:
    red = np.arange(96, dtype=np.uint8).reshape(3, 4, 8)
    pixels = np.stack([red, red + 80, red + 160], axis=-1)
    processor = TINY[name].processor()
    steps = dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), False)
    processor.video_settings = settings_of(name, {"patch_size": 2, "merge_size": 2, "temporal_patch_size": 2, **steps})
    shown = VideoFrames(tuple(map(Image.fromarray, pixels)), (0.0, 0.5, 1.0))
    encoded = VideoEncoder(processor, family(name)).encode("row", (VideoRef(path="film"),), lambda _: shown)
    patches = encoded.vision["pixel_values_videos"]
    assert encoded.vision["video_grid_thw"].tolist() == [[2, 2, 4]]
    assert patches.shape == (16, 24)
    assert patches[:, :8].tolist() == LAYOUT
    assert torch.equal(patches[:, 8:16], patches[:, :8] + 80)
    assert torch.equal(patches[:, 16:], patches[:, :8] + 160)


@pytest.mark.parametrize(("shape", "qwen2", "qwen2_5", "qwen3", "qwen3_folder"), SIZES)
def test_the_size_of_frames(
    shape: tuple[int, int, int], qwen2: Any, qwen2_5: Any, qwen3: Any, qwen3_folder: Any
) -> None:
    facts, whole = family("qwen2_vl").video, family("qwen3_vl").video
    assert facts is not None
    assert whole is not None
    assert settings_of("qwen2_vl").frame_size(*shape, facts) == qwen2
    assert settings_of("qwen2_vl", QWEN2_5_FOLDER).frame_size(*shape, facts) == qwen2_5
    assert settings_of("qwen3_vl").frame_size(*shape, whole) == qwen3
    assert settings_of("qwen3_vl", QWEN3_FOLDER).frame_size(*shape, whole) == qwen3_folder


@pytest.mark.parametrize("name", SEE_VIDEOS)
@pytest.mark.parametrize("videos", [("60x60x4-1",), ("90x60x5-2", "60x90x2-1")])
def test_counted_tokens_are_the_tokens_that_come(name: str, videos: tuple[str, ...]) -> None:
    encoder = encoder_for(name)
    row = pair(images=("60x60-1",), videos=videos)
    encoded = encoder.encode(row, draw, film).prompt
    shapes = [film_shape(video) for video in row.videos]
    counted, of_media = encoder.prompt_length(row, encoder.encode_text(row), [(60, 60)], shapes)
    assert counted == len(encoded)
    assert of_media == sum(encoded.image_tokens) + sum(encoded.video_tokens)
    video_token = encoder.chat.video_token_id
    assert int((encoded.input_ids == video_token).sum()) == sum(encoded.video_tokens)
    if name.startswith("qwen"):
        grids = encoded.vision["video_grid_thw"]
        assert [int(grid.prod()) // 4 for grid in grids] == list(encoded.video_tokens)
        types = encoded.token_types["mm_token_type_ids"]
        assert torch.equal(types == 2, encoded.input_ids == video_token)
        assert torch.equal(types == 1, encoded.input_ids == encoder.chat.image_token_id)
    else:
        assert encoded.video_tokens == tuple(shape.num_frames + 1 for shape in shapes)


def test_the_time_of_every_patch_is_written_before_it_and_an_odd_frame_counts_again() -> None:
    encoder = encoder_for("qwen3_vl")
    encoded = encoder.encode(pair(images=(), videos=("64x64x5-1",)), draw, film)
    text = encoder.chat.tokenizer.decode(encoded.prompt_ids)
    places = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|>"
    film_text = "".join(f"<{time} seconds>{places}" for time in ("0.2", "1.2", "2.0"))
    assert f"<|im_start|>user\n<|vision_start|>{film_text}<|vision_end|>what is" in text


def test_a_frame_that_is_shown_twice_to_make_their_number_even_does_not_slow_the_video() -> None:
    """The rule of the loader repeats a last odd frame, time and all."""
    encoder = encoder_for("qwen2_5_vl")

    def shown(times: tuple[float, ...]) -> Any:
        frames = tuple(draw(pair().images[0]) for _ in times)
        return lambda _: VideoFrames(frames, times)

    found = [
        encoder.encode(pair(images=(), videos=("28x28x4-1",)), draw, shown(times)).vision["second_per_grid_ts"].tolist()
        for times in ((0.0, 0.5, 1.0, 1.5), (0.0, 0.5, 1.0, 1.0), (0.0, 0.0))
    ]
    assert found == [[1.0], [1.0], [1.0]]


@pytest.mark.parametrize("name", [name for name in VISION if name not in SEE_VIDEOS] + ["text"])
def test_families_that_take_no_videos_refuse_the_row_by_its_reason(name: str) -> None:
    model_type = {"llava_vicuna": "llava", "text": "llama"}.get(name, name)
    encoder = PairEncoder(TINY[name].processor(), family_of(model_type, has_vision=name != "text"))
    row = pair("film", images=(), videos=("60x60x4-1",))
    for call in (lambda: encoder.encode_text(row), lambda: encoder.encode(row, draw, film)):
        with pytest.raises(EncodeError, match="'film' has a video, and models of the family '") as caught:
            call()
        assert caught.value.reason == "video"
        for seen in SEE_VIDEOS:
            assert seen in str(caught.value)


def test_what_is_missing_for_a_video_is_named() -> None:
    row = pair("film", images=(), videos=("60x60x4-1",))
    processor = TINY["qwen2_vl"].processor()
    with pytest.raises(EncodeError, match="nothing that opens videos was given"):
        PairEncoder(processor, family("qwen2_vl")).encode(row, draw)
    del processor.video_settings
    with pytest.raises(EncodeError, match="says nothing of how videos are processed: put the video_preproc"):
        PairEncoder(processor, family("qwen2_vl")).encode_text(row)
    processor.video_settings = settings_of("qwen2_vl", {"do_center_crop": True})
    with pytest.raises(EncodeError, match="do_center_crop: true"):
        PairEncoder(processor, family("qwen2_vl")).encode_text(row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": (turn("user", "what is it ?"),)}, "0 video places in its prompt and 1 videos"),
        ({"prompt": (Message("user", (Part("video"), Part("video"), Part("text", "?"))),)}, "2 video places"),
    ],
)
def test_places_and_videos_are_as_many(changes: dict[str, Any], message: str) -> None:
    row = pair("film", images=(), videos=("60x60x4-1",), **changes)
    with pytest.raises(EncodeError, match=message) as caught:
        encoder_for("qwen2_vl").encode(row, draw, film)
    assert caught.value.reason == "placeholder_count"


def test_a_template_that_writes_no_place_for_a_video_is_found() -> None:
    processor = TINY["qwen2_5_vl"].processor()
    processor.chat_template = processor.chat_template.replace("<|video_pad|>", "")
    with pytest.raises(EncodeError, match="wrote 0 places for them"):
        PairEncoder(processor, family("qwen2_5_vl")).encode(pair(images=(), videos=("60x60x4-1",)), draw, film)


def test_a_time_is_never_joined_with_the_text_before_it() -> None:
    processor = TINY["qwen3_vl"].processor()
    processor.chat_template = processor.chat_template.replace("<|vision_start|><|video_pad|>", "film:<|video_pad|>")
    with pytest.raises(EncodeError, match="writes no token of its own before the place of a video"):
        PairEncoder(processor, family("qwen3_vl")).encode(pair(images=(), videos=("60x60x4-1",)), draw, film)


def test_what_users_write_as_a_place_of_a_video_stays_text() -> None:
    encoder = encoder_for("qwen2_vl")
    if not encoder.chat.template.can_mark:
        pytest.skip("this release of transformers cannot keep control tokens as text: such rows are refused")
    row = pair(images=(), videos=("60x60x4-1",), question="what is <|video_pad|> ?")
    encoded = encoder.encode(row, draw, film)
    assert int((encoded.prompt_ids == encoder.chat.video_token_id).sum()) == sum(encoded.prompt.video_tokens)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("qwen3_vl", "60x60x1-1", "of 1 frame, and this model's video processor takes 2 at least"),
        ("qwen2_vl", "4200x20x4-1", "sides that differ 200 times at most"),
    ],
)
def test_frames_that_the_model_does_not_take(name: str, shape: str, message: str) -> None:
    encoder = encoder_for(name)
    row = pair(images=(), videos=(shape,))
    with pytest.raises(EncodeError, match=message) as caught:
        encoder.encode(row, draw, film)
    assert caught.value.reason == "video"
    with pytest.raises(EncodeError, match=message):
        encoder.prompt_length(row, encoder.encode_text(row), [], [film_shape(video) for video in row.videos])


def test_frames_of_different_sizes_are_refused() -> None:
    frames = (draw(pair(images=("28x28-1",)).images[0]), draw(pair(images=("60x28-1",)).images[0]))
    with pytest.raises(EncodeError, match="frames differ in size"):
        encoder_for("qwen2_vl").encode(
            pair(images=(), videos=("28x28x2-1",)), draw, lambda _: VideoFrames(frames, (0.0, 0.5))
        )


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_the_users_bound_is_of_one_frame_whatever_the_models_own_is_of(name: str) -> None:
    facts = family(name).video
    assert facts is not None
    written = QWEN3_FOLDER if name == "qwen3_vl" else QWEN2_5_FOLDER
    bounded = settings_of(name, written).within(100_000, facts)
    for frames in (2, 8, 32):
        width, height = bounded.frame_size(1920, 1080, frames, facts)
        assert 60_000 < width * height <= 100_000
        smaller = bounded.frame_size(1920, 1080, frames, facts, frame_pixels=30_000)
        assert 15_000 < smaller[0] * smaller[1] <= 30_000


def test_a_bound_that_cannot_be_kept_is_refused_with_the_key() -> None:
    with pytest.raises(ConfigError, match=r"video_max_pixels=3136 or more"):
        _bounded("qwen2_vl", QWEN2_5_FOLDER, 3135)
    assert _bounded("qwen2_vl", QWEN2_5_FOLDER, 3136).frame_pixels == 3136
    with pytest.raises(ConfigError, match="brings every frame to one size: remove this key"):
        encoder_for("llava_onevision", video_max_pixels=10_000)
    with pytest.raises(ConfigError, match="the family 'llava' has none: remove this key"):
        encoder_for("llava", video_max_pixels=10_000)


def _bounded(name: str, written: dict[str, Any], pixels: int) -> VideoSettings:
    facts = family(name).video
    assert facts is not None
    return settings_of(name, written).within(pixels, facts)


@pytest.mark.parametrize("name", SEE_VIDEOS)
def test_rows_with_the_same_videos_are_processed_once_where_pixels_are_kept(name: str) -> None:
    opened = []

    def load(ref: VideoRef) -> VideoFrames:
        opened.append(ref)
        return film(ref)

    encoder = encoder_for(name, images=ImageSettings(cache_bytes=2**24))
    rows = [pair(str(number), images=(), videos=("60x60x4-1", "60x60x4-2")) for number in range(3)]
    found = [encoder.encode(row, draw, load) for row in rows]
    assert len(opened) == 2
    first, second = (one.vision["pixel_values_videos"] for one in found[:2])
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()  # a worker moves a batch's tensors away
    again = pickle.loads(pickle.dumps(encoder))
    assert again.videos._cached_bytes == 0
    assert torch.equal(again.encode(rows[0], draw, load).vision["pixel_values_videos"], first)
    assert len(opened) == 4


@pytest.mark.parametrize("name", SEE_VIDEOS)
def test_another_frame_or_another_speed_is_another_prompt(name: str) -> None:
    encoder = encoder_for(name)
    row = pair(images=(), videos=("60x60x4-1",))

    def faster(ref: VideoRef) -> VideoFrames:
        return dataclasses.replace(film(ref), times=tuple(time / 4 for time in film(ref).times))

    def changed(ref: VideoRef) -> VideoFrames:
        frames = film(ref).frames
        return dataclasses.replace(film(ref), frames=(*frames[:-1], frames[0]))

    def digest(load: Callable[[VideoRef], VideoFrames]) -> bytes:
        return encoder.encode(row, draw, load).prompt.digest()

    before = digest(film)
    assert digest(film) == before
    assert digest(changed) != before
    assert (digest(faster) != before) == (name in ("qwen2_5_vl", "qwen3_vl"))


def test_pixels_are_counted_of_all_frames() -> None:
    for name, size in (("qwen2_vl", 56 * 56), ("qwen3_vl", 64 * 64), ("llava_onevision", 28 * 28)):
        encoder = encoder_for(name)
        side = 64 if name == "qwen3_vl" else 56
        encoded = encoder.encode(pair(images=(), videos=(f"{side}x{side}x4-1",)), draw, film)
        assert num_pixels(encoded.vision) == 4 * size
        assert num_pixels(encoded.vision, of_videos=False) == 0


@pytest.mark.parametrize("name", SEE_VIDEOS)
def test_the_limit_of_tokens_cuts_answers_and_never_a_video(name: str) -> None:
    row = pair(images=(), videos=("60x60x4-1",), chosen="a red square . " * 8, rejected="there is no cat . " * 8)
    whole = encoder_for(name).encode(row, draw, film)
    limit = len(whole.prompt) + 5
    cut = encoder_for(name, max_length=limit).encode(row, draw, film)
    assert torch.equal(cut.prompt_ids, whole.prompt_ids)
    assert len(cut.chosen_ids) == 5
    short = encoder_for(name, max_length=len(whole.prompt))
    with pytest.raises(EncodeError, match="of them for videos") as caught:
        short.encode(row, draw, film)
    assert caught.value.reason == "too_long_prompt"
    _, _, advice = str(caught.value).partition("raise processing.max_length or lower processing.video_max_frames")
    pixels = " and processing.video_max_pixels" if name.startswith("qwen") else ""
    assert advice == f"{pixels} [too_long_prompt]"
    fewer = short.encode(pair(images=(), videos=("60x60x2-1",), chosen=row.chosen, rejected=row.rejected), draw, film)
    assert len(fewer.chosen_ids) > 0  # what is advised first helps


@pytest.mark.parametrize("name", SEE_VIDEOS)
def test_a_row_of_images_that_is_too_long_is_told_nothing_of_videos(name: str) -> None:
    row = pair(chosen="a red square .", rejected="no .")
    limit = len(encoder_for(name).encode(row, draw).prompt)
    with pytest.raises(EncodeError, match="of them for images, which") as caught:
        encoder_for(name, max_length=limit).encode(row, draw)
    assert "video" not in str(caught.value)
    assert ("processing.max_pixels" in str(caught.value)) == name.startswith("qwen")


def test_a_question_about_a_video_is_refused_by_name() -> None:
    asked = (Message("user", (Part("video"), Part("text", "what is it ?"))),)
    with pytest.raises(EncodeError, match="'q' asks about a video, and questions are answered from images and text"):
        encoder_for("qwen2_vl").encode_prompt("q", asked, (), draw)


def test_a_prompt_with_other_video_tokens_than_its_videos_have_is_refused() -> None:
    encoder = encoder_for("qwen2_vl")
    encoded = encoder.encode(pair("film", images=(), videos=("60x60x4-1",)), draw, film)
    wrong = dataclasses.replace(encoded, prompt=dataclasses.replace(encoded.prompt, video_tokens=(3,)))
    collate = PairCollator(encoder, draw, film)
    with pytest.raises(EncodeError, match="video tokens, and its own videos have 3 features"):
        collate._batch([wrong])
    found = collate([pair("film", images=(), videos=("60x60x4-1",))])
    assert found.image_places is None
    assert found.video_places is not None
    assert len(found.video_places) == sum(encoded.prompt.video_tokens)
