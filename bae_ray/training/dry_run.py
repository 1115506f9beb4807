"""What a sweep would do, measured before it begins."""

from pathlib import Path

from bae_ray.activations.store import ActivationStore
from bae_ray.training.draws import Draws, widest_runs
from bae_ray.training.grid import plan_grid, selected_cells
from bae_ray.training.packing import Pack, unfinished_packs
from bae_ray.training.resource_estimate import DryRun, estimate, gpu_share
from bae_ray.training.run_folder import is_finished
from bae_ray.training.search import check_search
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.training.train_packs import measure_packs
from bae_ray.work.executor import Executor
from bae_ray.work.executors import ExecutorName, tune_executor


def dry_run(
    config: SweepConfig, store: ActivationStore, out: str | Path, executor: Executor | ExecutorName = "ray"
) -> DryRun:
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
        widest = zip(selected_cells(config, store), widest_runs(config, store), strict=True)
        missing = [run for cell, run in widest for _ in range(Draws(config, store, cell, out).left)]
        packs, planned = [Pack((run,)) for run in missing], config.search.samples * len(grid.runs)
    executor = tune_executor(executor, out, config.retries)
    share = executor.share("a training", config.cpus_per_trial, config.gpus_per_trial)
    some = packs or unfinished_packs(grid.runs, out / "none", packed, record=False)
    measured = measure_packs(some, store, share, executor)
    if share.gpus and config.gpus_per_trial is None:
        share = share._replace(gpus=gpu_share(measured))
    left = estimate(packs, measured, store.manifest.n)
    return DryRun(
        planned, planned - len(missing), [str(run) for run in grid.illegal], measured, left, executor.fitting(share),
        share.gpus,
    )  # fmt: skip
