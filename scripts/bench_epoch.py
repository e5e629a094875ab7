"""Where the time of a whole run goes, from the recipe to the written model, phase by phase.

    OMP_NUM_THREADS=1 python scripts/bench_epoch.py [--cases start_text start_images llava qwen2_vl loader] [--pairs N]

Each case is a real ``mmpref train`` on files on the disk (JPEG images, a model folder, a recipe), in a process of its
own. The ``start`` cases have 10,000 pairs and a model so small that what is left is start-up; ``llava`` and
``qwen2_vl`` are the models of ``bench_models.py`` with LoRA and a live reference. Phases are exclusive: what one calls
and is a phase of its own is not counted twice. Processor time is that of the main process.

Outside of forward and backward is given in seconds per pair too, because a GPU computes a step in a tenth to a
fiftieth of the time, while the host's part stays as it is: ``of_gpu_step`` is its share in a step of so many seconds.

``loader`` asks what two worker processes deliver: pairs per second with an image of 896 x 896 and with a JPEG of
1280 x 960, from the file to the collated batch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CASES = ("start_text", "start_images", "llava", "qwen2_vl", "loader")
START_PAIRS, STEP_PAIRS, LOADER_PAIRS = 10_000, 24, 60
HELD_OUT = 4
DRAWN = 100
"""Images that are drawn; more files are links to them, which are decoded all the same."""
GPU_STEP = {"llava": 0.35, "qwen2_vl": 0.45}
"""Seconds that a pair of the 7B models takes on an RTX 4090 (QLoRA, checkpointing) by ``mmpref plan``'s estimate of
speed: not measured."""
STEP = ("forward", "backward")


@dataclass
class Clock:
    """Exclusive wall and processor seconds of named phases.

    Attributes:
        wall, cpu: phase -> seconds.
        calls: phase -> how often it began.
        marks: name -> seconds since the start.
    """

    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    marks: dict[str, float] = field(default_factory=dict)
    _stack: list[str] = field(default_factory=lambda: ["rest"])
    _last: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), time.process_time()))
    _begun: float = field(default_factory=time.perf_counter)

    def mark(self, name: str) -> None:
        self.marks.setdefault(name, time.perf_counter() - self._begun)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def begin(self, name: str) -> None:
        self._count()
        self.calls[name] += 1
        self._stack.append(name)

    def end(self) -> None:
        self._count()
        self._stack.pop()

    def _count(self) -> None:
        now = (time.perf_counter(), time.process_time())
        self.wall[self._stack[-1]] += now[0] - self._last[0]
        self.cpu[self._stack[-1]] += now[1] - self._last[1]
        self._last = now

    def around(self, owner: Any, name: str, phase: str) -> None:
        """From now on a function of an object, class or module is a phase."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase):
                return inner(*args, **kwargs)

        setattr(owner, name, timed)

    def table(self) -> dict[str, dict[str, float]]:
        self._count()
        found = sorted(self.wall, key=lambda phase: -self.wall[phase])
        return {
            phase: {"wall": round(self.wall[phase], 4), "cpu": round(self.cpu[phase], 4), "calls": self.calls[phase]}
            for phase in found
        }


# ---- what is trained -------------------------------------------------------------------------------------------


