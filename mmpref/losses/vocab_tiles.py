"""Log-probs of tokens straight from hidden states, walking the vocabulary in tiles.

With logits z = cap tanh(scale (h w + b) / cap) and p = softmax(z):
    logp_t         = z_y - logsumexp(z)
    d logp_t / dh  = scale ( d_y w_y - sum_v p_v d_v w_v ),   d_v = 1 - (z_v / cap)^2, or 1 without a cap

Shapes: N tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmpref.errors import ConfigError

# The narrowest tile, and what every width is a multiple of: narrower ones waste the matrix product (many tokens are
# split into rows instead), and rows of a tile that begin at odd places cost a GPU its fast kernels.
MIN_COLUMNS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitTransform:
    """What a model does to the products h w + b before they are its logits.

    Args:
        scale: multiplies them.
        softcap: c of c tanh(logits / c), after the scale; None = none.
    """

    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.softcap is not None and self.softcap <= 0:
            raise ConfigError(f"softcap must be > 0 or None, got {self.softcap}")


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """How the head makes logits, and how much of them may exist at once."""

    tile_bytes: int
    scale: float
    softcap: float | None


def _work_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype results and sums are kept in."""
    both = torch.promote_types(hidden.dtype, weight.dtype)
    return torch.promote_types(both, torch.float32)


def _factor_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of the factors of a matrix product. GPUs multiply in half precision and add up in float32; elsewhere
    the factors are widened first.
    """
    work = _work_dtype(hidden, weight)
    # a GPU has no product of half-precision factors with float64 sums
    half = hidden.dtype in (torch.bfloat16, torch.float16) and work == torch.float32
    return hidden.dtype if hidden.is_cuda and half else work


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b with sums and result in ``dtype``."""
    return torch.mm(a, b) if a.dtype == dtype else torch.mm(a, b, out_dtype=dtype)


