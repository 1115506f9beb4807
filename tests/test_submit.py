"""`bae-ray submit` against a Ray head of this machine that asks for a token."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from bae_ray.cli.exit_codes import EXIT_INTERRUPTED, EXIT_INVALID, EXIT_LOST
from bae_ray.cli.remote_job import split
from bae_ray.cli.verbs import VERBS
from bae_ray.errors import InvalidInputError
from bae_ray.work.job_server import pack
from tests.chaos import Cluster, free_port
from tests.recorded.places import JOBS, experiment

ROOT = Path(__file__).parents[1]
TOKEN = "a-token-of-this-test"
JOB = '''
import os, sys, time
from typing import Any
import bae_ray
from bae_ray.cli.job import start
from bae_ray.experiments.protocol import ExperimentConfig, Outcome

class Config(ExperimentConfig):
    """Tiny."""
    seconds: float = 0
    """How long it takes."""
    code: int = 0
    """Its exit code."""

class Tiny:
    job, presets = "tiny", {"laptop": Config(out="runs/tiny")}
    def run(self, config: Any) -> Outcome:
        print("begun at", os.getcwd(), "with", bae_ray.__file__, os.environ.get("A_NAME"), os.listdir("."))
        print("gpus", os.environ.get("CUDA_VISIBLE_DEVICES"))
        until = time.monotonic() + config.seconds
        while time.monotonic() < until:
            print("tick", flush=True)
            time.sleep(0.5)
        sys.exit(config.code) if config.code > 1 else None
        return Outcome([], ["a part"] * config.code)

EXPERIMENT = Tiny()
if __name__ == "__main__":
    start(EXPERIMENT)
'''


class Head(NamedTuple):
    url: str
    environment: dict[str, str]
    """Of a user who has the token."""
    cluster: Cluster


def start_head() -> Head:
    cluster, port = Cluster("ray::"), free_port()
    venv = str(Path(sys.executable).parent)
    cluster.environment |= {"RAY_AUTH_TOKEN": TOKEN, "PATH": f"{venv}{os.pathsep}{os.environ['PATH']}"}
    cluster.environment.pop("PYTHONPATH", None)
    user = {**cluster.environment, "PYTHONPATH": str(ROOT)}
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        user.pop(name, None)
    cluster.start_head("--include-dashboard=true", f"--dashboard-port={port}", "--num-gpus=1", cpus=1)
    return Head(f"http://127.0.0.1:{port}", user, cluster)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    head = start_head()
    yield head
    head.cluster.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's working folder, with a job of its own and what is not to be uploaded."""
    (tmp_path / "work" / "jobs").mkdir(parents=True)
    (tmp_path / "work" / "jobs" / "tiny.py").write_text(JOB)
    (tmp_path / "work" / "runs").mkdir()
    (tmp_path / "work" / "runs" / "large").write_bytes(os.urandom(1000))
    (tmp_path / "work" / "short.yaml").write_text("seconds: 0.1\n")
    return tmp_path / "work"


