"""Settings of the experiment on layers and positions, and its presets."""

from pathlib import Path

from pydantic import Field

from bae_ray.activations.config import ExtractConfig
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.experiments.extractions import PILE, on_gpus
from bae_ray.experiments.protocol import ExperimentConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig


class LayerPositionConfig(ExperimentConfig):
    """An entropy sweep over layers and token positions."""

    extract: ExtractConfig
    """The activations."""
    sweep: SweepConfig
    """The autoencoders."""
    matched_fvu: float | None = Field(default=None, gt=0)
    """Held-out FVU at which cells are compared, if the sweep has several entropy weights. None: the FVU, to two digits,
    that the curves of most cells contain."""


# Section 4.2, Appendix A.2. Position 0 is left out: with a start token it is always the same.
_PAPER = LayerPositionConfig(
    out=Path("runs/layer_position_entropy"),
    extract=on_gpus(
        corpus=PILE, positions=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1023), max_texts=262_144, shard_size=4096
    ),
    sweep=SweepConfig(autoencoder=BAEConfig(expansion=4), gpus_per_trial=0.25),
)

PRESETS = {
    # Minutes on 2 cores. The paper's 2,000 epochs of 410 steps become 60 epochs of 6, for which its loss weights and
    # learning rate are too small; those of the recipe take fewer bits at like FVU (docs/recipe.md).
    "laptop": LayerPositionConfig(
        out=Path("runs/demo"),
        extract=ExtractConfig(layers=(0, 5, 10, 20, 30), positions=(1, 2, 4, 8, 16, 32), max_texts=2048),
        sweep=SweepConfig(
            autoencoder=BAEConfig(expansion=2),
            training=TrainingConfig(recipe="scaled", epochs=60, batch_size=256),
        ),
    ),
    # A rate-distortion curve per cell, for bits at one FVU; some 20 minutes on 2 cores.
    "matched": LayerPositionConfig(
        out=Path("runs/matched"),
        extract=ExtractConfig(layers=(0, 10, 20, 30), positions=(1, 4, 16, 32), max_texts=2048),
        sweep=SweepConfig(
            autoencoder=BAEConfig(expansion=2),
            training=TrainingConfig(recipe="scaled", epochs=60, batch_size=256),
            axes=("training.entropy_weight=3e-4,7e-4,1.5e-3,3e-3",),
            seeds=(0, 1),
        ),
    ),
    # One H100, at most an hour: an estimate, not measured. An eighth of the paper's texts, every second layer, and
    # 5,100 steps in place of 820,000, by the recipe.
    "gpu": _PAPER.changed(
        out="runs/layer_position_entropy_gpu",
        extract={"layers": range(0, 17, 2), "max_texts": 32_768, "workers": 1},
        sweep={"training": TrainingConfig(recipe="scaled", epochs=100, precision="tf32")},
    ),
    "paper": _PAPER,
}
