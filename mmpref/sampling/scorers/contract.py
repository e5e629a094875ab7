"""What a scorer is, and what all of them need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from mmpref.errors import ConfigError
from mmpref.generation.settings import AnswerSettings
from mmpref.records import Candidates
from mmpref.yaml_text import did_you_mean

T = TypeVar("T")


class AnswerPlace(NamedTuple):
    """One answer: the id of its prompt, and its place among the candidates."""

    prompt_id: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RawScore:
    """What a scorer says of one answer, on its own scale.

    Args:
        place: which answer.
        value: None where there is none, and ``why`` is a short reason that can be counted.
        again: there is none yet, and another run may bring one: it is asked again, and the step is not complete.
        failed: there should be one, and no other run would bring it (a prompt over a server's limit, a log-prob that is
            no number): it counts as missing, but is not asked again. Without it the scorer has nothing to say.
        detail: evidence for people, as JSON.
    """

    place: AnswerPlace
    value: float | None
    why: str = ""
    again: bool = False
    failed: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)


class Scorer(Protocol):
    """Gives answers scores. A higher score is a better answer.

    Two more names are looked for, and a scorer need not have them: ``compares_answers`` (:func:`compares_answers`), and
    a method ``estimate(items)``, whose rows (a label and a text each) ``mmpref sample score --dry-run`` prints.
    """

    @property
    def version(self) -> str:
        """Raised whenever its rule changes, so that older scores are not taken for it."""
        ...

    @property
    def scale(self) -> tuple[float | None, float | None]:
        """Lowest and highest possible score; None where nothing bounds them."""
        ...

    @property
    def depends_on(self) -> Mapping[str, Any]:
        """What its scores depend on beside the answers, as JSON: scores made with another are never mixed with it."""
        ...

    def score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        """One score for each answer of the prompts, in any order, as soon as it is known.

        Raises:
            MMPrefError: nothing more can be scored; what was given before is kept.
        """
        ...


def compares_answers(scorer: Scorer) -> bool:
    """Whether a score also depends on the other answers of its prompt: such a scorer always gets all of them, others
    only those that have no score yet."""
    return bool(getattr(scorer, "compares_answers", False))


def looks_at_images(scorer: Scorer) -> bool:
    """Whether a score depends on what is in the images, as it does where a scorer does not say otherwise."""
    return bool(getattr(scorer, "looks_at_images", True))


@runtime_checkable
class PaidScorer(Protocol):
    """A scorer that asks who may want to be paid: it says before what that will take, and after what it took."""

    def estimate(self, items: Sequence[Candidates]) -> list[tuple[str, str]]:
        """What scoring will take, as rows of a table; nothing is sent and nothing written.

        Raises:
            ConfigError: it would cost more than the scorer's options allow.
        """
        ...

    def took(self) -> Mapping[str, Any]:
        """What scoring took so far: counts as JSON, by what people call them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreContext:
    """What a scorer is built with, beside its options.

    Args:
        image_root: relative image paths of the prompts start here.
        answering: batches, device and threads of models in this process.
        folder: of the step, for a cache of the scorer's own.
    """

    image_root: Path | None = None
    answering: AnswerSettings = field(default_factory=AnswerSettings)
    folder: Path = Path()


def scale_of(given: Any, name: str) -> tuple[float, float]:
    """The lowest and the highest number of a range written as LO..HI.

    Args:
        name: of the option, for messages.

    Raises:
        ConfigError: it is none.
    """
    low, dots, high = str(given).partition("..")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (math.nan, math.nan)
    if not dots or not found[0] < found[1] or not all(map(math.isfinite, found)):
        raise ConfigError(f"{name} must be LOWEST..HIGHEST, two numbers such as 0..5, got {given!r:.60}")
    return found


def options_of(kind: type[T], given: Mapping[str, Any], name: str) -> T:
    """The options of the scorer ``name``: a dataclass made of what was given, its defaults for the rest.

    Raises:
        ConfigError: an option that there is not, one that is needed and missing, or a value that the dataclass refuses.
    """
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    for key in given:
        if key not in known:
            hint = did_you_mean(key, list(known))
            raise ConfigError(f"scorer '{name}' has no option '{key}'{hint}; it has: {', '.join(known) or 'none'}")
    needed = [key for key, entry in known.items() if entry.default is MISSING and entry.default_factory is MISSING]
    if missing := [key for key in needed if key not in given]:
        raise ConfigError(f"scorer '{name}' needs {' and '.join(f'{name}.{key}=...' for key in missing)}")
    try:
        return kind(**given)
    except ConfigError as err:
        raise ConfigError(f"scorer '{name}': {err}") from err
