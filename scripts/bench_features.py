"""A training step whose image features are read (``processing.feature_cache``) against one whose tower runs.

    OMP_NUM_THREADS=1 python scripts/bench_features.py [--models llava qwen2_vl] [--rounds 4] [--json OUT]

LoRA on the language model, batches of one pair, float32, one thread; the scaled models of ``bench_models``. Variants
take turns on each pair, the first round is discarded, and processor time is compared. "live" is a step with the
reference run beside the policy, "cached" one with its log-probs from the reference cache. Beside it: what one image
costs where batches are made, which a run with workers does meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_models import SCALED, Scaled, image, make_pairs
from gpu_parts.steps import Ours, recipe_tree
from PIL import Image

from mmpref.models.tower_features import attach
from mmpref.processing.image_rows import image_row
from mmpref.training.run.feature_cache import FeatureCache


def measured(scaled: Scaled, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds a pair by variant, and milliseconds an image of what the loader does."""
    pairs = make_pairs(rounds + 1, shortest=60, longest=250, seed=1)
    tree = recipe_tree(
        "random", folder / "run", kind="lora", bf16=False, checkpointing=False, optim="sgd", use_cpu=True
    )
    with contextlib.redirect_stdout(sys.stderr):
        ours = Ours(scaled, scaled.build(), tree, make_pairs(1, shortest=60, longest=60, seed=9))
        ours.fill(folder / "reference", pairs)
    cache = FeatureCache.open(folder / "features", {"weights": "random"}, print)
    counts = attach(ours.model, cache)
    kept = ours.collator.with_features(cache.files)
    for pair in pairs:
        ours.step(kept.rows([pair]))  # computes what is kept
    seconds: dict[str, float] = dict.fromkeys(("live", "live, features", "cached", "cached, features"), 0.0)
    logps: dict[str, list[float]] = {variant: [] for variant in seconds}
    for number, pair in enumerate(pairs):
        for variant in seconds:
            batch = (kept if "features" in variant else ours.collator).rows([pair])
            ours.trainer.recorder.meter.take()
            start = time.process_time()
            ours.step(batch, cached="cached" in variant)
            if number:  # the first round warms up
                seconds[variant] += (time.process_time() - start) / rounds
            logps[variant].append(ours.logps()[0])
            ours.model.zero_grad(set_to_none=True)
    first, *others = logps.values()
    sizes = [file.stat().st_size for file in (folder / "features").rglob("*.safetensors")]
    return {
        "model": scaled.name, "pairs": rounds, "seconds_per_pair": seconds,
        "ratio": {way: seconds[way] / seconds[f"{way}, features"] for way in ("live", "cached")},
        "same_bits": all(one == first for one in others), "computed": counts.computed,
        "mib_an_image": sum(sizes) / len(sizes) / 2**20, "ms_an_image": of_an_image(scaled, kept, pairs[0], cache),
    }  # fmt: skip


def of_an_image(scaled: Scaled, kept: Any, pair: Any, cache: FeatureCache) -> dict[str, float]:
    """Processor milliseconds of what a loader does with one image; the file is a JPEG of the benchmark's size."""
    stream = io.BytesIO()
    image(pair.images[0], scaled.image).save(stream, "JPEG", quality=90)
    content = stream.getvalue()

    def decode() -> Image.Image:
        return Image.open(io.BytesIO(content)).convert("RGB")

    picture = decode()
    vision = kept.encoder.images.encode(pair.id, pair.images, lambda _: picture).vision
    row = kept([pair]).image_rows[0]
    return {
        "decode": _milliseconds(decode),
        "process": _milliseconds(lambda: kept.encoder.images.encode(pair.id, pair.images, lambda _: picture)),
        "hash of the pixels": _milliseconds(lambda: image_row(vision)),
        "hash of the file": _milliseconds(lambda: hashlib.sha256(content).hexdigest()),
        "read features": _milliseconds(lambda: cache.files([row])),
    }


def _milliseconds(work: Callable[[], object], repeats: int = 10) -> float:
    work()
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[*SCALED], default=[*SCALED])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = []
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measured(SCALED[name](), given.rounds, Path(folder)))
        print(json.dumps(found[-1], indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
