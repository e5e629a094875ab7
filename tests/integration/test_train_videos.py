"""``mmpref train`` on rows with videos, beside rows with images and rows of text, from the outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.data.opening import frame_rule, open_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.models import load
from mmpref.processing import plan_fit
from mmpref.recipe.loading import load_recipe
from mmpref.records import ImageRef
from mmpref.rundir.folder import RunDir
from mmpref.training.run.setup import encoder_of
from mmpref.training.trainer.pair_log import read_pair_log
from tests.plain_forward import SEE_VIDEOS
from tests.tiers import corners
from tests.tiny_vlms import build, draw

RECIPE = """
output: unset
seed: 0
cpu_threads: 1
model: {path: unset, dtype: float32}
data: {train: unset}
processing: {video_fps: 2, video_max_frames: 8, max_length: 400}
loss: {name: dpo, beta: 0.1}
tune: {vision: freeze, projector: full, language: full}
train:
  learning_rate: 1.0e-3
  per_device_train_batch_size: 4
  max_steps: 4
  logging_steps: 1
  save_steps: 2
  use_cpu: true
"""


def video_places(*kinds: str) -> list[dict[str, object]]:
    content = [{"type": kind} for kind in kinds] + [{"type": "text", "text": "what is in it ?"}]
    return [{"role": "user", "content": content}]


def write_rows(folder: Path, count: int = 16, *, kinds: tuple[tuple[str, ...], ...] | None = None) -> Path:
    """Rows with a video, with two and an image between them, with an image, and of text."""
    kinds = kinds or (("video",), ("video", "image", "video"), ("image",), ())
    rows = []
    for number in range(count):
        videos, images = [], []
        for kind in kinds[number % len(kinds)]:
            if kind == "video":
                frames = [f"{number}-{len(videos)}-{at}.png" for at in range(4 + 2 * (number % 3))]
                for at, name in enumerate(frames):
                    draw(ImageRef(path=f"60x60-{number + at}")).save(folder / name)
                videos.append({"frames": frames, "fps": 2})
            else:
                images.append(f"{number}.png")
                draw(ImageRef(path=f"60x90-{number}")).save(folder / images[-1])
        rows.append(
            {
                "id": f"row {number}",
                "images": images,
                "videos": videos,
                "prompt": video_places(*kinds[number % len(kinds)]),
                "chosen": "a red square ." + " yes" * (number % 5),
                "rejected": "there is no cat .",
            }
        )
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def command(root: Path, name: str, model: Path, rows: Path, *changes: str) -> list[str]:
    recipe = root / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return ["train", str(recipe), f"output={root / name}", f"model.path={model}", f"data.train={rows}", *changes]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(RunDir(run).model / "model.safetensors")


@pytest.mark.parametrize("name", corners(SEE_VIDEOS, "qwen2_5_vl", "llava_onevision"))
def test_a_run_on_videos_images_and_text_trains_and_says_that_videos_are_seen(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, rows = build(name, tmp_path / "model"), write_rows(tmp_path)
    assert main(command(tmp_path, "run", model, rows)) == 0
    said = capfd.readouterr().out
    assert "check: the video changes the answer's log-probs: ok" in said
    assert "check: the image changes the answer's log-probs: ok" in said
    assert "16 pairs, 0 rows in quarantine" in said
    log = read_pair_log(RunDir(tmp_path / "run").pairs_file)
    assert sorted(log["pair_id"]) == sorted(f"row {number}" for number in range(16))
    first = [margin for step, margin in zip(log["step"], log["rewards/margins"], strict=True) if step == 1]
    assert first == pytest.approx([0.0] * 4, abs=1e-5)
    changed = weights(tmp_path / "run")
    before = load_file(model / "model.safetensors")
    assert any(float((changed[key] - value).abs().max()) > 1e-4 for key, value in before.items())
    written = (tmp_path / "run" / "model" / "video_preprocessor_config.json").read_bytes()
    assert written == (model / "video_preprocessor_config.json").read_bytes()


def died_half_way(run: Path) -> None:
    """Leave of a finished run what it has after its first checkpoint."""
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-4")
    (run / "pairs.parquet").unlink()
    RunDir(run).set_state("running")


def test_a_resumed_run_ends_with_the_bits_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    model, rows = build("qwen3_vl", tmp_path / "model"), write_rows(tmp_path)
    line = command(tmp_path, "run", model, rows)
    assert main(line) == 0
    whole = weights(tmp_path / "run")
    died_half_way(tmp_path / "run")
    assert main([*line, "--resume"]) == 0
    assert all(torch.equal(value, whole[key]) for key, value in weights(tmp_path / "run").items())


def test_a_frame_that_is_another_file_stops_a_resume(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, rows = build("qwen2_5_vl", tmp_path / "model"), write_rows(tmp_path)
    line = command(tmp_path, "run", model, rows)
    assert main(line) == 0
    died_half_way(tmp_path / "run")
    draw(ImageRef(path="60x60-99")).save(tmp_path / "0-0-1.png")
    capfd.readouterr()
    assert main([*line, "--resume"]) == 6
    assert "0-0-1.png" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", corners(["qwen2_5_vl", "llava_onevision"], "qwen2_5_vl"))
def test_a_cached_reference_and_other_batches_train_alike(name: str, tmp_path: Path) -> None:
    """Also with rows in parts (``row_tokens``), kept pixels and the plain layout: the same update each time."""
    model, rows = build(name, tmp_path / "model"), write_rows(tmp_path)
    ways = {
        "live": (),
        "cached": ("reference.kind=cache",),
        "parts": ("processing.row_tokens=100", "processing.pixel_cache_mib=64"),
        "plain": ("model.attention=plain",),
        "workers": ("train.dataloader_num_workers=2",),
    }
    for way, changes in ways.items():
        assert main(command(tmp_path, way, model, rows, *changes)) == 0
    live = weights(tmp_path / "live")
    for way in ways:
        for key, value in weights(tmp_path / way).items():
            torch.testing.assert_close(value, live[key], atol=2e-4, rtol=1e-3)


def write_file(path: Path, count: int, rate: int = 8) -> None:
    """A film of drawn frames as a file."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 64
        for number in range(count):
            for packet in stream.encode(av.VideoFrame.from_image(draw(ImageRef(path=f"64x64-{number}")))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_files_train_with_the_tokens_that_were_planned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lengths = (8, 21, 40, 9)
    rows = []
    for number, count in enumerate(lengths):
        write_file(tmp_path / f"{number}.mp4", count)
        answers = {"chosen": "a red square .", "rejected": "no ."}
        rows.append({"id": str(number), "videos": [f"{number}.mp4"], "prompt": video_places("video"), **answers})
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"images": [], **row}) + "\n" for row in rows), encoding="utf-8")
    model = build("qwen3_vl", tmp_path / "model")
    assert main(command(tmp_path, "run", model, file, "train.dataloader_num_workers=2", "train.save_steps=4")) == 0
    assert "check: the video changes the answer's log-probs: ok" in capfd.readouterr().out
    recipe = load_recipe(str(tmp_path / "run" / "recipe.yaml"))
    loaded = load(model)
    encoder = encoder_of(recipe, loaded)
    source = open_pairs(file, frame_rule=frame_rule(recipe.processing))
    pairs = [candidate.pair for candidate in source.pairs(Quarantine(), demonstrations=False)]
    assert source.images is not None
    assert source.videos is not None
    plan = plan_fit(pairs, encoder, source.images.size, source.videos.shape)
    encoded = [encoder.encode(pair, source.images.open, source.videos) for pair in pairs]
    assert [fit.prompt for fit in plan.fits] == [len(one.prompt) for one in encoded]
    assert [one.prompt.video_frames for one in encoded] == [(4,), (4,), (8,), (4,)]


