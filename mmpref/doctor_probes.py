"""Every fault of one section of a recipe, where the code that reads it ends at the first: ``mmpref doctor``.

What made the first fault is taken out, and the section is tried again. So every fault is told in the words in which
``mmpref train`` would tell it, and none is told that only stands in for another.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmpref.config import DataSection, Recipe, TrainSection
from mmpref.errors import MMPrefError
from mmpref.files import writing_to

if TYPE_CHECKING:
    from mmpref.losses.objective import Objective
    from mmpref.training.run_data import RunData

S = TypeVar("S", TrainSection, DataSection)
_MOST = 20


def train_faults(recipe: Recipe) -> list[str]:
    """Everything that is refused in the ``train`` section."""
    from mmpref.training.arguments import training_arguments

    def look(section: TrainSection) -> None:
        training_arguments(recipe.model_copy(update={"train": section}))

    return _taken_out(recipe.train, look, _without_a_key)[0]


def data_faults(recipe: Recipe, objective: Objective) -> tuple[RunData | None, list[str]]:
    """The data, and everything that is wrong with it: files and roots first, then the rows of every source.

    The data is None where something is.
    """
    from mmpref.data.images import ImageLoader
    from mmpref.data.opening import recipe_sources
    from mmpref.data.quarantine import Quarantine
    from mmpref.training.run_data import load_data

    def load(section: DataSection) -> RunData:
        return load_data(recipe.model_copy(update={"data": section}), objective, Quarantine())

    written = [*recipe.data.train, *recipe.data.eval]
    common_root = any(isinstance(entry, str) or entry.root is None for entry in written)

    def look(section: DataSection) -> None:
        recipe_sources(section)
        if common_root:  # also where no source is left that would be read below it
            ImageLoader(section.root)

    faults, section = _taken_out(recipe.data, look, _without_a_source)
    if not faults:
        try:
            return load(section), []
        except MMPrefError as err:
            faults.append(str(err))
        parts = list(_alone(section)) if len(section.train) + len(section.eval) > 1 else []
    else:  # a root that is none says nothing of the rows below it
        parts = list(_alone(section)) if section.root == recipe.data.root else []
    for part in parts:
        try:
            load(part)
        except MMPrefError as err:
            faults.append(str(err))
    return None, list(dict.fromkeys(faults))


def _taken_out(
    section: S, look: Callable[[S], object], without: Callable[[S, str], Iterator[S]]
) -> tuple[list[str], S]:
    """Every fault that ``look`` raises, and the section without what made them.

    Args:
        without: the section with one thing less, for every thing that can be left out, likely ones first.
    """
    faults: list[str] = []
    fault = _fault(section, look)
    while fault is not None and len(faults) < _MOST:
        faults.append(fault)
        for changed in without(section, fault):
            if (after := _fault(changed, look)) != fault:
                section, fault = changed, after
                break
        else:  # nothing alone makes it
            return faults, section
    return list(dict.fromkeys(faults)), section


def _fault(section: S, look: Callable[[S], object]) -> str | None:
    try:
        look(section)
    except MMPrefError as err:
        return str(err)
    return None


def _without_a_key(section: TrainSection, fault: str) -> Iterator[TrainSection]:
    """A key at its default, those first that the fault names; of lists one entry first."""
    fields = type(section).model_fields
    given = {name: getattr(section, name) for name in fields}
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    changed = [name for name, value in given.items() if value != defaults[name]]
    for name in sorted(changed, key=lambda name: name not in fault):
        if isinstance(value := given[name], list) and len(value) > 1:
            yield from (section.model_copy(update={name: _less(value, place)}) for place in range(len(value)))
        yield section.model_copy(update={name: defaults[name]})


def _without_a_source(section: DataSection, fault: str) -> Iterator[DataSection]:
    """A source less, or another root, those first that the fault names; where a root is no folder, one that is there
    stands in its place."""
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
    """Every source by itself, as one to train on; of those for evaluation every row must be in order."""
    alone: dict[str, Any] = {"eval": [], "held_out": 0.0, "manifest": None}
    for entry in section.train:
        yield section.model_copy(update={**alone, "train": [entry]})
    for entry in section.eval:
        yield section.model_copy(update={**alone, "train": [entry], "max_bad_fraction": 0.0})


def _less(entries: list[Any], place: int) -> list[Any]:
    return [*entries[:place], *entries[place + 1 :]]


def nearest_folder(path: Path) -> Path:
    """The folder of a path that is there: itself, or the nearest one above it."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))


def refuse_place(output: Path) -> None:
    """Make the folders of a run, and a file in them, beside where they would be, and take them away again.

    Raises:
        CheckpointError: that cannot be done.
    """
    place = nearest_folder(output)
    with writing_to(output):
        trial = Path(tempfile.mkdtemp(prefix=".mmpref-", dir=place))
        try:
            folder = trial / output.absolute().relative_to(place.absolute())
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "trial").write_bytes(b"0" * 4096)
        finally:
            shutil.rmtree(trial, ignore_errors=True)
