"""``mmpref sample round``: the steps of on-policy pairs, training and evaluation, round after round."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from mmpref.cli.options import RecipeArguments, with_options
from mmpref.errors import stopped_by_ctrl_c


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rounds:
    """How many, and where."""

    rounds: Annotated[int, typer.Option(min=1, help="How many; more than there are goes on after the last.")]
    out: Annotated[Path, typer.Option(help="Folder of the rounds; goes on where it stopped.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Launch:
    """Several processes that train."""

    launch: Annotated[str | None, typer.Option(help="Of mmpref train: ddp, fsdp2, zero2, zero3, or a profile.")] = None
    processes: Annotated[int | None, typer.Option(min=1, help="With --launch: processes on this machine.")] = None
    max_restarts: Annotated[int, typer.Option(min=0, help="With --launch: restarts from the newest checkpoint.")] = 0

    def as_options(self) -> tuple[str, ...]:
        """As ``mmpref train`` takes them."""
        given = {"--launch": self.launch, "--processes": self.processes, "--max-restarts": self.max_restarts or None}
        return tuple(word for name, value in given.items() if value is not None for word in (name, str(value)))


@stopped_by_ctrl_c
@with_options
def rounds(given: RecipeArguments, asked: _Rounds, several: _Launch) -> None:
    """Sample, score, pair, train and evaluate, round after round, each from the model of the round before."""
    from mmpref.doctor.needs import refuse_unmet
    from mmpref.files.locking import only_writer
    from mmpref.losses.settings import resolve
    from mmpref.process import streams
    from mmpref.recipe.loading import load_recipe
    from mmpref.report.compare import comparison_table, load_runs
    from mmpref.report.rounds import facts_table
    from mmpref.sampling.round_commands import RoundCommands
    from mmpref.sampling.rounds import PAGE, Rounds
    from mmpref.terminal import print_table

    streams.output_is_optional()
    recipe = load_recipe(given.recipe, given.overrides or [])
    refuse_unmet(recipe, several.launch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a threshold that is not given: it comes from the pairs
        weighs_scores = resolve(recipe.loss.as_mapping())["uni"] is not None
    commands = RoundCommands(
        recipe=recipe,
        out=asked.out.absolute(),
        weighs_scores=weighs_scores,
        train_options=several.as_options(),
    )
    with only_writer(asked.out, "choose another --out"):
        there = Rounds.begin(commands, typer.echo)
        found = there.run(asked.rounds)
        names, made = facts_table(found)
        header, *lines = map(list, zip(names, *made, strict=True))  # a line for each number fits a terminal
        print_table("what each round was made of", header, lines)
        table = comparison_table(load_runs([commands.out]))
        header, *lines = map(list, zip(table.header(), *table.text_rows(), strict=True))
        print_table("value [95 % interval], change from the first", header, lines, table.notes)
        if find_spec("matplotlib") is None:
            typer.echo("no page was made: its figures need matplotlib (pip install 'mmpref[report]')")
            return
        there.page(commands.out / PAGE)
