"""Foreign rows become canonical pairs: every format is told by its keys, and read strictly."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest

from mmpref.data.formats import FORMATS, NAMES, FormatOptions, detect, format_named, rows_of_mapping, to_canonical
from mmpref.data.formats.fields import parts_of, text_of
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import RowError
from mmpref.errors import ConfigError, DataError
from mmpref.records import ImageRef, PreferencePair
from tests.unit.data.formats.more_rows import (
    ANSWERS,
    BAD,
    GOOD,
    IMAGE,
    LABELLED,
    MORE_ROWS,
    NAMED,
    Row,
    gpt,
    human,
    said,
    talk,
)

BYTES = {"bytes": b"picture", "path": "COCO_train2014_000000000009.jpg"}


def rated(response: str, *ratings: Any) -> Row:
    names = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
    notes = {name: {"Rating": rating, "Rationale": "why"} for name, rating in zip(names, ratings, strict=True)}
    return {"annotations": notes, "model": f"m-{response}", "response": response}


ROWS: dict[str, Row] = {
    "canonical": {"id": "1", "images": ["a.png"], "prompt": [said("user", [IMAGE, {"type": "text", "text": "What?"}])]}
    | ANSWERS,
    "trl": {
        "images": ["a.png"],
        "prompt": [said("user", [{"type": "image", "text": None}, {"type": "text", "text": "What?"}])],
        "chosen": [said("assistant", [{"type": "text", "text": GOOD}])],
        "rejected": [said("assistant", BAD)],
    },
    "llamafactory_alpaca": {"instruction": "<image>What?", "input": "", "images": ["a.png"], **ANSWERS},
    "llamafactory_sharegpt": {
        "conversations": [human("<image>What?")],
        "chosen": gpt(GOOD),
        "rejected": gpt(BAD),
        "images": ["a.png"],
    },
    "ms_swift": {"messages": talk("<image>What?", GOOD), "rejected_response": BAD, "images": ["a.png"]},
    "qwen_vl_finetune": {"id": "q", "image": "a.png", "prompt": "<image>\nWhat?", **ANSWERS},
    "internvl": {"image": "a.png", "question": "What?", "answer_gt": "cup", "image_wh": [[3, 4]], **ANSWERS},
    "rlaif_v": {"image": "a.png", "question": "What?", "origin_dataset": "x", "idx": "7", **ANSWERS},
    "spa_vl": {"image": "a.png", "question": "What?", **ANSWERS},
    "rlhf_v": {"image": "a.png", "text": json.dumps({"question": "What?", **ANSWERS}), "idx": 8},
    "mm_rlhf": {"id": 3, "image": "a.png", "prompt": "What?", "chosen_reason": "true", **ANSWERS},
    "omnialign_v": {"image": "a.png", "prompt": "What?", **ANSWERS},
    "povid": {
        "id": 4,
        "image": "a.png",
        "conversations": [human("<image>\nWhat?"), gpt(GOOD)],
        "rejected_conversations": [human("<image>\nWhat?"), gpt(BAD)],
    },
    "ha_dpo": {"image_id": 5, "question": "What?", "correct": False, **ANSWERS},
    "bpo": {
        "prompt": "What?\n<image>",
        "image": "a.png",
        "completions": [{"score": 0, "response": BAD, "type": "made"}, {"score": 1, "response": GOOD, "type": "gt"}],
    },
    "llava_rlhf": {
        "id": "l",
        "image": "a.png",
        "conversations": [human("What?\n<image>")],
        "output_1": gpt(BAD),
        "output_2": gpt(GOOD),
        "preference": 2,
    },
    "sentinel": {"question": "What?", "context": "", "y_win": GOOD, "y_lose": BAD, "image_path": "a.png"},
    "vlfeedback": {
        "id": "v",
        "prompt": "What?",
        "img_path": "a.png",
        "completions": [rated(BAD, "1", "5", "2"), rated(GOOD, "4", "5", "5")],
    },
    **MORE_ROWS,
    "ultrafeedback": {"prompt": "What?", "chosen": talk("What?", GOOD), "rejected": talk("What?", BAD)},
    "ultrafeedback_all_scores": {
        "prompt": "What?",
        "chosen": talk("What?", GOOD),
        "rejected": talk("What?", BAD),
        "all_generated_responses": [BAD, "Hm.", GOOD],
        "all_rm_scores": [0.01, 0.05, 0.2],
    },
    "uni_dpo_math": {
        "prompt": "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n",
        "score_chosen": 9,
        "score_rejected": 2.5,
        "score_margin": 6.5,
        **ANSWERS,
    },
}
TEXT_ONLY = {
    "ultrafeedback",
    "ultrafeedback_all_scores",
    "uni_dpo_math",
    "openai",
    "llamafactory_v1",
    "nemo_rl",
    "stack_exchange_paired",
    "axolotl",
    "hh_rlhf",
}


def read(row: Row, name: str | None = None, **options: Any) -> PreferencePair:
    """The one pair of a row; of SymMPO's rows the first."""
    found, *more = to_canonical(row, name, FormatOptions(**options), place="file:1")
    assert bool(more) == ("resp_2_w" in row)
    return pair_from_row(found, source="test", line=1)


