"""Workers, a whole node and the driver are killed during a sweep: its table is that of a quiet one."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.chaos import Cluster, Watch, assert_each_finished_once, finish, start, three_nodes, wreak

pytestmark = pytest.mark.slow

SEED = 5
RUNS = 60
EVENTS = ("worker", "worker", "worker", "node", "driver", "driver")
RUNS_BETWEEN_EVENTS = (2, 7)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with three_nodes("ray::ResourceTrainable") as cluster:
        yield cluster


@pytest.fixture
def arguments(tiny_store: Path) -> list[str]:
    """The command without its output folder: 4 cells x 3 weights x 5 seeds, packs of up to two."""
    return [
        "sweep", "--store", str(tiny_store), "--positions", "7", "--seeds", *map(str, range(5)),
        "--axes", "training.entropy_weight=1e-5,1e-3,1e-2", "--packed", "2", "--retries", "20", "--gpus-per-trial", "0",
        "--training.epochs", "80", "--training.batch-size", "32", "--training.lr", "3e-3",
    ]  # fmt: skip


def table(out: Path) -> pd.DataFrame:
    """Everything but how long it took."""
    return pd.read_parquet(out / "results.parquet").drop(columns="seconds")


def test_killed_workers_node_and_driver_leave_the_table_of_a_quiet_sweep(
    cluster: Cluster, arguments: list[str], tmp_path: Path
):
    quiet, out = tmp_path / "quiet", tmp_path / "chaos"
    finish(start(arguments, quiet, {**os.environ, "RAY_ADDRESS": "local"}), quiet)

    generator = random.Random(SEED)
    watch = Watch(out, "*/result.json")
    events = list(EVENTS)
    generator.shuffle(events)
    kept = wreak(
        cluster, watch, lambda: start(arguments, out, cluster.environment), events, RUNS_BETWEEN_EVENTS, RUNS, generator
    )

    assert_each_finished_once(watch, kept, RUNS)
    assert table(out)["status"].tolist() == ["finished"] * RUNS
    pd.testing.assert_frame_equal(table(out), table(quiet), check_exact=True)
    for folder in (out, quiet):
        assert not (folder / "states").exists()
        logs = [file.read_text().splitlines() for file in folder.glob("*/metrics.jsonl")]
        assert all([json.loads(line)["epoch"] for line in log] == list(range(1, 81)) for log in logs)
