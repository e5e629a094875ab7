"""The one look at everything before training: each row read, each image decoded once, each fault written down.

``check`` writes ``quarantine.jsonl`` and ``data_report.json``. The report's manifest names the files and the images by
their hashes; training that is given the report refuses data that is no longer what was checked.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpref.data.commands.check_report import CheckReport
from mmpref.data.images.decoding import Decoder, DecodeResult, Task
from mmpref.data.loading import DEFAULT_MAX_BAD_FRACTION
from mmpref.data.manifest import (
    QUARANTINE_FILE,
    REPORT_FILE,
    Listing,
    build_manifest,
    hash_before,
    image_name,
    write_report,
)
from mmpref.data.pair_source import Candidate, PairSource, all_images
from mmpref.data.quarantine import Quarantine, QuarantinedRow, RowError, where_is
from mmpref.data.reading.source import count_rows
from mmpref.data.text_similarity import repeats_prompt
from mmpref.files.writing import writing_to
from mmpref.records import PreferencePair

Progress = Callable[[int, int | None], None]
_WINDOW = 16  # pairs whose images are decoded as one piece of work,
_WINDOW_BYTES = 2 * 2**20  # or fewer, when their embedded images are large
_Key = tuple[int, str]


def check(
    sources: Sequence[PairSource],
    *,
    out: Path,
    demonstrations: bool = False,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Read every row and decode every image once; write ``quarantine.jsonl`` and ``data_report.json`` to ``out``.

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
    tally = _Tally(quarantine, [Listing() for _ in sources])
    with Decoder([source.images for source in sources], workers=workers) as decoder:
        for number, source in enumerate(sources):
            for window in _decoded(number, source, decoder, tally, demonstrations):
                tally.close(number, source, window)
                if progress is not None:
                    progress(quarantine.num_read, total)
    order = {str(file): place for place, file in enumerate(file for source in sources for file in source.rows.files)}
    quarantine.rows.sort(key=lambda row: (order.get(row.file, -1), row.row))
    quarantine.write()
    manifest = build_manifest(
        sources, tally.listings, demonstrations=demonstrations, quarantine=out / QUARANTINE_FILE, before=before
    )
    report = tally.report(manifest, max_bad_fraction)
    write_report(out / REPORT_FILE, report.as_json())
    return report


@dataclass
class _Window:
    """Some pairs, and what came of those of their images that no earlier pair has."""

    candidates: list[Candidate]
    keys: list[_Key]
    verdicts: list[DecodeResult]


@dataclass
class _Tally:
    """Everything that is counted, and what is known of each image and id so far."""

    quarantine: Quarantine
    listings: list[Listing]
    images: dict[_Key, DecodeResult | None] = field(default_factory=dict)
    """None: decoded, and counted in the listing."""
    pending: set[_Key] = field(default_factory=set)
    ids: dict[str, str] = field(default_factory=dict)
    sides: Counter[int] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    per_pair: Counter[int] = field(default_factory=Counter)
    num_images: int = 0
    image_bytes: int = 0
    demonstrations: int = 0
    scored: int = 0
    inverted: int = 0
    tied: int = 0
    repeat_prompt: int = 0
    low: float = float("inf")
    high: float = float("-inf")

    def close(self, number: int, source: PairSource, window: _Window) -> None:
        """Say of each pair of a window whose images are decoded whether it is used."""
        embedded: dict[_Key, DecodeResult] = {}
        for key, verdict in zip(window.keys, window.verdicts, strict=True):
            if key in self.pending:
                self.pending.discard(key)
                self.images[key] = verdict
            else:
                embedded[key] = verdict
        for place, (file, row, pair) in enumerate(window.candidates):
            keys = _image_keys(number, place, pair)
            verdicts = [self.images[key] if key in self.images else embedded.get(key) for key in keys]
            fault = next((verdict for verdict in verdicts if verdict is not None and verdict.reason), None)
            if fault is not None:
                error = RowError(fault.detail, reason=fault.reason or "unknown")
            elif pair.id in self.ids:
                error = RowError(f"the id is already that of {self.ids[pair.id]}", reason="duplicate_id")
            else:
                self.ids[pair.id] = where_is(file, row)
                self._use(number, source, pair, keys, verdicts)
                continue
            source.quarantine_row(self.quarantine, file, row, error, row_id=pair.id)

    def _use(
        self,
        number: int,
        source: PairSource,
        pair: PreferencePair,
        keys: Sequence[_Key],
        verdicts: Sequence[DecodeResult | None],
    ) -> None:
        self.quarantine.num_used += 1
        self.sources[pair.source] += 1
        self.per_pair[len(pair.images)] += 1
        if not source.rows.files:
            self.listings[number].add_pair(pair, source.images)
        self.demonstrations += pair.rejected is None
        self.repeat_prompt += repeats_prompt(pair)
        if pair.score_chosen is not None and pair.score_rejected is not None:
            self.scored += 1
            self.inverted += pair.score_chosen < pair.score_rejected
            self.tied += pair.score_chosen == pair.score_rejected
            self.low = min(self.low, pair.score_chosen, pair.score_rejected)
            self.high = max(self.high, pair.score_chosen, pair.score_rejected)
        for key, ref, verdict in zip(keys, all_images(pair), verdicts, strict=True):
            if verdict is None or (ref.path is not None and self.images.get(key) is None):
                continue
            self.num_images += 1
            self.image_bytes += verdict.num_bytes
            self.sides[verdict.longer_side] += 1
            if ref.path is not None and source.images is not None:
                name = image_name(ref.path, source.images)
                self.listings[number].add(name, verdict.num_bytes, verdict.mtime_ns, verdict.sha256)
                self.images[key] = None

    def report(self, manifest: dict[str, Any], max_bad_fraction: float) -> CheckReport:
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
            image_sides=_longer_sides(self.sides),
            images_per_pair=dict(sorted(self.per_pair.items())),
            demonstrations=self.demonstrations,
            scored=self.scored,
            scores=scores if self.scored else {},
            repeat_prompt=self.repeat_prompt,
            sources=dict(self.sources),
            left_over=dict(quarantine.left_over.most_common()),
            manifest=manifest,
            quarantined_rows=tuple(quarantine.rows),
        )


def _decoded(
    number: int, source: PairSource, decoder: Decoder, tally: _Tally, demonstrations: bool
) -> Iterator[_Window]:
    """Windows of pairs in order, each when its images are decoded; a few are on their way at any time."""
    waiting: deque[tuple[_Window, list[Task], Future[list[DecodeResult]]]] = deque()

    def finished() -> _Window:
        window, tasks, work = waiting.popleft()
        window.verdicts = decoder.result(tasks, work)
        return window

    for chunk in _chunks(source.candidates(tally.quarantine, demonstrations=demonstrations)):
        keys: list[_Key] = []
        tasks: list[Task] = []
        for place, candidate in enumerate(chunk):
            for key, ref in zip(_image_keys(number, place, candidate.pair), all_images(candidate.pair), strict=True):
                if source.images is None or key in tally.images or key in tally.pending:
                    continue
                if ref.path is not None:
                    tally.pending.add(key)
                keys.append(key)
                tasks.append(Task(number, ref))
        waiting.append((_Window(chunk, keys, []), tasks, decoder.submit(tasks)))
        if len(waiting) > 4 * decoder.workers:
            yield finished()
    while waiting:
        yield finished()


def _chunks(candidates: Iterator[Candidate]) -> Iterator[list[Candidate]]:
    chunk: list[Candidate] = []
    size = 0
    for candidate in candidates:
        chunk.append(candidate)
        size += sum(len(ref.data or b"") for ref in all_images(candidate.pair))
        if len(chunk) == _WINDOW or size >= _WINDOW_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _image_keys(number: int, place: int, pair: PreferencePair) -> list[_Key]:
    """What tells an image from others: its path, or for embedded bytes the pair's place in its window."""
    return [
        (number, f"path:{ref.path}" if ref.path is not None else f"data:{place}:{index}")
        for index, ref in enumerate(all_images(pair))
    ]


def _stops_first(row: QuarantinedRow) -> bool:
    """Sort key: one id that appears twice refuses the data, so those rows are the first to be named."""
    return row.reason != "duplicate_id"


def _longer_sides(sides: Counter[int]) -> dict[str, int]:
    if not sides:
        return {}
    ordered = sorted(sides.elements())
    return {"smallest": ordered[0], "median": ordered[len(ordered) // 2], "largest": ordered[-1]}
