"""The verb `bae-ray job`: the experiments of jobs/ where there is no folder of scripts, as after `pip install`."""

from typing import Any

from bae_ray.cli.command import Command
from bae_ray.cli.job import job_config, run_job
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.catalogue import EXPERIMENTS, find_experiment
from bae_ray.experiments.protocol import Experiment


class JobCommand(Command):
    """Run an experiment of the paper on this machine: bae-ray job JOB PRESET, then its options.

    JOB is layer_position_entropy, synthetic_entropy, lm_random_tokens, icl_entropy, steering, comsem_table,
    feature_shape, compression or more_bit. PRESET is laptop (the default), gpu or paper. --help after JOB lists its
    options; --dry-run prints the plan of its trainings. In the repository, `python jobs/JOB.py` does the same.
    """


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before the job's name, such as --help, and the job with its own options."""
    start = next((i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    return arguments[:start], arguments[start:]


def job(_command: JobCommand, words: list[str]) -> int:
    """Run `bae-ray job`."""
    experiment, options = _found(words)
    return run_job(experiment, options, _name(experiment))


def config_of(words: list[str]) -> Any:
    """The config that these words give a job. Raises `InvalidInputError` for words that are none."""
    experiment, options = _found(words)
    return job_config(experiment, options, _name(experiment))


def _found(words: list[str]) -> tuple[Experiment[Any], list[str]]:
    if not words:
        raise InvalidInputError(
            f"no job is given: expected one of {', '.join(EXPERIMENTS)}, as in `bae-ray job layer_position_entropy`."
        )
    return find_experiment(words[0]), words[1:]


def _name(experiment: Experiment[Any]) -> str:
    return f"bae-ray job {experiment.job}"
