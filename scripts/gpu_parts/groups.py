"""4 answers of one prompt in 6 pairs: in one row with the prompt once, against a prompt for each pair.

Real architectures at their real size with random weights, LoRA, autocast to bfloat16, gradient checkpointing, a live
reference, through mmpref's own trainer (``gpu_parts.steps``). ``grouped`` is what the collator makes of pairs with one
prompt, ``separate`` the same pairs in one row with a prompt each (``gpu_parts.prompt_groups``), ``one_pair`` the first
of them alone, for its memory. The first two take turns on each group; a step is what happens between a batch on the
device and the gradients. The ideal is the ratio of the floating-point operations that both dispatch
(``gpu_parts.counted``). Memory is what a step takes above what stood before it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from bench_models import make_pairs

from gpu_parts.case import GIB, Case, Context, Row, free_memory
from gpu_parts.clock import Clock, Peak
from gpu_parts.counted import count_flops
from gpu_parts.prompt_groups import Group, make_group, nearest_to_mean
from gpu_parts.random_models import LLAVA_7B, QWEN_7B, random_model
from gpu_parts.sentences import NAMES
from gpu_parts.steps import Ours, recipe_tree
from mmpref.records import PreferencePair

TITLE = "pairs that share a prompt in one row"
ROUNDS = 4
WAYS = ("separate", "grouped")


@dataclass(frozen=True)
class Setting:
    """A model and the room of its largest step, which is the row with a prompt for each pair; not measured yet."""

    hub: str
    gib: float

    @property
    def name(self) -> str:
        return f"{NAMES[self.hub]} lora, 4 answers in 6 pairs"


SETTINGS = (Setting(LLAVA_7B, 21), Setting(QWEN_7B, 24))


def cases(context: Context) -> list[Case]:
    """A case for each model."""
    return [
        Case(name=setting.name, run=partial(run, context, setting), seconds=25.0, needs_gib=setting.gib)
        for setting in SETTINGS
    ]


def run(context: Context, setting: Setting) -> Iterator[Row]:
    """One row."""
    yield _Groups(context, setting).measure()


def line_of(row: Row) -> str:
    """One row for the terminal."""
    separate, grouped = row["separate"], row["grouped"]
    room = "" if row["memory_ratio"] is None else f", step memory {row['memory_ratio']:.2f}x"
    return (
        f"{row['case']}: separate {separate['ms']:.0f} ms, grouped {grouped['ms']:.0f} ms: {row['ratio']:.2f}x "
        f"(counted {row['ideal']:.2f}){room}; log-probs differ by {row['difference']:.1e}"
    )


class _Groups:
    """A trainer, and both ways of running a group through it."""

    def __init__(self, context: Context, setting: Setting) -> None:
        self.context, self.setting, self.device = context, setting, context.device
        self.subject = random_model(setting.hub, tiny=context.dry_run)
        self.words = len(self.subject.processor.tokenizer) - 16  # its other tokens
        path, work = setting.hub, context.work / setting.name.replace(" ", "_").replace(",", "")
        model = self.subject.build(self.device)
        if self.subject.tiny:  # a size that no hub id stands for
            path = str(work / "model")
            model.config.save_pretrained(path)
        tree = recipe_tree(path, work / "run", kind="lora", bf16=True, checkpointing=True, use_cpu=self.device == "cpu")
        first = make_pairs(1, shortest=6, longest=6, seed=9, vocabulary=self.words)
        self.ours = Ours(self.subject, model, tree, first)
        with torch.no_grad():  # so that policy and reference differ
            for name, parameter in self.ours.model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.02)
        self.clock = Clock(self.device)

    def measure(self) -> Row:
        short = 10 if self.context.dry_run else 1
        rounds = 1 if self.context.dry_run else ROUNDS
        groups = [
            make_group("six", seed, shortest=100 // short, longest=200 // short, vocabulary=self.words)
            for seed in range(1, rounds + 1)
        ]
        middle = nearest_to_mean(groups)
        flops = {way: self.once(way, middle, count_flops) for way in WAYS}  # these steps warm up
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        difference = 0.0
        for group in groups:
            found = {}
            for way in WAYS:
                times[way].append(self.once(way, group, self.milliseconds))
                found[way] = self.logps
            difference = max(
                difference, *(abs(a / b - 1) for a, b in zip(found["grouped"], found["separate"], strict=True))
            )
        memory = {way: self.once(way, middle, self.peak) for way in (*WAYS, "one_pair")}
        row: Row = {
            "model": self.setting.hub, "mode": "lora", "pairs": len(middle.pairs), "groups": rounds,
            "image_tokens": self.subject.image_tokens, "difference": difference,
        }  # fmt: skip
        for way in WAYS:
            row[way] = self.figures(times[way], memory[way], flops[way])
        row["one_pair"] = {
            "peak_gib": memory["one_pair"].peak / GIB,
            "over_rest_gib": memory["one_pair"].over_rest / GIB,
        }
        room = row["separate"]["over_rest_gib"]  # nothing is measured on a CPU
        row["ratio"] = row["separate"]["ms"] / row["grouped"]["ms"]
        row["ideal"] = flops["separate"] / flops["grouped"]
        row["memory_ratio"] = row["grouped"]["over_rest_gib"] / room if room else None
        return row

    def pairs(self, way: str, group: Group) -> list[PreferencePair]:
        if way == "one_pair":
            return group.pairs[:1]
        return group.pairs if way == "grouped" else group.apart

    def once(self, way: str, group: Group, measure: Callable[[Callable[[], None]], Any]) -> Any:
        """What ``measure`` finds of one step; its log-probs are in ``logps``."""
        batch = self.ours.batch(self.pairs(way, group))
        found = measure(partial(self.ours.step, batch))
        self.logps = self.ours.logps()
        self.ours.model.zero_grad(set_to_none=True)
        return found

    def milliseconds(self, step: Callable[[], None]) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        start = self.clock.mark()
        step()
        return self.clock.between(start, self.clock.mark())

    def peak(self, step: Callable[[], None]) -> Peak:
        gc.collect()
        free_memory(self.device)
        with Peak(self.device) as peak:
            step()
        return peak

    def figures(self, times: list[float], memory: Peak, flops: int) -> Row:
        mean, rate = sum(times) / len(times), float(self.context.environment["bf16_tflops"])
        return {
            "ms": round(mean, 3),
            "ms_of_groups": [round(one, 3) for one in times],
            "peak_gib": memory.peak / GIB,
            "over_rest_gib": memory.over_rest / GIB,
            "counted_tflop": flops / 1e12,
            "share_of_bf16": flops / 1e12 / (mean / 1000) / rate if rate else 0.0,
        }
