"""The package as others install it: a small wheel, into an environment with nothing in it, far from the repository."""

import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from bae_ray.activations.bundled import BUNDLED_PACKAGES
from tests.deploy.command_lines import ROOT

MOST_BYTES = 5 << 20
BARE = {"PATH": "/usr/bin:/bin"}
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SMALL = ["--extract.max-texts", "64", "--extract.layers", "0", "10", "--extract.positions", "1", "4",
         "--sweep.training.epochs", "2", "--sweep.training.batch-size", "16"]  # fmt: skip
"""The demo with less to do."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("wheel")
    copytree(ROOT / "bae_ray", folder / "source" / "bae_ray", ignore=lambda _, names: {"__pycache__"} & {*names})
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def pip(python: str | Path, *arguments: object) -> None:
    quiet = ["--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [python, "-I", "-m", "pip", *map(str, arguments), *quiet], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executables of an environment that holds the wheel with the extra `bundled`."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    torch = re.search(r"^torch==\S+", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert torch
    index = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    try:
        pip(python, "install", "-c", CONSTRAINTS, f"{torch[0]}+cpu")
    except AssertionError:  # as requirements/install.sh: where the build for CPUs is not at hand
        pip(python, "install", "-c", CONSTRAINTS, *index, f"{torch[0]}+cpu")
    pip(python, "install", "-c", CONSTRAINTS, f"{wheel}[bundled]")
    pip(python, "check")
    return folder / "bin"


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=BARE | environment, capture_output=True, text=True, check=False
    )


def listed() -> set[str]:
    files = subprocess.run(["git", "ls-files", "bae_ray"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in files.stdout.split() if (ROOT / name).exists()}


def test_it_holds_the_package_and_nothing_else(wheel: Path):
    assert wheel.stat().st_size <= MOST_BYTES
    with zipfile.ZipFile(wheel) as files:
        inside = {name for name in files.namelist() if ".dist-info/" not in name}
    assert inside == listed(), "data files are package-data in pyproject.toml"
    assert {"bae_ray/py.typed", "bae_ray/report/report.html.j2", "bae_ray/serving/workbench/workbench.js"} <= inside
    assert f"-{PROJECT['version']}-" in wheel.name


def test_the_sdist_holds_what_the_wheel_is_made_of(built: Path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as files:
        inside = {name.partition("/")[2] for name in files.getnames()}
    assert listed() | {"pyproject.toml", "README.md", "LICENSE"} <= inside


def test_it_installs_into_an_empty_environment(installed: Path, tmp_path: Path):
    for arguments, said in (
        [["--help"], "verbs:"],
        [["--version"], f"bae_ray {PROJECT['version']}\n"],
        [["sweep", "--help"], "--axes"],
        [["serve", "--help"], "--registry"],
        [["job", "layer_position_entropy", "--help"], "--sweep.training.epochs"],
    ):
        done = run(installed / "bae-ray", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    found = run(
        installed / "python", "-c", "import bae_ray; print(bae_ray.__version__, bae_ray.__file__)", cwd=tmp_path
    )
    assert found.stdout.startswith(f"{PROJECT['version']} {installed.parent}"), "the installed one"


def test_its_help_imports_little(installed: Path, tmp_path: Path):
    run(installed / "bae-ray", "--help", cwd=tmp_path)  # which may still compile what it imports
    done = run(installed / "python", "-X", "importtime", installed / "bae-ray", "--help", cwd=tmp_path)
    assert done.returncode == 0
    own = [int(found) for found in re.findall(r"^import time:\s+(\d+) \|", done.stderr, re.MULTILINE)]
    print(f"{len(own)} modules in {sum(own) / 1e6:.2f} s")
    assert sum(own) < 1e6, "microseconds"


def test_the_demo_runs_without_the_repository(installed: Path, tmp_path: Path):
    demo = [installed / "bae-ray", "job", "layer_position_entropy", "laptop", *SMALL]
    home = {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", ""),
    }
    home = {name: value for name, value in home.items() if value}
    done = run(*demo, cwd=tmp_path, **home)
    assert done.returncode == 2
    packages = " ".join(BUNDLED_PACKAGES)
    assert f"pip install --no-deps {packages}" in done.stderr, "what is missing is said before anything is computed"
    pip(installed / "python", "install", "--no-deps", *BUNDLED_PACKAGES)
    done = run(*demo, cwd=tmp_path, **home)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = tmp_path / "runs" / "demo"
    assert {"entropy.csv", "entropy.png", "report.html", "config.json"} <= {file.name for file in results.iterdir()}
    assert json.loads((results / "config.json").read_text())["extract"]["model"] == "smollm2-135m"


def test_the_bundled_packages_are_the_tested_ones():
    lines = (ROOT / "requirements" / "bundled.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == {*BUNDLED_PACKAGES}


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_each_extra_resolves_with_the_tested_versions(extra: str, tmp_path: Path):
    """As if nothing were installed. The judge's is vLLM for GPUs, which needs other versions of some packages."""
    pins = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    if extra == "judge":
        own = (CONSTRAINTS.parent / "judge-gpu.txt").read_text(encoding="utf-8").splitlines()
        names = {pin.split("==")[0] for pin in own}
        pins = [pin for pin in pins if pin.split("==")[0] not in names] + own
    (tmp_path / "pins.txt").write_text("\n".join(pins))
    options = [
        "--quiet",
        "--native-tls",
        "--python-version",
        platform.python_version(),
        "--extra",
        extra,
        "-c",
        tmp_path / "pins.txt",
    ]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, ROOT / "pyproject.toml"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, *_ = PROJECT["optional-dependencies"][extra]
    assert f"\n{re.split('[^a-z0-9-]', first)[0]}==" in done.stdout


def test_pipx_runs_it(wheel: Path, tmp_path: Path):
    venv.create(tmp_path / "pipx", with_pip=True)
    pip(tmp_path / "pipx" / "bin" / "python", "install", "pipx")
    home: dict[str, Any] = {"PIPX_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    command = [
        tmp_path / "pipx" / "bin" / "pipx",
        "run",
        f"--pip-args=-c {CONSTRAINTS}",
        "--spec",
        wheel,
        "bae-ray",
        "--help",
    ]
    done = run(*command, cwd=tmp_path, **home)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "verbs:" in done.stdout
