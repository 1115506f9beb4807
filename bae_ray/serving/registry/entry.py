"""An encoder of the registry, as the files of its folder describe it."""

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from bae_ray.activations.config import Position
from bae_ray.autoencoders import ArchitectureConfig, build_autoencoder
from bae_ray.autoencoders.architectures import CONFIGS, architecture_of
from bae_ray.autoencoders.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from bae_ray.autoencoders.losses import bernoulli_entropy
from bae_ray.autoencoders.tree_file import TREE_FILE, check_tree_file
from bae_ray.config import Config, content_hash, describe
from bae_ray.errors import BaeRayError, InvalidInputError
from bae_ray.files import check_regular, read_text
from bae_ray.report.published_cards import CARDS_FILE
from bae_ray.serving.config import MAX_WEIGHTS_BYTES
from bae_ray.training.run_folder import RESULT_FILE, RUN_FILE

MEASURES = ("entropy_bits", "fvu_train", "fvu_val", "cosine_val", "l0", "dead", "dense", "n_train")
VERSION_FILES = (CONFIG_FILE, WEIGHTS_FILE, RESULT_FILE, RUN_FILE, TREE_FILE)
PRIOR_CHUNK = 1 << 20
"""Firing rates that are read at a time."""

log = logging.getLogger("ray.serve")
T = TypeVar("T")


class EncoderOrigin(Config):
    """Which activations a run's encoder is of."""

    model: str
    layer: int
    site: str
    position: Position


class Entry(NamedTuple):
    """An encoder of the registry, as its files describe it."""

    id: str
    folder: Path
    version: str
    """Changes when the files do."""
    config: ArchitectureConfig | None
    """None if the encoder is broken."""
    reason: str
    """Why it is broken."""
    prior_bits: float | None
    """Marginal entropy of the prior, in bits; None without a prior, and for a broken encoder."""
    origin: EncoderOrigin | None
    measures: dict[str, float]
    has_tree: bool = False
    """Whether there is a tree over its latents, which scheme `tree` of the codec needs."""

    @property
    def key(self) -> str:
        """Id and version: the name of the encoder in replicas."""
        return f"{self.id}@{self.version}"

    @property
    def binary(self) -> bool:
        """Whether its latents are a code of 0 and 1."""
        return self.config is not None and architecture_of(self.config).is_binary

    @property
    def lacks_prior(self) -> bool:
        """Whether it has no firing rates although its magnitudes (burstiness) need them."""
        return self.config is not None and self.config.has_burstiness and self.prior_bits is None

    @property
    def n_features(self) -> int:
        """Number of features: rows of the dictionary."""
        assert self.config is not None
        return self.config.n_features


def count(entries: Iterable[Entry]) -> dict[str, int]:
    """How many encoders are ready, and how many broken."""
    ready = [entry.config is not None for entry in entries]
    return {"ready": sum(ready), "broken": len(ready) - sum(ready)}


def is_of_encoder(name: str) -> bool:
    """Whether a file of this name is one of an encoder's."""
    return name in (*VERSION_FILES, CARDS_FILE)


def version_of(folder: Path) -> str | None:
    """Changes when the folder's files do; None if it holds no encoder."""
    stats: dict[str, list[int | None]] = {}
    for name in VERSION_FILES:
        try:
            stat = (folder / name).stat()
            stats[name] = [stat.st_mtime_ns, stat.st_size]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # it is there: reading it says what is wrong
            stats[name] = [error.errno]
    # A run without a result is still trained; one that has a config only was cut off, or is being copied here.
    unfinished = RUN_FILE in stats and RESULT_FILE not in stats
    return None if unfinished or not stats.keys() & {CONFIG_FILE, WEIGHTS_FILE} else content_hash(stats)


def links_out(folder: Path, registry: Path) -> list[str]:
    """Names of links (the folder, or files in it) that lead out of the registry, whose own path has no links."""

    def leads_out(path: Path) -> bool:
        try:
            return path.is_symlink() and not path.resolve().is_relative_to(registry)
        except (OSError, RuntimeError):  # a loop leads nowhere
            return False

    if leads_out(folder):
        return [folder.name]
    return [name for name in (*VERSION_FILES, CARDS_FILE) if leads_out(folder / name)]


