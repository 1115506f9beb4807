"""The tree over latents whose edges have the most mutual information (Chow and Liu, 1968).

Shapes: V latents.
"""

import torch
from torch import Tensor

from bae_ray.autoencoders.pair_counts import PairCounts


def best_edges(counts: PairCounts) -> Tensor:
    """Edges [E, 2] of the maximum spanning tree of the mutual information between latents, as numbers of latents.

    Prim's algorithm, with one row [V] of the information at a time, from the counts; nothing waits for a GPU. Latents
    that never or always fire have no information and get no edge, so E is their number less than V - 1.
    """
    together, n = counts.together(), float(counts.n)
    fired = counts.fired[counts.varying].double()
    alone = _times_log(fired) + _times_log(n - fired)
    taken = (fired == 0) | (fired == n)
    living = int((~taken).sum())
    if living < 2:
        return torch.empty(0, 2, dtype=torch.int64)
    best = torch.full_like(fired, -torch.inf)
    source = torch.zeros_like(counts.varying)
    current = (~taken).to(torch.uint8).argmax().reshape(1)
    edges = []
    for _ in range(living - 1):
        taken.index_fill_(0, current, True)
        both = together.index_select(0, current).squeeze(0).double()
        own, other = fired[current] - both, fired - both
        # N times the information of each with the current one, but for what is the same for all of them
        information = _times_log(torch.stack([both, own, other, n - fired - own])).sum(0) - (alone + alone[current])
        better = information > best
        best = torch.where(better, information, best).masked_fill_(taken, -torch.inf)
        source = torch.where(better, current, source)
        current = best.argmax().reshape(1)
        edges.append(torch.cat([source[current], current]))
    return counts.varying[torch.stack(edges)].cpu()


def _times_log(count: Tensor) -> Tensor:
    return torch.special.xlogy(count, count)
