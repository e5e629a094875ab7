"""Answer log-probs equal plain log_softmax in value and gradient, without the memory; sums and counts per answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmpref.errors import ConfigError, DataError
from mmpref.losses import LogitTransform, fused_logps, selected_logps, sum_by_mask, sum_logps, vocab_tiles
from mmpref.losses.vocab_tiles import UnitGradientHead

N, H, V = 23, 12, 1100
DOUBLE = torch.float64
TOLERANCE = {DOUBLE: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
SMALL_TILES = 4 * N * 300  # several tiles of the vocabulary
SMALL_BLOCKS = 4 * 256 * 10  # several blocks of rows
PRODUCTS = ("_put_product", "_add_product")


def head(dtype=torch.float32, *, trains=False, bias=False, n=N, h=H, v=V):
    g = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=DOUBLE).to(dtype)

    hidden, weight = draw(n, h).requires_grad_(), draw(v, h).requires_grad_(trains)
    b = draw(v).requires_grad_(trains) if bias else None
    targets = torch.randint(0, v, (n,), generator=g)
    edges = torch.tensor([t for t in (0, 255, 256, 299, 300, v - 1) if t < v])[:n]  # the ends of tiles
    targets[: len(edges)] = edges
    return hidden, weight, b, targets, draw(n).to(torch.promote_types(dtype, torch.float32))


def plain(hidden, weight, bias, targets, scale=1.0, softcap=None):
    wide = torch.promote_types(hidden.dtype, torch.float32)
    z = hidden.to(wide) @ weight.to(wide).T
    z = scale * (z if bias is None else z + bias.to(wide))
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    return z.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def close(got, want, tolerance):
    torch.testing.assert_close(got.float(), want.float(), rtol=tolerance, atol=tolerance * want.abs().max().item())


@pytest.mark.parametrize("tile_bytes", [SMALL_TILES, SMALL_BLOCKS, 32 * 2**20])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, None), (0.5, 3.0), (1.0, 3.0)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_tiled_head_equals_log_softmax_in_value_and_gradient(dtype, trains, bias, scale, softcap, tile_bytes):
    hidden, weight, b, targets, upstream = head(dtype, trains=trains, bias=bias)
    leaves = [hidden, *([weight] if trains else []), *([b] if trains and bias else [])]
    want = plain(hidden, weight, b, targets, scale, softcap)
    got = fused_logps(
        hidden, weight, targets, b, tile_bytes=tile_bytes, transform=LogitTransform(scale=scale, softcap=softcap)
    )
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    close(got, want, min(TOLERANCE[dtype], 2e-5))
    for g, w in zip(
        torch.autograd.grad(got, leaves, upstream), torch.autograd.grad(want, leaves, upstream), strict=True
    ):
        assert g.dtype == w.dtype
        close(g, w, TOLERANCE[dtype])


@pytest.mark.parametrize("trains", [False, True])
def test_the_tiled_head_passes_gradcheck(trains):
    hidden, weight, b, targets, _ = head(DOUBLE, trains=trains, bias=True, n=4, h=3, v=600)
    weight = weight.detach()[:, :].requires_grad_(trains)

    def run(hidden, weight, b):
        return fused_logps(hidden, weight, targets, b, tile_bytes=8 * 4 * 256)

    assert torch.autograd.gradcheck(run, (hidden, weight, b), fast_mode=True)


def test_a_frozen_head_keeps_one_row_of_hidden_size_for_backward_and_a_trained_one_no_logits():
    hidden, weight, _, targets, _ = head()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        fused_logps(hidden, weight, targets)
    assert saved == [(N, H)]
    saved.clear()
    weight.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        fused_logps(hidden, weight, targets)
    assert (N, V) not in saved


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize(
    ("tile_bytes", "rows", "columns"),
    [
        (SMALL_TILES, N, 256),
        (4 * N * 900, N, 768),
        (4 * N * 1099, N, 768),  # two tiles about as wide, not one of 1024 and a rest
        (SMALL_BLOCKS, 10, 256),
        (2**25, N, V),
        (1, 1, 256),
    ],
)
def test_tiles_are_as_large_as_allowed_and_forward_makes_each_once(monkeypatch, trains, tile_bytes, rows, columns):
    made, multiplied = [], []
    logits, products = vocab_tiles._Tiles.logits, {name: getattr(vocab_tiles, name) for name in PRODUCTS}

    def spy(self, part, weight_rows):
        z = logits(self, part, weight_rows)
        made.append(tuple(z.shape))
        return z

    monkeypatch.setattr(vocab_tiles._Tiles, "logits", spy)
    for name, product in products.items():
        monkeypatch.setattr(vocab_tiles, name, lambda *a, product=product: multiplied.append(1) or product(*a))
    hidden, weight, _, targets, _ = head(trains=trains)
    fused_logps(hidden, weight, targets, tile_bytes=tile_bytes)
    assert made[0] == (rows, columns)
    assert sum(r * c for r, c in made) == N * V
    assert len(multiplied) == (0 if trains else len(made))


def test_without_a_wanted_gradient_nothing_is_kept():
    hidden, weight, _, targets, _ = head(trains=True)
    with torch.no_grad():
        assert not fused_logps(hidden, weight, targets).requires_grad
        assert not fused_logps(hidden, weight, targets, head_trains=False).requires_grad
    frozen = fused_logps(hidden.detach(), weight.detach(), targets)
    assert not frozen.requires_grad
    torch.testing.assert_close(frozen, plain(hidden, weight, None, targets).detach())


def test_a_head_said_to_train_gives_gradients_only_to_what_wants_them():
    hidden, weight, b, targets, upstream = head(bias=True)
    got = fused_logps(hidden, weight, targets, b, head_trains=True)
    torch.testing.assert_close(
        torch.autograd.grad(got, hidden, upstream)[0],
        torch.autograd.grad(plain(hidden, weight, b, targets), hidden, upstream)[0],
        rtol=1e-4,
        atol=1e-5,
    )
    frozen_hidden, b = hidden.detach(), b.requires_grad_()
    (grad,) = torch.autograd.grad(fused_logps(frozen_hidden, weight, targets, b), b, upstream)
    (want,) = torch.autograd.grad(plain(frozen_hidden, weight, b, targets), b, upstream)
    torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-5)


def test_a_head_called_frozen_that_wants_a_gradient_is_refused():
    hidden, weight, _, targets, _ = head(trains=True)
    with pytest.raises(ConfigError, match="head_trains=False"):
        fused_logps(hidden, weight, targets, head_trains=False)


@pytest.mark.parametrize("trains", [False, True])
def test_large_and_masked_logits_stay_finite(trains):
    hidden = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    weight = torch.randn(700, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(trains)
    bias = torch.full((700,), -math.inf)
    bias[300:] = 0.0  # the whole first tile is masked
    targets = torch.tensor([400, 500])
    got = fused_logps(hidden, weight, targets, bias, tile_bytes=4 * 2 * 256)
    close(got.detach(), plain(hidden, weight, bias, targets).detach(), 2e-5)
    grads = torch.autograd.grad(got.sum(), [hidden, weight] if trains else [hidden])
    assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("trains", [False, True])
def test_the_head_ignores_a_surrounding_autocast_forward_and_backward(trains):
    hidden, weight, _, targets, upstream = head(trains=trains)
    leaves = [hidden, weight] if trains else [hidden]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fused_logps(hidden, weight, targets)
        grads = torch.autograd.grad(inside, leaves, upstream)
    outside = fused_logps(hidden, weight, targets)
    assert torch.equal(inside, outside)
    for got, want in zip(grads, torch.autograd.grad(outside, leaves, upstream), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(("inner", "outer"), [(5, 9), (9, 5), (7, 7)])
@pytest.mark.parametrize("into", [torch.float32, torch.bfloat16])
def test_a_product_is_put_over_what_stood_there_or_added_to_it(into, inner, outer):
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(outer, inner, generator=g), torch.randn(inner, 4, generator=g)
    dtype = torch.float32
    found = torch.full((outer, 4), math.nan, dtype=into)
    vocab_tiles._put_product(found, a, b, dtype)
    close(found, a @ b, TOLERANCE[into])
    vocab_tiles._add_product(found, a, b, dtype)
    close(found, 2 * (a @ b), TOLERANCE[into])


@pytest.mark.parametrize(
    ("device", "hidden", "weight", "factors"),
    [
        ("cuda", torch.bfloat16, torch.bfloat16, torch.bfloat16),
        ("cuda", torch.float16, torch.float32, torch.float16),
        ("cuda", torch.bfloat16, DOUBLE, DOUBLE),
        ("cuda", torch.float32, torch.bfloat16, torch.float32),
        ("cpu", torch.bfloat16, torch.bfloat16, torch.float32),
    ],
)
def test_only_a_gpu_multiplies_in_half_precision(device, hidden, weight, factors):
    with FakeTensorMode():
        made = [torch.empty(2, 3, device=device, dtype=dtype) for dtype in (hidden, weight)]
        assert vocab_tiles._factor_dtype(*made) == factors


def with_half_products(product):
    """torch.mm with ``out_dtype``: what a GPU asks of its arguments and does. A CPU has no such product."""

    def run(a, b, out_dtype=None, **kwargs):
        if out_dtype is None:
            return product(a, b, **kwargs)
        assert a.dtype == b.dtype in (torch.bfloat16, torch.float16)
        assert out_dtype == torch.float32
        if (out := kwargs.get("out")) is not None:  # checked there, never made to fit
            assert out.dtype == out_dtype
            assert out.shape == (a.shape[0], b.shape[1])
        return product(a.float(), b.float(), **kwargs)

    return run


@pytest.mark.parametrize("tile_bytes", [SMALL_TILES, SMALL_BLOCKS, 32 * 2**20])
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_factors_of_a_gpu_give_the_same(monkeypatch, dtype, trains, tile_bytes):
    hidden, weight, b, targets, upstream = head(dtype, trains=trains, bias=True)
    leaves = [hidden, *([weight, b] if trains else [])]
    want = plain(hidden, weight, b, targets)
    monkeypatch.setattr(vocab_tiles, "_factor_dtype", lambda hidden, weight: dtype)
    monkeypatch.setattr(torch, "mm", with_half_products(torch.mm))
    got = fused_logps(hidden, weight, targets, b, tile_bytes=tile_bytes)
    close(got, want, 2e-5)
    grads = torch.autograd.grad(got, leaves, upstream)
    for g, w in zip(grads, torch.autograd.grad(want, leaves, upstream), strict=True):
        close(g, w, TOLERANCE[dtype])


@pytest.mark.parametrize("trains", [False, True])
def test_tokens_without_an_answer_give_zeros_to_a_head_that_trains(trains):
    hidden, weight, b, targets, _ = head(trains=trains, bias=True)
    leaves = [weight, b] if trains else [hidden]
    got = fused_logps(hidden[:0], weight, targets[:0], b)
    for grad in torch.autograd.grad(got.sum() + 0 * hidden.sum(), leaves):
        assert not grad.any()


def test_no_answer_tokens_give_no_log_probs():
    hidden, weight, _, targets, _ = head()
    assert fused_logps(hidden[:0], weight, targets[:0]).shape == (0,)
    assert selected_logps(torch.zeros(0, 5), targets[:0]).shape == (0,)


@pytest.mark.parametrize("tile_bytes", [1, 8 * 40 * 5, 32 * 2**20])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_selected_log_probs_equal_log_softmax_in_value_and_gradient(dtype, tile_bytes):
    g = torch.Generator().manual_seed(2)
    logits = (4 * torch.randn(N, 40, generator=g, dtype=DOUBLE)).to(dtype).requires_grad_()
    targets, upstream = torch.randint(0, 40, (N,), generator=g), torch.randn(N, generator=g, dtype=DOUBLE)
    got = selected_logps(logits, targets, tile_bytes=tile_bytes)
    wide = torch.promote_types(dtype, torch.float32)
    want = logits.to(wide).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert got.dtype == wide
    close(got, want, min(TOLERANCE[dtype], 2e-6))
    grads = [torch.autograd.grad(x, logits, upstream.to(wide))[0] for x in (got, want)]
    assert grads[0].dtype == dtype
    close(grads[0], grads[1], TOLERANCE[dtype])


def test_selected_log_probs_read_chunks_as_large_as_allowed(monkeypatch):
    """More rows than words here: rows and words must not be mixed up."""
    read, logsumexp = [], torch.logsumexp

    def spy(chunk, *args, **kwargs):
        read.append(tuple(chunk.shape))
        return logsumexp(chunk, *args, **kwargs)

    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.arange(50) % 7
    want = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    monkeypatch.setattr(torch, "logsumexp", spy)
    got = selected_logps(logits, targets, tile_bytes=4 * 7 * 6)
    assert read == [(6, 7)] * 8 + [(2, 7)]
    torch.testing.assert_close(got, want)
    grads = [torch.autograd.grad(x, logits, torch.linspace(-1.0, 1.0, 50))[0] for x in (got, want)]
    torch.testing.assert_close(*grads)
    read.clear()
    selected_logps(logits, targets, tile_bytes=1)
    assert read == [(1, 7)] * 50


def test_selected_log_probs_pass_gradcheck():
    logits = torch.randn(3, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([0, 6, 3])
    assert torch.autograd.gradcheck(lambda z: selected_logps(z, targets, tile_bytes=8 * 7 * 2), (logits,))


def test_a_model_in_half_precision_costs_less_than_its_own_rounding():
    """bf16 log_softmax is off by hundredths of a nat; the same logits widened first are exact to float32."""
    logits = (3 * torch.randn(64, 5000, generator=torch.Generator().manual_seed(0))).bfloat16()
    targets = torch.arange(64)
    exact = logits.double().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    ours = (selected_logps(logits, targets).double() - exact).abs().max()
    naive = (logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].double() - exact).abs().max()
    assert ours < 1e-5 < 1e-2 < naive


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(4, 3, 2)}, r"hidden must be \[N, H\]"),
        ({"weight": torch.zeros(10, 5)}, r"hidden must be \[N, H\]"),
        ({"weight": torch.zeros(10, 3, dtype=torch.int8)}, "floating point"),
        ({"targets": torch.zeros(5, dtype=torch.long)}, r"targets must be \[N\]"),
        ({"targets": torch.zeros(4)}, "integer token ids"),
        ({"targets": torch.tensor([0, 1, 2, 10])}, r"\[0, 10\), got 10"),
        ({"targets": torch.tensor([0, 1, -100, 9])}, r"\[0, 10\), got -100"),
        ({"targets": torch.zeros(4, dtype=torch.long, device="meta")}, "targets are on meta"),
        ({"bias": torch.zeros(4)}, r"bias must be \[V\]"),
    ],
)
def test_the_head_refuses_shapes_and_ids_that_do_not_fit(change, message):
    given = {"hidden": torch.zeros(4, 3), "weight": torch.zeros(10, 3), "targets": torch.zeros(4, dtype=torch.long)}
    with pytest.raises(DataError, match=message):
        fused_logps(**{**given, **change})


def test_a_frozen_hidden_state_costs_no_gradient(monkeypatch):
    def fail(*args):
        raise AssertionError("a product for a gradient nobody wants")

    monkeypatch.setattr(vocab_tiles, "_add_product", fail)
    hidden, weight, _, targets, _ = head()
    fused_logps(hidden.detach(), weight, targets)
    with torch.no_grad():
        fused_logps(hidden, weight, targets)


def test_a_softcap_must_be_positive():
    fused_logps(torch.zeros(1, 2), torch.zeros(3, 2), torch.tensor([0]), transform=LogitTransform(softcap=0.5))
    with pytest.raises(ConfigError, match="softcap"):
        LogitTransform(softcap=0.0)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [(torch.zeros(4), torch.zeros(4, dtype=torch.long)), (torch.zeros(4, 5), torch.zeros(3, dtype=torch.long))],
)
def test_selected_log_probs_refuse_shapes_that_do_not_fit(logits, targets):
    with pytest.raises(DataError, match=r"logits must be \[N, V\]"):
        selected_logps(logits, targets)


def test_sums_and_counts_of_answers_one_after_the_other():
    logps = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], dtype=torch.bfloat16, requires_grad=True)
    out = sum_logps(logps, [1, 3, 2])
    assert out.sums.tolist() == [-1.0, -9.0, -11.0]
    assert out.counts.tolist() == [1, 3, 2]
    assert (out.sums.dtype, out.counts.dtype) == (torch.float32, torch.int64)
    (grad,) = torch.autograd.grad(out.sums, logps, torch.tensor([1.0, 2.0, 3.0]))
    assert grad.tolist() == [1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("lengths", [[1, 4], [3, 4], [7, -1], []])
def test_lengths_that_do_not_cover_the_tokens_are_refused(lengths):
    with pytest.raises(DataError, match=r"lengths .* but there are 6 token log-probs"):
        sum_logps(torch.zeros(6), lengths)


@pytest.mark.parametrize(("lengths", "empty"), [([6, 0], r"\[1\]"), ([0, 1, 5, 0], r"\[0, 3\]")])
def test_an_answer_without_tokens_is_refused_by_its_place(lengths, empty):
    with pytest.raises(DataError, match=rf"answers {empty} have no counted token"):
        sum_logps(torch.zeros(6), lengths)


def test_no_answers_have_no_sums():
    out = sum_logps(torch.zeros(0), [])
    assert out.sums.shape == out.counts.shape == (0,)


def test_sums_by_length_want_one_number_per_token():
    with pytest.raises(DataError, match=r"logps must be \[N\]"):
        sum_logps(torch.zeros(2, 3), [2])


def test_sums_and_counts_of_padded_rows_read_only_counted_positions():
    logps = torch.tensor([[-1.0, -2.0, math.nan], [math.inf, -5.0, -6.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    for kind in (torch.bool, torch.long, torch.float32):
        out = sum_by_mask(logps, mask.to(kind))
        assert out.sums.tolist() == [-3.0, -11.0]
        assert out.counts.tolist() == [2, 2]
    (grad,) = torch.autograd.grad(out.sums.sum(), logps)
    assert grad.tolist() == mask.tolist()


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(DataError, match=r"\[B, T\]"):
        sum_by_mask(torch.zeros(2, 3), torch.ones(2, 1))


def test_the_unit_gradient_is_target_row_minus_expected_row():
    hidden, weight, _, targets, _ = head(DOUBLE)
    out = fused_logps(hidden, weight, targets)
    assert isinstance(out.grad_fn, UnitGradientHead._backward_cls)
    (grad,) = torch.autograd.grad(out.sum(), hidden)
    torch.testing.assert_close(grad, weight[targets] - (hidden @ weight.T).softmax(-1) @ weight)


def test_backward_inside_autocast_gives_the_gradients_of_backward_outside() -> None:
    hidden = torch.randn(5, 8, requires_grad=True)
    weight = torch.randn(40, 8, requires_grad=True)
    targets = torch.arange(5)
    want = torch.autograd.grad(fused_logps(hidden, weight, targets).sum(), (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(fused_logps(hidden, weight, targets).sum(), (hidden, weight))
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)
