"""What the gateway sends to the replicas that compute, and what they return. Needs no torch.

Shapes: N rows, F d_latent, T tokens, D hidden size, B = ceil(F / 8) bytes of a packed code.
"""

from typing import Literal, NamedTuple

import numpy as np

from bae_ray.errors import BaeRayError, InvalidInputError

COMPUTING, LOADING = "computing", "loading what was asked for"
"""What a replica is doing."""


class Operation(NamedTuple):
    """A computation with an encoder."""

    name: Literal["pack", "magnitudes", "top_k", "decode_packed", "decode"]
    top_k: int = 0


class ChangedError(BaeRayError):
    """The encoder's files are no longer those that the gateway saw."""


class TextActivations(NamedTuple):
    """The activations of texts."""

    x: np.ndarray
    """Activations [T, D], text by text."""
    token_ids: np.ndarray
    """[T] int32."""
    spans: np.ndarray
    """[T, 2] int32: where each token begins and ends in its text, in characters; equal for special tokens."""
    tokens: list[str]
    """[T]: the tokens as text."""
    splits: np.ndarray
    """[texts + 1] int64: tokens splits[i] to splits[i + 1] are text i's."""


class TooLongError(InvalidInputError):
    """A text has too many tokens."""


class TooManyTokensError(InvalidInputError):
    """The texts together have too many tokens."""


def unpack(code: np.ndarray, d_latent: int) -> np.ndarray:
    """Bits [N, F] of packed codes [N, B], as uint8."""
    return np.unpackbits(code, axis=1, count=d_latent)
