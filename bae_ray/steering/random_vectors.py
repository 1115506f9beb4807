"""Controls for steering: vectors that know nothing of the prompts, of equal norm.

Shapes: D d_in, F d_latent.
"""

import torch
from torch import Tensor

from bae_ray.errors import InvalidInputError


def random_direction(width: int, norm: float, generator: torch.Generator) -> Tensor:
    """A vector [D] of that norm in a random direction, each as likely as any other."""
    drawn = torch.randn(width, generator=generator, dtype=torch.float64)
    return drawn * (norm / drawn.norm())


def random_features(change: Tensor, generator: torch.Generator) -> Tensor:
    """A change of latents [F] with the same numbers at other latents: random ones, none that changes in `change`.

    Where fewer than that are left, those are all taken, with as many of the numbers. Raises `InvalidInputError` where
    none is left: keep fewer features.
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
