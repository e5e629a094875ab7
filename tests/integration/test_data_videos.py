"""``mmpref data`` on rows with videos, from the file to what training would read."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from mmpref.cli.main import app
from mmpref.data.commands.check import check
from mmpref.data.loading import load_pairs
from mmpref.data.opening import open_pairs, recipe_sources, videos_of
from mmpref.data.quarantine import Quarantine
from mmpref.data.split import split_by_image
from mmpref.data.videos.loader import VideoLoader
from mmpref.data.videos.sampling import FrameRule
from mmpref.errors import MMPrefError
from mmpref.recipe.sections import DataSection
from mmpref.records import VideoFrames, VideoRef
from tests.tiny_videos import number_of, picture, write_sound, write_video

Row = dict[str, Any]
ANSWERS: Row = {"chosen": "A dog runs.", "rejected": "A cat sleeps."}


def row(name: str, *videos: Any, **more: Any) -> Row:
    """A canonical row about some videos."""
    parts = [{"type": "video"} for _ in videos]
    content = [*parts, {"type": "text", "text": f"What happens in {name}?"}]
    return {"id": name, "images": [], "prompt": [{"role": "user", "content": content}], "videos": list(videos)} | (
        ANSWERS | more
    )


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)])


def code(result: Result) -> int:
    """The exit code that the entry point gives."""
    error = result.exception
    return error.exit_code if isinstance(error, MMPrefError) else result.exit_code


def write_rows(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Videos, frames, and files that are no whole videos."""
    for name, kind in (("dog.mp4", {}), ("cat.webm", {"codec": "libvpx"}), ("short.mkv", {"num_frames": 4})):
        write_video(tmp_path / "clips" / name, **kind)
    half = write_video(tmp_path / "clips" / "half.mp4", options={"movflags": "faststart"})
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    write_sound(tmp_path / "clips" / "sound.m4a")
    for number in range(3):
        picture(number).save(tmp_path / "clips" / f"{number}.png")
    picture(3, (48, 48)).save(tmp_path / "clips" / "narrow.png")
    return tmp_path


GOOD = [
    row("dog", "clips/dog.mp4"),
    row("both", "clips/cat.webm", "clips/dog.mp4"),
    row("short", "clips/short.mkv"),
    row("frames", {"frames": [f"clips/{n}.png" for n in range(3)], "fps": None}),
]
BAD = {
    "video_missing": row("missing", "clips/none.mp4"),
    "video_decode": row("half", "clips/half.mp4"),
    "video_no_stream": row("sound", "clips/sound.m4a"),
    "video_url": row("url", "https://example.org/a.mp4"),
    "video_outside_root": row("outside", "../a.mp4"),
    "image_missing": row("lost frame", {"frames": ["clips/0.png", "clips/9.png"]}),
    "video_frames": row("odd frames", {"frames": ["clips/0.png", "clips/narrow.png"]}),
    "video_count": row("no place", "clips/dog.mp4", prompt=[{"role": "user", "content": "What?"}]),
}


