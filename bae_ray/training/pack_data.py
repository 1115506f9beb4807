"""What the runs of a pack are trained on, read from their store."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import BaeRayError, StoreError, TrainingError
from bae_ray.training.config import Place, RunConfig
from bae_ray.training.together import TrainingData
from bae_ray.training.validation import check_activations


class CellsData(NamedTuple):
    """What runs are trained on."""

    data: list[TrainingData]
    """That of each cell that can be trained on."""
    numbers: dict[Place, int]
    """Where each is in `data`."""
    failed: dict[Place, BaeRayError]
    """Why others cannot be trained on."""


def data_of_runs(runs: Sequence[RunConfig], store: ActivationStore, first: int | None = None) -> CellsData:
    """What runs are trained on, of each cell the `first` samples or all.

    Of several cells each is checked, so that the runs of one that cannot be trained on do not stop the others. The
    error of a single one is raised, by this or by its training.
    """
    places: dict[Place, list[RunConfig]] = {}
    for run in runs:
        places.setdefault(run.place, []).append(run)
    if len(places) == 1:
        return CellsData([_data_of(runs, store, first)], dict.fromkeys(places, 0), {})
    found = CellsData([], {}, {})
    for place, own in places.items():
        try:
            cell = _data_of(own, store, first, check=True)
        except (TrainingError, StoreError) as error:
            found.failed[place] = error
        else:
            found.numbers[place] = len(found.data)
            found.data.append(cell)
    return found


def _data_of(runs: Sequence[RunConfig], store: ActivationStore, first: int | None, check: bool = False) -> TrainingData:
    """What runs of one cell are trained on."""
    x, target = activations_of(runs[0], store)
    if first is not None:
        some = torch.arange(first)
        x, target = x.select(some), None if target is None else target.select(some)
    if check:
        check_activations(x, target, [(run.autoencoder, run.training) for run in runs])
    return TrainingData(x, target, texts_of(runs[0], store) if first is None else None)


def activations_of(run: RunConfig, store: ActivationStore) -> tuple[Rows, Rows | None]:
    """What a run encodes, and what it reconstructs if that is something else."""
    x, target = (
        Rows(store.shards(cell.layer, cell.position, cell.site)) if cell else None for cell in (run.cell, run.target)
    )
    assert x is not None
    return x, target


def texts_of(run: RunConfig, store: ActivationStore) -> Tensor | None:
    """The text of each row of a run's cell, where a text has several."""
    return torch.from_numpy(store.rows["text_id"].to_numpy().copy()) if run.cell.position == "all" else None
