"""What differs between model families, as facts. For anything else, ask the processor.

A family is one row of the table below. Module paths are those of the ``...ForConditionalGeneration`` class that
transformers builds (for a text-only model, of the causal LM).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mmpref.errors import ConfigError
from mmpref.processing.rope_lengths import RopeLengths

PartName = Literal["vision", "projector", "language", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """How a family reads a video: what its frames become, and how their times are told."""

    form: Literal["patches", "frames"]
    """Patches of ``temporal_patch_size`` frames in a grid, or whole frames of one size whose features are pooled."""
    time: Literal["order", "positions", "text"] = "order"
    """Frames are only in order; or positions in time follow seconds; or each patch is written with its time before it,
    and is to positions a still image of its own."""
    budget: Literal["frame", "video"] = "frame"
    """What the least and most pixels of the video settings are of: one frame, or all frames of a video together."""
    defaults: Mapping[str, Any] = field(hash=False)
    """The settings of its video processor in transformers, taken where a folder's own name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row of facts about a family of models."""

    name: str
    model_types: frozenset[str]
    """Values of ``config.model_type`` that the row is for."""
    vision: tuple[str, ...] = ()
    """Module paths of the vision tower; empty for a text-only model."""
    projector: tuple[str, ...] = ()
    """Paths of what maps image features to the language model's width; it may lie inside the tower (Qwen's merger)."""
    language: tuple[str, ...] = ("model.language_model",)
    """Module paths of the decoder, without the output head."""
    other: tuple[str, ...] = ()
    """Paths of what neither text nor images run through (sound, heads that draw): never trained."""
    unknown: tuple[str, ...] = ()
    """Paths of what runs and could not be assigned; trained by nobody until ``model.parts`` names it."""
    named: tuple[tuple[str, PartName], ...] = ()
    """(path, part) that the user names (``model.parts``); goes before all other paths."""
    repeats_image_token: bool = True
    """One image place becomes copies of one token. If false, only the processor can expand it, text and all."""
    token_types: str | None = None
    """Model input that marks image tokens with 1 and video tokens with 2, or which tokens are the prompt
    (``prefix_lm``)."""
    prefix_lm: tuple[int, int] | None = None
    """Token types of (prompt, answer) for models that read the prompt in both directions; None for all others."""
    mrope: bool = False
    """Positions have three planes (time, height, width) in which an image is a grid."""
    has_pixel_budget: bool = False
    """The image processor resizes to a number of pixels (``min_pixels``, ``max_pixels``)."""
    tiles_one_image_only: bool = False
    """A row's only image is cut into tiles by its size; several images are not, and have as many tokens each."""
    shared_prefix: bool = False
    """The prompt may be computed once for both answers; otherwise each answer is a row of its own."""
    finds_parts: bool = False
    """The paths above are names that such parts often have; those of a model are found in its own code."""
    budget_copies: int = 1
    """How often the image processor counts one pixel of an image in its budget (GLM-V: once for each frame of the two
    that it makes of an image)."""
    patch: int | None = None
    """Side in pixels of the vision tower's patches, where its config says one number."""
    one_dtype: bool = False
    """Image features are not brought into the dtype of the text that they join: both must be kept in the same."""
    no_images: str = ""
    """Why rows with images are refused although the model sees them."""
    rope_lengths: RopeLengths | None = None
    """Lengths of sequences at which the language model turns positions at other speeds; None for most."""
    places: int | None = None
    """Tokens of the longest sequence, where the language model has a table of places; None for most."""
    video: VideoFacts | None = None
    """How videos are read; None for families whose rows have none."""
    note: str = ""
    """What the user should know of this choice, if anything."""

    @property
    def has_vision(self) -> bool:
        """Whether models of this family take images."""
        return bool(self.vision or self.projector)

    @property
    def apart(self) -> tuple[str, ...]:
        """Paths of everything that is not language."""
        listed = (*self.vision, *self.projector, *self.other, *self.unknown, *(path for path, _ in self.named))
        return tuple(path for path in dict.fromkeys(listed) if self.part_of(path) != "language")

    def paths_of(self, part: PartName) -> tuple[str, ...]:
        """Paths of what belongs to a part other than language."""
        return tuple(path for path in self.apart if self.part_of(path) == part)

    def part_of(self, name: str) -> PartName:
        """The part that a parameter or module of this dotted name belongs to; what is on no list is language."""
        said = [(len(path), part) for path, part in self.named if _is_below(name, path)]
        if said:
            return max(said)[1]
        if any(_is_below(name, path) for path in self.projector):
            return "projector"
        if any(_is_below(name, path) for path in self.vision):
            return "vision"
        if any(_is_below(name, path) for path in (*self.other, *self.unknown)):
            return "other"
        return "language"


