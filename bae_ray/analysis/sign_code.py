"""A null model of a binary code: the signs of principal components.

Shapes: N samples, D d_in, K signs.
"""

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import ROWS_AT_ONCE
from bae_ray.analysis.reached import Reached
from bae_ray.analysis.spectrum import ROUNDING, Spectrum
from bae_ray.autoencoders.losses import bernoulli_entropy


@torch.no_grad()
def sign_codes(found: Spectrum, train: Rows, heldout: Rows) -> list[Reached]:
    """The codes of the first 0, 1, ... K signs of the components: bits, and FVU on held-out activations [N, D].

    A component is reconstructed as the mean of the training activations with the same sign; other components as 0. Bits
    are the marginal entropy of the signs over training and held-out activations together, as for an autoencoder's code.
    The code learns only the covariance; where an autoencoder has fewer bits at the same FVU, its training found more.
    For a Gaussian source the FVU is at least 1 - 2 / pi.
    """
    sums = _Signs(found)
    for batch in train.split(ROWS_AT_ONCE):
        sums.add(found.coordinates(batch))
    levels = sums.means()
    error, error_without, shift = (torch.zeros_like(found.mean) for _ in range(3))
    for batch in heldout.split(ROWS_AT_ONCE):
        coordinates = found.coordinates(batch)
        sums.add(coordinates)
        error += (coordinates - torch.where(coordinates >= 0, levels[1], levels[0])).square().sum(0)
        error_without += coordinates.square().sum(0)
        shift += coordinates.sum(0)
    variance = error_without.sum() - shift.square().sum() / len(heldout)
    varies = variance > ROUNDING * error_without.sum()
    used = int((found.variances > 0).sum())
    gained = torch.cat([error.new_zeros(1), (error_without - error)[:used].cumsum(0)])
    bits = torch.cat([error.new_zeros(1), bernoulli_entropy(sums.rates())[:used].cumsum(0)])
    fvus = (error_without.sum() - gained) / variance if varies else torch.full_like(gained, torch.nan)
    return [Reached(*pair) for pair in zip(bits.tolist(), fvus.tolist(), strict=True)]


class _Signs:
    """Sums over the coordinates [N, D] in the components, by sign."""

    def __init__(self, found: Spectrum) -> None:
        self._n = 0
        self._positive, self._of_positive, self._of_all = (torch.zeros_like(found.mean) for _ in range(3))

    def add(self, coordinates: Tensor) -> None:
        """Add a batch."""
        positive = coordinates >= 0
        self._n += len(coordinates)
        self._positive += positive.sum(0)
        self._of_positive += torch.where(positive, coordinates, 0).sum(0)
        self._of_all += coordinates.sum(0)

    def means(self) -> Tensor:
        """[2, D]: of the negative ones, and of the others; 0 where there is none."""
        return torch.stack(
            [
                (self._of_all - self._of_positive) / (self._n - self._positive).clamp_min(1),
                self._of_positive / self._positive.clamp_min(1),
            ]
        )

    def rates(self) -> Tensor:
        """[D]: share that is not negative."""
        return self._positive / self._n
