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
    """How the shape of a feature is measured."""

    max_tokens: int = Field(default=3000, ge=50)
    """Of a feature that is active in more sentences a random sample of these, of at most so many tokens."""
    permutations: int = Field(default=199, ge=19)
    """Shufflings of the labels, for chance and p; no p is smaller than one over these and one."""
    draws: int = Field(default=20, ge=1)
    """Draws of each set of control tokens."""
    seed: int = Field(default=0, ge=0)
    """Seed of samples, shufflings and draws."""


class PlaneConfig(Config):
    """UMAP (McInnes et al., 2018), with the defaults of umap-learn; the paper names no parameters."""

    n_neighbors: int = Field(default=15, ge=2)
    """Neighbours that a token is to stay near to."""
    min_dist: float = Field(default=0.1, ge=0, lt=1)
    """Smallest distance in the plane."""
    seed: int = Field(default=0, ge=0)
    """With a seed it computes in one thread, and gives the same picture again."""


class FeatureShapeConfig(JudgedConfig, ExecutionConfig):
    """The shape of features in the space of the activations, against their scores."""

    autoencoder: BAEConfig = BAEConfig()
    """The autoencoder whose features they are, trained on the one layer of the extraction."""
    training: TrainingConfig
    """Its training."""
    scored: Place | None = None
    """Folder of one method that ComSem has scored, OUT/METHOD, as `bae-ray comsem` and other jobs leave it. Its
    autoencoder, evaluation set and scores are taken: nothing is extracted, trained or asked. Left out: all is made."""
    scores: Literal["tokens", "judge"] = "tokens"
    """Who scores: the judge, or nobody. tokens: ComSem without one, where a feature's explanation is the words of the
    examples that it would be named from, and an example fits whose word is among them."""
    features: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Features to be shown, by index. Left out: `shown` of the highest and as many of the lowest scores."""
    shown: int = Field(default=3, ge=1)
    """Number of features shown of each."""
    shape: ShapeConfig = ShapeConfig()
    """What is measured."""
    plane: PlaneConfig = PlaneConfig()
    """The picture."""


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
