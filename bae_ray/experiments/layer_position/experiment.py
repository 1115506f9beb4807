"""Entropy of a language model's hidden states by layer and token position (the paper's Fig. 3, section 4.2)."""

from bae_ray.activations.config import ExtractConfig
from bae_ray.experiments.extractions import check_swept
from bae_ray.experiments.layer_position.config import PRESETS, LayerPositionConfig
from bae_ray.experiments.protocol import Outcome
from bae_ray.training.sweep_config import SweepConfig


class LayerPosition:
    """Extract, train an autoencoder per cell, and report their entropies."""

    job = "layer_position_entropy"
    presets = PRESETS

    def planned(self, config: LayerPositionConfig) -> tuple[ExtractConfig, SweepConfig]:
        """What its plan is made of."""
        return config.extract, config.sweep

    def run(self, config: LayerPositionConfig) -> Outcome:
        """Make entropy.csv, entropy.png, report.html; with several entropy weights matched.csv and matched.png, too."""
        from bae_ray.activations.extract import extract
        from bae_ray.experiments.layer_position.report import entropy_results
        from bae_ray.training.continue_command import record_sweep
        from bae_ray.training.sweep import sweep

        check_swept(config.extract, config.sweep)
        store = extract(config.extract, config.out / "store")
        config.record()
        outcome = sweep(config.sweep, store, config.out / "sweep")
        record_sweep(config.sweep, config.out / "store", config.out / "sweep")
        if not outcome.finished:
            return Outcome([], outcome.failures)
        runs = [run.id for run in outcome.runs]
        return Outcome([entropy_results(config.out / "sweep", runs, config.matched_fvu)], outcome.failures)


EXPERIMENT = LayerPosition()
