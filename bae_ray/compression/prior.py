"""The prior as integers, the same on every machine: what writer and reader know of each latent.

Shapes: F d_latent.
"""

from typing import Any, Self

import numpy as np
import xxhash
from torch import Tensor

from bae_ray.errors import CorruptContainerError, InvalidInputError
from bae_ray.values import check_type

TYPICAL = 0x80
"""The bit of an entry that holds the latent's bit of the typical code; the others hold its level."""
NEVER = 0
"""Level of a latent whose prior is 0 or 1."""
LEVELS = 64
STEPS_PER_OCTAVE = 2
"""Latents of one level have flip probabilities within a factor of sqrt(2); this costs 0.1 % of the entropy."""


class PriorTable:
    """For each latent its bit of the typical code, round(prior), and the level of how likely it differs from that.

    The level l > 0 is of flip probabilities min(p, 1 - p) in (2^-(1 + l/2), 2^-(1 + (l-1)/2)].
    """

    def __init__(self, entries: np.ndarray[Any, Any]) -> None:
        """The table of entries [F], uint8, as they stand in a container. Raises `CorruptContainerError`."""
        self.entries = entries
        self.typical = (entries >= TYPICAL).view(np.uint8)
        self.levels = entries & (TYPICAL - 1)
        if len(entries) and int(self.levels.max()) >= LEVELS:
            raise CorruptContainerError(
                f"the prior table has level {int(self.levels.max())}, expected levels below {LEVELS}. Compress anew."
            )

    @classmethod
    def of(cls, prior: Tensor) -> Self:
        """The table of firing rates [F]. Raises `InvalidInputError` for what is not a vector of numbers in [0, 1]."""
        if prior.ndim != 1 or len(prior) == 0:
            raise InvalidInputError(f"prior has shape {tuple(prior.shape)}; expected [d_latent], a rate per latent.")
        check_type(prior, "prior")
        rates = prior.detach().cpu().double().numpy()
        bad = np.flatnonzero(~((rates >= 0) & (rates <= 1)))
        if len(bad):
            raise InvalidInputError(
                f"prior[{bad[0]}] is {rates[bad[0]]}; expected firing rates in [0, 1]. Give the autoencoder's prior, "
                "or the mean of a set of codes."
            )
        flip = np.minimum(rates, 1 - rates)
        octaves = -np.log2(flip, where=flip > 0, out=np.full(len(flip), np.inf))
        levels = np.minimum(1 + np.floor(STEPS_PER_OCTAVE * (octaves - 1)), LEVELS - 1)
        levels[flip == 0] = NEVER
        return cls(np.round(rates).astype(np.uint8) * TYPICAL | levels.astype(np.uint8))

    @property
    def hash(self) -> str:
        """Identifies the table."""
        return xxhash.xxh3_128_hexdigest(self.entries.tobytes())
