"""An encoder of the registry, as its files say."""

from pathlib import Path
from typing import NamedTuple

from bae_ray.activations.config import Position
from bae_ray.autoencoders import ArchitectureConfig
from bae_ray.autoencoders.architectures import architecture_of


class Origin(NamedTuple):
    """Which activations a run's encoder is of."""

    model: str
    layer: int
    site: str
    position: Position


class Entry(NamedTuple):
    """An encoder of the registry."""

    id: str
    folder: Path
    version: str
    """Changes when the files do."""
    config: ArchitectureConfig | None
    """None: the encoder is broken."""
    reason: str
    """Why it is broken."""
    prior_bits: float | None
    """Marginal entropy of the prior, in bits; None of a broken encoder, and of one without a prior."""
    origin: Origin | None
    measures: dict[str, float]

    @property
    def key(self) -> str:
        """Id and version: what replicas hold it under."""
        return f"{self.id}@{self.version}"

    @property
    def binary(self) -> bool:
        """Whether its latents are a code of 0 and 1."""
        return self.config is not None and architecture_of(self.config).is_binary

    @property
    def lacks_prior(self) -> bool:
        """Whether its magnitudes would be burstiness and there are no firing rates to measure it by."""
        return self.config is not None and self.config.has_burstiness and self.prior_bits is None

    @property
    def n_features(self) -> int:
        """Rows of the dictionary."""
        assert self.config is not None
        return self.config.n_features
