"""Packs given to an executor: what each training gets, what a worker does, and what is tried once more."""

import gc
import sys
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import NamedTuple

import torch

from bae_ray import meters
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import OutOfMemoryError
from bae_ray.progress import Tracker as Progress
from bae_ray.progress import console, track
from bae_ray.storage import Folder
from bae_ray.structured_log import event, is_structured
from bae_ray.training.config import RunConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.packing import STATES, Pack, jobs
from bae_ray.training.resource_estimate import Measured, gpu_share, largest, measure_one
from bae_ray.training.run_execution import execute_runs
from bae_ray.training.run_folder import RunResult, is_finished, read_failure
from bae_ray.training.sweep_config import ExecutionConfig
from bae_ray.training.sweep_folder import WORKER_DIED
from bae_ray.training.trackers import Tracker, open_trackers
from bae_ray.work.devices import Share
from bae_ray.work.executor import DiedJob, Executor, WorkOrder
from bae_ray.working_copies import refresh


class PackTrainer:
    """One worker of a sweep: trains packs, one after another, with the same opened store, and checks its files once."""

    def __init__(self, device: str, store: Folder, out: Path, execution: ExecutionConfig) -> None:
        self._device, self._store, self._out = device, ActivationStore.open(store), out
        self._trackers = open_trackers(execution, out)

    def __call__(self, pack: Pack, on_epoch: Callable[[RunConfig, list[TrainingMetrics]], None] | None = None) -> int:
        """Train a pack; how many of its runs are finished.

        Runs that failed together, for want of memory or of something of one of several cells, are tried in halves.
        """
        if self._device == "cuda":  # what torch keeps of the last pack would look taken
            gc.collect()
            torch.cuda.empty_cache()

        def log(run: RunConfig, lines: list[TrainingMetrics]) -> None:
            self._tell(methodcaller("log", run, lines))
            meters.add("bae_ray_training_steps", lines[-1].step / lines[-1].epoch)  # of one epoch
            if on_epoch is not None:
                on_epoch(run, lines)

        for run in pack.runs:
            refresh(self._out / run.id)  # what another machine has begun
        meters.put("bae_ray_trainings_running", len(pack.runs))
        outcomes = execute_runs(pack.runs, self._store, self._out, pack.state(self._out), self._device, log)
        meters.put("bae_ray_trainings_running", 0)
        again = _failed_together(pack.runs, outcomes)
        finished = 0
        for run, outcome in zip(pack.runs, outcomes, strict=True):
            if run not in again:
                result = outcome if isinstance(outcome, RunResult) else None
                finished += result is not None
                self._tell(methodcaller("finish", run, result))
        return finished + sum(self(half, on_epoch) for half in Pack(tuple(again)).halves() if half.runs)

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        """Tell all trackers; one that fails is given up, since no training should be lost for it."""
        for tracker in [*self._trackers]:
            try:
                what(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                name = type(tracker).__name__
                print(f"warning: nothing more is logged to {name} from here: {error}", file=sys.stderr)


def _failed_together(runs: Sequence[RunConfig], outcomes: Sequence[RunResult | Exception]) -> list[RunConfig]:
    """Runs that one error stopped together, though it may not be theirs: of memory, or of several cells."""
    by_error: dict[int, list[RunConfig]] = {}
    for run, outcome in zip(runs, outcomes, strict=True):
        if isinstance(outcome, Exception):
            by_error.setdefault(id(outcome), []).append(run)
    memory = {id(outcome) for outcome in outcomes if isinstance(outcome, OutOfMemoryError)}
    together = [
        stopped
        for error, stopped in by_error.items()
        if len(stopped) > 1 and (error in memory or Pack(tuple(stopped)).cells > 1)
    ]
    return [run for stopped in together for run in stopped]


class Trainings(NamedTuple):
    """How packs are trained, and where."""

    store: ActivationStore
    out: Path
    execution: ExecutionConfig
    executor: Executor
    share: Share
    """What each training gets."""

    def run(self, wanted: Sequence[Sequence[Pack]], progress: Progress, workers: int | None = None) -> list[DiedJob]:
        """Train the packs of jobs; the jobs whose workers died."""

        def told(pack: Pack, finished: int) -> None:
            progress.advance(len(pack.runs))
            meters.add("bae_ray_trainings", finished, outcome="finished")
            meters.add("bae_ray_trainings", len(pack.runs) - finished, outcome="failed")
            meters.put("bae_ray_trainings_left", progress.left)
            for run in pack.runs if is_structured() else ():
                outcome = "finished" if is_finished(self.out, run) else "failed"
                event("training ended", run=run.id, cell=str(run.cell), outcome=outcome, sweep=str(self.out))

        trainer = partial(PackTrainer, store=self.store.folder, out=self.out, execution=self.execution)
        meters.put("bae_ray_trainings_left", progress.left)
        died = self.executor.run(WorkOrder(wanted, trainer, told, self.share, workers))
        meters.add(
            "bae_ray_trainings",
            sum(len(pack.runs) for job in died for pack in job.job[job.over : job.over + 1]),
            outcome="died",
        )
        return died

    def train(self, packs: list[Pack]) -> dict[str, str]:
        """Train packs; why runs failed that have no failure record."""
        runs = [run for pack in packs for run in pack.runs]
        with track("Training", sum(not is_finished(self.out, run) for run in runs), "runs") as progress:
            wanted = jobs(packs, self.executor.fitting(self.share))
            while wanted:
                # The pack at which a job died is set aside: those after it are not to share its fate.
                wanted = [rest for died in self.run(wanted, progress) if (rest := [*died.job[died.over + 1 :]])]
        failed = self.train_again(runs)
        if (self.out / STATES).exists() and not any((self.out / STATES).iterdir()):
            (self.out / STATES).rmdir()
        return failed

    def train_again(self, runs: Sequence[RunConfig]) -> dict[str, str]:
        """Train what ran out of memory or lost its worker with nothing beside it; why those died that did so again."""
        refresh(self.out)
        alone = [run for run in runs if not is_finished(self.out, run) and self._may_fit_alone(run)]
        if not alone or not self.executor.parallel:
            return {}
        console.print(f"Sweep: {len(alone)} runs ran out of memory or lost their workers; once more, one at a time.")
        with track("Training", len(alone), "runs") as progress:
            died = self.run([[Pack((run,))] for run in alone], progress, workers=1)
        return {job.job[0].runs[0].id: job.reason for job in died}

    def _may_fit_alone(self, run: RunConfig) -> bool:
        """Whether memory was, or may have been, what a run failed for."""
        failure = read_failure(self.out, run)
        return failure is None or failure.error in (OutOfMemoryError.__name__, WORKER_DIED)


def plan_trainings(
    packs: Sequence[Pack],
    store: ActivationStore,
    out: Path,
    execution: ExecutionConfig,
    executor: Executor,
    measured: Measured | None = None,
) -> Trainings:
    """How to train packs; where the config leaves a training's part of a GPU open, that is measured.

    `measured`: what was measured of a pack before.
    """
    share = executor.share("a training", execution.cpus_per_trial, execution.gpus_per_trial)
    if share.gpus and execution.gpus_per_trial is None and executor.parallel:
        try:
            gpus = gpu_share(measure_packs(packs, store, share, executor, measured))
        except Exception:  # too large for a whole GPU: its halves are tried; or nothing can be measured
            gpus = 1.0
        console.print(f"Sweep: {gpus:.3g} GPU for each training, by the memory that the largest takes.")
        share = share._replace(gpus=gpus)
    return Trainings(store, out, execution, executor, share)


def measure_packs(
    packs: Sequence[Pack], store: ActivationStore, share: Share, executor: Executor, before: Measured | None = None
) -> Measured:
    """Measure the largest of the packs in a worker, with a whole GPU if it gets a part of one.

    `before`: what was measured of a pack; it is enough where none of these is larger.
    """
    if before is not None and all(some.products <= before.products for some in packs):
        return before
    whole = Share(share.cpus, float(share.gpus > 0))
    return executor.once(partial(measure_one, largest(packs), store), whole)
