"""Settings of the experiment on more-bit decoding, and its presets."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from bae_ray.activations.config import CorpusConfig
from bae_ray.autoencoders.config import BAEConfig, ReLUConfig
from bae_ray.comsem.config import ScoringConfig
from bae_ray.experiments.extractions import BOOKS, EIGHTH, news, pile
from bae_ray.experiments.judged import PAPER_JUDGE, SAMPLE, JudgedConfig
from bae_ray.serving.config import JudgeServiceConfig
from bae_ray.serving.judge.session import JobJudgeConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import ExecutionConfig


class MoreBitConfig(JudgedConfig, ExecutionConfig):
    """Compare binary autoencoders that have several bits per feature with a sparse autoencoder."""

    layer: int = Field(ge=0)
    """Layer of Table 2, one of extract.layers. The figures show all of extract.layers."""
    bits: tuple[Annotated[int, Field(ge=1, le=8)], ...] = (1, 2, 3, 4)
    """Values of C, the bits per feature, in Table 2. 1 is always added."""
    autoencoder: BAEConfig = BAEConfig()
    """Binary autoencoder with one bit per feature. With C bits the expansion is C times as large, so that the number of
    features stays the same."""
    baseline: ReLUConfig = ReLUConfig()
    """The sparse autoencoder to compare with."""
    training: TrainingConfig
    """Training of all autoencoders."""
    scaled_entropy_weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    """Entropy weights at which the one-bit autoencoder is also trained, with the recipe `scaled`."""
    judged: bool = False
    """Let the judge name and score the features of Table 2. Otherwise active features are only counted."""
    map_samples: int = Field(default=256, ge=2)
    """Largest number of tokens (rows) in a map of magnitudes."""
    map_columns: int = Field(default=384, ge=2)
    """Largest number of columns in a map of magnitudes."""


# Section 6, Appendices A.4 and G: Llama 3.2-1B, trained on the Pile, 8,192 sentences of BookCorpus.
_PAPER = MoreBitConfig(
    out=Path("runs/more_bit_paper"),
    extract=pile((5, 9, 11, 14)),
    evaluation=CorpusConfig(corpus=BOOKS, max_texts=8192),
    layer=11,
    training=TrainingConfig(epochs=200),
    gpus_per_trial=1,
    judge=PAPER_JUDGE,
)

PRESETS = {
    # 11 minutes on 2 cores. Half the paper's features per dimension, and 1,500 steps where the paper has 2.5 million,
    # so learning rate and entropy weight are larger. The covariance weight is the paper's: the penalty grows with the
    # square of C, and a weight of 1e-5, which makes the code of one bit sparse, leaves those of more bits with a larger
    # L_r. At this L1 weight the sparse autoencoder's held-out FVU is about that of such a sparse code.
    "laptop": MoreBitConfig(
        out=Path("runs/more_bit"),
        extract=news((10, 20), vectors=16_384),
        evaluation=CorpusConfig(corpus="mr", max_texts=512),
        layer=10,
        autoencoder=BAEConfig(expansion=2),
        baseline=ReLUConfig(expansion=2),
        training=TrainingConfig(
            epochs=30, batch_size=256, lr=2e-3, lr_decay=0.5, entropy_weight=1e-4, l1_weight=1.5e-5
        ),
        packed=2,  # so that both cores are at work
        scoring=ScoringConfig(max_features=30, random_features=24, shuffled=10),
        judge=JobJudgeConfig(service=JudgeServiceConfig(name="smollm2-135m-instruct")),
    ),
    # One H100, at most an hour: an estimate, not measured. An eighth of the paper's vectors and 16,000 steps in place
    # of 2.5 million, so the loss weights are larger.
    "gpu": _PAPER.changed(
        out="runs/more_bit_gpu",
        extract=EIGHTH,
        evaluation={"max_texts": 2048},
        training={"epochs": 10, "lr_decay": 0.5, "entropy_weight": 1e-5, "l1_weight": 1e-6, "precision": "tf32"},
        gpus_per_trial=0.5,
        packed="auto",
        scoring=SAMPLE,
    ),
    "paper": _PAPER,
}
