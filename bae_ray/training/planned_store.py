"""The shapes of the store that an extraction will make, for plans of trainings on it.

Only the language model's config is read, and nothing of the corpus.
"""

from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from bae_ray.activations.config import ExtractConfig, Position
from bae_ray.activations.extract import most_vectors
from bae_ray.activations.layout import Cell, Manifest, Request
from bae_ray.activations.model import check_request, find_model, wanted_layers
from bae_ray.activations.store import ActivationStore
from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError
from bae_ray.storage import folder_at

BLOCK = 4096
"""Rows of random numbers; a cell repeats them, so that it takes no more memory."""


class PlannedStore(ActivationStore):
    """A stand-in for a store that does not exist yet: its activations are random, of mean 0 and variance 1."""

    @override
    def fingerprint(self, cell: Cell) -> str:
        self._check_held(cell)
        return content_hash([self.manifest.request.model_dump(mode="json"), cell])

    @override
    def shards(self, layer: int, position: Position, site: str = "residual") -> list[Tensor]:
        self._check_held(Cell(layer, site, position))
        n = self.manifest.n
        block = torch.randn(min(n, BLOCK), self.manifest.d, generator=torch.Generator().manual_seed(layer))
        return [block[: min(BLOCK, n - start)] for start in range(0, n, BLOCK)]


def planned_store(config: ExtractConfig) -> PlannedStore:
    """The shapes of the store that an extraction will make, given enough texts.

    Raises `InvalidInputError` for layers or sites that the model lacks, and if the number of vectors depends on the
    texts.
    """
    model = find_model(config.model, config.revision)
    layers = wanted_layers(model, config.layers, config.sites)
    check_request(model, layers, config.sites, config.all_positions, config.max_tokens)
    n = most_vectors(config)
    if n is None:
        raise InvalidInputError(
            "the number of vectors is not known before the texts are read: for a plan, give max_texts, or with "
            "position all tokens.max_vectors."
        )
    request = Request(
        model={"name": model.name, "revision": model.revision},
        tokenizer={},
        input=config.input.model_dump(mode="json"),
        layers=layers,
        sites=config.sites,
        positions=config.all_positions,
        batch_size=config.batch_size or 1,  # how it is computed changes no shape
        batch_tokens=config.batch_tokens or 1,
        **config.model_dump(include={"dtype", "shard_size", "shard_mb"}),
    )
    nothing = dict.fromkeys(("tokens", "texts_read", "texts_too_short", "texts_too_long"), 0)
    manifest = Manifest(request=request, d=model.hidden_size, n=n, texts=n, shards=(), **nothing)
    return PlannedStore(folder_at(Path("planned")), manifest)
