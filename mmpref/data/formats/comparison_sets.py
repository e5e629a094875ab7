"""Public preference sets whose rows compare whole conversations, lists of answers or ranked outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import (
    Images,
    fault,
    has,
    image_of_id,
    is_text,
    is_turns,
    needed,
    number,
    optional_text,
    placed_or_first,
    placeholder_turn,
    shown,
    speech,
    text,
    turn,
)
from mmpref.data.formats.frameworks import SHAREGPT_ROLES, has_image, images_of
from mmpref.data.formats.unread import refuse_media_inside


def _povid(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """POVID as ``llava/train/train_dpo.py`` of YiyangZhou/POVID reads it; a row without an image is text."""
    sides = {}
    for key in ("conversations", "rejected_conversations"):
        sides[key] = speech(row.get(key), key, role_key="from", text_key="value", roles=SHAREGPT_ROLES)
        if sides[key][-1][0] != "assistant":
            raise fault("answer", f"{key!r} must end with the answer of 'gpt'")
    better, worse = sides.values()
    if better[:-1] != worse[:-1]:
        raise fault("prompt_differs", "the two conversations differ before their last answer")
    return [
        CanonicalRow(
            prompt=[placeholder_turn(role, content) for role, content in better[:-1]],
            images=images_of(row, options),
            chosen=better[-1][1],
            rejected=worse[-1][1],
            used=("image", "images", "conversations", "rejected_conversations"),
        ).build(row, options)
    ]


def _ha_dpo(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """HA-DPO's rows (opendatalab/HA-DPO ``train_dpo.py`` and ``dpo_dataset.py`` of each model). Descriptions: its
    reader draws one of the chosen and one of the rejected ones each time; here each is used at least once. Yes/no
    rows have ``reject`` for LLaVA and MiniGPT-4, and ``rejected`` for InstructBLIP."""
    correct = row.get("correct")
    if correct not in (None, False, True):  # 0 and 1 are these too
        raise fault("preference", f"'correct' must be true or false, got {shown(correct)}")
    if correct:
        return []  # the model had answered rightly; the authors leave such rows out
    if has(row, "rejected", "reject") and row["rejected"] != row["reject"]:
        raise fault("answer", "the row has 'rejected' and 'reject', and they are not the same")
    question = optional_text(row, "question") or options.description_prompt
    images = images_of(row, options) if has_image(row) else Images([image_of_id(row.get("image_id"), options)], [])
    worse_key = "rejected" if has(row, "rejected") else "reject"
    better, worse = _several(row, "chosen"), _several(row, worse_key)
    num_pairs = max(len(better), len(worse))
    return [
        CanonicalRow(
            prompt=[turn("user", placed_or_first(question, len(images.items)))],
            images=images,
            chosen=better[place % len(better)],
            rejected=worse[place % len(worse)],
            used=("image", "images", "question", "chosen", "rejected", "reject"),
            suffix=f":{place}" if num_pairs > 1 else "",
        ).build(row, options)
        for place in range(num_pairs)
    ]


def _several(row: Row, key: str) -> list[str]:
    """One answer or a list of them."""
    value = row.get(key)
    given = list(value) if isinstance(value, list | tuple) else [value]
    found = [item for item in given if isinstance(item, str)]
    if not found or len(found) != len(given):
        raise fault("answer", f"{key!r} must be text or a list of texts, got {shown(value)}")
    return found


def _bpo(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    images = needed(images_of(row, options), "image")
    prompt = [turn("user", placed_or_first(text(row, "prompt", reason="prompt"), len(images.items)))]
    completions = row.get("completions")
    if not isinstance(completions, list | tuple) or not all(isinstance(item, Mapping) for item in completions):
        raise fault("completions", f"'completions' must be a list of mappings, got {shown(completions)}")
    refuse_media_inside(completions, "completions")
    ranks = [number(item.get("score"), f"completions[{place}].score") for place, item in enumerate(completions)]
    if None in ranks:
        raise fault("score", "a completion has no 'score'")
    ordered = sorted(range(len(ranks)), key=lambda place: -(ranks[place] or 0.0))
    pairs = [
        (high, low) for place, high in enumerate(ordered) for low in ordered[place + 1 :] if ranks[high] != ranks[low]
    ]
    return [
        CanonicalRow(
            prompt=prompt,
            images=images,
            chosen=text(completions[high], "response"),
            rejected=text(completions[low], "response"),
            used=("image", "images", "prompt", "completions"),
            look_for_scores=False,
            suffix=f":{high}-{low}",
            meta={
                # labels of rank and kind, not a quality: they must not reach a quality weight
                "rank_chosen": ranks[high],
                "rank_rejected": ranks[low],
                "type_chosen": completions[high].get("type"),
                "type_rejected": completions[low].get("type"),
            },
        ).build(row, options)
        for high, low in pairs
    ]


def _is_bpo(row: Row) -> bool:
    return is_turns(row.get("completions"), "score") and is_text(row, "prompt")


_OUTPUT_ROLES = {**SHAREGPT_ROLES, "llava": "assistant"}
"""Who says ``output_1`` and ``output_2`` of LLaVA-RLHF: the model under comparison, by its name."""


def _llava_rlhf(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    preference = row.get("preference")
    if isinstance(preference, bool) or preference not in (1, 2):
        raise fault("preference", f"'preference' must be 1 or 2, got {shown(preference)}")
    talk = row.get("conversations")
    if isinstance(talk, list | tuple) and len(talk) == 1 and isinstance(talk[0], list | tuple):
        talk = talk[0]  # the authors' reader unwraps it as well
    turns = speech(talk, "conversations", role_key="from", text_key="value", roles=SHAREGPT_ROLES)
    if len(turns) > 1 and turns[-1][0] == "assistant":
        turns = turns[:-1]  # where the outputs go: the authors' reader overwrites what the last turn says
    answers = {}
    for number_of, key in ((1, "output_1"), (2, "output_2")):
        ((role, said),) = speech([row.get(key)], key, role_key="from", text_key="value", roles=_OUTPUT_ROLES)
        if role != "assistant":
            raise fault("roles", f"{key!r} must be said by 'llava' or 'gpt'")
        answers[number_of] = said
    return [
        CanonicalRow(
            prompt=[placeholder_turn(role, content) for role, content in turns],
            images=needed(images_of(row, options), "image"),
            chosen=answers[preference],
            rejected=answers[3 - preference],
            used=("image", "images", "conversations", "output_1", "output_2", "preference"),
        ).build(row, options)
    ]


COMPARISON_SETS = (
    Format(
        name="povid",
        title="POVID: two conversations that differ in their last answer",
        signature="conversations, rejected_conversations; image",
        key="rejected_conversations",
        matches=lambda row: has(row, "conversations", "rejected_conversations"),
        to_canonical=_povid,
    ),
    Format(
        name="ha_dpo",
        title="HA-DPO: descriptions or yes/no questions about a Visual Genome image id",
        signature="image_id, chosen and rejected or reject (text or lists of texts); question, correct",
        key="image_id",
        matches=lambda row: (
            has(row, "image_id", "chosen")
            and (has(row, "rejected") or has(row, "reject"))
            and not has_image(row)
            and not has(row, "prompt")
        ),
        to_canonical=_ha_dpo,
    ),
    Format(
        name="bpo",
        title="BPO: ranked completions, all pairs of different rank",
        signature="prompt, completions (list of mappings with score and response); image",
        key="completions",
        matches=_is_bpo,
        to_canonical=_bpo,
    ),
    Format(
        name="llava_rlhf",
        title="LLaVA-RLHF: two outputs and the number of the preferred one",
        signature="conversations, output_1, output_2, preference; image",
        key="output_1",
        matches=lambda row: has(row, "conversations", "output_1", "output_2"),
        to_canonical=_llava_rlhf,
    ),
)
