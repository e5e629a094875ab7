"""TRL: the YAML of ``trl dpo --config``, its command line, or that of a script with a ``DPOConfig``.

The losses were read in the sources of version 1.16.0 (``DPOTrainer``); the keys are in ``trl_table``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mmpref.data.reading.source import is_hub_id
from mmpref.errors import ConfigError
from mmpref.migration.contract import Draft
from mmpref.migration.losses import PAIR_LOSSES, combined, known_losses
from mmpref.migration.sources import TO_SET
from mmpref.migration.training_arguments import carry_model, training
from mmpref.migration.trl_table import CUT
from mmpref.migration.values import Kind, convert

NAME: Final = "TRL"
_MEAN = "there a mean over the chosen tokens of the batch, here over each answer's"


def migrate(draft: Draft) -> None:
    """Write what needs more than a row of the table."""
    _loss(draft)
    _model(draft)
    _adapter(draft)
    _precision(draft)
    _data(draft)
    length = draft.value("max_length")
    if length is not None or "max_length" in draft.given:
        draft.carry("max_length", {"processing.max_length": length}, CUT if length else "nothing is cut")
    training(draft, output="runs/from_trl", logging_steps=10, save_steps=500)


def _loss(draft: Draft) -> None:
    kinds = draft.value("loss_type") or ["sigmoid"]
    found = combined(kinds, draft.value("loss_weights"), draft.where)
    ours: dict[str, Any] = {"loss.name": "dpo"} if found is None else found
    if found is None:
        said = " + ".join(kinds)
        draft.drop("loss_type", f"{said} is not here; known: {known_losses()}")
        draft.drop("loss_weights", "it belongs to loss_type")
        draft.to_set.append(f"loss: {said} has no counterpart; plain DPO stands in its place")
        draft.values.update(ours)
    else:
        note = _MEAN if "sft" in kinds else ""
        draft.carry("loss_type", ours, note)
        draft.carry("loss_weights", ours, note)
    pairs = [kind for kind in kinds if kind in PAIR_LOSSES] if found else ["sigmoid"]
    _smoothing(draft, pairs)
    if ours["loss.name"] == "sft":
        draft.drop("beta", "a likelihood alone has no beta", matters=False)
    else:
        draft.carry("beta", {"loss.beta": draft.value("beta")})
    weight = draft.value("rpo_alpha")
    if weight is None:
        draft.same("rpo_alpha")
    elif "loss.nll_weight" in ours or ours["loss.name"] == "sft":
        draft.drop("rpo_alpha", "the likelihood of loss_type is there already")
    else:
        draft.carry("rpo_alpha", {"loss.nll_weight": weight}, _MEAN)
    if draft.value("precompute_ref_log_probs") and ours["loss.name"] != "sft":
        draft.carry("precompute_ref_log_probs", {"reference.kind": "cache"})
    else:
        draft.same("precompute_ref_log_probs", "the default")


def _smoothing(draft: Draft, pairs: Sequence[str]) -> None:
    share = draft.value("label_smoothing")
    if pairs == ["robust"]:
        draft.carry("label_smoothing", {"loss.label_smoothing": share})
    elif not share:
        draft.same("label_smoothing", "0")
    else:
        draft.drop("label_smoothing", "TRL 1.16 reads it for robust only; where an older one smoothed sigmoid, write "
                   f"loss.label_smoothing: {share:g}", matters=pairs == ["sigmoid"])  # fmt: skip


def _model(draft: Draft) -> None:
    carry_model(draft, "model_name_or_path")
    inner = draft.value("model_init_kwargs") or {}
    dtype = {key: inner[key] for key in ("dtype", "torch_dtype") if inner.get(key) is not None}
    left = [key for key in inner if key not in (*dtype, "attn_implementation", "revision", "trust_remote_code")]
    if left:
        draft.drop("model_init_kwargs", f"{', '.join(left)}: a model is loaded as its folder says")
    elif dtype:
        draft.carry("model_init_kwargs", {"model.dtype": _dtype(draft, next(iter(dtype.values())))})
    else:
        draft.drop("model_init_kwargs", "a model is loaded as its folder says", matters=bool(inner))
    name = "torch_dtype" if draft.value("torch_dtype") is not None else "dtype"
    if dtype and not left:
        draft.drop(name, "model_init_kwargs goes before it", matters=False)
    else:
        draft.carry(name, {"model.dtype": _dtype(draft, draft.value(name))})
    if name == "torch_dtype":
        draft.drop("dtype", "torch_dtype goes before it", matters=False)
    else:
        draft.same("torch_dtype")


def _dtype(draft: Draft, value: Any) -> str:
    name = str(value or "float32").removeprefix("torch.")
    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise ConfigError(f"{draft.where}: dtype {name} is not known; known: auto, float32, bfloat16, float16")
    return name


_LORA: Final[Mapping[str, str]] = {
    "lora_r": "rank", "lora_alpha": "alpha", "use_rslora": "use_rslora", "use_dora": "use_dora",
}  # fmt: skip


def _adapter(draft: Draft) -> None:
    if not draft.value("use_peft"):
        parts = dict.fromkeys(("tune.vision", "tune.projector", "tune.language"), "full")
        draft.carry("use_peft", {"adapter.kind": "none", **parts}, "every weight trains there, the vision tower too")
        for name in (*_LORA, "lora_dropout", "lora_target_modules", "bnb_4bit_quant_type", "use_bnb_nested_quant"):
            draft.drop(name, "use_peft is off", matters=False)
        for name in ("load_in_4bit", "load_in_8bit"):
            draft.drop(name, "use_peft is off, and quantised weights do not train", matters=bool(draft.value(name)))
        draft.same("disable_dropout", "a model's own dropout is 0 in all models that are known here")
        return
    draft.carry("use_peft", {"adapter.kind": "lora"})
    for name, ours in _LORA.items():
        draft.carry(name, {f"adapter.{ours}": draft.value(name)})
    if draft.value("disable_dropout"):
        draft.carry("disable_dropout", {"adapter.dropout": 0.0}, "there it switches the adapter's dropout off as well")
        draft.drop("lora_dropout", "disable_dropout switches it off there", matters=False)
    else:
        draft.same("disable_dropout", "adapter.dropout is kept")
        draft.carry("lora_dropout", {"adapter.dropout": draft.value("lora_dropout")})
    targets = draft.value("lora_target_modules")
    everywhere = targets == ["all-linear"]
    beside = "lora" if everywhere else "freeze"
    parts = {"tune.vision": beside, "tune.projector": beside, "tune.language": "lora"}
    if everywhere or targets is None:
        said = (
            "all-linear reaches into the vision tower and the projector"
            if everywhere
            else (
                "there peft chooses layers by the model's type, often q_proj and v_proj alone; here every linear layer"
            )
        )
        draft.carry("lora_target_modules", parts, said)
    else:
        draft.values.update(parts)
        draft.drop("lora_target_modules", "LoRA is put on every linear layer of a part, so that more weights train")
    _quantization(draft)


def _quantization(draft: Draft) -> None:
    if draft.value("load_in_4bit"):
        draft.carry(
            "load_in_4bit", {"adapter.kind": "qlora"}, "of the language model; vision tower and head stay whole"
        )
        draft.carry("bnb_4bit_quant_type", {"adapter.quantization": draft.value("bnb_4bit_quant_type")})
        draft.carry("use_bnb_nested_quant", {"adapter.double_quant": draft.value("use_bnb_nested_quant")})
        draft.same("load_in_8bit", "the default")
        return
    draft.same("load_in_4bit", "the default")
    if draft.value("load_in_8bit"):
        draft.carry("load_in_8bit", {"adapter.quantization": "int8"})
    else:
        draft.same("load_in_8bit", "the default")
    for name in ("bnb_4bit_quant_type", "use_bnb_nested_quant"):
        draft.drop(name, "it belongs to load_in_4bit", matters=False)


def _precision(draft: Draft) -> None:
    fp16, bf16 = bool(draft.value("fp16")), draft.value("bf16")
    draft.carry("fp16", {"train.fp16": fp16})
    draft.carry("bf16", {"train.bf16": (not fp16) if bf16 is None else bf16})


def _data(draft: Draft) -> None:
    mixture, name = draft.value("datasets"), draft.value("dataset_name")
    single = ("dataset_name", "dataset_config", "dataset_train_split")
    if mixture:
        if not isinstance(mixture, list) or not all(isinstance(entry, Mapping) for entry in mixture):
            raise ConfigError(f"{draft.where}: datasets must be a list of mappings with a path each")
        sources, left = zip(*(_of_mixture(entry, draft.where) for entry in mixture), strict=True)
        dropped = sorted({key for keys in left for key in keys})
        said = f"not read of it: {', '.join(dropped)}" if dropped else ""
        draft.carry("datasets", {"data.train": list(sources)}, said)
        for key in single:
            draft.drop(key, "datasets goes before it", matters=False)
    else:
        draft.same("datasets")
        _single(draft, name)
    share = draft.value("test_split_size")
    if share and share < 1:
        draft.carry("test_split_size", {"data.held_out": share})
    else:
        draft.drop("test_split_size", "data.held_out is a share below 1", matters=bool(share))
    _held_out(draft, name, has_share=bool(share and share < 1))


def _single(draft: Draft, name: str | None) -> None:
    if name is None:
        draft.to_set.append("data.train: the file names no dataset_name")
        draft.values["data.train"] = TO_SET
        for key in ("dataset_name", "dataset_config", "dataset_train_split"):
            draft.drop(key, "no dataset_name is given", matters=False)
        return
    config, split = draft.value("dataset_config"), draft.value("dataset_train_split")
    source = _source(name, config, split)
    draft.carry("dataset_name", {"data.train": source})
    for key, is_read in (("dataset_config", config is not None), ("dataset_train_split", isinstance(source, dict))):
        if is_read and is_hub_id(name):
            draft.carry(key, {"data.train": source})
        else:
            draft.same(key, "one file has no splits")
    draft.assumed.pop("data.train", None)


def _source(path: str, config: str | None, split: str | None) -> Any:
    if not is_hub_id(path):
        return path
    return {"path": f"{path}:{config}" if config else path, **({"split": split} if split else {})}


_OF_A_SOURCE: Final = ("path", "name", "split", "data_files")


def _of_mixture(entry: Mapping[str, Any], where: str) -> tuple[Any, list[str]]:
    """One source of a mixture, and the keys of it that are not read."""
    texts = {key: convert(entry.get(key), Kind.TEXT, f"{where}: datasets.{key}") for key in _OF_A_SOURCE[:3]}
    left = [str(key) for key in entry if key not in _OF_A_SOURCE and entry[key] is not None]
    files = entry.get("data_files")
    if isinstance(files, str) and texts["path"] in ("json", "parquet", "arrow"):
        return files, left
    if texts["path"] is None:
        raise ConfigError(f"{where}: an entry of datasets has no path")
    source = _source(texts["path"], texts["name"], texts["split"] or "train")
    return source, left + (["data_files"] if files is not None else [])


def _held_out(draft: Draft, name: str | None, *, has_share: bool) -> None:
    key = "dataset_test_split"
    names = ("eval_strategy", "evaluation_strategy")
    evaluates = any((draft.value(one) or "no") != "no" for one in names)
    if not evaluates or has_share or name is None:
        draft.same(key, "nothing is evaluated there" if not evaluates else "")
    elif is_hub_id(name):
        draft.carry(key, {"data.eval": _source(name, draft.value("dataset_config"), draft.value(key))})
    else:
        draft.drop(key, "one file has no splits; data.held_out or data.eval holds pairs out", matters=False)
