"""Units that are finished have a file each, named by a hash of all that its numbers depend on; the others are done."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.config import Record, content_hash
from bae_ray.errors import UnfinishedError
from bae_ray.experiments.steering.steering_units import SteeredRow, SteeringUnit, as_columns
from bae_ray.experiments.steering.steering_worker import Order, SteeringWorker, UnitAnswer
from bae_ray.files import write_text
from bae_ray.progress import track
from bae_ray.storage import folder_at
from bae_ray.work.attempts import Attempts
from bae_ray.work.executor import Executor, WorkOrder
from bae_ray.work.receipts import read_receipt

STEERED = "steered"
"""Folder of the finished units."""
VERSION = 1
"""Of what is measured: with another one, units are done again."""


class SteeredFile(Record):
    """The file of a finished unit."""

    request: dict[str, Any]
    rows: list[dict[str, Any]]
    """Rows of the table."""


class Steered(NamedTuple):
    """What was measured."""

    table: pd.DataFrame | None
    """A row per unit and strength; None where none is finished."""
    failures: list[str]


def measure_units(
    units: list[SteeringUnit],
    order: Order,
    out: Path,
    executor: Executor,
    cpus: float,
    gpus: float | None,
    workers: int | None,
) -> Steered:
    """Do the units that have no file in `out` yet. A unit that fails is reported; the others go on."""
    common = _common(order)
    requests = {unit: _request(unit, order, common) for unit in units}
    names = {unit: content_hash(request) for unit, request in requests.items()}
    folder = folder_at(out)
    finished = {unit: file.rows for unit in units if (file := read_receipt(folder, _file(names[unit]), SteeredFile))}
    failures: list[str] = []
    with track("Steering", len(units)) as tracker:
        tracker.advance(len(finished))

        def told(numbered: tuple[str, SteeringUnit], answer: UnitAnswer) -> None:
            name, unit = numbered
            tracker.advance(note=f"seed {unit.seed}, layer {unit.setting.layer}, {unit.setting.method}")
            if answer.problem:
                failures.append(
                    f"steering, seed {unit.seed}, {unit.setting}: {answer.problem}\n{answer.traceback}".strip()
                )
                return
            rows = [as_columns(unit, SteeredRow(*row)) for row in answer.rows]
            write_text(out / _file(name), SteeredFile(request=requests[unit], rows=rows).to_json())
            finished[unit] = rows

        if missing := [unit for unit in units if unit not in finished]:
            Attempts(folder_at(order.folder), 0).forget()
            share = executor.share("a worker that steers", cpus, gpus)
            jobs = [[(names[unit], unit)] for unit in missing]
            try:
                executor.run(WorkOrder(jobs, partial(SteeringWorker, order=order), told, share, workers))
            except UnfinishedError as error:
                failures.append(f"the steering stopped: {error}. Finished units are kept; the same command goes on.")
    rows = [row for unit in units for row in finished.get(unit, [])]
    return Steered(pd.DataFrame(rows) if rows else None, failures)


def _file(name: str) -> str:
    return f"{STEERED}/{name}.json"


def _common(order: Order) -> dict[int, dict[str, Any]]:
    """By seed: what all of its units depend on."""
    found: dict[int, dict[str, Any]] = {}
    for seed, asked in order.asked.items():
        stores = [ActivationStore.open(store) for store in (asked.good, asked.bad)]
        read = content_hash([asked.prompts, asked.answers, order.neutral, order.labels])
        found[seed] = {
            "version": VERSION,
            "dtype": order.dtype,
            "read": read,
            "model": stores[0].manifest.request.model,
        }
    return found


def _request(unit: SteeringUnit, order: Order, common: dict[int, dict[str, Any]]) -> dict[str, Any]:
    asked, cell = order.asked[unit.seed], Cell(unit.setting.layer, order.site, "last")
    calibration = [ActivationStore.open(store).fingerprint(cell) for store in (asked.good, asked.bad)]
    return {
        **common[unit.seed],
        "seed": unit.seed,
        "site": order.site,
        "calibration": calibration,
        "setting": unit.setting._asdict(),
        "strengths": unit.strengths,
        "autoencoder": unit.autoencoder._asdict() if unit.autoencoder else None,
    }
