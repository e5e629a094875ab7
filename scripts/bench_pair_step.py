"""One training step of mmpref against one of TRL's DPOTrainer, on the same pairs in one run.

    OMP_NUM_THREADS=1 python scripts/bench_pair_step.py [--models llava qwen2_vl] [--modes lora lora_ckpt full_ckpt]

A step is what happens between a collated batch and the gradients: policy forward, reference forward, backward, in each
library's own trainer (``gpu_parts.steps``, which ``gpu_check.py`` runs as well). Batch size 1, float32, one thread,
answers of 60 to 250 tokens (about 150), a question of 40. The two libraries take turns on each pair, the first round is
discarded, and what is compared is processor time, which other work on the machine does not change; ratios are totals
over all measured pairs. "cached" is the step of a run whose reference log-probs are in the cache.

TRL is measured as it behaves on a GPU ("compact": its head scores answer tokens only), not with the full head that it
falls back to on a CPU. The ideal is the ratio of the floating-point operations that both dispatch for one of the pairs,
the one that is nearest to their mean length (``gpu_parts.counted``).

Memory: each library in processes of its own, one pair with answers of 250 tokens; the peak above what stood before the
step, without what glibc keeps of freed tensors (``resident_memory``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_models import SCALED, Scaled, make_pairs
from gpu_parts.counted import count_flops
from gpu_parts.steps import Ours, Trl, nearest_to_mean, recipe_tree, runners
from resident_memory import ONE_BY_ONE, step_memory

MODES = {"lora": ("lora", False), "lora_ckpt": ("lora", True), "full": ("full", False), "full_ckpt": ("full", True)}
VARIANTS = ("trl", "live", "cached")


def ours(scaled: Scaled, mode: str, folder: Path) -> Ours:
    tune, checkpointing = MODES[mode]
    tree = recipe_tree(
        "random", folder / "run", kind="lora" if tune == "lora" else "none", bf16=False, checkpointing=checkpointing,
        optim="sgd", use_cpu=True,
    )  # fmt: skip
    return Ours(scaled, scaled.build(), tree, first_pair())


def trl(scaled: Scaled, mode: str, folder: Path) -> Trl:
    tune, checkpointing = MODES[mode]
    return Trl(
        scaled, scaled.build(), folder / "trl", first_pair(), tune=tune, bf16=False, checkpointing=checkpointing,
        optim="sgd", use_cpu=True,
    )  # fmt: skip


def first_pair() -> list[Any]:
    """What the trainers make their first update with, which is not measured; SGD keeps nothing from it."""
    return make_pairs(1, shortest=60, longest=60, seed=9)


def measure_time(name: str, mode: str, rounds: int) -> dict[str, Any]:
    """Processor seconds per pair of each library, taking turns."""
    with tempfile.TemporaryDirectory() as folder:
        return _measured(SCALED[name](), mode, rounds, Path(folder))


def _measured(scaled: Scaled, mode: str, rounds: int, folder: Path) -> dict[str, Any]:
    pairs = make_pairs(rounds + 1, shortest=60, longest=250, seed=1)
    with contextlib.redirect_stdout(sys.stderr):
        live, other = ours(scaled, mode, folder), trl(scaled, mode, folder)
        live.fill(folder / "cache", pairs)
    variants = runners(live, other)
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    chosen: dict[str, list[float]] = {variant: [] for variant in variants}  # log-probs, to see that all do the same
    for number, pair in enumerate(pairs):
        for variant, (library, step) in variants.items():
            batch = library.batch([pair])
            start = time.process_time()
            step(batch)
            if number:  # the first round warms up
                seconds[variant].append(time.process_time() - start)
            chosen[variant].append(library.logps()[0])
            library.model.zero_grad(set_to_none=True)
    counted = counted_flops(variants, nearest_to_mean([[pair] for pair in pairs[1:]]))
    total = {variant: sum(values) for variant, values in seconds.items()}
    found: dict[str, Any] = {"model": scaled.name, "mode": mode, "pairs": rounds}
    found["seconds_per_pair"] = {variant: value / rounds for variant, value in total.items()}
    found["counted_tflop"] = {variant: count / 1e12 for variant, count in counted.items()}
    found["difference"] = max(abs(a / b - 1) for a, b in zip(chosen["trl"], chosen["live"], strict=True))
    for variant in ("live", "cached"):
        each = [t / o for t, o in zip(seconds["trl"], seconds[variant], strict=True)]
        ratio, ideal = total["trl"] / total[variant], counted["trl"] / counted[variant]
        found[variant] = {
            "ratio": ratio, "lowest": min(each), "highest": max(each), "median": statistics.median(each),
            "ideal": ideal, "of_ideal": ratio / ideal,
        }  # fmt: skip
    return found


def counted_flops(variants: dict[str, tuple[Any, Callable[[Any], None]]], pairs: Any) -> dict[str, int]:
    """Floating-point operations of one step of each."""
    found = {}
    for variant, (library, step) in variants.items():
        batch = library.batch(pairs)
        found[variant] = count_flops(partial(step, batch))
        library.model.zero_grad(set_to_none=True)
    return found


def measure_memory(name: str, mode: str, variant: str) -> None:
    """Run in a process of its own: prints MiB of the peak above what stood before the step."""
    with tempfile.TemporaryDirectory() as folder:
        _measure_memory(SCALED[name](), mode, variant, Path(folder))


def _measure_memory(scaled: Scaled, mode: str, variant: str, folder: Path) -> None:
    pairs = make_pairs(2, shortest=250, longest=250, seed=2)
    with contextlib.redirect_stdout(sys.stderr):
        if variant == "trl":
            runner: Any = trl(scaled, mode, folder)
            step = runner.step
        else:
            runner = ours(scaled, mode, folder)
            step = runners(runner, None)[variant][1]
        if variant == "cached":
            runner.fill(folder / "cache", pairs)
            runner.trainer.reference, runner.live = runner.cache, None  # a run with a cache makes no copy
    whole = MODES[mode][0] == "full"
    if whole:
        optimizer = torch.optim.AdamW([p for p in runner.model.parameters() if p.requires_grad], fused=True)
    step(runner.batch(pairs[:1]))  # kernels warm, lazy parts built
    runner.model.zero_grad(set_to_none=True)
    batch = runner.batch(pairs[1:])

    def measured() -> None:
        step(batch)
        if whole:
            optimizer.step()

    print(json.dumps(step_memory(measured)))


def memory_in_processes(name: str, mode: str) -> dict[str, dict[str, float]]:
    found = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--memory-of", name, mode, variant]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **ONE_BY_ONE})
        found[variant] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SCALED), choices=list(SCALED))
    parser.add_argument("--modes", nargs="+", default=["lora", "lora_ckpt", "full_ckpt"], choices=list(MODES))
    parser.add_argument("--rounds", type=int, default=4, help="measured pairs for each library")
    parser.add_argument("--no-memory", action="store_true")
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
            found = measure_time(name, mode, options.rounds)
            if not options.no_memory:
                found["memory_mib"] = memory_in_processes(name, mode)
            results.append(found)
            print(_line(found), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def _line(found: dict[str, Any]) -> str:
    seconds = found["seconds_per_pair"]
    parts = [f"{found['model']:<14} {found['mode']:<10} TRL compact {seconds['trl']:6.2f} s"]
    for variant in ("live", "cached"):
        speed = found[variant]
        parts.append(
            f"{variant} {seconds[variant]:6.2f} s = {speed['ratio']:.2f}x (pairs {speed['lowest']:.2f} to "
            f"{speed['highest']:.2f}; counted {speed['ideal']:.2f}, {speed['of_ideal']:.0%} of it)"
        )
    if "memory_mib" in found:
        memory = found["memory_mib"]
        parts.append("step memory MiB " + ", ".join(f"{k} {v['over_rest']:.0f}" for k, v in memory.items()))
    parts.append(f"log-probs of chosen answers differ by {found['difference']:.1e} of their size")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
