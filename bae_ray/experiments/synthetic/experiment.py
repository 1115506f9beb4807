"""Entropy of synthetic sets whose entropy is known (the paper's section 4.1: Fig. 2, 12 and 29-34)."""

from typing import TYPE_CHECKING

from bae_ray.experiments.protocol import Outcome
from bae_ray.experiments.synthetic.config import PRESETS, SyntheticEntropyConfig
from bae_ray.training.config import RunConfig
from bae_ray.training.sweep_config import SweepConfig

if TYPE_CHECKING:
    from bae_ray.activations.store import ActivationStore


class SyntheticEntropy:
    """Make the sets, train every autoencoder of the figures, and report their entropies."""

    job = "synthetic_entropy"
    presets = PRESETS

    def run(self, config: SyntheticEntropyConfig) -> Outcome:
        """Make synthetic.csv, synthetic.png, dynamics.png and report.html."""
        from bae_ray.experiments.synthetic.report import synthetic_results
        from bae_ray.experiments.synthetic.subset_sums import make_synthetic_store
        from bae_ray.training.sweep import train_runs

        store = make_synthetic_store(config.data, config.out / "store")
        config.record()
        outcome = train_runs(grid(config, store), store, config.out / "sweep", config)
        found = [synthetic_results(config.out / "sweep", outcome.finished)] if outcome.finished else []
        return Outcome(found, outcome.failures)


def grid(config: SyntheticEntropyConfig, store: "ActivationStore") -> list[RunConfig]:
    """Every run of the figures, each once."""
    from bae_ray.training.grid import expand

    first = config.training.model_copy(update={"seed": config.seeds[0]})
    free = first.model_copy(update={"entropy_weight": 0.0, "covariance_weight": 0.0})
    expansions = f"autoencoder.expansion={','.join(map(str, config.expansions))}"
    with_seeds = SweepConfig(autoencoder=config.autoencoder, training=config.training, seeds=config.seeds)
    if config.only_entropies:
        return expand(with_seeds.model_copy(update={"axes": (expansions,)}), store)
    gradients = "autoencoder.gradient=sigmoid,straight_through,release"
    sweeps = [
        with_seeds,
        SweepConfig(autoencoder=config.autoencoder, training=first, axes=(gradients,)),
        SweepConfig(autoencoder=config.autoencoder, training=first, axes=(expansions,)),
        SweepConfig(autoencoder=config.autoencoder, training=free, axes=(expansions,)),
    ]
    runs = [_with_log(config, run) for sweep in sweeps for run in expand(sweep, store)]
    return list({run.id: run for run in runs}.values())


def _with_log(config: SyntheticEntropyConfig, run: RunConfig) -> RunConfig:
    """The run; it logs every step if the training dynamics are drawn from it."""
    from bae_ray.experiments.synthetic.subset_sums import rank_of

    drawn = (
        rank_of(run.cell.site) in config.dynamics
        and run.training.seed == config.seeds[0]
        and run.autoencoder == config.autoencoder.model_copy(update={"d_in": run.autoencoder.d_in})
    )
    log = run.training.model_copy(update={"log": "step"})
    return run.model_copy(update={"training": log}) if drawn else run


EXPERIMENT = SyntheticEntropy()
