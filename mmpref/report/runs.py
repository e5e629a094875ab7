"""Run folders as the report sees them: what is there is read, what is damaged or missing is said and left out."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.files.reading import parse_json, read_json, read_text, without_links
from mmpref.report.evaluation import RESULTS, Evaluation, Row, number
from mmpref.report.pair_columns import columns_of_running, read_columns
from mmpref.report.questions import Part, in_order, pope_names, pope_parts, refuse_several_models, refuse_twice
from mmpref.report.rounds_folder import with_rounds
from mmpref.rundir.content import MANIFEST, PAIR_TEXTS, SAMPLES
from mmpref.rundir.folder import RunDir
from mmpref.yaml_text import parse_yaml

__all__ = ["CHAIR_METRICS", "RESULTS", "Evaluation", "Row", "Run", "load_runs", "number"]

ITEMS = "items.jsonl"
_ANSWERS = (".jsonl", ".xlsx", ".tsv", ".csv")
CHAIR_METRICS = ("chair_s", "chair_i", "recall", "mean_length")


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
    pair_texts: tuple[Row, ...] = ()
    """Some of its pairs as they are read: ``id``, ``set`` (train or eval), ``prompt``, ``chosen``, ``rejected``,
    ``images``, ``score_chosen``, ``score_rejected``."""
    samples: tuple[Row, ...] = ()
    """Answers to fixed prompts during training: ``step``, ``id``, ``prompt``, ``images``, ``text``."""
    problems: tuple[str, ...] = ()
    pope_names: Mapping[tuple[int, str], str] = field(default_factory=dict, repr=False)
    """What splits are called beside those of the other runs, by the evaluation's ``id()`` and prefix."""
    notes: tuple[str, ...] = ()
    """What the comparison of these runs has to say of their questions."""

    def chair(self) -> Evaluation | None:
        """The run's CHAIR evaluation; the first by name when there are several."""
        return next((found for found in self.evals if found.benchmark == "chair"), None)

    def pope(self) -> dict[str, Part]:
        """By the names of this comparison, official splits first."""
        found: dict[str, Part] = {}
        for evaluation in self.evals:
            for part in pope_parts(evaluation) if evaluation.benchmark == "pope" else ():
                name = self.pope_names.get((id(evaluation), part.prefix), part.split)
                found[evaluation.name if name in found else name] = part
        return {name: found[name] for name in sorted(found, key=in_order)}

    def training_lines(self) -> list[Row]:
        """Log lines that have a training loss."""
        return [line for line in self.log if number(line.get("loss")) is not None]

    def eval_lines(self) -> list[Row]:
        """Log lines of evaluations on held-out pairs."""
        return [line for line in self.log if any(str(key).startswith("eval_") for key in line)]

    @property
    def state(self) -> str | None:
        """``running``, ``complete``, ``stopped`` or ``failed``, as the manifest says; None where it says nothing."""
        state = self.manifest.get("state")
        return state if isinstance(state, str) else None

    @property
    def last_step(self) -> int:
        """The last step that a log line is of; 0 without any."""
        return int(max((number(line.get("step")) or 0 for line in self.log), default=0))

    @property
    def planned_steps(self) -> int | None:
        """How many steps the training has in all; None where that is not recorded."""
        found = number(self.manifest.get("planned_steps")) or number(self.manifest.get("steps"))
        return int(found) if found else None

    @property
    def images_root(self) -> Path | None:
        """Where the image paths of its pairs start, as its recipe says; None where it says nothing."""
        root = self.recipe_value("data.root")
        return Path(root) if isinstance(root, str) and root and "\0" not in root else None

    def recipe_value(self, dotted: str) -> Any:
        """One value of the recipe by its dotted key; None when it is not there."""
        node: Any = self.recipe
        for key in dotted.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        return node


