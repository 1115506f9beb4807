"""Arrays of bodies: nested JSON numbers, base64 with dtype and shape, or safetensors."""

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pydantic_core
import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from bae_ray.errors import InvalidInputError, NotFiniteError
from bae_ray.serving.http.media_types import JSON, Media
from bae_ray.serving.http.problems import Problem
from bae_ray.values import check_finite, check_type

Style = Literal["nested", "base64"]
"""How arrays look in JSON."""
Arrays = dict[str, np.ndarray]

SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8,
    "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in SAFETENSORS_DTYPES.values()}
NUMBER = re.compile("[0-9]{1,18}")
LARGEST_HEADER = 1 << 16
ABOUT = ("encoder", "d_latent", "format", "top_k")
"""Fields of an answer beside its arrays. A body may be an answer as it came."""
FORMATS = ("packed", "indices", "magnitudes")
NOT_TAKEN = f"expected numbers, as nested lists or as {{data, dtype, shape}} with a dtype of {', '.join(DTYPES)}"


def read_json(body: bytes) -> dict[str, Any]:
    """The object of a JSON body. NaN and infinity are read, so that the error can say which array holds them."""
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=True, cache_strings="keys")
    except (ValueError, RecursionError):
        raise Problem("malformed", "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise Problem("invalid", "The body has to be a JSON object.")
    return value


def read_arrays(
    body: bytes, media: Media, names: Sequence[str], max_rows: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a body by name, as tensors, and the other fields if the body is one of our answers.

    Ragged lists of JSON stay lists. Raises the problems `malformed`, `invalid`, and `too_many_rows` before an array is
    made.
    """
    if media == JSON:
        found = {name: value for name, value in read_json(body).items() if value is not None}
        about = {name: found.pop(name) for name in ABOUT if name in found}
    else:
        found, about = _read_safetensors(body)
    if not found.keys() <= set(names) or not found:
        raise Problem("invalid", f"The body has to hold {' or '.join(names)}, and nothing else.")
    for value in found.values():
        if isinstance(value, list):
            check_count(len(value), max_rows)
    return {name: array(value, name) if name != "indices" else value for name, value in found.items()}, about


def array(value: Any, name: str) -> Tensor:
    """The tensor of a value in a body."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        return _from_base64(value, name)
    if isinstance(value, list):
        _check_numbers(value, name)
        try:
            made = np.asarray(value)
        except (ValueError, OverflowError):
            raise Problem("invalid", f"{name} has rows of different lengths.") from None
        if made.dtype.kind in "fiu" and made.dtype != np.uint64:
            return torch.from_numpy(made)
    raise Problem("invalid", f"{name}: {NOT_TAKEN}.")


def _check_numbers(value: list[Any], name: str) -> None:
    """Raise `invalid` if this is no list of numbers or of such lists: NumPy would make arrays of texts too."""
    rows = value if value and all(isinstance(row, list) for row in value) else [value]
    if not all({*map(type, row)} <= {int, float} for row in rows):
        raise Problem("invalid", f"{name}: {NOT_TAKEN}.")


def _from_base64(value: dict[str, Any], name: str) -> Tensor:
    shape = value.get("shape")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value.get("dtype"), str) else None
    if (
        value.keys() != {"data", "dtype", "shape"}
        or dtype is None
        or not isinstance(value["data"], str)
        or not isinstance(shape, list)
        or not all(type(size) is int and 0 <= size < 1 << 40 for size in shape)
        or len(shape) > 2
    ):
        raise Problem("invalid", f"{name}: {NOT_TAKEN}.")
    data = from_base64(value["data"], name)
    return _tensor(data, dtype, shape, name)


def from_base64(text: Any, name: str) -> bytes:
    """Decode base64. Raises the problem `invalid`."""
    try:
        if not isinstance(text, str):
            raise TypeError
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise Problem("invalid", f"{name} is not base64.") from None


def _read_safetensors(body: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    # A header may be nearly the whole of the file: nothing that is asked for here needs more than some hundred bytes.
    length = struct.unpack("<Q", body[:8])[0] if len(body) >= 8 else 0
    if length > LARGEST_HEADER:
        raise Problem("malformed", "The body's safetensors header is damaged or too large.")
    try:
        found = safetensors.deserialize(body)
    except (SafetensorError, ValueError, UnicodeDecodeError):
        raise Problem("malformed", "The body is not safetensors.") from None
    tensors = {}
    for name, tensor in found:
        if tensor["dtype"] not in SAFETENSORS_DTYPES:
            raise Problem("invalid", f"A tensor has a dtype that is none of {', '.join(SAFETENSORS_DTYPES)}.")
        tensors[name] = _tensor(tensor["data"], SAFETENSORS_DTYPES[tensor["dtype"]], tensor["shape"], "A tensor")
    return tensors, _told(json.loads(body[8 : 8 + length]).get("__metadata__") or {})


def _told(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The fields that `write` has put into the metadata of an answer; files of others have different metadata."""
    if metadata.get("format") not in FORMATS:
        return {}
    numbers = {name: int(found) for name in ("d_latent", "top_k") if NUMBER.fullmatch(found := metadata.get(name, ""))}
    return {name: metadata[name] for name in ("encoder", "format") if name in metadata} | numbers


def _tensor(data: bytes | bytearray, dtype: torch.dtype, shape: Sequence[int], name: str) -> Tensor:
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise Problem("invalid", f"{name}: the data does not have the bytes that dtype and shape say.")
    if not data:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype=dtype).reshape(tuple(shape))


def vectors(x: Tensor, name: str, width: int, width_name: str, max_rows: int) -> np.ndarray:
    """Finite float32 rows [N, width]. Raises `invalid`, `too_many_rows`, `wrong_width`, `not_finite`."""
    check_rows(x, name, width, width_name, max_rows)
    try:
        check_type(x, name)
        found = x.float().numpy()
        check_finite(found, name)
    except NotFiniteError:
        raise Problem("not_finite", f"{name} holds NaN, infinity, or numbers above float32's range.") from None
    except InvalidInputError:
        raise Problem("invalid", f"{name}: {NOT_TAKEN}.") from None
    return found


def check_rows(x: Tensor, name: str, width: int, width_name: str, max_rows: int) -> None:
    """Raise `invalid`, `too_many_rows` or `wrong_width` if this is no matrix of that width."""
    if x.ndim != 2 or not len(x):
        raise Problem("invalid", f"{name} has to be a matrix of at least one row.")
    check_count(len(x), max_rows)
    if x.shape[1] != width:
        raise Problem("wrong_width", f"{name} has to be [n, {width}]: {width_name} of this encoder is {width}.")


def check_count(rows: int, max_rows: int) -> None:
    """Raise `too_many_rows` for more rows than a request may have."""
    if rows > max_rows:
        raise Problem("too_many_rows", f"There may be {max_rows} rows in a request.")
