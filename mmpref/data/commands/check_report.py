"""What a check found: its counts, and the rows and warnings that the terminal shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmpref.data.loss_facts import LossFacts
from mmpref.data.prompt_groups import PromptGroups
from mmpref.data.quarantine import QuarantinedRow, Skip

WORTH_A_LOOK = 0.005
"""Share of scored pairs that are inverted, above which the check says so: a column may be the wrong way round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What ``check`` found. ``used + quarantined == read``, always; they count pairs."""

    read: int
    used: int
    quarantined: int
    reasons: dict[str, int]
    bad: int
    """Rows in quarantine that count against the allowed share; a row that only contains no preference does not."""
    max_bad_fraction: float
    first_bad: tuple[str, ...]
    images: int
    """Different images of the pairs used; an embedded one counts each time."""
    image_bytes: int
    image_sides: dict[str, int]
    """Smallest, median and largest longer side, in pixels."""
    images_per_pair: dict[int, int]
    videos: int
    """Different video files of the pairs used; the frames of lists are images."""
    video_bytes: int
    video_frames: dict[str, int]
    """Smallest, median and largest number of frames that a model is shown of a video file, with the usual rule."""
    videos_per_pair: dict[int, int]
    """Empty where no pair has a video."""
    demonstrations: int
    scored: int
    scores: dict[str, float]
    """Lowest and highest score, and the counts ``inverted`` (chosen below rejected) and ``tied``."""
    repeat_prompt: int
    """Pairs used whose answers all begin with the whole question; the model would learn to repeat it."""
    loss: LossFacts
    """How many of the pairs used say what to the loss: other images, weights, labels."""
    prompts: PromptGroups
    """Which of the pairs used share a prompt or an answer, and where they do not agree."""
    sources: dict[str, int]
    """Pairs used, per ``source``."""
    left_over: dict[str, int]
    """Columns that nothing is read from -> rows that have them; they stay in ``meta``."""
    manifest: dict[str, Any]
    quarantined_rows: tuple[QuarantinedRow, ...]
    """In the order in which they were read."""

    @property
    def skip(self) -> Skip:
        """The quarantined pairs, as reading the same rows again wants them."""
        return {(row.file, row.row, row.id): row.reason for row in self.quarantined_rows}

    @property
    def bad_fraction(self) -> float:
        """Share of what was read that is bad."""
        return self.bad / self.read if self.read else 0.0

    def as_json(self) -> dict[str, Any]:
        """The content of ``data_report.json``."""
        content = asdict(replace(self, quarantined_rows=()))
        del content["quarantined_rows"]  # quarantine.jsonl has them
        return {**content, "bad_fraction": self.bad_fraction, "passed": self.fault is None}

    @property
    def fault(self) -> str | None:
        """Why training would refuse this data; None when it would not."""
        if twice := self.reasons.get("duplicate_id"):
            return f"{twice} of {self.read} rows have the id of an earlier row; every id must be unique"
        if not self.read:
            return "no usable row: there is no row to read"
        if not self.used:
            return "no usable row"
        if self.bad_fraction > self.max_bad_fraction:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
            return (
                f"{self.bad} of {self.read} rows cannot be used ({reasons}), more than the allowed share of "
                f"{self.max_bad_fraction:g}"
            )
        return None

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) for a table in the terminal."""
        facts = [
            ("read", f"{self.read:,}"),
            ("used", f"{self.used:,}"),
            ("quarantined", f"{self.quarantined:,}"),
            *((f"  {reason}", f"{count:,}") for reason, count in self.reasons.items()),
            ("images", f"{self.images:,} decoded, {self.image_bytes / 2**20:,.1f} MiB"),
        ]
        if self.image_sides:
            sides = self.image_sides
            facts.append(("longer side", f"{sides['smallest']} to {sides['largest']} pixels, median {sides['median']}"))
        facts.append(("pairs by images", _listed(self.images_per_pair)))
        if self.videos:
            facts.append(("videos", f"{self.videos:,} decoded, {self.video_bytes / 2**20:,.1f} MiB"))
            frames = self.video_frames
            shown = f"{frames['smallest']} to {frames['largest']} of a video, median {frames['median']}"
            facts.append(("frames shown", shown))
        if self.videos_per_pair:
            facts.append(("pairs by videos", _listed(self.videos_per_pair)))
        facts += self.prompts.rows()
        facts.append(("scored pairs", f"{self.scored:,}"))
        if self.scores:
            facts.append(("scores", f"{self.scores['lowest']:g} to {self.scores['highest']:g}"))
            facts.append(("inverted, tied", f"{self.scores['inverted']:,}, {self.scores['tied']:,}"))
        if self.demonstrations > self.loss.labelled:
            facts.append(("demonstrations", f"{self.demonstrations - self.loss.labelled:,}"))
        facts += self.loss.rows()
        facts += [
            ("not read, in meta" if not place else "", f"{name[:40]} ({count:,} rows)")
            for place, (name, count) in enumerate(self.left_over.items())
        ]
        return [*facts, ("manifest", str(self.manifest["hash"])[:16])]

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        found = []
        inverted = self.scores.get("inverted", 0)
        if inverted > WORTH_A_LOOK * self.scored:
            found.append(f"{inverted:,} of {self.scored:,} scored pairs have the higher score on the rejected answer")
        if self.repeat_prompt:
            found.append(
                f"the answers of {self.repeat_prompt:,} pairs begin with the whole question, which the model would "
                "learn to repeat: cut it off"
            )
        comparable = self.used - self.loss.labelled
        if 0 < self.scored < comparable:
            found.append(
                f"{comparable - self.scored:,} pairs have no scores, which Uni-DPO's quality weight does not take"
            )
        equal = [row for row in self.quarantined_rows if row.reason == "identical_pair"]
        if equal:
            named = ", ".join(repr(row.id) for row in equal[:5])
            one, more = len(equal) == 1, ", ..." if len(equal) > 5 else ""
            pairs = (
                "pair has the same text as both answers and is"
                if one
                else "pairs have one text as both answers and are"
            )
            found.append(f"{len(equal):,} {pairs} left out: {named}{more}")
        return found + self.loss.warnings() + self.prompts.warnings()


def _listed(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{number}: {count:,}" for number, count in counts.items())
