"""Every fault in the ``train`` or ``data`` section of a recipe, where the code that reads it stops at the first.

What caused a fault is taken out of the section, and the section is tried again. So every fault has the message that
``mmpref train`` gives, and faults that only follow from another are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mmpref.data.images.loader import ImageLoader
from mmpref.data.opening import recipe_sources
from mmpref.data.quarantine import Quarantine
from mmpref.errors import MMPrefError
from mmpref.losses.objective import Objective
from mmpref.recipe.sections import DataSection, Recipe, TrainSection
from mmpref.training.run.data import RunData, load_data
from mmpref.training.trainer.arguments import training_arguments

S = TypeVar("S", TrainSection, DataSection)
_MOST_FAULTS = 20


def train_faults(recipe: Recipe) -> list[str]:
    """Everything that is refused in the ``train`` section."""

    def look(section: TrainSection) -> None:
        training_arguments(recipe.model_copy(update={"train": section}))

    return _all_faults(recipe.train, look, _without_a_key)[0]


def data_faults(recipe: Recipe, objective: Objective) -> tuple[RunData | None, list[str]]:
    """The data, or None where it has faults, and the faults: files and roots first, then the rows of every source."""

    def load(section: DataSection) -> RunData:
        return load_data(recipe.model_copy(update={"data": section}), objective, Quarantine())

    written = [*recipe.data.train, *recipe.data.eval]
    common_root = any(isinstance(entry, str) or entry.root is None for entry in written)

    def look(section: DataSection) -> None:
        recipe_sources(section)
        if common_root:  # also where no source below it is left
            ImageLoader(section.root)

    faults, section = _all_faults(recipe.data, look, _without_a_source)
    if not faults:
        try:
            return load(section), []
        except MMPrefError as err:
            faults.append(str(err))
        parts = list(_alone(section)) if len(section.train) + len(section.eval) > 1 else []
    else:  # below a root that does not exist, rows cannot be judged
        parts = list(_alone(section)) if section.root == recipe.data.root else []
    for part in parts:
        try:
            load(part)
        except MMPrefError as err:
            faults.append(str(err))
    return None, list(dict.fromkeys(faults))


def _all_faults(
    section: S, look: Callable[[S], object], without: Callable[[S, str], Iterator[S]]
) -> tuple[list[str], S]:
    """Every fault that ``look`` raises, and the section without what caused them.

    Args:
        section: to start from.
        look: raises the first fault.
        without: yields the section with one key or source less, likely causes of the fault first.
    """
    faults: list[str] = []
    fault = _fault(section, look)
    while fault is not None and len(faults) < _MOST_FAULTS:
        faults.append(fault)
        for changed in without(section, fault):
            if (after := _fault(changed, look)) != fault:
                section, fault = changed, after
                break
        else:  # no single key or source causes it
            return faults, section
    return list(dict.fromkeys(faults)), section


def _fault(section: S, look: Callable[[S], object]) -> str | None:
    try:
        look(section)
    except MMPrefError as err:
        return str(err)
    return None


def _without_a_key(section: TrainSection, fault: str) -> Iterator[TrainSection]:
    """One key at its default, those that the fault names first; of a list, single entries first."""
    fields = type(section).model_fields
    given = {name: getattr(section, name) for name in fields}
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    changed = [name for name, value in given.items() if value != defaults[name]]
    for name in sorted(changed, key=lambda name: name not in fault):
        if isinstance(value := given[name], list) and len(value) > 1:
            yield from (section.model_copy(update={name: _less(value, place)}) for place in range(len(value)))
        yield section.model_copy(update={name: defaults[name]})


def _without_a_source(section: DataSection, fault: str) -> Iterator[DataSection]:
    """One source less, or an existing folder as root; those that the fault names first."""
    found = []
    for key in ("train", "eval"):
        entries = getattr(section, key)
        for place, entry in enumerate(entries):
            path = entry if isinstance(entry, str) else entry.path
            found.append((path not in fault, section.model_copy(update={key: _less(entries, place)})))
    if section.root is not None:
        found.append((str(section.root) not in fault, section.model_copy(update={"root": Path.cwd()})))
    yield from (changed for _, changed in sorted(found, key=lambda entry: entry[0]))


def _alone(section: DataSection) -> Iterator[DataSection]:
    """Every source alone, as training data; of those for evaluation every row must be usable."""
    alone: dict[str, Any] = {"eval": [], "held_out": 0.0, "manifest": None}
    for entry in section.train:
        yield section.model_copy(update={**alone, "train": [entry]})
    for entry in section.eval:
        yield section.model_copy(update={**alone, "train": [entry], "max_bad_fraction": 0.0})


def _less(entries: list[Any], place: int) -> list[Any]:
    return [*entries[:place], *entries[place + 1 :]]
