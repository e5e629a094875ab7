"""``mmpref sample``: from prompts to on-policy preference pairs, one step at a time; each goes on where it stopped.

Thin commands, as in ``cli/main.py``: parse, build, call one function, show what it returns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmpref.cli.generate import generate, merge
from mmpref.cli.pairs import pair
from mmpref.cli.rounds import rounds
from mmpref.cli.scores import score
from mmpref.errors import stopped_by_ctrl_c

app = typer.Typer(
    name="sample",
    help="On-policy pairs: sample candidates, score them, make pairs of them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _only_groups() -> None:
    """Make typer keep the names of commands, however few they are."""


app.command("generate")(generate)
app.command("merge")(merge)
app.command("score")(score)
app.command("pair")(pair)
app.command("round")(rounds)


@app.command()
@stopped_by_ctrl_c
def show(folder: Annotated[Path, typer.Argument(help="The folder of a step of mmpref sample.")]) -> None:
    """What a step made: from what, with which settings, how much of it, and what was left out."""
    from mmpref.sampling.steps import read_step
    from mmpref.terminal import print_facts

    print_facts(str(folder), read_step(folder).rows())
