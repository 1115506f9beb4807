"""The verb `bae-ray submit`."""

import os
from pathlib import Path

from pydantic import Field

from bae_ray.cli.command import Command
from bae_ray.cli.remote_job import remote_job
from bae_ray.errors import InvalidInputError


class SubmitCommand(Command):
    """Run a job on a Ray cluster, print its log and end with its exit code: bae-ray submit [options] JOB [its options].

    JOB is a script of jobs/ (layer_position_entropy, or its path) or a verb (extract, sweep, store verify, ...); what
    follows it are its own options, checked here by its own parser. The options below stand before it, --address also
    after it. Ctrl-C leaves the job running.
    """

    address: str | None = None
    """URL of the cluster's dashboard. Left out: RAY_API_SERVER_ADDRESS, or else http://127.0.0.1:8265."""
    working_dir: Path = Path()
    """Folder that is uploaded, in which the job runs. What .gitignore names, runs, docs and tests stay here."""
    exclude: tuple[str, ...] = ()
    """What else of the folder is not uploaded: patterns as in .gitignore."""
    env: tuple[str, ...] = ()
    """Names of environment variables, such as HF_TOKEN, that the job gets with the values that they have here."""
    cpus: float = Field(default=0, ge=0)
    """CPUs that the job's own process is given, wherever they are; 0: it runs on the head. Workers come on top."""
    gpus: float = Field(default=0, ge=0)
    """GPUs that the job's own process is given: `train` computes in it."""
    leave: bool = False
    """Do not wait for the job."""
    follow: str | None = None
    """Id of a job that runs or has ended: print its log, in place of starting one."""


def submit(command: SubmitCommand, job: list[str]) -> int:
    """Run `bae-ray submit`."""
    if bool(job) == bool(command.follow):
        raise InvalidInputError(
            "expected a job, such as `bae-ray submit layer_position_entropy paper --out /shared/fig3`, or --follow ID: "
            f"{'both' if job else 'neither'} given."
        )
    if not command.working_dir.is_dir():
        raise InvalidInputError(f"--working-dir {command.working_dir} is no folder on this machine.")
    environment = _values(command.env)
    checked = remote_job(job, command.working_dir) if job else None
    from bae_ray.cli.submission import Cluster

    cluster = Cluster(command.address)
    if command.follow or checked is None:
        return cluster.follow(command.follow or "")
    submission = cluster.submit(
        checked,
        command.working_dir,
        command.exclude,
        environment=environment,
        entrypoint_num_cpus=command.cpus,
        entrypoint_num_gpus=command.gpus,
    )
    return 0 if command.leave else cluster.follow(submission)


def _values(names: tuple[str, ...]) -> dict[str, str]:
    """The values of environment variables. Raises `InvalidInputError` for one that is not set, or a value given."""
    for name in names:
        if "=" in name:
            raise InvalidInputError(
                f"--env takes names alone, and {name.split('=')[0]} came with a value: values stay out of commands and "
                "files. Set it here, and give its name."
            )
        if name not in os.environ:
            raise InvalidInputError(f"--env {name}: no such variable is set here. Set it, or leave it out.")
    return {name: os.environ[name] for name in names}
