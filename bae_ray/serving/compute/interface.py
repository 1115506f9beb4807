"""What the gateway sends to the replicas that compute, and what they return. Needs no torch.

Shapes: N rows, F d_latent, T tokens, D hidden size, B = ceil(F / 8) bytes of a packed code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np

from bae_ray.errors import BaeRayError, InvalidInputError, NotFiniteError

COMPUTING, LOADING = "computing", "loading what was asked for"
"""What a replica is doing."""


class Operation(NamedTuple):
    """A computation with an encoder."""

    name: Literal["pack", "magnitudes", "top_k", "decode_packed", "decode", "fit"]
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


Side = Literal["steered", "plain"]


class Steering(NamedTuple):
    """What is done to the activations while a text is written, and how it is written."""

    add: dict[int, float]
    """By feature: how many times its direction is added."""
    clamp: dict[int, float]
    """By feature: the value that it is held at."""
    tokens: Literal["last", "all"]
    """last: the text's last token and all that follow it. all: those before, too."""
    max_new_tokens: int
    temperature: float
    seed: int


class WrittenToken(NamedTuple):
    """A token that was written."""

    side: Side
    token_id: int
    text: str
    """What can be read now that could not be before: nothing where a character takes more tokens."""


class WrittenText(NamedTuple):
    """All that was written."""

    side: Side
    token_ids: list[int]
    """Without the token that ended the text."""
    text: str
    ended: bool
    """Whether the model ended it; otherwise it was cut."""


class TooLongError(InvalidInputError):
    """A text has too many tokens."""


class TooManyTokensError(InvalidInputError):
    """The texts together have too many tokens."""


class RefusedError(InvalidInputError):
    """A text, or what is to be done while it is written, cannot be worked with."""


def unpack(code: np.ndarray, d_latent: int) -> np.ndarray:
    """Bits [N, F] of packed codes [N, B], as uint8."""
    return np.unpackbits(code, axis=1, count=d_latent)


@contextmanager
def refusals(of: str = "") -> Iterator[None]:
    """Around what is done with a text once its model and encoder are there: raise `RefusedError` for invalid input.

    `of` is put before the message.
    """
    try:
        yield
    except NotFiniteError:
        raise
    except InvalidInputError as error:
        raise RefusedError(f"{of}{error}") from error