def write_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """``count`` JPEG files of photo-like noise, at most ``DRAWN`` of them different."""
    import numpy as np
    from PIL import Image

    width, height = size
    for number in range(count):
        if number >= DRAWN:
            (folder / f"{number}.jpg").hardlink_to(folder / f"{number % DRAWN}.jpg")
            continue
        draw = np.random.default_rng(number)
        coarse = Image.fromarray(draw.integers(0, 255, (height // 40, width // 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        grain = draw.normal(0, 8, (height, width, 1)).astype(np.int16)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def write_pairs(folder: Path, count: int, *, image: tuple[int, int] | None, vocabulary: int) -> Path:
    """Pairs of random words: a question of 40, answers of 60 to 250, scores, and an image each where asked for."""
    folder.mkdir(parents=True)
    draw = random.Random(0)

    def words(number: int) -> str:
        return " ".join(f"w{draw.randrange(vocabulary)}" for _ in range(number))

    if image is not None:
        write_images(folder, count, image)
    path = folder / "pairs.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            parts = [{"type": "image"}] if image is not None else []
            row: dict[str, Any] = {
                "id": f"pair-{number}",
                "prompt": [{"role": "user", "content": [*parts, {"type": "text", "text": words(40)}]}],
                "chosen": words(draw.randint(60, 250)),
                "rejected": words(draw.randint(60, 250)),
                "score_chosen": 4.5,
                "score_rejected": 2.0,
            }
            if image is not None:
                row["images"] = [f"{number}.jpg"]
            stream.write(json.dumps(row) + "\n")
    return path


def write_model(folder: Path, name: str) -> Path:
    """A model folder: of ``bench_models.SCALED``, or of a tiny text or vision model."""
    import torch
    import transformers as tf
    from bench_models import SCALED, tokenizer

    if name in SCALED:
        scaled = SCALED[name]()
        scaled.build().save_pretrained(folder)
        scaled.processor.save_pretrained(folder)
        return folder
    torch.manual_seed(0)
    if name == "tiny_text":
        words = tokenizer(32_000, ["<unk>", "<s>", "</s>", "<pad>"], image="", eos="</s>", pad_token="<pad>")
        config = tf.LlamaConfig(
            vocab_size=32_000, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, pad_token_id=3, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        tf.LlamaForCausalLM(config).save_pretrained(folder)
        words.save_pretrained(folder)
        return folder
    scaled = SCALED["qwen2_vl"]()
    text = {
        "vocab_size": 152_064, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 1, "use_sliding_window": False,
    }  # fmt: skip
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}
    config = tf.Qwen2VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, image_token_id=6, video_token_id=7,
        vision_start_token_id=4, vision_end_token_id=5,
    )  # fmt: skip
    tf.Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    scaled.processor.save_pretrained(folder)
    return folder


def recipe_of(work: Path, *, pairs: int, max_steps: int, workers: int, manifest: str | None = None) -> Path:
    """The recipe file of a case."""
    import yaml

    tree: dict[str, Any] = {
        "output": str(work / "run"),
        "model": {"path": str(work / "model")},
        "data": {"train": str(work / "data" / "pairs.jsonl"), "held_out": HELD_OUT / pairs},
        "processing": {"max_length": 4096},
        "loss": {"name": "uni_dpo", "uni": {"tau_good": 2.5}},
        "adapter": {"kind": "lora", "rank": 8, "alpha": 16},
        "tune": {"vision": "freeze", "projector": "freeze", "language": "lora"},
        "train": {
            "learning_rate": 1e-5, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2,
            "max_steps": max_steps, "use_cpu": True, "dataloader_num_workers": workers, "logging_steps": 2,
        },
    }  # fmt: skip
    if manifest is not None:
        tree["data"] |= {"manifest": manifest}
    path = work / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


# ---- one run, timed --------------------------------------------------------------------------------------------


def timed_run(recipe: Path) -> dict[str, Any]:
    """Train a recipe in this process, which imported nothing of it yet."""
    clock = Clock()
    with clock.phase("imports"):
        from mmpref.data import image_check
        from mmpref.recipe.loading import load_recipe
        from mmpref.training.run import first_step, run, setup
        from mmpref.training.run.callbacks import RunCallbacks
        from mmpref.training.trainer import trainer as trainer_module
    watch(clock, run, setup, first_step, image_check)
    lines: list[tuple[float, str]] = []
    with clock.phase("recipe"):
        loaded = load_recipe(recipe)
    begun = time.perf_counter()
    callbacks = RunCallbacks(
        say=lambda line: lines.append((time.perf_counter() - begun, line)),
        on_trainer=lambda trainer: watch_steps(clock, trainer, trainer_module),
    )
    run.train(loaded, overwrite=True, callbacks=callbacks)
    phases = clock.table()
    return {"phases": phases, "marks": clock.marks, "lines": lines[:40]}


def watch(clock: Clock, run: Any, setup: Any, first_step: Any, image_check: Any) -> None:
    """Make phases of what a run is made of."""
    for owner, name, phase in (
        (run, "load_data", "read and check rows"),
        (image_check.ImageCheck, "__call__", "decode every image once"),
        (run, "facts_at_start", "hash images and model"),
        (run, "set_up", "set up: rest"),
        (setup, "_load_model", "load the model"),
        (setup, "encoder_of", "encoder"),
        (setup, "fit_data", "length plan"),
        (setup, "choose_layout", "choose the layout"),
        (run, "_trainer_of", "make the trainer"),
        (run, "dry_run_optimizer_and_loader", "try optimizer and loader"),
        (first_step.FirstStep, "check", "start-up checks"),
        (first_step.FirstStep, "evaluate", "first evaluation"),
        (run, "finish", "final evaluation and files"),
    ):
        clock.around(owner, name, phase)
    from torch.optim import optimizer as hooks

    hooks.register_optimizer_step_pre_hook(lambda *_: clock.begin("optimizer"))
    hooks.register_optimizer_step_post_hook(lambda *_: clock.end())


def watch_steps(clock: Clock, trainer: Any, module: Any) -> None:
    """Make phases of what a step is made of, and note when the first begins."""
    from transformers import TrainerCallback

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.mark("training begins")

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.mark("first step")
            clock.calls["steps"] += 1

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.marks["last step over"] = time.perf_counter() - clock._begun

    trainer.add_callback(Marks())
    clock.around(trainer, "get_batch_samples", "wait for data")
    clock.around(module, "pair_logps", "forward")
    clock.around(trainer.accelerator, "backward", "backward")
    clock.around(trainer, "_clip_grad_norm", "gradient norm")
    clock.around(trainer, "log", "log lines")
    clock.around(trainer, "_save_checkpoint", "checkpoint")
    inner = trainer.train

    def train(*args: Any, **kwargs: Any) -> Any:
        with clock.phase("training: rest"):
            return inner(*args, **kwargs)

    trainer.train = train


def step_figures(name: str, found: dict[str, Any], pairs: int) -> dict[str, float]:
    """What a step costs outside of forward and backward, from the phases that training is made of."""
    phases = found["phases"]
    inside = sum(phases[phase]["wall"] for phase in STEP)
    parts = ("wait for data", "optimizer", "gradient norm", "log lines", "training: rest")
    outside = sum(phases.get(phase, {"wall": 0.0})["wall"] for phase in parts)
    total = sum(entry["wall"] for entry in phases.values())
    return {
        "inside_seconds": inside,
        "outside_of_steps_seconds": outside,
        "outside_share_of_steps": outside / (inside + outside),
        "outside_share_of_run": (total - inside) / total,
        "outside_milliseconds_a_pair": 1e3 * outside / pairs,
        "of_gpu_step": outside / pairs / (outside / pairs + GPU_STEP[name]),
    }


# ---- cases -----------------------------------------------------------------------------------------------------


def run_case(case: str, work: Path, pairs: int | None, workers: int) -> dict[str, Any]:
    """Write the files of a case, and time it in a process of its own."""
    start = case.startswith("start")
    count = pairs or (START_PAIRS if start else STEP_PAIRS)
    image = {"start_text": None, "start_images": (640, 480), "llava": (448, 448)}.get(case, (896, 896))
    write_pairs(work / "data", count, image=image, vocabulary=20_000)
    model = {"start_text": "tiny_text", "start_images": "tiny_vision"}.get(case, case)
    write_model(work / "model", model)
    recipe = recipe_of(work, pairs=count, max_steps=1 if start else (count - HELD_OUT) // 2, workers=workers)
    found = timed(recipe)
    found |= {"case": case, "pairs": count, "workers": workers}
    if not start:
        found["steps"] = step_figures(case, found, count)
    return found


def timed(recipe: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--timed", str(recipe)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ})
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(found: dict[str, Any]) -> None:
    total = sum(entry["wall"] for entry in found["phases"].values())
    print(f"\n{found['case']}: {found['pairs']} pairs, {found['workers']} workers, {total:.1f} s in all")
    for phase, entry in found["phases"].items():
        if entry["wall"] >= 0.001 * total or entry["wall"] > 0.05:
            print(f"  {phase:32s} {entry['wall']:9.3f} s  {entry['wall'] / total:6.1%}  processor {entry['cpu']:9.3f} s")
    for name, seconds in found["marks"].items():
        print(f"  {name}: {seconds:.2f} s after the start")
    for name, value in found.get("steps", {}).items():
        print(f"  {name}: {value:.4g}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Where the time of a whole run goes.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for the files; default: a temporary one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--timed", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.timed is not None:
        print(json.dumps(timed_run(asked.timed)))
        return 0
    results = []
    for case in asked.cases:
        with tempfile.TemporaryDirectory(dir=asked.work) as folder:
            found = run_case(case, Path(folder), asked.pairs, asked.workers)
        show(found)
        results.append(found)
    if asked.out is not None:
        asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
