"""The keys of the ``loss:`` section: what each base has, the defaults and where they come from. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """What the settings need to know of a base."""

    needs_reference: bool
    length_normalize: bool  # default when the key is not given
    beta: float
    options: Mapping[str, float] = field(default_factory=dict)  # keys beside beta and length_normalize, with defaults


BASES: Final[Mapping[str, BaseFacts]] = {
    "dpo": BaseFacts(needs_reference=True, length_normalize=False, beta=0.1, options={"label_smoothing": 0.0}),
    "robust": BaseFacts(needs_reference=True, length_normalize=False, beta=0.1, options={"label_smoothing": 0.0}),
    "hinge": BaseFacts(needs_reference=True, length_normalize=False, beta=0.1),
    "ipo": BaseFacts(needs_reference=True, length_normalize=True, beta=0.1),
    "rdpo": BaseFacts(
        needs_reference=True,
        length_normalize=False,
        beta=0.1,
        options={"label_smoothing": 0.0, "length_weight": 0.01},
    ),
    "simpo": BaseFacts(
        needs_reference=False,
        length_normalize=True,
        beta=2.0,
        options={"label_smoothing": 0.0, "gamma_beta_ratio": 0.5},
    ),
    "cpo": BaseFacts(
        needs_reference=False, length_normalize=False, beta=0.1, options={"label_smoothing": 0.0, "nll_weight": 1.0}
    ),
    "orpo": BaseFacts(needs_reference=False, length_normalize=True, beta=0.1),
    "sft": BaseFacts(needs_reference=False, length_normalize=True, beta=1.0),
}

OPTION_KEYS: Final = ("label_smoothing", "gamma_beta_ratio", "length_weight", "nll_weight")
TOP_KEYS: Final = ("name", "base", "beta", "length_normalize", *OPTION_KEYS, "uni", "ada")

UNI_DEFAULTS: Final[Mapping[str, Any]] = {
    # multimodal setting of the Uni-DPO authors' code; tau_good is on the scale of MM-RLHF's scores
    "eta": 0.7,
    "tau_ref": 2.0,
    "gamma": 3.0,
    "nll_lambda": 0.001,
    "tau_good": 2.5,
    "perf_mode": "stabilized",
    "perf_detach": False,
    "nll_margin": 0.0,
    "on_missing_score": "error",
}

ADA_DEFAULTS: Final[Mapping[str, Any]] = {
    # the stable form of the AdaDPO paper, by two secondary sources that agree: c_w = min(R, 2), c_l = 1
    "share": 1.0,
    "form": "power",
    "granularity": "token",
    "length_power": 1.0,  # read by granularity power only
    "alpha_w": 1.0,
    "alpha_l": 1.0,
    "target_ratio": 1.0,
    "use_reference": "auto",  # True exactly for bases with a reference
    "clip": 2.0,
    "clip_mode": "ceiling",
    "value_mode": "auto",
    "balance_perf": None,  # True exactly when Uni-DPO is on
}

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "perf_mode": ("stabilized", "focal", "none"),
    "on_missing_score": ("error", "neutral"),
    "granularity": ("token", "sequence", "geomean", "power"),
    "form": ("power", "sum"),
    "clip_mode": ("ceiling", "both"),
    "value_mode": ("auto", "scaled", "value_preserving"),
}

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "dpo": {"base": "dpo"},
    "simpo": {"base": "simpo"},
    "ipo": {"base": "ipo"},
    "hinge": {"base": "hinge"},
    "robust": {"base": "robust", "label_smoothing": 0.1},
    "rdpo": {"base": "rdpo"},
    "cpo": {"base": "cpo"},
    "orpo": {"base": "orpo"},
    "sft": {"base": "sft"},
    "uni_dpo": {"base": "dpo", "beta": 2.0, "length_normalize": True, "uni": {}},
    "adadpo": {"base": "dpo", "ada": {}},
    # ours: R shared evenly between the two answers, so that swapping them mirrors the loss
    "adadpo_split": {
        "base": "dpo",
        "ada": {"share": 0.5, "use_reference": False, "clip": 10.0, "clip_mode": "both"},
    },
    "uni_adadpo": {"base": "dpo", "beta": 2.0, "length_normalize": True, "uni": {}, "ada": {}},
}
