"""Settings of the experiment on random sequences, and its presets."""

from pathlib import Path

from bae_ray.activations.config import ExtractConfig, RandomTokensInput
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.experiments.extractions import LARGE_BATCHES, on_gpus
from bae_ray.experiments.protocol import ExperimentConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig


class RandomTokensConfig(ExperimentConfig):
    """Measure the entropy of activations on random sequences of two tokens, whose number of bits is known."""

    bits: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Values of r, the bits of a set of sequences: a sequence has r tokens."""
    extract: ExtractConfig
    """The activations. --bits sets input.bits."""
    sweep: SweepConfig
    """The autoencoders."""


# Appendix B: layer 12 of Llama 3.2-1B, inner dimensions 2048 to 32768.
_PAPER = RandomTokensConfig(
    out=Path("runs/lm_random_tokens_paper"),
    bits=(32, 64, 128, 256, 512, 1024),
    extract=on_gpus(input=RandomTokensInput(), layers=(12,), positions=("last",), max_texts=65_536, **LARGE_BATCHES),
    sweep=SweepConfig(axes=("autoencoder.expansion=1,2,4,8,16",), packed=4, gpus_per_trial=0.5),
)

PRESETS = {
    # 150 epochs of 6 steps in place of the paper's 2,000 of 410, by the recipe.
    "laptop": RandomTokensConfig(
        out=Path("runs/lm_random_tokens"),
        bits=(1, 2, 4, 8, 16),
        extract=ExtractConfig(
            input=RandomTokensInput(), layers=(20,), positions=("last",), max_texts=2048, batch_size=64, shard_size=512
        ),
        sweep=SweepConfig(
            autoencoder=BAEConfig(expansion=1),
            training=TrainingConfig(recipe="scaled", epochs=150, batch_size=256),
            axes=("autoencoder.expansion=1,2",),
        ),
    ),
    # One H100, at most an hour: an estimate, not measured. A quarter of the paper's sequences, and 5,000 steps in place
    # of 204,000, by the recipe.
    "gpu": _PAPER.changed(
        out="runs/lm_random_tokens_gpu",
        extract={"max_texts": 16_384, "workers": 1},
        sweep={"training": TrainingConfig(recipe="scaled", epochs=200, precision="tf32"), "packed": "auto"},
    ),
    "paper": _PAPER,
}
