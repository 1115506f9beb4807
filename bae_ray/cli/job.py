"""An experiment as a command: jobs/JOB.py, or `bae-ray job JOB`, with PRESET [--dry-run] [options]."""

import sys
from collections.abc import Mapping
from typing import TypeVar

from bae_ray.cli.exit_codes import report_failures, run_safely
from bae_ray.cli.parsing import parse
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.protocol import Experiment, ExperimentConfig, Planned, execute
from bae_ray.names import nearest

C = TypeVar("C", bound=ExperimentConfig)

DEFAULT = "laptop"
DRY_RUN = "--dry-run"
OLD_NAMES = {"cpu": "laptop", "demo": "laptop"}
"""What presets were called before."""


def start(experiment: Experiment[C]) -> None:
    """Run an experiment as the arguments of this process say, and exit."""
    sys.exit(run_safely(lambda: run_job(experiment, sys.argv[1:])))


def run_job(experiment: Experiment[C], arguments: list[str], prog: str = "") -> int:
    """Run an experiment, or print what its trainings would take; the exit code.

    Help and errors call it `prog`, by default as its script is called.
    """
    prog = prog or f"{experiment.job}.py"
    config = job_config(experiment, arguments, prog)
    if DRY_RUN in arguments:
        _print_plan(experiment, config, prog)
        return 0
    return report_failures(execute(experiment, config))


def job_config(experiment: Experiment[C], arguments: list[str], prog: str) -> C:
    """The config of a job, of its preset and options, among which --dry-run may be."""
    return parse_preset(experiment.presets, prog, [argument for argument in arguments if argument != DRY_RUN])


def _print_plan(experiment: Experiment[C], config: C, prog: str) -> None:
    if not isinstance(experiment, Planned):
        raise InvalidInputError(f"{prog} has no {DRY_RUN}: it trains on more than one store.")
    from bae_ray.report.sweep_terminal import print_plan
    from bae_ray.training.dry_run import dry_run
    from bae_ray.training.planned_store import planned_store

    extraction, sweep = experiment.planned(config)
    print_plan(dry_run(sweep, planned_store(extraction), config.out / "planned"))


def parse_preset(presets: Mapping[str, C], prog: str, arguments: list[str]) -> C:
    """A config: the preset that the first argument names, else `laptop`, with the other arguments' changes."""
    named = bool(arguments) and not arguments[0].startswith("-")
    name, options = (arguments[0], arguments[1:]) if named else (DEFAULT, arguments)
    if name not in presets and name in OLD_NAMES:
        print(f"note: the preset {name} is now called {OLD_NAMES[name]}.", file=sys.stderr)
        name = OLD_NAMES[name]
    if name not in presets:
        known = ", ".join(presets)
        raise InvalidInputError(f"preset '{name}' is not known: begin with one of {known}.{nearest(name, presets)}")
    return parse(type(presets[name]), f"{prog} {name}", options, presets[name])
