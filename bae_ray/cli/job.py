"""An experiment as a command: jobs/JOB.py PRESET [options]."""

import sys
from collections.abc import Mapping
from typing import TypeVar

from bae_ray.cli.exit_codes import report_failures, run_safely
from bae_ray.cli.parsing import parse
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.protocol import Experiment, ExperimentConfig, execute
from bae_ray.names import nearest

C = TypeVar("C", bound=ExperimentConfig)

DEFAULT = "laptop"
OLD_NAMES = {"cpu": "laptop", "demo": "laptop"}
"""What presets were called before."""


def start(experiment: Experiment[C]) -> None:
    """Run an experiment as the arguments of this process say, and exit."""
    sys.exit(run_safely(lambda: run_job(experiment, sys.argv[1:])))


def run_job(experiment: Experiment[C], arguments: list[str]) -> int:
    """Run an experiment; the exit code."""
    config = parse_preset(experiment.presets, f"{experiment.job}.py", arguments)
    return report_failures(execute(experiment, config))


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
