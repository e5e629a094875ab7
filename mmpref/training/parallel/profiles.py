"""Launch profiles: configuration files of accelerate, the strategy of each, and what it passes to the processes."""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from accelerate.commands.config.config_args import load_config_from_file

from mmpref.errors import DistributedError, library_errors
from mmpref.files.reading import read_text
from mmpref.training.parallel.strategy import STRATEGIES, Strategy
from mmpref.yaml_text import MOST_BYTES, parse_yaml

PROFILES = "accelerate"
"""Folder of the profiles, under ``scripts/`` in the source tree and ``share/mmpref/`` where mmpref is installed."""


def read_profile(name: str) -> tuple[dict[str, Any], Strategy]:
    """A launch profile and its strategy.

    Raises:
        DistributedError: there is none of this name, or it is for something that this trainer does not do.
    """
    file = shipped_profile(name) if name in STRATEGIES else Path(name)
    if not file.exists():
        raise DistributedError(f"--launch {name}: neither one of {', '.join(STRATEGIES)} nor a file")
    profile = parse_yaml(read_text(file, DistributedError, "the launch profile", most=MOST_BYTES), where=str(file))
    if not isinstance(profile, dict):
        raise DistributedError(f"{file} is not a configuration of accelerate: expected keys and values")
    for name in ("fsdp_config", "deepspeed_config"):
        if not isinstance(profile.setdefault(name, {}), dict):
            raise DistributedError(f"{file}: {name} must have keys and values, got {profile[name]!r}")
    strategy = _strategy(profile, file)
    with library_errors(DistributedError, f"{file}: accelerate refuses this profile", "see docs/multi_gpu.md"):
        load_config_from_file(str(file))
    return profile, strategy


def shipped_profile(name: str) -> Path:
    """The file of one of our profiles."""
    beside = Path(__file__).resolve().parents[3]
    tree = beside / "scripts" / PROFILES / f"{name}.yaml"
    # pip install --target puts them beside the package, whatever its record says of their place
    for file in (tree, beside / "share" / "mmpref" / PROFILES / f"{name}.yaml"):
        if file.is_file():
            return file
    with suppress(metadata.PackageNotFoundError):
        for recorded in metadata.files("mmpref") or []:
            if recorded.parent.name == PROFILES and recorded.name == f"{name}.yaml":
                return Path(str(recorded.locate()))
    return tree


def _strategy(profile: dict[str, Any], file: Path) -> Strategy:
    kind = str(profile.get("distributed_type", "")).upper()
    if kind == "MULTI_GPU":
        return "ddp"
    if kind == "FSDP":
        if str(profile["fsdp_config"].get("fsdp_version", 1)) != "2":
            raise DistributedError(f"{file}: FSDP1 is not for this trainer; set fsdp_config.fsdp_version: 2")
        return "fsdp2"
    if kind == "DEEPSPEED":
        stage = profile["deepspeed_config"].get("zero_stage")
        if stage not in (2, 3):
            raise DistributedError(f"{file}: deepspeed_config.zero_stage must be 2 or 3, got {stage}")
        return "zero2" if stage == 2 else "zero3"
    raise DistributedError(
        f"{file}: distributed_type {kind or 'is not there'}; use MULTI_GPU, FSDP or DEEPSPEED (accelerate runs a "
        "single process for MULTI_CPU: MULTI_GPU is what starts several on the CPU too)"
    )


def environment_of(profile: dict[str, Any], strategy: str) -> dict[str, str]:
    """The environment variables that the launcher will set, as far as a recipe can contradict them."""
    fsdp = profile.get("fsdp_config", {})
    said = {
        "ACCELERATE_USE_FSDP": strategy == "fsdp2",
        "ACCELERATE_USE_DEEPSPEED": strategy.startswith("zero"),
        "FSDP_ACTIVATION_CHECKPOINTING": bool(fsdp.get("fsdp_activation_checkpointing", False)),
    }
    deepspeed = profile.get("deepspeed_config", {})
    return {
        **{name: str(value).lower() for name, value in said.items()},
        "ACCELERATE_MIXED_PRECISION": str(profile.get("mixed_precision", "no")),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": str(deepspeed.get("gradient_accumulation_steps", "")),
        "ACCELERATE_GRADIENT_CLIPPING": str(deepspeed.get("gradient_clipping", "auto")),
    }
