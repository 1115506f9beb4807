from pathlib import Path

import pytest

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import BAEConfig, ReLUConfig, TopKConfig, TranscoderConfig
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import plan_run
from bae_ray.training.sweep import train_runs
from bae_ray.training.sweep_config import ExecutionConfig

LAYERS = (0, 2)


@pytest.fixture(scope="session")
def causal_store(
    ray_cluster: None, tiny_causal_model: Path, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Activations of a model with a head, at positions 2 and 5: the texts are cut after the latter."""
    from bae_ray.activations.extract import extract

    out = tmp_path_factory.mktemp("fidelity") / "store"
    config = ExtractConfig(
        model=str(tiny_causal_model), corpus=str(tiny_corpus), layers=LAYERS,
        sites=("residual", "mlp_in", "mlp_out"), positions=(2, 5),
        gpus_per_worker=0, shard_size=40,
    )  # fmt: skip
    extract(config, out, "inline")
    return out


@pytest.fixture(scope="session")
def runs(causal_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained runs of several architectures, sites and positions, one of them a transcoder."""
    store, out = ActivationStore.open(causal_store), tmp_path_factory.mktemp("fidelity") / "runs"
    settings = TrainingConfig(epochs=2, batch_size=32)
    planned = [
        plan_run(store, cell, autoencoder, settings)
        for cell, autoencoder in (
            (Cell(2, "residual", 2), BAEConfig(expansion=2)),
            (Cell(2, "residual", 5), ReLUConfig(expansion=2)),
            (Cell(0, "residual", 2), TopKConfig(expansion=2, k=3)),
            (Cell(2, "mlp_out", 2), BAEConfig(expansion=2)),
            (Cell(2, "mlp_in", 5), TranscoderConfig(expansion=2)),
        )
    ]
    train_runs(planned, store, out, ExecutionConfig(gpus_per_trial=0), executor="inline")
    return out
