"""From the ``loss:`` section of a recipe to settings in which every key has its value. No torch here."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from mmpref.errors import ConfigError
from mmpref.losses.former_keys import refuse_former_ada
from mmpref.losses.presets import (
    ADA_DEFAULTS,
    BASES,
    CHOICES,
    ELSEWHERE,
    OPTION_KEYS,
    PRESETS,
    SECTIONS,
    SINGLE_ANSWER_BASES,
    TOP_KEYS,
    UNI_DEFAULTS,
)
from mmpref.losses.tau_good import quantile_share
from mmpref.losses.term_settings import doubts_of_terms, refuse_terms, resolve_terms
from mmpref.losses.values import choice, flag, number

_FIXED_AT_1 = {("nll_weight", "orpo"), *(("pair_weight", base) for base in SINGLE_ANSWER_BASES)}
"""Keys that a base does not have, and whose part of its formula is 1 all the same; others are 0."""


class SuspiciousLossWarning(UserWarning):
    """A loss setting that is allowed and probably not what was meant."""


class ScoreScaleWarning(SuspiciousLossWarning):
    """``tau_good`` was not written down although it depends on the scale of the data's scores."""


def resolve(mapping: Mapping[str, Any], *, score_scale: tuple[float, float] | None = None) -> dict[str, Any]:
    """Every key of the loss with the value it will have: what a run folder records.

    A preset (``name``) fills what is not given, key by key, also inside sections such as ``uni``. None means "not
    given", except for a section itself (off), ``uni.eta`` (no w_qual) and ``ada.clip`` (no clip). Keys that a base does
    not have come back as None. ``uni.tau_good`` may stay the name of a quantile (``median``, ``q25``): it
    becomes a number by ``resolve_tau_good``. Resolving a resolved mapping changes nothing.

    Args:
        mapping: the ``loss:`` section.
        score_scale: lowest and highest score of the data, where its card declares them; ``tau_good`` must lie inside.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"loss must be a mapping such as {{name: uni_dpo}}, got {mapping!r}")
    _refuse_unknown(mapping, TOP_KEYS, "loss.")
    given = {k: v for k, v in mapping.items() if v is not None and k not in SECTIONS}
    name, base, preset = _name_and_base(given)
    facts = BASES[base]
    sections = {key: _section(key, mapping, preset) for key in SECTIONS}
    if base == "kto" and mapping.get("kto") is False:
        raise ConfigError("loss.kto cannot be switched off for base kto; write `loss.kto=null` for its defaults")
    uni, ada = sections["uni"], sections["ada"]

    out: dict[str, Any] = {"name": name, "base": base}
    # the preset's beta is a scale of log-probs; ORPO's beta weighs its odds term and keeps its own default
    preset_beta = preset.get("beta", facts.beta) if base != "orpo" else facts.beta
    out["beta"] = number(given.get("beta", preset_beta), "loss.beta", above=0.0)
    per_token = preset.get("length_normalize", facts.length_normalize or uni is not None)
    out["length_normalize"] = flag(given.get("length_normalize", per_token), "loss.length_normalize")
    for key in OPTION_KEYS:
        out[key] = _option(key, base, given, preset)
    out["uni"] = out["ada"] = None
    if uni is not None:
        out["uni"] = _resolve_uni(uni, preset.get("uni", {}), facts.needs_reference)
    if ada is not None:
        refuse_former_ada(ada)
        out["ada"] = _resolve_ada(ada, preset.get("ada", {}), facts.needs_reference, has_uni=uni is not None)
    out |= resolve_terms(base, sections, preset)
    refuse_terms(out)
    _check_base(out, given)
    if out["uni"] is not None:
        if "beta" not in given:
            _warn_of_beta_for_sums(out, preset)
        _check_uni(out, uni or {}, score_scale)
    if out["ada"] is not None:
        _check_ada(out, ada or {}, facts.needs_reference)
    for doubt in doubts_of_terms(out, sections):
        warnings.warn(doubt, SuspiciousLossWarning, stacklevel=2)
    return out


def needs_reference(settings: Mapping[str, Any]) -> bool:
    """Whether a resolved loss reads reference log-probs: for its scores, or for the gate of the calibrated NLL."""
    uni = settings["uni"]
    return BASES[settings["base"]].needs_reference or (uni is not None and uni["nll_lambda"] > 0)


def needs_other(settings: Mapping[str, Any]) -> bool:
    """Whether a resolved loss reads the chosen answer under another image, as ``Objective.needs_other`` says it."""
    anchor = settings["anchor"]
    return settings["image"] is not None or (anchor is not None and anchor["other"] > 0)


def reads_scores(uni: Mapping[str, Any]) -> bool:
    """Whether a resolved ``uni`` section reads the pairs' scores: eta 0 makes w_qual 1/2 whatever they are."""
    return bool(uni["eta"]) or uni["nll_lambda"] > 0


