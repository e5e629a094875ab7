"""Golden tables of every loss: values and gradients of a few pairs, from the formulas alone.

    python scripts/golden_losses.py [--out tests/unit/losses/golden]

Plain Python floats, no torch, no mmpref: the formulas are written out here a second time, with derivatives carried by
dual numbers, so that the tests compare two independent derivations. One JSON file per base.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALIBRATION = {"eta": 0.7, "tau_ref": 2.0, "gamma": 3.0, "nll_lambda": 0.3, "tau_good": 2.5}
# every key written out: what a default is must not come from the code under test
BALANCE = {"share": 1.0, "form": "power", "granularity": "token", "length_power": 1.0, "alpha_w": 1.0, "alpha_l": 1.0,
           "target_ratio": 1.0, "clip": 2.0, "clip_mode": "ceiling"}  # fmt: skip
EVEN = {"share": 0.5, "clip": 10.0, "clip_mode": "both", "use_reference": False}


@dataclass(frozen=True)
class Dual:
    """A number and its derivatives with respect to the two log-prob sums of a pair."""

    value: float
    dw: float = 0.0
    dr: float = 0.0

    def __add__(self, other: Any) -> Dual:
        o = lift(other)
        return Dual(self.value + o.value, self.dw + o.dw, self.dr + o.dr)

    def __mul__(self, other: Any) -> Dual:
        o = lift(other)
        return Dual(self.value * o.value, self.dw * o.value + self.value * o.dw, self.dr * o.value + self.value * o.dr)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Dual:
        return self * -1.0

    def __sub__(self, other: Any) -> Dual:
        return self + -lift(other)

    def __rsub__(self, other: Any) -> Dual:
        return lift(other) - self

    def __truediv__(self, other: float) -> Dual:
        return self * (1.0 / other)

    def apply(self, value: float, derivative: float) -> Dual:
        return Dual(value, derivative * self.dw, derivative * self.dr)


def lift(x: Any) -> Dual:
    return x if isinstance(x, Dual) else Dual(float(x))


def stop(x: Dual) -> float:
    """A stop-gradient: the number without its derivatives."""
    return x.value


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def neg_log_sigmoid(x: Dual) -> Dual:
    return x.apply(softplus(-x.value), -sigmoid(-x.value))


def log_odds(u: Dual) -> Dual:
    p = math.exp(u.value)
    return u.apply(u.value - math.log(1.0 - p), 1.0 / (1.0 - p))


def link(config: dict[str, Any], m: Dual) -> Dual:
    base, e = config["base"], float(config.get("label_smoothing", 0.0))
    if base == "hinge":
        return m.apply(max(0.0, 1.0 - m.value), -1.0 if m.value < 1.0 else 0.0)
    if base == "ipo":
        return m * m
    if base == "orpo":
        return float(config["beta"]) * neg_log_sigmoid(m)
    if base == "robust":
        return ((1.0 - e) * neg_log_sigmoid(m) - e * neg_log_sigmoid(-m)) / (1.0 - 2.0 * e)
    return (1.0 - e) * neg_log_sigmoid(m) + e * neg_log_sigmoid(-m)


def coefficients(config: dict[str, Any], kind: str, row: dict[str, float]) -> tuple[float, float]:
    """(c_w, c_l) of AdaDPO; 1 and 1 without it."""
    ada = config.get("ada")
    if not ada:
        return 1.0, 1.0
    v = {}
    for side in ("w", "l"):
        n = row[f"n_{side}"]
        total = row[f"l_{side}"] - (row[f"rl_{side}"] if ada["use_reference"] else 0.0)
        u = total / n
        if kind == "odds":
            v[side] = u + math.log(1.0 - math.exp(u))
        elif ada["granularity"] == "token":
            v[side] = u
        elif ada["granularity"] == "geomean":
            v[side] = u if kind == "mean" else u - math.log(n)
        elif ada["granularity"] == "sequence":
            v[side] = total + (math.log(n) if kind == "mean" else 0.0)
        else:
            a = ada["length_power"]
            v[side] = total / math.pow(n, a) + ((1.0 - a) * math.log(n) if kind == "mean" else 0.0)
    log_kr = ada["alpha_w"] * v["w"] - ada["alpha_l"] * v["l"] + math.log(ada["target_ratio"])
    if ada["clip"] is not None:
        log_kr = min(math.log(ada["clip"]), log_kr)
        if ada["clip_mode"] == "both":
            log_kr = max(-math.log(ada["clip"]), log_kr)
    if ada["form"] == "sum":
        return 2.0 * sigmoid(log_kr), 2.0 * sigmoid(-log_kr)
    return math.exp(ada["share"] * log_kr), math.exp((ada["share"] - 1.0) * log_kr)


def pair_loss(config: dict[str, Any], row: dict[str, float]) -> tuple[Dual, dict[str, float]]:
    base, beta = config["base"], float(config["beta"])
    l_w, l_l = Dual(row["l_w"], dw=1.0), Dual(row["l_l"], dr=1.0)
    u_w, u_l = l_w / row["n_w"], l_l / row["n_l"]
    kind = "odds" if base == "orpo" else "mean" if config["length_normalize"] else "sum"
    if base == "orpo":
        s_w, s_l = log_odds(u_w), log_odds(u_l)
    elif base in ("simpo", "cpo"):
        s_w, s_l = (u_w, u_l) if kind == "mean" else (l_w, l_l)
    else:
        h_w, h_l = l_w - row["rl_w"], l_l - row["rl_l"]
        s_w, s_l = (h_w / row["n_w"], h_l / row["n_l"]) if kind == "mean" else (h_w, h_l)

    c_w, c_l = coefficients(config, kind, row)
    keeps_value = base in ("simpo", "cpo", "orpo")

    def balanced(s: Dual, c: float) -> Dual:
        return Dual(s.value, c * s.dw, c * s.dr) if keeps_value else c * s

    def margin(one: Dual, two: Dual) -> Dual:
        diff = one - two
        if base == "ipo":
            return diff - 1.0 / (2.0 * beta)
        if base == "orpo":
            return diff
        if base == "simpo":
            return beta * (diff - float(config["gamma_beta_ratio"]))
        if base == "rdpo":
            return beta * diff + float(config["length_weight"]) * (row["n_w"] - row["n_l"])
        return beta * diff

    scaled = margin(balanced(s_w, c_w), balanced(s_l, c_l))
    pair = link(config, scaled)
    stats = {"rewards/margins": beta * (s_w.value - s_l.value)}
    if config.get("ada"):
        stats |= {"ada/coef_chosen": c_w, "ada/coef_rejected": c_l, "ada/margin": scaled.value}
    if uni := config.get("uni"):
        w_qual = sigmoid(uni["eta"] * (row["s_w"] - row["s_l"]))
        # one reduction serves all terms: sums where the scores are sums
        y_w, y_l = (l_w, l_l) if kind == "sum" else (u_w, u_l)
        z = beta * y_w - beta * y_l - uni["tau_ref"]
        if config.get("ada"):  # balance_perf: the value of z, the gradient scaled
            k_w, k_l = coefficients(config, "sum" if kind == "sum" else "mean", row)
            z = Dual(z.value, beta * k_w * y_w.dw, -beta * k_l * y_l.dr)
        focus = uni["gamma"] * -neg_log_sigmoid(-z)
        w_perf = focus.apply(math.exp(focus.value), math.exp(focus.value))
        pair = w_qual * (w_perf * pair)
        active = 0.0
        if uni["nll_lambda"] and row["rl_w"] / row["n_w"] > stop(u_w) and row["s_w"] >= uni["tau_good"]:
            active = 1.0
        pair = pair - uni["nll_lambda"] * active * y_w
        stats |= {"uni/w_qual": w_qual, "uni/w_perf": w_perf.value, "uni/nll_active": active}
    if base == "cpo":
        pair = pair - config["nll_weight"] * u_w
    if base == "orpo":
        pair = pair - u_w
    return pair, stats


def rows() -> list[dict[str, float]]:
    """Pairs as they come: answers of 1 to 200 tokens, likely and unlikely, the policy above and below the reference."""
    draw = random.Random(20240607)
    table = []
    for i in range(10):
        n_w, n_l = draw.randint(1, 200), draw.randint(1, 200)
        u_w, u_l = -draw.uniform(0.02, 2.5), -draw.uniform(0.02, 2.5)
        ru_w, ru_l = u_w + draw.gauss(0.0, 0.05), u_l + draw.gauss(0.0, 0.05)
        s_w, s_l = float(draw.randint(1, 5)), float(draw.randint(1, 5))
        if i == 0:  # a fresh policy: equal to its reference, and a tie of the scores
            ru_w, ru_l, s_w, s_l = u_w, u_l, 2.5, 2.5
        table.append({"l_w": u_w * n_w, "l_l": u_l * n_l, "n_w": n_w, "n_l": n_l, "rl_w": ru_w * n_w,
                      "rl_l": ru_l * n_l, "s_w": s_w, "s_l": s_l})  # fmt: skip
    return table


def configs() -> dict[str, list[dict[str, Any]]]:
    """Every base alone, weighted, balanced in each way, and both together."""
    bases: dict[str, dict[str, Any]] = {
        "dpo": {"beta": 0.1, "length_normalize": False},
        "robust": {"beta": 0.1, "length_normalize": False, "label_smoothing": 0.15},
        "hinge": {"beta": 0.5, "length_normalize": False},
        "ipo": {"beta": 0.4, "length_normalize": True},
        "rdpo": {"beta": 0.1, "length_normalize": False, "length_weight": 0.02},
        "simpo": {"beta": 2.0, "length_normalize": True, "gamma_beta_ratio": 0.4},
        "cpo": {"beta": 0.1, "length_normalize": False, "nll_weight": 0.7},
        "orpo": {"beta": 0.3, "length_normalize": True},
    }
    out: dict[str, list[dict[str, Any]]] = {}
    for name, keys in bases.items():
        plain = {"base": name, **keys}
        per_token = {**plain, "length_normalize": True}
        has_reference = name in ("dpo", "hinge", "ipo", "robust", "rdpo")
        paper = {**BALANCE, "use_reference": has_reference}
        even = {**BALANCE, **EVEN}
        table = [plain, {**plain, "ada": paper}, {**plain, "ada": even}, {**per_token, "uni": CALIBRATION}]
        table.append({**per_token, "uni": {**CALIBRATION, "nll_lambda": 0.0}, "ada": {**even, "clip": None}})
        table.append({**per_token, "uni": {**CALIBRATION, "nll_lambda": 0.0}, "ada": paper})
        if name in ("dpo", "simpo", "rdpo", "cpo"):
            table += [{**plain, "label_smoothing": 0.1}, {**plain, "label_smoothing": 0.1, "ada": paper}]
        for change in (
            {"share": 1.0},
            {"share": 0.0, "clip": None},
            {"share": 0.3, "clip": 1.5, "clip_mode": "ceiling"},
            {"form": "sum"},
            {"form": "sum", "target_ratio": 0.6, "clip_mode": "ceiling"},
            {"target_ratio": 1.8, "share": 1.0, "clip": 4.0},
            {"alpha_w": 0.5, "alpha_l": 0.7, "share": 1.0},
            {"granularity": "geomean", "clip": 3.0},
        ):
            table.append({**plain, "ada": {**even, **change}})
        if name != "orpo":
            table.append({**plain, "ada": {**even, "granularity": "power", "length_power": 0.6}})
            table.append({**per_token, "ada": {**even, "granularity": "power", "length_power": 0.3, "share": 1.0}})
            sums = {**plain, "beta": 0.02, "length_normalize": False}
            calibration = CALIBRATION if has_reference else {**CALIBRATION, "nll_lambda": 0.0}
            table += [{**sums, "uni": calibration}, {**sums, "uni": calibration, "ada": paper}]
        if has_reference:
            table += [per_token, {**plain, "ada": {**even, "use_reference": True}}]
            table.append({**per_token, "ada": {**paper, "clip": None}})
            table.append({**per_token, "ada": {**even, "granularity": "sequence", "use_reference": True}})
            table.append({**per_token, "ada": {**even, "use_reference": True, "granularity": "geomean"}})
            table.append({**plain, "ada": {**paper, "granularity": "power", "length_power": 0.5}})
        out[name] = table
    return out


def table(config: dict[str, Any], pairs: list[dict[str, float]]) -> dict[str, Any]:
    losses = [pair_loss(config, row) for row in pairs]
    return {
        "loss": config,
        "per_pair": [loss.value for loss, _ in losses],
        "grad_chosen": [loss.dw for loss, _ in losses],
        "grad_rejected": [loss.dr for loss, _ in losses],
        "stats": {name: [stats[name] for _, stats in losses] for name in losses[0][1]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tests/unit/losses/golden")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    pairs = rows()
    for name, settings in configs().items():
        content = {"pairs": pairs, "tables": [table(config, pairs) for config in settings]}
        path = out / f"{name}.json"
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"{path}: {len(settings)} tables of {len(pairs)} pairs")


if __name__ == "__main__":
    main()
