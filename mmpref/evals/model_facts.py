"""The model of an evaluation: where a run folder's is, and what its answers depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.files.reading import without_links
from mmpref.generation import fingerprint
from mmpref.generation.model_source import Model, ModelSource
from mmpref.recipe.shipped import read_recipe_text
from mmpref.rundir.folder import RunDir, is_run_folder, model_of
from mmpref.yaml_text import parse_yaml


def source_of(
    model: str,
    *,
    adapter: Path | None = None,
    dtype: str = "auto",
    quantization: str | None = None,
    max_pixels: int | None = None,
    template_kwargs: str | None = None,
) -> ModelSource:
    """The model that an option of the command line names.

    Args:
        model: a model folder, adapter folder, hub id or run folder.
        template_kwargs: a YAML mapping; None takes the one that a run was trained with.

    Raises:
        ConfigError: a run folder without a model, or options that make no sense.
    """
    return ModelSource(
        path=str(model_of(model)),
        adapter=adapter,
        dtype=dtype,
        quantization=quantization,  # type: ignore[arg-type]  # checked when it is made
        max_pixels=max_pixels,
        template_kwargs=template_kwargs_of(template_kwargs, model),
    )


def template_kwargs_of(text: str | None, model: str) -> dict[str, Any]:
    """What the chat template is to read: the mapping that was given, or that of a run's recipe."""
    if text is None:
        folder = Path(model)
        recipe, where = read_recipe_text(RunDir(folder).recipe_file) if is_run_folder(folder) else ("{}", model)
        found: Any = parse_yaml(recipe, where=where)
        for key in ("processing", "template_kwargs"):
            found = (found.get(key) if isinstance(found, dict) else found) or {}
        if not isinstance(found, dict):
            raise ConfigError(f"{where} is damaged: {key} cannot be read from it; copy the run folder again")
        return found
    given = parse_yaml(text, where="--template-kwargs")
    if not isinstance(given, dict):
        raise ConfigError(f"--template-kwargs must be a mapping, as {{enable_thinking: false}}, got {text!r}")
    return given


def name_of(model: Model) -> str:
    """What ``results.json`` names as the model."""
    return str(model if isinstance(model, str | Path) else model.path)


def served_facts(model: str) -> dict[str, Any]:
    """What is known of a model that is served elsewhere: its name."""
    return {"model": model, "model_files": ""}


def model_facts(model: Model, *, fetch: bool) -> dict[str, Any]:
    """What the answers depend on, of a model that answers here.

    Args:
        fetch: it is about to be loaded: its folder is checked, and a hub id's revision is asked for.

    Raises:
        ConfigError: a file in its folder cannot be read.
    """
    name = name_of(model)
    if fetch and isinstance(model, str | Path | ModelSource):  # another answerer reads what it wants
        _check_files(model if isinstance(model, ModelSource) else ModelSource(path=name))
    facts: dict[str, Any] = {
        "model": str(without_links(name)) if Path(name).is_dir() else name,
        "model_files": fingerprint.of_model(name, fetch=fetch),
    }
    source = model if isinstance(model, ModelSource) else ModelSource(path=name)
    resolved = source.resolved()
    if resolved.adapter is not None:
        adapter = resolved.adapter
        facts["model_files"] = f"{fingerprint.of_model(resolved.path, fetch=fetch)} + {fingerprint.of_model(adapter)}"
        if source.adapter is not None:
            facts["adapter"] = str(without_links(adapter))
    for field in ("dtype", "quantization", "max_pixels"):
        if (value := getattr(source, field)) not in (None, "auto"):
            facts[field] = value
    if source.template_kwargs:
        facts["template_kwargs"] = dict(source.template_kwargs)
    return facts


def _check_files(source: ModelSource) -> None:
    """Refuse a folder with something in it that cannot be read, before all of it is hashed."""
    name = source.path
    if not Path(name).is_dir():
        return
    from mmpref.models.load import check_model

    found = source.resolved()
    if found.adapter is not None and found.adapter != Path(name):
        from mmpref.models.adapters.saved import adapter_settings

        adapter_settings(found.adapter)
    if Path(found.path).is_dir():
        check_model(found.path)
