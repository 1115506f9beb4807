"""The grid of a sweep: cells x axes over any field of the configs, expanded and validated before anything runs."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import ArchitectureConfig, check_architecture
from bae_ray.autoencoders.architectures import find_architecture
from bae_ray.config import content_hash, describe
from bae_ray.errors import InvalidInputError
from bae_ray.training.axes import CELL_FIELDS, Setting, Settings, parse_axis, parse_condition
from bae_ray.training.config import CellConfig, RunConfig, TrainingConfig
from bae_ray.training.recipe import resolved
from bae_ray.training.sweep_config import SweepConfig

MAX_SHOWN = 5


class IllegalRun(NamedTuple):
    """A run of the grid with invalid settings."""

    cell: Cell
    settings: Settings
    reason: str

    def __str__(self) -> str:
        axes = ", ".join(map(str, self.settings)) or "the configs"
        return f"{axes} at ({self.cell}): {self.reason}"


class Grid(NamedTuple):
    """All runs of a sweep, those of one cell together, and those with invalid settings."""

    runs: list[RunConfig]
    illegal: list[IllegalRun]


def expand(config: SweepConfig, store: ActivationStore) -> list[RunConfig]:
    """All runs of the grid, those of one cell together; see `plan_grid`."""
    return plan_grid(config, store).runs


def plan_grid(config: SweepConfig, store: ActivationStore) -> Grid:
    """Every run of the grid, checked, before anything is trained.

    Raises `InvalidInputError` for cells that the store lacks and unknown fields, and for runs with invalid settings
    unless `skip_illegal` has them listed.
    """
    cells = selected_cells(config, store)
    if config.autoencoder.d_in not in (None, store.manifest.d):
        raise InvalidInputError(
            f"autoencoder.d_in is {config.autoencoder.d_in} but the store's activations are {store.manifest.d} wide. "
            "Leave it out: it is taken from the store."
        )
    axes = [parse_axis(text) for text in config.axes]
    if config.seeds:
        axes.append([(Setting("training.seed", seed),) for seed in config.seeds])
    _check_distinct(axes)
    conditions = [parse_condition(text) for text in config.exclude]
    runs: dict[str, RunConfig] = {}
    illegal: list[IllegalRun] = []
    for cell in cells:
        for points in itertools.product(*axes):
            settings = tuple(itertools.chain.from_iterable(points))
            if any(_fulfils(cell, settings, config, condition) for condition in conditions):
                continue
            run = try_settings(config, store, cell, settings)
            if isinstance(run, IllegalRun):
                illegal.append(run)
            else:
                runs[run.id] = run
    if illegal and not config.skip_illegal:
        more = f"\n  and {len(illegal) - MAX_SHOWN} more" if len(illegal) > MAX_SHOWN else ""
        listed = "".join(f"\n  {run}" for run in illegal[:MAX_SHOWN])
        raise InvalidInputError(
            f"{len(illegal)} runs of the grid have invalid settings:{listed}{more}\nCorrect the axes, or leave such "
            "runs out with --skip-illegal."
        )
    if not runs:
        raise InvalidInputError("the grid is empty: no run has valid settings and is not excluded.")
    return Grid(list(runs.values()), illegal)


def plan_settings(config: SweepConfig, store: ActivationStore, cell: Cell, settings: Settings) -> RunConfig:
    """The run of one cell with these settings. Raises `InvalidInputError` where they are invalid."""
    return plan_run(store, cell, *_with_settings(config, settings))


def try_settings(config: SweepConfig, store: ActivationStore, cell: Cell, settings: Settings) -> RunConfig | IllegalRun:
    """The run of one cell with these settings, or why there can be none."""
    try:
        return plan_settings(config, store, cell, settings)
    except InvalidInputError as error:
        return IllegalRun(cell, settings, str(error))


def selected_cells(config: SweepConfig, store: ActivationStore) -> list[Cell]:
    """The cells that a sweep selects. Raises `InvalidInputError` for cells that the store lacks."""
    return store.select(config.layers, config.positions, config.sites)


def plan_run(
    store: ActivationStore, cell: Cell, autoencoder: ArchitectureConfig, training: TrainingConfig
) -> RunConfig:
    """The config of a run on one cell of a store, with everything taken from the data filled in.

    Raises `InvalidInputError` where the store lacks the cell that a transcoder is to reconstruct, or the widths do not
    go together.
    """
    data, target = data_of(store, cell, None), None
    if (place := autoencoder.target_cell(cell.layer, cell.site)) is not None:
        target = Cell(*place, cell.position)
        if target not in store.cells:
            raise InvalidInputError(
                f"the transcoder is to reconstruct the cell ({target}), which {store.folder} does not hold. Set "
                "autoencoder.target_site and target_layer_offset to what it holds, such as residual and 1: the next "
                "layer's hidden state."
            )
        data = data_of(store, cell, target)
    filled = autoencoder.model_copy(update={"d_in": autoencoder.d_in or store.manifest.d})
    check_architecture(filled)
    training = resolved(training, filled, filled.widths()[0])
    return RunConfig(
        cell=CellConfig(**cell._asdict()),
        target=CellConfig(**target._asdict()) if target else None,
        data=data,
        autoencoder=filled,
        training=training,
    )


def data_of(store: ActivationStore, cell: Cell, target: Cell | None) -> str:
    """Fingerprint of what a run is trained on: a cell, and the one that a transcoder is to reconstruct."""
    data = store.fingerprint(cell)
    return data if target is None else content_hash([data, store.fingerprint(target)])


def check_trained_on(run: RunConfig, folder: Path, store: ActivationStore) -> None:
    """Raise `InvalidInputError` where a run, which is in `folder`, is of other activations than the store's."""
    cell, target = (Cell(it.layer, it.site, it.position) if it else None for it in (run.cell, run.target))
    assert cell is not None
    if run.data != data_of(store, cell, target):
        raise InvalidInputError(
            f"run {folder.name} in {folder.parent} was trained on other activations of {cell} than the store "
            f"{store.folder} holds. Give the store that the runs were trained on."
        )


def _check_distinct(axes: list[list[Settings]]) -> None:
    seen: set[str] = set()
    for axis in axes:
        fields = {setting.field for setting in axis[0]}
        if twice := fields & seen:
            raise InvalidInputError(f"axis {min(twice)} is given more than once: give all its values in one.")
        seen |= fields


def _fulfils(cell: Cell, settings: Settings, config: SweepConfig, condition: dict[str, list[Any]]) -> bool:
    chosen = dict(settings)

    def value(field: str) -> Any:
        if field in CELL_FIELDS:
            return getattr(cell, field)
        section, _, name = field.partition(".")
        return chosen.get(field, getattr(getattr(config, section), name, None))

    return all(value(field) in values for field, values in condition.items())


def _with_settings(config: SweepConfig, settings: Settings) -> tuple[ArchitectureConfig, TrainingConfig]:
    values = {"autoencoder": config.autoencoder.model_dump(), "training": dict(config.training)}
    changes: dict[str, dict[str, Any]] = {"autoencoder": {}, "training": {}}
    for field, value in settings:
        section, _, name = field.partition(".")
        changes[section][name] = value
    chosen = find_architecture(str(changes["autoencoder"].get("architecture", config.autoencoder.name))).config
    common = {name: value for name, value in values["autoencoder"].items() if name in chosen.model_fields}
    try:
        return (
            chosen.model_validate(common | changes["autoencoder"]),
            TrainingConfig.model_validate(values["training"] | changes["training"]),
        )
    except ValidationError as error:
        raise InvalidInputError(describe(error)) from error
