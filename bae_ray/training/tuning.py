"""Running trials with Ray Tune, whose own results and state are thrown away: ours are the run directories."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from typing_extensions import override

from bae_ray.chatter import quieten


def run_trials(
    trainable: Any,
    space: dict[str, Any],
    config: tune.TuneConfig,
    out: Path,
    retries: int,
    on_result: Callable[[dict[str, Any]], None] = lambda _: None,
    on_end: Callable[[], None] = lambda: None,
) -> list[tune.Result]:
    """Run every trial and give what came of each; one whose worker dies is begun again so many times.

    Ray is connected already. `on_result` is told what a trial reports, `on_end` that one has ended.
    """
    # Result files of every trial in four formats cost more than a small training.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the sweep, not just Tune's part of it
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output points to Tune's folder even at verbosity 0
    quieten()
    scratch = out / f".tune-{uuid.uuid4().hex}"
    config.trial_dirname_creator = lambda trial: trial.trial_id
    try:
        ended = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=config,
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch),
                verbose=0,
                callbacks=[_Tell(on_result, on_end)],
                failure_config=tune.FailureConfig(max_failures=retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
        return [ended[number] for number in range(len(ended))]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Tell(tune.Callback):
    """Passes on what trials report."""

    def __init__(self, on_result: Callable[[dict[str, Any]], None], on_end: Callable[[], None]) -> None:
        self._on_result, self._on_end = on_result, on_end

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its callbacks down, for a restart that never comes: not the progress bar that these hold."""
        return {}

    @override
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._on_result(result)

    @override
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._on_end()

    @override
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._on_end()
