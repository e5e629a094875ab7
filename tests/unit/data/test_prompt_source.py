"""Prompts from pair sets, question files, conversations and folders of images."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmpref.data.opening import open_pairs
from mmpref.data.pair_writing import prompt_to_row
from mmpref.data.prompt_source import PromptSource, prompts_of_images, read_prompts
from mmpref.data.quarantine import Quarantine
from mmpref.errors import ConfigError, DataError
from mmpref.records import ImageRef, Message, Part, Prompt, VideoRef

IMAGE = Part("image")


def text(said: str) -> Part:
    return Part("text", said)


def asked(*parts: Part) -> tuple[Message, ...]:
    return (Message("user", parts),)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(source: PromptSource) -> tuple[list[Prompt], Quarantine, Counter[str]]:
    quarantine, counts = Quarantine(), Counter[str]()
    prompts = list(source.prompts(quarantine, counts))
    assert quarantine.num_read == quarantine.num_used + len(quarantine) + counts["duplicates"]
    assert quarantine.num_used == len(prompts)
    return prompts, quarantine, counts


QUESTION = "How many dogs?"
SHOWN = asked(IMAGE, text(QUESTION))
TALK = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": "Two."}]
PARTS = [{"type": "image"}, {"type": "text", "text": QUESTION}]
INSIDE = [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": QUESTION}]
TURN = {"role": "user", "content": f"<image>{QUESTION}"}
EMPTY = {"role": "user", "content": []}
ANSWERS = {"chosen": "Two.", "rejected": "Three."}
SHAPES: dict[str, dict[str, Any]] = {
    "LLaVA-Bench and POPE": {"question_id": 7, "image": "a.jpg", "text": QUESTION, "label": "no"},
    "LLaVA's training data": {"id": 7, "image": "a.jpg", "conversations": TALK},
    "question and image": {"id": "7", "image": "a.jpg", "question": QUESTION, "answer": "Two."},
    "several images": {"id": "7", "images": ["a.jpg"], "question": QUESTION},
    "prompt with its place": {"id": "7", "images": ["a.jpg"], "prompt": f"<image>\n{QUESTION}"},
    "query": {"id": "7", "image_path": "a.jpg", "query": QUESTION},
    "alpaca": {"id": "7", "image": "a.jpg", "instruction": f"<image>{QUESTION}", "input": "", "output": "Two."},
    "ms-swift": {"id": "7", "images": ["a.jpg"], "messages": [TURN, {"role": "assistant", "content": "Two."}]},
    "TRL": {"id": "7", "images": ["a.jpg"], "prompt": [{"role": "user", "content": QUESTION}]},
    "Qwen's parts": {"id": "7", "messages": [{"role": "user", "content": INSIDE}]},
    "ours": {"id": "7", "images": ["a.jpg"], "prompt": [{"role": "user", "content": PARTS}]},
    "a pair of ours": {"id": "7", "images": ["a.jpg"], "prompt": [{"role": "user", "content": PARTS}], **ANSWERS},
    "RLAIF-V": {"idx": 7, "image": "a.jpg", "question": QUESTION, "ds_name": "VQAv2", **ANSWERS},
    "RLHF-V": {"idx": 7, "image": "a.jpg", "text": json.dumps({"question": QUESTION, **ANSWERS}), "ds_name": "x"},
    "LLaMA-Factory": {
        "id": "7",
        "images": ["a.jpg"],
        "conversations": TALK[:1],
        "chosen": {"from": "gpt", "value": "Two."},
        "rejected": {"from": "gpt", "value": "Three."},
    },
    "scored": {"id": "7", "image": "a.jpg", "question": QUESTION, **ANSWERS, "score_chosen": 4, "score_rejected": 1},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_read_as_the_same_prompt(tmp_path: Path, name: str) -> None:
    (prompt,), quarantine, _ = read(read_prompts(write(tmp_path / "rows.jsonl", [SHAPES[name]])))
    assert (prompt.id, prompt.images, prompt.prompt) == ("7", (ImageRef(path="a.jpg"),), SHOWN)
    assert len(quarantine) == 0


def test_all_shapes_in_one_file_are_one_prompt(tmp_path: Path) -> None:
    rows = [{**row, **({"id": place} if "id" in row else {})} for place, row in enumerate(SHAPES.values())]
    prompts, quarantine, counts = read(read_prompts(write(tmp_path / "rows.jsonl", rows)))
    assert [prompt.id for prompt in prompts] == ["7"]  # the first one's
    assert (len(quarantine), counts["duplicates"]) == (0, len(rows) - 1)
    assert counts["answers_dropped"] == 2


def test_what_stands_beside_the_question(tmp_path: Path) -> None:
    row = {
        "question": "What now?",
        "system": "Be brief.",
        "tools": [{"name": "look"}],
        "chat_template_kwargs": {"enable_thinking": False},
        "category": "count",
        "essay": "w" * 1000,
    }
    (prompt,), _, _ = read(read_prompts(write(tmp_path / "rows.jsonl", [row])))
    assert [message.role for message in prompt.prompt] == ["system", "user"]
    assert prompt.template_kwargs == {"tools": [{"name": "look"}], "enable_thinking": False}
    assert prompt.meta == {"category": "count"}
    assert prompt.id == "rows:1"
    assert prompt.source == "rows"


def test_candidates_of_an_earlier_step_are_prompts_again(tmp_path: Path) -> None:
    """Whatever stands in a text part, which no other format could have."""
    content = [{"type": "image"}, {"type": "text", "text": "Say <image> or <|im_end|>."}]
    row = {"id": "a", "images": ["a.jpg"], "prompt": [{"role": "user", "content": content}]}
    rows = [{**row, "candidates": [{"text": "Yes.", "seed": 1}]}, row]
    prompts, quarantine, counts = read(read_prompts(write(tmp_path / "candidates.jsonl", rows)))
    assert [prompt_to_row(prompt) for prompt in prompts] == [{**row, "source": "candidates"}]
    assert (len(quarantine), counts["duplicates"]) == (0, 1)


def test_a_conversation_loses_its_last_answer_only(tmp_path: Path) -> None:
    said = ["A?", "B.", "C?", "D."]
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    prompts, _, counts = read(read_prompts(write(tmp_path / "rows.jsonl", [{"messages": turns}])))
    assert [message.text for message in prompts[0].prompt] == ["A?", "B.", "C?"]
    assert counts == {"answers_dropped": 1}


def test_a_pair_set_gives_its_prompts_without_answers_scores_and_other_images(tmp_path: Path) -> None:
    pair = {
        **SHAPES["a pair of ours"],
        "response_prefix": "I see",
        "rejected_images": ["b.jpg"],
        "score_chosen": 5,
        "score_rejected": 1,
        "meta": {"mine": [1, 2]},
    }
    (prompt,), _, _ = read(read_prompts(write(tmp_path / "rows.jsonl", [pair])))
    assert (prompt.response_prefix, prompt.images) == ("I see", (ImageRef(path="a.jpg"),))
    assert prompt.meta == {"mine": [1, 2]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "q", "audio": "x.mp3"}, "audio"),
        ({"question": "q", "depth_map": "d.png"}, "unread_media"),
        ({"question": "q", "image_id": "COCO_000.jpg"}, "unread_images"),
        ({"question": "q", "hint": "look left"}, "unread_turns"),
        ({"question": "Where is <image>?"}, "literal_placeholder"),
        ({"images": ["a.jpg", "b.jpg"], "question": "<image> what?"}, "image_count"),
        ({"question": 3}, "prompt"),
        ({"category": "x"}, "prompt"),
        ({"messages": [{"role": "assistant", "content": "Hello."}]}, "roles"),
        ({"id": "x", "prompt": "q", "chosen": "Two."}, "unknown_format"),
        ({"id": [], "question": "q"}, "id"),
        ({"messages": [{"role": "user", "content": "<image> q"}, EMPTY], "video": "v.mp4"}, "empty_turn"),
        ({"messages": [{"role": "system", "content": "Be brief."}, EMPTY]}, "empty_turn"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    prompts, quarantine, _ = read(read_prompts(write(tmp_path / "rows.jsonl", [row, {"question": "Fine?"}])))
    assert [prompt.id for prompt in prompts] == ["rows:2"]
    assert [(found.row, found.reason) for found in quarantine.rows] == [(1, reason)]


def test_an_id_of_two_prompts_keeps_the_first(tmp_path: Path) -> None:
    rows = [{"id": 1, "question": "A?"}, {"id": 1, "question": "B?"}, {"id": 1, "question": "A?"}]
    prompts, quarantine, counts = read(read_prompts(write(tmp_path / "rows.jsonl", rows)))
    assert [prompt.prompt[0].text for prompt in prompts] == ["A?"]
    assert (quarantine.counts, counts["duplicates"]) == ({"id_twice": 1}, 1)


def test_a_line_that_is_no_row_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "A?"\n[]\n{"question": "B?"}\n')
    prompts, quarantine, _ = read(read_prompts(path))
    assert [prompt.id for prompt in prompts] == ["rows:3"]
    assert quarantine.counts == {"json": 1, "not_an_object": 1}


def test_files_of_one_name_give_ids_of_their_own(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        write(tmp_path / name, [{"question": name}])
    folder = read_prompts(tmp_path, file_format="jsonl")
    assert [prompt.id for prompt in read(folder)[0]] == ["a:1"]
    both = PromptSource(rows=_both(tmp_path))
    assert [prompt.id for prompt in read(both)[0]] == ["a.json:1", "a.jsonl:1"]


def _both(folder: Path) -> Any:
    from mmpref.data.reading.source import _files

    return _files("both", "both", [folder / "a.json", folder / "a.jsonl"], None, folder, "jsonl")


def test_several_pairs_of_one_row_are_one_prompt_and_no_duplicate(tmp_path: Path) -> None:
    row = {
        "prompt": "Why?",
        "all_generated_responses": ["a", "b", "c"],
        "all_rm_scores": [0.1, 0.2, 0.3],
        "prompt_id": "p",
        "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "c"}],
        "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "a"}],
    }
    prompts, _, counts = read(read_prompts(write(tmp_path / "rows.jsonl", [row])))
    assert (len(prompts), counts["duplicates"]) == (1, 0)


def test_a_video_stays_in_its_prompt(tmp_path: Path) -> None:
    (prompt,), _, _ = read(read_prompts(write(tmp_path / "rows.jsonl", [{"video": "v.mp4", "question": "q"}])))
    assert prompt.videos == (VideoRef(path="v.mp4"),)


def test_paths_start_from_the_root_or_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows.jsonl", [{"question": "q"}])
    monkeypatch.chdir(tmp_path)
    assert read_prompts("rows.jsonl").image_root == tmp_path
    assert read_prompts("rows.jsonl", root=Path("images")).image_root == tmp_path / "images"


def test_a_format_of_pairs_that_is_named_reads_no_question_file(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [SHAPES["LLaVA-Bench and POPE"]])
    assert read(read_prompts(path, format="rlhf_v"))[1].counts == {"json_text": 1}
    assert len(read(read_prompts(path, format="prompts"))[0]) == 1
    with pytest.raises(ConfigError, match="unknown format"):
        read_prompts(path, format="rlhfv")


def test_embedded_images_keep_the_names_of_their_files(tmp_path: Path) -> None:
    image = {"bytes": "aGFsbG8=", "path": "x/a.jpg"}
    asks = {"id": "1", "image": image, "question": "q"}
    file = write(tmp_path / "rows.jsonl", [asks, asks | {"id": "2", "question": "r", "chosen": "a", "rejected": "b"}])
    prompts, _, _ = read(read_prompts(file))
    assert [prompt.meta.get("image_names") for prompt in prompts] == [["x/a.jpg"]] * 2


def test_a_folder_of_images_with_one_question(tmp_path: Path) -> None:
    for name in ("b.jpg", "sub/a.PNG", "sub/no #2?.png", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    source = prompts_of_images(tmp_path, "Describe.")
    prompts, _, _ = read(source)
    assert [prompt.id for prompt in prompts] == ["b.jpg", "sub/a.PNG", "sub/no #2?.png"]
    assert prompts[2].images == (ImageRef(path="sub/no #2?.png"),)
    assert prompts[1].images == (ImageRef(path="sub/a.PNG"),)
    assert prompts[1].prompt == asked(IMAGE, text("Describe."))
    assert source.image_root == tmp_path
    placed = list(prompts_of_images(tmp_path, "See <image>").prompts(Quarantine()))[1]
    assert placed.prompt == asked(text("See "), IMAGE)


def test_a_folder_without_images_or_a_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        prompts_of_images(tmp_path, "q")
    with pytest.raises(ConfigError, match="empty"):
        prompts_of_images(tmp_path, " ")
    with pytest.raises(ConfigError, match="no folder"):
        prompts_of_images(tmp_path / "none", "q")


WORDS = st.text(alphabet="ab <>\n`é", min_size=1, max_size=12)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(st.integers(0, 3), WORDS),
        "image": st.sampled_from(["a.jpg", "b.jpg", ""]),
        "question": WORDS,
        "text": st.one_of(WORDS, st.just('{"question": "q", "chosen": "a", "rejected": "b"}')),
        "prompt": st.one_of(WORDS, st.just([{"role": "user", "content": "q"}]), st.just([])),
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": WORDS}), max_size=3
        ),
        "chosen": WORDS,
        "rejected": WORDS,
        "system": WORDS,
        "hint": WORDS,
        "video": st.just("v.mp4"),
    },
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, max_size=6))
def test_whatever_the_rows_nothing_is_lost_and_what_is_used_reads_back(tmp_path: Path, rows: list[Any]) -> None:
    prompts, _, _ = read(read_prompts(write(tmp_path / "rows.jsonl", rows)))
    assert len({prompt.id for prompt in prompts}) == len({prompt.key for prompt in prompts}) == len(prompts)
    again, quarantine, counts = read(
        read_prompts(write(tmp_path / "again.jsonl", [prompt_to_row(prompt) for prompt in prompts]))
    )
    assert again == prompts
    assert (len(quarantine), counts["duplicates"]) == (0, 0)


CARDS = sorted((Path(__file__).resolve().parents[2] / "fixtures" / "cards").iterdir())


@pytest.mark.parametrize("file", CARDS, ids=lambda file: file.stem)
@pytest.mark.parametrize("named", [True, False])
def test_every_known_set_has_the_prompts_of_its_pairs(file: Path, named: bool) -> None:
    card = file.stem if named else None
    source = open_pairs(file, card=card)
    wanted = [found.pair.prompt_key for found in source.candidates(Quarantine(), demonstrations=True)]
    prompts, _, _ = read(read_prompts(file, card=card))
    assert {prompt.key for prompt in prompts} >= set(wanted)
    assert [prompt.key for prompt in prompts if prompt.key in set(wanted)] == list(dict.fromkeys(wanted))
