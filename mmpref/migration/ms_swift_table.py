"""The keys of ms-swift's ``swift rlhf``, each as a fact. Read in the sources of version 4.6.0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from mmpref.migration.contract import Key
from mmpref.migration.training_arguments import TRAINING_ARGUMENTS
from mmpref.migration.values import Kind

_NUMBER, _WHOLE, _FLAG, _TEXT, _TEXTS = Kind.NUMBER, Kind.WHOLE, Kind.FLAG, Kind.TEXT, Kind.TEXTS
_OF = TRAINING_ARGUMENTS
_LENGTH = "mmpref cuts answers only, never images or the prompt; there a row that is too long is left out"
_PIXELS = "for models that resize to a number of pixels (Qwen-VL)"


def _by(part: str, to: str, kind: Kind, default: Any = None, note: str = "") -> Key:
    return Key(by=part, to=to, kind=kind, default=default, note=note)


def _unread(names: str, why: str, *same: Any, matters: bool = False) -> dict[str, Key]:
    return {name: Key(why=why, same=same, matters=matters) for name in names.split()}


_OFF: Final[tuple[Any, ...]] = (False, None, [], 0)
TABLE: Final[Mapping[str, Key]] = {
    **_OF,
    # where its defaults are its own
    "per_device_train_batch_size": replace(_OF["per_device_train_batch_size"], default=1),
    "per_device_eval_batch_size": replace(_OF["per_device_eval_batch_size"], default=1),
    "gradient_accumulation_steps": _by("learning", "train.gradient_accumulation_steps", _WHOLE),
    "learning_rate": _by("learning", "train.learning_rate", _NUMBER),
    "gradient_checkpointing": replace(_OF["gradient_checkpointing"], default=True),
    "weight_decay": replace(_OF["weight_decay"], default=0.1),
    "adam_beta2": replace(_OF["adam_beta2"], default=0.95),
    "lr_scheduler_type": replace(_OF["lr_scheduler_type"], default="cosine"),
    # the loss
    "rlhf_type": _by("loss", "loss.name", _TEXT, "dpo"),
    "loss_type": _by("loss", "loss.name", _TEXTS),
    "loss_weights": _by("loss", "loss.pair_weight", Kind.NUMBERS),
    "beta": _by("loss", "loss.beta", _NUMBER),
    "label_smoothing": _by("loss", "loss.label_smoothing", _NUMBER, 0.0),
    "rpo_alpha": _by("loss", "loss.nll_weight", _NUMBER, None, "here a mean over each answer's tokens"),
    "simpo_gamma": _by("loss", "loss.gamma_beta_ratio", _NUMBER, 1.0, "there the margin, here its share of beta"),
    "cpo_alpha": _by("loss", "loss.nll_weight", _NUMBER, 1.0),
    "desirable_weight": _by("loss", "loss.kto.desirable_weight", _NUMBER, 1.0),
    "undesirable_weight": _by("loss", "loss.kto.undesirable_weight", _NUMBER, 1.0),
    "ref_model": _by("loss", "", _TEXT),
    **_unread("ld_alpha", "LD-DPO's weight of the longer answer's last tokens is not here", 1.0, matters=True),
    **_unread("discopop_tau", "it belongs to a loss that is not here"),
    **_unread("ref_adapters ref_model_type ref_model_revision", "the reference is the model that training starts from",
              [], matters=True),
    **_unread("loss_scale is_binary_loss_scale", "every token of an answer counts alike; loss.token_weights changes it",
              "last_round", "default", matters=True),
    # the model
    "model": _by("model", "model.path", _TEXT),
    "torch_dtype": _by("precision", "model.dtype", _TEXT),
    **_unread("model_type template", "the model's own chat template is used; compare one prompt of each (mmpref doctor "
              "shows ours)", matters=True),
    **_unread("model_revision", "the model of the hub's main branch is taken; give a folder for another", "main",
              matters=True),
    **_unread("task_type num_labels problem_type new_special_tokens rope_scaling init_strategy max_model_len",
              "a model is trained as it is", "causal_lm", [], matters=True),
    **_unread("attn_impl experts_impl", "attention is chosen so that both answers share their prompt; "
              "model.attn_implementation sets it"),
    **_unread("device_map max_memory", "the whole model is on each device"),
    **_unread("local_repo_path external_plugins custom_register_path", "code beside the recipe is never run", [],
              matters=True),
    **_unread("model_kwargs", "write the counterpart of each: FPS and the like are processing.video_fps, ...",
              matters=True),
    # what trains
    "tuner_type": _by("adapter", "adapter.kind", _TEXT),
    "train_type": _by("adapter", "adapter.kind", _TEXT),
    "adapters": _by("adapter", "adapter.path", _TEXTS),
    "freeze_llm": _by("adapter", "tune.language", _FLAG, False),
    "freeze_vit": _by("adapter", "tune.vision", _FLAG, True),
    "freeze_aligner": _by("adapter", "tune.projector", _FLAG, True),
    "lora_rank": _by("adapter", "adapter.rank", _WHOLE, 8),
    "lora_alpha": _by("adapter", "adapter.alpha", _NUMBER, 32.0),
    "lora_dropout": Key(why="there every dropout is switched off for dpo, as disable_dropout is on", same=(0.0,),
                        kind=_NUMBER, matters=False),
    "use_rslora": _by("adapter", "adapter.use_rslora", _FLAG, False),
    "use_dora": _by("adapter", "adapter.use_dora", _FLAG, False),
    "init_weights": _by("adapter", "adapter.init", _TEXT, "true"),
    "target_modules": _by("adapter", "tune", _TEXTS, ["all-linear"]),
    "quant_bits": _by("adapter", "adapter.quantization", _WHOLE),
    "bnb_4bit_quant_type": _by("adapter", "adapter.quantization", _TEXT, "nf4"),
    "bnb_4bit_use_double_quant": _by("adapter", "adapter.double_quant", _FLAG, True),
    "bnb_4bit_compute_dtype": _by("adapter", "adapter.compute_dtype", _TEXT),
    "vit_lr": _by("learning", "train.learning_rates.vision", _NUMBER),
    "aligner_lr": _by("learning", "train.learning_rates.projector", _NUMBER),
    **_unread("quant_method", "bitsandbytes is the only one", "bnb", matters=True),
    **_unread("hqq_axis bnb_4bit_quant_storage", "it belongs to a quantisation that is not here"),
    **_unread("target_regex target_parameters modules_to_save freeze_parameters freeze_parameters_regex "
              "freeze_parameters_ratio trainable_parameters trainable_parameters_regex",
              "parts of the model are named by tune, and no single modules", [], 0.0, matters=True),
    **_unread("lora_bias", "biases are not trained", "none", matters=True),
    **_unread("lora_dtype", "an adapter is kept in float32 where it trains", "float32"),
    **_unread("lorap_lr_ratio", "both matrices of LoRA have one learning rate", matters=True),
    **_unread("tuner_backend use_swift_lora", "adapters are peft's", "peft", False),
    # data and lengths
    "dataset": _by("data", "data.train", _TEXTS),
    "val_dataset": _by("data", "data.eval", _TEXTS),
    "split_dataset_ratio": _by("data", "data.held_out", _NUMBER, 0.0, "here by image"),
    "max_length": Key(to="processing.max_length", kind=_WHOLE, note=_LENGTH),
    "max_pixels": Key(to="processing.max_pixels", kind=_WHOLE, note=_PIXELS),
    "env MAX_PIXELS": _by("pixels", "processing.max_pixels", _WHOLE, None, _PIXELS),
    "env MIN_PIXELS": _by("pixels", "processing.min_pixels", _WHOLE, None, _PIXELS),
    "env FPS": Key(to="processing.video_fps", kind=_NUMBER),
    "env FPS_MAX_FRAMES": Key(to="processing.video_max_frames", kind=_WHOLE),
    "env VIDEO_MAX_PIXELS": Key(to="processing.video_max_pixels", kind=_WHOLE),
    "enable_thinking": _by("template", "processing.template_kwargs", _FLAG),
    **_unread("truncation_strategy", "answers are cut; a row whose prompt is too long is quarantined", "delete",
              matters=True),
    **_unread("system agent_template response_prefix norm_bbox", "put it into the rows", matters=True),
    **_unread("columns custom_dataset_info", "rows are read by their format (mmpref data check says which)",
              matters=True),
    **_unread("use_chat_template", "pairs are always written by the chat template", True, matters=True),
    **_unread("padding_side padding_free packing packing_length packing_num_proc packing_strategy template_backend",
              "pairs are laid out without padding as it is", "right", "swift", False, 1, None, "binpack"),
    **_unread("sequence_parallel_size", "a row is never divided", 1),
    **_unread("dataset_shuffle train_dataloader_shuffle", "pairs are drawn at random", True, matters=True),
    **_unread("val_dataset_shuffle shuffle_buffer_size streaming dataset_num_proc load_from_cache_file download_mode "
              "lazy_tokenize cached_dataset cached_val_dataset data_seed load_data_args strict",
              "rows are read when they are needed, and nothing is prepared", *_OFF, 1, 42, 1000,
              "reuse_dataset_if_exists"),
    **_unread("interleave_prob stopping_strategy", "give the sources weights", "first_exhausted", matters=True),
    **_unread("disable_auto_column_mapping preserve_thinking add_non_thinking_prefix disable_ignore_empty_think "
              "model_name model_author", "rows are read by their format", *_OFF, True),
    # how it runs
    **_unread("max_epochs early_stop_interval", "num_train_epochs says how long", matters=True),
    **_unread("optimizer use_galore lisa_activated_layers", "it is not here", *_OFF, matters=True),
    **_unread("enable_dft_loss enable_channel_loss acc_strategy mrl_dims", "it belongs to other tasks", *_OFF, "token",
              "seq"),
    "router_aux_loss_coef": Key(to="model.router_aux_loss_coef", kind=_NUMBER, note="here over each pair's tokens"),
    **_unread("vit_gradient_checkpointing check_model use_logits_to_keep ds3_gather_for_generation resume_only_model "
              "safe_serialization max_shard_size add_version create_checkpoint_symlink use_flash_ckpt callbacks "
              "eval_metric load_args ignore_args_error enable_npu_model_patch zero_hpz_partition_size "
              "deepspeed_autotp_size", "nothing that is learned hangs on it", *_OFF, True),
    **_unread("use_hf hub_token", "models and data sets come from the Hugging Face hub, or from folders", *_OFF, True),
    **_unread("eval_use_evalscope eval_dataset eval_dataset_args eval_limit eval_generation_config extra_eval_args",
              "mmpref eval asks benchmarks", *_OFF),
    **_unread("max_new_tokens temperature top_k top_p repetition_penalty num_beams stream stop_words logprobs "
              "top_logprobs max_completion_length structured_outputs_regex sft_alpha lmbda seq_kd gkd_logits_topk",
              "training on pairs generates nothing"),
    **_unread("swanlab_token swanlab_project swanlab_workspace swanlab_exp_name swanlab_mode", "it belongs to SwanLab"),
}  # fmt: skip
"""Keys for PPO, GRPO, distillation and other tuners are not listed: they are reported as unknown."""
