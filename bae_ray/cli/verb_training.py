"""The verbs `bae-ray train | sweep | watch | entropy | report`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from bae_ray.activations.config import Position
from bae_ray.autoencoders.architectures import AutoencoderConfig, architecture_of
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.cli.command import Command, Held
from bae_ray.cli.exit_codes import report_failures
from bae_ray.cli.verb_stores import read_extraction
from bae_ray.errors import InvalidInputError
from bae_ray.files import write_text
from bae_ray.locations import Place, shown, without_credentials
from bae_ray.progress import track
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig
from bae_ray.working_copies import reading, working

if TYPE_CHECKING:
    from bae_ray.activations.store import ActivationStore


class TrainCommand(Command):
    """Train one autoencoder on one cell of an activation store."""

    store: str
    """Activation store: a path, or a URI such as s3://bucket/folder."""
    out: Place
    """Folder of runs, here or at a URI. The run's folder in it is named by the hash of its config."""
    layer: int
    """Layer to train on."""
    position: Position
    """Position to train on."""
    site: str = "residual"
    """Site to train on."""
    autoencoder: AutoencoderConfig = BAEConfig()
    """Architecture."""
    training: TrainingConfig = TrainingConfig()
    """Training."""


class SweepCommand(Command):
    """Train a grid of autoencoders over the cells of an activation store. Finished runs are never trained again."""

    sweep: Held[SweepConfig]
    """What to train."""
    store: str
    """Activation store: a path, or a URI such as s3://bucket/folder. With --dry-run, a YAML or JSON file also does: the
    options of an extraction not yet run, or an experiment's config."""
    out: Place
    """Output folder, here or at a URI such as s3://bucket/folder: a folder for each run, and results.parquet."""
    dry_run: bool = False
    """Only print what the sweep would do: number of runs and steps, time, and size."""
    price_per_gpu_hour: float | None = Field(default=None, gt=0)
    """With --dry-run: price of one GPU for an hour, in any currency. The plan then states what the sweep costs."""
    continue_unconverged: int | None = Field(default=None, ge=1)
    """Train finished runs that did not converge for this many more epochs, from where they ended. None: do not."""


class WatchCommand(Command):
    """Show the progress of a sweep until it ends. It only reads the sweep's folder: Ctrl-C does not stop the sweep."""

    runs: Place
    """Folder of the sweep's runs, here or at a URI."""
    every: float = Field(default=2.0, gt=0)
    """Seconds between two updates."""
    once: bool = False
    """Show the progress once, then exit."""
    best: str = "fvu_val"
    """Column of the results in which the smallest value marks the best run."""


def train(command: TrainCommand) -> None:
    """Run `bae-ray train`; needs no Ray."""
    from bae_ray.activations.layout import Cell
    from bae_ray.activations.store import ActivationStore
    from bae_ray.training.caveats import SATURATED
    from bae_ray.training.grid import plan_run
    from bae_ray.training.run_execution import execute_run

    store = ActivationStore.open(command.store)
    cell = Cell(command.layer, command.site, command.position)
    run = plan_run(store, cell, command.autoencoder, command.training)
    with working(command.out, "a training") as out, track("Training", command.training.epochs, "epochs") as tracker:
        result = execute_run(run, store, out, on_epoch=tracker.reach)
    bits, most = result.entropy_bits, result.d_latent
    if architecture_of(command.autoencoder).is_binary and bits > SATURATED * most:
        weight, epochs = command.training.entropy_weight, command.training.epochs
        print(
            f"warning: {bits:.0f} of {most} possible bits: most latents are fair coins, so the number says little of "
            f"the activations. The entropy weight ({weight:g}) did too little in {epochs} epochs: raise "
            f"--training.entropy-weight, to {max(2e-3, 10 * weight):g} say, or train for longer.",
            file=sys.stderr,
        )
    print(
        f"{bits:.1f} bits of at most {most}, FVU {result.fvu_train:.3f} on training and {result.fvu_val:.3f} on "
        f"held-out texts{', not converged' if result.converged is False else ''}: {shown(command.out / run.id)}"
    )


