"""What is measured of a store's cells without training an autoencoder."""

from pydantic import Field

from bae_ray.activations.config import Position
from bae_ray.config import Config


class MeasureConfig(Config):
    """What is measured of which cells."""

    fvu: float = Field(default=0.25, gt=0, le=1)
    """Held-out FVU (fraction of variance unexplained) at which bits are measured. With runs, each run's own is
    taken."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the rows held out, as in training. With runs, theirs is taken."""
    seed: int = 0
    """Seed of the split, as in training, and of random draws. With runs, theirs is taken."""
    layers: tuple[int, ...] | None = None
    """Layers to measure. None: all."""
    positions: tuple[Position, ...] | None = None
    """Positions to measure. None: all."""
    sites: tuple[str, ...] | None = None
    """Sites to measure. None: all."""
