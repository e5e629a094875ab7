"""What a check says of a run, and the thresholds by which it says so. The thresholds are ours, from small models: they
point at what deserves a look, and prove nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "look", "bad", "unknown"]
SIGNS: Mapping[Status, str] = {"ok": "✓", "look": "▲", "bad": "✖", "unknown": "–"}
WORDS: Mapping[Status, str] = {"ok": "ok", "look": "look", "bad": "bad", "unknown": "not recorded"}

CHOSEN_FALL = (0.05, 0.3)
"""Nats a token that the chosen answers lost: look, bad; the second is also the alarm's of training."""
KL_PER_TOKEN = (0.1, 0.5)
LARGE_MARGIN = 20.0
"""As the alarm of training has it."""
NORM_PEAK = 10.0
"""The largest logged gradient norm, in medians."""
BALANCE = (2.0, 10.0)
"""By which factor one side may pull harder than the other."""
LENGTH_CORRELATION = (0.3, 0.6)
SAMPLE_GROWTH = 0.25
FEWEST_PAIRS = 64
LEFT_OUT = 0.05
LOST_SHARE = 0.05
"""Of rows in quarantine, and of pairs whose answers were cut."""
SWALLOWED = 0.2
LOSS_BACK = 0.1
"""How much of what the held-out loss had fallen it may give back."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says: ``reason`` is a sentence without a full stop."""

    status: Status
    reason: str

    @property
    def sign(self) -> str:
        """The status as a sign."""
        return SIGNS[self.status]

    @property
    def word(self) -> str:
        """The status as a word."""
        return WORDS[self.status]


def above(value: float, limits: tuple[float, float]) -> Status:
    """``look`` from the first limit on, ``bad`` from the second."""
    look, bad = limits
    return "bad" if value >= bad else "look" if value >= look else "ok"


def unknown(reason: str) -> Verdict:
    """Where a run has not what a check needs."""
    return Verdict("unknown", reason)


RULES: Mapping[str, str] = {
    "chosen answers": (
        f"mean change of their log-prob: look from {CHOSEN_FALL[0]} nats a token lost, bad from {CHOSEN_FALL[1]}. Both "
        "sides falling is likelihood displacement"
    ),
    "KL to the reference": (
        f"estimator k3 on answers that the policy sampled itself: look from {KL_PER_TOKEN[0]} nats a token, bad from "
        f"{KL_PER_TOKEN[1]}"
    ),
    "reward accuracy": "look where the 95 % interval includes one half, bad where it is below; ties count as wrong",
    "reward margin": (
        f"look where the 95 % interval includes zero, bad where it is below, or where the margin is {LARGE_MARGIN:.0f} "
        "or more (learned by heart)"
    ),
    "held-out loss": (
        f"look where it gave back more than {100 * LOSS_BACK:.0f} % of what it had fallen, bad where it ends above its "
        "beginning (only look where that is within the noise of the pairs)"
    ),
    "gradient norm": f"look where the largest is {NORM_PEAK:.0f} medians or more, bad where one is not finite",
    "gradient balance": (
        f"chosen beside rejected, the last quarter against the reference where logged: look beyond a factor of "
        f"{BALANCE[0]:.0f}, bad beyond {BALANCE[1]:.0f}"
    ),
    "length bias": (
        f"correlation of margin and length difference over held-out pairs ({FEWEST_PAIRS} or more): look from "
        f"{LENGTH_CORRELATION[0]}, bad from {LENGTH_CORRELATION[1]}; look where sampled answers became "
        f"{100 * SAMPLE_GROWTH:.0f} % longer or shorter"
    ),
    "alarms": "look at every one",
    "updates left out": f"look at any, bad from {100 * LEFT_OUT:.0f} % of the steps",
    "quarantine": f"look at any row, bad from {100 * LOST_SHARE:.0f} %",
    "cut answers": f"look at any pair, bad from {100 * LOST_SHARE:.0f} %",
    "rounded away": f"updates that half precision took back: bad from {100 * SWALLOWED:.0f} %",
    "end": "ok where the run is complete, bad where it failed",
}
"""Check -> by which rule it speaks, in the order of the page."""
