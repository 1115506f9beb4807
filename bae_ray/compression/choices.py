"""Choosing the rates and the scheme with which the codes of activations are compressed.

Shapes: N samples, D d_in, F d_latent.
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
from bae_ray.compression.header import BLOCK_ROWS, Scheme, most_block_rows
from bae_ray.compression.tables import Model, own_model
from bae_ray.errors import InvalidInputError, NoPriorError

SAMPLE_ROWS = 16_384
"""Largest sample of activations, evenly spaced."""


def chosen_prior(
    autoencoder: Autoencoder,
    x: Tensor | Rows,
    choice: PriorChoice,
    scheme: Scheme = "entropy",
    **options: Unpack[CodeOptions],
) -> Tensor:
    """Firing rates [F] with which the codes of activations [N, D] are compressed; takes a further pass over these.

    `encoder`: the autoencoder's prior. `data`: the rates of these codes, or of a sample of them. `auto`: whichever of
    the two makes a sample's container smaller. Raises `InvalidInputError` for `auto` with a threshold: the two would
    keep different bits.
    """
    if choice == "encoder":
        check_threshold(autoencoder, options.get("threshold"))
        return autoencoder.prior
    if choice == "auto" and options.get("threshold") is not None:
        raise InvalidInputError(
            f"prior is auto and threshold {options.get('threshold')}: above it each prior keeps different bits, "
            "so their sizes cannot be compared. Choose prior encoder or data."
        )
    sample, table = _Sample(autoencoder, x), options.get("table", "embedded")
    if choice == "data":
        return sample.rates

    def size(prior: Tensor) -> float:
        options["table"] = table if prior is autoencoder.prior else "embedded"
        return sample.size(prior, scheme, **options)

    return min(autoencoder.prior, sample.rates, key=size)


def chosen_model(
    autoencoder: Autoencoder, x: Tensor | Rows, choice: PriorChoice, scheme: Scheme, **options: Unpack[CodeOptions]
) -> Model:
    """The result of `chosen_prior`; for scheme `tree`, the autoencoder's tree.

    Raises what it does, `InvalidInputError` for another choice with `tree`, and `NoPriorError` where there is no tree.
    """
    if scheme != "tree":
        return chosen_prior(autoencoder, x, choice, scheme, **options)
    if choice != "encoder":
        raise InvalidInputError(
            f"prior is {choice} and scheme tree, which takes the autoencoder's tree. Choose encoder, or give a tree."
        )
    return own_model(autoencoder, scheme)


def chosen_scheme(
    autoencoder: Autoencoder, x: Tensor | Rows, choice: PriorChoice, **options: Unpack[CodeOptions]
) -> Scheme:
    """The scheme that makes a sample's container of activations [N, D] smaller: `entropy` or `tree`.

    It is `entropy` if the autoencoder has no tree, if `choice` asks for other rates than its own, and if blocks are too
    large for scheme `tree`.
    """
    too_large = options.get("block_rows", BLOCK_ROWS) > most_block_rows("tree", autoencoder.d_latent)
    if choice != "encoder" or autoencoder.tree is None or too_large:
        return "entropy"
    sample = _Sample(autoencoder, x)
    schemes: tuple[Scheme, ...] = ("entropy", "tree")
    return min(schemes, key=lambda scheme: sample.size(own_model(autoencoder, scheme), scheme, **options))


def check_threshold(autoencoder: Autoencoder, threshold: float | None) -> None:
    """Raise `NoPriorError` for a threshold of burstiness where the autoencoder has no prior."""
    if threshold is not None and not autoencoder.has_prior:
        raise NoPriorError(NO_PRIOR)


class _Sample:
    """The codes of a sample of activations."""

    @torch.no_grad()
    def __init__(self, autoencoder: Autoencoder, x: Tensor | Rows) -> None:
        rows = x if isinstance(x, Rows) else Rows([x])
        every = len(rows)
        if len(rows) > SAMPLE_ROWS:
            rows = rows.select(torch.linspace(0, len(rows) - 1, SAMPLE_ROWS, dtype=torch.float64).round().long())
        fired, self._packed = torch.zeros(autoencoder.d_latent, dtype=torch.int64), []
        for batch in rows.split(BLOCK_ROWS):
            bits = as_bits(autoencoder.fires(batch.to(autoencoder.mean.device))).cpu()
            fired += bits.sum(0)
            self._packed.append(np.packbits(bits.numpy(), axis=1))
        self.rates = (fired + 0.5) / (len(rows) + 1)
        """Firing rates [F]; a latent that does not fire in the sample may fire elsewhere."""
        self._share = len(rows) / every

    def size(self, model: Model, scheme: Scheme, **options: Unpack[CodeOptions]) -> float:
        """Bytes that the container of all codes takes, if the sample is like them: a table is in it once."""
        table = self._bytes([], model, scheme, **options)
        return table + (self._bytes(self._packed, model, scheme, **options) - table) / self._share

    def _bytes(self, packed: list[np.ndarray], model: Model, scheme: Scheme, **options: Unpack[CodeOptions]) -> int:
        file = io.BytesIO()
        with CodeWriter(file, model, scheme, **options) as writer:
            for part in packed:
                writer.write(torch.from_numpy(np.unpackbits(part, axis=1, count=len(self.rates))))
        return len(file.getvalue())
