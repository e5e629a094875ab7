"""Dotted ``key=value`` overrides of a recipe, merged into what it says."""

from __future__ import annotations

from typing import Any

from mmpref.errors import ConfigError
from mmpref.yaml_text import parse_yaml


def apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{override}' must be written key=value, for example train.learning_rate=1e-6")
    *sections, last = key.split(".")
    node = tree
    for depth, name in enumerate(sections):
        child = node.setdefault(name, {})
        if child is None:
            child = node[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override '{override}': '{'.'.join(sections[: depth + 1])}' is a value, not a section")
        node = child
    node[last] = parse_yaml(text, where=f"override '{override}'")
