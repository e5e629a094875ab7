"""Some pairs as people read them: the same ones in every run, whole, whatever their texts are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from mmpref.records import ImageRef, Message, Part, PreferencePair, VideoRef, user_turn
from mmpref.training.run.pair_texts import MOST, as_text, prompt_text, write_pair_texts
from mmpref.training.trainer.pair_log import place_of

PAIR = PreferencePair(
    id="a", images=(ImageRef("x/1.png"),), prompt=user_turn("What is there?", num_images=1),
    chosen="A dog.", rejected="A cat.", score_chosen=8.0, score_rejected=2.5,
)  # fmt: skip


def rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def test_a_row_has_what_a_report_shows() -> None:
    assert as_text(PAIR, "train") == {
        "id": "a", "set": "train", "prompt": "<image>\nWhat is there?", "chosen": "A dog.", "rejected": "A cat.",
        "images": ["x/1.png"], "score_chosen": 8.0, "score_rejected": 2.5,
    }  # fmt: skip


def test_each_set_has_its_pairs_of_smallest_hashes_once(tmp_path: Path) -> None:
    train = [replace(PAIR, id=f"t{number}") for number in range(MOST + 50)]
    held_out = [replace(PAIR, id=f"e{number}") for number in range(3)]
    write_pair_texts(tmp_path / "p", [*reversed(train), *train[:20]], held_out)
    found = rows(tmp_path / "p")
    first = sorted((pair.id for pair in train), key=place_of)[:MOST]
    assert [row["id"] for row in found if row["set"] == "train"] == first
    assert sorted(str(row["id"]) for row in found if row["set"] == "eval") == ["e0", "e1", "e2"]


def test_hostile_texts_and_ids_stay_one_line_each_and_come_back_as_they_are(tmp_path: Path) -> None:
    hostile = '\x00\x1b[31m\ud83d \u2028\r\n\t"\\</script>' + "long " * 20_000
    pair = replace(PAIR, id="\ud800 id", chosen=hostile, rejected="\n", prompt=user_turn(hostile, num_images=0))
    write_pair_texts(tmp_path / "p", [pair], [])
    [row] = rows(tmp_path / "p")
    assert (row["id"], row["chosen"], row["rejected"], row["prompt"]) == (pair.id, hostile, "\n", hostile)


def test_embedded_files_have_no_path_and_no_bytes(tmp_path: Path) -> None:
    pair = replace(
        PAIR, images=(ImageRef(data=b"\x89PNG" * 100), ImageRef("2.png")), videos=(VideoRef("v.mp4"),),
        rejected_images=(ImageRef("3.png"),),
    )  # fmt: skip
    write_pair_texts(tmp_path / "p", [pair], [])
    [row] = rows(tmp_path / "p")
    assert (row["images"], row["videos"], row["rejected_images"]) == ([None, "2.png"], ["v.mp4"], ["3.png"])
    assert (tmp_path / "p").stat().st_size < 400


def test_a_single_answer_has_its_label() -> None:
    row = as_text(replace(PAIR, rejected=None, score_rejected=None, label=False), "train")
    assert (row["rejected"], row["label"]) == (None, False)


def test_prompts_of_several_messages_name_who_speaks() -> None:
    prompt = (
        Message("system", (Part("text", "Be brief."),)),
        Message("user", (Part("text", "One"), Part("image"), Part("text", "and"), Part("video"), Part("text", "?"))),
        Message("assistant", (Part("text", "Yes."),)),
        Message("user", (Part("image"), Part("image"))),
    )
    assert prompt_text(prompt, "Well,") == (
        "system: Be brief.\n\nuser: One\n<image>\nand\n<video>\n?\n\nassistant: Yes.\n\nuser: <image>\n<image>\n\n"
        "assistant: Well,"
    )
