"""Looking at the tokens of an evaluation set: in this process, or in parts by the workers of an executor."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import Autoencoder
from bae_ray.comsem.evaluation import Run, Work, device
from bae_ray.storage import Folder
from bae_ray.work.executor import WorkOrder
from bae_ray.work.executors import data_executor

PARTS_PER_WORKER = 4
"""So that a slow worker keeps the others waiting for a quarter of its work."""

Part = tuple[int, int]
"""The first token and the one after the last."""


def runner(store: ActivationStore, n_tokens: int, workers: int, gpus_per_worker: float) -> Run:
    """Looks at the first `n_tokens`: with one worker here, else on a cluster, whose workers must see the store."""
    if workers == 1:
        return lambda work, autoencoder: iter([work(autoencoder, store, 0, n_tokens)])
    return lambda work, autoencoder: _on_cluster(work, autoencoder, store, n_tokens, workers, gpus_per_worker)


def _on_cluster(
    work: Work, autoencoder: Autoencoder, store: ActivationStore, n_tokens: int, workers: int, gpus_per_worker: float
) -> Iterator[Any]:
    executor = data_executor("ray")
    share = executor.share(f"each of {workers} workers", 1, gpus_per_worker)
    parts = min(n_tokens, workers * PARTS_PER_WORKER)
    edges = [n_tokens * i // parts for i in range(parts + 1)]
    found: dict[Part, Any] = {}
    looker = partial(_looker, work=work, autoencoder=autoencoder.cpu(), folder=store.folder)
    executor.run(WorkOrder([[part] for part in pairwise(edges)], looker, found.__setitem__, share, workers))
    autoencoder.to(device())
    return (found[part] for part in sorted(found))


def _looker(device: str, work: Work, autoencoder: Autoencoder, folder: Folder) -> Callable[[Part], Any]:
    """A worker with a copy of the autoencoder."""
    store, copy = ActivationStore.open(folder), autoencoder.to(device)
    return lambda part: work(copy, store, *part)