def no_performance_gradient(uni: Mapping[str, Any] | None) -> str:
    """Why a resolved ``uni`` section gives w_perf no gradient, after "no effect"; empty where it has one."""
    if uni is None:
        return "without loss.uni"
    if uni["perf_mode"] == "none":
        return "with perf_mode none"
    if uni["gamma"] == 0.0:
        return "with gamma 0"
    return "with perf_detach true" if uni["perf_detach"] else ""


def _name_and_base(given: Mapping[str, Any]) -> tuple[str | None, str, Mapping[str, Any]]:
    name, base = given.get("name"), given.get("base")
    if name is None and base is None:
        raise ConfigError(
            f"loss needs a name ({', '.join(PRESETS)}) or a base ({', '.join(BASES)}); write `loss.name=dpo`"
        )
    if name is not None:
        known = str(name).lower().replace("-", "_")
        if name not in PRESETS and known in ELSEWHERE:
            raise ConfigError(f"loss.name {name} is no preset: {ELSEWHERE[known]}")
        choice(name, PRESETS, "loss.name")
    if base is not None:
        choice(base, BASES, "loss.base")
    if name is None:
        return None, str(base), {}
    if name in BASES and base not in (None, name):
        raise ConfigError(f"loss.name {name} and loss.base {base} contradict each other; write `loss.name={base}`")
    return str(name), str(base or PRESETS[name]["base"]), PRESETS[name]


