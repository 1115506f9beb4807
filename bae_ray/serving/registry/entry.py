"""An encoder of the registry."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bae_ray.activations.config import Position
from bae_ray.autoencoders import ArchitectureConfig
from bae_ray.autoencoders.architectures import architecture_of


class Origin(NamedTuple):
    """The activations that a run's encoder was trained on."""

    model: str
    layer: int
    site: str
    position: Position


class Entry(NamedTuple):
    """An encoder of the registry, as its files describe it."""

    id: str
    folder: Path
    version: str
    """Changes when the files do."""
    config: ArchitectureConfig | None
    """None if the encoder is broken."""
    reason: str
    """Why it is broken."""
    prior_bits: float | None
    """Marginal entropy of the prior, in bits; None without a prior, and for a broken encoder."""
    origin: Origin | None
    measures: dict[str, float]

    @property
    def key(self) -> str:
        """Id and version: the name of the encoder in replicas."""
        return f"{self.id}@{self.version}"

    @property
    def binary(self) -> bool:
        """Whether its latents are a code of 0 and 1."""
        return self.config is not None and architecture_of(self.config).is_binary

    @property
    def lacks_prior(self) -> bool:
        """Whether it has no firing rates although its magnitudes (burstiness) need them."""
        return self.config is not None and self.config.has_burstiness and self.prior_bits is None

    @property
    def n_features(self) -> int:
        """Number of features: rows of the dictionary."""
        assert self.config is not None
        return self.config.n_features


def count(entries: Iterable[Entry]) -> dict[str, int]:
    """How many encoders are ready, and how many broken."""
    ready = [entry.config is not None for entry in entries]
    return {"ready": sum(ready), "broken": len(ready) - sum(ready)}
