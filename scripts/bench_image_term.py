"""What a step with the image term, or with weights of tokens, costs against a step of plain DPO.

    OMP_NUM_THREADS=1 python scripts/bench_image_term.py [--models llava qwen2_vl] [--rounds 3] [--layers 4]

*dpo* is a step of DPO over batches of one pair; *image* the same with ``loss.image`` and a crop of the image, which
is one prompt with one answer more (a third row in the plain layout); *weights* is DPO with the diff rule. All are the
same trainer over the same weights, and take turns on each pair; what is compared is processor time between a collated
batch and the gradients, and ratios are totals. *live* runs the reference, *cached* reads its log-probs. *counted* is
the ratio of the floating-point operations that are dispatched for the pair that is nearest to the mean length; these
steps are not timed and warm up. Collating (which makes the crop and compares the answers) is timed beside it, and the
diff rule alone.

Models are those of ``bench_models``, LoRA in all layers of the language model, float32, one thread, a question of 40
tokens, answers of ``--shortest`` to ``--longest`` tokens, half of whose words are those of the other answer.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_commits import build
from bench_models import SCALED, Scaled, image, make_pairs
from gpu_parts.counted import count_flops
from gpu_parts.steps import Ours, nearest_to_mean, recipe_tree

from mmpref.losses import build_objective
from mmpref.processing import LayoutName, PairCollator, PairEncoder, TokenWeightSettings
from mmpref.processing.other_images import OtherImageSettings
from mmpref.processing.token_weights import changed_tokens
from mmpref.records import PreferencePair

DIFF = TokenWeightSettings(rule="diff")
LOSSES: dict[str, dict[str, Any]] = {
    "dpo": {"name": "dpo", "beta": 0.1},
    "image": {"name": "dpo", "beta": 0.1, "image": {"weight": 1.0}},
    "weights": {"name": "ddpo", "beta": 0.1},
}
LAYOUTS: tuple[LayoutName, ...] = ("shared_prefix", "plain")
REFERENCES = ("live", "cached")


class Ways:
    """One trainer that takes any of the losses, in any layout, with any reference."""

    def __init__(self, scaled: Scaled, layers: int | None, folder: Path) -> None:
        tree = recipe_tree(
            "random", folder / "run", kind="lora", bf16=False, checkpointing=False, optim="sgd", use_cpu=True
        )
        first = make_pairs(1, shortest=60, longest=60, seed=9)
        self.folder = folder
        self.ours = Ours(scaled, build(scaled, layers), tree, first)
        family = self.ours.loaded.family
        encoders = {
            "dpo": PairEncoder(scaled.processor, family),
            "image": PairEncoder(
                scaled.processor, family, other_image=OtherImageSettings(source="made", kind="crop", seed=0)
            ),
            "weights": PairEncoder(scaled.processor, family, token_weights=DIFF),
        }
        load = partial(image, size=scaled.image)
        self.collators = {
            (loss, layout): PairCollator(encoder, load, layout=layout, need_other=loss == "image", keyed=True)
            for loss, encoder in encoders.items()
            for layout in LAYOUTS
        }
        self.objectives = {loss: build_objective(keys) for loss, keys in LOSSES.items()}

    def fill(self, pairs: Sequence[PreferencePair]) -> None:
        """The cache, while the model is its own reference; then the factors move away from zero."""
        for loss in ("dpo", "image"):
            self.ours.collator = self.collators[loss, "shared_prefix"]
            self.ours.fill(self.folder / "cache", pairs)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in self.ours.model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.02)

    def batch(self, loss: str, layout: LayoutName, pair: PreferencePair) -> Any:
        self.ours.collator = self.collators[loss, layout]
        self.ours.trainer.collator = self.ours.collator
        self.ours.trainer.objective = self.objectives[loss]
        return self.ours.batch([pair])

    def step(self, batch: Any, reference: str) -> None:
        self.ours.step(batch, cached=reference == "cached")

    def clear(self) -> None:
        self.ours.model.zero_grad(set_to_none=True)
        self.ours.trainer.recorder.meter.take()
        gc.collect()


def overlapping(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    """Rejected answers that repeat half of the chosen one's words, in runs of six."""
    draw = random.Random(seed)
    found = []
    for pair in pairs:
        chosen, rejected = pair.chosen.split(), (pair.rejected or "").split()
        for begin in range(0, min(len(chosen), len(rejected)) - 6, 12):
            at = begin + draw.randrange(6)
            rejected[at : at + 6] = chosen[at : at + 6]
        found.append(replace(pair, rejected=" ".join(rejected)))
    return found


