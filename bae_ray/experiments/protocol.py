"""What an experiment is, and how one is run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

from bae_ray.config import Config
from bae_ray.files import write_text
from bae_ray.locations import Place
from bae_ray.working_copies import working

if TYPE_CHECKING:
    from bae_ray.activations.config import ExtractConfig
    from bae_ray.report.results_writer import Results
    from bae_ray.training.sweep_config import SweepConfig

CONFIG_FILE = "config.json"


class ExperimentConfig(Config):
    """Base of the experiments' configs."""

    out: Place
    """Folder for all that the experiment computes, here or at a URI such as s3://bucket/folder. The same command
    continues an interrupted run."""

    def resolved(self) -> str:
        """The config as JSON, in the form that `--config FILE` reads."""
        return self.model_dump_json(indent=2) + "\n"

    def changed(self, **fields: Any) -> Self:
        """The config with other values. For a section of it, a mapping gives the fields that change."""
        return self.model_validate(_merged(self.model_dump(), fields))

    def record(self) -> None:
        """Write the config into its folder."""
        write_text(self.out / CONFIG_FILE, self.resolved())


def _merged(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    sections = {name: _merged(values[name], change) for name, change in changes.items() if isinstance(change, Mapping)}
    return {**values, **changes, **sections}


C = TypeVar("C", bound=ExperimentConfig)


class Outcome(NamedTuple):
    """The result of running an experiment."""

    results: "Sequence[Results]"
    """Tables, figures and pages of what was found; none where there is nothing to report."""
    failures: list[str]
    """A line for each part that failed. The results are those of the other parts."""


class Experiment(Protocol[C]):
    """An experiment of the paper: its presets, its computation, its results."""

    job: str
    """Name of its script: jobs/JOB.py."""

    @property
    def presets(self) -> Mapping[str, C]:
        """Its configs by name: laptop, gpu, paper and possibly others."""
        ...

    def run(self, config: C, /) -> Outcome:
        """Compute what is missing, and draw the results.

        Raises `InvalidInputError` for a config that it does not accept.
        """
        ...


@runtime_checkable
class Planned(Protocol):
    """An experiment that trains one grid on one store, so that its trainings can be planned before either is made."""

    def planned(self, config: Any, /) -> "tuple[ExtractConfig, SweepConfig]":
        """The extraction of that store, and the grid."""
        ...


def execute(experiment: Experiment[C], config: C) -> list[str]:
    """Run an experiment and write its results. Returns a line for each part that failed."""
    with working(config.out, f"the job {experiment.job}"):
        outcome = experiment.run(config)
        from bae_ray.report.results_writer import write_results

        for results in outcome.results:
            write_results(results, config.out, config.resolved())
    return outcome.failures
