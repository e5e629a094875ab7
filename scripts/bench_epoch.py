"""Where the time of a whole run goes, from the recipe to the written model, phase by phase.

    OMP_NUM_THREADS=1 python scripts/bench_epoch.py [--cases start_text start_images host llava qwen2_vl loader]

Each case is a real ``mmpref train`` on files on the disk (JPEG images, a model folder, a recipe), in a process of its
own. The ``start`` cases have 10,000 pairs and a model so small that what is left is start-up; ``llava`` and
``qwen2_vl`` are the models of ``bench_models.py`` with LoRA and a live reference. Phases are exclusive: what one calls
and is a phase of its own is not counted twice. Processor time is
that of the process and its children.

Outside of forward and backward is given in milliseconds per pair too, because a GPU computes a step in a tenth to a
fiftieth of the time, while the host's part stays as it is; ``share_3_percent_at`` is the time of forward and backward
of a pair of which it would be 3 %. ``pair log`` is what the statistics of single pairs cost once they are computed
(``pairs.parquet``), with its share of the whole step. The first update is left out of these figures: kernels warm up,
workers start.
``host`` asks the same with a tiny model, which shows the host's part in a minute.

A ``start`` case is run twice: images that were found whole at the first start are not decoded at the second.

``loader`` is the processor time from the JPEG file (1280 x 960) to the collated batch of one pair with 1,024 image
tokens, and what two worker processes deliver if they have a core each.
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

CASES = ("start_text", "start_images", "host", "llava", "qwen2_vl", "loader")
START_PAIRS, STEP_PAIRS, LOADER_PAIRS = 10_000, 24, 60
HELD_OUT = 4
DRAWN = 100
"""Images that are drawn; more files are links to them, which are decoded all the same."""
TEXT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} "
    "{% if message['role'] == 'assistant' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
STEP = ("forward", "backward")
STEP_PARTS = ("wait for data", "optimizer", "gradient norm", "log lines", "pair log", "training: rest")


@dataclass
class Clock:
    """Exclusive wall and processor seconds of named phases.

    Attributes:
        wall, cpu: phase -> seconds.
        calls: phase -> how often it began.
        marks: name -> seconds since the start.
        snapshots: the table as it was at the end of each update.
    """

    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    marks: dict[str, float] = field(default_factory=dict)
    snapshots: list[dict[str, dict[str, float]]] = field(default_factory=list)
    _stack: list[str] = field(default_factory=lambda: ["rest"])
    _last: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), processor_seconds()))
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
        now = (time.perf_counter(), processor_seconds())
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


def processor_seconds() -> float:
    """Of this process and its children, those that have ended among them."""
    ended = os.times()
    ticks = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text().split():
            with contextlib.suppress(OSError):  # it ended meanwhile
                fields = Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
                ticks += sum(int(field) for field in fields[11:15])
    return time.process_time() + ended.children_user + ended.children_system + ticks / os.sysconf("SC_CLK_TCK")


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
        words.chat_template = TEXT_TEMPLATE
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


def recipe_of(work: Path, *, pairs: int, max_steps: int, workers: int) -> Path:
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
        from mmpref.training.trainer.pair_log import PairLog
    for name in ("add", "flush", "write"):
        clock.around(PairLog, name, "pair log")
    clock.around(trainer_module, "pair_facts", "pair log")
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
    ends = [clock.snapshots[0], clock.snapshots[-1]]
    return {"phases": clock.table(), "marks": clock.marks, "lines": lines[:40], "updates": ends}


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

    class Marks(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.mark("training begins")

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.mark("first step")
            clock.calls["steps"] += 1

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.marks["last step over"] = time.perf_counter() - clock._begun
            clock.snapshots.append(clock.table())

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


def step_figures(found: dict[str, Any], pairs: int) -> dict[str, float]:
    """What the updates but the first take outside of forward and backward.

    Args:
        pairs: of these updates.
    """
    first, last = found["updates"]

    def seconds(phase: str, kind: str) -> float:
        return float(last.get(phase, {kind: 0.0})[kind] - first.get(phase, {kind: 0.0})[kind])

    figures: dict[str, float] = {}
    for kind in ("wall", "cpu"):
        inside = sum(seconds(phase, kind) for phase in STEP)
        outside = sum(seconds(phase, kind) for phase in last if phase not in STEP)
        figures |= {
            f"{kind}/inside_ms_a_pair": 1e3 * inside / pairs,
            f"{kind}/outside_ms_a_pair": 1e3 * outside / pairs,
            f"{kind}/outside_share": outside / (inside + outside),
        }
        figures |= {f"{kind}/{phase}_ms_a_pair": 1e3 * seconds(phase, kind) / pairs for phase in STEP_PARTS}
        whole = sum(seconds(phase, kind) for phase in last)
        figures[f"{kind}/pair_log_share"] = seconds("pair log", kind) / whole
    figures["share_3_percent_at"] = figures["cpu/outside_ms_a_pair"] / 1e3 / 0.03
    return figures


# ---- cases -----------------------------------------------------------------------------------------------------


def run_case(case: str, work: Path, pairs: int | None, workers: int) -> dict[str, Any]:
    """Write the files of a case, and time it in a process of its own."""
    start = case.startswith("start")
    count = pairs or (START_PAIRS if start else STEP_PAIRS)
    image = {"start_text": None, "start_images": (640, 480), "llava": (448, 448), "host": (224, 224)}.get(
        case, (896, 896)
    )
    write_pairs(work / "data", count, image=image, vocabulary=20_000)
    model = {"start_text": "tiny_text", "start_images": "tiny_vision", "host": "tiny_vision"}.get(case, case)
    write_model(work / "model", model)
    recipe = recipe_of(work, pairs=count, max_steps=1 if start else (count - HELD_OUT) // 2, workers=workers)
    time.sleep(2.5 if image is not None else 0)  # files of this very moment are not remembered
    found = timed(recipe, work / "cache")
    found |= {"case": case, "pairs": count, "workers": workers}
    if start:
        found["again"] = timed(recipe, work / "cache")["phases"]
    else:
        found["steps"] = step_figures(found, count - HELD_OUT - 2)
    return found


def run_loader(work: Path) -> dict[str, Any]:
    """What a loader worker does for one pair, in this process."""
    from bench_models import SCALED

    from mmpref.data.images.loader import ImageLoader
    from mmpref.data.opening import open_pairs
    from mmpref.data.quarantine import Quarantine
    from mmpref.processing import PairEncoder, family_of
    from mmpref.processing.collate import PairCollator

    path = write_pairs(work / "data", LOADER_PAIRS, image=(1280, 960), vocabulary=20_000)
    pairs = [found.pair for found in open_pairs(path).pairs(Quarantine(), demonstrations=False)]
    scaled, images = SCALED["qwen2_vl"](), ImageLoader(path.parent)
    encoder = PairEncoder(scaled.processor, family_of(scaled.family, has_vision=True))
    collator = PairCollator(encoder, images.open)
    collator.rows(pairs[:1])
    seconds = {}
    for name, work_on in (("open the image", lambda pair: images.open(pair.images[0])), ("text", encoder.encode_text)):
        encoder.chat._kept.clear()
        begun = time.process_time()
        for pair in pairs[1:]:
            work_on(pair)
        seconds[name] = (time.process_time() - begun) / len(pairs[1:])
    encoder.chat._kept.clear()
    begun = time.process_time()
    for pair in pairs[1:]:
        collator.rows([pair])
    seconds["all"] = (time.process_time() - begun) / len(pairs[1:])
    return {"case": "loader", "seconds_a_pair": seconds, "pairs_a_second_of_two_workers": 2 / seconds["all"]}


def timed(recipe: Path, cache: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--timed", str(recipe)]
    environment = {**os.environ, "MMPREF_CACHE": str(cache)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(found: dict[str, Any]) -> None:
    if found["case"] == "loader":
        print(json.dumps(found, indent=1))
        return
    total = sum(entry["wall"] for entry in found["phases"].values())
    print(f"\n{found['case']}: {found['pairs']} pairs, {found['workers']} workers, {total:.1f} s in all")
    for phase, entry in found["phases"].items():
        if entry["wall"] >= 0.001 * total or entry["wall"] > 0.05:
            share = f"{entry['wall'] / total:6.1%}"
            print(f"  {phase:32s} {entry['wall']:9.3f} s  {share}  processor {entry['cpu']:9.3f} s")
    for name, seconds in found["marks"].items():
        print(f"  {name}: {seconds:.2f} s after the start")
    for phase, entry in found.get("again", {}).items():
        if entry["cpu"] > 0.05:
            print(f"  again: {phase:25s} {entry['wall']:9.3f} s          processor {entry['cpu']:9.3f} s")
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
            loader = case == "loader"
            found = run_loader(Path(folder)) if loader else run_case(case, Path(folder), asked.pairs, asked.workers)
        show(found)
        results.append(found)
    if asked.out is not None:
        asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
