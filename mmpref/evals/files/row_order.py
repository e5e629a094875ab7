"""Rows without ids, which answer the questions in their order when each of them shows its question."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from mmpref.evals.files.question_words import asked_text, content, tidy
from mmpref.files.rows import Row
from mmpref.records import EvalSample, ResultWarning

_LABEL_KEYS = ("label", "labels")
CATEGORY_KEYS = ("split", "category")
NOT_CONFIRMED = "which nothing in the rows can confirm"
_MOST_PARTS = 4  # whose orders are tried: 24 at most


def fits(row: Row, sample: EvalSample) -> bool:
    """Whether a row without an id shows just this question: its words, and its label if it has one."""
    said, own = asked_text(row).casefold(), content(sample)[1] or tidy(sample.prompt[-1].text)
    if not own or own.casefold() not in said:
        return False
    label = next((str(row[key]) for key in _LABEL_KEYS if isinstance(row.get(key), str)), "").strip(" .\n").lower()
    return {label, str(sample.target).strip().lower()} != {"yes", "no"}


def orders(samples: Sequence[EvalSample]) -> Iterator[tuple[str, list[EvalSample]]]:
    """The samples in the orders that files have: as they are, then with their splits or subtasks in another order."""
    yield "", list(samples)
    key = next((key for key in CATEGORY_KEYS if any(sample.meta.get(key) for sample in samples)), None)
    if key is None:
        return
    parts: dict[str, list[EvalSample]] = {}
    for sample in samples:
        parts.setdefault(str(sample.meta.get(key)), []).append(sample)
    names = list(parts)
    tried = itertools.permutations(names) if len(names) <= _MOST_PARTS else iter([tuple(sorted(names))])
    for order in tried:
        if list(order) != names:
            yield ", ".join(order), [sample for name in order for sample in parts[name]]


def by_order(rows: Sequence[Row], samples: Sequence[EvalSample]) -> tuple[str, list[EvalSample]] | None:
    """The samples that rows without ids answer, one by one, when every row shows its question; None when they do not.

    Returns:
        How the order was made sure, and the samples in the order of the rows.
    """
    if not rows or len(rows) != len(samples):
        return None
    for order, sorted_samples in orders(samples):
        if all(fits(row, sample) for row, sample in zip(rows, sorted_samples, strict=True)):
            differ = len({content(sample)[1] for sample in samples}) > 1
            sure = "checked by what each row was asked" if differ else NOT_CONFIRMED
            return f"order ({order + '; ' if order else ''}{sure})", sorted_samples
    return None


def unconfirmed_order(where: str) -> ResultWarning:
    """The warning of a file whose rows are paired by their place alone."""
    return ResultWarning(
        "order_unconfirmed",
        f"{where}: the rows are paired with the questions by their place in the file, {NOT_CONFIRMED}: one row more or "
        "less, or another order, gives wrong numbers without an error. Write the benchmark's ids, or the prompts that "
        "were asked, into the rows",
    )
