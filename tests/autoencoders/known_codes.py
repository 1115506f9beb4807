"""Codes whose entropy is known, and what else says how large the entropy of a code is."""

import itertools

import numpy as np
import torch
from torch import Tensor

from bae_ray.autoencoders.chow_liu import ChowLiuTree


def bernoulli(p: float) -> float:
    return 0.0 if p in (0, 1) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def joint_entropy(code: Tensor) -> float:
    """Of the frequencies of the codes [N, F] themselves: all 2^F are gone through."""
    rows = [tuple(row) for row in code.int().tolist()]
    shares = [rows.count(pattern) / len(rows) for pattern in itertools.product((0, 1), repeat=code.shape[1])]
    return -sum(share * np.log2(share) for share in shares if share)


def fitted(code: Tensor, parts: int = 3) -> ChowLiuTree:
    return ChowLiuTree.fit(code.tensor_split(parts))


def drawn(n: int, rates: Tensor, parent: list[int], seed: int) -> Tensor:
    """Codes [n, F] of a tree in which parents come first; rates [F, 2] given that the parent is silent, fires."""
    uniform = torch.rand(n, len(parent), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    code = torch.zeros(n, len(parent), dtype=torch.bool)
    for latent, above in enumerate(parent):
        given = torch.zeros(n, dtype=torch.long) if above < 0 else code[:, above].long()
        code[:, latent] = uniform[:, latent] < rates[latent][given]
    return code


def entropy_of(rates: Tensor, parent: list[int]) -> float:
    """The exact entropy of that tree."""
    fires, bits = [0.0] * len(parent), 0.0
    for latent, above in enumerate(parent):
        of_parent = 0.0 if above < 0 else fires[above]
        silent, with_it = rates[latent].tolist()
        fires[latent] = (1 - of_parent) * silent + of_parent * with_it
        bits += (1 - of_parent) * bernoulli(silent) + of_parent * bernoulli(with_it)
    return bits


def random_tree(n_latents: int, seed: int) -> tuple[Tensor, list[int]]:
    """Rates of many sizes that depend on the parent, and parents, of which a few latents have none."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.rand(n_latents, 2, generator=generator, dtype=torch.float64)
    rates[:, 0] **= 3
    parent = [-1, *(int(torch.randint(i, (1,), generator=generator)) for i in range(1, n_latents))]
    return rates, [-1 if latent % 17 == 16 else above for latent, above in enumerate(parent)]
