"""Whether a feature's active tokens lie together: measures in the space of the activations.

A picture in a plane can show clusters that are not there, so these are measured in all dimensions, with Euclidean
distances. The labels say which tokens count as active; several labellings of the same tokens are measured at once.

Shapes: N tokens, D d_in, S labellings, K neighbours.
"""

from typing import Any, NamedTuple

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

NEAREST = 10
"""Largest number of neighbours of a token."""
NONE = -1
"""Placeholder if there are fewer neighbours."""


class Clustering(NamedTuple):
    """How closely the labelled tokens of each labelling lie together, [S] each."""

    purity: Floats
    """kNN purity: share of labelled tokens among the nearest ones of a labelled token; mean over labelled tokens."""
    purity_beyond: Floats
    """The same among the nearest tokens with another token id; 0 if only one id is labelled."""
    silhouette: Floats
    """Silhouette (Rousseeuw, 1987) with two clusters, labelled or not; mean over labelled tokens; -1 to 1."""
    auc: Floats
    """Area under the ROC curve of the projection: chance that a labelled token has the larger value; ties count
    half."""


def distances(x: Floats) -> Floats:
    """Euclidean distances [N, N] between activations [N, D], in double precision."""
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)  # a large common mean would cancel digits away
    squares = (centred**2).sum(1)
    found = np.sqrt(np.maximum(squares[:, None] + squares - 2 * (centred @ centred.T), 0))
    np.fill_diagonal(found, 0)
    return found


def clustering(apart: Floats, labels: Bools, token_ids: Ints, projection: Floats) -> Clustering:
    """The measures of labellings [S, N] with equally many tokens each, two or more and not all.

    `apart` [N, N]: distances. `projection` [N]: along a direction that should separate the labelled tokens.
    """
    count = int(labels[0].sum())
    k = min(NEAREST, count - 1)
    others = np.where(token_ids[:, None] == token_ids, np.inf, apart)
    return Clustering(
        purity=purity(neighbours(apart + np.diag(np.full(len(apart), np.inf)), k), labels),
        purity_beyond=purity(neighbours(others, k), labels),
        silhouette=silhouette(apart, labels),
        auc=auc(projection, labels),
    )


def neighbours(apart: Floats, k: int) -> Ints:
    """The k nearest [N, K] of each token by distances [N, N], in any order; those at infinity are `NONE`."""
    nearest = np.argpartition(apart, min(k, apart.shape[1] - 1), axis=1)[:, :k]
    return np.where(np.isinf(np.take_along_axis(apart, nearest, axis=1)), NONE, nearest)


def purity(nearest: Ints, labels: Bools) -> Floats:
    """Share of labelled tokens among the neighbours [N, K] of labelled tokens, mean over these, [S]."""
    there = nearest != NONE
    known = np.maximum(there.sum(1), 1)
    found = np.zeros(len(labels))
    for i, labelled in enumerate(labels):
        rows = np.flatnonzero(labelled)
        found[i] = ((labelled[nearest[rows]] & there[rows]).sum(1) / known[rows]).mean()
    return found


def silhouette(apart: Floats, labels: Bools) -> Floats:
    """Mean silhouette [S] of the labelled tokens of each labelling [S, N], by distances [N, N]."""
    counts = labels.sum(1)
    inside = labels @ apart  # [S, N]: the distances from each token to the labelled ones, summed
    within = inside / (counts - 1)[:, None]
    between = (apart.sum(0) - inside) / (apart.shape[0] - counts)[:, None]
    larger = np.maximum(within, between)
    values = np.divide(between - within, larger, out=np.zeros_like(larger), where=larger > 0)
    return np.where(labels, values, 0).sum(1) / counts


def auc(values: Floats, labels: Bools) -> Floats:
    """Chance [S] that a labelled token's value [N] is larger than another's; ties count half (Mann-Whitney)."""
    from scipy.stats import rankdata

    labelled = labels.sum(1)
    above = labels @ rankdata(values) - labelled * (labelled + 1) / 2
    return above / (labelled * (labels.shape[1] - labelled))
