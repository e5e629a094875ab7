#!/usr/bin/env python3
"""Writes docs/scaling.md: memory, tokens and network of models from 2B to 72B on many GPUs, as ``mmpref plan`` counts.

python scripts/make_scaling.py            write the page
python scripts/make_scaling.py --check    write nothing; fail where the page is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.planning.gpus import FIXED, GIB, GPUS, SLACK, UTILISATION
from mmpref.planning.network import EFFICIENCY, GB, LINKS
from mmpref.planning.parallelism import ALONE, BUCKET, LIVE, ParallelPlan
from mmpref.planning.plan import Plan, make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.loading import build_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.parallel.strategy import SharedStrategy

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
CARD = "H100"
MODELS = {
    "Qwen2-VL-2B": "Qwen/Qwen2-VL-2B-Instruct",
    "Qwen2.5-VL-3B": "Qwen/Qwen2.5-VL-3B-Instruct",
    "Qwen3-VL-4B": "Qwen/Qwen3-VL-4B-Instruct",
    "LLaVA-1.5-7B": "llava-hf/llava-1.5-7b-hf",
    "Qwen2.5-VL-7B": "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen3-VL-8B": "Qwen/Qwen3-VL-8B-Instruct",
    "LLaVA-1.5-13B": "llava-hf/llava-1.5-13b-hf",
    "Qwen2.5-VL-32B": "Qwen/Qwen2.5-VL-32B-Instruct",
    "Qwen3-VL-32B": "Qwen/Qwen3-VL-32B-Instruct",
    "LLaVA-NeXT-34B": "llava-hf/llava-v1.6-34b-hf",
    "Qwen2-VL-72B": "Qwen/Qwen2-VL-72B-Instruct",
    "Qwen2.5-VL-72B": "Qwen/Qwen2.5-VL-72B-Instruct",
}
CARDS = {"24 GB": 24, "48 GB": 48, "80 GB": 80, "141 GB": 141}
MODES = {"full": "all weights of language model and projector", "lora": "LoRA", "qlora": "QLoRA"}
UPDATE = 128
"""Pairs in an update wherever speed is given."""


@dataclass(frozen=True)
class Column:
    title: str
    parallel: ParallelPlan


def parallel(gpus: int, strategy: SharedStrategy, nodes: int = 1) -> ParallelPlan:
    return ParallelPlan(gpus=gpus, nodes=nodes, strategy=strategy)


@cache
def recipe(
    model: str, mode: str, batches: int = 1, *, every_batch: bool = False, optim: str = "adamw_torch_fused"
) -> Recipe:
    """A micro-batch of one pair with checkpointing, computed in bfloat16; the reference costs no second model."""
    full = mode == "full"
    tree = {
        "output": "unused", "data": {"train": "unused"},
        "model": {"path": MODELS[model], "dtype": "auto" if full else "bfloat16"},
        "loss": {"name": "uni_dpo", "uni": {"tau_good": 2.5}},
        "adapter": {"kind": "none"} if full else {"kind": mode, "rank": 32},
        "tune": {"projector": "full", "language": "full"} if full else {"language": "lora"},
        "reference": {"kind": "cache" if full else "auto"},
        "train": {"learning_rate": 1e-6, "bf16": True, "gradient_checkpointing": True, "optim": optim,
                  "gradient_accumulation_steps": batches},
    }  # fmt: skip
    return build_recipe(tree, where="scaling")


@cache
def planned(model: str, mode: str, over: ParallelPlan, card_bytes: int | None = None) -> Plan | None:
    """A plan for one micro-batch in an update; None where the strategy is refused."""
    optim = "adamw_8bit" if mode == "qlora" and over.state_parts == 1 else "adamw_torch_fused"
    try:
        return make_plan(recipe(model, mode, optim=optim), PlanInput(parallel=over, gpu_memory=card_bytes))
    except ConfigError:
        return None


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def gib(plan: Plan | None, card: int = 80) -> str:
    """What a card must have; in brackets where it has less."""
    if plan is None:
        return "refused"
    needed = plan.needed / GIB
    return f"{needed:.0f}" if needed <= card else f"({needed:.0f})"


def memory_table(mode: str, columns: Sequence[Column]) -> str:
    rows = []
    for model in MODELS:
        first = planned(model, mode, ALONE)
        assert first is not None
        weights = first.memory.before["weights, not quantised"] + first.memory.before["weights, quantised"]
        cells = [gib(planned(model, mode, column.parallel)) for column in columns]
        rows.append([model, f"{weights / GIB:.0f}", f"{first.memory.tokens:,}", *cells])
    return table(["model", "weights", "tokens", *(column.title for column in columns)], rows)


def longest_table() -> str:
    """Tokens of each answer that still fit on a card with 80 GB."""
    ways = [("full", parallel(8, "fsdp2")), ("full", parallel(8, "fsdp2", 8)), ("lora", parallel(8, "ddp")),
            ("lora", parallel(8, "fsdp2")), ("qlora", parallel(8, "ddp"))]  # fmt: skip
    head = ["model", *(f"{mode}, {over.strategy}, {over.world}" for mode, over in ways)]
    rows = []
    for model in MODELS:
        plans = [planned(model, mode, over, 80 * GIB) for mode, over in ways]
        rows.append([model, *(_longest(plan) for plan in plans)])
    return table(head, rows)


def _longest(plan: Plan | None) -> str:
    return "none" if plan is None or plan.on_card is None or not plan.on_card.longest else f"{plan.on_card.longest:,}"


def stops_table() -> str:
    """The largest model that fits, by what trains, strategy and card."""
    rows = []
    for mode, title in MODES.items():
        for over in (ALONE, parallel(8, "ddp"), parallel(8, "zero2"), parallel(8, "zero3"), parallel(8, "fsdp2"),
                     parallel(8, "fsdp2", 2), parallel(8, "fsdp2", 8)):  # fmt: skip
            cells = [_largest_model(mode, over, card) for card in CARDS.values()]
            if all(cell == "refused" for cell in cells):
                cells = ["refused"] * len(cells)
            way = "one GPU" if over.is_alone else f"{over.strategy}, {over.world} GPUs"
            rows.append([title, way, *cells])
    return table(["what trains", "strategy", *CARDS], rows)


def _largest_model(mode: str, over: ParallelPlan, card: int) -> str:
    plans = {model: planned(model, mode, over) for model in MODELS}
    if all(plan is None for plan in plans.values()):
        return "refused"
    fitting = [model for model, plan in plans.items() if plan is not None and plan.needed <= card * GIB]
    return fitting[-1] if fitting else "none"


LINKS_TOLD = ("25gbe", "100g", "200g", "400g", "8x400g")


def network_table() -> str:
    """Sixteen H100 on two nodes, an update of 128 pairs: seconds by link, and what would keep up."""
    rows = []
    ways: list[tuple[str, SharedStrategy]] = [("full", "ddp"), ("full", "zero2"), ("full", "zero3"), ("full", "fsdp2"),
                                        ("lora", "ddp"), ("lora", "fsdp2"), ("qlora", "ddp")]  # fmt: skip
    for model in ("Qwen2-VL-2B", "Qwen2.5-VL-7B", "Qwen2.5-VL-32B", "Qwen2.5-VL-72B"):
        for mode, strategy in ways:
            over = parallel(8, strategy, 2)
            asked = recipe(model, mode, UPDATE // over.world)
            plans = [make_plan(asked, PlanInput(parallel=over, gpu=CARD, link=link)) for link in LINKS_TOLD]
            if not plans[0].fits:
                continue
            speed, sent = plans[0].speed, plans[0].network.traffic.total
            assert speed is not None
            wanted = sent / speed.computing / EFFICIENCY / GB
            best = plans[-1].speed
            assert best is not None
            rows.append([
                model, f"{mode}, {strategy}", f"{sent / GB:,.1f}", f"{speed.computing:,.1f}", f"{wanted:,.1f}",
                *(_seconds(plan.network.seconds) for plan in plans), f"{best.tokens_per_second[0] / over.world:,.0f}",
                f"{best.pairs_per_hour[0]:,.0f}",
            ])  # fmt: skip
    links = [f"{name} s" for name in ("25 GbE", "100 Gb/s", "200 Gb/s", "400 Gb/s", "8 x 400 Gb/s")]
    head = ["model", "way", "GB sent", "computing s", "GB/s that keeps up", *links, "tokens/s a GPU", "pairs an hour"]
    return table(head, rows)


def _seconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 0.1 else f"{value:.2f}"


FULL = [Column("one GPU", ALONE), Column("ddp, 8", parallel(8, "ddp")), Column("zero2, 8", parallel(8, "zero2")),
        Column("zero3, 8", parallel(8, "zero3")), Column("fsdp2, 8", parallel(8, "fsdp2")),
        Column("fsdp2, 16", parallel(8, "fsdp2", 2)), Column("fsdp2, 32", parallel(8, "fsdp2", 4)),
        Column("fsdp2, 64", parallel(8, "fsdp2", 8))]  # fmt: skip
LORA = [Column("one GPU", ALONE), Column("ddp, 8", parallel(8, "ddp")), Column("zero3, 8", parallel(8, "zero3")),
        Column("fsdp2, 2", parallel(2, "fsdp2")), Column("fsdp2, 4", parallel(4, "fsdp2")),
        Column("fsdp2, 8", parallel(8, "fsdp2"))]  # fmt: skip
QLORA = [Column("one GPU", ALONE), Column("ddp, 8", parallel(8, "ddp")), Column("zero2, 8", parallel(8, "zero2")),
         Column("fsdp2, 8", parallel(8, "fsdp2")), Column("zero3, 8", parallel(8, "zero3"))]  # fmt: skip


FULL_RECIPE, QLORA_RECIPE = "qwen2_vl_2b_uni_dpo_full", "qwen2_5_vl_7b_uni_dpo_qlora"
_DEEPSPEED = f"buckets: twice {BUCKET:,} weights at most"
SPLIT = [
    ["weights", "whole", "whole", "1/N", "1/N"],
    ["base in 4 bits", "whole", "refused", "refused", "1/N, its scales whole"],
    ["base in 8 bits", "whole", "refused", "refused", "refused"],
    ["gradients", "whole, and once more in buckets", "1/N", "1/N", "1/N"],
    ["optimizer", "whole", "1/N", "1/N", "1/N"],
    ["float32 weights that train", "whole", "a copy, 1/N", "a copy, 1/N", "1/N"],
    ["activations, tiles of logits, the tower's work", "whole", "whole", "whole", "whole"],
    ["a copy that serves as reference", "whole", "whole", "refused", "1/N"],
    ["on top", "", _DEEPSPEED, f"as zero2, and up to {LIVE:,} gathered weights",
     "two gathered layers, the head, and the gradients of two layers"],
]  # fmt: skip


def page() -> str:
    """The whole text."""
    tflops = GPUS[CARD][1]
    rates = ", ".join(f"{name} {rate:g}" for name, rate in LINKS.items())
    head = ["on each of N GPUs", "ddp", "zero2", "zero3", "fsdp2"]
    return f"""# From one GPU to many

