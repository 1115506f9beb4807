"""How many runs are trained as one: as many as memory holds, and as still take less time each than half as many.

What is decided follows from measurements alone; pack_plan.py takes these.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bae_ray.training.resource_estimate import MARGIN, Measured

UNMEASURED = 8
"""The size where none could be measured."""
LARGEST = 64
GAIN = 0.9
"""A larger pack has to take at most so much of the time for each of its runs; a smaller gain is no more than noise."""


class Tried(NamedTuple):
    """A size of packs, and what was measured of it; None: memory ran out, or nothing could be trained."""

    size: int
    measured: Measured | None
    failed: str = "do not fit into memory"
    """What to say of so many together where nothing was measured."""

    @property
    def seconds_per_run(self) -> float:
        """Seconds of a step for each run of the pack."""
        return self.measured.seconds_per_step / self.size if self.measured else math.inf


class PackSize(NamedTuple):
    """The size of packs that was chosen."""

    size: int
    why: str
    measured: Measured | None = None
    """What was measured of a pack of this size."""


def most_packed(groups: Sequence[int], devices: int) -> int:
    """The largest size at which every device has a pack; `groups`: numbers of the runs that may be in one pack."""
    wanted = min(devices, sum(groups))
    sizes = range(1, min(max(groups, default=1), LARGEST) + 1)
    return max((size for size in sizes if sum(-(-group // size) for group in groups) >= wanted), default=1)


def next_size(tried: Sequence[Tried], most: int, share: float = 1.0) -> int | None:
    """The size to be measured next: 1, then twice the last one; None where it is known which is the best.

    `share`: the part of the device that a training gets.
    """
    if not tried:
        return 1
    last = tried[-1]
    if last.measured is None or last.size >= most or not _is_better(tried, share):
        return None
    following = min(2 * last.size, most)
    return following if _bytes_of(following, tried) <= _room(last.measured, share) else None


def chosen(tried: Sequence[Tried], most: int, share: float = 1.0) -> PackSize:
    """The best size by the measurements that `next_size` asked for, and why."""
    last = tried[-1]
    best = last if _is_better(tried, share) else tried[-2]
    if best.measured is None:
        return PackSize(UNMEASURED, "nothing could be measured")
    each = f"{best.seconds_per_run * 1e3:.3g} ms a step for each run"
    if best is not last and (last.measured is None or not _fits(last.measured, share)):
        why = f"{each}; {last.size} together {last.failed}"
    elif best is not last:
        why = f"{each}, which {last.size} together do not better ({last.seconds_per_run * 1e3:.3g} ms)"
    elif best.size >= most:
        why = f"{each}; more may not go together, or would leave devices idle"
    else:
        following = min(2 * best.size, most)
        needed, room = _bytes_of(following, tried) / 1e9, _room(best.measured, share) / 1e9
        why = f"{each}; {following} together would need about {needed:.3g} GB of {room:.3g} GB"
    return PackSize(best.size, why, best.measured)


def _is_better(tried: Sequence[Tried], share: float) -> bool:
    """Whether the last size is one to be used, rather than the one before."""
    last = tried[-1]
    if len(tried) == 1:
        return True
    fits = last.measured is not None and _fits(last.measured, share)
    return fits and last.seconds_per_run <= GAIN * tried[-2].seconds_per_run


def _fits(measured: Measured, share: float) -> bool:
    return MARGIN * measured.peak_bytes <= _room(measured, share)


def _bytes_of(size: int, tried: Sequence[Tried]) -> float:
    """Memory that a pack of a size will take, with a margin, if each further run takes what those before took.

    What one alone takes may be the cell's data and the process, so that it tells nothing of another one.
    """
    sizes = [(one.size, one.measured.peak_bytes) for one in tried if one.measured is not None]
    (first, least), (last, peak) = sizes[0], sizes[-1]
    each = (peak - least) / (last - first) if last > first else 0.0
    return MARGIN * (peak + max(each, 0) * (size - last))


def _room(measured: Measured, share: float) -> float:
    return measured.device_bytes * min(share, 1.0)
