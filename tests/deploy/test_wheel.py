"""The package as others install it: a small wheel, into an environment with nothing in it."""

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from shutil import copytree

import pytest

from tests.deploy.command_lines import ROOT

MOST_BYTES = 5 << 20
BARE = {"PATH": "/usr/bin:/bin"}
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    copytree(ROOT / "bae_ray", folder / "source" / "bae_ray", ignore=lambda _, names: {"__pycache__"} & {*names})
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


def pip(python: str | Path, *arguments: object) -> None:
    quiet = ["--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [python, "-m", "pip", *map(str, arguments), *quiet], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_it_holds_the_package_and_nothing_else(wheel: Path):
    assert wheel.stat().st_size <= MOST_BYTES
    with zipfile.ZipFile(wheel) as files:
        inside = {name for name in files.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(["git", "ls-files", "bae_ray"], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {name for name in listed.stdout.split() if (ROOT / name).exists()}
    assert inside == ours, "data files are package-data in pyproject.toml"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_installs_into_an_empty_environment(wheel: Path, tmp_path: Path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    torch = re.search(r"^torch==\S+", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert torch
    index = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    try:
        pip(python, "install", "-c", CONSTRAINTS, f"{torch[0]}+cpu")
    except AssertionError:  # as requirements/install.sh: where the build for CPUs is not at hand
        pip(python, "install", "-c", CONSTRAINTS, *index, f"{torch[0]}+cpu")
    pip(python, "install", "-c", CONSTRAINTS, wheel)
    pip(python, "check")
    command = tmp_path / "venv" / "bin" / "bae-ray"
    for arguments, said in (
        [["--help"], "verbs:"],
        [["sweep", "--help"], "--axes"],
        [["serve", "--help"], "--registry"],
    ):
        done = subprocess.run(
            [command, *arguments],
            cwd=tmp_path,
            env=BARE,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    where = [python, "-c", "import bae_ray; print(bae_ray.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=BARE, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(tmp_path)), "the installed one"
