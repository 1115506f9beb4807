"""The main job as a user runs it: a process of its own, killed and started again, and submitted to a cluster."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bae_ray.activations.store import ActivationStore

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def arguments(tiny_model: Path, tiny_corpus: Path) -> list[str]:
    """The job at tiny size: 3 layers x 3 positions, some twenty shards, nine runs."""
    return [
        "jobs/layer_position_entropy.py", "laptop",
        "--extract.model", str(tiny_model), "--extract.corpus", str(tiny_corpus),
        "--extract.layers", "0", "1", "3", "--extract.positions", "1", "4", "7",
        "--extract.shard-size", "6", "--extract.batch-size", "3",
        "--sweep.training.epochs", "150", "--sweep.training.batch-size", "16",
    ]  # fmt: skip


def start(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, *arguments, "--out", str(out)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(arguments: list[str], out: Path) -> str:
    process = start(arguments, out)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-3000:]
    return printed


def kill_when(arguments: list[str], out: Path, reached: Callable[[], bool]) -> None:
    """SIGKILL the driver as soon as `reached`, and wait until the workers it leaves behind are gone too."""
    process = start(arguments, out)
    deadline = time.monotonic() + 200
    while not reached():
        assert process.poll() is None, "the job ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(3)


def marks(out: Path, pattern: str) -> dict[str, int]:
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in out.glob(pattern)}


def assert_same_results(out: Path, quiet: Path) -> None:
    ours, theirs = ActivationStore.open(out / "store"), ActivationStore.open(quiet / "store")
    assert ours.manifest == theirs.manifest
    ours.verify()
    assert (out / "entropy.csv").read_bytes() == (quiet / "entropy.csv").read_bytes()


@pytest.fixture(scope="module")
def quiet(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job's folder after an uninterrupted run."""
    out = tmp_path_factory.mktemp("jobs") / "quiet"
    printed = finish(arguments, out)
    assert "Entropy in bits" in printed
    return out


def test_results(quiet: Path):
    table = pd.read_csv(quiet / "entropy.csv")
    assert len(table) == 9
    told = table.drop(columns=["joint_bits", "joint_low", "joint_high"])  # where codes recur
    assert not told.isna().any().any()
    assert table["entropy_bits"].nunique() > 1
    for name in ("entropy.png", "report.html", "config.json", "sweep/sweep.json"):
        assert (quiet / name).stat().st_size > 100


def test_second_run_computes_nothing(arguments: list[str], quiet: Path):
    before = marks(quiet, "store/receipts/*") | marks(quiet, "sweep/*/result.json")
    table = (quiet / "entropy.csv").read_bytes()
    finish(arguments, quiet)
    assert (marks(quiet, "store/receipts/*") | marks(quiet, "sweep/*/result.json")) == before
    assert (quiet / "entropy.csv").read_bytes() == table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "pattern", "after"), [("extraction", "store/receipts/*.json", 4), ("sweep", "sweep/*/result.json", 2)]
)
def test_killed_driver_goes_on(arguments, quiet: Path, tmp_path: Path, stage: str, pattern: str, after: int):
    out = tmp_path / stage
    kill_when(arguments, out, lambda: len(marks(out, pattern)) >= after)
    finished = marks(out, pattern)
    total = len(marks(quiet, pattern))
    assert after <= len(finished) < total, "killed too late to show anything"
    finish(arguments, out)
    now = marks(out, pattern)
    assert {name: now[name] for name in finished} == finished, "finished work was done again"
    assert len(now) == total
    assert_same_results(out, quiet)


def test_an_unknown_preset_is_an_error_of_the_user():
    command = [sys.executable, "jobs/layer_position_entropy.py", "dmeo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: preset 'dmeo' is not known: begin with one of laptop, matched, gpu, paper")


@pytest.mark.slow
def test_a_sweep_in_which_all_fails_says_why(arguments: list[str], tmp_path: Path):
    process = start([*arguments, "--sweep.training.lr", "1e30"], tmp_path / "out")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert printed.count("failed: run ") == 9
    assert "the loss became" in printed
    assert not (tmp_path / "out" / "entropy.csv").exists()


@pytest.mark.slow
def test_interrupted_by_ctrl_c(arguments: list[str], quiet: Path, tmp_path: Path):
    out = tmp_path / "out"
    # What a script starts in the background ignores interrupts, as does all that it starts: these tests, too.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = start(arguments, out)
    signal.signal(signal.SIGINT, before)
    while len(marks(out, "sweep/*/result.json")) < 1:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed[-3000:]
    assert "the same command goes on" in printed
    assert "its worker died" not in printed
    assert not (out / "entropy.csv").exists()
    finish(arguments, out)
    assert_same_results(out, quiet)


@pytest.mark.slow
def test_submitted_to_a_cluster(arguments: list[str], quiet: Path, tmp_path: Path):
    """A head started as on a cluster; the job goes through Ray's job submission, with its folder uploaded."""
    ray = str(Path(sys.executable).with_name("ray"))
    temporary = Path("/tmp") / f"bae-head-{os.getpid()}"  # Ray's sockets need a short path
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment["RAY_AUTH_MODE"] = "token"  # a local head asks for the token in ~/.ray, which it writes
    environment["PATH"] = f"{Path(ray).parent}:{environment['PATH']}"  # as in an activated environment
    # Ports of its own: the test session's Ray has the default ones, and an agent without its port takes no jobs.
    ports = ["--port=26379", "--dashboard-port=28265", "--ray-client-server-port=21001"]
    ports.append("--dashboard-agent-listen-port=28365")
    head = subprocess.Popen(
        [ray, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", f"--temp-dir={temporary}", *ports],
        env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    out = tmp_path / "submitted"
    submit = [ray, "job", "submit", "--address", "http://127.0.0.1:28265", "--working-dir", ".", "--", "python"]
    try:
        wait_for_port(28265)
        deadline = time.monotonic() + 60
        while True:
            job = subprocess.run(
                [*submit, *arguments, "--out", str(out)],
                cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            # The port answers before the node is ready for jobs.
            if "No available agent" not in job.stderr or time.monotonic() > deadline:
                break
            time.sleep(2)
        assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-2000:]
        assert "Entropy in bits" in job.stdout
        assert "succeeded" in job.stdout
        assert_same_results(out, quiet)
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, f"nothing listens on {port}"
        time.sleep(0.5)
