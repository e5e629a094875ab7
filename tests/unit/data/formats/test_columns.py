"""Columns that change a pair: in every format each is read, or its row is refused by name; none ends in ``meta``."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.data.formats import FORMATS, read_row, to_canonical
from mmpref.data.formats.columns import VIDEO, column_of, standard
from mmpref.data.formats.contract import FormatOptions
from mmpref.data.formats.media_values import is_empty, looks_like_media
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import RowError
from mmpref.records import ImageRef, PreferencePair
from tests.unit.data.formats.test_formats import ANSWERS, BAD, GOOD, NAMED, ROWS, Row, changed, read, said, talk

TOOL = {"type": "function", "function": {"name": "zoom", "parameters": {"type": "object", "properties": {}}}}
IMAGES: dict[str, Any] = {
    **{
        name: f"other/{name}.png"
        for name in (
            "image", "img", "image_file", "image_url", "img_path", "image_path", "picture", "photo", "imagePath",
            "image_filename", "retrieved_image", "rejected_image", "chosen_image", "image_1", "image-file", "Image",
        )
    },
    **{name: [f"other/{name}.png"] for name in ("images", "imgs", "image_paths", "pictures", "media", "image_files")},
    "image_bytes": b"\x89PNG picture",
    "chosen_images": ["other/c.png"],
    "rejected_images": ["other/r.png"],
}  # fmt: skip
CHANGING: dict[str, Any] = {
    **IMAGES,
    "video": "clip.mp4",
    "videos": ["clip.mp4"],
    "video_path": "clip",
    "video_url": "https://example.org/clip",
    "video_id": 12,
    "frames": ["1.jpg", "2.jpg"],
    "frame_paths": ["1.jpg"],
    "audio": {"bytes": b"RIFF", "path": None},
    "audios": ["a.wav"],
    "audio_path": "a",
    "audio_url": "https://example.org/a",
    "system": "Answer in French.",
    "system_prompt": "Answer in French.",
    "system_message": "Answer in French.",
    "tools": [TOOL],
    "functions": [TOOL],
    "chat_template_kwargs": {"enable_thinking": False},
    "enable_thinking": False,
    "chat_template": "{{ messages }}",
    "documents": [{"title": "a", "text": "b"}],
    "objects": {"ref": ["cup"], "bbox": [[1, 2, 3, 4]]},
    "bbox": [1, 2, 3, 4],
    "boxes": [[1, 2, 3, 4]],
    "history": [["Earlier?", "Yes."]],
    "chat_history": [["Earlier?", "Yes."]],
    "dialogue": "Earlier talk.",
    "context": "A passage to read.",
    "query": "Another question?",
    "question": "Another question?",
    "instruction": "Another instruction.",
    "input": "More of it.",
    "messages": talk("Another question?", "Another answer."),
    "conversations": [{"from": "human", "value": "Another question?"}],
    "response_prefix": "It shows",
    "prefill": "It shows",
    "a_new_name": "somewhere/else.jpg",
    "frames_or_so": ["x.webm"],
    "embedded": {"bytes": b"\xff\xd8\xff", "path": None},
    "encoded": "data:image/png;base64,aaaa",
}  # fmt: skip
"""Column -> a value with which no format may lose it."""

EMPTY: tuple[Any, ...] = (None, "", [], {}, [None], [""], {"bytes": None, "path": None})


def pairs_of(row: Row, name: str | None) -> list[PreferencePair]:
    """What a row is read as, ids and ``meta`` aside."""
    found = to_canonical(row, name, place="file:1")
    pairs = [pair_from_row(item, source="test", line=1) for item in found]
    bare = {"id": "x", "meta": {}}
    return [PreferencePair(**{key: getattr(pair, key) for key in pair.__slots__} | bare) for pair in pairs]


KNOWN_AS = {("rlaif_v", "image_path")}
"""Columns that a public set is known to carry and that name where its image came from."""


@pytest.mark.parametrize("named", [True, False], ids=["named", "detected"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_column_that_changes_the_pair_is_read_or_its_row_refused(name: str, named: bool) -> None:
    if not named and name in NAMED:
        return
    plain = pairs_of(ROWS[name], name)
    lost = []
    for column, value in CHANGING.items():
        if column in ROWS[name] or (name, column) in KNOWN_AS:
            continue
        try:
            found = pairs_of({**copy.deepcopy(ROWS[name]), column: value}, name if named else None)
        except RowError as error:
            is_placed = column_of(column) is not None and column_of(column).kind is VIDEO
            names_it = any(
                name in error.detail for name in (repr(column), f" {column}", *["column 'video'"] * is_placed)
            )
            names_it = names_it or (name == "symmpo" and "column 'image" in error.detail)  # under its usual name
            if not names_it and not (is_placed and error.reason == "video_count"):
                lost.append((column, error.detail))
        else:
            lost += [(column, "changes nothing")] if found == plain else []
    assert not lost


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_column_changes_nothing(name: str) -> None:
    plain = pairs_of(ROWS[name], name)
    for column in CHANGING:
        known = column_of(column) is not None
        if column in ROWS[name] or (name == "canonical" and not known):  # our own rows take no further column at all
            continue
        for empty in EMPTY if known else EMPTY[:4]:
            assert pairs_of({**copy.deepcopy(ROWS[name]), column: empty}, name) == plain, (column, empty)


media = st.one_of(
    st.sampled_from(["a.jpg", "x/y.PNG", "https://e.org/a.webp?s=1", "clip.mp4", "t.wav", "data:video/mp4;base64,aa"]),
    st.just({"bytes": b"\xff\xd8\xff\xe0", "path": None}),
    st.just({"path": "a.jpg", "bytes": None}),
    st.just(b"\x89PNG\r\n"),
    st.just("/9j/4AAQSkZJRg"),
)
names = st.text(st.characters(min_codepoint=33, max_codepoint=122), min_size=1, max_size=12)


def has_bytes(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item["bytes"] if isinstance(item, dict) else item, bytes) for item in items)


@pytest.mark.parametrize("name", ["rlhf_v", "ha_dpo"])
@pytest.mark.parametrize("value", [{"bytes": b"\xff\xd8\xff\xe0", "path": None}, b"\x89PNG\r\n", [b"\x89PNG\r\n"]])
def test_an_image_under_the_name_of_a_name_is_refused(name: str, value: Any) -> None:
    assert pairs_of({**copy.deepcopy(ROWS[name]), "COCO_ID": "a.jpg"}, name)[0].images
    with pytest.raises(RowError, match="COCO_ID") as caught:
        pairs_of({**copy.deepcopy(ROWS[name]), "COCO_ID": value}, name)
    assert caught.value.reason == "unread_images"


def test_an_image_that_may_be_the_other_image_of_a_loss_is_told_of_its_column() -> None:
    row = {"image": "a.jpg", "question": "What?", "chosen": "A cat.", "rejected": "A dog."}
    with pytest.raises(RowError, match="'other_images' for the one that a loss") as caught:
        pairs_of({**row, "retrieved_image": "b.jpg"}, "internvl")
    assert caught.value.reason == "unread_images"
    assert pairs_of({**row, "other_images": ["b.jpg"]}, "internvl")[0].other_images


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_value_that_looks_like_media_never_vanishes(name: str, data: st.DataObject) -> None:
    value = data.draw(media | st.lists(media, min_size=1, max_size=3))
    column = data.draw(names.filter(lambda found: found not in ROWS[name] and found != "meta"))
    row = {**copy.deepcopy(ROWS[name]), column: value}
    try:
        read_as = pairs_of(row, name)
    except RowError:
        return
    if read_as == pairs_of(ROWS[name], name):
        known = column_of(column)
        names_an_image = known is not None and known.use == "named" and bool(read_as[0].images)
        assert names_an_image or column in ("source", "id", "idx", "prompt_id"), "only names may look like anything"
        assert not (names_an_image and has_bytes(value)), "and bytes are no name"
        lost = isinstance(value, str) and value.lower().endswith((".jpg", ".png"))
        assert name == "canonical" or read_as[0].images or not lost, "but no picture is lost with it"


@pytest.mark.parametrize("name", ["trl", "ms_swift", "ultrafeedback"])
@pytest.mark.parametrize("column", ["WINNER", "preferred"])
@pytest.mark.parametrize(
    "value", [{"bytes": b"\xff\xd8\xff\xe0", "path": None}, ["a.jpg"], {"of": [{"image": "a.jpg"}]}]
)
def test_media_under_the_name_of_a_verdict_are_refused(name: str, column: str, value: Any) -> None:
    row = copy.deepcopy(ROWS[name])
    for key in ("image", "images"):
        row.pop(key, None)
    with pytest.raises(RowError, match=column) as caught:
        pairs_of({**row, column: value}, name)
    assert caught.value.reason in ("unread_media", "unread_images")


def test_media_under_the_name_of_a_verdict_are_refused_beside_a_read_image_too() -> None:
    with pytest.raises(RowError, match=r"'WINNER'.*media"):
        pairs_of({**copy.deepcopy(ROWS["ha_dpo"]), "WINNER": {"bytes": b"\xff\xd8\xff\xe0", "path": None}}, "ha_dpo")


SCORED = {
    ("chosen_score", "rejected_score"): (4.5, 2),
    ("chosen_rating", "rejected_rating"): (5, 1.0),
    ("chosen-rating", "rejected-rating"): (5.0, 1.0),
    ("rating_chosen", "rating_rejected"): (5.0, 1.0),
    ("chosen_reward", "rejected_reward"): (0.5, -0.5),
}


@pytest.mark.parametrize("keys", SCORED, ids=lambda keys: keys[0])
@pytest.mark.parametrize("name", ["trl", "llamafactory_alpaca", "ms_swift", "spa_vl", "ultrafeedback", "povid"])
def test_scores_under_other_names_are_read(name: str, keys: tuple[str, str]) -> None:
    row = {**ROWS[name], **dict(zip(keys, SCORED[keys], strict=True))}
    pair = read(row)
    assert (pair.score_chosen, pair.score_rejected) == SCORED[keys]
    assert not set(keys) & set(pair.meta)


def test_scores_that_are_not_plain_stay_told() -> None:
    one_side = read(changed("spa_vl", chosen_score=4.0))
    assert (one_side.score_chosen, one_side.meta) == (None, {"chosen_score": 4.0})
    two_kinds = changed("spa_vl", chosen_score=4, rejected_score=1, chosen_rating=5, rejected_rating=1)
    assert read(two_kinds).score_chosen is None
    assert read(changed("spa_vl", chosen_rating="N/A", rejected_rating="2")).score_chosen is None
    ours = changed("spa_vl", score_chosen=3, score_rejected=2, chosen_rating=5, rejected_rating=1)
    assert (read(ours).score_chosen, read(ours).meta) == (3.0, {"chosen_rating": 5, "rejected_rating": 1})
    severity = read(ROWS["hsa_dpo"], "hsa_dpo")
    assert (severity.score_chosen, severity.meta) == (None, {"chosen_score": 1.0})
    assert (severity.rejected_weight, severity.chosen_weight) == (3.0, None)


PLAIN = {"prompt": "What?", **ANSWERS}
QUESTION = {"question": "What?", **ANSWERS}
ALPACA = {"instruction": "<image>What?", **ANSWERS}
TALK = {
    "conversations": [{"from": "human", "value": "<image>What?"}],
    "chosen": {"from": "gpt", "value": GOOD},
    "rejected": {"from": "gpt", "value": BAD},
}


@pytest.mark.parametrize("column", ["image", "img", "img_path", "image_path", "image_file", "image_url", "picture"])
@pytest.mark.parametrize("row", [PLAIN, QUESTION, ALPACA, TALK, {"prompt": "<image>\nWhat?", **ANSWERS}])
def test_one_column_of_an_image_is_read(row: Row, column: str) -> None:
    pair = read({**row, column: "photos/a.jpg"})
    assert (pair.images, pair.prompt[0].num_images, pair.prompt[0].text) == ((ImageRef("photos/a.jpg"),), 1, "What?")
    several = read({**row, column + "s": ["photos/a.jpg"]})
    assert several.images == pair.images


def test_two_columns_of_images_are_read_where_they_say_the_same() -> None:
    embedded = {"bytes": b"\x89PNG picture", "path": None}
    assert read({**PLAIN, "image": embedded, "image_path": "photos/a.jpg"}).images == (
        ImageRef(data=embedded["bytes"]),
    )
    both = {**PLAIN, "image_url": "https://example.org/a.jpg", "image_path": "photos/a.jpg"}
    assert read(both).images == (ImageRef("photos/a.jpg"),)
    assert read({**PLAIN, "images": ["x/a.jpg"], "file_name": "a.jpg"}).meta == {"file_name": "a.jpg"}
    for other in ({"image_url": "https://example.org/b.jpg"}, {"picture": "photos/b.jpg"}):
        with pytest.raises(RowError, match=r"columns 'image_path' and '\w+' hold different") as caught:
            read({**PLAIN, "image_path": "photos/a.jpg", **other})
        assert caught.value.reason == "unread_images"


MARKED = {
    "<image>\nWhat?": "literal_placeholder",
    "What is in <image>?": "literal_placeholder",
    "Picture 1: <img>a.jpg</img>\nWhat?": "literal_placeholder",
    "<|vision_start|><|image_pad|><|vision_end|>What?": "literal_placeholder",
    "<|image_1|>\nWhat?": "literal_placeholder",
    "<video>\nWhat happens?": "literal_placeholder",
    "<audio>What is said?": "audio",
    "Describe <ref-object> at <bbox>.": "boxes",
}


@pytest.mark.parametrize("prompt", MARKED)
def test_a_place_for_media_without_media_is_refused(prompt: str) -> None:
    rows = [
        {"prompt": prompt, **ANSWERS},
        {"question": prompt, **ANSWERS},
        {"prompt": [said("user", prompt)], **ANSWERS},
        {"prompt": [said("user", prompt)], "chosen": [said("assistant", GOOD)], "rejected": [said("assistant", BAD)]},
        {"prompt": prompt, "chosen": talk(prompt, GOOD), "rejected": talk(prompt, BAD)},
    ]
    for row in rows:
        with pytest.raises(RowError) as caught:
            read(row)
        assert caught.value.reason == MARKED[prompt], row


def test_a_text_about_markup_keeps_its_tags() -> None:
    for prompt in ("How do I loop a <video> tag in HTML?", "Fix this: <audio>x</audio>", "What is `<image>`?"):
        assert read({"prompt": prompt, **ANSWERS}).prompt[0].text == prompt
    literal = {"type": "text", "text": "What does <image> mean?"}
    assert read({"id": "1", "prompt": [said("user", [literal])], **ANSWERS}).prompt[0].text == literal["text"]


@pytest.mark.parametrize("system", ["Be brief.", ""])
def test_a_system_prompt_beside_the_prompt_is_its_first_turn(system: str) -> None:
    for row in (PLAIN, QUESTION, {**ALPACA, "image": "a.png"}, {**TALK, "image": "a.png"}, ROWS["trl"]):
        roles = [turn.role for turn in read({**row, "system": system}).prompt]
        assert roles == (["system", "user"] if system else ["user"])
    twice = {"id": "1", "prompt": [said("system", "Be brief."), said("user", "Hi")], **ANSWERS}
    assert len(read({**twice, "system_prompt": "Be brief."}).prompt) == 2
    with pytest.raises(RowError, match="another text") as caught:
        read({**twice, "system_prompt": "Be long."})
    assert caught.value.reason == "system"


def test_an_empty_system_turn_is_kept() -> None:
    turns = [said("system", ""), said("user", "Hi")]
    for row in (
        {"id": "1", "prompt": turns, **ANSWERS},
        {"prompt": turns, "chosen": [said("assistant", GOOD)], "rejected": [said("assistant", BAD)]},
        {"messages": [*turns, said("assistant", GOOD)], "rejected_response": BAD},
    ):
        first = read(row).prompt[0]
        assert (first.role, first.text) == ("system", "")


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in NAMED])
def test_tools_and_switches_reach_the_template(name: str) -> None:
    row = {**ROWS[name], "tools": json.dumps([TOOL]), "chat_template_kwargs": {"enable_thinking": False}}
    assert read(row).template_kwargs == {"tools": [TOOL], "enable_thinking": False}
    assert read({**ROWS[name], "tools": [{**TOOL, "strict": None}]}).template_kwargs == {"tools": [TOOL]}
    for wrong in ("zoom", [1], {"a": 1}, "[1]"):
        with pytest.raises(RowError) as caught:
            read({**ROWS[name], "tools": wrong})
        assert caught.value.reason == "tools"


CLEAR: dict[str, tuple[Row, dict[str, Any]]] = {
    "numbered image parts": (
        {"images": ["a.png"], "prompt": [said("user", [{"type": "image", "index": 0, "text": ""}, "What?"])]}, {},
    ),
    "sizes in image parts": (
        {"images": ["a.png"], "prompt": [said("user", [{"type": "image", "min_pixels": 9}, "What?"])]},
        {"image_hints": [{"min_pixels": 9}]},
    ),
    "names of speakers": (
        {"images": ["a.png"], "prompt": [{**said("user", [{"type": "image"}, "What?"]), "name": "me"}]},
        {"turn_names": ["me"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("canonical", [True, False], ids=["canonical", "trl"])
@pytest.mark.parametrize("case", CLEAR)
def test_parts_that_say_more_are_read_where_they_are_clear(case: str, canonical: bool) -> None:
    row, meta = copy.deepcopy(CLEAR[case])
    for message in row["prompt"]:
        message["content"] = [
            {"type": "text", "text": part} if isinstance(part, str) else part for part in message["content"]
        ]
    answers = ANSWERS if canonical else {side: [said("assistant", answer)] for side, answer in ANSWERS.items()}
    pair = read({"id": "1", **row, **answers})
    assert (pair.images, pair.prompt[0].num_images, pair.meta) == ((ImageRef("a.png"),), 1, meta)


def test_image_parts_out_of_order_are_refused() -> None:
    parts = [{"type": "image", "index": place} for place in (1, 0)]
    for answers in (ANSWERS, {side: [said("assistant", answer)] for side, answer in ANSWERS.items()}):
        with pytest.raises(RowError, match="indexes"):
            read({"id": "1", "images": ["a.png", "b.png"], "prompt": [said("user", parts)], **answers})


def test_parts_of_other_media_say_that_they_are_not_supported() -> None:
    for part in ({"type": "audio", "audio": "a.mp3"}, {"type": "audio_url", "audio_url": {"url": "a"}}):
        for answers in (ANSWERS, {side: [said("assistant", answer)] for side, answer in ANSWERS.items()}):
            with pytest.raises(RowError, match=r"audio.* not supported") as caught:
                read({"id": "1", "prompt": [said("user", [part])], **answers})
            assert caught.value.reason == "audio"


def test_text_rows_may_say_that_they_have_no_image() -> None:
    for none in ("", [None], [""], [], {"bytes": None, "path": None}):
        for row in (PLAIN, QUESTION, {"prompt": [said("user", "What?")], **ANSWERS, "id": "1"}):
            for column in ("image", "images"):
                assert read({**row, column: none}).images == ()


def test_file_addresses_are_paths() -> None:
    for row in (PLAIN, ROWS["canonical"], ROWS["ms_swift"]):
        assert read({**row, "images": ["file:///data/my%20photos/a.png"]}).images == (
            ImageRef("/data/my photos/a.png"),
        )


def test_ms_swift_takes_parts_and_answers_as_messages() -> None:
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]
    messages = [said("user", parts), said("assistant", [{"type": "text", "text": GOOD}])]
    pair = read({"messages": messages, "rejected_response": [said("assistant", BAD)]})
    assert (pair.images, pair.chosen, pair.rejected) == ((ImageRef("a.png"),), GOOD, BAD)
    with pytest.raises(RowError, match="one answer on each side"):
        read({"messages": messages, "rejected_response": talk("x", BAD)})


def test_re_align_and_ha_dpo_are_read_as_their_authors_do() -> None:
    pair = read(ROWS["re_align"])
    assert [part.kind for part in pair.prompt[0].parts] == ["image", "text"]
    assert (pair.other_images, pair.meta) == ((ImageRef("b.png"),), {})
    assert read(changed("mm_rlhf", mixed_up_image="b.png")).meta["mixed_up_image"] == "b.png"
    row = changed("ha_dpo", rejected=...)
    assert read({**row, "reject": BAD}).rejected == BAD


def test_one_completion_without_a_rating_leaves_the_other_pairs() -> None:
    from tests.unit.data.formats.test_formats import rated

    completions = [rated(BAD, "1", "5", "2"), rated("Hm.", "N/A", "5", "5"), rated(GOOD, "4", "5", "5")]
    (pair,) = to_canonical(changed("vlfeedback", completions=completions))
    assert (pair["chosen"], pair["rejected"], pair["meta"]["unrated_completions_of_row"]) == (GOOD, BAD, 1)


def test_counts_and_notes_change_nothing() -> None:
    notes = {"num_images": 1, "frames": 8, "image_wh": [3, 4], "has_video": False, "origin": "web", "note": "above"}
    pair = read({**PLAIN, **notes})
    assert (pair.meta, pair.images) == (notes, ())
    assert read({**PLAIN, "video": False}).meta == {}


@pytest.mark.parametrize("value", ["a.txt", "What is a jpg?", "multi\nline.png", 3, True, ["a", "b"], {"a": 1}, b"abc"])
def test_other_values_are_no_media(value: Any) -> None:
    assert not looks_like_media(value)


def test_what_stands_for_an_image_alone_is_refused_and_beside_one_told() -> None:
    with pytest.raises(RowError, match="column 'image_id' holds the name of an image"):
        read({**PLAIN, "image_id": 12})
    assert read({**PLAIN, "image": "a.png", "image_id": 12}).meta == {"image_id": 12}


def test_a_column_that_repeats_the_prompt_is_told() -> None:
    same = talk("What?", GOOD)
    assert read({**PLAIN, "messages": same}).meta == {"messages": same}
    assert read({**PLAIN, "prompt": "Answer this. What?", "context": "What?"}).meta == {"context": "What?"}


def test_media_inside_of_columns_are_not_lost() -> None:
    inside = {"image": "b.png", "note": "x"}
    for row in (
        {**PLAIN, "metainfo": inside},
        {**ROWS["bpo"], "completions": [{**item, "image": "b.png"} for item in ROWS["bpo"]["completions"]]},
        {**ROWS["vlfeedback"], "completions": [{**item, "video": "b"} for item in ROWS["vlfeedback"]["completions"]]},
        {**ROWS["nemo_rl"], "completions": [{**item, "images": ["b"]} for item in ROWS["nemo_rl"]["completions"]]},
    ):
        with pytest.raises(RowError, match=r"column '(metainfo|completions)\.(image|images|video)'"):
            read(row)
    assert read({**PLAIN, "image": "a.png", "metainfo": inside}).meta == {"metainfo": inside}


def test_answers_alone_beside_a_prompt_of_text_are_read() -> None:
    answers = {side: [said("assistant", answer)] for side, answer in ANSWERS.items()}
    pair = read({"prompt": "What?", "images": ["a.png"], **answers})
    assert (pair.images, pair.prompt[0].text, pair.chosen) == ((ImageRef("a.png"),), "What?", GOOD)


def test_rows_are_left_as_they_are() -> None:
    row = {**PLAIN, "img": "a.png", "video": ""}
    before = copy.deepcopy(row)
    found, _ = read_row(row, None, FormatOptions())
    assert (row, found.name) == (before, "omnialign_v")
    assert standard(PLAIN) is PLAIN
    assert is_empty({"a": [None, ""]})
    assert not is_empty({"enable_thinking": False})
