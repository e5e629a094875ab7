"""Sharded weights and optimizer states: how they are divided, how that is verified, and how they are saved and joined.

FSDP2 (``torch.distributed.fsdp.fully_shard``) by accelerate; DeepSpeed ZeRO-3 gathers by its own means.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import DistributedType, PartialState
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from mmpref.errors import CheckpointError, DistributedError
from mmpref.models.adapters.weights import has_adapter, whole_numel
from mmpref.models.unwrap import base_model
from mmpref.training.parallel.strategy import Strategy
from mmpref.training.parallel.world import raise_if_partner_lost
from mmpref.training.parallel.zero import gathered, prove_divided

_TRAINED = StateDictOptions(ignore_frozen_params=True)


def let_cpus_shard() -> None:
    """On the CPU accelerate silently uses DDP where FSDP2 was asked for, because it looks for a GPU's process group.

    torch itself shards on the CPU, so all that is needed is that accelerate takes these processes for GPU processes.
    """
    state = PartialState()
    if state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def layer_classes(model: nn.Module) -> list[str]:
    """Class names of the repeated blocks, decoder layers and vision blocks: each becomes a unit that is sharded.

    The lists that models of transformers carry for this purpose leave out towers, or name classes they do not have.
    """
    found: dict[str, None] = {}

    def look(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                kinds = [type(block) for block in child if any(True for _ in block.parameters())]
                found.update(dict.fromkeys(kind.__name__ for kind in kinds))
            else:
                look(child)

    look(base_model(model))
    return list(found)


def prove_sharded(model: nn.Module, strategy: Strategy) -> str:
    """Verify that a model was divided as asked, and describe the share of this process.

    Raises:
        DistributedError: FSDP2 or DeepSpeed was asked for and the weights are not its.
    """
    as_shards(model)
    here = total = size = 0
    for parameter in model.parameters():
        # ZeRO-3 leaves empty tensors behind, with this rank's part beside them
        local = parameter.to_local() if isinstance(parameter, DTensor) else getattr(parameter, "ds_tensor", parameter)
        size += local.numel() * local.element_size()
        if parameter.requires_grad:
            here, total = here + local.numel(), total + whole_numel(parameter)
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    if strategy == "fsdp2" and not (isinstance(model, FSDPModule) and sharded):
        raise DistributedError(
            f"FSDP2 was asked for, and accelerate made {type(model).__name__} of the model, whose weights are whole on "
            "every rank; look at the launch profile (fsdp_version: 2), or use --launch fsdp2"
        )
    if strategy in ("zero2", "zero3"):
        here = prove_divided(model, int(strategy[-1]))
    optimizer = "the optimizer's state of " if strategy == "zero2" else ""
    return f"{size / 2**20:,.1f} MiB of weights, {optimizer}{here:,} of the {total:,} numbers that train"


def shard_like(accelerator: Accelerator, model: nn.Module, strategy: Strategy) -> nn.Module:
    """A second model divided as the policy is.

    Raises:
        DistributedError: the strategy cannot.
    """
    if strategy != "fsdp2":
        raise DistributedError(
            f"a frozen copy of the policy is not sharded under {strategy}; use reference.kind=cache, which keeps no "
            "second model, or --launch fsdp2"
        )
    accelerator.state.fsdp_plugin.set_auto_wrap_policy(model)
    prepared: nn.Module = fsdp2_prepare_model(accelerator, model)
    return prepared


def as_shards(model: nn.Module) -> None:
    """Every parameter as the shard that gets its gradient; a forward without backward leaves some of them whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight that trains, whole and on the CPU, by its own name. All ranks must call it together."""
    return {name: whole(p) for name, p in model.named_parameters() if p.requires_grad}


def saved_weights(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """What ``save_pretrained`` writes, whole and on the CPU. All ranks must call it together.

    Args:
        model: sharded; of one with an adapter, what trains is all that is written.
        keep: False for a rank that only takes part; it gets {}.
    """
    as_shards(model)
    if has_adapter(model):
        entries = {name: p for name, p in model.named_parameters() if p.requires_grad}
    else:  # of weights that are tied one stays: whole tensors are copies, and would be written twice
        tied = set(getattr(base_model(model), "all_tied_weights_keys", None) or {})
        kept = model.state_dict(keep_vars=True)  # ZeRO-3 knows its weights by the parameters themselves
        entries = {name: value for name, value in kept.items() if name not in tied}
    found = {}
    for name, value in entries.items():
        tensor = whole(value)
        if keep:
            found[name] = tensor
    return found


def whole(tensor: Tensor) -> Tensor:
    """A weight as one plain tensor on the CPU; a collective where it is sharded."""
    found = tensor.detach()
    if isinstance(found, DTensor):
        found = found.full_tensor()
    elif hasattr(tensor, "ds_id"):
        with gathered([tensor]):
            found = tensor.detach().clone()
    return found.cpu().contiguous()


def copy_into(parameter: Tensor, value: Tensor) -> None:
    """Write a whole tensor into a weight, of which this rank may have only a part."""
    if isinstance(parameter, DTensor):
        like = value.to(device=parameter.device_mesh.device_type, dtype=parameter.dtype)
        part = distribute_tensor(like, parameter.device_mesh, parameter.placements)
        parameter.copy_(part.to(parameter.device))
    elif hasattr(parameter, "ds_id"):
        with gathered([parameter], modifier_rank=0):
            parameter.copy_(value)
    else:
        parameter.copy_(value)


# ---- checkpoints --------------------------------------------------------------------------------------------------


def save_sharded(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Every rank writes its own part of what trains and of the optimizer's state. All ranks must call it together.

    Raises:
        CheckpointError: a part could not be written; on all ranks.
    """
    weights, states = get_state_dict(model, optimizer, options=_TRAINED)
    try:
        save({"model": weights, "optim": states}, checkpoint_id=folder)
    except (OSError, RuntimeError, CheckpointException) as err:
        raise_if_partner_lost(err)
        raise CheckpointError(f"{folder} was not written: {_reason(err)}") from err


