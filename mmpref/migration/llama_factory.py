"""LLaMA-Factory: the YAML or JSON that ``llamafactory-cli train`` takes, ``stage: dpo`` or ``kto``.

Read in the sources of version 0.9.5 (``hparams/`` for the keys and defaults, ``train/dpo/trainer.py`` for the losses).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mmpref.errors import ConfigError
from mmpref.migration.contract import Draft, Key
from mmpref.migration.llama_factory_unread import UNREAD
from mmpref.migration.sources import described_sources
from mmpref.migration.training_arguments import TRAINING_ARGUMENTS, carry_model, training
from mmpref.migration.values import Kind

NAME: Final = "LLaMA-Factory"
_NUMBER, _WHOLE, _FLAG, _TEXT, _TEXTS = Kind.NUMBER, Kind.WHOLE, Kind.FLAG, Kind.TEXT, Kind.TEXTS
_OF = TRAINING_ARGUMENTS
_CUT = "mmpref cuts answers only, never images or the prompt; there the prompt, the answer or both are cut"
_PIXELS = "for models that resize to a number of pixels (Qwen-VL); there every image is resized to it first"


def _by(part: str, to: str, kind: Kind, default: object = None, note: str = "") -> Key:
    return Key(by=part, to=to, kind=kind, default=default, note=note)


TABLE: Final[Mapping[str, Key]] = {
    **_OF,
    **UNREAD,
    "model_name_or_path": _by("model", "model.path", _TEXT),
    "adapter_name_or_path": _by("adapter", "adapter.path", _TEXTS),
    "create_new_adapter": _by("adapter", "", _FLAG, False),
    "stage": _by("loss", "", _TEXT, "sft"),
    "pref_loss": _by("loss", "loss.name", _TEXT, "sigmoid"),
    "pref_beta": _by("loss", "loss.beta", _NUMBER, 0.1),
    "pref_ftx": _by("loss", "loss.nll_weight", _NUMBER, 0.0),
    "pref_bco_weight": _by("loss", "loss.anchor", _NUMBER, 0.0),
    "dpo_label_smoothing": _by("loss", "loss.label_smoothing", _NUMBER, 0.0),
    "simpo_gamma": _by("loss", "loss.gamma_beta_ratio", _NUMBER, 0.5, "there the margin, here its share of beta"),
    "kto_chosen_weight": _by("loss", "loss.kto.desirable_weight", _NUMBER, 1.0),
    "kto_rejected_weight": _by("loss", "loss.kto.undesirable_weight", _NUMBER, 1.0),
    "ld_alpha": Key(why="LD-DPO's weight of the longer answer's last tokens is not here", kind=_NUMBER),
    "ref_model": _by("loss", "", _TEXT),
    "finetuning_type": _by("adapter", "adapter.kind", _TEXT, "lora"),
    "lora_rank": _by("adapter", "adapter.rank", _WHOLE, 8),
    "lora_alpha": _by("adapter", "adapter.alpha", _NUMBER),
    "lora_dropout": Key(why="there every dropout is switched off for stage dpo and kto", same=(0.0,), kind=_NUMBER,
                        matters=False),
    "lora_target": _by("adapter", "tune", _TEXTS, ["all"]),
    "use_rslora": _by("adapter", "adapter.use_rslora", _FLAG, False),
    "use_dora": _by("adapter", "adapter.use_dora", _FLAG, False),
    "pissa_init": _by("adapter", "adapter.init", _FLAG, False),
    "pissa_iter": _by("adapter", "adapter.init", _WHOLE, 16),
    "pissa_convert": Key(why="an adapter that began as PiSSA is saved as what it is", same=(False,), kind=_FLAG,
                         matters=False),
    "freeze_vision_tower": _by("adapter", "tune.vision", _FLAG, True),
    "freeze_multi_modal_projector": _by("adapter", "tune.projector", _FLAG, True),
    "freeze_language_model": _by("adapter", "tune.language", _FLAG, False),
    "quantization_bit": _by("adapter", "adapter.quantization", _WHOLE),
    "quantization_type": _by("adapter", "adapter.quantization", _TEXT, "nf4"),
    "double_quantization": _by("adapter", "adapter.double_quant", _FLAG, True),
    "pure_bf16": _by("precision", "model.dtype", _FLAG, False),
    "upcast_layernorm": Key(why="layers keep the dtype of the model", same=(False,), kind=_FLAG),
    "disable_gradient_checkpointing": _by("precision", "train.gradient_checkpointing", _FLAG, False),
    "gradient_checkpointing": _by("precision", "train.gradient_checkpointing", _FLAG),
    "moe_aux_loss_coef": Key(to="model.router_aux_loss_coef", kind=_NUMBER, note="here over each pair's tokens"),
    "dataset": _by("data", "data.train", _TEXTS),
    "eval_dataset": _by("data", "data.eval", _TEXTS),
    "dataset_dir": _by("data", "data.train", _TEXT, "data"),
    "media_dir": _by("data", "data.root", _TEXT),
    "val_size": _by("data", "data.held_out", _NUMBER, 0.0, "here by image, so that no image is on both sides"),
    "cutoff_len": Key(to="processing.max_length", kind=_WHOLE, default=2048, note=_CUT),
    "image_max_pixels": Key(to="processing.max_pixels", kind=_WHOLE, default=768 * 768, note=_PIXELS),
    "image_min_pixels": Key(to="processing.min_pixels", kind=_WHOLE, note=_PIXELS),
    "video_max_pixels": Key(to="processing.video_max_pixels", kind=_WHOLE, note=_PIXELS),
    "video_fps": Key(to="processing.video_fps", kind=_NUMBER),
    "video_maxlen": Key(to="processing.video_max_frames", kind=_WHOLE, note="frames that are sampled may be others"),
    "enable_thinking": _by("template", "processing.template_kwargs", _FLAG, True),
}  # fmt: skip

_LOSSES: Final[Mapping[str, str]] = {
    "sigmoid": "dpo", "hinge": "hinge", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo", "kto_pair": "kto",
}  # fmt: skip
"""Their ``pref_loss`` -> our preset. All but kto_pair are the same formula."""


def migrate(draft: Draft) -> None:
    """Write what needs more than a row of the table."""
    _loss(draft)
    carry_model(draft, "model_name_or_path")
    _adapter(draft)
    _precision(draft)
    _data(draft)
    if draft.value("enable_thinking") is False:
        draft.carry("enable_thinking", {"processing.template_kwargs": {"enable_thinking": False}})
    else:
        draft.same("enable_thinking", "what the template does where nothing is said")
    training(draft, output="runs/from_llama_factory", logging_steps=500, save_steps=500)


def _loss(draft: Draft) -> None:
    stage, name = draft.value("stage"), draft.value("pref_loss")
    if stage not in ("dpo", "kto"):
        raise ConfigError(f"{draft.where}: stage is {stage}, and only stage dpo and kto train on preferences; see "
                          "docs/recipes.md for SFT on chosen answers (loss.name=sft)")  # fmt: skip
    draft.same("stage", "mmpref train trains on preferences")
    if stage == "kto":
        draft.drop("pref_loss", "stage kto does not read it", matters=False)
        name = "kto"
        draft.values["loss.name"] = "kto"
    elif name not in _LOSSES:
        raise ConfigError(f"{draft.where}: pref_loss is {name}; known: {', '.join(_LOSSES)}")
    else:
        note = "KTO on both answers of a pair; its estimate of the KL is another" if name == "kto_pair" else ""
        draft.carry("pref_loss", {"loss.name": _LOSSES[name]}, note)
    beta = draft.value("pref_beta")
    draft.carry("pref_beta", {"loss.beta": beta})
    _terms(draft, str(name), float(beta))
    for name_of, ours in (("kto_chosen_weight", "desirable_weight"), ("kto_rejected_weight", "undesirable_weight")):
        if stage == "kto" and draft.value(name_of) != 1:
            draft.carry(name_of, {f"loss.kto.{ours}": draft.value(name_of)})
        elif stage == "kto":
            draft.same(name_of, "the default")
        else:
            draft.drop(name_of, "it belongs to stage kto", matters=False)
    reference = draft.value("ref_model")
    if reference is None or reference == draft.value("model_name_or_path"):
        draft.same("ref_model", "the reference is the model that training starts from")
    else:
        draft.drop("ref_model", "the reference is always the model that training starts from")


def _terms(draft: Draft, name: str, beta: float) -> None:
    """Terms beside the comparison, for the losses that have them."""
    likelihood, bco, smoothing = (draft.value(key) for key in ("pref_ftx", "pref_bco_weight", "dpo_label_smoothing"))
    if not likelihood:
        draft.same("pref_ftx", "0")
    elif name in ("sigmoid", "hinge", "ipo", "simpo"):
        draft.carry("pref_ftx", {"loss.nll_weight": likelihood}, "the same mean over each chosen answer's tokens")
    else:
        draft.drop("pref_ftx", f"{name} has no further likelihood term here")
    if not bco:
        draft.same("pref_bco_weight", "0")
    elif name == "sigmoid":
        share = bco / (1 + bco)
        anchors = {"loss.anchor.chosen": share, "loss.anchor.rejected": share, "loss.anchor.delta": "running"}
        draft.carry("pref_bco_weight", {"loss.pair_weight": 1 / (1 + bco), **anchors},
                    "the same anchors on both answers, divided by 1 + the weight as there")  # fmt: skip
    else:
        draft.drop("pref_bco_weight", f"anchors are carried for sigmoid only, and this is {name}")
    if not smoothing:
        draft.same("dpo_label_smoothing", "0")
    elif name == "sigmoid":
        draft.carry("dpo_label_smoothing", {"loss.label_smoothing": smoothing})
    else:
        draft.drop("dpo_label_smoothing", "LLaMA-Factory takes it for sigmoid only", matters=False)
    if name == "simpo":
        draft.carry("simpo_gamma", {"loss.gamma_beta_ratio": draft.value("simpo_gamma") / beta if beta else 0.0})
    else:
        draft.drop("simpo_gamma", "it belongs to pref_loss simpo", matters=False)


def _adapter(draft: Draft) -> None:
    kind = draft.value("finetuning_type")
    frozen = {
        "vision": draft.value("freeze_vision_tower"),
        "projector": draft.value("freeze_multi_modal_projector"),
        "language": draft.value("freeze_language_model"),
    }
    if kind not in ("lora", "full"):
        draft.drop("finetuning_type", f"there is no {kind}; LoRA is written in its place")
        draft.to_set.append(f"adapter: {kind} has no counterpart; LoRA of the given rank stands in its place")
        kind = "lora"
    else:
        draft.carry("finetuning_type", {"adapter.kind": "none" if kind == "full" else "lora"})
    draft.values["adapter.kind"] = "none" if kind == "full" else "lora"
    trained = "full" if kind == "full" else "lora"
    if frozen["language"] and frozen["vision"] and (kind == "lora" or frozen["projector"]):
        raise ConfigError(f"{draft.where}: freeze_language_model and freeze_vision_tower leave nothing that trains")
    names = {"vision": "freeze_vision_tower", "projector": "freeze_multi_modal_projector",
             "language": "freeze_language_model"}  # fmt: skip
    for part, name in names.items():
        if kind == "lora" and part == "projector":
            draft.values["tune.projector"] = "freeze"
            if frozen[part]:
                draft.same(name, "LoRA leaves the projector as it is, in both")
            else:
                draft.drop(name, "there LoRA is never put on the projector; tune.projector: lora would put it there",
                           matters=False)  # fmt: skip
            continue
        draft.carry(name, {f"tune.{part}": "freeze" if frozen[part] else trained})
    _lora(draft, kind)
    _quantization(draft, kind)


_LORA_KEYS: Final = ("lora_rank", "lora_alpha", "lora_target", "use_rslora", "use_dora", "pissa_init",
                     "pissa_iter")  # fmt: skip


def _lora(draft: Draft, kind: str) -> None:
    start = draft.value("adapter_name_or_path") or []
    if start and (len(start) > 1 or draft.value("create_new_adapter") or kind == "full"):
        draft.drop("adapter_name_or_path", "there it is merged into the model first; merge it, and name the result")
        draft.to_set.append("model.path: the model with the adapters of adapter_name_or_path merged into it")
        start = []
    if draft.value("create_new_adapter") and not start:
        draft.same("create_new_adapter", "a new adapter is the default")
    else:
        draft.same("create_new_adapter", "adapter.path trains an adapter further")
    if kind == "full" or start:
        why = "the adapter of adapter.path has its own" if start else "finetuning_type is full"
        for name in _LORA_KEYS:
            draft.drop(name, why, matters=False)
        if start:
            draft.carry("adapter_name_or_path", {"adapter.path": start[0], "reference.kind": "adapter_off"},
                        "the reference is the model without the adapter, as there")  # fmt: skip
        return
    draft.same("adapter_name_or_path")
    rank = draft.value("lora_rank")
    draft.carry("lora_rank", {"adapter.rank": rank})
    draft.carry("lora_alpha", {"adapter.alpha": draft.value("lora_alpha") or 2 * rank})
    for name in ("use_rslora", "use_dora"):
        draft.carry(name, {f"adapter.{name}": draft.value(name)})
    if draft.value("lora_target") == ["all"]:
        draft.same("lora_target", "every linear layer of the parts that tune names")
    else:
        draft.drop("lora_target", "LoRA is put on every linear layer of a part, so that more weights train")
    steps = draft.value("pissa_iter")
    if not draft.value("pissa_init"):
        draft.same("pissa_init", "the default")
        draft.drop("pissa_iter", "it belongs to pissa_init", matters=False)
    elif draft.value("quantization_bit") or draft.value("use_dora"):
        draft.drop("pissa_init", "PiSSA needs the weights whole and no DoRA")
        draft.drop("pissa_iter", "it belongs to pissa_init", matters=False)
    else:
        init = "pissa" if steps == -1 else f"pissa_niter_{steps}"
        draft.carry("pissa_init", {"adapter.init": init})
        draft.carry("pissa_iter", {"adapter.init": init})


def _quantization(draft: Draft, kind: str) -> None:
    bits, stored = draft.value("quantization_bit"), draft.value("quantization_type")
    if bits is None or kind == "full":
        for name in ("quantization_bit", "quantization_type", "double_quantization"):
            draft.drop(name, "nothing is quantised", matters=bits is not None)
        return
    if bits == 4:
        draft.carry("quantization_bit", {"adapter.kind": "qlora"})
        draft.carry("quantization_type", {"adapter.quantization": stored})
        draft.carry("double_quantization", {"adapter.double_quant": draft.value("double_quantization")})
        return
    if bits == 8:
        draft.carry("quantization_bit", {"adapter.quantization": "int8"})
    else:
        draft.drop("quantization_bit", f"{bits} bits are not here; nf4, fp4 and int8 are")
    for name in ("quantization_type", "double_quantization"):
        draft.drop(name, "it belongs to 4 bits", matters=False)


def _precision(draft: Draft) -> None:
    bf16, fp16, pure = (bool(draft.value(name)) for name in ("bf16", "fp16", "pure_bf16"))
    is_full = draft.values["adapter.kind"] == "none"
    if pure:
        draft.carry("pure_bf16", {"model.dtype": "bfloat16", "train.bf16": True})
        draft.same("bf16", "pure_bf16 says it")
        draft.same("fp16", "pure_bf16 says it")
    else:
        draft.same("pure_bf16", "the default")
        dtype = "float32" if is_full else "bfloat16" if bf16 else "float16" if fp16 else "auto"
        draft.carry("bf16", {"train.bf16": bf16, "model.dtype": dtype})
        draft.carry("fp16", {"train.fp16": fp16 and not bf16})
    again, off = draft.value("gradient_checkpointing"), draft.value("disable_gradient_checkpointing")
    draft.carry("disable_gradient_checkpointing", {"train.gradient_checkpointing": not off})
    if again is not None and again == off:
        draft.drop("gradient_checkpointing", "disable_gradient_checkpointing decides it there", matters=False)
    else:
        draft.same("gradient_checkpointing", "on is the default there")


def _data(draft: Draft) -> None:
    described_sources(draft)
    share = draft.value("val_size")
    if not share:
        draft.same("val_size", "0")
    elif draft.value("eval_dataset"):
        draft.drop("val_size", "eval_dataset goes before it", matters=False)
    elif share < 1:
        draft.carry("val_size", {"data.held_out": share})
    else:
        draft.drop("val_size", "a number of rows; data.held_out is a share below 1")
