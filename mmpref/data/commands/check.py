"""The one look at everything before training: each row read, each image and video decoded once, each fault kept.

``check`` writes ``quarantine.jsonl`` and ``data_report.json``. The report's manifest names the files and the images by
their hashes; training that is given the report refuses data that is no longer what was checked.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpref.data.accepted import Demonstrations
from mmpref.data.commands.check_report import CheckReport
from mmpref.data.images.decoding import Decoder, DecodeResult, Task
from mmpref.data.loading import DEFAULT_MAX_BAD_FRACTION
from mmpref.data.loss_facts import LossTally
from mmpref.data.manifest import (
    QUARANTINE_FILE,
    REPORT_FILE,
    Listing,
    build_manifest,
    hash_before,
    media_name,
    write_report,
)
from mmpref.data.pair_source import Candidate, PairSource, all_files, all_images
from mmpref.data.prompt_groups import PromptTally, embedded_name
from mmpref.data.quarantine import Quarantine, QuarantinedRow, RowError, where_is
from mmpref.data.reading.source import count_rows
from mmpref.data.text_similarity import repeats_prompt
from mmpref.files.writing import writing_to
from mmpref.records import ImageRef, PreferencePair, VideoRef

Progress = Callable[[int, int | None], None]
_WINDOW = 16  # pairs whose images are decoded as one piece of work,
_WINDOW_BYTES = 2 * 2**20  # or fewer, when their embedded images are large
_Key = tuple[int, str]


def check(
    sources: Sequence[PairSource],
    *,
    out: Path,
    demonstrations: Demonstrations = False,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Read every row, decode every image and video; write ``quarantine.jsonl`` and ``data_report.json`` to ``out``.

    Args:
        sources: what to check, as training would read it.
        out: folder of the two files.
        demonstrations: accept rows without ``rejected``, as training with the ``sft`` loss does.
        max_bad_fraction: the share of bad rows that is allowed; the report says whether it is kept.
        workers: processes that decode; default: one per core. 1 decodes in this process.
        progress: called with (pairs done, pairs in all or None where it is not known before the end).

    Raises:
        DataError: a file that cannot be read at all.
        CheckpointError: the folder cannot be written.
    """
    with writing_to(out):  # found out now and not after an hour
        out.mkdir(parents=True, exist_ok=True)
    quarantine = Quarantine(out / QUARANTINE_FILE)
    before = hash_before(sources)
    counts = [count_rows(source.rows) for source in sources]
    total = None if None in counts else sum(count or 0 for count in counts)
    tally = _Tally(quarantine, [Listing() for _ in sources], [Listing() for _ in sources])
    loaders = [*(source.images for source in sources), *(source.videos for source in sources)]
    with Decoder(loaders, workers=workers) as decoder:
        for number, source in enumerate(sources):
            places = {ImageRef: number, VideoRef: len(sources) + number}
            for window in _decoded(number, source, places, decoder, tally, demonstrations):
                tally.close(number, source, window)
                if progress is not None:
                    progress(quarantine.num_read, total)
    order = {str(file): place for place, file in enumerate(file for source in sources for file in source.rows.files)}
    quarantine.rows.sort(key=lambda row: (order.get(row.file, -1), row.row))
    quarantine.write()
    manifest = build_manifest(
        sources,
        tally.listings,
        tally.video_listings,
        demonstrations=demonstrations,
        quarantine=out / QUARANTINE_FILE,
        before=before,
    )
    report = tally.report(manifest, max_bad_fraction)
    write_report(out / REPORT_FILE, report.as_json())
    return report


@dataclass
class _Window:
    """Some pairs, and what came of those of their images and videos that no earlier pair has."""

    candidates: list[Candidate]
    keys: list[_Key]
    results: list[DecodeResult]


