"""``mmpref sample pair``: preference pairs of scored candidates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mmpref.cli.options import with_options
from mmpref.errors import stopped_by_ctrl_c

if TYPE_CHECKING:
    from mmpref.sampling.possible_pairs import Choose, Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceOptions:
    """Which two answers are a pair."""

    choose: Annotated[
        str,
        typer.Option(
            help="best_worst, margin or top_k: the best against the worst answer of a prompt, all pairs from "
            "--min-margin, or the best --k answers against the worst."
        ),
    ] = "best_worst"
    k: Annotated[
        int | None, typer.Option(min=1, help="With --choose top_k: how many are best, and worst; default 2.")
    ] = None
    min_margin: Annotated[
        float, typer.Option(min=0, help="Least difference of the scores; equal scores never make a pair.")
    ] = 0.0
    min_score: Annotated[float | None, typer.Option(help="Least score of a chosen answer.")] = None
    max_per_prompt: Annotated[int | None, typer.Option(min=1, help="Most pairs of one prompt.")] = None
    max_per_image: Annotated[int | None, typer.Option(min=1, help="Most pairs over one image.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthOptions:
    """What the lengths of the answers may be."""

    balance_length: Annotated[
        bool,
        typer.Option(
            "--balance-length",
            help="Make chosen and rejected answers equally long in the mean, at the least loss of margin.",
        ),
    ] = False
    max_length_gap: Annotated[
        float | None, typer.Option(max=1, help="Most that the lengths of a pair differ, as a share of the longer.")
    ] = None
    cut: Annotated[
        str,
        typer.Option(
            help="rejected, drop or keep: answers that the token limit ended are rejected ones only, left out, or kept "
            "on both sides."
        ),
    ] = "rejected"


@stopped_by_ctrl_c
@with_options
def pair(
    scored: Annotated[Path, typer.Argument(metavar="SCORED", help="The folder of mmpref sample score, or its file.")],
    choice: ChoiceOptions,
    length: LengthOptions,
    out: Annotated[Path, typer.Option(help="Folder for pairs.jsonl, card.md and step.json.")],
    tau_quantile: Annotated[
        float, typer.Option(min=0, max=1, help="tau_good is this quantile of the chosen answers' scores.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Decides between pairs that are equally good.")] = 0,
    image_root: Annotated[
        Path | None, typer.Option(help="The folder that image paths start from; default: that of the candidates.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Take scores that are not complete.")] = False,
) -> None:
    """Make preference pairs of scored candidates, and a data card with eta and tau_good; says what to run next."""
    from mmpref.sampling.pair import make_pairs, open_scored
    from mmpref.sampling.possible_pairs import PairSettings
    from mmpref.terminal import CountDisplay, print_facts

    settings = PairSettings(
        choose=cast("Choose", choice.choose),
        k=choice.k,
        min_margin=choice.min_margin,
        min_score=choice.min_score,
        max_length_gap=length.max_length_gap,
        cut=cast("Cut", length.cut),
        max_per_prompt=choice.max_per_prompt,
        max_per_image=choice.max_per_image,
        balance_length=length.balance_length,
        tau_quantile=tau_quantile,
        seed=seed,
    )
    found = open_scored(scored, image_root=image_root, partial=partial)
    with CountDisplay("reading candidates") as display:
        result = make_pairs(found, out, settings, progress=display.update)
    print_facts(str(out), result.rows(), [f"note: {warning}" for warning in result.warnings])
    typer.echo(f"train on them, for example with a recipe of Uni-DPO:\n  {result.next_command}")
