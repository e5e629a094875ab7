"""Which model answers, and how it is loaded. torch is loaded with the model only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mmpref.errors import ConfigError, OutOfMemoryError, lacks_memory

if TYPE_CHECKING:
    from mmpref.models.loaded import LoadedModel

Model: TypeAlias = "str | Path | LoadedModel | ModelSource"
"""A path or hub id, a source, or a model that is loaded already."""
_NAMED = 12  # settings that a note names


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Which model is to be loaded and how; plain data, so that another process can load it too.

    ``adapter`` is a LoRA folder for it. A ``path`` that is itself an adapter means its base model, as its
    ``adapter_config.json`` names it, with the adapter on it.
    """

    path: str
    adapter: Path | None = None
    dtype: str = "auto"
    quantization: Literal["nf4", "int8"] | None = None
    max_pixels: int | None = None
    template_kwargs: Mapping[str, Any] | None = None
    """What the chat template reads beside the conversation, as ``processing.template_kwargs`` of a recipe."""
    classifier: bool = False
    """With its head for classes, which gives scores, and not the one for words."""

    def __post_init__(self) -> None:
        if self.quantization not in (None, "nf4", "int8"):
            raise ConfigError(f"quantization must be nf4 or int8, got {self.quantization!r}")

    def resolved(self) -> ModelSource:
        """The same with the base model and the adapter apart.

        Raises:
            ConfigError: an adapter that does not say what its base is, or an adapter on an adapter.
        """
        config = Path(self.path) / "adapter_config.json"
        if not config.is_file() or (Path(self.path) / "config.json").is_file():
            return self
        if self.adapter is not None:
            raise ConfigError(f"{self.path} is an adapter itself; give its base model with --adapter")
        from mmpref.models.adapters.saved import adapter_settings

        base = adapter_settings(Path(self.path)).get("base_model_name_or_path")
        if not base:
            raise ConfigError(f"{config} does not name a base model; give it as the model, and this as the adapter")
        return replace(self, path=base, adapter=Path(self.path))

    def load(self, device: str | None = None) -> LoadedModel:
        """The model, with its adapter, on a device.

        Raises:
            OutOfMemoryError: it does not fit there.
        """
        from mmpref.models.load import LoadSettings, load

        found = self.resolved()
        try:
            return load(
                found.path,
                LoadSettings(
                    dtype=found.dtype,
                    quantization=found.quantization,
                    max_pixels=found.max_pixels,
                    device=device,
                    classifier=found.classifier,
                ),
                adapter=found.adapter,
            )
        except (MemoryError, RuntimeError) as err:
            import torch

            if not (lacks_memory(err) or isinstance(err, torch.OutOfMemoryError)):
                raise
            raise OutOfMemoryError(
                f"out of memory while loading {found.path}; use a smaller model, or quantization (--quantization nf4)"
            ) from err


def generation_note(model: Model) -> str | None:
    """What a model's generation_config.json asks for that would change greedy answers, and was not followed; None where
    there is no such thing."""
    from mmpref.models.folder.generation_config import FILE, left_out

    source = ModelSource(path=str(model)) if isinstance(model, str | Path) else model
    names = left_out(source.resolved().path if isinstance(source, ModelSource) else source.path)
    if not names:
        return None
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = ", ".join(names[:_NAMED])
    return f"answers are greedy, and these settings of the model's {FILE} were left out: {shown}{more}"
