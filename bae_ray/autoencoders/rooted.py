"""Rooted trees over latents: from edges to each latent's parent and depth."""

import numpy as np
import torch
from torch import Tensor

from bae_ray.errors import InvalidInputError

NONE = -1
"""Parent of a latent that has none."""


def rooted(edges: Tensor, d_latent: int) -> Tensor:
    """Parents [F] of a tree with edges [E, 2], rooted at its centre, which makes it as shallow as possible."""
    neighbours: dict[int, list[int]] = {}
    for one, other in edges.tolist():
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    parent = torch.full((d_latent,), NONE, dtype=torch.int64)
    if not neighbours:
        return parent
    # The centre is in the middle of a longest path; one end of that is furthest from anywhere.
    end = _breadth_first(neighbours, min(neighbours))[0][-1]
    order, back = _breadth_first(neighbours, end)
    path = [order[-1]]
    while path[-1] != end:
        path.append(back[path[-1]])
    order, back = _breadth_first(neighbours, path[len(path) // 2])
    if len(order) > 1:
        parent[torch.tensor(order[1:])] = torch.tensor([back[latent] for latent in order[1:]])
    return parent


def depths(parent: Tensor) -> Tensor:
    """How many ancestors each latent has, [F]. Raises `InvalidInputError` for a missing parent, or a circle."""
    parents = parent.numpy()
    if len(parents) and not (int(parents.min()) >= NONE and int(parents.max()) < len(parents)):
        raise InvalidInputError("a latent's parent is no latent")
    # How far up is looked doubles each time, so that a chain of all latents takes no longer than they are many.
    size = len(parents)
    above = np.append(np.where(parents == NONE, size, parents), size)
    depth = (above != size).astype(np.int64)
    for _ in range(size.bit_length()):
        depth += depth[above]
        above = above[above]
    if (above != size).any():
        raise InvalidInputError("parents of latents go in a circle")
    return torch.from_numpy(depth[:-1])


def _breadth_first(neighbours: dict[int, list[int]], start: int) -> tuple[list[int], dict[int, int]]:
    """Latents in the order of their distance from one, and from which each is reached."""
    order, back = [start], {start: NONE}
    for latent in order:
        for other in neighbours[latent]:
            if other not in back:
                back[other] = latent
                order.append(other)
    return order, back
