"""Kinds of models that are not trained on preference pairs here, known by what their config or their code says.

Most would load, and fail or give numbers that mean nothing later: the log-prob of an answer is that of a decoder which
reads the conversation, images included, from left to right.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from mmpref.errors import ConfigError

_OTHER = "use a decoder with a vision tower instead, such as Qwen3-VL, LLaVA-OneVision, InternVL or Gemma 3"
_OTHER_TEXT = "use a decoder instead, such as Qwen3, Llama or Gemma"

_TABLES: tuple[Any, ...] = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""Model type -> class, of those that write text."""
_FACTS: dict[str, str] = {
    "blip": "looks at an image through cross-attention from a small BERT, which has no place for it between the text",
    "blip-2": "puts its image before all text, whatever the conversation says, and has no conversation",
    "blt": "reads bytes in patches, and adds to their embeddings in place, which no gradient can be taken of",
    "cpmant": "reads its prompt behind trained prompt tokens and in both directions, padded on the left only",
    "doge": "chooses the tokens that it attends to by looking ahead, once a row is longer than its keep_window_size",
    "evolla": "reads proteins, and no images",
    "fuyu": "takes the patches of one image as lists before its text, which are not batched here",
    "gemma4_assistant": "drafts tokens from the hidden states of another model, and is none of its own",
    "gemma4_unified_assistant": "drafts tokens from the hidden states of another model, and is none of its own",
    "git": "puts its image before all text, whatever the conversation says, and has no conversation",
    "instructblip": "makes the features of an image from the text beside it, so that an answer would be seen before "
    "it is predicted",
    "instructblipvideo": "makes the features of a video from the text beside it, so that an answer would be seen "
    "before it is predicted",
    "kosmos-2": "has one image at the start of its text, in which its processor writes no conversation",
    "kosmos-2.5": "reads the text on one image, and no conversation",
    "moss_transcribe_diarize": "writes down what is said, and answers nothing",
    "pi0": "moves a robot, and writes no text",
    "pp_chart2table": "reads the table of one chart, and no conversation",
    "prophetnet": "predicts several tokens at once with a decoder that takes no padding",
    "reformer": "sorts tokens into buckets at random, so that its log-probs differ each time",
    "xlm": "reads its text in both directions",
    "xlnet": "reads its text in both directions (in orders that are drawn at random)",
}
"""Model type -> why it is refused, where neither its config nor its code says so."""


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether it was saved with a head for classes: a reward model has one, of one class."""
    built = getattr(config, "architectures", None) or ()
    return bool(built) and all(isinstance(name, str) and name.endswith("Classification") for name in built)


def refuse_kind(config: PretrainedConfig, path: str | Path, *, classifier: bool = False) -> None:
    """Refuse a model that its config shows to be of no use here.

    Args:
        classifier: it is to give scores, not answers.

    Raises:
        ConfigError: with the reason, and what to use instead.
    """
    if is_classifier(config) and not classifier:
        raise ConfigError(
            f"{path} is a {(config.architectures or [''])[0]}: a classifier, which writes no answers that could be "
            "trained; use the model that it was made from"
        )
    inside = _model_inside(config)
    if inside:
        raise ConfigError(
            f"{path} is a model of type '{config.model_type}', of which a part reads and writes text: load it with "
            f"transformers, save its '{inside}' (model.{inside}.save_pretrained), put the processor's and tokenizer's "
            "files beside that, and give the new folder"
        )
    reason = _reason(config)
    if reason:
        sees = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        raise ConfigError(
            f"{path} is a model of type '{config.model_type}', which {reason}; {_OTHER if sees else _OTHER_TEXT}"
        )


def _reason(config: PretrainedConfig) -> str:
    kind = str(config.model_type)
    if kind in _FACTS:
        return _FACTS[kind]
    if config.is_encoder_decoder or any(part.is_encoder_decoder for part in _inner(config)):
        return (
            "reads its prompt with an encoder of its own (encoder-decoder), and only models that are one decoder are "
            "trained here"
        )
    if "Diffusion" in str(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind, "")):
        return (
            "writes the tokens of an answer together, by diffusion, so that none has a log-prob after those before it"
        )
    sees = isinstance(getattr(config, "vision_config", None), PretrainedConfig)
    if not sees and isinstance(getattr(config, "vq_config", None), PretrainedConfig):
        return "reads and draws images as tokens of a vocabulary (vq_config), which have no features to be trained on"
    if any(kind in table for table in _TABLES):
        return ""
    if any("audio" in key for key, value in vars(config).items() if isinstance(value, PretrainedConfig)):
        return "hears sound, and only text and images are trained on here"
    return f"transformers {transformers.__version__} has no causal LM or image-text-to-text model for"


def _model_inside(config: PretrainedConfig) -> str:
    """The part of a model of several models (Qwen-Omni's thinker) that could be trained by itself; "" for none."""
    if any(config.model_type in table for table in _TABLES):
        return ""
    for key, part in vars(config).items():
        if isinstance(part, PretrainedConfig) and part.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            return str(key).removesuffix("_config")
    return ""


def _inner(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    for key in ("text_config", "vision_config"):
        if isinstance(part := getattr(config, key, None), PretrainedConfig):
            yield part


_BOTH_WAYS: Mapping[str, tuple[Any, ...]] = {"use_bidirectional_attention": (True, "all"), "is_causal": (False,)}
"""Keys of a language model's config -> the values with which all of its layers look ahead; some configs make the second
of the first."""
_PROMPT_ONLY = frozenset({"paligemma"})
"""Types that look ahead in the prompt alone, which they are told."""


def refuse_reading_ahead(model: PreTrainedModel, path: str | Path) -> None:
    """Refuse a model for filling gaps (BERT and its kin), whose places see the tokens that they should predict.

    Such a type can be a causal LM too, and its code asks the config which of the two it is (``is_decoder``); some
    configs of causal LMs have that key, and no code asks it. Decoders that were made into models for embeddings (GTE,
    EmbeddingGemma) say so by other keys, and transformers builds them with a head for words all the same.

    Args:
        model: as built; its weights are not looked at.

    Raises:
        ConfigError: the config says no.
    """
    text = model.config.get_text_config()
    said = [key for key, values in _BOTH_WAYS.items() if getattr(text, key, None) in values]
    if said and model.config.model_type not in _PROMPT_ONLY:
        raise ConfigError(
            f"{path} is a '{model.config.model_type}' model that reads its text in both directions ({said[0]}: "
            f"{json.dumps(getattr(text, said[0]))} in config.json), so that each place sees the token that it should "
            f"predict; {_OTHER_TEXT}, or take the key out where the model was trained to write"
        )
    if getattr(model.config, "is_decoder", True) or not any(map(_asks, {type(one) for one in model.modules()})):
        return
    raise ConfigError(
        f"{path} is a '{model.config.model_type}' model that reads its text in both directions (is_decoder: false in "
        f"config.json), so that each place sees the token that it should predict; {_OTHER_TEXT}"
    )


def _asks(kind: type[nn.Module]) -> bool:
    """Whether a model's own methods look at ``config.is_decoder``."""
    if not issubclass(kind, PreTrainedModel):
        return False
    own = [inspect.unwrap(one) for name, one in vars(kind).items() if callable(one) and name != "__init__"]
    return any(isinstance(one, types.FunctionType) and "is_decoder" in one.__code__.co_names for one in own)


def other_architecture(config: PretrainedConfig) -> str:
    """What contradicts a config's model_type in the class that it names as its own; empty where nothing does."""
    for name in getattr(config, "architectures", None) or ():
        of: Any = getattr(getattr(transformers, str(name), None), "config_class", None)
        if of is None or issubclass(type(config), of) or name in _classes_of(config.model_type):
            continue
        return (
            f"config.json names the architecture {name}, which is of model_type '{of.model_type}', beside model_type "
            f"'{config.model_type}'"
        )
    return ""


def _classes_of(model_type: str) -> set[str]:
    """Classes that transformers lists for a model type."""
    listed = [table.get(model_type) for table in _TABLES]
    return {one for names in listed if names for one in ((names,) if isinstance(names, str) else names)}
