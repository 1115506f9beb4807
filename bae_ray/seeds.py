"""One seed, many independent streams of random numbers, each by its name."""

import hashlib

import torch


def stream(seed: int, *name: str | int) -> torch.Generator:
    """The generator of a purpose such as ("order", epoch); the same seed and name always give the same numbers.

    Nothing has to be remembered between epochs, so that a resumed training draws what an uninterrupted one would.
    """
    digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
