"""``mmpref data audit``: its settings from options and a data card, and the file of pairs without leaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmpref.data.audit import AuditReport, AuditSettings, audit
from mmpref.data.audit.leaks import read_benchmark_ids, read_visual_genome
from mmpref.data.card import CardScores
from mmpref.data.pair_source import PairSource, all_files
from mmpref.data.pair_writing import write_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.errors import ConfigError
from mmpref.files.reading import without_links
from mmpref.records import PreferencePair


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """What an audit is asked for beside the source; None is what the data card says, or the usual value."""

    eta: float | None = None
    """Slope of w_qual; without a card 0.7."""
    tau_good: float | None = None
    """Score from which an answer may be imitated by Uni-DPO's NLL term."""
    benchmark_ids: Mapping[str, Path] = field(default_factory=dict)
    """Benchmark -> file of its questions."""
    benchmark_images: Mapping[str, Path] = field(default_factory=dict)
    """Benchmark -> folder of its images."""
    visual_genome: Path | None = None
    """Visual Genome's ``image_data.json``."""
    open_images: bool = True

    def __post_init__(self) -> None:
        if self.eta is not None and not 0 < self.eta < math.inf:
            raise ConfigError(f"--eta must be a number above 0, got {self.eta}")
        if self.tau_good is not None and not math.isfinite(self.tau_good):
            raise ConfigError(f"--tau-good must be a finite number, got {self.tau_good}")

    def settings(self, scores: CardScores | None) -> AuditSettings:
        """The settings of the audit, with the files of benchmarks read.

        Args:
            scores: of the data card, if there is one.

        Raises:
            DataError: a file of questions that cannot be read, or names no COCO image.
        """
        eta = self.eta if self.eta is not None else (None if scores is None else scores.eta)
        ids: dict[str, Collection[int]] = {name: read_benchmark_ids(path) for name, path in self.benchmark_ids.items()}
        return AuditSettings(
            eta=0.7 if eta is None else eta,
            tau_good=self.tau_good if self.tau_good is not None or scores is None else scores.tau_good,
            score_scale=None if scores is None else scores.scale,
            benchmark_ids=ids,
            benchmark_images=self.benchmark_images,
            visual_genome=None if self.visual_genome is None else read_visual_genome(self.visual_genome),
        )


def audit_source(
    source: PairSource,
    request: AuditRequest,
    scores: CardScores | None,
    progress: Callable[[int], None] | None = None,
) -> tuple[AuditReport, Quarantine]:
    """The audit of one source, and the rows that could not be audited."""
    quarantine = Quarantine()
    unopened = replace(
        source, images=None, videos=None
    )  # an image that cannot be opened is a finding, and no reason to stop
    report = audit(
        (found.pair for found in unopened.pairs(quarantine, demonstrations="all")),
        images=source.images if request.open_images else None,
        videos=source.videos if request.open_images else None,
        settings=request.settings(scores),
        progress=progress,
    )
    return report, quarantine


def write_without_leaks(source: PairSource, report: AuditReport, out: Path) -> list[str]:
    """Write the pairs that show no benchmark's image as canonical JSONL; what was written, in lines.

    Raises:
        DataError: a pair that JSON cannot hold.
        CheckpointError: the file cannot be written.
    """
    leaks = set(report.leaks)
    num_left_out = num_written = 0
    with_paths = False

    def without_leaks() -> Iterator[PreferencePair]:
        nonlocal num_left_out, num_written, with_paths
        for found in source.candidates(Quarantine(), demonstrations="all"):
            is_leak = found.pair.id in leaks
            num_left_out, num_written = num_left_out + is_leak, num_written + (not is_leak)
            if not is_leak:
                with_paths = with_paths or any(ref.path is not None for ref in all_files(found.pair))
                yield found.pair

    write_pairs(out, without_leaks())
    lines = [f"wrote {out}: {num_written:,} pairs, {num_left_out:,} leaks left out"]
    start = None if source.images is None else source.images.root
    if with_paths and start is not None and start != without_links(out.parent):
        lines.append(f"image paths start from {start}; say so where the file is read: data.root={start}")
    return lines
