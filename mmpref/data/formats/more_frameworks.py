"""Rows of suites that are only read: OpenAI's preference files, LLaMA-Factory's v1 messages, NeMo-RL's rankings.

The rules are those of OpenAI's guide to direct preference optimization and its API reference
(``FineTunePreferenceRequestInput``), of hiyouga/LLaMA-Factory ``src/llamafactory/v1/plugins/data_plugins/converter.py``
(and its ``data/v1_dpo_demo.jsonl``), and of NVIDIA-NeMo/RL ``nemo_rl/data/processors.py`` and ``docs/guides/dpo.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.chat import InParts, chat_answer, chat_messages, images_in_parts, with_places
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import Message, fault, has, is_turns, number, shown, without_none
from mmpref.data.formats.frameworks import images_of
from mmpref.data.formats.media_values import is_empty
from mmpref.data.formats.unread import refuse_media_inside


def _pair(
    row: Row,
    options: FormatOptions,
    prompt: list[Message],
    inside: InParts,
    answers: tuple[str, str],
    *used: str,
    suffix: str = "",
) -> dict[str, Any]:
    images = images_in_parts(inside, images_of(row, options), options)
    return CanonicalRow(
        prompt=with_places(prompt, len(images.items)),
        images=images,
        chosen=answers[0],
        rejected=answers[1],
        used=("image", "images", *used),
        suffix=suffix,
    ).build(row, options)


def _openai(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """``input`` is a mapping with the messages, tools among its keys, or the messages themselves. OpenAI trains on one
    assistant message for each side; what a developer says is the system prompt under its newer name."""
    given = row.get("input")
    if isinstance(given, Mapping):
        asked = without_none(given)
        tools = asked.pop("tools", None)  # where OpenAI has them; our list reads them from a column
        asked.pop("parallel_tool_calls", None)  # how tools are called, which no pair does
        if set(asked) != {"messages"}:
            raise fault("prompt", f"'input' must hold 'messages', and 'tools' at most, got {shown(given)}")
        if tools and has(row, "tools"):
            raise fault("tools", "the row has tools, and so has its 'input'")
        row = {**row, **({"tools": tools} if tools else {})}
        given = asked["messages"]
    inside = InParts()
    prompt = chat_messages(_openai_messages(given, "input.messages"), "input.messages", inside)
    sides = ("preferred_output", "non_preferred_output")
    chosen, rejected = (chat_answer(_openai_messages(row.get(key), key), key) for key in sides)
    return [_pair(row, options, prompt, inside, (chosen, rejected), "input", *sides)]


def _openai_messages(value: Any, key: str) -> Any:
    """Messages without what says nothing: an empty list of tool calls, the weight of an earlier answer."""
    if not isinstance(value, list | tuple):
        return value
    found = []
    for place, message in enumerate(value):
        given = without_none(message)
        if not given:
            return value  # no mapping: said by the reader of messages
        for name in [name for name in given if name in ("tool_calls", "annotations") and is_empty(given[name])]:
            del given[name]
        if given.get("role") == "developer":
            given["role"] = "system"
        weight = given.pop("weight", 1)
        is_output = key != "input.messages"
        if weight not in ((1,) if is_output else (0, 1)) or ("weight" in message and given.get("role") != "assistant"):
            raise fault("loss_weight", f"{key}[{place}] has weight {shown(weight)}; an answer that is compared has 1")
        if given.get("tool_calls"):
            raise fault("tools", f"{key}[{place}] calls tools; a pair has text as its answers and earlier turns")
        found.append(given)
    return found


def _v1_messages(row: Row, key: str, inside: InParts) -> list[Message]:
    """Messages of LLaMA-Factory's second version: a part's content is its ``value``, whatever its type."""
    messages = row.get(key)
    if not isinstance(messages, list | tuple) or not messages:
        raise fault("prompt", f"{key!r} must be a non-empty list of messages, got {shown(messages)}")
    found = []
    for message in messages:
        given = without_none(message)
        weight = given.pop("loss_weight", None)
        # LLaMA-Factory's converter gives every answer the weight 1. Earlier ones are the same on both sides, and leave
        # the difference that DPO looks at as it is; here only the last one is trained.
        allowed = (0, 1) if given.get("role") == "assistant" else (0,)
        if weight is not None and weight not in ((1,) if message is messages[-1] else allowed):
            raise fault(
                "loss_weight",
                f"{key!r}: loss_weight is {shown(weight)}; the last answer has 1, earlier ones 0 or 1, other turns 0",
            )
        content = given.get("content")
        if isinstance(content, list | tuple):
            given["content"] = [_v1_part(part) for part in content]
        found.append(given)
    return chat_messages(found, key, inside)


def _v1_part(part: Any) -> Any:
    given = without_none(part)
    if "value" in given and given.get("type") in ("text", "image_url", "video_url"):
        given[given["type"]] = given.pop("value")
    return given or part


def _llamafactory_v1(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    inside, others = InParts(), InParts()
    better = _v1_messages(row, "chosen_messages", inside)
    worse = _v1_messages(row, "rejected_messages", others)
    if better[:-1] != worse[:-1] or inside != others:
        raise fault("prompt_differs", "'chosen_messages' and 'rejected_messages' do not begin with the same turns")
    sides = ("chosen_messages", "rejected_messages")
    answers = (chat_answer([better[-1]], sides[0]), chat_answer([worse[-1]], sides[1]))
    return [_pair(row, options, better[:-1], inside, answers, *sides)]


def _nemo_rl(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """All pairs of different rank; the lowest rank is the best. NeMo-RL's own DPO takes two completions and no ties:
    more of them are read as its format has them, and a row in which all are tied prefers nothing."""
    completions = row.get("completions")
    if not isinstance(completions, list | tuple) or not all(isinstance(item, Mapping) for item in completions):
        raise fault("completions", f"'completions' must be a list of mappings, got {shown(completions)}")
    if len(completions) < 2:
        raise fault("completions", f"two completions make a pair, the row has {len(completions)}")
    refuse_media_inside(completions, "completions")
    ranks = [number(item.get("rank"), f"completions[{place}].rank") for place, item in enumerate(completions)]
    if None in ranks:
        raise fault("completions", "a completion has no 'rank'")
    answers = [
        chat_answer(item.get("completion"), f"completions[{n}].completion") for n, item in enumerate(completions)
    ]
    order = sorted(range(len(ranks)), key=lambda place: ranks[place] or 0.0)
    pairs = [(high, low) for high, low in combinations(order, 2) if ranks[high] != ranks[low]]
    found = []
    for high, low in pairs:
        inside = InParts()
        prompt = chat_messages(row.get("context"), "context", inside)
        suffix = f":{high}-{low}" if len(completions) > 2 else ""
        both = (answers[high], answers[low])
        found.append(_pair(row, options, prompt, inside, both, "context", "completions", suffix=suffix))
    return found


MORE_SUITES = (
    Format(
        name="openai",
        title="OpenAI's preference fine-tuning",
        signature="input (messages), preferred_output, non_preferred_output",
        key="preferred_output",
        matches=lambda row: has(row, "input", "preferred_output", "non_preferred_output"),
        to_canonical=_openai,
    ),
    Format(
        name="llamafactory_v1",
        title="LLaMA-Factory's second version: whole conversations on both sides, parts with 'value'",
        signature="chosen_messages, rejected_messages",
        key="chosen_messages",
        matches=lambda row: has(row, "chosen_messages", "rejected_messages"),
        to_canonical=_llamafactory_v1,
    ),
    Format(
        name="nemo_rl",
        title="NeMo-RL: ranked completions, all pairs of different rank",
        signature="context (messages), completions (list of mappings with rank and completion)",
        key="completions",
        matches=lambda row: is_turns(row.get("completions"), "completion") and is_turns(row.get("context"), "role"),
        to_canonical=_nemo_rl,
    ),
)
