"""Log-probs of answer tokens, in float32, without a float32 copy of all logits; sums and counts per answer.

Two ways in: from logits that exist already (``selected_logps``), and from hidden states, where no row of the vocabulary
is ever kept (``fused_logps``).

Shapes: N answer tokens (those the loss counts, of any number of answers), V vocabulary, H hidden size, B answers.
Targets are token ids in [0, V).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmpref.errors import ConfigError, DataError
from mmpref.losses.vocab_tiles import HeadSpec, LogitTransform, RecomputedHead, UnitGradientHead

TILE_BYTES = 32 * 2**20
_PLAIN = LogitTransform()


@dataclass(frozen=True, slots=True, eq=False)
class AnswerSums:
    """Per answer: the sum of its token log-probs, and how many tokens were counted. Both [B]."""

    sums: Tensor
    counts: Tensor  # int64


def selected_logps(logits: Tensor, targets: Tensor, *, tile_bytes: int = TILE_BYTES) -> Tensor:
    """log softmax(logits)[target] per row -> [N]; float32, or float64 for float64 logits.

    The logits are read in chunks of rows of at most ``tile_bytes``, forward and backward, so that besides the logits
    themselves and their gradient (both in the logits' dtype) only one chunk exists in float32.

    Args:
        logits: [N, V], any floating dtype.
        targets: [N], integer.
        tile_bytes: size of one chunk. At least one row is read at a time.
    """
    _check_logits(logits, targets)
    return _SelectedLogps.apply(logits, targets, tile_bytes)  # type: ignore[no-any-return]


def _check_logits(logits: Tensor, targets: Tensor) -> None:
    if logits.dim() != 2 or targets.shape != logits.shape[:1]:
        raise DataError(f"logits must be [N, V] with targets [N], got {tuple(logits.shape)} and {tuple(targets.shape)}")
    _check_targets(targets, logits.shape[1], logits)


def _check_targets(targets: Tensor, vocabulary: int, where: Tensor) -> None:
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise DataError(f"targets must be integer token ids, got {targets.dtype}")
    if targets.device != where.device:
        raise DataError(f"targets are on {targets.device}, the model's output is on {where.device}")
    # on an accelerator reading the ids would wait for it; gather reports an id out of range by itself there
    if targets.device.type == "cpu" and targets.numel():
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= vocabulary:
            raise DataError(
                f"targets must be token ids in [0, {vocabulary}), got {low if low < 0 else high}; "
                "select the counted answer tokens before asking for their log-probs"
            )


class _SelectedLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets, tile_bytes):  # type: ignore[no-untyped-def]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        rows = max(1, tile_bytes // (dtype.itemsize * max(1, logits.shape[1])))
        out = torch.empty(logits.shape[0], dtype=dtype, device=logits.device)
        log_sums = torch.empty_like(out)
        for at in range(0, logits.shape[0], rows):
            part = slice(at, at + rows)
            chunk = logits[part].to(dtype)
            torch.logsumexp(chunk, -1, out=log_sums[part])
            out[part] = chunk.gather(1, targets[part, None])[:, 0] - log_sums[part]
        ctx.save_for_backward(logits, targets, log_sums)
        ctx.rows = rows
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        logits, targets, log_sums = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for at in range(0, logits.shape[0], ctx.rows):
            part = slice(at, at + ctx.rows)
            # d logp / d logits = onehot - softmax
            chunk = logits[part].to(log_sums.dtype, copy=True).sub_(log_sums[part, None]).exp_()
            chunk.mul_(-upstream[part, None]).scatter_add_(1, targets[part, None], upstream[part, None])
            grad[part] = chunk
        return grad, None, None


def fused_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    tile_bytes: int = TILE_BYTES,
    head_trains: bool | None = None,
    transform: LogitTransform = _PLAIN,
) -> Tensor:
    """log softmax(hidden @ weight.T + bias)[target] per row -> [N], without a row of the vocabulary in memory.

    The vocabulary is walked in tiles with a running maximum and sum. Where the head is frozen, every loss in
    mmpref sends one scalar per token back into its log-prob, so d logp / d hidden is formed in the same walk and
    backward is a multiplication: two matrix products per tile in all. Where the head trains, backward walks the tiles
    again for the gradients of hidden, weight and bias. Neither can be differentiated twice.

    float32 accumulation whatever the input and the autocast; float64 stays float64.

    Args:
        hidden: [N, H], last hidden states at the positions that predict the targets.
        weight: [V, H] of the output head.
        targets: [N], integer.
        bias: [V] or None.
        tile_bytes: size of one tile of logits.
        head_trains: whether gradients of weight and bias are wanted; None asks the tensors.
        transform: what the model does to the products before they are its logits.
    """
    _check_head(hidden, weight, targets, bias)
    wants_head = weight.requires_grad or (bias is not None and bias.requires_grad)
    if head_trains is False and wants_head and torch.is_grad_enabled():
        raise ConfigError("head_trains=False, but the output head requires a gradient: freeze it or leave the key out")
    spec = HeadSpec(tile_bytes=tile_bytes, scale=transform.scale, softcap=transform.softcap)
    with torch.autocast(device_type=hidden.device.type, enabled=False):
        if torch.is_grad_enabled() and (wants_head if head_trains is None else head_trains):
            return RecomputedHead.apply(hidden, weight, targets, bias, spec)  # type: ignore[no-any-return]
        needs_grad = torch.is_grad_enabled() and hidden.requires_grad
        return UnitGradientHead.apply(hidden, weight, targets, bias, spec, needs_grad)  # type: ignore[no-any-return]


def _check_head(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise DataError(
            f"hidden must be [N, H] and weight [V, H], got {tuple(hidden.shape)} and {tuple(weight.shape)}; "
            "a packed (quantised) head has to be unpacked first"
        )
    if not (hidden.is_floating_point() and weight.is_floating_point()):
        raise DataError(f"hidden and weight must be floating point, got {hidden.dtype} and {weight.dtype}")
    if targets.shape != hidden.shape[:1]:
        raise DataError(f"targets must be [N] = {tuple(hidden.shape[:1])}, got {tuple(targets.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise DataError(f"bias must be [V] = {tuple(weight.shape[:1])}, got {tuple(bias.shape)}")
    _check_targets(targets, weight.shape[0], hidden)


def sum_logps(logps: Tensor, lengths: Sequence[int]) -> AnswerSums:
    """Sums and counts of answers that lie one after the other in ``logps``.

    Args:
        logps: [N] token log-probs, answer after answer.
        lengths: B host integers, the tokens of each answer; their sum is N.
    """
    if logps.dim() != 1:
        raise DataError(f"logps must be [N], one number per answer token, got shape {tuple(logps.shape)}")
    lengths = [int(n) for n in lengths]
    if sum(lengths) != logps.shape[0] or any(n < 0 for n in lengths):
        raise DataError(f"lengths {lengths} add up to {sum(lengths)}, but there are {logps.shape[0]} token log-probs")
    if empty := [i for i, n in enumerate(lengths) if n == 0]:
        raise DataError(f"answers {empty} have no counted token")
    wide = logps.to(torch.promote_types(logps.dtype, torch.float32))
    sums = torch.stack([part.sum() for part in wide.split(lengths)]) if lengths else wide.new_zeros(0)
    return AnswerSums(sums=sums, counts=torch.tensor(lengths, dtype=torch.int64, device=logps.device))


def sum_by_mask(logps: Tensor, mask: Tensor) -> AnswerSums:
    """Sums and counts of answers that lie in padded rows.

    Args:
        logps: [B, T] token log-probs; what stands at uncounted positions does not matter, not even NaN.
        mask: [B, T], nonzero where a token counts.
    """
    if logps.dim() != 2 or mask.shape != logps.shape:
        raise DataError(f"logps and mask must both be [B, T], got {tuple(logps.shape)} and {tuple(mask.shape)}")
    counted = mask != 0
    wide = logps.to(torch.promote_types(logps.dtype, torch.float32))
    sums = torch.where(counted, wide, torch.zeros_like(wide)).sum(-1)
    return AnswerSums(sums=sums, counts=counted.sum(-1))
