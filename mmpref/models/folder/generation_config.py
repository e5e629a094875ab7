"""How a model writes: plainly. Of a folder's generation_config.json only the numbers of tokens are taken.

Answers are greedy, so that they can be compared between models and repeated; what a file says of sampling has no place
in them, and what it says of penalties or forced words would change them with no word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpref.models.folder.contents import TOKEN_IDS, read_object

FILE = "generation_config.json"
_WITHOUT_EFFECT = frozenset({
    "do_sample", "temperature", "top_p", "top_k", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "max_length", "max_new_tokens", "max_time", "use_cache", "cache_implementation", "cache_config", "num_beams",
    "return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "num_return_sequences", "transformers_version", "is_assistant", "low_memory", "disable_compile", "compile_config",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens",
    "max_matching_ngram_size", "decoder_start_token_id", "chat_format", "_from_model_config",
})  # fmt: skip
"""Settings that greedy answers of a limit of their own do not depend on."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
_NEUTRAL = {"repetition_penalty": 1, "encoder_repetition_penalty": 1, "length_penalty": 1, "guidance_scale": 1,
            "num_beam_groups": 1, "diversity_penalty": 0, "no_repeat_ngram_size": 0, "min_length": 0,
            "encoder_no_repeat_ngram_size": 0, "min_new_tokens": 0}  # fmt: skip
"""What says the same as nothing."""


def plain_generation(config: Any, path: str | Path) -> Any:
    """A ``GenerationConfig`` with the ids of begin, end and padding: the file's, and the model's own where it has none.

    Args:
        config: of the model.
        path: its folder or hub id.
    """
    from transformers import GenerationConfig

    written = _read(path)
    text = config.get_text_config(decoder=True)
    ids = {}
    for name in TOKEN_IDS:
        own = getattr(config, name, None)
        ids[name] = written.get(name, getattr(text, name, None) if own is None else own)
    return GenerationConfig(**ids)


def left_out(path: str | Path) -> list[str]:
    """Settings of a model's generation_config.json that would change greedy answers, and are not followed."""
    return sorted(
        name
        for name, value in _read(path).items()
        if _NAME.fullmatch(name)
        and name not in _WITHOUT_EFFECT
        and name not in TOKEN_IDS
        and not (value is None or value is False or value in ([], {}, "") or value == _NEUTRAL.get(name))
    )


def _read(path: str | Path) -> Mapping[str, Any]:
    """What the file says; nothing where there is none. That of a hub id is where loading put it."""
    file = Path(path) / FILE
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            file = Path(hf_hub_download(str(path), FILE))
        except (OSError, ValueError, HfHubHTTPError):  # not there, or not to be had: as transformers takes it
            return {}
    return read_object(file) if file.exists() else {}
