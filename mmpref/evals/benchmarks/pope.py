"""POPE: is there a <thing> in the image? (Li et al. 2023, "Evaluating Object Hallucination in Large Vision-Language
Models"; official script RUCAIBox/POPE ``evaluate.py``).

Questions are rows ``{"question_id", "image", "text", "label"}`` in JSON lines or one JSON array. Several splits are
given as a list of files, a folder with the usual file names, a mapping ``{split: source}`` or rows with a ``split``.
With several splits whose ids overlap (the public files all count from 1) an id is ``split/question_id``, and answers
use those ids or come as a mapping or list in the same shape as the questions.

Positive class: yes. What each protocol does with an answer that is neither yes nor no:

- ``official``: cannot happen; every answer without a lone No, no or not is a yes.
- ``lmms_eval``: wrong in accuracy, absent from precision, recall and f1. Its yes_ratio counts labels, not answers.
- ``vlmevalkit``: wrong in accuracy and not a yes elsewhere. The tool has no yes_ratio; ours is the share of yes.
- ``mmpref``: the same counting as ``vlmevalkit``, with our reader, and reported as ``n_unparsed``.

A ratio over nothing is undefined under ``official`` (where the script stops with an error) and ``mmpref``, and 0 under
the other two, as those tools print. An f1 with no true positive is 0, except under ``official``, where it is undefined.

The official script pairs answers with labels by file order, reads no ids, and silently scores the shorter of the two
lists while its yes_ratio counts every answer. ``pairing="order"`` does exactly that; the default pairs by id under
every protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks.contract import Benchmark, Graded, Item, each
from mmpref.evals.benchmarks.pope_answers import (
    FILE_SPLIT,
    QUESTION_KEYS,
    SPLITS,
    Part,
    in_order,
    match_part,
    of_these_splits,
    other_split_named,
)
from mmpref.evals.benchmarks.pope_metrics import PROTOCOLS, PopeProtocol, count, metrics
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.models_named import refuse_several_models
from mmpref.evals.files.question_rows import question_rows, refuse_repeated_ids, yes_no_label
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.text.content_words import lacks_object
from mmpref.files.reading import without_links
from mmpref.files.rows import Row, Source, choose, first_ids, is_path, row_id, short
from mmpref.records import Answer, EvalSample, ImageRef, user_turn

_PAIRINGS = ("id", "order")


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """The questions of one or several splits as samples.

    Raises:
        DataError: a row misses a key, its label is neither yes nor no, or one split stands there twice.
    """
    splits = _by_split(source)
    rows = [(split, where, row) for split, part in splits.items() for where, row in _split_rows(part, split)]
    _refuse_split_twice(splits, rows)
    file = next((Path(str(part)).stem for part in splits.values() if is_path(part) and len(splits) == 1), "")
    named = next((split for split in SPLITS if split in file), "")
    return _samples(rows, str(options["prompt_suffix"]), named)


def _refuse_split_twice(splits: Mapping[str, Source], rows: Sequence[tuple[str, str, Row]]) -> None:
    """Refuse a copy of a split under another name, which would count it twice."""
    asked: dict[str, list[Row]] = {split: [] for split in splits}
    for split, _, row in rows:
        asked[split].append(row)
    seen: list[str] = []
    for split, own in asked.items():
        same = next((other for other in seen if asked[other] == own), None)
        if own and same is not None and not {same, split} <= set(SPLITS):
            raise DataError(f"splits {same!r} and {split!r} have the same rows; give each split once")
        seen.append(split)


def _split_rows(part: Source, split: str) -> list[tuple[str, Row]]:
    return question_rows(part, f"questions of split '{split}'" if split else "questions")


def _by_split(source: Source) -> dict[str, Source]:
    """The source of each split; the name is "" when there is only one source."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        files = sorted(Path(source).glob("*.json*"), key=lambda file: (_split_rank(file), file.name))
        if not files:
            raise DataError(f"{source}: no .json or .jsonl question file in this folder")
        return _name_splits(files)
    if isinstance(source, str | Path):
        return {"": source}
    if isinstance(source, Mapping):
        return {"": [source]} if "label" in source else {str(name): part for name, part in source.items()}
    parts = list(source)
    if parts and all(is_path(part) for part in parts):
        return _name_splits([Path(part) for part in parts]) if len(parts) > 1 else {"": parts[0]}
    return {"": parts}


