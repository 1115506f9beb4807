"""Workers of a Ray that get SIGTERM: nothing is lost, nothing counts as a failure, and they end in time."""

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from safetensors import safe_open

from bae_ray.activations.store import ActivationStore
from bae_ray.training.config import TrainingConfig
from bae_ray.training.run_folder import METRICS_FILE, STATE_FILE
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SearchConfig, SweepConfig
from bae_ray.work.preemption import GRACE_S, LAST_S

pytestmark = pytest.mark.usefixtures("ray_cluster")

EPOCHS = 1000
CONFIG = SweepConfig(
    layers=(1,),
    positions=(2,),
    training=TrainingConfig(epochs=EPOCHS, batch_size=32),
    packed=1,
    retries=0,
    cpus_per_trial=2,
    gpus_per_trial=0,
    tensorboard=False,
)


@contextmanager
def beside(action: Callable[[], None]) -> Iterator[None]:
    """An action in a thread beside what is inside; what it raises is raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]


def epochs_of(file: Path) -> list[int]:
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["epoch"] for line in lines if line.endswith("}")]


def state_of(file: Path) -> dict[str, int]:
    with safe_open(file, "pt") as state:
        return json.loads((state.metadata() or {})["training"])


@pytest.mark.parametrize(
    "search",
    [SearchConfig(), pytest.param(SearchConfig(scheduler="asha", grace_epochs=EPOCHS), marks=pytest.mark.slow)],
    ids=["grid", "asha"],
)
def test_a_training_whose_worker_gets_sigterm_goes_on_where_it_was(
    search: SearchConfig, tiny_store: Path, tmp_path: Path
):
    store, ended, saved = ActivationStore.open(tiny_store), [], []

    def terminate() -> None:
        while not (files := [*tmp_path.glob(f"*/{METRICS_FILE}")]) or len(epochs_of(files[0])) < 20:
            time.sleep(0.02)
        processes = psutil.Process().children(recursive=True)
        (worker,) = [process for process in processes if re.match(r"ray::\w+\.train", process.cmdline()[0])]
        started = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        ended.append(time.monotonic() - started)
        saved.append((epochs_of(files[0])[-1], state_of(files[0].with_name(STATE_FILE))))

    with beside(terminate):
        outcome = sweep(CONFIG.model_copy(update={"search": search}), store, tmp_path)
    assert outcome.failures == []
    (run,) = outcome.finished
    assert ended[0] < GRACE_S + LAST_S
    last, state = saved[0]
    assert 20 <= last < EPOCHS
    assert last in (state["epoch"] - 1, state["epoch"])
    assert epochs_of(tmp_path / run / METRICS_FILE) == list(range(1, EPOCHS + 1))
