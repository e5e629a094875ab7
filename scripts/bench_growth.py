"""How a step and the preparation of a run grow: pairs, image tokens, answer length, answers of a prompt, data-set size.

    OMP_NUM_THREADS=1 python scripts/bench_growth.py [--axes pairs image_tokens answer_tokens answers data]
    python scripts/make_growth_page.py            the page's tables, fitted exponents and figure from what was measured

A step is what happens between a collated batch and the gradients, in mmpref's trainer and in TRL's over the same pairs
(``gpu_parts.steps``): LoRA, a live reference, float32, one thread. The models are the architectures of ``bench_models``
with a third of the width and two layers (:func:`narrow`), because growth is asked for and not level: vocabulary, images
and tokens are theirs. Three figures for each point:

* ``cpu_seconds``: processor time, the ways in turns, after one step that warms up. Other work on the machine changes it
  a little; ratios of one run mean more.
* ``gflop``: operations that the step dispatches (``gpu_parts.counted``), the same in every run.
* ``peak_mib``: the most that torch's allocator held at once above what stood before the step, the same in every run.

``data`` is the preparation of a run (``growth_data.py``, in a process of its own that loads no torch before it must).

Writes results/growth/steps.csv, data.csv and machine.json, after every point.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from bench_models import SCALED, Scaled, image, make_pairs
from gpu_parts.counted import count_flops
from gpu_parts.steps import Ours, Trl, recipe_tree
from resident_memory import ONE_BY_ONE

from mmpref.files.writing import write_text
from mmpref.processing import PairCollator, PairEncoder
from mmpref.records import PreferencePair
from mmpref.report.figures.drawing import csv_of

RESULTS = Path(__file__).resolve().parents[1] / "results" / "growth"
STEP_COLUMNS = ("axis", "value", "way", "pairs", "tokens", "gflop", "peak_mib", "cpu_seconds")
ANSWER = 60
"""Tokens of an answer where its length is not what grows."""
WAYS = ("mmpref", "TRL")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What grows.

    Attributes:
        subject: a model of ``bench_models``.
        values: what it takes, from small to large.
        pairs: the pairs of a step at a value.
        image_side: pixels of an image at a value; None: the subject's own.
        together: whether TRL gets the pairs in one batch; else one at a time, as they need no common length.
    """

    subject: str
    values: tuple[int, ...]
    pairs: Callable[[int], list[PreferencePair]]
    image_side: Callable[[int], int] | None = None
    together: bool = True


def same_length(count: int, length: int = ANSWER) -> list[PreferencePair]:
    """Pairs with an image each, all answers of one length."""
    return make_pairs(count, shortest=length, longest=length, seed=count)


def of_one_prompt(answers: int) -> list[PreferencePair]:
    """Every pair of so many answers to one prompt and image."""
    [first] = same_length(1)
    draw = random.Random(answers)
    texts = [" ".join(f"w{draw.randrange(20_000)}" for _ in range(ANSWER)) for _ in range(answers)]
    return [
        replace(first, id=f"{better}-{worse}", chosen=texts[better], rejected=texts[worse])
        for better, worse in itertools.combinations(range(answers), 2)
    ]


AXES = {
    "pairs": Axis(subject="llava", values=(1, 2, 4, 8), pairs=same_length),
    "image_tokens": Axis(
        subject="qwen2_vl", values=(64, 256, 576, 1024), pairs=lambda _: same_length(1),
        image_side=lambda tokens: 28 * round(tokens**0.5),
    ),
    "answer_tokens": Axis(subject="llava", values=(32, 64, 128, 256, 512), pairs=partial(same_length, 1)),
    "answers": Axis(subject="llava", values=(2, 3, 4, 5), pairs=of_one_prompt, together=False),
}  # fmt: skip
DATA = "data"


NARROW: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llava": (
        {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 3, "num_key_value_heads": 3},
        {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 2},
    ),
    "qwen2_vl": (
        {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3, "num_key_value_heads": 1},
        {"depth": 2, "embed_dim": 96, "hidden_size": 192, "num_heads": 2},
    ),
}
"""Family -> what its language model and its tower have in place of the sizes of ``bench_models``."""
LAYERS = 2
"""Of the language model."""


def narrow(scaled: Scaled) -> Any:
    """A model of that architecture, with random weights; two layers, a third of the width or a little more."""
    config = scaled.build().config
    text, vision = NARROW[scaled.family]
    config.text_config.update({**text, "num_hidden_layers": LAYERS})
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = config.text_config.layer_types[:LAYERS]
    if getattr(config.text_config, "head_dim", None):
        config.text_config.head_dim = text["hidden_size"] // text["num_attention_heads"]
    config.vision_config.update(vision)
    torch.manual_seed(0)
    classes = {"llava": tf.LlavaForConditionalGeneration, "qwen2_vl": tf.Qwen2VLForConditionalGeneration}
    return classes[scaled.family](config)


