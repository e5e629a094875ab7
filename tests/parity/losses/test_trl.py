"""The same numbers as TRL's own loss methods, run as they are on the same log-probs.

Where definitions differ the test says which: the likelihood terms of CPO and ORPO (a mean over the tokens of the batch
there, per answer here) are added outside the methods compared here; rewards of IPO and of the per-token DPO are beta
times a sum there, beta times the score of the loss here.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from mmpref.losses import PairLogps, build_objective

pytest.importorskip("trl")

B, T = 7, 12


class Batch:
    """Token log-probs with a completion mask, as TRL's trainer sees them, and the same pairs as ours."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(11)
        lengths = torch.randint(1, T, (2 * B,), generator=g)
        prompt = 1
        position = torch.arange(T + prompt)
        self.mask = ((position >= prompt) & (position < prompt + lengths[:, None])).long()
        shifted = self.mask[:, 1:]
        self.logps = (-2.5 * torch.rand(2 * B, T, generator=g, dtype=torch.float64) * shifted).requires_grad_()
        self.ref = (self.logps.detach() + 0.3 * torch.randn(2 * B, T, generator=g, dtype=torch.float64)) * shifted
        self.lengths = shifted.sum(1)

    def ours(self) -> PairLogps:
        sums, ref = self.logps.sum(1), self.ref.sum(1)
        return PairLogps(
            chosen=sums[:B],
            rejected=sums[B:],
            chosen_len=self.lengths[:B],
            rejected_len=self.lengths[B:],
            ref_chosen=ref[:B],
            ref_rejected=ref[B:],
        )


def trl_dpo(
    batch: Batch, loss_type: str, beta: float, smoothing: float, *, beside: dict[str, float] | None = None, weight=1.0
) -> tuple[torch.Tensor, dict]:
    from trl import DPOTrainer

    class Model:
        training = True

        def __call__(self, **kwargs):
            zeros = torch.zeros(2 * B, T)
            return SimpleNamespace(
                log_probs=batch.logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=zeros
            )

    same = lambda x: x  # noqa: E731
    model = Model()
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type, *(beside or {})],
        loss_weights=[weight, *(beside or {}).values()],
        beta=beta,
        label_smoothing=smoothing,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    ref = batch.ref.sum(1)
    inputs = {
        "input_ids": torch.zeros(2 * B, T + 1, dtype=torch.long),
        "attention_mask": torch.ones(2 * B, T + 1),
        "completion_mask": batch.mask,
        "ref_chosen_logps": ref[:B],
        "ref_rejected_logps": ref[B:],
    }
    loss = DPOTrainer._compute_loss(trainer, model, inputs, False)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items() if name.startswith("rewards/")}


@pytest.mark.parametrize(
    ("theirs", "ours", "same_rewards"),
    [
        ("sigmoid", {"base": "dpo"}, True),
        ("hinge", {"base": "hinge"}, True),
        ("ipo", {"base": "ipo"}, False),
        ("robust", {"base": "robust", "label_smoothing": 0.15}, True),
        ("sigmoid_norm", {"base": "dpo", "length_normalize": True}, False),
    ],
)
@pytest.mark.parametrize("beta", [0.05, 0.1, 0.7])
def test_losses_with_a_reference_equal_those_of_the_dpo_trainer(theirs, ours, same_rewards, beta):
    batch = Batch()
    want, rewards = trl_dpo(batch, theirs, beta, ours.get("label_smoothing", 0.0))
    out = build_objective({**ours, "beta": beta})(batch.ours())
    got = out.per_pair.mean()
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(loss, batch.logps, retain_graph=True)[0] for loss in (got, want)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
    means = {name: out.stats[name].mean().item() for name in rewards}
    assert (means == pytest.approx(rewards)) == same_rewards


@pytest.mark.parametrize("kind", ["sigmoid", "hinge"])
def test_a_sum_with_bco_is_the_same_pair_weight_and_anchors(kind):
    """What ``mmpref config --from`` makes of ``loss_type: [sigmoid, bco_pair]`` with weights."""
    from mmpref.migration.contract import nested
    from mmpref.migration.losses import combined

    batch = Batch()
    want, _ = trl_dpo(batch, kind, 0.3, 0.0, beside={"bco_pair": 0.2}, weight=0.8)
    settings = nested(combined([kind, "bco_pair"], [0.8, 0.2], "test"))["loss"]
    got = build_objective({**settings, "beta": 0.3})(batch.ours()).per_pair.mean()
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert abs((got - trl_dpo(batch, kind, 0.3, 0.0)[0]).item()) > 0.05


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["sigmoid", "simpo"])
def test_losses_without_a_reference_equal_those_of_the_cpo_trainer(kind, smoothing):
    from trl.experimental.cpo import CPOTrainer

    batch = Batch()
    x, beta, gamma = batch.ours(), 1.5 if kind == "simpo" else 0.2, 0.6
    trainer = SimpleNamespace(
        alpha=0.0, beta=beta, loss_type=kind, simpo_gamma=gamma, label_smoothing=smoothing,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    if kind == "simpo":
        policy = (x.chosen / x.chosen_len, x.rejected / x.rejected_len)
        ours = {"base": "simpo", "gamma_beta_ratio": gamma / beta}
    else:
        policy, ours = (x.chosen, x.rejected), {"base": "cpo", "nll_weight": 0.0}
    want, reward_chosen, reward_rejected = CPOTrainer.cpo_loss(trainer, *policy)
    out = build_objective({**ours, "beta": beta, "label_smoothing": smoothing})(x)
    torch.testing.assert_close(out.per_pair, want, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(loss.sum(), batch.logps, retain_graph=True)[0] for loss in (out.per_pair, want)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.stats["rewards/chosen"], reward_chosen)
    torch.testing.assert_close(out.stats["rewards/rejected"], reward_rejected)


def test_the_odds_term_equals_that_of_the_orpo_trainer():
    """Computed in float32 there. Their loss is nll - beta log s(odds ratio); the nll is compared apart."""
    from trl.experimental.orpo import ORPOTrainer

    batch = Batch()
    x = batch.ours()
    trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    mean = x.chosen / x.chosen_len
    want = -ORPOTrainer.odds_ratio_loss(trainer, mean, x.rejected / x.rejected_len)[0] - mean
    out = build_objective({"base": "orpo", "beta": 0.3})(x).per_pair
    torch.testing.assert_close(out.float(), want.float(), rtol=1e-5, atol=1e-5)
    grads = [torch.autograd.grad(loss.sum(), batch.logps, retain_graph=True)[0] for loss in (out, want)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)
