"""Run folders as the report sees them: what is there is read, what is damaged or missing is said and left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mmpref.config import parse_yaml
from mmpref.errors import ConfigError, DataError, library_errors
from mmpref.file_reading import parse_json, read_json, read_text, without_links
from mmpref.run_content import MANIFEST
from mmpref.rundir import RunDir

Row: TypeAlias = Mapping[str, Any]
RESULTS = "results.json"
ITEMS = "items.jsonl"
POPE_SPLITS = ("random", "popular", "adversarial")
CHAIR_METRICS = ("chair_s", "chair_i", "recall", "mean_length")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One folder under ``evals/``, or one file of ``mmpref score``: the results, and one row per question when they
    were kept."""

    name: str
    results: Row
    items: tuple[Row, ...]
    file: Path | None = None
    """The result file."""

    @property
    def benchmark(self) -> str:
        return str(self.results.get("benchmark", ""))

    @property
    def protocol(self) -> str:
        return str(self.results.get("protocol", "not recorded"))

    @property
    def model(self) -> str:
        """Which model answered, "" when that is not recorded."""
        settings = self.results.get("settings")
        told = settings if isinstance(settings, Mapping) else {}
        names = (told.get("model") or self.results.get("model"), told.get("adapter"))
        return " with ".join(str(name) for name in names if name)

    def metric(self, name: str) -> float | None:
        metrics = self.results.get("metrics")
        return number(metrics.get(name)) if isinstance(metrics, Mapping) else None

    def interval(self, name: str) -> tuple[float, float] | None:
        intervals = self.results.get("intervals")
        pair = intervals.get(name) if isinstance(intervals, Mapping) else None
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            return None
        low, high = number(pair[0]), number(pair[1])
        return None if low is None or high is None else (low, high)

    def why_undefined(self, name: str) -> str | None:
        reasons = self.results.get("undefined")
        return str(reasons[name]) if isinstance(reasons, Mapping) and name in reasons else None


def _one_split(evaluation: Evaluation) -> str:
    """The split of a POPE evaluation of one: what its folder pope_SPLIT or its question file says, else all."""
    scored = evaluation.results.get("scored")
    if scored is None and evaluation.name.startswith("pope"):
        return evaluation.name.removeprefix("pope").strip("_- ") or "all"
    asked = scored.get("questions") if isinstance(scored, Mapping) else None
    names = [Path(str(name)).name.lower() for name in (asked if isinstance(asked, list) else ())]
    return next((split for name in names for split in POPE_SPLITS if split in name), "all")


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder, read. ``problems`` are sentences about what could not be used."""

    label: str
    path: Path
    manifest: Row
    recipe_text: str | None
    recipe: Row
    log: tuple[Row, ...]
    evals: tuple[Evaluation, ...]
    pairs: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    eval_pairs: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def chair(self) -> Evaluation | None:
        """The run's CHAIR evaluation; the first by name when there are several."""
        return next((found for found in self.evals if found.benchmark == "chair"), None)

    def pope(self) -> dict[str, tuple[Evaluation, str]]:
        """Split -> (evaluation, prefix of its metric names), official splits first."""
        found: dict[str, tuple[Evaluation, str]] = {}
        for evaluation in self.evals:
            if evaluation.benchmark != "pope":
                continue
            metrics = evaluation.results.get("metrics")
            names = metrics if isinstance(metrics, Mapping) else {}
            splits = sorted({str(name).split("/")[0] for name in names if "/" in str(name)} - {"overall"})
            if splits:
                found.update({split: (evaluation, f"{split}/") for split in splits})
            else:
                split = _one_split(evaluation)
                found[evaluation.name if split in found else split] = (evaluation, "")
        known = {split: found[split] for split in POPE_SPLITS if split in found}
        return known | {split: found[split] for split in sorted(found.keys() - known.keys())}

    def training_lines(self) -> list[Row]:
        return [line for line in self.log if number(line.get("loss")) is not None]

    def eval_lines(self) -> list[Row]:
        return [line for line in self.log if any(str(key).startswith("eval_") for key in line)]

    def recipe_value(self, dotted: str) -> Any:
        """One value of the recipe by its dotted key; None when it is not there."""
        node: Any = self.recipe
        for key in dotted.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        return node


