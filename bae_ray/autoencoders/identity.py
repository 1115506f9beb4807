"""What identifies an autoencoder, and its two halves, to what is made with it: hashes of its numbers."""

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
    """32 hex digits that identify an autoencoder to its codes: all that their reconstruction depends on.

    Architecture, widths (and so the bits per feature), and every number of the dictionary and the normalisation, with
    its type. Not how it was trained, so that codes stay readable where a config gains an option. `tensors`: what it
    would be with these weights instead of its own.
    """
    tensors = autoencoder.state_dict() if tensors is None else tensors
    digest = xxhash.xxh3_128(
        f"{autoencoder.config.name} {autoencoder.d_in} {autoencoder.d_latent} {autoencoder.n_features}".encode()
    )
    return _hexdigest(digest, {name: tensor for name, tensor in tensors.items() if name in DECODER})


def model_hashes(autoencoder: "Autoencoder", own: str | None = None) -> tuple[str, ...]:
    """All that its codes may name it by: its `model_hash`, which is `own` where it is known, and that of its file.

    Weights of another type become float32 where they are loaded. Earlier versions kept the type, and named it so.
    """
    own = own or model_hash(autoencoder)
    as_stored = autoencoder.stored_hashes.get(own)
    return (own,) if as_stored is None else (own, as_stored)


def encoder_hash(autoencoder: "Autoencoder") -> str:
    """The same of the other half, weights of the encoder and reference set: all else that codes are made by."""
    others = {name: tensor for name, tensor in autoencoder.state_dict().items() if name not in DECODER}
    return _hexdigest(xxhash.xxh3_128(), others)


def _hexdigest(digest: xxhash.xxh3_128, tensors: Mapping[str, Tensor]) -> str:
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