def read_entry(encoder_id: str, folder: Path, version: str, most: int = MAX_WEIGHTS_BYTES) -> Entry:
    """Read the encoder of a folder. Anything wrong with it makes it broken; nothing is raised."""
    try:
        config = _checked(CONFIG_FILE, CONFIGS.validate_json, read_text(folder / CONFIG_FILE))
        with torch.device("meta"):
            expected = {name: list(tensor.shape) for name, tensor in build_autoencoder(config).state_dict().items()}
        check_regular(folder / WEIGHTS_FILE, most)
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a mapping
            if differing := sorted(
                name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
            ):
                raise InvalidInputError(f"{', '.join(differing)} in {WEIGHTS_FILE} do not fit {CONFIG_FILE}")
            if others := sorted(name for name in found if file.get_slice(name).get_dtype()[0] not in "FB"):
                raise InvalidInputError(f"{', '.join(others)} in {WEIGHTS_FILE} hold no floating-point numbers")
            bits = _entropy(file.get_slice("prior"))
        if has_tree := os.path.lexists(folder / TREE_FILE):
            check_tree_file(folder / TREE_FILE, config.widths()[1])
        origin, measures = _origin(folder)
    except (OSError, BaeRayError, SafetensorError) as error:
        return broken_entry(encoder_id, folder, version, str(error))
    except Exception as error:  # torch and JSON have many names for numbers that are too large
        return broken_entry(encoder_id, folder, version, f"its files cannot be read: {type(error).__name__}: {error}")
    log.info(f"encoder {encoder_id}: {config.model_dump_json()}")
    return Entry(encoder_id, folder, version, config, "", bits, origin, measures, has_tree)


def broken_entry(encoder_id: str, folder: Path, version: str, reason: str) -> Entry:
    """A broken encoder; the reason is logged."""
    log.error(f"encoder {encoder_id} is refused: {reason}. Restore or remove {folder}.")
    public = reason.replace(str(folder), encoder_id)  # paths of this machine are nobody's business
    return Entry(encoder_id, folder, version, None, public, None, None, {})


def _entropy(prior: Any) -> float | None:
    """Marginal entropy in bits of firing rates, a slice of a file, read in parts. None if all are 0 (unknown)."""
    bits, known = 0.0, False
    for start in range(0, prior.get_shape()[0], PRIOR_CHUNK):
        rates = prior[start : start + PRIOR_CHUNK].float()
        if not bool(((rates >= 0) & (rates <= 1)).all()):
            raise InvalidInputError(f"prior in {WEIGHTS_FILE} holds numbers that are not between 0 and 1")
        bits += float(bernoulli_entropy(rates.double()).sum())
        known = known or bool(rates.any())
    return bits if known else None


def _origin(folder: Path) -> tuple[EncoderOrigin | None, dict[str, float]]:
    """The origin and measures in a run's result; none if the folder is no run."""
    if not os.path.lexists(folder / RESULT_FILE):
        return None, {}
    result: Any = json.loads(read_text(folder / RESULT_FILE))
    if not isinstance(result, dict):
        raise InvalidInputError(f"{RESULT_FILE} holds no object of names and values")
    measures = {name: float(result[name]) for name in MEASURES if isinstance(result.get(name), int | float)}
    told = {name: result[name] for name in EncoderOrigin.model_fields if name in result}
    if len(told) < len(EncoderOrigin.model_fields):
        return None, measures
    return _checked(RESULT_FILE, EncoderOrigin.model_validate, told), measures


def _checked(name: str, validate: Callable[[Any], T], value: Any) -> T:
    """Validate the content of a file. Raises `InvalidInputError` with the file's name."""
    try:
        return validate(value)
    except ValidationError as error:
        raise InvalidInputError(f"{name}: {describe(error)}") from error
