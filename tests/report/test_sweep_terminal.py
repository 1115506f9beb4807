import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import expand
from bae_ray.training.results import results
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.training.sweep_folder import GridRecord, status

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def half_done(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of 8 runs, of which 4 are finished, one fails, one is running and one was stopped by a search."""
    out, store = tmp_path_factory.mktemp("watched") / "sweep", ActivationStore.open(tiny_store)
    config = SweepConfig(
        layers=(0, 1),
        training=TrainingConfig(epochs=3, batch_size=32),
        cpus_per_trial=2,
        gpus_per_trial=0,
        tensorboard=False,
    )
    sweep(config, store, out)
    runs = expand(config.model_copy(update={"seeds": (0, 1)}), store)
    GridRecord(runs=[run.id for run in runs]).write(out)
    failed, running, stopped = [run for run in runs if run.training.seed == 1][:3]
    for run in (failed, running, stopped):
        (out / run.id).mkdir()
        (out / run.id / "run.json").write_text(run.model_dump_json())
    reason = {"error": "DivergedError", "message": "the loss became nan", "cell": failed.cell.model_dump()}
    (out / failed.id / "failure.json").write_text(json.dumps(reason))
    (out / stopped.id / "failure.json").write_text(json.dumps({**reason, "error": "Stopped"}))
    (out / running.id / "metrics.jsonl").write_text('{"epoch": 2, "loss": 0.25}\n{"epoch": 3, "lo')
    return out


def test_status_is_told_from_the_folder(half_done: Path):
    seen = status(half_done)
    assert (seen.planned, len(seen.finished), seen.stopped, seen.left) == (8, 4, 1, 2)
    assert list(seen.failed.values()) == ["the loss became nan"]
    assert list(seen.running.values()) == ["epoch 2 of 3, loss 0.25"]
    assert seen.seconds_left() is None, "none has been finished since this grid was begun"
    minute_ago = time.time() - 60
    os.utime(half_done / "grid.json", (minute_ago, minute_ago))
    for run in seen.finished:
        os.utime(half_done / run / "result.json")
    assert status(half_done).seconds_left() == pytest.approx(2 * 60 / 4, rel=0.1)


def test_watch_shows_it_once(bae_ray: Callable, half_done: Path):
    code, out, err = bae_ray("watch", "--runs", half_done, "--once")
    assert (code, err) == (0, "")
    shown = " ".join(out.split())
    assert "done │ 4 of 8" in shown
    assert "failed │ 1" in shown
    assert "epoch 2 of 3, loss 0.25" in shown
    best = results(half_done)["fvu_val"].min()
    assert f"fvu_val {best:.4g}" in shown
    code, _, err = bae_ray("watch", "--runs", half_done, "--once", "--best", "beauty")
    assert code == 2
    assert "best is beauty, which is no column" in err


def test_watch_ends_with_the_sweep(bae_ray: Callable, half_done: Path, tmp_path: Path):
    finished = [file.parent.name for file in half_done.glob("*/result.json")]
    for name in finished:
        (tmp_path / name).symlink_to(half_done / name)
    record = GridRecord(runs=finished)
    record.write(tmp_path)
    end = threading.Timer(1, lambda: record.model_copy(update={"ended": True}).write(tmp_path))
    end.start()
    began = time.monotonic()
    code, out, _ = bae_ray("watch", "--runs", tmp_path, "--every", "0.1")
    assert code == 0
    assert "4 of 4" in out
    assert time.monotonic() - began > 0.5, "it left while failed runs may still be tried once more"
    end.join()


def test_no_sweep_is_said(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"holds no sweep \(grid\.json is missing\)"):
        status(tmp_path)
