"""Canonical -> target -> canonical keeps what the target can hold; random damage never gets past as something else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmpref.data.formats import FORMATS, detect, to_canonical
from mmpref.data.pair_writing import pair_to_row
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import RowError
from mmpref.records import ImageRef, Message, Part, PreferencePair
from tests.tiers import checkerboard
from tests.unit.data.formats.test_formats import ROWS

TARGETS = [name for name, found in FORMATS.items() if found.from_canonical is not None and found.holds != "labels"]
QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

letters = st.text(alphabet=st.sampled_from("ab \n.<>é猫{}"), max_size=8)
words = letters.filter(lambda text: bool(text.strip()))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | letters,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(letters, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def user_turns(draw: st.DrawFn) -> Message:
    parts = draw(st.lists(st.just(Part("image")) | st.builds(Part, st.just("text"), letters), max_size=4))
    if not any(part.kind == "image" or part.text.strip() for part in parts):
        parts.append(Part("text", draw(words)))
    return Message("user", tuple(parts))


TOOLS = [{"type": "function", "function": {"name": "zoom", "parameters": {"properties": {}, "x": [1, "é"]}}}]
TEMPLATE_KWARGS = [{"tools": TOOLS}, {"enable_thinking": False}, {"tools": TOOLS, "date": "1 May"}]


@st.composite
def pairs(draw: st.DrawFn) -> PreferencePair:
    prompt = [Message("system", (Part("text", draw(words | st.just(""))),))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        prompt += [draw(user_turns()), Message("assistant", (Part("text", draw(words)),))]
    prompt.append(draw(user_turns()))
    num_images = sum(message.num_images for message in prompt)
    images = tuple(ImageRef(path=f"dir/{place}.png") for place in range(num_images))
    scores = draw(st.none() | st.tuples(st.integers(0, 10), st.floats(-5, 5, allow_nan=False)))
    chosen = draw(words)
    swap = bool(num_images) and draw(st.booleans())
    return PreferencePair(
        id=draw(words),
        images=images,
        prompt=tuple(prompt),
        chosen=chosen,
        rejected=chosen + "x",
        response_prefix=draw(st.sampled_from(["", "", "I see"])),
        rejected_images=tuple(ImageRef(path=f"other/{place}.png") for place in range(num_images)) if swap else None,
        score_chosen=None if scores is None else float(scores[0]),
        score_rejected=None if scores is None else scores[1],
        source=draw(words),
        meta=draw(st.dictionaries(letters, json_values, max_size=2)),
        template_kwargs=draw(st.sampled_from([None, None, *TEMPLATE_KWARGS])),
    )


def merged(pair: PreferencePair) -> dict[str, Any]:
    """The row of a pair with neighbouring texts joined: where one text ends and the next begins means nothing."""
    row = pair_to_row(pair)
    for message in row["prompt"]:
        parts: list[dict[str, str]] = []
        for part in message["content"]:
            if part["type"] == "text" and parts and parts[-1]["type"] == "text":
                parts[-1] = {"type": "text", "text": parts[-1]["text"] + part["text"]}
            elif part["type"] == "image" or part["text"]:
                parts.append(dict(part))
        message["content"] = [part for part in parts if part["type"] == "image" or part["text"]]
    return row


@pytest.mark.parametrize("name", TARGETS)
@given(pair=pairs())
@QUICK
def test_a_round_trip_keeps_everything_or_refuses_the_row(name: str, pair: PreferencePair) -> None:
    target = FORMATS[name]
    assert target.from_canonical is not None
    row = pair_to_row(pair)
    not_held = target.not_held(row)
    if name.startswith("llamafactory") and not not_held and pair.prompt[0] == Message("system", (Part("text", ""),)):
        not_held = ["empty_system"]
    try:
        written = target.from_canonical(row)
    except RowError as fault:
        refused = fault.reason
    else:
        refused = ""
    assert refused == (f"cannot_hold_{not_held[0]}" if not_held else "")
    if refused:
        return
    written = json.loads(json.dumps(written))
    assert detect(written).name == name
    (found,) = to_canonical(written)
    again = pair_from_row(found, source="elsewhere", line=1)
    assert merged(again) == merged(pair)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("trl", "prompt"),
        *((name, place) for name in TARGETS[2:] for place in ("chosen", "rejected", "prompt")),
    ],
)
def test_a_literal_placeholder_in_text_is_refused_where_it_would_become_an_image(name: str, place: str) -> None:
    row = pair_to_row(pair_from_row(to_canonical(ROWS["canonical"])[0], source="x", line=1))
    if place == "prompt":
        row["prompt"][0]["content"][1]["text"] = "What does <image> mean?"
    else:
        row[place] = "The tag <video>."
    write = FORMATS[name].from_canonical
    assert write is not None
    with pytest.raises(RowError) as caught:
        write(row)
    assert caught.value.reason == "literal_placeholder"


def test_a_demonstration_is_no_preference_row() -> None:
    row = {key: value for key, value in ROWS["canonical"].items() if key != "rejected"}
    for name in TARGETS[1:]:
        write = FORMATS[name].from_canonical
        assert write is not None
        with pytest.raises(RowError, match="no 'rejected'"):
            write(row)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a row."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, child in children for path in places(child, (*here, key)))]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.just("<image>"),
    st.binary(max_size=4),
    st.lists(st.integers() | st.none(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


@pytest.mark.parametrize("name", checkerboard(FORMATS))
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_row_gives_pairs_or_a_reason_and_nothing_else(name: str, data: st.DataObject) -> None:
    row = copy.deepcopy(ROWS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([path for path in places(row) if path]))
        holder: Any = row
        for key in path[:-1]:
            holder = holder[key]
        if data.draw(st.booleans()):
            del holder[path[-1]]
        else:
            holder[path[-1]] = data.draw(JUNK)
        if not row:
            break
    reasons: list[str] = []
    for named in (name, None):
        try:
            found = to_canonical(row, named)
            for item in found:
                pair_from_row(item, source="fuzz", line=1)
        except RowError as fault:
            reasons.append(fault.reason)
    assert not {"", "unknown"} & set(reasons)
