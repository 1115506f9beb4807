"""Initial weights of a binary autoencoder that are taken from its data.

Shapes: N samples, D d_in, F d_latent, K components.
"""

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.independent_components import independent_components
from bae_ray.autoencoders import Autoencoder
from bae_ray.seeds import stream

SAMPLES = 65_536
"""Of more samples, so many at equal distances are looked at."""
GAIN = 2.0
"""Pre-activation of a latent one standard deviation of its component away from its threshold."""
ROUNDS = 20
"""Of looking for a threshold: by far enough for two clusters."""
RIDGE = 1e-3
"""Of the variance of a fair bit, 1/4: what is added to the codes' covariance, so that equal codes share a row."""


def sample_of(x: Rows, autoencoder: Autoencoder) -> Tensor:
    """Samples [N, D] to take the initial weights from, as they are trained on."""
    rows = torch.arange(len(x))
    if len(x) > SAMPLES:
        rows = torch.linspace(0, len(x) - 1, SAMPLES, dtype=torch.float64).round().long()
    return autoencoder.normalize(x.take(rows).to(autoencoder.mean.device))


@torch.no_grad()
def start_from_components(autoencoder: Autoencoder, x: Tensor, seed: int) -> int:
    """Make the first K latents the signs of the independent components of x [N, D]; gives K, at most F.

    A latent fires where its component is above the middle between the means of its two sides (the best quantiser of two
    levels: Lloyd, 1982). The dictionary is the linear regression of x on these latents; the other latents keep their
    encoder columns, and their rows are 0, so that they have a part only where something is left to explain.
    """
    mean, directions = independent_components(x, autoencoder.d_latent, stream(seed, "components"))
    found = directions.shape[1]
    components = (x - mean) @ directions
    thresholds = _thresholds(components)
    code = (components >= thresholds).double()
    rates, centre = code.mean(0), x.double().mean(0)
    centred = code - rates
    covariance = centred.T @ centred / len(x) + RIDGE / 4 * torch.eye(found, dtype=code.dtype, device=code.device)
    rows = torch.linalg.solve(covariance, centred.T @ (x.double() - centre) / len(x))
    autoencoder.W_enc[:, :found] = GAIN * directions
    assert autoencoder.b_enc is not None
    autoencoder.b_enc[:found] = -GAIN * (thresholds + mean @ directions)
    autoencoder.W_dec.zero_()
    autoencoder.W_dec[:found] = rows.to(x.dtype)
    autoencoder.b_dec.copy_(centre - rates @ rows)
    return found


def _thresholds(components: Tensor) -> Tensor:
    """Of each component [N, K], the middle between the means of the samples above it and of those below, [K]."""
    thresholds = components.mean(0)
    for _ in range(ROUNDS):
        above = (components >= thresholds).to(components.dtype)
        sides = [(components * side).sum(0) / side.sum(0).clamp_min(1) for side in (above, 1 - above)]
        thresholds = (sides[0] + sides[1]) / 2
    return thresholds
