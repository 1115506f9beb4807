"""The page for Grafana and what Prometheus scrapes: every query names metrics that there are."""

import json
import os
import re
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bae_ray.meters import METERS
from tests.comsem.asking import ask, config
from tests.comsem.server import JudgeServer

GRAFANA = Path(__file__).parents[1] / "deploy" / "grafana"
PAGE: dict[str, Any] = json.loads((GRAFANA / "bae_ray.json").read_text())
NVIDIA = {"ray_node_gpus_utilization"}
"""Ray tells these where NVIDIA's driver answers."""
WAIT_S = 120
MANY = 100.0
"""Training steps: more than the sweep's short run takes."""


def queries() -> list[str]:
    return [target["expr"] for panel in PAGE["panels"] for target in panel.get("targets", ())]


def names(queries: list[str]) -> set[str]:
    """The metrics in queries."""
    return {name for query in queries for name in re.findall(r"\b(?:ray_)?(?:bae_ray|node)_\w+", query)}


def exported(name: str) -> str:
    return f"ray_{name}" + ("_total" if METERS[name].kind == "counter" else "")


def test_each_query_names_something_and_all_that_is_told_is_shown():
    assert all(names([query]) for query in queries())
    shown = {name for name in names(queries()) if name.startswith("ray_bae_ray_")}
    assert shown == {exported(name) for name in METERS}


def test_the_table_of_series_is_whole():
    table = (GRAFANA.parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(ray_bae_ray_\w+)` \|([\w, ]*)\|", table, re.MULTILINE)
    told = {name: labels.strip() for name, labels in rows}
    assert told == {exported(name): ", ".join(meter.labels) for name, meter in METERS.items()}


def test_panels_do_not_overlap_and_are_told_apart():
    panels = PAGE["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)

    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    assert not any(cells(one) & cells(other) for one, other in combinations(panels, 2))
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_what_ray_tells_of_gpus_is_named_as_ray_names_it():
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    assert {name.removeprefix("ray_") for name in NVIDIA} <= METRICS_GAUGES.keys()


def test_what_prometheus_scrapes():
    jobs = {job["job_name"]: job for job in yaml.safe_load((GRAFANA / "prometheus.yml").read_text())["scrape_configs"]}
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    from bae_ray.cli.address import AddressConfig

    (found,) = jobs["ray"]["file_sd_configs"]
    assert found["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    (static,) = jobs["bae_ray_service"]["static_configs"]
    assert static["targets"] == [f"{AddressConfig().host}:{AddressConfig().port}"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_running_sweep_tells_every_metric_that_is_queried(tiny_store: Path, tmp_path: Path):
    """The extraction was this process's; a sweep of its own, one of whose runs ends; a judge that is asked."""
    import ray

    from bae_ray.cluster import connect

    connect()
    with JudgeServer(lambda _body, _n: "Yes") as server:
        ask(config(server.url), tmp_path / "judge.sqlite")
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    arguments = ["--store", tiny_store, "--out", tmp_path / "runs", "--layers", 1, "--positions", 2, "--packed", 1,
                 "--training.batch-size", 32, "--gpus-per-trial", 0, "--axes", "training.epochs=2,1000000"]  # fmt: skip
    sweep = subprocess.Popen([sys.executable, "-m", "bae_ray", "sweep", *map(str, arguments)], env=environment)
    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    wanted = {name for name in names(queries()) if name.startswith("ray_")} - NVIDIA
    until, told, steps = time.monotonic() + WAIT_S, "", 0.0
    try:
        while (wanted or steps < MANY) and time.monotonic() < until and sweep.poll() is None:
            time.sleep(2)
            told = httpx.get(url).text
            wanted -= set(re.findall(r"^\w+", told, re.MULTILINE))
            counted = re.findall(r"^ray_bae_ray_training_steps_total\{.*\} ([\d.e+]+)", told, re.MULTILINE)
            steps = sum(map(float, counted))
    finally:
        sweep.terminate()
        sweep.wait()
    assert not wanted
    assert steps >= MANY
    assert re.search(r'^ray_bae_ray_trainings_total\{.*outcome="finished".*\} 1\.0', told, re.MULTILINE)
    assert re.search(r"^ray_node_cpu_utilization\{.*\bip=", told, re.MULTILINE)
