"""The experiments by the names of their jobs: each is imported when it is asked for."""

from importlib import import_module
from typing import Any

from bae_ray.errors import InvalidInputError
from bae_ray.experiments.protocol import Experiment
from bae_ray.names import nearest

EXPERIMENTS = {
    "layer_position_entropy": "layer_position",
    "synthetic_entropy": "synthetic",
    "lm_random_tokens": "random_tokens",
    "icl_entropy": "icl",
    "steering": "steering",
    "comsem_table": "comsem_table",
    "feature_shape": "feature_shape",
    "compression": "compression",
    "more_bit": "more_bit",
}
"""The room of each experiment, by its `job`: what jobs/JOB.py and `bae-ray job JOB` start."""


def find_experiment(job: str) -> Experiment[Any]:
    """The experiment that a job is of. Raises `InvalidInputError` for a name that there is not."""
    if job not in EXPERIMENTS:
        raise InvalidInputError(
            f"'{job}' is no job of bae_ray; expected one of {', '.join(EXPERIMENTS)}.{nearest(job, EXPERIMENTS)}"
        )
    return import_module(f"bae_ray.experiments.{EXPERIMENTS[job]}.experiment").EXPERIMENT