def load_runs(paths: Sequence[Path], *, labels: Mapping[str, str] | None = None) -> list[Run]:
    """Read run folders, folders of ``mmpref eval`` or single result files; the first is compared with the others.

    Args:
        paths: run folders, folders with ``results.json`` (or with such folders in them), or files like it; a folder of
            ``mmpref sample round`` is the runs of its rounds, the start model first.
        labels: names to show, by path as given or by folder name; the default is the folder's name.

    Raises:
        ConfigError: no folder is given, one holds neither a run nor results, or one part of a benchmark twice, or
            results of several models, or one is given twice.
    """
    folders, labels = with_rounds([Path(path) for path in paths], labels or {})
    if not folders:
        raise ConfigError("give at least one run folder; the first is what the others are compared with")
    reals = [without_links(folder) for folder in folders]
    for folder, real in zip(folders, reals, strict=True):
        if reals.count(real) > 1:
            raise ConfigError(f"run folder {folder} is given more than once")
    runs = [_load_run(folder, label) for folder, label in zip(folders, _labels(folders, labels), strict=True)]
    asked = [(run.label, found) for run in runs for found in run.evals if found.benchmark == "pope"]
    names, notes = pope_names(asked)
    return [replace(run, pope_names=names, notes=tuple(notes)) for run in runs]


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
    if not (folder / MANIFEST).exists():
        return _load_results(folder, label)
    return _load_training(run, label)


def _load_results(folder: Path, label: str) -> Run:
    """What is no run folder: one result, or a folder of results of one model."""
    patterns = (f"*/{MANIFEST}", "run folders"), (f"*/*/{RESULTS}", "folders with results in them")
    results = _results_in(folder)
    for pattern, what in patterns[: 1 if results else 2]:
        if inside := sorted({folder / file.relative_to(folder).parts[0] for file in folder.glob(pattern)}):
            raise ConfigError(
                f"{folder} holds {len(inside)} {what} and is none itself; name those to compare: {_shown(inside)}"
            )
    problems: list[str] = []
    found = [load_evaluation(file, problems, str(file)) for file in results]
    evaluations = tuple(entry for entry in found if entry is not None)
    if not evaluations:
        why = _cut(problems) or f"it is not a run folder (it has no {MANIFEST}), and no result is in it"
        raise ConfigError(f"{folder} holds nothing that report reads: {why}. {_what_is_read(folder)}")
    refuse_several_models(folder, evaluations)
    refuse_twice(folder, evaluations)
    return Run(label, folder, {}, None, {}, (), evaluations, problems=tuple(problems))


def _cut(problems: Sequence[str]) -> str:
    return "; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else "")


def _what_is_read(given: Path) -> str:
    what = "It reads run folders of mmpref train, folders of mmpref eval, and files that mmpref score --out has written"
    if given.suffix.lower() in _ANSWERS:
        what += f"; of saved answers make one: mmpref score --benchmark NAME --questions FILE --answers {given} --out "
        what += str(given.with_name(f"{given.stem}_scored.json"))
    return what


def _shown(folders: Sequence[Path]) -> str:
    return " ".join(map(str, folders[:3])) + (" ..." if len(folders) > 3 else "")


def files_of(folder: Path) -> list[Path]:
    """The files of a run, an evaluation or a result that a report may read."""
    if folder.is_file():
        return [folder, *folder.parent.glob(f"{glob.escape(folder.stem)}.*.jsonl")]
    names = [
        f"{below}*.{ending}" for below in ("", "*/", "evals/*/") for ending in ("json", "jsonl", "yaml", "parquet")
    ]
    return [file for name in names for file in folder.glob(name)]


def _results_in(folder: Path) -> list[Path]:
    """The result files of something that is no run folder: one file, one evaluation, or a folder of evaluations."""
    if folder.is_file():
        return [folder]
    own = folder / RESULTS
    return [*([own] if own.is_file() else ()), *_below(folder), *_below(folder / "evals")]


def _below(folder: Path) -> list[Path]:
    """``NAME/results.json`` in a folder, and ``NAME.json`` with ``NAME.items.jsonl``, as ``mmpref score`` writes it."""
    scored = (file.with_name(file.name.removesuffix(f".{ITEMS}") + ".json") for file in folder.glob(f"*.{ITEMS}"))
    return sorted([*folder.glob(f"*/{RESULTS}"), *(file for file in scored if file.is_file())])


