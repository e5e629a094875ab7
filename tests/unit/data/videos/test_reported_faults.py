"""Faults with videos that users of other programs reported, rebuilt: our reader is right, or says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpref.data.commands.check import check
from mmpref.data.commands.check_report import CheckReport
from mmpref.data.loading import load_pairs
from mmpref.data.opening import open_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.data.videos.loader import VideoLoader
from mmpref.data.videos.sampling import FrameRule
from mmpref.records import ImageRef, PreferencePair, VideoRef
from tests.tiny_videos import number_of, picture, write_video

ANSWERS = {"chosen": "A dog.", "rejected": "A cat."}


def pairs_of(path: Path, *rows: dict[str, Any]) -> list[PreferencePair]:
    path.write_text("".join(json.dumps({"id": str(n), **row}) + "\n" for n, row in enumerate(rows)), encoding="utf-8")
    return load_pairs([path], allow_demonstrations=False, quarantine=Quarantine())


def checked(path: Path, *rows: dict[str, Any]) -> CheckReport:
    path.write_text("".join(json.dumps({"id": str(n), **row}) + "\n" for n, row in enumerate(rows)), encoding="utf-8")
    return check([open_pairs(path)], out=path.parent / "out", workers=1)


def kinds(pair: PreferencePair) -> list[str]:
    return [part.kind for part in pair.prompt[-1].parts]


def test_frames_are_seen_when_they_were_filmed_and_not_at_an_average_rate() -> None:
    """QwenLM/Qwen3-VL#1403: frames divided by the whole number of them gave times up to a minute too early."""
    places, times = FrameRule(max_frames=8).sample(14434, 29.970029949287216)
    assert places == (0, 2062, 4124, 6186, 8247, 10309, 12371, 14433)
    reported = (0.0, 68.8021, 137.6041, 206.4062, 275.1749, 343.9770, 412.7790, 481.5811)
    assert times == pytest.approx(reported, abs=1e-3)


@pytest.mark.parametrize(("num_frames", "shown"), [(9, 8), (24, 16), (2, 2), (1, 2)])
def test_a_video_with_fewer_frames_than_the_maximum_is_shown(tmp_path: Path, num_frames: int, shown: int) -> None:
    """EvolvingLMMs-Lab/lmms-eval#874, Vinoground/Vinoground#2, yaolinli/TimeChat-Online#20: "nframes should in
    interval [2, 9], but got 16"."""
    write_video(tmp_path / "a.mp4", num_frames=num_frames)
    loader = VideoLoader(tmp_path, rule=FrameRule(fps=100))
    assert len(loader(VideoRef(path="a.mp4")).frames) == shown


def test_frames_that_were_picked_before_have_the_times_of_their_rate(tmp_path: Path) -> None:
    """QwenLM/Qwen3-VL#2117: two selections from one video were the same to the model, because a list had no times."""
    for number in range(8):
        picture(number).save(tmp_path / f"{number}.png")
    frames = tuple(ImageRef(f"{number}.png") for number in range(8))
    loader = VideoLoader(tmp_path)
    slow, fast = (loader(VideoRef(frames=frames, fps=fps)).times for fps in (0.6, 2.0))
    assert slow == pytest.approx([number / 0.6 for number in range(8)])
    assert fast == pytest.approx([number / 2 for number in range(8)])


def test_a_list_of_frames_is_one_video_beside_an_image(tmp_path: Path) -> None:
    """modelscope/ms-swift#4290: images beside ``videos: [["1.jpg", "2.jpg"]]``."""
    talk = [
        {"role": "user", "content": "<image>is an elephant, <video>is what?"},
        {"role": "assistant", "content": "A lion."},
    ]
    row = {"messages": talk, "images": ["x.jpg"], "videos": [["1.jpg", "2.jpg"]], "rejected_response": "A dog."}
    (pair,) = pairs_of(tmp_path / "rows.jsonl", row)
    assert kinds(pair) == ["image", "text", "video", "text"]
    assert pair.videos == (VideoRef(frames=(ImageRef("1.jpg"), ImageRef("2.jpg"))),)


def media(folder: Path, *names: str) -> None:
    """Write small images and videos of these names."""
    for number, name in enumerate(names):
        if name.endswith(".mp4"):
            write_video(folder / name, num_frames=4 + 2 * number)
        else:
            picture(number).save(folder / name)


