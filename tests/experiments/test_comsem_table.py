"""Table 1 and Table 4 as a user makes them, on a tiny model, with a judge whose answers are scripted."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from bae_ray.activations.config import TokensConfig, WindowsInput
from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError, JudgeError
from bae_ray.experiments.comsem_table.experiment import EXPERIMENT
from bae_ray.serving.judge.session import JobJudgeConfig
from bae_ray.training.config import CellConfig
from bae_ray.training.grid import expand
from tests.comsem.server import JudgeServer, Reply, perfect

ROOT = Path(__file__).parents[2]
N_I = 3
PAID_BEFORE_KILL = 600
IN_FLIGHT = 8


def options(out: Path, model: Path, corpus: Path, port: int | None) -> list[str]:
    """The experiment at tiny size with the judge at a port, or with one that it starts itself."""
    judge = ("--judge.judge-url", f"http://127.0.0.1:{port}/v1", "--judge.judge-model", "scripted") if port else ()
    given = (
        "--out", out, "--extract.model", model, "--extract.corpus", corpus, "--extract.layers", "1", "3",
        "--extract.max-tokens", "16", "--extract.tokens.max-vectors", "1500", "--extract.gpus-per-worker", "0",
        "--evaluation.corpus", corpus, "--evaluation.max-texts", "60", "--sweep.training.epochs", "6",
        "--sweep.training.batch-size", "64", "--sweep.training.lr", "1e-2", "--sweep.gpus-per-trial", "0",
        "--examples.k", "3", "--examples.n-interpret", N_I, "--examples.n-test", "3",
        "--scoring.max-features", "6", "--scoring.shuffled", "4", "--scoring.random-features", "5",
        "--judge.in-flight", IN_FLIGHT, *judge,
    )  # fmt: skip
    return [*map(str, given)]


def job(*arguments: Any) -> subprocess.Popen[str]:
    """The same as a user runs it: a process of its own."""
    command = [sys.executable, "jobs/comsem_table.py", "laptop", *options(*arguments)]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str], timeout_s: float = 300) -> str:
    """What it printed."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err[-3000:]
    return out


