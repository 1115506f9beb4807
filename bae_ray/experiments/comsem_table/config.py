"""Settings of the experiment that compares methods by ComSem, and its presets."""

from pathlib import Path
from typing import Literal

from bae_ray.activations.config import CorpusConfig
from bae_ray.autoencoders.config import TopKConfig, TranscoderConfig
from bae_ray.comsem.config import ScoringConfig
from bae_ray.experiments.extractions import BOOKS, EIGHTH, LLAMA, news, pile
from bae_ray.experiments.judged import PAPER_JUDGE, SAMPLE, JudgedConfig
from bae_ray.serving.judge.session import JobJudgeConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig


class ComSemTableConfig(JudgedConfig):
    """Compare methods: how many features can a judge name, and how well do the names fit?"""

    sweep: SweepConfig
    """The autoencoders. Their architectures are an axis of the grid."""
    rescaled: tuple[Literal["relu", "topk", "gated", "gated_sae", "batchtopk", "jumprelu", "transcoder"], ...] = (
        "relu",
    )
    """Architectures that are also scored with standardised latents: the same weights, but features are selected by
    latents of mean 0 and standard deviation 1 (the paper's "ReLU SAE Resc.")."""


def _paper(out: str, layers: tuple[int, ...], model: str = LLAMA) -> ComSemTableConfig:
    """Appendix A.4 at these layers. Layer l's transcoder goes from the MLP before, of layer l - 1, to layer l."""
    before = tuple(layer - 1 for layer in layers)
    others = "relu,topk,gated,bae"
    return ComSemTableConfig(
        out=Path(out),
        extract=pile(tuple(sorted({*layers, *before})), model=model, sites=("residual", "mlp_in")),
        evaluation=CorpusConfig(corpus=BOOKS, max_texts=8192),
        sweep=SweepConfig(
            autoencoder=TranscoderConfig(target_site="residual", target_layer_offset=1),
            training=TrainingConfig(epochs=200),
            axes=(f"autoencoder.architecture={others},transcoder",),
            exclude=(
                "site=residual autoencoder.architecture=transcoder",
                f"site=residual layer={','.join(map(str, before))}",
                f"site=mlp_in autoencoder.architecture={others}",
                f"site=mlp_in layer={','.join(map(str, layers))}",
            ),
            gpus_per_trial=1,
        ),
        scoring=ScoringConfig(random_features=512),
        judge=PAPER_JUDGE,
    )


PRESETS = {
    # 10 minutes on 2 cores. Half the paper's latents per dimension, one layer (the deepest of every fifth before
    # massive activations set in), a sample of the features, and 2,000 steps where the paper has 2.5 million. The loss
    # weights are those at which all methods have about the same held-out FVU: that of top-k with the paper's k.
    "laptop": ComSemTableConfig(
        out=Path("runs/comsem_table"),
        extract=news((10,), vectors=32_768),
        evaluation=CorpusConfig(corpus="mr", max_texts=512),
        sweep=SweepConfig(
            autoencoder=TopKConfig(expansion=2),
            training=TrainingConfig(
                epochs=20, batch_size=256, lr=2e-3, lr_decay=0.5, entropy_weight=1e-3, covariance_weight=1e-5
            ),
            axes=("autoencoder.architecture=relu,topk,gated,bae training.l1_weight=3e-5,0,1e-5,0",),
            packed=2,
        ),
        scoring=ScoringConfig(max_features=30, random_features=24, shuffled=10),
        # A judge that answers No to everything: calibrated, its decisions vary at least.
        judge=JobJudgeConfig(calibrated=True),
    ),
    # One H100, at most an hour: an estimate, not measured. One of the paper's layers, an eighth of its vectors, 16,000
    # steps in place of 2.5 million, so the loss weights are larger, and a sample of the features.
    "gpu": _paper("runs/comsem_table_gpu", (9,)).changed(
        extract=EIGHTH,
        evaluation={"max_texts": 2048},
        sweep={
            "training": TrainingConfig(
                epochs=10, lr_decay=0.5, entropy_weight=1e-4, covariance_weight=1e-6, l1_weight=1e-6, precision="tf32"
            ),
            "packed": "auto",
        },
        scoring=SAMPLE,
    ),
    # The paper's sizes (Appendix A.4); its judges are --judge.judge-url https://api.openai.com/v1 --judge.judge-model
    # gpt-4.1-mini, and gpt-4.1.
    "paper": _paper("runs/comsem_table_paper", (5, 9, 11, 14)),
    "paper_3b": _paper("runs/comsem_table_paper_3b", (20,), "meta-llama/Llama-3.2-3B"),
}
