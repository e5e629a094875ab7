"""The output head as a producer of log-probs: no row of the vocabulary leaves it.

While :func:`logps_in_place_of_logits` is open, the model's own output head picks the places that predict answer tokens
and returns the log-probs of these tokens. It does so inside the model's forward, because wrappers of distributed
training prepare the head's weight there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmpref.losses.logps import fused_logps
from mmpref.models.unwrap import base_model

# what models of transformers do to logits after the head; any of it set means the head alone is not the whole truth
_AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "logits_soft_cap",
    "output_logit_soft_cap",
    "logits_softcap",
    "logit_scale",
    "logits_scaling",
    "output_multiplier",
    "lm_head_multiplier",
)


def plain_head(model: nn.Module) -> nn.Linear | None:
    """The output head, if it is a linear layer whose products are the logits; None for anything else."""
    inner: Any = base_model(model)
    head = inner.get_output_embeddings()
    if type(head) is not nn.Linear or not head.weight.is_floating_point():  # adapted or quantised heads are subclasses
        return None
    configs = (inner.config, inner.config.get_text_config())
    changed = any(getattr(config, name, None) not in (None, 1.0) for config in configs for name in _AFTER_THE_HEAD)
    return None if changed else head


@contextmanager
def logps_in_place_of_logits(head: nn.Linear, predicts: Tensor, targets: Tensor) -> Iterator[None]:
    """Inside, ``model(...).logits`` is [1, 1, K]: log p(target) at each predicting place.

    Args:
        head: from :func:`plain_head`.
        predicts: [K] places in the flattened [N * T] tokens.
        targets: [K] token ids.
    """

    def forward(hidden: Tensor) -> Tensor:
        picked = hidden.reshape(-1, hidden.shape[-1])[predicts]
        if torch.is_autocast_enabled(picked.device.type):
            picked = picked.to(torch.get_autocast_dtype(picked.device.type))
        return fused_logps(picked, head.weight, targets, head.bias)[None, None]

    before: Any = head.__dict__.get("forward")
    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        if before is None:
            del head.__dict__["forward"]
        else:
            head.forward = before  # type: ignore[method-assign]
