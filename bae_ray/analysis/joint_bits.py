"""Bits of a code with dependence counted: under a tree over its latents, as held-out code length, and jointly.

Shapes: N samples, F d_latent, B replicates, K distinct codes.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.analysis.distinct_codes import DistinctCodes
from bae_ray.analysis.features import evaluating, rows_at_once
from bae_ray.analysis.group_jackknife import COVERAGE, around, quantile
from bae_ray.analysis.tempered import drop
from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.chow_liu import ChowLiuTree, tree_entropy
from bae_ray.autoencoders.pair_counts import MOST_VARYING, PairCounts, fired_counts
from bae_ray.autoencoders.rooted import NONE
from bae_ray.seeds import stream

REPLICATES = 200
ROUNDING = 1e-12
"""Variance (bits^2) below which surprisals count as equal."""


class Estimate(NamedTuple):
    """A number of bits, and the ends of its 95 % interval, which contains it."""

    bits: float
    low: float
    high: float


class JointBits(NamedTuple):
    """Measures of a binary code beside its marginal entropy."""

    tree: Estimate
    """Entropy of all samples' code under its Chow-Liu tree: at least the joint entropy of these samples, at most the
    marginal one. As an estimate for other samples it is too low on average, since edges and rates are fitted to these.
    The interval is for the entropy of infinitely many such samples under the same edges. Its lower end is that of a
    basic bootstrap; its upper end is that, or the one of `heldout` if higher: held-out samples show how far the edges
    were fitted to chance."""
    heldout: Estimate
    """Mean code length of held-out samples under the tree of the training samples, with rates (k + 1/2) / (n + 1). On
    average at least the entropy of new samples. The interval is for the mean over infinitely many new samples, with the
    same autoencoder and tree: Student's t over texts, on the logarithmic scale. It is wide if few samples are held out,
    and does not cover properties of fewer than one in 30 of them."""
    heldout_marginal: Estimate
    """The same with independent latents."""
    joint: Estimate | None
    """Joint entropy: that of the frequencies of whole codes, and its bias after Miller and Madow, (K - 1) / (2 N ln 2).
    Only if codes recur: at least 20 samples per code, and at most 1 % of samples with a code of their own. Else None:
    it would be near log2 N for any code. The interval is of infinitely many samples like all of these, most of which
    the autoencoder was fitted to: of the mean of -log2 of frequencies, as that of `heldout`. Its lower end is lower
    where the error at that end is larger (`drop`)."""
    distinct: int
    """Number of different codes among all samples."""
    varying: int
    """Number of latents that fire on some samples but not on all. A tree needs more training samples than this."""
    model: ChowLiuTree
    """The tree over all samples."""


class EncodedRows:
    """The codes of activations, which are encoded anew at each iteration."""

    def __init__(self, autoencoder: Autoencoder, x: Tensor | Rows) -> None:
        self._autoencoder, self._x = autoencoder, x

    def __iter__(self) -> Iterator[Tensor]:
        with torch.no_grad(), evaluating(self._autoencoder):
            for rows in self._x.split(rows_at_once(self._autoencoder)):
                yield self._autoencoder.fires(rows.to(self._autoencoder.mean.device))


def joint_bits(
    train: Iterable[Tensor],
    heldout: Iterable[Tensor],
    seed: int,
    texts: tuple[Tensor, Tensor] | None = None,
    most_varying: int = MOST_VARYING,
) -> JointBits | None:
    """Measure the codes of training and held-out samples: batches [n, F] of booleans, iterated several times.

    `texts`: index, from 0, of the text of each training and held-out sample, if samples of a text were drawn together;
    the bootstrap then draws texts. Memory: 4 bytes per pair of varying latents, and some 300 bytes per text (sample).
    None if more than `most_varying` latents vary: their pairs would need too much memory.
    """
    codes, fired, sizes = DistinctCodes(), None, []
    for part in (train, heldout):
        sizes.append(0)
        for batch in part:
            sums = fired_counts(batch)
            fired = sums if fired is None else fired + sums
            codes.add(batch)
            sizes[-1] += len(batch)
    if fired is None or not all(sizes):
        raise ValueError("there are no training samples, or none held out")
    n = sum(sizes)
    varying = ((fired > 0) & (fired < n)).nonzero().squeeze(1)
    if len(varying) > most_varying:
        return None
    counts = PairCounts(len(fired), varying, fired.device)
    for batch in train:
        counts.add(batch)
    fitted = ChowLiuTree.of(counts)
    for batch in heldout:
        counts.add(batch)
    model = ChowLiuTree.of(counts)
    del counts
    draws = _Draws(seed, sizes, texts)
    units = _units(torch.arange(n) if texts is None else torch.cat(texts))
    lengths = _lengths((fitted, fitted.alone()), heldout, _units(units[sizes[0] :]))
    tree = _tree_estimate(model, (train, heldout), varying, draws)
    if len(varying):
        tree = tree._replace(high=max(tree.high, min(lengths[0].high, float(len(fired)))))
    return JointBits(
        tree,
        *lengths,
        joint=_joint_estimate(codes, units, len(fired)) if codes.recur else None,
        distinct=codes.distinct,
        varying=len(varying),
        model=model,
    )


def _units(texts: Tensor) -> Tensor:
    """The number of each sample's text, counted from 0."""
    return torch.unique(texts, return_inverse=True)[1]


