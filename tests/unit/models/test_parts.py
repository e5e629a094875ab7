"""Which modules are tower, projector and language: over every type of image-text model that transformers knows."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TYPES
from transformers.models.llama4.modeling_llama4 import Llama4Router

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, LoadedModel, Tuning, prepare
from mmpref.models.adapters.targets import lora_layers
from mmpref.models.load import family_of_config, family_with_parts
from mmpref.models.part_counts import count_parts
from mmpref.models.parts import find_parts, with_parts
from mmpref.processing.family import FAMILIES, Family
from tests.tiny_others import OTHERS, bare
from tests.tiny_vlms import TINY, build_model

pytestmark = pytest.mark.model_types

SETTINGS: dict[str, dict[str, Any]] = {  # where the defaults describe no model, or one without a tower
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model"}},
    "chameleon": {"vq_config": {}, "vocabulary_map": {"<image>": 4, "IMGIMGA": 5}},
    "emu3": {"vocabulary_map": {"<image>": 4}},
    "fast_vlm": {"vision_config": {"model_type": "clip_vision_model"}},
    "gemma4": {"vision_config": {}, "audio_config": {}},
    "gemma4_unified": {"vision_config": {}, "audio_config": {}},
    "idefics": {"use_resampler": True},
    "idefics3": {"pad_token_id": 0},  # its default is larger than the default vocabulary, which some releases refuse
    "smolvlm": {"pad_token_id": 0},
}
NOT_BUILT = {  # their default configs describe no model
    "cohere_compass", "deepseek_ocr2", "diffusion_gemma", "granite4_vision", "hunyuan_vl", "qwen4_exp",
    "gemma3n", "perception_lm",  # towers of timm
}  # fmt: skip
NO_PAIR_MODEL = {
    "evolla",
    "mistral4",
    "pi0",
    "pp_formulanet",
    "udop",
    "vision-encoder-decoder",
}  # proteins, text, robots, formulas
NO_PROJECTOR = {"blip", "chameleon", "emu3", "inkling_mm_model", "pix2struct"}  # the tower gives the width of the text
NO_TOWER = {"fuyu", "gemma4_unified"}  # patches are projected, and that is all

HIGH_RES = ("high_res_vision_neck", "high_res_vision_proj")

# An account of its own of what is no language: what people call such modules.
SEES = re.compile(
    r"vision|visual|image|video|img|vq|aligner|merger|projector|mm_proj|connector|resampler|qformer|query_tokens"
    r"|perceiver|audio|speech|generation_|view_separator"
)
IN_TOWER = re.compile(r"\.(layers|blocks|encoder_layers|transformer|resblocks)\.\d+\.|patch_embed|embeddings\.patch")


def shrunk(config: Any) -> Any:
    """Two layers a stack, where that is all the config needs to know."""
    for name in ("num_hidden_layers", "depth", "num_layers"):
        if isinstance(getattr(config, name, None), int) and getattr(config, name) > 2:
            setattr(config, name, 2)
    for value in list(vars(config).values()):
        if isinstance(value, tf.PretrainedConfig):
            shrunk(value)
    return config


@functools.cache
def model_of(name: str) -> tf.PreTrainedModel:
    """On the meta device; small where the type allows it."""
    found = TYPES[name]
    kind = getattr(tf, found if isinstance(found, str) else found[0])
    settings = SETTINGS.get(name, {})
    with torch.device("meta"):
        try:
            return kind._from_config(shrunk(CONFIG_MAPPING[name](**settings)))
        except Exception:  # lists of layers that no longer fit, and the like
            return kind._from_config(CONFIG_MAPPING[name](**settings))


def located(name: str) -> tuple[tf.PreTrainedModel, Family]:
    model = model_of(name)
    family = Family(name="any", model_types=frozenset({name}), vision=("any",), finds_parts=True)
    return model, with_parts(family, model)


SWEPT = sorted(set(TYPES) - NOT_BUILT - NO_PAIR_MODEL)


def test_the_sweep_covers_what_transformers_maps() -> None:
    assert len(SWEPT) >= 0.8 * len(TYPES)


@pytest.mark.parametrize("name", SWEPT)
def test_no_tensor_of_sight_or_sound_counts_as_language_and_the_projector_is_told_from_the_tower(name: str) -> None:
    model, family = located(name)
    names = [key for key, _ in model.named_parameters()]
    of = {part: [key for key in names if family.part_of(key) == part] for part in ("vision", "projector", "language")}
    assert not family.unknown
    assert not [key for key in of["language"] if SEES.search(re.sub(r"language_model.*|text_model.*", "", key))]
    head: Any = model.get_output_embeddings()
    core = {
        id(value) for part in (model.get_input_embeddings(), head) if part is not None for value in part.parameters()
    }
    assert core <= {id(value) for key, value in model.named_parameters() if family.part_of(key) == "language"}
    assert len(of["language"]) > 4
    assert bool(of["vision"]) == (name not in NO_TOWER)
    assert bool(of["projector"]) == (name not in NO_PROJECTOR)
    assert not [key for key in of["projector"] if IN_TOWER.search(key) and "qformer" not in key and "percei" not in key]


@pytest.mark.parametrize(
    "row", [row for row in FAMILIES if row.vision and not row.finds_parts], ids=lambda row: row.name
)
def test_a_row_of_the_table_says_what_the_model_s_own_code_says(row: Family) -> None:
    for name in row.model_types:
        model, found = located(name)
        for key, _ in model.named_parameters():
            assert row.part_of(key) == found.part_of(key), key


@pytest.mark.parametrize(
    ("name", "vision", "projector", "other"),
    [
        ("llama4", ["vision_model"], ["multi_modal_projector"], []),
        ("blip-2", ["vision_model"], ["qformer", "language_projection", "query_tokens"], []),
        ("video_llava", ["model.video_tower", "model.image_tower"], ["model.multi_modal_projector"], []),
        ("kosmos-2", ["vision_model"], ["image_to_text_projection"], []),
        ("nemotron_h_omni", ["vision_model"], ["multi_modal_projector"], []),
        ("lighton_ocr", ["model.vision_encoder"], ["model.vision_projection"], []),
        ("kimi_k25", ["model.vision_tower"], ["model.mm_projector"], []),
        ("ernie4_5_vl_moe", ["model.vision_tower"], ["model.resampler_model"], []),
        ("minicpmv4_6", ["model.vision_tower"], ["model.merger"], []),
        ("glm4v", ["model.visual"], ["model.visual.downsample", "model.visual.merger"], []),
        ("gemma4", ["model.vision_tower"], ["model.embed_vision"], ["model.audio_tower", "model.embed_audio"]),
        ("qwen2_5_omni_thinker", ["model.visual"], ["model.visual.merger"], ["model.audio_tower"]),
        (
            "deepseek_vl_hybrid",
            ["model.high_res_vision_model", "model.vision_model"],
            [f"model.{name}" for name in (*HIGH_RES, "aligner", "high_res_vision_alpha")],
            [],
        ),
        (
            "janus",
            ["model.vision_model"],
            ["model.aligner"],
            ["model.vqmodel", "model.generation_embeddings", "model.generation_aligner", "model.generation_head"],
        ),
    ],
)  # fmt: skip
def test_parts_have_these_paths(name: str, vision: list[str], projector: list[str], other: list[str]) -> None:
    if name not in TYPES:
        pytest.skip(f"transformers {tf.__version__} does not know {name}")
    model = model_of(name)
    parts = find_parts(model)
    beside = hasattr(model, vision[0].removeprefix("model.")) and vision[0].startswith("model.")
    if beside:  # releases differ in whether the towers lie beside the language model or one level deeper
        vision, projector, other = (
            [path.removeprefix("model.") for path in kind] for kind in (vision, projector, other)
        )
    assert (parts.vision, parts.projector, parts.other) == (vision, projector, other)


# ---- what a run does with them -----------------------------------------------------------------------------------


def trained(model: nn.Module) -> list[str]:
    return [name for name, value in model.named_parameters() if value.requires_grad]


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("name", list(OTHERS))
def test_a_frozen_part_stays_frozen_in_a_type_without_a_row(name: str, tuning: Any) -> None:
    adapter = AdapterSettings(rank=4) if tuning == "lora" else None
    ready = prepare(bare(name), Tuning(language=tuning), adapter)
    names = trained(ready.model)
    assert names
    assert all(re.match(r"(base_model\.model\.)?(model\.)?(language_model|lm_head)", key) for key in names)


@pytest.mark.parametrize("part", ["vision", "projector"])
@pytest.mark.parametrize("name", list(OTHERS))
def test_lora_on_a_part_is_on_that_part_alone(name: str, part: Any) -> None:
    asked: dict[str, Any] = {"language": "freeze", part: "lora"}
    ready = prepare(bare(name), Tuning(**asked), AdapterSettings(rank=4))
    counts = count_parts(ready.model, ready.family)
    assert {key for key, count in counts.items() if count.trained} == {part}


class _WithHead(tf.LlavaForConditionalGeneration):
    """LLaVA with a module that runs, and of which nothing says what it is."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.watcher = nn.Linear(4, 4)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.watcher(torch.zeros(4))
        return super().forward(*args, **kwargs)


