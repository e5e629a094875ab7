"""Public preference sets of one question, a better and a worse answer, without scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.columns import standard
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import (
    PLACEHOLDER,
    Images,
    fault,
    has,
    has_any,
    image_of_id,
    is_text,
    needed,
    optional_text,
    placed_or_first,
    shown,
    text,
    turn,
)
from mmpref.data.formats.frameworks import has_image, images_of, is_internvl, is_mm_rlhf, is_written_out

_ORIGIN = ("ds_name", "origin_dataset", "origin_split", "image_path")


def _asked(
    row: Row,
    options: FormatOptions,
    *,
    question: str,
    ids: tuple[str, ...] = ("id",),
    meta: Mapping[str, Any] | None = None,
    ignored: tuple[str, ...] = (),
) -> dict[str, Any]:
    """A row of a question about an image with two answers; without placeholders the images come first."""
    images = needed(images_of(row, options), "image")
    prompt = [turn("user", placed_or_first(text(row, question, reason="prompt"), len(images.items)))]
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    used = ("image", "images", question, "chosen", "rejected")
    return CanonicalRow(
        prompt=prompt,
        images=images,
        chosen=chosen,
        rejected=rejected,
        used=used,
        ids=ids,
        meta=meta,
        ignored=ignored,
    ).build(row, options)


def _rlaif_v(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """RLAIF-V as ``muffin/data/datasets.py`` of RLHF-V/RLAIF-V reads it: the image, a line break, the question."""
    return [_asked(row, options, question="question", ids=("idx", "id"), ignored=_origin_path(row))]


def _origin_path(row: Row) -> tuple[str, ...]:
    """``image_path`` of RLHF-V, RLAIF-V and TPO says where the image came from; only the image beside it is read."""
    marked = has_any(row, "ds_name", "origin_dataset", "origin_split")
    return ("image_path",) if marked else ()


def _spa_vl(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """SPA-VL as ``all_utils/data_utils/data_utils_dpo.py`` of EchoseChen/SPA-VL-RLHF reads it."""
    return [_asked(row, options, question="question")]


def _omnialign(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    return [_asked(row, options, question="prompt")]


def _mm_rlhf(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """MM-RLHF's pair (``llava/train/train_dpo.py`` of Kwai-YuanQi/MM-RLHF). A tie prefers nothing: the authors'
    README makes pairs of different ranks only."""
    is_tie = row.get("is_tie")
    if is_tie not in (None, False, True):  # 0 and 1 are these too
        raise fault("preference", f"'is_tie' must be true or false, got {shown(is_tie)}")
    if is_tie:
        return []
    # a second image for another term of the set's own loss; no pair has a place for it
    return [_asked(row, options, question="prompt", ignored=("mixed_up_image",))]


def _rlhf_v(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    inner = _json_object(text(row, "text", reason="json_text"))
    whole = {key: value for key, value in row.items() if key != "text" and value is not None}
    if twice := sorted(set(whole) & set(inner)):
        raise fault("json_text", f"the keys {', '.join(map(repr, twice))} are in the row and inside its 'text'")
    both = standard({**whole, **inner})
    return [_asked(both, options, question="question", ids=("idx", "id"), ignored=_origin_path(both))]


def _json_object(content: str) -> dict[str, Any]:
    try:
        found = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise fault("json_text", f"'text' is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise fault("json_text", f"'text' must hold a JSON object, got {shown(found)}")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _sentinel(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    if has(row, "image_id") and not has_image(row):
        images = Images([image_of_id(row["image_id"], options)], [])
    else:
        images = needed(images_of(row, options), "image_path")
    context = optional_text(row, "context")
    better, worse = text(row, "y_win"), text(row, "y_lose")
    if context and not context[-1].isspace() and not (better[:1].isspace() and worse[:1].isspace()):
        context += " "  # the sentences go on after it
    return [
        CanonicalRow(
            prompt=[turn("user", placed_or_first(text(row, "question", reason="prompt"), len(images.items)))],
            images=images,
            chosen=better,
            rejected=worse,
            used=("image", "images", "context", "question", "y_win", "y_lose"),
            response_prefix=context,
        ).build(row, options)
    ]


def _is_question_row(row: Row) -> bool:
    return has_image(row) and is_text(row, "question", "chosen", "rejected") and not has(row, "text")


QUESTION_SETS = (
    Format(
        name="rlaif_v",
        title="RLAIF-V, and TPO (topic-overwrite): question about one embedded image",
        signature="image, question, chosen, rejected, and ds_name, origin_dataset, origin_split or image_path; idx",
        key="question",
        matches=lambda row: _is_question_row(row) and has_any(row, *_ORIGIN) and not is_internvl(row),
        to_canonical=_rlaif_v,
    ),
    Format(
        name="spa_vl",
        title="SPA-VL, and any plain row of image, question, chosen, rejected",
        signature="image, question, chosen, rejected, without the marks of RLAIF-V and InternVL; id",
        key="question",
        matches=lambda row: _is_question_row(row) and not has_any(row, *_ORIGIN) and not is_internvl(row),
        to_canonical=_spa_vl,
    ),
    Format(
        name="rlhf_v",
        title="RLHF-V: question and answers as JSON inside 'text'",
        signature="image, text (a JSON object with question, chosen, rejected); idx",
        key="text",
        matches=lambda row: has_image(row) and is_text(row, "text") and not has(row, "question"),
        to_canonical=_rlhf_v,
    ),
    Format(
        name="mm_rlhf",
        title="MM-RLHF: dpo_pairs.jsonl; prompt and two answers about an image or a video",
        signature="prompt, chosen, rejected, and chosen_reason, rejected_reason, is_tie, video or videos; image",
        key="prompt",
        matches=is_mm_rlhf,
        to_canonical=_mm_rlhf,
    ),
    Format(
        name="omnialign_v",
        title="OmniAlign-V-DPO: prompt with or without <image>",
        signature="image or images, prompt (text without <image>), chosen, rejected",
        key="prompt",
        matches=lambda row: (
            has_image(row)
            and is_text(row, "prompt", "chosen", "rejected")
            and PLACEHOLDER not in row["prompt"]
            and not is_mm_rlhf(row)
            and not is_written_out(row)
        ),
        to_canonical=_omnialign,
    ),
    Format(
        name="sentinel",
        title="SENTINEL: next sentences after a context that is given and not trained",
        signature="question, y_win, y_lose; context, image_path",
        key="y_win",
        matches=lambda row: is_text(row, "question", "y_win", "y_lose"),
        to_canonical=_sentinel,
    ),
)
