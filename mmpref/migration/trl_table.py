"""The keys of TRL's ``DPOConfig``, ``ModelConfig``, ``ScriptArguments`` and ``DatasetMixtureConfig``, each as a fact.

Read in the sources of version 1.16.0; keys that older releases had are here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from mmpref.migration.contract import Key
from mmpref.migration.training_arguments import TRAINING_ARGUMENTS
from mmpref.migration.values import Kind

_NUMBER, _WHOLE, _FLAG, _TEXT, _TEXTS = Kind.NUMBER, Kind.WHOLE, Kind.FLAG, Kind.TEXT, Kind.TEXTS
_OF = TRAINING_ARGUMENTS
CUT = (
    "mmpref cuts answers only, never images or the prompt; there the row is cut at its end, and pairs whose prompt "
    "fills it are left out"
)
_STOCK = "computed as it is best here"


def _by(part: str, to: str, kind: Kind, default: Any = None, note: str = "") -> Key:
    return Key(by=part, to=to, kind=kind, default=default, note=note)


def _unread(names: str, why: str, *same: Any, matters: bool = False) -> dict[str, Key]:
    return {name: Key(why=why, same=same, matters=matters) for name in names.split()}


TABLE: Final[Mapping[str, Key]] = {
    **_OF,
    "learning_rate": replace(_OF["learning_rate"], default=1e-6),
    "gradient_checkpointing": replace(_OF["gradient_checkpointing"], default=True),
    # DPOConfig
    "loss_type": _by("loss", "loss.name", _TEXTS, ["sigmoid"]),
    "loss_weights": _by("loss", "loss.pair_weight", Kind.NUMBERS),
    "beta": _by("loss", "loss.beta", _NUMBER, 0.1),
    "label_smoothing": _by("loss", "loss.label_smoothing", _NUMBER, 0.0),
    "rpo_alpha": _by("loss", "loss.nll_weight", _NUMBER, None, "here a mean over each answer's tokens"),
    "precompute_ref_log_probs": _by("reference", "reference.kind", _FLAG, False, "kept on disk, for later runs too"),
    "max_length": Key(by="length", to="processing.max_length", kind=_WHOLE, default=1024, null=True, note=CUT),
    "disable_dropout": _by("adapter", "adapter.dropout", _FLAG, True),
    "router_aux_loss_coef": Key(to="model.router_aux_loss_coef", kind=_NUMBER, note="here over each pair's tokens"),
    "model_init_kwargs": _by("model", "model.dtype", Kind.MAPPING),
    **_unread("ld_alpha", "LD-DPO's weight of the longer answer's last tokens is not here", 1.0, matters=True),
    **_unread("f_divergence_type", "only the reverse KL is here", "reverse_kl", matters=True),
    **_unread("f_alpha_divergence_coef discopop_tau", "it belongs to a loss that is not here"),
    **_unread("use_weighting", "WPO's weights are not here", False, matters=True),
    **_unread("sync_ref_model", "the reference never moves", False, matters=True),
    **_unread("ref_model_mixup_alpha ref_model_sync_steps", "it belongs to sync_ref_model"),
    **_unread("reference_free", "write loss.name: cpo or simpo for a loss without a reference", False, matters=True),
    **_unread("force_use_ref_model ref_model_init_kwargs model_adapter_name ref_adapter_name",
              "the reference is the model that training starts from", False, matters=True),
    **_unread("truncation_mode", "answers are cut at their end", "keep_start", matters=True),
    **_unread("max_prompt_length", "a prompt is never cut; a pair too long is shrunk, cut in its answers, or refused",
              matters=True),
    **_unread("max_completion_length max_target_length", "processing.max_length bounds prompt and answer together",
              matters=True),
    **_unread("trust_remote_code", "code of a model folder is never run; mmpref doctor says whether the model loads",
              False, matters=True),
    **_unread("padding_free pad_to_multiple_of padding_value label_pad_token_id pad_token use_logits_to_keep",
              "pairs are laid out without padding as it is", False, "auto"),
    **_unread("precompute_ref_batch_size", "train.per_device_eval_batch_size pairs at a time"),
    **_unread("dataset_num_proc", "rows are read when they are needed"),
    **_unread("activation_offloading", "mmpref plan says what else makes it fit", False),
    **_unread("use_liger_loss base_model_attribute_name is_encoder_decoder", _STOCK, False),
    **_unread("generate_during_eval", "train.samples answers prompts while it trains", False),
    **_unread("tools", "set processing.template_kwargs.tools", matters=True),
    **_unread("sanity_check gradient_checkpointing_use_reentrant vllm_sampling_params", _STOCK, False),
    # ModelConfig
    "model_name_or_path": _by("model", "model.path", _TEXT),
    "dtype": _by("model", "model.dtype", _TEXT, "float32"),
    "torch_dtype": _by("model", "model.dtype", _TEXT),
    "use_peft": _by("adapter", "adapter.kind", _FLAG, False),
    "lora_r": _by("adapter", "adapter.rank", _WHOLE, 16),
    "lora_alpha": _by("adapter", "adapter.alpha", _NUMBER, 32),
    "lora_dropout": _by("adapter", "adapter.dropout", _NUMBER, 0.05),
    "lora_target_modules": _by("adapter", "tune", _TEXTS),
    "use_rslora": _by("adapter", "adapter.use_rslora", _FLAG, False),
    "use_dora": _by("adapter", "adapter.use_dora", _FLAG, False),
    "load_in_4bit": _by("adapter", "adapter.kind", _FLAG, False),
    "load_in_8bit": _by("adapter", "adapter.quantization", _FLAG, False),
    "bnb_4bit_quant_type": _by("adapter", "adapter.quantization", _TEXT, "nf4"),
    "use_bnb_nested_quant": _by("adapter", "adapter.double_quant", _FLAG, False),
    **_unread("model_revision", "the model of the hub's main branch is taken; give a folder for another", "main",
              matters=True),
    **_unread("attn_implementation", "attention is chosen so that both answers share their prompt; "
              "model.attn_implementation sets it"),
    **_unread("lora_target_parameters", "adapter.experts puts LoRA on experts", matters=True),
    **_unread("lora_modules_to_save", "no module is trained beside the adapter", [], matters=True),
    **_unread("lora_task_type", "adapters are those of causal models", "CAUSAL_LM"),
    **_unread("bnb_4bit_quant_storage", _STOCK),
    # ScriptArguments and DatasetMixtureConfig
    "dataset_name": _by("data", "data.train", _TEXT),
    "dataset_config": _by("data", "data.train", _TEXT),
    "dataset_train_split": _by("data", "data.train", _TEXT, "train"),
    "dataset_test_split": _by("data", "data.eval", _TEXT, "test"),
    "datasets": _by("data", "data.train"  , Kind.ANY),
    "test_split_size": _by("data", "data.held_out", _NUMBER, None, "here by image, so that no image is on both sides"),
    **_unread("dataset_streaming streaming", "rows are read when they are needed", False),
    **_unread("ignore_bias_buffers", _STOCK, False),
    "num_processes": Key(by="devices", kind=_WHOLE),
    "accelerate_config": Key(by="devices", kind=_TEXT),
    "config": Key(why="its keys are not in this file; give that file", matters=True),
}  # fmt: skip
