"""Compression of hidden states by binary autoencoders, beside the usual quantisers (the paper's Table 3, Appendix A.5).

Extracts activations of one corpus (Ray Data), trains a binary autoencoder per layer and loss weight (Ray Tune), and
compresses activations of another corpus with them, held out from all fitting. Writes compression.csv, compression.png
(rate against distortion) and compression.html. On this machine, and on a cluster:

    python jobs/compression.py laptop
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/compression.py paper --out /shared/compression

Interrupted, the same command goes on where it stopped. Needs the extra `compression` (faiss).
"""

import sys
from pathlib import Path

from pydantic import Field

from bae_ray.activations.config import CorpusConfig, ExtractConfig
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.cli import parse_preset, report_failures, run_safely
from bae_ray.config import Config
from bae_ray.experiments.extractions import news, pile
from bae_ray.files import write_text
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig


class Compression(Config):
    """Compression of held-out activations."""

    out: Path
    """Folder of the whole run: train/, held_out/, sweep/, and the results."""
    extract: ExtractConfig
    """The activations to fit on: position all."""
    held_out: CorpusConfig
    """The texts whose activations are compressed; all else of them is as above."""
    held_out_vectors: int = Field(ge=2)
    """How many of their vectors."""
    sweep: SweepConfig
    """The autoencoders: entropy weights are an axis."""
    product_bytes: tuple[int, ...] = (8, 16, 32, 64)
    """Sizes of product quantisation, divisors of the width."""
    residual_bytes: tuple[int, ...] = (8, 16)
    """Sizes of residual quantisation."""
    quantizer_vectors: int = Field(default=16_384, ge=256)
    """The quantisers are fitted on so many of the training vectors, at most."""
    spliced_texts: int = Field(default=64, ge=1)
    """Held-out texts over which the language model's loss is measured."""


PRESETS = {
    # Sized for a laptop: 25 minutes on 2 busy cores. Fewer epochs than the paper's 2,000, so the weights are larger.
    "laptop": Compression(
        out=Path("runs/compression"),
        extract=news((5, 20), vectors=16_384),
        held_out=CorpusConfig(corpus="mr", max_texts=None),
        held_out_vectors=8192,
        sweep=SweepConfig(
            autoencoder=BAEConfig(expansion=2),
            training=TrainingConfig(epochs=24, batch_size=256, lr=2e-3, lr_decay=0.5, covariance_weight=1e-5),
            axes=("training.entropy_weight=2e-4,2e-3",),
        ),
        residual_bytes=(8,),
        quantizer_vectors=10_240,
    ),
    # Appendix A.5: Llama 3.2-1B, trained on the Pile, 117,864 vectors of BookCorpus.
    "paper": Compression(
        out=Path("runs/compression_paper"),
        extract=pile("meta-llama/Llama-3.2-1B", (5, 9, 11, 14)),
        held_out=CorpusConfig(corpus="bookcorpus/bookcorpus", max_texts=None),
        held_out_vectors=117_864,
        sweep=SweepConfig(
            training=TrainingConfig(epochs=200),
            axes=("training.entropy_weight=1e-7,1e-9 training.covariance_weight=1e-7,1e-9",),
            gpus_per_trial=1,
        ),
        quantizer_vectors=65_536,
        spliced_texts=1024,
    ),
}


def run(job: Compression) -> int:
    """Run the job, or what is left of it."""
    from bae_ray.activations.extract import extract
    from bae_ray.activations.model import find_model
    from bae_ray.errors import InvalidInputError
    from bae_ray.experiments.compression.quantization import require_faiss
    from bae_ray.experiments.compression.rate_distortion import Table3
    from bae_ray.experiments.compression.report import report_compression
    from bae_ray.training.results import results
    from bae_ray.training.sweep import sweep

    if job.extract.all_positions != ("all",):
        raise InvalidInputError(f"extract.positions is {job.extract.all_positions}: this job takes all.")
    if job.extract.sites != ("residual",):
        raise InvalidInputError(f"extract.sites is {job.extract.sites}: this job takes residual.")
    require_faiss()
    resolved = job.model_dump_json(indent=2) + "\n"
    train = extract(job.extract, job.out / "train")
    tokens = job.extract.tokens.model_copy(update={"max_vectors": job.held_out_vectors})
    held_out_config = job.extract.model_copy(update={**dict(job.held_out), "tokens": tokens})
    held_out = extract(held_out_config, job.out / "held_out")
    write_text(job.out / "config.json", resolved)
    outcome = sweep(job.sweep, train, job.out / "sweep")
    code = report_failures(outcome.failures)
    if outcome.finished:
        table3 = Table3(
            runs=results(job.out / "sweep", only=outcome.finished),
            folder=job.out / "sweep",
            train=train,
            held_out=held_out,
            model=find_model(job.extract.model, job.extract.revision),
            first=job.extract.tokens.first,
            product_bytes=job.product_bytes,
            residual_bytes=job.residual_bytes,
            quantizer_vectors=job.quantizer_vectors,
            spliced_texts=job.spliced_texts,
        )
        report_compression(table3.rows(job.out / "evaluated"), job.out, resolved)
    return code


if __name__ == "__main__":
    sys.exit(run_safely(lambda: run(parse_preset(PRESETS, "compression.py", sys.argv[1:], default="laptop"))))
