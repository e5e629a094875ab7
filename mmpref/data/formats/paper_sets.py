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
    placed_or_first,
    read_images,
    text,
    turn,
)
from mmpref.data.formats.frameworks import has_image, has_media, images_of, is_mm_rlhf, is_written_out

_VICUNA = re.compile(r"\s*(?P<system>.*?)\s*USER:\s(?P<asked>.*?)\s*ASSISTANT:\s*", re.DOTALL)


def _hsa_dpo(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """HSA-DPO's own reader (``train_dpo.py`` of Mr-Loevan/HSA-DPO) opens ``{id}.jpg`` and puts the image before the
    question. ``rejected_score`` says how grave the hallucination is, and not how good the answer: its loss multiplies
    the rejected answer's log-ratio with it, so it is the weight of that answer's tokens. ``chosen_score`` multiplies
    nothing there unless it is asked to, and stays in ``meta``."""
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
            used=("image", "images", "question", "chosen", "rejected", "rejected_score"),
            rejected_weight=row.get("rejected_score"),
            look_for_scores=False,
        ).build(row, options)
    ]


def _is_hsa_dpo(row: Row) -> bool:
    scored = has(row, "id") and (has(row, "chosen_score") or has(row, "rejected_score"))
    return scored and is_text(row, "question", "chosen", "rejected") and not has_media(row)


def _re_align(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """Re-Align's rows (``train_rdpo.py`` of taco-group/Re-Align): turns on both sides, with ``<image>`` where the
    image belongs. ``retrieved_image`` is the image under which its own loss (rDPO) compares the chosen answer."""
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
            used=("image", "images", "chosen", "rejected", "retrieved_image"),
            other_images=read_images(row.get("retrieved_image"), "retrieved_image", options),
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


SYMMETRIC = 0.5
"""What ``run.sh`` of SymMPO gives the two terms about two images beside the one of two answers (its L)."""


def _symmpo(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """SymMPO's row (``SymMPODataset`` in ``muffin/data/datasets.py`` of Liuwq-bit/SymMPO) as three pairs: under the
    first image its good answer against its bad one, and, each with the weight L, its good answer against the second
    image's good one, and under the second image the other way round. ``resp_2_l`` is not read there either."""
    asked = text(row, "question", reason="prompt")
    answers = {key: text(row, key) for key in ("resp_1_w", "resp_1_l", "resp_2_w")}
    found = []
    for number, image, better, worse, weight in (
        (1, "image_1", "resp_1_w", "resp_1_l", None),
        (2, "image_1", "resp_1_w", "resp_2_w", SYMMETRIC),
        (3, "image_2", "resp_2_w", "resp_1_w", SYMMETRIC),
    ):
        images = needed(read_images(row.get(image), image, options), image)
        found.append(
            CanonicalRow(
                prompt=[turn("user", placed_or_first(asked, len(images.items)))],
                images=images,
                chosen=answers[better],
                rejected=answers[worse],
                used=("question", "image_1", "image_2", "resp_1_w", "resp_1_l", "resp_2_w"),
                ids=("idx", "id"),
                suffix=f":{number}",
                weight=weight,
                ignored=("image_path_1", "image_path_2"),  # where the images came from
            ).build(row, options)
        )
    return found


PAPER_SETS = (
    Format(
        name="symmpo",
        title="SymMPO: two images and their answers as three weighted pairs",
        signature="question, image_1, image_2, resp_1_w, resp_1_l, resp_2_w",
        key="resp_2_w",
        matches=lambda row: (
            is_text(row, "question", "resp_1_w", "resp_1_l", "resp_2_w") and has(row, "image_1", "image_2")
        ),
        to_canonical=_symmpo,
    ),
    Format(
        name="hsa_dpo",
        title="HSA-DPO: the image is {id}.jpg; rejected_score is how grave the hallucination is, a weight of tokens",
        signature="id, question, chosen, rejected, chosen_score or rejected_score, no image",
        key="question",
        matches=_is_hsa_dpo,
        to_canonical=_hsa_dpo,
    ),
    Format(
        name="re_align",
        title="Re-Align: <image> in the text; retrieved_image is the other image of its loss",
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
