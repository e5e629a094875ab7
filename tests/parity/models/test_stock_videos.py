"""Videos become what the stock processors make of them, which need torchvision: ids, grids, types, times and pixels.

torchvision is no dependency, so these tests run where it happens to be installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image
from transformers.video_utils import VideoMetadata

from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import PairCollator, PairEncoder, family_of
from mmpref.processing.video_settings import VideoSettings
from mmpref.records import Message, Part, PreferencePair, VideoFrames, VideoRef, VideoShape
from tests.plain_forward import SEE_VIDEOS, Written, answers_of, build_deep, run_alone
from tests.tiny_vlms import TINY, draw, refs, video_config

pytest.importorskip("torchvision", exc_type=ImportError)

STOCK = {
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
    "llava_onevision": ("LlavaOnevisionProcessor", "LlavaOnevisionVideoProcessor"),
}
FPS = 4.0
SIZES = ((56, 56), (64, 64), (90, 61), (300, 40), (33, 200), (31, 33), (640, 480))


def stock(name: str, **changes: Any) -> Any:
    """The stock processor with its video part."""
    ours = TINY[name].processor()
    of_processor, of_videos = STOCK[name]
    videos = getattr(tf, of_videos)(**{**_config(name), **changes})
    more = {"num_image_tokens": 4, "vision_feature_select_strategy": "full"} if name == "llava_onevision" else {}
    return getattr(tf, of_processor)(
        ours.image_processor, ours.tokenizer, videos, chat_template=ours.tokenizer.chat_template, **more
    )


def ours(name: str, **changes: Any) -> PairEncoder:
    processor, family = TINY[name].processor(), family_of(name, has_vision=True)
    assert family.video is not None
    processor.video_settings = VideoSettings.of({**_config(name), **changes}, family.video, positions_a_second=4.0)
    return PairEncoder(processor, family)


def _config(name: str) -> dict[str, Any]:
    written = dict(video_config(name) or {})
    written.pop("video_processor_type")
    capped = {} if name == "llava_onevision" else {"cap_pixels_per_frame": False}
    return {**written, "do_sample_frames": False, **capped}


def film(ref: VideoRef) -> VideoFrames:
    """Noise, which shows every difference of resizing, with soft parts."""
    width, height, count = map(int, str(ref.path).split("x"))
    noise = np.random.default_rng(count).integers(0, 256, (count, height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    frames = [Image.fromarray(one).resize((width, height), Image.Resampling.BILINEAR) for one in noise]
    return VideoFrames(tuple(frames), tuple(at / FPS for at in range(count)))


def row_of(*parts: Part, images: tuple[str, ...] = (), videos: tuple[str, ...]) -> PreferencePair:
    return PreferencePair(
        id="row",
        images=refs(*images),
        videos=tuple(VideoRef(path=name) for name in videos),
        prompt=(Message("user", (*parts, Part("text", "what is it ?"))),),
        chosen="yes .",
        rejected="no .",
    )


def by_stock(processor: Any, row: PreferencePair, answer: str | None = None) -> dict[str, torch.Tensor]:
    """The prompt of a row as the stock processor writes it, or the whole conversation."""
    parts = [{"type": p.kind, "text": p.text} if p.kind == "text" else {"type": p.kind} for p in row.prompt[0].parts]
    turns = [{"role": "user", "content": parts}]
    shown = [film(video).frames for video in row.videos]
    about = [VideoMetadata(total_num_frames=len(one), fps=FPS, frames_indices=list(range(len(one)))) for one in shown]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text = processor.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)
    text = text if answer is None else text.rstrip()
    given: dict[str, Any] = {"images": [[draw(ref) for ref in row.images]]} if row.images else {}
    videos = [torch.from_numpy(np.stack([np.asarray(frame) for frame in one])).permute(0, 3, 1, 2) for one in shown]
    found = processor(text=[text], videos=videos, video_metadata=about, return_tensors="pt", **given)
    return dict(found.items())


def grey_levels(difference: torch.Tensor, processor: Any) -> torch.Tensor:
    """How far each number is off, in levels of 255, whatever its colour was divided by."""
    std = torch.tensor(processor.video_processor.image_std)
    by_colour = difference.view(len(difference), 3, -1, 1) if difference.dim() == 2 else difference.flatten(0, 1)
    return by_colour.abs() * 255 * std.view(1, 3, 1, 1)


@pytest.mark.parametrize("name", SEE_VIDEOS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("count", [2, 4, 5, 7])
def test_one_video(name: str, size: tuple[int, int], count: int) -> None:
    processor, encoder = stock(name), ours(name)
    row = row_of(Part("video"), videos=(f"{size[0]}x{size[1]}x{count}",))
    _assert_same(encoder, processor, row)


@pytest.mark.parametrize("name", SEE_VIDEOS)
def test_videos_and_images_interleaved(name: str) -> None:
    places = (Part("text", "first"), Part("video"), Part("image"), Part("text", "and"), Part("video"), Part("image"))
    row = row_of(*places, images=("60x60-1", "90x60-2"), videos=("64x64x4", "90x60x4"))
    _assert_same(ours(name), stock(name), row)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("cap", [True, False])
def test_the_cap_of_each_frame_where_the_settings_have_one(name: str, cap: bool) -> None:
    big = {"shortest_edge": 64 * 64, "longest_edge": 400 * 64 * 64}
    changes = {"cap_pixels_per_frame": cap, "max_video_tokens": 40, "size": big}
    row = row_of(Part("video"), videos=("320x240x6",))
    encoder = ours(name, **changes)
    _assert_same(encoder, stock(name, **changes), row)


@pytest.mark.parametrize("name", SEE_VIDEOS)
@pytest.mark.parametrize("layout", ["shared_prefix", "plain"])
def test_log_probs_are_those_of_the_stock_processor_and_model_on_whole_conversations(name: str, layout: Any) -> None:
    """With frames that need no resizing, so that pixels are the same to the last bit but one."""
    loaded, processor, encoder = build_deep(name), stock(name), ours(name)
    side = {"qwen3_vl": 64, "llava_onevision": 28}.get(name, 56)
    row = row_of(Part("video"), Part("text", "or"), Part("video"), videos=(f"{side}x{side}x4", f"{side}x{side}x4"))
    batch = PairCollator(encoder, draw, film, layout=layout)([row])
    with torch.no_grad():
        found = answers_of(batch, answer_logps(loaded.model, batch))
        sides = encoder.encode(row, draw, film).sides()
        for mine, answer, side_of_row in zip(found, ("yes .", "no ."), sides, strict=True):
            whole = by_stock(processor, row, answer)
            assert side_of_row is not None
            prompt, ids = side_of_row
            assert whole["input_ids"][0].tolist() == [*prompt.input_ids.tolist(), *ids.tolist()]
            alone = run_alone(loaded.model, Written(whole, len(prompt)))
            assert float((mine - alone).abs().max()) < 1e-4


def _assert_same(encoder: PairEncoder, processor: Any, row: PreferencePair) -> None:
    want = by_stock(processor, row)
    encoded = encoder.encode(row, draw, film)
    got = encoded.prompt
    assert got.input_ids.tolist() == want["input_ids"][0].tolist()
    for plane, values in got.token_types.items():
        assert values.tolist() == want[plane][0].tolist()
    assert set(got.vision) == {key for key in want if key not in ("input_ids", "attention_mask", *got.token_types)}
    for key in ("video_grid_thw", "image_grid_thw", "second_per_grid_ts"):
        if key in want:
            assert torch.equal(got.vision[key], torch.as_tensor(want[key])), key
    pixels = want["pixel_values_videos"]
    assert got.vision["pixel_values_videos"].shape == pixels.shape
    assert got.vision["pixel_values_videos"].dtype == pixels.dtype
    off = grey_levels(got.vision["pixel_values_videos"] - pixels, processor)
    # both resize twice and round each time; where a side is resized a lot, the two round apart now and then
    assert float(off.max()) < 2.01
    assert float((off > 1.01).float().mean()) < 1e-4
    shapes = [VideoShape(one.frames[0].width, one.frames[0].height, one.times) for one in map(film, row.videos)]
    sizes = [draw(ref).size for ref in row.images]
    assert encoder.prompt_length(row, encoder.encode_text(row), sizes, shapes)[0] == len(got)
