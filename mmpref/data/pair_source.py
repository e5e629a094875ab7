"""A source of pairs: rows of any format read as checked pairs, and each row that cannot be used quarantined."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from mmpref.data.accepted import Demonstrations, refuse_single
from mmpref.data.formats import UNKNOWN_FORMAT, FormatOptions, format_named, read_row
from mmpref.data.images.loader import ImageLoader
from mmpref.data.pairs import ASIDES, PAIR_KEYS, pair_from_row, row_name
from mmpref.data.quarantine import NO_PAIR, Quarantine, RowError, Skip
from mmpref.data.reading.rows import RowSource
from mmpref.data.videos.loader import VideoLoader
from mmpref.records import ImageRef, PreferencePair, VideoRef

_CANONICAL = frozenset(PAIR_KEYS)


class Candidate(NamedTuple):
    """A pair and the place it was read at."""

    file: str
    row: int
    pair: PreferencePair


REMEMBERED_PATHS = 100_000
"""So that memory does not grow with the data; further images are read again where they come again."""


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """A source of pairs as training, checking and auditing see it.

    Args:
        rows: where the rows come from.
        format: the name of a row format, or ``auto``: recognised by the keys of each row.
        options: what the format's adapter takes (a data card knows it).
        images: opens this source's images; None leaves them unopened.
        videos: opens its videos; None leaves them unopened.
        name: the pairs' ``source`` where the rows name none, and the beginning of generated ids.
        anchored: make paths of images and videos absolute, so that sources with different roots can be in one list.
        asked_root: the image root as it was given; None where the rows' own folder is taken.
        card: the data card as it was given.
    """

    rows: RowSource
    format: str = "auto"
    options: FormatOptions = field(default_factory=FormatOptions)
    images: ImageLoader | None = None
    videos: VideoLoader | None = None
    name: str | None = None
    anchored: bool = False
    asked_root: Path | None = None
    card: str | None = None

    @property
    def row_format(self) -> str:
        """The format that was named, or that an index beside the files says; else ``auto``."""
        return self.rows.format if self.format == "auto" and self.rows.format is not None else self.format

    def candidates(self, quarantine: Quarantine, *, demonstrations: Demonstrations) -> Iterator[Candidate]:
        """The pairs whose row is in order; the others are quarantined. Images are not looked at.

        Whoever iterates says of each pair whether it was used (``num_used``) or quarantines it.
        """

        def broken(file: str, row: int, fault: RowError) -> None:
            quarantine.num_read += 1
            self.quarantine_row(quarantine, file, row, fault, row_id=fault.row_id)

        row_format = self.row_format
        for file, number, row in self.rows.rows(broken):
            found: Sequence[Mapping[str, Any]] = (row,)
            foreign = not _is_canonical(row, row_format)
            if foreign:
                try:
                    found = canonical_rows(row, row_format, self.options, place=f"{self._stem(file)}:{number}")
                    if not found:
                        detail = "the row contains no preference (a tie, or a row its makers leave out)"
                        raise RowError(detail, reason=NO_PAIR)
                except RowError as fault:
                    quarantine.num_read += 1
                    self.quarantine_row(quarantine, file, number, fault, row_id=row_name(row))
                    continue
            counted = False
            for canonical in found:
                quarantine.num_read += 1
                try:
                    pair = pair_from_row(canonical, source=self._label(file), line=number)
                    refuse_single(pair, demonstrations)
                except RowError as fault:
                    self.quarantine_row(quarantine, file, number, fault, row_id=row_name(canonical))
                    continue
                if pair.meta and not counted:
                    counted = True
                    quarantine.left_over.update(left_over(row if foreign else {}, pair.meta))
                yield Candidate(file, number, pair)

    def pairs(
        self, quarantine: Quarantine, *, demonstrations: Demonstrations, skip: Skip | None = None
    ) -> Iterator[Candidate]:
        """The pairs that can be used: the headers of their images and videos are read too, when there is a loader.

        Args:
            quarantine: gets the others, and the counts.
            demonstrations: which rows without ``rejected`` are accepted.
            skip: (file, row, id) -> reason of pairs that an earlier check quarantined.
        """
        for _, candidate in self._sound(quarantine, demonstrations, skip):
            yield candidate

    def some(
        self, quarantine: Quarantine, *, demonstrations: Demonstrations, choose: Callable[[int], Sequence[int]]
    ) -> tuple[int, Iterator[PreferencePair]]:
        """How many pairs can be used, and the chosen ones among them.

        Everything is read to the end first, which is what fills the quarantine, and then a second time up to the last
        chosen pair: so that one pair is in memory at a time.

        Args:
            choose: the number of pairs that can be used -> the places of those that are wanted, in order.
        """
        places = array("Q", (place for place, _ in self._sound(quarantine, demonstrations, None)))
        wanted = [places[chosen] for chosen in choose(len(places))]

        def again() -> Iterator[PreferencePair]:
            left = iter(wanted)
            next_wanted = next(left, None)
            for place, candidate in enumerate(self.candidates(Quarantine(), demonstrations=demonstrations)):
                if next_wanted is None:
                    return
                if place == next_wanted:
                    yield self.anchor(candidate.pair)
                    next_wanted = next(left, None)

        return len(places), again()

    def _sound(
        self, quarantine: Quarantine, demonstrations: Demonstrations, skip: Skip | None
    ) -> Iterator[tuple[int, Candidate]]:
        """The pairs that can be used, each with its place among the candidates."""
        sound: set[object] = set()  # what was looked at already: many rows may share an image, or a video
        for place, candidate in enumerate(self.candidates(quarantine, demonstrations=demonstrations)):
            file, row, pair = candidate
            try:
                if skip and (reason := skip.get((file, row, pair.id))):
                    raise RowError("quarantined by the check of this data", reason=reason)
                if self.images is not None:
                    for image in all_images(pair):
                        if image.path is None or image.path not in sound:
                            self.images.size(image)
                            if image.path is not None and len(sound) < REMEMBERED_PATHS:
                                sound.add(image.path)
                if self.videos is not None:
                    for video in pair.videos:
                        if video not in sound:
                            self.videos.shape(video)
                            if video.path is not None and len(sound) < REMEMBERED_PATHS:
                                sound.add(video)
            except RowError as fault:
                self.quarantine_row(quarantine, file, row, fault, row_id=pair.id)
                continue
            quarantine.num_used += 1
            yield place, Candidate(file, row, self.anchor(pair)) if self.anchored else candidate

    def quarantine_row(
        self, quarantine: Quarantine, file: str, row: int, fault: RowError, *, row_id: str | None
    ) -> None:
        """Put one of the source's rows into a quarantine, with the reason and detail of its fault."""
        quarantine.add(
            source=self._label(file), file=file, row=row, row_id=row_id, reason=fault.reason, detail=fault.detail
        )

    def anchor(self, pair: PreferencePair) -> PreferencePair:
        """The pair with absolute paths of images and videos, when this source is ``anchored``."""
        root = None if self.images is None else self.images.root
        if not self.anchored or root is None:
            return pair
        return with_paths(pair, lambda path: str(root / path))

    def _label(self, file: str) -> str:
        return self.name if self.name is not None else self._stem(file)

    def _stem(self, file: str) -> str:
        return _stem(file) if self.rows.files else self.rows.name


