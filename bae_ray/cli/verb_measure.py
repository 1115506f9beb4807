"""The verb `bae-ray measure`."""

from pathlib import Path

from bae_ray.analysis.config import MeasureConfig
from bae_ray.cli.command import Command, Held
from bae_ray.cli.exit_codes import report_failures
from bae_ray.locations import Place, shown, without_credentials
from bae_ray.working_copies import working


class MeasureCommand(Command):
    """Measure the cells of an activation store without training: rates, ranks, entropies, dimensions."""

    measures: Held[MeasureConfig]
    """What to measure."""
    store: str
    """Activation store: a path, or a URI such as s3://bucket/folder."""
    out: Place = Path("measures")
    """Output folder, here or at a URI such as s3://bucket/folder: tables, a figure, an HTML page. The same command
    finishes an interrupted run."""
    runs: Place | None = None
    """Folder of runs on this store. Only their cells are measured, each at the held-out FVU of each of its runs. None:
    all cells at --fvu."""


def measure(command: MeasureCommand) -> int:
    """Run `bae-ray measure`; needs no Ray."""
    from bae_ray.activations.store import ActivationStore
    from bae_ray.experiments.layer_position.measures_report import measures_results
    from bae_ray.report.results_writer import write_results
    from bae_ray.training.cell_measures import TABLE_FILE, measure_store

    store = ActivationStore.open(command.store)
    with working(command.out, "a measuring") as out:
        found = measure_store(command.measures, store, out, command.runs)
        if found.table is not None:
            config = command.record(store=without_credentials(command.store))
            write_results(measures_results(found.table), out, config)
            print(f"{'table':8} {shown(out / TABLE_FILE)}")
    return report_failures(found.failures)
