"""What takes the place of activations: a run's reconstruction, and as controls their mean and zeros."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from bae_ray.activations.config import Position
from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.activations.taps import Tap
from bae_ray.autoencoders import load_autoencoder
from bae_ray.autoencoders.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError
from bae_ray.fidelity.held_out_texts import Trained
from bae_ray.files import at_hand, checksum, read_text
from bae_ray.training.config import CellConfig, RunConfig
from bae_ray.training.grid import check_trained_on
from bae_ray.training.run_folder import RESULT_FILE, RUN_FILE
from bae_ray.working_copies import refresh

CONTROLS: tuple["Kind", ...] = ("mean", "zero")
Kind = Literal["run", "mean", "zero"]


class Target(NamedTuple):
    """An autoencoder to measure, and where it belongs."""

    folder: Path
    """Absolute, since workers have another working directory."""
    cell: Cell
    """What it encodes."""
    target: Cell
    """What its reconstruction replaces: the cell itself, except for a transcoder."""
    trained: Trained | None
    """Which rows of the store it was trained on; None: none of them."""
    identity: str
    """A hash of all of this and of its weights, which may change in their folder."""

    @property
    def name(self) -> str:
        """A run's id, or the name of its folder."""
        return self.folder.name

    @property
    def subject(self) -> str:
        """Its name in the rows."""
        return f"run-{self.identity}"

    def control(self, kind: Kind) -> str:
        """Name of the mean or zero in its place: one name for all autoencoders of these activations and texts."""
        return f"{kind}-{content_hash([self.target, self.trained])}"


class Subject(NamedTuple):
    """One replacement for activations, and the texts that it is measured on."""

    name: str
    kind: Kind
    of: Target
    """The autoencoder; for a mean or zeros, one of the autoencoders that it is compared with."""
    texts: tuple[int, ...]
    """Numbers of the texts."""

    @property
    def read(self) -> Tap:
        """Where the autoencoder reads."""
        return Tap(self.of.cell.layer, self.of.cell.site)

    @property
    def tap(self) -> Tap:
        """Where it writes."""
        return Tap(self.of.target.layer, self.of.target.site)

    @property
    def position(self) -> Position:
        """At which tokens."""
        return self.of.cell.position


def targets_of(folders: Iterable[Path], store: ActivationStore) -> list[Target]:
    """The finished runs below folders. Raises `InvalidInputError` if there is none, or one belongs to another store."""
    found: list[Target] = []
    for folder in folders:
        refresh(folder)
        runs = sorted(file.parent for file in folder.glob(f"*/{RESULT_FILE}"))
        if not runs:
            raise InvalidInputError(f"{folder} holds no finished run. Make some with 'bae-ray sweep'.")
        for place in runs:
            run = RunConfig.model_validate_json(read_text(place / RUN_FILE))
            check_trained_on(run, place, store)
            cell = _cell(run.cell)
            trained = Trained(cell.position, run.training.val_fraction, run.training.seed)
            found.append(_target(place, cell, _cell(run.target or run.cell), trained))
    return found


def imported(folder: Path, layer: int, site: str, position: Position, store: ActivationStore) -> Target:
    """An autoencoder that is not a run, at a cell of the store.

    Raises `InvalidInputError` where the store does not hold the cell, or its activations are of another width.
    """
    cell = store.select([layer], [position], [site])[0]
    autoencoder = load_autoencoder(folder)
    if autoencoder.d_in != store.manifest.d:
        raise InvalidInputError(
            f"{store.folder} has activations of width {store.manifest.d}; the autoencoder in {folder} takes "
            f"{autoencoder.d_in}. Give a store of the model and site it was trained on."
        )
    target = cell
    if (place := autoencoder.config.target_cell(layer, site)) is not None:
        target = store.select([place[0]], [position], [place[1]])[0]
    return _target(folder, cell, target, None)


def subjects_of(target: Target, texts: Sequence[int]) -> list[Subject]:
    """An autoencoder and its controls on these texts."""
    controls = [Subject(target.control(kind), kind, target, tuple(texts)) for kind in CONTROLS]
    return [*controls, Subject(target.subject, "run", target, tuple(texts))]


def _target(folder: Path, cell: Cell, target: Cell, trained: Trained | None) -> Target:
    files = [file for name in (CONFIG_FILE, WEIGHTS_FILE) if (file := at_hand(folder / name)).is_file()]
    identity = content_hash([cell, target, trained, [checksum(file) for file in files]])
    return Target(folder.absolute(), cell, target, trained, identity)


def _cell(config: CellConfig) -> Cell:
    return Cell(config.layer, config.site, config.position)
