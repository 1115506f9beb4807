"""From texts to scores in one bucket, workers and drivers killed in each step, each going on from another machine."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from pyarrow import BufferReader

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.store import ActivationStore
from tests.bucket import PASSWORD, Proxy, Server
from tests.comsem.server import JudgeServer, perfect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

PATIENCE_S = 900
STARTS = 4
Driver = subprocess.Popen[bytes]


class Commands:
    """Commands as processes of their own, each with a cache of its own; what they print is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, 0

    def start(self, *arguments: object) -> Driver:
        self._started += 1
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment |= {"RAY_ADDRESS": "local", "BAE_RAY_CACHE": str(self._folder / f"cache{self._started}")}
        with open(self._folder / "commands.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", "from bae_ray.cli import main; main()", *map(str, arguments)],
                env={**environment, "PYTHONWARNINGS": "ignore"}, stdout=log, stderr=log,
            )  # fmt: skip

    def run(self, *arguments: object) -> None:
        """Have the command finish; where its Ray does not start or gives up on a busy machine, it is given again."""
        for _ in range(STARTS):
            if self.start(*arguments).wait(timeout=PATIENCE_S) == 0:
                return
        raise AssertionError(self.printed()[-3000:])

    def printed(self) -> str:
        return (self._folder / "commands.log").read_text(errors="replace")

    def wreck(self, progress: Callable[[], int], steps: tuple[int, int], *arguments: object) -> None:
        """Start the command, kill a worker after so much progress, and the driver after more; then have it finish.

        On a busy machine a Ray that lost a worker may give up by itself: the same command goes on from there, too.
        """
        for _ in range(STARTS):
            driver = self.start(*arguments)
            if self._wait(driver, progress, steps[0]):
                if workers := self._workers(driver):
                    workers[0].kill()
                if self._wait(driver, progress, steps[1]):
                    break
        else:
            raise AssertionError(f"no driver could be killed: {self.printed()[-3000:]}")
        driver.kill()
        driver.wait()
        self.run(*arguments)

    def _wait(self, driver: Driver, progress: Callable[[], int], wanted: int) -> bool:
        """Wait for so much progress; whether the driver did not end by itself before."""
        deadline = time.monotonic() + PATIENCE_S
        while progress() < wanted:
            if driver.poll() is not None:
                assert driver.returncode != 0, "it was finished before it was killed"
                return False
            assert time.monotonic() < deadline, f"no progress beyond {progress()}: {self.printed()[-3000:]}"
            time.sleep(0.05)
        return True

    def _workers(self, driver: Driver) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in psutil.Process(driver.pid).children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if title.startswith("ray::") and not title.startswith("ray::IDLE") and "Stats" not in title:
                found.append(process)
        return found


