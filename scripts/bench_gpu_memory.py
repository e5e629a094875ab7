#!/usr/bin/env python3
"""Peak memory of whole training runs on a GPU, at the real size of a model, against what ``mmpref plan`` says.

    python scripts/bench_gpu_memory.py --out figures.json            all cases, each told as it comes
    python scripts/bench_gpu_memory.py --only qlora                  cases whose name holds a word
    python scripts/bench_gpu_memory.py --tiny                        the same runs with two-layer models, also on a CPU

Weights are random and made on the card, pictures are noise, nothing is downloaded. Every case is a training run as
``mmpref train`` makes it, start-up checks and all; *peak* is what torch's allocator handed out at most, from loading to
the written model. *changed* is the share of the first layer's weights that differ from the start.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from bench_models import picture, tokenizer
from safetensors import safe_open

from mmpref.config import build_recipe
from mmpref.models.load import image_only
from mmpref.records import ImageRef
from mmpref.training.known_models import known_config
from mmpref.training.plan import make_plan
from mmpref.training.run import train

GIB = 2**30
SPECIAL = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
# hub id -> (kind of its classes, side of a patch)
MODELS = {"Qwen/Qwen2-VL-2B-Instruct": ("Qwen2VL", 14), "Qwen/Qwen3-VL-4B-Instruct": ("Qwen3VL", 16)}
TWO, FOUR = MODELS
FULL = {"projector": "full", "language": "full"}
LORA = {"projector": "freeze", "language": "lora"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": (TWO, {"tune": FULL}),
    "full, cached reference": (TWO, {"tune": FULL, "reference": {"kind": "cache"}}),
    "full, 2 pairs, no checkpointing": (
        TWO, {"tune": FULL, "train": {"gradient_checkpointing": False, "per_device_train_batch_size": 2}}),
    "full, tower too": (TWO, {"tune": {**FULL, "vision": "full"}}),
    "full, bfloat16 weights": (TWO, {"tune": FULL, "model": {"dtype": "bfloat16"}}),
    "tower full, LoRA": (TWO, {"tune": {**FULL, "vision": "full", "language": "lora"}, "adapter": {"kind": "lora"}}),
    "LoRA, tower too": (TWO, {"tune": {**LORA, "vision": "lora"}, "adapter": {"kind": "lora"}}),
    "QLoRA": (TWO, {"tune": LORA, "adapter": {"kind": "qlora"}}),
    "QLoRA, projector full": (TWO, {"tune": {**LORA, "projector": "full"}, "adapter": {"kind": "qlora"}}),
    "4B LoRA, tower too": (FOUR, {"tune": {"vision": "lora", "projector": "lora", "language": "lora"},
                                  "adapter": {"kind": "lora"}}),
    "4B AdaDPO full, cached reference, adamw_8bit": (
        FOUR, {"tune": FULL, "loss": {"name": "adadpo"}, "reference": {"kind": "cache"},
               "train": {"optim": "adamw_8bit"}}),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="cases whose name holds it")
    parser.add_argument("--tiny", action="store_true", help="two-layer models; without CUDA no peak is told")
    parser.add_argument("--steps", type=int, default=10, help="updates of each run (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON, written after each case")
    options = parser.parse_args()
    on_cuda = torch.cuda.is_available()
    if not on_cuda and not options.tiny:
        parser.error("there is no CUDA device here; --tiny runs the cases on a CPU")
    card = torch.cuda.get_device_name() if on_cuda else "CPU"
    figures: dict[str, Any] = {"card": card, "torch": torch.__version__, "transformers": tf.__version__, "cases": {}}
    print(f"{card}, torch {torch.__version__}, transformers {tf.__version__}")
    with tempfile.TemporaryDirectory() as work:
        pairs = write_pairs(Path(work), size=(56, 56) if options.tiny else (640, 480))
        made: dict[str, Path] = {}
        for name, (hub, sections) in CASES.items():
            if options.only not in name:
                continue
            if hub not in made:
                made[hub] = build(hub, Path(work) / hub.replace("/", "_"), tiny=options.tiny)
            figures["cases"][name] = found = run(made[hub], pairs, sections, Path(work) / "run", options.steps)
            print(f"{name}: {json.dumps(found)}", flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def write_pairs(folder: Path, size: tuple[int, int]) -> Path:
    """24 pairs of random words, answers of 60 to 180 tokens, one noisy picture each."""
    draw = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(400)}" for _ in range(count))

    rows = []
    for number in range(24):
        picture(ImageRef(path=str(number)), size).save(folder / f"{number}.png")
        question = [{"type": "image"}, {"type": "text", "text": words(40)}]
        answers = {side: words(draw.randint(60, 180)) for side in ("chosen", "rejected")}
        scores = {"score_chosen": draw.uniform(2, 5), "score_rejected": draw.uniform(1, 4)}
        prompt = [{"role": "user", "content": question}]
        rows.append({"id": str(number), "images": [f"{number}.png"], "prompt": prompt, **answers, **scores})
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build(hub: str, folder: Path, *, tiny: bool) -> Path:
    """The model with random bfloat16 weights, and a processor for it whose tokens are words."""
    kind, patch = MODELS[hub]
    config = known_config(hub)
    assert config is not None
    config = type(config).from_dict(config.to_dict())  # the table's own stays as it is
    text = config.get_text_config()
    if tiny:
        text.update({"num_hidden_layers": 2, "intermediate_size": 256, "vocab_size": 512})
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:2]
        config.vision_config.depth = 2
        if hasattr(config.vision_config, "deepstack_visual_indexes"):
            config.vision_config.deepstack_visual_indexes = [0]
    ids = {f"{name}_token_id": SPECIAL.index(f"<|{token}|>") for name, token in (
        ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"), ("vision_end", "vision_end"),
    )}  # fmt: skip
    config.update(ids)
    text.update({"bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 1})
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = getattr(tf, f"{kind}ForConditionalGeneration")(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    named = {f"{name}_token": f"<|{token}|>" for name, token in (
        ("vision_start", "vision_start"), ("vision_end", "vision_end"), ("image", "image_pad"), ("video", "video_pad"),
    )}  # fmt: skip
    markup = "<|vision_start|> <|image_pad|> <|vision_end|>"
    spoken = tokenizer(512, SPECIAL, image=markup, eos="<|im_end|>", pad_token="<|endoftext|>",
                       extra_special_tokens=named)  # fmt: skip
    area = (2 * patch) ** 2
    images = tf.Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=2, temporal_patch_size=2,
        size={"shortest_edge": 4 * area, "longest_edge": 1024 * area},
    )  # fmt: skip
    image_only(getattr(tf, f"{kind}Processor"))(images, spoken, chat_template=spoken.chat_template).save_pretrained(
        folder
    )
    return folder


def run(model: Path, pairs: Path, sections: dict[str, Any], out: Path, steps: int) -> dict[str, Any]:
    """One training run from beginning to end, and its figures."""
    tree = {
        "output": str(out),
        "data": {"train": str(pairs), "root": str(pairs.parent)},
        "loss": {"name": "uni_dpo", "uni": {"tau_good": 2.5}},
        **sections,
        "model": {"path": str(model), **sections.get("model", {})},
        "train": {
            "learning_rate": 6e-6, "lr_scheduler_type": "constant", "max_steps": steps, "gradient_checkpointing": True,
            "logging_steps": 1, **sections.get("train", {}),
        },
    }  # fmt: skip
    recipe = build_recipe(tree, where="this case")
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    folder = train(recipe, overwrite=out.exists())
    found: dict[str, Any] = {"checks": "passed"}
    plan = make_plan(recipe, prompt_tokens=40, answer_tokens=120, picture=(640, 480))
    found["planned GiB"] = round(plan.memory.peak / GIB, 2)
    if on_cuda:
        peak = torch.cuda.max_memory_allocated() / GIB
        found |= {"peak GiB": round(peak, 2), "error": round(plan.memory.peak / GIB / peak - 1, 4)}
        found["reserved GiB"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
    lines = [json.loads(line) for line in folder.metrics_file.read_text(encoding="utf-8").splitlines()]
    found |= next(({"swallowed": one["updates_swallowed"]} for one in lines if "updates_swallowed" in one), {})
    if not (folder.model / "adapter_config.json").exists():
        found["changed"] = changed(model, folder.model)
    return found


def changed(before: Path, after: Path) -> float:
    start = dict(first_layer(before))
    differ = total = 0
    for name, weight in first_layer(after):
        differ += int((weight != start[name]).sum())
        total += weight.numel()
    return round(differ / total, 4)


def first_layer(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (safe_open is no mapping)
                if ".layers.0." in name:
                    yield name, weights.get_tensor(name).float()


if __name__ == "__main__":
    raise SystemExit(main())
