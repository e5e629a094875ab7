"""What is said before the first step about pairs that are too long for a row, do not agree, or are not used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmpref.data.pair_source import all_files
from mmpref.data.prompt_groups import PromptTally, embedded_name
from mmpref.data.quarantine import QuarantinedRow
from mmpref.errors import DataError
from mmpref.processing.layout import LayoutName
from mmpref.processing.length_plan import FitPlan
from mmpref.processing.pair_fit import Fit
from mmpref.records import ImageRef, PreferencePair, VideoRef

_SHOWN = 3


def notes_on_pairs(plan: FitPlan, *, row_tokens: int | None, layout: LayoutName) -> list[str]:
    """One line for each thing that training pairs have against them, with ids; a pair that comes twice counts once.

    Args:
        plan: of the training pairs.
        row_tokens: ``processing.row_tokens``.
        layout: in which the pairs run.
    """
    once = {pair.id: (pair, fit) for pair, fit in zip(plan.pairs, plan.fits, strict=True)}
    lines: list[str] = []
    if row_tokens is not None:
        lines += _beyond(list(once.values()), row_tokens, layout)
    tally = PromptTally()
    for pair, _ in once.values():
        tally.add(pair, [_name(file) for file in all_files(pair)])
    return [*lines, *(f"data.train: {line}" for line in tally.finish().warnings())]


def describe_row_weights(pairs: Sequence[PreferencePair]) -> str:
    """One line on rows whose ``weight`` is 0, which train nothing; empty where there is none.

    Raises:
        DataError: it is 0 in all of them.
    """
    ids = [repr(pair.id) for pair in pairs if pair.weight == 0]
    if pairs and len(ids) == len(pairs):
        raise DataError(
            f"all {len(pairs)} pairs of data.train have the weight 0, so that nothing would be trained: give their "
            "rows a `weight` above 0, or leave the column out"
        )
    told = f"data.train: {len(ids):,} of {len(pairs):,} pairs have the weight 0 and train nothing"
    return f"{told} ({_first(ids)})" if ids else ""


def describe_quarantined(rows: Sequence[QuarantinedRow]) -> str:
    """One line with the pairs of a quarantine by reason, and the first ids; empty where there is none."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        by_reason.setdefault(row.reason, []).append("a row without id" if row.id is None else repr(row.id))
    named = (f"{reason} {len(ids)} ({_first(ids)})" for reason, ids in by_reason.items())
    return f"quarantined: {', '.join(named)}" if rows else ""


def _beyond(fitted: Sequence[tuple[PreferencePair, Fit]], row_tokens: int, layout: LayoutName) -> Iterator[str]:
    """Pairs that no row of ``row_tokens`` holds, and prompts that none holds with a single answer."""

    def tokens(fit: Fit) -> int:
        return fit.tokens if layout == "shared_prefix" else fit.rows * fit.longest

    def with_one(fit: Fit) -> int:
        return fit.prompt + min(fit.run)

    beyond = [(pair, fit) for pair, fit in fitted if tokens(fit) > row_tokens]
    if not beyond:
        return
    longest = max((fit for _, fit in beyond), key=tokens)
    pairs_are = "pair is longer and runs by itself" if len(beyond) == 1 else "pairs are longer and run by themselves"
    yield (
        f"processing.row_tokens={row_tokens}: {len(beyond):,} {pairs_are}, beyond that limit; the longest, "
        f"{longest.pair_id!r}, has {tokens(longest):,} tokens"
    )
    first = {pair.prompt_key: fit for pair, fit in reversed(beyond) if with_one(fit) > row_tokens}
    if first:
        named = _first([f"{fit.pair_id!r} with {with_one(fit):,}" for fit in reversed(first.values())])
        prompts_are = "prompt is" if len(first) == 1 else "prompts are"
        yield (
            f"processing.row_tokens={row_tokens}: {len(first):,} {prompts_are} longer with one answer alone ({named}), "
            "and no two of their pairs run together; raise the limit or lower processing.max_length"
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _name(file: ImageRef | VideoRef) -> str:
    if file.path is not None:
        return file.path
    return embedded_name(file.data or b"") if isinstance(file, ImageRef) else ""
