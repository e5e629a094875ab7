"""The rows that every type of model is measured on."""

from __future__ import annotations

import dataclasses
from itertools import combinations

from mmpref.records import PreferencePair
from tests.tiny_vlms import pair, turn

IMAGE_ROWS: tuple[PreferencePair, ...] = (
    pair("one image", images=("60x40-1",), chosen="a red square .", rejected="two yellow boxes and a dog ."),
    pair(
        "two images interleaved",
        images=("60x40-2", "40x60-3"),
        prompt=(turn("user", "is this ", None, " what is in ", None, " ? please describe it ."),),
        chosen="there is a red square .",
        rejected="there is a blue square . no",
    ),
    pair("text only", images=(), question="is there a dog ?", chosen="there is no dog .", rejected="yes"),
    pair(
        "image in the second turn",
        images=("56x56-4",),
        prompt=(
            turn("user", "is it red ?"),
            turn("assistant", "yes ."),
            turn("user", None, "and the background ?"),
        ),
        chosen="a blue background .",
        rejected="green .",
    ),
    pair(
        "system prompt",
        images=("40x40-5",),
        prompt=(turn("system", "describe it , please ."), turn("user", None, "what is it ?")),
        chosen="a cat",
        rejected="a cat and a dog .",
    ),
    pair("begun answer", images=("60x60-6",), response_prefix="the image shows", chosen=" a dog .", rejected=" it ."),
)
TEXT_ROWS: tuple[PreferencePair, ...] = (
    pair("one question", images=(), question="is there a dog ?", chosen="there is no dog .", rejected="yes"),
    pair(
        "two turns",
        images=(),
        prompt=(turn("user", "is it red ?"), turn("assistant", "yes ."), turn("user", "and the background ?")),
        chosen="a blue background .",
        rejected="green .",
    ),
    pair(
        "system prompt",
        images=(),
        prompt=(turn("system", "describe it , please ."), turn("user", "what is it ?")),
        chosen="a cat",
        rejected="a cat and a dog .",
    ),
    pair("alike", images=(), chosen="there is a red square .", rejected="there is a blue square . no"),
    pair("one word", images=(), question="what is in the image ? " * 6, chosen="cat", rejected="dog"),
)


def group_of(row: PreferencePair) -> list[PreferencePair]:
    """Six pairs of four answers to one prompt: those of a row, and two that begin alike."""
    assert row.rejected is not None
    answers = (row.chosen, row.rejected, "there is one cat .", "there is one dog and a cat .")
    pairs = combinations(answers, 2)
    return [
        dataclasses.replace(row, id=f"{row.id} {number}", chosen=one, rejected=other)
        for number, (one, other) in enumerate(pairs)
    ]