def load_sharded(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read :func:`save_sharded`'s folder into any model and optimizer with the same weights, sharded or not.

    Raises:
        CheckpointError: it has other weights, or cannot be read.
    """
    weights, states = get_state_dict(model, optimizer, options=_TRAINED)
    both: dict[str, Any] = {"model": weights, "optim": states}
    try:
        load(both, checkpoint_id=folder)
    except (OSError, RuntimeError, ValueError, KeyError, CheckpointException) as err:
        raise_if_partner_lost(err)
        raise CheckpointError(f"{folder} cannot be read into what trains now: {_reason(err)}") from err
    options = StateDictOptions(ignore_frozen_params=True, strict=False)
    set_state_dict(model, optimizer, model_state_dict=both["model"], optim_state_dict=both["optim"], options=options)


def load_sharded_weights(model: nn.Module, folder: Path) -> None:
    """:func:`load_sharded` without an optimizer.

    Raises:
        CheckpointError: it has other weights, or cannot be read.
    """
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    both: dict[str, Any] = {"model": {name: value.detach() for name, value in weights.items()}}
    try:
        load(both, checkpoint_id=folder)  # in place
    except (OSError, RuntimeError, ValueError, KeyError, CheckpointException) as err:
        raise_if_partner_lost(err)
        raise CheckpointError(f"{folder} cannot be read into what trains now: {_reason(err)}") from err


def load_whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, states: Mapping[str, Any]) -> None:
    """Divide the ``state_dict()`` of an optimizer that was not sharded among the ranks of a sharded one."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups, named = [], {}
    for own, stored in zip(optimizer.param_groups, states["param_groups"], strict=True):
        of_group = [names[id(parameter)] for parameter in own["params"]]
        groups.append({**stored, "params": of_group})
        for name, number in zip(of_group, stored["params"], strict=True):
            if number in states["state"]:
                named[name] = states["state"][number]
    options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)
    set_optimizer_state_dict(model, optimizer, {"state": named, "param_groups": groups}, options=options)


def _reason(err: BaseException) -> str:
    return " ".join(str(err).split())[:400]
