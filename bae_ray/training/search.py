"""Searching instead of training a whole grid: runs stopped early by ASHA, settings drawn by Optuna.

Both train each run by itself, in a worker of its own. What they decide is kept in the run directories: a run that was
stopped has a failure that says so, and one whose settings were drawn has them in search.json, from which an
interrupted search goes on.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.files import write_text
from bae_ray.progress import track
from bae_ray.training.axes import Setting, Settings, parse_range
from bae_ray.training.config import RunConfig
from bae_ray.training.grid import IllegalRun, plan_settings, selected_cells
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.metrics_log import metrics_row
from bae_ray.training.pack_trainer import PackTrainer
from bae_ray.training.packing import Pack
from bae_ray.training.run_folder import (
    METRICS_FILE,
    RUN_FILE,
    SEARCH_FILE,
    STATE_FILE,
    STOPPED,
    Failure,
    RunResult,
    is_finished,
    read_failure,
    read_result,
    write_failure,
)
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.training.tuning import run_trials

METRICS = ("reconstruction", "loss", "entropy", "covariance", "l1", "l0")
"""Columns of metrics.jsonl that a search may go by."""


class Drawn(NamedTuple):
    """What a search has drawn."""

    runs: list[RunConfig]
    illegal: list[IllegalRun]
    """Settings that cannot go together."""
    died: dict[str, str]
    """Why those runs failed that left no word themselves."""


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


def halve_runs(
    runs: list[RunConfig], config: SweepConfig, store: ActivationStore, out: Path, gpus: float
) -> dict[str, str]:
    """Train the runs of a grid with ASHA; those that are finished, or stopped before, are left alone.

    Why those runs failed that left no word themselves.
    """
    missing = [run for run in runs if not is_finished(out, run) and not was_stopped(out, run)]
    if not missing:
        return {}
    longest = max(run.training.epochs for run in missing)
    trainable = tune.with_parameters(train_one, runs=missing, out=out, sweep=config, store=store.folder, gpus=gpus)
    with track("Training", len(missing)) as tracker:
        results = run_trials(
            tune.with_resources(trainable, {"cpu": config.cpus_per_trial, "gpu": gpus}),
            {"run": tune.grid_search(list(range(len(missing))))},
            tune.TuneConfig(scheduler=_asha(config, longest) if config.search.scheduler == "asha" else None),
            out,
            config.retries,
            on_end=tracker.advance,
        )
    return _put_away(out, config, list(zip(missing, results, strict=True)))


def draw_runs(config: SweepConfig, store: ActivationStore, out: Path, gpus: float) -> Drawn:
    """Train runs with settings that Optuna draws, so many for each cell; those drawn before count.

    Of these the ones that were interrupted are finished first.
    """
    runs: list[RunConfig] = []
    illegal: list[IllegalRun] = []
    died: dict[str, str] = {}
    for cell in selected_cells(config, store):
        before = drawn_before(config, store, cell, out)
        died |= halve_runs([run for run, _ in before if read_failure(out, run) is None], config, store, out, gpus)
        runs += [run for run, _ in before]
        left = (config.search.samples or 0) - len(before)
        if left <= 0:
            continue
        told = [(drawn, reward(out, run, config.search.metric)) for run, drawn in before if _has_ended(out, run)]
        trainable = tune.with_parameters(train_drawn, cell=cell, out=out, sweep=config, store=store.folder, gpus=gpus)
        with track(f"Searching {cell}", left) as tracker:
            results = run_trials(
                tune.with_resources(trainable, {"cpu": config.cpus_per_trial, "gpu": gpus}),
                {},
                tune.TuneConfig(
                    search_alg=_optuna(config, told),
                    num_samples=left,
                    scheduler=_asha(config, _longest(config)) if config.search.scheduler == "asha" else None,
                ),
                out,
                config.retries,
                on_end=tracker.advance,
            )
        drawn: list[tuple[RunConfig, tune.Result]] = []
        for result in results:
            settings = _settings(result.config or {})
            try:
                drawn.append((plan_settings(config, store, cell, settings), result))
            except InvalidInputError as error:
                illegal.append(IllegalRun(cell, settings, str(error)))
        died |= _put_away(out, config, drawn)
        runs += [run for run, _ in drawn]
    return Drawn(list({run.id: run for run in runs}.values()), illegal, died)


def widest_runs(config: SweepConfig, store: ActivationStore) -> list[RunConfig]:
    """For each cell the run with the upper end of every range, or where that cannot be, without them."""
    highest = tuple(Setting(field, high) for field, _, high, _ in map(parse_range, config.search.ranges))
    runs: list[RunConfig] = []
    for cell in selected_cells(config, store):
        try:
            runs.append(plan_settings(config, store, cell, highest))
        except InvalidInputError:
            runs.append(plan_settings(config, store, cell, ()))
    return runs


def _asha(config: SweepConfig, epochs: int) -> ASHAScheduler:
    """The scheduler of runs that are trained for so many epochs at most."""
    search = config.search
    return ASHAScheduler(
        time_attr="epoch",
        metric=search.metric,
        mode="min",
        max_t=epochs,
        grace_period=min(search.grace_epochs, epochs),
        reduction_factor=search.reduction,
    )


def was_stopped(out: Path, run: RunConfig) -> bool:
    """Whether ASHA has stopped this run."""
    failure = read_failure(out, run)
    return failure is not None and failure.error == STOPPED


def _put_away(out: Path, config: SweepConfig, ended: list[tuple[RunConfig, Any]]) -> dict[str, str]:
    """Write down which runs ASHA has stopped; why those failed that left no word themselves."""
    died: dict[str, str] = {}
    metric = config.search.metric
    for run, result in ended:
        if is_finished(out, run) or read_failure(out, run) is not None:
            continue
        if result.error is None and metric in (last := result.metrics or {}):
            message = (
                f"stopped by ASHA after epoch {last['epoch']} of {run.training.epochs}: {metric} {last[metric]:.4g}"
            )
            write_failure(out, run, Failure(error=STOPPED, message=message, cell=run.cell.model_dump()))
            (out / run.id / STATE_FILE).unlink(missing_ok=True)
        else:
            died[run.id] = f"its worker died: {str(result.error).strip().splitlines()[-1]}"
    return died


def train_one(config: dict[str, Any], *, runs: list[RunConfig], out: Path, sweep: SweepConfig, **given: Any) -> None:
    """Train the run of a trial, reporting each epoch to Tune, which may end it."""
    run = runs[config["run"]]
    _train_reporting(run, PackTrainer(given["store"], out, sweep, given["gpus"]), out, sweep.search.scheduler == "asha")


def train_drawn(config: dict[str, Any], *, cell: Cell, out: Path, sweep: SweepConfig, **given: Any) -> None:
    """Train the run of one cell with the settings that were drawn."""
    run = plan_settings(sweep, ActivationStore.open(given["store"]), cell, _settings(config))
    write_text(out / run.id / RUN_FILE, run.model_dump_json(indent=2) + "\n")
    write_text(out / run.id / SEARCH_FILE, json.dumps(config) + "\n")
    _train_reporting(run, PackTrainer(given["store"], out, sweep, given["gpus"]), out, sweep.search.scheduler == "asha")


def _space(config: SweepConfig) -> dict[str, Any]:
    """Tune's distributions of the ranges."""
    ranges = [parse_range(text) for text in config.search.ranges]
    domains = {}
    for field, low, high, log in ranges:
        if isinstance(low, int) and isinstance(high, int):
            domains[field] = tune.lograndint(low, high + 1) if log else tune.randint(low, high + 1)
        else:
            domains[field] = tune.loguniform(low, high) if log else tune.uniform(low, high)
    return domains


