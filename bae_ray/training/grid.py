"""The grid of a sweep: cells x axes over any field of the configs, expanded and validated before anything runs."""

import itertools
import json
from typing import Any

from pydantic import Field, ValidationError

from bae_ray.activations.config import Position
from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders.config import ARCHITECTURES, ArchitectureConfig, AutoencoderConfig, BAEConfig
from bae_ray.config import Config, describe
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import RunConfig, TrainingConfig
from bae_ray.training.run import plan_run


class SweepConfig(Config):
    """A grid of autoencoders: the product of layers, positions and axes."""

    layers: tuple[int, ...] | None = None
    """Layers of the store. Left out: all of them."""
    positions: tuple[Position, ...] | None = None
    """Positions of the store. Left out: all of them."""
    autoencoder: AutoencoderConfig = BAEConfig()
    """Architecture of every run, but for the axes."""
    training: TrainingConfig = TrainingConfig()
    """Training of every run, but for the axes."""
    axes: tuple[str, ...] = ()
    """Further axes of the grid, each FIELD=VALUE,VALUE,... over a field of the two above, such as training.seed=0,1,2,
    autoencoder.expansion=2,4 or autoencoder.architecture=bae,relu,topk."""
    cpus_per_trial: float = Field(default=1, gt=0)
    """CPUs, and so threads, of each training."""
    gpus_per_trial: float | None = Field(default=None, ge=0)
    """GPU share of each training, such as 0.25; 0: it runs on the CPU. Left out: 1 where the cluster has GPUs now,
    else 0; say it where the cluster grows on demand."""


def expand(config: SweepConfig, store: ActivationStore) -> list[RunConfig]:
    """All runs of the grid, those of one cell together. Raises `InvalidInputError` that names the field and value."""
    cells = [cell for cell in store.cells if _selected(cell, config)]
    for name, wanted, there in (
        ("layer", config.layers, {cell.layer for cell in store.cells}),
        ("position", config.positions, {cell.position for cell in store.cells}),
    ):
        for value in wanted or ():
            if value not in there:
                raise InvalidInputError(
                    f"{name} {value} is not in the store {store.folder}; it has {sorted(there, key=str)}."
                )
    if config.autoencoder.d_in not in (None, store.manifest.d):
        raise InvalidInputError(
            f"autoencoder.d_in is {config.autoencoder.d_in} but the store's activations are {store.manifest.d} wide. "
            "Leave it out: it is taken from the store."
        )
    axes = [_parse_axis(text) for text in config.axes]
    for field in {field for field, _ in axes}:
        if sum(field == other for other, _ in axes) > 1:
            raise InvalidInputError(f"axis {field} is given more than once: give all its values in one.")
    runs: dict[str, RunConfig] = {}
    for cell in cells:
        for values in itertools.product(*(values for _, values in axes)):
            settings = list(zip((field for field, _ in axes), values, strict=True))
            run = plan_run(store, cell, *_with_settings(config, settings))
            runs[run.id] = run
    return list(runs.values())


def _selected(cell: Cell, config: SweepConfig) -> bool:
    return (config.layers is None or cell.layer in config.layers) and (
        config.positions is None or cell.position in config.positions
    )


def _parse_axis(text: str) -> tuple[str, list[Any]]:
    field, equals, listed = text.partition("=")
    section, dot, name = field.partition(".")
    fields = {"training": list(TrainingConfig.model_fields), "autoencoder": _architecture_fields()}
    if not (equals and dot and listed) or name not in fields.get(section, []):
        known = [f"{section}.{key}" for section, keys in fields.items() for key in keys]
        raise InvalidInputError(
            f"axis '{text}' is not FIELD=VALUE,VALUE,... with a known field. Fields: {', '.join(known)}."
        )
    return field, [_parse_value(value) for value in listed.split(",")]


def _architecture_fields() -> list[str]:
    """Fields of any architecture."""
    return list(dict.fromkeys(field for config in ARCHITECTURES.values() for field in config.model_fields))


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _with_settings(config: SweepConfig, settings: list[tuple[str, Any]]) -> tuple[ArchitectureConfig, TrainingConfig]:
    values = {"autoencoder": config.autoencoder.model_dump(), "training": config.training.model_dump()}
    changes: dict[str, dict[str, Any]] = {"autoencoder": {}, "training": {}}
    for field, value in settings:
        section, _, name = field.partition(".")
        changes[section][name] = value
    architecture = changes["autoencoder"].get("architecture", config.autoencoder.architecture)
    if architecture not in ARCHITECTURES:
        raise InvalidInputError(
            f"axis value autoencoder.architecture={architecture!r} is not allowed: expected one of "
            f"{', '.join(ARCHITECTURES)}."
        )
    chosen = ARCHITECTURES[architecture]
    common = {name: value for name, value in values["autoencoder"].items() if name in chosen.model_fields}
    try:
        return (
            chosen.model_validate(common | changes["autoencoder"]),
            TrainingConfig.model_validate(values["training"] | changes["training"]),
        )
    except ValidationError as error:
        raise InvalidInputError(f"a value of the axes is not allowed: {describe(error)}.") from error
