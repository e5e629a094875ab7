"""Forms of the known formats that files in use have, beside the one that their documentation begins with."""

from __future__ import annotations

import pytest

from mmpref.data.formats import detect
from mmpref.data.quarantine import RowError
from mmpref.records import PreferencePair
from tests.unit.data.formats.test_formats import BAD, GOOD, Row, changed, gpt, read, talk


def asks(pair: PreferencePair) -> list[tuple[str, list[str]]]:
    """Who says what in the prompt, images as ``<>``."""
    return [(turn.role, ["<>" if part.kind == "image" else part.text for part in turn.parts]) for turn in pair.prompt]


SWIFT = {"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": GOOD}]}
BARE = {"messages": [*talk("What?", GOOD)]}
VARIANTS: dict[str, tuple[str, Row, list[tuple[str, list[str]]], int, str]] = {
    "ms-swift, another image only": (
        "ms_swift", {**SWIFT, "images": ["a.png"], "rejected_images": ["b.png"]}, [("user", ["<>", "What?"])], 1, GOOD
    ),
    "ms-swift, both sides written out": (
        "ms_swift",
        {
            **SWIFT,
            "images": ["a.png"],
            "rejected_messages": [SWIFT["messages"][0], {"role": "assistant", "content": BAD}],
            "rejected_images": ["a.png"],
        },
        [("user", ["<>", "What?"])], 1, BAD,
    ),
    "ms-swift, places missing after the system turn": (
        "ms_swift",
        {
            "messages": [{"role": "system", "content": "Be brief."}, *talk("What?", GOOD)],
            "images": ["a.png", "b.png"],
            "rejected_response": BAD,
        },
        [("system", ["Be brief."]), ("user", ["<>", "<>", "What?"])], 2, BAD,
    ),
    "ms-swift, query and response": (
        "ms_swift",
        {
            "system": "Be brief.",
            "history": [["Hi", "Hello"]],
            "query": "<image>What?",
            "response": GOOD,
            "rejected_response": BAD,
            "image": "a.png",
        },
        [("system", ["Be brief."]), ("user", ["Hi"]), ("assistant", ["Hello"]), ("user", ["<>", "What?"])], 1, BAD,
    ),
    "TRL, images inside of parts": (
        "trl",
        {
            "prompt": [
                {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}
            ],
            "chosen": [{"role": "assistant", "content": GOOD}],
            "rejected": [{"role": "assistant", "content": BAD}],
        },
        [("user", ["<>", "What?"])], 1, BAD,
    ),
    "plain columns, images": (
        "omnialign_v",
        {"prompt": "What?", "images": ["a.png"], "chosen": GOOD, "rejected": BAD}, [("user", ["<>", "What?"])], 1, BAD,
    ),
    "plain columns, images and their place": (
        "qwen_vl_finetune",
        {"prompt": "What<image>?", "images": ["a.png"], "chosen": GOOD, "rejected": BAD},
        [("user", ["What", "<>", "?"])], 1, BAD,
    ),
    "plain columns, no image": (
        "trl", {"prompt": "What?", "images": [], "chosen": GOOD, "rejected": BAD}, [("user", ["What?"])], 0, BAD
    ),
    "MMPR, no image": (
        "internvl", {"question": "What?", "chosen": GOOD, "rejected": BAD}, [("user", ["What?"])], 0, BAD
    ),
    "MM-RLHF, a place in the prompt": (
        "mm_rlhf",
        {"id": "1", "image": "a.png", "prompt": "<image>What?", "chosen": GOOD, "rejected": BAD, "chosen_reason": "r"},
        [("user", ["<>", "What?"])], 1, BAD,
    ),
    "two conversations, no image": (
        "povid",
        {
            "conversations": [{"from": "human", "value": "What?"}, gpt(GOOD)],
            "rejected_conversations": [{"from": "human", "value": "What?"}, gpt(BAD)],
        },
        [("user", ["What?"])], 0, BAD,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_forms_that_files_in_use_have_are_read_too(name: str) -> None:
    format_name, row, prompt, num_images, rejected = VARIANTS[name]
    assert detect(row).name == format_name
    pair = read(row)
    assert (asks(pair), len(pair.images), pair.chosen, pair.rejected) == (prompt, num_images, GOOD, rejected)


def test_missing_places_are_filled_and_images_are_not() -> None:
    for images, places in ((["a.png"], 2), ([], 1)):
        row = {"messages": talk("<image>" * places + "What?", GOOD), "images": images, "rejected_response": BAD}
        with pytest.raises(RowError) as caught:
            read(row)
        assert caught.value.reason == "image_count"


def test_equal_scores_belong_to_either_answer() -> None:
    row = changed("ultrafeedback_all_scores")
    answers = [GOOD, "Another.", BAD]
    for order in (answers, [answers[1], answers[0], answers[2]]):
        found = read({**row, "all_generated_responses": order, "all_rm_scores": [0.3, 0.3, 0.1]})
        assert (found.chosen, found.score_chosen) == (GOOD, 0.3)
