"""Selecting the texts that are long enough, and the tokens whose vectors are kept."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bae_ray.activations.config import Position, TokensConfig
from bae_ray.activations.ragged import Ints


class Lengths(NamedTuple):
    """Limits that the positions set to the length of a text, in tokens."""

    least: int
    """Shorter texts are left out."""
    most: int | None
    """Longer texts are left out: their last token is out of reach. None: no limit."""
    cut: int | None
    """Longer texts are cut: in a causal model later tokens change nothing before them. None: never."""

    @property
    def read(self) -> int | None:
        """How many tokens of a text have to be known. None: all."""
        return self.cut if self.most is None else self.most + 1


def lengths(positions: Sequence[Position], longest: int | None, whole: bool = False) -> Lengths:
    """The limits of these positions, for a model of at most `longest` tokens.

    `whole`: texts are never cut, since the model has to predict what follows them.
    """
    least = 1 + max((position for position in positions if isinstance(position, int)), default=0)
    if whole or "last" in positions:
        return Lengths(least, longest, None)
    return Lengths(least, None, longest if "all" in positions else least)


def taken_tokens(ids: Ints, text_id: int, config: TokensConfig, special: frozenset[int]) -> Ints:
    """The positions of one text whose tokens are taken, in order, for position `all`."""
    wanted = np.ones(len(ids), dtype=bool)
    if not config.first:
        wanted[:1] = False
    if not config.special:
        wanted &= ~np.isin(ids, list(special))
    (positions,) = np.nonzero(wanted)
    if config.per_text is not None and len(positions) > config.per_text:
        drawn = np.random.default_rng((config.seed, text_id)).choice(len(positions), config.per_text, replace=False)
        positions = positions[np.sort(drawn)]
    return positions
