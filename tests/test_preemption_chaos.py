"""Extraction, a sweep and ComSem on four nodes of which none is safe: their tables are those of a quiet run."""

import os
import time
from pathlib import Path

import pandas as pd
import pytest

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.store import ActivationStore
from tests.chaos import log_of, start
from tests.comsem.server import JudgeServer, perfect
from tests.preemption_storm import COMMAND_S, END_S, LATE_S, History, four_nodes

SECONDS = float(os.environ.get("BAE_RAY_CHAOS_S", "600"))
EPOCHS = 40


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 3600)
def test_preempted_workers_and_nodes_leave_the_tables_of_a_quiet_run(
    tiny_config: ExtractConfig, tiny_model: Path, tmp_path: Path
):
    extraction = [
        "extract", "--model", str(tiny_config.model), "--corpus", str(tiny_config.corpus), "--positions", "all",
        "--layers", "0", "1", "--shard-size", "1", "--batch-size", "1", "--workers", "4", "--gpus-per-worker", "0",
        "--attempts", "50",
    ]  # fmt: skip
    sweep = [
        "sweep", "--seeds", "0", "1", "--axes", "training.entropy_weight=1e-4,1e-2", "--packed", "1",
        "--retries", "50", "--gpus-per-trial", "0", "--training.epochs", str(EPOCHS), "--training.batch-size", "32",
        "--positions", "all", "--training.lr", "3e-3",
    ]  # fmt: skip
    comsem = [
        "comsem", "--tokenizer", str(tiny_model), "--examples.k", "1", "--examples.n-interpret", "3",
        "--examples.n-test", "3", "--examples.top", "4", "--scoring.random-features", "4", "--in-flight", "4",
    ]  # fmt: skip
    quiet, alone = tmp_path / "quiet", {**os.environ, "RAY_ADDRESS": "local"}
    quiet.mkdir()
    until, rounds = time.monotonic() + SECONDS, 0
    with JudgeServer(perfect) as judge, four_nodes() as storm:
        run = ""

        def steps(folder: Path):
            yield extraction, folder / "store"
            yield [*sweep, "--store", str(folder / "store")], folder / "runs"
            of = ["--autoencoders", str(folder / "runs" / run), "--store", str(folder / "store")]
            yield [*comsem, "--judge-url", judge.url, *of], folder / "comsem"

        for arguments, out in steps(quiet):
            quietly = start(arguments, out, alone)
            assert quietly.wait(COMMAND_S) == 0, log_of(out).read_text()[-3000:]
            if out.name == "runs":
                run = str(table(out)["run"].iloc[0])
        while rounds == 0 or time.monotonic() < until:
            rounds += 1
            folder = tmp_path / f"round{rounds}"
            folder.mkdir()
            history = History(folder / "runs")
            for arguments, out in steps(folder):
                storm.run(arguments, out, history)
            assert ActivationStore.open(folder / "store").manifest == ActivationStore.open(quiet / "store").manifest
            ActivationStore.open(folder / "store").verify()
            assert set(table(folder / "runs")["status"]) == {"finished"}
            pd.testing.assert_frame_equal(table(folder / "runs"), table(quiet / "runs"), check_exact=True)
            for name in ("summary.csv", f"{run}/features.parquet"):
                assert (folder / "comsem" / name).read_bytes() == (quiet / "comsem" / name).read_bytes()
            print(f"round {rounds}: {history.again} epochs trained again")
    print(dict(storm.happened), f"asked to end: {max(storm.ended_s, default=0):.1f} s at most")
    assert storm.happened
    assert max(storm.ended_s, default=0) < END_S + LATE_S


def table(out: Path) -> pd.DataFrame:
    """Everything but how long it took."""
    return pd.read_parquet(out / "results.parquet").drop(columns="seconds")
