"""Settings of the experiment on compression, and its presets."""

from pathlib import Path

from pydantic import Field

from bae_ray.activations.config import CorpusConfig, ExtractConfig
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.experiments.extractions import BOOKS, EIGHTH, news, pile
from bae_ray.experiments.protocol import ExperimentConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig


class CompressionConfig(ExperimentConfig):
    """Compress held-out activations with binary autoencoders, beside other quantisers."""

    extract: ExtractConfig
    """The activations to train on: position all."""
    held_out: CorpusConfig
    """The texts whose activations are compressed. Model, layers and the rest are those of --extract."""
    held_out_vectors: int = Field(ge=2)
    """Number of held-out vectors."""
    sweep: SweepConfig
    """The autoencoders. Their entropy weights are an axis of the grid."""
    product_bytes: tuple[int, ...] = (8, 16, 32, 64)
    """Code sizes of product quantisation, in bytes per vector: divisors of the width."""
    residual_bytes: tuple[int, ...] = (8, 16)
    """Code sizes of residual quantisation, in bytes per vector."""
    quantizer_vectors: int = Field(default=16_384, ge=256)
    """Largest number of training vectors that the quantisers are fitted on."""
    spliced_texts: int = Field(default=64, ge=1)
    """Number of held-out texts on which the language model's loss is measured."""


# Appendix A.5: Llama 3.2-1B, trained on the Pile, 117,864 vectors of BookCorpus.
_PAPER = CompressionConfig(
    out=Path("runs/compression_paper"),
    extract=pile((5, 9, 11, 14)),
    held_out=CorpusConfig(corpus=BOOKS, max_texts=None),
    held_out_vectors=117_864,
    sweep=SweepConfig(
        training=TrainingConfig(epochs=200),
        axes=("training.entropy_weight=1e-7,1e-9 training.covariance_weight=1e-7,1e-9",),
        gpus_per_trial=1,
    ),
    quantizer_vectors=65_536,
    spliced_texts=1024,
)

PRESETS = {
    # 24 epochs for the paper's 2,000, by the recipe, at its own price of a bit (4e-1 / 576) and at a third of it.
    "laptop": CompressionConfig(
        out=Path("runs/compression"),
        extract=news((5, 20), vectors=16_384),
        held_out=CorpusConfig(corpus="mr", max_texts=None),
        held_out_vectors=8192,
        sweep=SweepConfig(
            autoencoder=BAEConfig(expansion=2),
            training=TrainingConfig(recipe="scaled", epochs=24, batch_size=256),
            axes=("training.entropy_weight=2e-4,7e-4",),
        ),
        residual_bytes=(8,),
        quantizer_vectors=10_240,
    ),
    # One H100, at most an hour: an estimate, not measured. An eighth of the paper's vectors, and 33,000 steps in place
    # of 2.6 million, by the recipe, at a quarter of its price of a bit (4e-1 / 2048) and at it.
    "gpu": _PAPER.changed(
        out="runs/compression_gpu",
        extract=EIGHTH,
        held_out_vectors=32_768,
        sweep={
            "training": TrainingConfig(recipe="scaled", epochs=20, precision="tf32"),
            "axes": ("training.entropy_weight=5e-5,2e-4",),
            "gpus_per_trial": 0.25,
            "packed": "auto",
        },
        quantizer_vectors=16_384,
        spliced_texts=256,
    ),
    "paper": _PAPER,
}