def load_runs(paths: Sequence[Path], *, labels: Mapping[str, str] | None = None) -> list[Run]:
    """Read run folders, folders of ``mmpref eval`` or single result files; the first is compared with the others.

    Args:
        paths: run folders, folders with ``results.json`` (or with such folders in them), or files like it.
        labels: names to show, by path as given or by folder name; the default is the folder's name.

    Raises:
        ConfigError: no folder is given, one holds neither a run nor results, or one is given twice.
    """
    folders = [Path(path) for path in paths]
    if not folders:
        raise ConfigError("give at least one run folder; the first is what the others are compared with")
    reals = [without_links(folder) for folder in folders]
    for folder, real in zip(folders, reals, strict=True):
        if reals.count(real) > 1:
            raise ConfigError(f"run folder {folder} is given more than once")
    return [_load_run(folder, label) for folder, label in zip(folders, _labels(folders, labels or {}), strict=True)]


def number(value: Any) -> float | None:
    """A finite number, or None: logs of a broken run hold NaN, and files hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None  # false for NaN; an int may be any number


def _labels(folders: Sequence[Path], given: Mapping[str, str]) -> list[str]:
    plain = _short_names([without_links(folder).with_suffix("") for folder in folders])
    names = []
    for folder, name in zip(folders, plain, strict=True):
        chosen = given.get(str(folder), given.get(without_links(folder).name, name))
        names.append("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in chosen))
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart."""
    longest = max(len(path.parts) for path in paths)
    for length in range(1, longest + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _load_run(folder: Path, label: str) -> Run:
    run = RunDir(folder)
    if not folder.exists():
        raise ConfigError(f"{folder} does not exist; give run folders, or folders that mmpref eval has made")
    if not (folder / MANIFEST).is_file() and (results := _results_in(folder)):
        problems: list[str] = []
        found = [_load_evaluation(file, problems, prefix="") for file in results]
        evaluations = tuple(entry for entry in found if entry is not None)
        _refuse_several_models(folder, results, found)
        return Run(label, folder, {}, None, {}, (), evaluations, problems=tuple(problems))
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give run folders, or folders that mmpref eval has made")
    if not (folder / MANIFEST).is_file():
        for pattern, what in ((f"*/{MANIFEST}", "run folders"), (f"*/*/{RESULTS}", "folders with results in them")):
            if inside := sorted({folder / file.relative_to(folder).parts[0] for file in folder.glob(pattern)}):
                raise ConfigError(
                    f"{folder} holds {len(inside)} {what} and is none itself; name those to compare: {_shown(inside)}"
                )
    return _load_training(run, label)


def _shown(folders: Sequence[Path]) -> str:
    return " ".join(map(str, folders[:3])) + (" ..." if len(folders) > 3 else "")


def _refuse_several_models(folder: Path, files: Sequence[Path], found: Sequence[Evaluation | None]) -> None:
    """Results of several models are several columns, and which is the first one is the user's to say."""
    by_model: dict[str, list[Path]] = {}
    for file, entry in zip(files, found, strict=True):
        if entry is not None and (model := entry.model):
            by_model.setdefault(model, []).append(file.parent)
    if len(by_model) > 1:
        models = ", ".join(list(by_model)[:3]) + (", ..." if len(by_model) > 3 else "")
        raise ConfigError(
            f"{folder} holds results of {len(by_model)} models ({models}); name the folders to compare, first the one "
            f"that the others are compared with: {_shown([folders[0] for folders in by_model.values()])}"
        )


def _results_in(folder: Path) -> list[Path]:
    """The result files of something that is no run folder: one file, one evaluation, or a folder of evaluations."""
    if folder.is_file():
        return [folder]
    own = folder / RESULTS
    return [own] if own.is_file() else sorted(folder.glob(f"*/{RESULTS}")) or sorted(folder.glob(f"evals/*/{RESULTS}"))


def _load_training(run: RunDir, label: str) -> Run:
    folder = run.path
    manifest = run.manifest()
    problems: list[str] = []
    state = manifest.get("state")
    if state is not None and state != "complete":
        problems.append(f"the run is not complete (state: {state})")
    recipe_text = _read(run.recipe_file, problems) if run.recipe_file.exists() else None
    log = _rows(run.metrics_file, problems, usable=lambda row: number(row.get("step")) is not None)
    evals = [_load_evaluation(file, problems) for file in sorted(folder.glob(f"evals/*/{RESULTS}"))]
    return Run(
        label=label,
        path=folder,
        manifest=manifest,
        recipe_text=recipe_text,
        recipe=_parse_recipe(recipe_text, problems),
        log=log,
        evals=tuple(found for found in evals if found is not None),
        pairs=_columns(run.pairs_file, problems),
        eval_pairs=_columns(run.eval_pairs_file, problems),
        problems=tuple(problems),
    )


def _parse_recipe(text: str | None, problems: list[str]) -> Row:
    if text is None:
        return {}
    try:
        tree = parse_yaml(text, where="recipe.yaml")
    except ConfigError as err:
        problems.append(str(err))
        return {}
    return tree if isinstance(tree, dict) else {}


def _load_evaluation(file: Path, problems: list[str], *, prefix: str = "evals/") -> Evaluation | None:
    folder = file.parent
    try:
        results = read_json(file, DataError)
    except DataError as err:
        problems.append(f"{prefix}{folder.name}/{file.name} cannot be read: {err}")
        return None
    if not isinstance(results, dict):
        problems.append(f"{prefix}{folder.name}/{file.name} is damaged: expected a JSON object")
        return None
    usable = {"chair": _is_caption, "pope": _is_yes_no}.get(str(results.get("benchmark")), lambda row: True)
    name = folder.name if file.name == RESULTS else file.stem
    own = results.get("items")  # of mmpref score, beside its file; a name in another folder is not ours
    items = folder / (own if isinstance(own, str) and Path(own).name == own else ITEMS)
    beside = file.name == RESULTS or items.name != ITEMS
    return Evaluation(name, results, _rows(items, problems, usable=usable) if beside else (), file)


def _is_caption(row: Row) -> bool:
    lists = all(isinstance(row.get(key), list) for key in ("mentions", "objects", "hallucinated", "missing"))
    texts = isinstance(row.get("text"), str) and isinstance(row.get("id"), str)
    return lists and texts and number(row.get("num_words")) is not None and all(map(_is_mention, row["mentions"]))


def _is_mention(mention: Any) -> bool:
    return isinstance(mention, dict) and isinstance(mention.get("hallucinated"), bool)


def _is_yes_no(row: Row) -> bool:
    return isinstance(row.get("id"), str) and isinstance(row.get("read"), str)


def _read(file: Path, problems: list[str]) -> str | None:
    try:
        return read_text(file, DataError)
    except DataError as err:
        problems.append(f"{file.name} cannot be read: {err}")
        return None


def _rows(file: Path, problems: list[str], *, usable: Callable[[Row], bool]) -> tuple[Row, ...]:
    """The usable JSON objects of a JSON lines file; how many were not is a problem."""
    text = _read(file, problems) if file.exists() else None
    found, bad = [], 0
    for line in (text or "").split("\n"):
        if not line.strip():
            continue
        try:
            row = parse_json(line, DataError, file.name)
        except DataError:
            row = None
        if isinstance(row, dict) and usable(row):
            found.append(row)
        else:
            bad += 1
    if bad:
        name = f"{file.parent.name}/{file.name}" if file.name.endswith(ITEMS) else file.name
        problems.append(f"{name}: {bad} of {bad + len(found)} lines cannot be used")
    return tuple(found)


def _columns(file: Path, problems: list[str]) -> dict[str, list[Any]]:
    """A parquet file's columns; nothing when it is not there."""
    if not file.is_file():
        return {}
    import pyarrow.parquet as pq

    try:
        with library_errors(DataError, f"{file.name} cannot be read", "its curves and examples are left out"):
            table = pq.read_table(file)
            table.validate(full=True)  # in a damaged file, offsets may lead anywhere in memory
            columns: dict[str, list[Any]] = table.to_pydict()
    except DataError as err:
        problems.append(str(err))
        return {}
    return columns
