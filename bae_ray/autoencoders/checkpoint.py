"""Saving and loading autoencoders: a folder with `config.json` and `model.safetensors`."""

import json
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bae_ray.autoencoders.bae import BinaryAutoencoder
from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.errors import CheckpointError
from bae_ray.files import atomic_path, write_text

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def build_autoencoder(config: BAEConfig) -> Autoencoder:
    """A freshly initialised autoencoder of the architecture that `config` describes."""
    return BinaryAutoencoder(config)


def save_autoencoder(autoencoder: Autoencoder, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` (weights, normalisation and prior) into `folder`."""
    folder = Path(folder)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in autoencoder.state_dict().items()}, temporary)
    write_text(folder / CONFIG_FILE, autoencoder.config.model_dump_json(indent=2) + "\n")


def load_autoencoder(folder: str | Path) -> Autoencoder:
    """The autoencoder saved in `folder`, on the CPU, in evaluation mode.

    Raises `CheckpointError` where a file is missing or unreadable, the config is not one of ours, or the weights do
    not fit it.
    """
    folder = Path(folder)
    try:
        config = BAEConfig.model_validate_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is not a saved autoencoder: {Path(str(error.filename or WEIGHTS_FILE)).name} is missing. "
            f"Give a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}."
        ) from error
    except (ValidationError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder} cannot be loaded as an autoencoder: {error}") from error
    autoencoder = build_autoencoder(config)
    expected = {name: tuple(tensor.shape) for name, tensor in autoencoder.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        differing = [
            f"{name}: expected {expected.get(name, 'absent')}, found {found.get(name, 'absent')}"
            for name in sorted(expected.keys() | found.keys())
            if expected.get(name) != found.get(name)
        ]
        raise CheckpointError(
            f"the weights in {folder} do not fit its {CONFIG_FILE}: {'; '.join(differing)}. Restore the files that "
            "were saved together."
        )
    autoencoder.load_state_dict(tensors)
    return autoencoder.eval()
