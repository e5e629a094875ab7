"""What a recipe says and would not do: keys that belong to another kind, and keys that contradict each other.

The rules are in :mod:`mmpref.recipe.key_rules`. A key that would be ignored is refused together with the overrides that
put it right, never dropped: after ``adapter.kind=none`` over a QLoRA recipe nobody should have to guess what
became of ``tune``.

The advice is written so that it can be carried out as it is: what is between backticks in one alternative (they are
parted by "; or ") is, all together, what to add to the command line, or the keys to leave out there.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmpref.errors import ConfigError
from mmpref.recipe.key_rules import BELONGS, Cure, Problem, contradictions

After = Callable[[Cure], Sequence[Problem]]
"""What is wrong with the recipe once a cure has been carried out."""
_STEPS = 4
"""Cures that one alternative may need one after the other."""


def refuse_left_over(
    recipe: Any,
    *,
    later: Mapping[str, bool] | None = None,
    problems: Sequence[Problem] = (),
    after: After | None = None,
) -> None:
    """Refuse what would be ignored, and what contradicts itself.

    Args:
        recipe: with every key of the right type.
        later: dotted keys that the command line (or a second file) changed, and whether they had a value before. They
            are meant: the advice leaves them as they are where it can, and one that does nothing is refused even where
            it holds the default, unless that took something back or is a no.
        problems: more of them, found elsewhere.
        after: carries a cure out, so that only advice is given that leads to a recipe without problems.

    Raises:
        ConfigError: every problem, and the overrides that put all of them right.
    """
    later = later or {}
    found = [*problems, *problems_of(recipe, later=later)]
    if not found:
        return
    best = [_leaving(later, problem.cures) for problem in found]
    ways = _ways(best) or _ways([problem.cures for problem in found])
    if after is not None:
        tried = [_completed(way, later, after, _STEPS) for way in ways]
        ways = list(dict.fromkeys(way for way in tried if way is not None)) or ways
    ways = ways or [_all([cures[0] for cures in best])]
    says = "; ".join(problem.says for problem in found)
    raise ConfigError(f"{says}; {'; or '.join(_advice(way) for way in ways[: 1 if len(found) > 1 else None])}")


def refuse_unread_reference(recipe: Any, *, needs_reference: bool, loss: str) -> None:
    """Refuse a ``reference`` section that says something although the loss compares with none.

    Args:
        recipe: the recipe.
        needs_reference: whether its loss reads reference log-probs.
        loss: its name.

    Raises:
        ConfigError: the section would do nothing, and what to write.
    """
    if needs_reference or recipe.reference.kind == "auto" or recipe.samples_name_reference:
        return
    says = f"reference.kind {recipe.reference.kind} does nothing: the loss ({loss}) has no reference"
    plain = "reference={kind: auto}" if recipe.reference.cache is None else "reference={kind: auto, cache: null}"
    refuse_left_over(recipe, problems=[Problem(says, [Cure((plain,))])])


def refuse_other_image(recipe: Any, *, needs_other: bool, loss: str) -> None:
    """Refuse a loss that looks at another image where there is none, and another image that no loss looks at.

    Args:
        recipe: the recipe.
        needs_other: whether its loss reads log-probs of the chosen answer under another image.
        loss: its name.

    Raises:
        ConfigError: what is missing or would do nothing, and what to write.
    """
    source = recipe.data.other_image
    if needs_other == (source is not None):
        return
    if needs_other:
        kind = ["noise", "step=500"] if loss == "chip" else ["crop"]
        made = tuple(f"processing.other_image.{key}" for key in (f"kind={kind[0]}", *kind[1:]))
        says = f"the loss ({loss}) looks at the chosen answer under another image, and data.other_image is null"
        refuse_left_over(recipe, problems=[Problem(says, [Cure(("data.other_image=made", *made))])])
        return
    # keys of processing.other_image are then refused with advice of their own, which knows where they were given
    says = f"data.other_image {source} does nothing: the loss ({loss}) looks at one image only"
    refuse_left_over(recipe, problems=[Problem(says, [Cure(("data.other_image=null",))])])


def problems_of(recipe: Any, *, later: Mapping[str, bool]) -> list[Problem]:
    """What :func:`refuse_left_over` refuses."""
    return [*_ignored(recipe, later), *contradictions(recipe, later)]


def _completed(cure: Cure, later: Mapping[str, bool], after: After, steps: int) -> Cure | None:
    """A cure together with those of what it leaves wrong; None where that would take back what it says itself."""
    left = after(cure)
    if not left:
        return cure
    for following in _leaving(later, left[0].cures) if steps else ():
        if not _touch(cure, following):
            found = _completed(_all([cure, following]), later, after, steps - 1)
            if found is not None:
                return found
    return None


def _ways(cures: Sequence[Sequence[Cure]]) -> list[Cure]:
    """One cure of each problem, in every combination that does not contradict itself."""
    ways = list(itertools.islice(itertools.product(*cures), 16))
    sound = [way for way in ways if not any(_touch(*two) for two in itertools.combinations(set(way), 2))]
    return [_all(way) for way in sound]


def _touch(one: Cure, other: Cure) -> bool:
    """Whether two cures write the same key, or one a section and the other a key in it; or one writes what the other
    leaves out."""
    if one == other:
        return False
    written = ((f"{a}.", f"{b}.") for a in one.written for b in other.written)
    left_out = one.written & set(other.leave_out) | other.written & set(one.leave_out)
    return bool(left_out) or any(a.startswith(b) or b.startswith(a) for a, b in written)


def _all(cures: Sequence[Cure]) -> Cure:
    return Cure(
        tuple(dict.fromkeys(text for cure in cures for text in cure.add)),
        tuple(dict.fromkeys(key for cure in cures for key in cure.leave_out)),
    )


def without_left_over(recipe: Any, tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe written out, less the keys that would do nothing in it."""
    idle = [key for rule in BELONGS if not (rule.only_later or rule.holds(recipe)) for key in rule.keys]
    for key in idle:
        *sections, last = key.split(".")
        around, node = tree, tree
        for name in sections:
            around, node = node, node.get(name, {})
        if _value(recipe, key) == _default(recipe, key):
            node.pop(last, None)
        if not node and len(sections) > 1:  # a section within another one of which nothing is left
            around.pop(sections[-1], None)
    return tree


