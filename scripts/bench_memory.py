#!/usr/bin/env python3
"""Measured against estimated peak memory of a training step, on the CPU, in a process of its own for every case.

    python scripts/bench_memory.py                 all cases, a table, and the figures as JSON with --out FILE
    python scripts/bench_memory.py --only lora     cases whose name holds a word

Measured is VmHWM less the resident memory just before the step: gradients, optimizer, activations and work space, after
two steps. The models are LLaVA and Llama of several sizes with random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MIB = 2**20
SIZES = {
    "small": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
    "medium": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16},
    "grouped": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 8, "num_attention_heads": 14,
                "num_key_value_heads": 2},
}  # fmt: skip
TOWER = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
VOCABULARY = 32064


def cases() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for size in SIZES:
        for mode in ("lora", "full"):
            for checkpointing in (False, True):
                name = f"{size} {mode}{' ckpt' if checkpointing else ''}"
                found[name] = {"size": size, "mode": mode, "checkpointing": checkpointing}
    found["small lora batch 4"] = {"size": "small", "mode": "lora", "batch": 4}
    found["small lora plain"] = {"size": "small", "mode": "lora", "layout": "plain"}
    found["grouped lora plain"] = {"size": "grouped", "mode": "lora", "layout": "plain"}
    found["small lora 8bit"] = {"size": "small", "mode": "lora", "optim": "adamw_8bit"}
    found["medium lora long answers ckpt"] = {"size": "medium", "mode": "lora", "checkpointing": True, "answer": 700}
    found["small sgd full"] = {"size": "small", "mode": "full", "optim": "sgd"}
    found["small vision full"] = {"size": "small", "mode": "full", "vision": "full"}
    found["medium qlora ckpt"] = {"size": "medium", "mode": "qlora", "checkpointing": True}
    found["medium text lora"] = {"size": "medium", "mode": "lora", "text": True}
    found["medium text full bfloat16 ckpt"] = {
        "size": "medium", "mode": "full", "text": True, "dtype": "bfloat16", "checkpointing": True}  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds one of these, separated by commas")
    parser.add_argument("--case-named", help="this case alone")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(json.loads(options.case))))
        return 0
    rows = []
    print(f"{'case':<34} {'measured MiB':>12} {'estimate':>9} {'error':>7}   parts of the estimate")
    for name, case in cases().items():
        if options.case_named not in (None, name) or not any(word in name for word in options.only.split(",")):
            continue
        command = [sys.executable, __file__, "--case", json.dumps(case)]
        # every tensor goes back to the system when it is freed; else the peak is that of the allocator's leftovers
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            print(f"{name:<34} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else '?'}")
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        error = found["estimate"] / found["measured"] - 1
        rows.append({"case": name, **found, "error": error})
        parts = "  ".join(f"{part} {value / MIB:.0f}" for part, value in found["parts"].items() if value > MIB)
        measured, estimate = found["measured"] / MIB, found["estimate"] / MIB
        print(f"{name:<34} {measured:>12.0f} {estimate:>9.0f} {error:>+7.1%}   {parts}", flush=True)
    if rows:
        within = sum(abs(row["error"]) <= 0.15 for row in rows)
        print(f"{within} of {len(rows)} within 15 %; worst {max(rows, key=lambda row: abs(row['error']))['case']}")
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def measure(case: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import replace

    import torch
    from PIL import Image

    from mmpref.losses import build_objective
    from mmpref.models import choose_reference, load, pair_logps, prepare
    from mmpref.models.adapter import AdapterSettings, Tuning
    from mmpref.processing import PairCollator, PairEncoder
    from mmpref.records import ImageRef, PreferencePair, user_turn
    from mmpref.training.memory import Shape, describe, estimate, weight_dtype

    torch.set_num_threads(1)
    recipe = recipe_for(case)
    with tempfile.TemporaryDirectory() as name:
        folder = build(case, Path(name))
        loaded = load(
            folder, dtype=case.get("dtype", "float32"), trainable=True,
            quantization="nf4" if case["mode"] == "qlora" else None,
        )  # fmt: skip
    config = loaded.model.config
    adapter = AdapterSettings(rank=16) if case["mode"] != "full" else None
    tuning = Tuning(**recipe.tune.model_dump())
    loaded = prepare(loaded, tuning, adapter)
    if case.get("checkpointing"):
        loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if adapter is not None:
            loaded.model.enable_input_require_grads()
    objective = build_objective(recipe.loss.as_mapping())
    reference = choose_reference(loaded.model)
    words = ["the", "red", "cup", "is", "on", "the", "table", "and", "the", "dog", "is", "left", "of", "it"]
    answer = case.get("answer", 250)
    text = [" ".join(words[i % len(words)] for i in range(start, start + answer)) for start in (0, 5)]
    images = () if case.get("text") else (ImageRef(path="x"),)
    question = " ".join(words * 4)
    pairs = [
        PreferencePair(id=str(i), images=images, prompt=user_turn(question, num_images=len(images)),
                       chosen=text[0], rejected=text[1])
        for i in range(case.get("batch", 1))
    ]  # fmt: skip
    picture = Image.new("RGB", (336, 336), (10, 200, 30))
    encoder = PairEncoder(loaded.processor, loaded.family)
    encoded = encoder.encode(pairs[0], lambda _: picture)
    layout = case.get("layout", "shared_prefix")
    collate = PairCollator(encoder, lambda _: picture, layout=layout)
    batch = collate(pairs)
    assert encoded.rejected_ids is not None
    image = sum(encoded.prompt.image_tokens)
    shape = Shape(
        prompt=len(encoded.prompt_ids) - image, image=image, patches=image + bool(image),
        chosen=len(encoded.chosen_ids), rejected=len(encoded.rejected_ids),
    )  # fmt: skip
    weights = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    if case.get("optim") == "adamw_8bit":
        import bitsandbytes

        optimizer: Any = bitsandbytes.optim.AdamW8bit(weights)
    else:
        optimizer = torch.optim.SGD(weights, lr=1e-5) if case.get("optim") == "sgd" else torch.optim.AdamW(weights)
    # once on a short pair: libraries that load on first use, and their buffers, are not the step's
    short = replace(pairs[0], chosen="the cup", rejected="the dog")
    objective(pair_logps(loaded.model, collate([short]), reference=reference)).per_pair.sum().backward()
    loaded.model.zero_grad(set_to_none=True)
    start = resident()
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        logps = pair_logps(loaded.model, batch, reference=reference)
        objective(logps).per_pair.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = status("VmHWM")
    model = describe(config, recipe, layout)
    memory = estimate(model, recipe, shape, layout=layout, dtype=weight_dtype(config, recipe))
    return {"measured": peak - start, "estimate": memory.over_rest, "parts": dict(memory.step), "tokens": memory.tokens}


def recipe_for(case: dict[str, Any]) -> Any:
    from mmpref.config import build_recipe

    kind = {"full": "none"}.get(case["mode"], case["mode"])
    language = "full" if kind == "none" else "lora"
    tree = {
        "output": "unused", "model": {"path": "unused", "dtype": case.get("dtype", "float32")},
        "data": {"train": "unused"}, "loss": {"name": "dpo"}, "adapter": {"kind": kind, "rank": 16},
        "tune": {"language": language, "vision": case.get("vision", "freeze")},
        "train": {"learning_rate": 1e-5, "per_device_train_batch_size": case.get("batch", 1), "use_cpu": True,
                  "gradient_checkpointing": case.get("checkpointing", False),
                  "optim": case.get("optim", "adamw_torch")},
    }  # fmt: skip
    return build_recipe(tree, where="bench")


def build(case: dict[str, Any], folder: Path) -> Path:
    """A model folder of the case's size with the demo's word tokenizer."""
    import torch
    import transformers as tf

    from mmpref.demo.tiny_models import CHAT_TEMPLATE, build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 8192
    text = {**SIZES[case["size"]], "vocab_size": VOCABULARY, "max_position_embeddings": 8192,
            "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": None}  # fmt: skip
    torch.manual_seed(0)
    if case.get("text"):
        tf.LlamaForCausalLM(tf.LlamaConfig(**text)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder
    config = tf.LlavaConfig(
        text_config=tf.LlamaConfig(**text), vision_config=tf.CLIPVisionConfig(**TOWER, image_size=336, patch_size=14),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )  # fmt: skip
    tf.LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = tf.CLIPImageProcessorPil(size={"height": 336, "width": 336}, do_center_crop=False)
    tf.LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def resident() -> int:
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status("VmRSS")


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main())
