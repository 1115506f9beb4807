"""Running a grid with Ray Tune: a trial is a job, packs of one cell; reused actors, one directory per run.

The run directories are the state. A run that has written its result is never trained again, whatever became of the
sweep that it was part of; Tune's own state is thrown away.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from ray import tune
from ray.exceptions import RayError
from typing_extensions import override

from bae_ray.activations.store import ActivationStore
from bae_ray.cluster import check_fits, connect, total
from bae_ray.config import content_hash
from bae_ray.errors import BaeRayError, OutOfMemoryError
from bae_ray.files import write_text
from bae_ray.progress import Tracker, console, track
from bae_ray.training.config import RunConfig
from bae_ray.training.grid import IllegalRun, plan_grid
from bae_ray.training.pack_trainer import PackTrainer
from bae_ray.training.packing import STATES, Pack, jobs, unfinished_packs
from bae_ray.training.resource_estimate import DryRun, Measured, estimate, gpu_share, largest, measure_one
from bae_ray.training.results import ILLEGAL_PREFIX, GridRecord, outcomes, write_parquet
from bae_ray.training.run_folder import (
    FAILURE_FILE,
    RESULT_FILE,
    RUN_FILE,
    STOPPED,
    Failure,
    is_finished,
    read_failure,
    write_failure,
)
from bae_ray.training.search import cell_of, check_search, draw_runs, drawn_before, halve_runs, widest_runs
from bae_ray.training.sweep_config import ExecutionConfig, SweepConfig
from bae_ray.training.trackers import check_trackers
from bae_ray.training.tuning import run_trials

RESULTS_FILE = "results.parquet"
WORKER_DIED = "WorkerDied"
"""The `error` of a run that left no word itself."""


class DiedJob(NamedTuple):
    """A job whose worker died for good."""

    packs: list[Pack]
    over: int
    """How many of the packs were over: the next was under way."""
    reason: str


class SweepOutcome(NamedTuple):
    """What a sweep did."""

    runs: list[RunConfig]
    """Every run of the grid."""
    finished: list[str]
    """Ids of those that are finished, now or before."""
    trained: int
    """How many of them were trained just now."""
    failures: list[str]
    """A line for each run that failed, or cannot be."""


def sweep(config: SweepConfig, store: ActivationStore, out: str | Path) -> SweepOutcome:
    """Train every run of the grid that is not finished in `out` yet, or what `config.search` makes of it.

    See `train_runs`.
    """
    grid, out = plan_grid(config, store), Path(out).absolute()
    check_search(config, store)
    if config.search.is_grid:
        return train_runs(grid.runs, store, out, config, grid.illegal)
    check_trackers(config)
    already = {file.parent.name for file in out.glob(f"*/{RESULT_FILE}")}
    if config.search.samples is not None:
        _begin(out, GridRecord(runs=[], drawn=config.search.samples * len(grid.runs)), [])
        widest = [Pack((run,)) for run in widest_runs(config, store)]
        drawn = draw_runs(config, store, out, _gpus(config, widest, store))
        return _conclude(out, drawn.runs, already, drawn.illegal, drawn.died)
    _begin(out, GridRecord(runs=[run.id for run in grid.runs]), grid.illegal)
    gpus = _gpus(config, [Pack((run,)) for run in grid.runs], store)
    died = halve_runs(grid.runs, config, store, out, gpus)
    died |= _once_more(grid.runs, store, out, config, gpus)
    return _conclude(out, grid.runs, already, grid.illegal, died)


def train_runs(
    runs: list[RunConfig],
    store: ActivationStore,
    out: str | Path,
    execution: ExecutionConfig | None = None,
    illegal: Sequence[IllegalRun] = (),
) -> SweepOutcome:
    """Train those of the runs that are not finished in `out` yet, and write `out/results.parquet`.

    A run that fails is reported in the outcome, in its directory and in the table; the others go on. So are `illegal`
    ones, which are not tried.
    """
    out, execution = Path(out).absolute(), execution or ExecutionConfig()
    check_trackers(execution)
    already = {run.id for run in runs if is_finished(out, run)}
    console.print(f"Sweep: {len(runs)} runs, {len(already)} of them finished already.")
    _begin(out, GridRecord(runs=[run.id for run in runs]), illegal)
    packs = unfinished_packs(runs, out, execution.packed)
    died = _train(packs, store, out, execution) if packs else {}
    return _conclude(out, runs, already, illegal, died)


def _conclude(
    out: Path, runs: list[RunConfig], already: set[str], illegal: Sequence[IllegalRun], died: dict[str, str]
) -> SweepOutcome:
    """Write the table and say what was done; `died`: why those runs failed that left no word themselves."""
    finished = [run.id for run in runs if is_finished(out, run)]
    _record_illegal(out, illegal)
    for run in runs:
        if run.id in died and run.id not in finished and read_failure(out, run) is None:
            write_text(out / run.id / RUN_FILE, run.model_dump_json(indent=2) + "\n")
            write_failure(out, run, Failure(error=WORKER_DIED, message=died[run.id], cell=run.cell.model_dump()))
    write_parquet(outcomes(out, only=[run.id for run in runs]), out / RESULTS_FILE)
    GridRecord(runs=[run.id for run in runs], ended=True).write(out)
    failures = [f"{run}" for run in illegal]
    for run in runs:
        failure = read_failure(out, run)
        if run.id not in finished and (failure is None or failure.error != STOPPED):
            reason = failure.message if failure else "it was not reached"
            failures.append(f"run {run.id} ({cell_of(run)}): {reason}")
    return SweepOutcome(runs, finished, len(set(finished) - already), failures)


def dry_run(config: SweepConfig, store: ActivationStore, out: str | Path) -> DryRun:
    """What `sweep` would do: how much is left of it, and for how long, from training its largest pack for some steps.

    Nothing is written.
    """
    grid, out = plan_grid(config, store), Path(out).absolute()
    check_search(config, store)
    packed = config.packed if config.search.is_grid else 1
    if config.search.samples is None:
        missing = [run for run in grid.runs if not is_finished(out, run)]
        packs, planned = unfinished_packs(missing, out, packed, record=False), len(grid.runs)
    else:  # as if all that is drawn were as large as can be
        missing = [
            run
            for run in widest_runs(config, store)
            for _ in range(config.search.samples - len(drawn_before(config, store, cell_of(run), out)))
        ]
        packs, planned = [Pack((run,)) for run in missing], config.search.samples * len(grid.runs)
    connect()
    gpus = config.gpus_per_trial if config.gpus_per_trial is not None else float(total("GPU") > 0)
    some = packs or unfinished_packs(grid.runs, out / "none", packed, record=False)
    measured = _measure(some, store, config.cpus_per_trial, gpus)
    if gpus and config.gpus_per_trial is None:
        gpus = gpu_share(measured)
    left = estimate(packs, measured, store.manifest.n)
    return DryRun(
        planned, planned - len(missing), [str(run) for run in grid.illegal], measured, left,
        _workers(config.cpus_per_trial, gpus), gpus,
    )  # fmt: skip


def _begin(out: Path, record: GridRecord, illegal: Sequence[IllegalRun]) -> None:
    """Write down what the sweep is of, for whoever watches."""
    record.write(out)
    for folder in out.glob(f"{ILLEGAL_PREFIX}*"):
        shutil.rmtree(folder)
    _record_illegal(out, illegal)


def _record_illegal(out: Path, illegal: Sequence[IllegalRun]) -> None:
    """Write a directory for each run that cannot be."""
    for run in illegal:
        failure = Failure(error="Illegal", message=run.reason, cell=run.cell._asdict(), settings=dict(run.settings))
        name = ILLEGAL_PREFIX + content_hash([run.cell, run.settings])
        write_text(out / name / FAILURE_FILE, failure.model_dump_json(indent=2) + "\n")


def _train(packs: list[Pack], store: ActivationStore, out: Path, execution: ExecutionConfig) -> dict[str, str]:
    """Train the packs; why those runs failed that left no word themselves."""
    gpus = _gpus(execution, packs, store)
    runs = [run for pack in packs for run in pack.runs]
    with track("Training", sum(not is_finished(out, run) for run in runs)) as tracker:
        wanted = jobs(packs, _workers(execution.cpus_per_trial, gpus))
        while wanted:
            ended = _run_jobs(wanted, store, out, execution, gpus, tracker)
            # The pack at which a job died is set aside: those after it are not to share its fate.
            wanted = [rest for job in ended if (rest := job.packs[job.over + 1 :])]
    died = _once_more(runs, store, out, execution, gpus)
    if (out / STATES).exists() and not any((out / STATES).iterdir()):
        (out / STATES).rmdir()
    return died


def _once_more(
    runs: Sequence[RunConfig], store: ActivationStore, out: Path, execution: ExecutionConfig, gpus: float
) -> dict[str, str]:
    """Train what ran out of memory or lost its worker with nothing beside it; why those died that did so again."""
    alone = [run for run in runs if not is_finished(out, run) and _may_fit_alone(read_failure(out, run))]
    if not alone:
        return {}
    console.print(f"Sweep: {len(alone)} runs ran out of memory or lost their workers; once more, one at a time.")
    with track("Training", len(alone)) as tracker:
        ended = _run_jobs([[Pack((run,))] for run in alone], store, out, execution, gpus, tracker, alone=True)
    return {job.packs[0].runs[0].id: job.reason for job in ended}


def _gpus(execution: ExecutionConfig, packs: Sequence[Pack], store: ActivationStore) -> float:
    """The GPU share of each training; connects to Ray, and measures where the config leaves it open."""
    connect()
    gpus = execution.gpus_per_trial if execution.gpus_per_trial is not None else float(total("GPU") > 0)
    check_fits("a training", execution.cpus_per_trial, gpus)
    if gpus and execution.gpus_per_trial is None:
        try:
            gpus = gpu_share(_measure(packs, store, execution.cpus_per_trial, gpus))
        except (BaeRayError, RayError):  # too large for a whole GPU: its halves are tried; or nothing can be measured
            gpus = 1.0
        console.print(f"Sweep: {gpus:.3g} GPU for each training, by the memory that the largest takes.")
    return gpus


def _may_fit_alone(failure: Failure | None) -> bool:
    """Whether memory was, or may have been, what a run failed for."""
    return failure is None or failure.error in (OutOfMemoryError.__name__, WORKER_DIED)


def _workers(cpus: float, gpus: float) -> int:
    return max(1, int(total("GPU") // gpus if gpus else total("CPU") // cpus))


def _measure(packs: Sequence[Pack], store: ActivationStore, cpus: float, gpus: float) -> Measured:
    """Measure the largest of the packs in a worker, with what a training gets."""
    largest_first = largest(packs)

    def measure_here() -> Measured:
        torch.set_num_threads(max(1, int(cpus)))
        here = ActivationStore.open(store.folder)
        return measure_one(largest_first, here, "cuda" if gpus and torch.cuda.is_available() else "cpu")

    task = ray.remote(num_cpus=cpus, num_gpus=1 if gpus else 0, max_calls=1)(measure_here)
    return ray.get(task.remote())


def _run_jobs(
    wanted: list[list[Pack]],
    store: ActivationStore,
    out: Path,
    execution: ExecutionConfig,
    gpus: float,
    tracker: Tracker,
    alone: bool = False,
) -> list[DiedJob]:
    """Run the jobs, or `alone` one at a time; those whose workers died more often than they are begun again."""
    trainable = tune.with_parameters(
        JobTrainable, jobs=wanted, store=store.folder, out=out, execution=execution, gpus=gpus
    )
    counted: set[tuple[int, int]] = set()

    def count(result: dict[str, Any]) -> None:
        if (pack := (result["job"], result["pack"])) not in counted:  # a job that is begun again reports them again
            counted.add(pack)
            tracker.advance(result["finished"] + result["failed"])

    results = run_trials(
        tune.with_resources(trainable, {"cpu": execution.cpus_per_trial, "gpu": gpus}),
        {"job": tune.grid_search(list(range(len(wanted))))},
        tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1 if alone else None),
        out,
        execution.retries,
        count,
    )
    died: list[DiedJob] = []
    for job, result in zip(wanted, results, strict=True):
        if result.error is not None:
            last = str(result.error).strip().splitlines()[-1]
            reason = (
                f"its worker died {execution.retries + 1} times{', with nothing beside it' if alone else ''}; too "
                f"little memory is the usual reason ({last})"
            )
            died.append(DiedJob(job, (result.metrics or {}).get("pack", -1) + 1, reason))
    return died


class JobTrainable(tune.Trainable):
    """A Tune trial that trains the packs of a job, one in each step. Its actor goes on to the next job."""

    @override
    def setup(self, config: dict[str, Any], **given: Any) -> None:
        self._jobs: list[list[Pack]] = given["jobs"]
        self._trainer = PackTrainer(given["store"], given["out"], given["execution"], given["gpus"])
        self._next = 0

    @override
    def step(self) -> dict[str, Any]:
        job, pack = self._jobs[self.config["job"]], self._next
        trial = self._trainer(job[pack])
        self._next += 1
        return {"done": self._next == len(job), "job": self.config["job"], "pack": pack, **trial._asdict()}

    @override
    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config, self._next = new_config, 0
        return True