def test_the_tables_of_a_judge_that_knows(
    run: Callable[..., str], tiny_model: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    with JudgeServer(perfect) as judge:
        check_results(tmp_path, run(EXPERIMENT, *options(tmp_path, tiny_model, tiny_corpus, judge.port)))


@pytest.mark.slow
def test_the_tables_are_made_though_the_job_is_killed(tiny_model: Path, tiny_corpus: Path, tmp_path: Path):
    """kill -9 among the questions, then the same command, then once more when the judge is gone."""
    out = tmp_path / "run"
    arrived = count()

    def stalling(body: dict[str, Any], times: int) -> Reply:
        return perfect(body, times) if next(arrived) < PAID_BEFORE_KILL else Reply(hold=True)

    with JudgeServer(stalling) as first:
        driver = job(out, tiny_model, tiny_corpus, first.port)
        deadline = time.monotonic() + 300
        while first.paid.total() < PAID_BEFORE_KILL or first.at_once < IN_FLIGHT:
            assert driver.poll() is None, driver.communicate()[1][-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.kill()
        driver.communicate()
    trained = {file: file.stat().st_mtime_ns for file in (out / "sweep").glob("*/result.json")}
    assert len(trained) == 2 * 4
    with JudgeServer(perfect, first.port) as second:
        printed = finished(job(out, tiny_model, tiny_corpus, first.port))
    assert set((first.paid + second.paid).values()) == {1}, "something was paid for twice"
    assert {file: file.stat().st_mtime_ns for file in trained} == trained
    check_results(out, printed)

    written = {file: file.read_bytes() for file in out.glob("*.csv")}
    asked = (out / "comsem" / "usage.json").stat().st_mtime_ns
    again = finished(job(out, tiny_model, tiny_corpus, first.port))
    assert {file: file.read_bytes() for file in written} == written
    assert (out / "comsem" / "usage.json").stat().st_mtime_ns == asked, "what is finished is not gone through again"
    assert "The judge scripted has a balanced accuracy of 1.00" in again


def check_results(out: Path, printed: str) -> None:
    table = pd.read_csv(out / "comsem.csv")
    assert sorted(table["method"]) == sorted(
        [f"{method}-layer-{layer}" for method in ("relu", "relu-rescaled", "topk", "gated", "bae") for layer in (1, 3)]
        + ["random"]
    )
    for row in table.to_dict("records"):
        features = pd.read_parquet(out / "comsem" / row["method"] / "features.parquet")
        scored = features[features["status"] == "scored"]
        assert row["activated"] == (features["count"] > N_I).sum()
        assert row["scored"] == len(scored) == min(6, row["activated"]) or row["method"] == "random"
        assert row["interpretable"] == (scored["score"] > 0).sum()
        assert (row["unreadable"], row["refusals"], row["failed"]) == (0, 0, 0)
        if len(scored):
            assert row["score"] == pytest.approx(scored["score"].mean())
            assert row["above_chance"] == pytest.approx(scored["score"].mean() - scored["chance"].mean())
            assert row["above_chance_low"] <= row["above_chance"] <= row["above_chance_high"]
        if row["method"] != "random":
            run = json.loads((out / "sweep" / row["run"] / "result.json").read_text())
            for name in ("mse_val", "fvu_train", "fvu_val", "spectral_norm"):
                assert row[name] == pytest.approx(run[name])
            assert (out / "comsem" / row["method"] / "features.html").exists()
            published = (out / "autoencoders" / row["method"] / "cards.parquet").exists()
            assert published == (row["method"] != "random")
    plain, rescaled = (table[table["method"] == f"relu{kind}-layer-1"].iloc[0] for kind in ("", "-rescaled"))
    assert (plain["run"], plain["mse_val"]) == (rescaled["run"], rescaled["mse_val"])
    best = pd.read_csv(out / "best.csv").merge(
        table[["method", "activated", "score"]], on="method", suffixes=("", "_all")
    )
    own = best[best["m"] == best["activated"]]
    assert own["score"].tolist() == pytest.approx(own["score_all"].tolist())
    assert best[best["m"] > best["activated"]]["score"].isna().all()
    for layer in (1, 3):
        assert (out / f"scores-layer-{layer}.png").stat().st_size > 10_000
    for name in ("comsem.csv", "best.csv", "comsem.html", "comsem/bae-layer-3/features.html"):
        assert str(out / name) in printed
    assert "Score - chance" in printed
    assert "Layer 1, best " in printed
    assert "balanced accuracy 1.00" in printed


@pytest.mark.slow
@pytest.mark.judge
@pytest.mark.timeout(1200)
def test_with_a_judge_of_its_own(tiny_model: Path, tiny_corpus: Path, tmp_path: Path):
    """vLLM on the CPU behind Ray Serve, on the job's own Ray; the report says what this judge is worth."""
    printed = finished(job(tmp_path / "run", tiny_model, tiny_corpus, None), 1100)
    table = pd.read_csv(tmp_path / "run" / "comsem.csv")
    assert {"relu-layer-1", "topk-layer-1", "gated-layer-1", "bae-layer-1", "random"} <= set(table["method"])
    assert (table["failed"] == 0).all()
    assert (table["scored"] > 0).all()
    assert "smollm2-135m has a balanced accuracy of 0.5" in printed
    assert "useless" in printed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positions": (4,), "tokens": TokensConfig()}, r"extract.positions is \(4,\): this job takes all"),
        ({"input": WindowsInput(length=8)}, "extract.input.kind is windows: this job takes texts"),
    ],
)
def test_what_the_job_does_not_take(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    preset = EXPERIMENT.presets["laptop"]
    given = preset.model_copy(update={"out": tmp_path, "extract": preset.extract.model_copy(update=changed)})
    with pytest.raises(InvalidInputError, match=message):
        EXPERIMENT.run(given)


def test_a_judge_that_cannot_start_is_told_before_anything_is_extracted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    given = EXPERIMENT.presets["laptop"].model_copy(update={"out": tmp_path / "out", "judge": JobJudgeConfig()})
    with pytest.raises(InvalidInputError, match="vllm is not installed"):
        EXPERIMENT.run(given)
    assert not (tmp_path / "out").exists()


def test_a_judge_that_does_not_answer_is_told_before_anything_is_extracted(tmp_path: Path) -> None:
    judge = JobJudgeConfig(judge_url="http://127.0.0.1:9/v1", attempts=1)
    given = EXPERIMENT.presets["laptop"].model_copy(update={"out": tmp_path / "out", "judge": judge})
    with pytest.raises(JudgeError):
        EXPERIMENT.run(given)
    assert not (tmp_path / "out" / "train").exists()


@pytest.mark.parametrize(("name", "layers"), [("paper", (5, 9, 11, 14)), ("paper_3b", (20,)), ("gpu", (9,))])
def test_the_papers_grid_has_each_method_once_per_layer(name: str, layers: tuple[int, ...]) -> None:
    """Every method at each of the paper's layers, the transcoder from the MLP before it to the layer's hidden state."""
    preset = EXPERIMENT.presets[name]
    cells = [Cell(layer, site, "all") for layer in preset.extract.layers or () for site in preset.extract.sites]
    store: Any = SimpleNamespace(cells=cells, manifest=SimpleNamespace(d=2048), folder="x", fingerprint=str)
    store.select = partial(ActivationStore.select, store)
    runs = expand(preset.sweep, store)
    found = [(run.cell.layer, run.cell.site, run.autoencoder.name) for run in runs]
    others = ("relu", "topk", "gated", "bae")
    expected = [(layer, "residual", other) for layer in layers for other in others]
    expected += [(layer - 1, "mlp_in", "transcoder") for layer in layers]
    assert sorted(found) == sorted(expected)
    targets = [(run.cell.layer + 1, run.target) for run in runs if run.target]
    assert targets == [(layer, CellConfig(layer=layer, position="all")) for layer in layers]
    assert {run.autoencoder.d_latent or 2048 * run.autoencoder.expansion for run in runs} == {8192}