def start(folder: Path, environment: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bae_ray", "submit", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(folder: Path, environment: dict[str, str], *arguments: object) -> tuple[int, str, str]:
    process = start(folder, environment, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def submission_in(text: str) -> str:
    return re.findall(r"job (bae-\w+) is on", text)[0]


def test_a_job_that_succeeds(head: Head, folder: Path):
    user = {**head.environment, "A_NAME": "its value"}
    code, out, err = run(
        folder,
        user,
        "--env",
        "A_NAME",
        "--gpus",
        1,
        "tiny",
        "--config",
        "short.yaml",
        "--out",
        "/tmp/x",
        "--address",
        head.url,
    )
    assert code == 0, out + err
    (begun,) = re.findall(r"begun at (\S+) with (\S+) its value \[(.*)\]", out)
    where, package, listed = begun
    assert where.startswith("/tmp/bae-"), "the cluster's copy of the folder"
    assert package.startswith("/tmp/bae-"), "the version of who submits, not what is installed there"
    assert sorted(re.findall(r"'(\w.*?)'", listed)) == ["jobs", "short.yaml"]
    assert "gpus 0" in out
    assert "MB uploaded" in err
    assert err.endswith(f"job {submission_in(err)} succeeded.\n")


def test_a_job_that_fails_gives_its_exit_code(head: Head, folder: Path):
    code, out, err = run(
        folder, head.environment, "--address", head.url, "jobs/tiny.py", "laptop", "--out", "/tmp/x", "--code", 77
    )
    assert code == 77, out + err
    assert f"job {submission_in(err)} failed with exit code 77." in err


def test_a_verb_and_what_it_refuses_itself(head: Head, folder: Path):
    code, out, err = run(folder, head.environment, "store", "info", "--store", "/nowhere", "--address", head.url)
    assert code == EXIT_INVALID
    assert "/nowhere" in out
    assert f"job {submission_in(err)} failed with exit code 2." in err


def test_interrupted_it_goes_on_and_is_joined_again(head: Head, folder: Path):
    process = start(folder, head.environment, "tiny", "--seconds", 4, "--out", "/tmp/x", "--address", head.url)
    assert process.stdout is not None
    while "tick" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED
    (command,) = re.findall(r"goes on. `bae-ray (.*?)`", err)
    verb, *again = command.split()
    assert verb == "submit"
    code, out, err = run(folder, head.environment, *again)
    assert code == 0, out + err
    assert out.count("begun at") == 1
    assert 6 <= out.count("tick") <= 8, "the whole log, once"


@pytest.mark.slow
def test_a_job_that_is_stopped(head: Head, folder: Path):
    code, _, err = run(
        folder, head.environment, "--leave", "tiny", "--seconds", 60, "--out", "/tmp/x", "--address", head.url
    )
    assert code == 0, err
    submission = submission_in(err)
    stop = ["ray", "job", "stop", submission, "--address", head.url]
    assert stop == re.findall(r"`(ray job stop .*?)`", err)[0].split()
    environment = {**head.environment, "RAY_AUTH_MODE": "token"}
    subprocess.run(stop, env=environment, check=True, capture_output=True, timeout=60)
    code, _, err = run(folder, head.environment, "--follow", submission, "--address", head.url)
    assert code == 1
    assert f"job {submission} was stopped" in err


def test_a_wrong_token_and_none(head: Head, folder: Path):
    job = ["tiny", "--out", "/tmp/x", "--address", head.url]
    code, _, err = run(folder, {**head.environment, "RAY_AUTH_TOKEN": "another"}, *job)
    assert code == EXIT_INVALID
    assert f"error: {head.url} does not take this token" in err
    assert "RAY_AUTH_TOKEN" in err
    code, _, err = run(folder, {**head.environment, "RAY_AUTH_MODE": "disabled"}, *job)
    assert code == EXIT_INVALID
    assert "does not take this token" in err
    assert TOKEN not in err


def test_an_id_that_is_not_known(head: Head, folder: Path):
    code, _, err = run(folder, head.environment, "--follow", "nobody", "--address", head.url)
    assert code == EXIT_INVALID
    assert f"{head.url} has no job nobody" in err


@pytest.mark.slow
def test_the_clusters_variables_do_not_change_where_it_goes(head: Head, folder: Path):
    user = {**head.environment, "RAY_ADDRESS": "http://127.0.0.1:9"}
    code, _, err = run(folder, user, "--leave", "tiny", "--out", "/tmp/x", "--address", head.url)
    assert code == 0, err
    assert head.url in err


@pytest.mark.slow
def test_a_cluster_that_goes_is_told_from_a_job_that_fails(folder: Path):
    head = start_head()
    process = start(folder, head.environment, "tiny", "--seconds", 300, "--out", "/tmp/x", "--address", head.url)
    try:
        assert process.stdout is not None
        while "tick" not in process.stdout.readline():
            assert process.poll() is None
    finally:
        head.cluster.shutdown()
    _, err = process.communicate(timeout=120)
    assert process.returncode == EXIT_LOST, err
    assert "broke off. The job may go on." in err
    assert "--follow" in err


def test_what_is_no_ray(folder: Path):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its base class calls it so
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code, _, err = run(folder, environment, "tiny", "--out", "/tmp/x", "--address", url)
    server.shutdown()
    server.server_close()
    assert code == EXIT_INVALID
    assert f"what answers at {url} is no dashboard of Ray" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--address", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9: "),
        (["--address", "ray.example.com"], "is no URL of a dashboard: expected http://HOST:PORT"),
        (["--follow", "x"], "both given"),
        (["--env", "NO_SUCH_NAME"], "--env NO_SUCH_NAME: no such variable is set here"),
        (["--env", "KEY=secret"], "--env takes only names, but KEY has a value"),
        (["--working-dir", "nowhere"], "--working-dir nowhere is no folder"),
    ],
)
def test_what_submit_refuses(bae_ray, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str):
    monkeypatch.chdir(folder)
    code, _, err = bae_ray("submit", *arguments, "--", "tiny", "--out", "/tmp/x")
    assert code == EXIT_INVALID
    assert says in err
    assert "secret" not in err


