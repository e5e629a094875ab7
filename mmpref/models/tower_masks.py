"""Vision towers that look both ways whatever stands beside an image in a batch.

A tower's mask is left out where no patch is padding. Attention of transformers is then causal by what the layer says of
itself (``is_causal``), and Phi-4-multimodal's layers say what a language model's do: an image would be read from its
first patch to its last, or both ways where another image of the batch has padding.
"""

from __future__ import annotations

import inspect

from torch import nn
from transformers import PreTrainedModel

from mmpref.models.unwrap import submodule
from mmpref.processing.family import Family


def look_both_ways(model: nn.Module, family: Family) -> None:
    """Attention layers of towers that make a mask for both directions are not causal without one."""
    for path in family.paths_of("vision"):
        tower = submodule(model, path)
        for whole in () if tower is None else tower.modules():
            if isinstance(whole, PreTrainedModel) and _makes_mask_for_both(whole):
                for layer in whole.modules():
                    if getattr(layer, "is_causal", False) is True:
                        layer.is_causal = False


def _makes_mask_for_both(model: PreTrainedModel) -> bool:
    code = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    names = () if code is None else code.co_names
    return "create_bidirectional_mask" in names and "create_causal_mask" not in names
