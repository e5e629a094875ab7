"""Rows of the formats that are only read, and what the rows of all formats are made of."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def human(text: str) -> Row:
    return {"from": "human", "value": text}


def gpt(text: str) -> Row:
    return {"from": "gpt", "value": text}


def said(role: str, content: Any) -> Row:
    return {"role": role, "content": content}


def talk(question: str, answer: str) -> list[Row]:
    return [said("user", question), said("assistant", answer)]


IMAGE = {"type": "image"}
GOOD = "A red cup."
BAD = "A red cup and a dog."
ANSWERS = {"chosen": GOOD, "rejected": BAD}

MORE_ROWS: dict[str, Row] = {
    "openai": {
        "input": {"messages": [said("user", "What?")]},
        "preferred_output": [said("assistant", GOOD)],
        "non_preferred_output": [said("assistant", BAD)],
    },
    "llamafactory_v1": {
        f"{side}_messages": [
            {"role": "user", "content": [{"type": "text", "value": "What?"}], "loss_weight": 0.0},
            {"role": "assistant", "content": [{"type": "text", "value": answer}], "loss_weight": 1.0},
        ]
        for side, answer in ANSWERS.items()
    },
    "nemo_rl": {
        "context": [said("user", "What?")],
        "completions": [
            {"rank": 1, "completion": [said("assistant", BAD)]},
            {"rank": 0, "completion": [said("assistant", GOOD)]},
        ],
    },
    "hsa_dpo": {"id": 5, "question": "What?", "chosen_score": 1.0, "rejected_score": 3.0, **ANSWERS},
    "re_align": {
        "image": "a.png",
        "retrieved_image": "b.png",
        "chosen": talk("<image>\nWhat?", GOOD),
        "rejected": talk("<image>\nWhat?", BAD),
    },
    "mdpo": {"img_path": "a.png", "prompt": "A chat. USER: <image>\nWhat? ASSISTANT:", **ANSWERS},
    "two_responses": {
        "image": "a.png",
        "question": "What?",
        "response_0": BAD,
        "response_1": GOOD,
        "better_response_id": 1,
    },
    "better_worse": {"image": "a.png", "question": "What?", "better_response": GOOD, "worse_response": BAD},
    "axolotl": {"prompt": "What?", "chosen_response": GOOD, "rejected_response": BAD},
    "hh_rlhf": {side: f"\n\nHuman: What?\n\nAssistant: {answer}" for side, answer in ANSWERS.items()},
    "stack_exchange_paired": {"question": "What?", "response_j": GOOD, "response_k": BAD, "qid": 3},
    "symmpo": {
        "idx": 6,
        "image_1": "a.png",
        "image_2": "b.png",
        "question": "What?",
        "resp_1_w": GOOD,
        "resp_1_l": BAD,
        "resp_2_w": "A green cup.",
    },
    "trl_kto": {"images": ["a.png"], "prompt": [said("user", "What?")], "completion": GOOD, "label": True},
    "llamafactory_kto": {"instruction": "<image>What?", "output": GOOD, "kto_tag": True, "images": ["a.png"]},
    "llamafactory_kto_sharegpt": {
        "conversations": [human("<image>What?"), gpt(GOOD)],
        "kto_tag": True,
        "images": ["a.png"],
    },
    "ms_swift_kto": {"messages": talk("<image>What?", GOOD), "label": True, "images": ["a.png"]},
}
LABELLED = {"trl_kto", "llamafactory_kto", "llamafactory_kto_sharegpt", "ms_swift_kto"}
"""Formats of single answers with a label."""
NAMED = {"hsa_dpo"}
"""Formats whose rows look like another's, so that people must say which it is."""
