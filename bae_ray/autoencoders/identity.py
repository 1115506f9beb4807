"""Hashes that identify an autoencoder's encoder and decoder, by their numbers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import xxhash
from torch import Tensor

if TYPE_CHECKING:
    from bae_ray.autoencoders.base import Autoencoder

DECODER = ("W_dec", "b_dec", "mean", "scale")
"""The tensors that a reconstruction depends on."""


def model_hash(autoencoder: "Autoencoder", tensors: Mapping[str, Tensor] | None = None) -> str:
    """32 hex digits that identify what a reconstruction from a code depends on.

    That is the architecture, the widths, and every number of the dictionary and the normalisation with its type. How it
    was trained is left out, so that codes stay readable when a config gains an option. `tensors`: weights to take in
    place of its own.
    """
    tensors = autoencoder.state_dict() if tensors is None else tensors
    digest = xxhash.xxh3_128(
        f"{autoencoder.config.name} {autoencoder.d_in} {autoencoder.d_latent} {autoencoder.n_features}".encode()
    )
    return _hexdigest(digest, {name: tensor for name, tensor in tensors.items() if name in DECODER})


def model_hashes(autoencoder: "Autoencoder", own: str | None = None) -> tuple[str, ...]:
    """Every hash by which codes may name it: its `model_hash` (`own`, if it is known), and the hash of its file.

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
