"""Which results the table is made of, and which model each of them is of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from mmpref.errors import ConfigError
from mmpref.files.reading import without_links
from mmpref.report.evaluation import RESULTS, Evaluation
from mmpref.report.paper.rules import rules_of
from mmpref.report.questions import have_nothing_in_common
from mmpref.report.runs import ITEMS, load_evaluation
from mmpref.rundir.content import MANIFEST, MODEL

_DEPTH = 3
"""``RUN/evals/NAME/results.json`` in a folder of runs."""
_LONGEST_TAIL = 6


@dataclass(frozen=True, slots=True)
class ModelResults:
    """One row of the table: a model and its results."""

    name: str
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True, slots=True)
class _Given:
    """One argument: a path, and the name that stands before it."""

    text: str
    path: Path
    name: str


def load_models(arguments: Sequence[str]) -> tuple[list[ModelResults], list[str]]:
    """The results in folders and files, those of one model together.

    A result is of the model that ``NAME=PATH`` says, else of the one that it names itself, else of one called as its
    folder: the argument, or where that holds folders of results in folders (``all/llava/pope``), the folder in it.

    Args:
        arguments: ``PATH`` or ``NAME=PATH``; a folder of ``mmpref eval``, a result of ``mmpref score``, a run folder,
            or a folder that holds any of them.

    Returns:
        The models in the order in which they were found, and sentences about what could not be used.

    Raises:
        ConfigError: there is no result, one is given twice, a name stands for several models, or one model has two
            results of the same questions of one benchmark under one protocol.
    """
    if not arguments:
        raise ConfigError("give at least one folder or file of results")
    problems: list[str] = []
    found: dict[str, list[Evaluation]] = {}
    seen: dict[Path, str] = {}
    given_names: set[str] = set()
    for given in map(_parse, arguments):
        files = result_files(given.path)
        before = len(problems)
        read = [load_evaluation(file, problems, str(file)) for file in files]
        evaluations = [entry for entry in read if entry is not None]
        if not evaluations:
            why = "; ".join(problems[before:][:3]) or "no result is in it"
            raise ConfigError(
                f"{given.path} holds nothing that a table is made of: {why}. It is made of folders of mmpref eval, "
                "files that mmpref score --out has written, and folders that hold them"
            )
        for entry in evaluations:
            file = without_links(entry.file or given.path)
            if file in seen:
                raise ConfigError(
                    f"{entry.file} is given more than once: in {seen[file]} and {given.text}; leave one out"
                )
            seen[file] = given.text
        if given.name:
            _refuse_several_models(given, evaluations)
        for entry in evaluations:
            found.setdefault(given.name or entry.model or _folder_name(entry, given.path), []).append(entry)
        given_names |= {given.name} - {""}
    for name, evaluations in found.items():
        _refuse_twice(name, evaluations)
    shown = _shown(found, given_names)
    return [ModelResults(shown[name], tuple(entries)) for name, entries in found.items()], problems


def _parse(argument: str) -> _Given:
    """``NAME=PATH``, or a path, which may have the sign in its own name."""
    name, sign, path = argument.partition("=")
    if not sign or Path(argument).exists():
        given = _Given(argument, Path(argument), "")
    else:
        given = _Given(argument, Path(path), " ".join(name.split()))
        if not given.name or not path:
            raise ConfigError(
                f"{argument}: write NAME=PATH, the name that the table shows and the folder or file of its results"
            )
    if not given.path.exists():
        raise ConfigError(f"{given.path} does not exist; give folders of mmpref eval or files of mmpref score --out")
    return given


def result_files(path: Path) -> list[Path]:
    """The result files in a folder, or the file itself.

    In folders these are ``results.json``, and ``NAME.json`` with ``NAME.items.jsonl`` beside it, as ``mmpref score``
    writes them, at most three folders below.
    """
    if path.is_file():
        return [path]
    files: list[Path] = []
    for depth in range(_DEPTH + 1):
        below = "*/" * depth
        scored = (
            file.with_name(file.name.removesuffix(f".{ITEMS}") + ".json") for file in path.glob(f"{below}*.{ITEMS}")
        )
        files += sorted({*path.glob(f"{below}{RESULTS}"), *(file for file in scored if file.is_file())})
    return files


def _folder_name(found: Evaluation, given: Path) -> str:
    """The name of a result that names no model: of its run folder, of the folder that holds several of it, else of what
    was given."""
    file = found.file or given
    top = given.with_suffix("") if given.is_file() else Path(without_links(given))
    inside = file.relative_to(given).parts[:-1] if given.is_dir() else ()  # the folders between
    for length in range(len(inside), -1, -1):
        if (given.joinpath(*inside[:length]) / MANIFEST).is_file():
            return inside[length - 1] if length else top.name
    if len(inside) > (1 if file.name == RESULTS else 0):
        return inside[0]
    return top.name


def _refuse_several_models(given: _Given, evaluations: Sequence[Evaluation]) -> None:
    named = {entry.model: entry for entry in evaluations if entry.model}
    if len(named) > 1:
        shown = "; ".join(f"{model} in {entry.file}" for model, entry in list(named.items())[:3])
        raise ConfigError(
            f"{given.path} holds results of {len(named)} models ({shown}), and {given.name}= is the name of one; give "
            "each of them a name of its own: NAME=PATH NAME=PATH"
        )


def _refuse_twice(name: str, evaluations: Sequence[Evaluation]) -> None:
    for place, one in enumerate(evaluations):
        for other in evaluations[place + 1 :]:
            if rules_of(one) != rules_of(other) or have_nothing_in_common(one, other):
                continue
            raise ConfigError(
                f"{name} has two results of {one.benchmark}, protocol {one.protocol}: {one.file} and {other.file}; a "
                "table has a place for one of them. Leave one out, or where they are of two models, say so: "
                f"NAME={one.file} NAME={other.file}"
            )


def _called(name: str, evaluations: Sequence[Evaluation], length: int) -> str:
    """What a result's model is called: as on the command line, where that is known; of a whole path the last ``length``
    parts, and of a run folder not the folder ``model`` in it."""
    model, sign, adapter = name.partition(" with ")
    typed = next((e.results["model"] for e in evaluations if isinstance(e.results.get("model"), str)), "")
    return f"{_tail(typed if typed and PurePath(model).is_absolute() else model, length)}{sign}{_tail(adapter, length)}"


def _tail(text: str, length: int) -> str:
    path = PurePath(text)
    if not path.is_absolute():
        return text
    parts = path.parts[1:-1] if path.name == MODEL and len(path.parts) > 2 else path.parts[1:]
    return "/".join(parts[-length:])


def _shown(found: Mapping[str, Sequence[Evaluation]], given: Collection[str]) -> dict[str, str]:
    """What each model is called, printable: the names that were given as they are, the others as short as tells them
    apart.

    Args:
        found: what tells a model from the others -> its results.
        given: those of them that the user named.
    """
    kept: dict[str, str] = {}
    for length in range(1, _LONGEST_TAIL):
        left = [name for name in found if name not in kept]
        called = {name: name if name in given else _called(name, found[name], length) for name in left}
        texts = [*kept.values(), *called.values()]
        kept |= {name: text for name, text in called.items() if texts.count(text) == 1}
    kept = {name: kept.get(name, name) for name in found}
    return {
        name: "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
        for name, text in kept.items()
    }
