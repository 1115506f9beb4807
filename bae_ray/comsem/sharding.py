"""Looking at the tokens of an evaluation set: in this process, or in parts by a pool of Ray Data actors."""

import pickle
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import Autoencoder
from bae_ray.comsem.evaluation import Run, Work, device
from bae_ray.storage import Folder

PARTS_PER_WORKER = 4
"""So that a slow worker keeps the others waiting for a quarter of its work."""


def runner(store: ActivationStore, n_tokens: int, workers: int, gpus_per_worker: float) -> Run:
    """Looks at the first `n_tokens`: with one worker here, else on a cluster, whose workers must see the store."""
    if workers == 1:
        return lambda work, autoencoder: iter([work(autoencoder, store, 0, n_tokens)])
    return lambda work, autoencoder: _on_cluster(work, autoencoder, store, n_tokens, workers, gpus_per_worker)


def _on_cluster(
    work: Work, autoencoder: Autoencoder, store: ActivationStore, n_tokens: int, workers: int, gpus_per_worker: float
) -> Iterator[Any]:
    import ray.data

    from bae_ray.cluster import check_fits, configure_data, connect

    connect()
    configure_data()
    check_fits(f"each of {workers} workers", 1, gpus_per_worker)
    parts = min(n_tokens, workers * PARTS_PER_WORKER)
    edges = [n_tokens * i // parts for i in range(parts + 1)]
    found = ray.data.from_items([{"start": start, "end": end} for start, end in pairwise(edges)]).map_batches(
        _Looker,
        fn_constructor_args=(work, ray.put(autoencoder.cpu()), store.folder),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus_per_worker,
    )
    autoencoder.to(device())
    for row in found.iter_rows():
        yield pickle.loads(row["found"])  # noqa: S301 - our own worker's


class _Looker:
    """An actor with a copy of the autoencoder."""

    def __init__(self, work: Work, autoencoder: Any, folder: Folder) -> None:
        import ray

        self._work, self._store = work, ActivationStore.open(folder)
        loaded: Any = ray.get(autoencoder)
        self._autoencoder: Autoencoder = loaded.to(device())

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        found = [
            self._work(self._autoencoder, self._store, int(start), int(end))
            for start, end in zip(batch["start"], batch["end"], strict=True)
        ]
        return {"found": [pickle.dumps(one) for one in found]}
