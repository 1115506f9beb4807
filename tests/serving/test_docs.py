"""The examples of docs/http-api.md, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.support import KEY, Served

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```(bash|python)\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.mark.parametrize(("language", "code"), EXAMPLES, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(EXAMPLES)])
def test_example(served: Served, folder: Path, language: str, code: str):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "URL": served.url, "KEY": KEY, "PATH": path, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-euxo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_every_code_is_listed():
    from bae_ray.serving.http.problems import KINDS

    for code in KINDS:
        assert f"`{code}`" in TEXT, code
