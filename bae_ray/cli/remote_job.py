"""Jobs for a cluster: a script of jobs/ or a verb of `bae-ray`, whose options its own parser checks here."""

import importlib.util
import re
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple

from bae_ray.cli.job import DRY_RUN, parse_preset
from bae_ray.cli.parsing import parse, take_option
from bae_ray.cli.verb_job import config_of
from bae_ray.cli.verbs import VERBS
from bae_ray.errors import InvalidInputError
from bae_ray.names import nearest

SCRIPTS = "jobs"
"""Folder of the scripts in a working folder."""
JOB, SUBMIT = "job", "submit"
"""Verbs that another command follows: the one runs on a cluster, too, the other brings it there."""
ADDRESS, WORKING_DIR, CONFIG = re.compile("address"), re.compile("working-dir"), re.compile("config")


class RemoteJob(NamedTuple):
    """A command that is right, as far as can be told here."""

    entrypoint: list[str]
    """The command that the cluster runs."""
    config: str | None
    """The file of options that it reads, in the working folder."""


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options of `submit` and the job with its own; --address may stand among these, which no job has."""
    start = _start(arguments)
    own, job = arguments[:start], arguments[start:]
    job, _, address = take_option(job[job[:1] == ["--"] :], ADDRESS)
    return (own if address is None else [*own, "--address", address]), job


def remote_job(job: list[str], folder: Path) -> RemoteJob:
    """The job of these words in a working folder.

    Raises `InvalidInputError` for one that there is not, and whatever its parser raises.
    """
    script, verb = _script(job[0], folder), _verb(job)
    if script.is_file():
        return _of_script(script, job[1:], folder)
    if verb is None:
        names = _names(folder)
        raise InvalidInputError(
            f"'{job[0]}' is no job: expected a script of {folder.resolve() / SCRIPTS}, by its name or its path, or a "
            f"verb of bae-ray: {', '.join(names)}.{nearest(job[0], names)}"
        )
    options = job[len(verb.split()) :]
    with chdir(folder):
        given = config_of(options) if verb == JOB else parse(VERBS[verb].load()[0], f"bae-ray {verb}", options)
    _check_out(given)
    return RemoteJob(["python", "-m", "bae_ray", *verb.split(), *options], _config(options))


def _of_script(script: Path, options: list[str], folder: Path) -> RemoteJob:
    root, path = folder.resolve(), script.resolve()
    inside = path.is_relative_to(root)
    experiment = _experiment(path) if inside else None
    if experiment is None:
        wrong = "has no EXPERIMENT, whose options could be checked" if inside else f"is not in {root}"
        raise InvalidInputError(
            f"{script} {wrong}: expected a script such as {SCRIPTS}/layer_position_entropy.py in the folder that "
            "--working-dir names. `ray job submit` takes any command."
        )
    with chdir(folder):
        given = parse_preset(experiment.presets, script.name, [word for word in options if word != DRY_RUN])
    _check_out(given)
    return RemoteJob(["python", path.relative_to(root).as_posix(), *options], _config(options))


def _experiment(script: Path) -> Any:
    """What a script names EXPERIMENT; None for a script without one, which is not run."""
    spec = importlib.util.spec_from_file_location(f"{SCRIPTS}.{script.stem}", script)
    if spec is None or spec.loader is None or "EXPERIMENT" not in script.read_text(encoding="utf-8", errors="replace"):
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its classes look there for their source
    spec.loader.exec_module(module)
    return getattr(module, "EXPERIMENT", None)


def _start(arguments: list[str]) -> int:
    """Where the job begins: at `--`, else at the first job that there is, else at the first word that is no option."""
    if "--" in arguments:
        return arguments.index("--")
    _, _, given = take_option(arguments, WORKING_DIR)
    names = _names(Path(given or "."))
    words = [i for i, word in enumerate(arguments) if word in names or word.endswith(".py")]
    after = zip(["", *arguments], arguments, strict=False)
    free = [i for i, near in enumerate(after) if not any(word.startswith("-") for word in near)]
    return min(words or free or [len(arguments)])


def _names(folder: Path) -> list[str]:
    """What jobs begin with: names of scripts, first words of verbs."""
    scripts = sorted(file.stem for file in (folder / SCRIPTS).glob("*.py"))
    return [*scripts, *dict.fromkeys(name.split()[0] for name in VERBS if name != SUBMIT)]


def _script(name: str, folder: Path) -> Path:
    return folder / (name if name.endswith(".py") else f"{SCRIPTS}/{name}.py")


def _verb(job: list[str]) -> str | None:
    known = (name for name in VERBS if name != SUBMIT)
    return next((name for name in known if job[: len(name.split())] == name.split()), None)


def _check_out(given: Any) -> None:
    """Raise `InvalidInputError` for results that would go with the cluster's copy of the working folder."""
    out = getattr(given, "out", None)
    if out is not None and "://" not in str(out) and not Path(out).is_absolute():
        raise InvalidInputError(
            f"--out {out} would lie in the cluster's copy of the working folder, which goes with the job. Give --out "
            "a path that begins with / and that all machines of the cluster see, or a URI where the job takes one."
        )


def _config(options: list[str]) -> str | None:
    return take_option(options, CONFIG)[2]
