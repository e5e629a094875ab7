"""``mmpref sample score``: candidates or pairs get scores. A thin command, as in ``cli/main.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mmpref.cli.data_options import SOURCE_HELP, RowOptions
from mmpref.cli.options import with_options
from mmpref.errors import stopped_by_ctrl_c

_SCORED = f"A folder of mmpref sample generate or score, a file of candidates, or a pair set. {SOURCE_HELP}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """What is scored, and where the result goes."""

    source: Annotated[str, typer.Argument(help=_SCORED)]
    out: Annotated[Path, typer.Option(help="Folder for the scored candidates or pairs; a stopped run goes on there.")]
    rows: RowOptions
    image_root: Annotated[
        Path | None, typer.Option(help="The folder that image paths start from; default: as the source's step says.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scorers:
    """What scores, and how the scores become one."""

    scorer: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=KIND]", help="A scorer: objects, agreement, reward, gain, claims or judge; several: again."
        ),
    ]
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME.KEY=VALUE]...", help="Options of scorers, for example objects.truth=FILE."),
    ] = None
    range: Annotated[
        str | None, typer.Option(metavar="LO..HI", help="All scores are mapped to it. Default: 0..5, or the mapping's.")
    ] = None
    weights: Annotated[
        list[str] | None, typer.Option(metavar="NAME=WEIGHT", help="In the mean of scorers; 1 where none is named.")
    ] = None
    mapping: Annotated[
        Path | None, typer.Option(help="scores.json of an earlier step: map as there, so that rounds compare.")
    ] = None
    max_missing: Annotated[
        float, typer.Option(min=0, max=1, help="Share of scores that may be missing without exit code 8.")
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batches:
    """How a model in this process is run."""

    batch_size: Annotated[int, typer.Option(min=1, help="Answers scored together by a model here, at most.")] = 32
    tokens_per_batch: Annotated[int, typer.Option(min=1, help="Tokens of a batch, padding included, at most.")] = 65_536
    cpu_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's own choice.")] = None


@stopped_by_ctrl_c
@with_options
def score(
    scored: _Scored,
    scorers: _Scorers,
    batches: _Batches,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take; score nothing.")] = False,
) -> None:
    """Score candidates, or the answers of any pair set, with one or several scorers on one range.

    Candidates come out as candidates; pairs as canonical pairs with score_chosen and score_rejected.
    """
    from mmpref.installation import refuse_cpu_torch

    if not dry_run and any(word.rpartition("=")[2] in ("reward", "gain") for word in scorers.scorer):
        refuse_cpu_torch("set CUDA_VISIBLE_DEVICES= (to nothing)")
    from mmpref.generation.settings import AnswerSettings
    from mmpref.sampling.score import estimates, score_source
    from mmpref.sampling.score_settings import ScoreSettings, parse_range, parse_scorers, parse_weights
    from mmpref.sampling.score_source import ReadAs, open_score_source
    from mmpref.terminal import CountDisplay, print_facts, print_table

    settings = ScoreSettings(
        scorers=parse_scorers(scorers.scorer, scorers.options or []),
        range=parse_range(scorers.range),
        weights=parse_weights(scorers.weights or []),
        mapping=scorers.mapping,
        max_missing=scorers.max_missing,
        answering=AnswerSettings(
            batch_size=batches.batch_size, tokens_per_batch=batches.tokens_per_batch, cpu_threads=batches.cpu_threads
        ),
    )
    rows = scored.rows
    read = ReadAs(format=rows.format, image_root=scored.image_root, split=rows.split, card=rows.card)
    source = open_score_source(scored.source, read)
    if dry_run:
        print_facts("what scoring would take", estimates(source, settings, scored.out))
        return
    with CountDisplay("scoring") as display:
        outcome = score_source(source, scored.out, settings, progress=display.update, say=display.say)
    print_table("scores", *outcome.scorer_table())
    if outcome.scored.agreement:
        print_table("agreement of scorers", *outcome.agreement_table())
    typer.echo("\n".join(outcome.lines()))
    if outcome.failure is not None:
        raise outcome.failure
