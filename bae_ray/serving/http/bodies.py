"""Bodies of activations, codes, containers and texts, checked: each kind of error has a problem of its own.

Shapes: N rows, D d_in, F d_latent, B = ceil(F / 8) bytes of a packed code.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bae_ray.compression import read_header
from bae_ray.errors import CompressionError
from bae_ray.serving.compute.interface import Operation
from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http import sizes
from bae_ray.serving.http.arrays import (
    FORMATS,
    array,
    check_count,
    check_rows,
    from_base64,
    read_arrays,
    read_json,
    vectors,
)
from bae_ray.serving.http.media_types import JSON, Media
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.registry.entry import Entry

CONTAINER_ABOUT = ("encoder", "rows", "bytes")
"""Fields of an answer of `compress` beside its container; the container holds them too."""
INTEGERS = (torch.uint8, torch.int32, torch.int64)
ASK_FOR_CODES = "Ask `encode` for packed, or for indices without top_k."
BEYOND = "indices has to hold numbers from 0 to {last}, d_latent of this encoder less 1."
LISTS = "indices has to hold a list of whole numbers for each row."


def vectors_of(body: bytes, media: Media, d_in: int, limits: LimitsConfig) -> np.ndarray:
    """Activations [N, D] of a body."""
    found, _ = read_arrays(body, media, ["x"], limits.max_rows)
    return vectors(found["x"], "x", d_in, "d_in", limits.max_rows)


def container_of(body: bytes, media: Media, d_latent: int, limits: LimitsConfig) -> tuple[bytes, int]:
    """A container of this encoder's width and within the limits, as its header says, and its number of rows.

    Raises `corrupt`, `wrong_width`, `too_many_rows` and `answer_too_large`, before memory of its size is used.
    """
    if media == JSON:
        found = read_json(body)
        if "data" not in found or not found.keys() <= {"data", *CONTAINER_ABOUT}:
            raise Problem("invalid", "The body has to hold data, a container as base64, and nothing else.")
        body = from_base64(found["data"], "data")
    try:
        header = read_header(body)
    except CompressionError as error:
        raise Problem("corrupt", "The data is no container of codes, or a damaged one.") from error
    if header.d_latent != d_latent:
        raise Problem("wrong_width", f"The container's codes are of other latents than this encoder's {d_latent}.")
    if header.rows > limits.max_rows:
        raise Problem("too_many_rows", f"There may be {limits.max_rows} rows in a container.")
    if not header.rows:
        raise Problem("invalid", "The container has no rows.")
    sizes.check(min(header.block_rows, header.rows) * header.d_latent, limits)  # a block is decoded at once
    return body, header.rows


def texts_of(body: bytes, _media: Media, limits: LimitsConfig) -> list[str]:
    """The texts of a body, which is JSON."""
    found = read_json(body)
    texts = found.get("texts")
    if found.keys() != {"texts"} or not isinstance(texts, list) or not texts:
        raise Problem("invalid", "The body has to hold texts, a list of at least one string, and nothing else.")
    check_texts(texts, limits)
    if not all(isinstance(text, str) for text in texts):
        raise Problem("invalid", "texts has to hold strings.")
    return texts


def check_texts(texts: list[Any], limits: LimitsConfig) -> None:
    """Raise `too_much_text` for too many texts."""
    if len(texts) > limits.max_texts:
        raise Problem("too_much_text", f"There may be {limits.max_texts} texts in a request.")


def coded_rows(body: bytes, media: Media, entry: Entry, limits: LimitsConfig) -> tuple[Operation, np.ndarray]:
    """The decoding to compute, and its rows: packed codes [N, B] or latents [N, F]. An answer of `encode` is valid."""
    found, about = read_arrays(body, media, ["code", "indices", "splits", "latents", "magnitudes"], limits.max_rows)
    assert entry.config is not None
    _, d_latent = entry.config.widths()
    _check_about(about, entry, d_latent)
    if "magnitudes" in found:
        found = {"latents": _latents(found, entry, d_latent, limits)}
    names = found.keys() - {"splits"}
    if len(names) != 1 or ("splits" in found and "indices" not in found):
        raise Problem("invalid", "The body has to hold one of code, latents, and indices with or without splits.")
    if "latents" in found:
        return Operation("decode"), vectors(found["latents"], "latents", d_latent, "d_latent", limits.max_rows)
    if not entry.binary:
        raise Problem("not_binary", "This encoder's latents are real numbers: send latents, or magnitudes.")
    if "indices" in found:
        return Operation("decode_packed"), _packed(_listed(found, limits), d_latent, limits)
    code: Tensor = found["code"]
    check_rows(code, "code", -(-d_latent // 8), "ceil(d_latent / 8)", limits.max_rows)
    if code.dtype not in INTEGERS or bool(((code < 0) | (code > 255)).any()):
        raise Problem("invalid", "code has to hold bytes, 0 to 255.")
    return Operation("decode_packed"), code.to(torch.uint8).numpy()


def _check_about(about: dict[str, Any], entry: Entry, d_latent: int) -> None:
    """Raise `invalid` or `wrong_width` if the body is an answer that this encoder cannot decode."""
    if about.get("encoder", entry.id) != entry.id:
        raise Problem(
            "invalid",
            "encoder has to be the one of the address: codes mean nothing to another. Leave it out where it is the "
            "same under another id.",
        )
    if about.get("format", FORMATS[0]) not in FORMATS:
        raise Problem("invalid", f"format has to be one of {', '.join(FORMATS)}.")
    if about.get("d_latent", d_latent) != d_latent:
        raise Problem("wrong_width", f"d_latent of this encoder is {d_latent}.")
    if "top_k" in about and entry.binary:
        raise Problem("invalid", f"With top_k the answer holds only the largest magnitudes. {ASK_FOR_CODES}")


def _latents(found: dict[str, Any], entry: Entry, d_latent: int, limits: LimitsConfig) -> Tensor:
    """Latents [N, F] from the magnitudes of a sparse encoder: all of them, or those at `indices`."""
    if found.keys() - {"magnitudes", "indices"}:
        raise Problem("invalid", "magnitudes go alone, or with the indices [n, top_k] of theirs.")
    if entry.binary:
        raise Problem("invalid", f"This encoder's magnitudes say how rare the bits are, and no code. {ASK_FOR_CODES}")
    if getattr(entry.config, "standardize", False):
        raise Problem("invalid", "This encoder's magnitudes are standardised: send its latents.")
    values = found["magnitudes"]
    if "indices" not in found:
        return values
    at = array(found["indices"], "indices")
    if at.ndim != 2 or at.dtype not in INTEGERS or at.shape != values.shape:
        raise Problem("invalid", "indices and magnitudes have to be of one shape, [n, top_k].")
    at = at.long()
    if at.numel() and (at.min() < 0 or at.max() >= d_latent):
        raise Problem("invalid", BEYOND.format(last=d_latent - 1))
    check_count(len(at), limits.max_rows)
    if 4 * len(at) * d_latent > limits.max_body_bytes:
        raise Problem("body_too_large", f"As latents this would take more than {limits.max_body_bytes} bytes.")
    return torch.zeros(len(at), d_latent).scatter_(1, at, values.float())


def _listed(found: dict[str, Any], limits: LimitsConfig) -> list[np.ndarray]:
    """The indices of each row."""
    indices = found["indices"]
    if "splits" in found:
        return _split(array(indices, "indices"), found["splits"], limits)
    if not isinstance(indices, list):
        dense = array(indices, "indices")
        if dense.ndim != 2 or dense.dtype not in INTEGERS:
            raise Problem("invalid", LISTS)
        indices = list(dense.numpy())
    check_count(len(indices), limits.max_rows)
    if not indices or not all(_is_listed(row) for row in indices):
        raise Problem("invalid", LISTS)
    try:
        return [row if isinstance(row, np.ndarray) else np.array(row, np.int64) for row in indices]
    except OverflowError:
        raise Problem("invalid", "indices holds numbers that are no indices.") from None


def _is_listed(row: Any) -> bool:
    return isinstance(row, np.ndarray) or (isinstance(row, list) and all(type(i) is int for i in row))


def _split(flat: Tensor, splits: Tensor, limits: LimitsConfig) -> list[np.ndarray]:
    """The indices of each row, cut from the flat list at splits [N + 1]."""
    if flat.ndim != 1 or splits.ndim != 1 or flat.dtype not in INTEGERS or splits.dtype not in INTEGERS:
        raise Problem("invalid", "With splits, indices and splits have to be lists of whole numbers.")
    check_count(len(splits) - 1, limits.max_rows)
    ends = splits.long()
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != len(flat) or bool((ends.diff() < 0).any()):
        raise Problem("invalid", "splits has to rise from 0 to the number of indices.")
    return np.split(flat.numpy(), ends[1:-1].numpy())


def _packed(rows: list[np.ndarray], d_latent: int, limits: LimitsConfig) -> np.ndarray:
    """Codes [N, B] of the latents that fire, packed row by row: lists of indices take many times more memory."""
    width = -(-d_latent // 8)
    if len(rows) * width > limits.max_body_bytes:
        raise Problem("body_too_large", f"As packed codes this would take more than {limits.max_body_bytes} bytes.")
    code = np.empty((len(rows), width), np.uint8)
    for packed, index in zip(code, rows, strict=True):
        if len(index) and (index.min() < 0 or index.max() >= d_latent):
            raise Problem("invalid", BEYOND.format(last=d_latent - 1))
        bits = np.zeros(d_latent, np.uint8)
        bits[index] = 1
        packed[:] = np.packbits(bits)
    return code