# ---- steps -------------------------------------------------------------------------------------------------------


class Sides:
    """Both trainers over the same weights."""

    def __init__(self, scaled: Scaled, folder: Path) -> None:
        first = make_pairs(1, shortest=ANSWER, longest=ANSWER, seed=9)
        settings: Mapping[str, Any] = {"bf16": False, "checkpointing": False, "optim": "sgd", "use_cpu": True}
        with contextlib.redirect_stdout(sys.stderr):
            self.ours = Ours(
                scaled, narrow(scaled), recipe_tree("random", folder / "run", kind="lora", **settings), first
            )
            self.trl = Trl(scaled, narrow(scaled), folder / "trl", first, **settings)

    def show_images_of(self, scaled: Scaled) -> None:
        """From now on images have another size."""
        encoder = PairEncoder(scaled.processor, self.ours.loaded.family)
        self.ours.collator = PairCollator(encoder, partial(image, size=scaled.image), keyed=True)
        self.trl.subject = scaled

    def prepared(self, way: str, pairs: Sequence[PreferencePair], *, together: bool) -> tuple[Callable[[], None], int]:
        """The step of a way over the pairs, and the tokens that it runs over, padding included."""
        if way == "mmpref":
            batch = self.ours.batch(pairs)
            return partial(self._run, self.ours, [batch]), sum(part.num_tokens for part in batch)
        groups = [pairs] if together else [[pair] for pair in pairs]
        batches = [self.trl.batch(group) for group in groups]
        return partial(self._run, self.trl, batches), sum(batch["input_ids"].numel() for batch in batches)

    @staticmethod
    def _run(library: Any, batches: Sequence[Any]) -> None:
        for batch in batches:
            library.step(batch)
        library.model.zero_grad(set_to_none=True)


def measure_axis(name: str, repeats: int) -> Iterator[list[Any]]:
    """A row for every value, way and repeat."""
    axis = AXES[name]
    scaled = SCALED[axis.subject]()
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(scaled, Path(folder))
        for value in axis.values:
            if axis.image_side is not None:
                side = axis.image_side(value)
                sides.show_images_of(replace(scaled, image=(side, side)))
            pairs = axis.pairs(value)
            steps = {way: sides.prepared(way, pairs, together=axis.together) for way in WAYS}
            counted = {way: counted_step(step) for way, (step, _) in steps.items()}  # warms up as well
            for repeat in range(repeats):
                for way in WAYS if repeat % 2 else reversed(WAYS):
                    step, tokens = steps[way]
                    gc.collect()
                    start = time.process_time()
                    step()
                    seconds = time.process_time() - start
                    yield [name, value, way, len(pairs), tokens, *counted[way], round(seconds, 4)]


def counted_step(step: Callable[[], None]) -> tuple[float, float]:
    """10^9 operations of a step, and MiB of the most that torch's allocator held above what stood before."""
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        operations = count_flops(step)
    results: Any = trace.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return round(operations / 1e9, 4), round(max(held, default=0) / 2**20, 3)


# ---- the command -------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu.partition(":")[2].strip() or platform.processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "commit": head.stdout.strip(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }


def main() -> None:
    """Measure the axes that are asked for; rows of the others stay as they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=[*AXES, DATA], choices=[*AXES, DATA])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in ONE_BY_ONE.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_BY_ONE})
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "machine.json", json.dumps(machine(), indent=1) + "\n")
    for axis in options.axes:
        if axis == DATA:
            command = [sys.executable, str(Path(__file__).with_name("growth_data.py")), "--out", str(options.out)]
            subprocess.run([*command, "--repeats", str(options.repeats)], check=True)
        else:
            kept = [row for row in _rows(options.out / "steps.csv") if row[0] != axis]
            _write(options.out / "steps.csv", STEP_COLUMNS, kept, measure_axis(axis, options.repeats))


def _rows(path: Path) -> list[list[Any]]:
    if not path.is_file():
        return []
    return [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def _write(path: Path, columns: Sequence[str], kept: list[list[Any]], found: Iterator[list[Any]]) -> None:
    """Each row as it comes, behind those that are kept."""
    for row in found:
        kept.append(row)
        print(*row, flush=True)
        write_text(path, csv_of(columns, kept))


if __name__ == "__main__":
    main()
