"""The tokens on which each feature is activated: step 1 of ComSem (paper, Algorithm 1), in bounded memory.

Shapes: N tokens, B tokens of a batch, D d_in, G features, C examples kept per feature.

Each example has a key, and the C examples with the smallest keys are kept. The key is the token's number for the first
examples, a random number for a sample, and the negative magnitude for the strongest. So the result does not depend on
the order of the tokens, and results of several machines can be merged.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.features import evaluating, rows_at_once
from bae_ray.autoencoders import Autoencoder
from bae_ray.comsem.config import ExamplesConfig
from bae_ray.errors import InvalidInputError

Ints = np.ndarray[Any, np.dtype[np.int64]]
Keys = np.ndarray[Any, np.dtype[np.uint64]]
Floats = np.ndarray[Any, np.dtype[np.float32]]

NO_TOKEN = -1
_LAST = np.uint64(0xFFFFFFFFFFFFFFFF)
"""Key of an empty place."""
SAMPLED = 64
"""Number of activations of a feature that are drawn at random, for the distribution of its magnitude."""
QUANTILES = (0.75, 0.5, 0.25, 0.0)
"""Quantiles of that sample for which a token is shown, besides the strongest tokens."""
MAX_TOKENS = 1 << 32
"""Token numbers take half of a key."""


def top_k(magnitudes: Tensor, k: int, skip_zero: bool = False) -> tuple[Tensor, Tensor]:
    """Rows, in order, and columns of the k largest magnitudes [B, G] of each row.

    Among equal magnitudes those of the lower columns are taken, as by the stable sort of the released code; torch.topk
    does not say which it takes. `skip_zero` leaves out those that are 0. Raises `InvalidInputError` for NaN or infinity
    among the largest.
    """
    n_rows, n_features = magnitudes.shape
    largest, columns = magnitudes.topk(min(k + 1, n_features), dim=1)
    if not bool(largest.isfinite().all()):  # which is where torch.topk puts NaN
        raise InvalidInputError(
            "the magnitudes hold NaN or infinity; expected finite numbers. Check the activations and the autoencoder."
        )
    if k < n_features:
        tied = (largest[:, k - 1] == largest[:, k]).nonzero().squeeze(1)
        largest, columns = largest[:, :k], columns[:, :k]
        if len(tied):
            columns[tied] = _lower_first(magnitudes[tied], largest[tied, k - 1], k)
            largest = magnitudes.gather(1, columns)
    rows = torch.arange(n_rows, device=columns.device)[:, None].expand_as(columns)
    if skip_zero:
        chosen = largest != 0
        return rows[chosen], columns[chosen]
    return rows.flatten(), columns.flatten()


def _lower_first(magnitudes: Tensor, smallest: Tensor, k: int) -> Tensor:
    """Columns [B, k] of the k largest in each row; of those equal to `smallest` [B] the lowest columns."""
    larger, equal = magnitudes > smallest[:, None], magnitudes == smallest[:, None]
    places = k - larger.sum(1, keepdim=True)
    chosen = larger | (equal & (equal.cumsum(1, dtype=torch.int32) <= places))
    return chosen.nonzero()[:, 1].view(-1, k)


class Kept(NamedTuple):
    """Examples of each feature, in order, padded with `NO_TOKEN`."""

    tokens: Ints
    """[G, C]: index of the token in the evaluation set."""
    magnitudes: Floats
    """[G, C]."""
    counts: Ints
    """[G]: number of tokens on which the feature was activated."""


class Collector:
    """Keeps the C examples with the smallest keys for each feature."""

    def __init__(self, n_features: int, capacity: int) -> None:
        self._keys = np.full((n_features, capacity), _LAST, dtype=np.uint64)
        self._tokens = np.full((n_features, capacity), NO_TOKEN, dtype=np.int64)
        self._magnitudes = np.zeros((n_features, capacity), dtype=np.float32)
        self._counts = np.zeros(n_features, dtype=np.int64)

    def add(self, features: Ints, tokens: Ints, magnitudes: Floats, keys: Keys) -> None:
        """Add examples, one per entry of the four arrays."""
        n_features, capacity = self._keys.shape
        self._counts += np.bincount(features, minlength=n_features)
        if capacity == 0:
            return
        wanted = keys < self._keys[features, -1]  # examples that will not be kept cost no more than this
        chosen = np.flatnonzero(wanted)[np.lexsort((keys[wanted], features[wanted]))]
        features, tokens, magnitudes, keys = features[chosen], tokens[chosen], magnitudes[chosen], keys[chosen]
        rank = np.arange(len(features)) - np.searchsorted(features, features)
        affected, row = np.unique(features, return_inverse=True)
        within = rank < capacity
        new: Self = type(self)(len(affected), capacity)
        new._fill((row[within], rank[within]), keys[within], tokens[within], magnitudes[within])
        self._take(affected, new)

    def merge(self, other: Self) -> None:
        """Add the examples of another collector."""
        self._counts += other._counts
        self._take(np.arange(len(self._counts)), other)

    def kept(self) -> Kept:
        """The examples that are kept, in the order of their keys."""
        return Kept(self._tokens, self._magnitudes, self._counts)

    def _fill(self, places: tuple[Ints, Ints], keys: Keys, tokens: Ints, magnitudes: Floats) -> None:
        self._keys[places], self._tokens[places], self._magnitudes[places] = keys, tokens, magnitudes

    def _take(self, rows: Ints, other: Self) -> None:
        """Keep the best of these rows and of the other's rows."""
        keys = np.concatenate([self._keys[rows], other._keys], axis=1)
        order = np.argsort(keys, axis=1, kind="stable")[:, : self._keys.shape[1]]
        for name in ("_keys", "_tokens", "_magnitudes"):
            mine, theirs = getattr(self, name), getattr(other, name)
            mine[rows] = np.take_along_axis(np.concatenate([mine[rows], theirs], axis=1), order, axis=1)


