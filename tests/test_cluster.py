"""Which machines there are, asked of Ray clusters of this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import Cluster

pytestmark = pytest.mark.slow

LOOK = """
import json
from bae_ray.cluster import connect, only_machine
connect()
print("found", json.dumps(only_machine()))
"""
AUTOSCALING = {
    "cluster_name": "grows",
    "max_workers": 2,
    "provider": {"type": "fake_multinode", "head_node_id": "head"},
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 1}, "max_workers": 0, "node_config": {}},
        "worker": {"resources": {"CPU": 4, "GPU": 2}, "min_workers": 0, "max_workers": 2, "node_config": {}},
    },
    "idle_timeout_minutes": 5,
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{f"{where}_commands": [] for where in ("initialization", "setup", "head_setup", "worker_setup")},
    **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    **{f"{where}_start_ray_commands": [] for where in ("head", "worker")},
    "file_mounts_sync_continuously": False,
    "upscaling_speed": 1.0,
}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster("ray::")
    yield cluster
    cluster.shutdown()


def only_machine_of(cluster: Cluster) -> dict[str, float] | None:
    done = subprocess.run([sys.executable, "-c", LOOK], env=cluster.environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    (found,) = (line for line in done.stdout.splitlines() if line.startswith("found"))
    return json.loads(found.removeprefix("found"))


def test_a_head_of_its_own_is_the_only_machine(cluster: Cluster):
    cluster.start_head(cpus=1)
    assert only_machine_of(cluster) == {"CPU": 1, "GPU": 0}


def test_where_an_autoscaler_runs_machines_may_come(cluster: Cluster, tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(AUTOSCALING))
    cluster.environment["RAY_FAKE_CLUSTER"] = "1"
    cluster.start_head(f"--autoscaling-config={file}", cpus=1)
    assert only_machine_of(cluster) is None
