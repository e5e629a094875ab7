"""One pass over the pairs, and everything that is found in it.

Of each pair a few numbers are kept, of each distinct image and prompt a hash, never the
texts, so a million pairs take some hundred megabytes. Images are read once each; they are decoded only where they are
compared with a benchmark's images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmpref.data.audit.images import Images, ImageTally
from mmpref.data.audit.leaks import Leak, LeakFinder
from mmpref.data.audit.scores import Scores, ScoreTally
from mmpref.data.audit.text import Lengths, Repeats, Similarity, TextTally
from mmpref.data.audit.videos import Videos, VideoTally
from mmpref.data.images.loader import ImageLoader
from mmpref.data.loss_facts import LossFacts, LossTally
from mmpref.data.videos.loader import VideoLoader
from mmpref.errors import DataError
from mmpref.records import PreferencePair


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakSummary:
    """How the pairs were compared with benchmarks, and what was found."""

    benchmarks: tuple[str, ...]
    """What the pairs were compared with; empty when nothing was named."""
    benchmark_ids: Mapping[str, int]
    """Benchmark -> number of its COCO ids."""
    benchmark_images: Mapping[str, int]
    """Benchmark -> number of its images that were compared by content."""
    num_unreadable: int
    """Images of the benchmarks that could not be opened and so were not compared."""
    num_with_coco_id: int
    """Pairs in which a COCO id was found: the others can only be compared by content."""
    num_val_names: int
    """Pairs with an image that is named as one of COCO's validation splits, which the benchmarks draw from."""
    pairs: Mapping[str, Mapping[str, int]]
    """Benchmark -> how its image was recognised -> number of pairs. A pair may be recognised in several ways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """Everything that was found. Shares are fractions in [0, 1]; intervals are at 95 %."""

    num_pairs: int
    num_demonstrations: int
    """Rows without a rejected answer; they take no part in comparisons."""
    lengths: Lengths
    similarity: Similarity
    repeats: Repeats
    scores: Scores
    loss: LossFacts
    """How many rows say what to the loss: other images, weights, labels."""
    images: Images
    videos: Videos
    leak_summary: LeakSummary
    found_leaks: tuple[Leak, ...]
    """Every leak, pair by pair."""
    warnings: tuple[str, ...]
    """What the user should look at, in sentences."""

    @property
    def leaks(self) -> tuple[str, ...]:
        """Ids of the pairs that show a benchmark's image."""
        return tuple(dict.fromkeys(leak.pair_id for leak in self.found_leaks))

    def as_json(self) -> dict[str, Any]:
        """The report as plain values, ready for ``json``."""
        content = dataclasses.asdict(self)
        images, summary = content["images"], content["leak_summary"]
        images["tokens"] = {family: _as_written(tokens) for family, tokens in images["tokens"].items()}
        content |= {"images": _as_written(images), "leak_summary": _as_written(summary), "leaks": list(self.leaks)}
        return content

    def rows(self) -> list[tuple[str, str]]:
        """(question, answer) for a table in the terminal; what was not asked or cannot be said is left out."""
        unlabelled = self.num_demonstrations - self.loss.labelled
        demonstrations = f", {unlabelled} of them demonstrations" if unlabelled else ""
        found = [("pairs", f"{self.num_pairs:,}{demonstrations}")]
        for part in (self.lengths, self.similarity, self.repeats, self.scores, self.loss, self.images, self.videos):
            found += part.rows()
        return found + self._leak_rows()

    def _leak_rows(self) -> list[tuple[str, str]]:
        summary = self.leak_summary
        if not summary.benchmarks and not self.found_leaks:
            return [("benchmark images", "not compared: no benchmark was named")]
        rows = [
            (
                "pairs with a COCO id",
                f"{summary.num_with_coco_id:,} of {self.num_pairs:,}, compared with "
                f"{', '.join(summary.benchmarks) or '-'}",
            )
        ]
        for name in dict.fromkeys((*summary.benchmarks, *summary.pairs)):
            ways = ", ".join(f"{how} {count}" for how, count in summary.pairs.get(name, {}).items())
            rows.append((f"pairs with an image of {name}", ways or "0"))
        rows.append(("pairs to drop", f"{len(self.leaks):,}"))
        return rows


_WRITTEN_AS: Mapping[str, str] = MappingProxyType(
    {
        "per_image": "per_picture",
        "rows_per_image": "rows_per_picture",
        "benchmark_images": "benchmark_pictures",
    }
)
"""Attribute -> its key in the written report, where that is another one: files of before are read by their keys."""


