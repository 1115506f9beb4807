"""Compression of hidden states beside the usual quantisers (the paper's Table 3, Appendix A.5)."""

from bae_ray.activations.config import ExtractConfig
from bae_ray.experiments.compression.config import PRESETS, CompressionConfig
from bae_ray.experiments.extractions import check_extract, check_swept, of_other_texts
from bae_ray.experiments.protocol import Outcome
from bae_ray.training.sweep_config import SweepConfig


class Compression:
    """Extract two corpora, train on the one, and compress the other with what was trained and with quantisers."""

    job = "compression"
    presets = PRESETS

    def planned(self, config: CompressionConfig) -> tuple[ExtractConfig, SweepConfig]:
        """What its plan is made of."""
        return config.extract, config.sweep

    def run(self, config: CompressionConfig) -> Outcome:
        """Make compression.csv, compression.png (rate against distortion of each method) and compression.html."""
        from bae_ray.activations.extract import extract
        from bae_ray.experiments.compression.quantization import require_faiss
        from bae_ray.experiments.compression.rate_distortion import SWEEP, RateDistortion
        from bae_ray.experiments.compression.report import compression_results
        from bae_ray.training.sweep import sweep

        check_extract(config.extract, positions="all", sites="residual")
        check_swept(config.extract, config.sweep)
        require_faiss()
        other = of_other_texts(config.extract, config.held_out, config.held_out_vectors)
        train, held_out = extract(config.extract, config.out / "train"), extract(other, config.out / "held_out")
        config.record()
        outcome = sweep(config.sweep, train, config.out / SWEEP)
        if not outcome.finished:
            return Outcome([], outcome.failures)
        rows = RateDistortion(config, outcome.finished, train, held_out).rows()
        return Outcome([compression_results(rows)], outcome.failures)


EXPERIMENT = Compression()
