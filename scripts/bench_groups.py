"""Pairs that share a prompt, in one row against a prompt for each pair: how much faster is a step, and is it the same.

    OMP_NUM_THREADS=1 python scripts/bench_groups.py [--models llava qwen2_vl] [--cases six vlfeedback] [--rounds 2]
    OMP_NUM_THREADS=1 python scripts/bench_groups.py --layers 4 --no-trl     a third of the layers: minutes less
    OMP_NUM_THREADS=1 python scripts/bench_groups.py --memory                step memory instead of time

*grouped* is the step over ``[images + prompt | a1 | ... | aK]``, as the collator makes it of pairs with one prompt.
*separate* is the step over the same pairs packed in one row with a prompt and two answers each, which is what every
step was before there were groups. Nothing is switched off for it: the image of each pair has a path of its own, with
the same pixels behind it, so these are different prompts to the collator and the same numbers to the model. Both are
the same trainer over the same weights. *TRL* runs the same pairs one at a time in its own trainer, so it pads little.

Models are those of ``bench_models``, LoRA in all layers of the language model, its factors away from zero, so that
policy and reference differ. float32, one thread, a question of 40 tokens, answers of 100 to 200 (150 on average). All
ways take turns on each group; what is compared is processor time between a collated batch and the gradients, and ratios
are totals. *cached* reads the reference's log-probs where *live* runs it. The ideal is the ratio of the floating-point
operations that are dispatched (``gpu_parts.counted``) for one group of each kind, the one nearest to the mean length;
these steps are not timed and warm up. Mean log-probs of chosen and rejected answers are compared between all ways, and
gradients between those of ours.

Cases: ``six`` is 4 answers in 6 pairs, ``best_of_8`` the best of 8 answers against each other, ``vlfeedback`` ten
groups as VLFeedback has them (``CASES``). ``scripts/bench_commits.py`` compares what has no groups with another commit.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
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
from bench_models import SCALED, Scaled, make_pairs
from gpu_parts.counted import count_flops
from gpu_parts.prompt_groups import Group, make_group, nearest_to_mean
from gpu_parts.steps import Ours, Trl, recipe_tree, same_adapters
from resident_memory import ONE_BY_ONE, step_memory

CASES = {
    "six": ("six",),
    "best_of_8": ("best_of_8",),
    "vlfeedback": ("six", "five", "five", "three", "five", "four", "five", "six", "five", "three"),
}
"""Case -> the groups of a round.