def _optuna(config: SweepConfig, drawn: list[tuple[dict[str, Any], float]]) -> Any:
    """Optuna's search over the ranges, which knows what was drawn before. Raises `InvalidInputError` without Optuna."""
    try:
        import optuna as package
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise InvalidInputError("search.samples needs the package optuna: pip install optuna.") from error
    package.logging.set_verbosity(package.logging.WARNING)
    return OptunaSearch(
        _space(config),
        metric=config.search.metric,
        mode="min",
        seed=config.training.seed + len(drawn),
        points_to_evaluate=[settings for settings, _ in drawn] or None,
        evaluated_rewards=[reward for _, reward in drawn] or None,
    )


def drawn_before(
    config: SweepConfig, store: ActivationStore, cell: Cell, out: Path
) -> list[tuple[RunConfig, dict[str, Any]]]:
    """Runs of a cell in `out` whose settings this search has drawn, ended or not."""
    fields = {field for field, *_ in map(parse_range, config.search.ranges)}
    found: list[tuple[RunConfig, dict[str, Any]]] = []
    for file in sorted(out.glob(f"*/{SEARCH_FILE}")):
        settings = json.loads(file.read_text(encoding="utf-8"))
        if settings.keys() != fields:
            continue
        run = plan_settings(config, store, cell, _settings(settings))
        if run.id == file.parent.name:
            found.append((run, settings))
    return found


def reward(out: Path, run: RunConfig, metric: str) -> float:
    """What a run that has ended reported last."""
    if is_finished(out, run) and hasattr(result := read_result(out, run), metric):
        return float(getattr(result, metric))
    last = (out / run.id / METRICS_FILE).read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)[metric])


def cell_of(run: RunConfig) -> Cell:
    """The cell that a run is of."""
    return Cell(run.cell.layer, run.cell.site, run.cell.position)


def _settings(drawn: dict[str, Any]) -> Settings:
    return tuple(Setting(*item) for item in drawn.items())


def _has_ended(out: Path, run: RunConfig) -> bool:
    """Whether a run has something to tell Optuna."""
    return is_finished(out, run) or was_stopped(out, run)


def _longest(config: SweepConfig) -> int:
    """The epochs of the longest training that may be drawn."""
    highest = [high for field, _, high, _ in map(parse_range, config.search.ranges) if field == "training.epochs"]
    return int(max([config.training.epochs, *highest]))


def _train_reporting(run: RunConfig, trainer: PackTrainer, out: Path, halved: bool) -> None:
    """Train a run; Tune is told its end and, if it is to be `halved`, each epoch."""
    last: dict[str, Any] = {}

    def report(_: RunConfig, lines: list[TrainingMetrics]) -> None:
        last.update(metrics_row(lines[-1]))
        if halved and last["epoch"] < run.training.epochs:  # the last epoch is reported with the measures
            tune.report(dict(last))

    trainer(Pack((run,)), report)
    if is_finished(out, run):
        measures = {k: v for k, v in read_result(out, run).model_dump().items() if isinstance(v, int | float)}
        tune.report({**last, **measures, "epoch": run.training.epochs})