def _section(key: str, mapping: Mapping[str, Any], preset: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the user wrote under such a key, an empty mapping meaning the defaults; None when it is off."""
    if key not in mapping:
        return {} if key in preset else None
    value = mapping[key]
    if value is None or value is False:
        return None
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"loss.{key} must be a mapping of its keys, true, false or null, got {value!r}")
    _refuse_unknown(value, SECTIONS[key], f"loss.{key}.")
    return value


def _option(key: str, base: str, given: Mapping[str, Any], preset: Mapping[str, Any]) -> float | None:
    defaults = BASES[base].options
    if key not in defaults:
        fixed = 1.0 if (key, base) in _FIXED_AT_1 else 0.0
        if key in given and number(given[key], f"loss.{key}") != fixed:
            owners = ", ".join(b for b, facts in BASES.items() if key in facts.options)
            raise ConfigError(
                f"loss.{key} does not exist for base {base} (it belongs to {owners}); write `loss.{key}=null`"
            )
        return None
    value = given.get(key, preset.get(key, defaults[key]))
    if key == "label_smoothing":
        value = number(value, f"loss.{key}", least=0.0)
        if value >= 0.5:
            raise ConfigError(
                f"loss.label_smoothing must be in [0, 0.5), got {value}: at 0.5 no label says anything; write "
                "`loss.label_smoothing=0.1`"
            )
        return value
    return number(value, f"loss.{key}", least=0.0)


def _resolve_uni(given: Mapping[str, Any], preset: Mapping[str, Any], needs_reference: bool) -> dict[str, Any]:
    default = dict(UNI_DEFAULTS)
    if not needs_reference:
        default["nll_lambda"] = 0.0  # its gate needs reference log-probs, which such a base does not ask for
    out = {**default, **preset, **{k: v for k, v in given.items() if v is not None or k == "eta"}}
    if out["eta"] is not None:
        out["eta"] = number(out["eta"], "loss.uni.eta", least=0.0)
    for key, least in (("tau_ref", None), ("gamma", 0.0), ("nll_lambda", 0.0), ("nll_margin", 0.0)):
        out[key] = number(out[key], f"loss.uni.{key}", least=least)
    out["tau_good"] = _tau_good(out["tau_good"])
    out["perf_detach"] = flag(out["perf_detach"], "loss.uni.perf_detach")
    for key in ("perf_mode", "on_missing_score"):
        choice(out[key], CHOICES[key], f"loss.uni.{key}")
    return out


def _tau_good(value: Any) -> float | str:
    """A score, or the name of a quantile that ``resolve_tau_good`` turns into one when the data is known."""
    if not isinstance(value, str):
        return number(value, "loss.uni.tau_good")
    if quantile_share(value) is None:
        raise ConfigError(
            f"loss.uni.tau_good must be a number on the scale of the data's scores, or median or a quantile of the "
            f"training scores from q01 to q99, got {value!r}; write `loss.uni.tau_good=median`"
        )
    return value


def _resolve_ada(
    given: Mapping[str, Any], preset: Mapping[str, Any], needs_reference: bool, *, has_uni: bool
) -> dict[str, Any]:
    out = {**ADA_DEFAULTS, **preset, **{k: v for k, v in given.items() if v is not None or k == "clip"}}
    for key in ("granularity", "form", "clip_mode", "value_mode"):
        choice(out[key], CHOICES[key], f"loss.ada.{key}")
    for key in ("share", "length_power"):
        out[key] = number(out[key], f"loss.ada.{key}", least=0.0, most=1.0)
    for key in ("alpha_w", "alpha_l"):
        out[key] = number(out[key], f"loss.ada.{key}")
    out["target_ratio"] = number(out["target_ratio"], "loss.ada.target_ratio", above=0.0)
    if out["use_reference"] == "auto":
        out["use_reference"] = needs_reference
    out["use_reference"] = flag(out["use_reference"], "loss.ada.use_reference", or_else="auto")
    if out["clip"] is not None:
        out["clip"] = number(out["clip"], "loss.ada.clip", least=1.0)
    if out["value_mode"] == "auto":
        out["value_mode"] = "scaled" if needs_reference else "value_preserving"
    balance_perf = has_uni if out["balance_perf"] is None else out["balance_perf"]
    out["balance_perf"] = flag(balance_perf, "loss.ada.balance_perf")
    return out


def _check_base(out: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    base, beta = out["base"], out["beta"]
    if base == "orpo" and not out["length_normalize"]:
        raise ConfigError(
            "loss.length_normalize cannot be false for base orpo: the odds of a whole answer underflow; write "
            "`loss.length_normalize=true`"
        )
    if base == "simpo" and not out["length_normalize"]:
        _warn("loss.length_normalize false makes SimPO prefer by length: its scores are sums without a reference")
    if base not in ("orpo", "sft") and not out["length_normalize"] and beta > 1.0:
        _warn(f"loss.beta {beta} on sums of log-probs saturates; use beta <= 1 or loss.length_normalize true")
    if base == "robust" and out["label_smoothing"] == 0.0:
        _warn("loss.label_smoothing 0 makes base robust the same as dpo")
    if base == "sft" and "beta" in given and beta != 1.0:
        _warn("loss.beta only scales the logged rewards of base sft")


def _warn_of_beta_for_sums(out: Mapping[str, Any], preset: Mapping[str, Any]) -> None:
    """Warn of a default beta that is meant for sums of log-probs, where Uni-DPO takes means."""
    beta = out["beta"]
    if not out["length_normalize"] or beta >= 1.0 or out["base"] in ("ipo", "orpo"):  # whose beta is something else
        return
    whose = f"preset {out['name']}" if "beta" in preset else f"base {out['base']}"
    _warn(f"loss.beta {beta:g} is {whose}'s, for sums of log-probs; with loss.uni they are means, where the paper "
          "has 2: write `loss.beta=2`, or this one down")  # fmt: skip


def _check_uni(
    out: Mapping[str, Any],
    given: Mapping[str, Any],
    score_scale: tuple[float, float] | None,
) -> None:
    uni = out["uni"]
    if not out["length_normalize"]:
        _warn("loss.length_normalize false with loss.uni is the paper's ablation, and much the worse there: on sums "
              "w_perf is 0 or 1 for nearly every pair, and the calibrated NLL is a sum too")  # fmt: skip
    if uni["eta"] == 0.0:
        _warn("loss.uni.eta 0 makes w_qual 1/2 for every pair; write null to leave w_qual out")
    if out["base"] == "robust" and out["label_smoothing"] > 0.0 and not uni["perf_detach"]:
        _warn(
            "loss.uni.perf_detach false with base robust: where that loss is negative, w_perf's gradient changes sign"
        )
    _warn_of_idle("uni", given, UNI_DEFAULTS, _idle_uni(uni))
    if uni["nll_lambda"] == 0.0:
        return
    tau_good = uni["tau_good"]
    if isinstance(tau_good, str):
        return  # a quantile of the data's own scores lies on their scale
    if score_scale is not None:
        low, high = score_scale
        if not low <= tau_good <= high:
            raise ConfigError(f"loss.uni.tau_good {tau_good} is outside the data's score scale [{low}, {high}]; write "
                              "`loss.uni.tau_good=median`")  # fmt: skip
    elif given.get("tau_good") is None:
        said = f"loss.uni.tau_good is a score on the data's own scale; {tau_good} suits the scores of MM-RLHF only"
        warnings.warn(f"{said}. Write it down to say that it was chosen", ScoreScaleWarning, stacklevel=4)


def _check_ada(out: Mapping[str, Any], given: Mapping[str, Any], needs_reference: bool) -> None:
    ada, base = out["ada"], out["base"]
    if ada["use_reference"] and not needs_reference:
        raise ConfigError(f"loss.ada.use_reference cannot be true: base {base} has no reference; write "
                          "`loss.ada.use_reference=auto`")  # fmt: skip
    power = {"sequence": 0.0, "power": ada["length_power"]}.get(ada["granularity"])
    if base == "orpo" and power is not None and power < 1.0:
        raise ConfigError(f"loss.ada.granularity {ada['granularity']} is not defined for base orpo, whose odds are "
                          "those of the mean; write `loss.ada.granularity=token`")  # fmt: skip
    if power == 0.0:
        _warn("loss.ada.granularity sequence (or power with length_power 0) is for study: the ratio of whole-answer "
              "probabilities is nearly always cut by the clip")  # fmt: skip
    if ada["granularity"] == "power" and given.get("length_power") is None:
        _warn("loss.ada.granularity power without loss.ada.length_power is the same as token; write its power down")
    if ada["granularity"] != "power" and ada["length_power"] != 1.0:
        _warn(f"loss.ada.length_power has no effect with granularity {ada['granularity']}; write granularity: power")
    if ada["value_mode"] == "scaled" and not needs_reference:
        _warn(f"loss.ada.value_mode scaled with base {base}: its scores are all negative, so scaling them can turn the "
              "sign of the margin; use auto")  # fmt: skip
    alphas = (ada["alpha_w"], ada["alpha_l"])
    if alphas != (1.0, 1.0):
        _warn(f"loss.ada.alpha_w and alpha_l are {alphas[0]:g} and {alphas[1]:g}: the balance of the two gradients is "
              "not 1:1, which it is at 1 and 1")  # fmt: skip
    if ada["target_ratio"] != 1.0:
        _warn(f"loss.ada.target_ratio {ada['target_ratio']:g}: the balance is not 1:1, the chosen answer is pulled so "
              "many times as hard as the rejected one")  # fmt: skip
    _warn_of_idle("ada", given, ADA_DEFAULTS, {"clip_mode": _idle_ada(ada)["clip_mode"]})
    if ada["form"] == "sum" and ada["share"] != 1.0:
        _warn("loss.ada.share has no effect with form sum")
    if ada["clip"] == 1.0 and ada["clip_mode"] == "both":
        _warn("loss.ada.clip 1 with clip_mode both cuts every ratio to 1: the balance is off")
    unmoved = no_performance_gradient(out["uni"])
    if unmoved and given.get("balance_perf") not in (None, out["uni"] is not None):
        _warn(f"loss.ada.balance_perf has no effect {unmoved}")


def idle_keys(settings: Mapping[str, Any]) -> dict[str, str]:
    """The keys of a resolved loss whose value changes nothing in it: dotted key -> what switches it off.

    ``name`` is none of them: what it stands for is written out in the others.
    """
    found = {}
    uni, ada = settings["uni"], settings["ada"]
    if settings["base"] == "sft":
        found["beta"] = "base sft, whose logged rewards alone it scales"
    if uni is not None:
        found |= {f"uni.{key}": because for key, because in _idle_uni(uni).items()}
    if ada is not None:
        found |= {f"ada.{key}": because for key, because in _idle_ada(ada).items()}
        if unmoved := no_performance_gradient(uni):
            found["ada.balance_perf"] = unmoved.removeprefix("with ")
    return {key: because for key, because in found.items() if because}


def _idle_uni(uni: Mapping[str, Any]) -> dict[str, str]:
    """Keys of ``uni`` -> what makes them do nothing; "" where they do something."""
    no_mode = "perf_mode none" if uni["perf_mode"] == "none" else ""
    no_weight = no_mode or ("gamma 0" if uni["gamma"] == 0.0 else "")
    nll_off = "nll_lambda 0" if uni["nll_lambda"] == 0.0 else ""
    return {
        "tau_ref": no_weight or ("perf_mode focal" if uni["perf_mode"] == "focal" else ""),
        "gamma": no_mode,
        "perf_detach": no_weight,
        "tau_good": nll_off,
        "nll_margin": nll_off,
        "on_missing_score": "" if reads_scores(uni) else f"eta {'null' if uni['eta'] is None else 0} and {nll_off}",
    }


def _idle_ada(ada: Mapping[str, Any]) -> dict[str, str]:
    """Keys of ``ada`` -> what makes them do nothing; "" where they do something."""
    return {
        "clip_mode": "no clip" if ada["clip"] is None else "",
        "share": "form sum" if ada["form"] == "sum" else "",
        "length_power": f"granularity {ada['granularity']}" if ada["granularity"] != "power" else "",
    }


def _warn_of_idle(section: str, given: Mapping[str, Any], defaults: Mapping[str, Any], idle: Mapping[str, str]) -> None:
    """Warn of keys that were given another value than their own and do nothing beside what switches them off."""
    for key, because in idle.items():
        if because and given.get(key) not in (None, defaults[key]):
            _warn(f"loss.{section}.{key} {given[key]} has no effect with {because}")


def _warn(message: str) -> None:
    warnings.warn(message, SuspiciousLossWarning, stacklevel=5)


def _refuse_unknown(mapping: Mapping[str, Any], known: Iterable[str], at: str) -> None:
    known = tuple(known)
    for key in mapping:
        if key in known:
            continue
        elsewhere = [f"loss.{k}" for k in TOP_KEYS if k == key and at != "loss."]
        elsewhere += [f"loss.{section}.{key}" for section, keys in SECTIONS.items() if key in keys]
        near = [at + match for match in difflib.get_close_matches(str(key), known, n=1)]
        hint = next(iter(elsewhere + near), None)
        tail = f"did you mean '{hint}'?" if hint else f"known are {', '.join(known)}"
        raise ConfigError(f"unknown key '{at}{key}', {tail}")
