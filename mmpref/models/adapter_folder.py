"""What a saved LoRA adapter is, read from its folder: no model is needed, and no weight is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from mmpref.errors import ConfigError
from mmpref.processing.family import Family, PartName

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_CHANGES_ITS_BASE = ("pissa", "olora", "corda", "loftq")
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A saved adapter: peft's settings, and what it holds of each part of the model.

    Attributes:
        base: the model it was trained on, as its config names it; None where it does not.
        lora: parts with LoRA layers.
        full: parts with whole modules and no LoRA layer (peft's ``modules_to_save``).
    """

    path: Path
    rank: int
    alpha: int | float
    dropout: float
    use_rslora: bool
    use_dora: bool
    base: str | None
    lora: frozenset[PartName]
    full: frozenset[PartName]

    def on(self, part: PartName) -> Literal["lora", "full", "freeze"]:
        """What the adapter has on a part, as ``tune`` names it."""
        return "lora" if part in self.lora else "full" if part in self.full else "freeze"

    def describe(self) -> str:
        """One line for the terminal."""
        parts = [f"LoRA on {', '.join(sorted(self.lora))}"]
        if self.full:
            parts.append(f"whole weights of {', '.join(sorted(self.full))}")
        kind = "".join([" rsLoRA" if self.use_rslora else "", " DoRA" if self.use_dora else ""])
        return f"rank {self.rank}, alpha {self.alpha:g}{kind}; {', '.join(parts)}"


def read_adapter(folder: Path, family: Family) -> AdapterFolder:
    """Read an adapter's settings and the names of its weights.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        family: of the model that it is for; says which part a weight belongs to.

    Raises:
        ConfigError: there is no adapter, it is not LoRA, it cannot be trained further as it is, or it is damaged.
    """
    config = _config(folder)
    where = f"the adapter in {folder}"
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"{where} is {config.get('peft_type')!r}; training starts from LoRA adapters only")
    if config.get("bias", "none") != "none":
        raise ConfigError(
            f"{where} trained biases of the base as well (bias: {config['bias']!r}), which cannot be switched off; "
            "merge it into its base and train a new adapter on that"
        )
    if str(config.get("init_lora_weights")).startswith(_CHANGES_ITS_BASE):
        raise ConfigError(
            f"{where} belongs to a changed base (init_lora_weights: {config['init_lora_weights']!r}); convert it to "
            "plain LoRA first, as mmpref does when it saves and peft's save_pretrained does when it is asked to"
        )
    lora, full = _parts(folder, family)
    try:
        return AdapterFolder(
            path=folder,
            rank=int(config["r"]),
            alpha=config["lora_alpha"],
            dropout=float(config.get("lora_dropout") or 0.0),
            use_rslora=bool(config.get("use_rslora")),
            use_dora=bool(config.get("use_dora")),
            base=config.get("base_model_name_or_path") or None,
            lora=lora,
            full=full - lora,
        )
    except (KeyError, TypeError, ValueError) as err:
        raise ConfigError(f"{folder / CONFIG} is not what peft writes: {type(err).__name__}: {err}") from err


def adapter_fingerprint(folder: Path) -> str:
    """sha256 of everything in an adapter folder that its log-probs depend on.

    Raises:
        ConfigError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for name in (CONFIG, WEIGHTS):
            with (folder / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as err:
        raise ConfigError(f"the adapter in {folder} cannot be read: {err}") from err
    return digest.hexdigest()


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        raise ConfigError(
            f"{folder} has no {CONFIG}: it is not an adapter folder"
            + ("" if folder.exists() else " (there is nothing of that name)")
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ConfigError(f"{file} cannot be read: {err}") from err
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is damaged: expected a JSON object")
    return content


def _parts(folder: Path, family: Family) -> tuple[frozenset[PartName], frozenset[PartName]]:
    file = folder / WEIGHTS
    if not file.is_file():
        pickled = " (pickle files can run code: convert them to safetensors)" if list(folder.glob("*.bin")) else ""
        raise ConfigError(f"{folder} has no {WEIGHTS}{pickled}")
    try:
        with safe_open(file, framework="pt") as stream:
            names = list(stream.keys())
    except (OSError, SafetensorError) as err:
        raise ConfigError(f"{file} cannot be read: {err}") from err
    lora = frozenset(_part(name, family) for name in names if ".lora_" in name)
    if not lora:
        raise ConfigError(f"{file} holds no LoRA weights")
    return lora, frozenset(_part(name, family) for name in names if ".lora_" not in name)


def _part(name: str, family: Family) -> PartName:
    """The part of a stored weight; releases of transformers before 4.52 had no ``model.`` before the towers."""
    plain = name.removeprefix(_PREFIX)
    part = family.part_of(plain)
    return part if part != "language" else family.part_of(f"model.{plain}")
