"""``mmpref train``: one process, or several that it launches."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import typer

from mmpref.cli.options import RecipeArguments, with_options
from mmpref.errors import ConfigError, stopped_by_ctrl_c
from mmpref.process import streams


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """What may happen to a run that is in the output folder."""

    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is in the output folder.")] = False
    allow_data_change: Annotated[
        bool, typer.Option("--allow-data-change", help="Resume although data files, pairs or library versions changed.")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """Several processes."""

    launch: Annotated[
        str | None, typer.Option(help="Several processes: ddp, fsdp2, zero2, zero3, or a profile of accelerate.")
    ] = None
    processes: Annotated[
        int | None, typer.Option(min=1, help="With --launch: processes on this machine; default: one for each GPU.")
    ] = None
    nodes: Annotated[int, typer.Option(min=1, help="With --launch: machines.")] = 1
    node_rank: Annotated[int, typer.Option(min=0, help="With --nodes: number of this machine.")] = 0
    main_address: Annotated[str | None, typer.Option(help="With --nodes: HOST:PORT of machine 0.")] = None
    max_restarts: Annotated[
        int,
        typer.Option(min=0, help="Restart up to so many times from the newest checkpoint (needs --launch)."),
    ] = 0


@stopped_by_ctrl_c
@with_options
def train(given: RecipeArguments, folder: FolderOptions, several: LaunchOptions) -> None:
    """Train a model on preference pairs (or demonstrations) as a recipe says."""
    from mmpref.doctor.needs import refuse_unmet
    from mmpref.rundir.claim import check_output
    from mmpref.rundir.refusals import load_to_train, refuse_moved
    from mmpref.terminal import TrainingDisplay

    streams.output_is_optional()
    recipe, overrides = given.recipe, given.overrides or []
    loaded = load_to_train(recipe, overrides)
    refuse_unmet(loaded, several.launch)
    if folder.resume:
        refuse_moved(recipe, overrides, loaded.output)
    if "RANK" not in os.environ:  # one of several processes: another of them may have the folder by now
        check_output(loaded, overwrite=folder.overwrite, resume=folder.resume)
    if several.launch is not None:
        from mmpref.training.parallel.launch import Launch, train_command
        from mmpref.training.parallel.launch import launch as run_launch

        wanted = Launch(
            profile=several.launch,
            processes=several.processes,
            nodes=several.nodes,
            node_rank=several.node_rank,
            main_address=several.main_address,
            max_restarts=several.max_restarts,
        )
        command = train_command(
            recipe,
            overrides,
            resume=folder.resume,
            overwrite=folder.overwrite,
            allow_data_change=folder.allow_data_change,
        )
        run_launch(loaded, wanted, command, typer.echo)
        return
    if several.processes is not None or several.main_address is not None or several.nodes > 1 or several.max_restarts:
        raise ConfigError("--processes, --nodes, --main-address and --max-restarts go with --launch")
    with TrainingDisplay() as display:
        from mmpref.training.run.callbacks import RunCallbacks
        from mmpref.training.run.run import train as run_training

        run = run_training(
            loaded,
            overwrite=folder.overwrite,
            resume=folder.resume,
            allow_data_change=folder.allow_data_change,
            callbacks=RunCallbacks(progress=display.update, say=display.say, losses=display.losses),
        )
        display.finish(run)
