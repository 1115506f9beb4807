"""Size of the codes of held-out activations, and error of their reconstructions (the paper's Table 3).

Shapes: N vectors, D d_in, F d_latent.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import FeatureStatistics, column_mean, evaluating, rows_at_once
from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.experiments.compression.quantization import Matrix
from bae_ray.values import check_type


class Distortion(NamedTuple):
    """Distance of reconstructions from activations."""

    mse: float
    """Mean squared error over vectors and dimensions."""
    fvu: float
    """Squared error over the squared distance to the set's mean."""
    cosine: float
    """Mean cosine of activation and reconstruction."""
    cosine_centred: float
    """The same after the set's mean is taken from both."""


def distortion(x: Tensor | Rows, x_hat: Tensor | Matrix) -> Distortion:
    """The distance of reconstructions [N, D] from activations [N, D], all real numbers."""
    if isinstance(x, Tensor):
        check_type(x, "x")
    check_type(x_hat, "x_hat")
    given = torch.from_numpy(np.ascontiguousarray(x_hat)) if isinstance(x_hat, np.ndarray) else x_hat
    size = 4096
    statistics = FeatureStatistics(x.shape[1], 1, centre=column_mean(x))
    for rows, rows_hat in zip(x.split(size), given.split(size), strict=True):
        statistics.update(rows, torch.zeros(len(rows), 1), rows_hat)
    found = statistics.metrics()
    return Distortion(found.mse, found.fvu, found.cosine, found.cosine_centred)


class CodeBits(NamedTuple):
    """Size of a set's codes, in bits per vector."""

    entropy: float
    """Marginal entropy under the set's own firing rates: no code of independent latents is shorter on average."""
    cross_entropy: float
    """The same codes under a prior; infinite where a bit contradicts a prior of 0 or 1."""
    rates: Tensor
    """Firing rates of the set, [F]."""


@torch.no_grad()
def code_bits(autoencoder: Autoencoder, x: Tensor | Rows, prior: Tensor) -> CodeBits:
    """Bits per vector of the codes of activations [N, D], under their own rates and under `prior` [F]."""
    fired = torch.zeros(autoencoder.d_latent, dtype=torch.float64, device=prior.device)
    with evaluating(autoencoder):
        for rows in x.split(rows_at_once(autoencoder)):
            fired += autoencoder.encode(rows.to(prior.device)).sum(0, dtype=torch.float64)
    rates, q = fired / len(x), prior.double()
    cross = -(torch.special.xlogy(rates, q) + torch.special.xlogy(1 - rates, 1 - q)).sum() / np.log(2)
    return CodeBits(float(bernoulli_entropy(rates).sum()), float(cross), rates)
