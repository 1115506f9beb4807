"""Features whose rows of the dictionary point in similar directions.

Shapes: G features, D width of the activations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

NEAREST = 5
"""Number of features shown as similar."""
AT_ONCE = 256


class Similar(NamedTuple):
    """Another feature."""

    feature: int
    cosine: float
    """Cosine of the two rows of the dictionary."""


@torch.no_grad()
def similar(dictionary: Tensor, features: Sequence[int]) -> dict[int, list[Similar]]:
    """For some features the nearest of all others, by the cosine of their rows of the dictionary [G, D]."""
    unit = nn.functional.normalize(dictionary.float(), dim=1)
    found: dict[int, list[Similar]] = {}
    for start in range(0, len(features), AT_ONCE):
        chosen = torch.tensor(features[start : start + AT_ONCE], device=unit.device)
        cosines = unit[chosen] @ unit.T
        cosines[torch.arange(len(chosen)), chosen] = -torch.inf
        values, others = cosines.topk(min(NEAREST, len(unit) - 1), dim=1)
        for feature, row, near in zip(chosen.tolist(), values.tolist(), others.tolist(), strict=True):
            found[feature] = [Similar(other, value) for other, value in zip(near, row, strict=True)]
    return found
