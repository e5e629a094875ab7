"""RePOPE: POPE's questions with corrected labels, less those that cannot be decided (Neuhaus and Hein 2025, "RePOPE:
Impact of Annotation Errors on the POPE Benchmark"; official script YanNeu/RePOPE ``src/evaluate.py``).

Questions are the repository's ``annotations/coco_repope_<split>.json``, rows as in POPE with POPE's ids, of which some
are gone: 2,774 random, 2,727 popular and 2,684 adversarial ones are left of 3,000 each. Answers are those to POPE, in
every layout that ``pope`` reads and in that of the script; answers to questions that were removed are left out and
counted. With ``pope=`` (POPE's own question files, which stand beside the others there) POPE's questions are asked, and
the metrics under its labels and the change from these to the new ones are given too: ``pope_f1``, ``change_f1``.

What the protocols do:

- ``official``: "yes" anywhere in the letters of the answer is a yes, else "no" anywhere a no ("cannot" too). Whatever
  has neither is in no number: accuracy and yes_ratio are shares of the answers that were read.
- ``mmpref``: our reader, and the counting of ``pope``.

A ratio over nothing is undefined under both; the script stops there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmarks.contract import Benchmark, Graded, Item, each
from mmpref.evals.benchmarks.pope import id_hint, load_questions, with_split_names
from mmpref.evals.benchmarks.pope_answers import FILE_SPLIT, SPLITS
from mmpref.evals.benchmarks.pope_metrics import PopeProtocol
from mmpref.evals.benchmarks.repope_answers import OF_POPE, POPE_LABEL, by_split, load_repope_answers, number_of
from mmpref.evals.benchmarks.repope_metrics import PROTOCOLS, count, metrics
from mmpref.evals.files.question_words import content
from mmpref.evals.files.rows import pair_by_id
from mmpref.files.rows import Source, is_path
from mmpref.records import Answer, EvalSample


def _former(samples: Sequence[EvalSample]) -> str:
    """What to pass for POPE's labels of the splits of these samples."""
    files = [f"coco_pope_{split or 'random'}.json" for split in by_split(samples)]
    return f"`pope={files[0]}`" if len(files) == 1 else f"`pope='[{', '.join(files)}]'`"


# --- questions -------------------------------------------------------------------------------------------------------


