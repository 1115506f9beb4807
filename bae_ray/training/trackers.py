"""Logging the metrics of runs to TensorBoard, Weights & Biases and MLflow, besides their folders."""

import os
from pathlib import Path
from typing import Any

from bae_ray.errors import InvalidInputError
from bae_ray.files import publish
from bae_ray.training.config import RunConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.run_folder import RunResult
from bae_ray.training.sweep_config import ExecutionConfig


class TensorBoard:
    """Event files, a folder per run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def log(self, run: RunConfig, lines: list[TrainingMetrics]) -> None:
        """Write the scalars of an epoch."""
        from tensorboardX import SummaryWriter

        if run.id not in self._writers:
            # A training that goes on writes its later steps anew.
            self._writers[run.id] = SummaryWriter(str(self._folder / run.id), purge_step=lines[0].step, flush_secs=10)
        writer = self._writers[run.id]
        for line in lines:
            for column, value in line.row().items():
                if column != "step":
                    writer.add_scalar(column, value, line.step)

    def finish(self, run: RunConfig, result: RunResult | None) -> None:
        """Close the run's file."""
        if (writer := self._writers.pop(run.id, None)) is not None:
            if result is not None:
                writer.add_text("run", f"```\n{run.model_dump_json(indent=2)}\n```")
                for name, value in _measures(result).items():
                    writer.add_scalar(f"result/{name}", value, 0)
            writer.close()
            publish(self._folder / run.id)


class WandB:
    """Runs of a Weights & Biases project, offline where there is no API key."""

    def __init__(self, project: str, out: Path) -> None:
        self._project, self._out = project, out
        self._runs: dict[str, Any] = {}

    def log(self, run: RunConfig, lines: list[TrainingMetrics]) -> None:
        """Log an epoch."""
        import wandb  # pyright: ignore[reportMissingImports]

        if run.id not in self._runs:
            mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
            self._runs[run.id] = wandb.init(
                project=self._project,
                id=run.id,
                name=run.id,
                config=run.model_dump(mode="json"),
                dir=str(self._out),
                mode=os.environ.get("WANDB_MODE", mode),  # pyright: ignore[reportArgumentType] - wandb checks it
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )
        for line in lines:
            self._runs[run.id].log(line.row(), step=line.step)

    def finish(self, run: RunConfig, result: RunResult | None) -> None:
        """Put the measures into the summary and close the run."""
        if (logged := self._runs.pop(run.id, None)) is not None:
            logged.summary.update(_measures(result))
            logged.finish(exit_code=0 if result is not None else 1)
            publish(self._out / "wandb")


class MLflow:
    """Runs of an MLflow experiment."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: Any = None
        self._runs: dict[str, str] = {}

    def log(self, run: RunConfig, lines: list[TrainingMetrics]) -> None:
        """Log an epoch."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        if self._client is None:
            self._client = MlflowClient(self._uri)
        if run.id not in self._runs:
            self._runs[run.id] = self._begin(run)
        metrics = [Metric(name, float(value), 0, line.step) for line in lines for name, value in line.row().items()]
        self._client.log_batch(self._runs[run.id], metrics=metrics)

    def finish(self, run: RunConfig, result: RunResult | None) -> None:
        """Log the measures and end the run."""
        if (logged := self._runs.pop(run.id, None)) is not None:
            for name, value in _measures(result).items():
                self._client.log_metric(logged, f"result.{name}", value)
            self._client.set_terminated(logged, "FINISHED" if result is not None else "FAILED")

    def _begin(self, run: RunConfig) -> str:
        number = self._experiment("bae_ray")
        logged = self._client.create_run(number, run_name=run.id).info.run_id
        for section in ("cell", "autoencoder", "training"):
            for field, value in getattr(run, section).model_dump().items():
                self._client.log_param(logged, f"{section}.{field}", value)
        return logged

    def _experiment(self, name: str) -> str:
        """The experiment's id. Creates the experiment if it is missing."""
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except Exception:  # another worker was quicker
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return found.experiment_id


def _measures(result: RunResult | None) -> dict[str, float]:
    fields = result.model_dump() if result is not None else {}
    return {name: float(value) for name, value in fields.items() if isinstance(value, int | float)}


Tracker = TensorBoard | WandB | MLflow
"""A service or folder to which the metrics of many runs are logged: each epoch's, and those of the end."""


def open_trackers(execution: ExecutionConfig, out: Path) -> list[Tracker]:
    """The trackers that the config asks for. Raises `InvalidInputError` where a package is missing."""
    trackers: list[Tracker] = []
    if execution.tensorboard:
        trackers.append(TensorBoard(out / "tensorboard"))
    if execution.wandb is not None:
        trackers.append(WandB(execution.wandb, out))
    if execution.mlflow is not None:
        trackers.append(MLflow(execution.mlflow))
    return trackers


def check_trackers(execution: ExecutionConfig) -> None:
    """Raise `InvalidInputError` where a package that the config asks for is missing here."""
    from importlib.util import find_spec

    for package, wanted in (("wandb", execution.wandb), ("mlflow", execution.mlflow)):
        if wanted is not None and find_spec(package) is None:
            raise InvalidInputError(
                f"{package} is {wanted}, but the package is not installed: pip install '{package}', or leave it out."
            )
