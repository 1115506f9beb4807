"""Compression of hidden states by binary autoencoders, beside the usual quantisers (the paper's Table 3, Appendix A.5).

Extracts activations of one corpus (Ray Data), trains a binary autoencoder per layer and loss weight (Ray Tune), and
compresses activations of another corpus with them, held out from all fitting. Writes compression.csv, compression.png
(rate against distortion) and compression.html. On this machine, and on a cluster:

    python jobs/compression.py laptop
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/compression.py paper --out /shared/compression

Interrupted, the same command goes on where it stopped. Needs the extra `compression` (faiss).
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from bae_ray.activations.config import CorpusConfig, ExtractConfig, TokensConfig
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.cli import parse_preset, report_failures, run_safely
from bae_ray.config import Config, content_hash
from bae_ray.files import write_text
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import SweepConfig

if TYPE_CHECKING:
    import pandas as pd

    from bae_ray.activations.store import ActivationStore
    from bae_ray.analysis.fidelity import Splicer

WEIGHT = "training.entropy_weight"


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
    # Sized for a laptop: some 20 minutes on 2 cores. Fewer epochs than the paper's 2,000, so the weights are larger.
    "laptop": Compression(
        out=Path("runs/compression"),
        extract=ExtractConfig(
            layers=(5, 20),
            positions=("all",),
            max_tokens=64,
            max_texts=None,
            tokens=TokensConfig(max_vectors=16_384, first=False),
        ),
        held_out=CorpusConfig(corpus="mr", max_texts=None),
        held_out_vectors=8192,
        sweep=SweepConfig(
            autoencoder=BAEConfig(expansion=4),
            training=TrainingConfig(epochs=40, lr=2e-3, lr_decay=0.5, covariance_weight=1e-5),
            axes=("training.entropy_weight=2e-4,2e-3",),
        ),
        residual_bytes=(8,),
        quantizer_vectors=10_240,
    ),
    # Appendix A.5: Llama 3.2-1B, trained on the Pile, 117,864 vectors of BookCorpus.
    "paper": Compression(
        out=Path("runs/compression_paper"),
        extract=ExtractConfig(
            model="meta-llama/Llama-3.2-1B",
            corpus="monology/pile-uncopyrighted",
            layers=(5, 9, 11, 14),
            positions=("all",),
            max_tokens=1024,
            max_texts=None,
            tokens=TokensConfig(max_vectors=8_243_323),
            dtype="bfloat16",
            workers=8,
            gpus_per_worker=1,
        ),
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
    from bae_ray.analysis.quantization import require_faiss
    from bae_ray.errors import InvalidInputError
    from bae_ray.report.compression import report_compression
    from bae_ray.training.results import results
    from bae_ray.training.sweep import sweep

    if job.extract.all_positions != ("all",):
        raise InvalidInputError(f"extract.positions is {job.extract.all_positions}: this job takes all.")
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
        table = results(job.out / "sweep", only=outcome.finished)
        report_compression(evaluate(job, table, train, held_out), job.out, resolved)
    return code


def evaluate(
    job: Compression, table: "pd.DataFrame", train: "ActivationStore", held_out: "ActivationStore"
) -> list[dict[str, Any]]:
    """The rows of the table: each is computed once and kept in evaluated/."""
    from bae_ray.activations.model import find_model
    from bae_ray.analysis.fidelity import Splicer
    from bae_ray.progress import track

    splicer: list[Splicer] = []

    def loaded() -> "Splicer":
        if not splicer:
            splicer.append(Splicer(find_model(job.extract.model, job.extract.revision), _device()))
        return splicer[0]

    runs: list[dict[str, Any]] = [{str(k): v for k, v in run.items()} for run in table.to_dict("records")]
    cells = sorted({(int(run["layer"]), str(run["site"])) for run in runs})
    data = [train.fingerprint(train.cells[0]), held_out.fingerprint(held_out.cells[0]), job.spliced_texts]
    sizes = [job.product_bytes, job.residual_bytes, job.quantizer_vectors]
    works: list[tuple[list[Any], Callable[[], list[dict[str, Any]]]]] = [
        (["bae", run["run"], *data], lambda run=run: evaluate_run(job, run, held_out, loaded())) for run in runs
    ]
    works += [
        (
            ["others", layer, site, *data, *sizes],
            lambda layer=layer, site=site: evaluate_others(job, layer, site, train, held_out, loaded()),
        )
        for layer, site in cells
    ]
    rows: list[dict[str, Any]] = []
    with track("Evaluating", len(works)) as tracker:
        for key, work in works:
            file = job.out / "evaluated" / f"{content_hash(key)}.json"
            if not file.exists():
                write_text(file, json.dumps(work(), indent=2) + "\n")
            rows += json.loads(file.read_text(encoding="utf-8"))
            tracker.advance()
    return rows


def evaluate_run(
    job: Compression, run: dict[str, Any], held_out: "ActivationStore", splicer: "Splicer"
) -> list[dict[str, Any]]:
    """A row for each scheme and prior of one autoencoder."""
    from bae_ray.activations.rows import Rows
    from bae_ray.analysis.compressibility import code_bits, distortion
    from bae_ray.autoencoders import load_autoencoder
    from bae_ray.autoencoders.base import WEIGHTS_FILE
    from bae_ray.compression import compress_activations, decompress_activations

    folder = job.out / "sweep" / run["run"]
    autoencoder = load_autoencoder(folder).to(_device())
    layer, site = int(run["layer"]), str(run["site"])
    x = Rows(held_out.shards(layer, "all", site))
    bits = code_bits(autoencoder, x, autoencoder.prior)
    loss = splicer.loss(texts(job, held_out), layer, lambda h: autoencoder(h).x_hat, job.extract.tokens.first)
    rows = []
    for prior_of, prior in (("training set", autoencoder.prior), ("compressed set", bits.rates)):
        for scheme in ("entropy", "indices"):
            data = compress_activations(autoencoder, x, scheme, prior=prior)
            x_hat = decompress_activations(autoencoder, data)
            rows.append({
                **common(held_out, layer, site), "method": "bae", "scheme": scheme, "prior": prior_of,
                "run": run["run"], "entropy_weight": run[WEIGHT], "d_latent": autoencoder.d_latent,
                "entropy_bits": bits.entropy, "bytes_codes": len(data),
                "bytes_model": (folder / WEIGHTS_FILE).stat().st_size, **distortion(x, x_hat)._asdict(),
                "ce_clean": loss.clean, "ce_change": loss.change,
            })  # fmt: skip
    return rows


def evaluate_others(
    job: Compression, layer: int, site: str, train: "ActivationStore", held_out: "ActivationStore", splicer: "Splicer"
) -> list[dict[str, Any]]:
    """A row for each quantiser at one layer."""
    import torch

    from bae_ray.activations.rows import Rows
    from bae_ray.analysis.compressibility import distortion
    from bae_ray.analysis.quantization import mean_only, product, residual, scalar
    from bae_ray.seeds import stream

    fitted = Rows(train.shards(layer, "all", site))
    chosen = torch.randperm(len(fitted), generator=stream(0, "quantizers"))[: job.quantizer_vectors]
    fit, rows_of = fitted.take(chosen).numpy(), Rows(held_out.shards(layer, "all", site))
    x = rows_of.take(torch.arange(len(rows_of)))
    mean = torch.from_numpy(fit.mean(0)).to(_device())
    loss = splicer.loss(texts(job, held_out), layer, mean.expand_as, job.extract.tokens.first)
    found = [mean_only(fit, x.numpy()), scalar(fit, x.numpy(), 8), scalar(fit, x.numpy(), 4)]
    found += [product(fit, x.numpy(), size) for size in job.product_bytes]
    found += [residual(fit, x.numpy(), size) for size in job.residual_bytes]
    return [
        {
            **common(held_out, layer, site), "method": q.method, "bytes_codes": round(q.bytes_per_vector * len(x)),
            "bytes_model": q.side_bytes, **distortion(x, q.x_hat)._asdict(),
            "ce_clean": loss.clean, "ce_change": loss.change if q.method == "mean" else float("nan"),
        }
        for q in found
    ]  # fmt: skip


def texts(job: Compression, store: "ActivationStore") -> list[list[int]]:
    """Token ids of the held-out texts over which the loss is measured."""
    return [ids.tolist() for ids in store.texts["token_ids"][: job.spliced_texts]]


def common(store: "ActivationStore", layer: int, site: str) -> dict[str, Any]:
    """What all rows of a layer share."""
    pieces = store.shards(layer, "all", site)
    return {
        "model": store.manifest.request.model["name"],
        "layer": layer,
        "site": site,
        "n": store.manifest.n,
        "d_in": store.manifest.d,
        "bytes_before": sum(piece.numel() * piece.element_size() for piece in pieces),
    }


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(run_safely(lambda: run(parse_preset(PRESETS, "compression.py", sys.argv[1:], default="laptop"))))
