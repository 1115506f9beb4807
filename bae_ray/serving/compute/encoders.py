"""The deployment that holds encoders and computes with them."""

import io
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast
from weakref import finalize

import numpy as np
import torch
from ray import serve
from typing_extensions import override

from bae_ray.autoencoders import Autoencoder
from bae_ray.compression import TableChoice, decompress_activations, model_hash, open_container
from bae_ray.compression.activations import check_model, write_activations
from bae_ray.compression.choices import chosen_scheme
from bae_ray.compression.codec import CodeOptions, check_size
from bae_ray.compression.config import SchemeChoice
from bae_ray.compression.header import BLOCK_ROWS
from bae_ray.errors import ContainerTooLargeError
from bae_ray.serving.compute.encoder_files import EncoderFiles
from bae_ray.serving.compute.interface import COMPUTING, LOADING, Operation
from bae_ray.serving.compute.operations import Threads, describe_feature
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.monitoring.counts import Counted, Loads
from bae_ray.serving.ray_serve.deployment import deployed, listen_like_ray, own_id

log = logging.getLogger("ray.serve")
T = TypeVar("T")


class _Loaded(NamedTuple):
    autoencoder: Autoencoder
    model_hash: str
    """The hash by which containers name the encoder. Computed once, since it reads the whole dictionary."""


class _Bounded(io.BytesIO):
    """A file in memory with a maximum size."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    @override
    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > self._most:
            raise ContainerTooLargeError(f"the container would take more than {self._most} bytes.")
        return super().write(data)


class Encoders:
    """A replica: some encoders of the registry in memory, and threads that compute with them."""

    def __init__(self, config: ServiceConfig) -> None:
        listen_like_ray()
        settings = config.encoders
        self._most = config.limits.max_response_bytes
        self._device = "cuda" if settings.num_gpus and torch.cuda.is_available() else "cpu"
        # Ray gives an actor of one CPU one thread. Replicas share the machine's cores evenly instead.
        threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.max_replicas)
        self._loads = Loads(own_id(), "encoders", "encoder", self._device)
        self._threads = Threads(threads if self._device == "cpu" else 1, "compute")
        self._coder = Threads(1, "codec")
        self._loader = Threads(1, "load")  # where the disk is slow, what is loaded already is computed with meanwhile
        self._files = EncoderFiles(config, self._device)
        self._loading = 0

        @serve.multiplexed(max_num_models_per_replica=settings.encoders_per_replica)
        async def load(key: str) -> _Loaded:
            self._loading += 1
            try:
                return await self._loader.run(self._load, key)
            finally:
                self._loading -= 1

        self._loaded = cast(Callable[[str], Awaitable[_Loaded]], load)

    async def compute(self, operation: Operation, parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Compute a batch with the encoder that the call is for: see `operations.compute`.

        Raises `CheckpointError` if the encoder cannot be loaded.
        """
        autoencoder, _ = await self._loaded(serve.get_multiplexed_model_id())
        return await self._threads.compute(autoencoder, operation, parts)

    async def ping(self) -> None:
        """Answer."""

    async def doing(self) -> str:
        """What the replica is doing: `COMPUTING` or `LOADING`."""
        return LOADING if self._loading else COMPUTING

    async def counted(self) -> Counted:
        """The loads and evictions of this replica."""
        return self._loads.collected()

    async def feature(self, index: int) -> dict[str, Any]:
        """Describe a feature: see `operations.describe_feature`."""
        autoencoder, _ = await self._loaded(serve.get_multiplexed_model_id())
        return await self._threads.run(describe_feature, autoencoder, index)

    async def compress(self, x: np.ndarray, scheme: SchemeChoice, threshold: float | None, table: TableChoice) -> bytes:
        """Compress activations [N, D] to a container of at most `max_response_bytes`.

        Raises `InvalidInputError` if the encoder is not binary, or lacks what the scheme needs, and
        `ContainerTooLargeError`.
        """
        loaded = await self._loaded(serve.get_multiplexed_model_id())
        options: CodeOptions = {"threshold": threshold, "table": table, "model_hash": loaded.model_hash}
        return await self._coder.run(_compress, loaded.autoencoder, x, scheme, options, self._most)

    async def decompress(self, data: bytes, packed: bool) -> dict[str, np.ndarray]:
        """Decompress a container to `x` [N, D] or packed `code`. Raises `CompressionError` if it is another's."""
        loaded = await self._loaded(serve.get_multiplexed_model_id())
        return await self._coder.run(_decompress, loaded, data, packed, self._most)

    def _load(self, key: str) -> "_Loaded":
        encoder_id, _, _ = key.partition("@")
        with self._loads.loading(encoder_id):
            autoencoder = self._files.read(key)
            loaded = _Loaded(autoencoder, model_hash(autoencoder))
        # Serve drops the least recently used when another one is to be loaded; it is gone with its last batch.
        finalize(autoencoder, self._loads.evicted, encoder_id).atexit = False
        log.info(f"encoder {encoder_id} is loaded on {self._device}.")
        return loaded


def _compress(autoencoder: Autoencoder, x: np.ndarray, scheme: SchemeChoice, options: CodeOptions, most: int) -> bytes:
    rows = torch.from_dlpack(x)
    if scheme == "auto":
        scheme = chosen_scheme(autoencoder, rows, "encoder", **options)
    file = _Bounded(most)
    write_activations(file, autoencoder, rows.split(BLOCK_ROWS), scheme, **options)
    return file.getvalue()


def _decompress(loaded: _Loaded, data: bytes, packed: bool, most: int) -> dict[str, np.ndarray]:
    autoencoder, known = loaded
    if not packed:
        return {"x": decompress_activations(autoencoder, data, max_bytes=most, known_hash=known).numpy()}
    with open_container(data) as reader:
        check_model(autoencoder, reader, known)
        check_size(reader, len(reader), -(-autoencoder.d_latent // 8), most)
        return {"code": np.concatenate([np.packbits(code, axis=1) for code in reader.codes(0, len(reader))])}


def encoders(config: ServiceConfig) -> serve.Application:
    """The deployment as the config says."""
    return deployed(Encoders, config.encoders, max_ongoing=64, drain_s=config.drain_s).bind(config)
