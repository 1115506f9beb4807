"""Encoders of the registry, read from their files within a time limit."""

from collections import OrderedDict
from functools import partial

from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.serving.compute.interface import ChangedError
from bae_ray.serving.config import ServiceConfig
from bae_ray.serving.registry.registry import Registry
from bae_ray.serving.time_limits import TimeLimit

LOAD_TIMEOUT_S = 60.0
ENCODERS_KEPT = 2


class EncoderFiles:
    """The encoders that were asked for last. Not thread-safe."""

    def __init__(self, config: ServiceConfig, device: str) -> None:
        self._registry, self._device = Registry.of(config), device
        self._time_limit = TimeLimit(LOAD_TIMEOUT_S)
        self._kept: OrderedDict[str, Autoencoder] = OrderedDict()
        self.is_loading = False

    def read(self, key: str) -> Autoencoder:
        """The encoder of an id and version.

        Raises `ChangedError` where the files are of another version, `CheckpointError` where they cannot be used.
        """
        encoder_id, _, version = key.partition("@")
        entry = self._registry.find(encoder_id)
        if entry is None or entry.version != version:
            raise ChangedError(f"encoder {encoder_id} is not what it was: its files have changed, or are gone.")
        # What cannot be read in time is an OSError, as of a disk that fails.
        return self._time_limit.call(key, partial(load_autoencoder, entry.folder)).to(self._device)

    def get(self, key: str) -> Autoencoder:
        """The same, of those in memory where it is one of them."""
        if key not in self._kept:
            while len(self._kept) >= ENCODERS_KEPT:
                self._kept.popitem(last=False)
            self.is_loading = True
            try:
                self._kept[key] = self.read(key)
            finally:
                self.is_loading = False
        self._kept.move_to_end(key)
        return self._kept[key]
