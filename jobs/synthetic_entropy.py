"""Entropy of synthetic sets whose entropy is known (the paper's section 4.1: Fig. 2, 12 and 29-34).

Makes sets of r bits, trains binary autoencoders on them (Ray Tune) with and without the entropy loss, for several
expansions, seeds, and the three gradients of the step function, and writes synthetic.csv, synthetic.png (bits against
r: Fig. 2), dynamics.png (loss against entropy at every step: Fig. 12, and of further ranks 29-34) and report.html. On
this machine, and on a cluster:

    python jobs/synthetic_entropy.py cpu
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/synthetic_entropy.py paper --out /shared/synthetic

Interrupted, the same command goes on where it stopped.
"""

import sys
from pathlib import Path

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.cli import parse_preset, report_failures, run_safely
from bae_ray.experiments.synthetic.subset_sums import SyntheticConfig, make_synthetic_store, rank_of
from bae_ray.files import write_text
from bae_ray.training.config import RunConfig, TrainingConfig
from bae_ray.training.grid import expand
from bae_ray.training.sweep_config import ExecutionConfig, SweepConfig


class SyntheticEntropy(ExecutionConfig):
    """The synthetic benchmark: data, and the grids of autoencoders that the figures are made of."""

    out: Path
    """Folder of the whole run: store/, sweep/, and the results."""
    data: SyntheticConfig = SyntheticConfig()
    """The sets of vectors."""
    autoencoder: BAEConfig = BAEConfig()
    """Architecture, but for the expansions and gradients below."""
    training: TrainingConfig
    """Training, with the entropy loss."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the autoencoders with the entropy loss at the architecture's own expansion and gradient; the others
    have the first."""
    expansions: tuple[int, ...] = (1, 2, 4, 8)
    """Expansions, each with and without the entropy loss."""
    dynamics: tuple[int, ...] = (2, 8, 32)
    """Ranks whose training is logged at every step."""


PRESETS = {
    # 300 epochs of 25 steps instead of the paper's 2,000 of 102, so learning rate and loss weights are larger. The
    # learning rate decays: once a set is coded exactly there is next to no gradient, Adam blows up what is left of it,
    # and at a constant rate the code breaks up again now and then (the paper's "phase 3").
    # Vectors are used as they are, as in the paper: the loss weights go with their size.
    "cpu": SyntheticEntropy(
        out=Path("runs/synthetic_entropy"),
        training=TrainingConfig(
            epochs=300, lr=2e-3, lr_decay=0.5, entropy_weight=5e-5, covariance_weight=1e-5, normalize="none"
        ),
        expansions=(1, 2, 4),
    ),
    # Appendix A.1; rank 0 is left out, its vectors are all the same.
    "paper": SyntheticEntropy(
        out=Path("runs/synthetic_entropy_paper"),
        data=SyntheticConfig(d=2048, ranks=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512), n=65_536),
        training=TrainingConfig(entropy_weight=5e-7, covariance_weight=1e-6, normalize="none"),
        expansions=(1, 2, 4, 8, 16),
        dynamics=(2, 8, 16, 32, 64, 128),
        gpus_per_trial=0.5,
    ),
}


def grid(job: SyntheticEntropy, store: ActivationStore) -> list[RunConfig]:
    """Every run of the figures, each once."""
    first = job.training.model_copy(update={"seed": job.seeds[0]})
    free = first.model_copy(update={"entropy_weight": 0.0, "covariance_weight": 0.0})
    expansions = f"autoencoder.expansion={','.join(map(str, job.expansions))}"
    sweeps = [
        SweepConfig(
            autoencoder=job.autoencoder,
            training=job.training,
            seeds=job.seeds,
        ),
        SweepConfig(
            autoencoder=job.autoencoder,
            training=first,
            axes=("autoencoder.gradient=sigmoid,straight_through,release",),
        ),
        SweepConfig(autoencoder=job.autoencoder, training=first, axes=(expansions,)),
        SweepConfig(autoencoder=job.autoencoder, training=free, axes=(expansions,)),
    ]
    runs = [_with_log(job, run) for sweep in sweeps for run in expand(sweep, store)]
    return list({run.id: run for run in runs}.values())


def _with_log(job: SyntheticEntropy, run: RunConfig) -> RunConfig:
    """The run, logged at every step if it is one of those that the training dynamics are drawn from."""
    drawn = (
        rank_of(run.cell.site) in job.dynamics
        and run.training.seed == job.seeds[0]
        and run.autoencoder == job.autoencoder.model_copy(update={"d_in": run.autoencoder.d_in})
    )
    log = run.training.model_copy(update={"log": "step"})
    return run.model_copy(update={"training": log}) if drawn else run


def run(job: SyntheticEntropy) -> int:
    """Run the job, or what is left of it."""
    from bae_ray.experiments.synthetic.report import report_synthetic
    from bae_ray.training.results import results
    from bae_ray.training.sweep import train_runs

    store = make_synthetic_store(job.data, job.out / "store")
    resolved = job.model_dump_json(indent=2) + "\n"
    write_text(job.out / "config.json", resolved)
    outcome = train_runs(grid(job, store), store, job.out / "sweep", job)
    code = report_failures(outcome.failures)
    if outcome.finished:
        table = results(job.out / "sweep", only=outcome.finished)
        report_synthetic(table, job.out / "sweep", job.out, resolved)
    return code


if __name__ == "__main__":
    sys.exit(run_safely(lambda: run(parse_preset(PRESETS, "synthetic_entropy.py", sys.argv[1:]))))
