"""Files that are no video, half of one, or meant to do harm: each is refused with its name and a reason."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmpref.data.quarantine import RowError
from mmpref.data.videos.files import VideoLimits
from mmpref.data.videos.loader import VideoLoader
from mmpref.records import ImageRef, VideoRef
from tests.tiny_videos import picture, write_sound, write_video


def refused(loader: VideoLoader, path: str, *, decoding: bool = False) -> RowError:
    """The fault of a file; ``decoding``: its header is in order."""
    if not decoding:
        with pytest.raises(RowError):
            loader.shape(VideoRef(path=path))
    with pytest.raises(RowError) as caught:
        loader(VideoRef(path=path))
    assert repr(path[:300]) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("https://example.org/a.mp4", "video_url"),
        ("rtmp://example.org/live", "video_url"),
        ("concat:a.mp4|b.mp4", "video_missing"),
        ("file:///etc/passwd", "video_url"),
        ("data:video/mp4;base64,aaaa", "video_url"),
        ("../outside.mp4", "video_outside_root"),
        ("/etc/hostname", "video_outside_root"),
        ("link.mp4", "video_outside_root"),
        ("missing.mp4", "video_missing"),
        ("a\0b.mp4", "video_missing"),
        ("folder", "video_not_a_file"),
        ("pipe", "video_not_a_file"),
    ],
)
def test_paths_that_lead_elsewhere(tmp_path: Path, path: str, reason: str) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    write_video(tmp_path / "outside.mp4", num_frames=4)
    (root / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    os.mkfifo(root / "pipe")
    assert refused(VideoLoader(root), path).reason == reason


def test_a_folder_of_frames_says_how_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for number in range(2):
        picture(number).save(tmp_path / "clip" / f"{number}.png")
    loader = VideoLoader(tmp_path)
    assert '{"frames": [...]}' in str(refused(loader, "clip"))
    frames = [ImageRef(path=f"clip/{number}.png") for number in range(2)]
    assert len(loader(VideoRef(frames=tuple(frames))).frames) == 2


def test_without_a_root_no_file_is_opened() -> None:
    assert refused(VideoLoader(None), "a.mp4").reason == "video_no_root"


def image(kind: str) -> bytes:
    out = io.BytesIO()
    picture(3).save(out, kind)
    return out.getvalue()


LIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n%s\n#EXT-X-ENDLIST\n"
NO_VIDEOS: dict[str, bytes] = {
    "empty": b"",
    "text": b"no video at all\n" * 50,
    "a playlist": LIST % b"good.ts",
    "a playlist of an absolute file": LIST % b"file:///etc/hostname",
    "a list of files": b"ffconcat version 1.0\nfile good.mp4\n",
    "a session": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "a list for streams": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
    "an image": image("PNG"),
    "a JPEG": image("JPEG"),
}


@pytest.mark.parametrize("name", NO_VIDEOS)
@pytest.mark.parametrize("ending", ["mp4", "m3u8", "ffconcat", "sdp", "mpd"])
def test_what_is_no_video_is_refused_before_it_can_name_other_files(tmp_path: Path, name: str, ending: str) -> None:
    write_video(tmp_path / "good.mp4", num_frames=4)
    write_video(tmp_path / "good.ts", num_frames=4, codec="mpeg2video", fps=25)
    (tmp_path / f"bad.{ending}").write_bytes(NO_VIDEOS[name])
    assert refused(VideoLoader(tmp_path), f"bad.{ending}").reason == "video_decode"


def test_a_playlist_makes_no_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts".encode()
        for ending in ("m3u8", "mp4"):
            (tmp_path / f"list.{ending}").write_bytes(LIST % address)
            refused(VideoLoader(tmp_path), f"list.{ending}")
        with pytest.raises(TimeoutError):
            server.accept()


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.m4a")
    fault = refused(VideoLoader(tmp_path), "a.m4a")
    assert (fault.reason, "only audio" in str(fault)) == ("video_no_stream", True)
    write_sound(tmp_path / "b.mp3")
    assert refused(VideoLoader(tmp_path), "b.mp3").reason == "video_decode"


def test_the_cover_of_a_song_is_no_video(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.mp4", picture_inside=True)
    assert refused(VideoLoader(tmp_path), "a.mp4").reason == "video_no_stream"


LIMITS: dict[str, tuple[VideoLimits, str]] = {
    "bytes": (VideoLimits(max_bytes=1000), "video_too_large"),
    "pixels": (VideoLimits(max_pixels=3000), "video_too_large"),
    "side": (VideoLimits(min_side=50), "video_small"),
    "aspect": (VideoLimits(max_aspect=1.2), "video_aspect"),
    "seconds": (VideoLimits(max_seconds=4), "video_too_long"),
    "frames": (VideoLimits(max_frames=49), "video_too_long"),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_limits_hold_before_a_frame_is_decoded(
    tmp_path: Path, name: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / f"a.{ending}")
    limits, reason = LIMITS[name]
    monkeypatch.setattr("mmpref.data.videos.files.VideoFile._decoded", lambda self: pytest.fail("a frame was decoded"))
    assert refused(VideoLoader(tmp_path, limits=limits), f"a.{ending}").reason == reason


def test_a_header_that_lies_about_the_size_is_no_way_around_the_limit(tmp_path: Path) -> None:
    small = write_video(tmp_path / "a.ts", codec="mpeg2video", fps=25, num_frames=25).read_bytes()
    large = write_video(tmp_path / "b.ts", codec="mpeg2video", fps=25, num_frames=25, size=(320, 240)).read_bytes()
    (tmp_path / "c.ts").write_bytes(small + large)
    assert "changes its size" in str(refused(VideoLoader(tmp_path), "c.ts", decoding=True))
    limits = VideoLimits(max_pixels=64 * 48)
    assert refused(VideoLoader(tmp_path, limits=limits), "c.ts", decoding=True).reason == "video_decode"


FAST = {"options": {"movflags": "faststart"}}
WHOLE: dict[str, Callable[[Path], Path]] = {
    "mp4": lambda path: write_video(path / "a.mp4"),
    "mp4, header first": lambda path: write_video(path / "a.mp4", **FAST),
    "mkv": lambda path: write_video(path / "a.mkv", codec="libx264"),
    "webm": lambda path: write_video(path / "a.webm", codec="libvpx"),
    "avi": lambda path: write_video(path / "a.avi"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_half_a_file_is_never_taken_for_a_whole_one(tmp_path: Path, name: str) -> None:
    path = WHOLE[name](tmp_path)
    content = path.read_bytes()
    for share in (0.3, 0.5, 0.7):
        path.write_bytes(content[: int(share * len(content))])
        assert refused(VideoLoader(tmp_path), path.name, decoding=True).reason == "video_decode"


def test_a_video_whose_last_frames_were_lost_says_where_it_ends(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", **FAST)
    content = path.read_bytes()
    said = []
    for lost in range(1000, len(content) // 2, 500):
        path.write_bytes(content[:-lost])
        said.append(str(refused(VideoLoader(tmp_path), "a.mp4", decoding=True)))
    assert any("of the 5.00 seconds that its header promises" in line for line in said)


SEEDS: dict[str, bytes] = {}


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_damage_anywhere_ends_in_frames_or_in_a_fault(tmp_path: Path, data: st.DataObject) -> None:
    if not SEEDS:
        for name, write in WHOLE.items():
            SEEDS[name] = write(tmp_path).read_bytes()
        SEEDS["ts"] = write_video(tmp_path / "a.ts", codec="mpeg2video", fps=25).read_bytes()
    content = bytearray(SEEDS[data.draw(st.sampled_from(sorted(SEEDS)))])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.binary(min_size=1, max_size=64))
        content[start : start + len(change)] = change
    (tmp_path / "bad.mp4").write_bytes(content)
    loader = VideoLoader(tmp_path)
    reasons = []
    for _ in range(2):
        try:
            shape = loader.shape(VideoRef(path="bad.mp4"))
            found = loader(VideoRef(path="bad.mp4"))
        except RowError as fault:
            reasons.append(fault.reason)
        else:
            reasons.append("")
            assert found.times == shape.times
            assert {frame.size for frame in found.frames} == {(shape.width, shape.height)}
    assert reasons[0] == reasons[1]
    assert not reasons[0] or reasons[0].startswith("video_")