class Collected(NamedTuple):
    """The examples from one pass over tokens."""

    examples: Collector
    """Examples for interpretation and judgement; C = n_I + n_T."""
    strongest: Collector
    """Examples of the largest magnitude."""
    sampled: Collector
    """Examples drawn at random."""

    @classmethod
    def empty(cls, n_features: int, config: ExamplesConfig) -> "Collected":
        """Collectors without examples."""
        capacities = (config.n_interpret + config.n_test, config.top, SAMPLED)
        return cls(*(Collector(n_features, capacity) for capacity in capacities))

    def add(self, magnitudes: Tensor, first: int, config: ExamplesConfig) -> None:
        """Add tokens with magnitudes [B, G]; `first` is the index of the first one in the evaluation set.

        Only the k indices of each token leave the device.
        """
        rows, columns = top_k(magnitudes, config.k, config.skip_zero)
        values = magnitudes[rows, columns].float().cpu().numpy()
        tokens, features = rows.cpu().numpy() + first, columns.cpu().numpy()
        self.examples.add(features, tokens, values, _keys(config, features, tokens, magnitudes.shape[1]))
        self.strongest.add(features, tokens, values, _strongest_first(values, tokens))
        self.sampled.add(features, tokens, values, _random_keys(config.seed + 1, features, tokens, magnitudes.shape[1]))

    def merge(self, other: "Collected") -> None:
        """Add the examples from a pass over other tokens."""
        for mine, theirs in zip(self, other, strict=True):
            mine.merge(theirs)


@torch.no_grad()
def collect(autoencoder: Autoencoder, rows: Rows, config: ExamplesConfig, first: int = 0) -> Collected:
    """The examples of every feature. Activations are read once, in batches, on the autoencoder's device.

    `rows` are activations [n, D], and `first` is the index of the first one's token. The autoencoder's reference set
    must be the evaluation set (`FeatureStatistics.set_reference`). Raises `InvalidInputError` for k above the number of
    features.
    """
    n_features, device = autoencoder.n_features, autoencoder.mean.device
    if config.k > n_features:
        raise InvalidInputError(
            f"examples.k is {config.k}, but the autoencoder has {n_features} features: give at most that many."
        )
    collected = Collected.empty(n_features, config)
    with evaluating(autoencoder):
        for batch in rows.split(rows_at_once(autoencoder)):
            collected.add(autoencoder.magnitudes(batch.to(device)), first, config)
            first += len(batch)
    return collected


def at_quantiles(sampled: Kept) -> Kept:
    """The activations at `QUANTILES` of each feature's sample, the strongest first; fewer where the sample is small."""
    there = sampled.tokens != NO_TOKEN
    order = np.argsort(np.where(there, sampled.magnitudes, np.inf), axis=1, kind="stable")
    n = there.sum(1)
    tokens = np.full((len(n), len(QUANTILES)), NO_TOKEN, dtype=np.int64)
    magnitudes = np.zeros(tokens.shape, dtype=np.float32)
    places = np.floor(np.multiply.outer(n - 1, QUANTILES)).astype(np.int64)
    for column in range(len(QUANTILES)):
        new = (n > 0) & ((column == 0) | (places[:, column] != places[:, column - 1]))
        rows = np.flatnonzero(new)
        columns = order[rows, places[rows, column]]
        tokens[rows, column] = sampled.tokens[rows, columns]
        magnitudes[rows, column] = sampled.magnitudes[rows, columns]
    return Kept(tokens, magnitudes, sampled.counts)


def random_sets(n_tokens: int, n_sets: int, config: ExamplesConfig) -> Ints:
    """Sets of n_I + n_T tokens drawn at random, [n_sets, n_I + n_T], as features without meaning.

    Where there are fewer tokens, each set is all of them.
    """
    generator = np.random.default_rng([config.seed, n_sets])
    size = min(n_tokens, config.n_interpret + config.n_test)
    return np.array([generator.choice(n_tokens, size, replace=False) for _ in range(n_sets)]).reshape(n_sets, size)


def _keys(config: ExamplesConfig, features: Ints, tokens: Ints, n_features: int) -> Keys:
    if config.order == "first":
        return tokens.astype(np.uint64)
    return _random_keys(config.seed, features, tokens, n_features)


def _random_keys(seed: int, features: Ints, tokens: Ints, n_features: int) -> Keys:
    # splitmix64 of each pair's number: a random number that depends on nothing but the pair and the seed.
    with np.errstate(over="ignore"):
        x = (tokens * n_features + features).astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.minimum(x ^ (x >> np.uint64(31)), _LAST - np.uint64(1))


def _strongest_first(magnitudes: Floats, tokens: Ints) -> Keys:
    """Keys that sort by falling magnitude, equal ones by token."""
    bits = (magnitudes + np.float32(0)).view(np.uint32)  # -0 becomes 0
    rising = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
    return (~rising).astype(np.uint64) << np.uint64(32) | tokens.astype(np.uint64)
