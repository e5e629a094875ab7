#!/usr/bin/env python3
"""Writes the shipped recipes for real models from one table, with the memory that ``mmpref plan`` estimates in each.

    python scripts/make_recipes.py            write mmpref/recipes/*.yaml
    python scripts/make_recipes.py --check    write nothing; fail where a file is not what would be written

The demo's recipes and the two hand-written ones are left alone. One recipe a model and method: settings for a card are
found by ``mmpref plan RECIPE --fit 16GiB``.
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
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.loading import build_recipe
from mmpref.recipe.sections import Recipe
from mmpref.yaml_text import parse_yaml

FOLDER = Path(__file__).resolve().parent.parent / "mmpref" / "recipes"
PAIRS_PER_UPDATE = 128
BIG = 80
"""GB of the largest card that is looked at for full fine-tuning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vlm:
    """A vision-language model for QLoRA, or for LoRA where 4 bits would save little (experts are not quantised); its
    recipe is for the smallest card, and ``mmpref plan --fit`` for others."""

    name: str
    title: str
    hub: str
    pairs: int = 1
    """In a micro-batch."""
    pixel_step: int | None = 28
    """Side of one image token in pixels; None for models whose image size is fixed."""
    frames: int = 1
    """That one image is in the budget of pixels."""
    card: int = 12
    """GB of the smallest card that it fits."""
    kind: str = "qlora"
    thinks: bool = False
    """Its template opens a thought unless it is told not to."""


