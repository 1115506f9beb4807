"""What of cluster.yaml can be run without a cloud: its schema, its shell, its refusals, and where work goes."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config

from bae_ray.serving.config import JudgeServiceConfig

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
CLUSTER = yaml.safe_load(TEXT)
TYPES = CLUSTER["available_node_types"]


def commands() -> list[str]:
    found: list[str] = []
    for part in (CLUSTER, *TYPES.values()):
        for name, listed in part.items():
            found += listed if name.endswith("commands") else []
    return found


def run(command: str, home: Path, *first_in_path: Path) -> subprocess.CompletedProcess[str]:
    path = ":".join([*map(str, first_in_path), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(home), "PATH": path}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=environment)


def tool(folder: Path, name: str, says: str = "", rc: int = 0) -> None:
    """A stand-in for a tool that would change this machine: it writes down how it was called."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/calls"\n{says}\nexit {rc}\n')
    (folder / name).chmod(0o755)


def test_rays_own_validator_accepts_it():
    config = prepare_config(CLUSTER)
    validate_config(config)
    assert config["cluster_name"] == "bae-ray"


def test_head_has_no_work_and_workers_have_gpus():
    assert TYPES["head"]["resources"]["CPU"] == 0
    for name in ("gpu_worker", "judge_worker"):
        assert TYPES[name]["resources"]["GPU"] >= 1
        assert TYPES[name]["min_workers"] == 0
        assert 0 < TYPES[name]["max_workers"] <= CLUSTER["max_workers"]


def test_every_node_has_the_one_image_that_is_filled_in():
    assert len(re.findall("FILL-IN-", TEXT)) == 3
    filled = yaml.safe_load(TEXT.replace("FILL-IN-the-image-as-cluster.yaml-says", "ami-0123"))
    assert {node["node_config"]["ImageId"] for node in filled["available_node_types"].values()} == {"ami-0123"}
    assert "ubuntu-22.04" in TEXT, "the way to find it names the Ubuntu that has Python 3.11"


def test_workers_stay_longer_than_they_take_to_set_up():
    assert CLUSTER["idle_timeout_minutes"] >= 30


@pytest.mark.parametrize("command", commands())
def test_its_shell_can_be_parsed(command: str):
    subprocess.run(["bash", "-n", "-c", command], check=True)


def test_vllm_is_installed_where_judges_are_and_not_for_extraction():
    assert not any("judge" in command for command in CLUSTER["worker_setup_commands"] + CLUSTER["setup_commands"])
    assert "worker_setup_commands" not in TYPES["gpu_worker"]
    assert all("judge" in command for command in TYPES["judge_worker"]["worker_setup_commands"])


def test_a_judge_gets_a_judge_worker_and_an_extraction_a_small_one():
    from bae_ray.serving.judge.application import settings

    wanted = settings(JudgeServiceConfig(num_gpus=1, node_resource="judge"), 1.0)
    types = prepare_config(CLUSTER)["available_node_types"]
    asked: list[tuple[Any, str]] = [
        (wanted["placement_group_config"]["bundles"], "judge_worker"),
        ([{"CPU": 1, "GPU": 1}], "gpu_worker"),
    ]
    scorer: Any = partial(_default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({}))
    for bundles, expected in asked:
        nodes, _ = get_nodes_for(types, {}, "head", 8, bundles, scorer)
        assert nodes == {expected: 1}


@pytest.mark.slow
def test_a_judge_asks_for_the_nodes_with_vllm_where_the_cluster_has_them():
    assert TYPES["head"]["resources"]["judge"] == TYPES["judge_worker"]["resources"]["judge"] == 1
    script = """
import sys, ray
from bae_ray.serving.config import JudgeServiceConfig
from bae_ray.serving.judge.application import located
ray.init(num_cpus=1, resources={name: 1 for name in sys.argv[1:]}, include_dashboard=False, log_to_driver=False)
print("found", located(JudgeServiceConfig(num_gpus=1)).node_resource)
"""
    for resources, expected in (["judge"], "found judge"), ([], "found None"):
        done = subprocess.run(
            [sys.executable, "-c", script, *resources], capture_output=True, text=True, check=True, timeout=120
        )
        assert expected in done.stdout


def test_an_unfilled_mount_is_refused_before_anything_is_done(tmp_path: Path):
    for name in ("sudo", "mountpoint", "touch"):
        tool(tmp_path / "bin", name)
    (command,) = CLUSTER["initialization_commands"]
    done = run(command, tmp_path, tmp_path / "bin")
    assert done.returncode == 1
    assert "field 3, what is mounted at /shared, is not filled in" in done.stderr
    assert not (tmp_path / "bin" / "calls").exists()


def test_a_filled_mount_is_mounted_once(tmp_path: Path):
    folder = tmp_path / "bin"
    for name in ("sudo", "mount.nfs4", "touch", "rm"):
        tool(folder, name)
    command = re.sub("FILL-IN-such-as-", "", CLUSTER["initialization_commands"][0])
    tool(folder, "mountpoint", rc=1)
    done = run(command, tmp_path, folder)
    assert done.returncode == 0, done.stderr
    calls = (folder / "calls").read_text()
    assert re.search(r"sudo mount -t nfs4 .* fs-\w+\.efs\.us-west-2\.amazonaws\.com:/ /shared\n", calls)
    (folder / "calls").unlink()
    tool(folder, "mountpoint")
    assert run(command, tmp_path, folder).returncode == 0
    assert "sudo mount -t" not in (folder / "calls").read_text()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A copy of the set-up script beside an installation that only writes down how it was called."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "node.sh").write_bytes((ROOT / "requirements" / "node.sh").read_bytes())
    tool(tmp_path / "requirements", "install.sh")
    tool(tmp_path / "bin", "python3.11")
    (tmp_path / ".bashrc").write_text("# ends here for shells that are not interactive\nreturn\n")
    return tmp_path


def test_set_up_installs_and_puts_the_environment_first_once(node: Path):
    for _ in range(2):
        done = run(f"bash {node}/requirements/node.sh bundled,hub", node, node / "bin")
        assert done.returncode == 0, done.stderr
    assert (node / "requirements" / "calls").read_text() == f"install.sh {node}/venv bundled,hub\n" * 2
    lines = (node / ".bashrc").read_text().splitlines()
    assert lines[0] == f"export PATH={node}/venv/bin:$PATH"
    assert lines[1:] == ["# ends here for shells that are not interactive", "return"]


def test_an_image_without_python_is_refused_with_the_way_to_one(node: Path):
    (node / "bin" / "python3.11").unlink()
    for name in ("bash", "dirname"):
        (node / "bin" / name).symlink_to(f"/bin/{name}")
    release = Path("/etc/os-release").read_text()
    if 'VERSION_ID="22.04"' in release:
        pytest.skip("this machine is the Ubuntu that has Python 3.11")
    environment = {"HOME": str(node), "PATH": str(node / "bin")}
    done = subprocess.run(
        ["/bin/bash", f"{node}/requirements/node.sh", "hub"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    assert "Take the image that field 1 says" in done.stderr