def changed(name: str, **changes: Any) -> Row:
    """A good row of a format with other values; ``...`` removes a key."""
    row = {**ROWS[name], **changes}
    return {key: value for key, value in row.items() if value is not ...}


def test_there_is_a_row_for_every_format() -> None:
    assert set(ROWS) == set(FORMATS)
    assert set(NAMES.values()) <= set(FORMATS)
    assert not set(NAMES) & set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_told_by_its_keys_and_by_no_other_format(name: str) -> None:
    if name in NAMED:
        with pytest.raises(RowError, match=f"fits more than one format; name one with format=NAME: .*{name}"):
            detect(ROWS[name])
        return
    assert detect(ROWS[name]).name == name
    filled = dict.fromkeys((key for row in ROWS.values() for key in row), None) | ROWS[name]
    assert detect(filled).name == name, "a parquet reader fills absent columns with None"


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_becomes_the_pair_it_describes(name: str) -> None:
    pair = read(ROWS[name], name if name in NAMED else None)
    assert (pair.chosen, pair.rejected) == (GOOD, None if name in LABELLED else BAD)
    assert pair.label == (True if name in LABELLED else None)
    assert pair.prompt[-1].text == "What?"
    if name in TEXT_ONLY:
        assert pair.images == ()
    else:
        assert pair.images == (ImageRef("5.jpg" if name in ("ha_dpo", "hsa_dpo") else "a.png"),)
        last = name in ("bpo", "llava_rlhf")
        assert [part.kind for part in pair.prompt[-1].parts] == (["text", "image"] if last else ["image", "text"])


@pytest.mark.parametrize("row", [{}, {"a": 1}, {"chosen": GOOD, "rejected": BAD}, {"messages": talk("What?", GOOD)}])
def test_a_row_that_fits_nothing_is_an_error_that_names_the_formats(row: Row) -> None:
    with pytest.raises(DataError, match=r"fits no known format; name one with format=NAME: canonical, trl"):
        detect(row)


def test_llava_rlhf_rows_may_end_with_the_turn_that_the_outputs_replace() -> None:
    """RLHF/data_utils/data_utils_rm.py of LLaVA-RLHF writes each output over the last turn, and unwraps a list."""
    talk_with_place = [human("What?\n<image>"), gpt("A turn that is written over.")]
    outputs = {"output_1": {"from": "llava", "value": BAD}, "output_2": {"from": "llava", "value": GOOD}}
    for conversations in (talk_with_place, [talk_with_place]):
        pair = read(changed("llava_rlhf", conversations=conversations, **outputs))
        assert pair == read(ROWS["llava_rlhf"])


def test_a_row_that_fits_two_formats_is_an_error_that_names_both() -> None:
    both = {**ROWS["povid"], "output_1": gpt(GOOD), "output_2": gpt(BAD), "preference": 1}
    with pytest.raises(DataError, match="fits more than one format; name one with format=NAME: povid, llava_rlhf"):
        detect(both)
    assert read(both, "povid").chosen == GOOD


def test_formats_have_names_and_further_names() -> None:
    assert format_named("mmpr") is FORMATS["internvl"]
    with pytest.raises(ConfigError, match=r"unknown format 'rlaif', did you mean 'rlaif_v'\?"):
        format_named("rlaif")