def test_a_folder_of_frames_is_refused_with_what_to_write(tmp_path: Path) -> None:
    """modelscope/ms-swift#5339: a folder under ``videos`` without a place counted as two videos."""
    (tmp_path / "clip").mkdir()
    media(tmp_path / "clip", "01.png", "02.png")
    row = {"prompt": [{"role": "user", "content": "What?"}], "videos": ["clip"], **sides()}
    report = checked(tmp_path / "rows.jsonl", row)
    assert report.reasons == {"video_not_a_file": 1}
    assert '{"frames": [...]}' in report.first_bad[0]


def sides() -> dict[str, Any]:
    return {side: [{"role": "assistant", "content": answer}] for side, answer in ANSWERS.items()}


def test_a_video_under_images_is_no_image(tmp_path: Path) -> None:
    """modelscope/ms-swift#4772: a video that was named under ``images`` was taken for a picture, and all rows went."""
    media(tmp_path, "a.mp4")
    wrong = {"prompt": [{"role": "user", "content": "<image>What?"}], "images": ["a.mp4"], **sides()}
    right = {"prompt": [{"role": "user", "content": "What?"}], "videos": ["a.mp4"], **sides()}
    report = checked(tmp_path / "rows.jsonl", wrong, right)
    assert report.reasons == {"image_decode": 1}
    assert (report.used, report.videos, report.images) == (1, 1, 0)


def test_rows_of_images_and_rows_of_videos_in_one_file(tmp_path: Path) -> None:
    """EasyR1, "video-image mixed dataset": each row has both columns, one of them empty."""
    media(tmp_path, "a.png", "b.mp4")
    rows = [
        {"instruction": "<image>What?", "images": ["a.png"], "videos": [], **ANSWERS},
        {"instruction": "<video>What?", "images": [], "videos": ["b.mp4"], **ANSWERS},
        {"instruction": "What?", "images": [], "videos": [], **ANSWERS},
    ]
    assert [kinds(pair) for pair in pairs_of(tmp_path / "rows.jsonl", *rows)] == [
        ["image", "text"],
        ["video", "text"],
        ["text"],
    ]


LISTED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "videos": lambda columns: columns | {"videos": "videos"},
    "a column of another name": lambda columns: columns | {"videos": "clips"},
}


@pytest.mark.parametrize("name", LISTED)
def test_the_videos_that_a_description_names_are_found(tmp_path: Path, name: str) -> None:
    """hiyouga/LLaMA-Factory#6839 and #9146: "the number of videos does not match the number of <video> tokens", for
    rows whose videos stood where nobody looked."""
    media(tmp_path, "a.mp4", "b.mp4")  # of four and of six frames
    columns = LISTED[name]({"messages": "conversations", "chosen": "chosen", "rejected": "rejected"})
    row = {
        "conversations": [{"from": "human", "value": "<video>and <video>\nWhich?"}],
        columns["videos"]: ["b.mp4", "a.mp4"],
        "chosen": {"from": "gpt", "value": "The first."},
        "rejected": {"from": "gpt", "value": "The second."},
    }
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    info = {"mine": {"file_name": "rows.json", "formatting": "sharegpt", "ranking": True, "columns": columns}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (pair,) = load_pairs([tmp_path / "dataset_info.json"], allow_demonstrations=False, quarantine=Quarantine())
    assert [ref.path for ref in pair.videos] == ["b.mp4", "a.mp4"]
    assert kinds(pair) == ["video", "text", "video", "text"]
    loader = VideoLoader(tmp_path)
    assert [number_of(loader(ref).frames[-1]) for ref in pair.videos] == [5, 3]


def test_videos_that_a_description_leaves_out_are_not_lost_in_silence(tmp_path: Path) -> None:
    """The same reports: without ``videos`` among the columns, the rows have places and nothing to show."""
    row = {"instruction": "<video>What?", "videos": ["a.mp4"], **ANSWERS}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"mine": {"file_name": "rows.json", "ranking": True, "columns": columns}})
    )
    report = check([open_pairs(tmp_path / "dataset_info.json")], out=tmp_path / "out", workers=1)
    assert (report.read, report.used, report.quarantined) == (1, 0, 1)
