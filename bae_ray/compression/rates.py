"""Which prior codes are written by: the autoencoder's own, or the rates of the activations at hand.

A container refers to the autoencoder's own, and holds any other one, in a byte per latent: what that saves is what the
rates of the autoencoder's reference set lose on other data.

Shapes: N samples, F d_latent.
"""

import io
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.bae import NO_PRIOR
from bae_ray.compression.codec import CodeOptions, CodeWriter, as_bits
from bae_ray.compression.config import PriorChoice
from bae_ray.compression.header import BLOCK_ROWS, Scheme
from bae_ray.errors import InvalidInputError, NoPriorError

SAMPLE_ROWS = 16_384
"""Activations that rates are taken of: all where there are no more, else so many, evenly spaced."""


@torch.no_grad()
def chosen_prior(
    autoencoder: Autoencoder,
    x: Tensor | Rows,
    choice: PriorChoice,
    scheme: Scheme = "entropy",
    **options: Unpack[CodeOptions],
) -> Tensor:
    """Firing rates [F] to compress the codes of activations [N, D] by, which are read once more for it.

    `encoder`: the autoencoder's prior. `data`: the rates of these codes, of a sample of them where they are many.
    `auto`: whichever of the two makes the smaller container of the sample. Raises `InvalidInputError` for `auto` with
    a threshold, by which the two would keep different bits.
    """
    if choice == "encoder":
        check_threshold(autoencoder, options.get("threshold"))
        return autoencoder.prior
    if choice == "auto" and options.get("threshold") is not None:
        raise InvalidInputError(
            f"prior is auto and threshold {options.get('threshold')}: each prior keeps other bits above it, so that "
            "sizes cannot be compared. Choose encoder or data."
        )
    rows = x if isinstance(x, Rows) else Rows([x])
    if len(rows) > SAMPLE_ROWS:
        rows = rows.select(torch.linspace(0, len(rows) - 1, SAMPLE_ROWS, dtype=torch.float64).round().long())
    table = options.get("table", "embedded")
    fired, packed = torch.zeros(autoencoder.d_latent, dtype=torch.int64), []
    for batch in rows.split(BLOCK_ROWS):
        bits = as_bits(autoencoder.fires(batch.to(autoencoder.mean.device))).cpu()
        fired += bits.sum(0)
        packed.append(np.packbits(bits.numpy(), axis=1))
    rates = (fired + 0.5) / (len(rows) + 1)  # a latent that is not seen to fire may still do so elsewhere
    if choice == "data":
        return rates

    def size(prior: Tensor) -> int:
        file = io.BytesIO()
        options["table"] = table if prior is autoencoder.prior else "embedded"
        with CodeWriter(file, prior, scheme, **options) as writer:
            for part in packed:
                writer.write(torch.from_numpy(np.unpackbits(part, axis=1, count=len(rates))))
        return len(file.getvalue())

    return min(autoencoder.prior, rates, key=size)


def check_threshold(autoencoder: Autoencoder, threshold: float | None) -> None:
    """Raise `NoPriorError` where a threshold of burstiness is to be of an autoencoder's prior that is not there."""
    if threshold is not None and not autoencoder.has_prior:
        raise NoPriorError(NO_PRIOR)
