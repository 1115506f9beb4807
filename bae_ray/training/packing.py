"""What of a grid is trained as one, and in which order.

A pack is runs that are trained as one, on the same batches of one cell, or on the same rows of several cells. In a pack
a run has the numbers that it has alone but for rounding. So for equal numbers an interrupted sweep has to go on with
the packs that it began with: packs.json keeps those that are not finished. A job is packs of one cell that one worker
trains after another, so that the cell's data is read once.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from bae_ray.config import content_hash
from bae_ray.files import exists, write_text
from bae_ray.training.config import RunConfig
from bae_ray.training.continuing import is_continued
from bae_ray.training.run_folder import RUN_FILE, STATE_FILE, is_finished
from bae_ray.training.validation import SHARED

PACKS_FILE = "packs.json"
STATES = "states"
JOBS_PER_WORKER = 4
"""So many at least, where there are as many packs, so that all workers end at about the same time."""

T = TypeVar("T")


class Pack(NamedTuple):
    """Runs that are trained as one."""

    runs: tuple[RunConfig, ...]

    @property
    def id(self) -> str:
        """A hash of the runs'."""
        return content_hash([run.id for run in self.runs])

    @property
    def cells(self) -> int:
        """Number of cells that its runs are of."""
        return len({run.place for run in self.runs})

    def halves(self) -> list["Pack"]:
        """Its runs in two packs, to be tried where it fails as a whole."""
        half = len(self.runs) // 2
        return [Pack(self.runs[:half]), Pack(self.runs[half:])]

    @property
    def products(self) -> int:
        """Numbers that a step's matrix products multiply, up to a factor."""
        return sum(math.prod(run.autoencoder.widths()) * run.training.batch_size for run in self.runs)

    def state(self, out: Path) -> Path:
        """File of the state of its training."""
        alone = len(self.runs) == 1
        return out / self.runs[0].id / STATE_FILE if alone else out / STATES / f"{self.id}.safetensors"

    def is_under_way(self, out: Path) -> bool:
        """Whether its training may have been begun, and is not over: then it has a state, or no run is finished."""
        finished = [is_finished(out, run) for run in self.runs]
        return not all(finished) and (not any(finished) or exists(self.state(out)))


def pack(runs: Sequence[RunConfig], most: int, across: bool = False) -> list[Pack]:
    """Packs of at most so many of the runs of a store, in their order; `across`: also of several cells.

    All cells of a store have equally many samples of one width, so that the same rows of each can be a batch.
    """
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        cell = [run.cell.model_dump(), run.target and run.target.model_dump(), run.data]
        shared = [run.target is not None] if across else cell
        groups.setdefault(content_hash([shared, [getattr(run.training, name) for name in SHARED]]), []).append(run)
    return [Pack(tuple(some)) for group in groups.values() for some in _batched(group, most)]


def unfinished_packs(
    runs: Sequence[RunConfig],
    out: Path,
    most: int | Callable[[Sequence[RunConfig]], int],
    record: bool = True,
    across: Callable[[], bool] = lambda: False,
) -> list[Pack]:
    """Packs of all runs of a grid that are not finished in `out`, those that were begun before as they were.

    `most`: the size of new ones, or what tells it of their runs, if there are any. `record`: they are written down for
    the next call. `across`: see `pack`; it is asked where there are new ones.
    """
    by_id = {run.id: run for run in runs}
    file = out / PACKS_FILE
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    kept = [begun for ids in recorded if any(id_ in by_id for id_ in ids) if (begun := _recorded(ids, by_id, out))]
    held = {run.id for pack in kept for run in pack.runs}
    missing = [run for run in runs if run.id not in held and not is_finished(out, run)]
    alone = {run.id for run in missing if is_continued(out, run.id)}  # each has a state of its own
    new = [run for run in missing if run.id not in alone]
    packs = kept + (pack(new, most if isinstance(most, int) else most(new), across()) if new else [])
    packs += [Pack((run,)) for run in missing if run.id in alone]
    if record:
        write_text(file, json.dumps([[run.id for run in pack.runs] for pack in packs]) + "\n")
    return packs


def _recorded(ids: list[str], by_id: dict[str, RunConfig], out: Path) -> Pack | None:
    """A pack that was begun, if it is under way: with its state, also the runs that are not in the grid any more."""
    files = {id_: out / id_ / RUN_FILE for id_ in ids if id_ not in by_id}
    if not all(file.exists() for file in files.values()) or any(is_continued(out, id_) for id_ in ids):
        return None
    others = {id_: RunConfig.model_validate_json(file.read_text(encoding="utf-8")) for id_, file in files.items()}
    pack = Pack(tuple((by_id | others)[id_] for id_ in ids))
    return pack if pack.is_under_way(out) and (not others or exists(pack.state(out))) else None


def jobs(packs: Sequence[Pack], workers: int) -> list[list[Pack]]:
    """The packs, those of one cell together, in enough jobs to keep the workers busy."""
    size = max(1, len(packs) // (JOBS_PER_WORKER * workers))
    cells: dict[str, list[Pack]] = {}
    for some in packs:
        cells.setdefault(some.runs[0].data, []).append(some)
    return [some for cell in cells.values() for some in _batched(cell, size)]


def _batched(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