def _as_written(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_WRITTEN_AS.get(name, name): value for name, value in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """The constants of the questions, and the benchmarks that the images are compared with."""

    eta: float = 0.7
    """Slope of w_qual = sigmoid(eta (S_w - S_l))."""
    tau_good: float | None = None
    """Least score of an answer that the NLL term of Uni-DPO may imitate; None leaves that question out."""
    score_scale: tuple[float, float] | None = None
    """(Lowest, highest) possible score, from the data card."""
    benchmark_ids: Mapping[str, Collection[int]] | None = None
    """Benchmark -> COCO ids of its images (``leaks.read_benchmark_ids``)."""
    benchmark_images: Mapping[str, Path] | None = None
    """Benchmark -> folder of its images, compared by content."""
    visual_genome: Mapping[int, int] | None = None
    """Visual Genome id -> COCO id (``leaks.read_visual_genome``)."""
    seed: int = 0
    """Decides which pairs are shown as examples."""


DEFAULT_SETTINGS = AuditSettings()


def audit(
    pairs: Iterable[PreferencePair],
    *,
    images: ImageLoader | None,
    videos: VideoLoader | None = None,
    settings: AuditSettings = DEFAULT_SETTINGS,
    progress: Callable[[int], None] | None = None,
) -> AuditReport:
    """Look at every pair once.

    Args:
        pairs: any number of pairs, none included.
        images: opens the images; without it they are distinguished by path alone, and sizes and tokens are not known.
        videos: likewise opens the videos; frames that are images are looked at by it too.
        settings: constants, and the benchmarks to compare with.
        progress: called with the number of pairs done, after each.

    Raises:
        DataError: benchmark images are to be compared and ``images`` is None; a folder of them without an image.
    """
    if settings.benchmark_images and images is None:
        raise DataError("benchmark images can only be compared when the pairs' images can be opened: set their root")
    finder = LeakFinder(
        ids=settings.benchmark_ids, folders=settings.benchmark_images, visual_genome=settings.visual_genome
    )
    texts, scores, loss = TextTally(seed=settings.seed), ScoreTally(), LossTally()
    tally, video_tally = ImageTally(images, finder), VideoTally(videos)
    leaks: list[Leak] = []
    done = 0
    for done, pair in enumerate(pairs, start=1):
        seen = tally.add(pair)
        texts.add(pair, images=(*seen.keys, *video_tally.add(pair)))
        scores.add(pair)
        loss.add(pair)
        leaks += seen.leaks
        if progress is not None:
            progress(done)
    lengths, similarity, repeats = texts.lengths(), texts.similarity(), texts.repeats()
    scored = scores.finish(
        eta=settings.eta, tau_good=settings.tau_good, scale=settings.score_scale, words=texts.word_differences()
    )
    shown, filmed, said = tally.finish(), video_tally.finish(), loss.finish()
    summary = _summary(finder, tally, leaks)
    parts = (lengths, similarity, repeats, scored, said, shown, filmed)
    warnings = [line for part in parts for line in part.warnings()]
    warnings += _leak_warnings(summary, leaks)
    return AuditReport(
        num_pairs=done,
        num_demonstrations=texts.num_demonstrations,
        lengths=lengths,
        similarity=similarity,
        repeats=repeats,
        scores=scored,
        loss=said,
        images=shown,
        videos=filmed,
        leak_summary=summary,
        found_leaks=tuple(leaks),
        warnings=tuple(warnings),
    )


def _leak_warnings(summary: LeakSummary, leaks: list[Leak]) -> list[str]:
    warnings = []
    if leaks:
        number = len({leak.pair_id for leak in leaks})
        names = ", ".join(summary.pairs)
        warnings.append(f"{number:,} pairs show images of {names}: drop them before reporting those benchmarks")
    if summary.num_unreadable:
        warnings.append(f"{summary.num_unreadable:,} benchmark images could not be opened and were not compared")
    if summary.num_val_names and not summary.benchmarks:
        warnings.append(
            f"{summary.num_val_names:,} pairs name images of COCO's validation splits, which POPE, CHAIR and Object "
            "HalBench draw from; name those benchmarks to compare ids"
        )
    return warnings


def _summary(finder: LeakFinder, tally: ImageTally, leaks: list[Leak]) -> LeakSummary:
    found: dict[str, dict[str, set[str]]] = {}
    for leak in leaks:
        found.setdefault(leak.benchmark, {}).setdefault(leak.how, set()).add(leak.pair_id)
    return LeakSummary(
        benchmarks=finder.benchmarks,
        benchmark_ids={name: len(numbers) for name, numbers in finder.ids.items()},
        benchmark_images=dict(finder.num_images),
        num_unreadable=finder.num_unreadable,
        num_with_coco_id=tally.num_with_coco_id,
        num_val_names=tally.num_val_names,
        pairs={name: {how: len(ids) for how, ids in ways.items()} for name, ways in found.items()},
    )
