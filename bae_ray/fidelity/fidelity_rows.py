"""The rows of measured autoencoders: a run's own measures and those of its fidelity."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bae_ray.activations.store import ActivationStore
from bae_ray.fidelity.measure_fidelity import Measured
from bae_ray.fidelity.subjects import Target
from bae_ray.training.results import results
from bae_ray.training.run_folder import RESULT_FILE


def fidelity_table(targets: Sequence[Target], measured: Measured, store: ActivationStore) -> pd.DataFrame:
    """A row for each measured autoencoder. Autoencoders that are not runs have no measures of a training."""
    folders = list(dict.fromkeys(target.folder.parent for target in targets if _is_run(target)))
    wanted = {target.name for target in targets}
    tables = [results(folder, only=wanted) for folder in folders]
    for target in targets:
        if not _is_run(target):
            columns = measured.records[target.name].columns.model_dump()
            tables.append(pd.DataFrame([{**_place(target, store), **columns}]))
    return pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]


def _is_run(target: Target) -> bool:
    return (target.folder / RESULT_FILE).exists()


def _place(target: Target, store: ActivationStore) -> dict[str, Any]:
    model = str(store.manifest.request.model["name"])
    return {"model": model, **target.cell._asdict(), "run": target.name}