def test_what_is_not_used_stays_in_meta() -> None:
    pair = read(changed("rlaif_v", ds_name="set", origin_split='{"model": "m"}', image_path="x/1.jpg", empty=None))
    assert pair.meta == {
        "ds_name": "set",
        "origin_dataset": "x",
        "origin_split": '{"model": "m"}',
        "image_path": "x/1.jpg",
    }
    assert read(changed("trl", meta='{"a": [1]}', b=2)).meta == {"a": [1], "b": 2}
    with pytest.raises(RowError, match="'b' is in the row and in its 'meta'"):
        read(changed("trl", meta={"b": 1}, b=2))


def test_ids_come_from_the_row_the_place_or_the_content() -> None:
    assert read(ROWS["rlaif_v"], id_prefix="rlaif_v:").id == "rlaif_v:7"
    assert read(ROWS["rlhf_v"]).id == "8"
    assert read(ROWS["trl"]).id == "file:1"
    one, two = (to_canonical(changed("trl", images=[name]), None)[0]["id"] for name in ("a.png", "b.png"))
    assert one != two
    assert len(one) == 20
    assert one == to_canonical(ROWS["trl"] | {"images": ["a.png"]})[0]["id"]
    with pytest.raises(RowError) as caught:
        read(changed("mm_rlhf", id=True))
    assert caught.value.reason == "id"


def test_the_source_is_the_rows_own_or_the_given_one() -> None:
    assert read(ROWS["trl"], source="card").source == "card"
    assert read(changed("trl", source="mine"), source="card").source == "mine"
    assert read(changed("canonical", source=...), source="card").source == "card"


def test_embedded_images_are_kept_with_their_names() -> None:
    pair = read(changed("rlaif_v", image=BYTES))
    assert pair.images == (ImageRef(data=b"picture"),)
    assert pair.meta["image_names"] == ["COCO_train2014_000000000009.jpg"]
    uri = "data:image/png;base64," + base64.b64encode(b"picture").decode()
    assert read(changed("ms_swift", images=[uri])).images == (ImageRef(data=b"picture"),)
    assert read(changed("ms_swift", images=BYTES)).images == (ImageRef(data=b"picture"),)
    assert read(changed("spa_vl", image={"bytes": None, "path": "a.png"})).images == (ImageRef("a.png"),)


def test_image_paths_are_cut_after_a_folder() -> None:
    row = changed("llamafactory_alpaca", images=["/data/x/MM-RLHF/long/1.png"])
    assert read(row, image_after="MM-RLHF").images == (ImageRef("long/1.png"),)
    with pytest.raises(RowError, match="has no folder 'MM-RLHF'"):
        read(ROWS["llamafactory_alpaca"], image_after="MM-RLHF")


def test_an_image_id_becomes_a_path() -> None:
    row = changed("ha_dpo", image_id=12)
    assert read(row, image_template="VG_100K/{image_id}.jpg").images == (ImageRef("VG_100K/12.jpg"),)
    assert read(row, image_index={"12": "VG_100K_2/12.jpg"}).images == (ImageRef("VG_100K_2/12.jpg"),)


PLACED = {
    "<image>What?": ["", "What?"],
    "<image>\nWhat?": ["", "What?"],
    "<image>\n\nWhat?": ["", "\nWhat?"],
    "What?\n<image>": ["What?", ""],
    "<image>\n<image>\nWhat?": ["", "", "What?"],
    "One <image> two <image>": ["One ", "", " two ", ""],
    "What?": ["What?"],
    "": [""],
}


@pytest.mark.parametrize("content", PLACED)
def test_a_placeholder_becomes_an_image_part_with_its_line_break(content: str) -> None:
    parts = parts_of(content)
    assert [part.get("text", "") for part in parts] == PLACED[content]
    assert parts_of(text_of(parts)) == parts


MULTI = {
    "ms_swift": {"images": ["a.png", "b.png"], "messages": talk("<image>and<image>", GOOD)},
    "internvl": {"image": ["a.png", "b.png"], "question": "<image> and <image>"},
    "mm_rlhf": {"image": ["a.png", "b.png"]},
    "trl": {"images": ["a.png", "b.png"], "prompt": [said("user", "What?")]},
}


