"""Rows of other tools with videos: the layouts that people have, as canonical rows, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.data.formats import FORMATS, detect, to_canonical
from mmpref.data.pair_writing import pair_to_row
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import RowError
from mmpref.records import ImageRef, PreferencePair, VideoRef

Row = dict[str, Any]
GOOD, BAD = "A dog runs.", "A cat sleeps."
TEXT: Row = {"chosen": GOOD, "rejected": BAD}
SIDES: Row = {side: [{"role": "assistant", "content": answer}] for side, answer in TEXT.items()}
TURNS: Row = {side: {"from": "gpt", "value": answer} for side, answer in TEXT.items()}
CLIP = VideoRef(path="clip.mp4")


def read(row: Row, name: str | None = None) -> PreferencePair:
    """The one pair of a foreign row."""
    (found,) = to_canonical({"id": "1", **row}, name)
    return pair_from_row(found, source="test", line=1)


def shown(pair: PreferencePair) -> list[str]:
    """The prompt as a list of media and texts."""
    return [part.text if part.kind == "text" else f"[{part.kind}]" for turn in pair.prompt for part in turn.parts]


def asked(*parts: Any) -> Row:
    """A user turn in parts; a text stands for its part."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": content}


VIDEO, IMAGE = {"type": "video"}, {"type": "image"}
WHAT = "What happens?"

