"""Settings of the experiment on the shape of features, and its presets."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bae_ray.activations.config import CorpusConfig
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.comsem.config import ScoringConfig
from bae_ray.config import Config
from bae_ray.experiments.extractions import BOOKS, EIGHTH, news, pile
from bae_ray.experiments.judged import PAPER_JUDGE, SAMPLE, JudgedConfig
from bae_ray.locations import Place
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import ExecutionConfig


class ShapeConfig(Config):
    """How to measure the shape of a feature."""

    max_tokens: int = Field(default=3000, ge=50)
    """Largest number of tokens used per feature. If its sentences have more, a random sample of the sentences is
    taken."""
    permutations: int = Field(default=199, ge=19)
    """Number of random label permutations, for the chance level and p-values. The smallest possible p is 1 /
    (permutations + 1)."""
    draws: int = Field(default=20, ge=1)
    """Number of random draws of each set of control tokens."""
    seed: int = Field(default=0, ge=0)
    """Seed of samples, permutations and draws."""


class PlaneConfig(Config):
    """UMAP (McInnes et al., 2018), with the defaults of umap-learn; the paper names no parameters."""

    n_neighbors: int = Field(default=15, ge=2)
    """UMAP's n_neighbors: neighbours that a token should stay near to."""
    min_dist: float = Field(default=0.1, ge=0, lt=1)
    """UMAP's min_dist: smallest distance in the plane."""
    seed: int = Field(default=0, ge=0)
    """Seed of UMAP. With it, UMAP computes in one thread and gives the same picture each time."""


class FeatureShapeConfig(JudgedConfig, ExecutionConfig):
    """Compare the shape of features in activation space with their scores."""

    autoencoder: BAEConfig = BAEConfig()
    """The autoencoder, trained on the one layer of the extraction."""
    training: TrainingConfig
    """The autoencoder's training."""
    scored: Place | None = None
    """Folder OUT/METHOD of a method that `bae-ray comsem` or another job has scored. Its autoencoder, evaluation set
    and scores are used: nothing is extracted, trained or asked. None: all of these are made."""
    scores: Literal["tokens", "judge"] = "tokens"
    """How features are scored. judge: by the judge. tokens: without a judge. A feature's explanation is then the list
    of words in the examples that would name it; a further example fits if its word is in the list."""
    features: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Indices of the features to show. None: the --shown features with the highest scores and as many with the
    lowest."""
    shown: int = Field(default=3, ge=1)
    """Number of features to show from each end of the scores."""
    shape: ShapeConfig = ShapeConfig()
    """What to measure of a feature's shape."""
    plane: PlaneConfig = PlaneConfig()
    """The UMAP picture of a feature's tokens."""


# Appendix F.3: layer 14 of Llama 3.2-1B, 8,192 sentences of BookCorpus, scored by ComSem.
_PAPER = FeatureShapeConfig(
    out=Path("runs/feature_shape_paper"),
    extract=pile((14,)),
    evaluation=CorpusConfig(corpus=BOOKS, max_texts=8192),
    training=TrainingConfig(epochs=200),
    gpus_per_trial=1,
    scores="judge",
    scoring=ScoringConfig(max_features=512, random_features=64),
    judge=PAPER_JUDGE,
)

PRESETS = {
    # 16 minutes on 2 busy cores. The layer, vectors and the epochs of comsem_table, by the recipe. The bundled judge
    # explains next to nothing (docs/results.md), so that its scores would be all the same: nobody is asked.
    "laptop": FeatureShapeConfig(
        out=Path("runs/feature_shape"),
        extract=news((10,), vectors=32_768),
        evaluation=CorpusConfig(corpus="mr", max_texts=1024),
        autoencoder=BAEConfig(expansion=2),
        training=TrainingConfig(recipe="scaled", epochs=20, batch_size=256),
        scoring=ScoringConfig(max_features=200),
    ),
    # One H100, at most an hour: an estimate, not measured. An eighth of the paper's vectors, by the recipe, and a
    # sample of the features.
    "gpu": _PAPER.changed(
        out="runs/feature_shape_gpu",
        extract=EIGHTH,
        evaluation={"max_texts": 2048},
        training=TrainingConfig(recipe="scaled", epochs=20, precision="tf32"),
        gpus_per_trial=0.5,
        scoring=SAMPLE,
    ),
    "paper": _PAPER,
}
