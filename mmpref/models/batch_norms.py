"""Batch norms keep the statistics that they were trained with.

In training mode they would take those of the batch at hand: the log-probs of a pair would change with the other images
of its batch and between policy and reference, and running statistics would move in a tower that is frozen, which no
adapter saves. Towers of convolutions have them (FastVLM's).
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def keep_statistics(model: nn.Module) -> None:
    """Every batch norm with statistics of its own stays in eval mode, whatever mode the model is put in."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.eval()
            module.train = _stay  # type: ignore[method-assign, assignment]


def _stay(mode: bool = True) -> None:
    """In place of a batch norm's ``train``."""
