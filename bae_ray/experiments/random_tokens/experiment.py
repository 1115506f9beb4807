"""Entropy of hidden states whose entropy is known to be at most r (the paper's Fig. 11, Appendix B)."""

from bae_ray.experiments.extractions import check_extract, check_swept
from bae_ray.experiments.protocol import Outcome
from bae_ray.experiments.random_tokens.config import PRESETS, RandomTokensConfig


class RandomTokens:
    """Extract a set of random sequences for each r, train autoencoders on it, and report their entropies."""

    job = "lm_random_tokens"
    presets = PRESETS

    def run(self, config: RandomTokensConfig) -> Outcome:
        """Make random_tokens.csv, .png and .html."""
        from bae_ray.experiments.per_input import extract_each, sweep_each
        from bae_ray.experiments.random_tokens.report import random_tokens_results

        check_extract(config.extract, kind="random_tokens")
        check_swept(config.extract, config.sweep)
        settings = {f"r{bits}": {"bits": bits} for bits in config.bits}
        stores = extract_each(config.extract, settings, config.out / "stores")
        config.record()
        table, failures = sweep_each(config.sweep, settings, stores, config.out / "sweeps")
        return Outcome([] if table is None else [random_tokens_results(table)], failures)


EXPERIMENT = RandomTokens()