def odd(**named: Any) -> LoadedModel:
    model = _WithHead(TINY["llava"].model().config)
    family = with_parts(family_of_config(model.config), model, named or None)
    return LoadedModel(model=model, processor=None, family=family, path="odd")


def test_a_module_that_cannot_be_assigned_is_refused_until_it_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"be read from its code: watcher; say it, as in model\.parts=\{watcher: other\}"
    ):
        prepare(odd(), Tuning(language="lora"), AdapterSettings(rank=4))
    frozen = prepare(odd(watcher="other"), Tuning(language="lora"), AdapterSettings(rank=4))
    assert not [key for key in trained(frozen.model) if "watcher" in key]
    placed = prepare(odd(watcher="language"), Tuning(language="lora"), AdapterSettings(rank=4))
    assert [key for key in trained(placed.model) if "watcher" in key]
    moved = prepare(odd(watcher="projector"), Tuning(projector="full", language="freeze"))
    assert "watcher.weight" in trained(moved.model)


def test_a_name_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.parts names 'nothing'"):
        odd(nothing="vision")


def test_a_router_that_gives_more_than_a_linear_layer_gets_no_adapter() -> None:
    loaded = bare("llama4")
    names = lora_layers(loaded.model, loaded.family, Tuning(language="lora"))
    routers = [name for name, module in loaded.model.named_modules() if isinstance(module, Llama4Router)]
    assert routers
    assert not set(routers) & set(names)
    assert any(name.endswith("shared_expert.gate_proj") for name in names)


