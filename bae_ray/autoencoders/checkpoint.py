"""Building autoencoders from configs; saving and loading them as folders; the hashes that identify them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bae_ray.autoencoders.architectures import CONFIGS, architecture_of
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.autoencoders.hub import fetched
from bae_ray.autoencoders.tree_file import TREE_FILE, load_tree, save_tree
from bae_ray.config import describe
from bae_ray.errors import CheckpointError, InvalidInputError
from bae_ray.files import atomic_path, check_regular, read_text, remove, write_text
from bae_ray.locations import local_path

if TYPE_CHECKING:
    from bae_ray.autoencoders.base import Autoencoder

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
DECODER = ("W_dec", "b_dec", "mean", "scale")
"""The tensors that a reconstruction depends on."""


def build_autoencoder(config: ArchitectureConfig) -> "Autoencoder":
    """A freshly initialised autoencoder of the architecture that `config` describes.

    Raises `InvalidInputError` for impossible widths: k above d_latent, d_latent not a multiple of bits_per_feature,
    d_in not set.
    """
    return architecture_of(config).load()(config)


def check_architecture(config: ArchitectureConfig) -> None:
    """Raise what `build_autoencoder` would, without allocating the weights."""
    with torch.device("meta"):
        build_autoencoder(config)


def load_autoencoder(
    source: str | Path, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> "Autoencoder":
    """The autoencoder in a folder, or on the Hugging Face hub under an id. It is on the CPU, in evaluation mode.

    Its weights take no gradients; call `requires_grad_()` to train it further. `revision`, `token` and `cache_dir` are
    for the hub.

    Raises `CheckpointError` if a file is missing or unreadable, if the architecture is not known, or if the weights do
    not fit the config.
    """
    folder = fetched(source, (CONFIG_FILE, WEIGHTS_FILE), revision, token, cache_dir, optional=(TREE_FILE,))
    try:
        config = CONFIGS.validate_json(read_text(folder / CONFIG_FILE))
        check_regular(folder / WEIGHTS_FILE)
        tensors = load_file(folder / WEIGHTS_FILE)
        with torch.device("meta"):  # no memory yet: a config may name any size
            autoencoder = build_autoencoder(config)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{folder} is not a saved autoencoder: {Path(str(error.filename or WEIGHTS_FILE)).name} is missing. "
            f"Give a folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}, or a hub id."
        ) from error
    except ValidationError as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} is not the config of an autoencoder: {describe(error)}."
        ) from error
    except (InvalidInputError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder} cannot be loaded as an autoencoder: {error}") from error
    load_weights(autoencoder, tensors, f"{folder / WEIGHTS_FILE}")
    if os.path.lexists(folder / TREE_FILE):
        autoencoder.tree = load_tree(folder / TREE_FILE, model_hashes(autoencoder), autoencoder.d_latent)
    given = local_path(source)
    autoencoder.source = given.resolve().name if given.exists() else str(source)
    return autoencoder


def save_autoencoder(autoencoder: "Autoencoder", folder: Path) -> None:
    """Write the config and the weights (with normalisation and reference set) of an autoencoder, and its tree."""
    remove(folder / TREE_FILE)  # whoever loads it meanwhile finds no tree, not another one's
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in autoencoder.state_dict().items()}, temporary)
    write_text(folder / CONFIG_FILE, autoencoder.config.model_dump_json(indent=2) + "\n")
    if autoencoder.tree is not None:
        save_tree(autoencoder.tree, folder / TREE_FILE, model_hash(autoencoder))


def load_weights(autoencoder: "Autoencoder", tensors: dict[str, Any], source: str) -> None:
    """Set all weights of an autoencoder, which may be on torch's meta device. The weights take no gradients.

    Floating-point tensors of any width become float32. Raises `CheckpointError` that names each tensor that is missing,
    unknown, of another shape or type, or not finite in float32.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in autoencoder.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        differing = [
            f"{name}: expected {expected.get(name, 'absent')}, found {found.get(name, 'absent')}"
            for name in sorted(expected.keys() | found.keys())
            if expected.get(name) != found.get(name)
        ]
        raise CheckpointError(
            f"the weights in {source} do not fit their config ({autoencoder.config.model_dump_json()}): "
            f"{'; '.join(differing)}. Restore the files that were saved together."
        )
    cast = {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}
    bad = [
        name
        for name in tensors
        # A log_threshold of -inf is a threshold of 0.
        if name not in cast or cast[name].isnan().any() or (cast[name].isinf().any() and name != "log_threshold")
    ]
    if bad:
        raise CheckpointError(
            f"{', '.join(bad)} in {source}: expected finite floating-point numbers within float32's range, found "
            "others. The file is damaged, or its training diverged: train the autoencoder again."
        )
    # Copies: the tensors given may be mapped from a file, or belong to another autoencoder.
    own = {name: tensor.clone() if tensor is tensors[name] else tensor for name, tensor in cast.items()}
    autoencoder.load_state_dict(own, assign=True)
    if any(cast[name].dtype != tensors[name].dtype for name in cast.keys() & set(DECODER)):
        autoencoder.stored_hashes = {model_hash(autoencoder): model_hash(autoencoder, tensors)}
    autoencoder.requires_grad_(False).eval()


def model_hash(autoencoder: "Autoencoder", tensors: Mapping[str, Tensor] | None = None) -> str:
    """32 hex digits that identify all that a reconstruction from a code depends on.

    That is the architecture, the widths, and every number of the dictionary and the normalisation with its type.
    Training settings are not part of it, so that codes stay readable when a config gains an option. `tensors`: weights
    to use in place of its own.
    """
    tensors = autoencoder.state_dict() if tensors is None else tensors
    digest = xxhash.xxh3_128(
        f"{autoencoder.config.name} {autoencoder.d_in} {autoencoder.d_latent} {autoencoder.n_features}".encode()
    )
    return _hexdigest(digest, {name: tensor for name, tensor in tensors.items() if name in DECODER})


def model_hashes(autoencoder: "Autoencoder", own: str | None = None) -> tuple[str, ...]:
    """Every hash by which codes may name it: its `model_hash` (`own`, if already known), and the hash of its file.

    Weights of another type become float32 when they are loaded. Earlier versions kept the type, so the hash differs.
    """
    own = own or model_hash(autoencoder)
    as_stored = autoencoder.stored_hashes.get(own)
    return (own,) if as_stored is None else (own, as_stored)


def encoder_hash(autoencoder: "Autoencoder") -> str:
    """The same for what a code depends on: the weights of the encoder, and the reference set."""
    others = {name: tensor for name, tensor in autoencoder.state_dict().items() if name not in DECODER}
    return _hexdigest(xxhash.xxh3_128(), others)


def _hexdigest(digest: xxhash.xxh3_128, tensors: Mapping[str, Tensor]) -> str:
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
