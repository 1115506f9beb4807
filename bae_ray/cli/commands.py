"""The verbs of the `bae-ray` command, each a thin call of the library."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from bae_ray.activations.config import ExtractConfig, Position
from bae_ray.autoencoders.config import AutoencoderConfig, BAEConfig
from bae_ray.autoencoders.interop import Format, Kind
from bae_ray.cli.parsing import report_failures
from bae_ray.config import Config
from bae_ray.errors import InvalidInputError
from bae_ray.files import write_text
from bae_ray.progress import track
from bae_ray.storage import without_credentials
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import SweepConfig

if TYPE_CHECKING:
    from bae_ray.autoencoders import Autoencoder

INCOMPRESSIBLE_SHARE = 0.8
"""Of the possible bits: a code above it has hardly been pressed on by the entropy loss."""


class ExtractCommand(ExtractConfig):
    """Run a language model over a corpus once and store the activations of every layer x site x position."""

    out: str
    """Folder of the activation store: a path, or a URI such as s3://bucket/folder. The same command on the same folder
    finishes an interrupted run."""
    check: bool = False
    """Only try the model on texts of the corpus: whether their vectors are the same alone and beside others, whole and
    cut, whatever follows."""


class TrainCommand(Config):
    """Train one autoencoder on one cell of an activation store."""

    store: str
    """Activation store: a path, or a URI such as s3://bucket/folder."""
    out: Path
    """Folder of runs; this one gets a directory named by the hash of its config."""
    layer: int
    """Layer of the cell."""
    position: Position
    """Position of the cell."""
    site: str = "residual"
    """Site of the cell."""
    autoencoder: AutoencoderConfig = BAEConfig()
    """Architecture."""
    training: TrainingConfig = TrainingConfig()
    """Training."""


class SweepCommand(SweepConfig):
    """Train a grid of autoencoders over the cells of an activation store. Finished runs are never trained again."""

    store: str
    """Activation store: a path, or a URI such as s3://bucket/folder."""
    out: Path
    """Folder of runs, a directory for each, and of results.parquet."""
    dry_run: bool = False
    """Only print what the sweep would do: how many runs, for how long, and how large."""


class WatchCommand(Config):
    """Show how a sweep comes along, from its folder alone, until it ends; Ctrl-C leaves the sweep as it is."""

    runs: Path
    """Folder of the sweep's runs."""
    every: float = Field(default=2.0, gt=0)
    """Seconds between two looks."""
    once: bool = False
    """Look once."""
    best: str = "fvu_val"
    """Column of the results by which the best run is told, the smallest first."""


class EntropyCommand(Config):
    """Write entropy.csv from the finished runs of a folder, and print it as a table."""

    runs: Path
    """Folder of runs."""
    out: Path = Path("entropy.csv")
    """The table's file."""


class ReportCommand(Config):
    """Write entropy.csv, entropy.png, report.html, and of several entropy weights matched.csv and .png, from runs."""

    runs: Path
    """Folder of runs."""
    out: Path
    """Folder of the files."""
    matched_fvu: float | None = Field(default=None, gt=0)
    """The held-out FVU at which cells are compared. Left out: the one that most cells' curves have."""
    fixed_weight: float | None = Field(default=None, ge=0)
    """The entropy weight whose bits stand beside those. Left out: the smallest above 0."""


class ExportCommand(Config):
    """Write a saved autoencoder as a folder of SAELens, its normalisation folded into the weights."""

    source: str
    """Folder of the autoencoder, for example of a run, or its id on the Hugging Face hub."""
    out: Path
    """Folder to write, as sae_lens.SAE.load_from_disk reads it."""
    layer: int | None = Field(default=None, ge=0)
    """Layer l of the activations, hidden_states[l]: written into the metadata as the hook blocks.l.hook_resid_pre."""
    hook_name: str | None = None
    """TransformerLens' name of the activations, in place of a layer."""
    model_name: str | None = None
    """TransformerLens' name of the language model, for the metadata."""