@pytest.mark.parametrize("name", MULTI)
def test_several_images_keep_their_order(name: str) -> None:
    pair = read(changed(name, **MULTI[name]))
    assert pair.images == (ImageRef("a.png"), ImageRef("b.png"))
    assert pair.prompt[0].num_images == 2


def test_longer_talks_keep_their_turns() -> None:
    roles = ["system", "user", "assistant", "user"]
    alpaca = changed(
        "llamafactory_alpaca", system="Brief.", history=[["<image>Hi", "Yes?"]], instruction="What", input="?"
    )
    sharegpt = changed("llamafactory_sharegpt", system="Brief.")
    sharegpt["conversations"] = [human("<image>Hi"), gpt("Yes?"), human("What?")]
    openai = changed("llamafactory_sharegpt", conversations=...)
    turns = [said("system", "Brief."), *talk("<image>Hi", "Yes?"), said("user", "What?")]
    openai |= {"messages": turns, "chosen": said("assistant", GOOD), "rejected": said("assistant", BAD)}
    swift = changed("ms_swift", messages=[*turns, said("assistant", GOOD)])
    for row in (alpaca, sharegpt, openai, swift):
        pair = read(row)
        assert [message.role for message in pair.prompt] == roles
        assert pair.prompt[1].num_images == 1
    assert read(alpaca).prompt[-1].text == "What\n?"


def test_trl_takes_implicit_prompts_and_plain_text() -> None:
    row = {"chosen": talk("What?", GOOD), "rejected": talk("What?", BAD)}
    assert read(row).prompt[0].text == "What?"
    assert read({"prompt": "What?", "chosen": GOOD, "rejected": BAD}).chosen == GOOD
    assert read(changed("trl", images=..., image="a.png")).images == (ImageRef("a.png"),)


def test_ms_swift_takes_rejected_messages_and_rejected_images() -> None:
    row = changed("ms_swift", rejected_response=..., rejected_messages=talk("<image>What?", GOOD))
    pair = read(row | {"rejected_images": ["b.png"]})
    assert (pair.rejected, pair.rejected_images) == (GOOD, (ImageRef("b.png"),))


def test_the_question_of_rlhf_v_lies_in_json_text() -> None:
    pair = read(changed("rlhf_v", text=json.dumps({"question": "What?", "note": "x", **ANSWERS})))
    assert pair.meta == {"note": "x"}


def test_ha_dpo_pairs_lists_in_order_and_leaves_correct_rows_out() -> None:
    row = {"image_id": 5, "chosen": ["a", "b"], "rejected": ["c"]}
    found = to_canonical(row, None, FormatOptions(description_prompt="Describe."), place="f:1")
    assert [(item["id"], item["chosen"], item["rejected"]) for item in found] == [
        ("f:1:0", "a", "c"),
        ("f:1:1", "b", "c"),
    ]
    assert found[0]["prompt"][0]["content"][1]["text"] == "Describe."
    assert found[0]["meta"] == {"image_id": 5}
    assert to_canonical(changed("ha_dpo", correct=True)) == []
    rows = list(rows_of_mapping({"5": {"chosen": "a", "rejected": "b"}}))
    assert rows == [(1, {"image_id": "5", "chosen": "a", "rejected": "b"})]
    with pytest.raises(DataError, match="key '5' holds a list"):
        list(rows_of_mapping({"5": []}))


def test_bpo_ranks_are_no_scores() -> None:
    three = [{"score": 0, "response": "x"}, {"score": 2, "response": "y"}, {"score": 0, "response": "z"}]
    found = to_canonical(changed("bpo", completions=three), place="f:1")
    assert [(item["id"], item["chosen"], item["rejected"]) for item in found] == [
        ("f:1:1-0", "y", "x"),
        ("f:1:1-2", "y", "z"),
    ]
    assert "score_chosen" not in found[0]
    assert found[0]["meta"]["rank_chosen"] == 2
    assert to_canonical(changed("bpo", completions=three[::2])) == []


