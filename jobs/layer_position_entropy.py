"""Entropy of a language model's hidden states by layer and token position (the paper's Fig. 3 and section 4.2).

Extracts the activations (Ray Data), trains a binary autoencoder per cell (Ray Tune), and writes entropy.csv,
entropy.png and report.html; with several entropy weights also matched.csv and matched.png, the bits at one held-out FVU
for all cells. On this machine, and on a cluster:

    python jobs/layer_position_entropy.py demo --out runs/demo
    python jobs/layer_position_entropy.py matched --out runs/matched
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/layer_position_entropy.py paper --out /shared/fig3

Interrupted, the same command goes on where it stopped: finished shards and runs are never computed again.
"""

import sys
from pathlib import Path

from pydantic import Field

from bae_ray.activations.config import ExtractConfig
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.cli import parse_preset, report_failures, run_safely
from bae_ray.config import Config
from bae_ray.files import write_text
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig


class LayerPositionEntropy(Config):
    """An entropy sweep over layers and token positions."""

    out: Path
    """Folder of the whole run: store/, sweep/, and the results."""
    extract: ExtractConfig
    """The activations."""
    sweep: SweepConfig
    """The autoencoders."""
    matched_fvu: float | None = Field(default=None, gt=0)
    """Held-out FVU at which cells are compared, where the sweep has several entropy weights. Left out: the one that
    most cells' curves have."""


PRESETS = {
    # Sized for a laptop: minutes on 2 cores. The loss weights are larger than the paper's because its 2,000 epochs of
    # 410 steps become 60 epochs of 6.
    "demo": LayerPositionEntropy(
        out=Path("runs/demo"),
        extract=ExtractConfig(layers=(0, 5, 10, 20, 30), positions=(1, 2, 4, 8, 16, 32), max_texts=2048),
        sweep=SweepConfig(
            autoencoder=BAEConfig(expansion=2),
            training=TrainingConfig(epochs=60, batch_size=256, lr=3e-3, entropy_weight=2e-3, covariance_weight=1e-5),
        ),
    ),
    # A rate-distortion curve per cell, for bits at one FVU; some 20 minutes on 2 cores.
    "matched": LayerPositionEntropy(
        out=Path("runs/matched"),
        extract=ExtractConfig(layers=(0, 10, 20, 30), positions=(1, 4, 16, 32), max_texts=2048),
        sweep=SweepConfig(
            autoencoder=BAEConfig(expansion=2),
            training=TrainingConfig(epochs=60, batch_size=256, lr=3e-3, covariance_weight=1e-5),
            axes=("training.entropy_weight=2e-4,1e-3,4e-3,1.6e-2",),
            seeds=(0, 1),
        ),
    ),
    # The paper's size (section 4.2, Appendix A.2). Position 0 is left out: with a start token it is always the same.
    "paper": LayerPositionEntropy(
        out=Path("runs/layer_position_entropy"),
        extract=ExtractConfig(
            model="meta-llama/Llama-3.2-1B",
            corpus="monology/pile-uncopyrighted",
            positions=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1023),
            max_texts=262_144,
            dtype="bfloat16",
            shard_size=4096,
            workers=8,
            gpus_per_worker=1,
        ),
        sweep=SweepConfig(autoencoder=BAEConfig(expansion=4), training=TrainingConfig(), gpus_per_trial=0.25),
    ),
}


def run(job: LayerPositionEntropy) -> int:
    """Run the job, or what is left of it."""
    from bae_ray.activations.extract import extract
    from bae_ray.experiments.layer_position.report import report_entropies
    from bae_ray.training.sweep import sweep

    store = extract(job.extract, job.out / "store")
    resolved = job.model_dump_json(indent=2) + "\n"
    write_text(job.out / "config.json", resolved)
    outcome = sweep(job.sweep, store, job.out / "sweep")
    code = report_failures(outcome.failures)
    if outcome.finished:
        report_entropies(
            job.out / "sweep", job.out, resolved, only=[run.id for run in outcome.runs], matched_fvu=job.matched_fvu
        )
    return code


if __name__ == "__main__":
    sys.exit(run_safely(lambda: run(parse_preset(PRESETS, "layer_position_entropy.py", sys.argv[1:]))))
