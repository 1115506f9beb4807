"""Compression of hidden states beside the usual quantisers (the paper's Table 3, Appendix A.5)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bae_ray.experiments.compression.config import PRESETS, CompressionConfig
from bae_ray.experiments.extractions import check_extract, of_other_texts
from bae_ray.experiments.protocol import Outcome

if TYPE_CHECKING:
    from bae_ray.report.results_writer import Results


class Compression:
    """Extract two corpora, train on the one, and compress the other with what was trained and with quantisers."""

    job = "compression"
    presets = PRESETS

    def run(self, config: CompressionConfig) -> Outcome[list[dict[str, Any]]]:
        """Rate and distortion of each method: the rows of the table."""
        from bae_ray.activations.extract import extract
        from bae_ray.experiments.compression.quantization import require_faiss
        from bae_ray.experiments.compression.rate_distortion import SWEEP, RateDistortion
        from bae_ray.training.sweep import sweep

        check_extract(config.extract, positions="all", sites="residual")
        require_faiss()
        train = extract(config.extract, config.out / "train")
        held_out = extract(
            of_other_texts(config.extract, config.held_out, config.held_out_vectors), config.out / "held_out"
        )
        config.record()
        outcome = sweep(config.sweep, train, config.out / SWEEP)
        if not outcome.finished:
            return Outcome(None, outcome.failures)
        measured = RateDistortion(config, outcome.finished, train, held_out)
        return Outcome(measured.rows(), outcome.failures)

    def results(self, config: CompressionConfig, found: list[dict[str, Any]]) -> "Sequence[Results]":  # noqa: ARG002
        """compression.csv, compression.png (rate against distortion) and compression.html."""
        from bae_ray.experiments.compression.report import compression_results

        return [compression_results(found)]


EXPERIMENT = Compression()
