"""Jobs as trials of Ray Tune, whose own results and state are thrown away: ours are what the workers write."""

import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune
from typing_extensions import override

from bae_ray.chatter import quieten
from bae_ray.meters import Busy
from bae_ray.ray_meters import report_to_ray
from bae_ray.storage import folder_at
from bae_ray.work.attempts import LITTLE_MEMORY
from bae_ray.work.devices import take
from bae_ray.work.executor import DiedJob, WorkOrder
from bae_ray.work.preemption import Preempted, stop_if_asked, watch
from bae_ray.work.ray_data import RayData
from bae_ray.work.ray_leaving import leaving, told_to_ray


class RayTune(RayData):
    """A trial does the units of a job, one in each step; its actor goes on to the next job."""

    def __init__(self, out: Path, retries: int) -> None:
        """`out`: folder for Tune's state, which all machines see. A trial is begun again `retries` times."""
        self._out, self._retries = out, retries

    @override
    def run(self, order: WorkOrder[Any, Any]) -> list[DiedJob]:
        jobs = list(order.jobs)
        trainable = tune.with_parameters(_Trial, jobs=jobs, worker=order.worker, share=order.share)
        seen: set[tuple[int, int]] = set()

        def tell(result: dict[str, Any]) -> None:
            if (unit := (result["job"], result["unit"])) not in seen:  # a job that is begun again reports them again
                seen.add(unit)
                order.told(jobs[unit[0]][unit[1]], result["answer"])

        results = run_trials(
            tune.with_resources(trainable, {"cpu": order.share.cpus, "gpu": order.share.gpus}),
            {"job": tune.grid_search(list(range(len(jobs))))},
            tune.TuneConfig(reuse_actors=True, max_concurrent_trials=order.workers),
            self._out,
            self._retries,
            tell,
        )
        alone = ", with nothing beside it" if order.workers == 1 else ""
        times = f"its worker died {self._retries + 1} times{alone}; {LITTLE_MEMORY}"
        return [
            DiedJob(job, (result.metrics or {}).get("unit", -1) + 1, f"{times} ({last_line(result)})")
            for job, result in zip(jobs, results, strict=True)
            if result.error is not None
        ]


class _Trial(tune.Trainable):
    """Does the units of a job."""

    @override
    def setup(self, config: dict[str, Any], **given: Any) -> None:
        self._jobs: Sequence[Sequence[Any]] = given["jobs"]
        report_to_ray()
        watch(leaving)
        device = take(given["share"])
        self._worker: Callable[[Any], Any] = given["worker"](device)
        self._busy = Busy(device)
        self._next = 0

    @override
    def step(self) -> dict[str, Any]:
        number, unit = self.config["job"], self._next
        job = self._jobs[number]
        try:
            stop_if_asked()
            with self._busy.unit():
                answer = self._worker(job[unit])
        except Preempted as error:  # Tune stops this actor, and begins the job again in one elsewhere
            raise told_to_ray(error) from None
        self._next += 1
        return {"done": self._next == len(job), "job": number, "unit": unit, "answer": answer}

    @override
    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config, self._next = new_config, 0
        return True


def last_line(result: tune.Result) -> str:
    """What the worker of a trial died of, in a line."""
    return str(result.error).strip().splitlines()[-1]


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
    scratch = folder_at(out / f".tune-{uuid.uuid4().hex}")
    config.trial_dirname_creator = lambda trial: trial.trial_id
    try:
        ended = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=config,
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch.root,
                storage_filesystem=None if scratch.path else scratch.filesystem,
                verbose=0,
                callbacks=[_Tell(on_result, on_end)],
                failure_config=tune.FailureConfig(max_failures=retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
        return [ended[number] for number in range(len(ended))]
    finally:
        with suppress(OSError):
            scratch.remove()


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
