"""Searching instead of training a whole grid: runs stopped early by ASHA, settings drawn by Optuna.

Both train each run by itself, in a worker of its own. What they decide is kept in the folder: a run that was stopped
has a failure that says so, one whose settings were drawn has them in search.json, and draws/ lists all that was drawn.
From these an interrupted search goes on.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from bae_ray import meters
from bae_ray.activations.store import ActivationStore
from bae_ray.files import publish_appended, remove
from bae_ray.progress import track
from bae_ray.storage import Folder
from bae_ray.training import run_folder
from bae_ray.training.axes import parse_range
from bae_ray.training.config import RunConfig
from bae_ray.training.draws import Draws, widest_runs
from bae_ray.training.grid import Grid, selected_cells
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.pack_trainer import PackTrainer, Trainings, plan_trainings
from bae_ray.training.packing import Pack
from bae_ray.training.run_folder import is_finished, read_failure, read_result
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.training.sweep_folder import GridRecord, SweepOutcome, begin, conclude
from bae_ray.work.devices import Share, take
from bae_ray.work.executors import tune_executor
from bae_ray.work.ray_search import OptunaDraws, asha, report, run_search
from bae_ray.work.ray_tune import last_line
from bae_ray.working_copies import refresh


def search(config: SweepConfig, grid: Grid, store: ActivationStore, out: Path) -> SweepOutcome:
    """Train the runs of a grid with ASHA, or draw settings for its cells. The config has been checked before."""
    already = {file.parent.name for file in out.glob(f"*/{run_folder.RESULT_FILE}")}
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


def halve_runs(runs: list[RunConfig], config: SweepConfig, trainings: Trainings) -> dict[str, str]:
    """Train the runs of a grid with ASHA; those finished or stopped before are skipped.

    Returns why runs without a failure record failed.
    """
    missing = [run for run in runs if not is_finished(trainings.out, run) and not was_stopped(trainings.out, run)]
    if not missing:
        return {}
    longest = max(run.training.epochs for run in missing)
    return _run(missing, "Training", len(missing), longest, config, trainings)


def draw_runs(config: SweepConfig, trainings: Trainings) -> tuple[list[Draws], dict[str, str]]:
    """Train runs with settings that Optuna draws, `search.samples` per cell; earlier draws count.

    Interrupted runs are finished first. Returns what was drawn for each cell, and why runs without a failure record
    failed.
    """
    store, out = trainings.store, trainings.out
    searched = [Draws(config, store, cell, out) for cell in selected_cells(config, store)]
    died: dict[str, str] = {}
    ranges = [parse_range(text) for text in config.search.ranges]
    longest = int(max([config.training.epochs, *(high for field, _, high, _ in ranges if field == "training.epochs")]))
    for draws in searched:
        before = [*draws.runs.values()]
        died |= halve_runs([run for run in before if read_failure(out, run) is None], config, trainings)
        if not draws.left:
            continue
        ended = [run for run in before if is_finished(out, run) or was_stopped(out, run)]
        told = [(draws.settings[run.id], reward(out, run, config.search.metric)) for run in ended]
        optuna = OptunaDraws(ranges, config.search.metric, config.training.seed + len(draws), told, draws.add)
        died |= _run(optuna, f"Searching {draws.cell}", draws.left, longest, config, trainings)
    return searched, died


def reward(out: Path, run: RunConfig, metric: str) -> float:
    """The last metric that an ended run reported."""
    if is_finished(out, run) and hasattr(result := read_result(out, run), metric):
        return float(getattr(result, metric))
    return float(_last_metrics(out, run)[metric])


def was_stopped(out: Path, run: RunConfig) -> bool:
    """Whether ASHA has stopped this run."""
    failure = read_failure(out, run)
    return failure is not None and failure.error == run_folder.STOPPED


def _run(
    given: list[RunConfig] | OptunaDraws, label: str, n: int, longest: int, config: SweepConfig, trainings: Trainings
) -> dict[str, str]:
    """Train the `n` runs given or drawn, for `longest` epochs at most; why runs failed that have no failure record."""
    asked, out, share = config.search, trainings.out, trainings.share
    scheduler = asha(asked.metric, longest, asked.grace_epochs, asked.reduction) if asked.scheduler == "asha" else None
    train = partial(_train_reporting, out=out, sweep=config, store=trainings.store.folder, share=share)
    with track(label, n, "runs") as tracker:

        def count() -> None:
            tracker.advance()
            meters.add("bae_ray_trainings", outcome="ended")
            meters.put("bae_ray_trainings_left", tracker.left)

        ended = run_search(train, given, n, scheduler, share, out, config.retries, count)
    return _put_away(out, config, [(RunConfig.model_validate_json(text), result) for text, result in ended])


def _put_away(out: Path, config: SweepConfig, ended: list[tuple[RunConfig, Any]]) -> dict[str, str]:
    """Write down which runs ASHA has stopped; why those failed that have no failure record."""
    died: dict[str, str] = {}
    metric = config.search.metric
    refresh(out)
    for run, result in ended:
        if is_finished(out, run) or read_failure(out, run) is not None:
            continue
        if result.error is None and metric in (last := result.metrics or {}):
            message = (
                f"stopped by ASHA after epoch {last['epoch']} of {run.training.epochs}: {metric} {last[metric]:.4g}"
            )
            run_folder.write_failure(out, run, run_folder.STOPPED, message)
            remove(out / run.id / run_folder.STATE_FILE)
        else:
            died[run.id] = f"its worker died: {last_line(result)}"
    return died


def _train_reporting(text: str, out: Path, sweep: SweepConfig, store: Folder, share: Share) -> None:
    """Train a run; Tune is told its end and, where runs may be stopped, each epoch."""
    run = RunConfig.model_validate_json(text)

    def told(_: RunConfig, lines: list[TrainingMetrics]) -> None:
        last = lines[-1].row()
        if sweep.search.scheduler == "asha" and last["epoch"] < run.training.epochs:  # the last one comes with measures
            publish_appended()  # a run that is stopped here ends at once
            report(last)

    PackTrainer(take(share), store, out, sweep)(Pack((run,)), told)
    if is_finished(out, run):
        measures = {k: v for k, v in read_result(out, run).model_dump().items() if isinstance(v, int | float)}
        report({**_last_metrics(out, run), **measures, "epoch": run.training.epochs})


def _last_metrics(out: Path, run: RunConfig) -> dict[str, Any]:
    lines = (out / run.id / run_folder.METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1])
