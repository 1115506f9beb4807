"""Burstiness: a magnitude for binary latents (paper, section 5.2)."""

from torch import Tensor

EPSILON = 1e-6
"""Added to the distance, as in the released code, so that a bit that is as certain as the prior has a finite value."""


def burstiness(code: Tensor, prior: Tensor, eps: float = EPSILON) -> Tensor:
    """log2(|code - prior| + eps) of a code [N, F] against firing rates [F]; the larger, the more surprising the bit."""
    return ((code - prior).abs() + eps).log2()
