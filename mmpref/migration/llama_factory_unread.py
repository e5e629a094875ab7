"""Keys of LLaMA-Factory that have no counterpart, with the reason; the rest is in ``llama_factory``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mmpref.migration.contract import Key


def _keys(names: str, why: str, *same: object, matters: bool = False) -> dict[str, Key]:
    return {name: Key(why=why, same=same, matters=matters) for name in names.split()}


_OFF = (False, None)
UNREAD: Final[Mapping[str, Key]] = {
    # what is learned would be another thing
    **_keys("template", "the model's own chat template is used; compare one prompt of each (mmpref doctor shows ours)",
            matters=True),
    **_keys("default_system", "put the system turn into the rows", matters=True),
    **_keys("max_samples", "give a shorter file, or a weight below 1 to the source", matters=True),
    **_keys("mix_strategy", "sources are joined; a weight of a source changes its share", "concat", matters=True),
    **_keys("interleave_probs", "give the sources weights", matters=True),
    **_keys("train_on_prompt", "only answers are counted", *_OFF, matters=True),
    **_keys("mask_history", "only the last answer is counted", True, False),
    **_keys("packing neat_packing", "pairs are laid out without padding as it is", *_OFF),
    **_keys("ref_model_adapters ref_model_quantization_bit", "the reference is the model that training starts from",
            matters=True),
    **_keys("additional_target", "no module is trained beside the adapter", matters=True),
    **_keys("loraplus_lr_ratio", "both matrices of LoRA have one learning rate", matters=True),
    **_keys("loraplus_lr_embedding", "it belongs to LoRA+"),
    **_keys("disable_shuffling", "pairs are drawn at random", False, matters=True),
    **_keys("early_stopping_steps", "a run trains to its last step", matters=True),
    **_keys("model_revision", "the model of the hub's main branch is taken; give a folder for another", "main",
            matters=True),
    **_keys("rope_scaling resize_vocab add_tokens add_special_tokens new_special_tokens_config init_special_tokens",
            "a model is trained as it is; change it first, and give its folder", *_OFF, "noise_init", matters=True),
    **_keys("shift_attn mixture_of_depths train_from_scratch", "a model is trained as it is", *_OFF, matters=True),
    **_keys("trust_remote_code", "code of a model folder is never run; mmpref doctor says whether the model loads",
            False, matters=True),
    **_keys("quantization_method", "bitsandbytes is the only one", "bnb", "bitsandbytes", matters=True),
    **_keys("quantization_device_map", "the whole model is on each device"),
    **_keys("use_galore use_apollo use_badam use_muon use_adam_mini use_llama_pro use_dft_loss use_asft_loss "
            "use_eaft_loss", "it is not here", *_OFF, matters=True),
    **_keys("use_hyper_parallel use_mca use_kt", "devices share the work as --launch says", *_OFF),
    **_keys("image_do_pan_and_scan crop_to_patches", "images are processed as the model's own settings say", *_OFF,
            matters=True),
    **_keys("video_min_pixels", "frames are enlarged as the model's own settings say", matters=True),
    **_keys("use_audio_in_video audio_sampling_rate", "there is no audio", False, 16000, None),
    **_keys("preserve_thinking tool_format", "set processing.template_kwargs where the template reads such a key",
            False, None, matters=True),
    **_keys("freeze_trainable_layers freeze_trainable_modules freeze_extra_modules", "there is no freeze",
            matters=True),
    # only how it is computed, shown or stored
    **_keys("flash_attn", "attention is chosen so that both answers share their prompt; model.attn_implementation sets "
            "it", "auto"),
    **_keys("use_unsloth use_unsloth_gc enable_liger_kernel", "the stock layers are used", *_OFF),
    **_keys("upcast_lmhead_output use_reentrant_gc low_cpu_mem_usage", "computed as it is best here", True, False),
    **_keys("overwrite_cache preprocessing_num_workers preprocessing_batch_size tokenized_path data_shared_file_system "
            "streaming buffer_size cache_dir", "rows are read when they are needed, and nothing is prepared", *_OFF),
    **_keys("ignore_pad_token_for_loss", "padding is never counted", True),
    **_keys("use_fast_tokenizer split_special_tokens", "the model's own tokenizer is used", True, False),
    **_keys("adapter_folder", "give the adapter's own folder"),
    **_keys("plot_loss", "mmpref report draws the curves of a run", True, False),
    **_keys("compute_accuracy", "the share of pairs in the right order is always measured", True, False),
    **_keys("include_effective_tokens_per_second", "metrics.jsonl has the pairs of a second", True, False),
    **_keys("eval_on_each_dataset", "data.eval is measured as one", *_OFF),
    **_keys("offload_folder device_map print_param_status", "the whole model is on each device", *_OFF, "offload"),
    **_keys("hf_hub_token ms_hub_token om_hub_token", "log in with the hub's own command; a recipe holds no token"),
    **_keys("ray_num_workers ray_init_kwargs ray_run_name ray_storage_path ray_storage_filesystem "
            "resources_per_worker placement_strategy master_addr master_port",
            "machines are named with --nodes and --main-address"),
    **_keys("enable_torch_profiler profiler_output_dir profiler_wait_steps profiler_warmup_steps "
            "profiler_active_steps profiler_repeat profiler_record_shapes profiler_profile_memory profiler_with_stack "
            "profile_modules", "mmpref has no profiler", *_OFF),
    **_keys("use_swanlab", "name a tracker in train.report_to", *_OFF),
    **_keys("swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir "
            "swanlab_lark_webhook_url swanlab_lark_secret", "it belongs to SwanLab"),
    # of other optimisers and other tasks of the same program
    **_keys("galore_target galore_rank galore_update_interval galore_scale galore_proj_type galore_layerwise "
            "apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type "
            "apollo_scale_type apollo_layerwise apollo_scale_front badam_mode badam_start_block badam_switch_mode "
            "badam_switch_interval badam_update_ratio badam_mask_mode badam_verbose asft_alpha eaft_alpha "
            "hyper_parallel_args kt_weight_path kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num "
            "kt_lora_expert_intermediate_size module_dropout oft_rank oft_block_size oft_target",
            "it belongs to a method that is not here"),
    **_keys("ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards reward_model "
            "reward_model_adapters reward_model_quantization_bit reward_model_type", "it belongs to PPO"),
    **_keys("infer_backend infer_dtype use_kv_cache vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank "
            "vllm_config sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend "
            "export_dir export_size export_device export_quantization_bit export_quantization_dataset "
            "export_quantization_nsamples export_quantization_maxlen export_legacy_format export_hub_model_id "
            "do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty length_penalty "
            "skip_special_tokens eval_num_beams predict_with_generate generation_max_length generation_num_beams "
            "generation_config sortish_sampler", "training does not read it"),
    **_keys("compute_dtype model_max_length block_diag_attn", "it is no key of a config file"),
}  # fmt: skip
