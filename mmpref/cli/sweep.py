"""``mmpref sweep``: a grid over a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpref.cli.options import RecipeArguments, with_options
from mmpref.errors import ConfigError, stopped_by_ctrl_c

if TYPE_CHECKING:
    from mmpref.recipe.sections import Recipe
    from mmpref.sweeps.claims import Share
    from mmpref.sweeps.folder import Sweep

_PAGE = "sweep.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """What is varied, and where it goes."""

    grid: Annotated[list[str] | None, typer.Option(help="KEY=VALUE,VALUE,...: a recipe key and its values.")] = None
    arm: Annotated[
        list[str] | None, typer.Option(help="'NAME: KEY=VALUE ...': a method that is compared with the others.")
    ] = None
    ablation: Annotated[
        list[str] | None, typer.Option(help="uni_dpo or adadpo: arms with each component of the method off or changed.")
    ] = None
    seeds: Annotated[str | None, typer.Option(help="0,1,2: short for --grid seed=0,1,2.")] = None
    out: Annotated[Path, typer.Option(help="Folder of the sweep; goes on where it stopped.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """How the cells are run."""

    workers: Annotated[int, typer.Option(min=1, help="Processes that take cell after cell, on the GPUs in turn.")] = 1
    shard: Annotated[
        str | None, typer.Option(help="I/N: only this share of the cells; default: that of a SLURM array's task.")
    ] = None
    retries: Annotated[int, typer.Option(min=0, help="How often a failed cell is tried again, after the others.")] = 1
    caches: Annotated[bool, typer.Option(help="Whether cells share a cache of reference log-probs.")] = True
    launch: Annotated[str | None, typer.Option(help="Of mmpref train, for cells that take several GPUs.")] = None
    processes: Annotated[int | None, typer.Option(min=1, help="With --launch: processes on this machine.")] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and what is left; nothing is run.")] = False

    def train_options(self) -> tuple[str, ...]:
        """Those that ``mmpref train`` is given for each cell.

        Raises:
            ConfigError: they do not go together.
        """
        if self.launch is None:
            if self.processes is not None:
                raise ConfigError(
                    "--processes goes with --launch: it divides one training; --workers N trains N cells at once"
                )
            return ()
        if self.workers > 1:
            raise ConfigError("--launch gives all GPUs to one cell, so there is one worker; leave out --workers")
        given = {"--launch": self.launch, "--processes": self.processes}
        return tuple(word for name, value in given.items() if value is not None for word in (name, str(value)))


@stopped_by_ctrl_c
@with_options
def sweep(given: RecipeArguments, asked: _Grid, how: _Running) -> None:
    """Train and evaluate every cell of a grid over a recipe, compare them, and go on where it stopped."""
    from mmpref.doctor.needs import refuse_unmet
    from mmpref.process import streams
    from mmpref.sweeps.check import check
    from mmpref.sweeps.claims import devices_of, share_of
    from mmpref.sweeps.run import Pool, run_sweep, tell

    streams.output_is_optional()
    options, share = how.train_options(), share_of(how.shard)
    found = _sweep(given, asked, caches=how.caches)
    recipes = check(found)
    for recipe in recipes.values():
        refuse_unmet(recipe, how.launch)
    if share.total > len(recipes):
        raise ConfigError(f"share {share} of {len(recipes)} cells: there are more shares than cells; take fewer")
    if how.dry_run:
        _list(found, recipes, share)
        return
    _say_of_share(share, len(recipes))
    if not all(recipe.evals for recipe in recipes.values()):
        typer.echo("the recipe names no evals: cells are trained, and nothing is asked of them (docs/sweeps.md)")
    found.begin()
    devices: list[str | None] = [None]
    if not options:
        devices = devices_of(how.workers, os.environ.get("CUDA_VISIBLE_DEVICES"), _cuda_devices)
    pool = Pool(devices=devices, share=share, retries=how.retries, train_options=options)
    failed = run_sweep(found, recipes, pool, typer.echo)
    _report(found.out)
    tell(found, failed, len(recipes), typer.echo)


def _sweep(given: RecipeArguments, asked: _Grid, *, caches: bool) -> Sweep:
    from mmpref.recipe.loading import load_recipe
    from mmpref.sweeps.ablations import ablation_arms
    from mmpref.sweeps.folder import Sweep
    from mmpref.sweeps.grid import parse_arm, parse_axis, parse_seeds

    changes = tuple(given.overrides or [])
    axes = [*map(parse_axis, asked.grid or []), *([parse_seeds(asked.seeds)] if asked.seeds is not None else [])]
    arms = [*map(parse_arm, asked.arm or [])]
    if asked.ablation:
        base = load_recipe(given.recipe, [*changes, f"output={asked.out}"])
        arms += [arm for name in asked.ablation for arm in ablation_arms(name, base, changes)]
    recipe = str(given.recipe)
    return Sweep(recipe=recipe, changes=changes, arms=tuple(arms), axes=tuple(axes), out=asked.out, caches=caches)


def _report(out: Path) -> None:
    """What came out, in a few lines, and the page."""
    from mmpref.report.sweep.cells import read_sweep
    from mmpref.report.sweep.findings import summary_lines
    from mmpref.report.sweep.page import write_sweep_report

    for line in summary_lines(read_sweep(out)):
        typer.echo(line)
    if find_spec("matplotlib") is None:
        typer.echo("no page was made: its figures need matplotlib (pip install 'mmpref[report]')")
        return
    write_sweep_report(out, [out / _PAGE])
    typer.echo(f"wrote {out / _PAGE}")


def _say_of_share(share: Share, total: int) -> None:
    if share.total > 1:
        mine = sum(share.has(place) for place in range(total))
        typer.echo(f"share {share}{f' ({share.source})' if share.source else ''}: {mine} of {total} cells")


def _list(found: Sweep, recipes: Mapping[str, Recipe], share: Share) -> None:
    from mmpref.sweeps.listing import listed
    from mmpref.terminal import print_table

    rows, notes = listed(found, recipes, share)
    print_table("cells", ["cell", "changes", "state"], rows, notes)


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()
