"""The autoencoders of a run, each with its cell of the store and its measures on the evaluation set.

The tokens are looked at in this process, or in parts by the workers of an executor.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from bae_ray.activations.layout import Cell
from bae_ray.activations.rows import Rows
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.features import (
    FeatureMetrics,
    FeatureStatistics,
    evaluating,
    feature_statistics,
    rows_at_once,
    spectral_norm,
)
from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.autoencoders.checkpoint import WEIGHTS_FILE
from bae_ray.comsem.config import RANDOM, ComSemConfig
from bae_ray.errors import InvalidInputError
from bae_ray.files import at_hand
from bae_ray.locations import shown
from bae_ray.storage import Folder
from bae_ray.training.run_folder import RESULT_FILE, RUN_FILE
from bae_ray.work.executor import WorkOrder
from bae_ray.work.executors import data_executor
from bae_ray.working_copies import refresh

Work = Callable[[Autoencoder, ActivationStore, int, int], Any]
"""Processes the tokens from a start index up to an end index."""
Run = Callable[[Work, Autoencoder], Iterator[Any]]
"""Has all tokens processed, in one part or several; gives the result of each part."""
PARTS_PER_WORKER = 4
"""So that a slow worker keeps the others waiting for a quarter of its work."""
Part = tuple[int, int]
"""The first token and the one after the last."""


class Method(NamedTuple):
    """One autoencoder that is to be scored: a row of the table."""

    name: str
    """Name of its folder among the results."""
    source: str
    cell: Cell


class Prepared(NamedTuple):
    """An autoencoder whose reference set is the evaluation set, and its measures there."""

    autoencoder: Autoencoder
    metrics: FeatureMetrics | None
    """None for a transcoder whose target the store does not hold."""
    rates: Tensor
    """[G]: share of the tokens on which each feature fires, float64."""
    spectral_norm: float
    """||Cov|| of Table 1."""


def device() -> str:
    """The device on which autoencoders run in this process."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_methods(config: ComSemConfig) -> list[Method]:
    """The autoencoders of a config, each with its cell.

    Raises `InvalidInputError` for one whose layer is unknown, or two of one name.
    """
    for source in config.autoencoders:
        refresh(Path(source))
    methods = [Method(_name(source), source, _cell(config, source)) for source in config.autoencoders]
    names = [method.name for method in methods]
    if not names:
        raise InvalidInputError("autoencoders is empty: give at least one folder, hub id, or 'random'.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInputError(
            f"autoencoders names '{twice[0]}' twice, but the last part of its path names the results. Score the two "
            "into different output folders."
        )
    return methods


def check_model(methods: list[Method], model: str) -> None:
    """Raise `InvalidInputError` for an autoencoder whose run names another language model.

    A model in a local folder is known by the name of the folder, since paths differ between machines.
    """
    for method in methods:
        file = Path(method.source) / RESULT_FILE
        own = json.loads(file.read_text(encoding="utf-8"))["model"] if file.exists() else model
        if Path(own).name != Path(model).name:
            raise InvalidInputError(
                f"{method.source} was trained on activations of {own}, and the evaluation set is of {model}. Give "
                f"--evaluation.model {own} or a --store of it, or --other-model if that is what you want."
            )


def check_k(methods: list[Method], k: int) -> None:
    """Raise `InvalidInputError` for an autoencoder in a folder that has fewer than k features."""
    for method in methods:
        if not (file := at_hand(Path(method.source) / WEIGHTS_FILE)).is_file():
            continue
        with safe_open(file, "pt") as tensors:
            n = int(tensors.get_slice("W_dec").get_shape()[0]) if "W_dec" in set(tensors.keys()) else k
        if n < k:
            raise InvalidInputError(f"examples.k is {k}, but {method.source} has {n} features: give at most that many.")


def rows_of(store: ActivationStore, cell: Cell, start: int, end: int) -> Rows:
    """The activations of a cell's tokens from `start` to before `end`."""
    rows = Rows(store.shards(cell.layer, cell.position, cell.site))
    return rows if (start, end) == (0, len(rows)) else rows.select(torch.arange(start, end))


def prepare(method: Method, store: ActivationStore, run: Run) -> Prepared:
    """Load an autoencoder and make the evaluation set its reference set, as the paper does (appendix A.4).

    Raises `InvalidInputError` where its width is not that of the activations, or the store lacks its cell.
    """
    autoencoder = load_autoencoder(method.source).to(device())
    if autoencoder.d_in != store.manifest.d:
        raise InvalidInputError(
            f"{method.source} takes activations of width {autoencoder.d_in}, and the store's have {store.manifest.d}. "
            "Give the store of the language model that the autoencoder was trained on."
        )
    place = autoencoder.config.target_cell(method.cell.layer, method.cell.site)
    target = None if place is None else Cell(*place, method.cell.position)
    held = target is None or target in store.cells
    work = partial(_look, cell=method.cell, target=target if held else None)
    first, *others = run(work, autoencoder)
    for other in others:
        first.statistics.merge(other.statistics)
        first.fired.add_(other.fired)
    first.statistics.set_reference(autoencoder)
    metrics = first.statistics.metrics()
    return Prepared(
        autoencoder=autoencoder,
        metrics=metrics if held else None,
        rates=first.fired / metrics.n,
        spectral_norm=spectral_norm(autoencoder.W_dec.detach()),
    )


class _Looked(NamedTuple):
    """The results of a pass over some tokens; on the CPU, since the driver of a cluster may have no GPU."""

    statistics: FeatureStatistics
    fired: Tensor
    """[G]: number of tokens on which each feature fires."""


@torch.no_grad()
def _look(
    autoencoder: Autoencoder, store: ActivationStore, start: int, end: int, cell: Cell, target: Cell | None
) -> _Looked:
    rows = rows_of(store, cell, start, end)
    wanted = rows if target is None else rows_of(store, target, start, end)
    statistics = feature_statistics(autoencoder, rows, target=wanted).cpu()
    if autoencoder.n_features == autoencoder.d_latent:
        return _Looked(statistics, (statistics.firing_rates * len(rows)).round())
    # Features made of several bits (Eq. 7): one fires where any of its bits does.
    fired = torch.zeros(autoencoder.n_features, dtype=torch.float64, device=autoencoder.mean.device)
    with evaluating(autoencoder):
        for batch in rows.split(rows_at_once(autoencoder)):
            fired += autoencoder.features_fire(batch.to(fired.device)).sum(0)
    return _Looked(statistics, fired.cpu())


def _name(source: str) -> str:
    return source if source == RANDOM else Path(source).resolve().name


def _cell(config: ComSemConfig, source: str) -> Cell:
    file = Path(source) / RUN_FILE
    said = json.loads(file.read_text(encoding="utf-8"))["cell"] if file.exists() else {}
    layer = config.layer if config.layer is not None else said.get("layer")
    if layer is None and source == RANDOM:
        layer = 0  # no activations are read
    if layer is None:
        raise InvalidInputError(
            f"{shown(Path(source))} has no {RUN_FILE} that says its layer. Give it with --layer, or check the folder."
        )
    return Cell(int(layer), config.site or said.get("site", "residual"), "all")


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