LAYOUTS: dict[str, tuple[str, Row]] = {
    "TRL, column": ("trl", {"prompt": [asked(VIDEO, WHAT)], "videos": ["clip.mp4"], **SIDES}),
    "TRL, one video": ("trl", {"prompt": [asked(VIDEO, WHAT)], "video": "clip.mp4", **SIDES}),
    "TRL, path in the part": ("trl", {"prompt": [asked({"type": "video", "path": "clip.mp4"}, WHAT)], **SIDES}),
    "TRL, video in the part": ("trl", {"prompt": [asked({"type": "video", "video": "clip.mp4"}, WHAT)], **SIDES}),
    "TRL, url in the part": (
        "trl", {"prompt": [asked({"type": "video_url", "video_url": {"url": "clip.mp4"}}, WHAT)], **SIDES},
    ),
    "TRL, parts as parquet fills them": (
        "trl",
        {"prompt": [asked({**VIDEO, "text": None}, {"type": "text", "text": WHAT})], "videos": ["clip.mp4"], **SIDES},
    ),
    "TRL, no place": ("trl", {"prompt": [{"role": "user", "content": WHAT}], "videos": ["clip.mp4"], **SIDES}),
    "TRL, whole conversations": (
        "trl", {side: [asked(VIDEO, WHAT), *said] for side, said in SIDES.items()} | {"videos": ["clip.mp4"]},
    ),
    "Qwen, size and rate in the part": (
        "trl", {"prompt": [asked({"type": "video", "video": "clip.mp4", "fps": 1, "max_pixels": 9}, WHAT)], **SIDES},
    ),
    "LLaMA-Factory, alpaca": (
        "llamafactory_alpaca", {"instruction": f"<video>{WHAT}", "input": "", "videos": ["clip.mp4"], **TEXT},
    ),
    "LLaMA-Factory, sharegpt": (
        "llamafactory_sharegpt",
        {"conversations": [{"from": "human", "value": f"<video>{WHAT}"}], "videos": ["clip.mp4"], **TURNS},
    ),
    "LLaMA-Factory, second version": (
        "llamafactory_v1",
        {f"{side}_messages": [asked({"type": "video_url", "value": "clip.mp4"}, WHAT), *SIDES[side]] for side in SIDES},
    ),
    "ms-swift": (
        "ms_swift",
        {"messages": [{"role": "user", "content": f"<video>{WHAT}"}, {"role": "assistant", "content": GOOD}],
         "rejected_response": BAD, "videos": ["clip.mp4"]},
    ),
    "ms-swift, no place": (
        "ms_swift", {"query": WHAT, "response": GOOD, "rejected_response": BAD, "videos": ["clip.mp4"]},
    ),
    "LLaVA": (
        "llamafactory_sharegpt",
        {"conversations": [{"from": "human", "value": f"<video>\n{WHAT}"}], "video": "clip.mp4", **TURNS},
    ),
    "LLaVA-Video, which writes <image>": (
        "llamafactory_sharegpt",
        {"conversations": [{"from": "human", "value": f"<image>\n{WHAT}"}], "video": "clip.mp4", **TURNS},
    ),
    "MM-RLHF": ("mm_rlhf", {"prompt": WHAT, "video": "clip.mp4", "chosen_reason": "right", **TEXT}),
    "MM-RLHF, <image>": ("mm_rlhf", {"prompt": f"<image>\n{WHAT}", "video": "clip.mp4", **TEXT}),
    "plain columns": ("mm_rlhf", {"prompt": WHAT, "videos": ["clip.mp4"], **TEXT}),
    "plain columns, another name": ("mm_rlhf", {"prompt": f"<video>\n{WHAT}", "video_path": "clip.mp4", **TEXT}),
    "question": ("internvl", {"question": WHAT, "video": "clip.mp4", **TEXT}),
    "MiniCPM's place": ("mm_rlhf", {"prompt": f"(<video>./</video>)\n{WHAT}", "video": "clip.mp4", **TEXT}),
    "two columns that say the same": (
        "mm_rlhf", {"prompt": WHAT, "video": "clip.mp4", "video_path": "data/clip.mp4", "video_id": "clip", **TEXT},
    ),
    "a file:// address": ("mm_rlhf", {"prompt": WHAT, "video": "file://clip.mp4", **TEXT}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_with_a_video_are_read(name: str) -> None:
    wanted, row = LAYOUTS[name]
    assert detect(row).name == wanted
    for pair in (read(row), read(row, wanted)):
        assert (pair.videos, pair.images) == ((CLIP,), ())
        assert shown(pair) == ["[video]", WHAT]
        assert (pair.chosen, pair.rejected) == (GOOD, BAD)


def test_what_a_part_says_of_size_and_rate_stays_in_meta() -> None:
    pair = read(LAYOUTS["Qwen, size and rate in the part"][1])
    assert pair.meta == {"image_hints": [{"max_pixels": 9, "fps": 1}]}


FRAMES = VideoRef(frames=(ImageRef("1.jpg"), ImageRef("2.jpg")))


@pytest.mark.parametrize(
    ("row", "fps"),
    [
        ({"prompt": WHAT, "video": ["1.jpg", "2.jpg"], **TEXT}, None),
        ({"prompt": WHAT, "videos": [["1.jpg", "2.jpg"]], **TEXT}, None),
        ({"prompt": WHAT, "videos": [{"frames": ["1.jpg", "2.jpg"], "fps": 4}], **TEXT}, 4.0),
        ({"prompt": [asked({"type": "video", "video": ["1.jpg", "2.jpg"], "sample_fps": 4}, WHAT)], **SIDES}, 4.0),
        ({"prompt": [asked({"type": "video", "video": ["1.jpg", "2.jpg"]}, WHAT)], **SIDES}, None),
        ({"instruction": f"<video>{WHAT}", "videos": [["1.jpg", "2.jpg"]], **TEXT}, None),
    ],
)
def test_lists_of_frames(row: Row, fps: float | None) -> None:
    pair = read(row)
    assert pair.videos == (VideoRef(frames=FRAMES.frames, fps=fps),)
    assert shown(pair) == ["[video]", WHAT]


def placed(text: str, **columns: Any) -> Row:
    """A row of LLaMA-Factory and one of ms-swift and TRL differ in their text only."""
    return {"instruction": text, **columns, **TEXT}


def test_several_videos_fill_their_places_in_order() -> None:
    pair = read(placed("First <video> then <video>: compare.", videos=["b.mp4", "a.mp4"]))
    assert [video.path for video in pair.videos] == ["b.mp4", "a.mp4"]
    assert shown(pair) == ["First ", "[video]", " then ", "[video]", ": compare."]


def test_images_and_videos_between_one_another_keep_their_order() -> None:
    text = "<video>\nlike <image>\nor <image> and <video>?"
    for row in (
        placed(text, images=["1.png", "2.png"], videos=["a.mp4", "b.mp4"]),
        {"prompt": text, "images": ["1.png", "2.png"], "videos": ["a.mp4", "b.mp4"], **TEXT},
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": GOOD}],
         "rejected_response": BAD, "images": ["1.png", "2.png"], "videos": ["a.mp4", "b.mp4"]},
        {"prompt": [{"role": "user", "content": text}], "images": ["1.png", "2.png"], "videos": ["a.mp4", "b.mp4"],
         **SIDES},
        {"prompt": [asked(
            {"type": "video", "video": "a.mp4"}, "like ", {"type": "image", "image": "1.png"}, "or ",
            {"type": "image", "path": "2.png"}, " and ", {"type": "video", "path": "b.mp4"}, "?")], **SIDES},
    ):  # fmt: skip
        pair = read(row)
        assert shown(pair) == ["[video]", "like ", "[image]", "or ", "[image]", " and ", "[video]", "?"]
        assert [ref.path for ref in pair.images] == ["1.png", "2.png"]
        assert [ref.path for ref in pair.videos] == ["a.mp4", "b.mp4"]


def test_a_video_in_a_later_turn_stays_there() -> None:
    turns = [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "human", "value": f"<video>{WHAT}"},
    ]  # fmt: skip
    pair = read({"conversations": turns, "videos": ["clip.mp4"], **TURNS})
    assert [turn.num_videos for turn in pair.prompt] == [0, 0, 1]


