"""Bodies of activations, containers and texts, checked: each kind of error has a problem of its own.

Shapes: N rows, D d_in.
"""

import numpy as np

from bae_ray.compression import read_header
from bae_ray.errors import CompressionError
from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http import sizes
from bae_ray.serving.http.arrays import from_base64, read_arrays, read_json, vectors
from bae_ray.serving.http.media_types import JSON, Media
from bae_ray.serving.http.problems import Problem

CONTAINER_ABOUT = ("encoder", "rows", "bytes")
"""Fields of an answer of `compress` beside its container; the container holds them too."""


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
    sizes.check_container(header, limits)
    return body, header.rows


def texts_of(body: bytes, _media: Media, limits: LimitsConfig) -> list[str]:
    """The texts of a body, which is JSON."""
    found = read_json(body)
    texts = found.get("texts")
    if found.keys() != {"texts"} or not isinstance(texts, list) or not texts:
        raise Problem("invalid", "The body has to hold texts, a list of at least one string, and nothing else.")
    if len(texts) > limits.max_texts:
        raise Problem("too_much_text", f"There may be {limits.max_texts} texts in a request.")
    if not all(isinstance(text, str) for text in texts):
        raise Problem("invalid", "texts has to hold strings.")
    return texts