def load_repope(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """RePOPE's questions, or with ``pope=`` POPE's, those that were removed without a target.

    Raises:
        DataError: a row is no question, the questions are POPE's own, or those of ``pope=`` are not the same.
    """
    samples = load_questions(_named(source, with_repope=True), options)
    for split, (first, *others) in by_split(samples).items():
        if len(others) + 1 >= OF_POPE:
            raise DataError(
                f"{source if is_path(source) else 'questions'}: {len(others) + 1} questions"
                f"{f' of split {split!r}' if split else ''} are all of POPE's (the first has the id {first.id!r}), and "
                "RePOPE has fewer; pass coco_repope_random.json and so on as questions, and POPE's files as `pope=`"
            )
    given = options["pope"]
    if given is None:
        return samples
    return _with_removed(samples, load_questions(_named(given, with_repope=False), options))


def _named(source: Source, *, with_repope: bool) -> Source:
    """The source; of a folder that has the questions of both, those whose names say RePOPE, or those that do not."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return source
    files = sorted(Path(source).glob("*.json*"))
    wanted = [file for file in files if ("repope" in file.name.lower()) == with_repope]
    return wanted if wanted and len(wanted) < len(files) else source


def _with_removed(samples: Sequence[EvalSample], former: Sequence[EvalSample]) -> tuple[EvalSample, ...]:
    """POPE's questions in POPE's order, with the labels of both.

    Raises:
        DataError: a question is not among POPE's, or another one there.
    """
    before, out = by_split(former), []
    for split, asked in by_split(samples).items():
        of_pope = before.get(split) or (former if len(before) == 1 and not ({split, *before} <= set(SPLITS)) else ())
        if not of_pope:
            raise DataError(
                f"`pope=` has no questions of split {split!r} but those of {', '.join(map(repr, before))}; pass "
                f"POPE's files of the same splits, {_former(samples)}"
            )
        own = {number_of(sample.id): sample for sample in asked}
        for sample in of_pope:
            new = own.pop(number_of(sample.id), None)
            if new is not None and content(new) != content(sample):
                raise DataError(
                    f"question {new.id!r} is {' '.join(content(new))!r}, and in `pope=` {' '.join(content(sample))!r}; "
                    f"pass POPE's newest revision of the same split, {_former(asked)}"
                )
            out.append(_both(sample, new, asked[0]))
        if not own and len(asked) == len(of_pope) and _labels(asked) == _labels(of_pope):
            raise DataError(
                f"`pope=` has the same {len(asked)} questions and labels{f' of split {split!r}' if split else ''} as "
                f"the questions, so these are no labels to compare with; pass POPE's own, {_former(asked)}"
            )
        if own:
            raise DataError(
                f"{len(own)} questions are not among those of `pope=`, the first is {next(iter(own.values())).id!r}; "
                f"pass POPE's files of the same splits, {_former(samples)}"
            )
    return tuple(out)


def _labels(samples: Sequence[EvalSample]) -> dict[str, str]:
    return {number_of(sample.id): str(sample.target).strip().lower() for sample in samples}


def _both(former: EvalSample, new: EvalSample | None, other: EvalSample) -> EvalSample:
    """POPE's question with RePOPE's label, None where it was removed; its id is written as those of ``other``."""
    label = former.target.strip().lower()
    if new is not None:
        return replace(new, meta={**new.meta, POPE_LABEL: label})
    head, slash, _ = other.id.rpartition("/")
    meta = {**former.meta, "split": other.meta["split"], FILE_SPLIT: other.meta[FILE_SPLIT], POPE_LABEL: label}
    return replace(former, id=f"{head}{slash}{number_of(former.id)}", target=None, meta=meta)


# --- grading ---------------------------------------------------------------------------------------------------------


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: PopeProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read every answer with the protocol's reader and compare it with the new label, and with POPE's where known."""
    pairs = pair_by_id(samples, with_split_names(samples, answers), hint=id_hint(samples))
    items = [_item(sample, text, protocol) for sample, text in pairs]
    kept = [item for item in items if "label" in item]
    unread = sum(item["read"] == "unparsed" for item in kept)
    return Graded(tuple(items), n=len(kept), n_unparsed=unread, notes=_changes(samples))


def _item(sample: EvalSample, text: str, protocol: PopeProtocol) -> Item:
    read = protocol.read(text, str(sample.meta["question"]))
    item: Item = {
        "id": sample.id,
        "split": sample.meta["split"],
        "image": sample.meta["image"],
        "question": sample.meta["question"],
        "text": text,
        "read": read,
    }
    if POPE_LABEL in sample.meta:
        item[POPE_LABEL] = sample.meta[POPE_LABEL]
    if sample.target is None:
        return {**item, "missing": True}  # no label to compare with, so the item is in the numbers of POPE alone
    label = protocol.label(sample.target)
    return {**item, "label": label, "correct": read == label}


def _changes(samples: Sequence[EvalSample]) -> tuple[str, ...]:
    """How many of POPE's labels were changed and removed, by split; where ``pope=`` is missing, how to see that."""
    if not any(POPE_LABEL in sample.meta for sample in samples):
        return (f"what the labels change against POPE's is shown with POPE's own questions: pass {_former(samples)}",)
    notes = []
    for split, asked in by_split(samples).items():
        kept = [(s.meta[POPE_LABEL], s.target.strip().lower()) for s in asked if s.target is not None]
        to_no, to_yes = kept.count(("yes", "no")), kept.count(("no", "yes"))
        notes.append(
            f"{split + ': ' if split else ''}of {len(asked):,} questions of POPE {len(asked) - len(kept):,} are "
            f"removed and {to_no + to_yes:,} labels changed ({to_no:,} from yes to no, {to_yes:,} from no to yes)"
        )
    return tuple(notes)


REPOPE = Benchmark(
    name="repope",
    title="RePOPE, POPE with corrected labels",
    paper="Neuhaus and Hein 2025, arXiv:2504.15707",
    official="YanNeu/RePOPE src/evaluate.py",
    protocols=PROTOCOLS,
    max_new_tokens=64,
    options={"prompt_suffix": "", "pope": None},
    load=load_repope,
    load_answers=load_repope_answers,
    grade=grade,
    unit=lambda item: str(item["image"]),
    counts=each(count),
    metrics=metrics,
    parts=lambda item: (str(item["split"]),) if item["split"] else (),
    headline=("accuracy", "f1", "yes_ratio"),
    undirected=(
        "yes_ratio",
        "pope_yes_ratio",
        *(f"change_{name}" for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")),
    ),
)
