"""The verb `bae-ray fidelity`."""

import json
from pathlib import Path

from bae_ray.activations.config import Position
from bae_ray.cli.command import Command, Held
from bae_ray.cli.exit_codes import report_failures
from bae_ray.errors import InvalidInputError
from bae_ray.fidelity.config import FidelityConfig
from bae_ray.locations import Place, shown, without_credentials
from bae_ray.working_copies import working


class FidelityCommand(Command):
    """Put reconstructions in place of a language model's activations on held-out texts: CE recovered, KL, agreement."""

    fidelity: Held[FidelityConfig]
    """What to measure on, and with what."""
    runs: tuple[Place, ...] = ()
    """Folders of runs on one store, here or at URIs, of any architectures, sites and positions. Writes fidelity.json
    into each run, and columns into each folder's results.parquet."""
    autoencoder: Place | None = None
    """In place of runs: the folder of an autoencoder, for example of one that `bae-ray import` made."""
    layer: int | None = None
    """Layer of that autoencoder."""
    site: str = "residual"
    """Site of that autoencoder."""
    position: Position = "all"
    """Position of that autoencoder."""
    store: str | None = None
    """Activation store that the runs were trained on: a path, or a URI such as s3://bucket/folder. None: the store that
    the first folder's sweep.json names."""
    held_out: str | None = None
    """Activation store of other texts to measure on. None: the texts of the store that a run was not trained on."""
    out: Place | None = None
    """Output folder: tables, a figure and an HTML page. None: the folder fidelity in the first folder of runs."""


def fidelity(command: FidelityCommand) -> int:
    """Run `bae-ray fidelity`."""
    if bool(command.runs) == (command.autoencoder is not None):
        raise InvalidInputError("expected either --runs, folders of runs, or --autoencoder, the folder of one.")
    work = command.runs[0] if command.runs else command.autoencoder
    assert work is not None
    with working(work, "a measuring of fidelity"):
        return _fidelity(command, work)


def _fidelity(command: FidelityCommand, work: Path) -> int:
    from bae_ray.activations.store import ActivationStore
    from bae_ray.experiments.fidelity_report import fidelity_results
    from bae_ray.fidelity.fidelity_rows import fidelity_table
    from bae_ray.fidelity.measure_fidelity import FOLDER, measure_fidelity
    from bae_ray.fidelity.subjects import imported, targets_of
    from bae_ray.report.results_writer import write_results
    from bae_ray.training.sweep_folder import refresh_results

    location = command.store or _store_of(work)
    store = ActivationStore.open(location)
    held_out = None if command.held_out is None else ActivationStore.open(command.held_out)
    if command.autoencoder is not None:
        if command.layer is None:
            raise InvalidInputError("--layer is missing: say which layer the activations of --autoencoder are of.")
        targets = [imported(command.autoencoder, command.layer, command.site, command.position, store)]
    else:
        targets = targets_of(command.runs, store)
    measured = measure_fidelity(command.fidelity, store, targets, work, held_out)
    if measured.records:
        table = fidelity_table([target for target in targets if target.name in measured.records], measured, store)
        config = command.record(store=without_credentials(location))
        write_results(fidelity_results(table, measured.records), command.out or work / FOLDER, config)
    for folder in command.runs:
        refresh_results(folder)
    return report_failures(measured.failures)


def _store_of(folder: Path) -> str:
    """The store that a sweep in a folder was of."""
    file = folder / "sweep.json"
    if not file.is_file():
        raise InvalidInputError(
            f"{shown(file)} is missing, so the runs' activation store is not known. Name it with --store."
        )
    return str(json.loads(file.read_text(encoding="utf-8"))["store"])
