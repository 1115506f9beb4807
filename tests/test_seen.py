"""What a user sees of long work that nobody watches: lines of a log, as text and as JSON, and metrics."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bae_ray import progress
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
from bae_ray.cli.common_options import FLAGS, LOG_FORMAT_FLAG
from bae_ray.cli.verbs import VERBS
from bae_ray.structured_log import log_as_asked
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SweepConfig
from tests.recorded.places import JOBS, experiment

LINE = re.compile(r"Work: (\d+)/40, ([\d.]+)/(s|min), (\d+) s left so far")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.2)


@pytest.mark.usefixtures("often")
def test_a_log_says_the_rate_and_what_time_is_left(capsys: pytest.CaptureFixture[str]):
    with progress.track("Work", 40) as tracker:
        tracker.advance(20)  # of an earlier run
        for _ in range(10):
            time.sleep(0.1)
            tracker.advance(note="so far")
        time.sleep(0.5)  # a long unit: the log goes on
        tracker.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"Work: 40/40, [\d.]+/s", lines[-1])
    said = [match for line in lines[:-1] if (match := LINE.fullmatch(line))]
    assert 3 <= len(said) <= 8
    done, rate, unit, left = said[-1].groups()
    assert (done, unit) == ("30", "s")
    assert 4 < float(rate) <= 10, "what came first is not of this run"
    assert int(left) == pytest.approx(10 / float(rate), abs=0.6)


@pytest.mark.usefixtures("often")
def test_without_a_total_and_without_progress(capsys: pytest.CaptureFixture[str]):
    with progress.track("Work", None) as tracker:
        time.sleep(0.3)
        tracker.advance()
        time.sleep(0.3)
    said = capsys.readouterr().err.splitlines()
    assert [*dict.fromkeys(said)] == ["Work: 0", "Work: 1"], "a busy machine has time for a line more"


@pytest.mark.parametrize(
    ("per_s", "shown"),
    [(0.0001, "0.36/h"), (0.1, "6/min"), (1, "1/s"), (12.34, "12.3/s"), (45678.9, "45679/s")],
)
def test_rates_are_in_a_unit_of_time_that_fits(per_s: float, shown: str):
    assert progress._speed(per_s) == shown


def test_a_log_of_json_names_shards_and_runs(
    tiny_config: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("BAE_RAY_LOG_FORMAT", "json")

    def logged() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    with log_as_asked():
        store = extract(tiny_config, tmp_path / "store", executor="inline")
    lines = logged()
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    assert any(line["message"].startswith("Plan: 8 cells x 16 numbers") for line in lines)
    shards = [line for line in lines if line["message"] == "shard ended"]
    assert [line["shard"] for line in shards] == list(range(len(store.manifest.shards)))
    assert {line["outcome"] for line in shards} == {"finished"}
    assert {line["store"] for line in shards} == {str(tmp_path / "store")}
    last = [line for line in lines if line["message"] == "progress" and line["what"] == "Extracting"][-1]
    assert last["done"] == last["total"] == store.manifest.n

    config = SweepConfig(
        layers=(1,), positions=(2,), training=TrainingConfig(epochs=2, batch_size=32), axes=("training.lr=1e-3,1e30",)
    )
    with log_as_asked():
        sweep(config, store, tmp_path / "runs", executor="inline")
    ended = {line["run"]: line["outcome"] for line in logged() if line["message"] == "training ended"}
    assert ended == {
        file.parent.name: "finished" if file.with_name("result.json").exists() else "failed"
        for file in (tmp_path / "runs").glob("*/run.json")
    }
    assert sorted(ended.values()) == ["failed", "finished"]


def test_an_error_of_the_user_and_one_of_ours_are_one_object_each(bae_ray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BAE_RAY_LOG_FORMAT", "json")
    code, _, err = bae_ray("store", "info", "--store", "/nowhere")
    assert code == 2
    (line,) = map(json.loads, err.splitlines())
    assert (line["level"], line["message"][:7]) == ("error", "error: ")
    monkeypatch.setattr("bae_ray.activations.store.ActivationStore.open", lambda _: {}["x"])
    code, _, err = bae_ray("store", "info", "--store", "/nowhere")
    assert code == 1
    (line,) = map(json.loads, err.splitlines())
    assert line["message"] == "KeyError: 'x'"
    assert "verb_stores.py" in line["traceback"]


def test_a_format_that_there_is_not(bae_ray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BAE_RAY_LOG_FORMAT", "text")
    code, _, err = bae_ray("store", "info", "--store", "/nowhere", "--log-format=xml")
    assert code == 2
    assert "--log-format is 'xml'; expected one of text, json." in err


def test_no_command_has_an_option_of_these_names():
    taken = {flag.removeprefix("--").replace("-", "_") for flag in (*FLAGS, LOG_FORMAT_FLAG)}
    for verb in VERBS.values():
        assert not taken & set(verb.load()[0].flags().model_fields)
    for file in JOBS.glob("*.py"):
        assert not taken & set(type(experiment(file.stem).presets["laptop"]).model_fields)


@pytest.mark.slow
def test_the_dashboard_of_a_ray_that_starts_here(tiny_model: Path, tiny_corpus: Path, tmp_path: Path):
    import httpx

    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "bae_ray", "extract", "--dashboard", "--model", tiny_model, "--corpus", tiny_corpus,
         "--positions", "2", "--gpus-per-worker", "0", "--workers", "1", "--out", tmp_path / "store"],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    pages: list[str] = []
    with process:
        for line in process.stderr:
            for url in re.findall(r"^Dashboard: (http://127\.0\.0\.1:\d+)\. ", line):
                pages.append(httpx.get(url).raise_for_status().text)  # noqa: PERF401 - while it runs
    assert process.returncode == 0
    assert ["Ray Dashboard" in page for page in pages] == [True]