VLFeedback (arXiv 2312.10665) has 4 answers to each of 80,258 prompts and "more than 380k" pairs, 4.73 a prompt: answers
with equal mean ratings make no pair. The card of the data set does not say how ties fall. If the four ratings of a
prompt are independent draws from one distribution with this many ties, then 0.20 of the prompts have 6 pairs, 0.51 to
0.54 have 5, 0.09 have 4, 0.15 to 0.17 have 3 and 0.01 to 0.02 none, whether the distribution is a bell or falls off
from the best rating; the ten groups above are that, 4.7 pairs on average.
"""
CHECKPOINTING = {"lora": False, "lora_ckpt": True}
REFERENCES = ("live", "cached")
MEMORY_WAYS = ("one pair", "separate", "grouped", "grouped, in parts")


class Ways:
    """Ours and TRL over the same weights, and every way of running a group of pairs.

    Args:
        layers: as ``bench_commits.build`` has it.
        cached: groups whose reference log-probs go into the cache.
    """

    def __init__(
        self, scaled: Scaled, mode: str, layers: int | None, folder: Path, *, with_trl: bool,
        cached: Sequence[Group] = (),
    ) -> None:  # fmt: skip
        checkpointing = CHECKPOINTING[mode]
        tree = recipe_tree(
            "random", folder / "run", kind="lora", bf16=False, checkpointing=checkpointing, optim="sgd", use_cpu=True
        )
        first = make_pairs(1, shortest=60, longest=60, seed=9)
        self.ours = Ours(scaled, build(scaled, layers), tree, first)
        for group in cached:  # while the model is its own reference
            for pairs in (group.pairs, group.apart):
                self.ours.fill(folder / "cache", pairs)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in self.ours.model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.02)
        self.trl: Trl | None = None
        if with_trl:
            self.trl = Trl(
                scaled, build(scaled, layers), folder / "trl", first, bf16=False, checkpointing=checkpointing,
                optim="sgd", use_cpu=True,
            )  # fmt: skip
            same_adapters(self.ours.model, self.trl.model)

    def batches(self, way: str, group: Group) -> list[Any]:
        """What the step of a way runs over."""
        if way == "trl":
            assert self.trl is not None
            return [self.trl.batch([pair]) for pair in group.pairs]
        return [self.ours.batch(group.pairs if way.startswith("grouped") else group.apart)]

    def step(self, way: str, batches: Sequence[Any]) -> tuple[float, float]:
        """Run it; mean log-probs of chosen and rejected answers, read after the step."""
        if way == "trl":
            assert self.trl is not None
            found = []
            for batch in batches:
                self.trl.step(batch)
                found.append(self.trl.logps())
            return statistics.mean(chosen for chosen, _ in found), statistics.mean(rejected for _, rejected in found)
        for batch in batches:
            self.ours.step(batch, cached=way.endswith("cached"))
        return self.ours.logps()

    def model(self, way: str) -> Any:
        return self.trl.model if way == "trl" and self.trl is not None else self.ours.model

    def gradients(self) -> torch.Tensor:
        """Of everything that trains, in one row."""
        return torch.cat([p.grad.flatten() for p in self.ours.model.parameters() if p.grad is not None])


def measure_time(scaled: Scaled, mode: str, case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds of each way over all groups, and what they have in common."""
    kinds = CASES[case] * options.rounds
    groups = [make_group(kind, seed) for seed, kind in enumerate(kinds, start=1)]
    ways = [f"{way} {reference}" for reference in options.references for way in ("separate", "grouped")]
    ways += [] if options.no_trl else ["trl"]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    collating: dict[str, list[float]] = {way: [] for way in ways}
    tokens: dict[str, int] = dict.fromkeys(ways, 0)
    logps = gradients = 0.0
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            cached = groups if "cached" in options.references else ()
            sides = Ways(scaled, mode, options.layers, Path(folder), with_trl=not options.no_trl, cached=cached)
        counted = counted_flops(sides, ways, groups)
        for number, group in enumerate(groups):
            found: dict[str, tuple[float, float]] = {}
            changed: dict[str, torch.Tensor] = {}
            for way in ways if number % 2 else reversed(ways):
                start = time.process_time()
                batches = sides.batches(way, group)
                ready = time.process_time()
                found[way] = sides.step(way, batches)
                seconds[way].append(time.process_time() - ready)
                collating[way].append(ready - start)
                if way != "trl":
                    changed[way] = sides.gradients()
                    tokens[way] += sum(part.num_tokens for batch in batches for part in batch)
                sides.model(way).zero_grad(set_to_none=True)
                gc.collect()
            first = found[ways[0]]
            logps = max(logps, *(abs(a / b - 1) for one in found.values() for a, b in zip(one, first, strict=True)))
            wanted = changed[ways[0]]
            gradients = max(gradients, *(float((g - wanted).norm() / wanted.norm()) for g in changed.values()))
    result: dict[str, Any] = {
        "model": scaled.name, "layers": options.layers, "mode": mode, "case": case, "groups": len(groups),
        "pairs": sum(len(group.pairs) for group in groups), "tokens": tokens,
        "seconds": {way: sum(each) for way, each in seconds.items()},
        "collating_seconds": {way: sum(each) for way, each in collating.items()},
        "counted_tflop": {way: count / 1e12 for way, count in counted.items()},
        "logps_differ": logps, "gradients_differ": gradients,
    }  # fmt: skip
    for reference in options.references:
        grouped = f"grouped {reference}"
        result[reference] = compared(seconds, counted, f"separate {reference}", grouped)
        if not options.no_trl:
            result[f"trl {reference}"] = compared(seconds, counted, "trl", grouped)
    return result


def compared(
    seconds: Mapping[str, Sequence[float]], counted: Mapping[str, float], slow: str, fast: str
) -> dict[str, float]:
    """How many times as fast one way is as another, in time and in operations."""
    each = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    ratio, ideal = sum(seconds[slow]) / sum(seconds[fast]), counted[slow] / counted[fast]
    return {"ratio": ratio, "lowest": min(each), "highest": max(each), "ideal": ideal, "of_ideal": ratio / ideal}


