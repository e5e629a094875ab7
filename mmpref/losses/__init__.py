"""The loss core: log-probs of preference pairs in, one loss per pair out. Depends on torch only.

Names are loaded on first use, so that settings can be read and checked without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmpref.losses.contract import LossOutput, NonFiniteInputError, PairLogps
    from mmpref.losses.logps import fused_logps, selected_logps, sum_by_mask, sum_logps
    from mmpref.losses.objective import Objective, build_objective
    from mmpref.losses.settings import ScoreScaleWarning, SuspiciousLossWarning, resolve
    from mmpref.losses.tau_good import resolve_tau_good
    from mmpref.losses.vocab_tiles import LogitTransform

_HOME = {
    "LogitTransform": "vocab_tiles",
    "LossOutput": "contract",
    "NonFiniteInputError": "contract",
    "PairLogps": "contract",
    "fused_logps": "logps",
    "selected_logps": "logps",
    "sum_by_mask": "logps",
    "sum_logps": "logps",
    "Objective": "objective",
    "build_objective": "objective",
    "ScoreScaleWarning": "settings",
    "SuspiciousLossWarning": "settings",
    "resolve": "settings",
    "resolve_tau_good": "tau_good",
}

__all__ = [
    "LogitTransform",
    "LossOutput",
    "NonFiniteInputError",
    "Objective",
    "PairLogps",
    "ScoreScaleWarning",
    "SuspiciousLossWarning",
    "build_objective",
    "fused_logps",
    "resolve",
    "resolve_tau_good",
    "selected_logps",
    "sum_by_mask",
    "sum_logps",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
