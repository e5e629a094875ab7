"""What an answerer is, and what all of them need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from mmpref.records import Answer, EvalSample, ImageRef

NO_MEMORY = "out_of_memory"
"""The code of a failure: what does not fit in memory alone."""


class Answerer(Protocol):
    """Answers questions, each once, in any order, as soon as the answers are known.

    A question that got none is left out. An answerer may say why in ``failures`` (sample id -> reason) and, in a word
    that can be counted, in ``failure_codes``, and give facts about itself in ``facts``, which are written to
    ``results.json``; all are optional.
    """

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        """One answer for each sample that got one."""
        ...


def failures_of(answerer: Answerer) -> Mapping[str, str]:
    """Why questions got no answer, as far as the answerer says."""
    found: Mapping[str, str] = getattr(answerer, "failures", {})
    return found


def failure_codes_of(answerer: Answerer) -> Mapping[str, str]:
    """The same in a word that can be counted."""
    found: Mapping[str, str] = getattr(answerer, "failure_codes", {})
    return found


def facts_of(answerer: Answerer) -> Mapping[str, Any]:
    """What the answerer says about itself."""
    found: Mapping[str, Any] = getattr(answerer, "facts", {})
    return found


def same_questions(samples: Iterable[EvalSample]) -> list[list[EvalSample]]:
    """Samples grouped by images and prompt; groups about the same images come after each other."""
    by_images: dict[tuple[ImageRef, ...], dict[Any, list[EvalSample]]] = {}
    for sample in samples:
        by_images.setdefault(sample.images, {}).setdefault(sample.prompt, []).append(sample)
    return [alike for questions in by_images.values() for alike in questions.values()]


def deal(samples: Sequence[EvalSample], num: int) -> list[list[EvalSample]]:
    """``num`` shares of about the same size.

    The questions about one image stay together, in their order, and so do those without one that have the same prompt.
    """
    groups: dict[Any, list[EvalSample]] = {}
    for sample in samples:
        groups.setdefault(sample.images or sample.prompt, []).append(sample)
    shares: list[list[EvalSample]] = [[] for _ in range(num)]
    for group in groups.values():
        min(shares, key=len).extend(group)
    return shares
