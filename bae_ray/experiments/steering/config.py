"""Settings of the steering experiment, and its presets."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from bae_ray.activations.config import CorpusConfig, ExtractConfig, ICLInput
from bae_ray.autoencoders.config import TopKConfig
from bae_ray.experiments.extractions import EIGHTH, news, pile
from bae_ray.experiments.protocol import ExperimentConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig

Kept = Annotated[int, Field(ge=1)] | None


class SteeringConfig(ExperimentConfig):
    """Steer prompts without demonstrations by vectors made from prompts with demonstrations (section 5.4)."""

    extract: ExtractConfig
    """Activations to train the autoencoders on: every token of a corpus, at the layers to steer. Model, precision and
    workers hold for the whole experiment."""
    sweep: SweepConfig
    """The autoencoders. Their architectures are an axis of the grid; each has one run per layer and seed."""
    prompts: CorpusConfig = CorpusConfig(corpus="mr", max_texts=None)
    """The labelled corpus of the prompts: mr (as in the paper), sst2, agnews or your own."""
    input: ICLInput = ICLInput(k=8)
    """How prompts are written. k: demonstrations in each prompt of the good set; the bad set has none. --seeds sets the
    seed."""
    calibration: int = Field(default=512, ge=2)
    """Prompts per set (good: with demonstrations, bad: without) that vectors are made from."""
    test: int = Field(default=512, ge=2)
    """Prompts without demonstrations to steer. Their texts are not in the prompts that vectors are made from."""
    neutral: CorpusConfig = CorpusConfig(corpus="agnews", max_texts=128)
    """Other texts, on which steering should change nothing. How much the next-token distribution changes is measured
    there."""
    neutral_tokens: int = Field(default=32, ge=1)
    """Tokens read of each neutral text."""
    layer: int = Field(ge=0)
    """Layer of Fig. 6, one of extract.layers."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Further layers to steer. Methods with an autoencoder are tried only at those that are also in extract.layers."""
    strengths: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    """Factors by which a vector is multiplied. 0: no steering."""
    kept: Kept = 256
    """Number of latents kept of the difference between good and bad prompts: the largest in absolute value. None:
    all."""
    kept_compared: tuple[Kept, ...] = (16, 64, 256, 1024, None)
    """Values of --kept to compare, each with the differences themselves and with their signs only."""
    compared_at: float = 1.0
    """Strength at which --kept-compared is tried, one of --strengths. Vectors are scaled to the distance between the
    centroids (means) of good and bad prompts."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds. Each draws its own calibration and test prompts and random controls, and trains its own autoencoders."""
    prompts_at_once: int = Field(default=64, ge=1)
    """Largest number of prompts per forward pass."""

    @model_validator(mode="after")
    def _check_strengths(self) -> Self:
        for name in ("strengths", "seeds", "kept_compared", "layers"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} are {values}: expected each named once")
        if self.compared_at not in self.strengths or self.compared_at == 0:
            raise ValueError(
                f"compared_at is {self.compared_at}: expected one of strengths {self.strengths}, but not 0"
            )
        return self


METHODS = "autoencoder.architecture=bae,relu,topk,gated"

# Section 5.4 and Appendix A.4: Llama 3.2-1B, layer 11, autoencoders of the Pile, 512 prompts of each set.
_PAPER = SteeringConfig(
    out=Path("runs/steering_paper"),
    extract=pile((5, 9, 11, 14)),
    sweep=SweepConfig(training=TrainingConfig(epochs=200), axes=(METHODS,), gpus_per_trial=1),
    layer=11,
    layers=(1, 3, 5, 7, 9, 11, 13, 15),
)

PRESETS = {
    # Some 20 minutes on 2 idle cores: an estimate, not measured to its end. The autoencoders are those of the laptop
    # preset of comsem_table, at half its vectors.
    "laptop": SteeringConfig(
        out=Path("runs/steering"),
        extract=news((10,), vectors=16_384).model_copy(update={"batch_size": 16, "shard_size": 64}),
        sweep=SweepConfig(
            autoencoder=TopKConfig(expansion=2),
            training=TrainingConfig(
                epochs=20, batch_size=256, lr=2e-3, lr_decay=0.5, entropy_weight=1e-3, covariance_weight=1e-5
            ),
            axes=("autoencoder.architecture=bae,relu,topk,gated training.l1_weight=0,3e-5,0,1e-5",),
            packed=2,
        ),
        calibration=96,
        test=128,
        neutral=CorpusConfig(corpus="agnews", max_texts=64),
        layer=10,
        layers=(5, 15, 20, 25),
        strengths=(0.0, 0.5, 1.0, 2.0, 3.0),
        kept_compared=(16, 64, 256, None),
    ),
    # One H100, at most an hour: an estimate, not measured. One layer, an eighth of the vectors, 16,000 steps in place
    # of 2.5 million, so the loss weights are larger.
    "gpu": _PAPER.changed(
        out="runs/steering_gpu",
        extract={**EIGHTH, "layers": (11,)},
        sweep={
            "training": TrainingConfig(
                epochs=10, lr_decay=0.5, entropy_weight=1e-4, covariance_weight=1e-6, l1_weight=1e-6, precision="tf32"
            ),
            "packed": "auto",
        },
    ),
    "paper": _PAPER,
}
