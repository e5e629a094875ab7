"""Every type of model that can be written here -> what writes its folder.

A type of model that transformers maps and nothing here writes must stand in ``NOT_BUILT`` with the reason.
"""

from __future__ import annotations

from functools import partial

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from tests.model_types import (
    causal,
    gemma,
    glm,
    grids,
    llama,
    no_pair_models,
    qwen,
    towers_classic,
    towers_other,
    towers_sized,
    towers_torchvision,
    towers_torchvision_wide,
)
from tests.model_types.folders import Writer
from tests.tiny_others import write_llava_next_video, write_mllama, write_paligemma, write_pixtral, write_video_llava
from tests.tiny_vlms import TINY, build

IMAGE_TYPES = frozenset(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
CAUSAL_TYPES = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

_MODULES = (
    causal,
    no_pair_models,
    gemma,
    glm,
    grids,
    llama,
    qwen,
    towers_classic,
    towers_other,
    towers_sized,
    towers_torchvision,
    towers_torchvision_wide,
)
WRITERS: dict[str, Writer] = {
    **{name: partial(build, name) for name in TINY if name not in ("text", "llava_vicuna")},
    "llava_next_video": write_llava_next_video,
    "mllama": write_mllama,
    "paligemma": write_paligemma,
    "pixtral (llava)": write_pixtral,
    "video_llava": write_video_llava,
    **{name: writer for module in _MODULES for name, writer in module.WRITERS.items()},
}

NOT_BUILT: dict[str, str] = {name: reason for module in _MODULES for name, reason in module.NOT_BUILT.items()}
"""Types without a folder here -> why."""