class ImportCommand(Config):
    """Save an autoencoder of SAELens, sparsify or the paper's released code as one of bae_ray's."""

    source: Path
    """Folder of SAELens or sparsify, or file of the released code (.pt, .pth, .bin or .safetensors)."""
    format: Format
    """What wrote it."""
    out: Path
    """Folder of the autoencoder."""
    kind: Kind | None = None
    """Format release: which autoencoder it is. Left out: what experiment_params.txt beside it says, else bae."""
    k: int | None = None
    """Format release, kind topk: latents kept per sample, by default 10."""
    threshold: float | None = None
    """Format release, kind jumprelu: the fixed threshold, by default 0.5."""
    prior_from: str | None = None
    """Activation store to take the firing rates (the prior) from: without them a binary autoencoder has no magnitudes.
    Left out: those of the file, which what 'bae-ray export' wrote has."""
    layer: int | None = None
    """Layer of the cell to take them from. Left out: the only one of the store."""
    site: str | None = None
    """Site of that cell. Left out: the only one."""
    position: Position | None = None
    """Position of that cell. Left out: the only one."""


def extract(command: ExtractCommand) -> int:
    """Run `bae-ray extract`."""
    from bae_ray.activations.extract import check
    from bae_ray.activations.extract import extract as run

    if command.check:
        print(f"{command.model}: {check(command)}")
        return 0
    store = run(command, command.out)
    shown = command.model_copy(update={"out": without_credentials(command.out)})
    store.folder.write_text("extract.json", shown.model_dump_json(indent=2) + "\n")
    print(f"{len(store.cells)} cells of {store.manifest.n} x {store.manifest.d} in {store.folder}")
    return report_failures([str(failure) for failure in store.manifest.failed])


def train(command: TrainCommand) -> int:
    """Run `bae-ray train`; needs no Ray."""
    from bae_ray.activations.layout import Cell
    from bae_ray.activations.store import ActivationStore
    from bae_ray.training.run_folder import execute_run, plan_run

    store = ActivationStore.open(command.store)
    cell = Cell(command.layer, command.site, command.position)
    run = plan_run(store, cell, command.autoencoder, command.training)
    with track("Training", command.training.epochs) as tracker:
        result = execute_run(run, store, command.out, on_epoch=tracker.reach)
    bits, most = result.entropy_bits, result.d_latent
    if command.autoencoder.architecture == "bae" and bits > INCOMPRESSIBLE_SHARE * most:
        weight, epochs = command.training.entropy_weight, command.training.epochs
        print(
            f"warning: {bits:.0f} of {most} possible bits: most latents are fair coins, so the number says little of "
            f"the activations. The entropy weight ({weight:g}) did too little in {epochs} epochs: raise "
            f"--training.entropy-weight, to {max(2e-3, 10 * weight):g} say, or train for longer.",
            file=sys.stderr,
        )
    print(
        f"{bits:.1f} bits of at most {most}, FVU {result.fvu_train:.3f} on training and {result.fvu_val:.3f} on "
        f"held-out texts: {command.out / run.id}"
    )
    return 0


def sweep(command: SweepCommand) -> int:
    """Run `bae-ray sweep`."""
    from bae_ray.activations.store import ActivationStore
    from bae_ray.training.sweep import RESULTS_FILE, dry_run
    from bae_ray.training.sweep import sweep as run

    if command.dry_run:
        from bae_ray.report.sweep_plan import print_plan

        print_plan(dry_run(command, ActivationStore.open(command.store), command.out))
        return 0
    outcome = run(command, ActivationStore.open(command.store), command.out)
    shown = command.model_copy(update={"store": without_credentials(command.store)})
    _save_config(shown, command.out / "sweep.json")
    print(f"{outcome.trained} runs trained, {len(outcome.failures)} failed.")
    print(command.out / RESULTS_FILE)
    return report_failures(outcome.failures)


def watch(command: WatchCommand) -> int:
    """Run `bae-ray watch`; needs no Ray."""
    from bae_ray.report.sweep_watch import watch as run

    run(command.runs, command.every, command.once, command.best)
    return 0