What a run needs on each GPU, where each way of dividing it stops, and what network it wants, for models from 2B to
72B.

**Every number on this page is computed** by `mmpref plan` from the models' configs; the page is written by
`scripts/make_scaling.py`. Nothing here was measured on more than one GPU. What was measured is the estimate
for one process, against real runs: on a CPU in [memory.md](memory.md), on a GPU in [gpu.md](gpu.md).

```bash
mmpref plan {FULL_RECIPE} --gpus 8 --gpu H100                     # all strategies
mmpref plan {FULL_RECIPE} --gpus 8 --gpu H100 --strategy fsdp2    # one of them, part by part
mmpref plan {FULL_RECIPE} --gpus 8 --nodes 2 --strategy zero3 --link 8x400g --gpu H100
mmpref plan {QLORA_RECIPE} --gpus 4 --strategy ddp --gpu "RTX 4090" --link pcie4 --pairs 20000
```

## What is split, and what is not

{table(head, SPLIT)}

- **Precision.** What trains is float32 (`model.dtype: auto`): 16 bytes a trained weight with AdamW, whole alone and
  under DDP, split under FSDP2, and 2 more for autocast's copies where weights are not split. DeepSpeed makes the
  weights themselves bfloat16 and keeps a float32 copy (16 bytes, 14 of them split under zero2). `model.dtype=bfloat16`
  halves it to 8 bytes alone and under DDP, and rounds small updates away: see [memory.md](memory.md).