VLMS = (
    Vlm(name="qwen2_vl_2b", title="Qwen2-VL-2B", hub="Qwen/Qwen2-VL-2B-Instruct", pairs=2),
    Vlm(name="qwen2_vl_7b", title="Qwen2-VL-7B", hub="Qwen/Qwen2-VL-7B-Instruct"),
    Vlm(name="qwen2_5_vl_3b", title="Qwen2.5-VL-3B", hub="Qwen/Qwen2.5-VL-3B-Instruct", pairs=2),
    Vlm(name="qwen2_5_vl_7b", title="Qwen2.5-VL-7B", hub="Qwen/Qwen2.5-VL-7B-Instruct"),
    Vlm(name="qwen3_vl_4b", title="Qwen3-VL-4B", hub="Qwen/Qwen3-VL-4B-Instruct", pairs=2, pixel_step=32),
    Vlm(name="qwen3_vl_8b", title="Qwen3-VL-8B", hub="Qwen/Qwen3-VL-8B-Instruct", pixel_step=32),
    Vlm(name="llava_1_5_7b", title="LLaVA-1.5-7B", hub="llava-hf/llava-1.5-7b-hf", pixel_step=None),
    Vlm(name="llava_next_7b", title="LLaVA-NeXT-7B (Mistral)", hub="llava-hf/llava-v1.6-mistral-7b-hf",
        pixel_step=None),
    Vlm(name="llava_onevision_0_5b", title="LLaVA-OneVision-0.5B", hub="llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        pixel_step=None),
    Vlm(name="llava_onevision_7b", title="LLaVA-OneVision-7B", hub="llava-hf/llava-onevision-qwen2-7b-ov-hf",
        pixel_step=None),
    Vlm(name="qwen3_vl_30b_a3b", title="Qwen3-VL-30B-A3B", hub="Qwen/Qwen3-VL-30B-A3B-Instruct", pixel_step=32,
        card=80, kind="lora"),
    Vlm(name="qwen3_5_9b", title="Qwen3.5-9B", hub="Qwen/Qwen3.5-9B", pixel_step=32, thinks=True),
    Vlm(name="qwen3_5_35b_a3b", title="Qwen3.5-35B-A3B", hub="Qwen/Qwen3.5-35B-A3B", pixel_step=32, card=80,
        kind="lora", thinks=True),
    Vlm(name="gemma_4_e4b", title="Gemma 4 E4B", hub="google/gemma-4-E4B-it", pixel_step=None, card=16),
    Vlm(name="gemma_4_31b", title="Gemma 4 31B", hub="google/gemma-4-31B-it", pixel_step=None, card=32),
    Vlm(name="glm_4_1v_9b", title="GLM-4.1V-9B", hub="zai-org/GLM-4.1V-9B-Thinking", frames=2),
    Vlm(name="mistral_small_3_2_24b", title="Mistral Small 3.2", hub="mistralai/Mistral-Small-3.2-24B-Instruct-2506",
        pixel_step=None, card=24),
)  # fmt: skip
IMAGE_TOKENS = 1024
"""At most, of models with a pixel budget."""

STORED = {
    "qlora": ["4 bits (NF4, double quantisation): QLoRA, arXiv 2305.14314"],
    "lora": [
        "16 bits, and LoRA on all linear layers: ours. Experts are none: QLoRA would leave them in 16 bits too, and",
        "  they are not adapted (adapter.experts=true adapts them, and takes more memory)",
    ],
}
UNI_MM = "arXiv 2506.10054, released multimodal setting (Qwen2-VL-2B, MM-RLHF)"
KEPT = "weights that train in float32, computed with in bfloat16 (autocast): ours; bfloat16 ones would not move"
UNI_MA = "arXiv 2506.10054, released config of the part on mathematics"
UNI_TX = "arXiv 2506.10054, released configs of the textual part"


def qlora(model: Vlm) -> tuple[str, str]:
    """Name and text of one recipe with LoRA, in 4 bits or not."""
    name, step = f"{model.name}_uni_dpo_{model.kind}", model.pixel_step
    pixels = "" if step is None else f"\n  max_pixels: {IMAGE_TOKENS * model.frames * step**2}"
    twice = "" if model.frames == 1 else f", {model.frames} frames an image"
    pixels += "" if step is None else f"          # {IMAGE_TOKENS:,} image tokens of {step} x {step} pixels{twice}"
    if model.thinks:
        pixels += "\n  template_kwargs: {enable_thinking: false}  # answers without thoughts are learnt outside of them"
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
  kind: {model.kind}
  rank: 32
  alpha: 64

tune: {{vision: freeze, projector: freeze, language: lora}}

train:
  learning_rate: 5e-5
  per_device_train_batch_size: {model.pairs}
  gradient_accumulation_steps: {PAIRS_PER_UPDATE // model.pairs}
  group_pairs: prompt         # rated and sampled sets have several pairs a prompt; nothing changes where yours has one
  num_train_epochs: 1
  lr_scheduler_type: cosine
  optim: adamw_8bit
  bf16: true
  gradient_checkpointing: true
  dataloader_num_workers: 4
  save_steps: 50
"""
    fits = f"fits a card with {model.card} GB"
    sources = [
        "loss (beta 2.0, eta 0.7, tau_ref 2.0, gamma 3, lambda 0.001, tau_good 2.5), 128 pairs per update, one epoch,",
        f"  cosine without warm-up, 4,096 tokens: {UNI_MM}",
        *STORED[model.kind],
        "learning rate 5e-5: ours, untuned; LoRA wants a larger one than the 6e-6 of that full fine-tuning",
        f"rank 32, alpha 64, 8-bit AdamW, image and micro-batch sizes: ours, so that it {fits}",
        "pairs of one prompt in the same update: ours (docs/recipes.md); train.group_pairs=off draws each by itself",
    ]
    how = {"qlora": "QLoRA", "lora": "LoRA"}[model.kind]
    title = f"Uni-DPO on {model.title} with {how}, for a card with {model.card} GB or more."
    text = Header(title=title, name=name, changes="data.train=pairs.jsonl data.root=/path/to/images", sources=sources)
    return name, text.written(body, card=model.card) + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A loss that puts the image, or single tokens, into the objective, as its authors or users train it."""

    name: str
    title: str
    loss: str
    rate: str
    epochs: int
    lora: tuple[int, int]
    """Rank and alpha."""
    data: str = ""
    processing: str = ""
    sources: tuple[str, ...]
    needs: str
    """Data that it asks for, beside pairs with images."""


METHODS = (
    Method(
        name="mdpo", title="mDPO", rate="1e-5", epochs=3, lora=(64, 128),
        loss="""  name: mdpo                  # dpo + an image term + an anchor on the chosen answer
  beta: 0.1""",
        data="\n  other_image: made           # column: as the rows bring it; random_row: that of another row",
        processing="\n  other_image: {kind: crop, scale: [0.01, 0.2]}",
        sources=(
            "the loss (beta 0.1, image term 1, anchor 1, crops of 1 to 20 % of the area), learning rate 1e-5,",
            "  3 epochs, LoRA 64/128, 32 pairs per update (4 x 8): mDPO, arXiv 2406.11839, its scripts for Bunny-3B",
            "what differs from its code: the crop is made before the processor and is the same for policy and",
            "  reference (there each draws its own); LoRA's base is in 4 bits",
        ),
        needs="any pairs with images; the other image is made of the row's own",
    ),
    Method(
        name="ddpo", title="DDPO (dense DPO)", rate="1e-5", epochs=1, lora=(64, 128),
        loss="""  name: ddpo                  # dpo on sums in which changed tokens count 4 and shared ones 1
  beta: 0.1""",
        sources=(
            "the loss (beta 0.1; tokens in which the answers differ count more): DDPO, arXiv 2312.00849; changed",
            "  tokens by the rule that is published with RLAIF-V and VL-RLHF. 4 and 1 are the preset's;",
            "  loss.name=ddpo_masked counts changed tokens alone, as VL-RLHF's code does",
            "learning rate 1e-5, one epoch, LoRA: VL-RLHF's ddpo on Qwen-VL",
            "rank 64, alpha 128, 32 pairs per update, base in 4 bits: ours",
        ),
        needs="pairs whose answers differ in parts (corrected ones, as RLHF-V has them); else it is plain DPO",
    ),
    Method(
        name="mpo", title="MPO", rate="1e-5", epochs=1, lora=(64, 128),
        loss="""  name: mpo                   # 0.8 dpo + 0.2 anchors on both answers, with a running shift + 1 NLL
  beta: 0.1""",
        sources=(
            "the loss (0.8 DPO + 0.2 BCO + 1 NLL, beta 0.1): MPO, arXiv 2411.10442, as InternVL, swift and TRL have it",
            "learning rate 1e-5, one epoch: swift's example for Qwen2.5-VL, which trains all weights (scripts in",
            "  InternVL's style have 5e-6); LoRA 64/128 and 32 pairs per update: ours",
            "what differs: the NLL is a mean over each answer's tokens, there one over all tokens of a batch; LoRA in",
            "  place of all weights, with the base in 4 bits",
        ),
        needs="any pairs",
    ),
)  # fmt: skip
"""For two models each: one with a pixel budget, one without."""
OF_METHODS = ("qwen2_5_vl_3b", "llava_1_5_7b")
PER_UPDATE = 32


def by_method(model: Vlm, method: Method) -> tuple[str, str]:
    """Name and text of a recipe of :data:`METHODS` with QLoRA."""
    name, step = f"{model.name}_{method.name}_qlora", model.pixel_step
    pixels = f"\n  max_pixels: {IMAGE_TOKENS * step**2}          # {IMAGE_TOKENS:,} image tokens" if step else ""
    rank, alpha = method.lora
    body = f"""
output: runs/{name}
seed: 0

model:
  path: {model.hub}
  dtype: bfloat16

data:
  train: pairs.jsonl{method.data}

processing:
  max_length: 2048{pixels}{method.processing}

loss:
{method.loss}

adapter:
  kind: qlora
  rank: {rank}
  alpha: {alpha}

tune: {{vision: freeze, projector: freeze, language: lora}}

train:
  learning_rate: {method.rate}
  per_device_train_batch_size: 1
  gradient_accumulation_steps: {PER_UPDATE}
  num_train_epochs: {method.epochs}
  warmup_steps: 0.03
  lr_scheduler_type: cosine
  optim: adamw_8bit
  bf16: true
  gradient_checkpointing: true
  dataloader_num_workers: 4
  save_steps: 50
"""
    sources = [
        *method.sources,
        "warm-up 0.03, cosine, 8-bit AdamW, 2,048 tokens, image size, adapter on the language model alone: ours",
        f"data: {method.needs} (docs/image_losses.md)",
    ]
    title = f"{method.title} on {model.title} with QLoRA, for a card with {model.card} GB or more."
    text = Header(title=title, name=name, changes="data.train=pairs.jsonl data.root=/path/to/images", sources=sources)
    return name, text.written(body, card=model.card) + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """A recipe with full fine-tuning."""

    name: str
    title: str
    hub: str
    loss: str
    train: str
    sources: list[str]
    length: int
    vision: bool
    epochs: int = 1
    published: tuple[str, ...] = ()
    """Lines that quote somebody else's results."""


def full(of: Full) -> tuple[str, str]:
    """Name and text of a recipe with full fine-tuning."""
    tune = "{vision: freeze, projector: full, language: full}" if of.vision else "{language: full}"
    body = f"""
output: runs/{of.name}
seed: 0

model:
  path: {of.hub}

data:
  train: pairs.jsonl

processing:
  max_length: {of.length}

loss:
{of.loss}

tune: {tune}

train:
{of.train}
  per_device_train_batch_size: 1
  gradient_accumulation_steps: {PAIRS_PER_UPDATE}
  num_train_epochs: {of.epochs}
  lr_scheduler_type: cosine
  bf16: true
  gradient_checkpointing: true
  dataloader_num_workers: 4
  save_steps: 100
"""
    changes = "data.train=pairs.jsonl" + (" data.root=/path/to/images" if of.vision else "")
    text = Header(title=of.title, name=of.name, changes=changes, sources=of.sources, published=of.published)
    return of.name, text.written(body, card=None) + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a shipped recipe begins with: its command, its memory, its result and its sources."""

    title: str
    name: str
    changes: str
    sources: list[str]
    published: tuple[str, ...] = ()

    def written(self, body: str, *, card: int | None) -> str:
        """The comment before a recipe's keys; SystemExit where ``card`` (GB) is too small for it."""
        recipe = build_recipe(parse_yaml(body, where=self.name), where=self.name)
        plan = make_plan(recipe, PlanInput(gpu_memory=None if card is None else card * GIB))
        if card is not None and not plan.fits:
            raise SystemExit(f"{self.name} does not fit: {plan.needed / GIB:.1f} GiB")
        shape = plan.shape
        pair = shape.in_words
        larger = next((one for one in (24, 48, 80) if one > (card or 0)), 141)
        others = [f"  Faster settings for a larger card: mmpref plan {self.name} --fit {larger}GiB"]
        lines = [
            self.title,
            f"  mmpref train {self.name} {self.changes}",
            f"Memory: {plan.needed / GIB:.1f} GiB estimated by mmpref plan ({pair}); not measured.",
            *(others if card is not None else where_it_fits(recipe)),
            "Result: not measured yet.",
            "",
            "Sources:",
            *(f"- {line}" if not line.startswith("  ") else line for line in self.sources),
            *self.published,
        ]
        return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def where_it_fits(recipe: Recipe) -> list[str]:
    """The smallest card for a recipe as it is, or what to do where 80 GB are too little."""
    for card in (24, 48, BIG):
        if make_plan(recipe, PlanInput(gpu_memory=card * GIB)).fits:
            return [f"  It fits one card with {card} GB."]
    keys = {"reference": {"kind": "cache"}, "train": {"optim": "adamw_torch_fused"}}
    leaner = with_changes(recipe, **keys)
    words = "reference.kind=cache train.optim=adamw_torch_fused"
    if make_plan(leaner, PlanInput(gpu_memory=BIG * GIB)).fits:
        return [f"  More than {BIG} GB; {words} make it {make_plan(leaner).needed / GIB:.1f} GiB."]
    shared = make_plan(leaner, PlanInput(parallel=ParallelPlan(gpus=8, strategy="fsdp2")))
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
    made = [qlora(model) for model in VLMS]
    made += [by_method(model, method) for model in VLMS if model.name in OF_METHODS for method in METHODS]
    made.append(full(Full(
        name="qwen2_vl_2b_uni_dpo_full", title="Uni-DPO on Qwen2-VL-2B, full fine-tuning: the paper's multimodal run.",
        hub="Qwen/Qwen2-VL-2B-Instruct",
        loss="  name: uni_dpo\n  uni:\n    tau_good: 2.5             # on MM-RLHF's scores",
        train="  learning_rate: 6e-6",
        sources=["loss (beta 2.0, eta 0.7, tau_ref 2.0, gamma 3, lambda 0.001, tau_good 2.5), learning rate 6e-6,",
         f"  128 pairs per update, one epoch, cosine without warm-up, 4,096 tokens: {UNI_MM}, on 4 GPUs",
         "vision tower frozen: ours", KEPT],
        length=4096, vision=True,
    )))  # fmt: skip
    for name, title, hub, beta, tau, rate in (
        ("llama_3_8b_instruct", "Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct", 2.0, 1.0, "1e-6"),
        ("qwen2_5_0_5b", "Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", 3.5, 0.8, "2e-6"),
        ("qwen2_5_1_5b", "Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct", 3.5, 0.8, "2e-6"),
        ("qwen2_5_3b", "Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-3B-Instruct", 3.5, 0.8, "2e-6"),
        ("qwen2_5_7b", "Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", 3.5, 0.8, "2e-6"),
    ):
        made.append(full(Full(
            name=f"{name}_uni_dpo_full", title=f"Uni-DPO on {title}, text only, full fine-tuning.", hub=hub,
            loss=UNI_TEXT_LOSS.format(beta=beta, tau_ref=tau), train=f"  learning_rate: {rate}\n  warmup_steps: 0.1",
            sources=text_sources(beta, tau, rate), length=2048, vision=False,
        )))  # fmt: skip
    made.append(full(Full(
        name="qwen2_5_math_7b_uni_dpo_full",
        title="Uni-DPO on Qwen2.5-Math-7B, text only, full fine-tuning: the paper's run on mathematics.",
        hub="Qwen/Qwen2.5-Math-7B",
        loss="  name: uni_dpo\n  uni:\n    nll_lambda: 0.2\n"
        "    tau_good: 8.0             # on that part's scores, 0 to 10",
        train="  learning_rate: 1e-6\n  warmup_steps: 0.1",
        sources=["loss (beta 2.0, eta 0.7, tau_ref 2.0, gamma 3, lambda 0.2, tau_good 8.0), learning rate 1e-6,",
         f"  128 pairs per update, two epochs, cosine, 4,096 tokens: {UNI_MA}",
         "warm-up 0.1: ours, as in the textual part; that of this one was not read",
         "its policy is loaded in float16 and its reference in bfloat16 there; here both are the same weights", KEPT],
        length=4096, vision=False, epochs=2,
    )))  # fmt: skip
    made.append(full(Full(
        name="llama_3_8b_instruct_adadpo_full", title="AdaDPO on Llama-3-8B-Instruct, text only, full fine-tuning.",
        hub="meta-llama/Meta-Llama-3-8B-Instruct",
        loss="  name: adadpo                # c_w = min(R, 2), c_l = 1, R from per-token means against the reference\n"
        "  beta: 0.01",
        train="  learning_rate: 6e-7\n  warmup_steps: 0.1",
        sources=[
         "the loss and its ceiling of 2, 128 pairs per update, 2,048 tokens, one epoch, cosine, warm-up 0.1, and the",
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
    )))  # fmt: skip
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
