"""Computations with an encoder, row by row: rows of different requests can be computed together.

Two threads that share a matrix product of a few hundred rows wait for each other at every step, longer if other
processes use the cores. So a batch is cut into chunks of rows, with one thread for each. Only a batch that is too small
to be cut, while nothing else is computed, uses all cores.

Shapes: N rows, D d_in, F d_latent, G features, K the largest kept, B = ceil(F / 8) bytes of a packed code.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.architectures import architecture_of
from bae_ray.autoencoders.bae import burstiness
from bae_ray.errors import BaeRayError, OutOfMemoryError, is_out_of_memory
from bae_ray.serving.compute.interface import Operation

WORKING_SET = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Bytes of the pre-activations and latents of a chunk of rows; on a CPU they stay in its cache."""
PLACE_VALUES = (128, 64, 32, 16, 8, 4, 2, 1)
SIMILAR = 10
ROWS_PER_THREAD = 64
"""Rows that are worth a thread of their own; with fewer, a thread would mostly read weights."""
T = TypeVar("T")


def compute(autoencoder: Autoencoder, operation: Operation, parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with a row for each row of all parts, on the autoencoder's device.

    pack: `code` [N, B], the latents that fire as bits, the first one in the highest bit of the first byte (as
    `numpy.packbits`). magnitudes: `magnitudes` [N, G]. top_k: `indices` [N, K] of the largest and their `magnitudes`.
    decode_packed: `x` [N, D] of codes [N, B]. decode: `x` of latents [N, F]. fit: see `_fit`.
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
        case "fit":
            return _fit(autoencoder, rows)


def _fit(autoencoder: Autoencoder, rows: Tensor) -> dict[str, Tensor]:
    """How well each activation [N, D] is reconstructed, and how long its code is, as far as that is known.

    `error` [N]: squared distance of the reconstruction, as a part of that of the mean (FVU is this of sums over
    samples; 0 for the mean itself); only of what reconstructs its input. `bits` [N]: -log2 of the
    probability of the code, each latent by itself with its firing rate; of binary autoencoders with firing rates.
    """
    latents, found = autoencoder.encode(rows), {}
    if autoencoder.reconstructs_input:
        centred = autoencoder.normalize_target(rows)
        missed = (centred - autoencoder.normalize_target(autoencoder.decode(latents))).square().sum(1)
        whole = centred.square().sum(1)
        found["error"] = torch.where(whole > 0, missed / whole.where(whole > 0, 1.0), 0.0)
    if architecture_of(autoencoder.config).is_binary and autoencoder.has_prior:
        found["bits"] = -burstiness(1 - latents, autoencoder.prior).sum(1)  # |1 - code - prior|: a bit's probability
    return found


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


class Threads:
    """A pool of threads with one core each, and one thread with all cores."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._running = count, 0
        self._pool = ThreadPoolExecutor(count, name, _settle, (1,))
        # Only one: a thread that has ever computed with several cores keeps as many threads of OpenMP's.
        self._wide = ThreadPoolExecutor(1, f"{name} together", _settle, (count,)) if count > 1 else self._pool

    async def compute(
        self, autoencoder: Autoencoder, operation: Operation, parts: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Arrays with a row for each row of all parts: see `compute`. In chunks, of bounded memory.

        Raises `OutOfMemoryError`.
        """
        rows = sum(map(len, parts))
        share = -(-rows // min(self._count, max(1, rows // ROWS_PER_THREAD)))
        found = list(chunks(parts, min(share, rows_at_once(autoencoder))))
        pool = self._wide if len(found) == 1 and not self._running else self._pool
        made = await asyncio.gather(*(self._in(pool, compute, autoencoder, operation, chunk) for chunk in found))
        return {name: joined([arrays[name] for arrays in made]) for name in made[0]}

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in one of the threads. Also raises `OutOfMemoryError`."""
        return await self._in(self._pool, function, *arguments)

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
        self._running += 1
        try:
            return await in_thread(pool, function, *arguments)
        finally:
            self._running -= 1


async def in_thread(pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a pool's thread. Raises `OutOfMemoryError` if torch has too little memory."""
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
    except BaeRayError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError("the device has too little memory for this batch") from error


def chunks(parts: Sequence[np.ndarray], most: int) -> Iterator[list[np.ndarray]]:
    """The rows of all parts in order, in chunks of at most `most` rows: small parts joined, large ones cut."""
    chunk: list[np.ndarray] = []
    for part in parts:
        for start in range(0, len(part), most):
            piece = part[start : start + most]
            if sum(map(len, chunk)) + len(piece) > most:
                yield chunk
                chunk = []
            chunk.append(piece)
    if chunk:
        yield chunk


def _settle(threads: int) -> None:
    """Set the number of torch's threads for the calling thread; the second call makes it final."""
    torch.set_num_threads(threads)
    torch.get_num_threads()
