"""Why training did what it did: what the pairs were worth, and what the loss made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from mmpref.report.examples import Album
from mmpref.report.html import render
from mmpref.report.pairs.balance import balance_block
from mmpref.report.pairs.block import Group, group_of, legend, section
from mmpref.report.pairs.example_pairs import examples_of
from mmpref.report.pairs.held_out import held_out_block
from mmpref.report.pairs.lengths import lengths_block
from mmpref.report.pairs.log import PairRun, no_log, pair_runs
from mmpref.report.pairs.scores import scores_block
from mmpref.report.pairs.weights import weights_block
from mmpref.report.runs import Run, number

_TITLE = "Why: the pairs and what the loss made of them"


def why_section(runs: Sequence[Run], album: Album) -> Markup | None:
    """Scores against rewards with example pairs, weights, balance, training against held-out pairs, and length.

    Args:
        runs: all runs of the page; those that are only evaluations are left out.
        album: gives the images of the example pairs.

    Returns:
        The section; None where no run is a training.
    """
    found = pair_runs(runs)
    if not found:
        return None
    group = group_of(found)
    told = _told(found, group)
    if not group.runs:
        return section("why", _TITLE, told, [])
    blocks = [
        scores_block(group),
        weights_block(group),
        balance_block(group),
        held_out_block(group),
        lengths_block(group),
    ]
    first = next((block for block in blocks if block.lead), None)
    examples, notes = examples_of(group, album)
    parts = []
    for block in blocks:
        if block.empty:
            continue
        shown = replace(block, lead=()) if block is first else block  # it begins the section
        parts.append(render("pair_block", block=shown, legend=legend(group.runs, block.drawings)))
        if block.key == "scores":
            parts.append(render("pair_examples", examples=examples, notes=notes))
    return section("why", _TITLE, [*(first.lead if first else ()), *told], parts)


def _told(found: Sequence[PairRun], group: Group) -> list[str]:
    """What stands in the way: damaged columns, runs without a log, runs on other data."""
    logged = {run.label for run in group.runs}
    told = [no_log(run) for run in found if run.label not in logged]
    told += [f"{run.label}: {problem}" for run in found for problem in run.problems]
    for run in group.runs:
        kept = number(run.run.recipe_value("train.pair_log"))
        if kept == 0:
            told.append(f"{run.label}: its recipe keeps no training pairs (train.pair_log=0), only held-out ones")
        elif kept is not None and kept < 1:
            told.append(f"{run.label}: its pair log has a part of the training pairs (train.pair_log={kept:g})")
    return told + list(group.why_not.values())
