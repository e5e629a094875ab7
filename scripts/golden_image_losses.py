"""Golden tables of the losses that look at the image, at single rewards, weighted tokens or single answers.

    python scripts/golden_image_losses.py [--out tests/unit/losses/golden_image]

Plain Python floats, no torch, no mmpref: the formulas are written out here a second time, with derivatives carried by
dual numbers over the three log-prob sums of a pair (chosen, rejected, chosen under another image). One JSON file per
base.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDES = "wlo"
WEIGHTS = {"eta": 0.7, "tau_ref": 0.5, "gamma": 2.0, "nll_lambda": 0.3, "tau_good": 2.5}
PAPER = {"share": 1.0, "form": "power", "granularity": "token", "length_power": 1.0, "alpha_w": 1.0, "alpha_l": 1.0,
         "target_ratio": 1.0, "clip": 2.0, "clip_mode": "ceiling"}  # fmt: skip
EVEN = {**PAPER, "share": 0.5, "clip": 10.0, "clip_mode": "both", "use_reference": False}
IMAGE = {"weight": 1.0, "beta": None, "combine": "own", "detach": False, "uni": "none"}
ANCHOR = {"chosen": 0.0, "rejected": 0.0, "other": 0.0, "beta": None, "delta": 0.0}
WITH_REFERENCE = ("dpo", "robust", "hinge", "ipo", "rdpo")
# what the presets mean, as their sources have it
PRESETS: dict[str, dict[str, Any]] = {
    "mdpo": {"base": "dpo", "beta": 0.1, "length_normalize": False, "image": IMAGE,
             "anchor": {**ANCHOR, "chosen": 1.0}},
    "chip": {"base": "dpo", "beta": 0.1, "length_normalize": False, "image": {**IMAGE, "combine": "joint"}},
    "ddpo": {"base": "dpo", "beta": 0.1, "length_normalize": False},
    "ddpo_masked": {"base": "dpo", "beta": 0.1, "length_normalize": False},
    "hsa": {"base": "dpo", "beta": 0.1, "length_normalize": False},
    "mpo": {"base": "dpo", "beta": 0.1, "length_normalize": False, "pair_weight": 0.8, "nll_weight": 1.0,
            "anchor": {**ANCHOR, "chosen": 0.2, "rejected": 0.2, "delta": "running"}},
    "kto": {"base": "kto", "beta": 0.1, "length_normalize": False,
            "kto": {"desirable_weight": 1.0, "undesirable_weight": 1.0}},
}  # fmt: skip


@dataclass(frozen=True)
class Dual:
    """A number and its derivatives with respect to l_w, l_l and l_o."""

    value: float
    d: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def apply(self, value: float, slope: float) -> Dual:
        return Dual(value, (slope * self.d[0], slope * self.d[1], slope * self.d[2]))

    def __add__(self, other: Any) -> Dual:
        o = lift(other)
        return Dual(self.value + o.value, (self.d[0] + o.d[0], self.d[1] + o.d[1], self.d[2] + o.d[2]))

    def __mul__(self, other: Any) -> Dual:
        o = lift(other)
        one, two = self.apply(0.0, o.value).d, o.apply(0.0, self.value).d
        return Dual(self.value * o.value, (one[0] + two[0], one[1] + two[1], one[2] + two[2]))

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Dual:
        return self * -1.0

    def __sub__(self, other: Any) -> Dual:
        return self + -lift(other)

    def __truediv__(self, other: float) -> Dual:
        return self * (1.0 / other)


def lift(x: Any) -> Dual:
    return x if isinstance(x, Dual) else Dual(float(x))


def stop(x: Dual) -> Dual:
    return Dual(x.value)


def keep_value(x: Dual, slope: float) -> Dual:
    """The same number with its derivatives multiplied."""
    return x.apply(x.value, slope)


def logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def sigmoid(x: Dual) -> Dual:
    return x.apply(logistic(x.value), logistic(x.value) * logistic(-x.value))


def minus_log_sigmoid(x: Dual) -> Dual:
    return x.apply(max(-x.value, 0.0) + math.log1p(math.exp(-abs(x.value))), -logistic(-x.value))


def link(config: dict[str, Any], beta: float, m: Dual) -> Dual:
    base, e = config["base"], float(config.get("label_smoothing", 0.0))
    if base == "hinge":
        return m.apply(max(0.0, 1.0 - m.value), -1.0 if m.value < 1.0 else 0.0)
    if base == "ipo":
        return m * m
    if base == "orpo":
        return minus_log_sigmoid(m) * beta
    if base == "robust":
        return (minus_log_sigmoid(m) * (1.0 - e) - minus_log_sigmoid(-m) * e) / (1.0 - 2.0 * e)
    return minus_log_sigmoid(m) * (1.0 - e) + minus_log_sigmoid(-m) * e


def kind_of(config: dict[str, Any]) -> str:
    return "odds" if config["base"] == "orpo" else "mean" if config["length_normalize"] else "sum"


def gain_and_target(config: dict[str, Any], beta: float) -> tuple[float, float]:
    if config["base"] == "ipo":
        return 1.0, 1.0 / (2.0 * beta)
    if config["base"] == "orpo":
        return 1.0, 0.0
    return beta, beta * config["gamma_beta_ratio"] if config["base"] == "simpo" else 0.0


@dataclass(frozen=True)
class Answer:
    """l, n and rl of one side."""

    total: Dual
    n: float
    ref: float

    @property
    def u(self) -> Dual:
        return self.total / self.n

    def score(self, config: dict[str, Any]) -> Dual:
        kind = kind_of(config)
        if kind == "odds":
            p = math.exp(self.u.value)
            return self.u.apply(self.u.value - math.log(1.0 - p), 1.0 / (1.0 - p))
        total = self.total - self.ref if config["base"] in (*WITH_REFERENCE, "kto") else self.total
        return total / self.n if kind == "mean" else total

    def y(self, config: dict[str, Any]) -> Dual:
        """What Uni-DPO reads: the sum where scores are sums."""
        return self.total if kind_of(config) == "sum" else self.u


def coefficients(config: dict[str, Any], kind: str, one: Answer, two: Answer) -> tuple[float, float]:
    ada = config.get("ada")
    if not ada:
        return 1.0, 1.0
    v = []
    for answer in (one, two):
        total = answer.total.value - (answer.ref if ada["use_reference"] else 0.0)
        if kind == "odds":
            v.append(total / answer.n + math.log(1.0 - math.exp(total / answer.n)))
        elif ada["granularity"] == "sequence":
            v.append(total + (math.log(answer.n) if kind == "mean" else 0.0))
        elif ada["granularity"] == "geomean" and kind == "sum":
            v.append(total / answer.n - math.log(answer.n))
        else:
            v.append(total / answer.n)
    log_r = v[0] - v[1]
    if ada["clip"] is not None:
        log_r = min(log_r, math.log(ada["clip"]))
        if ada["clip_mode"] == "both":
            log_r = max(log_r, -math.log(ada["clip"]))
    return math.exp(ada["share"] * log_r), math.exp((ada["share"] - 1.0) * log_r)


def scaled(config: dict[str, Any], one: Answer, two: Answer) -> tuple[Dual, Dual]:
    c = coefficients(config, kind_of(config), one, two)
    scores = [answer.score(config) for answer in (one, two)]
    if config["base"] in WITH_REFERENCE:
        return c[0] * scores[0], c[1] * scores[1]
    return keep_value(scores[0], c[0]), keep_value(scores[1], c[1])


def margin(config: dict[str, Any], beta: float, one: Dual, two: Dual, n: tuple[float, float]) -> Dual:
    gain, target = gain_and_target(config, beta)
    length = config["length_weight"] * (n[0] - n[1]) if config["base"] == "rdpo" else 0.0
    return gain * (one - two) - target + length


def perf_difference(config: dict[str, Any], one: Answer, two: Answer) -> Dual:
    """What z of w_perf is made of: unscaled values, whose gradient the balance scales."""
    focal = config["uni"].get("perf_mode") == "focal"
    kind = kind_of(config)
    c = coefficients(config, kind if focal or kind != "odds" else "mean", one, two)
    numbers = [answer.score(config) if focal else answer.y(config) for answer in (one, two)]
    return keep_value(numbers[0], c[0]) - keep_value(numbers[1], c[1])


def w_perf(config: dict[str, Any], z: Dual) -> Dual:
    uni = config["uni"]
    if uni.get("perf_mode") == "none":
        return Dual(1.0)
    power = uni["gamma"] * -minus_log_sigmoid(-z)
    found = power.apply(math.exp(power.value), math.exp(power.value))
    return stop(found) if uni.get("perf_detach") else found


def z_of(config: dict[str, Any], beta: float, difference: Dual, n: tuple[float, float]) -> Dual:
    if config["uni"].get("perf_mode") != "focal":
        return difference * beta - float(config["uni"]["tau_ref"])
    if config["base"] == "ipo":
        return difference * beta
    return margin(config, beta, difference, Dual(0.0), n)


def pair_loss(config: dict[str, Any], row: dict[str, Any]) -> tuple[Dual, dict[str, float | None]]:
    beta, image, anchor, uni = config["beta"], config.get("image"), config.get("anchor"), config.get("uni")
    has, share = row["l_o"] is not None, image["weight"] if image else 0.0
    w, rejected = (Answer(Dual(row[f"l_{s}"], unit(i)), row[f"n_{s}"], row[f"rl_{s}"]) for i, s in enumerate("wl"))
    o = Answer(Dual(row["l_o"], unit(2)), row["n_w"], row["rl_o"]) if has else None
    shown = Answer(stop(o.total), o.n, o.ref) if o and image and image["detach"] else o
    n = (w.n, rejected.n)
    stats: dict[str, float | None] = {}
    terms: dict[str, Dual] = {}

    m = margin(config, beta, *scaled(config, w, rejected), n)
    joint = image is not None and image["combine"] == "joint"
    if joint and shown:
        one, two = scaled(config, w, shown)
        m = m + gain_and_target(config, beta)[0] * share * (one - two)
    pair = config.get("pair_weight", 1.0) * link(config, beta, m)
    y = w.y(config)
    nll = -(config.get("nll_weight", 0.0) if config["base"] != "orpo" else 1.0) * w.u
    if uni:
        difference = perf_difference(config, w, rejected)
        if joint and shown and uni.get("perf_mode") == "focal":
            difference = difference + share * perf_difference(config, w, shown)
        quality = logistic(uni["eta"] * (row["s_w"] - row["s_l"]))
        focus = w_perf(config, z_of(config, beta, difference, n))
        pair = quality * (focus * pair)
        active = row["rl_w"] / w.n > w.u.value and row["s_w"] >= uni["tau_good"]
        nll = nll - uni["nll_lambda"] * float(active) * y
        stats |= {"uni/w_qual": quality, "uni/w_perf": focus.value}
    terms["pair"] = pair
    if image and not joint:
        terms["image"] = Dual(0.0)
        if shown:
            b = image["beta"] or beta
            found = link(config, b, margin(config, b, *scaled(config, w, shown), (w.n, w.n)))
            if image["uni"] == "own":
                found = w_perf(config, z_of(config, b, perf_difference(config, w, shown), (w.n, w.n))) * found
            terms["image"] = image["weight"] * found
    if anchor:
        b, d = anchor["beta"] or beta, row["d"] if anchor["delta"] == "running" else anchor["delta"]
        terms["anchor"] = anchor["chosen"] * minus_log_sigmoid(b * w.score(config) - d)
        terms["anchor"] += anchor["rejected"] * minus_log_sigmoid(-(b * rejected.score(config) - d))
        if o:
            terms["anchor"] += anchor["other"] * minus_log_sigmoid(-(b * o.score(config) - d))
        stats["anchor/below"] = float(b * w.score(config).value < d)
    if config.get("nll_weight") or config["base"] == "orpo" or (uni and uni["nll_lambda"]):
        terms["nll"] = nll
    if image:
        stats |= image_stats(config, image["beta"] or beta, w, shown)
    if len(terms) > 1:
        for name, term in terms.items():
            stats[f"loss/{name}"] = None if name == "image" and not has else row["weight"] * term.value
    total = Dual(0.0)
    for term in terms.values():
        total = total + term
    return row["weight"] * total, stats


def image_stats(config: dict[str, Any], beta: float, w: Answer, o: Answer | None) -> dict[str, float | None]:
    names = ["image/margin", "image/accuracies", "image/helps", "image/lift", "rewards/other", "logps/other"]
    if o is None:
        return dict.fromkeys(names)
    difference = beta * (w.score(config).value - o.score(config).value)
    found = [difference, float(difference > 0), float(w.total.value > o.total.value), w.u.value - o.u.value,
             beta * o.score(config).value, o.total.value]  # fmt: skip
    stats: dict[str, float | None] = dict(zip(names, found, strict=True))
    if config.get("ada"):
        c_w, c_o = coefficients(config, kind_of(config), w, o)
        stats |= {"ada/image_coef_chosen": c_w, "ada/image_coef_other": c_o}
    return stats


def kto_loss(config: dict[str, Any], row: dict[str, Any]) -> tuple[Dual, dict[str, float | None]]:
    answer = Answer(Dual(row["l_w"], unit(0)), row["n_w"], row["rl_w"])
    above = config["beta"] * (answer.score(config) - row["kl"])
    keys, reward = config["kto"], config["beta"] * answer.score(config).value
    if row["desirable"]:
        loss = keys["desirable_weight"] * (1.0 + -sigmoid(above))
    else:
        loss = keys["undesirable_weight"] * (1.0 + -sigmoid(-above))
    stats: dict[str, float | None] = {
        "rewards/desirable": reward if row["desirable"] else None,
        "rewards/undesirable": None if row["desirable"] else reward,
        "kto/kl": row["kl"],
        "kto/share_desirable": row["desirable"],
    }
    return row["weight"] * loss, stats


def unit(place: int) -> tuple[float, float, float]:
    return tuple(1.0 if i == place else 0.0 for i in range(3))  # type: ignore[return-value]


def rows() -> list[dict[str, Any]]:
    """Pairs with whole and weighted lengths, the image helping and hurting, and one pair without another image."""
    draw = random.Random(20241019)
    table = []
    for i in range(8):
        lengths = [float(draw.randint(1, 90)) for _ in "wl"]
        if i in (3, 4):  # token weights, whose sums may be below 1
            lengths = [draw.uniform(0.2, 0.9), draw.uniform(1.1, 40.0)][:: 1 if i == 3 else -1]
        n = dict(zip("wl", lengths, strict=True)) | {"o": lengths[0]}
        u = {"w": -draw.uniform(0.1, 2.0), "l": -draw.uniform(0.1, 2.0)}
        u["o"] = min(-0.02, u["w"] - draw.gauss(0.05, 0.15))
        row: dict[str, Any] = {"n_w": n["w"], "n_l": n["l"]}
        for side in SIDES:
            row[f"l_{side}"] = u[side] * n[side]
            row[f"rl_{side}"] = (u[side] + draw.gauss(0.0, 0.05)) * n[side]
        row |= {"s_w": float(draw.randint(1, 5)), "s_l": float(draw.randint(1, 5)), "weight": 1.0, "d": 0.03,
                "kl": round(draw.uniform(0.0, 1.0), 3), "desirable": float(i % 2)}  # fmt: skip
        if i == 5:
            row |= {"l_o": None, "rl_o": None}
        if i in (2, 6):
            row["weight"] = 0.5 * i
        table.append(row)
    return table


def configs() -> dict[str, list[dict[str, Any]]]:
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
        table: list[dict[str, Any]] = []
        referenced = name in WITH_REFERENCE
        paper, calibration = {**PAPER, "use_reference": referenced}, WEIGHTS
        if not referenced:
            calibration = {**WEIGHTS, "nll_lambda": 0.0}
        other_beta = {**IMAGE, "beta": 0.23, "weight": 0.6}
        joint = {**IMAGE, "combine": "joint", "weight": 0.7}
        own = {**IMAGE, "uni": "own"}
        for image in (IMAGE, other_beta, joint, {**IMAGE, "detach": True}, {**joint, "detach": True}):
            table.append({**plain, "image": image})
        for image in (IMAGE, other_beta, joint):
            table += [{**plain, "image": image, "ada": ada} for ada in (paper, EVEN, {**EVEN, "clip": None})]
        weighted = {**plain, "length_normalize": True, "uni": calibration}
        for image in (IMAGE, joint, own, {**own, "beta": 0.23, "weight": 0.6}, {**own, "detach": True}):
            table.append({**weighted, "image": image})
        for image in (IMAGE, joint, own):
            table += [{**weighted, "image": image, "ada": ada} for ada in (paper, {**EVEN, "clip": None})]
            focal = {**weighted, "uni": {**calibration, "perf_mode": "focal"}, "image": image}
            table += [focal, {**focal, "ada": paper}]
        table.append({**weighted, "uni": {**calibration, "perf_mode": "none"}, "image": IMAGE})
        table.append({**weighted, "uni": {**calibration, "perf_detach": True}, "image": own})
        if name not in ("orpo", "ipo"):
            sums = {**weighted, "length_normalize": False, "beta": 0.02, "image": own}
            table += [sums, {**sums, "ada": paper}]
        if name != "orpo":
            table.append({**plain, "nll_weight": 0.4, "pair_weight": 0.6, "image": {**IMAGE, "weight": 0.3}})
            for granularity in ("geomean", "sequence"):
                table.append({**plain, "image": IMAGE, "ada": {**EVEN, "granularity": granularity}})
        else:
            table.append({**plain, "pair_weight": 0.6, "image": {**IMAGE, "weight": 0.3}})
        if referenced:
            for change in ({"chosen": 1.0}, {"rejected": 0.4, "delta": 0.2}, {"other": 0.7, "beta": 0.05},
                           {"chosen": 0.2, "rejected": 0.3, "other": 0.4, "delta": "running"}):  # fmt: skip
                table.append({**plain, "image": IMAGE, "anchor": {**ANCHOR, **change}})
            table.append({**plain, "anchor": {**ANCHOR, "other": 0.5}})
            everything = {
                "pair_weight": 0.9,
                "nll_weight": 0.2,
                "anchor": {**ANCHOR, "chosen": 0.6, "delta": "running"},
            }
            table.append({**weighted, **everything, "image": own, "ada": paper})
            table.append({**plain, **everything, "image": {**joint, "weight": 0.4}, "ada": paper})
        if name in ("dpo", "simpo", "rdpo", "cpo"):
            table.append({**plain, "label_smoothing": 0.1, "image": other_beta})
        if name == "rdpo":  # its lengths are numbers of tokens, but the formula does not ask
            table.append({**plain, "length_weight": 0.3, "image": joint})
        out[name] = table
    dpo = out["dpo"]
    dpo += [{"name": name} for name in PRESETS if name != "kto"]
    dpo += [{"name": "mdpo", "ada": paper_of_dpo()}, {"name": "chip", "ada": paper_of_dpo()}]
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.6}
    kto = {"base": "kto", "beta": 0.1, "length_normalize": False}
    out["kto"] = [
        {"name": "kto"},
        {**kto, "kto": weights},
        {**kto, "beta": 2.0, "length_normalize": True, "kto": weights},
    ]
    return out


def paper_of_dpo() -> dict[str, Any]:
    return {**PAPER, "use_reference": True}


def table(config: dict[str, Any], pairs: list[dict[str, Any]]) -> dict[str, Any]:
    meant = {**PRESETS[config["name"]], **config} if "name" in config else config
    losses = [(kto_loss if meant["base"] == "kto" else pair_loss)(meant, row) for row in pairs]
    return {
        "loss": config,
        "per_pair": [loss.value for loss, _ in losses],
        "grads": [[loss.d[side] for loss, _ in losses] for side in range(3)],
        "stats": {name: [stats.get(name) for _, stats in losses] for name in losses[0][1]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tests/unit/losses/golden_image")
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
