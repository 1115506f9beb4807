"""The verbs `bae-ray extract | store info | store verify | store export`."""

from collections.abc import Iterable
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from bae_ray.activations.config import ExportFormat, ExtractConfig, Position
from bae_ray.cli.command import Command, Held
from bae_ray.cli.exit_codes import report_failures
from bae_ray.config import describe
from bae_ray.errors import InvalidInputError
from bae_ray.locations import without_credentials


class ExtractCommand(Command):
    """Run a language model over a corpus once and store the activations of every layer x site x position."""

    extraction: Held[ExtractConfig]
    """What to extract."""
    out: str
    """Folder of the new activation store: a path, or a URI such as s3://bucket/folder. The same command finishes an
    interrupted run."""
    check: bool = False
    """Only check the model on texts of the corpus: a token's vector must not change with padding, with the other texts
    of the batch, or with later tokens."""


def read_extraction(file: Path) -> ExtractConfig:
    """The extraction in a YAML or JSON file: options of `bae-ray extract`, or an experiment's config with a section.

    Raises `InvalidInputError` for any other file.
    """
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}.") from error
    if not isinstance(read, dict):
        raise InvalidInputError(
            f"{file} holds no options of an extraction: expected a file that `bae-ray extract --config` takes."
        )
    others = ExtractCommand.model_fields.keys() - ExtractCommand.held().keys()
    options = read.get("extract", {name: value for name, value in read.items() if name not in others})
    try:
        return ExtractConfig.model_validate(options)
    except ValidationError as error:
        raise InvalidInputError(f"{file}, as options of an extraction: {describe(error, ExtractConfig)}.") from error


def extract(command: ExtractCommand) -> int:
    """Run `bae-ray extract`."""
    from bae_ray.activations.extract import check
    from bae_ray.activations.extract import extract as run

    if command.check:
        print(f"{command.extraction.model}: {check(command.extraction)}")
        return 0
    store = run(command.extraction, command.out)
    store.folder.write_text("extract.json", command.record(out=without_credentials(command.out)))
    print(f"{len(store.cells)} cells of {store.manifest.n} x {store.manifest.d} in {store.folder}")
    return report_failures([str(failure) for failure in store.manifest.failed])


class InfoCommand(Command):
    """Print what an activation store holds."""

    store: str
    """Activation store: a path, or a URI such as s3://bucket/folder."""


class VerifyCommand(Command):
    """Check every file of an activation store against its checksum, and name damaged files."""

    store: str
    """Activation store: a path, or a URI such as s3://bucket/folder."""


class ExportStoreCommand(Command):
    """Write cells of an activation store as files that other tools read."""

    store: str
    """Activation store: a path, or a URI such as s3://bucket/folder."""
    out: Path
    """Output folder."""
    format: ExportFormat = "npy"
    """npy: a NumPy array per cell. parquet: a table per cell, vectors in Arrow's fixed-shape-tensor type. release: a
    safetensors file per position with the vectors of all layers, as the paper's released code reads them."""
    layers: tuple[int, ...] | None = None
    """Layers to export. None: all."""
    positions: tuple[Position, ...] | None = None
    """Positions to export. None: all."""
    sites: tuple[str, ...] | None = None
    """Sites to export. None: all."""


def info(command: InfoCommand) -> None:
    """Run `bae-ray store info`."""
    from bae_ray.activations.store import ActivationStore

    store = ActivationStore.open(command.store)
    manifest, request = store.manifest, store.manifest.request
    size = sum(record.size for shard in manifest.shards for record in shard.files.values())
    table = Table("", str(store.folder), title_justify="left")
    for name, value in {
        "model": request.model["name"],
        "input": _listed(f"{key} {value}" for key, value in request.input.items() if key != "corpus"),
        "layers": _listed(request.layers),
        "sites": _listed(request.sites),
        "positions": _listed(request.positions),
        "tokens taken": _listed(f"{key} {value}" for key, value in (request.tokens or {}).items()) or "-",
        "cells": f"{len(store.cells)} of {manifest.n} x {manifest.d} in {request.dtype}",
        "texts": f"{manifest.texts} with {manifest.tokens} tokens; of {manifest.texts_read} read, "
        f"{manifest.texts_too_short} too short ({manifest.texts_empty} of them null, empty or blank) and "
        f"{manifest.texts_too_long} too long",
        "shards": str(len(manifest.shards)),
        "model tried": str(manifest.probe or "-"),
        "failed": "\n".join(map(str, manifest.failed)) or "none",
        "size": f"{size / 1e9:.3f} GB in {sum(len(shard.files) for shard in manifest.shards)} files",
    }.items():
        table.add_row(name, value)
    Console().print(table)


def verify(command: VerifyCommand) -> None:
    """Run `bae-ray store verify`."""
    from bae_ray.activations.store import ActivationStore

    store = ActivationStore.open(command.store)
    store.verify()
    files = sum(len(shard.files) for shard in store.manifest.shards)
    print(f"{store.folder}: {files} files, each as it was written.")


def export(command: ExportStoreCommand) -> None:
    """Run `bae-ray store export`."""
    from bae_ray.activations.export import export_cells
    from bae_ray.activations.store import ActivationStore

    store = ActivationStore.open(command.store)
    written = export_cells(store, command.out, command.format, command.layers, command.positions, command.sites)
    print(f"{len(written)} files in {command.out}, such as {written[0]}")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
