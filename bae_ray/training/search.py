"""Searching instead of training a whole grid: runs stopped early by ASHA, settings drawn by Optuna.

Both train each run by itself, in a worker of its own. What they decide is kept in the folder: a run that was stopped
has a failure that says so, one whose settings were drawn has them in search.json, and draws/ lists all that was drawn.
From these an interrupted search goes on.
"""

from pathlib import Path

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.training.axes import Setting, parse_range
from bae_ray.training.draws import widest_runs
from bae_ray.training.grid import Grid, IllegalRun, plan_settings, selected_cells
from bae_ray.training.packing import Pack
from bae_ray.training.results import GridRecord
from bae_ray.training.run_folder import RESULT_FILE, RunResult
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.training.sweep_outcome import SweepOutcome, begin, conclude
from bae_ray.training.train_packs import plan_trainings
from bae_ray.work.executors import tune_executor

METRICS = ("reconstruction", "loss", "entropy", "covariance", "l1", "l0")
"""Columns of metrics.jsonl that a search may go by."""


def search(config: SweepConfig, grid: Grid, store: ActivationStore, out: Path) -> SweepOutcome:
    """Train the runs of a grid with ASHA, or draw settings for its cells; the config is checked already."""
    from bae_ray.training.trials import draw_runs, halve_runs  # they need Ray

    already = {file.parent.name for file in out.glob(f"*/{RESULT_FILE}")}
    executor = tune_executor("ray", out, config.retries)
    if config.search.samples is not None:
        begin(out, GridRecord(runs=[], drawn=config.search.samples * len(grid.runs)), [])
        widest = [Pack((run,)) for run in widest_runs(config, store)]
        drawn, died = draw_runs(config, plan_trainings(widest, store, out, config, executor))
        runs = list({run.id: run for draws in drawn for run in draws.runs.values()}.values())
        return conclude(out, runs, already, [run for draws in drawn for run in draws.illegal], died)
    begin(out, GridRecord(runs=[run.id for run in grid.runs]), grid.illegal)
    trainings = plan_trainings([Pack((run,)) for run in grid.runs], store, out, config, executor)
    died = halve_runs(grid.runs, config, trainings) | trainings.train_again(grid.runs)
    return conclude(out, grid.runs, already, grid.illegal, died)


def check_search(config: SweepConfig, store: ActivationStore) -> None:
    """Raise `InvalidInputError` where a search cannot be done as asked."""
    search, measures = config.search, [*METRICS, *RunResult.model_fields]
    for text in search.ranges:
        parse_range(text)
    if search.samples is not None and not search.ranges:
        raise InvalidInputError(
            f"search.samples is {search.samples} but there are no ranges to draw from: give search.ranges."
        )
    if search.ranges and search.samples is None:
        raise InvalidInputError("search.ranges are given but not search.samples: say how many settings to draw.")
    if search.samples is not None and (config.axes or config.seeds):
        raise InvalidInputError("search.samples draws settings in place of axes and seeds: give one or the other.")
    if search.metric not in measures:
        raise InvalidInputError(f"search.metric is {search.metric}; expected one of {', '.join(measures)}.")
    if search.scheduler == "asha" and search.metric not in METRICS:
        raise InvalidInputError(
            f"search.metric is {search.metric}, which is only known at the end of a training. ASHA needs one of "
            f"{', '.join(METRICS)}."
        )
    _check_ranges(config, store)


def _check_ranges(config: SweepConfig, store: ActivationStore) -> None:
    """Raise `InvalidInputError` where neither the lower nor the upper ends of the ranges can be trained."""
    ranges = [parse_range(text) for text in config.search.ranges]
    cell = selected_cells(config, store)[0]
    problems: list[IllegalRun] = []
    for ends in ([(field, low) for field, low, _, _ in ranges], [(field, high) for field, _, high, _ in ranges]):
        settings = tuple(Setting(*end) for end in ends)
        try:
            plan_settings(config, store, cell, settings)
        except InvalidInputError as error:
            problems.append(IllegalRun(cell, settings, str(error)))
    if len(problems) == 2:
        raise InvalidInputError(f"search.ranges give nothing that can be trained: {problems[0]}. Mend the ranges.")
