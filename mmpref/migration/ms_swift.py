"""ms-swift: a script with ``swift rlhf --rlhf_type dpo ...``, or its options as YAML or JSON.

Read in the sources of version 4.6.0 (``arguments/`` for the keys and defaults, ``rlhf_trainers/dpo_trainer.py`` for the
losses, which are TRL's).
"""

from __future__ import annotations

from typing import Final

from mmpref.errors import ConfigError
from mmpref.migration.contract import Draft
from mmpref.migration.losses import combined, known_losses
from mmpref.migration.sources import TO_SET
from mmpref.migration.training_arguments import carry_model, training

NAME: Final = "ms-swift"
_MEAN: Final = "there a mean over the chosen tokens of the batch, here over each answer's"
_TASKS: Final = ("dpo", "kto", "orpo", "simpo", "cpo")


def migrate(draft: Draft) -> None:
    """Write what needs more than a row of the table."""
    _loss(draft)
    carry_model(draft, "model", "there ids are those of ModelScope unless use_hf is set; most are alike")
    _adapter(draft)
    _precision(draft)
    _data(draft)
    _learning(draft)
    for name, ours in (("env MAX_PIXELS", "max_pixels"), ("env MIN_PIXELS", "min_pixels")):
        if draft.value("max_pixels") is not None and ours == "max_pixels":
            draft.drop(name, "--max_pixels is given as well", matters=False)
        elif draft.value(name) is not None:
            draft.carry(name, {f"processing.{ours}": draft.value(name)})
    if draft.value("enable_thinking") is not None:
        kwargs = {"enable_thinking": draft.value("enable_thinking")}
        draft.carry("enable_thinking", {"processing.template_kwargs": kwargs})
    else:
        draft.same("enable_thinking")
    training(draft, output="runs/from_ms_swift", logging_steps=5, save_steps=500)


def _loss(draft: Draft) -> None:
    task, kinds = draft.value("rlhf_type"), draft.value("loss_type")
    if task not in _TASKS:
        raise ConfigError(
            f"{draft.where}: rlhf_type is {task}; those that train on preferences are {', '.join(_TASKS)}"
        )
    draft.carry("rlhf_type", {"loss.name": task})
    if task == "cpo" and kinds == ["simpo"]:
        task = "simpo"
    if task == "dpo":
        _dpo(draft, kinds or ["sigmoid"])
    else:
        if task == "simpo" or kinds is None or kinds == ["sigmoid"] or kinds == [task]:
            draft.values["loss.name"] = task
            draft.same("loss_type", f"that of {task}")
        else:
            draft.drop("loss_type", f"{', '.join(kinds)} of {task} is not here")
            draft.to_set.append(f"loss: {', '.join(kinds)} of {task} has no counterpart; {task} stands in its place")
        draft.drop("loss_weights", "it belongs to rlhf_type dpo", matters=False)
    beta = draft.value("beta") or (2.0 if task == "simpo" else 0.1)
    only_likelihood = draft.values["loss.name"] == "sft"
    if only_likelihood:
        draft.drop("beta", "a likelihood alone has no beta", matters=False)
    else:
        draft.carry("beta", {"loss.beta": beta})
    _terms(draft, str(task), beta)
    reference = draft.value("ref_model")
    if reference is None or reference == draft.value("model"):
        draft.same("ref_model", "the reference is the model that training starts from")
    else:
        draft.drop("ref_model", "the reference is always the model that training starts from")


def _dpo(draft: Draft, kinds: list[str]) -> None:
    ours = combined(kinds, draft.value("loss_weights"), draft.where)
    if ours is not None and not ({"bco_pair"} & {*kinds}):
        draft.carry("loss_type", ours, _MEAN if "sft" in kinds else "")
        draft.carry("loss_weights", ours)
        return
    said = " + ".join(kinds)
    why = f"bco_pair has a running mean there (known: {known_losses()})" if ours is not None else (
        f"{said} is not here; known: {known_losses()}")  # fmt: skip
    draft.values["loss.name"] = "dpo"
    draft.drop("loss_type", why)
    draft.drop("loss_weights", "it belongs to loss_type")
    draft.to_set.append(f"loss: {said} has no counterpart that is carried; plain DPO stands in its place")


