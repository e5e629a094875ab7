"""Pairs of one prompt in a run: what they cost together, and the line that says what ``train.group_pairs`` does."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from mmpref.processing.layout import LayoutName
from mmpref.processing.length_plan import FitPlan
from mmpref.processing.pair_fit import Fit
from mmpref.records import PreferencePair
from mmpref.training.parallel.batches import GlobalBatches
from mmpref.training.parallel.groups import GroupedBatches, PairWork, PromptGroups

_OTHER_IMAGE, _MISMATCHED = "other image", "mismatched"
_WORTH_A_NOTE = 1.5
"""Pairs of a prompt, on average, from which a run without groups says what they would save."""


def works_of(plan: FitPlan, layout: LayoutName, *, need_rejected: bool = True) -> list[PairWork]:
    """What each planned pair costs, as :attr:`Fit.work`, and what of it pairs of its prompt have in common.

    In the plain layout every answer has a row of its own, with its prompt. Without ``need_rejected`` rejected answers
    are not run, and cost nothing.
    """
    shared = layout == "shared_prefix"
    sides = 2 if need_rejected else 1
    return [_work_of(pair, fit, shared=shared, sides=sides) for pair, fit in zip(plan.pairs, plan.fits, strict=True)]


def _work_of(pair: PreferencePair, fit: Fit, *, shared: bool, sides: int) -> PairWork:
    prompts = [float(sum(prompt)) for prompt in fit.prompts]
    first = prompts[0]
    # an answer that is in a row of its own, or follows images of its own, pays for its prompt
    own = [0.0 if shared else first, prompts[1] if len(prompts) > 1 else 0.0 if shared else first]
    given = [(pair.chosen, None), (pair.rejected, None if pair.has_same_images else pair.rejected_images)]
    answers: list[tuple[Hashable, float]] = [
        (side, length + more) for side, length, more in zip(given[:sides], fit.run, own, strict=False)
    ]
    if fit.other:  # behind an image of its own
        answers.append(((_OTHER_IMAGE, pair.id), fit.run[0] + first))
    if pair.mismatched is not None:  # behind its prompt once more; of another row, and about as long
        answers.append(((_MISMATCHED, pair.id), fit.run[0] + first))
    return PairWork(first if shared else 0.0, tuple(answers))


def describe_groups(
    groups: PromptGroups, *, grouped: bool, pairs_per_update: int, seed: int, row_tokens: int | None = None
) -> str | None:
    """One line about the pairs of one prompt, as counted from the data and the first epoch's order.

    Args:
        groups: the training pairs.
        grouped: whether they travel together.
        pairs_per_update: of all processes together.
        seed: of the order.
        row_tokens: ``processing.row_tokens``, where prompts with many answers run in parts: what they cost then is not
            counted here.

    Returns:
        None where there is nothing to say: they do not travel together, and hardly any prompt has several.
    """
    pairs, prompts = groups.num_pairs, len(groups.members)
    counted = f"{_number(pairs, 'pair')} of {_number(prompts, 'prompt')}"
    if pairs == prompts:
        return f"group_pairs: {counted}: no prompt has a second pair, so nothing is grouped" if grouped else None
    counted = f"{counted}, {pairs / prompts:.1f} a prompt"
    if not grouped and pairs < _WORTH_A_NOTE * prompts:
        return None
    together = list(GroupedBatches(groups, pairs_per_update, seed=seed).updates())
    held = _mean([len(update) for update in together])
    cost = sum(groups.cost(group) for update in together for group in update)
    saved = f"{groups.cost_alone() / cost:.1f} times fewer tokens than pairs by themselves"
    saved = saved if row_tokens is None else f"up to {saved}, as far as processing.row_tokens lets them run together"
    update = f"an update of {_number(min(pairs_per_update, pairs), 'pair')}"
    if grouped:
        return f"group_pairs: {counted}; {update} holds about {_number(round(held), 'prompt')}, {saved}"
    alone = _mean([len(set(prompts)) for prompts in _prompts_of_updates(groups, pairs_per_update, seed)])
    return (
        f"group_pairs is off: {counted}; with `train.group_pairs=prompt` pairs of one prompt are in the same update "
        f"and run together: {saved}, and {update} holds about {_number(round(held), 'prompt')} in place of {alone:.0f}"
    )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _prompts_of_updates(groups: PromptGroups, width: int, seed: int) -> list[list[int]]:
    prompt = {index: number for number, group in enumerate(groups.members) for index in group}
    return [[prompt[index] for index in batch] for batch in GlobalBatches(groups.num_pairs, width, seed=seed)]


def _mean(counts: Sequence[int]) -> float:
    """Of full updates; the last one of an epoch may be small."""
    full = counts[:-1] or counts
    return sum(full) / len(full)
