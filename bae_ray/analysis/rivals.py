"""Other estimators of a cell's bits or dimension, beside an autoencoder's bits.

Shapes: N samples, D d_in.
"""

import math
from typing import NamedTuple

import torch

from bae_ray.activations.rows import Rows
from bae_ray.analysis.effective_rank import effective_rank, participation_ratio
from bae_ray.analysis.gaussian_rate import gaussian_rate_bits
from bae_ray.analysis.intrinsic_dimension import intrinsic_dimension
from bae_ray.analysis.matrix_entropy import matrix_entropy_bits
from bae_ray.analysis.product_code import ProductCodes
from bae_ray.analysis.reached import first_at
from bae_ray.analysis.sign_code import sign_codes
from bae_ray.analysis.spectrum import spectrum


class Rivals(NamedTuple):
    """Measures of activations that need no autoencoder, on training samples unless stated; None if a cell has none."""

    gaussian_bits: float | None
    """Rate of a Gaussian source with the same covariance at the FVU (`gaussian_rate`); None at FVU 0."""
    sign_bits: float | None
    """Marginal entropy of the signs of as many principal components as reach the FVU (`sign_code`)."""
    sign_fvu: float | None
    """Their FVU on held-out samples: above the requested one if no number of signs reaches it."""
    product_bits: float | None
    """Index entropy of the product quantiser that reaches the FVU (`product_code`); None without faiss."""
    product_fvu: float | None
    """Its FVU on held-out samples."""
    effective_rank: float | None
    participation_ratio: float | None
    matrix_entropy_bits: float | None
    """Matrix-based entropy of order 1; no code length (`matrix_entropy`)."""
    intrinsic_dimension: float | None
    """By TwoNN, from at most 10,000 samples."""


class CellRivals:
    """The measures of one cell. What does not depend on the FVU is computed once for all its autoencoders."""

    def __init__(self, train: Rows, heldout: Rows, seed: int = 0, device: torch.device | str = "cpu") -> None:
        """Measure training activations [N, D] and held-out ones; both are read several times, a batch at a time."""
        self._spectrum = spectrum(train, device)
        variances = self._spectrum.variances
        self._signs = sign_codes(self._spectrum, train, heldout)
        self._products = ProductCodes(self._spectrum, train, heldout, seed)
        self._fixed = {
            "effective_rank": effective_rank(variances),
            "participation_ratio": participation_ratio(variances),
            "matrix_entropy_bits": matrix_entropy_bits(variances),
            "intrinsic_dimension": intrinsic_dimension(train, seed, device),
        }

    def at(self, fvu: float) -> Rivals:
        """All measures, at a held-out FVU. Raises `InvalidInputError` for an FVU below 0."""
        signs, product = first_at(self._signs, fvu), self._products.at(fvu)
        found = {
            "gaussian_bits": gaussian_rate_bits(self._spectrum.variances, fvu),
            "sign_bits": signs.bits,
            "sign_fvu": signs.fvu,
            "product_bits": product.bits,
            "product_fvu": product.fvu,
            **self._fixed,
        }
        return Rivals(**{name: value if math.isfinite(value) else None for name, value in found.items()})