def sweep(command: SweepCommand) -> int:
    """Run `bae-ray sweep`."""
    from bae_ray.activations.store import ActivationStore
    from bae_ray.training.continue_command import SWEEP_FILE, how_to_go_on
    from bae_ray.training.dry_run import dry_run
    from bae_ray.training.sweep import sweep as run
    from bae_ray.training.sweep_folder import RESULTS_FILE

    if command.dry_run and command.continue_unconverged:
        raise InvalidInputError("--dry-run does not count what --continue-unconverged would add: give one of them.")
    if command.price_per_gpu_hour is not None and not command.dry_run:
        raise InvalidInputError("--price-per-gpu-hour is for the plan that --dry-run prints: give both or none.")
    if command.dry_run:
        from bae_ray.report.sweep_terminal import print_plan

        print_plan(dry_run(command.sweep, _planned(command.store), command.out), command.price_per_gpu_hour)
        return 0
    if Path(command.store).is_file():
        raise InvalidInputError(
            f"--store is {command.store}, a file: expected the folder of a store. From a file with the options "
            "of an extraction, a sweep can only be planned: add --dry-run."
        )
    store, more = ActivationStore.open(command.store), command.continue_unconverged
    outcome = run(command.sweep, store, command.out, continue_unconverged=more)
    write_text(command.out / SWEEP_FILE, command.record(store=without_credentials(command.store)))
    print(f"{outcome.trained} runs trained, {len(outcome.failures)} failed.")
    if outcome.unconverged:
        print("; ".join(filter(None, [f"{outcome.unconverged} runs did not converge", how_to_go_on(command.out)])))
    print(shown(command.out / RESULTS_FILE))
    return report_failures(outcome.failures)


def _planned(store: str) -> "ActivationStore":
    """The store to plan over, or what an extraction in a file will make."""
    from bae_ray.activations.store import ActivationStore
    from bae_ray.training.planned_store import planned_store

    return planned_store(read_extraction(Path(store))) if Path(store).is_file() else ActivationStore.open(store)


def watch(command: WatchCommand) -> None:
    """Run `bae-ray watch`; needs no Ray."""
    from bae_ray.report.sweep_terminal import watch as run

    run(command.runs, command.every, command.once, command.best)


class EntropyCommand(Command):
    """Write entropy.csv from the finished runs of a folder, and print it as a table."""

    runs: Place
    """Folder of runs, here or at a URI."""
    out: Place = Path("entropy.csv")
    """File for the table, here or at a URI."""


class ReportCommand(Command):
    """Write tables, figures and a page from runs; with several entropy weights also bits at equal FVU."""

    runs: Place
    """Folder of runs, here or at a URI."""
    out: Place
    """Output folder, here or at a URI: entropy.csv, entropy.png, report.html, and with several entropy weights
    matched.csv and matched.png."""
    matched_fvu: float | None = Field(default=None, gt=0)
    """The held-out FVU at which cells are compared. None: the FVU, to two digits, that the curves of most cells
    contain."""
    fixed_weight: float | None = Field(default=None, ge=0)
    """The entropy weight whose bits are shown for comparison. None: the smallest above 0."""


def entropy(command: EntropyCommand) -> None:
    """Run `bae-ray entropy`."""
    from bae_ray.report.entropy_tables import entropy_tables
    from bae_ray.report.terminal import print_tables
    from bae_ray.training.caveats import caveat_lines
    from bae_ray.training.results import entropy_table, results, write_csv

    table = results(command.runs)
    write_csv(entropy_table(table), command.out)
    print_tables(*entropy_tables(table))
    for line in caveat_lines(table, command.runs):
        print(line)
    print(shown(command.out))
    _say_unfinished(command.runs)


def report(command: ReportCommand) -> None:
    """Run `bae-ray report`."""
    from bae_ray.experiments.layer_position.report import report_entropies

    with working(command.out, "a report") as out:
        report_entropies(reading(command.runs), out, matched_fvu=command.matched_fvu, fixed_weight=command.fixed_weight)
    _say_unfinished(command.runs)


def _say_unfinished(runs: Path) -> None:
    """Say how many runs of a sweep are finished, below tables that look as if all were."""
    from bae_ray.training.sweep_folder import unfinished

    if line := unfinished(runs):
        print(line)
