"""The output head in tiles of the vocabulary, at the vocabularies of LLaVA and Qwen, against full logits in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmpref.losses import fused_logps
from mmpref.losses.logps import TILE_BYTES
from tests.gpu.device import DEVICE, ON_CPU, needs_cuda
from tests.plain_forward import relative

pytestmark = pytest.mark.gpu

TOKENS, HIDDEN = (24, 32) if ON_CPU else (512, 256)
TILE = 2**20 if ON_CPU else TILE_BYTES
VOCABULARIES = (32_000, 152_064)


def head(vocabulary: int, dtype: torch.dtype, *, trains: bool, tokens: int = TOKENS) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, the head's weight and targets; logits parallel over some twenty nats."""
    made = torch.Generator(DEVICE).manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN, generator=made, device=DEVICE).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, HIDDEN, generator=made, device=DEVICE) * 3 * HIDDEN**-0.5
    targets = torch.randint(vocabulary, (tokens,), generator=made, device=DEVICE)
    targets[:2] = torch.tensor([0, vocabulary - 1], device=DEVICE)
    return hidden, weight.to(dtype).requires_grad_(trains), targets


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes, those of one shape left out."""

    def __init__(self, but: torch.Size) -> None:
        super().__init__()
        self.but = but
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        is_new = all(ret.alias_info is None for ret in func._schema.returns)
        for made in out if isinstance(out, (tuple, list)) else [out]:
            if is_new and isinstance(made, Tensor) and made.shape != self.but:
                self.bytes = max(self.bytes, made.numel() * made.element_size())
        return out


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_tiles_give_what_full_logits_give(vocabulary: int, dtype: torch.dtype, trains: bool) -> None:
    hidden, weight, targets = head(vocabulary, dtype, trains=trains)
    upstream = torch.linspace(-1, 1, TOKENS, device=DEVICE)
    found = fused_logps(hidden, weight, targets, tile_bytes=TILE)
    (found * upstream).sum().backward()

    wide, wide_weight = (x.detach().float().requires_grad_(x.requires_grad) for x in (hidden, weight))
    want = (wide @ wide_weight.t()).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (want * upstream).sum().backward()
    assert float(want.detach().std()) > 1  # there is something to be wrong about
    assert float((found - want).abs().max()) < 1e-4
    share = 1e-4 if dtype == torch.float32 else 1e-2
    assert hidden.grad is not None
    assert relative(hidden.grad.float(), wide.grad) < share
    assert (weight.grad is not None) == trains
    if trains:
        assert relative(weight.grad.float(), wide_weight.grad) < share


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_no_operation_makes_a_row_of_the_vocabulary_for_every_token(vocabulary: int, trains: bool) -> None:
    hidden, weight, targets = head(vocabulary, torch.float32, trains=trains)
    with Largest(weight.shape) as made:  # which its gradient has
        fused_logps(hidden, weight, targets, tile_bytes=TILE).sum().backward()
    assert made.bytes <= TILE
    assert TOKENS * vocabulary * 2 > TILE  # half precision would not have hidden one
    with Largest(weight.shape) as full:
        (hidden @ weight.t()).log_softmax(-1).gather(1, targets[:, None]).sum().backward()
    assert full.bytes >= TOKENS * vocabulary * 4  # and this is how one is seen


@needs_cuda
@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_peak_of_memory_is_a_few_tiles(dtype: torch.dtype, trains: bool) -> None:
    tokens, vocabulary = 4096, VOCABULARIES[1]
    hidden, weight, targets = head(vocabulary, dtype, trains=trains, tokens=tokens)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fused_logps(hidden, weight, targets).sum().backward()
    peak = torch.cuda.max_memory_allocated() - before
    rows = tokens * HIDDEN * 4
    of_weight = weight.numel() * weight.element_size() if trains else 0
    assert peak < 8 * TILE_BYTES + 6 * rows + of_weight
    assert peak < tokens * vocabulary * 2 / 2  # far from logits of half precision, 1.2 GB
