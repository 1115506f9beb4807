"""A sweep: every run of a grid trained to its end, or a search in place of that; a directory for each run.

The run directories are the state. A run that has written its result is never trained again, whatever became of the
sweep that it was part of.
"""

from collections.abc import Sequence
from pathlib import Path

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.progress import console
from bae_ray.training.config import RunConfig
from bae_ray.training.continuing import ended_continuing, reopen_unconverged
from bae_ray.training.draws import check_search
from bae_ray.training.grid import IllegalRun, plan_grid
from bae_ray.training.pack_plan import plan_packs
from bae_ray.training.pack_trainer import plan_trainings
from bae_ray.training.run_folder import is_finished
from bae_ray.training.sweep_config import ExecutionConfig, SweepConfig
from bae_ray.training.sweep_folder import GridRecord, SweepOutcome, begin, conclude
from bae_ray.training.trackers import check_trackers
from bae_ray.work.executor import Executor
from bae_ray.work.executors import ExecutorName, tune_executor
from bae_ray.working_copies import working

SWEEP = "a sweep"
"""What others are told of who is at work in a folder."""


def sweep(
    config: SweepConfig,
    store: ActivationStore,
    out: str | Path,
    executor: Executor | ExecutorName = "ray",
    continue_unconverged: int | None = None,
) -> SweepOutcome:
    """Train every run of the grid that is not finished in `out` yet, or what `config.search` makes of it.

    `out`: a path, or a URI such as s3://bucket/folder. See `train_runs`. A search needs the executor `ray`.
    `continue_unconverged`: so many epochs more for the runs that are finished before and did not converge; not with a
    search. Interrupted, the same call adds no more to them.
    """
    grid = plan_grid(config, store)
    check_search(config, store)
    if config.search.is_grid:
        with working(out, SWEEP, claim_local=True) as folder:
            if continue_unconverged:
                check_trackers(config)  # before a result is set aside
                reopen_unconverged(folder, grid.runs, continue_unconverged)
            return train_runs(grid.runs, store, folder, config, grid.illegal, executor)
    if continue_unconverged:
        raise InvalidInputError(
            "runs of a search do not go on: the best of them are trained to their end by a sweep of their settings, "
            "without --sweep.search, which can continue them."
        )
    if executor != "ray":
        raise InvalidInputError(f"the executor is {executor}; a search needs ray: it is Ray Tune that stops and draws.")
    check_trackers(config)
    from bae_ray.training.search import search  # it needs Ray Tune

    with working(out, SWEEP, claim_local=True) as folder:
        return search(config, grid, store, folder)


def train_runs(
    runs: list[RunConfig],
    store: ActivationStore,
    out: str | Path,
    execution: ExecutionConfig | None = None,
    illegal: Sequence[IllegalRun] = (),
    executor: Executor | ExecutorName = "ray",
) -> SweepOutcome:
    """Train those of the runs that are not finished in `out` yet, and write `out/results.parquet`.

    A run that fails is reported in the outcome, in its directory and in the table; the others go on. So are `illegal`
    ones, which are not tried. With the executor `inline` all are trained in this process, one pack after another, and
    errors of the file system are raised. Raises `ClaimedError` where another process is at work in `out`.
    """
    execution = execution or ExecutionConfig()
    check_trackers(execution)
    with working(out, SWEEP, claim_local=True) as folder:
        return _train(runs, store, folder, execution, illegal, executor)


def _train(
    runs: list[RunConfig], store: ActivationStore, out: Path, execution: ExecutionConfig, illegal: Sequence[IllegalRun],
    executor: Executor | ExecutorName,
) -> SweepOutcome:  # fmt: skip
    already = {run.id for run in runs if is_finished(out, run)}
    console.print(f"Sweep: {len(runs)} runs, {len(already)} of them finished already.")
    begin(out, GridRecord(runs=[run.id for run in runs]), illegal)
    executor = tune_executor(executor, out, execution.retries)
    packs, new = plan = plan_packs(runs, store, out, execution, executor)
    if packs and not isinstance(execution.packed, int):
        console.print(f"Sweep: {len(packs)} packs (runs that are trained as one), {plan}.")
    measured = new.measured if new else None
    died = plan_trainings(packs, store, out, execution, executor, measured).train(packs) if packs else {}
    ended_continuing(out)
    return conclude(out, runs, already, illegal, died)
