"""Pairs as single answers, each desirable or undesirable, for losses that compare no two answers (KTO)."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace

from mmpref.errors import DataError
from mmpref.records import PreferencePair

_TRIES = 16
"""Rows that are looked at for an exchange of answers, before one is drawn that another row has too."""
_MOST = 4 / 3
"""Upper end of the advised ratio of weighted desirable to weighted undesirable answers."""


def single_answers(pairs: Sequence[PreferencePair], *, seed: int) -> list[PreferencePair]:
    """Each pair as two single answers with labels, and each labelled answer as it is; all with a ``mismatched`` answer.

    The chosen answer of pair ``ID`` becomes the desirable row ``ID/chosen``, its rejected one the undesirable row
    ``ID/rejected`` with the images of the rejected side. Scores, weights, prefix, template settings and meta go with
    the answer that they are of.

    Args:
        pairs: in any order; a weighted source may repeat its pairs.
        seed: of the draw of mismatched answers (:func:`with_mismatched`).

    Raises:
        DataError: a row with one answer and no label, or with two answers and a label; or what
            :func:`with_mismatched` refuses.
    """
    return with_mismatched([answer for pair in pairs for answer in _answers_of(pair)], seed=seed)


def _answers_of(pair: PreferencePair) -> list[PreferencePair]:
    where = f" of {pair.source}" if pair.source else ""
    if pair.rejected is None:
        if pair.label is None:
            raise DataError(
                f"row '{pair.id}'{where} has one answer and does not say whether it is desirable: give it a `label` "
                "(true or false), or a rejected answer; or train it with loss.name: sft"
            )
        return [pair]
    if pair.label is not None:
        raise DataError(
            f"row '{pair.id}'{where} has two answers and a label, and a label is of one answer: leave out `label` or "
            "`rejected`"
        )
    # the answer under another image is a matter of pairs
    alone = replace(pair, rejected=None, rejected_images=None, rejected_weight=None, score_rejected=None)
    return [
        replace(alone, id=f"{pair.id}/chosen", label=True),
        replace(
            alone,
            id=f"{pair.id}/rejected",
            label=False,
            chosen=pair.rejected,
            images=pair.images if pair.rejected_images is None else pair.rejected_images,
            score_chosen=pair.score_rejected,
            chosen_weight=pair.rejected_weight,
            other_images=None,
        ),
    ]


def with_mismatched(answers: Sequence[PreferencePair], *, seed: int) -> list[PreferencePair]:
    """Single answers, each with the text of another one as its ``mismatched`` answer: one of another prompt (or of the
    same prompt over other images), and another text.

    Every text is given to one row, where that is possible; a text that more than half of the rows have cannot be, and
    then some are given to several. Who gets which depends on the seed, and the ids and contents of the rows: not on
    their order, nor on batches, so that an estimate over all of them is the same however they are trained.

    Args:
        answers: repeated rows (of a weighted source) all get the same.
        seed: another seed, another draw.

    Raises:
        DataError: no other row has another prompt and another answer.
    """
    rows = sorted({row.id: row for row in answers}.values(), key=lambda row: (_draw(seed, row.id), row.id))
    if not rows:
        return []
    keys = [row.prompt_key for row in rows]
    count = len(rows)

    def fits(row: int, giver: int) -> bool:
        return rows[row].chosen != rows[giver].chosen and keys[row] != keys[giver]

    givers = [(place + 1) % count for place in range(count)]
    dice = random.Random(f"mismatched/{seed}")
    for row in range(count):
        for other in () if fits(row, givers[row]) else (dice.randrange(count) for _ in range(_TRIES)):
            if fits(row, givers[other]) and fits(other, givers[row]):
                givers[row], givers[other] = givers[other], givers[row]
                break
    by_text = sorted(range(count), key=lambda place: rows[place].chosen)
    texts = [rows[place].chosen for place in by_text]
    for row in range(count):
        if fits(row, givers[row]):
            continue
        # all rows of other texts, in a circle from one of them on
        begin, end = bisect_left(texts, rows[row].chosen), bisect_right(texts, rows[row].chosen)
        rest = count - (end - begin)
        first = dice.randrange(rest) if rest else 0
        others = ((first + step) % rest for step in range(rest))
        found = (by_text[place if place < begin else place + end - begin] for place in others)
        giver = next((place for place in found if keys[place] != keys[row]), None)
        if giver is None:
            raise DataError(
                f"row '{rows[row].id}': none of the other {count - 1} rows has both another prompt and another answer, "
                "and this loss compares each answer with one that belongs to another prompt; give it rows of several "
                "prompts, or train with loss.name: sft"
            )
        givers[row] = giver
    given = {row.id: rows[giver].chosen for row, giver in zip(rows, givers, strict=True)}
    return [replace(row, mismatched=given[row.id]) for row in answers]


def describe_single_answers(
    answers: Sequence[PreferencePair], *, desirable_weight: float, undesirable_weight: float
) -> str:
    """One line: how many answers are desirable, and whether their weights are in the advised balance.

    The KTO paper (Ethayarajh et al., 2024, arXiv:2402.01306) and TRL's guide advise ``desirable_weight`` times the
    number of desirable answers to be 1 to 4/3 times ``undesirable_weight`` times the number of undesirable ones.
    """
    good = sum(bool(row.label) for row in answers)
    bad = len(answers) - good
    line = f"single answers: {good:,} desirable, {bad:,} undesirable"
    if not good or not bad:
        return f"warning: {line}; answers of one kind alone teach no difference: give rows of both"
    if not desirable_weight or not undesirable_weight:
        idle = "undesirable" if desirable_weight else "desirable"
        return f"{line}; loss.kto.{idle}_weight is 0: {idle} answers train nothing"
    ratio = desirable_weight * good / (undesirable_weight * bad)
    said = f"{line}; with their weights {ratio:.3g} : 1"
    if 0.99 <= ratio <= 1.01 * _MOST:  # advice is rounded
        return said
    up, down = f"{undesirable_weight * ratio:.3g}", f"{desirable_weight / ratio:.3g}"
    return (
        f"{said}, and 1 : 1 to 4 : 3 is advised (KTO paper, arXiv:2402.01306; TRL): write "
        f"`loss.kto.{'undesirable' if ratio > 1 else 'desirable'}_weight={up if ratio > 1 else down}`"
    )


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(f"mismatched/{seed}/{name}".encode()).hexdigest()
