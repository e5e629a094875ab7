"""Rows as other projects document them, and the pairs that those projects' own loaders make of them.

The loaders are named in the table of row formats in docs/data.md; the rows are of our own making.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmpref.data.formats import FORMATS, FormatOptions, detect, to_canonical
from mmpref.data.pair_source import canonical_rows
from mmpref.data.pairs import PAIR_KEYS, pair_from_row
from mmpref.data.quarantine import RowError
from tests.unit.data.formats.more_rows import BAD, GOOD, Row, gpt, human, said, talk

ASKED = [said("user", "What?")]
G, B = [said("assistant", GOOD)], [said("assistant", BAD)]
SWIFT = {"messages": talk("What?", GOOD), "rejected_response": BAD}
TWO = {"question": "What?", "image": "a.png", "response_1": BAD, "response_2": GOOD}
HUMAN = {side: f"\n\nHuman: What?\n\nAssistant: {answer}" for side, answer in (("chosen", GOOD), ("rejected", BAD))}
OPENAI = {"input": {"messages": ASKED}, "preferred_output": G, "non_preferred_output": B}
V1_PART = {"type": "text", "value": "What?"}


def v1(answer: str) -> list[Row]:
    turns = [("user", "Earlier?", 0.0), ("assistant", "Yes.", 1.0), ("user", "What?", 0.0), ("assistant", answer, 1.0)]
    return [
        {"role": role, "content": [{"type": "text", "value": text}], "loss_weight": weight}
        for role, text, weight in turns
    ]


def ranked(*ranks: int) -> Row:
    answers = [GOOD, BAD, "A dog."]
    completions = [
        {"rank": rank, "completion": [said("assistant", answer)]} for rank, answer in zip(ranks, answers, strict=False)
    ]
    return {"context": ASKED, "completions": completions}


ASKS = "user: What?"
READ: dict[str, tuple[str, Row, list[str]]] = {
    "ms-swift, MM-RLHF's converted rows": (
        "ms_swift", {"image": "a.png", "question": "What?", "response": GOOD, "rejected_response": BAD},
        ["user: <>What?"]
    ),
    "ms-swift, alpaca": (
        "ms_swift",
        {"instruction": "What?", "input": "Say it.",
        "output": GOOD, "rejected_response": BAD}, ["user: What?\nSay it."],
    ),
    "ms-swift, its own name goes first": (
        "ms_swift", {"query": "What?", "response": GOOD, "answer": "x", "rejected_response": BAD}, [ASKS]
    ),
    "ms-swift, rounds": (
        "ms_swift",
        {"system": "Be brief.", "conversation": [{"human": "What?", "assistant": GOOD}], "rejected_response": BAD},
        ["system: Be brief.", ASKS],
    ),
    "ms-swift, from and value": (
        "ms_swift", {"conversations": [human("<image>What?"), gpt(GOOD)], "images": "a.png", "rejected_response": BAD},
        ["user: <>What?"],
    ),
    "ms-swift, loss of earlier answers": (
        "ms_swift",
        {
            "messages": [*talk("Hi", "Hello")[:1], {**said("assistant", "Hello"), "loss": False}, *talk("What?", GOOD)],
            "rejected_response": B,
        },
        ["user: Hi", "assistant: Hello", ASKS],
    ),
    "align-anything, overall": ("two_responses", {**TWO, "overall_response": 2}, ["user: <>What?"]),
    "align-anything, overall as a float": ("two_responses", {**TWO, "overall_response": 2.0}, ["user: <>What?"]),
    "align-anything, named": ("two_responses", {**TWO, "better_response": "response_2"}, ["user: <>What?"]),
    "SafeRLHF-V, both agree": (
        "two_responses", {**TWO, "more_helpful_response_id": 2, "safer_response_id": 2}, ["user: <>What?"]
    ),
    "PKU-SafeRLHF": (
        "two_responses",
        {"prompt": "What?", "response_0": GOOD, "response_1": BAD, "better_response_id": 0, "safer_response_id": 1},
        [ASKS],
    ),
    "align-anything, refinement": (
        "better_worse", {"prompt": "What?", "image": "a.png", "response": BAD, "refinement": GOOD}, ["user: <>What?"]
    ),
    "align-anything, text and image in": (
        "better_worse",
        {
            "input_text": "What?", "input_image": ["a.png", "b.png"], "better_text": GOOD, "worse_text": BAD,
            "better_img": None, "worse_img": [],
        },
        ["user: <><>What?"],
    ),
    "axolotl, system and input": (
        "axolotl", {"system": "Be brief.", "input": "What?", "chosen": GOOD, "rejected": BAD},
        ["system: Be brief.", ASKS]
    ),
    "axolotl, instruction": (
        "axolotl", {"instruction": "What?", "chosen_response": GOOD, "rejected_response": BAD}, [ASKS]
    ),
    "axolotl, messages and texts": ("axolotl", {"messages": ASKED, "chosen": GOOD, "rejected": BAD}, [ASKS]),
    "axolotl, messages and messages": ("axolotl", {"messages": ASKED, "chosen": G, "rejected": B}, [ASKS]),
    "axolotl, a text as messages": ("axolotl", {"messages": "What?", "chosen": GOOD, "rejected": BAD}, [ASKS]),
    "TRL, from and value": (
        "trl",
        {
            "prompt": [{"from": "user", "value": "What?"}],
            "chosen": [{"from": "assistant", "value": GOOD}],
            "rejected": [{"from": "assistant", "value": BAD}],
        },
        [ASKS],
    ),
    "HH-RLHF": ("hh_rlhf", HUMAN, [ASKS]),
    "TRL, messages with empty fields of other turns": (
        "trl",
        {
            "prompt": [{**said("user", "What?"), "tool_calls": [], "thinking": None}],
            "chosen": [{**G[0], "tool_calls": [], "name": ""}], "rejected": [{**B[0], "tool_calls": None}],
        },
        [ASKS],
    ),
    "SPA-VL, no tie": (
        "spa_vl",
        {"image": "a.png", "question": "What?", "chosen": GOOD, "rejected": BAD, "is_tie": False, "winner": "chosen"},
        ["user: <>What?"],
    ),
    "OpenAI, developer": (
        "openai",
        {
            **OPENAI,
            "input": {
                "messages": [said("developer", "Be brief."), *ASKED],
                "tools": [], "parallel_tool_calls": True,
            },
        },
        ["system: Be brief.", ASKS],
    ),
    "OpenAI, weights and empty calls": (
        "openai",
        {
            "input": {"messages": [*talk("Hi", "Hello")[:1], {**said("assistant", "Hello"), "weight": 0}, *ASKED]},
            "preferred_output": [{**G[0], "weight": 1, "tool_calls": [], "refusal": None}],
            "non_preferred_output": B,
        },
        ["user: Hi", "assistant: Hello", ASKS],
    ),
    "LLaMA-Factory v1, its converter's weights": (
        "llamafactory_v1", {"chosen_messages": v1(GOOD), "rejected_messages": v1(BAD)},
        ["user: Earlier?", "assistant: Yes.", ASKS],
    ),
    "LLaMA-Factory v1, before its converter": (
        "trl",
        {"chosen": talk("Look at <image>", GOOD), "rejected": talk("Look at <image>", BAD), "images": "a.png"},
        ["user: Look at <>"],
    ),
    "NeMo-RL": ("nemo_rl", ranked(0, 1), [ASKS]),
    "HA-DPO, yes and no": (
        "ha_dpo",
        {"image_id": 5, "question": "What?", "chosen": GOOD, "reject": BAD, "answer": "no", "correct": False},
        ["user: <>What?"],
    ),
    "HA-DPO for InstructBLIP": (
        "ha_dpo", {"image_id": 5, "question": "What?", "chosen": GOOD, "rejected": BAD, "correct": 0}, ["user: <>What?"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("filled", [False, True])
def test_a_documented_row_is_the_pair_that_its_loader_makes(name: str, filled: bool) -> None:
    format_name, row, asked = READ[name]
    if filled:  # as parquet readers and data sets of several sources do
        row = dict.fromkeys(PAIR_KEYS) | row
    assert detect(row).name == format_name
    (found,) = canonical_rows(row, "auto", FormatOptions(), place="test:1")  # as every command and training reads it
    pair = pair_from_row(found, source="test", line=1)
    turns = [
        f"{turn.role}: {''.join('<>' if part.kind == 'image' else part.text for part in turn.parts)}"
        for turn in pair.prompt
    ]
    assert (turns, pair.chosen, pair.rejected) == (asked, GOOD, BAD)


def no_pair(name: str, row: Row) -> Any:
    return pytest.param(row, id=name)


@pytest.mark.parametrize(
    "row",
    [
        no_pair("align-anything, neither", {**TWO, "overall_response": 0}),
        no_pair("align-anything, a third number", {**TWO, "overall_response": "3"}),
        no_pair(
            "HA-DPO, right already", {"image_id": 5, "question": "Q?", "chosen": "No", "reject": "Yes", "correct": 1}
        ),
        no_pair("MM-RLHF, a tie", {"prompt": "Q?", "image": "a.png", "chosen": "a", "rejected": "b", "is_tie": 1}),
        no_pair("NeMo-RL, a tie", ranked(1, 1)),
    ],
)
def test_a_row_that_its_loader_leaves_out_prefers_nothing(row: Row) -> None:
    assert to_canonical(row) == []


def test_ranks_of_three_make_the_pairs_that_differ() -> None:
    found = to_canonical(ranked(1, 2, 1))
    assert [(row["chosen"], row["rejected"]) for row in found] == [(GOOD, BAD), ("A dog.", BAD)]


MARKED = {**said("assistant", GOOD), "loss_scale": 0.5}
CALLS = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
REFUSED: dict[str, tuple[Row, str, str]] = {
    "three responses": ({**TWO, "response_3": "x", "overall_response": 1}, "answer", "3 numbered responses"),
    "two preferences": (
        {"prompt": "Q", "response_0": "x", "response_1": "y", "better_response_id": 1, "better_response": "x"},
        "preference", "prefer different responses",
    ),
    "helpful and not safe": (
        {**TWO, "more_helpful_response_id": 2, "safer_response_id": 1}, "preference", "better_response_id"
    ),
    "a text and a number": (
        {"prompt": "Q", "response_0": "1", "response_1": "2", "better_response": "1"},
        "preference", "number of the other"
    ),
    "no number at all": ({**TWO, "overall_response": "both"}, "preference", "must be 1 or 2"),
    "an image as an answer": (
        {"input_text": "Q", "better_text": "a", "better_img": "b.png", "worse_text": "c"}, "unread_images", "better_img"
    ),
    "ms-swift, weighted": ({**SWIFT, "messages": [*ASKED, MARKED]}, "loss_weight", "loss_scale is float 0.5"),
    "ms-swift, not trained": (
        {**SWIFT, "messages": [*ASKED, {**G[0], "loss": False}]}, "loss_weight", "only the last answer"
    ),
    "ms-swift, images of one side": (
        {"messages": talk("<image>What?", GOOD), "images": ["a.png"], "rejected_messages": talk("<image>What?", BAD)},
        "image_count", "rejected_images",
    ),
    "ms-swift, two conversations": ({**SWIFT, "conversations": [human("What?"), gpt(GOOD)]}, "prompt", "keep one"),
    "ms-swift, half a round": (
        {"conversation": [{"human": "What?", "assistant": GOOD, "system": "x"}], "rejected_response": BAD},
        "prompt", "a question ('human')",
    ),
    "ms-swift, two answers of a kind": (
        {"question": "Q", "answer": "a", "solution": "b", "rejected_response": "c"}, "unknown_format", "fits no known"
    ),
    "axolotl, two prompts": (
        {"prompt": "Q", "input": "P", "chosen_response": "a", "rejected_response": "b"}, "unread_turns", "'input'"
    ),
    "axolotl, nectar": (
        {"prompt": "Q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]},
        "unknown_format", "answers"
    ),
    "HH-RLHF, another question": (
        {**HUMAN, "rejected": "\n\nHuman: Who?\n\nAssistant: x"}, "prompt_differs", "same turns"
    ),
    "HH-RLHF, a turn of Human at its end": (
        {**HUMAN, "chosen": HUMAN["chosen"] + "\n\nHuman: Bye"}, "chat_markup", "goes on with a turn of Human"
    ),
    "SPA-VL, a tie": (
        {"image": "a.png", "question": "Q", "chosen": "a", "rejected": "b", "is_tie": True}, "preference", "'is_tie'"
    ),
    "POVID, a tie": (
        {"image": "a.jpg", "conversations": [human("Q <image>"), gpt("a")],
         "rejected_conversations": [human("Q <image>"), gpt("b")], "winner": "tie (both bad)"},
        "preference", "'winner'",
    ),
    "TRL, the other one preferred": (
        {"prompt": "Q", "chosen": "a", "rejected": "b", "preference": "rejected"}, "preference", "'preference'"
    ),
    "TRL, what is asked after the question": (
        {"prompt": "Q", "chosen": "a", "rejected": "b", "post_prompt": "Answer in a word."}, "unread_turns",
        "'post_prompt'",
    ),
    "OpenAI, tool calls": ({**OPENAI, "preferred_output": [CALLS]}, "tools", "preferred_output[0] calls tools"),
    "OpenAI, weight 0": (
        {**OPENAI, "preferred_output": [{**G[0], "weight": 0}]}, "loss_weight", "preferred_output[0]"
    ),
    "OpenAI, two answers": ({**OPENAI, "preferred_output": [*G, *G]}, "answer", "one assistant message"),
    "LLaMA-Factory v1, an untrained answer": (
        {
            side: [{"role": "user", "content": [V1_PART]}, {**said("assistant", answer), "loss_weight": 0.0}]
            for side, answer in (("chosen_messages", GOOD), ("rejected_messages", BAD))
        },
        "loss_weight", "the last answer has 1",
    ),
    "NeMo-RL, one completion": (ranked(0), "completions", "the row has 1"),
    "NeMo-RL, several turns": (
        {"context": ASKED, "completions": [{"rank": 0, "completion": talk("a", "b")}, {"rank": 1, "completion": B}]},
        "answer", "one assistant message",
    ),
    "HA-DPO, two rejected": (
        {"image_id": 5, "question": "Q", "chosen": "a", "reject": "b", "rejected": "c"}, "answer", "not the same"
    ),
    "HA-DPO, a word": (
        {"image_id": 5, "question": "Q", "chosen": "a", "reject": "b", "correct": "no"}, "preference", "true or false"
    ),
    "MM-RLHF, a word": (
        {"prompt": "Q", "image": "a.png", "chosen": "a", "rejected": "b", "is_tie": "False"}, "preference", "is_tie"
    ),
    "mDPO, no place": (
        {"img_path": "a.jpg", "prompt": "A chat. USER: What? ASSISTANT:", "chosen": "a", "rejected": "b"},
        "image_count", "0 image places",
    ),
    "POVID, two questions": (
        {"image": "a.jpg", "conversations": [human("Q <image>"), gpt("a")],
         "rejected_conversations": [human("<image>Q"), gpt("b")]},
        "prompt_differs", "before their last answer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_no_pair_can_hold_is_refused_by_name(name: str) -> None:
    row, reason, words = REFUSED[name]
    with pytest.raises(RowError) as caught:
        to_canonical(row)
    assert (caught.value.reason, words in caught.value.detail) == (reason, True), caught.value.detail


def test_the_table_of_formats_names_every_format_once() -> None:
    page = (Path(__file__).parents[4] / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.split("## Row formats")[1].split("\n## ")[0]
    named = [line.split("|")[1].strip().strip("`") for line in table.splitlines() if line.startswith("| `")]
    assert sorted(named) == sorted(FORMATS)