def _split_rank(file: Path) -> int:
    return next((rank for rank, split in enumerate(SPLITS) if split in file.stem), len(SPLITS))


def _name_splits(files: Sequence[Path]) -> dict[str, Source]:
    """Files by the official split in their name, else by their name; files that are all called alike by their folder.

    So ``random/answers.jsonl`` and ``popular/answers.jsonl``, which ``mmpref eval`` writes, get different names.
    """
    stems, folders = [file.stem for file in files], [without_links(file).parent.name for file in files]
    for names in (_official_names(stems), stems, _official_names(folders), folders):
        if len(set(names)) == len(names):
            return dict(zip(names, files, strict=True))
    raise DataError(
        f"files of several splits share a name: {first_ids(stems)}; give each split once, with its name in that of its "
        "file or folder"
    )


def _official_names(names: Sequence[str]) -> list[str]:
    return [next((split for split in SPLITS if split in name), name) for name in names]


def _samples(rows: Sequence[tuple[str, str, Row]], prompt_suffix: str, named: str) -> tuple[EvalSample, ...]:
    keyed = []
    places = []
    for split, where, row in rows:
        for key in ("text", "image"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise DataError(
                    f"{where}: '{key}' is missing or not text; a POPE row has question_id, image, text, label"
                )
        yes_no_label(row, "label", where)
        if lacks_object(row["text"]):
            raise DataError(f"{where}: text {short(row['text'])} names no object that is asked about")
        keyed.append((split or str(row.get("split", "")), row_id(row, where, QUESTION_KEYS), row))
        places.append((where, "/".join(filter(None, keyed[-1][:2]))))
    refuse_repeated_ids(places)
    ids = [name for _, name, _ in keyed]
    one_split = len({split for split, _, _ in keyed}) == 1
    bare = one_split or len(set(ids)) == len(ids)
    return tuple(
        EvalSample(
            id=name if bare else f"{split}/{name}",
            images=(ImageRef(path=row["image"]),),
            prompt=user_turn(row["text"] + prompt_suffix, num_images=1),
            target=row["label"],
            meta={"split": split, "image": row["image"], "question": row["text"], FILE_SPLIT: split or named},
        )
        for split, name, row in keyed
    )


def load_pope_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    """Answers, whose ids get their split in front when they come one source per split."""
    parts = answer_parts(source)
    if _pairing(options) == "order":
        return in_order(list(parts.values()), samples)
    return answers_of(parts, samples)


def answer_parts(source: Source) -> dict[str, Part]:
    """The rows of answers by their split, "" where one source has those to all.

    Raises:
        DataError: a source cannot be read, or has answers of several models.
    """
    if not isinstance(source, str | Path | Mapping):
        source = list(source)
    splits = _answer_splits(source)
    parts: dict[str, Part] = {split: (name_of(part), read_rows(part)) for split, part in splits.items()}
    refuse_several_models((row for _, rows in parts.values() for row in rows), ", ".join(w for w, _ in parts.values()))
    return parts


def answers_of(parts: Mapping[str, Part], samples: Sequence[EvalSample]) -> Saved:
    """The answers of the sources by their split ("" where one has all), matched with the samples.

    Raises:
        DataError: rows that fit no question, or show another one than that of their id.
    """
    known = {sample.id for sample in samples}
    out: list[Answer] = []
    read_as: dict[str, None] = {}
    warnings = dict.fromkeys(other_split_named(parts, samples))
    parts, note = of_these_splits(parts, samples)
    notes = dict.fromkeys(note)
    for split, (where, rows) in parts.items():
        found = match_part(rows, where, split, samples)
        named = [a if not split or a.id in known else replace(a, id=f"{split}/{a.id}") for a in found.answers]
        out += named
        read_as.setdefault(found.read_as)
        notes |= dict.fromkeys(found.notes)
        warnings |= dict.fromkeys(found.warnings)
    return Saved(out, read_as="; ".join(read_as), notes=tuple(notes), warnings=tuple(warnings))


def _answer_splits(source: Source) -> dict[str, Source]:
    if isinstance(source, Mapping) and not any(key in source for key in ("text", "answer", "id")):
        return {str(split): part for split, part in source.items()}
    if isinstance(source, list) and len(source) > 1 and all(is_path(part) for part in source):
        return _name_splits([Path(part) for part in source])
    if isinstance(source, str | Path) and Path(source).is_dir():
        return _by_split(source)
    return {"": source[0] if isinstance(source, list) and len(source) == 1 and is_path(source[0]) else source}


def _pairing(options: Mapping[str, Any]) -> str:
    return choose(str(options["pairing"]), _PAIRINGS, "pairing")


# --- grading ---------------------------------------------------------------------------------------------------------


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: PopeProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read every answer with the protocol's reader and compare it with the label."""
    if _pairing(options) == "id":
        pairs = pair_by_id(samples, with_split_names(samples, answers), hint=id_hint(samples))
        return Graded.of([_item(sample, text, protocol) for sample, text in pairs])
    if not protocol.may_pair_by_order:
        raise ConfigError(
            f"pairing='order' is a rule of protocol 'official', not of '{protocol.name}'; pass `--protocol official`"
        )
    items = [_item(sample, answer.text, protocol) for sample, answer in zip(samples, answers, strict=False)]
    graded = Graded.of(items)
    if len(samples) == len(answers):
        return graded
    unasked = [
        {"id": f"extra/{answer.id}", "image": "", "split": "", "read": protocol.read(answer.text, "")}
        for answer in answers[len(items) :]
    ]
    note = f"{len(samples)} questions and {len(answers)} answers: scored the first {len(items)} of each by order"
    return replace(graded, items=(*items, *unasked), notes=(note,))


def with_split_names(samples: Sequence[EvalSample], answers: Sequence[Answer]) -> Sequence[Answer]:
    """Answers given one source per split, to questions whose ids need no split in front."""
    known = {sample.id for sample in samples}
    bare = {f"{sample.meta['split']}/{sample.id}": sample.id for sample in samples}
    return [a if a.id in known else replace(a, id=bare.get(a.id, a.id)) for a in answers]


def id_hint(samples: Sequence[EvalSample]) -> str:
    """How the ids of these samples are written, for a message about unknown ones."""
    if samples and samples[0].meta["split"] and samples[0].id.startswith(f"{samples[0].meta['split']}/"):
        return "; the splits count their ids alike, so an answer id is 'split/question_id'"
    return ""


def _item(sample: EvalSample, text: str, protocol: PopeProtocol) -> Item:
    read, label = protocol.read(text, str(sample.meta["question"])), protocol.label(sample.target)
    return {
        "id": sample.id,
        "split": sample.meta["split"],
        "image": sample.meta["image"],
        "question": sample.meta["question"],
        "text": text,
        "read": read,
        "label": label,
        "correct": read == label,
    }


POPE = Benchmark(
    name="pope",
    title="POPE, Polling-based Object Probing Evaluation",
    paper="Li et al. 2023, arXiv:2305.10355",
    official="RUCAIBox/POPE evaluate.py",
    protocols=PROTOCOLS,
    max_new_tokens=64,
    options={"prompt_suffix": "", "pairing": "id"},
    load=load_questions,
    load_answers=load_pope_answers,
    grade=grade,
    unit=lambda item: str(item["image"]),
    counts=each(count),
    metrics=metrics,
    parts=lambda item: (str(item["split"]),) if item["split"] else (),
    headline=("accuracy", "f1", "yes_ratio"),
    undirected=("yes_ratio",),
)
