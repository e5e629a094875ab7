"""How many rows say what to the loss: other images, weights, labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mmpref.records import AnswerWeight, PreferencePair


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """How many values there are, and from where to where they go."""

    count: int = 0
    lowest: float | None = None
    highest: float | None = None

    def describe(self) -> str:
        """``0.5 to 2``, or the one value."""
        if self.lowest is None or self.highest is None:
            return "none"
        return f"{self.lowest:g}" if self.lowest == self.highest else f"{self.lowest:g} to {self.highest:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFacts:
    """What some rows say to the loss."""

    with_images: int
    """Rows that show an image."""
    other_images: int
    """Rows with ``other_images``."""
    labelled: int
    """Single answers with a label."""
    desirable: int
    """Of these, those whose label is true."""
    weights: Range
    """Of rows whose ``weight`` is not 1."""
    weights_of_nothing: int
    """Rows whose ``weight`` is 0."""
    chosen_weights: Range
    """Rows with ``chosen_weight``, and its lowest and highest number."""
    rejected_weights: Range

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) for a table in the terminal; nothing of what no row says."""
        found = []
        if self.labelled:
            share = self.desirable / self.labelled
            desirable = f"{self.desirable:,} desirable ({share:.1%})"
            found.append(("single answers", f"{self.labelled:,} with a label, {desirable}"))
        if self.other_images:
            found.append(("other images", f"{self.other_images:,} of {self.with_images:,} rows with images"))
        if self.weights.count:
            found.append(("row weights", f"{self.weights.describe()} in {self.weights.count:,} rows, else 1"))
        for side, weights in (("chosen", self.chosen_weights), ("rejected", self.rejected_weights)):
            if weights.count:
                found.append((f"{side}_weight of tokens", f"{weights.describe()} in {weights.count:,} rows"))
        return found

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        found = []
        if self.labelled and self.desirable in (0, self.labelled):
            label = "true" if self.desirable else "false"
            found.append(
                f"the label of all {self.labelled:,} single answers is {label}: kto compares desirable with "
                "undesirable ones"
            )
        if 0 < self.other_images < self.with_images:
            found.append(
                f"{self.with_images - self.other_images:,} rows with images have no other_images, and others have: "
                "data.other_image=column refuses them"
            )
        if self.weights_of_nothing:
            found.append(f"{self.weights_of_nothing:,} rows have weight 0: they run, and nothing is learnt from them")
        return found


@dataclass(slots=True)
class LossTally:
    """Counts rows one by one."""

    with_images: int = 0
    other_images: int = 0
    labelled: int = 0
    desirable: int = 0
    weights: _Span = field(default_factory=lambda: _Span())
    weights_of_nothing: int = 0
    chosen: _Span = field(default_factory=lambda: _Span())
    rejected: _Span = field(default_factory=lambda: _Span())

    def add(self, pair: PreferencePair) -> None:
        """Count one row."""
        self.with_images += bool(pair.images)
        self.other_images += pair.other_images is not None
        if pair.rejected is None and pair.label is not None:
            self.labelled += 1
            self.desirable += pair.label
        if pair.weight != 1:
            self.weights.add(pair.weight)
            self.weights_of_nothing += pair.weight == 0
        self.chosen.add(pair.chosen_weight)
        self.rejected.add(pair.rejected_weight)

    def finish(self) -> LossFacts:
        """What all rows together say."""
        return LossFacts(
            with_images=self.with_images,
            other_images=self.other_images,
            labelled=self.labelled,
            desirable=self.desirable,
            weights=self.weights.range(),
            weights_of_nothing=self.weights_of_nothing,
            chosen_weights=self.chosen.range(),
            rejected_weights=self.rejected.range(),
        )


@dataclass(slots=True)
class _Span:
    count: int = 0
    lowest: float = math.inf
    highest: float = -math.inf

    def add(self, weight: AnswerWeight | None) -> None:
        if weight is None:
            return
        numbers = [span.weight for span in weight] if isinstance(weight, tuple) else [weight]
        self.count += 1
        self.lowest, self.highest = min(self.lowest, *numbers), max(self.highest, *numbers)

    def range(self) -> Range:
        return Range(count=self.count, lowest=self.lowest, highest=self.highest) if self.count else Range()