def test_lora_on_a_part_without_a_linear_layer_is_refused() -> None:
    loaded = bare("llama4")
    loaded.model.multi_modal_projector = nn.Conv1d(4, 4, 1)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"tune\.projector is lora, and it has no linear layer"):
        prepare(loaded, Tuning(projector="lora", language="lora"), AdapterSettings(rank=4))


def every_tuning() -> Iterator[tuple[Tuning, AdapterSettings | None]]:
    yield Tuning(language="lora"), AdapterSettings(rank=4)
    yield Tuning(vision="lora", projector="full", language="lora"), AdapterSettings(rank=8)
    yield Tuning(vision="full", projector="full", language="full"), None


@pytest.mark.parametrize("name", ["llava_next", "qwen3_vl", "text"])
def test_parts_add_up_to_the_model(name: str) -> None:
    for tuning, adapter in every_tuning():
        if name == "text":
            tuning = Tuning(language=tuning.language)
        model = build_model(name)
        before = sum(value.numel() for value in model.parameters())
        ready = prepare(
            LoadedModel(model=model, processor=None, family=family_of_config(model.config), path=name), tuning, adapter
        )
        counts = count_parts(ready.model, ready.family)
        added = sum(value.numel() for key, value in ready.model.named_parameters() if ".lora_" in key)
        assert sum(count.total for count in counts.values()) == before + added
        assert sum(count.trained for count in counts.values()) == sum(
            value.numel() for value in ready.model.parameters() if value.requires_grad
        )


def test_the_parts_of_a_config_are_those_of_its_model() -> None:
    loaded = bare("blip2")
    assert family_with_parts(loaded.model.config).vision == ("vision_model",)
