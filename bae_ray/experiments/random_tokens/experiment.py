"""Entropy of hidden states whose entropy is known to be at most r (the paper's Fig. 11, Appendix B)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bae_ray.experiments.extractions import check_extract
from bae_ray.experiments.protocol import Outcome
from bae_ray.experiments.random_tokens.config import PRESETS, RandomTokensConfig

if TYPE_CHECKING:
    from bae_ray.experiments.per_input import Settings, Swept
    from bae_ray.report.results_writer import Results


class RandomTokens:
    """Extract a set of random sequences for each r, train autoencoders on it, and report their entropies."""

    job = "lm_random_tokens"
    presets = PRESETS

    def run(self, config: RandomTokensConfig) -> "Outcome[dict[str, Swept]]":
        """The finished sweeps, by their folders' names."""
        from bae_ray.experiments.per_input import extract_each, sweep_each

        check_extract(config.extract, kind="random_tokens")
        stores = extract_each(config.extract, settings(config), config.out / "stores")
        config.record()
        return sweep_each(config.sweep, stores, config.out / "sweeps")

    def results(self, config: RandomTokensConfig, found: "dict[str, Swept]") -> "Sequence[Results]":
        """random_tokens.csv, .png and .html."""
        from bae_ray.experiments.random_tokens.report import random_tokens_results

        return [random_tokens_results(found, settings(config))]


def settings(config: RandomTokensConfig) -> "Settings":
    """The input of each set, by the name of its folder."""
    return {f"r{bits}": {"bits": bits} for bits in config.bits}


EXPERIMENT = RandomTokens()
