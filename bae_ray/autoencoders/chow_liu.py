"""A model of codes in which each latent depends on one other latent at most (Chow and Liu, 1968), and its entropy.

Shapes: N samples, F d_latent.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.autoencoders.pair_counts import MOST_SAMPLES, PairCounts
from bae_ray.autoencoders.rooted import NONE, depths, rooted
from bae_ray.autoencoders.spanning_tree import best_edges
from bae_ray.errors import InvalidInputError

ROWS_AT_ONCE = 512


class ChowLiuTree:
    """A tree over the latents of a binary code, with the counts that its rates are computed from.

    Rates are (k + 1/2) / (n + 1), so that nothing is impossible (Krichevsky and Trofimov, 1981).
    """

    def __init__(self, parent: Tensor, fired: Tensor, n: int) -> None:
        """`parent` [F]: a latent's parent, or -1. `fired` [F, 2]: how often it fired while that did not, and did.

        `n` is the number of samples. All are int64, on the CPU. A latent without a parent has its count in the first.
        Raises `InvalidInputError` for numbers that no samples have.
        """
        self.parent, self.fired, self.n = parent, fired, n
        _check(parent, fired, n)

    @classmethod
    def of(cls, counts: PairCounts) -> Self:
        """The best tree for counted codes. Raises `InvalidInputError` if no code was counted."""
        if not counts.n:
            raise InvalidInputError("there are no codes to fit a tree to; expected at least one. Give codes [n, F].")
        return cls._with(rooted(best_edges(counts), len(counts.fired)), counts)

    @classmethod
    def fit(cls, batches: Iterable[Tensor]) -> Self:
        """The best tree for codes of 0 and 1: batches [n, F] that can be iterated twice.

        Raises `InvalidInputError` for no codes, for batches of several widths, and for too many latents that vary.
        """
        fired, total = None, 0
        for batch in batches:
            if batch.ndim != 2 or (fired is not None and batch.shape[1] != len(fired)):
                width = "F" if fired is None else len(fired)
                raise InvalidInputError(f"codes have shape {tuple(batch.shape)}; expected [n, {width}], one a row.")
            sums = batch.sum(0, dtype=torch.int64)
            fired, total = sums if fired is None else fired + sums, total + len(batch)
        if fired is None:
            raise InvalidInputError("there are no codes to fit a tree to; expected at least one. Give codes [n, F].")
        counts = PairCounts(len(fired), ((fired > 0) & (fired < total)).nonzero().squeeze(1), fired.device)
        for batch in batches:
            counts.add(batch)
        return cls.of(counts)

    def alone(self) -> "ChowLiuTree":
        """The same counts without edges: latents as if independent."""
        fired = torch.stack([self.total, torch.zeros_like(self.total)], 1)
        return ChowLiuTree(torch.full_like(self.parent, NONE), fired, self.n)

    @cached_property
    def total(self) -> Tensor:
        """How often each latent fired, [F]."""
        return self.fired.sum(1)

    @cached_property
    def seen(self) -> Tensor:
        """In how many samples each latent's parent did not fire, and did, [F, 2]; n and 0 without a parent."""
        has = self.parent != NONE
        fired = torch.where(has, self.total[self.parent.clamp_min(0)], 0)
        return torch.stack([self.n - fired, fired], 1)

    @cached_property
    def rates(self) -> Tensor:
        """The probability that each latent fires given that its parent does not, and does, [F, 2], float64."""
        return (self.fired.double() + 0.5) / (self.seen.double() + 1)

    @cached_property
    def depth(self) -> Tensor:
        """How many ancestors each latent has, [F]."""
        return depths(self.parent)

    @property
    def entropy_bits(self) -> float:
        """Entropy in bits of the samples' code under the tree: at least its joint, at most its marginal entropy.

        It uses the frequencies in the samples, without the added halves. A tree sees pairs only: of three bits, each
        the exclusive or of the other two, it counts 3 bits, though the entropy is 2.
        """
        return float(tree_entropy(self.fired.double(), self.seen.double(), float(self.n)))

    @property
    def marginal_bits(self) -> float:
        """The entropy of the same samples without the tree: the paper's bits (Eq. 4)."""
        return float(bernoulli_entropy(self.total.double() / self.n).sum())

    def code_lengths(self, fires: Tensor) -> Tensor:
        """Bits [N] that codes [N, F] of 0 and 1 take: -log2 of their probability, in float64, on their device."""
        if fires.ndim != 2 or fires.shape[1] != len(self.parent):
            raise InvalidInputError(
                f"code has shape {tuple(fires.shape)}; the tree is of {len(self.parent)} latents: expected "
                f"[n, {len(self.parent)}]. Give codes and tree of one autoencoder."
            )
        constant, own, both = self._lengths
        own, both, parent = (tensor.to(fires.device) for tensor in (own, both, self.parent.clamp_min(0)))
        found = []
        for part in fires.split(ROWS_AT_ONCE):
            x = part.double()
            found.append(constant + x @ own + (x * x[:, parent]) @ both)
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=fires.device)

    @cached_property
    def _lengths(self) -> tuple[float, Tensor, Tensor]:
        """The bits of a code: of none that fires, of each that does, and of each that does with its parent."""
        fires, silent = -self.rates.log2(), -(1 - self.rates).log2()
        has = self.parent != NONE
        own = fires[:, 0] - silent[:, 0]
        of_parent = torch.where(has, silent[:, 1] - silent[:, 0], 0.0)
        both = torch.where(has, fires[:, 1] - silent[:, 1] - own, 0.0)
        return float(silent[:, 0].sum()), own.index_add(0, self.parent[has], of_parent[has]), both

    @classmethod
    def _with(cls, parent: Tensor, counts: PairCounts) -> Self:
        total = counts.fired.cpu()
        fired = torch.stack([total, torch.zeros_like(total)], 1)
        child = (parent != NONE).nonzero().squeeze(1)
        place = torch.zeros(len(parent), dtype=torch.int64)
        place[counts.varying.cpu()] = torch.arange(len(counts.varying))
        one, other = (place[latents].to(counts.varying.device) for latents in (child, parent[child]))
        fired[child, 1] = counts.together()[one, other].cpu().long()
        fired[child, 0] -= fired[child, 1]
        return cls(parent, fired, counts.n)


