"""What a saved LoRA adapter is, read from its folder: no model is needed, and no weight is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from mmpref.errors import ConfigError
from mmpref.files.hashes import content_hash
from mmpref.models.folder.contents import AGAIN, FLOATS, read_header, read_object, refuse_odd_path, refuse_unusable_name
from mmpref.processing.family import Family, PartName

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MOST_RANK = 65_536
_MOST_ALPHA = 1e6
_CHANGES_ITS_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_STARTS = (None, True, False, "True", "gaussian", "eva", "orthogonal")  # what the stored weights replace anyway
_UNDERSTOOD = {  # what describes a LoRA adapter that training goes on with as it is
    "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias",
    "bias", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
    "target_parameters", "fan_in_fan_out", "init_lora_weights", "ensure_weight_tying",
    # where it comes from, and settings of ways to start that its own weights replace
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "runtime_config", "megatron_config", "megatron_core", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "qalora_group_size",
}  # fmt: skip
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A saved adapter: peft's settings, and what it holds of each part of the model.

    Attributes:
        base: the model it was trained on, as its config names it; None where it does not.
        lora: numbers in the LoRA layers of each part that has any.
        copies: numbers in each whole module that it holds (peft's ``modules_to_save``), by part.
        ties: whether a copy of the embeddings and one of the head are one where the base has one for both.
    """

    path: Path
    rank: int
    alpha: int | float
    dropout: float
    use_rslora: bool
    use_dora: bool
    base: str | None
    lora: Mapping[PartName, int]
    copies: Mapping[PartName, Mapping[str, int]]
    ties: bool = False

    @property
    def full(self) -> frozenset[PartName]:
        """Parts with whole modules and no LoRA layer."""
        return frozenset(self.copies) - frozenset(self.lora)

    @property
    def beside_lora(self) -> dict[str, int]:
        """Numbers in the whole modules of parts that have LoRA layers as well (embeddings and head, most often)."""
        return {name: size for part in self.lora for name, size in self.copies.get(part, {}).items()}

    def on(self, part: PartName) -> Literal["lora", "full", "freeze"]:
        """What the adapter has on a part, as ``tune`` names it."""
        return "lora" if part in self.lora else "full" if part in self.full else "freeze"

    def describe(self) -> str:
        """One line for the terminal."""
        parts = [f"LoRA on {', '.join(sorted(self.lora))}"]
        if whole := [*sorted(self.full), *sorted(self.beside_lora)]:
            parts.append(f"whole weights of {', '.join(whole)}")
        kind = "".join([" rsLoRA" if self.use_rslora else "", " DoRA" if self.use_dora else ""])
        return f"rank {self.rank}, alpha {self.alpha:g}{kind}; {', '.join(parts)}"


def read_adapter(folder: Path, family: Family) -> AdapterFolder:
    """Read an adapter's settings and the names of its weights.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        family: of the model that it is for; says which part a weight belongs to.

    Raises:
        ConfigError: there is no adapter, it is not LoRA or a variant of it that training would change, it cannot be
            trained further as it is, or it is damaged.
    """
    config = adapter_settings(folder)
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
    _refuse_variants(config, where)
    lora, copies = _parts(folder, family, config.get("modules_to_save") or ())
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
            copies=copies,
            ties=bool(config.get("ensure_weight_tying")),
        )
    except (KeyError, TypeError, ValueError) as err:
        raise ConfigError(f"{folder / CONFIG} is not what peft writes: {type(err).__name__}: {err}") from err


def adapter_fingerprint(folder: Path) -> str:
    """sha256 of everything in an adapter folder that its log-probs depend on.

    Raises:
        ConfigError: it cannot be read.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        digest.update(bytes.fromhex(content_hash(folder / name)))
    return digest.hexdigest()


def adapter_settings(folder: Path) -> dict[str, Any]:
    """What peft wrote about an adapter; its weights were looked at as well, and are whole.

    Raises:
        ConfigError: there is no adapter, or one of its two files cannot be used.
    """
    refuse_odd_path(folder)
    file, weights = folder / CONFIG, folder / WEIGHTS
    if not file.exists():
        raise ConfigError(
            f"{folder} has no {CONFIG}: it is not an adapter folder"
            + ("" if folder.exists() else " (there is nothing of that name)")
        )
    content = read_object(file)
    rank = content.get("r", 8)
    if content.get("peft_type") == "LORA" and not (type(rank) is int and 0 < rank <= _MOST_RANK):
        raise ConfigError(
            f"{file} says r: {str(rank)[:40]!a}, and a rank from 1 to {_MOST_RANK:,} is expected; {AGAIN}"
        )
    alpha = content.get("lora_alpha", 8)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < _MOST_ALPHA:
        raise ConfigError(f"{file} says lora_alpha: {str(alpha)[:40]!a}, and a number above 0 is expected; {AGAIN}")
    base = content.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise ConfigError(f"{file} says base_model_name_or_path: {str(base)[:80]!a}, and a name is expected; {AGAIN}")
    if base:
        refuse_unusable_name(base, f"{file} names as its base")
    if not weights.exists():
        pickled = " (pickle files can run code: convert them to safetensors)" if list(folder.glob("*.bin")) else ""
        raise ConfigError(f"{folder} has no {WEIGHTS}{pickled}")
    bad = sorted(name for name, one in read_header(weights).items() if one.dtype not in FLOATS)
    if bad:
        raise ConfigError(f"{weights} holds whole numbers where weights are expected (first {bad[0]}); {AGAIN}")
    return content


def _refuse_variants(config: Mapping[str, Any], where: str) -> None:
    """What peft loads and runs, and what would train in another way here than where it was made."""
    start = config.get("init_lora_weights")
    variants = [] if start in _STARTS else [f"init_lora_weights: {start!r}"]
    variants += [f"{key}: {value!r}" for key, value in config.items() if value and key not in _UNDERSTOOD]
    if variants:
        raise ConfigError(
            f"{where} is a variant of LoRA that training does not go on with ({', '.join(variants)[:200]}); train a "
            "new adapter, on its base or on what peft's merge_and_unload makes of both"
        )


def _parts(
    folder: Path, family: Family, whole: Sequence[str]
) -> tuple[dict[PartName, int], dict[PartName, dict[str, int]]]:
    """Numbers in LoRA layers by part; numbers in whole modules by part and module, as ``whole`` names it."""
    file = folder / WEIGHTS
    sizes = {name: prod(entry.shape) for name, entry in read_header(file).items()}
    lora: dict[PartName, int] = {}
    copies: dict[PartName, dict[str, int]] = {}
    for name, size in sizes.items():
        part = _part(name, family)
        if ".lora_" in name:
            lora[part] = lora.get(part, 0) + size
        elif ".base_layer." not in name:  # what lies below a LoRA layer (peft adds it for embeddings) does not train
            module = _module(name, whole)
            of_part = copies.setdefault(part, {})
            of_part[module] = of_part.get(module, 0) + size
    if not lora:
        raise ConfigError(f"{file} holds no LoRA weights")
    return lora, copies


def _module(name: str, whole: Sequence[str]) -> str:
    """The module that a stored weight is of: as ``modules_to_save`` names it, else its own path."""
    path = name.removeprefix(_PREFIX).rpartition(".")[0]
    return next((entry for entry in whole if f".{entry}." in f".{path}."), path)


def _part(name: str, family: Family) -> PartName:
    """The part of a stored weight; releases of transformers before 4.52 had no ``model.`` before the towers."""
    plain = name.removeprefix(_PREFIX)
    part = family.part_of(plain)
    return part if part != "language" else family.part_of(f"model.{plain}")
