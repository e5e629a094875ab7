#!/usr/bin/env python3
"""Measured against estimated peak memory of a training step, on the CPU, in a process of its own for every case.

    python scripts/bench_memory.py                      all cases, a table, and the figures as JSON with --out FILE
    python scripts/bench_memory.py --only lora          cases whose name holds a word
    python scripts/bench_memory.py --measured FILE      figures measured before against the estimate as it is now
    python scripts/bench_memory.py --measured FILE --page docs/memory.md    and write them into the page's table

Two things are measured. *Resting* is every tensor that is there when training starts: weights, quantisation states,
adapter, reference. *The step* is VmHWM less the resident memory just before it: gradients, optimizer, activations and
work space, after two updates. The models are LLaVA, Qwen2-VL and Llama of several sizes with random weights.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from bench_models import qwen2_vl_like

MIB = 2**20
THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
SIZES = {
    "mini": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4},
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
        for mode in () if size == "mini" else ("lora", "full"):
            for checkpointing in (False, True):
                name = f"{size} {mode}{' ckpt' if checkpointing else ''}"
                found[name] = {"size": size, "mode": mode, "checkpointing": checkpointing}
    small: dict[str, Any] = {"size": "small"}
    mini: dict[str, Any] = {"size": "mini"}
    lora, full = {**small, "mode": "lora"}, {**small, "mode": "full"}
    medium = {"size": "medium", "mode": "lora"}
    auto: dict[str, Any] = {"dtype": "auto", "saved": "bfloat16", "autocast": True}
    found |= {
        "small lora batch 4": {**lora, "batch": 4},
        "small lora 4 answers": {**lora, "answers": 4},
        "small lora 4 answers ckpt": {**lora, "answers": 4, "checkpointing": True},
        "small full 4 answers ckpt": {**full, "answers": 4, "checkpointing": True},
        "small lora plain": {**lora, "layout": "plain"},
        "small lora plain 4 answers": {**lora, "layout": "plain", "answers": 4},
        "small lora plain batch 4 ckpt": {**lora, "layout": "plain", "batch": 4, "checkpointing": True},
        "grouped lora plain": {**lora, "size": "grouped", "layout": "plain"},
        "medium lora long answers ckpt": {**medium, "checkpointing": True, "answer": 700},
        "small lora rank 128, dropout": {**lora, "rank": 128, "dropout": 0.05},
        "small dora": {**lora, "use_dora": True},
        "small lora on tower too": {**lora, "vision": "lora"},
        "small lora cached reference": {**lora, "reference": "cache"},
        "small lora accumulation 4": {**lora, "accumulation": 4},
        "small full accumulation 4": {**full, "accumulation": 4},
        "small full accumulation 4 ckpt": {**small, "mode": "full", "accumulation": 4, "checkpointing": True},
        "small full cached reference": {**full, "reference": "cache"},
        "small full simpo": {**full, "loss": "simpo"},
        "small full sgd": {**full, "optim": "sgd"},
        "small full adafactor": {**full, "optim": "adafactor"},
        "small vision full": {**full, "vision": "full", "projector": "full"},
        "small vision full ckpt": {**full, "vision": "full", "projector": "full", "checkpointing": True},
        "small projector and lora": {**lora, "projector": "full"},
        "small lora adamw_8bit": {**lora, "optim": "adamw_8bit"},
        "small full adamw_8bit": {**full, "optim": "adamw_8bit"},
        "small full adamw_8bit ckpt": {**small, "mode": "full", "optim": "adamw_8bit", "checkpointing": True},
        "small full lion_8bit": {**full, "optim": "lion_8bit"},
        "small qlora": {**small, "mode": "qlora"},
        "small qlora ckpt": {**small, "mode": "qlora", "checkpointing": True},
        "small qlora ckpt batch 2 adamw_8bit": {
            **small, "mode": "qlora", "checkpointing": True, "batch": 2, "optim": "adamw_8bit"},
        "small qlora single quantisation ckpt": {
            **small, "mode": "qlora", "checkpointing": True, "double_quant": False},
        "small int8 ckpt": {**small, "quantization": "int8", "checkpointing": True},
        "mini qlora bfloat16 ckpt": {**mini, "mode": "qlora", "checkpointing": True, "dtype": "bfloat16"},
        "mini int8 bfloat16": {**mini, "quantization": "int8", "dtype": "bfloat16"},
        "small lora bfloat16": {**small, "dtype": "bfloat16"},
        "mini lora bfloat16 ckpt": {**mini, "dtype": "bfloat16", "checkpointing": True},
        "small full bfloat16": {**small, "mode": "full", "dtype": "bfloat16"},
        "mini full bfloat16 ckpt": {**mini, "mode": "full", "dtype": "bfloat16", "checkpointing": True},
        "small lora float32, autocast": {**small, "autocast": True},
        "small full float32, autocast": {**small, "mode": "full", "autocast": True},
        "mini full float32, autocast ckpt": {**mini, "mode": "full", "autocast": True, "checkpointing": True},
        "mini lora bfloat16, autocast": {**mini, "dtype": "bfloat16", "autocast": True},
        "mini full bfloat16, autocast ckpt": {
            **mini, "mode": "full", "dtype": "bfloat16", "autocast": True, "checkpointing": True},
        "small lora bfloat16, autocast ckpt": {**lora, "dtype": "bfloat16", "autocast": True, "checkpointing": True},
        "small full auto, autocast sgd accumulation 4 ckpt": {
            **auto, **full, "optim": "sgd", "accumulation": 4, "checkpointing": True},
        "small full auto, autocast ckpt": {**auto, **full, "checkpointing": True},
        "small full auto, autocast accumulation 4 ckpt": {**auto, **full, "accumulation": 4, "checkpointing": True},
        "small text full auto, autocast accumulation 4 ckpt": {
            **auto, **full, "family": "text", "accumulation": 4, "checkpointing": True},
        "small vision full auto, autocast ckpt": {
            **auto, **full, "vision": "full", "projector": "full", "checkpointing": True},
        "small projector and lora auto, autocast ckpt": {**auto, **lora, "projector": "full", "checkpointing": True},
        "small vision and lora auto, autocast": {**auto, **lora, "vision": "full", "projector": "full"},
        "small projector and qlora auto, autocast ckpt": {
            **auto, **small, "mode": "qlora", "projector": "full", "checkpointing": True},
        "small full auto": {**full, "dtype": "auto", "saved": "bfloat16"},
        "small full auto, autocast cached reference ckpt": {
            **auto, **full, "reference": "cache", "checkpointing": True},
        "small text lora": {**small, "family": "text"},
        "small text qlora ckpt": {**small, "family": "text", "mode": "qlora", "checkpointing": True},
        "mini text full bfloat16 ckpt": {
            **mini, "family": "text", "mode": "full", "dtype": "bfloat16", "checkpointing": True},
        "qwen2_vl lora": {**lora, "family": "qwen2_vl"},
        "qwen2_vl qlora ckpt": {**lora, "family": "qwen2_vl", "mode": "qlora", "checkpointing": True},
        "qwen2_vl full ckpt": {**full, "family": "qwen2_vl", "checkpointing": True},
        "qwen2_vl vision full": {**full, "family": "qwen2_vl", "vision": "full", "projector": "full"},
    }  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds one of these, separated by commas")
    parser.add_argument("--case-named", help="this case alone")
    parser.add_argument("--measured", type=Path, help="take what was measured from this file, and estimate again")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--page", type=Path, help="put the table into this page")
    options = parser.parse_args()
    if not os.environ.get(THRESHOLD):
        # every tensor goes back to the system when it is freed; else the peak is that of the allocator's leftovers
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, THRESHOLD: "131072"})
    before = {} if options.measured is None else {row["case"]: row for row in json.loads(options.measured.read_text())}
    chosen = {name: case for name, case in cases().items() if any(word in name for word in options.only.split(","))}
    chosen = {name: case for name, case in chosen.items() if options.case_named in (None, name)}
    found_by_case = one_by_one(chosen) if not before else ((name, before.get(name)) for name in chosen)
    rows = []
    print(f"{'case':<40} {'measured MiB':>12} {'estimate':>9} {'step':>7} {'resting':>8} {'peak':>7}   parts")
    for name, found in found_by_case:
        if found is None:
            continue
        row = against_estimate(name, chosen[name], found)
        rows.append(row)
        parts = "  ".join(f"{part} {value / MIB:.0f}" for part, value in row["parts"].items() if value > MIB)
        sizes = f"{row['measured'] / MIB:>12.0f} {row['estimate'] / MIB:>9.0f}"
        errors = f"{row['error']:>+7.1%} {row['resting_error']:>+8.1%} {row['peak_error']:>+7.1%}"
        print(f"{name:<40} {sizes} {errors}   {parts}", flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(rows, indent=1) + "\n")
    if rows:
        within = sum(abs(row["error"]) <= 0.15 for row in rows)
        print(f"{within} of {len(rows)} within 15 %; worst {max(rows, key=lambda row: abs(row['error']))['case']}")
    if options.page is not None:
        write_table(options.page, rows)
    return 0


def one_by_one(chosen: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """What :func:`measure` finds, each case in a process of its own; None, with a line that says why, where it fails.

    The processes are forked from one that has loaded the libraries, which does not count: only growth is measured.
    """
    for library in ("transformers", "peft", "bitsandbytes", "mmpref.models", "mmpref.training.trainer.trainer"):
        importlib.import_module(library)
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for name, case in chosen.items():
            try:
                yield name, pool.apply(measure, (case,))
            except Exception as err:
                print(f"{name:<40} failed: {type(err).__name__}: {err}")
                yield name, None


def against_estimate(name: str, case: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """A measured case with the estimate beside it."""
    from mmpref.planning.architecture import describe
    from mmpref.planning.memory import estimate
    from mmpref.planning.pair_shape import Shape

    recipe, layout = recipe_for(case), case.get("layout", "shared_prefix")
    config = config_of(case)
    shape = Shape(**found["shape"])
    model = describe(config, recipe, layout)
    memory = estimate(model, recipe, shape, layout=layout)
    peak = found["measured"] + found["resting"]
    return {
        "case": name, "measured": found["measured"], "resting": found["resting"], "shape": found["shape"],
        "estimate": memory.over_rest, "resting_estimate": memory.resting, "parts": dict(memory.step),
        "tokens": memory.tokens, "error": memory.over_rest / found["measured"] - 1,
        "resting_error": memory.resting / found["resting"] - 1, "peak_error": memory.peak / peak - 1,
    }  # fmt: skip


def write_table(page: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the table between the page's two marks."""
    lines = ["| case | step: measured MiB | estimated | error | resting: error | whole peak: error |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        errors = f"{row['error']:+.1%} | {row['resting_error']:+.1%} | {row['peak_error']:+.1%}"
        lines.append(f"| {row['case']} | {row['measured'] / MIB:.0f} | {row['estimate'] / MIB:.0f} | {errors} |")
    text = page.read_text(encoding="utf-8")
    start, end = "<!-- measured -->\n", "<!-- /measured -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    page.write_text(before + start + "\n".join(lines) + "\n" + end + after, encoding="utf-8")


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Resting and step memory of a case in this process, in bytes."""
    from dataclasses import replace

    import torch
    from PIL import Image

    from mmpref.losses import build_objective
    from mmpref.models import LoadSettings, choose_reference, load, pair_logps, prepare
    from mmpref.models.quantize import QuantizationSettings
    from mmpref.models.tuning import AdapterSettings, Tuning
    from mmpref.processing import PairCollator, PairEncoder
    from mmpref.records import ImageRef, PreferencePair, user_turn
    from mmpref.training.run.reference_cache import ReferenceCache

    torch.set_num_threads(1)
    recipe = recipe_for(case)
    with tempfile.TemporaryDirectory() as name:
        folder = build(case, Path(name))
        stored = recipe.adapter.stored_as
        quantization = stored and QuantizationSettings(kind=stored, double_quant=recipe.adapter.double_quant)
        loaded = load(folder, LoadSettings(dtype=recipe.model.dtype, quantization=quantization), trainable=True)
    adapter = None
    if recipe.adapter.kind != "none":
        asked = recipe.adapter.model_dump(include={"rank", "dropout", "use_dora"})
        adapter = AdapterSettings(**asked)
    half = torch.bfloat16 if case.get("autocast") else None
    loaded = prepare(loaded, Tuning(**recipe.tune.model_dump()), adapter, autocast=half)
    if case.get("checkpointing"):
        loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if adapter is not None:
            loaded.model.enable_input_require_grads()
    objective = build_objective(recipe.loss.as_mapping())
    words = ["the", "red", "cup", "is", "on", "the", "table", "and", "the", "dog", "is", "left", "of", "it"]
    if case.get("family") == "qwen2_vl":
        words = [f"w{number}" for number in range(14)]
    answer = case.get("answer", 250)
    starts = (0, 5, 2, 9)[: case.get("answers", 2)]
    text = [" ".join(words[i % len(words)] for i in range(start, start + answer)) for start in starts]
    images = () if case.get("family") == "text" else (ImageRef(path="x"),)
    questions = [" ".join(words[i:] + words * 3 + words[:i]) for i in range(case.get("batch", 1))]
    pairs = [
        PreferencePair(id=f"{question} {chosen} {rejected}", images=images,
                       prompt=user_turn(question, num_images=len(images)), chosen=chosen, rejected=rejected)
        for question in questions for chosen, rejected in itertools.combinations(text, 2)
    ]  # fmt: skip
    # once on a short pair: libraries that load on first use, and their buffers, are not the step's
    short = replace(pairs[0], id="short", chosen=words[0], rejected=words[1])
    drawn = Image.new("RGB", (336, 336), (10, 200, 30))
    encoder = PairEncoder(loaded.processor, loaded.family)
    encoded = encoder.encode(pairs[0], lambda _: drawn)
    layout = case.get("layout", "shared_prefix")
    cached = case.get("reference") == "cache"
    collate = PairCollator(encoder, lambda _: drawn, layout=layout, keyed=cached)
    batch = collate(pairs)
    assert encoded.rejected_ids is not None
    image = sum(encoded.prompt.image_tokens)
    patches = {"text": 0, "qwen2_vl": 4 * image}.get(case.get("family", "llava"), image + 1)
    shape = {"prompt": len(encoded.prompt_ids) - image, "image": image, "patches": patches,
             "chosen": len(encoded.chosen_ids), "rejected": len(encoded.rejected_ids),
             "answers": len(text), "pairs": len(pairs) // len(questions)}  # fmt: skip
    reference: Any = None
    if objective.needs_reference and cached:
        with tempfile.TemporaryDirectory() as name:
            reference = ReferenceCache.open(Path(name) / "cache", {"bench": case})
            cpu = torch.device("cpu")
            with torch.autocast("cpu", torch.bfloat16, enabled=half is not None):
                reference.fill(loaded.model, collate, [short, *pairs], device=cpu, say=lambda _: None)
    elif objective.needs_reference:
        reference = choose_reference(loaded.model)
    weights = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    optimizer = optimizer_of(recipe.train.optim, weights, loaded.model)
    halved = torch.autocast("cpu", torch.bfloat16) if case.get("autocast") else nullcontext()

    def backward(pairs_of_batch: Any) -> None:
        with halved:
            logps = pair_logps(loaded.model, pairs_of_batch, reference=reference)
            loss = objective(logps).per_pair.sum()
        loss.backward()

    backward(collate([short]))
    loaded.model.zero_grad(set_to_none=True)
    resting = tensor_bytes()
    start = resident()
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        for _ in range(case.get("accumulation", 1)):
            backward(batch)
        optimizer.step()
        optimizer.zero_grad()
    return {"measured": status("VmHWM") - start, "resting": resting, "shape": shape}


def optimizer_of(name: str, weights: list[Any], model: Any) -> Any:
    """The optimizer that transformers would make for a name: of 8 bits, with the states of embeddings in 32."""
    import bitsandbytes
    import torch
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(output_dir=folder, optim=name, use_cpu=True, learning_rate=1e-5)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, torch.nn.Linear(1, 1))
    if settings.get("optim_bits") == 8:
        manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                manager.register_module_override(module, "weight", {"optim_bits": 32})
    return kind(weights, **settings)


def recipe_for(case: dict[str, Any]) -> Any:
    from mmpref.recipe.loading import build_recipe

    kind = {"full": "none"}.get(case.get("mode", "lora"), case.get("mode", "lora"))
    adapter = {"kind": kind} if kind == "none" else {"kind": kind, "rank": case.get("rank", 16)}
    adapter |= {key: case[key] for key in ("dropout", "use_dora", "quantization", "double_quant") if key in case}
    tune = {"language": "full" if kind == "none" else "lora"}
    tune |= {key: case[key] for key in ("vision", "projector") if key in case}
    answers = case.get("answers", 2)
    pairs = case.get("batch", 1) * answers * (answers - 1) // 2
    tree = {
        "output": "unused", "model": {"path": "unused", "dtype": case.get("dtype", "float32")},
        "data": {"train": "unused"}, "loss": {"name": case.get("loss", "dpo")}, "adapter": adapter, "tune": tune,
        "reference": {"kind": case.get("reference", "auto")},
        "train": {"learning_rate": 1e-5, "per_device_train_batch_size": pairs, "use_cpu": True,
                  "gradient_accumulation_steps": case.get("accumulation", 1), "bf16": case.get("autocast", False),
                  "gradient_checkpointing": case.get("checkpointing", False),
                  "optim": case.get("optim", "adamw_torch")},
    }  # fmt: skip
    return build_recipe(tree, where="bench")


def config_of(case: dict[str, Any]) -> Any:
    """The config of the case's model, as :func:`build` writes it."""
    import torch

    config = _config_of(case)
    config.dtype = getattr(torch, case.get("saved", "float32"))
    return config


def _config_of(case: dict[str, Any]) -> Any:
    import transformers as tf

    from mmpref.demo.tiny_models import build_tokenizer

    text = {**SIZES[case["size"]], "vocab_size": VOCABULARY, "max_position_embeddings": 8192,
            "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": None}  # fmt: skip
    family = case.get("family", "llava")
    if family == "text":
        return tf.LlamaConfig(**text)
    if family == "qwen2_vl":
        return qwen2_vl_like().build().config
    number = build_tokenizer().convert_tokens_to_ids
    return tf.LlavaConfig(
        text_config=tf.LlamaConfig(**text), vision_config=tf.CLIPVisionConfig(**TOWER, image_size=336, patch_size=14),
        image_token_index=number("<image>"), vision_feature_select_strategy="default", vision_feature_layer=-2,
        tie_word_embeddings=False,
    )  # fmt: skip


def build(case: dict[str, Any], folder: Path) -> Path:
    """A model folder of the case's size with the demo's word tokenizer."""
    import torch
    import transformers as tf

    from mmpref.demo.tiny_models import CHAT_TEMPLATE, build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 8192
    config = config_of(case)
    torch.manual_seed(0)
    family = case.get("family", "llava")
    if family == "text":
        tf.LlamaForCausalLM(config).to(config.dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder
    if family == "qwen2_vl":
        scaled = qwen2_vl_like()
        scaled.build().to(config.dtype).save_pretrained(folder)
        scaled.processor.save_pretrained(folder)
        return folder
    tf.LlavaForConditionalGeneration(config).to(config.dtype).save_pretrained(folder)
    images = tf.CLIPImageProcessorPil(size={"height": 336, "width": 336}, do_center_crop=False)
    tf.LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def tensor_bytes() -> int:
    """Bytes of every tensor that is alive: weights, buffers, what quantisation keeps beside them, a reference."""
    import gc

    import torch

    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):  # isinstance would ask lazy objects for their class
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


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
