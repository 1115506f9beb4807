"""How large answers will be: known from their shapes, so before anything of their size is computed or made.

Shapes: N rows, D d_in, F d_latent, G features, K the largest kept, B = ceil(F / 8) bytes of a packed code.
"""

from collections.abc import Mapping

import numpy as np

from bae_ray.serving.compute.interface import Operation
from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http.arrays import Style
from bae_ray.serving.http.media_types import JSON, SAFETENSORS, Media
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.registry.entry import Entry

Arrays = Mapping[str, np.ndarray]

TEXT_BYTES = {"uint8": 4, "int32": 12, "int64": 21, "float32": 25}
"""Longest text of a number in JSON, with the comma after it."""
TOKEN_BYTES = 96
"""A token in an answer to texts, without its features."""
FIT_BYTES = 64
"""What a token's error and bits take in JSON."""
FEATURE_BYTES = 56
"""A feature of a token in JSON."""


def planned(entry: Entry, operation: Operation, n: int) -> Arrays:
    """Stand-ins for what an operation makes of N rows: of the same dtypes and shapes, and without memory."""
    assert entry.config is not None
    d_in, d_latent = entry.config.widths()
    match operation.name:
        case "pack":
            return {"code": _like("uint8", n, -(-d_latent // 8))}
        case "magnitudes":
            return {"magnitudes": _like("float32", n, entry.n_features)}
        case "top_k":
            k = operation.top_k
            return {"indices": _like("int32", n, k), "magnitudes": _like("float32", n, k)}
        case "decode" | "decode_packed":
            return {"x": _like("float32", n, d_in)}
        case "fit":
            return {"error": _like("float32", n), "bits": _like("float32", n)}


def listed(code: np.ndarray) -> Arrays:
    """Stand-ins for the indices of the bits that are set in packed codes [N, B]."""
    count = int(np.bitwise_count(code).sum(dtype=np.int64))
    return {"indices": _like("int32", count), "splits": _like("int64", len(code) + 1)}


def written(arrays: Arrays, media: Media, style: Style) -> int:
    """Bytes of arrays as they are sent, at most."""
    if media == SAFETENSORS:
        return held(arrays)
    if style == "base64":
        return sum(written_bytes(a.nbytes, media) for a in arrays.values())
    return sum(a.size * TEXT_BYTES[a.dtype.name] for a in arrays.values())


def held(arrays: Arrays) -> int:
    """Bytes of arrays in memory."""
    return sum(a.nbytes for a in arrays.values())


def check(size: int, limits: LimitsConfig) -> None:
    """Raise `answer_too_large` for an answer of so many bytes."""
    if size > limits.max_response_bytes:
        raise Problem(
            "answer_too_large",
            f"The answer would take more than {limits.max_response_bytes} bytes. Send fewer rows or texts, set top_k, "
            f"or ask for {SAFETENSORS}.",
        )


def written_bytes(size: int, media: Media) -> int:
    """Bytes of bytes as they are sent: as they are, or in base64."""
    return size if media == SAFETENSORS else 4 * -(-size // 3)


def token_bytes(top_k: int, media: Media, fit: bool = False) -> int:
    """Bytes of a token with its features in an answer to texts."""
    return TOKEN_BYTES + fit * FIT_BYTES + top_k * (FEATURE_BYTES if media == JSON else 8)


def most_tokens(d_in: int, top_k: int, media: Media, limits: LimitsConfig, fit: bool = False) -> int:
    """Tokens of all texts together whose activations, and whose answer, are no larger than answers may be."""
    return limits.max_response_bytes // max(4 * d_in, token_bytes(top_k, media, fit))


def _like(dtype: str, *shape: int) -> np.ndarray:
    return np.broadcast_to(np.empty((), dtype), shape)
