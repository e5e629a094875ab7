"""Where a model's config is found without its weights: a folder, the table of known models, or the hub."""

from __future__ import annotations

from pathlib import Path

from transformers import PretrainedConfig

from mmpref.models.known_configs import known_config
from mmpref.models.load import load_config


def find_config(path: str) -> tuple[PretrainedConfig, str]:
    """A model's config and where it was found: a local folder, the built-in table, or the hub (its config only)."""
    if not Path(path).exists() and (known := known_config(path)) is not None:
        return known, "the table of architectures that comes with mmpref"
    return load_config(path), "its config.json"
