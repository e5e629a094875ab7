"""Which results are answers to the same questions: what may share a column, and what one folder may hold.

Names do not tell it: POPE's splits are called random, popular and adversarial for every set of images. So the
questions themselves are looked at, by image and wording; without items, the names of the question files.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmpref.errors import ConfigError
from mmpref.report.evaluation import POPE_SPLITS, RESULTS, Evaluation, Row

T = TypeVar("T")
UNKNOWN_SPLIT = "all"
_BY_ID = "id "


@dataclass(frozen=True, slots=True)
class Part:
    """One split of a POPE evaluation; ``prefix`` begins its metrics' names, "" where the evaluation is of one split."""

    evaluation: Evaluation
    prefix: str
    split: str
    questions: frozenset[Hashable]


def question_of(item: Row) -> Hashable:
    """What was asked: image and words; the id where an item has neither."""
    image, asked = item.get("image"), item.get("question")
    file_name = image.replace("\\", "/").rpartition("/")[2] if isinstance(image, str) else ""
    if isinstance(asked, str) and asked.strip():
        return file_name, " ".join(asked.split())
    return file_name or f"{_BY_ID}{item.get('id')}"


def same_question(first: Row, second: Row) -> bool:
    """Whether two items of one id are answers to the same question; captions of one image whose file has another
    name are known by what is in it."""
    if question_of(first) == question_of(second):
        return True
    objects = first.get("objects")
    return not first.get("question") and isinstance(objects, list) and objects == second.get("objects")


def questions_of(found: Evaluation) -> frozenset[Hashable]:
    """What identifies the questions of an evaluation."""
    return _questions(found.items)


def have_nothing_in_common(
    first: Evaluation, second: Evaluation, asked: tuple[frozenset[Hashable], frozenset[Hashable]] | None = None
) -> bool:
    """Whether two results are known to be of other questions; what cannot be known is no.

    Args:
        asked: the questions to compare, where only a part of the two is meant.
    """
    one, other = asked if asked is not None else (questions_of(first), questions_of(second))
    if one and other and not one & other:
        return True
    if one and other and not all(isinstance(key, str) and key.startswith(_BY_ID) for key in one & other):
        return False
    prints = _fingerprint(first), _fingerprint(second)  # ids alone say little: many files count from 1
    files = question_files(first), question_files(second)
    return any(a and b and a != b for a, b in (prints, files))


def question_files(found: Evaluation) -> tuple[str, ...]:
    """The names of the question files, without folders; nothing where that is not recorded."""
    return tuple(sorted(Path(str(name)).name for name in _asked_files(found)))


def clusters(members: Sequence[T], differ: Callable[[T, T], bool]) -> list[list[T]]:
    """Members in the order given, those together that do not differ from the first of a cluster."""
    out: list[list[T]] = []
    for member in members:
        home = next((cluster for cluster in out if any(not differ(other, member) for other in cluster)), None)
        if home is None:
            out.append([member])
        else:
            home.append(member)
    return out


def names_of(groups: Sequence[Sequence[Evaluation]], labels: Sequence[str]) -> list[str]:
    """A short name for every group of evaluations: the question file, else the result's own name, else the run's."""
    files = ["+".join(Path(name).stem for name in question_files(group[0])) for group in groups]
    own = [group[0].name for group in groups]
    for names in (files, own):
        if all(names) and len(set(names)) == len(names):
            return [name.replace("/", "-") for name in names]
    return [f"{label.replace('/', '-')} {place}" for place, label in enumerate(labels, 1)]


# --- POPE -------------------------------------------------------------------------------------------------------------


def pope_parts(found: Evaluation) -> list[Part]:
    """The splits of one POPE evaluation."""
    metrics = found.results.get("metrics")
    names = metrics if isinstance(metrics, Mapping) else {}
    splits = sorted({str(name).split("/")[0] for name in names if "/" in str(name)} - {"overall"})
    if splits:
        of_split = {split: [item for item in found.items if item.get("split") == split] for split in splits}
        return [Part(found, f"{split}/", split, _questions(items)) for split, items in of_split.items()]
    return [Part(found, "", _one_split(found), questions_of(found))]


def items_of(part: Part) -> tuple[Row, ...]:
    """The items of a split as an evaluation of it alone has them: ``random/1`` of several splits is ``1`` of one."""
    out = []
    for item in part.evaluation.items:
        split = str(item.get("split") or "")
        if part.prefix and f"{split}/" != part.prefix:
            continue
        name = str(item.get("id"))
        out.append({**item, "id": name.removeprefix(f"{split}/") if split else name, "split": ""})
    return tuple(out)