def ms_swift() -> Row:
    """A row whose rejected side is a conversation of its own."""
    turns = [{"role": "user", "content": f"<video>{WHAT}"}]
    sides = {"messages": [*turns, *SIDES["chosen"]], "rejected_messages": [*turns, *SIDES["rejected"]]}
    return {**sides, "videos": ["clip.mp4"]}


REFUSED: dict[str, tuple[str, Row]] = {
    "more places than videos": ("video_count", placed("<video><video>?", videos=["a.mp4"])),
    "more videos than places": ("video_count", placed("<video>?", videos=["a.mp4", "b.mp4"])),
    "a place and no video": ("literal_placeholder", placed("<video>What?")),
    "an image place too many": ("image_count", placed("<image><video>?", videos=["a.mp4"])),
    "no word of where the video stands": ("video_count", placed("<image>?", images=["1.png"], videos=["a.mp4"])),
    "neither of the two has a place": ("video_count", {"prompt": WHAT, "image": "1.png", "video": "a.mp4", **TEXT}),
    "an image part for a video": ("image_count", {"prompt": [asked(IMAGE, WHAT)], "videos": ["a.mp4"], **SIDES}),
    "a place in an answer": ("video_place", placed("<video>?", videos=["a.mp4"]) | {"chosen": "See <video>."}),
    "a place in an earlier answer": (
        "literal_placeholder", placed("<video>?", videos=["a.mp4"], history=[["Hi", "<video> is nice"]]),
    ),
    "a video in an answer": (
        "video_place",
        {"prompt": [asked(VIDEO)], "videos": ["a.mp4"], **SIDES, "chosen": [{"role": "assistant", "content": [VIDEO]}]},
    ),
    "in parts and in a column": (
        "videos", {"prompt": [asked({"type": "video", "path": "a.mp4"})], "videos": ["a.mp4"], **SIDES},
    ),
    "another order": (
        "video_place",
        {"prompt": [asked({**VIDEO, "index": 1}, {**VIDEO, "index": 0})], "videos": ["a.mp4", "b.mp4"], **SIDES},
    ),
    "different videos": ("video", {"prompt": WHAT, "video_path": "a.mp4", "video_file": "b.mp4", **TEXT}),
    "video and videos": ("videos", {"prompt": WHAT, "video": "a.mp4", "videos": ["b.mp4"], **TEXT}),
    "images as videos": ("videos", placed("<video><video>", videos=["1.jpg", "2.jpg"])),
    "an embedded video": ("video", placed("<video>", videos=[b"\x00\x00 ftyp"])),
    "an embedded video of datasets": ("video", placed("<video>", videos=[{"bytes": b"\x00 ftyp", "path": None}])),
    "a video written out": ("video", placed("<video>", videos=["data:video/mp4;base64,aaaa"])),
    "no path": ("videos", placed("<video>", videos=[True])),
    "a piece in the part": (
        "video", {"prompt": [asked({"type": "video", "video": "a.mp4", "video_start": 2}, WHAT)], **SIDES},
    ),
    "a piece in the entry": ("video", placed("<video>", videos=[{"path": "a.mp4", "start": 1, "end": 2}])),
    "a piece in columns": ("video", {"prompt": WHAT, "video": "a.mp4", "start": 1.5, "end": 3, **TEXT}),
    "a piece by its times": ("video", {"prompt": WHAT, "video": "a.mp4", "timestamps": [1, 2], **TEXT}),
    "a piece by a clock": ("video", {"prompt": WHAT, "video": "a.mp4", "start": "00:01:02", "end": "00:02:00", **TEXT}),
    "a piece as text": ("video", {"prompt": WHAT, "video": "a.mp4", "end_time": "8.5s", **TEXT}),
    "a piece by its stamps": ("video", {"prompt": WHAT, "video": "a.mp4", "start_timestamp": 1.5, **TEXT}),
    "a piece by two times": ("video", {"prompt": WHAT, "video": "a.mp4", "time": [8.5, 9], **TEXT}),
    "a rate beside a list of frames": ("video", {"prompt": WHAT, "video": ["1.jpg", "2.jpg"], "fps": 4, **TEXT}),
    "a path between the marks": ("literal_placeholder", {"prompt": f"<video>a.mp4</video>{WHAT}", **TEXT}),
    "a path between the marks, and a column": (
        "literal_placeholder", {"prompt": f"<video>b.mp4</video>{WHAT}", "video": "a.mp4", **TEXT},
    ),
    "a place with a number": ("literal_placeholder", {"prompt": f"<video_1>{WHAT}", "video": "a.mp4", **TEXT}),
    "the times of frames in the part": (
        "video", {"prompt": [asked({"type": "video", "video": ["1.jpg"], "timestamps": [0]}, WHAT)], **SIDES},
    ),
    "ms-swift's rejected messages without the video": ("video_count", {**ms_swift(), "rejected_videos": []}),
    "ms-swift's rejected messages with another video": ("video", {**ms_swift(), "rejected_videos": ["b.mp4"]}),
    "the name of a video alone": ("video", {"prompt": WHAT, "video_id": "dQw4w9WgXcQ", **TEXT}),
    "the short name of a video": ("video", {"prompt": WHAT, "vid": "v_abc", **TEXT}),
    "the number of a video": ("video", {"prompt": WHAT, "video_idx": "12", **TEXT}),
    "a folder of frames": ("video", {"prompt": WHAT, "frames_dir": "frames/a", **TEXT}),
    "a folder of videos": ("video", {"prompt": WHAT, "video_folder": "videos", **TEXT}),
    "a path under a name of a video": ("video", {"prompt": WHAT, "video_location": "/data/7.bin", **TEXT}),
    "a video of YouTube": ("video", {"prompt": WHAT, "youtube_id": "dQw4w9WgXcQ", **TEXT}),
    "frames in a column": ("video", {"prompt": WHAT, "frames": ["1.jpg"], **TEXT}),
    "another video beside": ("video", {"prompt": WHAT, "video": "a.mp4", "rejected_video": "b.mp4", **TEXT}),
    "sound beside": ("audio", {"prompt": WHAT, "video": "a.mp4", "audio": "a.wav", **TEXT}),
    "sound in the part": (
        "audio", {"prompt": [asked(VIDEO, {"type": "audio", "audio": "a.wav"})], "videos": ["a.mp4"], **SIDES},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_is_refused_by_name(name: str) -> None:
    reason, row = REFUSED[name]
    with pytest.raises(RowError) as caught:
        read(row)
    assert caught.value.reason == reason, caught.value.detail
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize("videos", [["clip.mp4"], [["1.jpg", "2.jpg"]]])
def test_both_sides_of_ms_swift_may_name_the_same_videos(videos: list[Any]) -> None:
    pair = read({**ms_swift(), "videos": videos, "rejected_videos": videos})
    assert (pair.chosen, pair.rejected, len(pair.videos), pair.rejected_images) == (GOOD, BAD, 1, None)


def test_ms_swift_is_told_the_videos_of_a_rejected_side_with_images_of_its_own() -> None:
    """It gives ``rejected_messages`` the media of ``rejected_images`` and ``rejected_videos``, and no others."""
    row = {**canonical([IMAGE, VIDEO]), "rejected_images": ["1.png"]}
    written = FORMATS["ms_swift"].from_canonical(row)
    assert (written["videos"], written["rejected_videos"]) == (["0.mp4"], ["0.mp4"])
    back = read(written)
    assert [ref.path for ref in back.videos] == ["0.mp4"]
    assert [ref.path for ref in back.rejected_images or ()] == ["1.png"]


@pytest.mark.parametrize("value", ["clip.gif", ["clip.gif"]])
@pytest.mark.parametrize("key", ["video", "videos", "video_path"])
def test_a_gif_among_videos_is_a_whole_one_and_not_its_first_frame(key: str, value: Any) -> None:
    assert read({"prompt": f"<video>{WHAT}", key: value, **TEXT}).videos == (VideoRef(path="clip.gif"),)


def test_the_rate_of_a_list_of_frames_may_be_written_as_qwen_writes_it() -> None:
    part = {"type": "video", "video": ["1.jpg", "2.jpg"], "sample_fps": "1", "raw_fps": 30}
    pair = read({"prompt": [asked(part, WHAT)], **SIDES})
    assert pair.videos == (VideoRef(frames=FRAMES.frames, fps=1.0),)
    assert pair.meta == {"image_hints": [{"raw_fps": 30}]}


@pytest.mark.parametrize(
    ("value", "advice"), [(["a.mp4"], "name it 'videos'"), ("a.wav", "audio is not supported"), ("a.jpg", "'images'")]
)
def test_media_under_an_unknown_name_are_told_the_column_of_their_kind(value: Any, advice: str) -> None:
    with pytest.raises(RowError, match=advice) as caught:
        read({"prompt": WHAT, "evidence": value, **TEXT})
    assert caught.value.reason == "unread_media"


def test_the_marks_of_a_video_in_a_written_out_prompt_are_told_the_column_of_videos() -> None:
    marks = "<|vision_start|><|video_pad|><|vision_end|>"
    with pytest.raises(RowError, match="give the video under 'videos', with <video> where it stands"):
        read({"prompt": f"{marks}{WHAT}", "video": "a.mp4", **TEXT})


def test_names_and_facts_of_videos_are_kept_where_they_change_nothing() -> None:
    names = {"video_dir": "videos", "vid": "v_abc", "video_source": "a/b.c"}
    assert read({"prompt": WHAT, "video": "clip.mp4", **names, **TEXT}).videos == (CLIP,)
    facts = {"video_source": "youtube", "video_title": "a/b day", "clip_checkpoint": "openai/clip-vit-large-patch14"}
    assert read({"id": "clip-7", "prompt": WHAT, **facts, **TEXT}).videos == ()


def test_times_at_the_beginning_and_rates_beside_a_file_change_nothing() -> None:
    facts = {"start": "00:00:00", "end": "-1", "start_time": 0.0, "segments": [{"start": 0, "text": "hi"}]}
    assert read({"prompt": WHAT, "video": "clip.mp4", **facts, **TEXT}).videos == (CLIP,)
    rated = {"frames": ["1.jpg", "2.jpg"], "fps": 2}
    assert read({"prompt": WHAT, "videos": [rated], "fps": 30, **TEXT}).videos[0].fps == 2.0


def test_facts_beside_a_video_change_nothing() -> None:
    facts = {
        "duration": 12.5,
        "fps": 30,
        "num_frames": 375,
        "start": 0,
        "end": None,
        "video_id": "x",
        "category": "dogs",
    }
    pair = read({"prompt": WHAT, "video": "clip.mp4", **facts, **TEXT})
    assert pair.videos == (CLIP,)
    assert pair.meta["duration"] == 12.5


@pytest.mark.parametrize(
    "text", ["How do I loop a <video> tag in HTML?", "Use `<video>` here.", "<video src=x></video>"]
)
def test_a_text_about_markup_without_a_video_keeps_its_tag(text: str) -> None:
    assert read(placed(text)).prompt[0].text == text


_TEXTS = st.text(alphabet="a\n", max_size=3)
_PARTS = st.lists(
    st.one_of(_TEXTS.map(lambda text: {"type": "text", "text": text}), st.just(VIDEO), st.just(IMAGE)), max_size=7
)


def _merged(parts: list[Row]) -> list[Row]:
    """Parts as text with marks gives them back: neighbouring texts are one, and empty ones none."""
    found: list[Row] = []
    for part in parts:
        if part["type"] == "text" and found and found[-1]["type"] == "text":
            found[-1] = {"type": "text", "text": found[-1]["text"] + part["text"]}
        elif part["type"] != "text" or part["text"]:
            found.append(part)
    return found


def canonical(parts: list[Row]) -> Mapping[str, Any]:
    """A canonical row of these parts."""
    counts = {kind: sum(part["type"] == kind for part in parts) for kind in ("image", "video")}
    return {
        "id": "1",
        "images": [f"{n}.png" for n in range(counts["image"])],
        "prompt": [{"role": "user", "content": parts}],
        **TEXT,
        **({"videos": [f"{n}.mp4" for n in range(counts["video"])]} if counts["video"] else {}),
    }


@pytest.mark.parametrize("target", ["trl", "llamafactory_alpaca", "llamafactory_sharegpt", "ms_swift"])
@settings(max_examples=300)
@given(parts=_PARTS)
def test_what_is_written_for_a_suite_is_read_back(target: str, parts: list[Row]) -> None:
    parts = _merged(parts)
    if not any(part["type"] != "text" or part["text"].strip() for part in parts):
        return
    pair = pair_from_row(canonical(parts), source="test", line=1)
    row = FORMATS[target].from_canonical(pair_to_row(pair))
    back = read(json.loads(json.dumps(row)))
    assert back.videos == pair.videos
    assert back.images == pair.images
    merged = [
        {"type": part.kind, **({"text": part.text} if part.kind == "text" else {})} for part in back.prompt[0].parts
    ]
    assert _merged(merged) == parts


def test_frames_are_written_as_lists_and_a_rate_that_has_no_place_is_refused() -> None:
    row = dict(canonical([VIDEO, {"type": "text", "text": WHAT}])) | {"videos": [{"frames": ["1.jpg", "2.jpg"]}]}
    pair = pair_from_row(row, source="test", line=1)
    for target in ("trl", "llamafactory_alpaca", "llamafactory_sharegpt", "ms_swift"):
        written = FORMATS[target].from_canonical(pair_to_row(pair))
        assert written["videos"] == [["1.jpg", "2.jpg"]]
        assert read(written).videos == pair.videos
        rated = {**row, "videos": [{"frames": ["1.jpg", "2.jpg"], "fps": 4}]}
        with pytest.raises(RowError, match="fps"):
            FORMATS[target].from_canonical(pair_to_row(pair_from_row(rated, source="test", line=1)))