@pytest.mark.parametrize(
    ("job", "says"),
    [
        ([], "neither given"),
        (["tinny"], "'tinny' is no job"),
        (["tiny"], "--out runs/tiny would lie in the cluster's copy of the working folder"),
        (["tiny", "paper"], "preset 'paper' is not known"),
        (["tiny", "--second", "3"], "--second"),
        (["extract", "--out", "s3://b/x", "--batch-size", "none"], "--batch-size"),
        (["extract", "--out", "store"], "--out store would lie in"),
        (["entropy", "--runs", "/r"], "--out entropy.csv would lie in"),
        (["tiny", "--out", "/tmp/x", "--config", "runs/none.yaml"], "runs/none.yaml"),
        (["tiny", "--out", "/tmp/x", "--config", "wrong.yaml"], "second is 1"),
        (["plain.py", "--out", "/tmp/x"], "has no EXPERIMENT, whose options could be checked"),
        (["../outside.py", "--out", "/tmp/x"], "is not in"),
    ],
)
def test_what_is_wrong_with_a_job_is_said_before_anything_is_asked(
    bae_ray, folder: Path, monkeypatch: pytest.MonkeyPatch, job: list[str], says: str
):
    (folder / "wrong.yaml").write_text("second: 1\n")
    for name in ("plain.py", "../outside.py"):
        (folder / name).write_text("raise SystemExit('it was run')")
    monkeypatch.chdir(folder)
    code, out, err = bae_ray("submit", "--address", "http://127.0.0.1:9", *job)
    assert code == EXIT_INVALID
    assert says in out + err
    assert "nothing answers" not in err


def test_a_config_that_stays_here_is_refused(head: Head, folder: Path):
    shutil.copy(folder / "short.yaml", folder / "runs")
    code, _, err = run(
        folder, head.environment, "tiny", "--out", "/x", "--config", "runs/short.yaml", "--address", head.url
    )
    assert code == EXIT_INVALID
    assert "--config runs/short.yaml is not among the files uploaded" in err


def test_the_uploaded_folder_is_small_and_whole(tmp_path: Path):
    package = pack(ROOT, [], tmp_path)
    assert package.megabytes <= 5
    scripts = {str(file.relative_to(ROOT)) for file in (*ROOT.glob("jobs/*.py"), *ROOT.glob("bae_ray/**/*.py"))}
    assert scripts <= package.names
    data = {
        str(file.relative_to(ROOT)) for suffix in ("j2", "js", "txt") for file in ROOT.glob(f"bae_ray/**/*.{suffix}")
    }
    assert data <= package.names
    assert not [name for name in package.names if name.startswith((".git/", ".venv", "runs", "tests", "docs"))]


def test_a_folder_that_is_too_large_names_its_largest_files(folder: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("bae_ray.work.job_server.MOST_MB", 0.5)
    (folder / "corpus.bin").write_bytes(os.urandom(900_000))
    with pytest.raises(InvalidInputError, match=r"expected at most .* corpus.bin \(1 MB\).*--exclude"):
        pack(folder, [], tmp_path)
    (tmp_path / "again").mkdir()
    assert pack(folder, ["*.bin"], tmp_path / "again").megabytes < 0.1


def test_no_job_has_an_option_that_submit_takes_from_among_its_own():
    def options(model: type[BaseModel]) -> set[str]:
        return set(model.model_fields)

    for file in JOBS.glob("*.py"):
        assert "address" not in options(type(experiment(file.stem).presets["laptop"]))
    for name, verb in VERBS.items():
        if not verb.takes_job:
            assert "address" not in verb.load()[0].flags().model_fields, name


def test_options_of_submit_and_of_the_job_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    for given, expected in {
        "--address A steering paper --out x": (["--address", "A"], ["steering", "paper", "--out", "x"]),
        "steering paper --out x --address=A": (["--address", "A"], ["steering", "paper", "--out", "x"]),
        "--env B C store info --store s": (["--env", "B", "C"], ["store", "info", "--store", "s"]),
        "--leave -- extract --config f": (["--leave"], ["extract", "--config", "f"]),
        "--follow ID": (["--follow", "ID"], []),
        "--help": (["--help"], []),
        "my/own.py --help": ([], ["my/own.py", "--help"]),
        "--address A stearing paper": (["--address", "A"], ["stearing", "paper"]),
    }.items():
        assert split(given.split()) == expected