@functools.lru_cache(maxsize=8)
def _stem(file: str) -> str:
    """Asked for with every row, and slow."""
    return Path(file).stem


def canonical_rows(row: Mapping[str, Any], name: str, options: FormatOptions, *, place: str) -> list[Mapping[str, Any]]:
    """The canonical rows that a row of any format gives: none, one or several.

    Args:
        row: as a reader gives it.
        name: the format, or ``auto``.
        options: for the format's adapter.
        place: the id of a row that has none.

    Raises:
        RowError: the row is not in the format, or with ``auto`` in none or more than one.
        DataError: no format of that name.
    """
    if _is_canonical(row, name):
        return [row]
    if options.place is None and row.get("id") is None:
        options = replace(options, place=place)  # the name of a row without an id
    try:
        return list(read_row(row, None if name == "auto" else format_named(name), options)[1])
    except RowError as fault:
        if fault.reason == UNKNOWN_FORMAT and not isinstance(row.get("prompt"), str | None):
            return [row]  # meant as a pair: its own reader says what is wrong with it
        raise


def left_over(row: Mapping[str, Any], meta: Mapping[str, Any]) -> list[str]:
    """The columns of a row that ended in ``meta`` because nothing reads them, and what of its turns did.

    Args:
        row: the foreign row; empty for a canonical one, whose ``meta`` is its own.
        meta: of a pair that was made from it.
    """
    return [str(key) for key in row if key in meta] + [key for key in ASIDES if key in meta and key not in row]


def describe_left_over(counts: Mapping[str, int]) -> str:
    """One line that names the columns and how many rows have them; empty where there is none."""
    named = [f"{name[:40]} ({count:,})" for name, count in counts.items()]
    more = f", and {len(named) - 20} more" if len(named) > 20 else ""
    return f"columns that nothing is read from, kept in meta (rows): {', '.join(named[:20])}{more}" if named else ""


def with_paths(pair: PreferencePair, change: Callable[[str], str]) -> PreferencePair:
    """The pair with every path of an image or a video changed; what is embedded stays."""

    def of_images(images: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
        return tuple(image if image.path is None else ImageRef(path=change(image.path)) for image in images)

    def of_video(video: VideoRef) -> VideoRef:
        if video.path is not None:
            return VideoRef(path=change(video.path))
        return replace(video, frames=of_images(video.frames))

    return replace(
        pair,
        images=of_images(pair.images),
        rejected_images=None if pair.rejected_images is None else of_images(pair.rejected_images),
        other_images=None if pair.other_images is None else of_images(pair.other_images),
        videos=tuple(map(of_video, pair.videos)),
    )


def all_images(pair: PreferencePair) -> tuple[ImageRef, ...]:
    """The images of both sides, those that the chosen answer is compared under, and the frames of videos, in this
    order."""
    images = (*pair.images, *(pair.rejected_images or ()), *(pair.other_images or ()))
    if not pair.videos:
        return images
    return (*images, *(frame for video in pair.videos for frame in video.frames))


def all_files(pair: PreferencePair) -> tuple[ImageRef | VideoRef, ...]:
    """Everything that is opened for a pair: its images, frames among them, and its video files."""
    return (*all_images(pair), *(video for video in pair.videos if video.path is not None))


def _is_canonical(row: Mapping[str, Any], name: str) -> bool:
    """Whether the row needs no adapter: a row that was said to be canonical and has no other keys, or looks like it."""
    return row.keys() <= _CANONICAL if name == "canonical" else name == "auto" and _looks_canonical(row)


def _looks_canonical(row: Mapping[str, Any]) -> bool:
    """No other format has only these keys, a list of messages as its prompt and answers that are texts."""
    if not row.keys() <= _CANONICAL or not isinstance(row.get("prompt"), list):
        return False
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return True
    return not (isinstance(chosen, list | Mapping) or isinstance(rejected, list | Mapping))
