"""What is measured of a store's cells without a training."""

from pydantic import Field

from bae_ray.activations.config import Position
from bae_ray.config import Config


class MeasureConfig(Config):
    """What is measured of which cells."""

    fvu: float = Field(default=0.25, gt=0, le=1)
    """Held-out FVU at which bits are measured, where no runs are given that have one of their own."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the rows held out, as in a training. Runs have their own."""
    seed: int = 0
    """Seed of the split, as in a training, and of what is drawn at random. Runs have their own."""
    layers: tuple[int, ...] | None = None
    """Layers to measure. Left out: all."""
    positions: tuple[Position, ...] | None = None
    """Positions to measure. Left out: all."""
    sites: tuple[str, ...] | None = None
    """Sites to measure. Left out: all."""
