"""Arrays of responses: nested JSON numbers, base64 with dtype and shape, or safetensors."""

import base64
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pydantic_core
from safetensors.numpy import save

from bae_ray.serving.http.arrays import Style
from bae_ray.serving.http.media_types import SAFETENSORS, Media
from bae_ray.serving.http.problems import Problem

CHUNK_NUMBERS = 1 << 16
"""Numbers that are converted to Python at a time."""


def write(arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any], media: Media, style: Style) -> bytes:
    """The body of an answer: arrays, and other fields, which are metadata in safetensors.

    Raises `not_finite` if numbers overflowed.
    """
    for a in arrays.values():
        if a.dtype.kind == "f" and not np.isfinite(a).all():
            raise Problem("not_finite", "The numbers sent are so large that the answer overflows float32.")
    if media == SAFETENSORS:
        # Values that are text stay as they are, so that what reads the metadata need not know JSON.
        metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items() if v is not None}
        return save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata)
    if style == "nested":
        return write_json(fields, {name: nested(a) for name, a in arrays.items()})
    return pydantic_core.to_json({**fields, **{name: _as_base64(a) for name, a in arrays.items()}})


def write_json(fields: Mapping[str, Any], parts: Mapping[str, bytes]) -> bytes:
    """A JSON object of fields, and of parts that are JSON already."""
    texts = [pydantic_core.to_json({**fields})[1:-1], *(b'"%s":%s' % (k.encode(), v) for k, v in parts.items())]
    return b"{" + b",".join(text for text in texts if text) + b"}"


def nested(a: np.ndarray) -> bytes:
    """An array as nested lists in JSON, some rows at a time: as Python numbers it takes several times more memory."""
    step = max(1, CHUNK_NUMBERS * len(a) // max(1, a.size))
    return in_chunks(a[start : start + step].tolist() for start in range(0, len(a), step))


def ragged(flat: np.ndarray, splits: np.ndarray) -> bytes:
    """Lists of different lengths in JSON; row i is flat[splits[i] : splits[i + 1]]."""
    return in_chunks([flat[a:b].tolist()] for a, b in pairwise(splits.tolist()))


def in_chunks(chunks: Iterable[list[Any]]) -> bytes:
    """A JSON list from pieces of it."""
    return b"[" + b",".join(text for chunk in chunks if (text := pydantic_core.to_json(chunk)[1:-1])) + b"]"


def _as_base64(a: np.ndarray) -> dict[str, Any]:
    return {"data": base64.b64encode(a.tobytes()).decode(), "dtype": a.dtype.name, "shape": list(a.shape)}