def _ignored(recipe: Any, later: Mapping[str, bool]) -> Iterator[Problem]:
    reported: set[str] = set()
    for rule in BELONGS:
        if rule.holds(recipe):
            continue
        changed = {key for key in rule.keys if not rule.only_later and _value(recipe, key) != _default(recipe, key)}
        said = {key: had for key in rule.keys for name, had in later.items() if f"{name}.".startswith(f"{key}.")}
        # a default says nothing new where it takes a value back, or says no: null, false, 0, nothing in a list
        at_rest = {key for key in rule.keys if _value(recipe, key) == _default(recipe, key)}
        taken_back = {key for key in at_rest if said.get(key) or not _value(recipe, key)}
        given = tuple(
            key for key in rule.keys if key in said.keys() - reported - (set() if rule.only_later else taken_back)
        )
        keys = [key for key in rule.keys if key in changed | set(given) - reported]
        if not keys:
            continue
        reported.update(keys)
        there = [key for key in keys if key not in given]
        back = rule.off or tuple(f"{key}={_as_override(_default(recipe, key))}" for key in there)
        cures = [Cure(rule.so(recipe)), Cure(back if there else (), given)]
        yield Problem(
            says=f"{', '.join(keys)} would do nothing: {'they belong' if len(keys) > 1 else 'it belongs'} to {rule.to}",
            cures=[cure for cure in (cures if given else reversed(cures)) if cure != Cure()],
        )


def _leaving(later: Mapping[str, bool], cures: Sequence[Cure]) -> Sequence[Cure]:
    """The cures that leave what was given last as it is; where there are none, all."""
    kept = [cure for cure in cures if not cure.written & later.keys()]
    return kept or cures


def _advice(cure: Cure) -> str:
    words = [f"leave {', '.join(f'`{key}`' for key in cure.leave_out)} out"] if cure.leave_out else []
    words += [f"write `{shlex.join(cure.add)}`"] if cure.add else []
    return " and ".join(words)


def _value(recipe: Any, key: str) -> Any:
    for name in key.split("."):
        recipe = getattr(recipe, name)
    return recipe


def _default(recipe: Any, key: str) -> Any:
    *sections, last = key.split(".")
    section = _value(recipe, ".".join(sections))
    return type(section).model_fields[last].get_default(call_default_factory=True)


def _as_override(value: Any) -> str:
    """A default as the text of an override."""
    return value if isinstance(value, str) else json.dumps(value)
