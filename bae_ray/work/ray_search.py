"""Searching with Ray Tune: trials that ASHA stops early, and settings that Optuna draws."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.trainable.function_trainable import wrap_function
from typing_extensions import override

from bae_ray.errors import InvalidInputError
from bae_ray.ray_meters import report_to_ray
from bae_ray.work.devices import Share
from bae_ray.work.preemption import Preempted, watch
from bae_ray.work.ray_leaving import leaving, told_to_ray
from bae_ray.work.ray_tune import run_trials

Interval = tuple[str, float, float, bool]
"""A field, the lowest and the highest value that is drawn, and whether on a logarithmic scale."""

report = tune.report
"""Tells Tune the metrics of the trial that this process runs."""


class OptunaDraws(OptunaSearch):
    """Settings from Optuna, a trial's each time; what is trained with them is what `draw` makes of them."""

    def __init__(
        self,
        ranges: Sequence[Interval],
        metric: str,
        seed: int,
        before: Sequence[tuple[dict[str, Any], float]],
        draw: Callable[[dict[str, Any]], BaseModel | None],
    ) -> None:
        """`before`: settings that have ended, with their metrics. Raises `InvalidInputError` without Optuna."""
        try:
            import optuna
        except ImportError as error:
            raise InvalidInputError("search.samples needs the package optuna: pip install optuna.") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(
            _space(ranges),
            metric=metric,
            mode="min",
            seed=seed,
            points_to_evaluate=[settings for settings, _ in before] or None,
            evaluated_rewards=[reward for _, reward in before] or None,
        )
        self._draw = draw
        self._idle: set[str] = set()

    @override
    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        run = self._draw(super().suggest(trial_id) or {})
        if run is None:
            self._idle.add(trial_id)
        return {"run": run and run.model_dump_json()}

    @override
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        # What trained nothing says nothing of the settings.
        super().on_trial_complete(trial_id, result, error or trial_id in self._idle)

    @override
    def save(self, checkpoint_path: str) -> None:
        """Nothing: an interrupted search goes on from what is in its folder."""

    @override
    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


def asha(metric: str, epochs: int, grace_epochs: int, reduction: int) -> ASHAScheduler:
    """The scheduler of trials that are trained for so many epochs at most."""
    return ASHAScheduler(
        time_attr="epoch",
        metric=metric,
        mode="min",
        max_t=epochs,
        grace_period=min(grace_epochs, epochs),
        reduction_factor=reduction,
    )


def run_search(
    train: Callable[[str], None],
    given: Sequence[BaseModel] | OptunaDraws,
    n: int,
    scheduler: ASHAScheduler | None,
    share: Share,
    out: Path,
    retries: int,
    on_end: Callable[[], None],
) -> list[tuple[str, tune.Result]]:
    """Train what is given, or `n` times what is drawn; each that was trained, as JSON, and what came of it."""
    if isinstance(given, OptunaDraws):
        space, config = {}, tune.TuneConfig(scheduler=scheduler, search_alg=given, num_samples=n)
    else:
        space = {"run": tune.grid_search([run.model_dump_json() for run in given])}
        config = tune.TuneConfig(scheduler=scheduler)
    results = run_trials(
        tune.with_resources(
            _watched(tune.with_parameters(_trial, train=train)), {"cpu": share.cpus, "gpu": share.gpus}
        ),
        space,
        config,
        out,
        retries,
        on_end=on_end,
    )
    return [(text, result) for result in results if (text := (result.config or {}).get("run")) is not None]


def _trial(config: dict[str, Any], *, train: Callable[[str], None]) -> None:
    if config["run"] is not None:
        report_to_ray()
        try:
            train(config["run"])
        except Preempted as error:
            raise told_to_ray(error) from None


def _watched(function: Callable[..., None]) -> type[tune.Trainable]:
    """Tune's class for a function, which runs in a thread: SIGTERM is taken by the main one."""

    class Watched(wrap_function(function)):
        """Tells Tune of a trial that was asked to end and did not in time."""

        @override
        def setup(self, config: dict[str, Any], **given: Any) -> None:
            watch(leaving)
            super().setup(config, **given)

        @override
        def step(self) -> Any:
            try:
                return super().step()
            except Preempted as error:
                raise told_to_ray(error) from None

    return Watched


def _space(ranges: Sequence[Interval]) -> dict[str, Any]:
    """Tune's distributions of the ranges."""
    domains = {}
    for field, low, high, log in ranges:
        if isinstance(low, int) and isinstance(high, int):
            domains[field] = tune.lograndint(low, high + 1) if log else tune.randint(low, high + 1)
        else:
            domains[field] = tune.loguniform(low, high) if log else tune.uniform(low, high)
    return domains
