"""Packs given to an executor: what each training gets, and what is tried once more."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import OutOfMemoryError
from bae_ray.progress import Tracker, console, track
from bae_ray.storage import Folder
from bae_ray.training.config import RunConfig
from bae_ray.training.pack_trainer import PackTrainer, Trial
from bae_ray.training.packing import STATES, Pack, jobs
from bae_ray.training.resource_estimate import Measured, gpu_share, largest, measure_one
from bae_ray.training.run_folder import Failure, is_finished, read_failure
from bae_ray.training.sweep_config import ExecutionConfig
from bae_ray.training.sweep_outcome import WORKER_DIED
from bae_ray.work.capacity import Share
from bae_ray.work.executor import DiedJob, Executor, WorkOrder


class Trainings(NamedTuple):
    """How packs are trained, and where."""

    store: ActivationStore
    out: Path
    execution: ExecutionConfig
    executor: Executor
    share: Share
    """What each training gets."""

    def run(self, wanted: Sequence[Sequence[Pack]], tracker: Tracker, workers: int | None = None) -> list[DiedJob]:
        """Train the packs of jobs; the jobs whose workers died."""

        def told(_: Pack, trial: Trial) -> None:
            tracker.advance(trial.finished + trial.failed)

        trainer = partial(PackTrainer, store=self.store.folder, out=self.out, execution=self.execution)
        return self.executor.run(WorkOrder(wanted, trainer, told, self.share, workers))

    def train(self, packs: list[Pack]) -> dict[str, str]:
        """Train packs; why runs failed that have no failure record."""
        runs = [run for pack in packs for run in pack.runs]
        with track("Training", sum(not is_finished(self.out, run) for run in runs)) as tracker:
            wanted = jobs(packs, self.executor.fitting(self.share))
            while wanted:
                # The pack at which a job died is set aside: those after it are not to share its fate.
                wanted = [rest for died in self.run(wanted, tracker) if (rest := [*died.job[died.over + 1 :]])]
        failed = self.train_again(runs)
        if (self.out / STATES).exists() and not any((self.out / STATES).iterdir()):
            (self.out / STATES).rmdir()
        return failed

    def train_again(self, runs: Sequence[RunConfig]) -> dict[str, str]:
        """Train what ran out of memory or lost its worker with nothing beside it; why those died that did so again."""
        alone = [run for run in runs if not is_finished(self.out, run) and _may_fit_alone(read_failure(self.out, run))]
        if not alone or not self.executor.parallel:
            return {}
        console.print(f"Sweep: {len(alone)} runs ran out of memory or lost their workers; once more, one at a time.")
        with track("Training", len(alone)) as tracker:
            died = self.run([[Pack((run,))] for run in alone], tracker, workers=1)
        return {job.job[0].runs[0].id: job.reason for job in died}


def plan_trainings(
    packs: Sequence[Pack], store: ActivationStore, out: Path, execution: ExecutionConfig, executor: Executor
) -> Trainings:
    """How to train packs; where the config leaves a training's part of a GPU open, that is measured."""
    share = executor.share("a training", execution.cpus_per_trial, execution.gpus_per_trial)
    if share.gpus and execution.gpus_per_trial is None and executor.parallel:
        try:
            gpus = gpu_share(measure_packs(packs, store, share, executor))
        except Exception:  # too large for a whole GPU: its halves are tried; or nothing can be measured
            gpus = 1.0
        console.print(f"Sweep: {gpus:.3g} GPU for each training, by the memory that the largest takes.")
        share = share._replace(gpus=gpus)
    return Trainings(store, out, execution, executor, share)


def measure_packs(packs: Sequence[Pack], store: ActivationStore, share: Share, executor: Executor) -> Measured:
    """Measure the largest of the packs in a worker, with a whole GPU if it gets a part of one."""
    return executor.once(partial(_measure, largest(packs), store.folder), Share(share.cpus, float(share.gpus > 0)))


def _measure(packs: Sequence[Pack], store: Folder, device: str) -> Measured:
    return measure_one(packs, ActivationStore.open(store), device)


def _may_fit_alone(failure: Failure | None) -> bool:
    """Whether memory was, or may have been, what a run failed for."""
    return failure is None or failure.error in (OutOfMemoryError.__name__, WORKER_DIED)
