"""Lengths of the pairs of a run: what fits the model, and what is quarantined because it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from mmpref.data.commands.next_steps import allowing, override
from mmpref.data.pair_source import Candidate, PairSource
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.errors import ConfigError, DataError
from mmpref.files.hashes import Say
from mmpref.processing.encode import PairEncoder
from mmpref.processing.length_plan import FitPlan, plan_fit
from mmpref.processing.token_weights import NO_WEIGHT
from mmpref.recipe.sections import Recipe
from mmpref.training.run.data import RunData


def fit_data(recipe: Recipe, data: RunData, encoder: PairEncoder, say: Say) -> tuple[FitPlan, FitPlan]:
    """Plan the lengths of training and held-out pairs; pairs that cannot be used are quarantined.

    Raises:
        ConfigError: a pair is longer than the model has places for.
        DataError: nothing is left, or more pairs than ``data.max_bad_fraction`` cannot be used for another reason than
            their length, or weights of their tokens that leave an answer none.
    """
    train, held_out = (
        plan_fit(
            pairs,
            encoder,
            data.images.size,
            data.videos.shape,
            shrink_images=recipe.processing.shrink_images,
            one_colour=data.images.has_one_colour,
            num_workers=recipe.train.dataloader_num_workers,
        )
        for pairs in (data.train, data.eval)
    )
    for name, plan in (("data.train", train), ("data.eval", held_out)):
        if plan.describe():
            say(f"{name}: {plan.describe()}")
        _refuse_beyond_places(plan, encoder.family.places)
    set_aside = [*train.set_aside, *(held_out.set_aside if recipe.data.held_out else [])]
    unusable = {pair.id: err for pair, err in set_aside}  # a weighted source repeats its pairs
    for source, found in _where(data.sources, unusable.keys()):
        err = unusable[found.pair.id]
        data.quarantine.num_used -= 1
        fault = RowError(str(err), reason=err.reason)
        source.quarantine_row(data.quarantine, found.file, found.row, fault, row_id=found.pair.id)
    faults = [err for _, err in [*train.set_aside, *held_out.set_aside]]
    bad = [err for err in faults if err.reason not in ("too_long_prompt", NO_WEIGHT)]
    total = len(data.train) + len(data.eval)
    if not train.pairs or (data.eval and not held_out.pairs) or len(bad) > recipe.data.max_bad_fraction * total:
        reasons = ", ".join(
            f"{reason} {count}" for reason, count in Counter(err.reason for err in faults).most_common()
        )
        left = train.pairs and (held_out.pairs or not data.eval)
        cure = f"; `{override('data.max_bad_fraction', allowing(len(bad), total))}` leaves them out" if left else ""
        raise DataError(
            f"{len(faults)} of {total} pairs cannot be used by this model ({reasons}; data.max_bad_fraction is "
            f"{recipe.data.max_bad_fraction:g}); the first: {(bad or faults)[0]}{cure}"
        )
    return train, held_out


def _refuse_beyond_places(plan: FitPlan, places: int | None) -> None:
    if places is None or plan.longest <= places:
        return
    beyond = [fit for fit in plan.fits if fit.longest > places]
    raise ConfigError(
        f"{len(beyond)} of {len(plan.fits)} pairs are longer than the {places} tokens that this model has places for, "
        f"such as '{beyond[0].pair_id}' with {beyond[0].longest}: write `processing.max_length={places}`, which cuts "
        "longer answers and leaves out longer prompts"
    )


def _where(sources: Sequence[PairSource], names: Collection[str]) -> Iterator[tuple[PairSource, Candidate]]:
    """The rows of the pairs with these ids, read a second time: seldom needed, and too many to keep in memory."""
    left = set(names)
    for source in sources:
        if not left:
            return
        for found in source.candidates(Quarantine(), demonstrations="all"):
            if found.pair.id in left:
                left.discard(found.pair.id)
                yield source, found
                if not left:
                    return
