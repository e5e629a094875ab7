"""What each token of an answer counts in a loss: more where two answers differ, or as the data say.

The rule ``diff`` is that of RLHF-V's DDPO as its authors' repositories run it (RLAIF-V, CHiP and VL-RLHF have the same
one): blocks of equal token ids by ``difflib``, short blocks dropped, and what lies between two blocks counts as changed
where both answers have something there.

Shapes: C and R tokens of the chosen and of the rejected answer, the end of turn counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from typing import Any, Literal

import torch
from torch import Tensor

from mmpref.errors import ConfigError
from mmpref.processing.errors import fault
from mmpref.records import AnswerWeight, PreferencePair, WeightSpan

Decode = Callable[[Sequence[int]], str]
"""Token ids as the text that they stand for, special tokens included and no blank cleaned up."""
BAD_WEIGHTS = "token_weights"
"""The reason of a pair whose weights cannot be used."""
NO_WEIGHT = "no_weight"
"""The reason of a pair of which an answer has no token that counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWeightSettings:
    """``loss.token_weights`` of a recipe.

    Attributes:
        rule: ``diff`` compares the two answers; ``column`` takes the weights that rows have.
        changed, same: of the rule diff: what a token counts that differs, and one that both answers have.
        min_match: so many equal tokens in a row count as shared; fewer are part of a difference.
        insertions: whether tokens that stand in one answer only, where the other has nothing, count as changed. As
            published they do not, so that a pair of which one answer goes on longer has no changed token.
        eos: ``same`` counts the end of turn as shared; ``rule`` leaves it to the comparison, as published.
        autojunk: ``difflib``'s heuristic for 200 elements or more, by which tokens that are frequent in the rejected
            answer begin no block; on in what was published.

    Raises:
        ConfigError: a weight that is negative or not finite.
    """

    rule: Literal["diff", "column"]
    changed: float = 4.0
    same: float = 1.0
    min_match: int = 3
    insertions: bool = False
    eos: Literal["same", "rule"] = "same"
    autojunk: bool = True

    def __post_init__(self) -> None:
        for name in ("changed", "same"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ConfigError(f"loss.token_weights.{name} is {value}, want a finite number of at least 0")

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> TokenWeightSettings | None:
        """From ``Objective.token_weights``."""
        if given is None:
            return None
        return cls(**{entry.name: given[entry.name] for entry in fields(cls) if entry.name in given})

    @property
    def plain(self) -> float:
        """What a token counts that nothing is special about."""
        return self.same if self.rule == "diff" else 1.0

    @property
    def may_leave_nothing(self) -> bool:
        """Whether an answer may have no token that counts."""
        return self.rule == "column" or min(self.changed, self.same) == 0


def token_weights(
    pair: PreferencePair, answers: Sequence[Sequence[int]], settings: TokenWeightSettings, decode: Decode
) -> tuple[Tensor, Tensor | None]:
    """Weights of all tokens of the chosen answer [C] and of the rejected one [R], before anything is cut.

    Args:
        pair: its weights are what the rule ``column`` reads.
        answers: token ids of its answers, each with its end of turn.
        decode: gives the text of token ids.

    Raises:
        EncodeError: weights that are negative, not finite, or of characters that the answer does not have or the
            tokenizer does not give back; the rule ``diff`` for a row with one answer.
    """
    if settings.rule == "column":
        given = [("chosen", pair.chosen, pair.chosen_weight), ("rejected", pair.rejected or "", pair.rejected_weight)]
        found = [
            _given(pair.id, side, text, weight, ids, decode)
            for (side, text, weight), ids in zip(given, answers, strict=False)
        ]
    elif len(answers) < 2:
        raise fault(
            pair.id, BAD_WEIGHTS, "has one answer, and loss.token_weights.rule=diff compares two; write "
            "`loss.token_weights.rule=none`"
        )  # fmt: skip
    else:
        found = [
            torch.tensor([settings.changed if one else settings.same for one in changed])
            for changed in changed_tokens(answers[0], answers[1], settings)
        ]
    return found[0], found[1] if len(found) > 1 else None


def changed_tokens(
    chosen: Sequence[int], rejected: Sequence[int], settings: TokenWeightSettings
) -> tuple[list[bool], list[bool]]:
    """Which tokens of two answers, each with its end of turn, the rule ``diff`` counts as changed."""
    blocks = SequenceMatcher(None, chosen, rejected, autojunk=settings.autojunk).get_matching_blocks()
    kept = [block for block in blocks if block.size >= settings.min_match]
    of_chosen, of_rejected = [False] * len(chosen), [False] * len(rejected)
    begin = (0, 0)
    for block in [*kept, blocks[-1]]:  # the last is empty, behind both answers
        gap = (slice(begin[0], block.a), slice(begin[1], block.b))
        sizes = (block.a - begin[0], block.b - begin[1])
        if all(sizes) or settings.insertions:
            of_chosen[gap[0]] = [True] * sizes[0]
            of_rejected[gap[1]] = [True] * sizes[1]
        begin = (block.a + block.size, block.b + block.size)
    if settings.eos == "same":
        of_chosen[-1:] = of_rejected[-1:] = [False]
    return of_chosen, of_rejected


def checked_weight(pair: PreferencePair) -> float:
    """What the whole loss of a pair is multiplied with.

    Raises:
        EncodeError: it is negative or not finite.
    """
    _check_value(pair.id, "weight", pair.weight)
    return pair.weight


def _given(
    row_id: str, side: str, text: str, weight: AnswerWeight | None, ids: Sequence[int], decode: Decode
) -> Tensor:
    """Weights of an answer as its row has them: a number is for every token; spans leave the end of turn at 1."""
    if weight is None:
        return torch.ones(len(ids))
    if not isinstance(weight, tuple):
        _check_value(row_id, f"{side}_weight", weight)
        return torch.full((len(ids),), float(weight))
    _check_spans(row_id, side, text, weight)
    found = torch.ones(len(ids))
    for place, (begin, end) in enumerate(characters(row_id, side, text, ids[:-1], decode)):
        over = [span.weight for span in weight if span.start < end and begin < span.end]
        if over:
            found[place] = max(over)
    return found


def characters(row_id: str, side: str, text: str, ids: Sequence[int], decode: Decode) -> list[tuple[int, int]]:
    """The characters of an answer that each of its tokens stands for, as (first, first behind them).

    Found by decoding the beginnings of the answer, which every tokenizer can. Blanks around a word do not count, but of
    tokens that are nothing else. A character that several tokens make together belongs to each of them.

    Args:
        text: the answer as the row has it; ``ids`` are its tokens without the end of turn.

    Raises:
        EncodeError: the tokenizer does not give the text back.
    """
    whole = decode(ids)
    words, learnt = text.strip(), whole.lstrip()
    if learnt[: len(words)].casefold() != words.casefold():
        raise fault(
            row_id, BAD_WEIGHTS, f"has weights for characters of its {side} answer, and the tokenizer or the chat "
            f"template changes that text ({words[:40]!r} becomes {learnt[:40]!r}), so that no characters belong to its "
            f"tokens; write one number as {side}_weight"
        )  # fmt: skip
    shift = (len(text) - len(text.lstrip())) - (len(whole) - len(learnt))
    found, begin = [], 0
    for text_so_far in _beginnings(ids, whole, decode):
        # what is decoded of half a character is not what stands there
        end = max(begin, _common_beginning(text_so_far, whole))
        found.append((begin, max(end, begin + 1)))
        begin = end
    return [(first + shift, last + shift) for first, last in (_without_blanks(whole, *one) for one in found)]


_DECODED_AT_ONCE = 24


def _beginnings(ids: Sequence[int], whole: str, decode: Decode) -> list[str]:
    """The text of the first token, of the first two, and so on. Long answers are decoded piece by piece, each piece
    behind a token of the piece before, because tokenizers treat the first token in its own way.
    """
    found: list[str] = []
    begin, before, first = 0, "", ""
    for count in range(1, len(ids) + 1):
        text = before + decode(ids[max(begin - 1, 0) : count])[len(first) :]
        found.append(text)
        if count - begin >= _DECODED_AT_ONCE and whole.startswith(text):
            last = decode(ids[count - 1 : count])
            if last.strip() and text.endswith(last.strip()):  # a token that is no part of a character
                begin, before, first = count, text, last
    return found if not found or found[-1] == whole else [decode(ids[:count]) for count in range(1, len(ids) + 1)]


def _without_blanks(text: str, begin: int, end: int) -> tuple[int, int]:
    piece = text[begin:end]
    if not piece.strip():
        return begin, end
    return begin + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _common_beginning(one: str, other: str) -> int:
    if other.startswith(one):
        return len(one)
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _check_value(row_id: str, field: str, weight: Any) -> None:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
        raise fault(row_id, BAD_WEIGHTS, f"has the {field} {weight!r}; a weight is a finite number of at least 0")


def _check_spans(row_id: str, side: str, text: str, spans: Sequence[WeightSpan]) -> None:
    def refuse(detail: str) -> None:
        raise fault(row_id, BAD_WEIGHTS, f"has a {side}_weight for characters {detail}")

    before: WeightSpan | None = None
    for span in sorted(spans, key=lambda one: (one.start, one.end)):
        place = f"{span.start} to {span.end}"
        _check_value(row_id, f"{side}_weight", span.weight)
        if not 0 <= span.start < span.end <= len(text):
            refuse(f"{place} of its {side} answer, which has {len(text)}; spans are (first, first behind them, weight)")
        if before is not None and span.start < before.end:
            refuse(f"{place} and one for {before.start} to {before.end}: spans must not overlap")
        if not text[span.start : span.end].strip():
            refuse(f"{place}, which are blanks: tokens count by their other characters")
        before = span


def refuse_without_weight(
    pair: PreferencePair, weights: Sequence[Tensor | None], settings: TokenWeightSettings
) -> None:
    """Refuse a pair of which an answer, as it will be run, has no token that counts: nothing can be learnt from it, and
    means over its tokens do not exist.

    Args:
        weights: of the chosen and of the rejected answer, cut as the answers are.

    Raises:
        EncodeError: there is none (``no_weight``).
    """
    for side, of_side in zip(("chosen", "rejected"), weights, strict=False):
        if of_side is None or bool((of_side > 0).any()):
            continue
        if settings.rule == "column":
            why = f"every token is 0 by {side}_weight; give one of its tokens a weight, or leave the row out"
        else:
            why = (
                "it has no changed token (where one answer only says more, nothing is changed), and "
                "loss.token_weights.same is 0; `loss.token_weights.same=1` counts what both answers have"
            )
        raise fault(pair.id, NO_WEIGHT, f"has a {side} answer without a token that counts: {why}")


def describe_weights(settings: TokenWeightSettings | None, pairs: Sequence[PreferencePair]) -> str:
    """One line on the weights that rows have, where they are not in every row or nothing reads them; else empty.

    Raises:
        ConfigError: the rule ``column``, and no row has weights.
    """
    having = sum(pair.chosen_weight is not None or pair.rejected_weight is not None for pair in pairs)
    if settings is None or settings.rule != "column":
        if not having:
            return ""
        return (
            f"{having} of {len(pairs)} pairs have chosen_weight or rejected_weight, which this loss does not read; "
            "`loss.token_weights.rule=column` does"
        )
    if not having:
        raise ConfigError(
            f"loss.token_weights.rule is column, and none of {len(pairs)} pairs has chosen_weight or rejected_weight; "
            "write `loss.token_weights.rule=none`, or give rows such fields"
        )
    if having == len(pairs):
        return ""
    return f"{having} of {len(pairs)} pairs have chosen_weight or rejected_weight; in the others every token counts 1"
