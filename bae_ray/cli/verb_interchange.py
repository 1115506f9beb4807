"""The verbs `bae-ray export | import`: autoencoders of other packages."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from bae_ray.activations.config import Position
from bae_ray.autoencoders.architectures import Format, Kind
from bae_ray.cli.command import Command
from bae_ray.errors import InvalidInputError

if TYPE_CHECKING:
    from bae_ray.autoencoders import Autoencoder


class ExportCommand(Command):
    """Write a saved autoencoder as a SAELens folder, with its normalisation folded into the weights."""

    source: str
    """Folder of the autoencoder, for example of a run, or its id on the Hugging Face hub."""
    out: Path
    """Folder to write, as sae_lens.SAE.load_from_disk reads it."""
    layer: int | None = Field(default=None, ge=0)
    """Layer l of the activations, hidden_states[l]: written into the metadata as the hook blocks.l.hook_resid_pre."""
    hook_name: str | None = None
    """TransformerLens' name of the activations. None: the one of --layer."""
    model_name: str | None = None
    """TransformerLens' name of the language model, for the metadata."""


class ImportCommand(Command):
    """Convert an autoencoder of SAELens, sparsify or the paper's released code to bae_ray's format."""

    source: Path
    """A SAELens or sparsify folder, or a file of the released code (.pt, .pth, .bin or .safetensors)."""
    format: Format
    """The package that wrote it."""
    out: Path
    """Output folder for the autoencoder."""
    kind: Kind | None = None
    """Format release: which autoencoder it is. None: what experiment_params.txt beside it says, else bae."""
    k: int | None = None
    """Format release, kind topk: latents kept per sample. None: 10."""
    threshold: float | None = None
    """Format release, kind jumprelu: the fixed threshold. None: 0.5."""
    prior_from: str | None = None
    """Activation store to compute the firing rates (the prior) on. Without them, a binary autoencoder's features have
    no magnitudes. None: those in the file, if 'bae-ray export' wrote it."""
    layer: int | None = None
    """Layer of the cell to compute them on. None: the store's only layer."""
    site: str | None = None
    """Site of that cell. None: the store's only site."""
    position: Position | None = None
    """Position of that cell. None: the store's only position."""


def export(command: ExportCommand) -> None:
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


def import_(command: ImportCommand) -> None:
    """Run `bae-ray import`."""
    from bae_ray.autoencoders.checkpoint import CONFIG_FILE
    from bae_ray.autoencoders.interop import import_autoencoder

    _require_free(command.out, CONFIG_FILE)
    with _printed_warnings():
        autoencoder = import_autoencoder(command.source, command.format, command.kind, command.k, command.threshold)
        _take_prior(autoencoder, command)
    autoencoder.save_pretrained(command.out)
    print(f"{autoencoder.config.model_dump_json()} in {command.out}")


def _take_prior(autoencoder: "Autoencoder", command: ImportCommand) -> None:
    """Make a store's cell the autoencoder's reference set; warn where a binary autoencoder is left without one."""
    from bae_ray.activations.rows import Rows
    from bae_ray.activations.store import ActivationStore
    from bae_ray.analysis.features import feature_statistics

    wanted = command.model_dump(include={"layer", "site", "position"}, exclude_none=True)
    if command.prior_from is None:
        if wanted:
            raise InvalidInputError(f"--{min(wanted)} selects a cell of --prior-from: give both or neither.")
        if autoencoder.architecture.is_binary and not autoencoder.has_prior:
            warnings.warn(
                "the file holds no firing rates: magnitudes of this binary autoencoder will be refused, and its "
                "containers be larger. Give --prior-from STORE, a store of the activations it was trained on.",
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
            f"{command.prior_from} has activations of width {store.manifest.d}; the autoencoder takes "
            f"{autoencoder.d_in}. Give a store of the model and site it was trained on."
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
