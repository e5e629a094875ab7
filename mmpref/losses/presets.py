"""The keys of the ``loss:`` section: what each base has, the defaults and where they come from. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ELSEWHERE: Final[Mapping[str, str]] = {
    "symmpo": "SymMPO's rows become weighted pairs when they are read, which `loss.name=dpo` trains; "
    "`'loss={name: dpo, anchor: {chosen: 1}}'` adds anchors",
    "re_align": "Re-Align's loss is `'loss={name: dpo, image: {weight: 1}}' data.other_image=column`",
    "chair_dpo": "CHAIR-DPO's loss is `loss.name=dpo loss.beta=0.2`",
    "kto_pair": "`loss.name=kto` takes pairs as well as single answers",
    **dict.fromkeys(
        ("opa_dpo", "v_dpo", "tars", "halva"), "its terms cannot be expressed here, and docs/image_losses.md says why"
    ),
}
"""Methods by names that people look for, which are no presets: what to write for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """What the settings need to know of a base."""

    needs_reference: bool
    length_normalize: bool  # default when the key is not given
    beta: float
    options: Mapping[str, float] = field(default_factory=dict)  # keys beside beta and length_normalize, with defaults


_PAIR_TERMS: Final[Mapping[str, float]] = {"nll_weight": 0.0, "pair_weight": 1.0}

BASES: Final[Mapping[str, BaseFacts]] = {
    "dpo": BaseFacts(
        needs_reference=True, length_normalize=False, beta=0.1, options={"label_smoothing": 0.0, **_PAIR_TERMS}
    ),
    "robust": BaseFacts(
        needs_reference=True, length_normalize=False, beta=0.1, options={"label_smoothing": 0.0, **_PAIR_TERMS}
    ),
    "hinge": BaseFacts(needs_reference=True, length_normalize=False, beta=0.1, options=_PAIR_TERMS),
    "ipo": BaseFacts(needs_reference=True, length_normalize=True, beta=0.1, options=_PAIR_TERMS),
    "rdpo": BaseFacts(
        needs_reference=True,
        length_normalize=False,
        beta=0.1,
        options={"label_smoothing": 0.0, "length_weight": 0.01, **_PAIR_TERMS},
    ),
    "simpo": BaseFacts(
        needs_reference=False,
        length_normalize=True,
        beta=2.0,
        options={"label_smoothing": 0.0, "gamma_beta_ratio": 0.5, **_PAIR_TERMS},
    ),
    "cpo": BaseFacts(
        needs_reference=False,
        length_normalize=False,
        beta=0.1,
        options={"label_smoothing": 0.0, "nll_weight": 1.0, "pair_weight": 1.0},
    ),
    # its nll_weight is 1 by definition: beta weighs the odds term
    "orpo": BaseFacts(needs_reference=False, length_normalize=True, beta=0.1, options={"pair_weight": 1.0}),
    "sft": BaseFacts(needs_reference=False, length_normalize=True, beta=1.0),
    "kto": BaseFacts(needs_reference=True, length_normalize=False, beta=0.1),
}

SINGLE_ANSWER_BASES: Final = ("sft", "kto")
"""Bases that look at one answer: nothing that compares two works on them."""

OPTION_KEYS: Final = ("label_smoothing", "gamma_beta_ratio", "length_weight", "nll_weight", "pair_weight")
TERM_SECTIONS: Final = ("image", "anchor", "kto", "token_weights")
TOP_KEYS: Final = ("name", "base", "beta", "length_normalize", *OPTION_KEYS, "uni", "ada", *TERM_SECTIONS)

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

IMAGE_DEFAULTS: Final[Mapping[str, Any]] = {
    # mDPO's code: the image pair counts as much as the text pair, with the same beta
    "weight": 1.0,
    "beta": None,  # null: loss.beta
    "combine": "own",
    "detach": False,
    "uni": "none",
}

ANCHOR_DEFAULTS: Final[Mapping[str, Any]] = {
    "chosen": 0.0,
    "rejected": 0.0,
    "other": 0.0,
    "beta": None,  # null: loss.beta
    "delta": 0.0,
}

KTO_DEFAULTS: Final[Mapping[str, Any]] = {"desirable_weight": 1.0, "undesirable_weight": 1.0}

TOKEN_WEIGHTS_DEFAULTS: Final[Mapping[str, Any]] = {
    # CHiP's factor for changed tokens; blocks shorter than 3 tokens count as changed in all the published code
    "rule": "none",
    "changed": 4.0,
    "same": 1.0,
    "min_match": 3,
    "insertions": False,
    "eos": "same",
    "autojunk": True,
}

SECTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "uni": UNI_DEFAULTS,
    "ada": ADA_DEFAULTS,
    "image": IMAGE_DEFAULTS,
    "anchor": ANCHOR_DEFAULTS,
    "kto": KTO_DEFAULTS,
    "token_weights": TOKEN_WEIGHTS_DEFAULTS,
}

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "perf_mode": ("stabilized", "focal", "none"),
    "on_missing_score": ("error", "neutral"),
    "granularity": ("token", "sequence", "geomean", "power"),
    "form": ("power", "sum"),
    "clip_mode": ("ceiling", "both"),
    "value_mode": ("auto", "scaled", "value_preserving"),
    "combine": ("own", "joint"),
    "image_uni": ("none", "own"),
    "rule": ("none", "diff", "column"),
    "eos": ("same", "rule"),
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
    "kto": {"base": "kto"},
    # the published codes, where they can be had without their faults (docs/losses.md)
    "mdpo": {"base": "dpo", "image": {}, "anchor": {"chosen": 1.0}},
    "chip": {"base": "dpo", "image": {"combine": "joint"}},
    "ddpo": {"base": "dpo", "token_weights": {"rule": "diff"}},
    "ddpo_masked": {"base": "dpo", "token_weights": {"rule": "diff", "changed": 1.0, "same": 0.0}},
    "hsa": {"base": "dpo", "token_weights": {"rule": "column"}},
    "mpo": {
        "base": "dpo",
        "pair_weight": 0.8,
        "anchor": {"chosen": 0.2, "rejected": 0.2, "delta": "running"},
        "nll_weight": 1.0,
    },
}
