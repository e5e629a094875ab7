"""Questions, annotations, answers and verdicts whose fields have another type than they should: refused in one line,
and never asked of a model or shown to a judge as the text that Python makes of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmpref.errors import MMPrefError
from mmpref.evals import load_samples, score
from tests.tiers import checkerboard
from tests.unit.evals.cases import NAMES, amber_folder, arguments, load

ODD: tuple[Any, ...] = (
    None,
    7,
    -1.5,
    True,
    "",
    " ",
    [],
    {},
    [None],
    {"a": 1},
    "\ud800",
    10**400,
    [[["x"]]],
    float("nan"),
)
Place = tuple[str | int, ...]


def places(tree: Any, before: Place = (), *, most: int = 3) -> Iterator[Place]:
    """Every place in a tree; of a list's entries, and of a mapping that is long, the first ones."""
    items = list(tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ())
    if isinstance(tree, list) or len(items) > 12:
        items = items[:most]
    for key, value in items:
        yield (*before, key)
        yield from places(value, (*before, key), most=most)


def put(tree: Any, place: Place, value: Any) -> Any:
    tree = copy.deepcopy(tree)
    node = tree
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return tree


def parts(name: str, folder: Path) -> Iterator[tuple[str, Any, Any]]:
    """What a benchmark reads: (name, content, how a score is made with other content)."""
    questions, answers, options = arguments(name, folder / "whole")
    yield "answers", answers, lambda content: score(name, questions, content, resamples=5, **options)
    for key in options:
        yield (
            key,
            options[key],
            lambda content, key=key: score(name, questions, answers, resamples=5, **options | {key: content}),
        )
    if name != "amber":
        yield "questions", questions, lambda content: _asked_and_scored(name, content, answers, options)
        return
    case = load(name)
    for number, key in enumerate(("relation", "annotations", "queries")):

        def changed(content: Any, key: str = key, number: int = number) -> None:
            made = amber_folder(case | {key: content}, folder / f"{number}")
            try:
                _asked_and_scored(name, made, answers, options)
            finally:
                made.rename(folder / f"{number} {len(list(folder.iterdir()))}")

        yield key, case[key], changed


def _asked_and_scored(name: str, questions: Any, answers: Any, options: dict[str, Any]) -> None:
    known = {key: value for key, value in options.items() if key == "synonyms"}
    for sample in load_samples(name, questions, **known):
        said = [part.text for message in sample.prompt for part in message.parts]
        odd = {"None", "7", "-1.5", "True", "[]", "{}", "[None]", "{'a': 1}", "[[['x']]]", "nan"}
        assert not odd & {text.split("\n")[0] for text in said}, said
    score(name, questions, answers, resamples=5, **options)


def faults(name: str, folder: Path, odd_at: Any) -> list[str]:
    found = []
    for what, content, scored in parts(name, folder):
        for number, place in enumerate(places(content)):
            for odd in odd_at(number):
                try:
                    scored(put(content, place, odd))
                except MMPrefError as err:
                    if "\n" in str(err):
                        found.append(f"{what} {place} = {odd!r:.40}: several lines: {err}")
                except Exception as err:
                    found.append(f"{what} {place} = {odd!r:.40}: {type(err).__name__}: {err}")
    return found


@pytest.mark.parametrize("name", checkerboard(NAMES))
def test_a_field_of_another_type_is_one_line_or_does_not_matter(name: str, tmp_path: Path) -> None:
    assert faults(name, tmp_path, lambda number: [ODD[number % len(ODD)], ODD[(number + 5) % len(ODD)]]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_every_other_type_is_one_line_or_does_not_matter(name: str, tmp_path: Path) -> None:
    assert faults(name, tmp_path, lambda number: ODD) == []
