"""The weights and gradients of the losses as curves over a margin, in numpy; training's own are in ``mmpref.losses``.

Shapes: every array is [N]. Letters: S an answer's score, u its mean log-prob (its sum where the loss is on sums), h its
log-ratio to the reference, reduced like u; Delta = beta (h_w - h_l), z = beta (u_w - u_l) - tau_ref.
"""

from __future__ import annotations

import numpy as np

from mmpref.statistics import Array


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), finite at both ends. [N] -> [N]."""
    value: Array = np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=np.float64)))
    return value


def softplus(x: Array) -> Array:
    """log(1 + e^x). [N] -> [N]."""
    value: Array = np.logaddexp(0.0, np.asarray(x, dtype=np.float64))
    return value


def quality_weight(score_margin: Array, eta: float) -> Array:
    """w_qual = sigmoid(eta (S_w - S_l)) of Uni-DPO (figure 1 of the paper). [N] -> [N]."""
    return sigmoid(eta * np.asarray(score_margin, dtype=np.float64))


def score_margin_of(quality: Array, eta: float) -> Array:
    """S_w - S_l of the w_qual that came of it; NaN where w_qual is 0 or 1. [N] -> [N]."""
    weight = np.asarray(quality, dtype=np.float64)
    inside = np.where((weight > 0) & (weight < 1), weight, np.nan)
    value: Array = (np.log(inside) - np.log1p(-inside)) / eta
    return value


def performance_weight(z: Array, gamma: float) -> Array:
    """w_perf = [1 - sigmoid(z)]^gamma of Uni-DPO (figure 1 of the paper), in log space. [N] -> [N]."""
    value: Array = np.exp(-gamma * softplus(z))
    return value


def loss_of_margin(delta: Array, smoothing: float = 0.0) -> Array:
    """-(1 - e) log sigmoid(Delta) - e log sigmoid(-Delta): DPO (arXiv 2305.18290, eq. 7) with label smoothing e."""
    value: Array = (1 - smoothing) * softplus(-delta) + smoothing * softplus(delta)
    return value


def gradient_of_margin(delta: Array, smoothing: float = 0.0) -> Array:
    """|d loss / d Delta| of :func:`loss_of_margin`: sigmoid(-Delta) without smoothing. [N] -> [N]."""
    value: Array = np.abs((1 - smoothing) * sigmoid(-delta) - smoothing * sigmoid(delta))
    return value


def weighted_gradient(delta: Array, z: Array, gamma: float, *, smoothing: float = 0.0, detach: bool = False) -> Array:
    """|d (w_perf(z) loss(Delta)) / d margin| where z grows with Delta: what figure 4a of the Uni-DPO paper draws.

    w_perf [ sigmoid(-Delta) + gamma sigmoid(z) softplus(-Delta) ]; the second term is the gradient through the weight.
    ``z`` is Delta for the focal form, beta (u_w - u_l) - tau_ref for the stabilised one.

    Args:
        delta: margins, [N].
        z: the weight's argument at each, [N].
        detach: the weight has no gradient (``loss.uni.perf_detach``): the first term alone.
    """
    direct = (1 - smoothing) * sigmoid(-delta) - smoothing * sigmoid(delta)
    through = 0.0 if detach else gamma * sigmoid(z) * loss_of_margin(delta, smoothing)
    value: Array = np.abs(performance_weight(z, gamma) * (direct + through))
    return value