def tree_entropy(fired: Tensor, seen: Tensor, n: Tensor | float) -> Tensor:
    """Entropy in bits of counts [..., F, 2] of firing among samples [..., F, 2], of `n` in all, summed over latents."""
    rates = (fired / seen.clamp_min(1e-300)).clamp(0, 1)
    return (seen * bernoulli_entropy(rates)).sum((-2, -1)) / n


def _check(parent: Tensor, fired: Tensor, n: int) -> None:
    size, types = len(parent), {parent.dtype, fired.dtype}
    if types != {torch.int64} or parent.ndim != 1 or fired.shape != (size, 2) or not 1 <= n <= MOST_SAMPLES:
        raise InvalidInputError(
            f"a tree has parents {tuple(parent.shape)} of {parent.dtype}, counts {tuple(fired.shape)} of {fired.dtype} "
            f"and {n} samples; expected int64 [F], int64 [F, 2], and 1 to {MOST_SAMPLES} samples."
        )
    depths(parent)
    if size and not (int(fired.min()) >= 0 and int(fired.max()) <= n):
        raise InvalidInputError(f"a latent of the tree fired {int(fired.max())} times in {n} samples.")
    with_parent = torch.where(parent != NONE, fired.sum(1)[parent.clamp_min(0)], 0) if size else parent
    if bool((fired[:, 0] > n - with_parent).any() | (fired[:, 1] > with_parent).any()):
        raise InvalidInputError("a latent of the tree fired beside its parent more often than that did.")