@dataclass
class _Tally:
    """Everything that is counted, and what is known of each image, video and id so far."""

    quarantine: Quarantine
    listings: list[Listing]
    video_listings: list[Listing]
    images: dict[_Key, DecodeResult | None] = field(default_factory=dict)
    """None: decoded, and counted in the listing."""
    pending: set[_Key] = field(default_factory=set)
    contents: dict[_Key, str] = field(default_factory=dict)
    """What an image or video is by its bytes."""
    prompts: PromptTally = field(default_factory=PromptTally)
    ids: dict[str, str] = field(default_factory=dict)
    sides: Counter[int] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    per_pair: Counter[int] = field(default_factory=Counter)
    num_images: int = 0
    image_bytes: int = 0
    videos_per_pair: Counter[int] = field(default_factory=Counter)
    frames: Counter[int] = field(default_factory=Counter)
    video_bytes: int = 0
    demonstrations: int = 0
    scored: int = 0
    inverted: int = 0
    tied: int = 0
    repeat_prompt: int = 0
    loss: LossTally = field(default_factory=LossTally)
    low: float = float("inf")
    high: float = float("-inf")

    def close(self, number: int, source: PairSource, window: _Window) -> None:
        """Say of each pair of a window whose images and videos are decoded whether it is used."""
        embedded: dict[_Key, DecodeResult] = {}
        for key, result in zip(window.keys, window.results, strict=True):
            if key in self.pending:
                self.pending.discard(key)
                self.images[key] = result
            else:
                embedded[key] = result
        for place, (file, row, pair) in enumerate(window.candidates):
            keys = _file_keys(number, place, pair)
            results = [self.images[key] if key in self.images else embedded.get(key) for key in keys]
            fault = next((result for result in results if result is not None and result.reason), None)
            if fault is not None:
                error = RowError(fault.detail, reason=fault.reason or "unknown")
            elif (odd := _odd_frames(source, pair) or self._same_others(pair, keys, results)) is not None:
                error = odd
            elif pair.id in self.ids:
                error = RowError(f"the id is already that of {self.ids[pair.id]}", reason="duplicate_id")
            else:
                self.ids[pair.id] = where_is(file, row)
                self._use(number, source, pair, keys, results)
                continue
            source.quarantine_row(self.quarantine, file, row, error, row_id=pair.id)

    def _use(
        self,
        number: int,
        source: PairSource,
        pair: PreferencePair,
        keys: Sequence[_Key],
        results: Sequence[DecodeResult | None],
    ) -> None:
        self.quarantine.num_used += 1
        self.sources[pair.source] += 1
        self.per_pair[len(pair.images)] += 1
        self.videos_per_pair[len(pair.videos)] += 1
        if not source.rows.files:
            self.listings[number].add_pair(pair, source.images)
        self.demonstrations += pair.rejected is None
        self.repeat_prompt += repeats_prompt(pair)
        self.loss.add(pair)
        self._add_to_prompts(source, pair, keys, results)
        if pair.score_chosen is not None and pair.score_rejected is not None:
            self.scored += 1
            self.inverted += pair.score_chosen < pair.score_rejected
            self.tied += pair.score_chosen == pair.score_rejected
            self.low = min(self.low, pair.score_chosen, pair.score_rejected)
            self.high = max(self.high, pair.score_chosen, pair.score_rejected)
        for key, ref, result in zip(keys, all_files(pair), results, strict=True):
            if result is None or (ref.path is not None and self.images.get(key) is None):
                continue
            is_video = isinstance(ref, VideoRef)
            if is_video:
                self.video_bytes += result.num_bytes
                self.frames[result.num_frames] += 1
            else:
                self.num_images += 1
                self.image_bytes += result.num_bytes
                self.sides[result.longer_side] += 1
            loader = source.videos if is_video else source.images
            if ref.path is not None and loader is not None:
                listing = (self.video_listings if is_video else self.listings)[number]
                listing.add(media_name(ref.path, loader.root), result.num_bytes, result.mtime_ns, result.sha256)
                self.images[key] = None

    def _same_others(
        self, pair: PreferencePair, keys: Sequence[_Key], results: Sequence[DecodeResult | None]
    ) -> RowError | None:
        """What is wrong with ``other_images`` that have other names than ``images`` and are the same files."""
        if pair.other_images is None:
            return None
        contents = [
            self.contents.get(key) or (result.sha256 if result is not None else "")
            for key, result in zip(keys, results, strict=True)
        ]
        start = len(pair.images) + len(pair.rejected_images or ())
        if not all(contents) or contents[: len(pair.images)] != contents[start : start + len(pair.images)]:
            return None
        detail = "'other_images' are the very files of 'images' under other names: give others, or drop the column here"
        return RowError(detail, reason="other_images")

    def _add_to_prompts(
        self,
        source: PairSource,
        pair: PreferencePair,
        keys: Sequence[_Key],
        results: Sequence[DecodeResult | None],
    ) -> None:
        names, contents = [], []
        for key, ref, result in zip(keys, all_files(pair), results, strict=True):
            loader = source.videos if isinstance(ref, VideoRef) else source.images
            if ref.path is None:
                name = embedded_name(ref.data or b"")  # type: ignore[union-attr]
                contents.append(result.sha256 if result is not None and result.sha256 else name)
            else:
                root = None if loader is None else loader.root
                name = ref.path if root is None else str(root / ref.path)
                if result is not None and result.sha256:
                    self.contents.setdefault(key, result.sha256)
                contents.append(self.contents.get(key, name))
            names.append(name)
        self.prompts.add(pair, names, contents)

    def report(self, manifest: dict[str, Any], max_bad_fraction: float) -> CheckReport:
        """The report on everything that was counted."""
        quarantine = self.quarantine
        scores = {"lowest": self.low, "highest": self.high, "inverted": self.inverted, "tied": self.tied}
        return CheckReport(
            read=quarantine.num_read,
            used=quarantine.num_used,
            quarantined=len(quarantine),
            reasons=dict(quarantine.counts.most_common()),
            bad=quarantine.num_bad,
            max_bad_fraction=max_bad_fraction,
            first_bad=tuple(row.describe() for row in sorted(quarantine.rows, key=_stops_first)[:5]),
            images=self.num_images,
            image_bytes=self.image_bytes,
            image_sides=_spread(self.sides),
            images_per_pair=dict(sorted(self.per_pair.items())),
            videos=self.frames.total(),
            video_bytes=self.video_bytes,
            video_frames=_spread(self.frames),
            videos_per_pair=dict(sorted(self.videos_per_pair.items())) if self.videos_per_pair.keys() - {0} else {},
            demonstrations=self.demonstrations,
            scored=self.scored,
            scores=scores if self.scored else {},
            repeat_prompt=self.repeat_prompt,
            loss=self.loss.finish(),
            prompts=self.prompts.finish(),
            sources=dict(self.sources),
            left_over=dict(quarantine.left_over.most_common()),
            manifest=manifest,
            quarantined_rows=tuple(quarantine.rows),
        )


