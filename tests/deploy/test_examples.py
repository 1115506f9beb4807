"""The walk-throughs of examples/, run as they stand: the laptop's and the lab's to their ends, Kubernetes' as far as it
needs no cluster, while stand-ins write down the rest."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bae_ray import results
from tests.bucket import PASSWORD, USER, s3_server
from tests.deploy.command_lines import ROOT, read, recorded
from tests.deploy.test_slurm import environment, slurm

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
    ("script", "given"),
    [
        ("laptop_to_bucket.sh", {"BUCKET": "s3://b/demo", "OPTIONS": "?region=eu-west-1"}),
        ("slurm.sh", {"SHARED": "/shared"}),
    ],
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_a_laptop_to_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    with s3_server(tmp_path / "s3.log") as server:
        place, _, options = server.bare_uri("bucket/demo").partition("?")
        variables = environment(tmp_path, BUCKET=place, OPTIONS=f"?{options}", BAE_RAY_CACHE=str(tmp_path / "cache"))
        script = EXAMPLES / "laptop_to_bucket.sh"
        done = subprocess.run(
            ["bash", script], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        written = server.names("bucket/demo")
        assert {"store/manifest.json", "runs/results.parquet", "report/report.html"} <= {*written}
        assert_four_cells(pd.read_parquet(io.BytesIO(server.read("bucket/demo/runs/results.parquet"))))
    assert not [path for path in tmp_path.iterdir() if path.name in ("runs", "store", "report")], "all is in the bucket"


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
