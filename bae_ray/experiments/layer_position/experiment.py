"""Entropy of a language model's hidden states by layer and token position (the paper's Fig. 3, section 4.2)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bae_ray.experiments.layer_position.config import PRESETS, LayerPositionConfig
from bae_ray.experiments.protocol import Outcome

if TYPE_CHECKING:
    from bae_ray.report.results_writer import Results


class LayerPosition:
    """Extract, train an autoencoder per cell, and report their entropies."""

    job = "layer_position_entropy"
    presets = PRESETS

    def run(self, config: LayerPositionConfig) -> Outcome[list[str]]:
        """Ids of the runs, of which some are finished."""
        from bae_ray.activations.extract import extract
        from bae_ray.training.sweep import sweep

        store = extract(config.extract, config.out / "store")
        config.record()
        outcome = sweep(config.sweep, store, config.out / "sweep")
        return Outcome([run.id for run in outcome.runs] if outcome.finished else None, outcome.failures)

    def results(self, config: LayerPositionConfig, found: list[str]) -> "Sequence[Results]":
        """entropy.csv, entropy.png and report.html; with several entropy weights matched.csv and matched.png, too."""
        from bae_ray.experiments.layer_position.report import entropy_results

        return [entropy_results(config.out / "sweep", only=found, matched_fvu=config.matched_fvu)]


EXPERIMENT = LayerPosition()
