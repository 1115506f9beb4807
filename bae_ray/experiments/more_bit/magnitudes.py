"""Maps of magnitudes, samples x features, small enough to look at (the paper's Fig. 35-38).

Shapes: N samples, S of them shown, D d_in, G features, W columns.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import evaluating, feature_statistics, rows_at_once
from bae_ray.autoencoders import Autoencoder


class MagnitudeMap(NamedTuple):
    """Magnitudes of some samples' features; neighbouring features are joined."""

    values: Tensor
    """[S, W] on the CPU: the largest magnitude among the features of a column."""
    samples: Tensor
    """[S]: which samples."""
    n_features: int
    """G, of all columns together; a column is of ceil(G / W) or fewer."""
    burstiness: bool
    """Whether the magnitudes are burstiness, at most 0 and in bits; otherwise they are latents."""


@torch.no_grad()
def magnitude_map(autoencoder: Autoencoder, x: Rows, samples: int, columns: int) -> MagnitudeMap:
    """Magnitudes on at most `samples` evenly spaced rows of activations [N, D], in at most `columns` columns.

    All of `x` becomes the autoencoder's reference set, as in the paper. A column shows the largest magnitude of its
    features. Their mean would hide a dense feature, which is always high among neighbours that are not. Samples are
    left out, not joined. At most one batch of magnitudes [b, G] is in memory.
    """
    feature_statistics(autoencoder, x).set_reference(autoencoder)
    chosen = evenly_spaced(len(x), samples)
    parts: list[Tensor] = []
    with evaluating(autoencoder):
        for batch in x.select(chosen).split(rows_at_once(autoencoder)):
            magnitudes = autoencoder.magnitudes(batch.to(autoencoder.mean.device))
            parts.append(joined(magnitudes, columns).cpu())
    return MagnitudeMap(torch.cat(parts), chosen, autoencoder.n_features, autoencoder.config.has_burstiness)


def evenly_spaced(n: int, wanted: int) -> Tensor:
    """At most `wanted` evenly spaced numbers of 0 to n - 1, in order."""
    return torch.arange(min(n, wanted)) * n // min(n, wanted)


def joined(values: Tensor, columns: int) -> Tensor:
    """The largest of each group of neighbouring columns of [N, G]; the groups leave at most `columns` columns."""
    width = -(-values.shape[1] // columns)
    return torch.stack([part.amax(1) for part in values.split(width, dim=1)], dim=1)
