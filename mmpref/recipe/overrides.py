"""Changes given after a recipe, as ``key.sub=value`` texts or as a nested mapping, merged into what the recipe says.

All changes given together are one layer, so that their order among each other does not matter beyond "the last value of
a key counts". A layer goes over a recipe key by key, but for two things that replace a section whole: a mapping in
the section's place (``adapter={kind: none}``), and the key that names what the section is (``loss.name``). Keys of the
same layer stay, so a layer cannot say that a section is null or false and give keys in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpref.errors import ConfigError
from mmpref.yaml_text import parse_value, short

Place = tuple[str, ...]
_MISSING = object()
_DEEPEST = 50
"""Dots of a key that are looked into."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What merging has to know of a recipe's sections.

    Attributes:
        names: place of a section -> the key in it that names a whole: given later, it replaces the section.
        switches: places of sections that true switches on as they stand, and null or false off.
        counts: place of a section -> the key in it that a whole number in the section's place means.
    """

    names: Mapping[Place, str]
    switches: Collection[Place]
    counts: Mapping[Place, str] = field(default_factory=dict)

    def counted(self, place: Place, value: Any) -> tuple[Place, Any]:
        """A place and its value, one step deeper where the value is a number that means a key of the section."""
        is_count = place in self.counts and isinstance(value, int) and not isinstance(value, bool)
        return ((*place, self.counts[place]) if is_count else place), value


@dataclass(frozen=True, slots=True)
class Layer:
    """Changes given together."""

    tree: dict[str, Any] = field(default_factory=dict)
    whole: set[Place] = field(default_factory=set)
    """Places given as a mapping: nothing that was said there before stays."""


def layer_of(
    overrides: Sequence[str] | Mapping[str, Any],
    base: Mapping[str, Any],
    grammar: Grammar,
    *,
    leave_out: Collection[str] = (),
) -> Layer:
    """The changes as one layer.

    Args:
        overrides: ``key.sub=value`` texts; or a nested mapping, as a second recipe file would hold.
        base: what they will change; a key below a value of it is refused.
        leave_out: dotted keys that the texts, or mappings among their values, may say and that are left out.

    Raises:
        ConfigError: a text that is not ``key=value``, a key below a value, or a section that is given no value together
            with keys in it.
    """
    if isinstance(overrides, Mapping):
        return Layer(dict(overrides))
    layer = Layer()
    given = [(override, *grammar.counted(*_parsed(override))) for override in overrides]
    for key in leave_out:
        given = _without(given, tuple(key.split(".")))
    given = _counting(given)
    _refuse_below_values(given, grammar)
    for override, place, value in given:
        _add(layer, override, place, value, base, grammar)
    return layer


def merge(base: Mapping[str, Any], layer: Layer, grammar: Grammar) -> tuple[dict[str, Any], dict[str, bool]]:
    """The recipe with a layer over it, and the dotted keys that it changes: key -> whether there was a value before.

    A key that repeats the recipe's value is not among them.
    """
    merged = _over(base, layer.tree, (), layer.whole, grammar)
    before = {place: (_at(base, place), value) for place, value in _leaves(layer.tree, ())}
    changed = {place: old is not _MISSING for place, (old, new) in before.items() if old is _MISSING or old != new}
    return merged, {".".join(place): had for place, had in changed.items()}


def _parsed(override: str) -> tuple[Place, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"override '{short(override)}' must be written key=value, for example `train.learning_rate=1e-6`"
        )
    if key.count(".") > _DEEPEST:
        raise ConfigError(f"override '{short(override)}': no key of a recipe has {key.count('.') + 1} parts")
    return tuple(key.split(".")), parse_value(text, where=f"override '{short(override)}'")


def _counting(given: Sequence[tuple[str, Place, Any]]) -> list[tuple[str, Place, Any]]:
    """The texts whose key has no later value; true after a mapping switches on what the mapping says."""
    return [
        (text, place, value)
        for number, (text, place, value) in enumerate(given)
        if not any(
            later == place and not (isinstance(value, dict) and other is True)
            for _, later, other in given[number + 1 :]
        )
    ]


def _refuse_below_values(given: Sequence[tuple[str, Place, Any]], grammar: Grammar) -> None:
    """Keys in a section that is given a value in the same breath: whichever came first, one would be dropped.

    Raises:
        ConfigError: the two of them, and how to say one.
    """
    values = {place: (text, value) for text, at, whole in given for place, value in _within(at, whole)}
    for text, place, _ in given:
        for depth in range(1, len(place)):
            above = place[:depth]
            other, value = values.get(above, ("", {}))
            if isinstance(value, Mapping) or (value is True and above in grammar.switches):
                continue
            section = ".".join(above)
            if value is not None and value is not False:
                raise ConfigError(f"override '{text}': '{section}' is a value, not a section")
            below = dict.fromkeys(f"`{'.'.join(at)}`" for _, at, _ in given if at[:depth] == above and at != above)
            off = f"; or leave {', '.join(below)} out" if above in grammar.switches else ""
            raise ConfigError(
                f"override '{text}': '{section}' is {json.dumps(value)} in '{other}', and nothing can be said of what "
                f"is in it; leave `{section}` out{off}"
            )


def _within(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    """A value, and all values in it, each with its place."""
    yield place, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _within((*place, str(name)), inner)


def _without(given: Sequence[tuple[str, Place, Any]], key: Place) -> list[tuple[str, Place, Any]]:
    return [
        (text, place, _pruned(value, key[len(place) :]) if key[: len(place)] == place else value)
        for text, place, value in given
        if place[: len(key)] != key
    ]


def _pruned(value: Any, key: Place) -> Any:
    if not isinstance(value, dict) or not key:
        return value
    return {
        name: _pruned(inner, key[1:]) if name == key[0] else inner for name, inner in value.items() if (name,) != key
    }


def as_texts(overrides: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Changes as ``key.sub=value`` texts, however they were given."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{'.'.join(place)}={json.dumps(value, default=str)}" for place, value in _leaves(overrides, ())]


def _add(layer: Layer, override: str, place: Place, value: Any, base: Mapping[str, Any], grammar: Grammar) -> None:
    node, below = layer.tree, base
    for depth, name in enumerate(place[:-1], start=1):
        child, older = node.get(name), below.get(name) if isinstance(below, Mapping) else None
        is_switch = place[:depth] in grammar.switches
        if child is None or (is_switch and child is True):
            child = node[name] = {}
        switched = is_switch and isinstance(older, bool)
        if not isinstance(child, dict) or not (older is None or switched or isinstance(older, Mapping)):
            raise ConfigError(f"override '{override}': '{'.'.join(place[:depth])}' is a value, not a section")
        node, below = child, older if isinstance(older, Mapping) else {}
    before = node.get(place[-1])
    if isinstance(value, dict):
        layer.whole.add(place)
        value = _over(before, value, place, layer.whole, grammar) if isinstance(before, dict) else value
    elif value is True and place in grammar.switches and isinstance(before, dict):
        return  # keys of the same layer have switched it on
    node[place[-1]] = value


def _over(
    base: Mapping[str, Any], later: Mapping[str, Any], at: Place, whole: Collection[Place], grammar: Grammar
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in later.items():
        place, older = (*at, key), merged.get(key)
        name = grammar.names.get(place)
        if isinstance(value, Mapping) and isinstance(older, Mapping):
            replaced = place in whole or (name is not None and value.get(name) is not None)
            merged[key] = value if replaced else _over(older, value, place, whole, grammar)
        elif not (value is True and place in grammar.switches and isinstance(older, Mapping)):
            merged[key] = value
    return merged


def _leaves(tree: Mapping[str, Any], at: Place) -> list[tuple[Place, Any]]:
    found: list[tuple[Place, Any]] = []
    for key, value in tree.items():
        place = (*at, str(key))
        found += _leaves(value, place) if isinstance(value, Mapping) and value else [(place, value)]
    return found


def _at(tree: Any, place: Place) -> Any:
    for name in place:
        if not isinstance(tree, Mapping) or name not in tree:
            return _MISSING
        tree = tree[name]
    return tree