def test_vlfeedback_makes_all_pairs_by_mean_rating() -> None:
    completions = [rated("low", "1", "5", "3"), rated("high", "5", "5", "5"), rated("same", "3", "3", "3")]
    row = changed("vlfeedback", completions=completions, models=["a", "b", "c"])
    found = to_canonical(row)
    assert [(item["id"], item["score_chosen"], item["score_rejected"]) for item in found] == [
        ("v:1-0", 5, 3),
        ("v:1-2", 5, 3),
    ]
    assert found[0]["meta"] == {"model_chosen": "m-high", "model_rejected": "m-low", "tied_pairs_of_row": 1}
    columns = {key: [item[key] for item in completions] for key in completions[0]}
    assert to_canonical(row | {"completions": columns}) == found
    assert to_canonical(changed("vlfeedback", completions=[completions[0], completions[2]])) == []
    embedded = changed("vlfeedback", img_path=..., image=BYTES)
    assert read(embedded).images == (ImageRef(data=b"picture"),)


def test_all_scores_give_the_highest_and_the_lowest() -> None:
    pair = read(ROWS["ultrafeedback_all_scores"])
    assert (pair.score_chosen, pair.score_rejected, pair.meta) == (0.2, 0.01, {})
    assert to_canonical(changed("ultrafeedback_all_scores", all_rm_scores=[1, 1, 1])) == []


def test_chatml_becomes_turns_and_closing_marks_go() -> None:
    pair = read(changed("uni_dpo_math", chosen=GOOD + "<|im_end|>"))
    assert ([message.role for message in pair.prompt], pair.chosen) == (["system", "user"], GOOD)
    assert (pair.score_chosen, pair.score_rejected, pair.meta["score_margin"]) == (9, 2.5, 6.5)


def test_the_context_of_sentinel_is_a_prefix_that_the_answers_continue() -> None:
    assert read(changed("sentinel", context="A table.")).response_prefix == "A table. "
    assert read(changed("sentinel", context="A table.\n")).response_prefix == "A table.\n"
    assert read(ROWS["sentinel"]).response_prefix == ""
    assert read(changed("sentinel", image_path=..., image_id=9)).images == (ImageRef("9.jpg"),)