def _decoded(
    number: int,
    source: PairSource,
    places: Mapping[type, int],
    decoder: Decoder,
    tally: _Tally,
    demonstrations: Demonstrations,
) -> Iterator[_Window]:
    """Windows of pairs in order, each when its images and videos are decoded; a few are on their way at any time.

    Args:
        places: kind of what is opened -> number of its loader.
    """
    waiting: deque[tuple[_Window, list[Task], Future[list[DecodeResult]]]] = deque()

    def finished() -> _Window:
        window, tasks, work = waiting.popleft()
        window.results = decoder.result(tasks, work)
        return window

    for chunk in _chunks(source.candidates(tally.quarantine, demonstrations=demonstrations)):
        keys: list[_Key] = []
        tasks: list[Task] = []
        for place, candidate in enumerate(chunk):
            for key, ref in zip(_file_keys(number, place, candidate.pair), all_files(candidate.pair), strict=True):
                loader = source.videos if isinstance(ref, VideoRef) else source.images
                if loader is None or key in tally.images or key in tally.pending:
                    continue
                if ref.path is not None:
                    tally.pending.add(key)
                keys.append(key)
                tasks.append(Task(places[type(ref)], ref))
        waiting.append((_Window(chunk, keys, []), tasks, decoder.submit(tasks)))
        if len(waiting) > 4 * decoder.workers:
            yield finished()
    while waiting:
        yield finished()


def _odd_frames(source: PairSource, pair: PreferencePair) -> RowError | None:
    """What is wrong with the lists of frames of a pair whose frames are all in order: they differ in size."""
    if source.videos is None:
        return None
    try:
        for video in pair.videos:
            source.videos.check_frames(video)
    except RowError as fault:
        return fault
    return None


def _chunks(candidates: Iterator[Candidate]) -> Iterator[list[Candidate]]:
    chunk: list[Candidate] = []
    size = 0
    for candidate in candidates:
        chunk.append(candidate)
        size += sum(len(ref.data or b"") for ref in all_images(candidate.pair))
        size += _WINDOW_BYTES * bool(candidate.pair.videos)  # a video is work enough for one piece
        if len(chunk) == _WINDOW or size >= _WINDOW_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _file_keys(number: int, place: int, pair: PreferencePair) -> list[_Key]:
    """What identifies an image or a video: its path, or for embedded bytes the pair's place in its window."""
    return [
        (number, f"{_KINDS[type(ref)]}:{ref.path}" if ref.path is not None else f"data:{place}:{index}")
        for index, ref in enumerate(all_files(pair))
    ]


_KINDS = {ImageRef: "path", VideoRef: "video"}


def _stops_first(row: QuarantinedRow) -> bool:
    """Sort key: one id that appears twice refuses the data, so those rows are the first to be named."""
    return row.reason != "duplicate_id"


def _spread(counts: Counter[int]) -> dict[str, int]:
    if not counts:
        return {}
    ordered = sorted(counts.elements())
    return {"smallest": ordered[0], "median": ordered[len(ordered) // 2], "largest": ordered[-1]}