def _is_below(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")


_LLAVA = Family(
    name="llava",
    model_types=frozenset({"llava"}),
    vision=("model.vision_tower",),
    projector=("model.multi_modal_projector", "model.image_newline"),
    shared_prefix=True,
)
_QWEN2_VL = Family(
    name="qwen2_vl",
    model_types=frozenset({"qwen2_vl"}),
    vision=("model.visual",),
    projector=("model.visual.merger",),
    token_types="mm_token_type_ids",
    mrope=True,
    has_pixel_budget=True,
    shared_prefix=True,
)
_CLIP_COLOURS: dict[str, Any] = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
_ONEVISION_VIDEO = {**_CLIP_COLOURS, "size": {"height": 384, "width": 384}}
_QWEN2_VIDEO = {
    **_CLIP_COLOURS,
    "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28},
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "max_video_tokens": 128_000,
}
_QWEN3_VIDEO = {
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
    "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "max_video_tokens": 768,
}

_QWEN3_VL = replace(
    _QWEN2_VL,
    name="qwen3_vl",
    model_types=frozenset({"qwen3_vl", "qwen3_vl_moe"}),
    projector=("model.visual.merger", "model.visual.deepstack_merger_list"),
    video=VideoFacts(form="patches", time="text", budget="video", defaults=_QWEN3_VIDEO),
)

# Names that image-text-to-text models of transformers give their parts; a path that a model does not have is not used.
GENERIC = Family(
    name="generic",
    model_types=frozenset(),
    vision=("model.vision_tower", "model.visual", "model.vision_model", "model.vision_encoder"),
    projector=("model.multi_modal_projector", "model.connector", "model.visual.merger", "model.image_newline"),
    language=("model.language_model", "model.text_model"),
    repeats_image_token=False,
    finds_parts=True,
    one_dtype=True,
)

_PADDLEOCR_VL = replace(
    GENERIC,
    name="paddleocr_vl",
    model_types=frozenset({"paddleocr_vl"}),
    repeats_image_token=True,
    token_types="mm_token_type_ids",
    mrope=True,
    has_pixel_budget=True,
    shared_prefix=True,
)

# one row a family; a row that differs from another in little says only what differs
FAMILIES: tuple[Family, ...] = (
    _LLAVA,
    replace(_LLAVA, name="llava_next", model_types=frozenset({"llava_next"})),
    replace(
        _LLAVA,
        name="llava_onevision",
        model_types=frozenset({"llava_onevision"}),
        tiles_one_image_only=True,
        video=VideoFacts(form="frames", defaults=_ONEVISION_VIDEO),
    ),
    replace(_QWEN2_VL, video=VideoFacts(form="patches", defaults=_QWEN2_VIDEO)),
    replace(
        _QWEN2_VL,
        name="qwen2_5_vl",
        model_types=frozenset({"qwen2_5_vl"}),
        video=VideoFacts(form="patches", time="positions", defaults=_QWEN2_VIDEO),
    ),
    _QWEN3_VL,
    replace(
        _QWEN3_VL,
        name="qwen3_5",
        model_types=frozenset({"qwen3_5", "qwen3_5_moe"}),
        projector=("model.visual.merger",),
        shared_prefix=False,
        note="three of four layers of Qwen3.5 carry a state from token to token (gated delta net) in place of "
        "attention, and that state would go from one answer into the other",
    ),
    replace(
        _QWEN2_VL,
        name="glm4v",
        model_types=frozenset({"glm4v", "glm4v_moe", "glm46v", "glm_ocr", "glmga"}),
        projector=("model.visual.downsample", "model.visual.merger"),
        budget_copies=2,
    ),
    _PADDLEOCR_VL,
    replace(_PADDLEOCR_VL, name="cosmos3_edge", model_types=frozenset({"cosmos3_edge"})),
    replace(_PADDLEOCR_VL, name="cohere_compass", model_types=frozenset({"cohere_compass"})),
    Family(
        name="internvl",
        model_types=frozenset({"internvl"}),
        vision=("model.vision_tower",),
        projector=("model.multi_modal_projector",),
        repeats_image_token=False,
        shared_prefix=True,
    ),
    Family(
        name="idefics3",
        model_types=frozenset({"idefics3", "smolvlm"}),
        vision=("model.vision_model",),
        projector=("model.connector",),
        language=("model.text_model",),
        repeats_image_token=False,
        shared_prefix=True,
        one_dtype=True,  # SmolVLM
    ),
    # decoders that see an image as tokens like all others, each at one place: measured with images by tests/model_types
    # (not fast_vlm and perception_lm, whose towers are of another library: their forward is LLaVA's); a decoder that
    # carries a state from token to token (in lfm2_vl, minicpmv4_6) fails the trial
    replace(
        GENERIC,
        name="causal",
        model_types=frozenset(
            {
                "aria",
                "aya_vision",
                "cohere2_vision",
                "deepseek_ocr2",
                "deepseek_vl",
                "deepseek_vl_hybrid",
                "exaone4_5",
                "fast_vlm",
                "got_ocr2",
                "granite_docling",
                "granite4_vision",
                "hyperclovax_vision_v2",
                "idefics2",
                "janus",
                "kimi_k25",
                "lfm2_vl",
                "lighton_ocr",
                "llama4",
                "llava_next_video",
                "minicpmv4_6",
                "mistral3",
                "ovis2",
                "perception_lm",
                "phi4_multimodal",
                "qianfan_ocr",
                "step3p7",
                "video_llama_3",
                "video_llava",
                "vipllava",
            }
        ),
        shared_prefix=True,
    ),
    Family(
        name="gemma3",
        model_types=frozenset({"gemma3"}),
        vision=("model.vision_tower",),
        projector=("model.multi_modal_projector",),
        repeats_image_token=False,
        token_types="token_type_ids",
        shared_prefix=True,
    ),
    replace(GENERIC, name="mllama", model_types=frozenset({"mllama"}), shared_prefix=True),
    replace(
        GENERIC,
        name="gemma4",
        model_types=frozenset({"gemma4", "gemma4_unified"}),
        token_types="mm_token_type_ids",
        shared_prefix=True,
    ),
    Family(
        name="paligemma",
        model_types=frozenset({"paligemma"}),
        vision=("model.vision_tower",),
        projector=("model.multi_modal_projector",),
        repeats_image_token=False,
        token_types="token_type_ids",
        prefix_lm=(0, 1),
        shared_prefix=True,
    ),
    Family(
        name="hrm_text",
        model_types=frozenset({"hrm_text"}),
        language=("model",),
        token_types="token_type_ids",
        prefix_lm=(1, 0),
        shared_prefix=True,
    ),
)

TEXT = Family(name="text", model_types=frozenset(), language=("model",), shared_prefix=True)


def family_of(model_type: str, *, has_vision: bool) -> Family:
    """The row for a model.

    Args:
        model_type: ``config.model_type``.
        has_vision: whether the config describes a vision tower.

    A model type without a row takes the text row, or the generic vision row whose ``note`` says what that costs.

    Raises:
        ConfigError: a model type known to see images whose config has no vision tower.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            if family.vision and not has_vision:
                raise ConfigError(
                    f"model type '{model_type}' sees images, but this config has no vision_config; use the whole "
                    "model, not its text part"
                )
            return family
    if not has_vision:
        return replace(TEXT, model_types=frozenset({model_type}))
    return replace(
        GENERIC,
        model_types=frozenset({model_type}),
        note=f"model type '{model_type}' has no row of its own: it runs on the plain path, each answer with its own "
        "copy of the prompt",
    )
