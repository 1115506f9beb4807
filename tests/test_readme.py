"""The commands on README's first screen, run as they stand there, on this machine as it is; and what other pages ask of
the service that one of them starts."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bae_ray.cli.parsing import parse
from bae_ray.cli.remote_job import remote_job, split
from bae_ray.cli.verb_submit import SubmitCommand
from bae_ray.serving.ray_serve.ports import free_port
from tests.docs.code_blocks import run_blocks

ROOT = Path(__file__).parents[1]
FIRST_SCREEN = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
MAKE, SERVE, CLUSTER = re.findall(r"```bash\n(.*?)```", FIRST_SCREEN, re.DOTALL)
(READ,) = run_blocks("README.md", "python")
(STEER,) = run_blocks("docs/steer.md", "bash")
(CALL,) = run_blocks("docs/serve.md", "python")
SMALL = ["--extract.max-texts", "64", "--extract.layers", "0", "10", "--extract.positions", "1", "4",
         "--sweep.training.epochs", "2", "--sweep.training.batch-size", "16"]  # fmt: skip
"""In place of `make demo`, which takes minutes: its job, with less to do."""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """A user's: nothing of this process's Ray, and no keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BAE_RAY_API"))}
    if "RAY_TMPDIR" in os.environ:
        kept["RAY_TMPDIR"] = os.environ["RAY_TMPDIR"]
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def test_what_is_made_is_a_target():
    for line in MAKE.splitlines():
        done = subprocess.run(
            ["make", "-n", *shlex.split(line, comments=True)[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_what_is_submitted_to_a_cluster_can_be(environment: dict[str, str]):
    commands = [shlex.split(line, comments=True) for line in CLUSTER.replace("\\\n", " ").splitlines()]
    token, submit = commands
    shown = subprocess.run([*token[:2], "--help"], env=environment, capture_output=True, text=True, check=True).stdout
    assert all(option in shown for option in token[2:])
    assert submit[:2] == ["bae-ray", "submit"]
    own, job = split(submit[2:])
    assert parse(SubmitCommand, "bae-ray submit", own).address == submit[-1]
    assert remote_job(job, ROOT).entrypoint == ["python", f"jobs/{job[0]}.py", *job[1:]]


def test_every_command_of_readme_is_here():
    assert run_blocks("README.md", "bash") == [MAKE, SERVE, CLUSTER]


def test_a_trained_encoder_over_http(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In fresh processes and a folder of its own, on the CPUs that there are; only the port is another one."""
    demo = [sys.executable, str(ROOT / "jobs" / "layer_position_entropy.py"), "laptop", *SMALL]
    done = subprocess.run(demo, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(READ, names)
    assert names["x_hat"].shape == names["x"].shape == (64, 576)
    serve, *ask = SERVE.splitlines()
    assert [line.split("=")[0].split(" ")[0] for line in ask] == ["curl", "ID", "curl"]
    assert "&" in serve.split("#")[0]
    port = free_port()

    def shell(script: str) -> str:
        there = script.replace("localhost:8000", f"localhost:{port}")
        done = subprocess.run(
            ["bash", "-ec", there], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = shlex.split(serve.split("&")[0])
    with subprocess.Popen([*command, "--port", str(port)], cwd=tmp_path, env=environment) as service:
        try:
            started = time.monotonic()
            (answer,) = json.loads(shell("\n".join(ask)))["texts"]
            print(f"answered after {time.monotonic() - started:.1f} s")
            steered = shell(STEER.replace("runs/sweep", "runs/demo/sweep"))
            exec(CALL.replace(":8000", f":{port}"), {**names, "x": names["x"][:2]})
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(20) == 0
    assert [token["text"] for token in answer["tokens"]] == ["The", " capital", " of", " France", " is"]
    assert all(len(token["features"]) == 8 for token in answer["tokens"])
    assert steered.count("event: token") == 24, "twelve, steered and plain"
    assert "event: end" in steered