def _load_training(run: RunDir, label: str) -> Run:
    folder = run.path
    manifest = run.manifest()
    problems: list[str] = []
    state = manifest.get("state")
    if state is not None and state != "complete":
        problems.append(f"the run is not complete (state: {state})")
    recipe_text = _read(run.recipe_file, problems) if run.recipe_file.exists() else None
    running = state == "running"
    log = _rows(run.metrics_file, problems, usable=lambda row: number(row.get("step")) is not None, growing=running)
    read = [load_evaluation(file, problems, str(file.relative_to(folder))) for file in _below(folder / "evals")]
    if elsewhere := [str(file.relative_to(folder)) for file in (folder / RESULTS, *_below(folder)) if file.is_file()]:
        problems.append(f"results outside evals/ are not read: {_cut(elsewhere)}; move them there")
    evals = tuple(found for found in read if found is not None)
    refuse_twice(folder, evals)
    is_ours = "state" in manifest or "mmpref" in manifest or log or evals
    if not is_ours and not (run.pairs_file.exists() or run.eval_pairs_file.exists()):
        of_others = f"its {MANIFEST} is no run's, and there is no {run.metrics_file.name} and no evals/*/{RESULTS}"
        raise ConfigError(f"{folder} holds nothing that report reads: {of_others}. {_what_is_read(folder)}")
    pair_log = read_columns if state == "complete" else columns_of_running
    return Run(
        label=label,
        path=folder,
        manifest=manifest,
        recipe_text=recipe_text,
        recipe=_parse_recipe(recipe_text, problems),
        log=log,
        evals=evals,
        pairs=pair_log(run.pairs_file, problems),
        eval_pairs=pair_log(run.eval_pairs_file, problems),
        pair_texts=_rows(folder / PAIR_TEXTS, problems, usable=_is_pair_text),
        samples=_rows(folder / SAMPLES, problems, usable=_is_sample, growing=running),
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


def load_evaluation(file: Path, problems: list[str], shown: str, *, with_items: bool = True) -> Evaluation | None:
    """One result file with its items; None where it is none, which is a problem.

    Args:
        problems: gets a sentence for whatever could not be used.
        shown: the file as the sentence names it.
        with_items: whether its rows of questions are read, too.
    """
    folder = file.parent
    try:
        results = read_json(file, DataError)
    except DataError as err:
        problems.append(f"{shown} cannot be read: {err}")
        return None
    if not isinstance(results, dict):
        problems.append(f"{shown} is damaged: expected a JSON object")
        return None
    if not isinstance(results.get("metrics"), dict) or not isinstance(results.get("benchmark"), str):
        problems.append(f"{shown} is no result: it has no benchmark and metrics")
        return None
    usable = {"chair": _is_caption, "pope": _is_yes_no}.get(str(results.get("benchmark")), lambda row: True)
    name = folder.name if file.name == RESULTS else file.stem
    own = results.get("items")  # of mmpref score, beside its file; a name in another folder is not ours
    items = folder / (own if isinstance(own, str) and Path(own).name == own else ITEMS)
    beside = with_items and (file.name == RESULTS or items.name != ITEMS)
    return Evaluation(name, results, _rows(items, problems, usable=usable) if beside else (), file)


def _is_caption(row: Row) -> bool:
    lists = all(isinstance(row.get(key), list) for key in ("mentions", "objects", "hallucinated", "missing"))
    texts = isinstance(row.get("text"), str) and isinstance(row.get("id"), str)
    return lists and texts and number(row.get("num_words")) is not None and all(map(_is_mention, row["mentions"]))


def _is_pair_text(row: Row) -> bool:
    return isinstance(row.get("id"), str)


def _is_sample(row: Row) -> bool:
    return number(row.get("step")) is not None


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


def _rows(file: Path, problems: list[str], *, usable: Callable[[Row], bool], growing: bool = False) -> tuple[Row, ...]:
    """The usable JSON objects of a JSON lines file; how many were not is a problem.

    Args:
        growing: a process appends to it, so that its last line may be half there, which is no problem.
    """
    text = _read(file, problems) if file.exists() else None
    found, bad = [], 0
    lines = (text or "").split("\n")
    for line in lines[:-1] if growing else lines:
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
