"""Jobs on a cluster, through Ray's own job server: sent, followed, left and joined again."""

import asyncio
import logging
import os
import shlex
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from zipfile import ZipFile

import aiohttp
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.runtime_env.packaging import create_package
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

import bae_ray
from bae_ray.chatter import debugging
from bae_ray.cli.common_options import VARIABLES
from bae_ray.cli.exit_codes import EXIT_INTERRUPTED, EXIT_LOST, EXIT_SOME_FAILED
from bae_ray.cli.remote_job import RemoteJob
from bae_ray.errors import InvalidInputError, UnfinishedError, first_line

ADDRESS_VARIABLE = ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE
DEFAULT_ADDRESS = f"http://127.0.0.1:{ray_constants.DEFAULT_DASHBOARD_PORT}"
LEFT_OUT = ("/runs", "/docs", "/tests", "/benchmarks", "/build", "*.egg-info", "*.pyc")
"""Of a working folder, beside what Ray leaves out and what .gitignore names: no job reads it."""
MOST_MB = 100.0
SHOWN = 3
CONNECT_S = 10.0
REMEDY = (
    "Give the address of a Ray dashboard; `ray dashboard cluster.yaml` brings a cluster's to http://localhost:8265."
)
PATIENCE_S = 60.0
"""How long a cluster that does not answer any more is asked again."""
PAUSE_S = 2.0
SIGNALLED = 128
"""Shells add this to the number of the signal that ended a process."""
LOST = (RuntimeError, OSError, aiohttp.ClientError, TimeoutError)
"""What Ray's client raises where the connection is gone."""


class Package(NamedTuple):
    """What is uploaded."""

    file: Path
    names: frozenset[str]
    megabytes: float


def pack(folder: Path, exclude: Sequence[str], into: Path) -> Package:
    """The working folder as a zip file. Raises `InvalidInputError` where it is too large."""
    file = into / "working_dir.zip"
    left_out = [*ray_constants.get_runtime_env_default_excludes(), *LEFT_OUT, *exclude]
    create_package(str(folder), file, include_gitignore=True, excludes=left_out, logger=_silent())
    with ZipFile(file) as archive:
        members = archive.infolist()
    megabytes = file.stat().st_size / 1e6
    if megabytes > MOST_MB:
        largest = sorted(members, key=lambda member: -member.compress_size)[:SHOWN]
        listed = ", ".join(f"{member.filename} ({member.compress_size / 1e6:.0f} MB)" for member in largest)
        raise InvalidInputError(
            f"the working folder {folder.resolve()} takes {megabytes:.0f} MB; expected at most {MOST_MB:.0f} MB. Its "
            f"largest files: {listed}. --exclude leaves some out; data belongs where all machines see it."
        )
    return Package(file, frozenset(member.filename for member in members), megabytes)


