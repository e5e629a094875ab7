"""Public sets whose rows need to be known: an image that is named by the row's id, or one that only the method uses."""

from __future__ import annotations

import re
from typing import Any

from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.chat import InParts, chat_answer, chat_messages, with_places
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import (
    Images,
    fault,
    has,
    image_of_id,
    is_text,
    is_turns,
    needed,
    parts_of,
    text,
    turn,
)
from mmpref.data.formats.frameworks import has_image, has_media, images_of, is_mm_rlhf, is_written_out

_VICUNA = re.compile(r"\s*(?P<system>.*?)\s*USER:\s(?P<asked>.*?)\s*ASSISTANT:\s*", re.DOTALL)


def _hsa_dpo(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """HSA-DPO's own reader (``train_dpo.py`` of Mr-Loevan/HSA-DPO) opens ``{id}.jpg`` and puts the image before the
    question. Its scores say how grave the hallucination is, and not how good the answer."""
    if not has(row, "id"):
        raise fault("id", "the row has no 'id', which names its image")
    images = images_of(row, options) if has_image(row) else Images([image_of_id(row["id"], options)], [])
    return [
        CanonicalRow(
            prompt=[
                turn("user", [{"type": "image"}, {"type": "text", "text": text(row, "question", reason="prompt")}])
            ],
            images=images,
            chosen=text(row, "chosen"),
            rejected=text(row, "rejected"),
            used=("image", "images", "question", "chosen", "rejected"),
            look_for_scores=False,
        ).build(row, options)
    ]


def _is_hsa_dpo(row: Row) -> bool:
    scored = has(row, "id") and (has(row, "chosen_score") or has(row, "rejected_score"))
    return scored and is_text(row, "question", "chosen", "rejected") and not has_media(row)


def _re_align(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """Re-Align's rows (``train_rdpo.py`` of taco-group/Re-Align): turns on both sides, with ``<image>`` where the
    image stands. ``retrieved_image`` is the second image of its own loss (rDPO), which no pair has a place for: it
    is left in ``meta``."""
    sides = {}
    for key in ("chosen", "rejected"):
        messages = chat_messages(row.get(key), key, InParts())
        sides[key] = (messages[:-1], chat_answer(row[key][-1:], key))
    (prompt, chosen), (other, rejected) = sides.values()
    if prompt != other:
        raise fault("prompt_differs", "'chosen' and 'rejected' do not begin with the same turns")
    images = needed(images_of(row, options), "image")
    return [
        CanonicalRow(
            prompt=with_places(prompt, len(images.items)),
            images=images,
            chosen=chosen,
            rejected=rejected,
            used=("image", "images", "chosen", "rejected"),
            ignored=("retrieved_image",),
        ).build(row, options)
    ]


def _is_re_align(row: Row) -> bool:
    return has_image(row) and is_turns(row.get("chosen"), "role") and is_turns(row.get("rejected"), "role")


def _mdpo(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """mDPO's rows (``bunny/data_collator_bunny_phi.py`` of luka-group/mDPO): the prompt is written out in the
    template of LLaVA-1.5, with ``<image>`` in it."""
    found = _VICUNA.fullmatch(text(row, "prompt", reason="prompt"))
    if found is None or "USER:" in found["asked"]:
        raise fault("chat_markup", "'prompt' must be one turn in LLaVA's template: ... USER: <image>\\n... ASSISTANT:")
    system = [turn("system", found["system"])] if found["system"] else []
    return [
        CanonicalRow(
            prompt=[*system, turn("user", parts_of(found["asked"]))],
            images=needed(images_of(row, options), "img_path"),
            chosen=text(row, "chosen"),
            rejected=text(row, "rejected"),
            used=("image", "images", "prompt", "chosen", "rejected"),
        ).build(row, options)
    ]


def _stack(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """Stack Exchange pairs as ``torchtune/datasets/_stack_exchange_paired.py`` of pytorch/torchtune reads them:
    ``response_j`` is the better answer."""
    images = images_of(row, options)
    return [
        CanonicalRow(
            prompt=with_places([turn("user", text(row, "question", reason="prompt"))], len(images.items)),
            images=images,
            chosen=text(row, "response_j"),
            rejected=text(row, "response_k"),
            used=("image", "images", "question", "response_j", "response_k"),
        ).build(row, options)
    ]


PAPER_SETS = (
    Format(
        name="hsa_dpo",
        title="HSA-DPO: the image is {id}.jpg; its scores are grades of hallucination, and are not read",
        signature="id, question, chosen, rejected, chosen_score or rejected_score, no image",
        key="question",
        matches=_is_hsa_dpo,
        to_canonical=_hsa_dpo,
    ),
    Format(
        name="re_align",
        title="Re-Align: <image> in the text; retrieved_image is for its own loss, and is not read",
        signature="image, retrieved_image, chosen and rejected (lists of messages)",
        key="retrieved_image",
        matches=_is_re_align,
        to_canonical=_re_align,
    ),
    Format(
        name="mdpo",
        title="mDPO: prompt in LLaVA's template, which is taken off",
        signature="img_path, prompt (... USER: <image> ... ASSISTANT:), chosen, rejected",
        key="prompt",
        matches=lambda row: is_written_out(row) and is_text(row, "chosen", "rejected") and not is_mm_rlhf(row),
        to_canonical=_mdpo,
    ),
    Format(
        name="stack_exchange_paired",
        title="Stack Exchange pairs, as torchtune reads them",
        signature="question, response_j, response_k",
        key="response_j",
        matches=lambda row: is_text(row, "question", "response_j", "response_k"),
        to_canonical=_stack,
    ),
)
