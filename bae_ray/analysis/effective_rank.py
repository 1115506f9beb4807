"""In how many directions activations vary, by the variances of their principal components.

Shapes: D d_in.
"""

from torch import Tensor

from bae_ray.analysis.matrix_entropy import matrix_entropy_bits


def effective_rank(variances: Tensor) -> float:
    """Effective rank of the matrix of centred activations (Roy and Vetterli, 2007), from the variances [D].

    exp of the entropy of its singular values (proportional to the roots of the variances) divided by their sum. From 1
    to D; NaN if nothing varies.
    """
    return 2 ** matrix_entropy_bits(variances.double().clamp_min(0).sqrt())


def participation_ratio(variances: Tensor) -> float:
    """Participation ratio of the variances [D]: their sum squared, divided by the sum of their squares.

    From 1 to D; less than the effective rank if few components hold most of the variance; NaN if nothing varies.
    """
    shares = variances.double() / variances.double().sum()
    return 1 / float(shares.square().sum())
