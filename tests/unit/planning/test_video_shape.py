"""A planned video is as long as one that trains: by the model's folder where it is here, else as it was published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmpref.cli.main import main
from mmpref.models.known_configs import known_config
from mmpref.models.load import family_of_config, load_config, load_processor
from mmpref.planning.changes import LEAST_FRAMES
from mmpref.planning.fit import fit
from mmpref.planning.gpus import GIB
from mmpref.planning.plan import make_plan
from mmpref.planning.plan_input import Clip, PlanInput
from mmpref.planning.video_shape import frames_shown, video_shape
from mmpref.processing import PairEncoder
from mmpref.records import VideoRef
from tests.plain_forward import SEE_VIDEOS
from tests.tiny_vlms import TINY, build, draw, film, pair
from tests.unit.planning.shared_recipes import FULL, QLORA, recipe

LONG = Clip(size=(1280, 720), seconds=10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for each family that sees videos, by its name."""
    root = tmp_path_factory.mktemp("models")
    for name in SEE_VIDEOS:
        build(name, root / name)
    return root


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize("name", SEE_VIDEOS)
@pytest.mark.parametrize("changes", [(), ("processing.video_max_frames=6",), ("processing.video_fps=1",)])
@pytest.mark.parametrize("seconds", [0.5, 3.7, 60])
def test_planned_tokens_and_patches_are_those_of_a_row_that_trains(
    name: str, changes: tuple[str, ...], seconds: float, folders: Path
) -> None:
    folder = folders / name
    config = load_config(folder)
    planned = recipe(FULL, f"model.path={folder}", "processing.max_pixels=null", *changes)
    clip = Clip(size=(90, 60), seconds=seconds)
    shape = frames_shown(clip, planned.processing)
    encoder = PairEncoder(load_processor(folder), family_of_config(config))
    place = f"90x60x{shape.num_frames}"

    def times(ref: VideoRef) -> Any:
        return type(shown := film(ref))(shown.frames, shape.times)

    seen = encoder.encode(pair(images=(), videos=(place,)), draw, times).prompt
    unseen = encoder.encode(pair(images=()), draw).prompt
    tokens, patches = video_shape(config, planned, clip)
    assert tokens == len(seen) - len(unseen)
    pixels = seen.vision["pixel_values_videos"]
    side = TINY[name].model().config.vision_config.patch_size
    assert patches == (len(pixels) if name.startswith("qwen") else pixels[0, :, 0].numel() // side**2)


@pytest.mark.parametrize(
    ("model", "size", "tokens", "patches"),
    [
        # frames of 644 x 476, two a temporal patch; of 640 x 480 with their time and two marks; of 384 x 384
        ("Qwen/Qwen2-VL-7B-Instruct", (640, 480), 8 * 17 * 23, 4 * 8 * 17 * 23),
        ("Qwen/Qwen2.5-VL-7B-Instruct", (640, 480), 8 * 17 * 23, 4 * 8 * 17 * 23),
        ("Qwen/Qwen3-VL-8B-Instruct", (640, 480), 8 * (15 * 20 + 2 + 6), 4 * 8 * 15 * 20),
        ("Qwen/Qwen3-VL-8B-Instruct", (1920, 1080), 8 * (29 * 52 + 2 + 6), 4 * 8 * 29 * 52),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", (640, 480), 16 * 196 + 1, 16 * 27 * 27),
    ],
)
def test_a_model_that_is_not_here_is_planned_as_it_was_published(
    model: str, size: tuple[int, int], tokens: int, patches: int
) -> None:
    planned = recipe(QLORA, f"model.path={model}", "processing.max_pixels=null")
    config = known_config(model)
    assert config is not None
    assert video_shape(config, planned, Clip(size=size, seconds=9)) == (tokens, patches)


def test_the_tokens_of_a_video_are_in_the_plan_and_images_are_not_counted_beside_it() -> None:
    planned = recipe(QLORA, "processing.max_length=null")
    alone, both = (make_plan(planned, PlanInput(image_size=image, video=LONG)) for image in (None, (640, 480)))
    assert (alone.shape.image, both.shape.image) == (0, 391)
    assert alone.shape.video == both.shape.video == 8 * 26 * 46
    assert both.needed > alone.needed > make_plan(planned).needed
    assert both.flops_per_pair > alone.flops_per_pair > make_plan(planned).flops_per_pair


def test_what_leaves_no_room_for_an_answer_is_refused_and_the_advice_helps(capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["plan", QLORA, "--video-size", "1280x720"]
    assert main(ask) == 2
    message = said(capsys)
    assert "9,668 tokens before its answers (9568 video + 100 prompt)" in message
    advice = re.search(r"Write (\S+), or lower (\S+) or (\S+)$", message)
    assert advice is not None
    for change in (advice[1], f"{advice[2]}=4", f"{advice[3]}=200704"):
        assert main([*ask, change]) == 0
        assert "video + 100 prompt + 250 + 250 answer tokens" in said(capsys)
    assert main(["plan", QLORA, "--fit", "24GiB", "--video-size", "1280x720"]) == 2
    image = ["plan", QLORA, "--image-size", "2000x2000", "processing.max_length=500"]
    assert main(image) == 2
    assert "or lower processing.max_pixels" in said(capsys)
    assert main([*image, "processing.max_pixels=200704"]) == 0


def test_a_card_that_is_too_small_gets_the_most_frames_that_fit() -> None:
    planned = recipe(QLORA, "processing.max_length=null")
    asked = PlanInput(gpu_memory=12 * GIB, image_size=None, video=LONG)
    assert not make_plan(planned, asked).fits
    found = fit(planned, asked)
    (change,) = found.overrides
    frames = int(change.removeprefix("processing.video_max_frames="))
    assert LEAST_FRAMES < frames < 16
    assert found.plan.fits
    assert "at most" in found.other_result[0]
    assert not make_plan(
        recipe(QLORA, "processing.max_length=null", f"processing.video_max_frames={frames + 2}"), asked
    ).fits


@pytest.mark.parametrize(("arguments", "words"), [
    (["llava_1_5_7b_uni_dpo_qlora", "--video-size", "640x480"], "models of the family 'llava' take none here"),
    (["llama_3_8b_instruct_adadpo_full", "--video-size", "640x480"], "take none here"),
    ([QLORA, "--video-seconds", "3"], "--video-seconds goes with --video-size"),
    ([QLORA, "--video-size", "wide"], "'wide' is not the size of"),
    ([QLORA, "--video-size", "9000x10"], "sides that differ 200 times at most"),
    ([QLORA, "--video-size", "640x480", "--video-seconds", "0"], "0"),
    ([QLORA, "--video-size", "640x480", "processing.video_max_pixels=10"], "write processing.video_max_pixels=3136"),
])  # fmt: skip
def test_a_video_that_cannot_be_planned_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == 2
    assert words in said(capsys)