def _put_product(into: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    """into = a @ b, summed in ``dtype`` and rounded once; whatever stood there is not read."""
    if into.dtype == dtype:
        torch.mm(a, b, out=into) if a.dtype == dtype else torch.mm(a, b, out_dtype=dtype, out=into)
    elif into.dtype == a.dtype and a.shape[1] <= a.shape[0]:
        # a GPU sums in float32 whatever it returns, but for long sums that it splits and adds up in the result's dtype
        torch.mm(a, b, out=into)
    else:
        into.copy_(_product(a, b, dtype))


def _add_product(into: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    """into += a @ b, summed in ``dtype``; without a temporary where all three share it.

    torch.addmm has an ``out_dtype`` as well, which torch's releases did not always take with a float32 ``into``.
    """
    if into.dtype == a.dtype == dtype:
        into.addmm_(a, b)
    else:
        into.add_(_product(a, b, dtype))


class _Tiles:
    """The logits of one block of rows, tile after tile."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, spec: HeadSpec) -> None:
        self.dtype = _work_dtype(hidden, weight)
        self.factor = _factor_dtype(hidden, weight)
        self.hidden, self.weight, self.bias, self.spec = hidden.to(self.factor), weight, bias, spec
        self.columns = _columns(weight.shape[0], spec.tile_bytes // (self.dtype.itemsize * max(1, hidden.shape[0])))

    def parts(self) -> Iterator[slice]:
        for at in range(0, self.weight.shape[0], self.columns):
            yield slice(at, min(at + self.columns, self.weight.shape[0]))

    def rows_of(self, part: slice) -> Tensor:
        return self.weight[part].to(self.factor)

    def logits(self, part: slice, rows: Tensor) -> Tensor:
        z = _product(self.hidden, rows.t(), self.dtype)
        return self.finish(z, None if self.bias is None else self.bias[part])

    def target_logits(self, targets: Tensor, target_rows: Tensor) -> Tensor:
        z = (self.hidden.to(self.dtype) * target_rows).sum(-1)
        return self.finish(z, None if self.bias is None else self.bias[targets])

    def finish(self, z: Tensor, bias: Tensor | None) -> Tensor:
        """Products to logits, in place."""
        if bias is not None:
            z.add_(bias.to(self.dtype))
        if self.spec.scale != 1.0:
            z.mul_(self.spec.scale)
        if self.spec.softcap is not None:
            z.div_(self.spec.softcap).tanh_().mul_(self.spec.softcap)
        return z

    def cap_slope(self, z: Tensor) -> Tensor | None:
        """d_v."""
        return None if self.spec.softcap is None else 1.0 - (z / self.spec.softcap).square()


def _columns(vocabulary: int, most: int) -> int:
    """The width of a tile: as few tiles as ``most`` columns allow, all about as wide."""
    count = -(-vocabulary // (max(1, most // MIN_COLUMNS) * MIN_COLUMNS))
    return -(-vocabulary // (max(1, count) * MIN_COLUMNS)) * MIN_COLUMNS


def _row_blocks(num_rows: int, spec: HeadSpec) -> Iterator[slice]:
    size = max(1, spec.tile_bytes // (4 * MIN_COLUMNS))
    for at in range(0, num_rows, size):
        yield slice(at, min(at + size, num_rows))


@dataclass(frozen=True, slots=True, eq=False)
class _Walked:
    """What one walk over the vocabulary knows of a block of rows."""

    logps: Tensor  # [n]
    log_sums: Tensor  # [n]
    unit: Tensor  # [n, H] d logp / d hidden; [0, H] when it was not asked for


def _walk(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, spec: HeadSpec, *, with_unit: bool
) -> _Walked:
    """One pass with a running maximum; what was summed before is rescaled when the maximum moves."""
    tiles = _Tiles(hidden, weight, bias, spec)
    # the lowest finite number, so that a tile of masked (-inf) logits is a sum of zeros and not inf - inf
    top = torch.full((hidden.shape[0],), torch.finfo(tiles.dtype).min, dtype=tiles.dtype, device=hidden.device)
    total = torch.zeros_like(top)
    mean = torch.empty((hidden.shape[0] if with_unit else 0, hidden.shape[1]), dtype=tiles.dtype, device=hidden.device)
    for part in tiles.parts():
        rows = tiles.rows_of(part)
        p = tiles.logits(part, rows)
        new_top = torch.maximum(top, p.amax(-1))
        shrink = (top - new_top).exp_()
        slope = tiles.cap_slope(p) if with_unit else None
        p.sub_(new_top[:, None]).exp_()
        total.mul_(shrink).add_(p.sum(-1))
        if with_unit:
            if slope is not None:
                p.mul_(slope)
            if part.start == 0:
                _put_product(mean, p.to(tiles.factor), rows, tiles.dtype)
            else:
                _add_product(mean.mul_(shrink[:, None]), p.to(tiles.factor), rows, tiles.dtype)
        top = new_top
        del p, slope  # before the next tile is made: only one exists at a time
    target_rows = weight[targets].to(tiles.factor).to(tiles.dtype)
    target = tiles.target_logits(targets, target_rows)
    if with_unit:
        slope = tiles.cap_slope(target)
        mean.div_(-total[:, None]).add_(target_rows if slope is None else target_rows * slope[:, None])
        mean.mul_(spec.scale)
    log_sums = top + total.log()
    return _Walked(logps=target - log_sums, log_sums=log_sums, unit=mean)


class UnitGradientHead(torch.autograd.Function):
    """For a frozen head: the walk of forward also forms d logp / d hidden, [N, H]."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, bias, spec, needs_grad):  # type: ignore[no-untyped-def]
        out = torch.empty(hidden.shape[0], dtype=_work_dtype(hidden, weight), device=hidden.device)
        unit = torch.empty_like(hidden[: hidden.shape[0] if needs_grad else 0])
        for block in _row_blocks(hidden.shape[0], spec):
            walked = _walk(hidden[block], weight, targets[block], bias, spec, with_unit=needs_grad)
            out[block] = walked.logps
            if needs_grad:
                unit[block] = walked.unit
        if needs_grad:
            ctx.save_for_backward(unit)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        (unit,) = ctx.saved_tensors
        return (unit * upstream[:, None]).to(unit.dtype), None, None, None, None, None


class RecomputedHead(torch.autograd.Function):
    """For a head that trains: forward keeps only log-sums, backward walks the tiles again."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, bias, spec):  # type: ignore[no-untyped-def]
        out = torch.empty(hidden.shape[0], dtype=_work_dtype(hidden, weight), device=hidden.device)
        log_sums = torch.empty_like(out)
        for block in _row_blocks(hidden.shape[0], spec):
            walked = _walk(hidden[block], weight, targets[block], bias, spec, with_unit=False)
            out[block], log_sums[block] = walked.logps, walked.log_sums
        ctx.save_for_backward(hidden, weight, targets, bias, log_sums)
        ctx.spec = spec
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        hidden, weight, targets, bias, log_sums = ctx.saved_tensors
        wants_hidden, wants_weight, _, wants_bias, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # written, not added to, by the first block of rows: most often there is one
        grad_weight = torch.empty_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias else None
        if grad_weight is not None and not hidden.shape[0]:
            grad_weight.zero_()
        # backward may be called under autocast, which would round the factors
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            for block in _row_blocks(hidden.shape[0], ctx.spec):
                tiles = _Tiles(hidden[block], weight, bias, ctx.spec)
                up = upstream[block].to(tiles.dtype)
                block_grad = torch.empty(
                    tiles.hidden.shape if wants_hidden else (0, 0), dtype=tiles.dtype, device=hidden.device
                )
                for part in tiles.parts():
                    rows = tiles.rows_of(part)
                    force = _logit_gradient(tiles, part, rows, targets[block], log_sums[block], up)
                    pushed = force.to(tiles.factor)
                    if wants_hidden:
                        put = _put_product if part.start == 0 else _add_product
                        put(block_grad, pushed, rows, tiles.dtype)
                    if grad_weight is not None:
                        put = _put_product if block.start == 0 else _add_product
                        put(grad_weight[part], pushed.t(), tiles.hidden, tiles.dtype)
                    if grad_bias is not None:
                        grad_bias[part] += force.sum(0).to(bias.dtype)
                    del force, pushed  # before the next tile is made
                if grad_hidden is not None:
                    grad_hidden[block] = block_grad
        return grad_hidden, grad_weight, None, grad_bias, None


def _logit_gradient(
    tiles: _Tiles, part: slice, rows: Tensor, targets: Tensor, log_sums: Tensor, upstream: Tensor
) -> Tensor:
    """Gradient of the products h w + b of one tile: upstream (onehot - p) d scale."""
    z = tiles.logits(part, rows)
    slope = tiles.cap_slope(z)
    force = z.sub_(log_sums[:, None]).exp_().mul_(-upstream[:, None])
    at = targets - part.start
    inside = (at >= 0) & (at < rows.shape[0])
    onehot = torch.where(inside, upstream, 0.0)
    force.scatter_add_(1, at.clamp(0, rows.shape[0] - 1)[:, None], onehot[:, None])
    if slope is not None:
        force.mul_(slope)
    return force.mul_(tiles.spec.scale) if tiles.spec.scale != 1.0 else force
