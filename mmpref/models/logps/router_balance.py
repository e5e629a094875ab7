"""The load-balancing loss of mixture-of-experts routers, pair by pair.

transformers adds this loss inside a model's own training loss, which preference training does not use, so that it is
absent unless it is asked for (``model.router_aux_loss_coef``). Here the logits of routers are taken as the model's own
forward makes them, and the same formula (Switch Transformer, arXiv 2101.03961, equations 4 to 6, pooled over layers as
transformers pools them) is applied to the tokens of each pair: padding counts nothing, a prompt that stands in two rows
counts once, and one that several pairs share counts for each. A sum over pairs, so that micro-batches and accumulation
make no difference.

Shapes: B pairs, N rows, T tokens, E experts, M tokens of all pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmpref.errors import ConfigError
from mmpref.models.experts import experts_used
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch

KEY = "model.router_aux_loss_coef"


@dataclass(frozen=True, slots=True)
class Routers:
    """The routers of a model.

    Attributes:
        modules: in the order of the layers.
        index: where the logits stand in what a router gives; None where it gives nothing else.
        used: experts that a token is given to.
    """

    modules: tuple[nn.Module, ...]
    index: int | None
    used: int

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Inside, a list that takes the logits of every router that runs, with their graph.

        A layer that is checkpointed runs a second time in the backward pass, when this is over and nothing is taken.
        """
        found: list[Tensor] = []

        def take(_module: nn.Module, _given: Any, out: Any) -> None:
            found.append(out if self.index is None or isinstance(out, Tensor) else out[self.index])

        handles = [module.register_forward_hook(take) for module in self.modules]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


def find_routers(model: nn.Module) -> Routers:
    """The routers of a model whose balance can be trained.

    Raises:
        ConfigError: a model without routers, or one for which transformers has no load-balancing loss; says which.
    """
    base = base_model(model)
    config: Any = base.config
    kind = getattr(config, "model_type", type(base).__name__)
    off = f"write `{KEY}=0`"
    recorders = [
        recorder
        for module in base.modules()
        if isinstance(module, PreTrainedModel)
        for recorder in _recorders(module)
        if any(isinstance(inner, recorder.target_class) for inner in base.modules())
    ]
    if not recorders:
        raise ConfigError(
            f"{KEY} is for mixture-of-experts models, and a '{kind}' model has no routers that this release of "
            f"transformers ({transformers.__version__}) gives the logits of; {off}"
        )
    classes = {recorder.target_class for recorder in recorders}
    if not hasattr(sys.modules[type(base).__module__], "load_balancing_loss_func"):
        raise ConfigError(
            f"{KEY} is not possible: transformers has no load-balancing loss for '{kind}' models, whose routers are "
            f"balanced in another way or were not trained with one; {off}"
        )
    used = experts_used(config)
    if len(classes) > 1 or used is None:
        what = "routers of several kinds" if len(classes) > 1 else "no number of experts for a token in its config"
        raise ConfigError(f"{KEY} is not possible: a '{kind}' model has {what}; {off}")
    modules = tuple(module for module in base.modules() if isinstance(module, tuple(classes)))
    return Routers(modules, recorders[0].index, used)


def balance_of_pairs(logits: Sequence[Tensor], batch: PairBatch, *, used: int) -> Tensor:
    """The load-balancing loss of every pair's own tokens: [B] float32; 1 or so where experts are used alike and one is.

    Args:
        logits: of each router, [N * T, E] or [N, T, E].
        batch: says which pair each token counts for.
        used: experts that a token is given to.

    Raises:
        ConfigError: routers that were not run on every token.
    """
    if batch.pair_tokens is None:
        raise ValueError("the batch does not say which tokens its pairs have: make it with a PairCollator")
    (places, pairs), count = batch.pair_tokens, len(batch)
    shares: Tensor | None = None
    for of_layer in logits:
        rows = of_layer.reshape(-1, of_layer.shape[-1])
        if rows.shape[0] != batch.num_tokens:
            raise ConfigError(
                f"{KEY} is not possible: a router of this model ran on {rows.shape[0]} of {batch.num_tokens} tokens; "
                f"write `{KEY}=0`"
            )
        chances = torch.softmax(rows.float(), dim=-1)
        chosen = torch.zeros_like(chances).scatter_(1, chances.topk(used, dim=-1).indices, 1.0)
        both = torch.cat([chances, chosen], dim=1)
        sums = both.new_zeros(count, both.shape[1]).index_add(0, pairs, both[places])
        shares = sums if shares is None else shares + sums
    if shares is None:
        raise ConfigError(f"{KEY} is not possible: no router of this model was run; write `{KEY}=0`")
    tokens = torch.zeros(count, device=pairs.device).index_add(0, pairs, torch.ones_like(pairs, dtype=torch.float32))
    chances, chosen = (shares / (len(logits) * tokens[:, None].clamp(min=1))).chunk(2, dim=1)
    return chances.shape[1] * (chances * chosen.detach()).sum(dim=1)


def _recorders(module: PreTrainedModel) -> list[Any]:
    """What transformers says of where a model's router logits come from."""
    found: Any = (getattr(type(module), "_can_record_outputs", None) or {}).get("router_logits")
    found = found if isinstance(found, list) else [found] if found is not None else []
    return [one for one in found if isinstance(getattr(one, "target_class", None), type)]
