"""Warnings for readers of a table of runs: a mark after a cell's numbers, and a line that explains it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from bae_ray.analysis.comparable import UNEXPLAINED
from bae_ray.training.continue_command import how_to_go_on
from bae_ray.training.convergence import BITS_THRESHOLD, FVU_THRESHOLD, THRESHOLD

SATURATED = 0.8
"""Share of the possible bits."""
FEWEST_BITS = 50
"""Smallest number of bits in all samples from which intervals hold in simulation."""


class Caveat(NamedTuple):
    """One kind of warning."""

    mark: str
    holds: Callable[[pd.DataFrame], pd.Series]
    """The rows of `results` for which it holds."""
    said: str
    """The warning about these runs."""
    remedy: Callable[[Path | None], str] = lambda _: ""
    """What helps, of runs in a folder; it may end in a command."""


def _of(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers; NaN where it is not known."""
    return table[column].astype(float) if column in table else pd.Series(float("nan"), table.index)


def _saturated(table: pd.DataFrame) -> pd.Series:
    """Binary codes most of whose latents are fair coins; codes that are not binary have no `varying`."""
    return (_of(table, "entropy_bits") > SATURATED * _of(table, "d_latent")) & _of(table, "varying").notna()


CAVEATS = (
    Caveat(
        "*",
        lambda table: _of(table, "converged") == 0,
        f"did not converge: over the last tenth of the epochs loss, bits or FVU changed by more than {THRESHOLD:.0%} "
        f"({BITS_THRESHOLD:g} bits, {FVU_THRESHOLD:g} of FVU)",
        how_to_go_on,
    ),
    Caveat(
        "!",
        lambda table: _of(table, "fvu_val") >= UNEXPLAINED,
        f"have a held-out FVU of {UNEXPLAINED:g} or more: the mean alone has 1, so the code does not describe these "
        "texts, and its bits say nothing of them",
    ),
    Caveat(
        "#",
        _saturated,
        f"are saturated: more than {SATURATED:.0%} of the possible bits, one per latent. The entropy loss had little "
        "effect: a larger entropy weight, or more epochs",
    ),
    Caveat(
        "~",
        lambda table: _of(table, "varying") > _of(table, "n_train"),
        "have fewer training texts than latents that vary: tree_bits are too low there, heldout_bits hold",
    ),
    Caveat(
        "?",
        lambda table: _of(table, "entropy_bits_val") * _of(table, "n_val") < FEWEST_BITS,
        f"have less than {FEWEST_BITS} bits in all held-out texts together: a few firings, of which no interval can "
        "tell the entropy of what fires more seldom",
    ),
)


def marks(table: pd.DataFrame) -> pd.Series:
    """The marks of each row of `results`, as one text."""
    found = pd.Series("", table.index)
    for caveat in CAVEATS:
        found = found.where(~caveat.holds(table), found + caveat.mark)
    return found


def caveat_lines(table: pd.DataFrame, runs: Path | None = None) -> list[str]:
    """A line for each kind of warning present: its mark, the number of runs, its meaning, and what helps.

    `runs`: the folder that the rows of `results` are of, if they are of one.
    """
    counted = [(caveat, int(caveat.holds(table).sum())) for caveat in CAVEATS]
    return [
        f"{caveat.mark}  {n} of {len(table)} runs: {caveat.said}{_then(caveat.remedy(runs))}"
        for caveat, n in counted
        if n
    ]


def _then(remedy: str) -> str:
    """The end of a line; no full stop after a command, which is copied."""
    return f"; {remedy}" if remedy else "."
