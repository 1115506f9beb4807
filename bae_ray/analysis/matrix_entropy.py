"""Matrix-based entropy of activations, as Skean et al. (2025) measure it layer by layer (arXiv 2502.02013).

Shapes: D d_in.
"""

import math

from torch import Tensor


def matrix_entropy_bits(variances: Tensor, alpha: float = 1.0) -> float:
    """Renyi entropy of order `alpha` of the Gram matrix of centred activations over its trace, in bits.

    Its nonzero eigenvalues are the variances [D] of the principal components divided by their sum. log2(sum of their
    powers of alpha) / (1 - alpha); at alpha = 1, which Skean et al. use, the von Neumann entropy. From 0 to log2 D; NaN
    if nothing varies. It has no distortion: it measures how evenly the variance is spread, and is not a number of bits
    per vector.
    """
    shares = variances.double() / variances.double().sum()
    if not bool((shares >= 0).all()):
        return math.nan
    shares = shares[shares > 0]
    if alpha == 1:
        return float((shares * (1 / shares).log2()).sum())
    return math.log2(float(shares.pow(alpha).sum())) / (1 - alpha)