def measure(scaled: Scaled, options: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds of each way over all pairs."""
    pairs = overlapping(make_pairs(options.rounds, shortest=options.shortest, longest=options.longest, seed=1), seed=2)
    ways = [
        (loss, layout, reference)
        for layout in options.layouts for reference in options.references for loss in LOSSES
        if loss != "weights" or layout == "shared_prefix"
    ]  # fmt: skip
    seconds: dict[tuple[str, ...], list[float]] = {way: [] for way in ways}
    collating: dict[tuple[str, ...], list[float]] = {way: [] for way in ways}
    tokens: dict[tuple[str, ...], int] = dict.fromkeys(ways, 0)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            sides = Ways(scaled, options.layers, Path(folder))
            sides.fill(pairs)
        [middle] = nearest_to_mean([[pair] for pair in pairs])
        counted = {}
        for loss, layout, reference in ways:
            counted[loss, layout, reference] = count_flops(
                partial(sides.step, sides.batch(loss, layout, middle), reference)
            )
            sides.clear()
        for number, pair in enumerate(pairs):
            for way in ways if number % 2 else reversed(ways):
                loss, layout, reference = way
                start = time.process_time()
                batch = sides.batch(loss, layout, pair)
                ready = time.process_time()
                sides.step(batch, reference)
                seconds[way].append(time.process_time() - ready)
                collating[way].append(ready - start)
                tokens[way] += sum(part.num_tokens for part in batch)
                sides.clear()
        encoder = sides.collators["weights", "shared_prefix"].encoder
        texts = [encoder.encode_text(pair).answers for pair in pairs]
        start = time.process_time()
        for chosen, rejected in texts * 20:
            changed_tokens(chosen, rejected, DIFF)
        diff = (time.process_time() - start) / (20 * len(texts))
    result: dict[str, Any] = {
        "model": scaled.name, "layers": options.layers, "pairs": len(pairs), "diff_rule_ms": diff * 1e3, "ratios": [],
    }  # fmt: skip
    for way in ways:
        base = ("dpo", *way[1:])
        if way == base:
            continue
        each = [one / other for one, other in zip(seconds[way], seconds[base], strict=True)]
        result["ratios"].append({
            "loss": way[0], "layout": way[1], "reference": way[2],
            "ratio": sum(seconds[way]) / sum(seconds[base]), "lowest": min(each), "highest": max(each),
            "counted": counted[way] / counted[base], "tokens": tokens[way] / tokens[base],
            "seconds": sum(seconds[way]) / len(pairs), "seconds_dpo": sum(seconds[base]) / len(pairs),
            "collating_ms": 1e3 * sum(collating[way]) / len(pairs),
            "collating_dpo_ms": 1e3 * sum(collating[base]) / len(pairs),
        })  # fmt: skip
    return result


def lines(found: Mapping[str, Any]) -> list[str]:
    layers = "" if found["layers"] is None else f" ({found['layers']} layers)"
    said = [f"{found['model']}{layers}, {found['pairs']} pairs; diff rule {found['diff_rule_ms']:.2f} ms a pair"]
    for one in found["ratios"]:
        way = f"{one['loss']:7} {one['layout']:13} {one['reference']:6}"
        also = f"{one['lowest']:.2f} to {one['highest']:.2f}; counted {one['counted']:.2f}, tokens {one['tokens']:.2f}"
        collating = f"collating {one['collating_ms']:.0f} ms, dpo {one['collating_dpo_ms']:.0f}"
        said.append(f"  {way}: {one['ratio']:.2f}x of dpo's {one['seconds_dpo']:.2f} s ({also}); {collating}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SCALED), choices=list(SCALED))
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--references", nargs="+", default=list(REFERENCES), choices=REFERENCES)
    parser.add_argument("--rounds", type=int, default=4, help="pairs, each of which every way runs once")
    parser.add_argument("--shortest", type=int, default=60)
    parser.add_argument("--longest", type=int, default=100)
    parser.add_argument("--layers", type=int, help="of the language model (default: all 12)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name in options.models:
        results.append(measure(SCALED[name](), options))
        print("\n".join(lines(results[-1])), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