class _Draws:
    """How often each sample is drawn in each replicate: Poisson of mean 1 (Hanley and MacGibbon, 2006), by text."""

    def __init__(self, seed: int, sizes: list[int], texts: tuple[Tensor, Tensor] | None) -> None:
        parts = torch.arange(sum(sizes)).split(sizes) if texts is None else texts
        self._texts, generator = parts, stream(seed, "bootstrap texts")
        size = 1 + max(int(part.max()) for part in parts)
        self._times = torch.empty(size, REPLICATES, dtype=torch.uint8)
        for part in self._times.split(1 << 14):
            part.copy_(torch.poisson(torch.ones(part.shape), generator=generator))

    def batches(self, part: int, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch of a part, and how often its samples are drawn, [n, B]."""
        start = 0
        for batch in batches:
            yield batch, self._times[self._texts[part][start : start + len(batch)]]
            start += len(batch)


def _tree_estimate(
    tree: ChowLiuTree, parts: tuple[Iterable[Tensor], Iterable[Tensor]], varying: Tensor, draws: _Draws
) -> Estimate:
    bits, device = tree.entropy_bits, varying.device
    parent = tree.parent.to(device)[varying]
    has, above = parent != NONE, parent.clamp_min(0)
    size = len(varying)
    fired = torch.zeros(REPLICATES, 2 * size, dtype=torch.float64, device=device)
    total = torch.zeros(REPLICATES, dtype=torch.float64, device=device)
    for number, part in enumerate(parts):
        for batch, times in draws.batches(number, part):
            weights = times.to(device).T.float()
            x = batch[:, varying]
            both = torch.cat([x, x & batch[:, above]], 1)
            fired += (weights @ both.float()).double()  # whole numbers that float32 holds exactly
            total += weights.sum(1, dtype=torch.float64)
    alone, with_parent = fired[:, :size], torch.where(has, fired[:, size:], 0.0)
    place = torch.zeros(len(tree.parent), dtype=torch.int64, device=device)
    place[varying] = torch.arange(size, device=device)
    parents = torch.where(has, alone[:, place[above]], 0.0) if size else alone
    counts = torch.stack([alone - with_parent, with_parent], -1)
    seen = torch.stack([total[:, None] - parents, parents], -1)
    found = tree_entropy(counts, seen, total.clamp_min(1)).cpu()
    return _basic(bits, found, len(tree.parent))


def _joint_estimate(codes: DistinctCodes, units: Tensor, most: float) -> Estimate:
    if codes.distinct == 1:
        return Estimate(0.0, 0.0, 0.0)
    surprisals, counts = codes.surprisals(), codes.counts
    n, beyond = len(surprisals), codes.distinct - 1
    bits = float(surprisals.mean()) + beyond / (2 * n * math.log(2))
    # Of equally frequent codes all surprisals are equal: then the term of second order, a chi-squared, is all there is.
    # Samples of one text may all have one code, so it is of as many samples as there would be in texts of one.
    alone = n**2 / float(units.bincount().double().square().sum())
    further = beyond / 2 / (alone * math.log(2)) ** 2
    around_it = _around(bits, surprisals, units, further, most)
    off, variance = _deviations(surprisals, units)
    spread = float(surprisals.var(correction=0))
    reach = quantile(bits, off) ** 2
    of_spread = variance / spread if spread > ROUNDING else 1 / alone
    low = bits - drop(counts / n, reach * of_spread, reach * further)
    return around_it._replace(low=max(min(low, around_it.low), 0.0))


def _lengths(trees: Sequence[ChowLiuTree], heldout: Iterable[Tensor], units: Tensor) -> list[Estimate]:
    """Of each tree, the bits of a held-out sample on average; in the interval a text with several samples is one."""
    lengths = torch.cat([torch.stack([tree.code_lengths(batch).cpu() for tree in trees]) for batch in heldout], 1)
    return [
        _around(float(of_tree.mean()), of_tree, units, 0.0, len(tree.parent) * math.log2(2 * tree.n + 2))
        for tree, of_tree in zip(trees, lengths, strict=True)
    ]


def _around(bits: float, values: Tensor, units: Tensor, further: float, most: float) -> Estimate:
    """The interval of a mean of values [N] in units of one or several samples, and of `further` variance."""
    off, variance = _deviations(values, units)
    if len(off) < 2 or bits <= 0:  # nothing is known
        return Estimate(bits, 0.0, max(bits, most))
    low, high = around(bits, math.sqrt(variance + further), off)
    return Estimate(bits, low, max(bits, min(high, most)))


def _deviations(values: Tensor, units: Tensor) -> tuple[Tensor, float]:
    """Of the mean of values [N], the deviation of each unit [U] of one or several samples, and its variance."""
    count = int(units.max()) + 1
    off = torch.zeros(count, dtype=torch.float64).index_add_(0, units, values - values.mean())
    return off, float(off.square().sum()) * count / max(count - 1, 1) / len(values) ** 2


def _basic(bits: float, replicates: Tensor, most: float) -> Estimate:
    """The basic interval of an entropy that is too low by about as much as its replicates are below it."""
    lower, upper = _quantiles(replicates)
    return Estimate(bits, min(max(2 * bits - upper, 0.0), bits), max(min(2 * bits - lower, most), bits))


def _quantiles(replicates: Tensor) -> tuple[float, float]:
    tail = (1 - COVERAGE) / 2
    low, high = torch.quantile(replicates, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
