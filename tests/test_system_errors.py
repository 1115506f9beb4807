"""Errors of the system name their path and a remedy; --debug shows where they happened."""

import errno
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bae_ray.cli.exit_codes import EXIT_BROKEN_PIPE, EXIT_INVALID, run_safely
from bae_ray.files import atomic_path, checksum, write_text
from bae_ray.storage import folder_at
from bae_ray.system_errors import explain, naming

FULL = Path("/dev/full")


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """A file each write to which fails as on a full disk, with an error that names no path."""
    if not FULL.exists():
        pytest.skip("needs /dev/full")
    return FULL


def said(error: OSError, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    def fail() -> int:
        raise error

    monkeypatch.setattr("sys.argv", ["bae-ray"])
    assert run_safely(fail) == EXIT_INVALID
    return capsys.readouterr().err


def raised(action: Callable[[], object]) -> OSError:
    try:
        action()
    except OSError as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_full_disk_is_named(full_disk: Path, capsys, monkeypatch):
    def write() -> None:
        with naming(full_disk), full_disk.open("w") as file:
            file.write("x")

    assert raised(lambda: full_disk.write_text("x")).filename is None
    error = raised(write)
    assert error.errno == errno.ENOSPC
    told = said(error, capsys, monkeypatch)
    assert "/dev/full" in told
    assert "Make room" in told


@pytest.mark.parametrize(
    "use",
    [
        lambda folder: write_text(folder / "file" / "x", "text"),
        lambda folder: folder_at(folder / "file").write("x", b""),
        checksum,
        lambda folder: folder_at(folder).read("nothing"),
    ],
    ids=["write", "folder", "checksum", "read"],
)
def test_whatever_fails_names_its_path(use: Callable[[Path], object], tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    told = said(raised(lambda: use(tmp_path)), capsys, monkeypatch)
    assert str(tmp_path) in told
    assert "Traceback" not in told


def test_a_write_that_names_no_path_is_told_with_the_file_that_it_was_for(tmp_path: Path, capsys, monkeypatch):
    def write() -> None:
        with atomic_path(tmp_path / "x"):
            raise OSError(errno.ENOSPC, "No space left on device")

    told = said(raised(write), capsys, monkeypatch)
    assert str(tmp_path / "x") in told
    assert "Make room" in told
    assert list(tmp_path.iterdir()) == []


def test_errors_that_are_no_matter_of_disks_say_so():
    refused = explain(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    assert "Check that the other side runs" in refused
    assert "free space" not in refused + explain(TimeoutError("timed out")) + explain(OSError("AWS Error: no bucket"))
    assert "not a folder" in explain(IsADirectoryError(errno.EISDIR, "Is a directory", "/x"))
    assert "who may read" in explain(PermissionError(errno.EACCES, "Permission denied", "/x"))


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_of_the_network_is_a_matter_of_disks(error: OSError):
    told = explain(error)
    assert "can be reached" in told
    assert "free space" not in told
    assert "path" not in told


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = explain(raised(lambda: socket.create_server(taken.getsockname())))
    assert "Another process listens there" in told
    assert "free space" not in told


def test_an_error_of_a_worker_is_told_without_its_traceback(ray_cluster):
    import ray

    @ray.remote
    def read() -> str:
        return Path("/nowhere/at/all").read_text()

    told = explain(raised(lambda: ray.get(read.remote())))
    assert "/nowhere/at/all" in told
    assert "Traceback" not in told
    assert "\n" not in told


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment},
    )  # fmt: skip


def test_a_folder_that_is_gone_is_told(tmp_path: Path):
    gone = tmp_path / "gone"
    code = (
        f"import os; os.mkdir('{gone}'); os.chdir('{gone}'); os.rmdir('{gone}')\n"
        "from bae_ray.system_errors import explain\n"
        "try: os.getcwd()\n"
        "except OSError as error: print(explain(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "current folder does not exist any more" in done.stdout


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_prints_the_traceback(how: str, tmp_path: Path):
    (tmp_path / "file").write_text("")
    flag = "--debug" if how == "flag" else ""
    command = f"bae-ray report --runs {tmp_path} {flag} --out {tmp_path}"
    done = run(command, **({"BAE_RAY_DEBUG": "1"} if how == "variable" else {}))
    assert done.returncode == EXIT_INVALID
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    job = Path(__file__).parents[1] / "jobs" / "layer_position_entropy.py"
    if how == "flag":
        done = run(f"{sys.executable} {job} nothing --debug")
        assert done.returncode == EXIT_INVALID
        assert "Traceback" in done.stderr


def test_a_reader_that_has_enough_is_no_error():
    done = run("bae-ray --help | head -0; echo ${PIPESTATUS[0]}")
    assert done.stderr == ""
    code = "import sys; from bae_ray.cli import run_safely; sys.exit(run_safely(lambda: print('x' * 10**6) or 0))"
    done = run(f'{sys.executable} -c "{code}" | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}')
    assert done.stdout.strip() == str(EXIT_BROKEN_PIPE)
    assert done.stderr == ""
