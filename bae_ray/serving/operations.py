"""What is computed with an encoder: row by row, so that the rows of different requests may be computed together.

Shapes: N rows, D d_in, F d_latent, G features, K the largest kept, B = ceil(F / 8) bytes of a packed code.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bae_ray.autoencoders import Autoencoder

WORKING_SET = 64 << 20
"""Bytes that pre-activations and latents of a chunk of rows may take."""
PLACE_VALUES = (128, 64, 32, 16, 8, 4, 2, 1)


class Operation(NamedTuple):
    """What to compute."""

    name: Literal["pack", "magnitudes", "top_k", "decode_packed", "decode"]
    top_k: int = 0


def compute(autoencoder: Autoencoder, operation: Operation, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays with a row for each of `rows`, on the autoencoder's device, in chunks of bounded memory.

    pack: `code` [N, B], the latents that fire as bits, the first one in the highest bit of the first byte (as
    `numpy.packbits`). magnitudes: `magnitudes` [N, G]. top_k: `indices` [N, K] of the largest and their `magnitudes`.
    decode_packed: `x` [N, D] of codes [N, B]. decode: `x` of latents [N, F].
    """
    step = max(1, WORKING_SET // (8 * autoencoder.d_latent))
    device = autoencoder.mean.device
    function = _FUNCTIONS[operation.name]
    made: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for start in range(0, len(rows), step):
            # DLPack takes arrays that are read-only, as those from Ray's object store are.
            chunk = torch.from_dlpack(rows[start : start + step]).to(device)
            for name, tensor in function(autoencoder, operation, chunk).items():
                made.setdefault(name, []).append(tensor.cpu().numpy())
    return {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in made.items()}


def unpack(code: np.ndarray, d_latent: int) -> np.ndarray:
    """Bits [N, F] of packed codes [N, B], as uint8."""
    return np.unpackbits(code, axis=1, count=d_latent)


def _pack(autoencoder: Autoencoder, _operation: Operation, x: Tensor) -> dict[str, Tensor]:
    fires = autoencoder.encode(x) != 0
    if fires.device.type == "cpu":
        return {"code": torch.from_numpy(np.packbits(fires.numpy(), axis=1))}
    padded = torch.nn.functional.pad(fires, (0, -fires.shape[1] % 8)).unflatten(1, (-1, 8))
    values = torch.tensor(PLACE_VALUES, dtype=torch.uint8, device=x.device)
    return {"code": (padded * values).sum(2, dtype=torch.uint8)}


def _magnitudes(autoencoder: Autoencoder, _operation: Operation, x: Tensor) -> dict[str, Tensor]:
    return {"magnitudes": autoencoder.magnitudes(x)}


def _top_k(autoencoder: Autoencoder, operation: Operation, x: Tensor) -> dict[str, Tensor]:
    values, indices = autoencoder.magnitudes(x).topk(operation.top_k, dim=1)
    return {"indices": indices.int(), "magnitudes": values}


def _decode_packed(autoencoder: Autoencoder, _operation: Operation, code: Tensor) -> dict[str, Tensor]:
    values = torch.tensor(PLACE_VALUES, dtype=torch.uint8, device=code.device)
    bits = (code.unsqueeze(2) & values != 0).flatten(1)[:, : autoencoder.d_latent]
    return {"x": autoencoder.decode(bits.to(autoencoder.mean.dtype))}


def _decode(autoencoder: Autoencoder, _operation: Operation, latents: Tensor) -> dict[str, Tensor]:
    return {"x": autoencoder.decode(latents)}


_FUNCTIONS: dict[str, Callable[[Autoencoder, Operation, Tensor], dict[str, Tensor]]] = {
    "pack": _pack,
    "magnitudes": _magnitudes,
    "top_k": _top_k,
    "decode_packed": _decode_packed,
    "decode": _decode,
}
