"""The data card beside pairs that were made of candidates: what their scores mean to Uni-DPO, and what they lack.

``eta`` and ``tau_good`` follow the rules of ``mmpref data audit`` (:mod:`mmpref.data.audit.scores`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmpref.data.audit.scores import Scores
from mmpref.data.audit.stats import rank_correlation
from mmpref.sampling.length_balance import Floats, Places, PossiblePairs

CARD = "card.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBias:
    """How the lengths of the two sides differ, in words.

    Args:
        chosen: mean words of the chosen answers; None without pairs.
        rejected: the same of the rejected ones.
        longer: share of the pairs whose chosen answer is the longer one; equal lengths are in neither part.
        margin: mean difference of the scores.
        correlation: Spearman's, of the difference of the scores and that of the lengths.
        weighted: mean difference of the lengths, each pair with Uni-DPO's quality weight ``sigmoid(eta * margin)``;
            None without an eta. A set that is balanced by its pairs still leans to one side by their weights where the
            pairs of the highest margins do.
    """

    pairs: int
    chosen: float | None = None
    rejected: float | None = None
    longer: float | None = None
    margin: float | None = None
    correlation: float | None = None
    weighted: float | None = None

    @classmethod
    def of(cls, possible: PossiblePairs, kept: Places, eta: float | None = None) -> LengthBias:
        """Of some of the possible pairs."""
        if not kept.size:
            return cls(pairs=0)
        words = possible.words[kept]
        differing = int((words != 0).sum())
        return cls(
            pairs=int(kept.size),
            chosen=float(possible.chosen_words[kept].mean()),
            rejected=float(possible.rejected_words[kept].mean()),
            longer=float((words > 0).sum()) / differing if differing else None,
            margin=float(possible.margin[kept].mean()),
            correlation=rank_correlation(possible.margin[kept], words),
            weighted=None if eta is None else float(np.average(words, weights=weights_of(possible.margin[kept], eta))),
        )

    @property
    def difference(self) -> float:
        """Mean words of chosen minus mean words of rejected; 0 without pairs."""
        return 0.0 if self.chosen is None or self.rejected is None else self.chosen - self.rejected

    def as_json(self) -> dict[str, Any]:
        """For ``step.json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"difference": self.difference}

    def describe(self) -> str:
        """One line for people."""
        if self.chosen is None or self.rejected is None:
            return "no pairs"
        longer = (
            "all of equal length" if self.longer is None else f"chosen longer in {self.longer:.0%} of those that differ"
        )
        if self.weighted is not None:
            longer += f"; {self.weighted:+.1f} by quality weight"
        related = "" if self.correlation is None else f", rank correlation of score and length {self.correlation:+.2f}"
        words = f"{self.chosen:.1f} words chosen, {self.rejected:.1f} rejected ({self.difference:+.1f}; {longer})"
        return f"{words}{related}; {self.pairs:,} pairs, mean margin {self.margin:.3g}"


def weights_of(margin: Floats, eta: float) -> Floats:
    """Uni-DPO's quality weight of pairs: the sigmoid of eta times the margin. [pairs]"""
    weights: Floats = 1 / (1 + np.exp(-np.clip(eta * margin, -700, 700)))
    return weights


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the card says.

    Args:
        made_from: the scored candidates.
        scorers: names and versions of what gave the scores.
        range: declared for the scores; None where nobody did.
        images: how images come.
        scores: of the pairs, as an audit sees them.
        tau_good: quantile ``tau_quantile`` of the scores of the chosen answers.
        without: reason -> prompts that gave no pair.
        lengths: title -> lengths, of what was kept and of what would be without a balance.
        settings: of the step.
    """

    made_from: Path
    scorers: Sequence[str]
    range: tuple[float, float] | None
    images: Literal["none", "paths", "bytes"]
    image_root: Path | None
    scores: Scores
    tau_good: float
    tau_quantile: float
    without: Mapping[str, int]
    lengths: Mapping[str, LengthBias]
    settings: Mapping[str, Any]
    prompts: int
    prompts_used: int

    @property
    def eta(self) -> float | None:
        """The slope of Uni-DPO's quality weight that fits the range; None where all scores are equal."""
        return self.scores.proposed_eta


def card_text(facts: CardFacts) -> str:
    """The card as Markdown with front matter; :func:`mmpref.data.card.load_card` reads it."""
    pairs = facts.scores.num_pairs
    width = "" if facts.range is None else f" on {facts.range[0]:g}..{facts.range[1]:g}"
    share = f"quantile {facts.tau_quantile:g}" if facts.tau_quantile != 0.5 else "median"
    scores: dict[str, Any] = {
        "kind": f"{_said(', '.join(facts.scorers)) or 'not known'}{width}",
        "scale": None if facts.range is None else list(facts.range),
        "eta": facts.eta,
        "tau_good": facts.tau_good,
        "origin": f"computed from these pairs: eta = {facts.scores.rule_eta or 'none, all scores are equal'}; "
        f"tau_good = {share} of the scores of the chosen answers",
    }
    images: dict[str, Any] = {"kind": facts.images}
    if facts.images == "paths" and facts.image_root is not None:
        images["root"] = _said(str(facts.image_root))
    front: dict[str, Any] = {
        "name": Path(CARD).stem,
        "summary": "Pairs of answers that a model wrote itself, with scores",
        "source": _said(f"mmpref sample pair {shlex.quote(str(facts.made_from))}"),
        "revision": None,
        "license": "other",
        "commercial_use": "unclear",
        "size": {"pairs": pairs},
        "format": "canonical",
        "files": ["pairs.jsonl"],
        "fields": {},
        "images": images,
        "scores": {key: value for key, value in scores.items() if value is not None},
        "defects": {_said(reason): _prompts(count) for reason, count in facts.without.items()},
        "leaks": "not checked",
        "expected": {"pairs": {"read": pairs, "used": pairs, "quarantined": 0}},
        "sure": {"size": "measured", "scores": "measured", "expected": "measured"},
    }
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += ["# On-policy pairs", ""]
    lines += [
        f"{pairs:,} pairs of {facts.prompts_used:,} of {facts.prompts:,} prompts. The answers are a model's own; their "
        "licence follows from that of the model, of the prompts and of the images.",
        "",
        "## Lengths",
        "",
        *(f"- {title}: {found.describe()}" for title, found in facts.lengths.items()),
        "",
        "## Made with",
        "",
        *(f"- {name}: {value}" for name, value in facts.settings.items()),
    ]
    return "\n".join(lines) + "\n"


def next_command(pairs: Path, image_root: Path | None, eta: float | None, tau_good: float | None) -> str:
    """How to train Uni-DPO on the pairs; RECIPE is the only word to replace."""
    words = [f"data.train={json.dumps([str(pairs)], ensure_ascii=False)}"]
    words += [] if image_root is None else [f"data.root={_as_yaml(str(image_root))}"]
    words += [] if eta is None else [f"loss.uni.eta={eta!r}"]
    words += [] if tau_good is None else [f"loss.uni.tau_good={tau_good!r}"]
    return " ".join(["mmpref", "train", "RECIPE", *map(shlex.quote, words)])


def _as_yaml(text: str) -> str:
    """A path as it stands where nothing in it could be read as YAML."""
    is_plain = text.startswith("/") and all(letter.isalnum() or letter in "/._-+@ " for letter in text)
    return text if is_plain and text == text.strip() else json.dumps(text, ensure_ascii=False)


def _said(text: str) -> str:
    """A text without what no YAML may hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _prompts(count: int) -> str:
    return f"{count:,} prompt{'' if count == 1 else 's'} gave no pair"
