"""The numbers of the paper's Table 3: autoencoders and quantisers on held-out activations, all bytes counted."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from bae_ray.activations.model import find_model
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.matched_entropy import WEIGHT
from bae_ray.autoencoders import load_autoencoder
from bae_ray.autoencoders.checkpoint import WEIGHTS_FILE
from bae_ray.compression import Scheme, compress_activations, decompress_activations
from bae_ray.config import content_hash
from bae_ray.experiments.compression.compressibility import code_bits, distortion
from bae_ray.experiments.compression.config import CompressionConfig
from bae_ray.experiments.compression.quantization import mean_only, product, residual, scalar
from bae_ray.files import at_hand, write_text
from bae_ray.interventions.spliced_loss import SplicedLoss, Splicer
from bae_ray.progress import track
from bae_ray.seeds import stream
from bae_ray.training.results import results

SCHEMES: tuple[Scheme, ...] = ("entropy", "indices")

SWEEP = "sweep"
"""Folder of the autoencoders."""
EVALUATED = "evaluated"
"""Folder of the rows."""

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class RateDistortion:
    """Bytes and errors of trained autoencoders and of quantisers on held-out activations."""

    config: CompressionConfig
    finished: list[str]
    """Ids of the trained runs."""
    train: ActivationStore
    """Activations that everything is fitted on."""
    held_out: ActivationStore
    """Activations to compress."""

    def rows(self) -> Records:
        """A row for each autoencoder, scheme and prior, and for each quantiser and layer.

        Each row is computed once and kept in the folder evaluated/.
        """
        config = self.config
        table = results(config.out / SWEEP, only=self.finished)
        runs = [{str(name): value for name, value in run.items()} for run in table.to_dict("records")]
        cells = sorted({(int(run["layer"]), str(run["site"])) for run in runs})
        options = [
            *(store.fingerprint(store.cells[0]) for store in (self.train, self.held_out)),
            config.spliced_texts,
            list(config.product_bytes),
            list(config.residual_bytes),
            config.quantizer_vectors,
        ]
        works: list[tuple[list[Any], Callable[[], Records]]] = [
            *((["bae", run["run"]], lambda run=run: self._of_run(run)) for run in runs),
            *((["others", *cell], lambda cell=cell: self._of_quantizers(*cell)) for cell in cells),
        ]
        rows: Records = []
        with track("Evaluating", len(works)) as tracker:
            for key, work in works:
                file = config.out / EVALUATED / f"{content_hash([*key, *options])}.json"
                if not file.exists():
                    write_text(file, json.dumps(work(), indent=2) + "\n")
                rows += json.loads(file.read_text(encoding="utf-8"))
                tracker.advance()
        return rows

    def _of_run(self, run: dict[str, Any]) -> Records:
        """A row for each scheme and prior of one autoencoder."""
        folder = self.config.out / SWEEP / run["run"]
        autoencoder = load_autoencoder(folder).to(self._device)
        layer, site = int(run["layer"]), str(run["site"])
        x = Rows(self.held_out.shards(layer, "all", site))
        bits = code_bits(autoencoder, x, autoencoder.prior)
        loss = self._loss(layer, lambda hidden: autoencoder(hidden).x_hat)
        of_autoencoder = {
            **self._common(layer, site),
            "method": "bae",
            "run": run["run"],
            "entropy_weight": run[WEIGHT],
            "d_latent": autoencoder.d_latent,
            "entropy_bits": bits.entropy,
            "cross_entropy_bits": bits.cross_entropy,
            "bytes_model": at_hand(folder / WEIGHTS_FILE).stat().st_size,
            "ce_clean": loss.clean,
            "ce_change": loss.change,
        }
        rows: Records = []
        for prior_of, prior in (("training set", autoencoder.prior), ("compressed set", bits.rates)):
            for scheme in SCHEMES:
                data = compress_activations(autoencoder, x, scheme, prior=prior, table="embedded")
                found = distortion(x, decompress_activations(autoencoder, data))
                coded = {"scheme": scheme, "prior": prior_of, "bytes_codes": len(data)}
                rows.append({**of_autoencoder, **coded, **found._asdict()})
        return rows

    def _of_quantizers(self, layer: int, site: str) -> Records:
        """A row for each quantiser at one layer."""
        train, held_out = (Rows(store.shards(layer, "all", site)) for store in (self.train, self.held_out))
        chosen = torch.randperm(len(train), generator=stream(0, "quantizers"))[: self.config.quantizer_vectors]
        fit, x = train.take(chosen).numpy(), held_out.take(torch.arange(len(held_out))).numpy()
        found = [mean_only(fit, x), scalar(fit, x, 8), scalar(fit, x, 4)]
        found += [product(fit, x, size) for size in self.config.product_bytes]
        found += [residual(fit, x, size) for size in self.config.residual_bytes]
        mean = torch.from_numpy(fit.mean(0)).to(self._device)
        loss = self._loss(layer, mean.expand_as)
        return [
            {
                **self._common(layer, site),
                "method": quantized.method,
                "bytes_codes": round(quantized.bytes_per_vector * len(x)),
                "bytes_model": quantized.side_bytes,
                "ce_clean": loss.clean,
                "ce_change": loss.change if quantized.method == "mean" else float("nan"),
                **distortion(held_out, quantized.x_hat)._asdict(),
            }
            for quantized in found
        ]

    def _common(self, layer: int, site: str) -> dict[str, Any]:
        """What all rows of a layer share."""
        manifest = self.held_out.manifest
        pieces = self.held_out.shards(layer, "all", site)
        size = sum(piece.numel() * piece.element_size() for piece in pieces)
        model = manifest.request.model["name"]
        return {"model": model, "layer": layer, "site": site, "n": manifest.n, "d_in": manifest.d, "bytes_before": size}

    def _loss(self, layer: int, replace: Callable[[torch.Tensor], torch.Tensor]) -> SplicedLoss:
        texts = [ids.tolist() for ids in self.held_out.texts["token_ids"][: self.config.spliced_texts]]
        return self._splicer.loss(texts, layer, replace, self.config.extract.tokens.first)

    @cached_property
    def _splicer(self) -> Splicer:
        extract = self.config.extract
        return Splicer(find_model(extract.model, extract.revision), self._device)

    @property
    def _device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"
