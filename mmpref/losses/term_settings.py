"""The sections of ``loss:`` beside ``uni`` and ``ada``: image term, anchors, single answers and weights of tokens, with
every key's value. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmpref.errors import ConfigError
from mmpref.losses.presets import (
    ANCHOR_DEFAULTS,
    BASES,
    CHOICES,
    IMAGE_DEFAULTS,
    KTO_DEFAULTS,
    SINGLE_ANSWER_BASES,
    TERM_SECTIONS,
    TOKEN_WEIGHTS_DEFAULTS,
)
from mmpref.losses.values import choice, flag, number, whole

RUNNING = "running"
"""``loss.anchor.delta``: the mean reward of all pairs so far, in place of a number."""

Section = Mapping[str, Any]


def resolve_terms(
    base: str, given: Mapping[str, Section | None], preset: Mapping[str, Any]
) -> dict[str, dict[str, Any] | None]:
    """Each of the four sections with every key, or None where it is off.

    Args:
        base: of the loss.
        given: what was written under each name; an empty mapping is the defaults, None is off.
        preset: of ``loss.name``.

    Raises:
        ConfigError: a value that its key does not take.
    """
    out: dict[str, dict[str, Any] | None] = dict.fromkeys(TERM_SECTIONS)
    if (image := given["image"]) is not None:
        out["image"] = _image(image, preset.get("image", {}))
    if (anchor := given["anchor"]) is not None:
        out["anchor"] = _anchor(anchor, preset.get("anchor", {}))
    if (weights := given["token_weights"]) is not None:
        out["token_weights"] = _token_weights(weights, preset.get("token_weights", {}))
    if base == "kto":
        out["kto"] = _kto(given["kto"] or {})
    elif given["kto"] is not None:
        raise ConfigError(f"loss.kto belongs to base kto, and the base is {base}; write `loss.kto=null`")
    return out


def _with_defaults(given: Section, preset: Section, defaults: Section) -> dict[str, Any]:
    return {**defaults, **preset, **{key: value for key, value in given.items() if value is not None}}


def _image(given: Section, preset: Section) -> dict[str, Any]:
    out = _with_defaults(given, preset, IMAGE_DEFAULTS)
    out["weight"] = number(out["weight"], "loss.image.weight", least=0.0)
    if out["beta"] is not None:
        out["beta"] = number(out["beta"], "loss.image.beta", above=0.0)
    choice(out["combine"], CHOICES["combine"], "loss.image.combine")
    out["detach"] = flag(out["detach"], "loss.image.detach")
    choice(out["uni"], CHOICES["image_uni"], "loss.image.uni")
    return out


def _anchor(given: Section, preset: Section) -> dict[str, Any]:
    out = _with_defaults(given, preset, ANCHOR_DEFAULTS)
    for side in ("chosen", "rejected", "other"):
        out[side] = number(out[side], f"loss.anchor.{side}", least=0.0)
    if out["beta"] is not None:
        out["beta"] = number(out["beta"], "loss.anchor.beta", above=0.0)
    if out["delta"] != RUNNING:
        if isinstance(out["delta"], str):
            raise ConfigError(
                f"loss.anchor.delta must be a number or running, got {out['delta']!r}; write "
                "`loss.anchor.delta=running`"
            )
        out["delta"] = number(out["delta"], "loss.anchor.delta")
    return out


def _kto(given: Section) -> dict[str, Any]:
    out = _with_defaults(given, {}, KTO_DEFAULTS)
    return {key: number(value, f"loss.kto.{key}", least=0.0) for key, value in out.items()}


def _token_weights(given: Section, preset: Section) -> dict[str, Any] | None:
    out = _with_defaults(given, preset, TOKEN_WEIGHTS_DEFAULTS)
    if given.get("rule") is None and preset.get("rule") is None:
        raise ConfigError(
            "loss.token_weights does not say by which rule tokens are weighted; write `loss.token_weights.rule=diff`, "
            "or `loss.token_weights.rule=column`, or `loss.token_weights=null` for none"
        )
    choice(out["rule"], CHOICES["rule"], "loss.token_weights.rule")
    for key in ("changed", "same"):
        out[key] = number(out[key], f"loss.token_weights.{key}", least=0.0)
    out["min_match"] = whole(out["min_match"], "loss.token_weights.min_match", least=1)
    for key in ("insertions", "autojunk"):
        out[key] = flag(out[key], f"loss.token_weights.{key}")
    choice(out["eos"], CHOICES["eos"], "loss.token_weights.eos")
    return None if out["rule"] == "none" else out


def refuse_terms(out: Mapping[str, Any]) -> None:
    """Refuse sections that cannot work together, or on this base.

    Args:
        out: the whole loss, resolved.

    Raises:
        ConfigError: names the key, and what to write.
    """
    base, image, anchor, weights = (out[key] for key in ("base", "image", "anchor", "token_weights"))
    _refuse_pairs_of_single_answers(out)
    if anchor is not None:
        _refuse_anchor(anchor, base)
    if image is not None:
        _refuse_image(image, out)
    if weights is not None:
        if base == "rdpo":
            raise ConfigError(
                "loss.token_weights with base rdpo: its length term counts tokens, and weighted tokens have no count; "
                "write `loss.token_weights=null`"
            )
        if weights["rule"] == "diff" and weights["changed"] == weights["same"] == 0.0:
            raise ConfigError(
                "loss.token_weights.changed and same are both 0: no token would count; write "
                "`loss.token_weights.changed=4`"
            )
    if out["kto"] is not None and not any(out["kto"].values()):
        raise ConfigError(
            "loss.kto.desirable_weight and undesirable_weight are both 0: nothing would be trained; write "
            "`loss.kto.desirable_weight=1`"
        )
    if base not in SINGLE_ANSWER_BASES and not _trains(out):
        raise ConfigError(
            "loss.pair_weight is 0 and no other term has a weight: nothing would be trained; write `loss.pair_weight=1`"
        )


def _refuse_pairs_of_single_answers(out: Mapping[str, Any]) -> None:
    base, weights = out["base"], out["token_weights"]
    if base not in SINGLE_ANSWER_BASES:
        return
    sections = [key for key in ("uni", "ada", "image", "anchor") if out[key] is not None]
    sections += ["token_weights"] if weights is not None and weights["rule"] == "diff" else []
    if sections:
        off = " ".join(f"loss.{key}=null" for key in sections)
        has = "has only the chosen answer" if base == "sft" else "has single answers"
        which = "loss.token_weights.rule diff" if sections[0] == "token_weights" else f"loss.{sections[0]}"
        raise ConfigError(f"{which} works on pairs; base {base} {has}; write `{off}`")


def _refuse_anchor(anchor: Section, base: str) -> None:
    if not BASES[base].needs_reference:
        raise ConfigError(
            f"loss.anchor compares with the reference, and base {base} has none; write `loss.anchor=null`"
        )
    if not any(anchor[side] for side in ("chosen", "rejected", "other")):
        raise ConfigError(
            "loss.anchor has chosen, rejected and other at 0: it would do nothing; write `loss.anchor.chosen=1`, or "
            "`loss.anchor=null`"
        )


def _refuse_image(image: Section, out: Mapping[str, Any]) -> None:
    if image["detach"] and out["ada"] is not None:
        raise ConfigError(
            "loss.image.detach with loss.ada: without a gradient on the other image there is nothing to balance; write "
            "`loss.image.detach=false`, or `loss.ada=null`"
        )
    if image["uni"] == "own" and out["uni"] is None:
        raise ConfigError(
            "loss.image.uni own weighs the image pair as loss.uni does, which is off; write `loss.image.uni=none`"
        )
    if image["combine"] == "joint":
        if image["uni"] == "own":
            raise ConfigError(
                "loss.image.uni own with combine joint: there is one link, and one weight; write "
                "`loss.image.uni=none`, or `loss.image.combine=own`"
            )
        if image["beta"] is not None:
            raise ConfigError(
                "loss.image.beta with combine joint: both differences are in one link, whose beta is loss.beta; write "
                "`loss.image.beta=null`, and the share of the image as loss.image.weight"
            )


def _trains(out: Mapping[str, Any]) -> bool:
    """Whether any term of a pairwise loss has a weight."""
    image, uni = out["image"], out["uni"]
    own_image = image is not None and image["combine"] == "own" and image["weight"] > 0.0
    calibrated = uni is not None and uni["nll_lambda"] > 0.0
    nll = out["base"] == "orpo" or bool(out["nll_weight"])
    return bool(out["pair_weight"]) or own_image or out["anchor"] is not None or nll or calibrated


def doubts_of_terms(out: Mapping[str, Any], given: Mapping[str, Section | None]) -> Iterator[str]:
    """What is allowed and probably not meant, by key.

    Args:
        out: the whole loss, resolved.
        given: what was written under each name.
    """
    image, anchor, kto, weights = (out[key] for key in TERM_SECTIONS)
    if image is not None:
        yield from _doubts_of_image(image, out)
    sums = not out["length_normalize"] and out["base"] != "orpo"
    for name, section in (("image", image), ("anchor", anchor)):
        if sums and section is not None and section["beta"] is not None and section["beta"] > 1.0:
            yield f"loss.{name}.beta {section['beta']:g} on sums of log-probs saturates; use beta <= 1"
    if out["pair_weight"] == 0.0:
        joint = image is not None and image["combine"] == "joint"
        also = " and the image's, which is joint with it" if joint else ""
        yield f"loss.pair_weight 0 leaves out the term that compares the two answers{also}"
        has_image = image is not None and not joint and image["weight"] > 0.0
        if out["uni"] is not None and not (has_image and image["uni"] == "own") and not out["uni"]["nll_lambda"]:
            yield "loss.uni has no effect with loss.pair_weight 0, no calibrated NLL and no loss.image.uni own"
        if out["ada"] is not None and not has_image:
            yield "loss.ada has no effect with loss.pair_weight 0 and no image term of its own"
    if kto is not None:
        for key, value in kto.items():
            if value == 0.0:
                yield f"loss.kto.{key} 0: such answers train nothing"
    written = given["token_weights"] or {}
    if weights is None:
        idle = {key: "rule none" for key in TOKEN_WEIGHTS_DEFAULTS if key != "rule"}
    elif weights["rule"] == "column":
        idle = {key: "rule column" for key in TOKEN_WEIGHTS_DEFAULTS if key != "rule"}
    else:
        idle = {}
        if weights["changed"] == weights["same"]:
            yield f"loss.token_weights.changed and same are both {weights['same']:g}: every token counts the same"
    for key, because in idle.items():
        if written.get(key) not in (None, TOKEN_WEIGHTS_DEFAULTS[key]):
            yield f"loss.token_weights.{key} {written[key]} has no effect with {because}"


def _doubts_of_image(image: Section, out: Mapping[str, Any]) -> Iterator[str]:
    if image["weight"] == 0.0:
        yield "loss.image.weight 0 trains nothing: the other image is run for the statistics image/* only"
        for key, value in (("detach", image["detach"]), ("uni", image["uni"] != "none"), ("beta", image["beta"])):
            if value:
                yield f"loss.image.{key} {image[key]} has no effect with weight 0"
    uni = out["uni"]
    if image["uni"] == "own" and uni is not None:
        because = "perf_mode none" if uni["perf_mode"] == "none" else "gamma 0" if uni["gamma"] == 0.0 else ""
        if because:
            yield f"loss.image.uni own has no effect with loss.uni.{because}"
