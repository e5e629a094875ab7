"""What the videos are: how often each appears, how long it is, and how many frames of it a model is shown."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmpref.data.audit.stats import Quantiles
from mmpref.data.quarantine import RowError
from mmpref.data.videos.loader import VideoLoader
from mmpref.records import PreferencePair, VideoRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Videos:
    """The videos of all pairs. Frames and sizes are known only where a loader was given."""

    num_places: int
    """Videos named in rows, each time they are named."""
    num_distinct: int
    by_content: bool
    """Videos were distinguished by their bytes; otherwise by path alone."""
    num_copies: int
    """Paths whose video is also under another path."""
    copy_examples: tuple[tuple[str, str], ...]
    rows_per_video: Quantiles
    num_rows_sharing: int
    """Rows with a video that another row has too."""
    faults: Mapping[str, int]
    """Reason -> videos that cannot be used."""
    fault_examples: tuple[str, ...]
    frames: Quantiles
    """How many frames of one a model is shown, with the usual rule."""
    width: Quantiles
    height: Quantiles
    seconds: Quantiles
    """When the last frame that is shown is seen."""

    def rows(self) -> list[tuple[str, str]]:
        """(question, answer) for the terminal; nothing where there is no video."""
        if not self.num_places:
            return []
        how = "by content" if self.by_content else "by path"
        most = f", one in up to {self.rows_per_video.max:g} rows"
        rows = [("distinct videos", f"{self.num_distinct:,} {how} in {self.num_places:,} places{most}")]
        if self.num_copies:
            rows.append(("copies of videos under another name", f"{self.num_copies:,}"))
        if self.faults:
            rows.append(("videos that cannot be used", _counts(self.faults)))
        if self.frames.n:
            shown = f"{self.frames.median:g} of {self.width.median:g} x {self.height.median:g}, up to second "
            rows.append(("frames shown of a video (median)", f"{shown}{self.seconds.median:.1f}"))
        return rows

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        found = []
        if self.num_rows_sharing:
            found.append(
                f"{self.num_rows_sharing:,} rows share a video with another: hold out by video, as data.held_out does"
            )
        if self.num_copies:
            first, second = self.copy_examples[0]
            found.append(
                f"{self.num_copies:,} video files are copies of another (such as {first[-80:]} and {second[-80:]}); a "
                "split by path may put them on both sides"
            )
        if self.faults:
            found.append(
                f"{sum(self.faults.values()):,} videos cannot be used ({_counts(self.faults)}); first: "
                f"{self.fault_examples[0]}"
            )
        return found


@dataclass(slots=True)
class _Entry:
    """What is known of one distinct video."""

    paths: list[str] = field(default_factory=list)  # the first two
    num_paths: int = 0
    rows: int = 0


class VideoTally:
    """Reads the header of each distinct video once and counts where it appears."""

    def __init__(self, loader: VideoLoader | None) -> None:
        self._loader = loader
        self._keys: dict[VideoRef, str] = {}
        self._entries: dict[str, _Entry] = {}
        self._pairs: list[tuple[str, ...]] = []
        self._num_places = 0
        self._faults: Counter[str] = Counter()
        self._first_faults: list[str] = []
        self._shapes: list[tuple[int, int, int, float]] = []

    def add(self, pair: PreferencePair) -> tuple[str, ...]:
        """Look at the videos of one pair; a name for each, equal for equal videos."""
        keys = tuple(self._key(video) for video in pair.videos)
        self._num_places += len(keys)
        for key in set(keys):
            self._entries[key].rows += 1
        if keys:
            self._pairs.append(keys)
        return keys

    def finish(self) -> Videos:
        """What all pairs together show."""
        copies = [entry for entry in self._entries.values() if entry.num_paths > 1]
        frames, widths, heights, seconds = zip(*self._shapes, strict=True) if self._shapes else ((), (), (), ())
        return Videos(
            num_places=self._num_places,
            num_distinct=len(self._entries),
            by_content=self._loader is not None,
            num_copies=sum(entry.num_paths - 1 for entry in copies),
            copy_examples=tuple((entry.paths[0], entry.paths[1]) for entry in copies[:5]),
            rows_per_video=Quantiles.of([entry.rows for entry in self._entries.values()]),
            num_rows_sharing=sum(any(self._entries[key].rows > 1 for key in keys) for keys in self._pairs),
            faults=dict(self._faults.most_common()),
            fault_examples=tuple(self._first_faults),
            frames=Quantiles.of(frames),
            width=Quantiles.of(widths),
            height=Quantiles.of(heights),
            seconds=Quantiles.of(seconds),
        )

    def _key(self, video: VideoRef) -> str:
        if video in self._keys:
            return self._keys[video]
        key = self._keys[video] = self._content_key(video)
        if key not in self._entries:
            self._entries[key] = _Entry()
            self._look(video)
        entry = self._entries[key]
        if video.path is not None:
            entry.num_paths += 1
            if len(entry.paths) < 2:
                entry.paths.append(video.path)
        return key

    def _content_key(self, video: VideoRef) -> str:
        if self._loader is not None:
            try:
                return "video:" + self._loader.digest(video)
            except RowError:
                pass  # the fault is counted when the video is looked at
        if video.path is not None:
            return "video:path:" + video.path
        frames = [frame.path or hashlib.sha256(frame.data or b"").hexdigest() for frame in video.frames]
        return "video:frames:" + "\0".join(frames)

    def _look(self, video: VideoRef) -> None:
        if self._loader is None:
            return
        try:
            shape = self._loader.shape(video)
        except RowError as fault:
            self._faults[fault.reason] += 1
            if len(self._first_faults) < 5:
                self._first_faults.append(fault.detail[:300])
        else:
            self._shapes.append((shape.num_frames, shape.width, shape.height, shape.times[-1]))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
