"""Controls for the clustering of a feature's tokens: shuffled labels, and other tokens in their place.

Shapes: N tokens, D d_in, S labellings.
"""

from typing import NamedTuple

import numpy as np

from bae_ray.analysis.feature_clusters import Bools, Clustering, Floats, Ints, clustering, distances

FEWEST = 2
"""Smallest number of labelled tokens, and of others, to measure anything."""


class Pool(NamedTuple):
    """All tokens of the sentences in which a feature is active."""

    x: Floats
    """Activations [N, D]."""
    active: Bools
    """[N]: whether the feature is active on each token."""
    sentence: Ints
    """[N]: index of each token's sentence."""
    token_ids: Ints
    """[N]."""
    frequency: Ints
    """[N]: how often each token's id occurs in the whole evaluation set."""
    projection: Floats
    """[N]: projection on the feature's row of the dictionary, larger where the feature is active."""


class Measured(NamedTuple):
    """One measure of a labelling, and of the same tokens with shuffled labels."""

    value: float
    chance: float
    """Its mean over labels shuffled within each sentence."""
    p: float
    """p-value: share of the shufflings, counting the labelling itself, with at least this value."""


class Clusters(NamedTuple):
    """The measures of `Clustering` beside chance. NaN if there are too few tokens."""

    tokens: int
    """Labelled tokens."""
    purity: Measured
    purity_beyond: Measured
    silhouette: Measured
    auc: Measured


class Shape(NamedTuple):
    """A feature's tokens, and two controls: equally many inactive tokens of the same sentences."""

    active: Clusters
    frequency: Clusters
    """Control: each about as frequent as an active token (same power of two)."""
    identity: Clusters
    """Control: each with the same token id as an active token. Shows what the token alone gives."""


UNKNOWN = Measured(np.nan, np.nan, np.nan)


def shape(pool: Pool, permutations: int, draws: int, seed: int) -> Shape:
    """The clustering of a feature's active tokens, with the null of `permutations` and controls of `draws` each."""
    generator = np.random.default_rng(seed)
    apart = distances(pool.x)
    active = _against_shuffled(pool, apart, np.repeat(pool.active[None], permutations + 1, 0), 1, generator)
    rest = np.flatnonzero(~pool.active)
    without = Pool._make(values[rest] for values in pool)
    between = apart[np.ix_(rest, rest)]
    controls: list[Clusters] = []
    for keys in (np.log2(pool.frequency).astype(np.int64), pool.token_ids):
        drawn = matched(keys, pool.active, draws, generator)[:, rest]
        controls.append(_against_shuffled(without, between, np.concatenate([drawn, drawn]), draws, generator))
    return Shape(active, *controls)


def matched(keys: Ints, active: Bools, draws: int, generator: np.random.Generator) -> Bools:
    """Draws [S, N] of inactive tokens: of each key [N] as many as are active, or all if there are fewer."""
    drawn = np.zeros((draws, len(keys)), dtype=np.bool_)
    wanted, counts = np.unique(keys[active], return_counts=True)
    for key, count in zip(wanted, counts, strict=True):
        there = np.flatnonzero(~active & (keys == key))
        for row in drawn:
            row[generator.permutation(there)[:count]] = True
    return drawn


def shuffled(labels: Bools, sentence: Ints, generator: np.random.Generator) -> Bools:
    """Labellings [S, N] with the labels of each sentence in random order.

    A sentence keeps its number of labels, because tokens of a sentence lie together whatever a feature does.
    """
    order = np.argsort(sentence, kind="stable")
    block = np.unique(sentence, return_inverse=True)[1]
    anew = np.argsort(block + generator.random(labels.shape), axis=1)
    found = np.empty_like(labels)
    np.put_along_axis(found, anew, labels[:, order], axis=1)
    return found


def _against_shuffled(pool: Pool, apart: Floats, labels: Bools, real: int, generator: np.random.Generator) -> Clusters:
    """Measures of the first `real` labellings, on average, against the others, whose labels are shuffled first."""
    count = int(labels[0].sum())
    if count < FEWEST or len(pool.x) - count < FEWEST:
        return Clusters(count, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    both = np.concatenate([labels[:real], shuffled(labels[real:], pool.sentence, generator)])
    found: Clustering = clustering(apart, both, pool.token_ids, pool.projection)
    return Clusters(count, *(_measured(values, real) for values in found))


def _measured(values: Floats, real: int) -> Measured:
    value, chance = float(values[:real].mean()), values[real:]
    as_large = int((chance >= value - 1e-12).sum())
    return Measured(value, float(chance.mean()), (1 + as_large) / (1 + len(chance)))
