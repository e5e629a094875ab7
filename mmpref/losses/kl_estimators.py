"""The KL divergence from a policy to its reference, estimated on answers that were drawn from the policy.

Schulman's estimators ("Approximating KL Divergence", 2020): with r = ref / pi of a drawn token, k1 = -log r and
k3 = r - 1 - log r, summed over the tokens of an answer. Both are unbiased for KL(pi || ref) of whole answers where
tokens are drawn at temperature 1 from the whole vocabulary: given what stands before it, the mean of r - 1 over a drawn
token is 0. k1 may be negative for an answer; k3 never is, and varies less where policy and reference are near.

Shapes: A answers, L tokens of the longest one.
"""

from __future__ import annotations

from torch import Tensor


def k1_and_k3(policy: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both estimates of every answer, in nats per answer: [A] float64 each.

    Args:
        policy: log-probs of the drawn tokens, the one that ends an answer included: [A, L].
        reference: those of the reference; the same number as ``policy`` (such as 0) where an answer has no token.
    """
    log_ratio = policy.double() - reference.double()
    return log_ratio.sum(dim=-1), ((-log_ratio).expm1() + log_ratio).sum(dim=-1)
