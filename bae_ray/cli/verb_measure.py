"""The verb `bae-ray measure`."""

from pathlib import Path

from bae_ray.analysis.config import MeasureConfig
from bae_ray.cli.command import Command, Held
from bae_ray.cli.exit_codes import report_failures
from bae_ray.storage import without_credentials


class MeasureCommand(Command):
    """Measure the cells of an activation store without a training: rates, ranks, entropies, dimensions."""

    measures: Held[MeasureConfig]
    """What to measure."""
    store: str
    """Activation store: a path, or a URI such as s3://bucket/folder."""
    out: Path = Path("measures")
    """Folder of the tables, the picture and the page, and of what is finished: the same command goes on from there."""
    runs: Path | None = None
    """Folder of runs on this store: their cells are measured, each at the held-out FVU of each of its runs."""


def measure(command: MeasureCommand) -> int:
    """Run `bae-ray measure`; needs no Ray."""
    from bae_ray.activations.store import ActivationStore
    from bae_ray.experiments.layer_position.measures_report import measures_results
    from bae_ray.report.results_writer import write_results
    from bae_ray.training.cell_measures import TABLE_FILE, measure_store

    store = ActivationStore.open(command.store)
    found = measure_store(command.measures, store, command.out, command.runs)
    if found.table is not None:
        config = command.record(store=without_credentials(command.store))
        write_results(measures_results(found.table), command.out, config)
        print(f"{'table':8} {command.out / TABLE_FILE}")
    return report_failures(found.failures)
