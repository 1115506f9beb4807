"""The verb `bae-ray submit`."""

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from bae_ray.cli.command import Command
from bae_ray.cli.common_options import given_here
from bae_ray.cli.exit_codes import EXIT_INTERRUPTED, EXIT_LOST, EXIT_SOME_FAILED
from bae_ray.cli.remote_job import RemoteJob, remote_job
from bae_ray.cli.remote_job import split as split  # noqa: PLC0414 - for `Verb.split`
from bae_ray.errors import InvalidInputError

if TYPE_CHECKING:
    from bae_ray.work.job_server import JobServer

SIGNALLED = 128
"""Shells add this to the number of the signal that ended a process."""


class SubmitCommand(Command):
    """Run a job on a Ray cluster, print its log, return its exit code: bae-ray submit [options] JOB [its options].

    JOB is a script of jobs/ (layer_position_entropy, or its path) or a verb (extract, sweep, store verify, ...). JOB's
    own options follow it and are checked before anything is sent. The options below come before JOB; --address may also
    come after it. Ctrl-C leaves the job running.
    """

    address: str | None = None
    """URL of the cluster's Ray dashboard. None: the environment variable RAY_API_SERVER_ADDRESS, else
    http://127.0.0.1:8265."""
    working_dir: Path = Path()
    """Folder to upload; the job runs in it. Files that .gitignore names, and the folders runs, docs and tests, are not
    uploaded."""
    exclude: tuple[str, ...] = ()
    """Further files not to upload: patterns as in .gitignore."""
    env: tuple[str, ...] = ()
    """Names of environment variables, such as HF_TOKEN, to pass to the job with their values here."""
    cpus: float = Field(default=0, ge=0)
    """CPUs for the job's own process, on any node. 0: it runs on the head node. Its workers take more."""
    gpus: float = Field(default=0, ge=0)
    """GPUs for the job's own process; only `train` computes there."""
    leave: bool = False
    """Return at once; do not wait for the job."""
    follow: str | None = None
    """Id of a running or ended job: print its log, and start nothing."""


def submit(command: SubmitCommand, job: list[str]) -> int:
    """Run `bae-ray submit`."""
    if bool(job) == bool(command.follow):
        raise InvalidInputError(
            "expected a job, such as `bae-ray submit layer_position_entropy paper --out /shared/fig3`, or --follow ID: "
            f"{'both' if job else 'neither'} given."
        )
    if not command.working_dir.is_dir():
        raise InvalidInputError(f"--working-dir {command.working_dir} is no folder on this machine.")
    environment = {**given_here(), **_values(command.env)}
    checked = remote_job(job, command.working_dir) if job else None
    from bae_ray.work.job_server import JobServer

    server = JobServer(command.address)
    if checked is None:
        return _follow(server, command.follow or "")
    submission = _upload(server, checked, command, environment)
    return 0 if command.leave else _follow(server, submission)


def _upload(server: "JobServer", job: RemoteJob, command: SubmitCommand, environment: dict[str, str]) -> str:
    from bae_ray.work.job_server import pack

    with tempfile.TemporaryDirectory() as scratch:
        package = pack(command.working_dir, command.exclude, Path(scratch))
        if job.config is not None and Path(os.path.normpath(job.config)).as_posix() not in package.names:
            raise InvalidInputError(
                f"--config {job.config} is not among the files uploaded from {command.working_dir.resolve()}. Put it "
                "there, in a folder that is uploaded, and give its path from there."
            )
        submission = server.submit(job.entrypoint, package, environment, command.cpus, command.gpus)
    _say(f"job {submission} is on {server.address}: {package.megabytes:.1f} MB uploaded. {_ways(server, submission)}")
    return submission


def _follow(server: "JobServer", submission: str) -> int:
    """Print the job's log; the exit code: the job's own, or `EXIT_LOST` where the cluster is gone."""
    try:
        ended = server.follow(submission)
    except KeyboardInterrupt:
        _say(f"job {submission} goes on. {_ways(server, submission)}")
        return EXIT_INTERRUPTED
    if ended is None:
        _say(f"the log of job {submission} broke off. The job may go on. {_ways(server, submission)}")
        return EXIT_LOST
    code = ended.exit_code
    if ended.status == "succeeded":
        _say(f"job {submission} succeeded.")
        return 0
    if ended.status == "stopped":
        _say(f"job {submission} was stopped; what it finished is kept, and the same command goes on from there.")
    else:
        _say(f"job {submission} failed" + (f": {ended.message}" if code is None else f" with exit code {code}."))
    return EXIT_SOME_FAILED if not code else SIGNALLED - code if code < 0 else code


def _ways(server: "JobServer", submission: str) -> str:
    return (
        f"`bae-ray submit --follow {submission} --address {server.address}` shows its log, "
        f"`ray job stop {submission} --address {server.address}` stops it."
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _values(names: tuple[str, ...]) -> dict[str, str]:
    """The values of environment variables. Raises `InvalidInputError` for one that is not set, or a value given."""
    for name in names:
        if "=" in name:
            raise InvalidInputError(
                f"--env takes only names, but {name.split('=')[0]} has a value, which others could see in the command. "
                "Set the variable here, and give its name."
            )
        if name not in os.environ:
            raise InvalidInputError(f"--env {name}: no such variable is set here. Set it, or leave it out.")
    return {name: os.environ[name] for name in names}
