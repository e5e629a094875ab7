"""Public preference sets with scores: VLFeedback, the UltraFeedback family, Uni-DPO's math files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.chat import with_places
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import (
    fault,
    has,
    is_text,
    is_turns,
    needed,
    number,
    placed_or_first,
    shown,
    speech,
    text,
    turn,
)
from mmpref.data.formats.frameworks import OPENAI_ROLES, has_image, images_of, is_math
from mmpref.data.formats.unread import refuse_media_inside, refuse_unread
from mmpref.data.quarantine import RowError

ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
_RATING = re.compile(r"\s*([1-5](?:\.\d+)?)\s*")
_TURN = re.compile(r"<\|im_start\|>(system|user|assistant)\n(.*?)<\|im_end\|>\n?", re.DOTALL)
_OPENING = "<|im_start|>assistant\n"
_CLOSING = "<|im_end|>"


def _vlfeedback(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """VLFeedback as ``run_dpo.py`` of vlf-silkie/VLFeedback reads it: every two completions whose mean ratings differ,
    the image before the prompt; a completion with a rating that is no number makes no pair."""
    images = needed(images_of(row, options), "img_path")
    prompt = [turn("user", placed_or_first(text(row, "prompt", reason="prompt"), len(images.items)))]
    completions = _completions(row.get("completions"))
    scores, unrated = _mean_ratings(completions)
    pairs = [
        (one, two) if scores[one] > scores[two] else (two, one)
        for one, two in combinations(scores, 2)
        if scores[one] != scores[two]
    ]
    num_ties = len(scores) * (len(scores) - 1) // 2 - len(pairs)
    return [
        CanonicalRow(
            prompt=prompt,
            images=images,
            chosen=text(completions[high], "response"),
            rejected=text(completions[low], "response"),
            used=("image", "images", "prompt", "completions", "models"),
            suffix=f":{high}-{low}",
            scores=(scores[high], scores[low]),
            meta={
                "model_chosen": completions[high].get("model"),
                "model_rejected": completions[low].get("model"),
                **({"tied_pairs_of_row": num_ties} if num_ties else {}),
                **({"unrated_completions_of_row": unrated} if unrated else {}),
            },
        ).build(row, options)
        for high, low in pairs
    ]


def _completions(value: Any) -> list[Mapping[str, Any]]:
    """A list of mappings as it is, or a mapping of lists (how ``datasets`` gives a sequence) turned into one."""
    if isinstance(value, Mapping):
        columns = {key: list(column) for key, column in value.items() if isinstance(column, list | tuple)}
        lengths = {len(column) for column in columns.values()}
        if set(columns) != set(value) or len(lengths) != 1:
            raise fault("completions", "the lists in 'completions' differ in length, or are no lists")
        value = [dict(zip(columns, items, strict=True)) for items in zip(*columns.values(), strict=True)]
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        raise fault(
            "completions", f"'completions' must be a list of mappings or a mapping of lists, got {shown(value)}"
        )
    if len(value) < 2:
        raise fault("completions", f"two completions make a pair, the row has {len(value)}")
    refuse_media_inside(value, "completions")
    return list(value)


def _mean_ratings(completions: Sequence[Mapping[str, Any]]) -> tuple[dict[int, float], int]:
    """Place of a completion -> its mean rating, and how many have none: the set's own reader leaves those out too.

    Raises:
        RowError: fewer than two are rated; with the reason of the first that is not.
    """
    found: dict[int, float] = {}
    faults: list[RowError] = []
    for place, item in enumerate(completions):
        try:
            found[place] = _mean_rating(item.get("annotations"), place)
        except RowError as error:
            faults.append(error)
    if len(found) < 2 and faults:
        raise faults[0]
    return found, len(faults)


def _mean_rating(annotations: Any, place: int) -> float:
    if not isinstance(annotations, Mapping):
        raise fault("rating", f"completions[{place}] has no 'annotations'")
    total = 0.0
    for aspect in ASPECTS:
        found = annotations.get(aspect)
        rating = found.get("Rating") if isinstance(found, Mapping) else None
        if isinstance(rating, int | float) and not isinstance(rating, bool):
            rating = repr(rating)
        match = _RATING.fullmatch(rating) if isinstance(rating, str) else None
        if match is None or float(match[1]) > 5:
            raise fault("rating", f"completions[{place}]: the rating of {aspect!r} is {shown(rating)}, not 1 to 5")
        total += float(match[1])
    return total / len(ASPECTS)


def _talk(row: Row, key: str) -> list[tuple[str, str]]:
    turns = speech(row.get(key), key, role_key="role", text_key="content", roles=OPENAI_ROLES)
    if turns[-1][0] != "assistant":
        raise fault(
            "answer", f"{key!r} must be the prompt's turns and then the assistant's answer, or the answer alone"
        )
    return turns


def _ultrafeedback(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    return [_chat_pair(row, options)]


def _chat_pair(
    row: Row, options: FormatOptions, *used: str, scores: tuple[float, float] | None = None
) -> dict[str, Any]:
    better, worse = _talk(row, "chosen"), _talk(row, "rejected")
    if better[:-1] != worse[:-1]:
        raise fault("prompt_differs", "'chosen' and 'rejected' do not begin with the same turns")
    asked = text(row, "prompt", reason="prompt")
    if len(better) == 1:  # the answers alone
        better, worse = [("user", asked), *better], [("user", asked), *worse]
    first = next((said for role, said in better if role == "user"), "")
    if asked.strip() != first.strip():
        raise fault("prompt_differs", "'prompt' is not the first thing that the user says")
    if has(row, "messages") and row["messages"] != row["chosen"]:  # as a rule, the preferred conversation once more
        said = [said for _, said in (*better, worse[-1])]
        refuse_unread({"messages": row["messages"]}, images=(), videos=(), prompt=said, answers=())
    ids = ("id",) if row.get("prompt_id") is None else ("id", "prompt_id")
    images = images_of(row, options)
    return CanonicalRow(
        prompt=with_places([turn(role, said) for role, said in better[:-1]], len(images.items)),
        images=images,
        chosen=better[-1][1],
        rejected=worse[-1][1],
        used=("image", "images", "prompt", "chosen", "rejected", "messages", *used),
        ids=ids,
        scores=scores,
    ).build(row, options)


def _all_scores(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    given, answers = row.get("all_rm_scores"), row.get("all_generated_responses")
    if not isinstance(given, list | tuple) or not isinstance(answers, list | tuple) or len(given) != len(answers):
        raise fault("score", "'all_rm_scores' and 'all_generated_responses' must be lists of the same length")
    scores = [number(item, f"all_rm_scores[{place}]") for place, item in enumerate(given)]
    known = [score for score in scores if score is not None]
    if len(known) < max(2, len(scores)):
        raise fault("score", "an answer in 'all_rm_scores' has no score")
    high, low = max(known), min(known)
    if high == low:
        return []
    for side, score in (("chosen", high), ("rejected", low)):
        said = _talk(row, side)[-1][1]
        if not any(answer == said for answer, found in zip(answers, scores, strict=True) if found == score):
            raise fault("score_place", f"{side!r} is not the answer that its score in 'all_rm_scores' belongs to")
    used = ("all_rm_scores", "all_generated_responses")
    return [_chat_pair(row, options, *used, scores=(high, low))]


def _uni_dpo_math(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    written = text(row, "prompt", reason="prompt")
    if not written.endswith(_OPENING):
        raise fault("chat_markup", f"'prompt' must be ChatML text that ends with {_OPENING!r}")
    body, place, prompt = written.removesuffix(_OPENING), 0, []
    for match in _TURN.finditer(body):
        if match.start() != place:
            break
        prompt.append(turn(match[1], match[2]))
        place = match.end()
    if place != len(body) or not prompt:
        raise fault("chat_markup", f"'prompt' is not ChatML text at character {place + 1}")
    images = images_of(row, options)
    return [
        CanonicalRow(
            prompt=with_places(prompt, len(images.items)),
            images=images,
            chosen=_unclosed(text(row, "chosen")),
            rejected=_unclosed(text(row, "rejected")),
            used=("image", "images", "prompt", "chosen", "rejected"),
        ).build(row, options)
    ]


def _unclosed(answer: str) -> str:
    """The answer without the end-of-turn mark that some rows carry; templates write their own."""
    stripped = answer.rstrip()
    return stripped.removesuffix(_CLOSING) if stripped.endswith(_CLOSING) else answer


def _is_vlfeedback(row: Row) -> bool:
    value = row.get("completions")
    return (isinstance(value, Mapping) and has(value, "annotations")) or is_turns(value, "annotations")


def _is_chat_pair(row: Row) -> bool:
    both = is_turns(row.get("chosen"), "role") and is_turns(row.get("rejected"), "role")
    return both and is_text(row, "prompt")


SCORED_SETS = (
    Format(
        name="vlfeedback",
        title="VLFeedback: completions with three ratings each, all pairs by mean rating",
        signature="prompt, completions (list of mappings or mapping of lists, with annotations); img_path",
        key="completions",
        matches=_is_vlfeedback,
        to_canonical=_vlfeedback,
    ),
    Format(
        name="ultrafeedback",
        title="UltraFeedback binarized, and Uni-DPO's textual files: whole conversations on both sides",
        signature="prompt (text), chosen and rejected (lists of messages); messages, score_chosen, score_rejected",
        key="prompt",
        matches=lambda row: _is_chat_pair(row) and not has(row, "all_rm_scores"),
        to_canonical=_ultrafeedback,
    ),
    Format(
        name="ultrafeedback_all_scores",
        title="SimPO's on-policy UltraFeedback: scores of all sampled answers",
        signature="prompt (text), chosen and rejected (lists of messages), all_rm_scores, all_generated_responses",
        key="all_rm_scores",
        matches=lambda row: _is_chat_pair(row) and has(row, "all_rm_scores"),
        to_canonical=_all_scores,
    ),
    Format(
        name="uni_dpo_math",
        title="Uni-DPO's math file: ChatML prompt, scores of a process reward model",
        signature="prompt (ChatML text), chosen, rejected, and score_margin, correct_chosen or correct_rejected",
        key="prompt",
        matches=lambda row: is_text(row, "prompt", "chosen", "rejected") and is_math(row) and not has_image(row),
        to_canonical=_uni_dpo_math,
    ),
)