def test_a_check_names_each_video_that_cannot_be_shown(folder: Path) -> None:
    rows = write_rows(folder / "rows.jsonl", [*GOOD, *BAD.values()])
    result = call("check", rows, "--out", folder / "out", "--workers", 1)
    assert code(result) == 3
    report = json.loads((folder / "out" / "data_report.json").read_text())
    assert (report["read"], report["used"], report["quarantined"]) == (len(GOOD) + len(BAD), len(GOOD), len(BAD))
    assert report["reasons"] == dict.fromkeys(BAD, 1)
    assert (report["videos"], report["images"]) == (3, 3)  # the frames of the list are images
    assert report["video_frames"] == {"smallest": 4, "median": 10, "largest": 10}
    assert report["videos_per_pair"] == {"1": 3, "2": 1}
    named = [json.loads(line) for line in (folder / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert {line["reason"]: line["id"] for line in named} == {reason: bad["id"] for reason, bad in BAD.items()}
    assert "clips/half.mp4" in next(line["detail"] for line in named if line["reason"] == "video_decode")


class Deadly(VideoLoader):
    """One video ends the process that decodes it, as a fault in a decoder's C code would."""

    def __call__(self, ref: VideoRef) -> VideoFrames:
        if ref.path == "clips/crash.mp4":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__call__(ref)


def test_a_video_that_ends_its_decoder_is_quarantined_and_the_others_go_on(folder: Path) -> None:
    write_video(folder / "clips" / "crash.mp4")
    rows = write_rows(folder / "rows.jsonl", [*GOOD, row("crash", "clips/dog.mp4", "clips/crash.mp4")])
    source = replace(open_pairs(rows), videos=Deadly(folder))
    report = check([source], out=folder / "out", workers=1, max_bad_fraction=1)
    assert (report.read, report.used, report.reasons) == (5, 4, {"video_crash": 1})
    assert "'clips/crash.mp4' ends the process that decodes it: killed by SIGSEGV" in report.first_bad[0]


def test_a_check_that_passes_says_how_many_frames_are_shown(folder: Path) -> None:
    result = call("check", write_rows(folder / "rows.jsonl", GOOD), "--out", folder / "out", "--workers", 1)
    assert code(result) == 0
    said = " ".join(result.output.split())
    assert re.search(r"frames shown\W+4 to 10 of a video, median 10", said)
    assert re.search(r"pairs by videos\W+1: 3, 2: 1", said)


def test_rows_without_videos_are_told_nothing_of_videos(folder: Path) -> None:
    plain = {"id": "1", "prompt": [{"role": "user", "content": "Hi"}], **ANSWERS}
    result = call("check", write_rows(folder / "rows.jsonl", [plain]), "--out", folder / "out", "--workers", 1)
    assert not re.search(r"videos  |frames shown|by videos", result.output)
    assert "videos" not in json.loads((folder / "out" / "data_report.json").read_text())["manifest"]["sources"][0]


def test_a_manifest_proves_the_videos(folder: Path) -> None:
    rows = write_rows(folder / "rows.jsonl", GOOD)
    assert code(call("check", rows, "--out", folder / "out", "--workers", 1)) == 0
    entry = json.loads((folder / "out" / "data_report.json").read_text())["manifest"]["sources"][0]
    assert (entry["videos"]["num"], entry["images"]["num"]) == (3, 3)
    assert code(call("verify", rows, "--report", folder / "out", "--full")) == 0
    clip = folder / "clips" / "dog.mp4"
    content = clip.read_bytes()
    clip.write_bytes(content[:-1] + b"x")
    for words in ((), ("--full",)):
        result = call("verify", rows, "--report", folder / "out", *words)
        assert code(result) == 3
        assert re.search(
            r"the videos of .*rows.jsonl are not those of .*the bytes of at least one", str(result.exception)
        )
    clip.write_bytes(content + b"x")
    assert "3 files of" in str(call("verify", rows, "--report", folder / "out").exception)
    clip.unlink()
    assert code(call("verify", rows, "--report", folder / "out")) == 3


@pytest.mark.parametrize("copy", [False, True])
def test_the_clean_file_finds_its_videos(folder: Path, copy: bool) -> None:
    rows = write_rows(folder / "rows.jsonl", [*GOOD, BAD["video_decode"]])
    out = folder / "else" / "clean.jsonl" if copy else folder / "clean.jsonl"
    words = ["--fix", str(out), *(["--copy-images"] if copy else [])]
    assert code(call("check", rows, "--out", folder / "out", "--workers", 1, *words)) == 0
    if copy:
        (folder / "clips").rename(folder / "moved")
    source = open_pairs(out)
    pairs = [found.pair for found in source.pairs(Quarantine(), demonstrations=False)]
    assert [pair.id for pair in pairs] == [each["id"] for each in GOOD]
    assert number_of(source.videos(pairs[1].videos[1]).frames[-1]) == 49


def test_the_commands_that_a_check_ends_with_do_what_they_say(folder: Path) -> None:
    rows = write_rows(folder / "rows.jsonl", [*GOOD, BAD["video_missing"]])
    result = call("check", rows, "--out", folder / "out", "--workers", 1)
    line = next(line for line in str(result.exception).splitlines() if "--fix" in line)
    again = CliRunner().invoke(app, shlex.split(line.strip())[1:])
    assert again.exit_code == 0, again.output


def test_an_audit_counts_videos(folder: Path) -> None:
    (folder / "clips" / "copy.mp4").write_bytes((folder / "clips" / "dog.mp4").read_bytes())
    rows = write_rows(folder / "rows.jsonl", [*GOOD, row("copy", "clips/copy.mp4"), BAD["video_decode"]])
    result = call("audit", rows, "--out", folder / "audit.json")
    assert code(result) == 0
    found = json.loads((folder / "audit.json").read_text())["videos"]
    assert (found["num_places"], found["num_distinct"], found["num_copies"]) == (7, 5, 1)
    assert found["num_rows_sharing"] == 3
    assert found["frames"]["max"] == 10
    said = " ".join(result.output.split())
    assert "share a video with another" in said
    assert "copies of another" in said


def test_the_page_shows_the_frames(folder: Path) -> None:
    rows = write_rows(folder / "rows.jsonl", [*GOOD, BAD["video_decode"]])
    assert code(call("view", rows, "--out", folder / "page.html")) == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    content = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    first = next(card for card in content["cards"] if card["id"] == "dog")
    ((shown),) = first["videos"]
    assert len(shown) == 10
    assert content["images"][shown[1]]["name"] == "clips/dog.mp4, second 0.50"
    assert all(content["images"][place]["src"].startswith("data:image/") for place in shown)
    assert first["prompt"] == [["user", 0, "What happens in dog?"]]
    assert len(next(card for card in content["cards"] if card["id"] == "frames")["videos"][0]) == 4
    assert [card["reason"] for card in content["cards"] if card["kind"] == "quarantined"] == []  # a header is in order
    assert any(image.get("reason") == "video_decode" for image in content["images"])


@pytest.mark.parametrize("target", ["canonical", "trl", "llamafactory_sharegpt", "ms_swift"])
def test_what_is_converted_is_read_back(folder: Path, target: str) -> None:
    rows = write_rows(folder / "rows.jsonl", GOOD)
    out = folder / ("out.json" if target.startswith("llama") else "out.jsonl")
    result = call("convert", rows, "--to", target, "--out", out)
    assert code(result) == 0, result.exception
    pairs = load_pairs([rows], allow_demonstrations=False, quarantine=Quarantine())
    back = load_pairs([out], allow_demonstrations=False, quarantine=Quarantine())
    assert [(pair.id, pair.videos, pair.prompt) for pair in back] == [
        (pair.id, pair.videos, pair.prompt) for pair in pairs
    ]
    if target.startswith("llama"):
        assert json.loads((folder / "dataset_info.json").read_text())["out"]["columns"]["videos"] == "videos"


def test_rows_in_parquet_are_those_of_jsonl(folder: Path) -> None:
    plain = {"id": "plain", "prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], **ANSWERS}
    given = [*GOOD, plain]
    as_structs = [
        {**each, "videos": [item if isinstance(item, dict) else {"path": item} for item in each.get("videos", [])]}
        for each in given
    ]
    pq.write_table(pa.Table.from_pylist(as_structs), folder / "rows.parquet")
    rows = write_rows(folder / "rows.jsonl", given)
    lists = [
        load_pairs([path], allow_demonstrations=False, quarantine=Quarantine())
        for path in (rows, folder / "rows.parquet")
    ]
    assert [(pair.id, pair.videos) for pair in lists[0]] == [(pair.id, pair.videos) for pair in lists[1]]


def test_pairs_that_share_a_video_are_held_out_together(folder: Path) -> None:
    rows = [row(f"{clip}-{n}", f"clips/{clip}.mp4") for clip in range(10) for n in range(3)]
    pairs = load_pairs([write_rows(folder / "rows.jsonl", rows)], allow_demonstrations=False, quarantine=Quarantine())
    train, held_out = split_by_image(pairs, held_out=0.3, seed=1)
    assert len(held_out) == 9
    assert {pair.videos for pair in train}.isdisjoint({pair.videos for pair in held_out})


def test_a_run_over_several_roots_opens_the_videos_of_each_with_the_recipes_rule(tmp_path: Path) -> None:
    for name, num_frames in (("a", 20), ("b", 40)):
        write_video(tmp_path / name / "clip.mp4", num_frames=num_frames)
        write_rows(tmp_path / name / "rows.jsonl", [row(name, "clip.mp4")])
    entries = [{"path": str(tmp_path / name / "rows.jsonl"), "root": str(tmp_path / name)} for name in ("a", "b")]
    rule = FrameRule(fps=1)
    sources, _, _ = recipe_sources(DataSection.model_validate({"train": entries}), rule)
    videos = videos_of(sources)
    pairs = [found.pair for source in sources for found in source.pairs(Quarantine(), demonstrations=False)]
    assert [number_of(videos(pair.videos[0]).frames[-1]) for pair in pairs] == [19, 39]
    assert [videos.shape(pair.videos[0]).times for pair in pairs] == [rule.sample(n, 10.0).times for n in (20, 40)]


def test_a_damaged_video_stops_loading_by_its_row(folder: Path) -> None:
    rows = write_rows(folder / "rows.jsonl", [*GOOD, BAD["video_no_stream"]])
    source = open_pairs(rows)
    quarantine = Quarantine()
    assert len(list(source.pairs(quarantine, demonstrations=False))) == len(GOOD)
    assert (quarantine.num_read, quarantine.num_used, len(quarantine)) == (5, 4, 1)
    assert source.videos is not None
    assert source.videos.shape(VideoRef(path="clips/dog.mp4")).num_frames == 10
