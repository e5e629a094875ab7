"""What scorers with a model in this process share: the options that name it, and answers that get no score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.evals.model_facts import model_facts, source_of
from mmpref.generation.model_source import ModelSource
from mmpref.records import Candidates
from mmpref.sampling.scorers.contract import AnswerPlace, RawScore


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model, as ``mmpref eval`` has it.

    Args:
        model: a model folder, adapter folder, hub id or run folder.
        adapter: a LoRA folder for it.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        quantization: ``nf4`` or ``int8``.
        max_pixels: the most pixels of one image.
    """

    model: str
    adapter: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        for key in ("model", "adapter", "dtype", "quantization"):
            value = getattr(self, key)
            if not (isinstance(value, str) and value) and (value is not None or key in ("model", "dtype")):
                raise ConfigError(f"{key} must be a text, got {value!r}")
        refuse_small("max_pixels", self.max_pixels)

    def source(self) -> ModelSource:
        """The model.

        Raises:
            ConfigError: it is none, or cannot be quantised so.
        """
        return source_of(
            self.model,
            adapter=None if self.adapter is None else Path(self.adapter),
            dtype=self.dtype,
            quantization=self.quantization,
            max_pixels=self.max_pixels,
        )


def facts_of_model(source: ModelSource) -> Mapping[str, Any]:
    """What scores depend on of the model: its files, and how it is loaded.

    Raises:
        ConfigError: a file in its folder cannot be read.
    """
    return model_facts(source, fetch=True)


def portions(items: Sequence[Candidates], size: int = 256) -> Iterator[Sequence[Candidates]]:
    """So many prompts at once: what is made of millions of answers would fill the memory."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def refuse_other(key: str, value: Any, known: tuple[Any, ...]) -> None:
    """Raises ConfigError for a value of an option that is none of those known."""
    if not any(value is one or (value == one and type(value) is type(one)) for one in known):
        shown = ", ".join(str(one).lower() if isinstance(one, bool) else str(one) for one in known)
        raise ConfigError(f"{key} must be one of {shown}, got {value!r}")


def refuse_small(key: str, value: Any, least: int = 1) -> None:
    """Raises ConfigError for what is neither None nor a whole number of at least ``least``."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ConfigError(f"{key} must be a whole number from {least}, got {value!r}")


def missing(item: Candidates, why: str, detail: str = "") -> Iterator[RawScore]:
    """No score for any answer of a prompt, of which the scorer has nothing to say."""
    for at in range(len(item.answers)):
        yield without_score(AnswerPlace(item.prompt.id, at), why, detail)


def without_score(place: AnswerPlace, why: str, detail: str = "", *, failed: bool = False) -> RawScore:
    """No score for one answer: why in a word, and in a sentence where there is one.

    Args:
        failed: there should be one (``RawScore.failed``); else the scorer has nothing to say of the answer.
    """
    return RawScore(place=place, value=None, why=why, failed=failed, detail={"why": detail} if detail else {})


def what_shows_no_image(item: Candidates) -> str:
    """Why a scorer that compares answers with images has nothing to say of a prompt: "" where it has."""
    if item.prompt.videos:
        return "video"
    return "" if item.prompt.images else "no_image"
