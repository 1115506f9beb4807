"""Estimating time, memory and disk of a grid, by training one of its packs for some steps."""

import gc
import time
from collections.abc import Sequence
from typing import NamedTuple

import psutil
import torch

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import OutOfMemoryError, StoreError, TrainingError
from bae_ray.training.config import RunConfig
from bae_ray.training.pack_data import data_of_runs
from bae_ray.training.packing import Pack
from bae_ray.training.run_execution import as_out_of_memory
from bae_ray.training.samples import held_out_count, placement_of
from bae_ray.training.together import train_together

STEPS = {"cpu": 20, "cuda": 100}
"""Number of steps per epoch of the measured training, by device: beside a GPU's, what an epoch takes besides counts."""
MARGIN = 1.3
"""Factor by which a training may need more memory than was measured."""
SMALLEST_SHARE = 1 / 16
GPU_CONTEXT_BYTES = 500 * 10**6
"""Memory of a GPU that a process takes before its first tensor, roughly."""
MOST_TRIED = 8
BYTES_PER_METRIC = 250


class Measured(NamedTuple):
    """Time and memory of the training of one pack."""

    seconds_per_step: float
    peak_bytes: int
    """On a GPU: the most that torch had reserved, and its whole cells. On a CPU: the growth of the process."""
    device_bytes: int
    """Memory of the whole device."""
    products: float
    """Multiplications in a step's matrix products, up to a constant factor."""
    device: str = "cpu"
    """Type of the device that it was measured on."""


class Estimate(NamedTuple):
    """Runs, time and disk of a whole grid."""

    runs: int
    packs: int
    device_hours: float
    """Hours of all trainings one after another, on one device or one worker's CPUs."""
    disk_bytes: int
    steps: int = 0
    """Steps of all runs."""


class DryRun(NamedTuple):
    """The plan of a sweep."""

    runs: int
    finished: int
    illegal: list[str]
    packing: str
    """How many runs are trained as one, and why."""
    measured: Measured
    estimate: Estimate
    workers: int
    gpus_per_trial: float
    gpus: int
    """GPUs that there are."""

    @property
    def gpu_hours(self) -> float | None:
        """GPU-hours of all trainings; None where a step was measured on a CPU, which says nothing of a GPU.

        Trainings that share a GPU take turns on it: they end sooner together, and are not counted as if each had
        a GPU of its own.
        """
        return self.estimate.device_hours * max(1.0, self.gpus_per_trial) if self.measured.device == "cuda" else None

    @property
    def wall_hours(self) -> float:
        """Hours until all of it is trained."""
        if self.gpu_hours is not None:
            return self.gpu_hours / max(1, min(self.gpus, self.estimate.packs))
        return self.estimate.device_hours / self.workers


def measure_one(packs: Sequence[Pack], store: ActivationStore, device: str) -> Measured:
    """Measure the first of the packs that can be trained: a cell may be damaged, constant, or make training diverge.

    Raises `OutOfMemoryError` where memory runs out, and the last pack's error where none can be trained.
    """
    failed = None
    for pack in packs[:MOST_TRIED]:
        try:
            return measure(pack, store, device)
        except OutOfMemoryError:
            raise
        except (TrainingError, StoreError) as error:
            failed = error
    raise failed or AssertionError("there are no packs to measure")


def measure(pack: Pack, store: ActivationStore, device: str) -> Measured:
    """Train a pack for two short epochs, all terms of the objective in use, and time the second one."""
    training = pack.runs[0].training
    n = min(store.manifest.n, max(8, round(STEPS[device] * training.batch_size / (1 - training.val_fraction))))
    changes = {"epochs": 2, "entropy_warmup": 0, "covariance_warmup": 0, "l1_warmup": 0, "l0_warmup": 0,
               "revive_every": None, "patience": None, "log": "epoch"}  # fmt: skip
    epochs: dict[int, list[float]] = {}

    def note(number: int, _: object) -> None:
        epochs.setdefault(number, []).append(time.monotonic())

    process = psutil.Process()
    before = process.memory_info().rss
    if device == "cuda":
        gc.collect()  # what an earlier measurement kept would look taken
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        cells = data_of_runs(pack.runs, store, n)
        runs = [run for run in pack.runs if run.place in cells.numbers]
        if not runs:
            raise next(iter(cells.failed.values()))
        members = [(run.autoencoder, run.training.model_copy(update=changes)) for run in runs]
        n_all, has_target = store.manifest.n, pack.runs[0].target is not None
        whole = (n_all - held_out_count(n_all, training.val_fraction), store.manifest.d)
        placement = placement_of(whole, has_target, torch.device(device), pack.cells)  # as in the training itself
        outcomes = train_together(
            cells.data, [cells.numbers[run.place] for run in runs], members, device, note, placement=placement
        )
    except Exception as error:
        raise as_out_of_memory(error) or error from error
    timed = next((times for times in epochs.values() if len(times) > 1), None)
    if timed is None:
        raise next(outcome for outcome in outcomes if isinstance(outcome, TrainingError))
    n_train = n - held_out_count(n, training.val_fraction)
    seconds = (timed[-1] - timed[0]) / (n_train // min(training.batch_size, n_train))
    if device == "cuda":
        resident = pack.cells * (2 if has_target else 1) if placement == "device" else 0
        rest = (
            4 * resident * (n_all - n) * store.manifest.d
        )  # a training keeps all of its cells on the GPU, if they fit
        peak = torch.cuda.max_memory_reserved() + rest + GPU_CONTEXT_BYTES
        return Measured(seconds, peak, torch.cuda.mem_get_info()[1], pack.products, device)
    grown = max(process.memory_info().rss - before, 0)
    return Measured(seconds, grown, psutil.virtual_memory().total, pack.products)


def gpu_share(measured: Measured) -> float:
    """The share of a GPU for a training: one over the number of such trainings that fit, at most sixteen."""
    fit = int(measured.device_bytes / (MARGIN * max(measured.peak_bytes, 1)))
    return max(1 / max(fit, 1), SMALLEST_SHARE)


def estimate(packs: Sequence[Pack], measured: Measured, n: int) -> Estimate:
    """Time and disk of packs over cells of `n` samples, estimated from one that was measured.

    The time of a step is assumed to be proportional to its matrix products.
    """
    per_product = measured.seconds_per_step / measured.products
    seconds = sum(_steps(pack, n) * pack.products * per_product for pack in packs)
    runs = [run for pack in packs for run in pack.runs]
    steps = sum(_steps(pack, n) * len(pack.runs) for pack in packs)
    return Estimate(len(runs), len(packs), seconds / 3600, sum(_disk_bytes(run) for run in runs), steps)


def largest(packs: Sequence[Pack]) -> list[Pack]:
    """For each cell the pack with the longest step; the longest first."""
    by_cell: dict[str, Pack] = {}
    for pack in sorted(packs, key=lambda pack: (pack.products, pack.cells), reverse=True):
        by_cell.setdefault(pack.runs[0].data, pack)
    return list(by_cell.values())


def _steps(pack: Pack, n: int) -> int:
    training = pack.runs[0].training
    n_train = n - held_out_count(n, training.val_fraction)
    return training.epochs * max(1, n_train // training.batch_size)


def _disk_bytes(run: RunConfig) -> int:
    d_in, d_latent = run.autoencoder.widths()
    return 4 * (2 * d_in * d_latent + 2 * (d_in + d_latent)) + BYTES_PER_METRIC * run.training.epochs