def _terms(draft: Draft, task: str, beta: float) -> None:
    name = draft.values["loss.name"]
    smoothing, likelihood = draft.value("label_smoothing"), draft.value("rpo_alpha")
    takes = name in ("dpo", "robust", "cpo", "simpo") and draft.values.get("loss.length_normalize") is not True
    if not smoothing and name != "robust":
        draft.same("label_smoothing", "0")
    elif takes:
        draft.carry("label_smoothing", {"loss.label_smoothing": smoothing})
    else:
        draft.drop("label_smoothing", f"{name} does not read it", matters=False)
    if likelihood is None:
        draft.same("rpo_alpha")
    elif task == "dpo" and name != "sft" and "loss.nll_weight" not in draft.values:
        draft.carry("rpo_alpha", {"loss.nll_weight": likelihood}, _MEAN)
    else:
        draft.drop("rpo_alpha", "a likelihood is there already, or it belongs to rlhf_type dpo", matters=task == "dpo")
    if task == "simpo":
        draft.carry("simpo_gamma", {"loss.gamma_beta_ratio": draft.value("simpo_gamma") / beta})
    else:
        draft.drop("simpo_gamma", "it belongs to simpo", matters=False)
    if task in ("cpo", "simpo"):
        draft.carry("cpo_alpha", {"loss.nll_weight": draft.value("cpo_alpha")}, _MEAN)
    else:
        draft.drop("cpo_alpha", "it belongs to cpo and simpo", matters=False)
    for key, weight in (("desirable_weight", "desirable_weight"), ("undesirable_weight", "undesirable_weight")):
        if task == "kto" and draft.value(key) != 1:
            draft.carry(key, {f"loss.kto.{weight}": draft.value(key)})
        elif task == "kto":
            draft.same(key, "1")
        else:
            draft.drop(key, "it belongs to kto", matters=False)


