"""Controls for steering: vectors of equal norm that do not depend on the prompts.

Shapes: D d_in, F d_latent.
"""

import torch
from torch import Tensor

from bae_ray.errors import InvalidInputError


def random_direction(width: int, norm: float, generator: torch.Generator) -> Tensor:
    """A vector [D] of this norm in a uniformly random direction."""
    drawn = torch.randn(width, generator=generator, dtype=torch.float64)
    return drawn * (norm / drawn.norm())


def random_features(change: Tensor, generator: torch.Generator) -> Tensor:
    """A change of latents [F] with the same values, moved to random latents that do not change in `change`.

    If too few such latents are left, all of them get a value and the other values are dropped. Raises
    `InvalidInputError` if none is left: keep fewer features.
    """
    chosen, others = change.nonzero().squeeze(1), (change == 0).nonzero().squeeze(1)
    n = min(len(chosen), len(others))
    if not n:
        raise InvalidInputError(
            f"{len(chosen)} of {len(change)} latents change, so no others can be drawn as a control. Keep at least "
            "one feature, and not all."
        )
    values = change[chosen[torch.randperm(len(chosen), generator=generator)[:n]]]
    places = others[torch.randperm(len(others), generator=generator)[:n]]
    return torch.zeros_like(change).index_copy(0, places, values)
