"""The walk-throughs of examples/, run as they stand: the laptop's and the lab's to their ends, Kubernetes' as far as it
needs no cluster, while stand-ins write down the rest."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
import yaml
from pyarrow import fs

from bae_ray import results
from bae_ray.serving.ray_serve.ports import free_port
from tests.deploy.command_lines import ROOT, read, recorded
from tests.deploy.test_slurm import environment, free, slurm

__all__ = ["slurm"]
EXAMPLES = ROOT / "examples"
SHELLCHECK = Path(sys.executable).parent / "shellcheck"


def ours(words: list[str]) -> list[str]:
    """The command of this project in a line that may begin with sbatch."""
    start = next((i for i, word in enumerate(words) if word in ("python", "bae-ray")), None)
    return words[start:] if start is not None else []


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda script: script.stem)
def test_the_shell_is_sound(script: Path):
    assert os.access(script, os.X_OK)
    done = subprocess.run([SHELLCHECK, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    refused = subprocess.run(
        ["bash", script], cwd=ROOT, capture_output=True, text=True, check=False, env={"PATH": "/bin"}
    )
    assert refused.returncode != 0
    assert re.search(r"such as \S+", refused.stderr), "what has to be given is told before anything starts"


@pytest.mark.parametrize(
    ("script", "given"), [("laptop_to_bucket.sh", {"STORE": "s3://b/store"}), ("slurm.sh", {"SHARED": "/shared"})]
)
def test_every_command_can_be_parsed(script: str, given: dict[str, str], tmp_path: Path):
    done, calls = recorded(EXAMPLES / script, [], ["bae-ray", "sbatch"], tmp_path, given)
    assert done.returncode == 0, done.stderr
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    assert len(calls) == len(re.findall(r"^(?:\w+=\S+ )*(?:\w+=\"[^\"]*\" )*(?:bae-ray|sbatch) ", text, re.MULTILINE))
    for call in calls:
        assert call[0] == "bae-ray" or any(word.startswith("deploy/slurm/") for word in call)
        assert not ours(call) or read(ours(call))
        assert all((ROOT / word).exists() for word in call if word.startswith("deploy/"))


@pytest.mark.parametrize("overlay", ["gpu", "cpu"])
def test_kubernetes_as_far_as_it_goes_without_a_cluster(kubernetes_tools: Path, overlay: str, tmp_path: Path):
    """kubectl and helm themselves read each line, without running it; kubectl renders what would be applied."""
    repository = tmp_path / "repository"
    shutil.copytree(
        ROOT / "deploy", repository / "deploy", ignore=lambda _, names: {"secrets", "mine"} & {*names}
    )  # fmt: skip
    render = f'[ "$1" != apply ] || {kubernetes_tools}/kubectl kustomize "$3" > "{tmp_path}/rendered.yaml"'
    variables = {"REGISTRY": "registry.test/lab", "OVERLAY": overlay, "THEN": render}
    tools = ["docker", "helm", "kubectl", "curl"]
    done, calls = recorded(EXAMPLES / "kubernetes.sh", [], tools, tmp_path, variables, repository)
    assert done.returncode == 0, done.stderr
    for call in calls:
        if call[0] in ("kubectl", "helm"):
            parsed = subprocess.run(
                [kubernetes_tools / call[0], *call[1:], "--help"], capture_output=True, text=True, check=False
            )
            assert parsed.returncode == 0, (call, parsed.stderr)
    (build,) = (call for call in calls if call[:2] == ["docker", "build"])
    device = "cuda" if overlay == "gpu" else "cpu"
    assert build[-3:] == ["--tag", f"registry.test/lab/bae-ray:{device}", "."]
    assert f"ARG {build[build.index('--build-arg') + 1].split('=')[0]}=" in (ROOT / "Dockerfile").read_text()
    objects = list(yaml.safe_load_all((tmp_path / "rendered.yaml").read_text()))
    images = re.findall(r"image: (\S+)", (tmp_path / "rendered.yaml").read_text())
    assert build[-2] in images
    assert not [image for image in images if "REGISTRY" in image]
    for call in calls:
        if "--selector" in call:
            chosen = set(re.findall(r"[\w-]+", call[call.index("--selector") + 1].split(" in ")[1]))
            assert chosen <= {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in objects}
    version = re.search(r"kuberay-(\S+)\.yaml", " ".join(map(str, Path(__file__).parent.iterdir())))
    (install,) = (call for call in calls if call[:2] == ["helm", "upgrade"])
    assert version
    assert install[install.index("--version") + 1] == version[1]
    names = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in objects}
    waited = {call[-2] for call in calls if call[:2] == ["kubectl", "wait"]}
    assert waited - names == {"job/sweep"}, "KubeRay's, by the RayJob's name"
    (asked,) = (call for call in calls if call[0] == "curl")
    key = (repository / "deploy" / "kubernetes" / "base" / "secrets" / "keys").read_text()
    assert f"Authorization: Bearer {key}" in asked


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """The URI of a folder in an S3 bucket on this machine."""
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    with open(tmp_path / "s3.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", host, "-p", port], stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 60
        while free(int(port)):
            assert time.monotonic() < until
            time.sleep(0.2)
        files = fs.S3FileSystem(
            access_key="tester", secret_key="hushhush", scheme="http", endpoint_override=address,
            allow_bucket_creation=True,
        )  # fmt: skip
        files.create_dir("bucket")
        yield f"s3://bucket/store?scheme=http&endpoint_override={quote(address)}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_a_laptop_to_a_bucket(bucket: str, tmp_path: Path):
    credentials = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "hushhush"}
    variables = environment(tmp_path, STORE=bucket, BAE_RAY_CACHE=str(tmp_path / "cache"), **credentials)
    script = EXAMPLES / "laptop_to_bucket.sh"
    done = subprocess.run(["bash", script], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_four_cells(results(tmp_path / "runs" / "bucket"))
    assert (tmp_path / "runs" / "bucket-report" / "report.html").is_file()
    assert not list(tmp_path.rglob("manifest.json")), "the store is in the bucket alone"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_lab_with_slurm(slurm: Path, tmp_path: Path):
    variables = environment(slurm, SHARED=str(tmp_path / "shared"))
    done = subprocess.run(
        ["bash", EXAMPLES / "slurm.sh"], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    swept = results(tmp_path / "shared" / "sweep")
    assert_four_cells(swept)
    assert (tmp_path / "shared" / "report" / "report.html").is_file()
    table = pd.read_csv(tmp_path / "shared" / "array.csv")
    assert len(table) == 4
    arrayed = results(tmp_path / "shared" / "array")
    assert {*arrayed["run"]} == {*swept["run"]}, "the same trainings"


def assert_four_cells(table: pd.DataFrame) -> None:
    assert {*zip(table["layer"], table["position"], strict=True)} == {(10, 4), (10, 16), (20, 4), (20, 16)}
    assert table["entropy_bits"].between(0.1, 1000).all()


def test_commands_of_the_page_can_be_parsed(kubernetes_tools: Path):
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [" ".join(span.split()) for span in re.findall(r"`((?:bae-ray|python jobs/)\s[^`]+)`", page)]
    commands = [words for words in (shlex.split(line, comments=True) for line in lines) if words]
    read_by_ours = [words for words in commands if ours(words) and read(ours(words))]
    assert len(read_by_ours) >= 3
    for words in commands:
        if words[0] == "kubectl":
            subprocess.run([kubernetes_tools / "kubectl", *words[1:], "--help"], check=True, capture_output=True)
        for word in words:
            assert not word.startswith(("deploy/", "examples/")) or (ROOT / word).exists()