_PARTS: Final = {"vision": "freeze_vit", "projector": "freeze_aligner", "language": "freeze_llm"}
_LORA: Final = {"lora_rank": "rank", "lora_alpha": "alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}


def _adapter(draft: Draft) -> None:
    asked: tuple[str, ...] = ("tuner_type", "train_type")
    names = [name for name in asked if name in draft.given]
    kind = next((draft.value(name) for name in names if draft.value(name) is not None), "lora")
    known = kind in ("lora", "full")
    ours = {"adapter.kind": "none" if kind == "full" else "lora"}
    for name in names or ["tuner_type"]:
        if known:
            draft.carry(name, ours)
        else:
            draft.values.update(ours)
            draft.drop(name, f"there is no {kind}; LoRA is written in its place")
    if not known:
        draft.to_set.append(f"adapter: {kind} has no counterpart; LoRA of the given rank stands in its place")
    trained = "full" if kind == "full" else "lora"
    if all(draft.value(name) for name in _PARTS.values()):
        raise ConfigError(f"{draft.where}: freeze_llm, freeze_vit and freeze_aligner leave nothing that trains")
    for part, name in _PARTS.items():
        draft.carry(name, {f"tune.{part}": "freeze" if draft.value(name) else trained})
    start = draft.value("adapters") or []
    if kind == "full" or start:
        for name in (*_LORA, "target_modules", "init_weights"):
            draft.drop(name, "the adapter of adapter.path has its own" if start else "every weight trains",
                       matters=False)  # fmt: skip
        if start and kind != "full" and len(start) == 1:
            draft.carry("adapters", {"adapter.path": start[0], "reference.kind": "adapter_off"},
                        "the reference is the model without the adapter, as there")  # fmt: skip
        elif start:
            draft.drop("adapters", "merge them into the model first, and name the result")
            draft.to_set.append("model.path: the model with the adapters merged into it")
        else:
            draft.same("adapters")
    else:
        draft.same("adapters")
        for name, key in _LORA.items():
            draft.carry(name, {f"adapter.{key}": draft.value(name)})
        if draft.value("target_modules") == ["all-linear"]:
            draft.same("target_modules", "every linear layer of the parts that tune names")
        else:
            draft.drop("target_modules", "LoRA is put on every linear layer of a part, so that more weights train")
        init = draft.value("init_weights")
        is_pissa = init == "pissa" or (init or "").startswith("pissa_niter_")
        if is_pissa and (draft.value("quant_bits") or draft.value("use_dora")):
            draft.drop("init_weights", "PiSSA needs the weights whole and no DoRA")
        elif is_pissa:
            draft.carry("init_weights", {"adapter.init": init})
        elif init in ("true", "True"):
            draft.same("init_weights", "the default")
        else:
            draft.drop("init_weights", f"an adapter does not begin as {init} here")
    _quantization(draft, kind)


def _quantization(draft: Draft, kind: str) -> None:
    bits = draft.value("quant_bits")
    names = ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype")
    if bits == 4 and kind != "full":
        draft.carry("quant_bits", {"adapter.kind": "qlora"})
        draft.carry(names[0], {"adapter.quantization": draft.value(names[0])})
        draft.carry(names[1], {"adapter.double_quant": draft.value(names[1])})
        if draft.value(names[2]) in ("float32", "bfloat16", "float16"):
            draft.carry(names[2], {"adapter.compute_dtype": draft.value(names[2])})
        else:
            draft.same(names[2], "that of the model")
        return
    if bits == 8 and kind != "full":
        draft.carry("quant_bits", {"adapter.quantization": "int8"})
    elif bits is None:
        draft.same("quant_bits")
    else:
        draft.drop("quant_bits", f"{bits} bits are not here with tuner_type {kind}")
    for name in names:
        draft.drop(name, "it belongs to 4 bits", matters=False)


def _precision(draft: Draft) -> None:
    dtype = draft.value("torch_dtype")
    bf16, fp16 = draft.value("bf16"), draft.value("fp16")
    is_full = draft.values["adapter.kind"] == "none"
    bf16 = (dtype or "bfloat16") == "bfloat16" if bf16 is None and fp16 is None else bool(bf16)
    fp16 = dtype == "float16" if fp16 is None and not bf16 else bool(fp16)
    draft.carry("bf16", {"train.bf16": bf16})
    draft.carry("fp16", {"train.fp16": fp16 and not bf16})
    weights = dtype or ("bfloat16" if bf16 else "float16" if fp16 else "auto")
    if weights not in ("auto", "float32", "bfloat16", "float16"):
        raise ConfigError(f"{draft.where}: torch_dtype {weights} is not known; known: float32, bfloat16, float16")
    note = "full weights in half precision round small updates away; model.dtype: float32 does not" if is_full else ""
    draft.carry("torch_dtype", {"model.dtype": weights}, note)


def _learning(draft: Draft) -> None:
    rate = draft.value("learning_rate") or (1e-5 if draft.values["adapter.kind"] == "none" else 1e-4)
    draft.carry("learning_rate", {"train.learning_rate": rate})
    size = draft.value("per_device_train_batch_size")
    steps = draft.value("gradient_accumulation_steps")
    note = "" if steps else "16 pairs an update over one process, as there"
    steps = steps or max(1, -(-16 // size))
    draft.carry("gradient_accumulation_steps", {"train.gradient_accumulation_steps": steps}, note)
    for name, part in (("vit_lr", "vision"), ("aligner_lr", "projector")):
        if draft.value(name) is not None:
            draft.carry(name, {f"train.learning_rates.{part}": draft.value(name)})
        else:
            draft.same(name)


def _data(draft: Draft) -> None:
    for name, ours in (("dataset", "data.train"), ("val_dataset", "data.eval")):
        named = draft.value(name) or []
        if not named:
            draft.same(name)
            continue
        sources, sampled = [], []
        for one in named:
            source, mark, count = one.partition("#")
            sources.append(source)
            sampled += [one] if mark and count else []
        note = f"{', '.join(sampled)}: a sample of the rows is not taken" if sampled else ""
        draft.carry(name, {ours: sources[0] if len(sources) == 1 else sources}, note)
    if "data.train" not in draft.values:
        draft.to_set.append("data.train: the file names no dataset")
        draft.values["data.train"] = TO_SET
    share = draft.value("split_dataset_ratio")
    if share and "data.eval" not in draft.values and share < 1:
        draft.carry("split_dataset_ratio", {"data.held_out": share}, "here by image, so that no image is on both sides")
    elif share:
        draft.drop("split_dataset_ratio", "val_dataset goes before it", matters=False)
    else:
        draft.same("split_dataset_ratio", "0")
