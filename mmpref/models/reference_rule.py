"""Who the reference is: the one rule that training, ``mmpref plan`` and ``--launch`` ask.

It is decided from a few facts, which a recipe has before anything is loaded and a model has afterwards. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmpref.errors import ConfigError, DistributedError
from mmpref.recipe.sections import Recipe

ReferenceModelKind = Literal["adapter_off", "copied_adapter", "frozen_copy"]
AskedKind = Literal["auto", "adapter_off", "copied_adapter", "frozen_copy", "cache"]
Kind = Literal["none", "adapter_off", "copied_adapter", "frozen_copy", "cache"]
WHOLE = "zero3"
"""The strategy under which a second model cannot be divided among the processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What counts of a policy that has not been trained yet."""

    has_adapter: bool
    adds_nothing: bool = False
    """The adapter as it starts adds zero: switched off, the model is the same."""
    changed_base: bool = False
    """The adapter took its weights out of the base (PiSSA), which is no model without it."""
    outside: str = ""
    """A weight that trains and is not the adapter's, so that it would change for the reference too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceChoice:
    """Who the reference is, and why, in one sentence.

    ``is_start`` is False where it is not the policy as it starts, so that margins do not begin at 0.
    """

    kind: Kind
    explanation: str
    is_start: bool = True

    @property
    def is_second_model(self) -> bool:
        """Whether it is a model of its own, beside the policy's."""
        return self.kind == "frozen_copy"

    @property
    def is_copy(self) -> bool:
        """Whether all that trains is in memory a second time, as it was at the start."""
        return self.kind in ("copied_adapter", "frozen_copy")


def choose(
    asked: AskedKind, start: Start, *, needs_reference: bool = True, strategy: str = "single"
) -> ReferenceChoice:
    """The rule.

    Args:
        asked: ``reference.kind``.
        start: of the policy.
        needs_reference: whether the loss compares with one.
        strategy: what several processes do with the weights.

    Raises:
        ConfigError: ``adapter_off`` or ``copied_adapter`` where the reference would change with what trains, or
            ``adapter_off`` of an adapter whose base is no model.
        DistributedError: a second model, which the strategy cannot divide among the processes.
    """
    if not needs_reference:
        return ReferenceChoice(kind="none", explanation="the loss compares with none")
    if asked == "cache":
        why = "its log-probs are computed once, before training, and kept on disk: no second model in memory"
        return ReferenceChoice(kind="cache", explanation=why)
    obstacle = _why_not_by_adapter(start)
    if asked in ("adapter_off", "copied_adapter") and obstacle:
        instead = "auto or frozen_copy" if strategy != WHOLE else "cache"
        raise ConfigError(f"reference.kind: {asked} is not possible: {obstacle}; use {instead}")
    if asked == "adapter_off":
        return _bare_base(start)
    if asked == "frozen_copy" or obstacle:
        reason = obstacle or "asked for"
        if strategy == WHOLE:
            instead = "cache" if obstacle else "auto or cache"
            raise DistributedError(
                f"the reference would be a frozen copy of the policy ({reason}), which is not divided under {WHOLE}; "
                f"use reference.kind={instead}, which keeps no second model, or --launch fsdp2"
            )
        why = f"a frozen copy of the policy as it starts ({reason}): a second model in memory"
        return ReferenceChoice(kind="frozen_copy", explanation=why)
    if asked == "auto" and start.adds_nothing:
        why = "the policy with its adapter switched off: no second model in memory"
        return ReferenceChoice(kind="adapter_off", explanation=why)
    trained = "PiSSA does not start at zero" if start.changed_base else "it was trained before"
    reason = "asked for" if asked == "copied_adapter" else trained
    why = f"a frozen copy of the adapter as it starts ({reason}), on the same base: no second model in memory"
    return ReferenceChoice(kind="copied_adapter", explanation=why)


def start_of(recipe: Recipe) -> Start:
    """What a recipe says of the policy that it starts from.

    A part that trains fully beside LoRA is a copy that the adapter keeps: no weight outside the adapter ever trains.
    An adapter that is trained further adds something, as long as its weights are not known.
    """
    adapter = recipe.adapter
    if adapter.kind == "none":
        return Start(has_adapter=False)
    fresh = adapter.path is None
    return Start(
        has_adapter=True,
        adds_nothing=fresh and adapter.init == "zero",
        changed_base=fresh and adapter.init != "zero",
    )


def reference_of(recipe: Recipe, *, needs_reference: bool, strategy: str = "single") -> ReferenceChoice:
    """Who the reference will be, from the recipe alone.

    Raises:
        ConfigError, DistributedError: see :func:`choose`.
    """
    return choose(recipe.reference.kind, start_of(recipe), needs_reference=needs_reference, strategy=strategy)


def _why_not_by_adapter(start: Start) -> str:
    if not start.has_adapter:
        return "the weights themselves are trained"
    return f"weights outside the adapter are trained ({start.outside})" if start.outside else ""


def _bare_base(start: Start) -> ReferenceChoice:
    if start.adds_nothing:
        return ReferenceChoice(kind="adapter_off", explanation="the base model with the adapter switched off")
    if start.changed_base:
        raise ConfigError(
            "reference.kind: adapter_off is not possible: this adapter started by taking its weights out of the base "
            "(PiSSA), which is no model without it; use auto"
        )
    why = (
        "the bare base model, as asked for, and not the adapter that training starts from: margins do not start at 0 "
        "(reference.kind: auto compares with the start)"
    )
    return ReferenceChoice(kind="adapter_off", explanation=why, is_start=False)
