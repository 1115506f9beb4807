"""Running a grid with Ray Tune: one trial per run, reused actors, one directory per run.

The run directories are the state. A trial that has written its result is never run again, whatever became of the
sweep that it was part of; Tune's own state is thrown away.
"""

import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ray import tune
from typing_extensions import override

from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.cluster import check_fits, connect, total
from bae_ray.progress import Tracker, console, track
from bae_ray.training.config import RunConfig
from bae_ray.training.grid import SweepConfig, expand
from bae_ray.training.results import results, write_parquet
from bae_ray.training.run import execute_run, failure_reason, is_finished

RESULTS_FILE = "results.parquet"
MAX_RETRIES_PER_TRIAL = 2


class SweepOutcome(NamedTuple):
    """What a sweep did."""

    runs: list[RunConfig]
    """Every run of the grid."""
    finished: list[str]
    """Ids of those that are finished, now or before."""
    trained: int
    """How many of them were trained just now."""
    failures: list[str]
    """A line for each run that failed."""


def sweep(config: SweepConfig, store: ActivationStore, out: str | Path) -> SweepOutcome:
    """Train every run of the grid that is not finished in `out` yet; see `train_runs`."""
    return train_runs(expand(config, store), store, out, config.cpus_per_trial, config.gpus_per_trial)


def train_runs(
    runs: list[RunConfig],
    store: ActivationStore,
    out: str | Path,
    cpus_per_trial: float = 1,
    gpus_per_trial: float | None = None,
) -> SweepOutcome:
    """Train those of the runs that are not finished in `out` yet, and write `out/results.parquet`.

    A run that fails is reported in the outcome and in its directory; the others go on. CPUs and GPUs as in
    `SweepConfig`.
    """
    out = Path(out).absolute()
    missing = [run for run in runs if not is_finished(out, run)]
    console.print(f"Sweep: {len(runs)} runs, {len(runs) - len(missing)} of them finished already.")
    failures = _train(missing, store, out, cpus_per_trial, gpus_per_trial) if missing else []
    finished = [run.id for run in runs if is_finished(out, run)]
    if finished:
        write_parquet(results(out, only=finished), out / RESULTS_FILE)
    return SweepOutcome(runs, finished, len(missing) - len(failures), failures)


def _train(
    missing: list[RunConfig], store: ActivationStore, out: Path, cpus: float, gpus_per_trial: float | None
) -> list[str]:
    """Train the missing runs; a line for each that failed."""
    # Result files of every trial in four formats cost more than a small training; ours are in the run directories.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the sweep, not just Tune's part of it
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output points to Tune's folder even at verbosity 0
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)  # misses those files
    connect()
    gpus = gpus_per_trial if gpus_per_trial is not None else float(total("GPU") > 0)
    check_fits("a training", cpus, gpus)
    threads = max(1, int(cpus))
    trainable = tune.with_parameters(RunTrainable, store=store.folder, out=out, threads=threads, gpus=gpus)
    scratch = out / f".tune-{uuid.uuid4().hex}"
    try:
        with track("Training", len(missing)) as tracker:
            tune.Tuner(
                tune.with_resources(trainable, {"cpu": cpus, "gpu": gpus}),
                param_space={"run": tune.grid_search([run.model_dump(mode="json") for run in missing])},
                tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=str(scratch),
                    verbose=0,
                    callbacks=[_ShowProgress(tracker)],
                    failure_config=tune.FailureConfig(max_failures=MAX_RETRIES_PER_TRIAL),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    died = f"its worker died {MAX_RETRIES_PER_TRIAL + 1} times; too little memory is the usual reason"
    return [
        f"run {run.id} ({_cell(run)}): {failure_reason(out, run) or died}"
        for run in missing
        if not is_finished(out, run)
    ]


def _cell(run: RunConfig) -> Cell:
    return Cell(run.cell.layer, run.cell.site, run.cell.position)


class RunTrainable(tune.Trainable):
    """A Tune trial that trains one run in one step. Its actor goes on to the next run."""

    @override
    def setup(self, config: dict[str, Any], **given: Any) -> None:
        torch.set_num_threads(given["threads"])
        self._store = ActivationStore.open(given["store"])
        self._out: Path = given["out"]
        # Asked for no GPU, Ray leaves the machine's GPUs visible: what was asked for decides.
        self._device = "cuda" if given["gpus"] and torch.cuda.is_available() else "cpu"

    @override
    def step(self) -> dict[str, Any]:
        run = RunConfig.model_validate(self.config["run"])
        try:
            result = execute_run(run, self._store, self._out, self._device)
        except Exception as error:  # recorded in the run's directory; a retry would fail the same way
            return {"done": True, "failure": str(error)}
        return {"done": True, **result.model_dump()}

    @override
    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True


class _ShowProgress(tune.Callback):
    """Counts finished and failed trials on the progress bar."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    @override
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tracker.advance()

    @override
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tracker.advance()