def pope_names(evaluations: Sequence[tuple[str, Evaluation]]) -> tuple[dict[tuple[int, str], str], list[str]]:
    """What the splits of all runs' POPE evaluations are called, so that other questions have another name.

    Args:
        evaluations: label of the run, and evaluation.

    Returns:
        ``(id(evaluation), prefix)`` -> name, and a sentence for every split name that stands for several sets.
    """
    out: dict[tuple[int, str], str] = {}
    notes = []
    members: dict[str, list[tuple[str, Part]]] = {}
    for label, found in evaluations:
        for part in pope_parts(found):
            members.setdefault(part.split, []).append((label, part))
    for split, parts in members.items():
        groups = clusters(parts, lambda a, b: _other_part(a[1], b[1]))
        names = [split]
        if len(groups) > 1:
            short = names_of([[part.evaluation for _, part in group] for group in groups], [g[0][0] for g in groups])
            names = [f"{split} ({name})" if split != UNKNOWN_SPLIT else name for name in short]
            notes.append(
                f"POPE: {len(groups)} sets of questions are called '{split}' and have no question in common "
                f"({', '.join(names)}); each has columns of its own, and they are not compared"
            )
        for name, group in zip(names, groups, strict=True):
            several = any(
                other is not one and label == of and {one.evaluation.protocol} != {other.evaluation.protocol}
                for label, one in group
                for of, other in group
            )
            for _, part in group:
                own = part.evaluation.protocol
                full = f"{name} ({own})" if several and own != "mmpref" else name
                out[id(part.evaluation), part.prefix] = full
    return out, notes


def in_order(name: str) -> tuple[int, str]:
    """A key by which splits stand as papers have them, whatever is added to their names."""
    known = [place for place, split in enumerate(POPE_SPLITS) if name == split or name.startswith(f"{split} (")]
    return known[0] if known else len(POPE_SPLITS), name


def _other_part(one: Part, other: Part) -> bool:
    """Whether two parts of one name are of other questions."""
    asked = one.questions, other.questions
    if have_nothing_in_common(one.evaluation, other.evaluation, asked):
        return True
    if one.split != UNKNOWN_SPLIT or asked[0] == asked[1]:
        return False
    files = question_files(one.evaluation), question_files(other.evaluation)  # sets without a name may share questions
    return bool(files[0] and files[1] and files[0] != files[1])


def _one_split(found: Evaluation) -> str:
    """The split of a POPE evaluation of one: what its folder pope_SPLIT or its question file says, else all."""
    if found.results.get("scored") is None and found.name.startswith("pope"):
        return found.name.removeprefix("pope").strip("_- ") or UNKNOWN_SPLIT
    names = [Path(str(name)).name.lower() for name in _asked_files(found)]
    return next((split for name in names for split in POPE_SPLITS if split in name), UNKNOWN_SPLIT)


# --- what one folder may hold -----------------------------------------------------------------------------------------


def refuse_twice(folder: Path, found: Sequence[Evaluation]) -> None:
    """Two results of one benchmark, protocol and part cannot both stand in one run's place.

    Raises:
        ConfigError: with both files, and what to do.
    """
    for place, one in enumerate(found):
        for other in found[place + 1 :]:
            if (one.benchmark, one.protocol) != (other.benchmark, other.protocol) or not one.benchmark:
                continue
            if (part := _same_part(one, other)) is None:
                continue
            what = f"{one.benchmark}{f', {part}' if part else ''}, protocol {one.protocol}"
            raise ConfigError(
                f"{folder} holds two results of {what}: {one.file} and {other.file}; one run has one of them. Give "
                f"them as two arguments: mmpref report {_place(one)} {_place(other)} --out ..., or move one away"
            )


def _same_part(one: Evaluation, other: Evaluation) -> str | None:
    """What both are results of: a split, "" for the whole; None where they are of other parts."""
    if one.benchmark == "pope":
        for part in pope_parts(one):
            for also in pope_parts(other):
                if part.split == also.split and not _other_part(part, also):
                    return "" if part.split == UNKNOWN_SPLIT else part.split
        return None
    if one.benchmark == "chair":  # the table has one place for captions
        return ""
    return None if have_nothing_in_common(one, other) else ""


def refuse_several_models(folder: Path, found: Sequence[Evaluation]) -> None:
    """Results of several models are several columns, and which is the first one is the user's to say.

    Raises:
        ConfigError: the results name more than one model.
    """
    by_model: dict[str, list[Evaluation]] = {}
    for entry in found:
        if entry.model:
            by_model.setdefault(entry.model, []).append(entry)
    if len(by_model) > 1:
        models = ", ".join(list(by_model)[:3]) + (", ..." if len(by_model) > 3 else "")
        places = [_place(entries[0]) for entries in by_model.values()]
        shown = " ".join(places[:3]) + (" ..." if len(places) > 3 else "")
        raise ConfigError(
            f"{folder} holds results of {len(by_model)} models ({models}); name the folders to compare, first the one "
            f"that the others are compared with: {shown}"
        )


def _place(found: Evaluation) -> str:
    file = found.file or Path(found.name)
    return str(file.parent if file.name == RESULTS else file)


def _fingerprint(found: Evaluation) -> str:
    """Of all questions of an evaluation by ``mmpref eval``; "" where that is not recorded."""
    settings = found.results.get("settings")
    return str(settings.get("questions") or "") if isinstance(settings, Mapping) else ""


def _asked_files(found: Evaluation) -> list[Any]:
    scored = found.results.get("scored")
    asked = scored.get("questions") if isinstance(scored, Mapping) else None
    return asked if isinstance(asked, list) else []


def _questions(items: Iterable[Row]) -> frozenset[Hashable]:
    return frozenset(question_of(item) for item in items)
