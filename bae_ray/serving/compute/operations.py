"""Computations with an encoder, row by row: rows of different requests can be computed together.

Shapes: N rows, D d_in, F d_latent, G features, K the largest kept, B = ceil(F / 8) bytes of a packed code.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bae_ray.autoencoders import Autoencoder
from bae_ray.serving.compute.interface import Operation

WORKING_SET = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Bytes of the pre-activations and latents of a chunk of rows; on a CPU they stay in its cache."""
PLACE_VALUES = (128, 64, 32, 16, 8, 4, 2, 1)
SIMILAR = 10


def compute(autoencoder: Autoencoder, operation: Operation, parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with a row for each row of all parts, on the autoencoder's device.

    pack: `code` [N, B], the latents that fire as bits, the first one in the highest bit of the first byte (as
    `numpy.packbits`). magnitudes: `magnitudes` [N, G]. top_k: `indices` [N, K] of the largest and their `magnitudes`.
    decode_packed: `x` [N, D] of codes [N, B]. decode: `x` of latents [N, F].
    """
    with torch.inference_mode():
        # DLPack takes arrays that are read-only, as those from Ray's object store are.
        rows = torch.from_dlpack(joined(parts)).to(autoencoder.mean.device)
        return {name: tensor.cpu().numpy() for name, tensor in _made(autoencoder, operation, rows).items()}


def rows_at_once(autoencoder: Autoencoder) -> int:
    """Rows that fit into the working set."""
    size = WORKING_SET.get(autoencoder.mean.device.type, WORKING_SET["cpu"])
    return max(1, size // (8 * autoencoder.d_latent))


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of one or more arrays in one array; a single array is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _made(autoencoder: Autoencoder, operation: Operation, rows: Tensor) -> dict[str, Tensor]:
    match operation.name:
        case "pack":
            return {"code": _packed(autoencoder.fires(rows))}
        case "magnitudes":
            return {"magnitudes": autoencoder.magnitudes(rows)}
        case "top_k":
            values, indices = autoencoder.magnitudes(rows).topk(operation.top_k, dim=1)
            return {"indices": indices.int(), "magnitudes": values}
        case "decode_packed":
            values = torch.tensor(PLACE_VALUES, dtype=torch.uint8, device=rows.device)
            bits = (rows.unsqueeze(2) & values != 0).flatten(1)[:, : autoencoder.d_latent]
            return {"x": autoencoder.decode(bits.to(autoencoder.mean.dtype))}
        case "decode":
            return {"x": autoencoder.decode(rows)}


def _packed(fires: Tensor) -> Tensor:
    if fires.device.type == "cpu":
        return torch.from_numpy(np.packbits(fires.numpy(), axis=1))
    padded = torch.nn.functional.pad(fires, (0, -fires.shape[1] % 8)).unflatten(1, (-1, 8))
    values = torch.tensor(PLACE_VALUES, dtype=torch.uint8, device=fires.device)
    return (padded * values).sum(2, dtype=torch.uint8)


@torch.inference_mode()
def describe_feature(autoencoder: Autoencoder, index: int) -> dict[str, Any]:
    """A feature's `direction` [D] in activation space, in the activations' own units, and the features most like it.

    `direction` is what the reconstruction gains where the feature is 1. `similar_indices` and `similar_cosines`: the
    features whose directions have the largest cosine with it. `firing_rate`: the share of the reference set on which it
    fires; None where several bits make one feature, or there is no prior.
    """
    dictionary = autoencoder.W_dec
    single = autoencoder.n_features == autoencoder.d_latent
    # In double precision, and with a row of length 1: whatever the dictionary's scale, no square is lost. Nothing of
    # the dictionary's size is made. A row of zeros has cosine 0 with all others.
    norms = torch.linalg.vector_norm(dictionary, dim=1, dtype=torch.float64)
    lengths = norms.where(norms > 0, 1.0)
    unit = (dictionary[index].double() / lengths[index]).to(dictionary.dtype)
    cosines = ((dictionary @ unit).double() / lengths).clamp(-1, 1)
    cosines[index] = -torch.inf
    nearest = cosines.topk(min(SIMILAR, len(dictionary) - 1))
    # A transcoder's reconstruction is in the units of what it reconstructs.
    direction = dictionary[index] * autoencoder.target_normalization[1]
    return {
        "firing_rate": float(autoencoder.prior[index]) if single and autoencoder.has_prior else None,
        "direction": direction.float().cpu().numpy(),
        "similar_indices": nearest.indices.int().cpu().numpy(),
        "similar_cosines": nearest.values.float().cpu().numpy(),
    }