def test_all_steps_in_one_bucket_with_kills_are_those_of_this_machine(
    server: Server, tiny_config: ExtractConfig, tiny_model: Path, tmp_path: Path
):
    commands = Commands(tmp_path)
    extraction = [
        "extract", "--model", tiny_config.model, "--corpus", tiny_config.corpus, "--positions", "all", "--layers", 0, 1,
        "--shard-size", 4, "--batch-size", 2, "--workers", 1, "--gpus-per-worker", 0, "--attempts", 5,
    ]  # fmt: skip
    sweep = [
        "sweep", "--seeds", 0, 1, 2, "--axes", "training.entropy_weight=1e-4,1e-2", "--packed", 1, "--retries", 9,
        "--gpus-per-trial", 0, "--training.epochs", 30, "--training.batch-size", 32, "--training.lr", 3e-3,
    ]  # fmt: skip
    comsem = [
        "comsem", "--tokenizer", tiny_model, "--examples.k", 1, "--examples.n-interpret", 3, "--examples.n-test", 3,
        "--examples.top", 4, "--scoring.random-features", 4, "--backoff-s", 0.01, "--in-flight", 4,
    ]  # fmt: skip

    def count(folder: str, part: str) -> Callable[[], int]:
        return lambda: sum(part in name for name in server.names(f"bucket/all/{folder}"))

    def there(name: str) -> str:
        return server.bare_uri(f"bucket/all/{name}")

    def here(name: str) -> str:
        return str(tmp_path / "here" / name)

    commands.run(*extraction, "--out", here("store"))
    commands.wreck(count("store", "receipts/"), (3, 12), *extraction, "--out", there("store"))
    ours, theirs = ActivationStore.open(here("store")), ActivationStore.open(there("store"))
    assert theirs.manifest == ours.manifest
    theirs.verify()

    commands.run(*sweep, "--store", here("store"), "--out", here("runs"))
    commands.wreck(count("runs", "result.json"), (2, 6), *sweep, "--store", there("store"), "--out", there("runs"))
    local = pd.read_parquet(here("runs") + "/results.parquet").drop(columns="seconds")
    found = (
        pq.read_table(BufferReader(server.read("bucket/all/runs/results.parquet"))).to_pandas().drop(columns="seconds")
    )
    assert set(found["status"]) == {"finished"}
    pd.testing.assert_frame_equal(found, local, check_exact=True)
    for run in found["run"]:
        lines = server.read(f"bucket/all/runs/{run}/metrics.jsonl").splitlines()
        assert len(lines) == 30
        assert server.requests("PUT|POST", f"bucket/all/runs/{run}/result.json"), run

    commands.run("report", "--runs", here("runs"), "--out", here("report"))
    commands.run("report", "--runs", there("runs"), "--out", there("report"))
    assert server.read("bucket/all/report/entropy.csv") == Path(here("report"), "entropy.csv").read_bytes()

    run = str(found[(found["layer"] == 1)]["run"].iloc[0])
    shared = ("--part-rows", 64, "--block-rows", 16, "--gpus-per-worker", 0, "--workers", 1, "--attempts", 5)
    commands.run(
        "compress", "--source", here("store"), "--autoencoder", here(f"runs/{run}"), "--out", here("codes"), *shared
    )
    commands.wreck(
        count("codes", ".parts/"), (3, 10), "compress", "--source", there("store"), "--autoencoder",
        there(f"runs/{run}"), "--out", there("codes"), *shared,
    )  # fmt: skip
    (codes,) = [file for file in Path(here("codes")).rglob("*.codes*") if "receipts" not in file.parts]
    assert server.read(f"bucket/all/codes/{codes.relative_to(here('codes'))}") == codes.read_bytes()

    with JudgeServer(perfect) as judge:
        asked = (*comsem, "--judge-url", judge.url)
        commands.run(*asked, "--autoencoders", here(f"runs/{run}"), "--store", here("store"), "--out", here("comsem"))
        paid = judge.paid.total()
        commands.wreck(
            lambda: judge.paid.total() - paid, (paid // 4, paid // 2), *asked, "--autoencoders", there(f"runs/{run}"),
            "--store", there("store"), "--out", there("comsem"),
        )  # fmt: skip
    for name in ("summary.csv", f"{run}/features.parquet"):
        assert server.read(f"bucket/all/comsem/{name}") == Path(here("comsem"), name).read_bytes()
    assert PASSWORD not in commands.printed()
    assert str(tmp_path / "cache") not in commands.printed()


def test_a_bucket_that_refuses_for_a_minute_loses_no_training(server: Server, tiny_store: Path, tmp_path: Path):
    commands, proxy = Commands(tmp_path), Proxy(server)
    arguments = [
        "sweep", "--store", tiny_store, "--layers", 2, "--positions", 7, "--seeds", 0, 1, 2, 3, "--gpus-per-trial", 0,
        "--packed", 1, "--training.epochs", 10, "--training.batch-size", 32,
    ]  # fmt: skip
    commands.run(*arguments, "--out", tmp_path / "runs")
    driver = commands.start(*arguments, "--out", server.bare_uri("bucket/minute", proxy.port))
    while not any(name.endswith("run.json") for name in server.names("bucket/minute")):
        assert driver.poll() is None, commands.printed()[-3000:]
        time.sleep(0.05)
    proxy.refuse_for(60)
    assert driver.wait(timeout=PATIENCE_S) == 0, commands.printed()[-3000:]
    assert proxy.refused > 5
    found = (
        pq.read_table(BufferReader(server.read("bucket/minute/results.parquet"))).to_pandas().drop(columns="seconds")
    )
    local = pd.read_parquet(tmp_path / "runs" / "results.parquet").drop(columns="seconds")
    pd.testing.assert_frame_equal(found, local, check_exact=True)
    proxy.close()
