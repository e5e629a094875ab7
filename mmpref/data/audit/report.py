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
from typing import Any

from mmpref.data.audit.images import Images, ImageTally
from mmpref.data.audit.leaks import Leak, LeakFinder
from mmpref.data.audit.scores import Scores, ScoreTally
from mmpref.data.audit.text import Lengths, Repeats, Similarity, TextTally
from mmpref.data.images.loader import ImageLoader
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
    """Pairs in which a COCO id was found: the others can only be told by content."""
    num_val_names: int
    """Pairs with an image that is named as one of COCO's validation splits, which the benchmarks draw from."""
    pairs: Mapping[str, Mapping[str, int]]
    """Benchmark -> way of telling -> number of pairs. A pair may be told in several ways."""


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
    images: Images
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
        content["leaks"] = list(self.leaks)
        return content

    def rows(self) -> list[tuple[str, str]]:
        """(question, answer) for a table in the terminal; what was not asked or cannot be said is left out."""
        demonstrations = f", {self.num_demonstrations} of them demonstrations" if self.num_demonstrations else ""
        found = [("pairs", f"{self.num_pairs:,}{demonstrations}")]
        for part in (self.lengths, self.similarity, self.repeats, self.scores, self.images):
            found += part.rows()
        return found + self._leak_rows()

    def _leak_rows(self) -> list[tuple[str, str]]:
        told = self.leak_summary
        if not told.benchmarks and not self.found_leaks:
            return [("benchmark images", "not compared: no benchmark was named")]
        rows = [
            (
                "pairs with a COCO id",
                f"{told.num_with_coco_id:,} of {self.num_pairs:,}, compared with {', '.join(told.benchmarks) or '-'}",
            )
        ]
        for name in dict.fromkeys((*told.benchmarks, *told.pairs)):
            ways = ", ".join(f"{how} {count}" for how, count in told.pairs.get(name, {}).items())
            rows.append((f"pairs with an image of {name}", ways or "0"))
        rows.append(("pairs to drop", f"{len(self.leaks):,}"))
        return rows


def audit(
    pairs: Iterable[PreferencePair],
    *,
    images: ImageLoader | None,
    eta: float = 0.7,
    tau_good: float | None = None,
    score_scale: tuple[float, float] | None = None,
    benchmark_ids: Mapping[str, Collection[int]] | None = None,
    benchmark_images: Mapping[str, Path] | None = None,
    visual_genome: Mapping[int, int] | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> AuditReport:
    """Look at every pair once.

    Args:
        pairs: any number of pairs, none included.
        images: opens the images; without it they are told apart by path alone, and sizes and tokens are not known.
        eta: slope of w_qual = sigmoid(eta (S_w - S_l)).
        tau_good: least score of an answer that the NLL term of Uni-DPO may imitate; None leaves that question out.
        score_scale: (lowest, highest) possible score, from the data card.
        benchmark_ids: benchmark -> COCO ids of its images (``leaks.read_benchmark_ids``).
        benchmark_images: benchmark -> folder of its images, compared by content; needs ``images``.
        visual_genome: Visual Genome id -> COCO id (``leaks.read_visual_genome``).
        seed: decides which pairs are shown as examples.
        progress: called with the number of pairs done, after each.
    """
    if benchmark_images and images is None:
        raise DataError("benchmark images can only be compared when the pairs' images can be opened: set their root")
    finder = LeakFinder(ids=benchmark_ids, folders=benchmark_images, visual_genome=visual_genome)
    texts, scores = TextTally(seed=seed), ScoreTally()
    tally = ImageTally(images, finder)
    leaks: list[Leak] = []
    done = 0
    for done, pair in enumerate(pairs, start=1):
        seen = tally.add(pair)
        texts.add(pair, images=seen.keys)
        scores.add(pair)
        leaks += seen.leaks
        if progress is not None:
            progress(done)
    lengths, similarity, repeats = texts.lengths(), texts.similarity(), texts.repeats()
    judged = scores.finish(eta=eta, tau_good=tau_good, scale=score_scale, words=texts.word_differences())
    shown = tally.finish()
    summary = _summary(finder, tally, leaks)
    warnings = [line for part in (lengths, similarity, repeats, judged, shown) for line in part.warnings()]
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
    return AuditReport(
        num_pairs=done,
        num_demonstrations=texts.num_demonstrations,
        lengths=lengths,
        similarity=similarity,
        repeats=repeats,
        scores=judged,
        images=shown,
        leak_summary=summary,
        found_leaks=tuple(leaks),
        warnings=tuple(warnings),
    )


def drop_leaks(pairs: Iterable[PreferencePair], report: AuditReport) -> list[PreferencePair]:
    """The pairs that show no benchmark's image, in order."""
    leaks = set(report.leaks)
    return [pair for pair in pairs if pair.id not in leaks]


def _summary(finder: LeakFinder, tally: ImageTally, leaks: list[Leak]) -> LeakSummary:
    told: dict[str, dict[str, set[str]]] = {}
    for leak in leaks:
        told.setdefault(leak.benchmark, {}).setdefault(leak.how, set()).add(leak.pair_id)
    return LeakSummary(
        benchmarks=finder.benchmarks,
        benchmark_ids={name: len(numbers) for name, numbers in finder.ids.items()},
        benchmark_images=dict(finder.num_images),
        num_unreadable=finder.num_unreadable,
        num_with_coco_id=tally.num_with_coco_id,
        num_val_names=tally.num_val_names,
        pairs={name: {how: len(ids) for how, ids in ways.items()} for name, ways in told.items()},
    )
