"""Commands that a Ray cluster runs, through its own job server: sent with a folder, followed, joined again."""

import asyncio
import logging
import os
import shlex
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from zipfile import ZipFile

import aiohttp
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.runtime_env.packaging import create_package
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from bae_ray.chatter import debugging
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
            f"the working folder {folder.resolve()} has {megabytes:.0f} MB; expected at most {MOST_MB:.0f} MB. Its "
            f"largest files: {listed}. --exclude leaves some out; data belongs where all machines see it."
        )
    return Package(file, frozenset(member.filename for member in members), megabytes)


class Ended(NamedTuple):
    """How a job ended."""

    status: str
    """succeeded, failed or stopped."""
    exit_code: int | None
    """Of its command; None where that did not come to its end. Below 0: the signal that ended it."""
    message: str


class JobServer:
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

    def submit(
        self, entrypoint: Sequence[str], package: Package, environment: Mapping[str, str], cpus: float, gpus: float
    ) -> str:
        """Upload the package and have the command run in it, on this machine's version of bae_ray; the job's id.

        Raises `InvalidInputError` where the cluster refuses it, `UnfinishedError` where nobody knows whether it began.
        """
        ours, submission = Path(__file__).parents[1], f"bae-{uuid.uuid4().hex[:12]}"
        runtime: dict[str, Any] = {"working_dir": str(package.file), "env_vars": {**environment}}
        if f"{ours.name}/__init__.py" not in package.names:
            runtime["py_modules"] = [str(ours)]
        try:
            return self._client.submit_job(
                entrypoint=shlex.join(entrypoint), runtime_env=runtime, submission_id=submission,
                entrypoint_num_cpus=cpus, entrypoint_num_gpus=gpus,
            )  # fmt: skip
        except RuntimeError as error:
            raise InvalidInputError(f"{self.address} did not take the job: {first_line(error)}") from error
        except LOST as error:
            raise UnfinishedError(
                f"{self.address} broke off: {first_line(error)} To see whether the job began: "
                f"`bae-ray submit --follow {submission} --address {self.address}`."
            ) from error

    def follow(self, submission: str) -> Ended | None:
        """Print a job's log until it ends, and say how; None where the cluster is gone.

        Raises `InvalidInputError` for an id that is not known.
        """
        try:
            self._client.get_job_info(submission)
        except RuntimeError as error:
            raise InvalidInputError(
                f"{self.address} has no job {submission}: {first_line(error)} `ray job list --address {self.address}` "
                "lists its jobs."
            ) from None
        log = _Log(self._client, submission)
        while (info := self._look(log)) is None or not info.status.is_terminal():
            if time.monotonic() - log.answered > PATIENCE_S:
                return None
            time.sleep(PAUSE_S)
        return Ended(str(info.status).lower(), info.driver_exit_code, info.message or "")

    def _look(self, log: "_Log") -> Any:
        """What Ray says of the job once its log has ended; None where it does not answer."""
        try:
            asyncio.run(log.read())
            info = self._client.get_job_info(log.submission)
        except LOST:
            return None
        log.answered = time.monotonic()
        return info


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


def _silent() -> logging.Logger:
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.INFO if debugging() else logging.ERROR)
    return logger