def counted_flops(sides: Ways, ways: Sequence[str], groups: Sequence[Group]) -> dict[str, float]:
    """Operations of each way over all groups, from one group of each kind."""
    found = dict.fromkeys(ways, 0.0)
    for kind in sorted({group.kind for group in groups}):
        alike = [group for group in groups if group.kind == kind]
        middle = nearest_to_mean(alike)
        for way in ways:
            batches = sides.batches(way, middle)
            found[way] += len(alike) * count_flops(partial(sides.step, way, batches))
            sides.model(way).zero_grad(set_to_none=True)
    return found


# ---- memory ------------------------------------------------------------------------------------------------------


def measure_memory(name: str, mode: str, way: str) -> None:
    """Run in a process of its own: prints MiB of the peak of a step above what stood before it."""
    group = make_group("six", 1, shortest=150, longest=150)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            sides = Ways(SCALED[name](), mode, None, Path(folder), with_trl=False)
        if way == "grouped, in parts":  # as much as one pair alone
            sides.ours.collator.row_tokens = sides.ours.collator(group.pairs[:1]).num_tokens

        def batch() -> Any:
            [made] = sides.batches(way, replace(group, pairs=group.pairs[: 1 if way == "one pair" else None]))
            return made

        sides.ours.step(batch())  # kernels warm, lazy parts built
        sides.ours.logps()
        sides.ours.model.zero_grad(set_to_none=True)
        print(json.dumps(step_memory(partial(sides.ours.step, batch()))))


def memory_in_processes(name: str, mode: str) -> dict[str, Any]:
    found: dict[str, Any] = {"model": name, "mode": mode, "memory_mib": {}}
    for way in MEMORY_WAYS:
        command = [sys.executable, __file__, "--memory-of", name, mode, way]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **ONE_BY_ONE})
        found["memory_mib"][way] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---- the command -------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SCALED), choices=list(SCALED))
    parser.add_argument("--modes", nargs="+", default=["lora"], choices=list(CHECKPOINTING))
    parser.add_argument("--cases", nargs="+", default=["six", "vlfeedback"], choices=list(CASES))
    parser.add_argument("--references", nargs="+", default=list(REFERENCES), choices=REFERENCES)
    parser.add_argument("--rounds", type=int, default=2, help="of a case's groups")
    parser.add_argument("--layers", type=int, help="of the language model (default: all 12)")
    parser.add_argument("--no-trl", action="store_true")
    parser.add_argument("--memory", action="store_true", help="measure step memory, and no time")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        measure_memory(*options.memory_of)
        return
    results = []
    for name in options.models:
        for mode in options.modes:
            if options.memory:
                results.append(memory_in_processes(name, mode))
                print(_memory_line(results[-1]), flush=True)
                continue
            for case in options.cases:
                results.append(measure_time(SCALED[name](), mode, case, options))
                print(_line(results[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def _line(found: Mapping[str, Any]) -> str:
    seconds, pairs = found["seconds"], found["pairs"]
    layers = "" if found["layers"] is None else f" ({found['layers']} layers)"
    parts = [f"{found['model']}{layers} {found['mode']} {found['case']}: {found['groups']} groups, {pairs} pairs"]
    for reference in REFERENCES:
        if reference in found:
            speed = found[reference]
            parts.append(
                f"{reference} separate {seconds[f'separate {reference}'] / pairs:.2f} s a pair, grouped "
                f"{seconds[f'grouped {reference}'] / pairs:.2f} = {_speed(speed)}"
            )
        if (speed := found.get(f"trl {reference}")) is not None:
            parts.append(f"TRL {seconds['trl'] / pairs:.2f} s a pair against grouped {reference} = {_speed(speed)}")
    differ = f"log-probs differ by {found['logps_differ']:.1e} of their size"
    parts.append(f"{differ}, gradients by {found['gradients_differ']:.1e}")
    return "; ".join(parts)


def _speed(found: Mapping[str, float]) -> str:
    return (
        f"{found['ratio']:.2f}x ({found['lowest']:.2f} to {found['highest']:.2f}; counted {found['ideal']:.2f}, "
        f"{found['of_ideal']:.0%} of it)"
    )


def _memory_line(found: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{way} {memory['over_rest']:.0f}" for way, memory in found["memory_mib"].items())
    return f"{found['model']} {found['mode']}: step memory MiB: {shown}"


if __name__ == "__main__":
    main()
