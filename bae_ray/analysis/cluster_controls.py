"""What the clustering of a feature's tokens is compared with: shuffled labels, and other tokens in their place.

Shapes: N tokens, D d_in, S labellings.
"""

from typing import NamedTuple

import numpy as np

from bae_ray.analysis.feature_clusters import Bools, Clustering, Floats, Ints, clustering, distances

FEWEST = 2
"""Labelled tokens, and others, without which nothing can be measured."""


class Pool(NamedTuple):
    """All tokens of the sentences in which a feature is active."""

    x: Floats
    """Activations [N, D]."""
    active: Bools
    """[N]: on which of them it is."""
    sentence: Ints
    """[N]: the number of each one's sentence."""
    token_ids: Ints
    """[N]."""
    frequency: Ints
    """[N]: how often each one's token id is there in the whole evaluation set."""
    projection: Floats
    """[N]: along the feature's row of the dictionary, rising towards where the feature is active."""


class Measured(NamedTuple):
    """One measure of a labelling, beside the same tokens with shuffled labels."""

    value: float
    chance: float
    """Its mean where the labels are shuffled within each sentence."""
    p: float
    """Share of the shufflings, the labelling itself counted as one, in which it is at least as large."""


class Clusters(NamedTuple):
    """The measures of `Clustering` with what chance gives. NaN where there are too few tokens."""

    tokens: int
    """Labelled tokens."""
    purity: Measured
    purity_beyond: Measured
    silhouette: Measured
    auc: Measured


class Shape(NamedTuple):
    """A feature's tokens, and two controls: as many other tokens of the same sentences, the active ones taken out."""

    active: Clusters
    frequency: Clusters
    """Each about as frequent as an active one, by the power of two of its count."""
    identity: Clusters
    """Each of the same token id as an active one: what the token alone gives."""


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
    """Draws [S, N] of inactive tokens, as many of each key [N] as are active; all of a key where there are fewer."""
    drawn = np.zeros((draws, len(keys)), dtype=np.bool_)
    wanted, counts = np.unique(keys[active], return_counts=True)
    for key, count in zip(wanted, counts, strict=True):
        there = np.flatnonzero(~active & (keys == key))
        for row in drawn:
            row[generator.permutation(there)[:count]] = True
    return drawn


def shuffled(labels: Bools, sentence: Ints, generator: np.random.Generator) -> Bools:
    """Labellings [S, N] with the labels of each sentence in random order.

    So a sentence keeps its number of labels: tokens of a sentence lie together whatever a feature does.
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
