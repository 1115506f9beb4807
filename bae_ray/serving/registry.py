"""The registry: a folder of encoders, looked at again when it changes.

An id is only ever looked up among the names of the folder's entries, never joined to a path. Files are read for their
configs and headers here, once for each version of them, and whole where an encoder is loaded. All of it may block,
so that it belongs in a thread.
"""

import json
import logging
import re
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from bae_ray.activations.config import Position
from bae_ray.autoencoders import ArchitectureConfig, AutoencoderConfig, BAEConfig, build_autoencoder
from bae_ray.autoencoders.base import CONFIG_FILE, WEIGHTS_FILE
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.config import content_hash, describe
from bae_ray.errors import BaeRayError, InvalidInputError
from bae_ray.training.run import RESULT_FILE, RUN_FILE

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LOOK_AGAIN_S = 1.0
MEASURES = ("entropy_bits", "fvu_train", "fvu_val", "cosine_val", "l0", "dead", "dense", "n_train")

log = logging.getLogger("ray.serve")
_CONFIGS: TypeAdapter[AutoencoderConfig] = TypeAdapter(AutoencoderConfig)


class Origin(NamedTuple):
    """Which activations a run's encoder is of."""

    model: str
    layer: int
    site: str
    position: Position


class Entry(NamedTuple):
    """An encoder of the registry."""

    id: str
    folder: Path
    version: str
    """Changes when the files do."""
    config: ArchitectureConfig | None
    """None: the encoder is broken."""
    reason: str
    """Why it is broken."""
    prior_bits: float | None
    """Marginal entropy of the prior, in bits; None of a broken encoder."""
    origin: Origin | None
    measures: dict[str, float]

    @property
    def key(self) -> str:
        """Id and version: what replicas hold it under."""
        return f"{self.id}@{self.version}"

    @property
    def binary(self) -> bool:
        """Whether its latents are a code of 0 and 1."""
        return isinstance(self.config, BAEConfig)

    @property
    def n_features(self) -> int:
        """Rows of the dictionary."""
        assert self.config is not None
        _, d_latent = self.config.widths()
        return d_latent // self.config.bits_per_feature if isinstance(self.config, BAEConfig) else d_latent


class Registry:
    """The encoders of a folder. Threads may share one."""

    def __init__(self, folder: Path) -> None:
        """Raises `InvalidInputError` where the folder does not exist."""
        if not folder.is_dir():
            raise InvalidInputError(f"the registry {folder} is not a folder. Make it, or give another.")
        self._folder = folder
        self._entries: dict[str, Entry] = {}
        self._looked = float("-inf")
        self._lock = threading.Lock()

    @property
    def known(self) -> dict[str, Entry]:
        """The encoders by id as they were when the folder was last looked at, broken ones included."""
        return self._entries

    @property
    def is_stale(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() - self._looked >= LOOK_AGAIN_S

    def look(self) -> dict[str, Entry]:
        """The encoders by id as they are now."""
        with self._lock:
            if (folders := self._folders()) is not None:
                self._entries = {entry.id: entry for folder in folders if (entry := self._entry(folder))}
            self._looked = time.monotonic()
            return self._entries

    def find(self, encoder_id: str) -> Entry | None:
        """The encoder of an id as it is now; nothing of others is read."""
        with self._lock:
            folder = next((folder for folder in self._folders() or () if folder.name == encoder_id), None)
            entry = self._entry(folder) if folder else None
            if entry is not None:
                self._entries = {**self._entries, entry.id: entry}
            return entry

    def refuse(self, entry: Entry, reason: str) -> None:
        """Mark an encoder as broken until its files change.

        Waits for nobody: where the folder is looked at meanwhile the mark is lost, and made again with the next load.
        """
        if (known := self._entries.get(entry.id)) and known.version == entry.version and known.config is not None:
            self._entries = {**self._entries, entry.id: _broken(entry.id, entry.folder, entry.version, reason)}

    def _folders(self) -> list[Path] | None:
        try:
            return sorted(self._folder.iterdir())
        except OSError as error:
            log.error(f"registry {self._folder} cannot be listed: {error}; the encoders known before are served on.")
            return None

    def _entry(self, folder: Path) -> Entry | None:
        """The encoder in a folder: the one that is known, where the files are the same."""
        if not ID.fullmatch(folder.name) or (version := _version(folder)) is None:
            return None
        known = self._entries.get(folder.name)
        return known if known and known.version == version else _read(folder.name, folder, version)


def _version(folder: Path) -> str | None:
    """What tells the folder's files from others in their place; None where there are none of an encoder."""
    stats = []
    for name in (CONFIG_FILE, WEIGHTS_FILE, RESULT_FILE):
        try:
            stat = (folder / name).stat()
            stats.append([name, stat.st_mtime_ns, stat.st_size])
        except OSError:
            continue
    # A run without a result is still trained; one that has a config only was cut off, or is being copied here.
    names = {stat[0] for stat in stats}
    unfinished = (folder / RUN_FILE).exists() and RESULT_FILE not in names
    return None if unfinished or not names & {CONFIG_FILE, WEIGHTS_FILE} else content_hash(stats)


def _read(encoder_id: str, folder: Path, version: str) -> Entry:
    try:
        config = _CONFIGS.validate_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        with torch.device("meta"):
            expected = {name: list(tensor.shape) for name, tensor in build_autoencoder(config).state_dict().items()}
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a mapping
            if differing := sorted(
                name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
            ):
                raise InvalidInputError(f"{', '.join(differing)} in {WEIGHTS_FILE} do not fit {CONFIG_FILE}")
            prior = file.get_tensor("prior").float()
        if not bool(((prior >= 0) & (prior <= 1)).all()):
            raise InvalidInputError(f"prior in {WEIGHTS_FILE} holds numbers that are not between 0 and 1")
        origin, measures = _origin(folder)
    except ValidationError as error:
        entry = _broken(encoder_id, folder, version, f"{CONFIG_FILE}: {describe(error)}")
    except (OSError, ValueError, BaeRayError, SafetensorError) as error:
        entry = _broken(encoder_id, folder, version, str(error))
    else:
        log.info(f"encoder {encoder_id}: {config.model_dump_json()}")
        bits = float(bernoulli_entropy(prior.double()).sum())
        entry = Entry(encoder_id, folder, version, config, "", bits, origin, measures)
    return entry


def _broken(encoder_id: str, folder: Path, version: str, reason: str) -> Entry:
    log.error(f"encoder {encoder_id} is refused: {reason}. Restore or remove {folder}.")
    public = reason.replace(str(folder), encoder_id)  # paths of this machine are nobody's business
    return Entry(encoder_id, folder, version, None, public, None, None, {})


def _origin(folder: Path) -> tuple[Origin | None, dict[str, float]]:
    """What a run's result says of its encoder; nothing of a folder that is no run."""
    if not (folder / RESULT_FILE).exists():
        return None, {}
    result: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    measures = {name: float(result[name]) for name in MEASURES if isinstance(result.get(name), int | float)}
    names = ("model", "layer", "site", "position")
    origin = Origin(*(result[name] for name in names)) if all(name in result for name in names) else None
    return origin, measures
