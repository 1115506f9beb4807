"""What a sweep would do: how much is left of it, for how long, on what."""

from pathlib import Path

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.training.draws import Draws, check_search, widest_runs
from bae_ray.training.grid import plan_grid, selected_cells
from bae_ray.training.pack_plan import PackPlan, plan_packs
from bae_ray.training.pack_size import PackSize
from bae_ray.training.pack_trainer import measure_packs
from bae_ray.training.packing import Pack, unfinished_packs
from bae_ray.training.resource_estimate import DryRun, estimate, gpu_share
from bae_ray.training.run_folder import is_finished
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.work.executor import Executor
from bae_ray.work.executors import ExecutorName, tune_executor
from bae_ray.working_copies import reading

BY_ITSELF = PackSize(1, "a search trains each by itself")


def dry_run(
    config: SweepConfig, store: ActivationStore, out: str | Path, executor: Executor | ExecutorName = "ray"
) -> DryRun:
    """What `sweep` would do: how much is left of it, and for how long, from training its largest pack for some steps.

    Where a GPU is asked for that no machine here has, steps are measured on a CPU. Nothing is written.
    """
    grid, out = plan_grid(config, store), reading(out).absolute()
    check_search(config, store)
    executor = tune_executor(executor, out, config.retries)
    try:
        share = executor.share("a training", config.cpus_per_trial, config.gpus_per_trial)
    except InvalidInputError:
        if not config.gpus_per_trial:
            raise
        config = config.model_copy(update={"gpus_per_trial": 0})
        share = executor.share("a training", config.cpus_per_trial, 0)
    if config.search.samples is None:
        missing = [run for run in grid.runs if not is_finished(out, run)]
        planned = len(grid.runs)
        if config.search.is_grid:
            plan = plan_packs(missing, store, out, config, executor, record=False)
        else:
            plan = PackPlan(unfinished_packs(missing, out, 1, record=False), BY_ITSELF)
    else:  # as if all that is drawn were as large as can be
        widest = zip(selected_cells(config, store), widest_runs(config, store), strict=True)
        missing = [run for cell, run in widest for _ in range(Draws(config, store, cell, out).left)]
        plan, planned = PackPlan([Pack((run,)) for run in missing], BY_ITSELF), config.search.samples * len(grid.runs)
    some = plan.packs or [Pack((run,)) for run in grid.runs]
    measured = measure_packs(some, store, share, executor, plan.new and plan.new.measured)
    if share.gpus and config.gpus_per_trial is None:
        share = share._replace(gpus=gpu_share(measured))
    left = estimate(plan.packs, measured, store.manifest.n)
    return DryRun(
        planned, planned - len(missing), [str(run) for run in grid.illegal], str(plan), measured, left,
        executor.fitting(share), share.gpus, int(executor.total("GPU")),
    )  # fmt: skip
