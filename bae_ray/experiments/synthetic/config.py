"""Settings of the synthetic benchmark, and its presets."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from bae_ray.autoencoders.config import BAEConfig
from bae_ray.config import Config
from bae_ray.experiments.protocol import ExperimentConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import ExecutionConfig


class SyntheticConfig(Config):
    """Sets of vectors c M: r random bits c say which of the r orthonormal rows of M are summed. A set has r bits."""

    d: int = Field(default=128, ge=1)
    """Width of the vectors."""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Values of r, one per set. Rank 0 is not allowed: all its vectors are the same."""
    n: int = Field(default=16_384, ge=4)
    """Vectors in each set."""
    seed: int = 0
    """Seed of the rows M and the bits c."""

    @field_validator("ranks")
    @classmethod
    def _check_ranks(cls, ranks: tuple[int, ...], info: Any) -> tuple[int, ...]:
        d = info.data.get("d")
        for rank in ranks:
            if rank < 1 or (d is not None and rank > d):
                raise ValueError(f"rank {rank} is not possible: expected 1 to d = {d}")
        return ranks


class SyntheticEntropyConfig(ExperimentConfig, ExecutionConfig):
    """Measure the entropy of synthetic sets of known entropy with binary autoencoders."""

    data: SyntheticConfig = SyntheticConfig()
    """The sets of vectors."""
    autoencoder: BAEConfig = BAEConfig()
    """Architecture. Expansion and gradient vary, as the figures need."""
    training: TrainingConfig
    """Training, with the entropy loss."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the autoencoders with the entropy loss at --autoencoder.expansion and --autoencoder.gradient. All other
    autoencoders have the first seed only."""
    expansions: tuple[int, ...] = (1, 2, 4, 8)
    """Expansions, each with and without the entropy loss."""
    dynamics: tuple[int, ...] = (2, 8, 32)
    """Ranks for which metrics are logged at every training step."""
    only_entropies: bool = False
    """Train only the autoencoders that measure entropies: with the entropy loss, at every expansion and seed."""


# Appendix A.1; rank 0 is left out, its vectors are all the same. Vectors are used as they are, as in the paper: the
# loss weights go with their size.
_PAPER = SyntheticEntropyConfig(
    out=Path("runs/synthetic_entropy_paper"),
    data=SyntheticConfig(d=2048, ranks=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512), n=65_536),
    training=TrainingConfig(entropy_weight=5e-7, covariance_weight=1e-6, normalize="none"),
    expansions=(1, 2, 4, 8, 16),
    dynamics=(2, 8, 16, 32, 64, 128),
    gpus_per_trial=0.5,
)

PRESETS = {
    # 25 minutes on 2 cores. 300 epochs of 25 steps in place of the paper's 2,000 of 102, so learning rate and loss
    # weights are larger. The learning rate decays: once a set is coded exactly there is next to no gradient, Adam
    # blows up what is left of it, and at a constant rate the code breaks up again now and then (the paper's "phase 3").
    "laptop": SyntheticEntropyConfig(
        out=Path("runs/synthetic_entropy"),
        training=TrainingConfig(
            epochs=300, lr=2e-3, lr_decay=0.5, entropy_weight=5e-5, covariance_weight=1e-5, normalize="none"
        ),
        expansions=(1, 2, 4),
    ),
    # One H100, at most an hour: an estimate, not measured. The paper's sets, expansions up to 8, and 6,100 steps in
    # place of 204,000, so the loss weights are larger.
    "gpu": _PAPER.changed(
        out="runs/synthetic_entropy_gpu",
        training=TrainingConfig(
            epochs=60, lr_decay=0.5, entropy_weight=1e-5, covariance_weight=5e-6, normalize="none", precision="tf32"
        ),
        expansions=(1, 2, 4, 8),
        gpus_per_trial=0.25,
        packed="auto",
    ),
    # 20 epochs are 500 steps. Of other widths: --data.d 256 --data.ranks 1 2 4 8 16 32 64, in a folder of its own.
    "scaled": SyntheticEntropyConfig(
        out=Path("runs/synthetic_entropy_scaled"),
        training=TrainingConfig(recipe="scaled", epochs=20),
        expansions=(2, 4),
        dynamics=(),
        only_entropies=True,
    ),
    "paper": _PAPER,
}