def entropy(command: EntropyCommand) -> int:
    """Run `bae-ray entropy`."""
    from bae_ray.report.entropy_tables import print_entropies
    from bae_ray.training.results import entropy_table, results, write_csv

    table = results(command.runs)
    write_csv(entropy_table(table), command.out)
    print_entropies(table)
    print(command.out)
    return 0


def report(command: ReportCommand) -> int:
    """Run `bae-ray report`."""
    from bae_ray.experiments.layer_position.report import report_entropies

    report_entropies(command.runs, command.out, matched_fvu=command.matched_fvu, fixed_weight=command.fixed_weight)
    return 0


def export(command: ExportCommand) -> int:
    """Run `bae-ray export`."""
    from bae_ray.autoencoders import load_autoencoder
    from bae_ray.autoencoders.interop import export_saelens
    from bae_ray.autoencoders.interop.saelens import CONFIG_FILE

    hook_name = command.hook_name
    if command.layer is not None:
        if hook_name is not None:
            raise InvalidInputError(f"--layer {command.layer} and --hook-name {hook_name} are both given: give one.")
        hook_name = f"blocks.{command.layer}.hook_resid_pre"
    _require_free(command.out, CONFIG_FILE)
    with _printed_warnings():
        export_saelens(load_autoencoder(command.source), command.out, command.model_name, hook_name)
    print(command.out)
    return 0


def import_(command: ImportCommand) -> int:
    """Run `bae-ray import`."""
    from bae_ray.autoencoders.base import CONFIG_FILE
    from bae_ray.autoencoders.interop import import_autoencoder

    _require_free(command.out, CONFIG_FILE)
    with _printed_warnings():
        autoencoder = import_autoencoder(command.source, command.format, command.kind, command.k, command.threshold)
        _take_prior(autoencoder, command)
    autoencoder.save_pretrained(command.out)
    print(f"{autoencoder.config.model_dump_json()} in {command.out}")
    return 0


def _take_prior(autoencoder: "Autoencoder", command: ImportCommand) -> None:
    """Make a store's cell the autoencoder's reference set; warn where a binary autoencoder is left without one."""
    from bae_ray.activations.rows import Rows
    from bae_ray.activations.store import ActivationStore
    from bae_ray.analysis.features import feature_statistics

    wanted = command.model_dump(include={"layer", "site", "position"}, exclude_none=True)
    if command.prior_from is None:
        if wanted:
            raise InvalidInputError(f"--{min(wanted)} says which cell of --prior-from is meant: give that, or neither.")
        if isinstance(autoencoder.config, BAEConfig) and not autoencoder.has_prior:
            warnings.warn(
                "the file holds no firing rates: magnitudes of this binary autoencoder will be refused, and its "
                "containers be larger. Give --prior-from STORE, a store of the activations that it is of.",
                stacklevel=2,
            )
        return
    store = ActivationStore.open(command.prior_from)
    cells = [cell for cell in store.cells if all(getattr(cell, name) == value for name, value in wanted.items())]
    if len(cells) != 1:
        found = "; ".join(str(cell) for cell in (cells or store.cells)[:8])
        raise InvalidInputError(
            f"{command.prior_from} has {len(cells)} cells that fit ({found}): say which with --layer, --site, "
            "--position."
        )
    if store.manifest.d != autoencoder.d_in:
        raise InvalidInputError(
            f"{command.prior_from} has activations of {store.manifest.d} numbers; the autoencoder takes "
            f"{autoencoder.d_in}. Give a store of the activations that it is of."
        )
    cell = cells[0]
    rows = Rows(store.shards(cell.layer, cell.position, cell.site))
    feature_statistics(autoencoder, rows).set_reference(autoencoder)


def _require_free(folder: Path, file: str) -> None:
    """Raise `InvalidInputError` where `folder` already holds an autoencoder, whose config is `file`."""
    if (folder / file).exists():
        raise InvalidInputError(f"--out {folder} already holds a {file}: give a folder that is empty or new.")


@contextmanager
def _printed_warnings() -> Iterator[None]:
    """Print the warnings inside as messages of the command, without Python's line numbers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def _save_config(command: Config, file: Path) -> None:
    write_text(file, command.model_dump_json(indent=2) + "\n")
