"""The choice of the prior for compression: the autoencoder's own, or the rates of the activations themselves.

A container refers to the autoencoder's own prior. It holds any other one, at a byte per latent, which pays where the
activations differ from the autoencoder's reference set.

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
"""Largest sample of activations for rates, evenly spaced."""


@torch.no_grad()
def chosen_prior(
    autoencoder: Autoencoder,
    x: Tensor | Rows,
    choice: PriorChoice,
    scheme: Scheme = "entropy",
    **options: Unpack[CodeOptions],
) -> Tensor:
    """Firing rates [F] with which the codes of activations [N, D] are compressed; takes a further pass over these.

    `encoder`: the autoencoder's prior. `data`: the rates of these codes, or of a sample of them. `auto`: the one of the
    two that makes the smaller container of the sample. Raises `InvalidInputError` for `auto` with
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
    rates = (fired + 0.5) / (len(rows) + 1)  # a latent that does not fire in the sample may fire elsewhere
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
    """Raise `NoPriorError` for a threshold of burstiness where the autoencoder has no prior."""
    if threshold is not None and not autoencoder.has_prior:
        raise NoPriorError(NO_PRIOR)
