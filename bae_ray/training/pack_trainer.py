"""One worker of a sweep: a job in, directories of runs out. Knows nothing of who calls it."""

import gc
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import OutOfMemoryError
from bae_ray.storage import Folder
from bae_ray.training.config import RunConfig
from bae_ray.training.loop import TrainingMetrics
from bae_ray.training.packing import Pack
from bae_ray.training.run_execution import execute_runs
from bae_ray.training.run_folder import RunResult
from bae_ray.training.sweep_config import ExecutionConfig
from bae_ray.training.trackers import Tracker, open_trackers


class Trial(NamedTuple):
    """What came of a pack."""

    finished: int
    failed: int


class PackTrainer:
    """Trains packs, one after another, with the same opened store: a cell's files are checked once."""

    def __init__(self, device: str, store: Folder, out: Path, execution: ExecutionConfig) -> None:
        self._device, self._store, self._out = device, ActivationStore.open(store), out
        self._trackers = open_trackers(execution, out)

    def __call__(self, pack: Pack, on_epoch: Callable[[RunConfig, list[TrainingMetrics]], None] | None = None) -> Trial:
        """Train a pack. Where its runs do not fit into memory together, the halves of it are tried."""
        if self._device == "cuda":  # what torch keeps of the last pack would look taken
            gc.collect()
            torch.cuda.empty_cache()

        def log(run: RunConfig, lines: list[TrainingMetrics]) -> None:
            self._tell(lambda tracker: tracker.log(run, lines))
            if on_epoch is not None:
                on_epoch(run, lines)

        outcomes = execute_runs(pack.runs, self._store, self._out, pack.state(self._out), self._device, log)
        if len(pack.runs) > 1 and all(isinstance(outcome, OutOfMemoryError) for outcome in outcomes):
            half = len(pack.runs) // 2
            first, second = (self(Pack(runs), on_epoch) for runs in (pack.runs[:half], pack.runs[half:]))
            return Trial(first.finished + second.finished, first.failed + second.failed)
        for run, outcome in zip(pack.runs, outcomes, strict=True):
            result = outcome if isinstance(outcome, RunResult) else None
            self._tell(partial(_finish, run=run, result=result))
        finished = sum(isinstance(outcome, RunResult) for outcome in outcomes)
        return Trial(finished, len(outcomes) - finished)

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        """Tell all trackers; one that fails is given up, since no training should be lost for it."""
        for tracker in [*self._trackers]:
            try:
                what(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                name = type(tracker).__name__
                print(f"warning: nothing more is logged to {name} from here: {error}", file=sys.stderr)


def _finish(tracker: Tracker, run: RunConfig, result: RunResult | None) -> None:
    tracker.finish(run, result)
