"""Alarms while training: the ways in which preference training fails with a loss that looks right.

Each looks at the log lines and speaks once, after :data:`PATIENCE` lines in a row; updates that rounding swallows are
reported as soon as they were measured. They warn and stop nothing; what they say is also an event in ``metrics.jsonl``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from mmpref.training.trainer.log_lines import LogLines
from mmpref.training.trainer.pair_log import PairLog
from mmpref.training.trainer.swallowed import SWALLOWED

PATIENCE = 3
TOKEN_LOGP_FALL = 0.3
"""Nats a token, as the report's rule of a collapse has it."""
DEAD_WEIGHT = 0.01
"""A mean w_perf below this trains next to nothing."""
LARGE_MARGIN = 20.0
"""A reward margin whose gradient in a logistic loss is e^-20 of a new pair's."""
MOVED = 0.1
"""A change of a reward or a margin that counts; 0.1 of a margin is some 5 % of a new pair's logistic loss."""
SWALLOWED_SHARE = 0.2
"""Of updates that rounding takes back."""
LENGTH_CORRELATION = 0.6
LENGTH_WINDOW = 256
_FEWEST_PAIRS = 64

Event = Callable[[int, str, str], None]


class Alarms(LogLines):
    """Watches a run.

    Args:
        pairs: statistics of the pairs so far that are kept; the last of them show whether length is what is learned.
            Where a share is kept (``train.pair_log``) they reach further back, and where none is there is no such
            alarm.
        event: called once per alarm with (step, name, sentence).
    """

    def __init__(self, pairs: PairLog, event: Event) -> None:
        self._pairs = pairs
        self._event = event
        self._lines: dict[str, int] = {}
        self._raised: set[str] = set()
        self._first: dict[str, float] = {}
        self._began: dict[str, list[float]] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A resumed run has seen the lines before its checkpoint, and spoken about them."""
        for line in state.log_history:
            if "loss" in line:
                self._heed(line, int(line["step"]))

    def read(self, logs: Mapping[str, float], state: TrainerState) -> None:
        """Raise the alarms that a line sets off."""
        if SWALLOWED in logs:
            self._event(state.global_step, *_updates_swallowed(logs[SWALLOWED]))
        if "loss" not in logs:
            return
        for name, sentence in self._heed(logs, state.global_step).items():
            self._event(state.global_step, f"alarm/{name}", sentence)

    def _heed(self, logs: Mapping[str, float], step: int) -> dict[str, str]:
        """Count one line in; the alarms that it sets off, by name."""
        found = {}
        for name, sentence in self._look(logs, step).items():
            self._lines[name] = self._lines.get(name, 0) + 1 if sentence else 0
            if sentence and self._lines[name] >= PATIENCE and name not in self._raised:
                self._raised.add(name)
                found[name] = sentence
        return found

    def _look(self, logs: Mapping[str, float], step: int) -> dict[str, str | None]:
        return {
            "chosen_falls": self._chosen_falls(logs),
            "weights_vanish": _weights_vanish(logs),
            "margins_explode": _margins_explode(logs),
            "image_by_unlearning": self._image_by_unlearning(logs),
            "length_drift": self._length_drift(step),
        }

    def _chosen_falls(self, logs: Mapping[str, float]) -> str | None:
        # with token weights log-probs are weighted sums, and so is their length
        now, length = logs.get("logps/chosen"), logs.get("weights/effective_len", logs.get("len/chosen"))
        if now is None or not length or "kto/kl" in logs:  # single answers: the undesirable ones shall fall
            return None
        start = logs.get("ref_logps/chosen")
        if start is not None:
            fall, since = (start - now) / length, "below the reference's"
        else:
            fall, since = self._first.setdefault("chosen", now / length) - now / length, "lower than at the start"
        if fall < TOKEN_LOGP_FALL:
            return None
        return (
            f"the chosen answers' log-prob is {fall:.2f} nats a token {since}: the model unlearns both answers; lower "
            "train.learning_rate, or add loss.nll_weight or loss.uni.nll_lambda"
        )

    def _image_by_unlearning(self, logs: Mapping[str, float]) -> str | None:
        """An image term is lowered as well by making the chosen answer unlikely, as long as it falls more under the
        other image: nothing in it asks for more under the right one (arXiv 2406.11839 gives that to its anchor).
        """
        margin, reward = (self._since_beginning(logs, name) for name in ("image/margin", "rewards/chosen"))
        if margin is None or reward is None or margin < MOVED or reward > -MOVED:
            return None
        cures = []
        if "ref_logps/chosen" in logs:  # an anchor compares with the reference
            cures.append("raise loss.anchor.chosen" if "loss/anchor" in logs else "set loss.anchor.chosen=1")
        is_measured_only = logs.get("loss/image") == 0.0  # loss.image.weight 0: it is not the term that pulls
        if "ada/coef_chosen" not in logs and not is_measured_only:  # whose balance is of both gradients
            cures.append("set loss.image.detach=true")
        last = "set loss.nll_weight=1" if is_measured_only else "lower loss.image.weight"
        return (
            f"the image margin has grown by {margin:.2f} and the chosen reward has fallen by {-reward:.2f} since the "
            "first lines: the model does not learn from the image, it unlearns the chosen answer, only faster under "
            f"the other image; {', or '.join(cures) or last}"
        )

    def _since_beginning(self, logs: Mapping[str, float], name: str) -> float | None:
        """A value minus the mean of its first :data:`PATIENCE`; None as long as those are being collected."""
        value, first = logs.get(name), self._began.setdefault(name, [])
        if value is None:
            return None
        if len(first) < PATIENCE:
            first.append(value)
            return None
        return value - sum(first) / PATIENCE

    def _length_drift(self, step: int) -> str | None:
        columns = self._pairs.recent(LENGTH_WINDOW, ("rewards/margins", "len/chosen", "len/rejected"), step)
        rows = [row for row in zip(*columns, strict=True) if None not in row]
        if len(rows) < _FEWEST_PAIRS:
            return None
        found = correlation([row[0] for row in rows], [row[1] - row[2] for row in rows])
        if abs(found) < LENGTH_CORRELATION:
            return None
        direction = "longer" if found > 0 else "shorter"
        return (
            f"in the last {len(rows)} pairs the reward margin follows the difference in length (correlation "
            f"{found:+.2f}): {direction} is what is being learned; set loss.length_normalize=true, or look at the data "
            "with mmpref data audit"
        )


def _weights_vanish(logs: Mapping[str, float]) -> str | None:
    weight = logs.get("uni/w_perf")
    if weight is None or weight >= DEAD_WEIGHT:
        return None
    return (
        f"Uni-DPO's w_perf is {weight:.4f} on average: hardly any pair is trained on any more; lower loss.uni.gamma or "
        "raise loss.uni.tau_ref, or stop here"
    )


def _updates_swallowed(share: float) -> tuple[str, str]:
    """Name and sentence of what was measured; an alarm where it is much."""
    found = f"{share:.0%} of the updates of the first steps were rounded away: weights train in half precision"
    if share < SWALLOWED_SHARE:
        return SWALLOWED, found
    return f"alarm/{SWALLOWED}", (
        f"{found}, and these learn nothing; set model.dtype=float32 (or auto, which keeps only what trains in it) and "
        "train.bf16=true where the device has it"
    )


def _margins_explode(logs: Mapping[str, float]) -> str | None:
    margin = logs.get("rewards/margins")
    if margin is None or margin < LARGE_MARGIN:
        return None
    return (
        f"the reward margin is {margin:.1f} on average: the pairs are learned by heart; lower loss.beta, "
        "train.learning_rate or train.num_train_epochs"
    )


def correlation(first: list[float], second: list[float]) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    count = len(first)
    mean_a, mean_b = sum(first) / count, sum(second) / count
    a, b = [value - mean_a for value in first], [value - mean_b for value in second]
    scale = (sum(value * value for value in a) * sum(value * value for value in b)) ** 0.5
    return sum(x * y for x, y in zip(a, b, strict=True)) / scale if scale > 0 else 0.0
