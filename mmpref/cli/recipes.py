"""``mmpref recipes`` and ``mmpref config``: which recipes there are, what one says, and which keys it may have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpref.cli.completion import recipe_keys, recipe_names, recipe_sections
from mmpref.errors import ConfigError, stopped_by_ctrl_c

if TYPE_CHECKING:
    from mmpref.recipe.keys import Key


@stopped_by_ctrl_c
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="A shipped recipe: print its file, header and all.", autocompletion=recipe_names),
    ] = None,
) -> None:
    """The shipped recipes, or one of them with its header."""
    from mmpref.recipe.shipped import read_recipe_text, shipped_recipes

    if name is not None:
        typer.echo(read_recipe_text(name)[0].rstrip())
        return
    for found in shipped_recipes():
        first = read_recipe_text(found)[0].partition("\n")[0]
        typer.echo(f"{found}: {first.removeprefix('#').strip()}")


@stopped_by_ctrl_c
def config(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A YAML file, or the name of a shipped recipe; with --keys a section.", autocompletion=recipe_sections
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes by dotted key.", autocompletion=recipe_keys),
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="Every key of a recipe, or of one section: type, default, meaning.")
    ] = False,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A config file or shell script of TRL, LLaMA-Factory or ms-swift: write its recipe."
        ),
    ] = None,
    tool: Annotated[
        str | None, typer.Option("--format", help="With --from: trl, llama_factory or ms_swift; default: by its keys.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --from: a new file for the recipe; default: print it.")] = None,
) -> None:
    """The recipe as it resolves, as YAML that mmpref train takes; every key (--keys); or another tool's settings as a
    recipe (--from)."""
    if from_file is not None:
        if recipe is not None or keys:
            raise ConfigError("--from reads another tool's file, and takes neither a recipe nor --keys beside it")
        _print_migrated(from_file, tool, out)
        return
    if tool is not None or out is not None:
        raise ConfigError("--format and --out go with --from FILE; mmpref config RECIPE > FILE writes a recipe")
    if keys:
        if overrides:
            raise ConfigError("--keys takes one section, for example `mmpref config --keys loss.uni`")
        _print_keys(recipe)
        return
    if recipe is None:
        raise ConfigError("give a recipe (mmpref recipes lists them), or --keys for the keys that one may have")
    from mmpref.losses.settings import needs_other, needs_reference, resolve
    from mmpref.recipe.loading import dump_recipe, load_recipe, with_loss
    from mmpref.recipe.unused_keys import refuse_other_image, refuse_unread_reference

    loaded = load_recipe(recipe, overrides or [])
    if loaded.adapter.path is not None:  # what it says of rank and parts is as much of the recipe as what is written
        from mmpref.training.run.start_adapter import with_start_adapter

        loaded = with_start_adapter(loaded)
    loss = resolve(loaded.loss.as_mapping())
    named = str(loss["name"] or loss["base"])
    refuse_unread_reference(loaded, needs_reference=needs_reference(loss), loss=named)
    refuse_other_image(loaded, needs_other=needs_other(loss), loss=named)
    typer.echo(dump_recipe(with_loss(loaded, loss)).rstrip())


def described_keys(section: str | None = None) -> list[Key]:
    """Every key of a recipe, or of one section, with the default as it works: a preset's where the preset fills it.

    Raises:
        ConfigError: there is no such section; names the nearest.
    """
    from mmpref.losses.presets import SECTIONS
    from mmpref.recipe.keys import described
    from mmpref.recipe.sections import Recipe
    from mmpref.yaml_text import did_you_mean

    every = described(Recipe)
    wanted = [key for key in every if section is None or f"{key.name}.".startswith((f"{section}.", f"{section}[]."))]
    if not wanted:
        names = {".".join(key.name.split(".")[:depth]) for key in every for depth in (1, 2, 3)}
        raise ConfigError(f"a recipe has no '{section}'{did_you_mean(str(section), sorted(names))}")
    preset = {f"loss.{part}.{key}": value for part, keys in SECTIONS.items() for key, value in keys.items()}
    shown = []
    for key in wanted:
        default = key.default
        if default == "null" and key.name.startswith("loss."):
            default = "the preset's" + (
                f", mostly {json.dumps(preset[key.name])}" if preset.get(key.name) is not None else ""
            )
        shown.append(replace(key, default=default))
    return shown


def _print_keys(section: str | None) -> None:
    for key in described_keys(section):
        typer.echo(f"{key.name}  ({key.takes}; default: {key.default}{'; research switch' if key.research else ''})")
        if key.meaning:
            typer.echo(f"    {key.meaning}")


def _print_migrated(file: Path, tool: str | None, out: Path | None) -> None:
    import os

    from mmpref.files.locking import only_writer
    from mmpref.files.reading import refuse_written_over
    from mmpref.files.writing import write_text
    from mmpref.migration.convert import lines_of, migrate, recipe_text

    found = migrate(file, tool)
    text = recipe_text(found, "recipe.yaml" if out is None else str(out))
    if out is None:
        typer.echo(text.rstrip())
    else:
        refuse_written_over({"--out": out}, [file])
        with only_writer(out, "choose another --out"):
            if os.path.lexists(out):
                raise ConfigError(f"{out} is there already; choose another name for --out")
            write_text(out, text)
        typer.echo(f"wrote {out}")
    for line in lines_of(found):
        typer.echo(line, err=True)