@pytest.mark.slow
def test_an_adapter_is_merged_with_its_drift_on_videos_and_the_doctor_shows_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, rows = build("qwen3_vl", tmp_path / "model"), write_rows(tmp_path, kinds=(("video",),))
    lora = ("tune={vision: lora, projector: freeze, language: lora}", "adapter={kind: lora, rank: 4}")
    line = command(tmp_path, "run", model, rows, *lora, "train.gradient_checkpointing=true")
    assert main(line) == 0
    merging = ["merge", str(tmp_path / "run"), "--out", str(tmp_path / "merged"), "--dtype", "float32"]
    assert main(merging) == 0
    assert (tmp_path / "merged" / "video_preprocessor_config.json").is_file()
    capfd.readouterr()
    assert main(["doctor", *line[1:], f"output={tmp_path / 'new'}"]) == 0
    said = capfd.readouterr().out
    assert "<0.2 seconds><|vision_start|><video x 4><|vision_end|>" in said


@pytest.mark.distributed
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    model, rows = build("qwen2_5_vl", tmp_path / "model"), write_rows(tmp_path)
    assert main(command(tmp_path, "one", model, rows)) == 0
    together = command(tmp_path, "two", model, rows, "train.per_device_train_batch_size=2")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mmpref"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *together], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    other = weights(tmp_path / "two")
    for key, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(other[key], value, atol=1e-4, rtol=1e-3)


def test_rows_with_videos_are_set_aside_by_a_model_that_takes_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, rows = build("llava", tmp_path / "model"), write_rows(tmp_path)
    assert main(command(tmp_path, "run", model, rows)) == 3
    said = " ".join(capfd.readouterr().err.split())
    assert "8 of 16 pairs cannot be used by this model (video 8;" in said
    assert "has a video, and models of the family 'llava' take none here" in said
    assert main(command(tmp_path, "again", model, rows, "data.max_bad_fraction=0.5")) == 0
    aside = [json.loads(line) for line in RunDir(tmp_path / "again").quarantine_file.read_text().splitlines()]
    assert {row["reason"] for row in aside} == {"video"}
    assert len(aside) == 8