BROKEN: list[tuple[str, str, Row]] = [
    ("trl", "image_count", {"images": ["a.png", "b.png"]}),
    ("trl", "images", {"image": "b.png"}),
    ("trl", "answer", {"chosen": talk("Hi", GOOD)}),
    ("trl", "answer", {"chosen": [said("user", GOOD)]}),
    ("trl", "image_place", {"chosen": [said("assistant", [IMAGE])]}),
    ("trl", "roles", {"prompt": [said("human", "What?")]}),
    ("trl", "prompt", {"prompt": [said("user", [{"type": "image_url"}])]}),
    ("trl", "prompt", {"prompt": [{**said("user", "x"), "weight": 1}]}),
    ("trl", "video_count", {"videos": ["a.mp4"]}),
    ("trl", "score", {"score_chosen": "4"}),
    ("llamafactory_alpaca", "image_count", {"images": []}),
    ("llamafactory_alpaca", "image_count", {"instruction": "What?"}),
    ("llamafactory_alpaca", "image_place", {"chosen": "<image>x"}),
    ("llamafactory_alpaca", "image_place", {"system": "<image>"}),
    ("llamafactory_alpaca", "prompt", {"history": [["x"]]}),
    ("llamafactory_alpaca", "prompt", {"input": 3}),
    ("llamafactory_alpaca", "images", {"images": [3]}),
    ("llamafactory_alpaca", "image_count", {"images": [""]}),
    ("llamafactory_alpaca", "score", {"score_chosen": True, "score_rejected": 1}),
    ("llamafactory_alpaca", "score", {"score_chosen": math.nan, "score_rejected": 1}),
    ("llamafactory_alpaca", "score", {"score_chosen": math.inf, "score_rejected": 1}),
    ("llamafactory_alpaca", "score", {"score_chosen": 10**400, "score_rejected": 1}),
    ("llamafactory_sharegpt", "roles", {"chosen": human(GOOD)}),
    ("llamafactory_sharegpt", "roles", {"conversations": [{"from": "observation", "value": "x"}]}),
    ("llamafactory_sharegpt", "prompt", {"conversations": [{"from": "human"}]}),
    ("llamafactory_sharegpt", "prompt", {"conversations": [{"from": "human", "value": 3}]}),
    ("ms_swift", "answer", {"messages": [said("user", "<image>x")]}),
    ("ms_swift", "answer", {"rejected_messages": talk("<image>What?", BAD)}),
    ("ms_swift", "prompt_differs", {"rejected_response": ..., "rejected_messages": talk("<image>Why?", BAD)}),
    ("ms_swift", "images", {"images": ["data:image/png;base64,???"]}),
    ("ms_swift", "images", {"images": ["data:text/plain,x"]}),
    ("qwen_vl_finetune", "image_count", {"prompt": "<image><image>"}),
    ("internvl", "image_count", {"question": "<image><image>"}),
    ("rlaif_v", "images", {"image": 3}),
    ("rlaif_v", "images", {"image": {"url": "x"}}),
    ("rlhf_v", "json_text", {"text": "{"}),
    ("rlhf_v", "json_text", {"text": "[1]"}),
    ("rlhf_v", "json_text", {"text": '{"question": NaN}'}),
    ("rlhf_v", "json_text", {"text": '{"idx": 3}'}),
    ("rlhf_v", "answer", {"text": '{"question": "x", "chosen": "y"}'}),
    ("mm_rlhf", "video", {"image": ..., "video": 12}),
    ("mm_rlhf", "images", {"image": ...}),
    ("povid", "prompt_differs", {"rejected_conversations": [human("<image>\nWhy?"), gpt(BAD)]}),
    ("povid", "answer", {"conversations": [human("<image>\nWhat?")]}),
    ("ha_dpo", "answer", {"chosen": []}),
    ("ha_dpo", "answer", {"chosen": ["x", 3]}),
    ("ha_dpo", "images", {"image_id": True}),
    ("bpo", "completions", {"completions": [{"score": 1, "response": "x"}, 3]}),
    ("bpo", "score", {"completions": [{"score": 1, "response": "x"}, {"response": "y"}]}),
    ("bpo", "score", {"completions": [{"score": "1", "response": "x"}]}),
    ("llava_rlhf", "preference", {"preference": 0}),
    ("llava_rlhf", "preference", {"preference": True}),
    ("llava_rlhf", "preference", {"preference": "1"}),
    ("llava_rlhf", "preference", {"preference": ...}),
    ("llava_rlhf", "roles", {"output_1": human("x")}),
    ("sentinel", "images", {"image_path": ...}),
    ("vlfeedback", "rating", {"completions": [rated("x", "N/A", "5", "5"), rated("y", "1", "1", "1")]}),
    ("vlfeedback", "rating", {"completions": [rated("x", "6", "5", "5"), rated("y", "1", "1", "1")]}),
    ("vlfeedback", "rating", {"completions": [rated("x", True, "5", "5"), rated("y", "1", "1", "1")]}),
    ("vlfeedback", "rating", {"completions": [rated("x", math.nan, "5", "5"), rated("y", "1", "1", "1")]}),
    ("vlfeedback", "completions", {"completions": [rated("x", "4", "5", "5")]}),
    ("vlfeedback", "completions", {"completions": {"annotations": [{}, {}], "response": ["x"]}}),
    ("ultrafeedback", "prompt_differs", {"rejected": talk("Why?", BAD)}),
    ("ultrafeedback", "prompt_differs", {"prompt": "Why?"}),
    ("ultrafeedback", "answer", {"chosen": [said("user", "What?")]}),
    ("ultrafeedback_all_scores", "score_place", {"all_rm_scores": [0.2, 0.1, 0.05]}),
    ("ultrafeedback_all_scores", "score", {"all_rm_scores": [0.2, 0.1]}),
    ("ultrafeedback_all_scores", "score", {"all_rm_scores": [0.2, None, 0.1]}),
    ("ultrafeedback_all_scores", "score", {"all_rm_scores": [0.2, math.nan, 0.1]}),
    ("uni_dpo_math", "chat_markup", {"prompt": "What?"}),
    ("uni_dpo_math", "chat_markup", {"prompt": "loose<|im_start|>assistant\n"}),
]


@pytest.mark.parametrize(
    ("name", "reason", "changes"), BROKEN, ids=[f"{name}-{reason}-{n}" for n, (name, reason, _) in enumerate(BROKEN)]
)
def test_a_broken_row_is_refused_with_a_reason(name: str, reason: str, changes: Row) -> None:
    with pytest.raises(RowError) as caught:
        to_canonical(changed(name, **changes), name)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 1000