class Cluster:
    """A cluster's job server."""

    def __init__(self, address: str | None) -> None:
        """Raises `InvalidInputError` where no Ray answers, or one that takes another token."""
        self.address = (address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS).rstrip("/")
        _check_reachable(self.address)
        for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.INFO if debugging() else logging.ERROR)
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        os.environ[ADDRESS_VARIABLE] = self.address  # else Ray's variables would have the last word
        try:
            self._client = JobSubmissionClient(self.address)
        except AuthenticationError as error:
            raise InvalidInputError(
                f"{self.address} does not take this token ({first_line(error)}) Expected the one that the cluster was "
                "started with, in ~/.ray/auth_token, or in RAY_AUTH_TOKEN, and RAY_AUTH_MODE=token or unset."
            ) from None
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise InvalidInputError(
                f"what answers at {self.address} is no dashboard of Ray ({first_line(error)}) {REMEDY}"
            ) from error

    def submit(self, job: RemoteJob, folder: Path, exclude: Sequence[str], **options: Any) -> str:
        """Upload the working folder and start the job; its id. `options`: of Ray's `submit_job`."""
        environment = options.pop("environment")
        package_folder = Path(bae_ray.__file__).parent
        submission = f"bae-{uuid.uuid4().hex[:12]}"
        with tempfile.TemporaryDirectory() as scratch:
            package = pack(folder, exclude, Path(scratch))
            if job.config is not None and Path(os.path.normpath(job.config)).as_posix() not in package.names:
                raise InvalidInputError(
                    f"--config {job.config} is not among what is uploaded of {folder.resolve()}. Put the file there, "
                    "and not below what is left out, and give its path from there."
                )
            runtime: dict[str, Any] = {"working_dir": str(package.file), "env_vars": {**_common(), **environment}}
            if f"{package_folder.name}/__init__.py" not in package.names:  # the cluster is to run this very version
                runtime["py_modules"] = [str(package_folder)]
            try:
                self._client.submit_job(
                    entrypoint=shlex.join(job.entrypoint), runtime_env=runtime, submission_id=submission, **options
                )
            except RuntimeError as error:
                raise InvalidInputError(f"{self.address} did not take the job: {first_line(error)}") from error
            except LOST as error:
                raise UnfinishedError(
                    f"{self.address} broke off: {first_line(error)} Whether the job began says "
                    f"`bae-ray submit --follow {submission} --address {self.address}`."
                ) from error
        _say(f"job {submission} is on {self.address}: {package.megabytes:.1f} MB uploaded. {self._rejoin(submission)}")
        return submission

    def follow(self, submission: str) -> int:
        """Print the job's log until it ends. The exit code: the job's own, or `EXIT_LOST` where the cluster is gone."""
        try:
            self._client.get_job_info(submission)
        except RuntimeError as error:
            raise InvalidInputError(
                f"{self.address} has no job {submission}: {first_line(error)} `ray job list --address {self.address}` "
                "lists those that there are."
            ) from None
        log = _Log(self._client, submission)
        try:
            while (info := self._look(log)) is None or not info.status.is_terminal():
                if time.monotonic() - log.answered > PATIENCE_S:
                    _say(f"the log of job {submission} broke off. The job may go on. {self._rejoin(submission)}")
                    return EXIT_LOST
                time.sleep(PAUSE_S)
        except KeyboardInterrupt:
            _say(f"\njob {submission} goes on. {self._rejoin(submission)}")
            return EXIT_INTERRUPTED
        return _ended(submission, info)

    def left(self, submission: str) -> None:
        """Say how to join the job again."""
        _say(self._rejoin(submission))

    def _look(self, log: "_Log") -> Any:
        """What Ray says of the job once its log has ended; None where it does not answer."""
        try:
            asyncio.run(log.read())
            info = self._client.get_job_info(log.submission)
        except LOST:
            return None
        log.answered = time.monotonic()
        return info

    def _rejoin(self, submission: str) -> str:
        return (
            f"`bae-ray submit --follow {submission} --address {self.address}` shows its log, "
            f"`ray job stop {submission} --address {self.address}` stops it."
        )


class _Log:
    """The log of a job, of which nothing is printed twice. Ray gives it from the beginning each time."""

    def __init__(self, client: JobSubmissionClient, submission: str) -> None:
        self.submission, self.answered = submission, time.monotonic()
        self._client, self._shown = client, 0

    async def read(self) -> None:
        """Print what comes, until the log has ended or the connection is gone."""
        passed = 0
        async for text in self._client.tail_job_logs(self.submission):
            print(text[max(0, self._shown - passed) :], end="", flush=True)
            passed += len(text)
            self._shown, self.answered = max(self._shown, passed), time.monotonic()


def _ended(submission: str, info: Any) -> int:
    """Say how the job ended; its exit code."""
    if info.status == JobStatus.SUCCEEDED:
        _say(f"job {submission} succeeded.")
        return 0
    code = info.driver_exit_code
    if info.status == JobStatus.STOPPED:
        _say(f"job {submission} was stopped; what it finished is kept, and the same command goes on from there.")
    elif code is None:
        _say(f"job {submission} failed: {info.message}")
    else:
        _say(f"job {submission} failed with exit code {code}.")
    return EXIT_SOME_FAILED if not code else SIGNALLED - code if code < 0 else code


def _check_reachable(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInputError(
            f"--address {address} is no URL of a dashboard: expected http://HOST:PORT, such as {DEFAULT_ADDRESS}."
        )
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"nothing answers at {address}: {first_line(error)} {REMEDY}") from None


def _common() -> dict[str, str]:
    """The options that every command takes, as the job gets them."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def _silent() -> logging.Logger:
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.INFO if debugging() else logging.ERROR)
    return logger


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
