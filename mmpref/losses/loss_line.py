"""A resolved loss in one line: what a run prints before it trains, and what its manifest keeps. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpref.losses.presets import ADA_DEFAULTS, OPTION_KEYS, TERM_SECTIONS, TOKEN_WEIGHTS_DEFAULTS
from mmpref.losses.settings import no_performance_gradient, reads_scores

_SHOWN_ELSEWHERE = {"name", "base", "beta", "length_normalize", *OPTION_KEYS, "uni", "ada", *TERM_SECTIONS}
_ONE = {"pair_weight"}
"""Options that are 1 where they do nothing; others are 0."""
_IN_WORDS = {"share", "granularity", "length_power", "clip", "clip_mode", "use_reference", "value_mode", "balance_perf"}


def loss_line(settings: Mapping[str, Any], *, reference: str, scores: str = "") -> str:
    """One line: base, beta, kind of log-probs, weights, balance, reference.

    Args:
        settings: every key of the loss with its value (``resolve``).
        reference: where the reference log-probs come from, in a word or two.
        scores: said of ``uni.tau_good``, where it was taken from the scores.
    """
    mean = "mean" if settings["length_normalize"] else "summed"
    head = [str(settings["base"]), f"beta {settings['beta']:g}", f"{mean} log-probs"]
    for key in OPTION_KEYS:
        if settings.get(key) not in (None, 1.0 if key in _ONE else 0.0):
            head.append(f"{key} {settings[key]:g}")
    uni, ada = settings.get("uni"), settings.get("ada")
    parts = [
        ", ".join(head),
        "no weights" if uni is None else f"weights Uni-DPO ({_uni(uni, scores)})",
        "no balance" if ada is None else f"balance AdaDPO ({_ada(ada, uni)})",
        *_terms(settings),
        *(f"{key} {_plain(value)}" for key, value in settings.items() if key not in _SHOWN_ELSEWHERE and value),
        f"reference: {reference}",
    ]
    return f"loss: {'; '.join(parts)}"


def _uni(uni: Mapping[str, Any], scores: str) -> str:
    quality = "no quality weight" if uni["eta"] is None else f"quality eta {uni['eta']:g}"
    performance = "no performance weight"
    if uni["perf_mode"] != "none":
        weighs = uni["gamma"] != 0.0  # else it is 1 whatever the pair
        detached = ", detached" if weighs and uni["perf_detach"] else ""
        margin = f" tau_ref {uni['tau_ref']:g}" if weighs and uni["perf_mode"] != "focal" else ""
        performance = f"performance {uni['perf_mode']}{margin} gamma {uni['gamma']:g}{detached}"
    nll = "no c-NLL"
    if uni["nll_lambda"]:
        margin = f" margin {uni['nll_margin']:g}" if uni["nll_margin"] else ""
        nll = f"c-NLL {uni['nll_lambda']:g} from score {_plain(uni['tau_good'])}{scores}{margin}"
    neutral = reads_scores(uni) and uni["on_missing_score"] == "neutral"
    missing = ", pairs without scores neutral" if neutral else ""
    return f"{quality}, {performance}, {nll}{missing}"


def _ada(ada: Mapping[str, Any], uni: Mapping[str, Any] | None) -> str:
    of_length = f" {ada['length_power']:g}" if ada["granularity"] == "power" else ""
    words = [f"{ada['granularity']}{of_length}"]
    words += [] if ada["form"] == "sum" else [f"share {ada['share']:g}"]
    if ada["clip"] is None:
        words.append("no clip")
    else:
        words.append(f"{'ceiling' if ada['clip_mode'] == 'ceiling' else 'clip both sides'} {ada['clip']:g}")
    words += [
        f"{key} {_plain(value)}"
        for key, value in ada.items()
        if key not in _IN_WORDS and value != ADA_DEFAULTS.get(key)
    ]
    words += [] if ada["use_reference"] else ["without reference"]
    words += ["value_preserving"] if ada["value_mode"] == "value_preserving" else []
    moves = not no_performance_gradient(uni)
    words += ["performance weight not balanced"] if moves and not ada["balance_perf"] else []
    return ", ".join(words)


def _terms(settings: Mapping[str, Any]) -> list[str]:
    """The terms beside the pair's own, and the weights of tokens; nothing of those that are off."""
    parts = []
    if image := settings.get("image"):
        words = [f"weight {image['weight']:g}"]
        words += ["in one link with the text pair"] if image["combine"] == "joint" else []
        words += [] if image["beta"] is None else [f"beta {image['beta']:g}"]
        words += ["detached"] if image["detach"] else []
        words += ["with a performance weight of its own"] if image["uni"] == "own" else []
        parts.append(f"image term ({', '.join(words)})")
    if anchor := settings.get("anchor"):
        words = [f"{side} {anchor[side]:g}" for side in ("chosen", "rejected", "other") if anchor[side]]
        words += [] if anchor["beta"] is None else [f"beta {anchor['beta']:g}"]
        words += [f"delta {_plain(anchor['delta'])}"] if anchor["delta"] else []
        parts.append(f"anchors ({', '.join(words)})")
    if kto := settings.get("kto"):
        weights = f"desirable {kto['desirable_weight']:g}, undesirable {kto['undesirable_weight']:g}"
        parts.append(f"single answers ({weights})")
    if tokens := settings.get("token_weights"):
        words = [f"rule {tokens['rule']}"]
        if tokens["rule"] == "diff":
            words += [f"changed {tokens['changed']:g}", f"same {tokens['same']:g}"]
            words += [
                f"{key} {_plain(tokens[key])}"
                for key in ("min_match", "insertions", "eos", "autojunk")
                if tokens[key] != TOKEN_WEIGHTS_DEFAULTS[key]
            ]
        parts.append(f"token weights ({', '.join(words)})")
    return parts


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key} {_plain(inner)}' for key, inner in value.items() if inner is not None)})"
    return f"{value:g}" if isinstance(value, float) else str(value)
