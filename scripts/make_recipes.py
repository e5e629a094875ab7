#!/usr/bin/env python3
"""Writes the shipped recipes for real models from one table, with the memory that ``mmpref plan`` estimates in each.

    python scripts/make_recipes.py            write mmpref/recipes/*.yaml
    python scripts/make_recipes.py --check    write nothing; fail where a file is not what would be written

The demo's recipes and the two hand-written ones are left alone.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from mmpref.planning.gpus import GIB
from mmpref.planning.memory import with_changes
from mmpref.planning.parallelism import ParallelPlan
from mmpref.planning.plan import make_plan
from mmpref.recipe.sections import Recipe, build_recipe, parse_yaml

FOLDER = Path(__file__).resolve().parent.parent / "mmpref" / "recipes"
PAIRS_PER_UPDATE = 128
BIG = 80
"""GB of the largest card that is looked at for full fine-tuning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vlm:
    """A vision-language model for QLoRA: its pairs per micro-batch and image tokens by card, where it fits."""

    name: str
    title: str
    hub: str
    cards: dict[int, tuple[int, int | None]]
    """GiB of the card -> (pairs in a micro-batch, image tokens at most or None where the size is fixed)."""
    step: int = 28
    """Side of one image token in pixels, for models with a pixel budget."""


Cards = dict[int, tuple[int, int | None]]
BUDGETED: Cards = {12: (1, 512), 16: (1, 1024), 24: (2, 1024)}
SMALL: Cards = {12: (2, 1024), 16: (4, 1024), 24: (8, 1024)}
FIXED: Cards = {12: (1, None), 16: (2, None), 24: (4, None)}
TILED: Cards = {12: (1, None), 16: (1, None), 24: (2, None)}
VLMS = (
    Vlm(name="qwen2_vl_2b", title="Qwen2-VL-2B", hub="Qwen/Qwen2-VL-2B-Instruct", cards=SMALL),
    Vlm(name="qwen2_vl_7b", title="Qwen2-VL-7B", hub="Qwen/Qwen2-VL-7B-Instruct", cards=BUDGETED),
    Vlm(name="qwen2_5_vl_3b", title="Qwen2.5-VL-3B", hub="Qwen/Qwen2.5-VL-3B-Instruct", cards=SMALL),
    Vlm(name="qwen2_5_vl_7b", title="Qwen2.5-VL-7B", hub="Qwen/Qwen2.5-VL-7B-Instruct", cards=BUDGETED),
    Vlm(name="qwen3_vl_4b", title="Qwen3-VL-4B", hub="Qwen/Qwen3-VL-4B-Instruct", cards=SMALL, step=32),
    Vlm(name="qwen3_vl_8b", title="Qwen3-VL-8B", hub="Qwen/Qwen3-VL-8B-Instruct", cards=BUDGETED, step=32),
    Vlm(name="llava_1_5_7b", title="LLaVA-1.5-7B", hub="llava-hf/llava-1.5-7b-hf", cards=FIXED),
    Vlm(name="llava_next_7b", title="LLaVA-NeXT-7B (Mistral)", hub="llava-hf/llava-v1.6-mistral-7b-hf", cards=TILED),
    Vlm(name="llava_onevision_0_5b", title="LLaVA-OneVision-0.5B", hub="llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        cards=FIXED),
    Vlm(name="llava_onevision_7b", title="LLaVA-OneVision-7B", hub="llava-hf/llava-onevision-qwen2-7b-ov-hf",
        cards=TILED),
)  # fmt: skip

UNI_MM = "arXiv 2506.10054, released multimodal setting (Qwen2-VL-2B, MM-RLHF)"
KEPT = "weights that train in float32, computed with in bfloat16 (autocast): ours; bfloat16 ones would not move"
UNI_TX = "arXiv 2506.10054, released configs of the textual part"


def qlora(model: Vlm, card: int) -> tuple[str, str]:
    """Name and text of one QLoRA recipe."""
    batch, tokens = model.cards[card]
    name = f"{model.name}_uni_dpo_qlora_{card}gb"
    pixels = "" if tokens is None else f"\n  max_pixels: {tokens * model.step**2}"
    pixels += "" if tokens is None else f"          # {tokens:,} image tokens of {model.step} x {model.step} pixels"
    body = f"""
output: runs/{name}
seed: 0

model:
  path: {model.hub}
  dtype: bfloat16

data:
  train: pairs.jsonl

processing:
  max_length: 4096{pixels}

loss:
  name: uni_dpo
  uni:
    tau_good: 2.5             # a score that counts as good, on the scale of *your* scores: change it with the data

adapter:
  kind: qlora
  rank: 32
  alpha: 64

tune: {{vision: freeze, projector: freeze, language: lora}}

train:
  learning_rate: 5e-5
  per_device_train_batch_size: {batch}
  gradient_accumulation_steps: {PAIRS_PER_UPDATE // batch}
  num_train_epochs: 1
  lr_scheduler_type: cosine
  optim: adamw_8bit
  bf16: true
  gradient_checkpointing: true
  dataloader_num_workers: 4
  save_steps: 50
"""
    sources = [
        "loss (beta 2.0, eta 0.7, tau_ref 2.0, gamma 3, lambda 0.001, tau_good 2.5), 128 pairs per update, one epoch,",
        f"  cosine without warm-up, 4,096 tokens: {UNI_MM}",
        "4 bits (NF4, double quantisation): QLoRA, arXiv 2305.14314",
        "learning rate 5e-5: ours, untuned; LoRA wants a larger one than the 6e-6 of that full fine-tuning",
        "rank 32, alpha 64, 8-bit AdamW, image and micro-batch sizes: ours, so that it fits the card",
    ]
    title = f"Uni-DPO on {model.title} with QLoRA, for a card with {card} GB."
    return name, head(title, name, "data.train=pairs.jsonl data.root=/path/to/images", body, sources, card) + body


def full(
    name: str,
    title: str,
    hub: str,
    loss: str,
    train: str,
    sources: list[str],
    *,
    length: int,
    vision: bool,
    published: tuple[str, ...] = (),
) -> tuple[str, str]:
    """Name and text of a recipe with full fine-tuning; ``published`` are lines that quote somebody else's results."""
    tune = "{vision: freeze, projector: full, language: full}" if vision else "{language: full}"
    body = f"""
output: runs/{name}
seed: 0

model:
  path: {hub}

data:
  train: pairs.jsonl

processing:
  max_length: {length}

loss:
{loss}

tune: {tune}

train:
{train}
  per_device_train_batch_size: 1
  gradient_accumulation_steps: {PAIRS_PER_UPDATE}
  num_train_epochs: 1
  lr_scheduler_type: cosine
  bf16: true
  gradient_checkpointing: true
  dataloader_num_workers: 4
  save_steps: 100
"""
    changes = "data.train=pairs.jsonl" + (" data.root=/path/to/images" if vision else "")
    return name, head(title, name, changes, body, sources, None, published) + body


def head(
    title: str,
    name: str,
    changes: str,
    body: str,
    sources: list[str],
    card: int | None,
    published: tuple[str, ...] = (),
) -> str:
    recipe = build_recipe(parse_yaml(body, where=name), where=name)
    plan = make_plan(recipe, gpu_memory=None if card is None else card * GIB)
    if card is not None and not plan.fits:
        raise SystemExit(f"{name} does not fit: {plan.needed / GIB:.1f} GiB")
    shape = plan.shape
    pair = f"{shape.image} image + {shape.prompt} prompt" if shape.image else f"{shape.prompt} prompt"
    pair += f" + {shape.chosen} + {shape.rejected} answer tokens"
    longest = "" if card is None else f" Answers of {plan.longest:,} tokens each still fit."
    lines = [
        title,
        f"  mmpref train {name} {changes}",
        f"Memory: {plan.needed / GIB:.1f} GiB estimated by mmpref plan ({pair}); not measured.{longest}",
        *([] if card is not None else where_it_fits(recipe)),
        "Result: not measured yet.",
        "",
        "Sources:",
        *(f"- {line}" if not line.startswith("  ") else line for line in sources),
        *published,
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def where_it_fits(recipe: Recipe) -> list[str]:
    """The smallest card for a recipe as it is, or what to do where 80 GB are too little."""
    for card in (24, 48, BIG):
        if make_plan(recipe, gpu_memory=card * GIB).fits:
            return [f"  It fits one card with {card} GB."]
    keys = {"reference": {"kind": "cache"}, "train": {"optim": "adamw_torch_fused"}}
    leaner = with_changes(recipe, **keys)
    words = "reference.kind=cache train.optim=adamw_torch_fused"
    if make_plan(leaner, gpu_memory=BIG * GIB).fits:
        return [f"  More than {BIG} GB; {words} make it {make_plan(leaner).needed / GIB:.1f} GiB."]
    shared = make_plan(leaner, parallel=ParallelPlan(gpus=8, strategy="fsdp2"))
    batches = recipe.train.gradient_accumulation_steps // 8
    return [
        f"  No card with {BIG} GB holds it. On 8 of them, with {shared.needed / GIB:.1f} GiB each: --launch fsdp2",
        f"  {words} train.gradient_accumulation_steps={batches}",
    ]


UNI_TEXT_LOSS = """  name: uni_dpo
  beta: {beta}
  uni:
    tau_ref: {tau_ref}
    tau_good: 3.2             # on the scale of that part's scores: change it with the data"""


def text_sources(beta: float, tau_ref: float, rate: str) -> list[str]:
    return [
        f"loss (beta {beta}, eta 0.7, tau_ref {tau_ref}, gamma 3, lambda 0.001, tau_good 3.2), learning rate {rate},",
        f"  2,048 tokens, one epoch, cosine, warm-up 0.1: {UNI_TX}",
        "128 pairs per update: princeton-nlp/SimPO, whose set-up that part shares",
        KEPT,
    ]


def every() -> dict[str, str]:
    """File stem -> text of all generated recipes."""
    made = [qlora(model, card) for model in VLMS for card in model.cards]
    made.append(full(
        "qwen2_vl_2b_uni_dpo_full", "Uni-DPO on Qwen2-VL-2B, full fine-tuning: the paper's multimodal run.",
        "Qwen/Qwen2-VL-2B-Instruct", "  name: uni_dpo\n  uni:\n    tau_good: 2.5             # on MM-RLHF's scores",
        "  learning_rate: 6e-6",
        ["loss (beta 2.0, eta 0.7, tau_ref 2.0, gamma 3, lambda 0.001, tau_good 2.5), learning rate 6e-6,",
         f"  128 pairs per update, one epoch, cosine without warm-up, 4,096 tokens: {UNI_MM}, on 4 GPUs",
         "vision tower frozen: ours", KEPT],
        length=4096, vision=True,
    ))  # fmt: skip
    for name, title, hub, beta, tau, rate in (
        ("llama_3_8b_instruct", "Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct", 2.0, 1.0, "1e-6"),
        ("qwen2_5_0_5b", "Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", 3.5, 0.8, "2e-6"),
        ("qwen2_5_1_5b", "Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct", 3.5, 0.8, "2e-6"),
        ("qwen2_5_3b", "Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-3B-Instruct", 3.5, 0.8, "2e-6"),
        ("qwen2_5_7b", "Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", 3.5, 0.8, "2e-6"),
    ):
        made.append(full(
            f"{name}_uni_dpo_full", f"Uni-DPO on {title}, text only, full fine-tuning.", hub,
            UNI_TEXT_LOSS.format(beta=beta, tau_ref=tau), f"  learning_rate: {rate}\n  warmup_steps: 0.1",
            text_sources(beta, tau, rate), length=2048, vision=False,
        ))  # fmt: skip
    made.append(full(
        "llama_3_8b_instruct_adadpo_full", "AdaDPO on Llama-3-8B-Instruct, text only, full fine-tuning.",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "  name: adadpo                # c_w = min(R, 2), c_l = 1, R from per-token means against the reference\n"
        "  beta: 0.01",
        "  learning_rate: 6e-7\n  warmup_steps: 0.1",
        ["the loss and its ceiling of 2, 128 pairs per update, 2,048 tokens, one epoch, cosine, warm-up 0.1, and the",
         "  data (UltraFeedback, 59,876 pairs for training and 1,961 held out): AdaDPO, arXiv 2605.28440, as two",
         "  secondary sources that read it tell; we could not read its text or code",
         "its grid: learning rate 3e-7, 5e-7, 6e-7, 10e-7 times beta 0.005, 0.01, 0.05, 0.1, one run each. Which cell",
         "  is best is not known to us; this one lies nearest to SimPO's best DPO on this model (0.01, 7e-7)",
         "its ceiling was swept from 1.5 to 10: best at 2, flat from 1.5 to 2.5, clearly worse from 5 on",
         KEPT],
        published=(
            "",
            "Published by the AdaDPO authors, quoted from a secondary source (theirs, not reproduced here):",
            "  |        | AlpacaEval 2 LC | WR   | mean length | Arena-Hard | MT-Bench |",
            "  | SFT    | 28.5            | 28.8 | 1976        | 26.3       | 7.58     |",
            "  | DPO    | 46.4            | 44.5 | 1933        | 42.9       | 8.01     |",
            "  | AdaDPO | 48.3            | 46.1 | 1908        | 41.5       | 8.03     |",
            "  LC is better than DPO's in 13 of the 16 cells, WR in 9.",
        ),
        length=2048, vision=False,
    ))  # fmt: skip
    return dict(made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    different = []
    for name, text in every().items():
        file = FOLDER / f"{name}.yaml"
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        different.append(name)
        if not options.check:
            file.write_text(text, encoding="utf-8")
    print(f"{len(different)} files {'differ' if options.check else 'written'}: {', '.join(different) or 'none'}")
    return int(options.check and bool(different))


if __name__ == "__main__":
    sys.exit(main())
