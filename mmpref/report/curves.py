"""Which training curves there are to draw: one panel per quantity, one line per run that logged it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mmpref.report.drift import change_in_line
from mmpref.report.figures.curves import Curve, curve_drawing, curve_figure
from mmpref.report.figures.drawing import Drawing
from mmpref.report.runs import Row, Run, number

MAX_POINTS = 120
Reader = Callable[[Row], float | None]


@dataclass(frozen=True, slots=True)
class _Quantity:
    key: str
    title: str
    y_label: str
    caption: str
    read: Reader
    y_range: tuple[float, float] | None = None
    rule_at: float | None = None
    group: str = ""  # quantities of one group share their y axis
    source: Literal["training", "held_out", "samples"] = "training"
    times_beta: bool = False


def curve_drawings(runs: Sequence[Run]) -> list[Drawing]:
    """Every quantity that at least one run logged at two steps or more, in a fixed order, all over the same steps."""
    found: list[tuple[_Quantity, tuple[Curve, ...]]] = []
    for quantity in _quantities():
        curves = [_curve(run, place, quantity) for place, run in enumerate(runs)]
        drawn = tuple(curve for curve in curves if curve is not None)
        if drawn:
            found.append((quantity, drawn))
    drawings = []
    for quantity, drawn in found:
        steps = [x for q, cs in found if (q.key == "sft_loss") == (quantity.key == "sft_loss") for c in cs for x in c.x]
        margin = 0.02 * (max(steps) - min(steps))
        shared = [y for q, cs in found if quantity.group and q.group == quantity.group for c in cs for y in c.y]
        key = f"curve-{quantity.key.replace('_', '-')}"
        svg = curve_figure(
            drawn,
            name=key,
            y_label=quantity.y_label,
            x_range=(min(steps) - margin, max(steps) + margin),
            y_range=quantity.y_range or (_padded(shared) if shared else None),
            rule_at=quantity.rule_at,
        )
        drawings.append(curve_drawing(drawn, svg, key=key, title=quantity.title, caption=quantity.caption))
    return drawings


def thinned(runs: Sequence[Run]) -> bool:
    """Whether some line has more points than are drawn."""
    return any(len(run.training_lines()) > MAX_POINTS for run in runs)


def _quantities() -> list[_Quantity]:
    answers = [
        _Quantity(
            f"logp_{side}",
            f"Log-prob, {side} answers",
            "change, nats per answer",
            f"Against the start model, where a reference was logged. {meaning}",
            lambda line, side=side: change_in_line(line, side),  # type: ignore[misc]
            rule_at=0.0,
            group="logp",
        )
        for side, meaning in (
            ("chosen", "Falling means that good answers too become less likely."),
            ("rejected", "Falling is what the losses ask for; far below the chosen side's is overshoot."),
        )
    ]
    pulled = "How hard the chosen side is pulled beside the rejected one, by probability."
    against = (
        "The same by probability over the reference's: 1 when training begins, and what AdaDPO with a reference keeps."
    )
    return [
        _Quantity("loss", "Preference loss", "loss", "Scales differ between losses: compare shapes.", _preference_loss),
        _Quantity("sft_loss", "Supervised loss", "loss", "Runs that train on one answer only.", _supervised_loss),
        _Quantity(
            "margin",
            "Reward margin",
            "chosen − rejected",
            "In each loss's own units.",
            _entry("rewards/margins"),
            rule_at=0.0,
        ),
        _Quantity(
            "accuracy",
            "Reward accuracy",
            "share of pairs",
            "Pairs whose chosen answer has the larger reward.",
            _entry("rewards/accuracies"),
            y_range=(0.0, 1.03),
            rule_at=0.5,
        ),
        *answers,
        _Quantity("grad", "Gradient ratio", "chosen / rejected", pulled, _entry("grad/ratio"), rule_at=1.0),
        _Quantity(
            "grad_ref",
            "Gradient ratio, against the reference",
            "chosen / rejected",
            against,
            _entry("grad/ratio_to_ref"),
            rule_at=1.0,
        ),
        _Quantity("w_qual", "Uni-DPO: quality weight", "mean", "From the judge's scores.", _entry("uni/w_qual")),
        _Quantity(
            "w_perf", "Uni-DPO: performance weight", "mean", "From how well the pair is fitted.", _entry("uni/w_perf")
        ),
        _Quantity(
            "nll", "Uni-DPO: calibrated NLL", "share of pairs", "Pairs with the extra term.", _entry("uni/nll_active")
        ),
        *(
            _Quantity(
                f"coef_{side}",
                f"AdaDPO: coefficient, {side}",
                "mean",
                "Chosen and rejected share their axis.",
                _entry(f"ada/coef_{side}"),
                rule_at=1.0,
                group="ada",
            )
            for side in ("chosen", "rejected")
        ),
        *_of_health(),
        *_of_images(),
        *_of_tokens_and_constants(),
    ]


def _of_health() -> list[_Quantity]:
    """Of the distance from the reference, the gradient, and the pairs that are held out."""
    sampled = "On answers to fixed prompts that the policy sampled itself (train.samples)."
    return [
        *(
            _Quantity(
                f"kl_{name}",
                f"KL to the reference, estimator {name}",
                "nats per answer",
                f"{sampled} {meaning}",
                _entry(f"samples/kl_{name}"),
                rule_at=0.0,
                group="sampled_kl",
                source="samples",
            )
            for name, meaning in (
                ("k1", "Mean log-ratio policy to reference: unbiased, and may be below 0."),
                ("k3", "Of each token's ratio r: r - 1 - log r, never below 0."),
            )
        ),
        _Quantity(
            "sample_len", "Length of sampled answers", "tokens", sampled, _entry("samples/len"), source="samples"
        ),
        _Quantity(
            "beta_margin",
            "beta x log-ratio margin",
            "chosen − rejected",
            "beta times the difference of the summed log-ratios to the reference: DPO's reward margin, whatever the "
            "loss makes of it.",
            _log_ratio_margin,
            rule_at=0.0,
            times_beta=True,
        ),
        _Quantity("grad_norm", "Gradient norm", "norm", "Before clipping, of one update a point.", _entry("grad_norm")),
        _Quantity(
            "held_loss",
            "Loss of held-out pairs",
            "loss",
            "One point an evaluation.",
            _entry("eval_loss"),
            source="held_out",
        ),
        _Quantity(
            "held_accuracy",
            "Reward accuracy of held-out pairs",
            "share of pairs",
            "One point an evaluation; before the first step all rewards are equal where there is a reference.",
            _entry("eval_rewards/accuracies"),
            y_range=(0.0, 1.03),
            rule_at=0.5,
            source="held_out",
        ),
    ]


def _log_ratio_margin(line: Row) -> float | None:
    chosen, rejected = change_in_line(line, "chosen"), change_in_line(line, "rejected")
    return None if chosen is None or rejected is None else chosen - rejected


def _of_images() -> list[_Quantity]:
    """Of losses that look at the chosen answer under another image."""
    lift = "Mean log-prob of the chosen answer under its image minus under the other one, nats a token."
    return [
        _Quantity(
            "image_margin",
            "Image term: margin",
            "its image − the other",
            "Of the chosen answer's reward. It also grows where that answer is unlearnt under both: see its log-prob.",
            _entry("image/margin"),
            rule_at=0.0,
        ),
        _Quantity("image_lift", "What the image is worth", "nats a token", lift, _entry("image/lift"), rule_at=0.0),
        _Quantity(
            "image_helps",
            "Pairs that the image helps",
            "share of pairs",
            "Chosen answers that are likelier under their image than under the other one.",
            _entry("image/helps"),
            y_range=(0.0, 1.03),
            rule_at=0.5,
        ),
        *(
            _Quantity(
                f"loss_{term}",
                f"Part of the loss: {name}",
                "loss",
                "As it is added, its weight included.",
                _entry(f"loss/{term}"),
            )
            for term, name in (("pair", "pair"), ("image", "image"), ("anchor", "anchors"), ("nll", "NLL"))
        ),
    ]


def _of_tokens_and_constants() -> list[_Quantity]:
    """Of token weights, anchors and losses of single answers."""
    return [
        _Quantity(
            "changed_share",
            "Tokens in which the answers differ",
            "share of tokens",
            "By the rule of loss.token_weights.",
            _entry("weights/changed_share"),
            y_range=(0.0, 1.03),
        ),
        _Quantity(
            "effective_len",
            "Effective length of an answer",
            "sum of weights",
            "What its tokens count together.",
            _entry("weights/effective_len"),
        ),
        _Quantity(
            "anchor_below",
            "Anchor: chosen answers below it",
            "share of pairs",
            "Chosen rewards below the anchor's shift.",
            _entry("anchor/below"),
            y_range=(0.0, 1.03),
        ),
        _Quantity(
            "anchor_shift",
            "Anchor: running shift",
            "reward",
            "Mean reward so far.",
            _entry("anchor/shift"),
            rule_at=0.0,
        ),
        _Quantity("kl", "KTO: estimate of the drift", "nats", "Of mismatched answers, at least 0.", _entry("kto/kl")),
        _Quantity(
            "desirable",
            "KTO: desirable answers",
            "share of answers",
            "Of those trained on.",
            _entry("kto/share_desirable"),
            y_range=(0.0, 1.03),
        ),
    ]


def _entry(name: str) -> Reader:
    """Reads one entry of a log line."""
    return lambda line: number(line.get(name))


def _is_preference(line: Row) -> bool:
    """Of pairs, or of single answers that are desirable or not."""
    return any(number(line.get(name)) is not None for name in ("rewards/margins", "kto/kl"))


def _preference_loss(line: Row) -> float | None:
    return number(line.get("loss")) if _is_preference(line) else None


def _supervised_loss(line: Row) -> float | None:
    return None if _is_preference(line) else number(line.get("loss"))


def _curve(run: Run, place: int, quantity: _Quantity) -> Curve | None:
    lines = {"training": run.training_lines, "held_out": run.eval_lines, "samples": lambda: run.log}[quantity.source]()
    points = [(float(line["step"]), quantity.read(line)) for line in lines]
    if quantity.times_beta:
        beta = number(run.recipe_value("loss.beta"))
        points = [(step, None if value is None or beta is None else beta * value) for step, value in points]
    known = sorted((step, value) for step, value in points if value is not None)
    if len({step for step, _ in known}) < (3 if quantity.source == "held_out" else 2):
        return None
    size = -(-len(known) // MAX_POINTS)  # points averaged into one, so that long runs stay small and readable
    parts = [known[start : start + size] for start in range(0, len(known), size)]
    x, y = ([sum(pair[side] for pair in part) / len(part) for part in parts] for side in (0, 1))
    return Curve(run.label, place, tuple(x), tuple(y))


def _padded(sample: Sequence[float]) -> tuple[float, float]:
    low, high = min(sample), max(sample)
    margin = 0.1 * (high - low) or 0.1
    return low - margin, high + margin
