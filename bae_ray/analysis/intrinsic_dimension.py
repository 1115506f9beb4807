"""Intrinsic dimension of activations by TwoNN (Facco et al., 2017, doi 10.1038/s41598-017-11873-y).

Shapes: N samples, D d_in.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import column_mean
from bae_ray.seeds import stream

MOST_ROWS = 10_000
"""Largest number of samples between which distances are computed."""
DISCARDED = 0.1
"""Share of the samples, those with the largest ratios, that the fit leaves out, as the authors do."""
SAME = 1e-5
"""Samples closer than this share of their root mean square distance to the mean count as equal: vectors of the same
tokens differ by rounding, which has its own dimension."""
DISTANCES_AT_ONCE = 1 << 24


@torch.no_grad()
def intrinsic_dimension(x: Rows, seed: int = 0, device: torch.device | str = "cpu") -> float:
    """Intrinsic dimension of activations [N, D] from the distances of each to its two nearest others.

    If the density is constant up to the second neighbour, the ratio of the two distances has the distribution 1 -
    ratio^-dimension; the dimension is the slope of the best line through the origin. Above about 10 to 20 the estimate
    is too low on average, since neighbours are then far away. Of more than `MOST_ROWS` samples a random selection is
    used. NaN if fewer than three different samples are left, or all their ratios are 1.
    """
    if len(x) > MOST_ROWS:
        x = x.select(torch.randperm(len(x), generator=stream(seed, "intrinsic dimension"))[:MOST_ROWS].sort().values)
    centred = x.take(torch.arange(len(x))).to(device, torch.float64) - column_mean(x).to(device)
    return two_nn(_nearest_two(_distinct(centred)))


def two_nn(distances: Tensor) -> float:
    """The dimension from the distances [N, 2] of samples to their nearest and second nearest other one, not 0."""
    ratios = (distances[:, 1] / distances[:, 0]).sort().values
    n = len(ratios)
    logs = ratios[: int(n * (1 - DISCARDED))].log()
    seen = torch.arange(1, len(logs) + 1, dtype=torch.float64, device=logs.device) / max(n, 1)
    squares = float(logs.square().sum())
    return float(-(logs * torch.log1p(-seen)).sum()) / squares if squares > 0 else math.nan


def _distinct(x: Tensor) -> Tensor:
    """The samples without those that an earlier one is the same as."""
    nearest = SAME * float(x.square().sum(1).mean().sqrt())
    first = torch.cat(
        [
            ~((distances <= nearest) & (torch.arange(len(x), device=x.device) < rows[:, None])).any(1)
            for rows, distances in _distances(x)
        ]
    )
    return x[first]


def _nearest_two(x: Tensor) -> Tensor:
    """[N, 2]; nothing of fewer than three samples."""
    if len(x) < 3:
        return x.new_zeros(0, 2)
    found = []
    for rows, distances in _distances(x):
        distances[torch.arange(len(rows), device=x.device), rows] = math.inf
        found.append(distances.topk(2, largest=False).values)
    return torch.cat(found)


def _distances(x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of some of the samples, and their distances to all."""
    for rows in torch.arange(len(x), device=x.device).split(max(1, DISTANCES_AT_ONCE // len(x))):
        yield rows, torch.cdist(x[rows], x)