- **Accumulation.** Where gradients are split they travel after every micro-batch, so that no GPU ever holds them
  whole; under DDP they travel once an update.
- **The reference.** With full fine-tuning a live reference is a copy of what trains. FSDP2 splits it, zero3 refuses
  it; the tables take `reference.kind=cache`, which keeps no second model. The cache is made with the weights split as
  for training.
- **bitsandbytes.** Its optimizers and its int8 layers fail on slices (seen with FSDP2 and two processes on a CPU); a
  base in 4 bits is split by FSDP2, without the scales of its blocks. `adamw_torch_fused`, split between 8 GPUs, keeps
  one byte a weight.

## Memory by model
GiB that a card must have (peak, {FIXED // GIB} GiB for CUDA, {SLACK:.0%} slack). In brackets: more than 80 GiB. One
pair in a micro-batch, no accumulation, gradient checkpointing, autocast to bfloat16, one image of 640 x 480, 100
prompt tokens, two answers of 250; *weights* is the model itself, *tokens* what the decoder runs over at once. Numbers
after a strategy are GPUs.

### All weights (language model and projector) in float32, fused AdamW, cached reference
{memory_table("full", FULL)}

### LoRA of rank 32 on a bfloat16 base, fused AdamW
{memory_table("lora", LORA)}

### QLoRA of rank 32 (NF4, double quantisation), 8-bit AdamW (under fsdp2: fused AdamW)
{memory_table("qlora", QLORA)}

## Where each way stops
The largest model of the tables above that fits a card of this size, with the same pair.

{stops_table()}

## The longest answers
Tokens of each of two equal answers that still fit 80 GiB, at most 32,768; one pair in a micro-batch. The head of a
column is what trains, the strategy, and the number of GPUs.

{longest_table()}

## The network
Two nodes of eight H100, an update of {UPDATE} pairs, only ways that fit 80 GiB. *GB sent* is what one GPU sends in an
update; *computing* is {UTILISATION:.0%} of {tflops:g} TFLOP/s; then the seconds for which the slowest link is
busy, at {EFFICIENCY:.0%} of its rate. A link *keeps up* where sending takes no longer than computing, and can hide
behind it. Tokens and pairs are those of 8 x 400 Gb/s with nothing hidden.

{network_table()}

- LoRA and QLoRA under DDP send a few GB at most: any network will do.
- Split weights travel twice a micro-batch (three times with a reference that is run): more pairs in a micro-batch,
  fewer micro-batches and the cached reference are what lowers it. Keep zero3 and fsdp2 inside a node, or give every
  node several InfiniBand cards.
- Links by name, GB/s in one direction: {rates}. `8x400g` is eight cards for each node.

## What to do with this
1. If QLoRA or LoRA fits one GPU, use `ddp`: it sends the least, and nothing else about the run changes.
2. If the bfloat16 base does not fit, LoRA under `fsdp2` splits it.
3. If all weights shall train, `fsdp2` with `reference.kind=cache`; `zero2` where the model is small and the network
   slow.
4. Whatever is tried, `mmpref plan` with the real card, link and number of pairs says it before it costs anything.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page differs")
    options = parser.parse_args()
    text = page()
    if options.check:
        if PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is not what this script writes; run it without --check")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
