"""Settings of the experiment on in-context learning, and its presets."""

from pathlib import Path
from typing import Literal

from bae_ray.activations.config import ExtractConfig, ICLInput
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.experiments.extractions import LARGE_BATCHES, on_gpus
from bae_ray.experiments.protocol import ExperimentConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig


class ICLConfig(ExperimentConfig):
    """Entropy and accuracy of in-context learning against k, the number of demonstrations in a prompt."""

    only: Literal["accuracy", "entropy"] | None = None
    """Run only one part. accuracy: the model's answers against k (Fig. 7). entropy: by layer and k (Fig. 4). None:
    both."""
    ks: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Values of k: demonstrations (examples with their answer) per prompt."""
    demonstrations: tuple[Literal["sampled", "fixed"], ...] = ("sampled", "fixed")
    """How demonstrations are chosen: sampled, anew for each query; fixed, the same for all queries."""
    extract: ExtractConfig
    """The activations. --ks and --demonstrations set input.k and input.demonstrations."""
    sweep: SweepConfig
    """The autoencoders."""


# Section 4.3, Appendix A.3.
_PAPER = ICLConfig(
    out=Path("runs/icl_paper"),
    extract=on_gpus(
        corpus="sst2",
        input=ICLInput(),
        layers=(0, 2, 4, 6, 8, 10, 12, 14, 16),
        positions=("last",),
        max_texts=262_144,
        **LARGE_BATCHES,
    ),
    sweep=SweepConfig(layers=(2, 4, 6, 8, 10, 12, 14, 16), autoencoder=BAEConfig(expansion=4), gpus_per_trial=0.25),
)

PRESETS = {
    # 100 epochs of few steps in place of the paper's 2,000 of 410, by the recipe.
    "laptop": ICLConfig(
        out=Path("runs/icl"),
        extract=ExtractConfig(
            corpus="sst2",
            input=ICLInput(),
            layers=(0, 5, 10, 15, 20, 25, 30),
            positions=("last",),
            max_texts=256,
            batch_size=16,
            shard_size=64,
        ),
        sweep=SweepConfig(
            layers=(5, 10, 20, 30),  # at 0 the last token's embedding is the same for all prompts
            autoencoder=BAEConfig(expansion=2),
            training=TrainingConfig(recipe="scaled", epochs=100, batch_size=256),
            seeds=(0, 1),
        ),
    ),
    # One H100, at most an hour: an estimate, not measured. A sixteenth of the paper's prompts, and 3,750 steps in place
    # of 820,000, by the recipe.
    "gpu": _PAPER.changed(
        out="runs/icl_gpu",
        extract={"max_texts": 16_384, "workers": 1},
        sweep={"training": TrainingConfig(recipe="scaled", epochs=150, precision="tf32")},
    ),
    "paper": _PAPER,
}
